"""Known orderings of methods, checked on the rows that `reproduce.py` measured."""

from collections.abc import Iterable
from typing import Any, NamedTuple

# Percentage points. Methods without replay end near plain fine-tuning in class-IL.
NEAR = 5.0
FAR = 20.0


class Ordering(NamedTuple):
    """What the literature says of two methods in class-IL.

    Attributes:
        method: The first method.
        relation: "above" or "near".
        other: The second method.
    """

    method: str
    relation: str
    other: str


# arXiv 2004.07211, table 2; 2201.00766, table 1; 2104.05025.
ORDERINGS = (
    Ordering("joint", "above", "derpp"),
    Ordering("derpp", "above", "er"),
    Ordering("xder", "above", "er-ace"),
    Ordering("er-ace", "above", "er"),
    Ordering("icarl", "above", "er"),
    Ordering("er", "above", "agem"),
    Ordering("agem", "near", "sgd"),
    Ordering("ewc-on", "near", "sgd"),
    Ordering("si", "near", "sgd"),
)


def check(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the orderings that the rows of a protocol can decide, in the order of `ORDERINGS`.

    Each has `claim`, `buffer_size`, `difference` of the means in percentage points, `n` (the
    smaller number of runs), `noise` (the larger standard deviation, None with one run) and `holds`.
    iCaRL and ER are compared with 200 images alone: with larger buffers the papers disagree. Rows
    without `task_il` decide nothing about task-IL.
    """
    means = {(row["method"], row["buffer_size"]): row for row in rows}
    sizes = sorted({size for _, size in means if size is not None})
    found = []
    for ordering in ORDERINGS:
        for size in sizes:
            one, other = (
                means.get((name, size)) or means.get((name, None))
                for name in (ordering.method, ordering.other)
            )
            if one is None or other is None or (ordering.method == "icarl" and size != sizes[0]):
                continue
            is_repeated = one["buffer_size"] is other["buffer_size"] is None and size != sizes[0]
            if not is_repeated:
                found.append(_judge(ordering, one, other))
    sgd = means.get(("sgd", None))
    if sgd is not None and "task_il" in sgd:
        gap = 100 * (sgd["task_il"]["mean"] - sgd["class_il"]["mean"])
        claim = f"task-IL of sgd at least {FAR:.0f} points above its class-IL"
        n, noise = sgd["class_il"]["n"], _noise(sgd["task_il"], sgd["class_il"])
        found.append(_entry(claim, None, gap, n, noise, gap >= FAR))
    return found


def _judge(ordering: Ordering, one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    a, b = one["class_il"], other["class_il"]
    difference = 100 * (a["mean"] - b["mean"])
    is_above = ordering.relation == "above"
    holds = difference > 0 if is_above else abs(difference) <= NEAR
    text = "above" if is_above else f"within {NEAR:.0f} points of"
    size = one["buffer_size"] or other["buffer_size"]
    claim = f"{ordering.method} {text} {ordering.other}"
    return _entry(claim, size, difference, min(a["n"], b["n"]), _noise(a, b), holds)


def _noise(*figures: dict[str, Any]) -> float | None:
    deviations = [figure["sd"] for figure in figures]
    return None if None in deviations else 100 * max(deviations)


def _entry(
    claim: str, size: int | None, difference: float, n: int, noise: float | None, holds: bool
) -> dict[str, Any]:
    return {
        "claim": claim,
        "buffer_size": size,
        "difference": difference,
        "n": n,
        "noise": noise,
        "holds": holds,
    }
