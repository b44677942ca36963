"""Whole continual-learning runs, evaluation included: a plain loop against `train()`, interleaved.

    python benchmarks/train_loop.py [--cases sgd:cnn er:cnn derpp:resnet18] [--pairs 3]

Data: seq-fmnist at 32x32x3, one epoch, batch size 32, at most `--per_task` training images per
task. `ours` is a whole run of `train()` with a warm Inductor cache, `ours_first` the first run of
the process; `ours_bf16` adds `--amp bf16` on CPUs with bfloat16 instructions. Every plain loop runs
in its own process, in float32.
"""

import argparse
import contextlib
import io
import time

import torch
from common import fresh_process, ratio, spread, write_results
from reference_loop import run as run_reference

import mammoth_compiled as mc
from mammoth_compiled.datasets.arrays import ArrayDataset
from mammoth_compiled.datasets.fashion_mnist import SequentialFashionMNIST
from mammoth_compiled.device import computes_bf16
from mammoth_compiled.registry import backbones


class TruncatedFashionMNIST(SequentialFashionMNIST):
    """seq-fmnist with only the first images of every class."""

    PER_TASK = 12000

    def get_data_loaders(self):
        return tuple(self.truncate(d) for d in super().get_data_loaders())

    def truncate(self, dataset):
        keep = torch.zeros(len(dataset), dtype=torch.bool)
        targets = torch.from_numpy(dataset.targets)
        for k in range(10):
            keep[(targets == k).nonzero().flatten()[: self.PER_TASK // 2]] = True
        if keep.all():
            return dataset
        keep = keep.numpy()
        return ArrayDataset(dataset.data[keep], dataset.targets[keep], dataset.transform)


mc.register_dataset("seq-fmnist-part")(TruncatedFashionMNIST)


def ours(method, backbone, arguments, seed, amp="off"):
    """Runs `train()`; returns its seconds, the final class-IL accuracy and the number of images."""
    given = {**arguments, "backbone": backbone, "seed": seed, "compile": "on", "amp": amp}
    with contextlib.redirect_stdout(io.StringIO()):
        model, dataset = mc.load_runner(method, "seq-fmnist-part", given)
        start = time.perf_counter()
        results = mc.train(model, dataset)
        seconds = time.perf_counter() - start
    return seconds, results.accuracy["class_il"], sum(results.train_images)


def reference(*args):
    """Runs `plain` in a new process, because `train()` changes the memory allocator of this one.

    Returns what `ours` returns.
    """
    with fresh_process() as process:
        return process.submit(plain, TruncatedFashionMNIST.PER_TASK, *args).result()


def plain(per_task, method, backbone, arguments, seed, workers):
    """Runs the plain loop with `per_task` images per task, in this process."""
    # The short first run keeps one-time work of the process out of the timing, as in `ours`.
    for TruncatedFashionMNIST.PER_TASK in (64, per_task):
        given = {"backbone": backbone, "seed": seed, "batch_size": arguments["batch_size"]}
        with contextlib.redirect_stdout(io.StringIO()):
            _, dataset = mc.load_runner("sgd", "seq-fmnist-part", given)
        net = backbones[backbone].target(num_classes=10)
        start = time.perf_counter()
        accuracy, images = run_reference(
            method,
            net,
            dataset,
            arguments["lr"],
            arguments["batch_size"],
            arguments.get("buffer_size", 0),
            workers,
        )
        seconds = time.perf_counter() - start
    return seconds, accuracy, images


def best_workers(method, backbone, arguments):
    """Returns the number of DataLoader workers with which a short plain loop is fastest."""
    per_task = TruncatedFashionMNIST.PER_TASK
    TruncatedFashionMNIST.PER_TASK = min(per_task // 2, 640)
    times = {w: reference(method, backbone, arguments, 0, w)[0] for w in (0, 1, 2)}
    TruncatedFashionMNIST.PER_TASK = per_task
    return min(times, key=times.get)


def measure(case, per_task, pairs):
    method, backbone = case.split(":")
    TruncatedFashionMNIST.PER_TASK = per_task
    arguments = {"lr": 0.03, "batch_size": 32, "n_epochs": 1}
    if method != "sgd":
        arguments |= {"buffer_size": 500, "minibatch_size": 32}
    if method == "derpp":
        arguments |= {"alpha": 0.2, "beta": 0.5}
    workers = best_workers(method, backbone, arguments)
    amps = {"ours": "off"}
    if computes_bf16(torch.device("cpu")):
        amps["ours_bf16"] = "bf16"
    first_s = {k: ours(method, backbone, arguments, 100, amp)[0] for k, amp in amps.items()}
    runs = {name: [] for name in ("reference", *amps)}
    for seed in range(pairs):
        runs["reference"].append(reference(method, backbone, arguments, seed, workers))
        for name, amp in amps.items():
            runs[name].append(ours(method, backbone, arguments, seed, amp))
        seconds = ", ".join(f"{name} {run[-1][0]:.1f} s" for name, run in runs.items())
        print(f"  {case} seed {seed}: {seconds}", flush=True)
    images = runs["ours"][0][2]
    seconds = {name: [s for s, _, _ in run] for name, run in runs.items()}
    result = {"per_task": per_task, "images": images, "reference_workers": workers}
    for name, run in runs.items():
        result[f"{name}_s"] = spread(seconds[name])
        result[f"{name}_class_il"] = spread([accuracy for _, accuracy, _ in run])
    for name in amps:
        result[f"{name}_first_s"] = first_s[name]
        result[f"{name}_images_per_s"] = spread([images / s for s in seconds[name]])
        result[f"{name}_speed_up"] = ratio(seconds, "reference", name)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=["sgd:cnn", "er:cnn", "derpp:resnet18"])
    parser.add_argument("--per_task", nargs="+", type=int, default=[12000, 12000, 320])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--name", default="train_loop")
    args = parser.parse_args()
    results = {}
    for case, per_task in zip(args.cases, args.per_task, strict=True):
        r = results[case] = measure(case, per_task, args.pairs)
        for name in ("ours", "ours_bf16"):
            if f"{name}_s" not in r:
                continue
            up = r[f"{name}_speed_up"]
            print(
                f"{case}: reference {r['reference_s']['median']:.1f} s, {name} "
                f"{r[f'{name}_s']['median']:.1f} s, speedup {up['median']:.2f} "
                f"[{up['p20']:.2f}, {up['p80']:.2f}], class-IL "
                f"{r['reference_class_il']['median']:.3f} / {r[f'{name}_class_il']['median']:.3f}",
                flush=True,
            )
        # After each case, so that an interrupted run keeps its results.
        path = write_results(args.name, {"cases": results})
    print("written:", path)


if __name__ == "__main__":
    main()
