"""Shortens the wait for Inductor's C++ compiler, which is longest the first time on a machine.

Before it compiles anything, Inductor compiles a program with PyTorch's vector headers for each
instruction set of the processor, and a precompiled header: about twice as long as the graphs of a
small network. The programs tell nothing here, and the header can be compiled in the background.
"""

import contextlib
import functools
import platform
import threading
from typing import Any

import torch

VECTOR_CAPABILITIES = ("AVX2", "AVX512")


@functools.cache
def prepare_compiler() -> None:
    """Finds Inductor's instruction set, and precompiles its header in a thread.

    Call it once Inductor is imported. The first compilation waits for the header.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return
    from torch._inductor import config, cpu_vec_isa

    # PyTorch itself runs such code here, so its headers and libraries have it. Instructions that
    # depend on the compiler's version (bfloat16, VNNI, AMX) are still probed.
    is_vectorized = torch.backends.cpu.get_cpu_capability() in VECTOR_CAPABILITIES
    cpp: Any = config.cpp
    if is_vectorized and cpp.vec_isa_ok is None:
        with config.patch({"cpp.vec_isa_ok": True}):
            cpu_vec_isa.valid_vec_isa_list()
    threading.Thread(target=_precompile_header, name="precompile header").start()


def _precompile_header() -> None:
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    # Errors occur again where the header is used. The kernel itself is not compiled.
    with contextlib.suppress(Exception):
        CppPythonBindingsCodeCache.load_pybinding_async(
            [], 'extern "C" void kernel() {}', submit_fn=lambda compile_kernel: compile_kernel
        )
