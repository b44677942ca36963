"""Types that the parts of the package share: return types, batches, dataset facts, measures.

Shape letters: B batch, C channels, H and W image size, K classes, F features, T tasks.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

import torch


class ReturnTypes(StrEnum):
    """What a backbone returns. Every member equals its string: `ReturnTypes.OUT == "out"`.

    Attributes:
        OUT: Logits, [B, K].
        FEATURES: Features, [B, F].
        BOTH: The tuple (logits, features).
        FULL: The tuple (logits, list of stage maps); a backbone need not support it.

    Raises:
        ValueError: If a member is looked up by an unknown value.

    Example:
        >>> ReturnTypes("both")
        <ReturnTypes.BOTH: 'both'>
        >>> {"out": 1}[ReturnTypes.OUT]
        1
    """

    OUT = "out"
    FEATURES = "features"
    BOTH = "both"
    FULL = "full"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(unknown_returnt(value))


def unknown_returnt(value: object) -> str:
    """Returns the error message for an unknown value of `returnt`."""
    valid = ", ".join(repr(str(member)) for member in ReturnTypes)
    return f"unknown returnt {value!r}; valid values: {valid} ('full' if the backbone supports it)"


@dataclass
class Batch:
    """One batch of the stream, all tensors on the model's device.

    Attributes:
        inputs: Augmented and normalized images, float, [B, C, H, W].
        labels: Class ids, int64, [B].
        not_aug_inputs: Images without augmentation and normalization, float in [0, 1],
            [B, C, H, W].
        logits: Logits of `inputs`, [B, K], set by the `training_loss` of a model that stores them
            in its buffer; otherwise None.
        losses: Loss of each image of the batch and, behind them, of each replayed one, [B + M],
            detached; set by the `training_loss` of a model whose buffer policy needs losses.
        true_labels: Class ids without noise, int64, [B], if `--noise_rate` replaced some of
            `labels`; otherwise None. For measuring and for the buffer, not for training.
        replay: What `ContinualModel.draw` drew, by a name of its choice: images to replay,
            [M, C, H, W], and what was stored with them, [M, ...]; None before.
        replayed: Buffer rows of the replayed images that `losses` contains, int64, [M].

    Example:
        >>> import torch
        >>> images = torch.rand(2, 3, 8, 8)
        >>> Batch(images, torch.tensor([0, 1]), images).logits is None
        True
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    not_aug_inputs: torch.Tensor
    logits: torch.Tensor | None = None
    true_labels: torch.Tensor | None = None
    replay: dict[str, tuple[torch.Tensor, torch.Tensor]] | None = None
    losses: torch.Tensor | None = None
    replayed: torch.Tensor | None = None


@dataclass(frozen=True)
class DatasetInfo:
    """What a deployed backbone needs to know about the data it was trained on.

    Attributes:
        name: Registered name of the dataset.
        input_shape: Shape of one image, (C, H, W).
        mean: Mean of each channel, subtracted from images in [0, 1].
        std: Standard deviation of each channel, which divides them.
        num_classes: Width of the head, K.
        class_names: One name per class id.
        tasks: The (first, last + 1) class id of each task.
        tasks_seen: Number of tasks that the weights have been trained on.

    Example:
        >>> info = DatasetInfo("seq-x", (3, 8, 8), num_classes=4, tasks=((0, 2), (2, 4)))
        >>> DatasetInfo.from_dict({**info.to_dict(), "tasks_seen": 1}).classes_seen
        (0, 1)
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
        """The class ids of all tasks seen, in the order of the tasks; each once."""
        seen = self.tasks[: self.tasks_seen]
        return tuple(dict.fromkeys(k for first, end in seen for k in range(first, end)))

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as strings, numbers and lists, for JSON and checkpoints."""
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
        """Returns the object whose `to_dict` returned these fields.

        Raises:
            KeyError: If a field is missing.
        """
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
    """Measures of an evaluation; lists of accuracies have one entry per task seen so far.

    Attributes:
        class_il: Accuracy in [0, 1], with predictions among all classes seen so far.
        task_il: Accuracy in [0, 1], with predictions among the classes of the task.
        loss: Mean loss over all test images, nats, with the softmax over all K classes. Images
            whose class has a score of -inf do not count.
        top5: Share of images in [0, 1] whose class is among the five with the highest scores of
            all classes seen so far.
        confusion: Number of test images of class i (row) that are predicted as class k (column),
            among the classes seen so far.
        ece: Expected calibration error in [0, 1]; see `metrics.expected_calibration_error`.
        recency_bias: See `metrics.recency_bias`; None if there is no earlier task.
        future_class_il: Accuracy on each task not seen yet, with predictions among its classes and
            those of the tasks before it; empty without `--eval_future`.
        future_task_il: The same, with predictions among the classes of the task.
    """

    class_il: list[float] = field(default_factory=list)
    task_il: list[float] = field(default_factory=list)
    loss: float = float("nan")
    top5: list[float] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    ece: float = float("nan")
    recency_bias: float | None = None
    future_class_il: list[float] = field(default_factory=list)
    future_task_il: list[float] = field(default_factory=list)
