"""Kernels at the end of a graph are launched together, counted without a GPU."""

import ast
import os
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
    monkeypatch.setattr(combined_kernels, "MAX_BYTES", 0)
    assert compiled_launches(chain, *matrices, combo=True)["inductor"] == 3


STEP = """
import torch
from torch import nn
from torch.nn import functional as F
from fake_h100 import gpu_code
from launch_counts import compiled_launches

net = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(512, 10),
)
parameters = list(net.parameters())

def step(parameters, images, labels):
    loss = F.cross_entropy(net(images), labels)
    return loss.detach(), *torch.autograd.grad(loss, parameters)

with gpu_code():
    images, labels = torch.zeros(32, 3, 16, 16), torch.zeros(32, dtype=torch.int64)
    print(compiled_launches(step, parameters, images, labels, combo=True, compile_kernels=True))
"""


@pytest.mark.slow
def test_a_step_with_our_kernels_compiles_for_an_h100(run_python, tmp_path):
    """From the code that Inductor writes, in which the kernels have no imports of their own."""
    pytest.importorskip("triton")
    script = tmp_path / "step.py"
    script.write_text(STEP)
    done = run_python(
        script,
        TRITON_INTERPRET="0",
        PYTHONPATH=os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]),
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr
    counted = ast.literal_eval(done.stdout)
    assert counted["ours"] >= 5
    assert counted["library"] == 0
