"""What compiling costs and saves on this machine: the figures behind `--compile auto`.

    python benchmarks/compile_pays.py [--backbones cnn resnet18] [--rounds 9]

Per backbone: the time of a training step (forward, loss, backward, SGD) eager, eager with weights
and images in channels-last, and compiled, measured in turns, and the seconds that compiling took
with an empty cache.
"""

import argparse
import os
import tempfile
import time

# Before torch is imported: an empty cache, so that compiling is timed, not reading.
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()

import torch
from common import interleaved, ratio, spread, write_results
from torch.nn import functional as F

import mammoth_compiled  # noqa: F401  registers the backbones
from mammoth_compiled.engine.forward import ForwardPolicy, attach
from mammoth_compiled.engine.policy import decide, forward_flops
from mammoth_compiled.registry import backbones


def training_step(net, inputs, labels):
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)

    def step():
        optimiser.zero_grad()
        F.cross_entropy(net(inputs), labels).backward()
        optimiser.step()

    return step


def measure(name, batch, rounds):
    torch.manual_seed(0)
    shape = (1, 28, 28) if name == "mnistmlp" else (3, 32, 32)
    inputs, labels = torch.randn(batch, *shape), torch.randint(0, 10, (batch,))
    eager, last, compiled = (backbones[name].target(num_classes=10) for _ in range(3))
    last.to(memory_format=torch.channels_last)
    images_last = inputs.contiguous(memory_format=torch.channels_last)
    attach(compiled, ForwardPolicy(torch.device("cpu"), compile=True, batch_sizes={batch}))
    steps = {
        "eager": training_step(eager, inputs, labels),
        "eager_channels_last": training_step(last, images_last, labels),
        "compiled": training_step(compiled, inputs, labels),
    }
    for step in steps.values():
        step()
    # A kind of call is compiled when it comes again.
    start = time.perf_counter()
    steps["compiled"]()
    first_s = time.perf_counter() - start
    steps["compiled"]()
    start = time.perf_counter()
    steps["compiled"]()
    calls = max(1, int(0.4 / (time.perf_counter() - start)))
    times = interleaved(steps, rounds, calls)
    leaves = sum(1 for m in eager.modules() if not any(m.children()))
    return {
        "batch": batch,
        "leaf_modules": leaves,
        "forward_gflop": forward_flops(eager, inputs) / 1e9,
        "first_step_s": first_s,
        "step_ms": {k: spread(v) for k, v in times.items()},
        "speed_up": ratio(times, "eager", "compiled"),
        "speed_up_over_channels_last": ratio(times, "eager_channels_last", "compiled"),
        "auto_for_1000_steps": decide("auto", torch.device("cpu"), eager, inputs, 1000).reason,
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
