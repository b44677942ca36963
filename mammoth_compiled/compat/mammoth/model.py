"""Mammoth's `models.utils.continual_model`."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.compat.mammoth.evaluation import evaluate
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import ContinualModel as BaseModel
from mammoth_compiled.registry import models, register_model

__all__ = ["ContinualModel", "get_model_names", "register_model"]

# Arguments of Mammoth that every run has there, with their values in a run without them.
ARGUMENTS = {"nowand": True, "label_perc": 1, "label_perc_by_class": 1, "custom_class_order": None}


class ContinualModel(BaseModel):
    """Mammoth's base class of models.

    A subclass with a `NAME` registers itself under it. Otherwise this is
    `mammoth_compiled.ContinualModel` with a new optimizer for each task.

    Args:
        backbone: The network.
        loss: Loss function of (logits [B, K], labels [B]).
        args: All arguments of the run.
        transform: torchvision transform that augments stored images.
        dataset: The dataset, a sequence of tasks.

    Attributes:
        original_transform: The same as `transform`.
        AVAIL_OPTIMS: Names of the optimizers.
    """

    RESET_OPTIMIZER: ClassVar[bool] = True
    AVAIL_OPTIMS: ClassVar[list[str]] = ["sgd", "adam", "adamw"]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = vars(cls).get("NAME")
        if isinstance(name, str):
            models.register(name)(cls)

    def __init__(
        self,
        backbone: MammothBackbone,
        loss: Callable[..., torch.Tensor],
        args: Namespace,
        transform: Any,
        dataset: ContinualDataset | None = None,
    ) -> None:
        vars(args).update({k: v for k, v in ARGUMENTS.items() if k not in args})
        super().__init__(backbone, loss, args, transform, dataset)
        self.original_transform = transform
        if dataset is not None:
            dataset.evaluate = evaluate  # type: ignore[attr-defined]

    def autolog_wandb(self, locals: Any, extra: Any = None) -> None:
        """Does nothing: the observers of a run log."""


def get_model_names() -> list[str]:
    """Returns the names of the registered models."""
    return list(models)
