"""`python -m mammoth_compiled.compat`: renames the imports of files written for Mammoth."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mammoth_compiled.compat.rename import rename
from mammoth_compiled.exit_codes import ERROR, SUCCESS
from mammoth_compiled.signals import exit_code


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    result = argparse.ArgumentParser(
        prog="python -m mammoth_compiled.compat",
        description="Renames the imports of models and datasets that were written for Mammoth.",
    )
    result.add_argument("files", nargs="+", type=Path, metavar="FILE", help="Mammoth's files.")
    result.add_argument(
        "--out", type=Path, metavar="DIR", help="Write the files to this folder (default: print)."
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Prints or writes renamed files and returns the exit code.

    It is 0 on success, 2 after an error, and 130 after Ctrl-C.

    Args:
        argv: Arguments; None takes those of the process.
    """
    args = parser().parse_args(argv)
    return exit_code(lambda: _rename(args))


def _rename(args: argparse.Namespace) -> int:
    for path in args.files:
        try:
            siblings = {other.stem for other in args.files if other.parent == path.parent}
            renamed = rename(path.read_text(encoding="utf-8"), siblings - {path.stem})
            if args.out is None:
                sys.stdout.write(renamed.source)
            else:
                args.out.mkdir(parents=True, exist_ok=True)
                (args.out / path.name).write_text(renamed.source, encoding="utf-8")
        except (OSError, SyntaxError, ValueError) as error:
            sys.stderr.write(f"{path}: {error}\n")
            return ERROR
        for import_ in renamed.unknown:
            sys.stderr.write(
                f"{path}: {import_} has no counterpart here: remove the import, or, for a file "
                "next to this one, rename both with one command\n"
            )
    return SUCCESS


if __name__ == "__main__":
    sys.exit(main())
