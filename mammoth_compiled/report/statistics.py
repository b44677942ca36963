"""Statistics over seeds: means with confidence intervals, and paired tests between methods."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
# With more pairs, the test samples this many sign patterns instead of trying all.
_MAX_EXACT_PAIRS = 14


@dataclass(frozen=True)
class Summary:
    """Mean and spread of a measure over runs.

    Attributes:
        n: Number of runs.
        mean: Their mean.
        std: Their sample standard deviation; NaN for one run.
        half_width: Half the width of the 95 % confidence interval of the mean; NaN for one run.
    """

    n: int
    mean: float
    std: float
    half_width: float


def summarize(values: Sequence[float]) -> Summary:
    """Returns mean, standard deviation and confidence interval (Student's t) of independent values.

    Example:
        >>> summary = summarize([0.5, 0.6, 0.7])
        >>> round(summary.mean, 3), round(summary.std, 3), round(summary.half_width, 3)
        (0.6, 0.1, 0.248)
    """
    n = len(values)
    if not n:
        return Summary(0, math.nan, math.nan, math.nan)
    mean = sum(values) / n
    if n == 1:
        return Summary(1, mean, math.nan, math.nan)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    return Summary(n, mean, std, t_quantile(n - 1) * std / math.sqrt(n))


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """Returns t such that a variable with Student's distribution is in [-t, t] with a probability.

    Args:
        degrees: Degrees of freedom, 1 or more.
        confidence: The probability.
    """
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_inside(middle, degrees) < confidence else (low, middle)
    return high


def _t_inside(t: float, degrees: int) -> float:
    """Returns the probability of [-t, t]; Abramowitz and Stegun 1964, eq. 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    term = cosine if degrees % 2 else 1.0
    total = 0.0
    for k in range(degrees % 2, degrees - 1, 2):
        total += term
        term *= cosine**2 * (k + 1) / (k + 2)
    return 2 / math.pi * (angle + sine * total) if degrees % 2 else sine * total


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two methods over the seeds that both were run with.

    Attributes:
        n: Number of pairs.
        difference: Mean of the first minus the second; NaN without pairs.
        half_width: Half the width of its 95 % confidence interval (Student's t).
        p: Two-sided p of the sign-flip test; NaN for fewer than two pairs.
        p_holm: The same, corrected for all comparisons of a report (Holm 1979).
    """

    n: int
    difference: float
    half_width: float
    p: float
    p_holm: float = math.nan


def compare(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison:
    """Compares two methods by their values per seed.

    The test asks how often a mean difference of this size occurs if the sign of every pair's
    difference is chosen at random; it assumes no distribution. With n pairs its p is at least
    `smallest_p(n)`.

    Source: Fisher 1935, "The Design of Experiments", section 21; Dror et al. 2018, "The
        Hitchhiker's Guide to Testing Statistical Significance in NLP", section 3.
    """
    seeds = sorted(first.keys() & second.keys())
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    n = len(seeds)
    if n < 2:
        return Comparison(n, float(differences.mean()) if n else math.nan, math.nan, math.nan)
    summary = summarize(differences.tolist())
    if n <= _MAX_EXACT_PAIRS:
        patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        patterns = np.random.default_rng(0).integers(0, 2, (2**_MAX_EXACT_PAIRS, n))
    means = np.abs((2 * patterns - 1) @ differences)
    # The tolerance counts as equal what differs by rounding only.
    p = float((means >= abs(differences.sum()) * (1 - 1e-9)).mean())
    return Comparison(n, summary.mean, summary.half_width, p)


def smallest_p(n: int) -> float:
    """Returns the smallest p that the sign-flip test of n pairs can reach."""
    return 2.0 ** (1 - n)


def pairs_needed(level: float) -> int:
    """Returns how many pairs the sign-flip test needs for a p of at most `level`."""
    return math.ceil(1 - math.log2(level))


def holm(p: Sequence[float]) -> list[float]:
    """Returns p values corrected for their number by the step-down method of Holm 1979.

    NaN stays NaN and is not counted.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted((i for i in range(len(p)) if not math.isnan(p[i])), key=lambda i: p[i])
    corrected = [math.nan] * len(p)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, p[i] * (len(order) - rank)))
        corrected[i] = largest
    return corrected
