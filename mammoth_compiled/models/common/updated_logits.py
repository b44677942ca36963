"""UpdatedLogitsModel: stored logits that learn about classes which come later.

Source: Boschini et al. 2022, arXiv 2201.00766.
"""

from argparse import ArgumentParser
from typing import Any

import torch

from mammoth_compiled.config import non_negative_float
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.common.balanced import BalancedReplayModel
from mammoth_compiled.models.common.features import outputs
from mammoth_compiled.models.common.transplant import transplant
from mammoth_compiled.types import Batch


class UpdatedLogitsModel(BalancedReplayModel):
    """A model that stores logits, of which those of later classes follow the network.

    They are replaced after a step that has replayed the image, with probability 1 / draws of the
    image in the task, and after each task; see `transplant`. A subclass puts what its step has
    drawn with `_draw` into `_replayed`.
    """

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the buffer's arguments and `--gamma`."""
        BalancedReplayModel.get_parser(parser)
        parser.add_argument(
            "--gamma",
            type=non_negative_float,
            default=0.85,
            help="Largest new logit relative to that of the true class, below 1.",
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.buffer.add_column("draws")
        # Indices, labels, stored logits and logits of what a step has replayed.
        self._replayed: tuple[tuple[torch.Tensor, ...], ...] = ()

    def _draw(self) -> tuple[torch.Tensor, ...]:
        """Returns indices, labels, stored logits and logits of a replay batch."""
        index, images, labels, stored, _ = self.buffer.get_data(
            self.args.minibatch_size, self.transform, return_index=True, device=self.device
        )
        return index, labels, stored, self.net(images)

    def after_step(self, batch: Batch) -> None:
        """Updates the stored logits of replayed images for classes that came after theirs."""
        first, _ = self.dataset.get_offsets()
        earlier = torch.empty(0, dtype=torch.int64, device=self.device)
        for index, labels, _, logits in self._replayed:
            is_new = ~(index[:, None] == earlier).any(1)
            draws = self.buffer.draws[index] + is_new
            chosen = is_new & (torch.rand_like(draws) * draws < 1)
            stored = self.buffer.logits[index]
            new = transplant(stored, logits.detach(), labels, slice(first, None), self.args.gamma)
            logits = torch.where(chosen[:, None], new, stored)
            self.buffer.update(index, logits=logits, draws=draws)
            earlier = index

    def stored(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the logits, [R, K], those of earlier tasks below that of the true class."""
        logits = outputs(self, images)
        past = slice(0, self.dataset.get_offsets()[0])
        return {"logits": transplant(logits, logits, labels, past, self.args.gamma)}

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Divides the buffer among all classes and updates the logits of earlier ones."""
        super().end_task(dataset)
        first, _ = dataset.get_offsets()
        examples, labels, stored, _ = self.buffer.get_all_data(device=self.device)
        new = transplant(
            stored, outputs(self, examples), labels, slice(first, None), self.args.gamma
        )
        logits = torch.where((labels < first)[:, None], new, stored)
        self.buffer.update(torch.arange(len(labels)), logits=logits)
