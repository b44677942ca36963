"""Sections on accuracy: over tasks, as matrices, forgetting, confusion."""

from collections.abc import Sequence

import numpy as np

from mammoth_compiled.html import (
    Markup,
    Series,
    heat_table,
    legend,
    line_chart,
    pixel_map,
    tag,
)
from mammoth_compiled.metrics import average, forgetting_per_task
from mammoth_compiled.report.groups import Benchmark, Method
from mammoth_compiled.results.html import SETTINGS, matrix_html

# Confusion matrices of more classes are drawn without names.
_MAX_NAMED_CLASSES = 20


def over_tasks(benchmark: Benchmark) -> Markup:
    """Returns charts of the mean accuracy on the tasks seen, with confidence bands."""
    charts = [
        line_chart(
            f"{title} accuracy after each task",
            [series(method, name) for method in benchmark.methods],
            x_label="tasks seen",
            y_label="%",
        )
        for name, title in SETTINGS
    ]
    labels = [method.label for method in benchmark.methods]
    return tag(
        "section",
        legend(labels) if len(labels) > 1 else None,
        tag("div", *charts, class_="columns"),
        class_="card charts",
    )


def series(method: Method, name: str) -> Series:
    """Returns the accuracy of a method over tasks, with confidence intervals clipped to [0, 1]."""
    points = method.over_tasks(name)
    x = [num_tasks for num_tasks, _ in points]
    y = [summary.mean for _, summary in points]
    if not points or points[0][1].n < 2:
        return Series(method.label, x, y)
    low = [max(0.0, summary.mean - summary.half_width) for _, summary in points]
    high = [min(1.0, summary.mean + summary.half_width) for _, summary in points]
    return Series(method.label, x, y, low, high)


def within_tasks(benchmark: Benchmark) -> Markup | None:
    """Returns charts of every evaluation; None if no run evaluated within tasks."""
    methods = [m for m in benchmark.methods if any(run.content.get("curve") for run in m.complete)]
    if not methods:
        return None
    charts = [
        line_chart(
            title,
            [_evaluations(method, tasks) for method in methods],
            x_label="evaluation",
            y_label="Class-IL, %",
        )
        for title, tasks in (("First task", slice(1)), ("All tasks seen", slice(None)))
    ]
    return tag(
        "section",
        tag("h3", "Evaluations within tasks"),
        tag(
            "p", "A drop that the next evaluations make up for is the stability gap.", class_="note"
        ),
        legend([method.label for method in methods]) if len(methods) > 1 else None,
        tag("div", *charts, class_="columns"),
        class_="card charts",
    )


def _evaluations(method: Method, tasks: slice) -> Series:
    """Returns the mean accuracy on some of the tasks at every evaluation."""
    runs = [run.evaluations() for run in method.complete]
    y = [average([average(row[tasks]) for row in rows]) for rows in zip(*runs, strict=False)]
    return Series(method.label, range(1, len(y) + 1), y)


def mean_forgetting(method: Method) -> list[float | None]:
    """Returns the mean over runs of the forgetting of each task but the last, Class-IL.

    None stands for a task without.
    """
    drops = [forgetting_per_task(run.class_il) for run in method.complete]
    num_tasks = max((max(found, default=-1) for found in drops), default=-1) + 1
    values = [[found[task] for found in drops if task in found] for task in range(num_tasks)]
    return [average(found) if found else None for found in values]


def forgetting_section(benchmark: Benchmark) -> Markup | None:
    """Returns the forgetting by method and task; None if no run has two tasks."""
    values = [mean_forgetting(method) for method in benchmark.methods]
    num_tasks = max(map(len, values))
    if not num_tasks:
        return None
    return tag(
        "section",
        tag("h3", "Forgetting per task"),
        tag(
            "p",
            "Points between the best accuracy on a task, Class-IL, and the one after the last "
            "task. The last task cannot be forgotten yet.",
            class_="note",
        ),
        _named(
            heat_table(
                [method.label for method in benchmark.methods],
                range(1, num_tasks + 1),
                values,
                corner="task",
                color="loss",
            )
        ),
        class_="card",
    )


def matrices(benchmark: Benchmark) -> Markup:
    """Returns the accuracy matrices of all methods as heat maps."""
    maps = []
    for method in benchmark.methods:
        for name, title in SETTINGS:
            if name != "class_il" and len(benchmark.methods) > 1:
                continue  # one map per method is enough to compare
            maps.append(
                tag(
                    "figure",
                    tag("figcaption", method.label, tag("small", f" {title}, %{_over(method)}")),
                    matrix_html(method.mean_matrix(name)),
                )
            )
    return tag(
        "section",
        tag("h3", "Accuracy matrices"),
        tag("p", "Row: after so many tasks. Column: accuracy on this task.", class_="note"),
        tag("div", *maps, class_="multiples"),
        class_="card",
    )


def confusion(method: Method) -> list[list[float]]:
    """Returns the mean confusion matrix after the last task, rows summing to 1; [] if unknown."""
    found = [run.content.get("confusion") for run in method.complete]
    counts = [np.asarray(matrix, float) for matrix in found if matrix]
    if not counts or len({matrix.shape for matrix in counts}) > 1:
        return []
    total = np.sum(counts, axis=0)
    shares: list[list[float]] = (total / np.maximum(total.sum(1, keepdims=True), 1)).tolist()
    return shares


def confusion_section(benchmark: Benchmark) -> Markup | None:
    """Returns the confusion matrices of all methods; None if no run recorded one."""
    maps = [
        tag("figure", tag("figcaption", method.label), _confusion_map(method, matrix))
        for method in benchmark.methods
        if (matrix := confusion(method))
    ]
    if not maps:
        return None
    return tag(
        "section",
        tag("h3", "Confusion after the last task"),
        tag("p", "Row: true class. Column: predicted class. % of the row.", class_="note"),
        tag("div", *maps, class_="multiples broad"),
        class_="card",
    )


def class_labels(method: Method, num_classes: int) -> list[str]:
    """Returns the number and the name of each class.

    The name is left out if runs do not agree on it, because their classes come in another order.
    """
    names = [run.content.get("class_names") or [] for run in method.complete]
    shared = names[0] if all(other == names[0] for other in names) else []
    labels = [str(k) for k in range(num_classes)]
    if len(shared) < num_classes or shared[:num_classes] == labels:
        return labels
    return [f"{k} {name}" for k, name in zip(labels, shared, strict=False)]


def _confusion_map(method: Method, matrix: Sequence[Sequence[float]]) -> Markup:
    if len(matrix) > _MAX_NAMED_CLASSES:
        return pixel_map(matrix, f"Confusion matrix of {len(matrix)} classes")
    labels = class_labels(method, len(matrix))
    heatmap = heat_table(labels, range(len(matrix)), matrix, corner="class", titles=labels)
    return _named(heatmap) if " " in labels[0] else heatmap


def _named(heatmap: Markup) -> Markup:
    """Returns a heat map whose rows have long names."""
    return Markup(heatmap.replace('class="heatmap', 'class="heatmap named', 1))


def _over(method: Method) -> str:
    n = len(method.complete)
    return f", mean of {n} runs" if n > 1 else ""
