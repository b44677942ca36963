"""The peak rates of a GPU: copies, matrix multiplications, kernels that do nothing."""

import json
import statistics

import torch
from gpu_timing import DEVICE, DRY, time_replays


def limits(context=None):
    """Yields one row: TB/s of a copy, TFLOP/s of products, and the time of an empty kernel."""
    found = {"copy_TB_s": _copy_rate()}
    for dtype in (torch.bfloat16, torch.float32):
        size = 64 if DRY else 8192
        a, b = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
        product_ms = statistics.median(time_replays([lambda a=a, b=b: a @ b] * 3))
        found[f"product_{precision(dtype)}_TFLOP_s"] = 2 * size**3 / product_ms / 1e9
    one = torch.zeros(1, device=DEVICE)
    found["graph_node_us"] = 1e3 * statistics.median(time_replays([lambda: one.add_(1)] * 1000))
    yield found


def measured_limits(out):
    """Returns the limits in the results of a folder; measures them if there are none."""
    path = out / "gpu.json"
    sections = json.loads(path.read_text())["sections"] if path.exists() else {}
    rows = sections.get("limits", {}).get("rows", [])
    return rows[0] if rows else next(limits())


def precision(dtype):
    """How a dtype is multiplied: "bf16" or "tf32"."""
    return "bf16" if dtype == torch.bfloat16 else "tf32"


def _copy_rate(num_bytes=2**12 if DRY else 2**30):
    """TB/s, reading and writing counted."""
    source, target = (torch.rand(num_bytes // 4, device=DEVICE) for _ in range(2))
    copy_ms = statistics.median(time_replays([lambda: target.copy_(source)]))
    return 2 * num_bytes / copy_ms / 1e9
