"""Random choices of a protocol among training images, as functions of a seed alone.

None of them uses a global random number generator, so that a resumed run makes the same choices.
"""

import math
from typing import Literal

import numpy as np

# One stream of random numbers for each purpose, so that the choices are independent.
_PURPOSES = ("validation", "labels", "noise", "blurry", "disjoint", "test")
Purpose = Literal["validation", "labels", "noise", "blurry", "disjoint", "test"]


def generator(seed: int, purpose: Purpose, class_id: int = 0) -> np.random.Generator:
    """Returns a random number generator for a purpose and a class."""
    return np.random.default_rng([seed, _PURPOSES.index(purpose), class_id])


def sample_per_class(targets: np.ndarray, amount: float, seed: int, purpose: Purpose) -> np.ndarray:
    """Draws images of each class without replacement.

    Args:
        targets: Class ids, [N].
        amount: Below 1, the fraction of the images of a class, rounded up; else their number.
        seed: Determines the choice.
        purpose: Likewise.

    Returns:
        Whether each image is drawn, bool, [N].

    Example:
        >>> sample_per_class(np.array([0, 1, 1, 1]), 0.5, seed=0, purpose="validation").sum()
        np.int64(3)
    """
    chosen = np.zeros(len(targets), bool)
    for k in np.unique(targets):
        rows = np.flatnonzero(targets == k)
        # Without the margin, 0.1 of 30 images would be 4.
        count = math.ceil(amount * len(rows) - 1e-9) if amount < 1 else int(amount)
        chosen[generator(seed, purpose, int(k)).permutation(rows)[:count]] = True
    return chosen


def noisy_labels(
    targets: np.ndarray, tasks: list[tuple[int, int]], rate: float, kind: str, seed: int
) -> np.ndarray:
    """Replaces labels at random by other classes of the same task.

    Args:
        targets: Class ids, [N].
        tasks: The (first, last + 1) class id of each task, at least two classes each.
        rate: Probability of a wrong label.
        kind: "symmetric", any other class with equal probability, or "asymmetric", the next class,
            and the first after the last.
        seed: Determines the labels.

    Returns:
        The labels, [N].

    Source:
        Natarajan et al. 2013 (symmetric); Patrini et al. 2017, arXiv 1609.03683 (asymmetric).
    """
    rng = generator(seed, "noise")
    is_wrong = rng.random(len(targets)) < rate
    result = targets.copy()
    for first, end in tasks:
        rows = np.flatnonzero(is_wrong & (targets >= first) & (targets < end))
        num_classes = end - first
        shift = 1 if kind == "asymmetric" else rng.integers(1, num_classes, len(rows))
        result[rows] = first + (targets[rows] - first + shift) % num_classes
    return result


def blurry_tasks(
    tasks: np.ndarray, targets: np.ndarray, moved: float, disjoint: float, seed: int
) -> np.ndarray:
    """Moves images of each class to other tasks, in equal shares.

    Args:
        tasks: The task of each class, [K].
        targets: Class ids, [N].
        moved: Fraction of the images of a blurry class that move.
        disjoint: Fraction of the classes that are not blurry, chosen at random.
        seed: Determines the choices.

    Returns:
        The task of each image, [N].

    Source:
        i-Blurry-N-M of Koh et al. 2021, arXiv 2110.10031, with N = 100 `disjoint` and
        M = 100 `moved`. Their lists of images are fixed; these are drawn from the seed.
    """
    num_classes, num_tasks = len(tasks), int(tasks.max()) + 1
    order = generator(seed, "disjoint").permutation(num_classes)
    blurry = np.sort(order[round(disjoint * num_classes) :])
    result = tasks[targets]
    for k in blurry:
        rng = generator(seed, "blurry", int(k))
        rows = rng.permutation(np.flatnonzero(targets == k))
        rows = rows[: round(moved * len(rows))]
        others = rng.permutation(np.delete(np.arange(num_tasks), tasks[k]))
        result[rows] = others[np.arange(len(rows)) % len(others)]
    return result
