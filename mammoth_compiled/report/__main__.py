"""python -m mammoth_compiled.report: writes a report on runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mammoth_compiled.command_line import LineParser, check_text, file_path
from mammoth_compiled.console import say
from mammoth_compiled.exit_codes import SUCCESS
from mammoth_compiled.files import write_atomically
from mammoth_compiled.report.document import grouped, render
from mammoth_compiled.report.leaderboard_text import leaderboard_text
from mammoth_compiled.report.runs import read_runs
from mammoth_compiled.signals import exit_code

_EXAMPLES = """examples:
  python -m mammoth_compiled.report results.json
  python -m mammoth_compiled.report runs --output comparison.html --figures figures
"""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    result = LineParser(
        prog="python -m mammoth_compiled.report",
        description="Writes a report on one run or many as a single HTML file, and prints the "
        "leaderboard.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "runs",
        nargs="+",
        type=file_path,
        metavar="RUN",
        help="Run folder, results file (JSON), or a folder that contains runs.",
    )
    result.add_argument(
        "--output",
        type=file_path,
        metavar="FILE",
        help="The report (default: report.html in the run folder if one is given, else here).",
    )
    result.add_argument("--title", type=check_text, default="", help="Title of the report.")
    result.add_argument(
        "--figures",
        type=file_path,
        metavar="DIR",
        help="Also write every figure as PNG and SVG; needs matplotlib (extra `report`).",
    )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    It is 0 on success, 2 after an error, 1 if standard output cannot be written, and 130 after
    Ctrl-C.
    """

    def command() -> int:
        say("\n".join(_report(parser().parse_args(arguments))))
        return SUCCESS

    return exit_code(command)


def _report(args: argparse.Namespace) -> list[str]:
    runs = read_runs(args.runs)
    benchmarks = grouped(runs)
    lines = [leaderboard_text(benchmark) for benchmark in benchmarks]
    output = Path(args.output) if args.output else _default_output(args.runs)
    write_atomically(output, render(runs, args.title).encode())
    lines.append(f"report: {output}")
    if args.figures:
        from mammoth_compiled.report.figures import write_figures

        files = write_figures(benchmarks, args.figures)
        lines.append(f"figures: {len(files)} files in {args.figures}")
    return lines


def _default_output(runs: Sequence[str]) -> Path:
    folder = Path(runs[0]) if len(runs) == 1 and Path(runs[0]).is_dir() else Path()
    return folder / "report.html"


if __name__ == "__main__":
    sys.exit(main())
