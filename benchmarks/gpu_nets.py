"""Training steps of networks alone: eager, stock Inductor, its max-autotune, and ours."""

import json
import statistics
import time

import torch
from gpu_timing import DEVICE, DRY, few, stop_if_broken, synchronize, time_replays
from torch.nn import functional as F

from mammoth_compiled.registry import backbones

COMPILERS = {
    "eager": None,
    "stock": {},
    "mammoth": {"backend": "mammoth"},
    # Last: tuning takes minutes. It replays CUDA graphs of its own, which another cannot contain.
    "max-autotune": {"mode": "max-autotune"},
}


def time_nets(context):
    """Yields images/s of one network, batch size and compiler; also in a CUDA graph."""
    for compiler, options in COMPILERS.items():
        for name in few(("cnn", "resnet18", "attention-cnn")):
            for batch in few((32, 128)):
                row = {"backbone": name, "batch": batch, "compiler": compiler}
                if context.is_over():
                    yield {**row, "left_out": "out of time"}
                    continue
                try:
                    row |= _measure(name, batch, options)
                except Exception as error:  # one case must not cost the others
                    stop_if_broken(error)
                    row["failed"] = f"{type(error).__name__}: {error}"[:500]
                print(json.dumps(row), flush=True)
                yield row


def _measure(name, batch, options):
    torch._dynamo.reset()
    begin = time.monotonic()
    if not DRY:
        torch.cuda.reset_peak_memory_stats()
    run = _training_step(name, batch, options)
    row = {"first_steps_s": round(time.monotonic() - begin, 1)}
    row["images_per_s"] = batch / _seconds(run)
    if not DRY:
        row["peak_MiB"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    if not options or "mode" not in options:
        ms = statistics.median(time_replays([run] * 5))
        row["graph_images_per_s"] = 1e3 * batch / ms
    return row


def _training_step(name, batch, options):
    net = backbones[name].target(num_classes=10).to(DEVICE, memory_format=torch.channels_last)
    lr = torch.tensor(0.01, device=DEVICE)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, fused=True)
    images = torch.randn(batch, 3, 32, 32, device=DEVICE)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device=DEVICE)
    if DRY and options is not None:
        options = {"backend": "aot_eager"}
    forward = net if options is None else torch.compile(net, dynamic=False, **options)

    def run():
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=not DRY):
            logits = forward(images)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    for _ in range(1 if DRY else 3):
        run()
    return run


def _seconds(run, calls=1 if DRY else 50, rounds=1 if DRY else 5):
    times = []
    for _ in range(rounds):
        synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        synchronize()
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times)
