"""Function Distance Regularization.

Source: Benjamin, Rolnick and Körding 2019, "Measuring and Regularizing Networks in Function Space",
arXiv 1805.08289; the settings are those of Buzzega et al. 2020, arXiv 2004.07211.

The loss is `CE(z, y) + alpha mean || softmax(z_r) - softmax(z'_r) ||_2` with replayed images and
the logits z' that the network had for them at the end of their task.
"""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.config import non_negative_float
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.common.balanced import BalancedReplayModel
from mammoth_compiled.models.common.features import outputs
from mammoth_compiled.models.common.settings import OWN, fmnist, published
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch

_OWN = "63 % class-IL with alpha 3, 37 % with alpha 1, seq-fmnist-mini, buffer 200, one seed"

# Under the square root, whose gradient at 0 is infinite.
EPSILON = 1e-8


def function_distance(logits: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    """Returns the mean distance between two functions on the same images, 0-d.

    This is the mean over images of || softmax(z) - softmax(z') ||_2.

    Args:
        logits: z, [M, K].
        stored: z', [M, K].
    """
    difference = logits.softmax(1) - stored.softmax(1)
    return (difference.square().sum(1) + EPSILON).sqrt().mean()


@register_model("fdr")
class FDR(BalancedReplayModel):
    """Keeps the network's probabilities on stored images near those after the images' task.

    The buffer is divided equally among the classes of all tasks so far.

    Differs from the paper: both terms share one optimizer step, while the paper corrects the
    function in a second one. Stored probabilities are those of images without augmentation, in eval
    mode.
    """

    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {**BalancedReplayModel.EXAMPLE_ARGS, "alpha": 1.0}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        **published(
            {
                "seq-cifar10": {"lr": 0.03, "alpha": (1.0, 0.3, 0.3)},
                "seq-cifar100": {"lr": 0.03, "alpha": 1.0, "source": OWN},
                "seq-tinyimg": {"lr": 0.03, "alpha": (1.0, 0.3, 0.3)},
                "seq-mnist": {
                    "lr": (0.1, 0.03, 0.1),
                    "alpha": (0.2, 0.5, 0.2),
                    "batch_size": 128,
                    "minibatch_size": 128,
                },
            }
        ),
        **fmnist(alpha=3.0, source=_OWN),
    }

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the buffer's arguments and `--alpha`."""
        BalancedReplayModel.get_parser(parser)
        parser.add_argument(
            "--alpha",
            type=non_negative_float,
            required=True,
            help="Weight of the distance between current and stored probabilities.",
        )
        return parser

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of the batch plus alpha times the distance on replay, 0-d."""
        loss = self.loss(self.net(batch.inputs), batch.labels)
        if not self.buffer.is_empty():
            inputs, _, stored, *_ = self.buffer.get_data(
                self.args.minibatch_size, self.transform, device=self.device
            )
            loss = loss + self.args.alpha * function_distance(self.net(inputs), stored)
        return loss

    def stored(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the logits, [R, K]."""
        return {"logits": outputs(self, images)}
