"""Runs that the GPU benchmarks time: captured training steps, and the plain loop."""

import contextlib
import io
import itertools
import statistics
import time

import torch
from gpu_timing import DEVICE, DRY, dry_compiler, synchronize, time_replays
from reference_loop import Method
from torch.utils.data import DataLoader

import mammoth_compiled as mc
from mammoth_compiled.engine.captured_step import training_step

DATASET = "seq-fmnist-mini"  # comes with the package
LARGEST = 10  # kernels of a step to list
# Settings that belong to a method rather than to a measurement.
_OF_METHODS = {"derpp": {"alpha": 0.2, "beta": 0.5}}
# The network and the batch of a dry run; not every CPU computes in bfloat16.
SMALL = {"backbone": "mnistmlp", "input_size": 3 * 32 * 32, "hidden_size": 8}
DRY_RUN = {**SMALL, "batch_size": 8, "minibatch_size": 8, "amp": "off"}


class CapturedRun:
    """Captured steps on the first task of a stream, epoch after epoch.

    Args:
        method: Name of the model.
        backbone: Its network.
        batch: Images of the stream in a step, and of each replay batch.
        amp: AMP mode.
        whole_step: Whether forward, loss and backward are one compiled graph.
    """

    def __init__(self, method, backbone, batch, amp, whole_step=False):
        given = {"backbone": backbone, "batch_size": batch, "device": str(DEVICE), "lr": 0.03}
        given |= {"seed": 0, "amp": amp, "whole_step": whole_step}
        if method != "sgd":
            given |= {"buffer_size": 500, "minibatch_size": batch}
        given |= _OF_METHODS.get(method, {}) | (DRY_RUN if DRY else {})
        if method == "sgd":
            given.pop("minibatch_size", None)
        if not DRY:
            torch.cuda.reset_peak_memory_stats()
            self._memory = torch.cuda.memory_allocated()
        with contextlib.redirect_stdout(io.StringIO()):
            model, dataset = mc.load_runner(method, DATASET, given)
        model.compute.compile = True
        model.compute.declare(model.net_batch_sizes())
        model.net.to(model.device).train()
        self.loader, _ = dataset.meta_get_data_loaders()
        model.meta_begin_task(dataset)
        self.batch = given["batch_size"]
        self.step = training_step(model, model.compute).__enter__()
        self._steps = self._forever()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.step.__exit__()

    def _forever(self):
        while True:
            self.step.begin_epoch()
            for lazy in self.loader.lazy_batches():
                yield self.step(lazy, 0)

    def warm_up(self, limit=600):
        """Runs until steps are replayed, ragged ones too; returns the seconds that took."""
        begin = time.perf_counter()
        with dry_compiler():
            for number, _ in enumerate(self._steps, 1):
                # The ragged batch has its graph from the fourth epoch on, when buffers are full.
                if number == (4 if DRY else limit):
                    break
        synchronize()
        return time.perf_counter() - begin

    def peak_mib(self):
        """Returns the most memory that the run has held since it began, MiB."""
        if DRY:
            return 0.0
        return round((torch.cuda.max_memory_allocated() - self._memory) / 2**20, 1)

    def run(self, seconds):
        """Returns images/s, ragged batches and ends of epochs included."""
        synchronize()
        start, images = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            # The host runs ahead of the device, within limits.
            images += sum(count for _, count in itertools.islice(self._steps, 2 if DRY else 50))
            synchronize()
        return images / (time.perf_counter() - start)

    def replay_us(self):
        """Returns microseconds of the work of a full step, which the host does not delay."""
        if DRY or not self.step.replays:
            return None
        times = []
        for _ in range(50):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(2_000_000)  # about 1 ms, in which the host launches the step
            start.record()
            _, count = next(self._steps)
            end.record()
            end.synchronize()
            if count == self.batch:
                times.append(1e3 * start.elapsed_time(end))
        return statistics.median(times)

    def kernels(self):
        """Returns the kernels of a full step, the largest, and images/s of as many empty ones."""
        from torch.profiler import ProfilerActivity, profile

        activity = ProfilerActivity.CPU if DRY else ProfilerActivity.CUDA
        for _ in range(3):  # one batch of an epoch is ragged
            with profile(activities=[activity]) as seen:
                _, count = next(self._steps)
                synchronize()
            if count == self.batch:
                break
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


def plain_loop(method, backbone, batch):
    """Returns a function that runs the plain loop for some seconds and returns images/s.

    Its network is eager, in float32 as PyTorch multiplies it by default.
    """
    given = {"backbone": backbone, "seed": 0, "device": str(DEVICE)} | (SMALL if DRY else {})
    with contextlib.redirect_stdout(io.StringIO()):
        model, dataset = mc.load_runner("sgd", DATASET, given)
    train, _ = (loader.dataset for loader in dataset.meta_get_data_loaders())
    net = model.net.to(DEVICE)
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
