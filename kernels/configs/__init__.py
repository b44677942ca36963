"""Tile configurations as data: what a Triton kernel may take, and what was fastest where.

`OP.json` lists for every kernel of an operation its candidates, best guess first. An entry holds
for the dtypes and chips it names, and for problems whose dimensions lie in its `where` ranges.
`tuned/sm_90.json`, written by `benchmarks/gpu.py --tune`, says which candidate was measured to be
fastest for a problem on a chip; a problem that was not measured takes the first candidate. A size
that a graph leaves open, as exported graphs do the batch, is looked up as `concrete` gives it.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Config:
    """How one kernel is launched.

    Attributes:
        kernel: `op.kernel`, as in "relu_pool.forward".
        tile: Tile sizes, passed to the kernel as constants under these names.
        num_warps: Warps of one program.
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


# Picks one of the candidates that fit a problem, given its name.
Policy = Callable[[str, list[Config]], Config]
_POLICY: ContextVar[tuple[Policy, str | None] | None] = ContextVar("policy", default=None)


def concrete(size: int) -> int:
    """Returns a size; for one that differs from call to call, the one that choices are made for.

    That is 32, the usual batch. What is chosen must be right for any size.
    """
    # Sizes left open are symbols. Comparing one would fix it, or what it is compared with.
    return size if isinstance(size, int) else 32


def problem_key(dtype: torch.dtype, dims: Mapping[str, int]) -> str:
    """Names a problem in the tables of tuned configurations, as in `float32 batch=32 rows=16`."""
    return " ".join([str(dtype).removeprefix("torch."), *(f"{k}={v}" for k, v in dims.items())])


def candidates(
    kernel: str, dtype: torch.dtype, dims: Mapping[str, int], chip: str | None = None
) -> list[Config]:
    """Returns the configurations that fit a problem, best guess first.

    Args:
        kernel: `op.kernel`, as in "relu_pool.forward".
        dtype: Of the tensors that the kernel computes with.
        dims: Sizes of the problem by name.
        chip: As in "sm_90"; None leaves out what holds for some chips only.

    Raises:
        LookupError: If the data file has none; every problem must have one.
    """
    op, _, name = kernel.partition(".")
    word = str(dtype).removeprefix("torch.")
    found = [
        Config(kernel, tuple(entry["tile"].items()), entry["num_warps"], entry["num_stages"])
        for entry in _read(f"{op}.json")[name]
        if word in entry.get("dtypes", (word,))
        and chip in entry.get("chips", (chip,))
        and all(low <= dims[k] <= high for k, (low, high) in entry.get("where", {}).items())
    ]
    if not found:
        raise LookupError(f"configs/{op}.json has no {name} for {problem_key(dtype, dims)}")
    return found


def choose(
    kernel: str, dtype: torch.dtype, dims: Mapping[str, int], device: torch.device
) -> Config:
    """Returns the configuration to launch a kernel with: tuned for this problem, or the first.

    Args:
        kernel: `op.kernel`.
        dtype: Of the tensors that the kernel computes with.
        dims: Sizes of the problem by name.
        device: Where it runs.
    """
    dims = {name: concrete(size) for name, size in dims.items()}
    policy, chip = _POLICY.get() or (None, None)
    if device.type == "cuda":
        chip = chip_of(device)
    fitting = candidates(kernel, dtype, dims, chip)
    if policy is not None:
        return policy(problem_key(dtype, dims), fitting)
    if chip is None:
        return fitting[0]
    best = tuned(chip).get(kernel, {}).get(problem_key(dtype, dims))
    # A table of an earlier version may name a candidate that is gone.
    return next((config for config in fitting if str(config) == best), fitting[0])


def chip_of(device: torch.device) -> str:
    """Returns the name of a CUDA device's chip in the tables, as in "sm_90"."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def tuned(chip: str) -> dict[str, Any]:
    """Returns what was measured on a chip, empty if nothing was.

    Kernel → problem → configuration; and under "winners", operation → problem → the fastest way.
    """
    table: dict[str, Any] = _read(f"tuned/{chip}.json", missing={})
    return table


@contextlib.contextmanager
def choosing(policy: Policy, chip: str | None = None) -> Iterator[None]:
    """Lets a function pick the configuration of every kernel, to tune or to check them all.

    Args:
        policy: Picks a candidate.
        chip: The chip that tensors on no device are meant for.
    """
    token = _POLICY.set((policy, chip))
    try:
        yield
    finally:
        _POLICY.reset(token)


def forget() -> None:
    """Forgets what was read, after a table was written."""
    _read_file.cache_clear()


@functools.cache
def _read_file(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read(name: str, missing: Any = None) -> Any:
    path = _FOLDER / name
    return missing if missing is not None and not path.exists() else _read_file(path)
