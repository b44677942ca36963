"""AOTInductor bundles on a GPU: agreement with eager mode, and latency."""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from gpu_timing import DEVICE, DRY, few, stop_if_broken, synchronize

from mammoth_compiled import export_bundle, load_bundle
from mammoth_compiled.registry import backbones

# A dry run has no time for AOTInductor.
FORMAT = "pt2" if DRY else "aoti"


def time_exports(context):
    """Yields a row per backbone: seconds of the export, largest differences, latencies."""
    for name in few(("cnn", "resnet18", "attention-cnn")):
        row = {"backbone": name, "format": FORMAT}
        if context.is_over():
            yield {**row, "left_out": "out of time"}
            continue
        try:
            row |= _export(name)
        except Exception as error:  # one backbone must not cost the others
            stop_if_broken(error)
            row["failed"] = f"{type(error).__name__}: {error}"[:500]
        yield row


@torch.no_grad()
def _export(name):
    net = backbones[name].target(num_classes=10).to(DEVICE).eval()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        path = export_bundle(
            net, Path(folder) / "b", input_shape=(3, 32, 32), formats=FORMAT, device=DEVICE
        )
        row = {"export_s": round(time.monotonic() - begin, 1)}
        bundle = load_bundle(path, device=str(DEVICE), runtime=FORMAT)
        row["largest_difference"], row["latency_us"] = {}, {}
        for batch in few((1, 7, 32)):
            images = torch.randn(batch, 3, 32, 32, device=DEVICE)
            expected, found = net(images), bundle(images)
            assert found.device == images.device
            difference = (found - expected).abs().max() / expected.abs().max()
            row["largest_difference"][batch] = difference.item()
            row["latency_us"][batch] = {
                "bundle": _latency_us(lambda images=images: bundle(images)),
                "eager": _latency_us(lambda images=images: net(images)),
            }
    return row


def _latency_us(function):
    """Microseconds from the call to the result on the GPU."""
    times = []
    for _ in range(2 if DRY else 200):
        synchronize()
        start = time.perf_counter()
        function()
        synchronize()
        times.append(1e6 * (time.perf_counter() - start))
    return round(statistics.median(times), 1)
