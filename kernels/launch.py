"""Launches Triton kernels: on a GPU, in the interpreter, or on paper to be compiled later."""

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from mammoth_compiled.kernels.configs import Config
from mammoth_compiled.kernels.cpu import library

# What the Triton kernels compute with.
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_RECORDER: ContextVar[list["Launch"] | None] = ContextVar("recorder", default=None)


@dataclass(frozen=True)
class Launch:
    """A launch that was written down instead of run.

    Attributes:
        kernel: The `triton.jit` function.
        grid: Number of programs along up to three axes.
        args: Its arguments, tensors (which may be on the meta device) and numbers.
        constants: Its compile-time constants, the tile among them.
        config: The configuration it was launched with.
    """

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: dict[str, Any]
    config: Config


def launch(
    kernel: Any, grid: tuple[int, ...], *args: Any, config: Config, **constants: Any
) -> None:
    """Runs a kernel on its tensors' device.

    A kernel with a constant `UPCAST` gets it: products are then taken in float32, as the
    interpreter cannot multiply bfloat16.

    Args:
        kernel: A `triton.jit` function.
        grid: Number of programs along up to three axes.
        *args: Tensors and numbers, in the kernel's order, its constants left out.
        config: The tile, passed as constants, with warps and stages.
        **constants: Further compile-time constants.
    """
    from triton.runtime.jit import JITFunction

    constants = {**dict(config.tile), **constants}
    compiled = isinstance(kernel, JITFunction)  # else it is the interpreter's
    if "UPCAST" in kernel.arg_names:
        constants["UPCAST"] = not compiled
    recorder = _RECORDER.get()
    if recorder is not None:
        recorder.append(Launch(kernel, grid, args, constants, config))
        return
    runner = torch.library.wrap_triton(kernel) if compiled else kernel
    with _device_of(args):
        runner[grid](*args, **constants, num_warps=config.num_warps, num_stages=config.num_stages)


def _device_of(args: tuple[Any, ...]) -> contextlib.AbstractContextManager[Any]:
    """Makes the GPU of the tensors the current one; where a graph is traced, its compiler does."""
    tensor = next(arg for arg in args if isinstance(arg, torch.Tensor))
    real = type(tensor) is torch.Tensor and tensor.is_cuda
    return torch.cuda.device(tensor.device) if real else contextlib.nullcontext()


@contextlib.contextmanager
def recording() -> Iterator[list[Launch]]:
    """Writes launches down instead of running them; results are then whatever memory held."""
    launches: list[Launch] = []
    token = _RECORDER.set(launches)
    try:
        yield launches
    finally:
        _RECORDER.reset(token)


@functools.cache
def has_triton() -> bool:
    """Returns whether Triton can be imported; without it the references compute everything."""
    return importlib.util.find_spec("triton") is not None


def operator(name: str, mutates: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Returns the decorator that registers `mammoth::name`: a triton_op where Triton is there.

    Without it, `torch.library.triton_op` warns of every operator; the references need no Triton.
    """
    register: Any = torch.library.triton_op if has_triton() else torch.library.custom_op
    decorate: Callable[[Callable[..., Any]], Any] = register(
        f"mammoth::{name}", mutates_args=mutates
    )
    return decorate


def opaque_operator(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Returns the decorator that registers `mammoth::name`, into which no compiler looks.

    For what calls C++: a `triton_op` is traced through.
    """
    decorate: Callable[[Callable[..., Any]], Any] = torch.library.custom_op(
        f"mammoth::{name}", mutates_args=()
    )
    return decorate


def on_cpu(tensor: torch.Tensor) -> bool:
    """Returns whether the C++ kernels can take a tensor: float32, on a CPU that has them."""
    return tensor.is_cpu and tensor.dtype == torch.float32 and not library.why_not()


def on_gpu(*tensors: torch.Tensor) -> bool:
    """Returns whether Triton kernels can take these tensors: all on one GPU that `supports`."""
    return all(t.is_cuda for t in tensors) and supports(tensors[0].device)


@functools.cache
def supports(device: torch.device) -> bool:
    """Returns whether the Triton kernels run on a device: CUDA, sm_80 or newer, Triton installed.

    bfloat16, tf32 and asynchronous copies begin with sm_80; ROCm devices have other limits.
    """
    if device.type != "cuda" or torch.version.hip is not None or not has_triton():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def input_precision(dtype: torch.dtype, *, convolution: bool) -> str:
    """Returns how float32 products are taken: "tf32" where torch's own would be, else "ieee".

    Args:
        dtype: Of the operands.
        convolution: Whether torch would use cuDNN (which allows tf32 unless told otherwise) or a
            matrix product (which does not unless told so).
    """
    if dtype != torch.float32:
        return "ieee"
    backend: Any = torch.backends
    allowed = backend.cudnn.conv if convolution else backend.cuda.matmul
    precision = allowed.fp32_precision
    if precision == "none":
        precision = "tf32" if torch.get_float32_matmul_precision() != "highest" else "ieee"
    return "tf32" if precision == "tf32" else "ieee"


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """Returns the same images, [B, C, H, W], contiguous in channels_last."""
    return images.contiguous(memory_format=torch.channels_last)


def empty_images(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Returns uninitialised images [B, C, H, W] in channels_last, with another's dtype and device.

    For results of kernels in compiled graphs: Inductor does not leave `torch.empty` with a memory
    format uninitialised, it launches a kernel that fills it.
    """
    batch, channels, height, width = shape
    return like.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)


def ceil_div(a: int, b: int) -> int:
    """Returns a / b rounded up."""
    return -(-a // b)
