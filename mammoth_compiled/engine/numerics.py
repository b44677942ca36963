"""Numerical settings of a run: precision of float32 multiplications, and determinism."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

# cuBLAS is deterministic with a workspace of fixed size (cuBLAS documentation, "Results
# reproducibility"). It reads the variable when its first handle is created.
CUBLAS_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def resolve_precision(precision: str, device: torch.device) -> str:
    """Returns "highest" or "high" for `--precision`.

    "high" computes float32 matrix multiplications and convolutions with TF32 on a GPU's tensor
    cores, with 10 bits of mantissa; "highest" computes them in float32. On a GPU "auto" is "high",
    as convolutions are in PyTorch by default; on a CPU it is "highest".
    """
    if precision != "auto":
        return precision
    return "high" if device.type == "cuda" else "highest"


@contextlib.contextmanager
def numerics(device: torch.device, precision: str, deterministic: bool) -> Iterator[None]:
    """Applies the settings of a run to PyTorch and restores the previous ones afterwards.

    Matrix multiplications, cuDNN and the package's kernels follow the same precision. Settings of a
    CPU stay as they are.

    Args:
        device: Where the run computes.
        precision: "auto", "highest" or "high"; see `resolve_precision`.
        deterministic: Whether to use deterministic algorithms only.
    """
    with contextlib.ExitStack() as stack:
        if deterministic:
            stack.enter_context(_deterministic())
        if device.type == "cuda":
            stack.enter_context(_precision(resolve_precision(precision, device)))
        yield


@contextlib.contextmanager
def timed_algorithms(device: torch.device, recurs: bool) -> Iterator[None]:
    """Lets cuDNN time its algorithms for convolutions of new shapes, instead of guessing.

    Does nothing on a CPU and where deterministic algorithms are asked for: which algorithm is
    fastest may change from run to run, and with it the order of sums.

    Args:
        device: Where the block computes.
        recurs: Whether the shapes of the block recur often enough to pay for timing.
    """
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        yield
        return
    cudnn: Any = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, recurs
    try:
        yield
    finally:
        cudnn.benchmark = before


@contextlib.contextmanager
def _precision(precision: str) -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    matmul = torch.get_float32_matmul_precision()
    parts = {part: part.fp32_precision for part in (cudnn.conv, cudnn.rnn)}
    torch.set_float32_matmul_precision(precision)
    # Not the newer `fp32_precision`: torch then refuses to read `allow_tf32`, as other code does.
    cudnn.allow_tf32 = precision != "highest"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32 = set(parts.values()) == {"tf32"}
        for part, value in parts.items():
            if part.fp32_precision != value:
                part.fp32_precision = value


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    os.environ.setdefault(*CUBLAS_WORKSPACE)
    settings: Any = torch.utils.deterministic
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills, benchmarks = settings.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    # Filling costs time and only matters to code that reads uninitialized memory.
    settings.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        settings.fill_uninitialized_memory = fills
        torch.backends.cudnn.benchmark = benchmarks
