"""The figures of a report as files, drawn by matplotlib: PNG at 200 dpi, and SVG."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammoth_compiled.errors import MammothError
from mammoth_compiled.report.accuracy import class_labels, confusion, mean_forgetting, series
from mammoth_compiled.report.groups import Benchmark, Method
from mammoth_compiled.results.html import SETTINGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAN = float("nan")
SUFFIXES = ("png", "svg")
_COLORS = ("#3b7dd8", "#d9730d", "#2a9d5c", "#a960c9", "#d64545", "#7d8794")
_DASHES = ("-", "--", ":")
# More rows or columns would make the numbers in a heat map overlap.
_MAX_TEXT = 12


def write_figures(benchmarks: Sequence[Benchmark], directory: str | os.PathLike[str]) -> list[Path]:
    """Writes accuracy over tasks, forgetting, accuracy matrices, confusion and the leaderboard.

    Args:
        benchmarks: What to draw.
        directory: Where; it is created.

    Returns:
        The files, a PNG and an SVG per figure.

    Raises:
        MammothError: If matplotlib is not installed or a file cannot be written.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MammothError(
            "--figures needs matplotlib: pip install 'mammoth-compiled[report]'"
        ) from error
    written = []
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        with mpl.rc_context({"font.size": 9, "svg.hashsalt": "mammoth", "axes.axisbelow": True}):
            for benchmark in benchmarks:
                for name, draw in _figures(benchmark.best()):
                    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
                    draw(figure)
                    stem = _file_name(f"{benchmark.dataset}-{name}")
                    for suffix in SUFFIXES:
                        path = Path(directory) / f"{stem}.{suffix}"
                        figure.savefig(
                            path, dpi=200, metadata={"Date": None} if suffix == "svg" else None
                        )
                        written.append(path)
    except OSError as error:
        raise MammothError(f"cannot write figures to {directory}: {error}") from error
    return written


def _figures(benchmark: Benchmark) -> Iterator[tuple[str, Any]]:
    """Yields the name of each figure and a function that draws it."""
    for name, title in SETTINGS:
        yield f"{name}-over-tasks", lambda f, n=name, t=title: _lines(f, benchmark, n, t)
        yield f"{name}-leaderboard", lambda f, n=name, t=title: _bars(f, benchmark, n, t)
    labels = [method.label for method in benchmark.methods]
    drops = [mean_forgetting(method) for method in benchmark.methods]
    if any(drops):
        yield "forgetting", lambda f: _heat(f, labels, drops, "Forgetting, points", "task", "Reds")
    for method in benchmark.methods:
        for name, title in SETTINGS:
            yield (
                f"{name}-matrix-{method.label}",
                lambda f, m=method, n=name, t=title: _matrix(f, m, n, t),
            )
        if shares := confusion(method):
            names = class_labels(method, len(shares))
            title = f"{method.label}: confusion, % of the true class"
            yield (
                f"confusion-{method.label}",
                lambda f, n=names, s=shares, t=title: _heat(f, n, s, t, "predicted class", "Blues"),
            )


def _lines(figure: "Figure", benchmark: Benchmark, name: str, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    methods = benchmark.methods
    figure.set_size_inches(5.2, 3.4 + (0.17 * len(methods) if len(methods) > 6 else 0))
    axes = figure.add_subplot()
    for i, method in enumerate(methods):
        line = series(method, name)
        style: dict[str, Any] = {
            "color": _COLORS[i % len(_COLORS)],
            "linestyle": _DASHES[i // len(_COLORS) % 3],
        }
        axes.plot(line.x, [100 * y for y in line.y], marker="o", ms=3, label=line.label, **style)
        if line.low:
            low, high = ([100 * y for y in ends] for ends in (line.low, line.high))
            axes.fill_between(line.x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set(ylim=(0, 100), xlabel="tasks seen", ylabel=f"{title} accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(axes)
    if len(methods) > 1:
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)


def _bars(figure: "Figure", benchmark: Benchmark, name: str, title: str) -> None:
    methods = benchmark.methods
    figure.set_size_inches(5.2, 1.1 + 0.3 * len(methods))
    axes = figure.add_subplot()
    summaries = [method.summary(name) for method in methods]
    widths = [100 * s.mean for s in summaries]
    errors = [0.0 if s.n < 2 else 100 * s.half_width for s in summaries]
    axes.barh(range(len(methods)), widths, xerr=errors, color=_COLORS[0], error_kw={"lw": 1})
    axes.set_yticks(range(len(methods)), [method.label for method in methods])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel=f"{title} accuracy after the last task, %")
    _plain(axes)


def _matrix(figure: "Figure", method: Method, name: str, title: str) -> None:
    matrix = method.mean_matrix(name)
    rows = [str(len(row)) for row in matrix]
    _heat(
        figure, rows, matrix, f"{method.label}: {title} accuracy, %", "task", "Blues", "tasks seen"
    )


def _heat(
    figure: "Figure",
    rows: Sequence[str],
    values: Sequence[Sequence[float | None]],
    title: str,
    x_label: str,
    colors: str,
    y_label: str = "",
) -> None:
    num_columns = max(map(len, values))
    percent = [
        [NAN if v is None else 100 * v for v in row] + [NAN] * (num_columns - len(row))
        for row in values
    ]
    figure.set_size_inches(
        max(4.2, 2 + 0.36 * min(num_columns, 24)), 1.3 + 0.3 * min(len(rows), 24)
    )
    axes = figure.add_subplot()
    image = axes.imshow(percent, cmap=colors, vmin=0, vmax=100, aspect="auto")
    if num_columns <= _MAX_TEXT:
        for i, row in enumerate(percent):
            for j, value in enumerate(row):
                if not math.isnan(value):
                    color = "white" if value > 60 else "black"
                    axes.text(j, i, f"{value:.0f}", ha="center", va="center", color=color)
    else:
        figure.colorbar(image)
    if len(rows) <= 24:
        axes.set_yticks(range(len(rows)), rows)
    step = -(-num_columns // 12)
    first = 0 if "class" in x_label else 1
    ticks = range(0, num_columns, step)
    axes.set_xticks(ticks, [str(i + first) for i in ticks])
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", text).strip("-")
