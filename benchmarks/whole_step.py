"""What `--whole_step` saves: forward, loss and backward as one graph against the backbone alone.

    python benchmarks/whole_step.py [--models sgd er] [--backbones cnn] [--rounds 9] [--calls 10]

Times `observe` of real models on random images, with both kinds of steps interleaved in one process
with one thread. Reports CPU time, which other load on the machine affects less than wall time, and
wall time.
"""

import argparse
import time

import torch
from common import ratio, spread, write_results

from mammoth_compiled import load_runner
from mammoth_compiled.device import keep_freed_memory

ARGS = {
    "sgd": {},
    "er": {"buffer_size": 200},
    "derpp": {"buffer_size": 200, "alpha": 0.2, "beta": 0.5},
}
KINDS = ("backbone", "whole")
WARM_UP = 12  # steps: the buffer is full, all graphs are compiled


def stepper(kind, name, backbone, batch):
    """Returns a function that runs one training step, after those that compile."""
    given = {"backbone": backbone, "compile": "on", "seed": 0, "batch_size": batch, **ARGS[name]}
    model, dataset = load_runner(
        name, "seq-fmnist-mini", {**given, "whole_step": kind == "whole", "out": "off"}
    )
    dataset.reset()
    loader, _ = dataset.meta_get_data_loaders()
    model.compute.compile = True
    model.compute.declare(model.net_batch_sizes())
    model.net.train()
    model.meta_begin_task(dataset)
    items = next(iter(loader))

    def step():
        with model.compute.step(batch):
            return model.meta_observe(*items, epoch=0)

    for _ in range(WARM_UP):
        step()
    return step


def measure(name, backbone, batch, rounds, calls):
    """Returns the spread of milliseconds of a step of each kind, and of their ratio."""
    steps = {kind: stepper(kind, name, backbone, batch) for kind in KINDS}
    cpu, wall = ({kind: [] for kind in KINDS} for _ in range(2))
    for _ in range(rounds):
        for kind, step in steps.items():
            begin_wall, begin = time.perf_counter(), time.process_time()
            for _ in range(calls):
                step()
            cpu[kind].append(1e3 * (time.process_time() - begin) / calls)
            wall[kind].append(1e3 * (time.perf_counter() - begin_wall) / calls)
    return {
        "batch": batch,
        "cpu_ms": {kind: spread(values) for kind, values in cpu.items()},
        "cpu_speedup": ratio(cpu, *KINDS),
        "wall_ms": {kind: spread(values) for kind, values in wall.items()},
        "wall_speedup": ratio(wall, *KINDS),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(ARGS))
    parser.add_argument("--backbones", nargs="+", default=["cnn", "reduced-resnet18"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    results = {}
    for backbone in args.backbones:
        for name in args.models:
            row = measure(name, backbone, args.batch, args.rounds, args.calls)
            results[f"{name} {backbone}"] = row
            cpu = row["cpu_ms"]
            print(
                f"{name:6s} {backbone:18s} CPU {cpu['backbone']['median']:7.2f} ms -> "
                f"{cpu['whole']['median']:7.2f} ms: {row['cpu_speedup']['median']:.2f}x, "
                f"wall {row['wall_speedup']['median']:.2f}x",
                flush=True,
            )
            print("written:", write_results("whole_step", {"steps": results}), flush=True)


if __name__ == "__main__":
    main()
