"""Results as HTML, for notebooks."""

from typing import Any

from mammoth_compiled.html import (
    Cell,
    Markup,
    Series,
    fragment,
    heat_table,
    legend,
    line_chart,
    tag,
)
from mammoth_compiled.html import table as html_table
from mammoth_compiled.metrics import Matrix, average

SETTINGS = (("class_il", "Class-IL"), ("task_il", "Task-IL"))
_SHOWN = (
    ("Class-IL %", "class_il"),
    ("Task-IL %", "task_il"),
    ("forgetting", "forgetting_class_il"),
    ("BWT", "backward_transfer_class_il"),
)


def results_html(results: Any) -> str:
    """Returns accuracies over tasks and as matrices, and the final measures.

    Args:
        results: A `Results` object.
    """
    config = results.config
    names = [config.get(key) for key in ("model", "dataset", "backbone")]
    title = ", ".join(str(name) for name in names if name) or "Results"
    if not any(results.class_il):
        return fragment(tag("p", f"{title}: no task was finished", class_="note"))
    summary = results.summary()
    measures = [(name, summary.get(key)) for name, key in _SHOWN]
    cells = [Cell(f"{100 * value:.2f}", sort=value) for _, value in measures if value is not None]
    head = [name for name, value in measures if value is not None]
    speed = f"{results.images_per_second:,.0f}"
    final = html_table(["", *head, "images/s"], [[Cell(title), *cells, Cell(speed, sort=0.0)]])
    lines = [_line(getattr(results, key), name) for key, name in SETTINGS]
    chart = line_chart("Accuracy", lines, x_label="tasks seen", y_label="%")
    maps = [
        tag("figure", tag("figcaption", name, tag("small", " accuracy, %")), matrix_html(matrix))
        for key, name in SETTINGS
        if (matrix := getattr(results, key))
    ]
    parts = [final, tag("div", *maps, class_="row")]
    if len(results.class_il) > 1:
        parts.insert(1, tag("div", legend([name for _, name in SETTINGS]), chart, class_="single"))
    return fragment(*parts)


def matrix_html(matrix: Matrix) -> Markup:
    """Returns an accuracy matrix as a heat map; row: tasks seen, column: task."""
    rows = [row for row in matrix if row]
    seen = [len(row) for row in rows]
    return heat_table(seen, range(1, max(seen) + 1), rows, corner="seen \\ task")


def _line(matrix: Matrix, name: str) -> Series:
    rows = [row for row in matrix if row]
    return Series(name, [len(row) for row in rows], [average(row) for row in rows])
