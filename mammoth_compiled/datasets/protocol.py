"""Protocol: the tasks, the class order and the choices of images that flags ask for."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np

from mammoth_compiled.config.protocol import ProtocolConfig
from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.datasets.sampling import blurry_tasks, noisy_labels, sample_per_class
from mammoth_compiled.datasets.splits import LabeledSubset, take_rows
from mammoth_compiled.datasets.tasks import class_order, task_sizes
from mammoth_compiled.errors import ConfigError, DataError

SPLIT_BY_CLASS = ("class-il", "task-il")
# Flags that need tasks split by class.
_BY_CLASS = (
    "classes_per_task",
    "base_classes",
    "permute_classes",
    "class_order_seed",
    "custom_class_order",
    "blurry",
)

# Flags that determine images and labels beside the number of classes of each task.
_CHOICES = (
    "permute_classes",
    "class_order_seed",
    "custom_class_order",
    "validation",
    "labels_per_class",
    "noise_rate",
    "noise_type",
    "blurry",
    "disjoint_classes",
)
# Those of them whose choices are drawn from the seed of the run.
_SEEDED = ("permute_classes", "validation", "labels_per_class", "noise_rate", "blurry")


class Splits(NamedTuple):
    """The training images, and the images that accuracies are measured on."""

    train: LabeledSubset
    test: LabeledSubset


@dataclass(frozen=True)
class Protocol:
    """How a stream of tasks is made from the complete training and test sets.

    The steps, in this order: hold out validation images, drop images (`--labels_per_class`),
    renumber the classes, replace labels (`--noise_rate`), move images to other tasks (`--blurry`).

    Attributes:
        config: The flags.
        seed: Seed of the choices: that of the run, or 0.
        sizes: Number of classes of each task, [T]; empty if tasks are not split by class.
        order: Classes of the dataset in the order in which they are learned, [K].
    """

    config: ProtocolConfig
    seed: int
    sizes: tuple[int, ...]
    order: np.ndarray

    @classmethod
    def by_class(cls, config: RunConfig, num_classes: int, default: Sequence[int]) -> Self:
        """Returns the protocol of a dataset whose tasks are ranges of classes.

        Args:
            config: All arguments of the run.
            num_classes: Number of classes, K.
            default: Number of classes of each task of the dataset.

        Raises:
            ConfigError: If no such tasks exist, or arguments contradict each other.
        """
        flags, seed = config.protocol, config.experiment.seed
        sizes = tuple(task_sizes(flags, num_classes, default))
        order = class_order(flags, num_classes, seed)
        if flags.noise_rate and min(sizes) < 2:
            raise ConfigError(
                "--noise_rate replaces a label by another class of its task, but task "
                f"{sizes.index(min(sizes)) + 1} has one class: give fewer, larger tasks"
            )
        if flags.blurry and len(sizes) < 2:
            raise ConfigError("--blurry needs at least two tasks")
        if flags.blurry and config.experiment.joint:
            raise ConfigError("--blurry has no effect on joint training: leave one of them out")
        return cls(_checked(flags), seed or 0, sizes, order)

    @classmethod
    def by_domain(cls, config: RunConfig, name: str, setting: str, num_classes: int) -> Self:
        """Returns the protocol of a dataset whose tasks all have the same classes.

        Args:
            config: All arguments of the run.
            name: The dataset, for messages.
            setting: Its setting, likewise.
            num_classes: Number of classes, K.

        Raises:
            ConfigError: If an argument needs tasks split by class.
        """
        for flag in _BY_CLASS:
            if config.protocol.is_given(flag):
                raise ConfigError(
                    f"--{flag} needs tasks split by class, but dataset {name!r} is {setting}"
                )
        order = np.arange(num_classes)
        return cls(_checked(config.protocol), config.experiment.seed or 0, (), order)

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """The (first, last + 1) class id of each task."""
        ends = np.cumsum(self.sizes).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))

    @property
    def has_native_order(self) -> bool:
        """Whether class ids are those of the dataset."""
        return bool((self.order == np.arange(len(self.order))).all())

    def determined_by(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Returns those of the arguments of a run that determine images and labels of its tasks.

        Args:
            args: Arguments by name; missing ones are left out.
        """
        names = [*_CHOICES]
        if any(args.get(name) for name in _SEEDED):
            names.append("seed")
        return {name: args[name] for name in names if name in args}

    def class_names(self, names: Sequence[str], num_classes: int) -> tuple[str, ...]:
        """Returns the name of each class id of the stream.

        Args:
            names: Names of the classes of the dataset; empty for their ids.
            num_classes: Number of names.
        """
        names = names or [str(k) for k in range(num_classes)]
        order = [*self.order.tolist(), *range(len(self.order), num_classes)]
        return tuple(names[k] for k in order)

    def apply(self, splits: Splits) -> Splits:
        """Returns the images and labels of the stream.

        Raises:
            DataError: If a class would have no training image left, or none to validate on.
        """
        train, test = splits
        flags = self.config
        if flags.validation is not None:
            train, test = self._hold_out(train, test)
        if flags.labels_per_class is not None:
            amount = flags.labels_per_class
            train = train.select(sample_per_class(train.targets, amount, self.seed, "labels"))
        if not self.has_native_order:
            train, test = self._renumber(train), self._renumber(test)
        if flags.blurry:
            tasks = np.repeat(np.arange(len(self.sizes)), self.sizes)
            moved, disjoint = flags.blurry, flags.disjoint_classes
            train = replace(
                train, tasks=blurry_tasks(tasks, train.targets, moved, disjoint, self.seed)
            )
        if flags.noise_rate:
            groups = self.offsets or [(0, len(self.order))]
            labels = noisy_labels(
                train.targets, groups, flags.noise_rate, flags.noise_type, self.seed
            )
            train = replace(train, targets=labels, true_targets=train.targets)
        return Splits(train, test)

    def _renumber(self, subset: LabeledSubset) -> LabeledSubset:
        return replace(subset, targets=np.argsort(self.order)[subset.targets])

    def _hold_out(self, train: LabeledSubset, test: LabeledSubset) -> Splits:
        amount = self.config.validation
        assert amount is not None
        share = amount if amount < 1 else amount / 100
        held_out = sample_per_class(train.targets, share, self.seed, "validation")
        kept = np.bincount(train.targets[~held_out], minlength=len(self.order))
        empty = [int(k) for k in np.unique(train.targets) if not kept[k]]
        if empty:
            count = int((train.targets == empty[0]).sum())
            raise DataError(
                f"{train.name}: --validation {amount:g} leaves class {empty[0]} without a training "
                f"image, because it has {count}: give a smaller number"
            )
        return Splits(train.select(~held_out), _as_test(train.select(held_out), test))


def _checked(flags: ProtocolConfig) -> ProtocolConfig:
    if flags.disjoint_classes and not flags.blurry:
        raise ConfigError("--disjoint_classes needs --blurry M")
    return flags


def _as_test(held_out: LabeledSubset, test: LabeledSubset) -> LabeledSubset:
    """Returns training images as a part of the test set, so that they are not augmented."""
    source, rows = held_out.dataset.data, held_out.rows
    assert rows is not None
    if type(source) is not type(test.dataset.data):
        raise DataError(
            f"{held_out.name}: --validation needs `data` of the same type in both sets, got "
            f"{type(source).__name__} and {type(test.dataset.data).__name__}"
        )
    dataset: Any = copy.copy(test.dataset)
    dataset.data, dataset.targets = take_rows(source, rows), held_out.targets
    return LabeledSubset.whole(dataset, test.name.replace("the test set", "the validation set"))
