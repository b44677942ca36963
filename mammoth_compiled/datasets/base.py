"""ContinualDataset: a dataset as a stream of tasks."""

import copy
from argparse import Namespace
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision import transforms

from mammoth_compiled.console import say
from mammoth_compiled.data import TaskLoader
from mammoth_compiled.device import get_device
from mammoth_compiled.errors import ConfigError, DataError
from mammoth_compiled.types import DatasetInfo

# Not more: activations past 32 MiB, as 256 images of 32x32 in 32 channels have, go back to the
# system after each operation on a CPU and have to be got anew.
EVAL_BATCH_SIZE = 128
BY_CLASS = ("class-il", "task-il")
SETTINGS = (*BY_CLASS, "domain-il")


class MammothDataset(Dataset):
    """All images of one split; `__getitem__` returns (image, label, not augmented image).

    Attributes:
        data: Images, array [N, ...].
        targets: Class ids, array [N].
        not_aug_transform: Makes the not augmented image.
    """

    data: np.ndarray
    targets: np.ndarray
    not_aug_transform = transforms.Compose([transforms.ToTensor()])


class ContinualDataset:
    """A dataset that is learnt task by task.

    A subclass sets the class attributes and defines `get_data_loaders`, which returns the whole
    training and test set; they are split by class here.

    Args:
        args: The run's arguments.

    Attributes:
        NAME: Registered name.
        SETTING: "class-il", "task-il" (both split by class) or "domain-il".
        N_CLASSES_PER_TASK: Classes per task, one number or one per task.
        N_TASKS: T.
        N_CLASSES: K; by default the sum over the tasks.
        SIZE: (height, width) of the images, pixels.
        MEAN: Mean per channel of images in [0, 1].
        STD: Standard deviation per channel.
        TRANSFORM: torchvision transform of training images.
        TEST_TRANSFORM: torchvision transform of test images.
        CLASS_NAMES: One name per class; by default the ids.
        DEFAULTS: Arguments to use where neither the user nor the model's settings give them.
        c_task: Current task from 0; -1 before the first.
        train_loader: Training batches of the current task.
        test_loaders: Test batches of every task seen.
    """

    NAME: str
    SETTING: str
    N_CLASSES_PER_TASK: int | list[int] | tuple[int, ...]
    N_TASKS: int
    N_CLASSES: int
    SIZE: tuple[int, int]
    MEAN: tuple[float, ...]
    STD: tuple[float, ...]
    TRANSFORM: Any
    TEST_TRANSFORM: Any
    CLASS_NAMES: tuple[str, ...] = ()
    DEFAULTS: ClassVar[dict[str, Any]] = {}

    train_loader: TaskLoader
    test_loaders: list[TaskLoader]

    def __init__(self, args: Namespace) -> None:
        name = type(self).__name__
        if getattr(self, "SETTING", None) not in SETTINGS:
            raise ConfigError(
                f"{name}.SETTING is {getattr(self, 'SETTING', None)!r}; "
                f"valid: {', '.join(SETTINGS)}"
            )
        per_task = self.N_CLASSES_PER_TASK
        if not isinstance(per_task, int) and len(per_task) != self.N_TASKS:
            raise ConfigError(
                f"{name}.N_CLASSES_PER_TASK has {len(per_task)} entries for {self.N_TASKS} tasks"
            )
        self.args = args
        self.joint = bool(getattr(args, "joint", False))
        if self.joint and self.SETTING not in BY_CLASS:
            raise ConfigError(f"joint training needs tasks split by class, not {self.SETTING!r}")
        if not hasattr(self, "N_CLASSES"):
            self.N_CLASSES = self._end_of(self.N_TASKS - 1)
        self.device = get_device(getattr(args, "device", None))
        self._said_reason: str | None = None
        self.reset()

    @property
    def num_stages(self) -> int:
        """Training stages: the tasks one after the other, or 1 for joint training on all."""
        return 1 if self.joint else self.N_TASKS

    def reset(self) -> None:
        """Goes back to before the first task."""
        self.c_task = -1
        self.train_loader = None  # type: ignore[assignment]
        self.test_loaders = []

    def get_offsets(self, c_task: int | None = None) -> tuple[int, int]:
        """Returns (first, last + 1) class id of a task, the current one by default."""
        task = self.c_task if c_task is None else c_task
        if self.SETTING not in BY_CLASS:
            return 0, self.N_CLASSES
        if self.joint and c_task is None and task >= 0:
            return 0, self.N_CLASSES
        return (0 if task == 0 else self._end_of(task - 1)), self._end_of(task)

    def _end_of(self, task: int) -> int:
        per_task = self.N_CLASSES_PER_TASK
        if self.SETTING not in BY_CLASS:
            return per_task if isinstance(per_task, int) else per_task[0]
        if isinstance(per_task, int):
            return per_task * (task + 1)
        return sum(per_task[: task + 1])

    def get_data_loaders(self) -> tuple[Any, Any]:
        """Returns the training and the test set, whole: they are split into tasks afterwards.

        In the setting "domain-il" it is called with `c_task` of the task to come and returns that
        task's data.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define get_data_loaders()")

    def meta_get_data_loaders(self) -> tuple[TaskLoader, TaskLoader]:
        """Goes on to the next task and returns its training and test batches.

        Raises:
            DataError: If a split lacks `data` or `targets`, or has no image of the task.
        """
        self.c_task += 1
        train, test = self.get_data_loaders()
        for split, dataset in (("training", train), ("test", test)):
            for attribute in ("data", "targets"):
                if not hasattr(dataset, attribute):
                    raise DataError(
                        f"{self.NAME}: the {split} set ({type(dataset).__name__}) has no "
                        f"attribute `{attribute}`"
                    )
        if self.joint:
            tests = [
                self._restrict(test, self.get_offsets(task), "test") for task in range(self.N_TASKS)
            ]
            self.c_task = self.N_TASKS - 1
        elif self.SETTING in BY_CLASS:
            train = self._restrict(train, self.get_offsets(), "training")
            tests = [self._restrict(test, self.get_offsets(), "test")]
        else:
            tests = [test]
        self.train_loader = self._loader(train, self.args.batch_size, shuffle=True)
        self.test_loaders += [self._loader(t, EVAL_BATCH_SIZE, shuffle=False) for t in tests]
        self._say_fallback(self.train_loader.fallback_reason)
        return self.train_loader, self.test_loaders[-1]

    def _say_fallback(self, reason: str | None) -> None:
        if reason and reason != self._said_reason:
            self._said_reason = reason
            say(f"data: {self.NAME} is loaded image by image (slower), because {reason}")

    def _loader(self, dataset: Any, batch_size: int, shuffle: bool) -> TaskLoader:
        workers = getattr(self.args, "num_workers", None)
        return TaskLoader(dataset, batch_size, shuffle, self.device, workers)

    def _restrict(self, dataset: Any, offsets: tuple[int, int], split: str) -> Any:
        """Returns the images of a range of classes, as a copy that shares nothing it changes."""
        targets = np.asarray(dataset.targets)
        mask = (targets >= offsets[0]) & (targets < offsets[1])
        if not mask.any():
            raise DataError(
                f"{self.NAME}: the {split} set has no image of classes {offsets[0]} to "
                f"{offsets[1] - 1} (task {self.c_task + 1})"
            )
        part = copy.copy(dataset)
        data = dataset.data
        if isinstance(data, torch.Tensor):
            part.data = data[torch.from_numpy(mask)]
        else:
            part.data = np.asarray(data)[mask]
        part.targets = targets[mask]
        return part

    def input_shape(self) -> tuple[int, int, int] | None:
        """Returns (C, H, W) of an image, None where the class does not say it with SIZE."""
        if not hasattr(self, "SIZE"):
            return None
        channels = len(self.MEAN) if hasattr(self, "MEAN") else 3
        return channels, *self.SIZE

    def info(self) -> DatasetInfo:
        """Returns what a deployed backbone must know of this dataset."""
        shape = self.input_shape()
        if shape is None:
            if not self.test_loaders:
                raise DataError(f"{type(self).__name__} must set SIZE = (height, width)")
            inputs = next(iter(self.test_loaders[0]))[0]
            shape = (inputs.shape[1], inputs.shape[2], inputs.shape[3])
        return DatasetInfo(
            name=self.NAME,
            input_shape=shape,
            mean=tuple(getattr(self, "MEAN", ())),
            std=tuple(getattr(self, "STD", ())),
            num_classes=self.N_CLASSES,
            class_names=self.CLASS_NAMES or tuple(str(k) for k in range(self.N_CLASSES)),
            tasks=tuple(self.get_offsets(task) for task in range(self.N_TASKS)),
            tasks_seen=self.c_task + 1,
        )

    @staticmethod
    def get_backbone() -> str:
        """Returns the name of the backbone to use where none is given."""
        raise NotImplementedError("the dataset does not define get_backbone(): give a backbone")

    @classmethod
    def get_transform(cls) -> Any:
        """Returns the training transform for a stored image, a float tensor in [0, 1]."""
        return transforms.Compose([transforms.ToPILImage(), cls.TRANSFORM])

    @staticmethod
    def get_loss() -> Callable[..., torch.Tensor]:
        """Returns the loss function, cross entropy by default."""
        return F.cross_entropy

    @classmethod
    def get_normalization_transform(cls) -> Any:
        """Returns the transform that normalises a float image in [0, 1]."""
        return transforms.Normalize(cls.MEAN, cls.STD)
