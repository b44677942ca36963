"""How long do several seeds take, side by side and one after another?

    python benchmarks/seeds.py [--backbones cnn reduced-resnet18] [--seeds 4] [--rounds 3]

Runs ER on `seq-fmnist-mini`, one epoch per task, as whole processes with warm caches, interleaved:
one seed, with all threads of the machine; all seeds with one worker, which has all threads; all
seeds with one worker per core and the threads divided. Times are seconds from start to exit.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import spread, write_results

RUN = ["--model", "er", "--dataset", "seq-fmnist-mini", "--buffer_size", "200", "--n_epochs", "1"]


def seconds(backbone, *words):
    """Returns the seconds of a run in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mammoth_compiled.run", *RUN, "--backbone", backbone]
        command += ["--out", str(Path(folder) / "out"), "--compile", "on", *words]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbones", nargs="+", default=["cnn"])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    seeds, cores = f"0-{args.seeds - 1}", len(os.sched_getaffinity(0))
    ways = {
        "one seed": ["--seed", "0"],
        "one worker": ["--seeds", seeds, "--workers", "1"],
        "one worker per core": ["--seeds", seeds, "--workers", str(cores)],
    }
    rows = []
    for backbone in args.backbones:
        for words in ways.values():  # fills the caches of compiled code
            seconds(backbone, *words)
        times = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, words in ways.items():
                times[name].append(seconds(backbone, *words))
        one = sorted(times["one seed"])[args.rounds // 2]
        row = {"backbone": backbone, "seeds": args.seeds, "cores": cores}
        for name, values in times.items():
            row[name] = {**spread(values), "ratio": sorted(values)[args.rounds // 2] / one}
            print(f"{backbone:<18} {name:<20} {row[name]}")
        rows.append(row)
    write_results("seeds", {"rows": rows})


if __name__ == "__main__":
    main()
