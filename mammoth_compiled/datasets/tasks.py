"""Which classes the tasks have: the number of classes of each, and the order of the classes."""

from collections.abc import Sequence

import numpy as np

from mammoth_compiled.config.protocol import ProtocolConfig
from mammoth_compiled.errors import ConfigError


def task_sizes(config: ProtocolConfig, num_classes: int, default: Sequence[int]) -> list[int]:
    """Returns the number of classes of each task.

    Args:
        config: `n_tasks`, `classes_per_task` and `base_classes` apply.
        num_classes: Number of classes of the dataset, K.
        default: The tasks of the dataset.

    Returns:
        T numbers whose sum is K. With `n_tasks` alone, tasks differ by one class at most, the
        larger ones first. With one number for `classes_per_task`, the last task has the rest.

    Raises:
        ConfigError: If no such tasks exist, or the arguments contradict each other.

    Example:
        >>> task_sizes(ProtocolConfig(base_classes=50, classes_per_task=[10]), 100, [10] * 10)
        [50, 10, 10, 10, 10, 10]
        >>> task_sizes(ProtocolConfig(n_tasks=4), 10, [2] * 5)
        [3, 3, 2, 2]
    """
    tasks, per_task, base = config.n_tasks, config.classes_per_task, config.base_classes
    if tasks is None and per_task is None and base is None:
        return list(default)
    if per_task is not None and len(per_task) > 1:
        return _listed_sizes(per_task, tasks, base, num_classes)
    first = [] if base is None else [base]
    rest = num_classes - sum(first)
    if rest < 0:
        raise ConfigError(f"--base_classes {base} exceeds the {num_classes} classes of the dataset")
    if per_task is not None:
        sizes = _fixed_sizes(rest, per_task[0])
        if tasks is not None and tasks != len(first + sizes):
            raise ConfigError(
                f"--classes_per_task {per_task[0]} makes {len(first + sizes)} tasks of the "
                f"{num_classes} classes, but --n_tasks is {tasks}: give one of them"
            )
        return first + sizes
    count = len(default) if tasks is None else tasks
    if count - len(first) > rest or (count == len(first) and rest):
        most = rest + len(first)
        least = min(most, 2 if first else 1)
        valid = f"{least} to {most}" if least < most else str(most)
        raise ConfigError(
            f"--n_tasks {count} does not fit {num_classes} classes"
            + (f" with --base_classes {base}" if first else "")
            + f": every class belongs to one task, so give {valid}"
        )
    if not rest:
        return first
    return first + [len(part) for part in np.array_split(np.arange(rest), count - len(first))]


def _fixed_sizes(num_classes: int, size: int) -> list[int]:
    remainder = num_classes % size
    return [size] * (num_classes // size) + ([remainder] if remainder else [])


def _listed_sizes(
    sizes: Sequence[int], tasks: int | None, base: int | None, num_classes: int
) -> list[int]:
    if base is not None:
        raise ConfigError("--base_classes needs one number for --classes_per_task, not a list")
    if tasks not in (None, len(sizes)):
        raise ConfigError(
            f"--classes_per_task lists {len(sizes)} tasks, but --n_tasks is {tasks}: give one "
            "of them"
        )
    if sum(sizes) != num_classes:
        raise ConfigError(
            f"--classes_per_task {' '.join(map(str, sizes))} adds up to {sum(sizes)} classes, but "
            f"the dataset has {num_classes}"
        )
    return list(sizes)


def class_order(config: ProtocolConfig, num_classes: int, seed: int | None) -> np.ndarray:
    """Returns the class ids of the dataset in the order in which they are learned.

    Args:
        config: `permute_classes`, `class_order_seed` or `custom_class_order` applies.
        num_classes: Number of classes, K.
        seed: Seed of the run, for `permute_classes`.

    Returns:
        The permutation, int64, [K]. Class `order[k]` of the dataset gets the id k.

    Raises:
        ConfigError: If several arguments are given, `permute_classes` has no seed, or a class is
            missing, unknown or given twice.

    Source:
        `class_order_seed`: Masana et al. and PyCIL (arXiv 2112.12533), whose lists come from
        NumPy's legacy generator. `permute_classes` draws the same permutation and applies its
        inverse, as Mammoth does: class k gets the id `permutation[k]`.

    Example:
        >>> class_order(ProtocolConfig(class_order_seed=1993), 10, None).tolist()
        [4, 2, 7, 6, 0, 3, 5, 8, 9, 1]
    """
    names = ("permute_classes", "class_order_seed", "custom_class_order")
    given = [name for name in names if config.is_given(name)]
    if len(given) > 1:
        raise ConfigError(f"--{given[0]} and --{given[1]} exclude each other: give one of them")
    if config.custom_class_order is not None:
        return _listed_order(config.custom_class_order, num_classes)
    if config.class_order_seed is not None:
        return _permutation(config.class_order_seed, num_classes)
    if config.permute_classes:
        if seed is None:
            raise ConfigError(
                "--permute_classes 1 draws the order from --seed: give it, or --class_order_seed N"
            )
        return np.argsort(_permutation(seed, num_classes))
    return np.arange(num_classes)


def _permutation(seed: int, num_classes: int) -> np.ndarray:
    return np.random.RandomState(seed % 2**32).permutation(num_classes)


def _listed_order(words: Sequence[str], num_classes: int) -> np.ndarray:
    order: list[int] = []
    for part in ",".join(words).split(","):
        first, *last = map(int, part.split("-"))
        # No further than needed for the message: a range may be huge.
        order += range(first, min(last[0] if last else first, first + num_classes) + 1)
    missing = sorted(set(range(num_classes)) - set(order))
    unknown = sorted(set(order) - set(range(num_classes)))
    twice = sorted({k for k in order if order.count(k) > 1} if len(order) < 10**4 else [])
    for ids, problem in ((unknown, "has unknown"), (twice, "repeats"), (missing, "lacks")):
        if ids:
            shown = ", ".join(map(str, ids[:10])) + (", ..." if len(ids) > 10 else "")
            raise ConfigError(
                f"--custom_class_order {problem} class {shown}: list each of the classes 0 to "
                f"{num_classes - 1} once"
            )
    return np.array(order)
