"""Shortens the wait for Inductor's C++ compiler, which is longest the first time on a machine.

Before it compiles anything, Inductor compiles a program with PyTorch's vector headers for each
instruction set of the processor, one for each extension of it, and a precompiled header: longer
than the graphs of a small network. The first programs tell nothing here, and those for extensions
are compiled as one, once there is a loop to compile. The header takes longer than it saves for the
two or three files of kernels that a network has. It is therefore compiled when a second network is,
in the background, and no file waits for it.
"""

import contextlib
import contextvars
import functools
import platform
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

VECTOR_CAPABILITIES = ("AVX2", "AVX512")

# GCC inlines a function wherever it is called if there is only one call. Where kernels share a file
# there are more, and the reductions of batch norm would stay calls in the innermost loops.
_INLINE = "--param early-inlining-insns=400"

# In Inductor's cache once a process has compiled kernels.
_MARKER = "mammoth_compiled_kernels"

# Reentrant, since probing compiles.
_finding = threading.RLock()
_header_is_ready = threading.Event()


@functools.cache
def prepare_compiler() -> None:
    """Lets Inductor find its instruction sets in less time, once it looks for them.

    Graphs without loops need none. Call it once Inductor is imported.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return
    from torch._inductor import cpu_vec_isa

    find = cpu_vec_isa.valid_vec_isa_list

    find_once = functools.cache(lambda: _find_instruction_sets(find))

    @functools.wraps(find)
    def valid_vec_isa_list() -> list[Any]:
        with _finding:
            return find_once()

    module: Any = cpu_vec_isa
    module.valid_vec_isa_list = valid_vec_isa_list


def _find_instruction_sets(find: Callable[[], list[Any]]) -> list[Any]:
    """Calls Inductor's function, and compiles or checks its header if there is one.

    Args:
        find: Inductor's function.
    """
    from torch._inductor import codecache, config

    # PyTorch itself runs such code here, so its headers and libraries have it. Instructions that
    # depend on the compiler's version (bfloat16, VNNI, AMX) are still probed.
    is_vectorized = torch.backends.cpu.get_cpu_capability() in VECTOR_CAPABILITIES
    cpp: Any = config.cpp
    if is_vectorized and cpp.vec_isa_ok is None:
        with config.patch({"cpp.vec_isa_ok": True}), _extensions_probed_at_once():
            found = find()
    else:
        found = find()
    headers = getattr(codecache, "_HEADER_DIR", None)
    if headers is not None and any(Path(headers).glob("*.gch")):
        precompile_header()
    return found


@functools.cache
def precompile_header() -> None:
    """Precompiles Inductor's header in a thread, or checks the one that is there."""
    run_in_background(_precompile_header, "precompile header")


def run_in_background(function: Callable[[], None], name: str) -> threading.Thread:
    """Runs a function in a thread with the settings of Inductor that this one has.

    They are context variables: a new thread would have the defaults.
    """
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(function,), name=name)
    thread.start()
    return thread


@functools.cache
def note_compilation() -> None:
    """Notes that kernels are compiled; the second process that does precompiles the header."""
    from torch._inductor.codecache import cache_dir

    try:
        (Path(cache_dir()) / _MARKER).touch(exist_ok=False)
    except FileExistsError:
        precompile_header()
    except OSError:  # the kernels, which go to the same place, say so
        return


@functools.cache
def kernel_flags() -> tuple[str, ...]:
    """Returns flags for files of kernels, in addition to Inductor's."""
    from torch._inductor.cpp_builder import is_gcc

    return (_INLINE,) if is_gcc() else ()


def header_is_ready() -> bool:
    """Returns whether Inductor's precompiled header is there, so that using it takes no time."""
    return _header_is_ready.is_set()


@contextlib.contextmanager
def _extensions_probed_at_once() -> Iterator[None]:
    """Answers Inductor's probes of extensions to AVX-512 by compiling all their programs as one.

    Where that fails, or this version of torch has other programs, each is compiled as usual.
    """
    from torch._inductor import cpu_vec_isa as isa

    probe = isa.VecISA.check_build
    try:
        programs = {
            code: flags
            for is_supported, code, flags in (
                (
                    torch.cpu._is_avx512_bf16_supported(),
                    isa.VecAVX512._avx512_bf16_code,
                    "-mavx512bf16",
                ),
                (
                    torch.cpu._is_vnni_supported(),
                    isa.VecAVX512VNNI._avx512_vnni_code,
                    isa.VecAVX512VNNI._arch_flags,
                ),
                (torch.cpu._is_amx_tile_supported(), isa.VecAMX._amx_code, isa.VecAMX._arch_flags),
            )
            if is_supported
        }
        together = isa.VecAVX512()
        together._arch_flags = " ".join([together._arch_flags, *programs.values()])
        passed = bool(programs) and probe(together, "\n".join(programs))
    except (AttributeError, TypeError):
        passed = False

    def check_build(self: Any, code: str) -> bool:
        return (passed and code in programs) or probe(self, code)

    with mock.patch.object(isa.VecISA, "check_build", check_build):
        yield


def _precompile_header() -> None:
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    # Errors occur again where the header is used. The kernel itself is not compiled.
    with contextlib.suppress(Exception):
        CppPythonBindingsCodeCache.load_pybinding_async(
            [],
            'extern "C" void kernel() {}',
            submit_fn=lambda compile_kernel: compile_kernel,
            extra_flags=kernel_flags(),
        )
        _header_is_ready.set()
