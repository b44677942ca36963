"""Preparing Inductor's C++ compiler: what it probes, and what goes on in the background."""

import inspect
import threading

import pytest
from torch._inductor import codecache, config, cpu_vec_isa
from torch._inductor.codecache import CppPythonBindingsCodeCache

from mammoth_compiled.kernels.runtime import cpp_compiler

PRECOMPILE_HEADER = cpp_compiler.precompile_header.__wrapped__


@pytest.fixture
def prepare(monkeypatch, tmp_path):
    """Returns a function that prepares the compiler anew; it returns what Inductor then did."""

    def prepare(capability="AVX2", has_header=True):
        seen = {}

        def valid_instruction_sets():
            seen["searches"] = seen.get("searches", 0) + 1
            seen["trusted"] = config.cpp.vec_isa_ok

        def load_kernel(argtypes, code, submit_fn, extra_flags):
            seen["thread"], seen["threads"] = threading.current_thread(), config.cpp.threads
            seen["compiled"] = submit_fn("kernel") != "kernel"
            raise OSError("no compiler")

        if has_header:
            (tmp_path / "header.h.gch").touch()
        monkeypatch.setattr(codecache, "_HEADER_DIR", str(tmp_path))
        monkeypatch.setattr(cpp_compiler.platform, "machine", lambda: "x86_64")
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
        monkeypatch.setattr(cpu_vec_isa, "valid_vec_isa_list", valid_instruction_sets)
        monkeypatch.setattr(CppPythonBindingsCodeCache, "load_pybinding_async", load_kernel)
        monkeypatch.setattr(cpp_compiler, "precompile_header", PRECOMPILE_HEADER)
        cpp_compiler.prepare_compiler.__wrapped__()
        assert not seen, "nothing before Inductor looks for them"
        for _ in range(2):
            cpu_vec_isa.valid_vec_isa_list()
        assert seen.pop("searches") == 1
        join_header()
        return seen

    return prepare


def join_header():
    for thread in threading.enumerate():
        if thread.name == "precompile header":
            thread.join()


def test_vectors_that_pytorch_uses_are_not_probed(prepare):
    assert prepare()["trusted"] is True
    assert config.cpp.vec_isa_ok is None, "only while they are listed"


def test_the_setting_of_the_user_stays(prepare):
    with config.patch({"cpp.vec_isa_ok": False}):
        assert prepare()["trusted"] is False
    assert prepare(capability="DEFAULT")["trusted"] is None


def test_the_header_is_checked_in_a_thread_whose_errors_come_up_later(prepare):
    seen = prepare()
    assert seen["thread"] is not threading.current_thread()
    assert not seen["compiled"], "the kernel itself is not needed"


def test_the_thread_has_the_settings_of_the_user(prepare):
    with config.patch({"cpp.threads": 3}):
        assert prepare()["threads"] == 3


def test_other_processors_are_left_alone(prepare, monkeypatch):
    monkeypatch.setattr(cpp_compiler.platform, "machine", lambda: "aarch64")
    find = cpu_vec_isa.valid_vec_isa_list
    cpp_compiler.prepare_compiler.__wrapped__()
    assert cpu_vec_isa.valid_vec_isa_list is find
    assert not any(t.name == "precompile header" for t in threading.enumerate())


def test_a_header_that_is_not_there_is_not_compiled_at_once(prepare):
    assert "thread" not in prepare(has_header=False)


def test_the_second_process_that_compiles_precompiles_the_header(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(cpp_compiler, "precompile_header", lambda: started.append(True))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    cpp_compiler.note_compilation.__wrapped__()
    assert not started
    cpp_compiler.note_compilation.__wrapped__()
    assert started


@pytest.fixture
def probed(monkeypatch):
    """Returns a function that lists Inductor's instruction sets: their names and flags."""

    def probed(check_build):
        probes = []

        def check(self, code):
            probes.append(code)
            return check_build(code)

        for name in ("avx2", "avx512", "avx512_bf16", "vnni", "amx_tile"):
            monkeypatch.setattr(f"torch.cpu._is_{name}_supported", lambda: True)
        monkeypatch.setattr("torch.cpu._is_amx_fp16_supported", lambda: False)
        monkeypatch.setattr("torch.cpu._init_amx", lambda: True)
        monkeypatch.setattr(cpu_vec_isa.platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(cpu_vec_isa.VecISA, "check_build", check)
        kinds = (cpu_vec_isa.VecAMX, cpu_vec_isa.VecAVX512VNNI, cpu_vec_isa.VecAVX512)
        for kind in kinds:
            kind.__bool__.cache_clear()
        monkeypatch.setattr(cpu_vec_isa, "supported_vec_isa_list", [kind() for kind in kinds])
        with config.patch({"cpp.vec_isa_ok": True}), cpp_compiler._extensions_probed_at_once():
            found = inspect.unwrap(cpu_vec_isa.valid_vec_isa_list)()
        for kind in kinds:
            kind.__bool__.cache_clear()
        assert cpu_vec_isa.VecISA.check_build is check
        return [(str(isa), isa.build_arch_flags()) for isa in found], len(probes)

    return probed


def test_extensions_are_probed_with_one_program(probed):
    found, num_probes = probed(lambda code: True)
    assert num_probes == 1
    assert [name.split()[-1] for name, _ in found] == ["amx_tile", "avx512_vnni", "avx512"]
    assert all(flags.endswith("-mavx512bf16") for _, flags in (found[0], found[2]))


def test_extensions_are_probed_one_by_one_where_the_compiler_lacks_one(probed):
    found, num_probes = probed(lambda code: "_tile_" not in code)
    assert num_probes > 3
    assert [name for name, _ in found] == ["avx512 avx512_vnni", "avx512"]
