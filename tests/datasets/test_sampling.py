"""Random choices among training images: counts, independence of other flags, shares."""

import numpy as np
import pytest

from mammoth_compiled.datasets.sampling import blurry_tasks, noisy_labels, sample_per_class

TARGETS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [30, 20, 10, 1]))


@pytest.mark.parametrize(
    ("amount", "counts"),
    [(0.1, [3, 2, 1, 1]), (0.5, [15, 10, 5, 1]), (5, [5, 5, 5, 1]), (1, [1, 1, 1, 1])],
)
def test_every_class_gives_its_share(amount, counts):
    chosen = sample_per_class(TARGETS, amount, 0, "validation")
    assert np.bincount(TARGETS[chosen]).tolist() == counts


def test_choices_depend_on_seed_and_purpose_only():
    chosen = sample_per_class(TARGETS, 5, 0, "validation")
    np.random.seed(99)
    assert np.array_equal(sample_per_class(TARGETS, 5, 0, "validation"), chosen)
    assert not np.array_equal(sample_per_class(TARGETS, 5, 1, "validation"), chosen)
    assert not np.array_equal(sample_per_class(TARGETS, 5, 0, "labels"), chosen)
    # Images of one class are chosen independently of the other classes.
    rows = np.flatnonzero(TARGETS < 2)
    assert np.array_equal(sample_per_class(TARGETS[rows], 5, 0, "validation"), chosen[rows])


def test_symmetric_noise_is_uniform_within_the_task():
    targets = np.repeat(np.arange(6), 3000)
    labels = noisy_labels(targets, [(0, 4), (4, 6)], 0.3, "symmetric", 0)
    counts = np.zeros((6, 6))
    np.add.at(counts, (targets, labels), 1 / 3000)
    expected = np.zeros((6, 6))
    expected[:4, :4], expected[4:, 4:] = 0.1, 0.3
    np.fill_diagonal(expected, 0.7)
    assert np.abs(counts - expected).max() < 0.03


def test_asymmetric_noise_gives_the_next_class():
    targets = np.repeat(np.arange(5), 1000)
    labels = noisy_labels(targets, [(0, 3), (3, 5)], 0.4, "asymmetric", 0)
    wrong = labels != targets
    assert 0.37 < wrong.mean() < 0.43
    assert np.array_equal(labels[wrong], np.array([1, 2, 0, 4, 3])[targets[wrong]])


def test_blurry_images_move_in_equal_shares():
    tasks = np.array([0, 0, 1, 1, 2, 2])
    targets = np.repeat(np.arange(6), 100)
    result = blurry_tasks(tasks, targets, 0.2, 0.0, 0)
    for k in range(6):
        counts = np.bincount(result[targets == k], minlength=3)
        expected = np.full(3, 10)
        expected[tasks[k]] = 80
        assert counts.tolist() == expected.tolist()


def test_disjoint_classes_stay_in_their_task():
    tasks, targets = np.repeat(np.arange(5), 2), np.repeat(np.arange(10), 50)
    result = blurry_tasks(tasks, targets, 0.1, 0.5, 0)
    moved = [int((result[targets == k] != tasks[k]).sum()) for k in range(10)]
    assert sorted(moved) == [0] * 5 + [5] * 5
