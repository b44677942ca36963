"""Autotuning of matched subgraphs.

On a GPU a lookup goes through the tables that ship with the kernels, then this machine's cache. On
a miss, all implementations that apply are timed during compilation, which takes some milliseconds,
and the winner is cached. On a CPU the first implementation that applies is used; thresholds from
committed benchmarks are part of the implementations.
"""

import functools
import json
import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mammoth_compiled.compiler.fingerprint import source_hash
from mammoth_compiled.errors import MammothError
from mammoth_compiled.files import user_cache, write_atomically
from mammoth_compiled.kernels.runtime.cases import TuningCase
from mammoth_compiled.kernels.runtime.implementations import Implementation
from mammoth_compiled.kernels.runtime.tiles import chip_name, tuned_table

_CALLS_PER_GRAPH = 10  # so that launching the graph does not count


def select(
    implementations: Sequence[Implementation],
    device: torch.device,
    make_case: Callable[[], TuningCase],
) -> Implementation:
    """Returns the implementation to use.

    Args:
        implementations: Those that can take the arguments and may be the fastest, in order of
            preference; at least one.
        device: Device of the arguments.
        make_case: Returns the case that is looked up or timed; called only if there is a choice on
            a GPU.
    """
    if device.type != "cuda" or len(implementations) == 1:
        return implementations[0]
    names = [implementation.name for implementation in implementations]
    return implementations[names.index(fastest(make_case(), device, names))]


def fastest(case: TuningCase, device: torch.device, names: Sequence[str]) -> str:
    """Returns the name of the fastest implementation of a case on a GPU.

    Args:
        case: The case.
        device: A CUDA device.
        names: The implementations to choose from.
    """
    winners = tuned_table(chip_name(device)).get("winners", {})
    shipped = winners.get(case.op, {}).get(str(case), "")
    if shipped in names:
        return str(shipped)
    path = _cache_path(device)
    cached = _read(path)
    key = f"{case.op} {case}"
    if cached.get(key) not in names:
        times = _measure(case, device, names)
        # Another process may have measured meanwhile.
        cached = {**_read(path), key: min(times, key=lambda name: times[name])}
        try:
            write_atomically(path, json.dumps(cached, indent=1, sort_keys=True).encode())
        except MammothError as error:
            _warn_once(f"autotuning results are not kept for the next run: {error}")
    return cached[key]


def time_replays(functions: Sequence[Callable[[], Any]], count: int = 5) -> list[float]:
    """Times functions on the current GPU in a CUDA graph that calls each once.

    Args:
        functions: Each launches work on the current stream, without a host sync.
        count: Number of timed replays, after one that does not count.

    Returns:
        Milliseconds per call, one number per replay.
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


def _measure(case: TuningCase, device: torch.device, names: Sequence[str]) -> dict[str, float]:
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    # The graph being compiled is traced with fake tensors; the user's random state stays as it is.
    with unset_fake_temporarily(), torch.cuda.device(device), torch.random.fork_rng([device]):
        torch.cuda.synchronize()
        steps = case.make_steps(device)
        return {name: _median_time(step) for name, step in steps.items() if name in names}


def _median_time(step: Callable[[], Any]) -> float:
    """Returns milliseconds, infinity if the implementation exceeds the resources of this GPU."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources

    try:
        return statistics.median(time_replays([step] * _CALLS_PER_GRAPH))
    except (CompilationError, OutOfResources, torch.OutOfMemoryError):
        return math.inf


def _cache_path(device: torch.device) -> Path:
    import triton

    name = torch.cuda.get_device_name(device).replace(" ", "-")
    versions = f"torch-{torch.__version__}-triton-{triton.__version__}-{source_hash()}"
    return user_cache() / f"fastest-{name}-{versions}.json"


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing or damaged: measure again
        return {}
    return content if isinstance(content, dict) else {}


@functools.cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=2)
