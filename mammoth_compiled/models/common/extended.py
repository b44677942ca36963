"""Models whose network is built around the backbone: prompts, adapters, another head."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import ContinualModel, Parameters

# Arguments for tests and examples: a transformer for images of 8x8 pixels.
EXAMPLE_VIT = {"backbone": "vit-tiny", "width": 24, "depth": 2, "patch_size": 4, "lr": 0.05}


class ExtendedModel(ContinualModel):
    """A model that replaces its backbone by a network of its own, which `extend` builds.

    That network is `net`: it is what is compiled, saved and exported, with everything that the
    method adds.

    Attributes:
        current: The classes of the current task, bool, [K].
        unused: A parameter that nothing depends on. Backward needs one, also where a method learns
            without gradients.
    """

    RESET_OPTIMIZER: ClassVar[bool] = True

    net: Any  # what `extend` returns
    current: torch.Tensor

    def __init__(
        self,
        backbone: MammothBackbone,
        loss: Callable[..., torch.Tensor],
        args: Any,
        transform: Any,
        dataset: ContinualDataset | None = None,
    ) -> None:
        net = backbone
        if dataset is not None:
            net = replace_backbone(backbone, self.extend(backbone, args, dataset))
        super().__init__(net, loss, args, transform, dataset)
        is_class = torch.zeros(self.num_classes, dtype=torch.bool, device=self.device)
        self.register_buffer("current", is_class)
        self.unused = nn.Parameter(torch.zeros((), device=self.device))
        self.opt = self.get_optimizer()

    @staticmethod
    def extend(backbone: MammothBackbone, args: Any, dataset: ContinualDataset) -> MammothBackbone:
        """Returns the network of the model.

        Args:
            backbone: The backbone of the run.
            args: All arguments.
            dataset: The dataset, for the number of classes and tasks and the size of images.
        """
        raise NotImplementedError

    def get_parameters(self) -> Parameters:
        """Returns the parameters that are not frozen."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        return trainable or list(self.parameters())  # the base class asks before `unused` exists

    def begin_task(self, dataset: ContinualDataset) -> None:
        """Notes the classes of the task."""
        first, end = dataset.get_offsets()
        self.current.zero_()
        self.current[first:end] = True

    def task_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the loss among the classes of the current task, 0-d.

        Args:
            logits: [B, K].
            labels: Class ids of the task, int64, [B].
        """
        return self.loss(logits.masked_fill(~self.current, -torch.inf), labels)


def replace_backbone(backbone: MammothBackbone, net: MammothBackbone) -> MammothBackbone:
    """Lets a network run in place of a backbone: on its device, compiled as it would be."""
    runner = backbone.__dict__.get("_runner")
    backbone.set_runner(None)
    net.to(backbone.device)
    if runner is not None:
        net.set_runner(runner.for_copy(net))
    return net
