"""The tests that matter on a GPU, in order of value: those that use it come first.

Those of contracts and units run on the CPU there, too, which shows that they do not need the GPU.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from gpu_timing import DRY

TESTS = Path(__file__).resolve().parents[1] / "tests"
# Kernels in C++ run on the CPU.
_CPU_KERNELS = ("conv3x3", "cpp", "library_cache")
# Seconds that must be left for a group: one that is cut off looks like one that failed.
_SECONDS = {"contract": 180}
_WORD = "(PASSED|FAILED|ERROR|SKIPPED)"
# As pytest-xdist writes it, and as pytest does without it.
_VERDICT = re.compile(rf"^\[gw.*\] {_WORD} (tests/\S+)|^(tests/\S+) {_WORD}")


def run_checks(context):
    """Yields a row per group of tests: counts, the tests that failed, and what else went wrong."""
    if not TESTS.is_dir():
        yield {"group": "all", "passed": None, "left_out": "there are no tests beside this script"}
        return
    for group, words in _groups().items():
        left = context.deadline - time.monotonic()
        if left < _SECONDS.get(group, 0) or context.is_over():
            yield {"group": group, "passed": None, "left_out": "out of time: use --only checks"}
        else:
            yield {"group": group, **_run(group, words, context)}


def _groups():
    if DRY:
        return {"dry": ["--collect-only", "--noconftest", "tests/kernels/test_tiles.py"]}
    files = sorted(path for path in TESTS.rglob("test_*.py"))
    marked = [path for path in files if "pytest.mark.gpu" in path.read_text()]
    kernels = [
        path
        for path in sorted((TESTS / "kernels").glob("test_*.py"))
        if not any(word in path.name for word in _CPU_KERNELS)
    ]
    return {
        "gpu": ["-m", "gpu", *map(str, marked)],
        "kernels": ["-m", "not gpu", *map(str, kernels)],
        **{
            name: ["-m", "not gpu and not slow", str(TESTS / name)]
            for name in ("compiled", "unit", "contract")
        },
    }


def _run(group, words, context):
    path = context.out / f"gpu_tests_{group}.log"
    # -P: else the checkout hides an installed wheel.
    command = [sys.executable, "-P", "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
    command += ["-p", "gpu_failures"]
    command += ["-p", "no:benchmark"]  # pytest-benchmark, if installed, warns beside xdist
    command += [] if DRY else ["-n", "8"]
    here = str(Path(__file__).parent)
    paths = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    with path.open("w") as log:
        tests = subprocess.Popen(
            [*command, *words],
            cwd=TESTS.parent,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": paths},
        )
        try:
            code = tests.wait(max(5, context.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            tests.send_signal(signal.SIGINT)  # prints a summary
            try:
                tests.wait(5)
            except subprocess.TimeoutExpired:
                tests.kill()
            code = None
    text = path.read_text()
    path.unlink()
    return summary(text, code)


def summary(text, code):
    """Returns what a log of `pytest -v` says: also of one that was stopped (exit code None)."""
    verdicts = {}
    for line in text.splitlines():
        if match := _VERDICT.search(line):
            verdicts[match[2] or match[3]] = match[1] or match[4]
    row = {"passed": code in (0, 5), **{k.lower(): n for k, n in _counts(verdicts).items()}}
    bad = [name for name, verdict in verdicts.items() if verdict in ("FAILED", "ERROR")]
    if bad:
        row["names"] = bad
    if code is None:
        row["stopped"] = "out of time"
    if not row["passed"]:
        row["log"] = text[-20_000:]
    return row


def _counts(verdicts):
    counts = Counter(verdicts.values())
    return {f"num_{name}": counts[name] for name in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
