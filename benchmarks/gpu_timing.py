"""Where the GPU benchmarks run: on CUDA, or with MAMMOTH_DRY=1 on the CPU, with hardly any work.

A dry run tries the scripts out where there is no GPU. Its numbers mean nothing.
"""

import os
import time

import torch

from mammoth_compiled.compiler import autotune

DRY = os.environ.get("MAMMOTH_DRY") == "1"
DEVICE = torch.device("cpu" if DRY else "cuda")


def time_replays(functions, count=5):
    """Returns milliseconds per call in a CUDA graph; see `autotune.time_replays`."""
    if not DRY:
        return autotune.time_replays(functions, count)
    start = time.perf_counter()
    functions[0]()
    return [1e3 * (time.perf_counter() - start)] * 2


def synchronize():
    """Waits for the device."""
    if not DRY:
        torch.cuda.synchronize()


def few(cases, key=lambda case: None):
    """Returns all cases, or of a dry run the first of each kind."""
    cases = list(cases)
    return list({key(case): case for case in reversed(cases)}.values()) if DRY else cases
