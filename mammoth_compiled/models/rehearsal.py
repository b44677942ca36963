"""RehearsalModel: what the models with a replay buffer share."""

from argparse import ArgumentParser
from typing import Any

import torch

from mammoth_compiled.buffers import Buffer
from mammoth_compiled.buffers.policies import POLICIES
from mammoth_compiled.config import add_rehearsal_args
from mammoth_compiled.data import apply_transform
from mammoth_compiled.datasets.base import EVAL_BATCH_SIZE, ContinualDataset
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.types import Batch


class RehearsalModel(ContinualModel):
    """A model whose buffer is filled by the policy that `--buffer_policy` names.

    A subclass says in `stored` what is kept beside the images.
    """

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--buffer_size`, `--minibatch_size` and `--buffer_policy`."""
        add_rehearsal_args(parser)
        parser.add_argument(
            "--buffer_policy",
            choices=list(POLICIES),
            default="reservoir",
            help="Which images of the stream the buffer keeps.",
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.buffer = Buffer(
            self.args.buffer_size, self.device, self.args.buffer_policy, self.num_classes
        )

    def stored(self, batch: Batch) -> dict[str, torch.Tensor | None]:
        """Returns what the buffer keeps of a batch beside its images, by name, [B, ...]."""
        raise NotImplementedError(f"{type(self).__name__} does not define stored(batch)")

    def after_step(self, batch: Batch) -> None:
        """Offers the images of the batch to the buffer."""
        self.buffer.add_data(batch.not_aug_inputs, **self._rows(batch))

    def _rows(self, batch: Batch) -> dict[str, Any]:
        labels = {"labels": batch.labels} if self.buffer.needs_labels else {}
        return {**labels, **self.stored(batch)}

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Lets a policy such as "herding" select among all images of the task, by their features."""
        if not self.buffer.selects_after_task:
            return
        loader = dataset.train_loader
        was_training = self.net.training
        self.net.eval()
        looked = []
        for part in torch.arange(len(loader.dataset)).split(EVAL_BATCH_SIZE):
            _, labels, images = loader.gather(part)
            logits, features = self.net(self._plain(images), returnt="both")
            looked.append((features, labels, logits))
        self.net.train(was_training)
        features, labels, logits = (torch.cat(column) for column in zip(*looked, strict=True))

        def fetch(index: torch.Tensor) -> dict[str, Any]:
            images = loader.gather(index)[2]
            batch = Batch(self._plain(images), labels[index], images, logits[index])
            return {"examples": images, **self._rows(batch)}

        self.buffer.end_task(features, labels, fetch)

    def _plain(self, images: torch.Tensor) -> torch.Tensor:
        """Returns images as the network gets them, without augmentation."""
        return apply_transform(images, getattr(self, "normalization_transform", None))
