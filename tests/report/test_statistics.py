"""Confidence intervals and paired tests against published tables and brute force."""

import itertools
import math

import pytest

from mammoth_compiled.report.statistics import (
    compare,
    holm,
    pairs_needed,
    smallest_p,
    summarize,
    t_quantile,
)


# Two-sided quantiles of Student's distribution, from its usual table.
@pytest.mark.parametrize(
    ("degrees", "confidence", "expected"),
    [
        (1, 0.95, 12.706),
        (2, 0.95, 4.303),
        (3, 0.95, 3.182),
        (4, 0.95, 2.776),
        (9, 0.95, 2.262),
        (10, 0.99, 3.169),
        (30, 0.9, 1.697),
        (100, 0.95, 1.984),
    ],
)
def test_t_quantile(degrees, confidence, expected):
    assert t_quantile(degrees, confidence) == pytest.approx(expected, abs=6e-4)


def test_summaries_of_few_values():
    assert summarize([]).n == 0
    one = summarize([0.5])
    assert (one.mean, math.isnan(one.std), math.isnan(one.half_width)) == (0.5, True, True)
    two = summarize([0.0, 1.0])
    assert two.half_width == pytest.approx(12.706 * math.sqrt(0.5) / math.sqrt(2), rel=1e-4)


def test_sign_flip_test_counts_sign_patterns():
    differences = [0.03, 0.01, -0.005, 0.02]
    found = compare(dict(enumerate(differences)), dict.fromkeys(range(4), 0.0))
    flipped = itertools.product((-1, 1), repeat=4)
    means = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in flipped]
    expected = sum(mean >= sum(differences) - 1e-12 for mean in means) / len(means)
    assert found.p == expected
    assert found.difference == pytest.approx(sum(differences) / 4)


def test_p_is_limited_by_the_number_of_pairs():
    for n in (2, 5, 6):
        first = {seed: 0.9 + 0.01 * seed for seed in range(n)}
        second = {seed: 0.1 + 0.02 * seed for seed in range(n)}
        assert compare(first, second).p == smallest_p(n) == 2 ** (1 - n)
    assert pairs_needed(0.05) == 6
    assert smallest_p(6) <= 0.05 < smallest_p(5)


def test_only_common_seeds_are_compared():
    found = compare({0: 0.5, 1: 0.7}, {1: 0.6, 2: 0.1})
    assert found.n == 1
    assert found.difference == pytest.approx(0.1)
    assert math.isnan(found.p)
    assert compare({0: 0.5}, {1: 0.5}).n == 0


def test_many_pairs_are_sampled():
    first = {seed: (seed * 7919 % 13) / 13 for seed in range(20)}
    assert compare(first, dict.fromkeys(range(20), 0.0)).p < 0.001
    alternating = {seed: (-1) ** seed * 0.1 for seed in range(20)}
    assert compare(alternating, dict.fromkeys(range(20), 0.0)).p == 1


def test_equal_values_have_p_1():
    assert compare({0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5}).p == 1


def test_holm_leaves_out_nan():
    corrected = holm([0.04, math.nan, 0.01])
    assert math.isnan(corrected[1])
    assert (corrected[0], corrected[2]) == (0.04, 0.02)
