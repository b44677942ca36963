"""Runs methods over buffers and seeds, and compares them with published figures.

python benchmarks/reproduce.py [--protocols fmnist] [--methods er derpp] [--budget SECONDS]

Every run has a folder; the same command continues where it was stopped and skips what has
finished. The results go to `benchmarks/results/reproduction.json` and `docs/reproduction.md`.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from protocols import METHODS, PROTOCOLS, Protocol

from mammoth_compiled import get_avail_args
from mammoth_compiled.config.experiments import resolve_experiments
from mammoth_compiled.sweep.runs import run_trials
from mammoth_compiled.sweep.trial import Trial, make_trials


def plan(
    protocol: Protocol, methods: Sequence[str], seeds: int, directory: Path, device: str | None
) -> list[Trial]:
    """Returns the runs of a protocol; the first seed of everything comes first."""
    trials = []
    for seed in range(seeds):
        for size in protocol.buffers:
            for method in methods:
                has_buffer = "buffer_size" in get_avail_args(model=method)[0]
                if not has_buffer and size != protocol.buffers[0]:
                    continue
                values = {
                    "model": method,
                    "dataset": protocol.dataset,
                    "backbone": protocol.backbone,
                    "seed": seed,
                    "resume": True,
                    **({"buffer_size": size} if has_buffer else {}),
                    **({"device": device} if device else {}),
                    **protocol.arguments,
                }
                args = resolve_experiments([], values)[0].args
                names = ["model", *(["buffer_size"] if has_buffer else []), "seed"]
                trials += make_trials([args], directory, names)
    return trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--protocols", nargs="+", choices=list(PROTOCOLS), default=["fmnist"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3, help="Number of seeds (default: 3).")
    parser.add_argument("--budget", type=float, help="Start no run after this many seconds.")
    parser.add_argument("--workers", type=int, default=1, help="Runs at the same time.")
    parser.add_argument("--threads", type=int, help="CPU threads of each run.")
    parser.add_argument("--device", help="Device of the runs (default: as in any run).")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="Run folders.")
    args = parser.parse_args()
    deadline = time.monotonic() + (args.budget or float("inf"))

    def in_time(trials: Sequence[Trial]) -> Iterator[Trial]:
        for trial in trials:
            if time.monotonic() > deadline:
                return
            yield trial

    for name in args.protocols:
        trials = plan(PROTOCOLS[name], args.methods, args.seeds, args.out / name, args.device)
        print(f"{name}: {len(trials)} runs", flush=True)
        run_trials(in_time(trials), args.workers, total=len(trials), threads=args.threads)


if __name__ == "__main__":
    main()
