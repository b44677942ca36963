"""What does data-parallel training cost on this machine, and what does it gain?

    python benchmarks/ranks.py [--backbones cnn resnet18] [--batch 32] [--rounds 9]

Times eager training steps of ER in one process that has all threads, and in two processes that
share them (Gloo), by turns; and in the two processes the transfers of a step: the average of the
gradients and the gathering of what the buffer stores.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import torch
from common import spread, write_results

from mammoth_compiled import distributed, load_runner
from mammoth_compiled.engine.step import EagerStep

STEPS = 4


def prepare(backbone, batch):
    """Returns the model, a function that runs a step, and a batch of images."""
    args = {"backbone": backbone, "batch_size": batch, "buffer_size": 256, "compile": "off"}
    model, dataset = load_runner("er", "seq-fmnist-mini", {**args, "seed": 0, "device": "cpu"})
    loader, _ = dataset.meta_get_data_loaders()
    model.meta_begin_task(dataset)
    model.net.train()
    batches = loader.lazy_batches()
    step = EagerStep(model, model.compute)
    return model, lambda: step(next(batches), 0), next(iter(loader))[2]


def timed(function, calls=STEPS):
    """Returns milliseconds per call."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return 1e3 * (time.perf_counter() - start) / calls


def child(backbone, batch, rounds):
    """Prints the milliseconds of steps and transfers."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) // int(os.environ.get("WORLD_SIZE", "1")))
    with distributed.session("cpu"):
        model, step, images = prepare(backbone, batch)
        for _ in range(3):
            step()
        gradients = model.get_gradients()
        mine = images[: len(images) // distributed.num_ranks()]
        times = {"step": [], "average gradients": [], "gather images": []}
        with distributed.divided(batch):
            for _ in range(rounds):
                times["average gradients"].append(timed(lambda: distributed.average_(gradients)))
                times["gather images"].append(timed(lambda: distributed.gathered(mine)))
        for _ in range(rounds):
            times["step"].append(timed(step))
        if distributed.rank() == 0:
            print(json.dumps({"times": times, "bytes": 4 * sum(g.numel() for g in gradients)}))


def run(ranks, args, backbone):
    """Returns what the child prints."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    words = [__file__, "--child", "--backbones", backbone, "--batch", str(args.batch)]
    command = [
        sys.executable,
        *(launcher if ranks > 1 else []),
        *words,
        "--rounds",
        str(args.rounds),
    ]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbones", nargs="+", default=["cnn", "reduced-resnet18", "resnet18"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.backbones[0], args.batch, args.rounds)
        return
    rows = []
    for backbone in args.backbones:
        times = {1: {}, 2: {}}
        for _ in range(args.repeats):
            for ranks, found in times.items():
                result = run(ranks, args, backbone)
                for name, values in result["times"].items():
                    found.setdefault(name, []).extend(values)
        row = {"backbone": backbone, "batch": args.batch, "gradient_bytes": result["bytes"]}
        row["one process"] = {"step_ms": spread(times[1]["step"])}
        row["two ranks"] = {
            f"{name.replace(' ', '_')}_ms": spread(values) for name, values in times[2].items()
        }
        rows.append(row)
        print(json.dumps(row))
    write_results("ranks", {"rows": rows})


if __name__ == "__main__":
    main()
