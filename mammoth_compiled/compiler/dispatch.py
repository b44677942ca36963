"""Which way of computing a place in a graph is fastest on this GPU: looked up, or measured once.

First in the tables that ship with the kernels, then in what this machine measured before; a problem
found in neither is measured while its graph is compiled, which takes some milliseconds.
"""

import functools
import json
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mammoth_compiled.errors import MammothError
from mammoth_compiled.files import user_cache, write_atomically
from mammoth_compiled.kernels.configs import chip_of, tuned

# A way is a function that computes the problem once, forward and, in training, backward.
Ways = Mapping[str, Callable[[], Any]]

_CALLS = 10  # in one graph, so that launching it does not count


def fastest(op: str, problem: str, device: torch.device, ways: Callable[[], Ways]) -> str:
    """Returns the name of the fastest way to compute a problem on a GPU.

    Args:
        op: Name of the operation.
        problem: Dtype and sizes, as `kernels.configs.problem_key` writes them.
        device: A CUDA device.
        ways: Makes the ways, with inputs on the device; called only if they must be measured.
    """
    shipped: str | None = tuned(chip_of(device)).get("winners", {}).get(op, {}).get(problem)
    if shipped is not None:
        return shipped
    path = _path(device)
    known = _read(path)
    name = f"{op} {problem}"
    if name not in known:
        times = _measure(ways, device)
        # Others may have measured meanwhile.
        known = {**_read(path), name: min(times, key=lambda way: times[way])}
        try:
            write_atomically(path, json.dumps(known, indent=1, sort_keys=True).encode())
        except MammothError as error:
            _warn_once(f"what was measured is not kept for the next run: {error}")
    return known[name]


def replays(functions: Sequence[Callable[[], Any]], count: int = 5) -> list[float]:
    """Times functions on the current GPU, in a CUDA graph that calls each once.

    Args:
        functions: Each launches work on the current stream and waits for nothing.
        count: How often the graph is replayed, after a first time that does not count.

    Returns:
        Milliseconds per call, one figure a replay.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for function in functions:  # compiles, and lets libraries choose their algorithms
            function()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for function in functions:
                function()
        times = []
        for _ in range(count + 1):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / len(functions))
    torch.cuda.current_stream().wait_stream(stream)
    return times[1:]


def _measure(ways: Callable[[], Ways], device: torch.device) -> dict[str, float]:
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    # The graph at hand is traced with fake tensors; random numbers stay the caller's.
    with unset_fake_temporarily(), torch.cuda.device(device), torch.random.fork_rng([device]):
        torch.cuda.synchronize()
        return {name: _median(function) for name, function in ways().items()}


def _median(function: Callable[[], Any]) -> float:
    """Returns milliseconds, infinity for a way that takes more of this GPU than it has."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources

    try:
        return statistics.median(replays([function] * _CALLS))
    except (CompilationError, OutOfResources, torch.OutOfMemoryError):
        return math.inf


def _path(device: torch.device) -> Path:
    import triton

    name = torch.cuda.get_device_name(device).replace(" ", "-")
    versions = f"torch-{torch.__version__}-triton-{triton.__version__}"
    return user_cache() / f"fastest-{name}-{versions}.json"


def _read(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or damaged: it is measured again
        return {}
    return known if isinstance(known, dict) else {}


@functools.cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=2)
