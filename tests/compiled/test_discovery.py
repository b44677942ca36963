"""Discovery and order of patterns, and the hash of the sources that invalidates caches."""

import importlib
import pkgutil
import shutil

import pytest
import torch

from mammoth_compiled import compiler, kernels
from mammoth_compiled.compiler import backend, fingerprint, pattern, patterns


def test_every_module_of_the_package_registers_a_pattern_or_a_lowering():
    names = [module.name for module in pkgutil.iter_modules(patterns.__path__)]
    functions = [*pattern.patterns(), *pattern.lowerings()]
    assert {function.__module__.rpartition(".")[2] for function in functions} == set(names)


def test_larger_subgraphs_come_first():
    names = [function.__name__ for function in pattern.patterns()]
    # ReLU and pooling after a convolution before the convolution alone, attention before its parts.
    assert names.index("conv_relu_pool") < names.index("conv3x3")
    assert names.index("attention") < names.index("projections")


def test_inserted_functions_exist():
    for name in pattern.traced_functions():
        module, _, function = name.rpartition(".")
        found = getattr(importlib.import_module(module), function)
        assert f"{found.__module__}.{found.__name__}" == name


@pytest.fixture
def copies(monkeypatch, tmp_path):
    """Copies of both packages' folders, which are hashed instead of the originals."""
    for package in (compiler, kernels):
        copy = tmp_path / package.__name__
        folder = fingerprint.Path(package.__file__).parent
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.setattr(package, "__file__", str(copy / "__init__.py"))
    fingerprint.source_hash.cache_clear()
    yield tmp_path
    fingerprint.source_hash.cache_clear()


@pytest.mark.parametrize(
    "name",
    [
        "mammoth_compiled.compiler/patterns/attention.py",
        "mammoth_compiled.kernels/attention/tiles.json",
        "mammoth_compiled.kernels/conv3x3/winograd.hpp",
    ],
)
def test_hash_changes_with_every_source(copies, name):
    before = backend._cache_tag([torch.zeros(1)])
    path = copies / name
    path.write_text(path.read_text() + "\n")
    fingerprint.source_hash.cache_clear()
    assert backend._cache_tag([torch.zeros(1)]) != before
    path.write_text(path.read_text()[:-1])
    fingerprint.source_hash.cache_clear()
    assert backend._cache_tag([torch.zeros(1)]) == before
