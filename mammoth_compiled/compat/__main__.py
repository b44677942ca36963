"""`python -m mammoth_compiled.compat`: renames the imports of files written for Mammoth."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mammoth_compiled.command_line import LineParser, file_path
from mammoth_compiled.compat.rename import rename
from mammoth_compiled.console import say
from mammoth_compiled.errors import MammothError
from mammoth_compiled.exit_codes import SUCCESS
from mammoth_compiled.files import write_atomically
from mammoth_compiled.reading import read_file
from mammoth_compiled.signals import exit_code

# Larger files are not Python code.
MAX_BYTES = 2**24


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    result = LineParser(
        prog="python -m mammoth_compiled.compat",
        description="Renames the imports of models and datasets that were written for Mammoth.",
    )
    result.add_argument("files", nargs="+", type=file_path, metavar="FILE", help="Mammoth's files.")
    result.add_argument(
        "--out",
        type=file_path,
        metavar="DIR",
        help="Write the files to this folder (default: print).",
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Prints or writes renamed files and returns the exit code.

    It is 0 on success, 2 after an error, 1 if standard output cannot be written, and 130 after
    Ctrl-C.

    Args:
        argv: Arguments; None takes those of the process.
    """
    return exit_code(lambda: _rename(parser().parse_args(argv)))


def _rename(args: argparse.Namespace) -> int:
    files = [Path(file) for file in args.files]
    for path in files:
        siblings = {other.stem for other in files if other.parent == path.parent}
        try:
            source = read_file(path, MAX_BYTES).decode()
            renamed = rename(source, siblings - {path.stem})
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if isinstance(error, MammothError):
                raise
            reason = str(error) or type(error).__name__
            raise MammothError(f"{path} is not a Python file: {reason}") from error
        if args.out is None:
            say(renamed.source.removesuffix("\n"))
        else:
            write_atomically(Path(args.out) / path.name, renamed.source.encode())
        for import_ in renamed.unknown:
            sys.stderr.write(
                f"{path}: {import_} has no counterpart here: remove the import, or, for a file "
                "next to this one, rename both with one command\n"
            )
    return SUCCESS


if __name__ == "__main__":
    sys.exit(main())
