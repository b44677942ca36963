"""The images of a training stage: what a dataset loads, under the protocol of the run."""

from typing import Any

import numpy as np

from mammoth_compiled.datasets.checks import check_classes, checked_split
from mammoth_compiled.datasets.protocol import SPLIT_BY_CLASS, Protocol, Splits
from mammoth_compiled.datasets.splits import LabeledSubset, concatenate
from mammoth_compiled.device import random_state, set_random_state
from mammoth_compiled.errors import ConfigError, DataError


def make_protocol(dataset: Any) -> Protocol:
    """Returns the protocol of a dataset, and sets its `N_TASKS`, `N_CLASSES_PER_TASK`, `N_CLASSES`.

    Args:
        dataset: A `ContinualDataset` with its `config`.

    Raises:
        ConfigError: If a class attribute or an argument does not fit.
    """
    tasks = range(dataset.N_TASKS)
    if not hasattr(dataset, "N_CLASSES"):
        dataset.N_CLASSES = dataset._end_of_task(tasks[-1])
    end = dataset._end_of_task(tasks[-1])
    check_classes(dataset, end)
    config, setting = dataset.config, dataset.SETTING
    if setting in SPLIT_BY_CLASS:
        default = np.diff([0, *map(dataset._end_of_task, tasks)]).tolist()
        protocol = Protocol.by_class(config, end, default)
        if list(protocol.sizes) != default:
            dataset.N_TASKS, dataset.N_CLASSES_PER_TASK = len(protocol.sizes), protocol.sizes
        return protocol
    num_tasks = config.protocol.n_tasks or dataset.N_TASKS
    if num_tasks != dataset.N_TASKS and not dataset.ANY_N_TASKS:
        raise ConfigError(
            f"--n_tasks {num_tasks}: dataset {dataset.NAME!r} is {setting} with {dataset.N_TASKS} "
            "tasks, whose number cannot be chosen"
        )
    dataset.N_TASKS = num_tasks
    return Protocol.by_domain(config, dataset.NAME, setting, dataset.N_CLASSES)


def load_stream(dataset: Any) -> Splits:
    """Returns the complete training and test sets of `get_data_loaders`, under the protocol.

    Raises:
        DataError: If a split lacks `data` or `targets`, or has labels outside the classes.
    """
    splits = dataset.get_data_loaders()
    if not (isinstance(splits, (tuple, list)) and len(splits) == 2):
        raise DataError(
            f"{dataset.NAME}: get_data_loaders() must return (training set, test set), got a "
            f"{type(splits).__name__}"
        )
    num_classes, described = dataset.N_CLASSES, f"N_CLASSES = {dataset.N_CLASSES}"
    if dataset.SETTING in SPLIT_BY_CLASS:
        num_classes = len(dataset.protocol.order)
        described = (
            f"N_TASKS = {dataset.N_TASKS} tasks with N_CLASSES_PER_TASK = "
            f"{dataset.N_CLASSES_PER_TASK}"
        )
    subsets = []
    for split, kind in zip(splits, ("training", "test"), strict=True):
        name = f"{dataset.NAME}: the {kind} set"
        subsets.append(
            LabeledSubset.whole(checked_split(split, name, num_classes, described), name)
        )
    applied: Splits = dataset.protocol.apply(Splits(*subsets))
    return applied


def load_stage(dataset: Any) -> tuple[Any, list[Any]]:
    """Returns the training set of the current stage, and the test sets that it adds.

    In joint training the stage is all tasks; `c_task` is then the last one.

    Raises:
        DataError: See `load_stream`; or if a task has no image.
    """
    if dataset.joint and dataset.SETTING == "domain-il":
        trains, tests = [], []
        for task in range(dataset.N_TASKS):
            dataset.c_task = task  # get_data_loaders reads it
            train, test = load_stream(dataset)
            trains.append(train.materialize())
            tests.append(test.materialize())
        return concatenate(trains, dataset.NAME), tests
    train, test = load_stream(dataset)
    if dataset.SETTING not in SPLIT_BY_CLASS:
        return train.materialize(), [test.materialize()]
    if dataset.c_task == 0:  # before anything is trained
        for subset in (train, test):
            for task in range(dataset.N_TASKS):
                subset.mask_of_task(task, dataset.get_offsets(task))
    tasks = range(dataset.N_TASKS) if dataset.joint else [dataset.c_task]
    tests = [test.of_task(task, dataset.get_offsets(task)).materialize() for task in tasks]
    if dataset.joint:
        dataset.c_task = dataset.N_TASKS - 1
        return train.materialize(), tests
    return train.of_task(dataset.c_task, dataset.get_offsets()).materialize(), tests


def count_channels(dataset: Any) -> int:
    """Returns the number of channels of the first training image; keeps the random state."""
    before, task = random_state(), dataset.c_task
    dataset.c_task = max(task, 0)  # loaders of "domain-il" read it
    image = dataset.get_data_loaders()[0][0][0]
    dataset.c_task = task
    set_random_state(before)
    return int(image.shape[0])
