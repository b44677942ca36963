"""Sections that compare methods: leaderboard, paired tests, differences of the configuration."""

import math
from itertools import combinations

from mammoth_compiled.html import Cell, Markup, table, tag
from mammoth_compiled.report.groups import Benchmark, Method
from mammoth_compiled.report.measures import MEASURES, NONE, Measure
from mammoth_compiled.report.statistics import (
    Comparison,
    Summary,
    compare,
    holm,
    pairs_needed,
    smallest_p,
)

LEVEL = 0.05
# With more methods, the columns of paired tests have their numbers only, so that they fit.
_MAX_NAMED_COLUMNS = 6


def leaderboard(benchmark: Benchmark) -> Markup:
    """Returns the table of all methods and measures; a click on its head sorts it."""
    measures = shown_measures(benchmark)
    best = {measure.key: _best(benchmark, measure) for measure in measures}
    rows = []
    for method in benchmark.methods:
        cells = [Cell(method.label), Cell(len(method.complete), sort=len(method.complete))]
        for measure in measures:
            summary = method.summary(measure.key)
            is_best = len(benchmark.methods) > 1 and summary.mean == best[measure.key]
            cells.append(
                Cell(
                    measure.format_summary(summary),
                    sort=summary.mean,
                    bar=summary.mean if measure.bar and summary.n else None,
                    class_="best" if is_best else "",
                    title=_spread(measure, summary),
                )
            )
        rows.append(cells)
    seeds = max(len(method.complete) for method in benchmark.methods)
    note = (
        "Mean ± half the 95 % confidence interval over runs (Student's t)."
        if seeds > 1
        else "One run per method: run several seeds to see the spread."
    )
    head = ["method", "runs", *(measure.title for measure in measures)]
    return tag(
        "section",
        tag("h3", "Leaderboard" if len(benchmark.methods) > 1 else "Results"),
        tag("p", note, class_="note"),
        tag("div", table(head, rows, sortable=True), class_="wide"),
        class_="card",
    )


def shown_measures(benchmark: Benchmark) -> list[Measure]:
    """Returns the measures that at least one run has."""
    recorded = {key for run in benchmark.runs for key in run.measures()}
    return [measure for measure in MEASURES if measure.key in recorded]


def _best(benchmark: Benchmark, measure: Measure) -> float:
    means = [method.summary(measure.key).mean for method in benchmark.methods]
    known = [mean for mean in means if not math.isnan(mean)]
    return (min if measure.lower_is_better else max)(known) if known else math.nan


def _spread(measure: Measure, summary: Summary) -> str | None:
    if summary.n < 2:
        return None
    return f"n = {summary.n}, standard deviation {measure.format(summary.std)}"


def comparisons(benchmark: Benchmark) -> dict[tuple[int, int], Comparison]:
    """Returns the paired comparison of the final Class-IL accuracy of every two methods.

    Keys are positions in `benchmark.methods`, the better method first.
    """
    values = [method.by_seed("class_il") for method in benchmark.methods]
    found = {(i, j): compare(values[i], values[j]) for i, j in combinations(range(len(values)), 2)}
    corrected = holm([comparison.p for comparison in found.values()])
    return {
        pair: Comparison(c.n, c.difference, c.half_width, c.p, p)
        for (pair, c), p in zip(found.items(), corrected, strict=True)
    }


def paired_tests(benchmark: Benchmark) -> Markup | None:
    """Returns the matrix of paired comparisons; None with a single method."""
    methods = benchmark.methods
    if len(methods) < 2:
        return None
    found = comparisons(benchmark)
    columns = range(1, len(methods))
    is_named = len(columns) <= _MAX_NAMED_COLUMNS
    rows = []
    # Without names above the columns, the last method has a row for its name.
    for i in range(len(methods) - is_named):
        cells = [Cell(f"{i + 1}. {methods[i].label}")]
        cells += [
            _compared(found[i, j], methods[i], methods[j]) if j > i else Cell("") for j in columns
        ]
        rows.append(cells)
    return tag(
        "section",
        tag("h3", "Paired tests"),
        tag("p", _what_n_allows(list(found.values())), class_="note"),
        tag(
            "div",
            table(
                [
                    "Class-IL, points",
                    *(
                        f"{j + 1}. {methods[j].label}"
                        if is_named
                        else tag("span", f"{j + 1}.", title=methods[j].label)
                        for j in columns
                    ),
                ],
                rows,
            ),
            class_="wide pairs",
        ),
        class_="card",
    )


def _compared(found: Comparison, first: Method, second: Method) -> Cell:
    if not found.n:
        return Cell(NONE, title="no seed in common", class_="number")
    difference = f"{100 * found.difference:+.2f}"
    interval = "" if math.isnan(found.half_width) else f"± {100 * found.half_width:.2f}"
    small = "1 pair" if found.n == 1 else f"{interval}, p {found.p_holm:.2g}"
    content = tag("span", difference, tag("br"), tag("small", small))
    return Cell(
        content,
        sort=found.difference,
        class_="best" if found.p_holm <= LEVEL else "",
        title=f"{first.label} minus {second.label}: {difference} {interval} points, "
        f"{found.n} pairs, p {found.p:.3g} uncorrected",
    )


def _what_n_allows(found: list[Comparison]) -> str:
    n = max(comparison.n for comparison in found)
    if n < 2:
        return (
            "Differences in points, row minus column. No test: the methods share fewer than two "
            f"seeds. Run all with the same {pairs_needed(LEVEL)} seeds or more."
        )
    tested = sum(not math.isnan(comparison.p) for comparison in found)
    text = (
        "Mean difference in points, row minus column, ± half its 95 % confidence interval, and p "
        f"of the exact sign-flip test over the seeds that both have (Holm, {tested} tests). Bold: "
        f"p ≤ {LEVEL}. With {n} pairs p is at least {smallest_p(n):.2g}"
    )
    if min(1.0, smallest_p(n) * tested) <= LEVEL:
        return f"{text}."
    needed = pairs_needed(LEVEL / tested)
    return (
        f"{text}, {min(1.0, smallest_p(n) * tested):.2g} corrected for all, so not every "
        f"difference can be significant: {needed} seeds would do. The intervals need "
        "fewer, but assume normal differences."
    )


def configuration(benchmark: Benchmark) -> Markup:
    """Returns the arguments in which methods differ, and those that all runs share."""
    parts = []
    differences = benchmark.differences()
    if differences:
        rows = [
            [method.label, *(_value(values[i]) for values in differences.values())]
            for i, method in enumerate(benchmark.methods)
        ]
        parts.append(tag("div", table(["method", *differences], rows), class_="wide text"))
    elif len(benchmark.runs) > 1:
        parts.append(tag("p", "All runs have the same arguments, apart from seeds.", class_="note"))
    common = [[name, _value(value)] for name, value in sorted(benchmark.common().items())]
    parts.append(
        tag(
            "details",
            tag("summary", f"{len(common)} arguments of all runs"),
            table(["argument", "value"], common),
        )
    )
    title = "Differences of the configuration" if differences else "Configuration"
    return tag("section", tag("h3", title), *parts, class_="card")


def _value(value: object) -> str:
    if value is None:
        return NONE
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
