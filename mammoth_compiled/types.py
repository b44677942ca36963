"""The words the parts of the package share: ReturnTypes, Batch, what a dataset says of itself.

Shape letters: B batch, C channels, H W image size, K classes, F features, T tasks.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

import torch


class ReturnTypes(StrEnum):
    """What a backbone returns; every member equals its plain string.

    ``OUT``: logits [B, K]. ``FEATURES``: features [B, F]. ``BOTH``: the tuple (logits, features).
    ``FULL``, which a backbone may leave out: (logits, list of stage maps).
    """

    OUT = "out"
    FEATURES = "features"
    BOTH = "both"
    FULL = "full"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(unknown_returnt(value))


def unknown_returnt(value: object) -> str:
    """Returns the message for a `returnt` that no backbone knows."""
    valid = ", ".join(repr(str(member)) for member in ReturnTypes)
    return f"unknown returnt {value!r}; valid values: {valid} ('full' only where a backbone has it)"


@dataclass
class Batch:
    """One batch of the stream, all tensors on the model's device.

    Attributes:
        inputs: Augmented, normalised images, float, [B, C, H, W].
        labels: Class ids, int64, [B].
        not_aug_inputs: Images without augmentation and normalisation, float in [0, 1],
            [B, C, H, W].
        logits: Logits of `inputs`, [B, K]: set by a `training_loss` whose replay stores them.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    not_aug_inputs: torch.Tensor
    logits: torch.Tensor | None = None


@dataclass(frozen=True)
class DatasetInfo:
    """What a deployed backbone must know of the data it was trained on.

    Attributes:
        name: Registered name of the dataset.
        input_shape: (C, H, W) of one image.
        mean: Mean per channel subtracted from images in [0, 1].
        std: Standard deviation per channel.
        num_classes: K, the width of the head.
        class_names: One name per class id.
        tasks: (first, last + 1) class id of every task.
        tasks_seen: How many tasks the weights have been trained on.
    """

    name: str
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    tasks: tuple[tuple[int, int], ...] = ()
    tasks_seen: int = 0

    @property
    def classes_seen(self) -> tuple[int, ...]:
        """The class ids of all tasks seen, in the order they came."""
        return tuple(k for first, end in self.tasks[: self.tasks_seen] for k in range(first, end))

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain lists and numbers, for JSON and checkpoints."""
        return {
            "name": self.name,
            "input_shape": list(self.input_shape),
            "mean": list(self.mean),
            "std": list(self.std),
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "tasks": [list(task) for task in self.tasks],
            "tasks_seen": self.tasks_seen,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "DatasetInfo":
        """Reads what `to_dict` wrote."""
        channels, height, width = fields["input_shape"]
        return cls(
            name=fields["name"],
            input_shape=(channels, height, width),
            mean=tuple(fields["mean"]),
            std=tuple(fields["std"]),
            num_classes=fields["num_classes"],
            class_names=tuple(fields["class_names"]),
            tasks=tuple((first, end) for first, end in fields["tasks"]),
            tasks_seen=fields["tasks_seen"],
        )


@dataclass
class Evaluation:
    """Accuracies after a task, one entry per task seen so far.

    Attributes:
        class_il: Accuracy in [0, 1] with all classes seen so far to choose from.
        task_il: Accuracy in [0, 1] with the task's own classes to choose from.
        loss: Mean loss over all test images, nats.
    """

    class_il: list[float] = field(default_factory=list)
    task_il: list[float] = field(default_factory=list)
    loss: float = float("nan")
