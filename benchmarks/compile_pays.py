"""What compiling costs and saves on this machine: the figures behind `--compile auto`.

    python benchmarks/compile_pays.py [--backbones cnn resnet18] [--rounds 9]

Per backbone: the time of a training step (forward, loss, backward, SGD) eager, eager with weights
and images in channels-last, and compiled as `train()` does it, measured in turns, each in a process
of its own, and the seconds that compiling took with an empty cache.
"""

import argparse
import contextlib
import functools
import os
import tempfile
import time

# Before torch is imported: an empty cache, so that compiling is timed, not reading. Each compiling
# process gets one of its own.
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()

import torch
from common import interleaved, process, ratio, spread, write_results
from torch.nn import functional as F

import mammoth_compiled  # noqa: F401  registers the backbones
from mammoth_compiled.device import keep_freed_memory
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.engine.cost import compiling_pays, forward_flops
from mammoth_compiled.registry import backbones

KINDS = ("eager", "eager_channels_last", "compiled")


def prepare(kind, name, batch):
    """Makes this process's training step, runs it twice and returns what is known of it."""
    global step
    torch.manual_seed(0)
    shape = (1, 28, 28) if name == "mnistmlp" else (3, 32, 32)
    inputs, labels = torch.randn(batch, *shape), torch.randint(0, 10, (batch,))
    net = backbones[name].target(num_classes=10)
    facts = {
        "batch": batch,
        "leaf_modules": sum(1 for m in net.modules() if not any(m.children())),
        "forward_gflop": forward_flops(net, inputs) / 1e9,
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
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)

    def step():
        optimiser.zero_grad()
        F.cross_entropy(net(inputs), labels).backward()
        optimiser.step()

    step()
    # A kind of call is compiled when it comes again.
    start = time.perf_counter()
    step()
    return facts | {"first_step_s": time.perf_counter() - start}


def run(calls):
    """Runs the training step so many times."""
    for _ in range(calls):
        step()


def measure(name, batch, rounds):
    with contextlib.ExitStack() as stack:
        processes = {kind: stack.enter_context(process()) for kind in KINDS}
        known = {k: p.submit(prepare, k, name, batch).result() for k, p in processes.items()}
        turns = {k: lambda n, p=p: p.submit(run, n).result() for k, p in processes.items()}
        turns["compiled"](3)
        start = time.perf_counter()
        turns["compiled"](3)
        calls = max(1, int(0.4 / ((time.perf_counter() - start) / 3)))
        for kind in KINDS:
            turns[kind](calls)
        times = interleaved({k: functools.partial(f, calls) for k, f in turns.items()}, rounds, 1)
    times = {kind: [ms / calls for ms in values] for kind, values in times.items()}
    return {
        **known["compiled"],
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
            f"{r['step_ms']['compiled']['median']:8.2f} ms  speed-up {r['speed_up']['median']:.2f} "
            f"[{r['speed_up']['p20']:.2f}, {r['speed_up']['p80']:.2f}], over channels-last "
            f"{r['speed_up_over_channels_last']['median']:.2f}  first step "
            f"{r['first_step_s']:.1f} s",
            flush=True,
        )
    print("written:", write_results("compile_pays", {"backbones": results}))


if __name__ == "__main__":
    main()
