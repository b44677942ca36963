"""Finds the fastest tile of every Triton kernel on the GPU at hand, case by case."""

import json
import math
import shutil
import statistics
from collections import defaultdict

from gpu_timing import DEVICE, DRY, few, in_turn, stop_if_broken, time_replays

from mammoth_compiled.kernels.discovery import tuning_cases
from mammoth_compiled.kernels.runtime import tiles
from mammoth_compiled.kernels.runtime.tiles import override_tiles

# The implementations of Triton kernels; the second shares kernels with the first.
OURS = ("triton", "unpooled")


def tune(context):
    """Times all candidates of one kernel at a time, with the other kernels as chosen so far.

    Yields a row per case, with microseconds of the first candidate and of the fastest one by
    kernel; each is written to the chip's table at once.
    """
    best = defaultdict(dict)
    for case in few(
        in_turn(tuning_cases()), lambda case: case.op, lambda case: case.work().num_flops
    ):
        row = {"op": case.op, "problem": str(case)}
        if context.is_over():
            yield {**row, "left_out": "out of time"}
            continue
        try:
            steps = case.make_steps(DEVICE)
            row["kernels"] = {}
            for name in OURS:
                if name in steps:
                    row["kernels"] |= tune_step(steps[name], best)
        except Exception as error:  # one case must not cost the others
            stop_if_broken(error)
            row["failed"] = f"{type(error).__name__}: {error}"[:500]
        write_table(dict(best), context.out)
        yield row


def tune_step(step, best):
    """Adds the fastest configuration of every kernel of a step that is not in `best` yet.

    Returns:
        Microseconds of the step by kernel, with its first and with its fastest candidate.
    """
    candidates = find_candidates(step)
    chosen = {kernel: found[0] for kernel, (_, found) in candidates.items()}
    gains = {}
    for kernel, (key, found) in candidates.items():
        if key in best[kernel]:
            chosen[kernel] = next(tile for tile in found if str(tile) == best[kernel][key])
            continue
        times = {tile: _time(step, {**chosen, kernel: tile}) for tile in found}
        first = found[0]
        chosen[kernel] = min(times, key=times.get)
        best[kernel][key] = str(chosen[kernel])
        gains[kernel] = {
            "first_us": round(1e3 * times[first], 2),
            "best_us": round(1e3 * times[chosen[kernel]], 2),
            "candidates": len(found),
        }
    return gains


def _time(step, trial):
    """Milliseconds of a step; infinity if a tile exceeds the resources of this GPU."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources

    try:
        with override_tiles(lambda _, found: trial[found[0].kernel]):
            return statistics.median(time_replays([step] * 10))
    except (CompilationError, OutOfResources):
        return math.inf


def find_candidates(step):
    """Kernel -> (its key of the case, its candidates), forward and backward kernels alike."""
    found = {}

    def note(key, candidates):
        found[candidates[0].kernel] = (key, candidates)
        return candidates[0]

    with override_tiles(note):
        step()
    return found


def _merged(table, changes):
    """Returns a table with changes, which are tables, too, or entries."""
    if not isinstance(changes, dict) or not isinstance(table, dict):
        return changes
    return {**table, **{key: _merged(table.get(key), new) for key, new in changes.items()}}


def write_table(changes, out):
    """Updates the table of this chip that ships with the package, and copies it to a folder."""
    if DRY:
        return
    chip = tiles.chip_name(DEVICE)
    path = tiles.tuned_path(chip)
    path.parent.mkdir(exist_ok=True)
    table = _merged(tiles.tuned_table(chip), changes)
    path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    tiles.clear_cache()
    shutil.copy(path, out)
