"""Sweeps whose processes are killed with SIGKILL at random moments, and continued."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hostile_inputs.harness import TEMPORARY
from mammoth_compiled.results import Results
from mammoth_compiled.results.schema import read_results_file

FIXED = """
model: er
dataset: seq-fmnist-mini
backbone: mnistmlp
hidden_size: 4
buffer_size: 20
batch_size: 8
compile: off
debug_mode: true
stop_after: 3
checkpoint_every: 2
"""
# Contents of sweep.yaml and the words of the command.
COMMANDS = {
    "grid": ("lr: [0.1, 0.05]\nseed: [0, 1]\n", ["sweep", "sweep.yaml", "--out=all"]),
    "search": (
        "lr: {low: 0.01, high: 0.2}\noptimizer: [sgd, adam]\nseed: [0, 1]\nvalidation: 0.1\n"
        "sweep: {method: random, trials: 2}\n",
        ["sweep", "sweep.yaml", "--out=all"],
    ),
    "seeds": ("", ["run", "--config=sweep.yaml", "--seeds=0-3", "--resume", "--out=all"]),
}
# Who is killed: the process of the sweep, or one of those that train.
TARGETS = ("sweep", "worker")


def _start(words: list[str]) -> subprocess.Popen[bytes]:
    """Starts a sweep in a new process, which forks those of its runs, and waits for its first fork.

    A fork of this process could not fork: libraries may have threads here.
    """
    with open("../log", "ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", f"mammoth_compiled.{words[0]}", *words[1:], "--workers=2"],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while child.poll() is None and not _children(child.pid):
        time.sleep(0.02)
    return child


def _children(parent: int) -> list[int]:
    """Returns the processes that a process has forked, and that have not ended."""
    try:
        text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    except OSError:  # it has just ended
        return []
    return list(map(int, text.split()))


def _workers(parent: int) -> list[int]:
    """Returns the processes of runs that a sweep has started and that have not ended."""
    found = []
    for process in _children(parent):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            if os.getpgid(process) == process:
                found.append(process)
    return found


def _finished() -> dict[str, int]:
    """Returns when the results of finished runs were written, by folder."""
    found = {}
    for path in Path("all").glob("*/results.json"):
        if not Results.read_json(path).interrupted:
            found[path.parent.name] = path.stat().st_mtime_ns
    return found


def outcome_of_sweep() -> dict[str, Any]:
    """Returns what must be equal after any number of kills, by run folder."""
    names = ("class_il", "task_il", "loss", "train_images", "confusion")
    paths = sorted(Path("all").glob("*/results.json"))
    found: dict[str, Any] = {
        path.parent.name: [read_results_file(path)[name] for name in names] for path in paths
    }
    best = Path("all/best.yaml")
    return found | {"best.yaml": best.read_bytes() if best.exists() else b""}


def killed_sweep(
    name: str, target: str, draw: random.Random, expected: Mapping[str, Any], kills: int = 2
) -> str:
    """Kills a sweep in an empty working directory, continues it, and says what is wrong then.

    Args:
        name: Key of `COMMANDS`.
        target: One of `TARGETS`.
        draw: Chooses the moments, and the process.
        expected: `outcome_of_sweep` of a sweep that was not killed.
        kills: Number of kills.
    """
    text, words = COMMANDS[name]
    Path("sweep.yaml").write_text(FIXED + text)
    finished: dict[str, int] = {}
    for _ in range(kills):
        child = _start(words)
        time.sleep(draw.uniform(0, 2))
        if target == "sweep" or not (workers := _workers(child.pid)):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.killpg(child.pid, signal.SIGKILL)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(workers), signal.SIGKILL)
        child.wait()  # runs that were not killed go on
        finished |= _finished()
    if _start(words).wait():
        return f"the continued sweep failed: {Path('../log').read_text()[-500:]}"
    if stale := [p.name for p in Path().rglob("*") if TEMPORARY.fullmatch(p.name)]:
        return f"left {', '.join(stale)}"
    now = _finished()
    if again := [folder for folder, when in finished.items() if now.get(folder) != when]:
        return f"finished runs were trained again: {', '.join(again)}"
    found = outcome_of_sweep()
    differing = [key for key in expected | found if found.get(key) != expected.get(key)]
    return f"other {', '.join(differing)}" if expected and differing else ""
