"""Times every implementation of an operation on a GPU, against stock Inductor and torch's own."""

import json
import shutil
import statistics
import time
from functools import partial

import torch
from common import spread
from gpu_timing import DEVICE, DRY, few, time_replays
from torch.nn.attention import SDPBackend, sdpa_kernel
from tuning import OURS

from mammoth_compiled.kernels.discovery import tuning_cases
from mammoth_compiled.kernels.runtime import tiles
from mammoth_compiled.kernels.runtime.cases import training_step

# More than the second-level cache holds, so that inputs come from memory as in training.
FRESH_BYTES = 256 * 2**20


def time_ops(limits, out, deadline):
    """Returns a row of times per case, and writes the winners to the chip's table."""
    rows, winners = [], {}
    for case in few(tuning_cases(), key=lambda case: case.op):
        if time.monotonic() > deadline:
            rows.append({"op": case.op, "problem": str(case), "left_out": "out of time"})
            continue
        names, row = time_case(case, limits)
        rows.append(row)
        medians = {name: ms["median"] for name, ms in row["ms"].items() if name in names}
        winner = min(medians, key=medians.get)
        # Stock Inductor is what compiles a graph that is left alone.
        if row["ms"]["stock"]["median"] < medians[winner]:
            winner = "torch"
        winners.setdefault(case.op, {})[str(case)] = winner
        print(_line(row), flush=True)
    write_table({"winners": winners}, out)
    return rows


def write_table(changes, out):
    """Updates the table of this chip that ships with the package, and copies it to a folder."""
    if DRY:
        return
    chip = tiles.chip_name(DEVICE)
    path = tiles.tuned_path(chip)
    path.parent.mkdir(exist_ok=True)
    table = {**tiles.tuned_table(chip), **changes}
    path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    tiles.clear_cache()
    shutil.copy(path, out)


def time_case(case, limits):
    """Times forward and backward of each implementation in a CUDA graph, with uncached inputs.

    Returns:
        The names of our implementations, and the row.
    """
    work = case.work()
    copies = 1 if DRY else max(2, min(20, FRESH_BYTES // max(1, work.num_bytes)))
    steps = [case.make_steps(DEVICE) for _ in range(copies)]
    names = list(steps[0])
    functions = {name: [step[name] for step in steps] for name in names}
    torch._dynamo.reset()
    inputs = [case.make_inputs(DEVICE) for _ in range(copies)]
    stock = torch.compile(case.contenders(inputs[0])["torch"], dynamic=False)
    functions["stock"] = [training_step(stock, given) for given in inputs]
    if "sdpa" in names:
        functions |= _torch_backends(functions["sdpa"])
    times = {name: [] for name in functions}
    for _ in range(3):  # interleaved
        for name, calls in functions.items():
            times[name] += time_replays(calls, count=7)
    rate = 1e12 * limits[f"product_{precision(case.dtype)}_TFLOP_s"]
    floor_ms = 1e3 * max(work.num_bytes / (1e12 * limits["copy_TB_s"]), work.num_flops / rate)
    medians = {name: statistics.median(values) for name, values in times.items()}
    fused = min((medians[name] for name in OURS if name in medians), default=medians["torch"])
    return names, {
        "op": case.op,
        "problem": str(case),
        "precision": precision(case.dtype),
        "ms": {name: spread(values) for name, values in times.items()},
        "fused_over_best_of_eager_and_stock": min(medians["torch"], medians["stock"]) / fused,
        "floor_ms": floor_ms,
        "share_of_floor": floor_ms / fused,
    }


def precision(dtype):
    """How a dtype is multiplied: "bf16" or "tf32"."""
    return "bf16" if dtype == torch.bfloat16 else "tf32"


def _torch_backends(steps):
    """Torch's fused attention by each library that supports the case, under torch's names."""
    found = {}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):

        def call(step, backend=backend):
            with sdpa_kernel(backend):
                return step()

        try:
            call(steps[0])
        except RuntimeError:  # it does not support this dtype
            continue
        name = backend.name.removesuffix("_ATTENTION").lower()
        found[name] = [partial(call, step) for step in steps]
    return found


def _line(row):
    ms = "  ".join(f"{name} {1e3 * t['median']:.1f}" for name, t in row["ms"].items())
    gain, share = row["fused_over_best_of_eager_and_stock"], row["share_of_floor"]
    return f"{row['op']} {row['problem']}: us {ms}  gain {gain:.2f}  of the floor {share:.0%}"
