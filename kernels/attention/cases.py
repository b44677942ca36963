"""Cases of softmax attention and of joint projections."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mammoth_compiled.kernels.attention import op, projections
from mammoth_compiled.kernels.attention.reference import accumulation_dtype
from mammoth_compiled.kernels.runtime.cases import LaunchCase, TuningCase, Work
from mammoth_compiled.kernels.runtime.device import input_precision
from mammoth_compiled.kernels.runtime.implementations import capable
from mammoth_compiled.kernels.runtime.tiles import case_key

# (heads, tokens, head size): long and short, wide and narrow, and two that no tile divides, one of
# them padded.
_SHAPES = [(1, 1024, 64), (1, 256, 128), (3, 64, 64), (1, 200, 40), (2, 77, 100), (4, 64, 32)]


def launch_cases() -> Iterator[LaunchCase]:
    """Yields the launches that `kernels.check` compiles: parts of one projection of 32 images."""
    from mammoth_compiled.kernels.attention import triton

    def run(qkv: torch.Tensor) -> None:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        o, lse = triton.forward(q, k, v, 0.125)
        triton.backward(o, q, k, v, o, lse, 0.125)

    for heads, length, size in _SHAPES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            qkv = torch.empty((32, length, 3, heads, size), dtype=dtype, device="meta")
            yield LaunchCase(f"{heads}x{length}x{size} {dtype}", partial(run, qkv))


@dataclass(frozen=True)
class AttentionCase(TuningCase):
    """Softmax attention without a mask.

    Attributes:
        dtype: Of all tensors.
        batch: B.
        heads: H.
        queries: Number of queries.
        keys: Number of keys and values.
        head_size: D.
        train: Whether there is a backward.
    """

    dtype: torch.dtype
    batch: int
    heads: int
    queries: int
    keys: int
    head_size: int
    train: bool = True

    op = "attention"

    def __str__(self) -> str:
        sizes = {
            "batch": self.batch,
            "heads": self.heads,
            "queries": self.queries,
            "keys": self.keys,
            "size": self.head_size,
            "train": int(self.train),
            # Strict float32 has no kernel, so the fastest in TF32 need not be the fastest there.
            "tf32": int(input_precision(self.dtype, convolution=False) == "tf32"),
        }
        return case_key(self.dtype, sizes)

    def make_inputs(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Returns random queries, keys and values, [B, H, L, D]."""
        return tuple(
            torch.randn(
                (self.batch, self.heads, length, self.head_size), dtype=self.dtype, device=device
            ).requires_grad_(self.train)
            for length in (self.queries, self.keys, self.keys)
        )

    def contenders(self, inputs: Sequence[Any]) -> dict[str, Callable[..., Any]]:
        """Returns the implementations of attention as functions of queries, keys and values."""
        scale = self.head_size**-0.5
        found = capable(op.IMPLEMENTATIONS, inputs[0].device, *inputs, scale)
        return {i.name: partial(_scaled, i.function, scale) for i in found}

    def work(self) -> Work:
        """Returns the work of forward and, in training, backward."""
        shape = (self.batch, self.heads, self.queries, self.head_size)
        forward = attention_work(shape, self.keys, self.dtype)
        if not self.train:
            return forward
        return forward + attention_work(shape, self.keys, self.dtype, backward=True)


def _scaled(
    function: Callable[..., Any], scale: float, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> Any:
    return function(q, k, v, scale)


def attention_work(
    shape: Sequence[int], keys: int, dtype: torch.dtype, *, backward: bool = False
) -> Work:
    """Returns the least work of attention, each tensor moved once, exponentials not counted.

    The five products of the backward do not include the two that the kernel computes again.

    Args:
        shape: (B, H, LQ, D) of q.
        keys: LK.
        dtype: Dtype of all tensors but the log-sum-exp.
        backward: Count the gradients of q, k and v instead of the forward.
    """
    batch, heads, queries, size = shape
    products = 5 if backward else 2
    # q and o, k and v; the backward reads or writes a gradient of each as well.
    rows = (4 if backward else 2) * batch * heads * (queries + keys)
    lse_bytes = batch * heads * queries * accumulation_dtype(dtype).itemsize
    return Work(
        num_bytes=rows * size * dtype.itemsize + lse_bytes,
        num_flops=products * 2 * batch * heads * queries * keys * size,
    )


@dataclass(frozen=True)
class ProjectionCase(TuningCase):
    """Linear layers of the same tokens.

    Attributes:
        dtype: Of all tensors.
        batch: B.
        tokens: L, per element of the batch.
        channels: C of the tokens.
        out_channels: Output features of each layer.
        bias: Whether the layers have one.
        train: Whether there is a backward.
    """

    dtype: torch.dtype
    batch: int
    tokens: int
    channels: int
    out_channels: tuple[int, ...]
    bias: bool = True
    train: bool = True

    op = "projections"

    def __str__(self) -> str:
        sizes = {"batch": self.batch, "tokens": self.tokens, "in": self.channels}
        sizes |= {f"out{k}": size for k, size in enumerate(self.out_channels)}
        sizes |= {"bias": int(self.bias), "train": int(self.train)}
        return case_key(self.dtype, sizes)

    def make_inputs(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Returns random tokens, then the weights, then the biases if the layers have them."""
        x = (self.batch, self.tokens, self.channels)
        weights = [(size, self.channels) for size in self.out_channels]
        biases = [(size,) for size in self.out_channels if self.bias]
        return tuple(
            torch.randn(shape, dtype=self.dtype, device=device).requires_grad_(self.train)
            for shape in (x, *weights, *biases)
        )

    def contenders(self, inputs: Sequence[Any]) -> dict[str, Callable[..., Any]]:
        """Returns the implementations of the layers as functions of the inputs, flat."""
        args = self._grouped(*inputs)
        found = capable(projections.IMPLEMENTATIONS, inputs[0].device, *args)
        return {i.name: partial(self._call, i.function) for i in found}

    def _call(self, function: Callable[..., Any], *inputs: torch.Tensor) -> Any:
        return function(*self._grouped(*inputs))

    def _grouped(self, x: torch.Tensor, *parameters: torch.Tensor) -> tuple[Any, ...]:
        count = len(self.out_channels)
        biases = parameters[count:] if self.bias else (None,) * count
        return x, parameters[:count], biases

    def work(self) -> Work:
        """Returns the work of forward and, in training, backward; weights are not moved."""
        rows, outputs = self.batch * self.tokens, sum(self.out_channels)
        passes = 3 if self.train else 1
        return Work(
            num_bytes=passes * rows * (self.channels + outputs) * self.dtype.itemsize,
            num_flops=passes * 2 * rows * self.channels * outputs,
        )


_DTYPES = (torch.bfloat16, torch.float32)  # float32 is multiplied in TF32

# Attention of the backbones that come with the package, for `benchmarks/gpu.py`.
TUNING_CASES = tuple(
    AttentionCase(dtype, batch, heads, length, length, size)
    for length, heads, size in ((1024, 1, 64), (256, 1, 128), (64, 3, 64))
    for batch in (32, 128, 512)
    for dtype in _DTYPES
)
