"""Where the GPU benchmarks run: on CUDA, or with MAMMOTH_DRY=1 on the CPU, with hardly any work.

A dry run tries the scripts out where there is no GPU. Its numbers mean nothing.
"""

import contextlib
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from mammoth_compiled.compiler import autotune

DRY = os.environ.get("MAMMOTH_DRY") == "1"
DEVICE = torch.device("cpu" if DRY else "cuda")
if DRY:
    torch.set_num_threads(1)  # the machine may be busy
# Where the engine compiles; see `dry_compiler`.
_COMPILES = ("mammoth_compiled.engine.forward", "mammoth_compiled.engine.whole_step")


@dataclass(frozen=True)
class Context:
    """What a section of `gpu.py` gets.

    Attributes:
        out: The folder of results.
        deadline: When to stop, in the time of `time.monotonic`.
    """

    out: Path
    deadline: float

    def is_over(self):
        """Whether the time of the section has passed."""
        return time.monotonic() > self.deadline


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


def few(cases, key=lambda case: None, size=lambda case: 0):
    """Returns all cases, or of a dry run the smallest of each kind, the first among equals."""
    cases = list(cases)
    if not DRY:
        return cases
    # The last of equal keys stays: sorted by size, that is the first of the smallest.
    ordered = sorted(reversed(cases), key=size, reverse=True)
    return list({key(case): case for case in ordered}.values())


def in_turn(cases):
    """Returns the cases so that operations take turns: if time runs out, each has got some."""
    groups = {}
    for case in cases:
        groups.setdefault(case.op, []).append(case)
    turns = itertools.zip_longest(*groups.values())
    return [case for turn in turns for case in turn if case is not None]


def stop_if_broken(error):
    """Raises an error after which CUDA computes nothing more in this process."""
    if "CUDA error" in str(error):
        raise error


@contextlib.contextmanager
def dry_compiler():
    """Lets dry runs trace what they compile, but not generate code, which takes longer."""
    if not DRY:
        yield
        return
    from mammoth_compiled.compiler.compat import compile_function

    def trace(function, **kwargs):
        return compile_function(function, **{**kwargs, "backend": "aot_eager", "options": None})

    with contextlib.ExitStack() as stack:
        for module in _COMPILES:
            stack.enter_context(mock.patch(f"{module}.compile_function", trace))
        yield
