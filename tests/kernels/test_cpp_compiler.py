"""Preparing Inductor's C++ compiler: what it probes, and what goes on in the background."""

import threading

import pytest
from torch._inductor import config, cpu_vec_isa
from torch._inductor.codecache import CppPythonBindingsCodeCache

from mammoth_compiled.kernels.runtime import cpp_compiler


@pytest.fixture
def prepare(monkeypatch):
    """Returns a function that prepares the compiler anew; it returns what Inductor then did."""

    def prepare(capability="AVX2"):
        seen = {}

        def valid_instruction_sets():
            seen["trusted"] = config.cpp.vec_isa_ok

        def load_kernel(argtypes, code, submit_fn):
            seen["thread"] = threading.current_thread()
            seen["compiled"] = submit_fn("kernel") != "kernel"
            raise OSError("no compiler")

        monkeypatch.setattr(cpp_compiler.platform, "machine", lambda: "x86_64")
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
        monkeypatch.setattr(cpu_vec_isa, "valid_vec_isa_list", valid_instruction_sets)
        monkeypatch.setattr(CppPythonBindingsCodeCache, "load_pybinding_async", load_kernel)
        cpp_compiler.prepare_compiler.__wrapped__()
        for thread in threading.enumerate():
            if thread.name == "precompile header":
                thread.join()
        return seen

    return prepare


def test_vectors_that_pytorch_uses_are_not_probed(prepare):
    assert prepare()["trusted"] is True
    assert config.cpp.vec_isa_ok is None, "only while they are listed"


def test_the_setting_of_the_user_stays(prepare):
    with config.patch({"cpp.vec_isa_ok": False}):
        assert "trusted" not in prepare()
    assert "trusted" not in prepare(capability="DEFAULT")


def test_the_header_is_compiled_in_a_thread_whose_errors_come_up_later(prepare):
    seen = prepare()
    assert seen["thread"] is not threading.current_thread()
    assert not seen["compiled"], "the kernel itself is not needed"


def test_other_processors_are_left_alone(prepare, monkeypatch):
    monkeypatch.setattr(cpp_compiler.platform, "machine", lambda: "aarch64")
    cpp_compiler.prepare_compiler.__wrapped__()
    assert not any(t.name == "precompile header" for t in threading.enumerate())
