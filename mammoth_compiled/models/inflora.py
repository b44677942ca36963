"""InfLoRA: low-rank updates that do not interfere with earlier tasks.

Source: Liang and Li 2024, "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning",
arXiv 2404.00228; the space of earlier tasks by DualGPM, Liang and Li 2023, "Adaptive Plasticity
Improvement for Continual Learning".

Deviation: the space is one projection matrix, of which DualGPM keeps whichever of two bases is
smaller. Grams are of images without augmentation.
"""

from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.backbones.vit import VisionTransformer
from mammoth_compiled.backbones.vit_conversion import as_vit
from mammoth_compiled.config import positive_int
from mammoth_compiled.config.values import fraction
from mammoth_compiled.data import apply_transform
from mammoth_compiled.datasets.base import EVAL_BATCH_SIZE, ContinualDataset
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.adapters import EXAMPLE_VIT
from mammoth_compiled.models.base import Settings
from mammoth_compiled.models.extended import ExtendedModel, freeze
from mammoth_compiled.registry import register_model
from mammoth_compiled.types import Batch, ReturnTypes

_SETTING: dict[str, Any] = {"lr": 5e-4, "lr_scheduler": "cosine", "batch_size": 128, "n_epochs": 20}
_SETTING |= {"source": "InfLoRA repository"}


class LowRankQKV(nn.Module):
    """Queries, keys and values, with an update `B A` of the weights of keys and of values.

    Args:
        linear: The layer; its weights get no gradient.
        rank: r.

    Attributes:
        a: A, fixed within a task, [r, D].
        b: B of keys and of values, [2, D, r].
    """

    a: torch.Tensor

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear
        width = linear.in_features
        self.register_buffer("a", torch.zeros(rank, width))
        self.b = nn.Parameter(torch.zeros(2, width, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [B, L, 3 * D] for tokens [B, L, D]."""
        query, key, value = self.linear(x).chunk(3, dim=-1)
        low = x @ self.a.T
        return torch.cat((query, key + low @ self.b[0].T, value + low @ self.b[1].T), dim=-1)

    def merge(self) -> None:
        """Adds the update to the weights."""
        width = self.linear.in_features
        self.linear.weight[width:] += (self.b @ self.a).flatten(0, 1)
        self.b.zero_()


class LowRankViT(MammothBackbone):
    """A vision transformer whose keys and values get low-rank updates, and a new head.

    Args:
        vit: The transformer; it is changed.
        num_classes: K.
        rank: Rank of each update.
    """

    def __init__(self, vit: VisionTransformer, num_classes: int, rank: int) -> None:
        super().__init__()
        freeze(vit)
        self.vit = vit
        self.head = nn.Linear(vit.feature_dim, num_classes)
        for block in vit.blocks:
            block.attn.qkv = LowRankQKV(block.attn.qkv, rank)

    @property
    def updates(self) -> list[LowRankQKV]:
        """The layers with updates, one for each block."""
        return [block.attn.qkv for block in self.vit.blocks]

    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Returns logits, [B, K], features, [B, D], or both."""
        features = self.vit(x, returnt=ReturnTypes.FEATURES)
        return select_return(self.head(features), features, returnt)

    def grams(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yields the sum of x x^T over the tokens in front of each attention, [D, D]."""
        tokens = self.vit.embed(x)
        for block in self.vit.blocks:
            inputs = block.norm1(tokens).flatten(0, 1)
            yield inputs.T @ inputs
            tokens = block(tokens)


@register_model("inflora")
class InfLoRA(ExtendedModel):
    """Trains updates of keys and values in directions that inputs of earlier tasks hardly have.

    Attributes:
        spaces: Projection onto the inputs of earlier tasks of each block, [depth, D, D].
    """

    net: LowRankViT

    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {**EXAMPLE_VIT, "rank": 4}
    DEFAULTS: ClassVar[dict[str, Settings]] = {
        "seq-cifar100": _SETTING,
        "seq-cifar100-224": _SETTING,
        "seq-imagenet-r": {**_SETTING, "n_epochs": 50, "threshold": 0.98},
    }

    spaces: torch.Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds `--rank` and `--threshold`, and Adam as default."""
        parser.add_argument("--rank", type=positive_int, default=10, help="Rank of each update.")
        parser.add_argument(
            "--threshold",
            type=fraction,
            default=0.95,
            help="Share of the inputs that the protected space must hold after the first task; it "
            "grows to 1 with the tasks.",
        )
        parser.set_defaults(optimizer="adam")
        return parser

    @staticmethod
    def extend(backbone: MammothBackbone, args: Any, dataset: ContinualDataset) -> LowRankViT:
        """Returns the transformer with updates of rank 0.

        Raises:
            ConfigError: If the backbone is no vision transformer, or the rank exceeds its width.
        """
        vit = as_vit(backbone)
        if args.rank > vit.feature_dim:
            raise ConfigError(f"--rank {args.rank} exceeds the width of a token, {vit.feature_dim}")
        return LowRankViT(vit, dataset.N_CLASSES, args.rank)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        depth, width = len(self.net.vit.blocks), self.net.vit.feature_dim
        self.register_buffer("spaces", torch.zeros(depth, width, width, device=self.device))

    def _grams(self, dataset: ContinualDataset) -> torch.Tensor:
        """Returns the grams of the task's images, float64, [depth, D, D]."""
        total = torch.zeros_like(self.spaces, dtype=torch.float64)
        loader = dataset.train_loader
        for index in torch.arange(len(loader.dataset)).split(EVAL_BATCH_SIZE):
            images = loader.gather(index)[2]
            inputs = apply_transform(images, getattr(self, "normalization_transform", None))
            for number, gram in enumerate(self.net.grams(inputs)):
                total[number] += gram
        return total

    @torch.no_grad()
    def begin_task(self, dataset: ContinualDataset) -> None:
        """Chooses the directions of the updates: the strongest outside the protected spaces."""
        super().begin_task(dataset)
        for layer, gram, space in zip(
            self.net.updates, self._grams(dataset), self.spaces.double(), strict=True
        ):
            directions = torch.linalg.svd(gram - space @ gram).U
            layer.a.copy_(directions[:, : len(layer.a)].T / 3**0.5)

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss among the classes of the task, 0-d."""
        return self.task_loss(self.net(batch.inputs), batch.labels)

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Merges the updates, and protects the inputs of the task."""
        for layer in self.net.updates:
            layer.merge()
        start = self.args.threshold
        threshold = start + (1 - start) * dataset.c_task / self.n_tasks
        for number, gram in enumerate(self._grams(dataset)):
            self.spaces[number] = grown_space(self.spaces[number].double(), gram, threshold)


def grown_space(space: torch.Tensor, gram: torch.Tensor, threshold: float) -> torch.Tensor:
    """Returns a projection that holds a share of a gram, by adding its strongest directions.

    Args:
        space: The projection P so far, [D, D].
        gram: G, [D, D].
        threshold: The share of |G|^2 (Frobenius) that |P G|^2 must reach.
    """
    rest = gram - space @ gram
    directions, values, _ = torch.linalg.svd(rest)
    total = gram.square().sum()
    share_before = 1 - (values.square().sum() - values.square().cumsum(0)) / total
    share_before = torch.cat((1 - values.square().sum().view(1) / total, share_before[:-1]))
    added = directions[:, share_before < threshold]
    return space + added @ added.T
