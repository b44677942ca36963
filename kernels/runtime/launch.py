"""Launches Triton kernels: on a GPU, in the interpreter, or into a list to compile later."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mammoth_compiled.kernels.runtime.tiles import TileConfig

# Where launches go while they are recorded. Module-level, not a ContextVar: on CUDA autograd runs
# the backward in a thread of its own, whose launches must be recorded as well.
_recorded: list["Launch"] | None = None
_recording_lock = threading.RLock()


@dataclass(frozen=True)
class Launch:
    """A recorded launch.

    Attributes:
        kernel: The `triton.jit` function.
        grid: Number of programs along up to three axes.
        args: Its arguments: tensors, which may be on the meta device, and numbers.
        constants: Its compile-time constants, including the tile sizes.
        config: The tile configuration it was launched with.
    """

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: dict[str, Any]
    config: TileConfig


def launch(
    kernel: Any, grid: tuple[int, ...], *args: Any, config: TileConfig, **constants: Any
) -> None:
    """Launches a kernel on the device of its tensors.

    A kernel with a constant `UPCAST` gets it set in the interpreter, which cannot multiply bfloat16
    and therefore multiplies in float32.

    Args:
        kernel: A `triton.jit` function.
        grid: Number of programs along up to three axes.
        *args: Tensors and numbers in the order of the kernel, without its constants.
        config: Tile sizes, passed as constants, with number of warps and stages.
        **constants: Further compile-time constants.
    """
    from triton.runtime.jit import JITFunction

    constants = {**dict(config.tile), **constants}
    compiled = isinstance(kernel, JITFunction)  # else it is the interpreter's
    if "UPCAST" in kernel.arg_names:
        constants["UPCAST"] = not compiled
    if _recorded is not None:
        _recorded.append(Launch(kernel, grid, args, constants, config))
        return
    runner = torch.library.wrap_triton(kernel) if compiled else kernel
    with _current_device(args):
        runner[grid](*args, **constants, num_warps=config.num_warps, num_stages=config.num_stages)


def _current_device(args: tuple[Any, ...]) -> contextlib.AbstractContextManager[Any]:
    """Makes the GPU of the tensors current; in a traced graph the compiler does that."""
    tensor = next(arg for arg in args if isinstance(arg, torch.Tensor))
    real = type(tensor) is torch.Tensor and tensor.is_cuda
    return torch.cuda.device(tensor.device) if real else contextlib.nullcontext()


@contextlib.contextmanager
def record_launches() -> Iterator[list[Launch]]:
    """Records launches of all threads instead of running them; results stay uninitialized.

    One thread records at a time; others wait for it.
    """
    global _recorded
    launches: list[Launch] = []
    with _recording_lock:
        before, _recorded = _recorded, launches
        try:
            yield launches
        finally:
            _recorded = before


def ceil_div(a: int, b: int) -> int:
    """Returns a / b rounded up."""
    return -(-a // b)
