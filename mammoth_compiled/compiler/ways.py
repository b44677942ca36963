"""The ways to compute a problem on a GPU, which are measured against each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from mammoth_compiled.compiler.dispatch import Ways
from mammoth_compiled.kernels.attention import attention_op, has_kernel, projections
from mammoth_compiled.kernels.configs import problem_key
from mammoth_compiled.kernels.conv_relu_pool import conv_relu_pool_op
from mammoth_compiled.kernels.launch import input_precision
from mammoth_compiled.kernels.relu_pool import relu_pool_op

FUSED, POOL, UNFUSED, SDPA = "fused", "pool", "unfused", "sdpa"


@dataclass(frozen=True)
class ConvProblem:
    """A 3x3 convolution with padding 1, relu and 2x2 max pooling.

    Attributes:
        dtype: Of all tensors.
        batch: B.
        channels_in: Channels of the images.
        height: Rows of the images.
        width: Columns of the images.
        channels_out: Channels of the convolution.
        bias: Whether it has one.
        needs_input_grad: Whether the images need a gradient; those of a first layer do not.
        train: Whether there is a backward.
    """

    dtype: torch.dtype
    batch: int
    channels_in: int
    height: int
    width: int
    channels_out: int
    bias: bool = True
    needs_input_grad: bool = True
    train: bool = True

    def __str__(self) -> str:
        dims = {
            "batch": self.batch,
            "in": self.channels_in,
            "out": self.channels_out,
            "height": self.height,
            "width": self.width,
            "bias": int(self.bias),
            "input_grad": int(self.needs_input_grad and self.train),
            "train": int(self.train),
        }
        return problem_key(self.dtype, dims)

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Returns random images in channels-last, weight and bias on the current GPU."""
        images = _random((self.batch, self.channels_in, self.height, self.width), self.dtype)
        images.requires_grad_(self.train and self.needs_input_grad)
        weight = _random((self.channels_out, self.channels_in, 3, 3), self.dtype)
        bias = torch.randn(self.channels_out, dtype=self.dtype, device="cuda")
        return (
            images,
            weight.requires_grad_(self.train),
            bias.requires_grad_(self.train) if self.bias else None,
        )

    def ways(self) -> Ways:
        """Returns the ways with inputs of their own on the current GPU."""
        x, weight, bias = self.inputs()
        size = (self.batch, self.channels_out, self.height // 2, self.width // 2)
        grad = _random(size, self.dtype)
        functions: dict[str, Callable[[], torch.Tensor]] = {
            FUSED: lambda: conv_relu_pool_op(x, weight, bias)[0],
            POOL: lambda: relu_pool_op(
                F.conv2d(x, weight, bias, padding=1), (2, 2), (2, 2), (0, 0)
            )[0],
            UNFUSED: lambda: unfused_conv(x, weight, bias),
        }
        inputs = [t for t in (x, weight, bias) if t is not None]
        return {name: step(f, inputs, grad) for name, f in functions.items()}


def unfused_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Computes a `ConvProblem` as users write it."""
    return F.max_pool2d(F.relu(F.conv2d(x, weight, bias, padding=1)), 2)


@dataclass(frozen=True)
class AttentionProblem:
    """Softmax attention without a mask.

    Attributes:
        dtype: Of all tensors.
        batch: B.
        heads: H.
        queries: Number of queries.
        keys: Number of keys and values.
        size: D, the size of a head.
        train: Whether there is a backward.
    """

    dtype: torch.dtype
    batch: int
    heads: int
    queries: int
    keys: int
    size: int
    train: bool = True

    def __str__(self) -> str:
        dims = {
            "batch": self.batch,
            "heads": self.heads,
            "queries": self.queries,
            "keys": self.keys,
            "size": self.size,
            "train": int(self.train),
            # Strict float32 has no kernel: what was fastest in tf32 says nothing of it.
            "tf32": int(input_precision(self.dtype, convolution=False) == "tf32"),
        }
        return problem_key(self.dtype, dims)

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns random queries, keys and values, [B, H, L, D], on the current GPU."""
        query, key, value = (
            torch.randn(
                (self.batch, self.heads, length, self.size), dtype=self.dtype, device="cuda"
            ).requires_grad_(self.train)
            for length in (self.queries, self.keys, self.keys)
        )
        return query, key, value

    def ways(self) -> Ways:
        """Returns the ways with inputs of their own on the current GPU."""
        query, key, value = self.inputs()
        scale = self.size**-0.5
        functions: dict[str, Callable[[], torch.Tensor]] = {
            SDPA: lambda: F.scaled_dot_product_attention(query, key, value, scale=scale),
            UNFUSED: lambda: unfused_attention(query, key, value),
        }
        if has_kernel(query, key, value):
            functions[FUSED] = lambda: attention_op(query, key, value, scale)[0]
        grad = torch.randn_like(query, requires_grad=False)
        return {name: step(f, (query, key, value), grad) for name, f in functions.items()}


def unfused_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Computes an `AttentionProblem` as users write it."""
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    return torch.softmax(scores, -1) @ value


@dataclass(frozen=True)
class ProjectionProblem:
    """Linear layers of the same tokens.

    Attributes:
        dtype: Of all tensors.
        batch: B.
        tokens: L, in one element of the batch.
        channels: C of the tokens.
        sizes: Numbers of each layer's results.
        bias: Whether the layers have one.
        train: Whether there is a backward.
    """

    dtype: torch.dtype
    batch: int
    tokens: int
    channels: int
    sizes: tuple[int, ...]
    bias: bool = True
    train: bool = True

    def __str__(self) -> str:
        dims = {"batch": self.batch, "tokens": self.tokens, "in": self.channels}
        dims |= {f"out{k}": size for k, size in enumerate(self.sizes)}
        return problem_key(self.dtype, dims | {"bias": int(self.bias), "train": int(self.train)})

    def ways(self) -> Ways:
        """Returns the ways with inputs of their own on the current GPU."""
        factory: dict[str, Any] = {"dtype": self.dtype, "device": "cuda"}
        x = torch.randn(self.batch, self.tokens, self.channels, **factory)
        weights = [torch.randn(size, self.channels, **factory) for size in self.sizes]
        biases = [torch.randn(size, **factory) if self.bias else None for size in self.sizes]
        inputs = [x, *weights, *(b for b in biases if b is not None)]
        for tensor in inputs:
            tensor.requires_grad_(self.train)
        grads = [torch.randn(self.batch, self.tokens, size, **factory) for size in self.sizes]

        def one() -> Sequence[torch.Tensor]:
            return projections(x, weights, biases)

        def each() -> Sequence[torch.Tensor]:
            return [F.linear(x, w, b) for w, b in zip(weights, biases, strict=True)]

        return {FUSED: step(one, inputs, grads), UNFUSED: step(each, inputs, grads)}


def step(
    function: Callable[[], Any], inputs: Sequence[torch.Tensor], grad: Any
) -> Callable[[], Any]:
    """Returns a call of a function followed by its backward, for the inputs that need one."""
    wanted = [t for t in inputs if t.requires_grad]
    if not wanted:
        return function
    return lambda: torch.autograd.grad(function(), wanted, grad)


def _random(size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    values = torch.randn(size, dtype=dtype, device="cuda")
    return values.contiguous(memory_format=torch.channels_last)
