"""ContinualDataset: a dataset as a sequence of tasks."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision import transforms

from mammoth_compiled.config import RunConfig
from mammoth_compiled.console import say
from mammoth_compiled.data import TaskLoader
from mammoth_compiled.datasets.checks import check_attributes, check_first_item
from mammoth_compiled.datasets.defaults import DatasetDefaults
from mammoth_compiled.datasets.protocol import SPLIT_BY_CLASS, Protocol
from mammoth_compiled.datasets.stage import count_channels, load_stage, load_stream, make_protocol
from mammoth_compiled.device import get_device
from mammoth_compiled.errors import ConfigError, DataError
from mammoth_compiled.types import DatasetInfo

# On a CPU, blocks over 32 MiB return to the system after each operation and are reallocated: 256
# images of 32x32 pixels in 32 channels already take that much.
EVAL_BATCH_SIZE = 128
SETTINGS = (*SPLIT_BY_CLASS, "domain-il", "general-continual")


class MammothDataset(Dataset):
    """The images of one split; `__getitem__` returns (image, label, image without augmentation).

    Attributes:
        data: Images, uint8, [N, H, W] or [N, H, W, C].
        targets: Class ids, [N].
        not_aug_transform: torchvision transform that returns the image without augmentation.
        extra_return_fields: Names of attributes with one row per image, [N, ...], that loaders add
            to each batch and `observe` gets as keywords, for example the logits of a teacher.
    """

    data: np.ndarray
    targets: np.ndarray
    not_aug_transform = transforms.Compose([transforms.ToTensor()])
    extra_return_fields: tuple[str, ...] = ()

    def add_extra_return_field(self, field_name: str, field_value: Any) -> None:
        """Adds a field to the items: `field_value` has one row per image, [N, ...]."""
        setattr(self, field_name, field_value)
        self.extra_return_fields = (*self.extra_return_fields, field_name)


class ContinualDataset(DatasetDefaults):
    """A dataset that is learned task by task.

    A subclass sets the class attributes and defines `get_data_loaders`, which returns the complete
    training and test sets; this class splits them into tasks.

    Args:
        args: The arguments of the run.

    Attributes:
        NAME: Registered name.
        SETTING: "class-il" or "task-il", whose tasks are ranges of classes; "domain-il", whose
            tasks have the same classes; or "general-continual", one stream without tasks, which
            is trained on in order and once.
        N_CLASSES_PER_TASK: Classes per task, one number for all tasks or one for each.
        ANY_N_TASKS: Whether a "domain-il" dataset can make any number of tasks (`--n_tasks`).
        N_TASKS: Number of tasks, T.
        N_CLASSES: Number of classes, K; by default the sum over the tasks.
        SIZE: (height, width) of the images, pixels.
        MEAN: Mean per channel of images in [0, 1]; gives the number of channels. Without it, the
            first training image does.
        STD: Standard deviation per channel.
        TRANSFORM: torchvision transform of training images.
        TEST_TRANSFORM: torchvision transform of test images.
        CLASS_NAMES: One name per class of the data, before `--class_order_seed` and others
            renumber them; by default the class ids.
        SHARES_IMAGES: Whether `get_data_loaders` keeps the images it has read for other objects of
            the class, so that the runs of a sweep can share them. It must not draw random numbers.
        DEFAULTS: Arguments that apply if neither the user nor the settings of the model give them;
            methods may declare them too, see `datasets.defaults.set_default_from_args`.
        args: The arguments of the run.
        config: The same, typed; missing ones have their defaults.
        c_task: Index of the current task; -1 before the first.
        protocol: What flags change about tasks, classes and images.
        num_stages: Training stages: one per task, or 1 for joint training on all tasks.
        train_loader: Training batches of the current task.
        test_loaders: Test batches of each task seen so far.

    Raises:
        ConfigError: If a class attribute is invalid, or an argument does not fit the dataset.

    Example:
        >>> from argparse import Namespace
        >>> import numpy as np
        >>> from torchvision import transforms
        >>> from mammoth_compiled.datasets.arrays import ArrayDataset
        >>> class Noise(ContinualDataset):
        ...     NAME, SETTING = "noise", "class-il"
        ...     N_CLASSES_PER_TASK, N_TASKS = 2, 3
        ...
        ...     def get_data_loaders(self):
        ...         images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
        ...         split = ArrayDataset(images, np.arange(60) % 6, transforms.ToTensor())
        ...         return split, split
        >>> dataset = Noise(Namespace(batch_size=5))
        >>> train_loader, test_loader = dataset.meta_get_data_loaders()
        >>> dataset.get_offsets(), len(train_loader)
        ((0, 2), 4)
    """

    NAME: str
    SETTING: str
    N_CLASSES_PER_TASK: int | list[int] | tuple[int, ...]
    N_TASKS: int
    N_CLASSES: int
    ANY_N_TASKS: bool = False
    SIZE: tuple[int, int]
    MEAN: tuple[float, ...]
    STD: tuple[float, ...]
    TRANSFORM: Any
    TEST_TRANSFORM: Any
    CLASS_NAMES: tuple[str, ...] = ()
    SHARES_IMAGES: bool = False

    protocol: Protocol
    train_loader: TaskLoader
    test_loaders: list[TaskLoader]

    def __init__(self, args: Namespace) -> None:
        name = type(self).__name__
        if getattr(self, "SETTING", None) not in SETTINGS:
            raise ConfigError(
                f"{name}.SETTING is {getattr(self, 'SETTING', None)!r}; "
                f"valid: {', '.join(SETTINGS)}"
            )
        check_attributes(type(self))
        self.args = args
        self.config = RunConfig.from_namespace(args)
        self.joint = self.config.experiment.joint
        self.protocol = make_protocol(self)
        self.device = get_device(self.config.compute.device)
        self._reported_reason: str | None = None
        self._channels: int | None = None
        self.reset()

    @property
    def stream_setting(self) -> str:
        """The setting that a model must support; "general-continual" if tasks are blurry."""
        return "general-continual" if self.config.protocol.blurry else self.SETTING

    @property
    def num_stages(self) -> int:
        """Number of training stages; one per task, or 1 for joint training on all tasks."""
        return 1 if self.joint else self.N_TASKS

    def reset(self) -> None:
        """Returns to the state before the first task."""
        self.c_task = -1
        self.train_loader = None  # type: ignore[assignment]
        self.test_loaders = []

    def get_offsets(self, c_task: int | None = None) -> tuple[int, int]:
        """Returns the (first, last + 1) class id of a task.

        Args:
            c_task: Index of the task; None for the current one.
        """
        task = self.c_task if c_task is None else c_task
        if self.SETTING not in SPLIT_BY_CLASS:
            return 0, self.N_CLASSES
        if self.joint and c_task is None and task >= 0:
            return 0, self.N_CLASSES
        return (0 if task == 0 else self._end_of_task(task - 1)), self._end_of_task(task)

    def _end_of_task(self, task: int) -> int:
        per_task = self.N_CLASSES_PER_TASK
        if self.SETTING not in SPLIT_BY_CLASS:
            return per_task if isinstance(per_task, int) else per_task[0]
        if isinstance(per_task, int):
            return per_task * (task + 1)
        return sum(per_task[: task + 1])

    def get_data_loaders(self) -> tuple[Any, Any]:
        """Returns the complete training and test sets, which are then split into tasks.

        Both have the attributes `data` and `targets`, see `MammothDataset`. With the setting
        "domain-il" this is called for every task, and returns the data of task `c_task`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define get_data_loaders()")

    def meta_get_data_loaders(self) -> tuple[TaskLoader, TaskLoader]:
        """Advances to the next task and returns its training and test loaders.

        Returns:
            Iterables over batches on the device, see `mammoth_compiled.data.TaskLoader`.

        Raises:
            DataError: If a split lacks `data` or `targets`, has labels outside the classes or no
                image of the task, or its images do not have the declared shape.
        """
        if self.c_task < 0 and self.config.protocol.validation is not None:
            say("data: accuracies are those on validation images, not on the test set")
        self.c_task += 1
        train, tests = load_stage(self)
        batch_size = self.config.experiment.batch_size
        shuffle = self.joint or self.SETTING != "general-continual"
        self.train_loader = self._loader(train, "training", batch_size, shuffle)
        known = {id(loader.dataset): loader for loader in self.test_loaders}
        self.test_loaders += [
            known.get(id(test)) or self._loader(test, "test", EVAL_BATCH_SIZE, False)
            for test in tests
        ]
        self._report_fallback(self.train_loader.fallback_reason)
        return self.train_loader, self.test_loaders[-1]

    def _report_fallback(self, reason: str | None) -> None:
        if reason and reason != self._reported_reason:
            self._reported_reason = reason
            say(f"data: {self.NAME} is loaded image by image (slower), because {reason}")

    def load_splits(self) -> tuple[Any, Any]:
        """Returns the complete training and test sets of `get_data_loaders`, under the protocol.

        Raises:
            DataError: If a split lacks `data` or `targets`, or has labels outside the classes.
        """
        train, test = load_stream(self)
        return train.materialize(), test.materialize()

    def _loader(self, dataset: Any, split: str, batch_size: int, shuffle: bool) -> TaskLoader:
        workers = self.config.compute.num_workers
        name = f"{self.NAME}: the {split} set"
        drop_last = split == "training" and self.config.training.drop_last
        loader = TaskLoader(
            dataset, batch_size, shuffle, self.device, workers, name, self.N_CLASSES, drop_last
        )
        if not len(loader):
            raise DataError(
                f"{name} has {len(dataset)} images in task {self.c_task + 1}, fewer than "
                f"--batch_size {batch_size}, so that --drop_last 1 leaves none: lower --batch_size"
            )
        check_first_item(loader, type(self).__name__, self.input_shape(), hasattr(self, "MEAN"))
        return loader

    def determined_by(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Returns those of the arguments of a run that determine images and labels of its tasks.

        Args:
            args: Arguments by name; missing ones are left out.
        """
        return self.protocol.determined_by(args)

    def input_shape(self) -> tuple[int, int, int] | None:
        """Returns the shape of an image, (C, H, W), or None if the class does not set `SIZE`."""
        if not hasattr(self, "SIZE"):
            return None
        if hasattr(self, "MEAN"):
            return len(self.MEAN), *self.SIZE
        if self._channels is None:
            self._channels = count_channels(self)
        return self._channels, *self.SIZE

    def info(self) -> DatasetInfo:
        """Returns what a deployed backbone needs to know about this dataset.

        Raises:
            DataError: If `SIZE` is not set and no task has been loaded that shows the image size.
        """
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
            class_names=self.protocol.class_names(self.CLASS_NAMES, self.N_CLASSES),
            tasks=tuple(self.get_offsets(task) for task in range(self.N_TASKS)),
            tasks_seen=self.c_task + 1,
        )

    @staticmethod
    def get_backbone() -> str:
        """Returns the name of the default backbone."""
        raise NotImplementedError("the dataset does not define get_backbone(): give a backbone")

    @classmethod
    def get_transform(cls) -> Any:
        """Returns the training transform of replayed images, float tensors in [0, 1]."""
        return transforms.Compose([transforms.ToPILImage(), cls.TRANSFORM])

    @staticmethod
    def get_loss() -> Callable[..., torch.Tensor]:
        """Returns the loss function of logits, [B, K], and labels, [B]; default cross entropy."""
        return F.cross_entropy
