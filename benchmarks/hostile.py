"""Hostile inputs, full disks, signals and kills: what the commands and readers do with them.

    python benchmarks/hostile.py [--kinds arguments checkpoints ...] [--every 1]
        [--kills 20] [--sweep_kills 24]

Every input runs in a process of its own, forked from this one, or shares one with others that are
read quickly. Per kind it counts clear errors (one line that begins with `error:`, exit code 1 or 2,
nothing left behind), inputs that are accepted because they are valid or cannot do harm, and eight
kinds of faults, all of which must be 0. `--kills` runs are killed with SIGKILL at random moments
and resumed with the same command; their results and bundle must equal those of a run that was not.
So are `--sweep_kills` grids, searches and runs over seeds, as a whole or one of their processes; no
run that had finished may be trained again.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

import torch
from common import RESULTS, write_results

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from hostile_inputs import (
    binaries,
    command_lines,
    images,
    kills,
    processes,
    result_files,
    sweep_kills,
    texts,
)
from hostile_inputs.harness import BAD, GOOD, judge, prepare, seconds_since

# All that a forked process would have to import.
MODULES = ("public", "run", "training", "sweep.__main__", "sweep.sweep", "sweep.worker")
MODULES += (
    "report.__main__",
    "compat.__main__",
    "export.__main__",
    "export.formats",
    "export.serving",
)


def inputs(files):
    """Yields all inputs, given the directory of `binaries.make_files`."""
    yield from command_lines.arguments()
    yield from command_lines.combinations()
    yield from command_lines.other_commands()
    yield from command_lines.environment()
    yield from texts.configurations()
    yield from texts.sweeps()
    yield from result_files.results()
    yield from texts.programs()
    yield from binaries.checkpoints(files)
    yield from binaries.bundles(files)
    yield from images.images()
    yield from images.caches()
    yield from processes.outputs(files)
    yield from processes.full_disks()
    yield from processes.signals(files)


def in_directory(directory, call):
    """Calls a function in a new working directory."""
    directory = directory / "cwd"
    directory.mkdir(parents=True)
    os.chdir(directory)
    try:
        return call()
    finally:
        os.chdir("/")


def kill_runs(count):
    """Kills and resumes runs; returns totals, with what went wrong."""
    base = Path(tempfile.mkdtemp(prefix="hostile-kills-"))

    def whole():
        assert not kills.killed_run(kills.MOMENTS[0], 0, {}, kills=0)
        return kills.outcome_of_run()

    expected = in_directory(base / "whole", whole)
    draw = random.Random(0)
    totals = {moment: {"runs": 0, "equal": 0} for moment in kills.MOMENTS}
    wrong = []
    for i in range(count):
        moment = kills.MOMENTS[i % len(kills.MOMENTS)]
        delay = draw.uniform(0, 0.3)
        fault = in_directory(
            base / str(i), lambda m=moment, d=delay: kills.killed_run(m, d, expected)
        )
        totals[moment]["runs"] += 1
        totals[moment]["equal"] += not fault
        wrong += [f"{moment}, {delay:.3f} s: {fault}"] if fault else []
        print(f"kill {i + 1} of {count}, {moment}: {fault or 'equal'}", flush=True)
    shutil.rmtree(base, ignore_errors=True)
    return {"moments": totals, "wrong": wrong}


def kill_sweeps(count):
    """Kills and continues grids, searches and runs over seeds; returns totals likewise."""
    base = Path(tempfile.mkdtemp(prefix="hostile-sweeps-"))
    draw = random.Random(0)
    totals, wrong, expected = {}, [], {}

    def killed(name, target, kills):
        fault = sweep_kills.killed_sweep(name, target, draw, expected.get(name, {}), kills)
        return fault, sweep_kills.outcome_of_sweep()

    for name in sweep_kills.COMMANDS:
        fault, outcome = in_directory(base / name, lambda n=name: killed(n, "sweep", 0))
        assert not fault, fault
        expected[name] = outcome
    for i in range(count):
        name = list(expected)[i % len(expected)]
        target = sweep_kills.TARGETS[i // len(expected) % len(sweep_kills.TARGETS)]
        fault, _ = in_directory(base / str(i), lambda n=name, t=target: killed(n, t, 2))
        what = f"{name}, {target} killed"
        counts = totals.setdefault(what, {"runs": 0, "equal": 0})
        counts["runs"] += 1
        counts["equal"] += not fault
        wrong += [f"{what}: {fault}"] if fault else []
        print(f"sweep {i + 1} of {count}, {what}: {fault or 'equal'}", flush=True)
    shutil.rmtree(base, ignore_errors=True)
    return {"moments": totals, "wrong": wrong}


def merged(folder, kinds, faults, killed, killed_sweeps):
    """Returns the contents of the results file; what was not run keeps its totals.

    The fuzzers run by themselves; their totals are written by hand.
    """
    path = folder / "hostile.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    kept = [fault for fault in old.get("faults", []) if fault.split(": ")[1] not in kinds]
    every = {**old.get("kinds", {}), **kinds}
    return {
        "inputs": sum(counts["inputs"] for counts in every.values()),
        "kinds": every,
        "faults": [*kept, *faults],
        "kills": killed or old.get("kills", {"moments": {}, "wrong": []}),
        "sweep_kills": killed_sweeps or old.get("sweep_kills", {"moments": {}, "wrong": []}),
        "fuzzing": old.get("fuzzing", []),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", help="Only these kinds of inputs.")
    parser.add_argument("--every", type=int, default=1, help="Only each Nth input of a kind.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--sweep_kills", type=int, default=24)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    os.environ["MAMMOTH_CACHE_DIR"] = tempfile.mkdtemp(prefix="hostile-cache-")
    torch.set_num_threads(1)
    for name in MODULES:
        import_module(f"mammoth_compiled.{name}")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hostile-files-") as directory:
        files = Path(directory)
        prepare(lambda: binaries.make_files(files))
        chosen = [item for item in inputs(files) if args.kinds is None or item.kind in args.kinds]
        totals, faults = {}, []
        for verdict in judge(chosen[:: args.every]):
            counts = totals.setdefault(verdict.kind, Counter())
            counts[verdict.outcome] += 1
            if verdict.is_bad:
                faults.append(f"{verdict.outcome}: {verdict.kind}: {verdict.what}")
                print(f"{faults[-1]}\n    {verdict.detail}", flush=True)
    kinds = {
        kind: {"inputs": counts.total(), **{name: counts[name] for name in (*GOOD, *BAD)}}
        for kind, counts in totals.items()
    }
    for kind, counts in kinds.items():
        bad = ", ".join(f"{counts[name]} {name}" for name in BAD if counts[name])
        print(f"{kind:20} {counts['inputs']:6} inputs: {bad or 'no fault'}")
    print(f"{seconds_since(started)} s")
    killed = kill_runs(args.kills) if args.kills else None
    sweeps = kill_sweeps(args.sweep_kills) if args.sweep_kills else None
    content = merged(args.output, kinds, faults, killed, sweeps)
    print("written:", write_results("hostile", content, args.output))
    sys.exit(bool(faults or any(total and total["wrong"] for total in (killed, sweeps))))


if __name__ == "__main__":
    main()
