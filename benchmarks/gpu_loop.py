"""The training loop on a GPU: a plain loop against captured steps, and the launch limit.

python benchmarks/gpu_loop.py [--device cpu]     (the CPU only tries the script out)
"""

import argparse
import contextlib
import io
import itertools
import json
import statistics
import time

import torch
from common import spread
from reference_loop import Method
from torch.utils.data import DataLoader

import mammoth_compiled as mc
from mammoth_compiled.compiler.autotune import time_replays
from mammoth_compiled.engine.captured_step import training_step
from mammoth_compiled.registry import backbones

DATASET = "seq-fmnist-mini"  # comes with the package


def time_loops(deadline, device="cuda", names=("cnn", "resnet18"), batches=(32, 128), seconds=3.0):
    """Returns images/s of the plain loop and of captured steps, interleaved, and the launch limit.

    The limit is a CUDA graph with as many kernels as a step, each of which adds one number.
    """
    rows = []
    for name, batch, method in itertools.product(names, batches, ("sgd", "er")):
        if time.monotonic() > deadline:
            rows.append({"backbone": name, "batch": batch, "left_out": "out of time"})
            continue
        torch._dynamo.reset()
        with contextlib.redirect_stdout(io.StringIO()):
            plain = _plain(method, name, batch, device)
            ours = _Ours(method, name, batch, device)
        for run in (plain, ours.run):
            run(0.5)
        rates = {"plain": [], "ours": []}
        for _ in range(3):
            rates["plain"].append(plain(seconds / 3))
            rates["ours"].append(ours.run(seconds / 3))
        row = {
            "backbone": name,
            "batch": batch,
            "model": method,
            "images_per_s": {name: spread(values) for name, values in rates.items()},
            "speed_up": spread([b / a for a, b in zip(*rates.values(), strict=True)]),
            "replayed_steps": ours.step.replays,
            "reason": ours.step.reason,
        }
        if device == "cuda":
            row |= ours.floor()
        ours.step.__exit__()
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


class _Ours:
    """Captured steps on the first task of a stream, epoch after epoch."""

    def __init__(self, method, name, batch, device):
        given = {"backbone": name, "batch_size": batch, "device": device, "lr": 0.03, "seed": 0}
        if method == "er":
            given |= {"buffer_size": 500, "minibatch_size": batch}
        model, dataset = mc.load_runner(method, DATASET, given)
        model.compute.compile = True
        model.compute.declare(model.net_batch_sizes())
        model.net.to(model.device).train()
        self.loader, _ = dataset.meta_get_data_loaders()
        model.begin_task(dataset)
        self.device, self.batch = device, batch
        self.step = training_step(model, model.compute).__enter__()
        self.steps = self._forever()

    def _forever(self):
        while True:
            self.step.begin_epoch()
            for lazy in self.loader.lazy_batches():
                yield self.step(lazy, 0)

    def run(self, seconds):
        """Returns images/s."""
        _wait(self.device)
        start, images = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            # The host runs ahead of the device, within limits.
            images += sum(count for _, count in itertools.islice(self.steps, 50))
            _wait(self.device)
        return images / (time.perf_counter() - start)

    def floor(self):
        """Returns the number of kernels of a step, and images/s of as many empty kernels."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            next(self.steps)
            _wait(self.device)
        nodes = sum(event.count for event in seen.key_averages())
        one = torch.zeros(1, device=self.device)
        empty_ms = statistics.median(time_replays([lambda: one.add_(1)] * nodes)) * nodes
        return {"kernels": nodes, "empty_graph_images_per_s": 1e3 * self.batch / empty_ms}


def _plain(method, name, batch, device):
    """Returns a function that runs the plain loop for some seconds and returns images/s."""
    _, dataset = mc.load_runner("sgd", DATASET, {"backbone": name, "seed": 0, "device": device})
    train, _ = (loader.dataset for loader in dataset.meta_get_data_loaders())
    net = backbones[name].target(num_classes=10).to(device)
    rule = Method(method, net, dataset, 0.03, 500, batch)
    loader = DataLoader(train, batch, shuffle=True, num_workers=4 if device == "cuda" else 0)

    def run(seconds):
        start, images = time.perf_counter(), 0
        for inputs, labels, originals in itertools.chain.from_iterable(itertools.repeat(loader)):
            rule.step(inputs.to(device), labels.to(device), originals)
            images += len(labels)
            if time.perf_counter() - start > seconds:
                return images / (time.perf_counter() - start)

    return run


def _wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    time_loops(time.monotonic() + 300, arguments.device, ("cnn",), (32,))
