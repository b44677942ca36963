"""Frequencies of random results, compared with the probabilities that they must have."""

from collections import Counter
from math import sqrt


def frequencies(outputs):
    """Counts equal images."""
    return Counter(tuple(image.flatten().tolist()) for image in outputs)


def assert_frequencies(seen, probabilities, n):
    """Asserts that the same results occur, each within five standard deviations of n * p."""
    assert set(seen) == set(probabilities)
    for result, p in probabilities.items():
        assert abs(seen[result] - n * p) < 5 * sqrt(n * p * (1 - p)) + 1
