"""Runs that are killed with SIGKILL at a moment of interest, and resumed."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hostile_inputs.binaries import RUN
from hostile_inputs.harness import TEMPORARY, start
from hostile_inputs.processes import wrong_files
from mammoth_compiled.results.schema import read_results_file

KILLED = ["--results_path=results.json", "--checkpoint_path=saved", "--out=off", "--resume"]
KILLED += ["--checkpoint_every=1", "--export=bundle", "--formats=onnx,safetensors"]
KILLED += ["--export_each_task"]
MOMENTS = ("in a task", "between tasks", "during export", "during update")


def _is_moment(moment: str) -> bool:
    """Returns whether a run in the working directory is doing something, as its files tell."""
    exports = any(Path().glob(".bundle.*.new"))
    if moment == "during export":
        return exports and not Path("bundle").exists()
    if moment == "during update":
        return exports and Path("bundle").exists()
    if moment == "between tasks":
        return any(Path("saved").glob(".*_task[1-9].pt.tmp"))
    return any(Path("saved").glob("*_step*.pt"))


def outcome_of_run() -> Mapping[str, Any]:
    """Returns what must be equal after any number of kills: results and weights of the bundle."""
    results = read_results_file("results.json")
    names = ("class_il", "task_il", "loss", "train_images", "confusion")
    found: dict[str, Any] = {name: results[name] for name in names}
    found["weights"] = Path("bundle/weights.safetensors").read_bytes()
    found["golden"] = sorted((p.name, p.read_bytes()) for p in Path("bundle/golden").iterdir())
    return found


def killed_run(moment: str, delay: float, expected: Mapping[str, Any], kills: int = 2) -> str:
    """Kills a run in an empty working directory, resumes it, and says what is wrong then.

    Args:
        moment: One of `MOMENTS`.
        delay: Seconds from the moment to the kill.
        expected: `outcome_of_run` of a run that was not killed.
        kills: Largest number of kills; the run may end before.
    """
    for _ in range(kills):
        child = start("run", *RUN, *KILLED)
        while (ended := os.waitpid(child, os.WNOHANG)[0]) == 0 and not _is_moment(moment):
            time.sleep(0.002)
        time.sleep(delay)
        if not ended:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if os.waitpid(start("run", *RUN, *KILLED), 0)[1]:
        return f"the resumed run failed: {Path('../log').read_text()[-500:]}"
    if stale := [p.name for p in Path().rglob("*") if TEMPORARY.fullmatch(p.name)]:
        return f"left {', '.join(stale)}"
    found = outcome_of_run()
    differing = [name for name in expected if found[name] != expected[name]]
    return f"other {', '.join(differing)}" if differing else wrong_files()
