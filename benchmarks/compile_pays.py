"""Cost and benefit of compiling on this machine: the figures behind `--compile auto`.

    python benchmarks/compile_pays.py [--backbones cnn resnet18] [--rounds 9]

For each backbone it times a training step (forward, loss, backward, SGD) in eager mode, in eager
mode with channels-last weights and images, and compiled as in `train()`, interleaved and each in
its own process, and the first compilation with an empty cache.
"""

import argparse
import contextlib
import functools
import os
import tempfile
import time

# Before torch is imported: an empty cache, so that compilation is timed and not a cache hit. Each
# compiling process inherits its own.
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()

import torch
from common import fresh_process, interleaved, ratio, spread, write_results
from torch.nn import functional as F

import mammoth_compiled  # noqa: F401  registers the backbones
from mammoth_compiled.device import keep_freed_memory
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.engine.cost import compiling_pays, forward_profile
from mammoth_compiled.registry import backbones

KINDS = ("eager", "eager_channels_last", "compiled")


def prepare(kind, name, batch):
    """Builds the training step of this process, runs it twice and returns facts about it."""
    global step
    torch.manual_seed(0)
    shape = (1, 28, 28) if name == "mnistmlp" else (3, 32, 32)
    inputs, labels = torch.randn(batch, *shape), torch.randint(0, 10, (batch,))
    net = backbones[name].target(num_classes=10)
    facts = {
        "batch": batch,
        "leaf_modules": sum(1 for m in net.modules() if not any(m.children())),
        "forward_gflop": forward_profile(net, inputs).total / 1e9,
        "auto_for_1000_steps": compiling_pays(net, inputs, 1000)[1],
    }
    if kind == "eager_channels_last":
        net.to(memory_format=torch.channels_last)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    if kind == "compiled":
        keep_freed_memory()
        compute = Compute(torch.device("cpu"), compile=True)
        compute.declare({batch})
        compute.attach(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), labels).backward()
        optimizer.step()

    step()
    # A call is compiled from its second occurrence on.
    start = time.perf_counter()
    step()
    return facts | {"first_step_s": time.perf_counter() - start}


def run(calls):
    """Runs the training step `calls` times."""
    for _ in range(calls):
        step()


def measure(name, batch, rounds):
    with contextlib.ExitStack() as stack:
        processes = {kind: stack.enter_context(fresh_process()) for kind in KINDS}
        facts = {k: p.submit(prepare, k, name, batch).result() for k, p in processes.items()}
        steps = {k: lambda n, p=p: p.submit(run, n).result() for k, p in processes.items()}
        steps["compiled"](3)
        start = time.perf_counter()
        steps["compiled"](3)
        calls = max(1, int(0.4 / ((time.perf_counter() - start) / 3)))
        for kind in KINDS:
            steps[kind](calls)
        times = interleaved({k: functools.partial(f, calls) for k, f in steps.items()}, rounds, 1)
    times = {kind: [ms / calls for ms in values] for kind, values in times.items()}
    return {
        **facts["compiled"],
        "step_ms": {k: spread(v) for k, v in times.items()},
        "speed_up": ratio(times, "eager", "compiled"),
        "speed_up_over_channels_last": ratio(times, "eager_channels_last", "compiled"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    names = ["mnistmlp", "cnn", "cnn-wide", "attention-cnn", "reduced-resnet18", "resnet18"]
    parser.add_argument("--backbones", nargs="+", default=names)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    results = {}
    for name in args.backbones:
        r = results[name] = measure(name, args.batch, args.rounds)
        print(
            f"{name:18s} eager {r['step_ms']['eager']['median']:8.2f} ms  compiled "
            f"{r['step_ms']['compiled']['median']:8.2f} ms  speedup {r['speed_up']['median']:.2f} "
            f"[{r['speed_up']['p20']:.2f}, {r['speed_up']['p80']:.2f}], over channels-last "
            f"{r['speed_up_over_channels_last']['median']:.2f}  first step "
            f"{r['first_step_s']:.1f} s",
            flush=True,
        )
    print("written:", write_results("compile_pays", {"backbones": results}))


if __name__ == "__main__":
    main()
