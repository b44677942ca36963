"""Compiled libraries in Inductor's cache are verified before they are loaded."""

import os
import pickle
import shutil
from types import SimpleNamespace

import pytest

from mammoth_compiled.kernels.runtime import library_cache

LOAD = """
import sys
from torch._inductor.codecache import CppCodeCache
from mammoth_compiled.kernels.runtime.library_cache import verify_libraries
verify_libraries()
print(CppCodeCache.load('extern "C" int answer() { return 42; }').answer())
"""


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "truncated": truncate,
    "one bit": flip,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"garbage" * 1000),
    "another library": lambda path: path.write_bytes(b"\x7fELF" + path.read_bytes()[4:] + b"x"),
    "hash": lambda path: path.with_name(f"{path.name}.sha256").write_text("0" * 64),
    "hash that is no text": lambda path: path.with_name(f"{path.name}.sha256").write_bytes(b"\xff"),
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Returns a function that loads a library through the cache, and its path."""
    path = tmp_path / "main.so"
    compiled = []

    def compile_cpp(lock_path, builders):
        if not path.exists():
            compiled.append(path)
            path.write_bytes(b"machine code" * 500)

    builder = SimpleNamespace(get_target_file_path=lambda: str(path))
    verified = library_cache._VerifiedCompile(compile_cpp)
    return SimpleNamespace(
        load=lambda: verified("lock", (builder,)), path=path, num_compiled=lambda: len(compiled)
    )


def test_intact_library_is_compiled_once(cache):
    for _ in range(3):
        cache.load()
    assert cache.num_compiled() == 1


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_library_is_compiled_again(cache, kind):
    cache.load()
    content = cache.path.read_bytes()
    DAMAGE[kind](cache.path)
    cache.load()
    assert cache.num_compiled() == 2
    assert cache.path.read_bytes() == content
    cache.load()
    assert cache.num_compiled() == 2


def test_library_without_hash_is_trusted_if_this_process_compiled_it(cache):
    cache.load()
    for hash_file in cache.path.parent.glob("*.sha256"):
        hash_file.unlink()
    cache.load()
    assert cache.num_compiled() == 1
    for hash_file in cache.path.parent.glob("*.sha256"):
        hash_file.unlink()
    os.utime(cache.path, (1, 1))
    cache.load()
    assert cache.num_compiled() == 2


def test_workers_compile_without_this_package():
    from torch._inductor import codecache

    original = codecache._worker_compile_cpp
    assert pickle.loads(pickle.dumps(library_cache._VerifiedCompile(len))) is original


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_process_survives_a_damaged_library(run_python, tmp_path):
    for kind in (None, "truncated", "garbage"):
        libraries = [path.with_suffix("") for path in (tmp_path / "cache").rglob("*.sha256")]
        assert bool(libraries) == (kind is not None)
        for library in libraries:
            DAMAGE[kind](library)
        done = run_python("-c", LOAD, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
        assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
