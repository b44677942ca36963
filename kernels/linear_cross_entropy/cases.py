"""Cases of a linear layer with mean cross-entropy."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mammoth_compiled.kernels.linear_cross_entropy import op
from mammoth_compiled.kernels.runtime.cases import LaunchCase, TuningCase, Work
from mammoth_compiled.kernels.runtime.device import input_precision
from mammoth_compiled.kernels.runtime.implementations import capable
from mammoth_compiled.kernels.runtime.tiles import case_key

IGNORE_INDEX = -100


def launch_cases() -> Iterator[LaunchCase]:
    """Yields the launches that `kernels.check` compiles: heads of small nets and of ResNets."""
    half, tf32 = (torch.bfloat16, "ieee"), (torch.float32, "tf32")
    for batch, features, classes, channels, kinds in [
        (32, 4096, 10, 1, [half, (torch.float16, "ieee"), tf32, (torch.float32, "ieee")]),
        (32, 4096, 10, 64, [half, tf32]),
        (64, 512, 100, 1, [half, tf32]),
        (128, 512, 200, 1, [half, tf32]),
    ]:
        for dtype, precision in kinds:
            name = f"{batch}x{features}->{classes} {dtype} {precision}, {channels} channels"
            sizes = (batch, features, classes, channels)
            yield LaunchCase(name, partial(_launch, *sizes, dtype, precision))


def _launch(
    batch: int, features: int, classes: int, channels: int, dtype: torch.dtype, precision: str
) -> None:
    from mammoth_compiled.kernels.linear_cross_entropy import triton

    x = torch.empty((batch, features), dtype=dtype, device="meta")
    weight = torch.empty((classes, features), device="meta")
    labels = torch.empty(batch, dtype=torch.int64, device="meta")
    bias = weight.new_empty((classes,))
    triton.loss_and_grads(x, weight, bias, labels, IGNORE_INDEX, precision, channels)


@dataclass(frozen=True)
class LinearCrossEntropyCase(TuningCase):
    """A linear layer with mean cross-entropy, in training.

    Attributes:
        dtype: Of the features and the products; weights are float32.
        batch: B.
        features: F.
        classes: K.
        bias: Whether the layer has one.
    """

    dtype: torch.dtype
    batch: int
    features: int
    classes: int
    bias: bool = True

    op = "linear_cross_entropy"

    def __str__(self) -> str:
        sizes = {"batch": self.batch, "features": self.features, "classes": self.classes}
        # Kernels of strict float32 have no tensor cores.
        tf32 = int(input_precision(self.dtype, convolution=False) == "tf32")
        return case_key(self.dtype, {**sizes, "bias": int(self.bias), "tf32": tf32})

    def make_inputs(self, device: torch.device) -> tuple[torch.Tensor | None, ...]:
        """Returns random features, weight, bias and labels."""
        x = torch.randn((self.batch, self.features), dtype=self.dtype, device=device)
        weight = torch.randn((self.classes, self.features), device=device) / self.features**0.5
        bias = torch.randn(self.classes, device=device) if self.bias else None
        labels = torch.randint(self.classes, (self.batch,), device=device)
        return (
            x.requires_grad_(),
            weight.requires_grad_(),
            None if bias is None else bias.requires_grad_(),
            labels,
        )

    def contenders(self, inputs: Sequence[Any]) -> dict[str, Callable[..., Any]]:
        """Returns the implementations as functions of features, weight, bias and labels."""
        found = capable(op.IMPLEMENTATIONS, inputs[0].device, *inputs, IGNORE_INDEX)
        return {i.name: partial(_ignoring, i.function) for i in found}

    def work(self) -> Work:
        """Returns the least work of forward and backward, each tensor moved once."""
        numbers = self.batch * self.features
        weights = self.classes * self.features
        return Work(
            num_bytes=2 * numbers * self.dtype.itemsize + 2 * weights * torch.float32.itemsize,
            num_flops=3 * 2 * numbers * self.classes,
        )


def _ignoring(function: Callable[..., Any], *inputs: Any) -> Any:
    return function(*inputs, IGNORE_INDEX)


# Heads of the backbones that come with the package, for `benchmarks/gpu.py`.
TUNING_CASES = tuple(
    LinearCrossEntropyCase(dtype, batch, features, classes)
    for features, classes in ((4096, 10), (512, 10), (512, 100))
    for batch in (32, 64, 128)
    for dtype in (torch.bfloat16, torch.float32)  # float32 is multiplied in TF32
)
