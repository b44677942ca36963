"""Whole continual-learning runs, evaluation included: a plain loop against ours, in turns.

    python benchmarks/train_loop.py [--cases sgd:cnn er:cnn derpp:resnet18] [--pairs 3]

Data: seq-fmnist at 32x32x3, one epoch, batch 32. A case may be cut to `--per_task` training images
per task. `ours` is a whole run of `train()` with compiled code in Inductor's cache, `ours_first`
the first run of the process.
"""

import argparse
import contextlib
import io
import time

import torch
from common import spread, write_results
from reference_loop import run as run_reference

import mammoth_compiled as mc
from mammoth_compiled.datasets.arrays import ArrayDataset
from mammoth_compiled.datasets.fashion_mnist import SequentialFashionMNIST
from mammoth_compiled.registry import backbones


class Part(SequentialFashionMNIST):
    """seq-fmnist with the first images of every class only."""

    PER_TASK = 12000

    def get_data_loaders(self):
        return tuple(self.cut(d) for d in super().get_data_loaders())

    def cut(self, dataset):
        keep = torch.zeros(len(dataset), dtype=torch.bool)
        targets = torch.from_numpy(dataset.targets)
        for k in range(10):
            keep[(targets == k).nonzero().flatten()[: self.PER_TASK // 2]] = True
        if keep.all():
            return dataset
        keep = keep.numpy()
        return ArrayDataset(dataset.data[keep], dataset.targets[keep], dataset.transform)


mc.register_dataset("seq-fmnist-part")(Part)


def ours(method, backbone, arguments, seed):
    """Runs our loop; returns seconds in train(), final class-IL accuracy and images learnt."""
    given = {**arguments, "backbone": backbone, "seed": seed, "compile": "on"}
    with contextlib.redirect_stdout(io.StringIO()):
        model, dataset = mc.load_runner(method, "seq-fmnist-part", given)
        start = time.perf_counter()
        results = mc.train(model, dataset)
        seconds = time.perf_counter() - start
    return seconds, results.accuracy["class_il"], sum(results.train_images)


def reference(method, backbone, arguments, seed, workers):
    """Runs the plain loop; returns the same."""
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
    return time.perf_counter() - start, accuracy, images


def best_workers(method, backbone, arguments):
    """Returns the number of DataLoader workers with which the plain loop is fastest, on a part."""
    whole, Part.PER_TASK = Part.PER_TASK, min(Part.PER_TASK // 2, 640)
    times = {w: reference(method, backbone, arguments, 0, w)[0] for w in (0, 1, 2)}
    Part.PER_TASK = whole
    return min(times, key=times.get)


def measure(case, per_task, pairs):
    method, backbone = case.split(":")
    Part.PER_TASK = per_task
    arguments = {"lr": 0.03, "batch_size": 32, "n_epochs": 1}
    if method != "sgd":
        arguments |= {"buffer_size": 500, "minibatch_size": 32}
    if method == "derpp":
        arguments |= {"alpha": 0.2, "beta": 0.5}
    workers = best_workers(method, backbone, arguments)
    first_s, _, _ = ours(method, backbone, arguments, 100)
    rows = []
    for seed in range(pairs):
        a = reference(method, backbone, arguments, seed, workers)
        b = ours(method, backbone, arguments, seed)
        rows.append((a, b))
        print(f"  {case} seed {seed}: reference {a[0]:.1f} s, ours {b[0]:.1f} s", flush=True)
    images = rows[0][1][2]
    return {
        "per_task": per_task,
        "images": images,
        "reference_workers": workers,
        "ours_first_s": first_s,
        "reference_s": spread([a[0] for a, _ in rows]),
        "ours_s": spread([b[0] for _, b in rows]),
        "ours_images_per_s": spread([images / b[0] for _, b in rows]),
        "speed_up": spread([a[0] / b[0] for a, b in rows]),
        "reference_class_il": spread([a[1] for a, _ in rows]),
        "ours_class_il": spread([b[1] for _, b in rows]),
    }


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
        print(
            f"{case}: reference {r['reference_s']['median']:.1f} s, "
            f"ours {r['ours_s']['median']:.1f} s, speed-up {r['speed_up']['median']:.2f} "
            f"[{r['speed_up']['p20']:.2f}, "
            f"{r['speed_up']['p80']:.2f}], class-IL {r['reference_class_il']['median']:.3f} / "
            f"{r['ours_class_il']['median']:.3f}",
            flush=True,
        )
        # After each case, so that a stopped run keeps what it measured.
        path = write_results(args.name, {"cases": results})
    print("written:", path)


if __name__ == "__main__":
    main()
