"""Tile configurations: candidates from data files, tuned tables, overrides seen by all threads."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mammoth_compiled.kernels.runtime import tiles
from mammoth_compiled.kernels.runtime.tiles import (
    TileConfig,
    case_key,
    override_tiles,
    select_tile,
    tile_candidates,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SIZES = {"batch": 2, "channels": 48, "height": 4, "width": 4}


def candidates(chip=None, **sizes):
    return tile_candidates("relu_pool.forward", torch.float32, {**SIZES, **sizes}, chip)


def selected(device=CPU):
    return select_tile("relu_pool.forward", torch.float32, SIZES, device)


@pytest.fixture
def data_files(monkeypatch, tmp_path):
    """Returns a function that replaces all data files; "__" stands for a slash."""

    def write(**content):
        monkeypatch.setattr(tiles, "_FOLDER", tmp_path)
        for name, value in content.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.with_suffix(".json").write_text(json.dumps(value))

    yield write
    tiles.clear_cache()


def test_candidates_depend_on_the_sizes():
    assert candidates(channels=8)[0]["BLOCK_C"] == 32
    assert {tile["BLOCK_C"] for tile in candidates(channels=256)} == {64, 128}


def test_case_without_candidates_is_named(data_files):
    entry = {"where": {"batch": [8, 16]}, "tile": {}, "num_warps": 4, "num_stages": 1}
    data_files(relu_pool__tiles={"forward": [entry]})
    message = r"kernels/relu_pool/tiles.json has no forward for float32 batch=2 "
    with pytest.raises(LookupError, match=message):
        candidates()


def test_candidates_can_be_for_particular_chips(data_files):
    entry = {"tile": {}, "num_warps": 4, "num_stages": 1}
    data_files(relu_pool__tiles={"forward": [{**entry, "num_warps": 8, "chips": ["sm_90"]}, entry]})

    def warps(chip):
        return [tile.num_warps for tile in candidates(chip)]

    assert (warps("sm_90"), warps("sm_80"), warps(None)) == ([8, 4], [4], [4])
    with override_tiles(lambda _, found: found[0], "sm_90"):
        assert selected(torch.device("meta")).num_warps == 8


@pytest.mark.parametrize("exists", [True, False])
def test_tuned_tile_is_used_on_its_chip(monkeypatch, data_files, exists):
    found = candidates()
    best = str(found[-1]) if exists else "BLOCK_CELLS=7 warps=1 stages=1"
    entries = [
        {"tile": dict(t.tile), "num_warps": t.num_warps, "num_stages": t.num_stages} for t in found
    ]
    data_files(
        relu_pool__tiles={"forward": entries},
        tuned__sm_90={"relu_pool.forward": {case_key(torch.float32, SIZES): best}},
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert selected(CUDA) == (found[-1] if exists else found[0])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert selected(CUDA) == found[0]


def test_override_decides_while_it_is_active():
    keys = []

    def last(key, found):
        keys.append(key)
        return found[-1]

    default = selected()
    with override_tiles(last):
        assert selected() == candidates()[-1] != default
        with override_tiles(lambda _, found: found[0]):
            assert selected() == default
        assert selected() != default
    assert selected() == default
    assert keys == ["float32 batch=2 channels=48 height=4 width=4"] * 2


def test_override_reaches_other_threads():
    # On CUDA autograd runs the backward in a thread of its own: its kernels are tuned as well.
    with ThreadPoolExecutor(1) as backward_thread:
        default = backward_thread.submit(selected).result()
        with override_tiles(lambda _, found: found[-1]):
            assert backward_thread.submit(selected).result() == candidates()[-1] != default
        assert backward_thread.submit(selected).result() == default


def test_overrides_of_two_threads_wait_for_each_other():
    first, last = candidates()[0], candidates()[-1]

    def override(number):
        with override_tiles(lambda _, found: found[number]):
            return {str(selected()) for _ in range(50)}

    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(override, [0, -1] * 20))
    assert both == [{str(first)}, {str(last)}] * 20


def test_configuration_prints_like_its_table_entry():
    tile = TileConfig("op.kernel", (("BLOCK_M", 64), ("BLOCK_N", 32)), 4, 3)
    assert str(tile) == "BLOCK_M=64 BLOCK_N=32 warps=4 stages=3"
    assert tile["BLOCK_N"] == 32
