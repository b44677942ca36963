"""The training loop on a GPU: a plain loop against captured steps, the kernels of a step.

python benchmarks/gpu_loop.py ROW     (compiles the code of one row, for `compile_loops`)
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time

import torch
from common import spread
from gpu_process import Fork
from gpu_runs import CapturedRun, plain_loop
from gpu_timing import DEVICE, DRY, dry_compiler, few, stop_if_broken

from mammoth_compiled.engine.numerics import CUBLAS_WORKSPACE, numerics

# Method, backbone, batch size and AMP mode, in order of value.
ROWS = (
    ("er", "cnn", 32, "bf16"),
    ("sgd", "cnn", 32, "bf16"),
    ("er", "resnet18", 32, "bf16"),
    ("sgd", "cnn", 32, "off"),
    ("sgd", "cnn", 128, "bf16"),
    ("sgd", "attention-cnn", 32, "bf16"),
    ("derpp", "resnet18", 32, "bf16"),
    ("er", "resnet18", 128, "bf16"),
    ("derpp", "cnn", 32, "bf16"),
    ("er", "cnn", 128, "bf16"),
    ("sgd", "resnet18", 32, "bf16"),
    ("derpp", "resnet18", 128, "bf16"),
    ("derpp", "cnn", 128, "bf16"),
    ("sgd", "resnet18", 128, "bf16"),
)
# "default" compiles the backbone alone, "whole" is `--whole_step`.
WAYS = {"default": {}, "whole": {"whole_step": True}}
# Precision, determinism and AMP mode, measured against the first.
SETTINGS = {
    "high": ("high", False, "off"),
    "highest": ("highest", False, "off"),
    "deterministic": ("high", True, "off"),
}
SETTING_ROWS = (("er", "cnn", 32), ("er", "resnet18", 32))


def time_loops(context, seconds=3.0):
    """Yields images/s of the plain loop and of captured steps, interleaved, with their kernels.

    The empty graph has as many kernels as a step, each of which adds one number.
    """
    for method, name, batch, amp in few(ROWS):
        row = {"model": method, "backbone": name, "batch": batch, "amp": amp}
        if context.is_over():
            yield {**row, "left_out": "out of time"}
            continue
        torch._dynamo.reset()
        try:
            row |= _compare(method, name, batch, amp, seconds)
        except Exception as error:  # one row must not cost the others
            stop_if_broken(error)
            row["failed"] = f"{type(error).__name__}: {error}"[:500]
        print(json.dumps(row), flush=True)
        yield row


def _compare(method, name, batch, amp, seconds):
    row, ours = {}, {}
    for way, given in WAYS.items():
        ours[way] = CapturedRun(method, name, batch, amp, **given)
        row[way] = {"warm_up_s": ours[way].warm_up(), "peak_MiB": ours[way].peak_mib()}
    runs = {"plain": plain_loop(method, name, batch)}
    runs |= {way: run.run for way, run in ours.items()}
    rates = {way: [] for way in runs}
    with dry_compiler():
        runs["plain"](0.02 if DRY else 1.0)  # starts its workers
        for _ in range(1 if DRY else 3):
            for way, run in runs.items():
                rates[way].append(run(0.02 if DRY else seconds / 3))
        for way, run in ours.items():
            pairs = zip(rates["plain"], rates[way], strict=True)
            row[way] |= {
                "step_us": spread([1e6 * batch / rate for rate in rates[way]]),
                "replay_us": run.replay_us(),
                "speed_up": spread([b / a for a, b in pairs]),
                "replayed_steps": run.step.replays,
                "reason": run.step.reason,
                **run.kernels(),
            }
            run.__exit__()
    row["images_per_s"] = {way: spread(values) for way, values in rates.items()}
    return row


def time_settings(context, seconds=0.7):
    """Yields the time of a step with TF32, in strict float32, and deterministic, interleaved."""
    os.environ.setdefault(*CUBLAS_WORKSPACE)  # read once, so that all measurements have it
    for method, name, batch in few(SETTING_ROWS):
        row = {"model": method, "backbone": name, "batch": batch}
        if context.is_over():
            yield {**row, "left_out": "out of time"}
            continue
        torch._dynamo.reset()
        runs, times = {}, {setting: [] for setting in SETTINGS}
        for setting, (precision, deterministic, amp) in SETTINGS.items():
            with numerics(DEVICE, precision, deterministic):
                runs[setting] = CapturedRun(method, name, batch, amp)
                runs[setting].warm_up()
        for _ in range(1 if DRY else 5):
            for setting, (precision, deterministic, _) in SETTINGS.items():
                with numerics(DEVICE, precision, deterministic), dry_compiler():
                    rate = runs[setting].run(0.02 if DRY else seconds)
                    times[setting].append(1e6 * batch / rate)
        row["step_us"] = {setting: spread(values) for setting, values in times.items()}
        row["reasons"] = {setting: run.step.reason for setting, run in runs.items()}
        print(json.dumps(row), flush=True)
        yield row


def compile_loops(context, at_once=4):
    """Compiles the code of all rows, some at once, so that `time_loops` finds it cached.

    Yields a row for each: seconds, and why it failed. What is autotuned beside other work is not
    kept.
    """
    waiting, running = list(range(len(few(ROWS)))), {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < at_once and not context.is_over():
                row = waiting.pop(0)
                running[row] = time.monotonic(), _start(row, folder)
            if context.is_over():
                for _, child in running.values():
                    child.kill()
            for row, (begin, child) in list(running.items()):
                if child.poll() is not None:
                    del running[row]
                    found = {"row": " ".join(map(str, ROWS[row]))}
                    found |= {"seconds": round(time.monotonic() - begin, 1)}
                    if child.returncode:
                        found["failed"] = f"exit code {child.returncode}"
                    yield found
            if context.is_over() and not running:
                break
            time.sleep(0.1)
        for row in waiting:
            yield {"row": " ".join(map(str, ROWS[row])), "left_out": "out of time"}


def _start(row, folder):
    if DRY:
        return Fork(functools.partial(_compile_row, row), sys.stdout)
    environment = {**os.environ, "MAMMOTH_CACHE_DIR": folder}
    environment.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
    return subprocess.Popen([sys.executable, __file__, str(row)], env=environment)


def _compile_row(row):
    with numerics(DEVICE, "high", False):
        for given in WAYS.values():
            torch._dynamo.reset()
            with CapturedRun(*ROWS[row], **given) as run:
                run.warm_up()


if __name__ == "__main__":
    _compile_row(int(sys.argv[1]))
