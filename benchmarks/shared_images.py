"""How much memory do several seeds take, and how long until they train, with images loaded once?

    python benchmarks/shared_images.py [--workers 4] [--data_dir DIR]

Runs ER with `mnistmlp` on all of Fashion-MNIST (60,000 + 10,000 images of 32x32x3, 205 MB),
several seeds side by side, until every one has trained a second or two, and then ends them: once
forked from a process that has loaded modules and images, and once from one that has loaded modules
only. USS is memory of a process alone, PSS also its share of what processes have in common (Linux,
`/proc/PID/smaps_rollup`). Seconds are from the start of the command until every run trains.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import write_results

# Runs a command line of the package in a process that cannot be forked.
NOT_SHARED = """
import sys
from mammoth_compiled.sweep import processes
processes.can_fork = lambda: False
from mammoth_compiled.run import run
run(sys.argv[1:])
"""
WAYS = {"shared": ["-m", "mammoth_compiled.run"], "not shared": ["-c", NOT_SHARED]}


def memory(pid):
    """Returns USS and PSS of a process in MB."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.replace(":", " ").split()
        fields[name] = int(value) / 1024
    return fields["Private_Clean"] + fields["Private_Dirty"], fields["Pss"]


def children(pid):
    """Returns the process ids of all descendants."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    direct = [int(child) for task in tasks for child in task.read_text().split()]
    return [*direct, *(below for child in direct for below in children(child))]


def measure(program, workers, data_dir):
    """Returns the memory of the runs and the seconds until all of them trained."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--model", "er", "--dataset", "seq-fmnist", "--backbone", "mnistmlp"]
        words += ["--input_size", "3072", "--buffer_size", "200", "--n_epochs", "100"]
        words += ["--compile", "off", "--seeds", f"0-{workers - 1}", "--workers", str(workers)]
        words += ["--log", "csv", "--log_every", "1", "--out", "out"]
        words += ["--data_dir", data_dir] if data_dir else []
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *program, *words],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        logs = [Path(folder) / "out" / f"seed={n}" / "metrics.csv" for n in range(workers)]
        while not all(log.exists() and log.stat().st_size > 1000 for log in logs):
            time.sleep(0.05)
            assert process.poll() is None
        seconds = time.perf_counter() - start
        found = {pid: memory(pid) for pid in children(process.pid)}
        # Runs lead a session each; the other processes belong to multiprocessing.
        sessions = [pid for pid in found if _session(pid) == pid]
        assert len(sessions) == workers
        row = {
            "run_uss_mb": [round(found[pid][0]) for pid in sessions],
            "run_pss_mb": [round(found[pid][1]) for pid in sessions],
            "all_pss_mb": round(sum(pss for _, pss in found.values()) + memory(process.pid)[1]),
            "all_train_after_s": round(seconds, 1),
        }
        for pid in (*sessions, process.pid):
            subprocess.run(["kill", "-9", str(pid)], check=False)
        process.wait()
    return row


def _session(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[3])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--data_dir")
    args = parser.parse_args()
    rows = {}
    for name, program in WAYS.items():
        rows[name] = measure(program, args.workers, args.data_dir)
        print(name, rows[name], flush=True)
    write_results("shared_images", {"workers": args.workers, **rows})


if __name__ == "__main__":
    main()
