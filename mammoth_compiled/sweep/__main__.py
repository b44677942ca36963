"""python -m mammoth_compiled.sweep: runs a grid or a search of configurations, resumable."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mammoth_compiled.config import Parser
from mammoth_compiled.config.commands import add_layout_args
from mammoth_compiled.config.values import file_path
from mammoth_compiled.console import say
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.exit_codes import SUCCESS
from mammoth_compiled.plugins import import_plugin
from mammoth_compiled.signals import exit_code

DESCRIPTION = """Runs the configurations of a file side by side, each in a run folder, and reports
on them. A list stands for alternatives; {low: 0.001, high: 1, log: true} is a range. The section
`sweep` says how to search: method (grid, random, tpe), trials, metric (class_il, task_il), pruning
(none, median), seed. The same command continues a sweep that was interrupted: finished runs are
skipped, others continue from their newest checkpoint."""
EXAMPLE = """example:
  model: derpp
  dataset: seq-fmnist-mini
  validation: 0.1
  alpha: {low: 0.05, high: 1, log: true}
  buffer_size: [200, 500]
  seed: [0, 1, 2]
  sweep:
    method: tpe
    trials: 30
"""


def parser() -> Parser:
    """Returns the parser of the command's own flags."""
    result = Parser(
        prog="python -m mammoth_compiled.sweep",
        usage="%(prog)s FILE.yaml [options] [arguments of the runs]",
        description=DESCRIPTION,
    )
    result.add_argument("file", metavar="FILE.yaml", nargs="?", help="The configurations.")
    result.add_argument(
        "--out", metavar="DIR", type=file_path, help="Directory (default: sweeps/FILE)."
    )
    add_layout_args(result)
    result.add_argument(
        "--ray_address",
        metavar="ADDRESS",
        help="Run on Ray: `local`, `auto` or the address of a cluster; needs the extra `ray`.",
    )
    result.add_argument(
        "--dry_run", action="store_true", help="Print the configurations of a grid and exit."
    )
    result.add_argument(
        "--import",
        action="append",
        metavar="FILE|MODULE",
        help="Import this file or module first (repeatable).",
    )
    result.add_argument("-h", "--help", action="store_true", help="Show this help and exit.")
    return result


def sweep(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code.

    Args:
        argv: The words of the command line, without the program.

    Raises:
        MammothError: If the file is invalid or the directory cannot be written.
    """
    command, words = parser().read_known(argv)
    if command.get("help"):
        say(f"{parser().format_help()}\n{EXAMPLE}")
        return SUCCESS
    if "file" not in command:
        raise ConfigError("give the file of the sweep: python -m mammoth_compiled.sweep exp.yaml")
    for plugin in command.get("import", []):
        import_plugin(plugin)
    from mammoth_compiled.sweep.sweep import Sweep

    planned = Sweep.from_file(command["file"], words, _directory(command))
    if command.get("dry_run"):
        say("\n".join(planned.describe()))
        return SUCCESS
    plugins = command.get("import", [])
    if "ray_address" in command:
        from mammoth_compiled.sweep.ray import run_on_ray

        return run_on_ray(planned, command["ray_address"], command.get("workers"), plugins)
    return planned.run(command.get("workers"), plugins, command.get("together"))


def _directory(command: dict[str, Any]) -> Path:
    return Path(command.get("out") or Path("sweeps") / Path(command["file"]).stem)


def main() -> None:
    """Ends the process: 0 on success, else after one message; see `mammoth_compiled.run`."""
    sys.exit(exit_code(lambda: sweep(sys.argv[1:])))


if __name__ == "__main__":
    main()
