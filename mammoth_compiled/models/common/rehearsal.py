"""RehearsalModel: what models with a replay buffer have in common."""

from argparse import ArgumentParser
from typing import Any, ClassVar

import torch

from mammoth_compiled.buffers import Buffer
from mammoth_compiled.buffers.policies import POLICIES
from mammoth_compiled.config import add_rehearsal_args
from mammoth_compiled.data import TaskLoader, apply_transform
from mammoth_compiled.datasets.base import EVAL_BATCH_SIZE, ContinualDataset
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.models.common.ahead import compile_ahead
from mammoth_compiled.types import Batch


class RehearsalModel(ContinualModel):
    """A model with a buffer that `--buffer_policy` fills.

    A subclass defines `stored`: what the buffer keeps besides the images.

    Attributes:
        POLICY: Buffer policy of a model without `--buffer_policy`.
    """

    POLICY: ClassVar[str] = "reservoir"
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
        self.buffer = Buffer(self.args.buffer_size, self.device, policy, self.num_classes)

    def stored(self, batch: Batch) -> dict[str, torch.Tensor | None]:
        """Returns what the buffer keeps of a batch besides its images, by name, [B, ...]."""
        raise NotImplementedError(f"{type(self).__name__} does not define stored(batch)")

    def after_step(self, batch: Batch) -> None:
        """Offers the images of the batch to the buffer."""
        self.buffer.add_data(batch.not_aug_inputs, **self._rows(batch))

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
        for index in torch.arange(len(loader.dataset)).split(EVAL_BATCH_SIZE):
            _, labels, images = loader.gather(index)[:3]
            logits, features = self.net(self._normalize(images), returnt="both")
            columns.append((features, labels, logits))
        self.net.train(was_training)
        features, labels, logits = (torch.cat(parts) for parts in zip(*columns, strict=True))

        def fetch(index: torch.Tensor) -> dict[str, Any]:
            batch = gather_batch(loader, index)
            batch.inputs, batch.logits = self._normalize(batch.not_aug_inputs), logits[index]
            return {"examples": batch.not_aug_inputs, **self._rows(batch)}

        self.buffer.end_task(features, labels, fetch)

    def _normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Returns images as the network takes them, without augmentation."""
        return apply_transform(images, getattr(self, "normalization_transform", None))


def gather_batch(loader: TaskLoader, index: torch.Tensor) -> Batch:
    """Returns the items of a training set with these indices, int64, [B]."""
    inputs, labels, images, *fields = loader.gather(index)
    names = getattr(loader.dataset, "extra_return_fields", ())
    true_labels = dict(zip(names, fields, strict=True)).get("true_labels")
    return Batch(inputs, labels, images, true_labels=true_labels)
