"""RehearsalModel: what models with a replay buffer have in common."""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.buffers import Buffer
from mammoth_compiled.buffers.policies import POLICIES
from mammoth_compiled.config import add_rehearsal_args
from mammoth_compiled.data import TaskLoader
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.models.common.ahead import compile_ahead
from mammoth_compiled.models.common.features import images_of_task, normalized
from mammoth_compiled.types import Batch


class RehearsalModel(ContinualModel):
    """A model with a buffer that `--buffer_policy` fills.

    The buffer keeps images and their labels; a subclass may define `stored`, to keep other things.

    Attributes:
        POLICY: Buffer policy of a model without `--buffer_policy`.
        HAS_LOSSES: Whether its losses are those of `mean_loss`, for policies that need them.
    """

    POLICY: ClassVar[str] = "reservoir"
    HAS_LOSSES: ClassVar[bool] = False
    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {"buffer_size": 20}

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--buffer_size`, `--minibatch_size` and `--buffer_policy`."""
        add_rehearsal_args(parser)
        parser.add_argument(
            "--buffer_policy",
            choices=list(POLICIES),
            default="reservoir",
            help="How the buffer selects examples of the stream.",
        )
        return parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        policy = vars(self.args).get("buffer_policy", self.POLICY)
        if policy in POLICIES and POLICIES[policy].needs_losses and not self.HAS_LOSSES:
            valid = ", ".join(name for name, other in POLICIES.items() if not other.needs_losses)
            raise ConfigError(
                f"--buffer_policy {policy}: model {self.NAME!r} has no loss of each image to "
                f"compare; choose from {valid}"
            )
        self.buffer = Buffer(self.args.buffer_size, self.device, policy, self.num_classes)

    def stored(self, batch: Batch) -> dict[str, torch.Tensor | None]:
        """Returns what the buffer keeps of a batch besides its images, by name, [B, ...]."""
        return {"labels": batch.labels}

    def mean_loss(self, batch: Batch, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the mean loss of images, 0-d, and notes that of each if the policy needs it.

        Call it first for the batch, then for images that `replay_rows` drew.

        Args:
            batch: The batch.
            logits: Logits, [n, K].
            labels: Class ids, [n].
        """
        if not self.buffer.needs_losses:
            return self.loss(logits, labels)
        losses = self.loss(logits, labels, reduction="none")
        noted = losses.detach()
        batch.losses = noted if batch.losses is None else torch.cat((batch.losses, noted))
        return losses.mean()

    def replay_rows(self, batch: Batch, size: int | None = None) -> tuple[torch.Tensor, ...]:
        """Draws augmented images, [M, C, H, W], and what is stored with them, [M, ...].

        Args:
            batch: The batch, which notes the rows if the policy needs losses.
            size: Number of images, M; None for `--minibatch_size`.
        """
        size = size or self.args.minibatch_size
        if not self.buffer.needs_losses:
            return self.buffer.get_data(size, self.transform, device=self.device)
        batch.replayed, *data = self.buffer.get_data(
            size, self.transform, return_index=True, device=self.device
        )
        return tuple(data)

    def after_step(self, batch: Batch) -> None:
        """Offers the images of the batch to the buffer."""
        losses = None
        if self.buffer.needs_losses:
            assert batch.losses is not None
            losses = batch.losses[: len(batch.labels)]
            if batch.replayed is not None:
                self.buffer.update_losses(batch.replayed, batch.losses[len(losses) :])
        self.buffer.add_data(batch.not_aug_inputs, **self._rows(batch), losses=losses)

    def _rows(self, batch: Batch) -> dict[str, Any]:
        labels = {"labels": batch.labels} if self.buffer.needs_labels else {}
        true_labels = {} if batch.true_labels is None else {"true_labels": batch.true_labels}
        return {**labels, **self.stored(batch), **true_labels}

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Lets a policy such as "herding" select among all images of the task by features."""
        if not self.buffer.selects_after_task:
            return
        is_first = self.buffer.is_empty()
        self.select_after_task(dataset)
        if is_first and dataset.c_task + 1 < dataset.N_TASKS:
            compile_ahead(self, dataset)  # so far, no step has replayed anything

    def select_after_task(self, dataset: ContinualDataset) -> None:
        """Lets the policy select among all images of the task; needs `torch.no_grad`."""
        loader = dataset.train_loader
        was_training = self.net.training
        self.net.eval()
        columns = []
        for images, labels in images_of_task(dataset):
            logits, features = self.net(normalized(self, images), returnt="both")
            columns.append((features, labels, logits))
        self.net.train(was_training)
        features, labels, logits = (torch.cat(parts) for parts in zip(*columns, strict=True))

        def fetch(index: torch.Tensor) -> dict[str, Any]:
            batch = gather_batch(loader, index)
            batch.inputs, batch.logits = normalized(self, batch.not_aug_inputs), logits[index]
            return {"examples": batch.not_aug_inputs, **self._rows(batch)}

        self.buffer.end_task(features, labels, fetch)


def gather_batch(loader: TaskLoader, index: torch.Tensor) -> Batch:
    """Returns the items of a training set with these indices, int64, [B]."""
    inputs, labels, images, *fields = loader.gather(index)
    names = getattr(loader.dataset, "extra_return_fields", ())
    true_labels = dict(zip(names, fields, strict=True)).get("true_labels")
    return Batch(inputs, labels, images, true_labels=true_labels)
