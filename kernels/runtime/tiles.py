"""Tile configurations as data: the candidates of every Triton kernel, and the fastest per chip.

`OP/tiles.json` lists the candidates of every kernel of an operation, best guess first. An entry
applies to the dtypes and chips it names, and to cases whose sizes lie in its `where` ranges.
`tuned/sm_90.json`, written by `benchmarks/gpu.py`, holds the fastest candidate of every measured
case on a chip; a case that was not measured uses the first candidate. A dynamic size, such as the
batch of an exported graph, is looked up as `representative_size` says.
"""

import contextlib
import functools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).parents[1]


@dataclass(frozen=True)
class TileConfig:
    """How one kernel is launched.

    Attributes:
        kernel: `op.kernel`, as in "relu_pool.forward".
        tile: Tile sizes, passed to the kernel as constants under these names.
        num_warps: Warps per program.
        num_stages: Depth of the software pipeline.
    """

    kernel: str
    tile: tuple[tuple[str, int], ...]
    num_warps: int
    num_stages: int

    def __getitem__(self, name: str) -> int:
        return dict(self.tile)[name]

    def __str__(self) -> str:
        tile = " ".join(f"{name}={size}" for name, size in self.tile)
        return f"{tile} warps={self.num_warps} stages={self.num_stages}"


# Picks one of the candidates of a case, given the key of the case.
TilePolicy = Callable[[str, list[TileConfig]], TileConfig]

# Module-level, not a ContextVar: on CUDA autograd runs the backward in a thread of its own, and
# backward kernels must be tuned as well.
_override: tuple[TilePolicy, str | None] | None = None
_override_lock = threading.RLock()


def representative_size(size: int) -> int:
    """Returns a size as it is looked up: 32, the usual batch, if it is dynamic.

    The choice must be correct for any size.
    """
    # Dynamic sizes are symbols; comparing one would specialize the graph to the result.
    return size if isinstance(size, int) else 32


def case_key(dtype: torch.dtype, sizes: Mapping[str, int]) -> str:
    """Returns the key of a case in tuned tables, as in `float32 batch=32 rows=16`."""
    return " ".join([str(dtype).removeprefix("torch."), *(f"{k}={v}" for k, v in sizes.items())])


def tile_candidates(
    kernel: str, dtype: torch.dtype, sizes: Mapping[str, int], chip: str | None = None
) -> list[TileConfig]:
    """Returns the configurations that apply to a case, best guess first.

    Args:
        kernel: `op.kernel`, as in "relu_pool.forward".
        dtype: Dtype of the tensors that the kernel computes with.
        sizes: Sizes of the case by name.
        chip: As in "sm_90"; None leaves out candidates for particular chips.

    Raises:
        LookupError: If no entry of the data file applies; every case needs one.
    """
    op, _, name = kernel.partition(".")
    dtype_name = str(dtype).removeprefix("torch.")
    found = [
        TileConfig(kernel, tuple(entry["tile"].items()), entry["num_warps"], entry["num_stages"])
        for entry in _read(f"{op}/tiles.json")[name]
        if dtype_name in entry.get("dtypes", (dtype_name,))
        and chip in entry.get("chips", (chip,))
        and all(low <= sizes[k] <= high for k, (low, high) in entry.get("where", {}).items())
    ]
    if not found:
        raise LookupError(f"kernels/{op}/tiles.json has no {name} for {case_key(dtype, sizes)}")
    return found


def select_tile(
    kernel: str, dtype: torch.dtype, sizes: Mapping[str, int], device: torch.device
) -> TileConfig:
    """Returns the configuration to launch a kernel with: tuned for this case, or the first.

    Args:
        kernel: `op.kernel`.
        dtype: Dtype of the tensors that the kernel computes with.
        sizes: Sizes of the case by name.
        device: Where it runs.
    """
    sizes = {name: representative_size(size) for name, size in sizes.items()}
    policy, chip = _override or (None, None)
    if device.type == "cuda":
        chip = chip_name(device)
    candidates = tile_candidates(kernel, dtype, sizes, chip)
    if policy is not None:
        return policy(case_key(dtype, sizes), candidates)
    if chip is None:
        return candidates[0]
    best = tuned_table(chip).get(kernel, {}).get(case_key(dtype, sizes))
    # A table of an earlier version may name a candidate that no longer exists.
    return next((config for config in candidates if str(config) == best), candidates[0])


def chip_name(device: torch.device) -> str:
    """Returns the name of a CUDA device's chip in the tables, as in "sm_90"."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def tuned_table(chip: str) -> dict[str, Any]:
    """Returns the shipped measurements of a chip, empty if there are none.

    Kernel -> case -> tile configuration; and under "winners", op -> case -> fastest implementation.
    """
    table: dict[str, Any] = _read(f"tuned/{chip}.json", missing={})
    return table


def tuned_path(chip: str) -> Path:
    """Returns the file of `tuned_table`, which need not exist."""
    return _FOLDER / "tuned" / f"{chip}.json"


@contextlib.contextmanager
def override_tiles(policy: TilePolicy, chip: str | None = None) -> Iterator[None]:
    """Lets a function pick the configuration of every kernel in all threads, to tune or check them.

    One thread overrides at a time; others wait for it.

    Args:
        policy: Picks a candidate.
        chip: The chip to pick for when tensors are on no GPU.
    """
    global _override
    with _override_lock:
        before, _override = _override, (policy, chip)
        try:
            yield
        finally:
            _override = before


def clear_cache() -> None:
    """Drops the tables read so far, after one was written."""
    _read_file.cache_clear()


@functools.cache
def _read_file(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read(name: str, missing: Any = None) -> Any:
    path = _FOLDER / name
    return missing if missing is not None and not path.exists() else _read_file(path)
