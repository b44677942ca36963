"""Compiling the C++ kernels of a graph together."""

import shutil
import threading

import pytest
import torch
from torch._inductor import codecache, config
from torch._inductor.codecache import CppPythonBindingsCodeCache
from torch._inductor.cpu_vec_isa import pick_vec_isa

from mammoth_compiled.kernels.runtime import cpp_batches
from mammoth_compiled.kernels.runtime.cpp_batches import (
    _Kernel,
    compile_kernels_together,
    finish_kernels,
)


def source(value):
    """Returns a kernel as Inductor writes it, which computes one number."""
    return f"""
#include <torch/csrc/inductor/cpp_prefix.h>
extern "C"  void  kernel(const float* in_ptr0,
                       float* out_ptr0)
{{
    out_ptr0[0] = {value};
}}
"""


class Compiler:
    """Stands in for Inductor's `AsyncCompile` with one thread, and counts what it compiles."""

    def __init__(self, monkeypatch):
        self.alone, self.files = [], []
        load = CppPythonBindingsCodeCache.load_async.__func__

        def load_async(cls, code, *args, **kwargs):
            self.files.append(code)
            return load(cls, code, *args, **kwargs)

        monkeypatch.setattr(CppPythonBindingsCodeCache, "load_async", classmethod(load_async))

    def __call__(self, *sources, threads=1):
        from torch._inductor.async_compile import AsyncCompile

        compile_kernels_together()
        with config.patch(compile_threads=threads):
            compiler = AsyncCompile()
            argtypes = ["const float*", "float*"]
            scope = {
                f"cpp_{i}": compiler.cpp_pybinding(argtypes, source)
                for i, source in enumerate(sources)
            }
            compiler.wait(scope)
        return list(scope.values())


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Compiles kernels with an empty cache."""
    if shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    pick_vec_isa()  # remembered from the usual cache
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return Compiler(monkeypatch)


def call(kernel, value):
    result = torch.zeros(1)
    kernel(torch.tensor([value]), result)
    return result.item()


@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_of_a_graph_share_a_file(compiler, threads):
    kernels = compiler(source("in_ptr0[0] + 1"), source("in_ptr0[0] * 3"), threads=threads)
    assert [call(kernel, 5.0) for kernel in kernels] == [6, 15]
    assert len(compiler.files) == 1


def test_a_file_has_a_limited_number_of_kernels():
    assert [len(file) for file in cpp_batches.split(range(20))] == [6, 7, 7]
    assert [len(file) for file in cpp_batches.split(range(8))] == [8]


def test_kernels_compile_in_the_background_until_one_is_called(compiler, monkeypatch):
    go_on = threading.Event()
    compile_cpp = codecache._worker_compile_cpp

    def compile_later(*args):
        assert go_on.wait(60)
        compile_cpp(*args)

    monkeypatch.setattr(codecache, "_worker_compile_cpp", compile_later)
    kernels = compiler(source("in_ptr0[0] + 2"), threads=2)  # has not waited
    go_on.set()
    assert call(kernels[0], 1.0) == 3
    assert not cpp_batches._unfinished


@pytest.mark.parametrize(
    "other",
    [
        source("in_ptr0[0]").replace("extern", "static int helper() { return 1; }\nextern"),
        source("in_ptr0[0]") + 'extern "C" void other() {}\n',
        source("in_ptr0[0]").replace("    out", "#define LIMIT 3\n    out"),
        'extern "C" void kernel(float* out_ptr0) {}',
    ],
)
def test_other_sources_keep_a_file_of_their_own(other):
    assert _Kernel.parse([], source("in_ptr0[0]")) is not None
    assert _Kernel.parse([], other) is None


def test_kernels_that_do_not_compile_together_compile_alone(compiler, monkeypatch):
    monkeypatch.setattr(cpp_batches, "_source", lambda kernels: "not C++")
    (kernel,) = compiler(source("in_ptr0[0] - 2"))
    assert call(kernel, 5.0) == 3
    assert len(compiler.files) == 2


def test_the_error_of_a_kernel_is_that_of_its_own_file(compiler):
    compiler(source("unknown_name"))
    with pytest.raises(Exception, match="unknown_name"):
        finish_kernels()
    assert not cpp_batches._unfinished
