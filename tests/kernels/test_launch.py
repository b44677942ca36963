"""Launching: configurations as data, what is taken where, and life without Triton or a GPU."""

import json

import pytest
import torch

from mammoth_compiled.kernels.runtime import device, tiles
from mammoth_compiled.kernels.runtime.tiles import (
    TileConfig,
    case_key,
    override_tiles,
    select_tile,
    tile_candidates,
)

CPU = torch.device("cpu")
DIMS = {"batch": 2, "channels": 48, "height": 4, "width": 4}


def test_candidates_hold_for_their_sizes():
    narrow = tile_candidates("relu_pool.forward", torch.float32, {**DIMS, "channels": 8})
    wide = tile_candidates("relu_pool.forward", torch.float32, {**DIMS, "channels": 256})
    assert narrow[0]["BLOCK_C"] == 32
    assert {c["BLOCK_C"] for c in wide} == {64, 128}


def test_a_problem_without_candidates_is_named(monkeypatch, tmp_path):
    entry = {"where": {"batch": [8, 16]}, "tile": {}, "num_warps": 4, "num_stages": 1}
    (tmp_path / "relu_pool").mkdir()
    (tmp_path / "relu_pool" / "tiles.json").write_text(json.dumps({"forward": [entry]}))
    monkeypatch.setattr(tiles, "_FOLDER", tmp_path)
    with pytest.raises(LookupError, match=r"relu_pool/tiles.json has no forward for float32 batch=2 "):
        tile_candidates("relu_pool.forward", torch.float32, DIMS)


def test_a_policy_decides_where_it_is_set():
    seen = []

    def last(problem, fitting):
        seen.append(problem)
        return fitting[-1]

    first = select_tile("relu_pool.forward", torch.float32, DIMS, CPU)
    with override_tiles(last):
        assert select_tile("relu_pool.forward", torch.float32, DIMS, CPU) != first
    assert select_tile("relu_pool.forward", torch.float32, DIMS, CPU) == first
    assert seen == ["float32 batch=2 channels=48 height=4 width=4"]


@pytest.mark.parametrize("known", [True, False])
def test_what_was_tuned_on_a_chip_is_taken_there(monkeypatch, tmp_path, known):
    fitting = tile_candidates("relu_pool.forward", torch.float32, DIMS)
    best = str(fitting[-1]) if known else "BLOCK_CELLS=7 warps=1 stages=1"
    table = {"relu_pool.forward": {case_key(torch.float32, DIMS): best}}
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "sm_90.json").write_text(json.dumps(table))
    (tmp_path / "relu_pool").mkdir()
    content = (tiles._FOLDER / "relu_pool" / "tiles.json").read_text()
    (tmp_path / "relu_pool" / "tiles.json").write_text(content)
    monkeypatch.setattr(tiles, "_FOLDER", tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    taken = select_tile("relu_pool.forward", torch.float32, DIMS, torch.device("cuda", 0))
    assert taken == (fitting[-1] if known else fitting[0])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert select_tile("relu_pool.forward", torch.float32, DIMS, torch.device("cuda", 0)) == fitting[0]


def test_candidates_for_some_chips_only(monkeypatch, tmp_path):
    entry = {"tile": {}, "num_warps": 4, "num_stages": 1}
    entries = [{**entry, "num_warps": 8, "chips": ["sm_90"]}, entry]
    (tmp_path / "relu_pool").mkdir()
    (tmp_path / "relu_pool" / "tiles.json").write_text(json.dumps({"forward": entries}))
    monkeypatch.setattr(tiles, "_FOLDER", tmp_path)

    def warps(chip):
        fitting = tile_candidates("relu_pool.forward", torch.float32, DIMS, chip)
        return [config.num_warps for config in fitting]

    assert (warps("sm_90"), warps("sm_80"), warps(None)) == ([8, 4], [4], [4])
    with override_tiles(lambda _, fitting: fitting[0], "sm_90"):
        assert select_tile("relu_pool.forward", torch.float32, DIMS, torch.device("meta")).num_warps == 8


def test_a_configuration_reads_like_its_table():
    config = TileConfig("op.kernel", (("BLOCK_M", 64), ("BLOCK_N", 32)), 4, 3)
    assert str(config) == "BLOCK_M=64 BLOCK_N=32 warps=4 stages=3"
    assert config["BLOCK_N"] == 32


def test_no_kernel_runs_on_a_cpu():
    assert not device.supports_triton(CPU)
    assert device.triton_why_not(torch.zeros(1))


def test_products_are_as_precise_as_torchs():
    assert device.input_precision(torch.bfloat16, convolution=True) == "ieee"
    assert device.input_precision(torch.float32, convolution=False) == "ieee"
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert device.input_precision(torch.float32, convolution=False) == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


WITHOUT_TRITON = """
import sys, warnings
warnings.simplefilter("error")
sys.modules["triton"] = None
import torch
from mammoth_compiled.kernels.runtime.device import has_triton
from mammoth_compiled.kernels.relu_pool import relu_pool_op
from mammoth_compiled.registry import backbones
import mammoth_compiled
assert not has_triton()
z = torch.randn(2, 3, 4, 4, requires_grad=True)
relu_pool_op(z, (2, 2), (2, 2), (0, 0))[0].sum().backward()
assert z.grad.any()
from mammoth_compiled.kernels import check
try:
    check.main([])
except SystemExit as stop:
    print(stop.code)
"""


def test_without_triton_the_references_compute(run_python):
    done = run_python("-c", WITHOUT_TRITON)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"]
    assert "Triton is not installed: pip install triton" in done.stderr
    assert "_library/triton.py" not in done.stderr
