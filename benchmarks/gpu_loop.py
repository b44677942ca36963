"""The training loop on a GPU: a plain loop against captured steps, the kernels of a step.

python benchmarks/gpu_loop.py     (with MAMMOTH_DRY=1 on the CPU, only to try the script out)
"""

import contextlib
import io
import itertools
import json
import statistics
import time

import torch
from common import spread
from gpu_timing import DEVICE, DRY, few, synchronize, time_replays
from reference_loop import Method
from torch.utils.data import DataLoader

import mammoth_compiled as mc
from mammoth_compiled.engine.captured_step import training_step
from mammoth_compiled.registry import backbones

DATASET = "seq-fmnist-mini"  # comes with the package
# Method, backbone, batch size and AMP mode, in order of value.
ROWS = (
    ("er", "cnn", 32, "bf16"),
    ("sgd", "cnn", 32, "bf16"),
    ("er", "resnet18", 32, "bf16"),
    ("derpp", "resnet18", 32, "bf16"),
    ("sgd", "cnn", 32, "off"),
    ("sgd", "cnn", 128, "bf16"),
    ("sgd", "attention-cnn", 32, "bf16"),
    ("er", "resnet18", 128, "bf16"),
    ("derpp", "cnn", 32, "bf16"),
    ("er", "cnn", 128, "bf16"),
)
LARGEST = 10  # kernels of a step to list


def time_loops(deadline, seconds=3.0):
    """Returns images/s of the plain loop and of captured steps, interleaved, with their kernels.

    "default" compiles the backbone alone, "whole" is `--whole_step`. The plain loop is eager, in
    float32. The empty graph has as many kernels as a step, each of which adds one number.
    """
    rows = []
    for method, name, batch, amp in few(ROWS):
        row = {"model": method, "backbone": name, "batch": batch, "amp": amp}
        rows.append(row)
        if time.monotonic() > deadline:
            row["left_out"] = "out of time"
            continue
        torch._dynamo.reset()
        with contextlib.redirect_stdout(io.StringIO()):
            plain = _plain(method, name, batch)
            ways = {
                "default": _Ours(method, name, batch, amp),
                "whole": _Ours(method, name, batch, amp, whole_step=True),
            }
        runs = {"plain": plain} | {way: ours.run for way, ours in ways.items()}
        rates = {way: [] for way in runs}
        for run in runs.values():
            run(0.02 if DRY else 0.5)
        for _ in range(1 if DRY else 3):
            for way, run in runs.items():
                rates[way].append(run(0.02 if DRY else seconds / 3))
        row["images_per_s"] = {way: spread(values) for way, values in rates.items()}
        for way, ours in ways.items():
            pairs = zip(rates["plain"], rates[way], strict=True)
            row[way] = {
                "step_us": spread([1e6 * batch / rate for rate in rates[way]]),
                "speed_up": spread([b / a for a, b in pairs]),
                "replayed_steps": ours.step.replays,
                "reason": ours.step.reason,
                **ours.kernels(),
            }
            ours.step.__exit__()
        print(json.dumps(row), flush=True)
    return rows


class _Ours:
    """Captured steps on the first task of a stream, epoch after epoch."""

    def __init__(self, method, name, batch, amp, whole_step=False):
        given = {"backbone": name, "batch_size": batch, "device": str(DEVICE), "lr": 0.03}
        given |= {"seed": 0, "amp": "off" if DRY else amp, "whole_step": whole_step}
        if method != "sgd":
            given |= {"buffer_size": 500, "minibatch_size": batch}
        if method == "derpp":
            given |= {"alpha": 0.2, "beta": 0.5}
        model, dataset = mc.load_runner(method, DATASET, given)
        model.compute.compile = True
        model.compute.declare(model.net_batch_sizes())
        model.net.to(model.device).train()
        self.loader, _ = dataset.meta_get_data_loaders()
        model.meta_begin_task(dataset)
        self.batch = batch
        self.step = training_step(model, model.compute).__enter__()
        self.steps = self._forever()

    def _forever(self):
        while True:
            self.step.begin_epoch()
            for lazy in self.loader.lazy_batches():
                yield self.step(lazy, 0)

    def run(self, seconds):
        """Returns images/s, ragged batches and ends of epochs included."""
        synchronize()
        start, images = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            # The host runs ahead of the device, within limits.
            images += sum(count for _, count in itertools.islice(self.steps, 2 if DRY else 50))
            synchronize()
        return images / (time.perf_counter() - start)

    def kernels(self):
        """Returns the kernels of a step, the largest, and images/s of as many empty ones."""
        from torch.profiler import ProfilerActivity, profile

        activity = ProfilerActivity.CPU if DRY else ProfilerActivity.CUDA
        with profile(activities=[activity]) as seen:
            next(self.steps)
            synchronize()
        events = [e for e in seen.key_averages() if DRY or e.device_time_total > 0]
        nodes = sum(event.count for event in events)
        largest = sorted(events, key=lambda event: -event.device_time_total)[:LARGEST]
        one = torch.zeros(1, device=DEVICE)
        empty_ms = statistics.median(time_replays([lambda: one.add_(1)] * nodes)) * nodes
        return {
            "kernels": nodes,
            "kernel_us": sum(event.device_time_total for event in events),
            "largest": [[e.key[:100], e.count, e.device_time_total] for e in largest],
            "empty_graph_images_per_s": 1e3 * self.batch / empty_ms,
        }


def _plain(method, name, batch):
    """Returns a function that runs the plain loop for some seconds and returns images/s."""
    given = {"backbone": name, "seed": 0, "device": str(DEVICE)}
    _, dataset = mc.load_runner("sgd", DATASET, given)
    train, _ = (loader.dataset for loader in dataset.meta_get_data_loaders())
    net = backbones[name].target(num_classes=10).to(DEVICE)
    rule = Method(method, net, dataset, 0.03, 500, batch)
    loader = DataLoader(train, batch, shuffle=True, num_workers=0 if DRY else 4)

    def run(seconds):
        start, images = time.perf_counter(), 0
        for inputs, labels, originals in itertools.chain.from_iterable(itertools.repeat(loader)):
            rule.step(inputs.to(DEVICE), labels.to(DEVICE), originals)
            images += len(labels)
            if time.perf_counter() - start > seconds:
                return images / (time.perf_counter() - start)

    return run


if __name__ == "__main__":
    time_loops(time.monotonic() + 300)
