"""Measures how long a model file takes for one image."""

import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.capture.interface import Interface
from mammoth_compiled.export.parity.measure import open_model

# Calls that are not counted: the first ones load and optimize.
WARMUP_CALLS = 3
MAX_CALLS = 50
MAX_SECONDS = 0.3


def measure_latency(
    directory: Path, files: Sequence[File], interface: Interface, device: torch.device
) -> list[File]:
    """Measures the time of a call with one image of every model file with the output `out`.

    Args:
        directory: The directory that holds the files.
        files: Entries of model files and others.
        interface: The contract of the model files.
        device: Where files compiled for a device run; portable files run on the CPU.

    Returns:
        The entries, with `latency`: `median_ms`, `calls` and `machine`.
    """
    return [
        replace(file, latency=_measure(directory, file, interface, device))
        if "out" in file.outputs
        else file
        for file in files
    ]


def _measure(
    directory: Path, file: File, interface: Interface, device: torch.device
) -> dict[str, float | str]:
    run = open_model(directory, file, device=device)
    image = interface.example(1)
    for _ in range(WARMUP_CALLS):
        run(image)
    times: list[float] = []
    while len(times) < MAX_CALLS and sum(times) < MAX_SECONDS:
        start = time.perf_counter()
        run(image)["out"].cpu()  # waits for a GPU
        times.append(time.perf_counter() - start)
    is_gpu = file.requires.get("device") == "cuda" and device.type == "cuda"
    machine = torch.cuda.get_device_name(device) if is_gpu else _cpu()
    return {
        "median_ms": round(1000 * statistics.median(times), 4),
        "calls": len(times),
        "machine": machine,
    }


def _cpu() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} CPU with {capability}, {len(os.sched_getaffinity(0))} cores"
