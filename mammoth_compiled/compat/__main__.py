"""`python -m mammoth_compiled.compat`: renames the imports of files written for Mammoth."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mammoth_compiled.command_line import LineParser, file_path
from mammoth_compiled.compat.checkout import imported_files, local_path, package_of, read_source
from mammoth_compiled.compat.rename import rename
from mammoth_compiled.console import say
from mammoth_compiled.errors import MammothError
from mammoth_compiled.exit_codes import SUCCESS
from mammoth_compiled.files import write_atomically
from mammoth_compiled.signals import exit_code

Result = TypeVar("Result")


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
    written: set[Path] = set()
    for path in files:
        beside = {other.stem for other in files if other.parent == path.parent} - {path.stem}
        copies = {f"models.{name}": name for name in beside}
        imported: dict[str, Path] = {}
        if args.out is not None:
            imported = _checked(path, imported_files)
            copies |= {name: name.partition(".")[2] for name in imported}
        _rename_file(path, copies, args.out and Path(args.out) / path.name)
        for module, source in imported.items():
            copy = local_path(module, source)
            if source.is_file() and source != path.resolve() and copy not in written:
                _rename_file(source, copies, Path(args.out) / copy)
                say(f"{path.name} imports {module}: wrote {Path(args.out) / copy}")
                written.add(copy)
    return SUCCESS


def _rename_file(path: Path, copies: Mapping[str, str], output: Path | None) -> None:
    """Writes a renamed file, or prints it, and names the imports that are unknown."""
    renamed = _checked(path, lambda file: rename(read_source(file), copies, package_of(file)))
    if output is None:
        say(renamed.source.removesuffix("\n"))
    else:
        write_atomically(output, renamed.source.encode())
    for import_ in renamed.unknown:
        sys.stderr.write(
            f"{path}: {import_} has no counterpart here: remove the import, or rename the file in "
            "its checkout of Mammoth with --out, which renames the files that it imports too\n"
        )


def _checked(path: Path, read: Callable[[Path], Result]) -> Result:
    """Returns what a function reads from a file of Python code."""
    try:
        return read(path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, MammothError):
            raise
        reason = str(error) or type(error).__name__
        raise MammothError(f"{path} is not a Python file: {reason}") from error


if __name__ == "__main__":
    sys.exit(main())
