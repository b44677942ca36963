"""Number of classes of each task, and the order of the classes."""

import numpy as np
import pytest

from mammoth_compiled.config.protocol import ProtocolConfig
from mammoth_compiled.datasets.tasks import class_order, task_sizes
from mammoth_compiled.errors import ConfigError

DEFAULT = [2] * 5


@pytest.mark.parametrize(
    ("flags", "sizes"),
    [
        ({}, DEFAULT),
        ({"n_tasks": 2}, [5, 5]),
        ({"n_tasks": 3}, [4, 3, 3]),
        ({"n_tasks": 10}, [1] * 10),
        ({"n_tasks": 1}, [10]),
        ({"classes_per_task": [5]}, [5, 5]),
        ({"classes_per_task": [4]}, [4, 4, 2]),
        ({"classes_per_task": [4], "n_tasks": 3}, [4, 4, 2]),
        ({"classes_per_task": [1, 9]}, [1, 9]),
        ({"classes_per_task": [12]}, [10]),
        ({"base_classes": 6, "classes_per_task": [2]}, [6, 2, 2]),
        ({"base_classes": 6, "n_tasks": 3}, [6, 2, 2]),
        ({"base_classes": 6}, [6, 1, 1, 1, 1]),
        ({"base_classes": 10, "n_tasks": 1}, [10]),
    ],
)
def test_sizes(flags, sizes):
    assert task_sizes(ProtocolConfig(**flags), 10, DEFAULT) == sizes


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"n_tasks": 11}, "--n_tasks 11 does not fit 10 classes: .* give 1 to 10"),
        ({"n_tasks": 6, "base_classes": 6}, "--n_tasks 6 .* --base_classes 6: .* give 2 to 5"),
        ({"n_tasks": 1, "base_classes": 6}, "--n_tasks 1 does not fit"),
        ({"base_classes": 11}, "--base_classes 11 exceeds the 10 classes"),
        ({"base_classes": 5, "classes_per_task": [5, 5]}, "--base_classes needs one number"),
        ({"classes_per_task": [5, 4]}, "--classes_per_task 5 4 adds up to 9 classes, .* has 10"),
        ({"classes_per_task": [5, 5], "n_tasks": 3}, "lists 2 tasks, but --n_tasks is 3"),
        ({"classes_per_task": [5], "n_tasks": 3}, "makes 2 tasks .* but --n_tasks is 3"),
    ],
)
def test_impossible_sizes(flags, message):
    with pytest.raises(ConfigError, match=message):
        task_sizes(ProtocolConfig(**flags), 10, DEFAULT)


@pytest.mark.parametrize(
    ("num_classes", "first"),
    [
        (100, [68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89]),
        (200, [168, 136, 51, 9, 183, 101, 171, 99, 42, 159]),
        (10, [4, 2, 7, 6, 0, 3, 5, 8, 9, 1]),
    ],
)
def test_order_of_pycil(num_classes, first):
    order = class_order(ProtocolConfig(class_order_seed=1993), num_classes, None)
    assert order[: len(first)].tolist() == first
    assert sorted(order) == list(range(num_classes))


def test_permuted_classes_are_those_of_mammoth():
    order = class_order(ProtocolConfig(permute_classes=True), 100, 1993)
    assert order[:12].tolist() == [69, 23, 57, 12, 89, 87, 34, 84, 3, 15, 47, 74]
    np.random.seed(1993)
    permutation = np.random.permutation(100)
    assert np.array_equal(np.argsort(order), permutation)


@pytest.mark.parametrize("words", [["4", "2", "0", "1", "3"], ["4,2,0,1,3"], ["4,2", "0-1,3"]])
def test_listed_order(words):
    order = class_order(ProtocolConfig(custom_class_order=words), 5, None)
    assert order.tolist() == [4, 2, 0, 1, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["0,1,2,3"], "lacks class 4: list each of the classes 0 to 4 once"),
        (["0-5"], "has unknown class 5"),
        (["0-99999999999"], "has unknown class 5"),
        (["0-4,2"], "repeats class 2"),
        (["3-0"], "lacks class 0, 1, 2, 3, 4"),
    ],
)
def test_incomplete_orders(words, message):
    with pytest.raises(ConfigError, match=f"--custom_class_order {message}"):
        class_order(ProtocolConfig(custom_class_order=words), 5, None)


def test_orders_exclude_each_other_and_need_a_seed():
    with pytest.raises(ConfigError, match="--permute_classes and --class_order_seed exclude"):
        class_order(ProtocolConfig(permute_classes=True, class_order_seed=0), 5, 0)
    with pytest.raises(ConfigError, match="--permute_classes 1 draws the order from --seed"):
        class_order(ProtocolConfig(permute_classes=True), 5, None)
