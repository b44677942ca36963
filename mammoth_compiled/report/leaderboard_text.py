"""The leaderboard as text, for the terminal."""

from mammoth_compiled.report.comparison import shown_measures
from mammoth_compiled.report.groups import Benchmark


def leaderboard_text(benchmark: Benchmark) -> str:
    """Returns the methods and their measures as an aligned table, the best method first."""
    measures = shown_measures(benchmark)
    rows = [[benchmark.dataset, "runs", *(measure.title for measure in measures)]]
    for method in benchmark.methods:
        cells = [measure.format_summary(method.summary(measure.key)) for measure in measures]
        rows.append([method.label, str(len(method.complete)), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
