"""What compiling saves and costs on a CPU, and whether `--compile auto` decides right.

    python benchmarks/compile_auto.py [--backbones cnn resnet18] [--batch 32] [--rounds 9] [--reuse]

For each backbone, a training step (forward, loss, backward, SGD) in eager mode, in eager mode with
channels-last weights and images, and compiled as in `train()`, interleaved and each in its own
process; and the seconds of compiling, evaluation included, the first time on a machine ("first"),
after another backbone ("prepared"), and with the code in the cache ("cached"). From these follow
the times of runs with N steps, compiled and not, and how much longer the choice of `auto` takes
than the better of the two.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time

import torch
from common import RESULTS, fresh_process, interleaved, ratio, spread, write_results
from torch.nn import functional as F

import mammoth_compiled  # noqa: F401 (registers the backbones)
from mammoth_compiled.datasets.base import EVAL_BATCH_SIZE
from mammoth_compiled.device import keep_freed_memory
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.engine.cost import COMPILE_S, compiling_pays
from mammoth_compiled.kernels.runtime import cpp_library
from mammoth_compiled.registry import backbones

NUM_STEPS = (100, 400, 1_900, 10_000)
NAMES = ("mnistmlp", "cnn", "cnn-wide", "attention-cnn", "reduced-resnet18", "resnet18")
KINDS = ("eager", "eager_channels_last", "compiled")
CACHED_RUNS = 2  # besides the one that times steps


def build(name, batch):
    """Returns a backbone and a batch for it."""
    torch.manual_seed(0)
    shape = (1, 28, 28) if name == "mnistmlp" else (3, 32, 32)
    return backbones[name].target(num_classes=10), torch.randn(batch, *shape)


def prepare(kind, name, batch):
    """Builds the step of this process and runs it; returns seconds of its second and third run."""
    global step
    net, inputs = build(name, batch)
    labels = torch.randint(0, 10, (batch,))
    if kind == "eager_channels_last":
        net.to(memory_format=torch.channels_last)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    if kind == "compiled":
        keep_freed_memory()
        compute = Compute(torch.device("cpu"), compile=True)
        compute.declare({batch})
        compute.attach(net)
        cpp_library.build_in_background()
        compute.expect_evaluation(net, torch.randn(EVAL_BATCH_SIZE, *inputs.shape[1:]))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), labels).backward()
        optimizer.step()

    step()
    return run(1), run(1)  # calls are compiled from their second occurrence on


def run(calls):
    """Runs the step and returns its seconds."""
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - start) / calls


@contextlib.contextmanager
def caches_in(folder):
    """Processes started inside use the caches in a folder, that of precompiled headers included."""
    before = {name: os.environ.get(name) for name in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR")}
    os.environ |= dict.fromkeys(before, folder)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def compile_seconds(name, batch, folder):
    """Returns the seconds of compiling a step in a new process."""
    with caches_in(folder), fresh_process() as process:
        compiling, compiled = process.submit(prepare, "compiled", name, batch).result()
    return compiling - compiled


def measure(name, batch, rounds, prepared):
    """Returns the times of a backbone; `prepared` is a folder where another one was compiled."""
    with tempfile.TemporaryDirectory() as empty:
        compile_s = {"first": [compile_seconds(name, batch, empty)]}
    compile_s["prepared"] = [compile_seconds(name, batch, prepared)]
    compile_s["cached"] = [compile_seconds(name, batch, prepared) for _ in range(CACHED_RUNS)]
    with caches_in(prepared), contextlib.ExitStack() as stack:
        processes = {kind: stack.enter_context(fresh_process()) for kind in KINDS}
        # One after the other, because compiling disturbs what runs at the same time.
        seconds = {k: p.submit(prepare, k, name, batch).result() for k, p in processes.items()}
        compile_s["cached"].append(seconds["compiled"][0] - seconds["compiled"][1])
        calls = max(1, int(0.3 / seconds["compiled"][1]))
        steps = {k: lambda p=p: p.submit(run, calls).result() for k, p in processes.items()}
        interleaved(steps, 1, 1)
        times = interleaved(steps, rounds, 1)
    times = {kind: [ms / calls for ms in values] for kind, values in times.items()}
    return {
        "batch": batch,
        "threads": torch.get_num_threads(),
        "compile_s": {level: spread(values) for level, values in compile_s.items()},
        "step_ms": {kind: spread(values) for kind, values in times.items()},
        "speed_up": ratio(times, "eager", "compiled"),
        "speed_up_over_channels_last": ratio(times, "eager_channels_last", "compiled"),
    }


def judge(name, row):
    """Returns what `auto` decides for each length of a run, and the times that follow."""
    net, images = build(name, row["batch"])
    runs = []
    for level in COMPILE_S:
        for steps in NUM_STEPS:
            step_s = {kind: row["step_ms"][kind]["median"] / 1e3 for kind in KINDS}
            on = row["compile_s"][level]["median"] + steps * step_s["compiled"]
            off = steps * step_s["eager"]
            compiles, _ = compiling_pays(net, images, steps, level)
            excess = (on if compiles else off) / min(on, off) - 1
            runs.append(
                {"steps": steps, "cache": level, "on_s": on, "off_s": off, "auto": compiles}
                | {"excess": excess}
            )
    return runs


def describe(name, row):
    """Returns the results of a backbone as lines of text."""
    step = row["step_ms"]
    seconds = ", ".join(f"{found['median']:.1f} s {k}" for k, found in row["compile_s"].items())
    lines = [
        f"{name:18s} eager {step['eager']['median']:.2f} ms, compiled "
        f"{step['compiled']['median']:.2f} ms: {row['speed_up']['median']:.2f}x; over "
        f"channels-last {row['speed_up_over_channels_last']['median']:.2f}x; compiling {seconds}"
    ]
    for level in COMPILE_S:
        runs = [run for run in row["runs"] if run["cache"] == level]
        decisions = (f"{r['steps']}:{'on' if r['auto'] else 'off'}+{r['excess']:.0%}" for r in runs)
        lines.append(f"{'':18s} auto {level:8s} " + " ".join(decisions))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", nargs="+", default=NAMES)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--reuse", action="store_true", help="judge the decisions by the times in the JSON file"
    )
    args = parser.parse_args()
    path = RESULTS / "compile_auto.json"
    if args.reuse:
        content = json.loads(path.read_text())
        for name, row in content["backbones"].items():
            row["runs"] = judge(name, row)
            print(describe(name, row))
        path.write_text(json.dumps(content, indent=2) + "\n")
        return
    results = {}
    with tempfile.TemporaryDirectory() as prepared:
        compile_seconds("mnistmlp", args.batch + 1, prepared)
        for name in args.backbones:
            results[name] = row = measure(name, args.batch, args.rounds, prepared)
            row["runs"] = judge(name, row)
            print(describe(name, row), flush=True)
            write_results("compile_auto", {"backbones": results})
    print("written:", path)


if __name__ == "__main__":
    main()
