"""Compiles the candidate tiles of all kernels on all cores, so that tuning finds them cached."""

import multiprocessing
import os
import zlib
from concurrent.futures import ProcessPoolExecutor, as_completed

from gpu_timing import DEVICE, DRY
from tuning import OURS, find_candidates

from mammoth_compiled.kernels.discovery import tuning_cases
from mammoth_compiled.kernels.runtime.launch import record_launches
from mammoth_compiled.kernels.runtime.resources import launch_key
from mammoth_compiled.kernels.runtime.tiles import override_tiles


def compile_tiles(context):
    """Yields rows: how many candidates each process compiled, and how many do not compile."""
    workers = 1 if DRY else max(1, min(12, (os.cpu_count() or 1) - 2))
    # Not forked: a process with a CUDA context cannot be.
    start = multiprocessing.get_context("fork" if DRY else "spawn")
    with ProcessPoolExecutor(workers, start) as pool:
        parts = [pool.submit(_compile, part, workers, context) for part in range(workers)]
        for part in as_completed(parts):
            yield part.result()


def _compile(part, parts, context):
    """Compiles every launch that falls to one of several processes."""
    row = {"compiled": 0, "failed": 0, "out_of_time": 0}
    seen = set()
    for case in tuning_cases()[-1:] if DRY else tuning_cases():
        for launch in candidate_launches(case):
            key = launch_key(launch)
            name = f"{launch.kernel.__name__} {key}"
            if key in seen or zlib.crc32(name.encode()) % parts != part:
                continue
            seen.add(key)
            if context.is_over():
                row["out_of_time"] += 1
                continue
            try:
                compile_as_launched(launch)
            except Exception as error:  # the compiler's errors share no base class
                row["failed"] += 1
                row["error"] = f"{launch.config}: {error}"[:500]
            else:
                row["compiled"] += 1
    return row


def candidate_launches(case):
    """Yields the launches of a case with every candidate; nothing runs."""
    steps = case.make_steps(DEVICE)
    for name in OURS:
        if name not in steps:
            continue
        with record_launches():
            candidates = find_candidates(steps[name])
        for number in range(max((len(tiles) for _, tiles in candidates.values()), default=0)):

            def pick(_, tiles, number=number):
                return tiles[min(number, len(tiles) - 1)]

            with record_launches() as launches, override_tiles(pick):
                steps[name]()
            yield from launches


def compile_as_launched(launch):
    """Compiles a kernel as Triton's launcher does, which then finds it in the cache on disk."""
    config = launch.config
    launch.kernel.warmup(
        *launch.args,
        grid=launch.grid,
        **launch.constants,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
