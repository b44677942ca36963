"""Ends the command lines of the package with one line if Ctrl-C comes while modules are imported.

It also drops a message of a library that says nothing about a run.

The package imports this module first and the others, which take seconds, afterwards. It does
nothing in any other program.
"""

import itertools
import logging
import os
import signal
import sys
from typing import NoReturn

from mammoth_compiled.exit_codes import INTERRUPTED

COMMANDS = tuple(
    f"mammoth_compiled.{name}" for name in ("run", "export", "report", "sweep", "compat")
)


def end_with_one_line(number: int, frame: object) -> NoReturn:
    """Ends the process; no file is open yet, and an import that fails may hide an exception."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def is_command_line(argv: list[str]) -> bool:
    """Returns whether the interpreter was started for a command line of the package.

    Args:
        argv: `sys.orig_argv`.
    """
    return any(("-m", command) in itertools.pairwise(argv) for command in COMMANDS)


if is_command_line(sys.orig_argv):
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_with_one_line)
    # "No CUDA runtime is found": where a run computes is in its first line.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
