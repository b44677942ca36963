"""Shared by the benchmark scripts: interleaved timing, spread, and JSON results."""

import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(
    functions: dict[str, Callable[[], Any]], rounds: int, calls: int
) -> dict[str, list[float]]:
    """Times functions interleaved, so that other load on the machine affects all of them.

    Returns:
        Milliseconds per call, by function, one value per round.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(calls):
                function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(1e3 * (time.perf_counter() - start) / calls)
    return times


def fresh_process() -> ProcessPoolExecutor:
    """Returns a new process that runs submitted functions sequentially.

    Compared implementations run in separate processes, because the state of a process's memory
    allocator depends on everything that ran before, and affects the time of a step.
    """
    start = multiprocessing.get_start_method()
    return ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_set_start_method,
        initargs=(start,),
    )


def _set_start_method(method: str) -> None:
    """Keeps DataLoader workers from being spawned too, which would import torch first."""
    multiprocessing.set_start_method(method, force=True)


def spread(values: list[float]) -> dict[str, Any]:
    """Returns the median, the 20th and 80th percentiles and the number of values."""
    cuts = statistics.quantiles(values, n=5) if len(values) > 1 else [values[0]] * 4
    return {"median": statistics.median(values), "p20": cuts[0], "p80": cuts[3], "n": len(values)}


def mean_and_deviation(values: Sequence[float]) -> dict[str, Any]:
    """Returns the mean, the standard deviation (None of one value), the number and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "sd": deviation, "n": len(values), "values": values}


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> dict[str, Any]:
    """Returns the spread of the speedup of `fast` over `slow`, computed round by round."""
    return spread([a / b for a, b in zip(times[slow], times[fast], strict=True)])


def environment() -> dict[str, Any]:
    """Returns the hardware, the versions, the commit and the date."""
    import torchvision

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    root = Path(__file__).parent
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        commit = done.stdout.strip()
    except FileNotFoundError:  # a machine may have a copy of the files, and no git
        commit = ""
    return {
        "cpu": cpu,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "triton": triton_version,
        "commit": commit,
        "date": date.today().isoformat(),
    }


def write_results(name: str, results: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Writes `NAME.json` to a folder and returns its path."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"environment": environment(), **results}, indent=2) + "\n")
    return path
