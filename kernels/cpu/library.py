"""The compiled library: built by the C++ compiler that Inductor uses, kept in Inductor's cache."""

import ctypes
import functools
import platform
import re
import warnings
from pathlib import Path
from typing import Any

import torch

# Put together in this order.
_SOURCES = ("convolution.cpp", "direct.cpp", "pooled.cpp")


class Problem(ctypes.Structure):
    """Sizes, the strides of the weight and how to compute; see problem.hpp."""

    _fields_ = [
        *((size, ctypes.c_int64) for size in ("batch", "height", "width")),
        *((size, ctypes.c_int64) for size in ("in_channels", "out_channels")),
        *((stride, ctypes.c_int64) for stride in ("out", "in_", "down", "right")),
        ("flipped", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    ]


def call(name: str, problem: Problem, *tensors: torch.Tensor | None) -> None:
    """Calls a function of the library with as many threads as torch uses.

    Args:
        name: Of the function.
        problem: What it is about.
        *tensors: On the CPU, in the function's order and layouts; None becomes a null pointer.

    Raises:
        MemoryError: If its working memory could not be had.
    """
    function = getattr(_library(), name)
    function.restype = ctypes.c_bool
    problem.threads = torch.get_num_threads()
    pointers = [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in tensors]
    if not function(ctypes.byref(problem), *pointers):
        raise MemoryError(f"no memory for what {name} works with; lower the batch size")


@functools.cache
def why_not() -> str:
    """Returns why this machine has no C++ kernels, "" if it has.

    The first call builds the library, which takes some seconds where no earlier run did.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return "C++ kernels are for x86-64"
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return "C++ kernels want AVX2 or AVX-512"
    try:
        _library()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"convolutions stay with torch, because the C++ kernels could not be built: {reason}",
            stacklevel=2,
        )
        return "the C++ kernels could not be built"
    return ""


@functools.cache
def _library() -> Any:
    # Inductor takes seconds to import: only who compiles waits for it.
    from torch._inductor.codecache import CppCodeCache

    # Inductor forbids what its own code must not do, to add to a product without rounding it.
    flags = ["-ffp-contract=fast"]
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        flags.append("-mno-avx512f")  # as torch was told, or found out
    return CppCodeCache.load(source(), extra_flags=tuple(flags))


def source() -> str:
    """Returns the C++ of the library: all files as one, each header once."""
    folder, known = Path(__file__).parent, set[str]()

    def text(name: str) -> str:
        known.add(name)
        lines = []
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            included = re.fullmatch(r'#include "(.+)"', line)
            if included is None:
                lines.append(line if line != "#pragma once" else "")
            elif included[1] not in known:
                lines.append(text(included[1]))
        return "\n".join(lines)

    return "\n".join(text(name) for name in _SOURCES)
