"""The flags of a protocol: how the stream of tasks is made from a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mammoth_compiled.config.argument import argument
from mammoth_compiled.config.values import (
    class_list,
    fraction,
    fraction_or_count,
    fraction_or_percentage,
    positive_int,
    seed_int,
)


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """How the stream of tasks is made from the dataset; see `datasets.protocol`."""

    n_tasks: int | None = argument(
        None, "Number of tasks (default: chosen by the dataset).", positive_int, "N"
    )
    classes_per_task: Sequence[int] | None = argument(
        None, "Classes per task: one number, or one for each task.", positive_int, "N"
    )
    base_classes: int | None = argument(
        None, "Classes of the first task; the other tasks share the rest.", positive_int, "N"
    )
    permute_classes: bool = argument(
        False, "Permute the classes at random, by --seed, as Mammoth does."
    )
    class_order_seed: int | None = argument(
        None,
        "Learn the classes in NumPy's permutation with this seed; PyCIL and PILOT use 1993.",
        seed_int,
        "N",
    )
    custom_class_order: Sequence[str] | None = argument(
        None,
        "Class ids in the order in which they are learned: 4 2 0 1 3, 4,2,0,1,3 or 4,2,0-1,3.",
        class_list,
        "ID",
    )
    validation: float | None = argument(
        None,
        "Hold out this percentage of the training images of each class, or fraction below 1, and "
        "evaluate on them instead of the test set.",
        fraction_or_percentage,
        "PERCENT",
    )
    labels_per_class: float | None = argument(
        None,
        "Train on this fraction, or number >= 1, of the images of each class only.",
        fraction_or_count,
        "N",
    )
    noise_rate: float = argument(
        0.0, "Probability that a training label is replaced by a wrong one.", fraction, "P"
    )
    noise_type: Literal["symmetric", "asymmetric"] = argument(
        "symmetric", "Wrong labels: another class of the task, or always the next one."
    )
    blurry: float = argument(
        0.0,
        "Blurry task boundaries: fraction of the images of each class that other tasks contain.",
        fraction,
        "M",
    )
    disjoint_classes: float = argument(
        0.0, "Fraction of the classes that --blurry leaves in their own task.", fraction, "N"
    )
    online: bool = argument(False, "Train in one pass: one epoch per task.")

    def is_given(self, name: str) -> bool:
        """Returns whether a flag has another value than its default.

        Example:
            >>> ProtocolConfig(class_order_seed=0).is_given("class_order_seed")
            True
        """
        value, default = getattr(self, name), getattr(ProtocolConfig, name)
        return value is not None and (default is None or value != default)
