"""Kernels at the end of a graph are launched together, counted without a GPU."""

import sys
from pathlib import Path

import pytest
import torch

from mammoth_compiled.compiler import combined_kernels

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def compiled_launches(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from launch_counts import compiled_launches

    yield compiled_launches
    for name in ("launch_counts", "fake_h100"):
        sys.modules.pop(name)


def chain(x, weight):
    """Sums of products of three depths; the products are read, the sums are not."""
    sums = []
    for _ in range(3):
        x = x @ weight
        sums.append(x.sum(0))
    return sums


def test_what_nothing_reads_is_computed_in_one_launch(compiled_launches, monkeypatch):
    matrices = torch.ones(8, 8), torch.ones(8, 8)
    counted = compiled_launches(chain, *matrices, combo=True)
    assert counted == {"inductor": 1, "ours": 0, "library": 3}
    monkeypatch.setattr(combined_kernels, "MAX_BYTES_AT_END", 0)
    assert compiled_launches(chain, *matrices, combo=True)["inductor"] == 3
