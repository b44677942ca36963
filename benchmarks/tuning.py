"""Finds the fastest tile of every Triton kernel on the GPU at hand, case by case."""

import statistics
import time
from collections import defaultdict

from gpu_timing import DEVICE, time_replays

from mammoth_compiled.kernels.runtime.tiles import override_tiles

# The implementations of Triton kernels; the second shares kernels with the first.
OURS = ("triton", "unpooled")


def tune(cases, deadline):
    """Times all candidates of one kernel at a time, with the other kernels as chosen so far.

    Args:
        cases: `TuningCase`s.
        deadline: When to stop, in the time of `time.monotonic`.

    Returns:
        Kernel -> case -> the fastest configuration, and the cases that were left out.
    """
    best = defaultdict(dict)
    left_out = []
    for case in cases:
        if time.monotonic() > deadline:
            left_out.append(str(case))
            continue
        steps = case.make_steps(DEVICE)
        for name in OURS:
            if name in steps:
                tune_step(steps[name], best)
    return dict(best), left_out


def tune_step(step, best):
    """Adds the fastest configuration of every kernel of a step that is not in `best` yet."""
    candidates = find_candidates(step)
    chosen = {kernel: tiles[0] for kernel, (_, tiles) in candidates.items()}
    for kernel, (key, tiles) in candidates.items():
        if key in best[kernel]:
            chosen[kernel] = next(tile for tile in tiles if str(tile) == best[kernel][key])
            continue
        times = {}
        for tile in tiles:
            trial = {**chosen, kernel: tile}
            with override_tiles(lambda _, found, t=trial: t[found[0].kernel]):
                times[tile] = statistics.median(time_replays([step] * 10))
        chosen[kernel] = min(times, key=times.get)
        best[kernel][key] = str(chosen[kernel])


def find_candidates(step):
    """Kernel -> (its key of the case, its candidates), forward and backward kernels alike."""
    found = {}

    def note(key, tiles):
        found[tiles[0].kernel] = (key, tiles)
        return tiles[0]

    with override_tiles(note):
        step()
    return found
