"""The C++ kernels as one library, for CPUs with AVX2 or AVX-512.

It consists of all `OP/*.cpp`, is built on first use by the C++ compiler that Inductor uses, and is
kept in Inductor's cache.
"""

import contextlib
import contextvars
import ctypes
import functools
import inspect
import platform
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from mammoth_compiled.kernels.runtime.cpp_compiler import (
    VECTOR_CAPABILITIES,
    prepare_compiler,
    run_in_background,
)
from mammoth_compiled.kernels.runtime.library_cache import verify_libraries

_FOLDER = Path(__file__).parents[1]

# The thread that builds the library, if any.
_builder: threading.Thread | None = None
_is_expected = contextvars.ContextVar("is_expected", default=False)


class Arguments(Protocol):
    """The first argument of every function: a `ctypes.Structure` with a number of threads."""

    threads: int


def call(name: str, arguments: Arguments, *tensors: torch.Tensor | None) -> None:
    """Calls a function of the library with as many threads as torch uses.

    Args:
        name: Name of the function.
        arguments: Sizes and settings; its `threads` is set here.
        *tensors: On the CPU, in the order and layouts of the function; None is a null pointer.

    Raises:
        MemoryError: If the working memory cannot be allocated.
    """
    function = getattr(_library(), name)
    function.restype = ctypes.c_bool
    arguments.threads = torch.get_num_threads()
    pointers = [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in tensors]
    structure: Any = arguments
    if not function(ctypes.byref(structure), *pointers):
        raise MemoryError(
            f"{name}: cannot allocate the working memory of the C++ kernel; lower the batch size"
        )


def cpp_why_not(tensor: torch.Tensor) -> str:
    """Returns why the C++ kernels cannot take a tensor, "" if they can."""
    if not tensor.is_cpu or tensor.dtype != torch.float32:
        return "the C++ kernels take float32 on a CPU"
    return "" if _is_expected.get() else unavailable_reason()


@functools.cache
def unavailable_reason() -> str:
    """Returns why this machine has no C++ kernels, "" if it has.

    The first call builds the library, which takes some seconds unless an earlier run did.
    """
    if reason := _unsupported_reason():
        return reason
    if _builder is not None:
        _builder.join()
    try:
        _library()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"the C++ kernels could not be built, so torch computes convolutions: {reason}",
            stacklevel=2,
        )
        return "the C++ kernels could not be built"
    return ""


@functools.cache
def build_in_background() -> None:
    """Builds the library in a thread."""
    global _builder
    if _unsupported_reason():
        return

    def build() -> None:
        with contextlib.suppress(Exception):  # occurs again where the library is used
            _library()

    verify_libraries()  # here, since two threads that import Inductor may get in each other's way
    _builder = run_in_background(build, "build C++ kernels")


@contextlib.contextmanager
def expected() -> Iterator[None]:
    """Inside, a library that is being built when the block begins counts as available.

    A graph can then be compiled meanwhile. If the library turns out not to be available, the
    operators in the graph compute with torch.
    """
    token = _is_expected.set(_builder is not None and _builder.is_alive())
    try:
        yield
    finally:
        _is_expected.reset(token)


def is_available() -> bool:
    """Returns whether there are C++ kernels; see `unavailable_reason` and `expected`."""
    return _is_expected.get() or not unavailable_reason()


def _unsupported_reason() -> str:
    if platform.machine() not in ("x86_64", "AMD64"):
        return "the C++ kernels need an x86-64 processor"
    if torch.backends.cpu.get_cpu_capability() not in VECTOR_CAPABILITIES:
        return "the C++ kernels need AVX2 or AVX-512"
    return ""


@functools.cache
def _library() -> Any:
    # Importing Inductor takes seconds; only compiling code pays for it.
    from torch._inductor.codecache import CppCodeCache

    verify_libraries()
    prepare_compiler()
    # Inductor turns contraction into fused multiply-add off for its own code.
    flags = ["-ffp-contract=fast"]
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        flags.append("-mno-avx512f")  # the user may have limited torch to AVX2
    load: Any = CppCodeCache.load
    # Inductor need not find its instruction sets for it, where it can be told so (PyTorch 2.14).
    has_option = "needs_vec_isa" in inspect.signature(CppCodeCache.load_async).parameters
    options = {"needs_vec_isa": False} if has_option else {}
    return load(source(), extra_flags=tuple(flags), **options)


def source() -> str:
    """Returns the C++ of the library: all `OP/*.cpp` as one file, each header once."""
    included = set[str]()

    def inline(name: str) -> str:
        included.add(name)
        lines = []
        for line in (_FOLDER / name).read_text(encoding="utf-8").splitlines():
            header = re.fullmatch(r'#include "(.+)"', line)
            if header is None:
                lines.append(line if line != "#pragma once" else "")
            elif header[1] not in included:
                lines.append(inline(header[1]))
        return "\n".join(lines)

    files = sorted(path.relative_to(_FOLDER).as_posix() for path in _FOLDER.glob("*/*.cpp"))
    return "\n".join(inline(name) for name in files)
