"""Cases of 3x3 convolution, ReLU and 2x2 max pooling."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mammoth_compiled.kernels.conv_relu_pool import op
from mammoth_compiled.kernels.runtime.cases import LaunchCase, TuningCase, Work
from mammoth_compiled.kernels.runtime.implementations import capable
from mammoth_compiled.kernels.runtime.launch import Launch, launch, record_launches
from mammoth_compiled.kernels.runtime.tiles import TileConfig, case_key


def launch_cases() -> Iterator[LaunchCase]:
    """Yields the launches that `kernels.check` compiles: the layers of small nets."""
    half, strict = (torch.bfloat16, "ieee"), (torch.float32, "ieee")
    common = [half, (torch.float32, "tf32")]
    every = [*common, (torch.float16, "ieee"), strict]
    for in_channels, out_channels, size, layout, kinds in [
        (3, 32, 32, torch.contiguous_format, every),
        (32, 64, 16, torch.channels_last, every),
        (32, 64, 16, torch.contiguous_format, common),
        (64, 128, 8, torch.channels_last, [*common, strict]),
        (64, 128, 8, torch.contiguous_format, common),
        (3, 64, 32, torch.channels_last, common),
        (3, 64, 32, torch.contiguous_format, common),
    ]:
        for dtype, precision in kinds:
            shape = (32, in_channels, size, size)
            x = torch.empty(shape, dtype=dtype, device="meta", memory_format=torch.channels_last)
            weight = x.new_empty(out_channels, in_channels, 3, 3).to(memory_format=layout)
            order = str(layout).removeprefix("torch.")
            name = f"{in_channels}->{out_channels}@{size} {order} {dtype} {precision}"
            yield LaunchCase(name, partial(_launch, x, weight, precision))
    yield LaunchCase("sums of 3->32@32 and 32->64@16", _launch_two_sums)


def _launch_two_sums() -> None:
    from mammoth_compiled.kernels.conv_relu_pool import triton

    with record_launches() as launches:
        for splits, shape in (256, (32, 3, 3, 3)), (26, (64, 32, 3, 3)):
            weight = torch.empty(shape, device="meta")
            triton.sum_splits(weight.new_empty(splits, weight.numel() + shape[0]), weight)
    launch_two_sums(*launches)


def launch_two_sums(first: Launch, second: Launch) -> None:
    """Launches what two recorded launches of `sum_partial_kernel` add up."""
    from mammoth_compiled.kernels.conv_relu_pool import triton_sums

    one, other = (
        {**dict(zip(sums.kernel.arg_names, sums.args, strict=False)), **sums.constants}
        for sums in (first, second)
    )
    kernel = triton_sums.sum_two_partials_kernel
    given = triton_sums.two_partials(one, other, first.grid[0])
    config = TileConfig("conv_relu_pool.sum_two_partials", (), first.config.num_warps, 1)
    names = kernel.arg_names
    args = [given.pop(name) for name in names[: names.index("programs0") + 1]]
    launch(kernel, (first.grid[0] + second.grid[0],), *args, config=config, **given)


def _launch(x: torch.Tensor, weight: torch.Tensor, precision: str) -> None:
    from mammoth_compiled.kernels.conv_relu_pool import triton, triton_unpooled

    y, argmax = triton.forward(x, weight, weight.new_empty(weight.shape[0]), precision)
    size = (x.shape[2], x.shape[3])
    triton.input_grad(y, argmax, weight, size, precision)
    triton.weight_grad(y, argmax, x, weight, precision)
    triton.gradients(y, argmax, x, weight, precision)
    dz = triton_unpooled.unpool(y, argmax, size)
    needs_input = x.shape[1] != 3  # as in the backbones, whose images need no gradient
    triton_unpooled.gradients(dz, x, weight, needs_input, True, precision)


@dataclass(frozen=True)
class ConvReluPoolCase(TuningCase):
    """A 3x3 convolution with padding 1, ReLU and 2x2 max pooling, with the layouts of a run.

    Attributes:
        dtype: Of the images.
        batch: B.
        in_channels: Channels of the images.
        height: Rows of the images.
        width: Columns of the images.
        out_channels: Channels of the convolution.
        bias: Whether it has one.
        needs_input_grad: Whether the images need a gradient; those of a first layer do not.
        train: Whether there is a backward.
        channels_last_images: Whether the images come in channels-last, as from a kernel before.
        channels_last_weight: Whether the weight is in channels-last; torch creates it contiguous.
        weight_dtype: Of weight and bias, float32 under autocast; None is `dtype`.
    """

    dtype: torch.dtype
    batch: int
    in_channels: int
    height: int
    width: int
    out_channels: int
    bias: bool = True
    needs_input_grad: bool = True
    train: bool = True
    channels_last_images: bool = True
    channels_last_weight: bool = False
    weight_dtype: torch.dtype | None = None

    op = "conv_relu_pool"

    def __str__(self) -> str:
        sizes = {
            "batch": self.batch,
            "in": self.in_channels,
            "out": self.out_channels,
            "height": self.height,
            "width": self.width,
            "bias": int(self.bias),
            "input_grad": int(self.needs_input_grad and self.train),
            "train": int(self.train),
            "cast": int(self.weight_dtype not in (None, self.dtype)),
            "nhwc_images": int(self.channels_last_images),
            "nhwc_weight": int(self.channels_last_weight),
        }
        return case_key(self.dtype, sizes)

    def make_inputs(self, device: torch.device) -> tuple[torch.Tensor | None, ...]:
        """Returns random images, weight and bias."""
        images = torch.randn(
            (self.batch, self.in_channels, self.height, self.width),
            dtype=self.dtype,
            device=device,
        ).contiguous(memory_format=_layout(self.channels_last_images))
        weight_dtype = self.weight_dtype or self.dtype
        weight = torch.randn(
            (self.out_channels, self.in_channels, 3, 3), dtype=weight_dtype, device=device
        ).contiguous(memory_format=_layout(self.channels_last_weight))
        bias = torch.randn(self.out_channels, dtype=weight_dtype, device=device)
        return (
            images.requires_grad_(self.train and self.needs_input_grad),
            weight.requires_grad_(self.train),
            bias.requires_grad_(self.train) if self.bias else None,
        )

    def contenders(self, inputs: Sequence[Any]) -> dict[str, Callable[..., Any]]:
        """Returns the implementations as functions of images, weight and bias."""
        found = capable(op.IMPLEMENTATIONS, inputs[0].device, *inputs)
        return {implementation.name: implementation.function for implementation in found}

    def work(self) -> Work:
        """Returns the work of forward and, in training, backward."""
        shape = (self.batch, self.in_channels, self.height, self.width)
        forward = conv_relu_pool_work(shape, self.out_channels, self.dtype)
        if not self.train:
            return forward
        return forward + conv_relu_pool_work(
            shape,
            self.out_channels,
            self.dtype,
            backward=True,
            input_grad=self.needs_input_grad,
        )


def conv_relu_pool_work(
    shape: Sequence[int],
    out_channels: int,
    dtype: torch.dtype,
    *,
    backward: bool = False,
    input_grad: bool = True,
) -> Work:
    """Returns the least work of the fused form, each tensor moved once; weights not counted.

    Args:
        shape: (B, Cin, H, W) of x.
        out_channels: Cout.
        dtype: Dtype of x.
        backward: Count the gradients of x and weight instead of the forward.
        input_grad: Whether the backward computes the gradient of x.
    """
    batch, in_channels, height, width = shape
    image_bytes = math.prod(shape) * dtype.itemsize
    # Pooled values and their argmax.
    pooled_bytes = batch * out_channels * (height // 2) * (width // 2) * (dtype.itemsize + 1)
    flops = 2 * 9 * in_channels * out_channels * batch * height * width
    passes = 1 + (backward and input_grad)
    return Work(num_bytes=passes * (image_bytes + pooled_bytes), num_flops=passes * flops)


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


_DTYPES = (torch.bfloat16, torch.float32)  # float32 is multiplied in TF32

# Layers of the backbones that come with the package, for `benchmarks/gpu.py`. Weights are float32,
# as under autocast. The images of a first layer come as the data loader makes them.
TUNING_CASES = tuple(
    ConvReluPoolCase(
        dtype,
        batch,
        in_channels,
        size,
        size,
        out_channels,
        needs_input_grad=in_channels != 3,
        channels_last_images=in_channels != 3,
        weight_dtype=torch.float32,
    )
    for in_channels, out_channels, size in ((3, 32, 32), (32, 64, 16), (64, 128, 8), (3, 64, 32))
    for batch in (32, 128, 512)
    for dtype in _DTYPES
)

# Batch, input channels, output channels, height and width: `benchmarks/cpu_convolutions.py` times
# them, and `MIN_CPP_FILTERS` of the operators follows from the results.
CPU_SHAPES = (
    (32, 3, 16, 32),
    (32, 3, 32, 32),
    (32, 32, 64, 16),
    (64, 32, 64, 16),
    (32, 64, 128, 16),
)
