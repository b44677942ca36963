"""Times every implementation of an operation on a GPU, against stock Inductor and torch's own."""

import statistics
from functools import partial

import torch
from common import spread
from gpu_limits import measured_limits, precision
from gpu_timing import DEVICE, DRY, few, in_turn, stop_if_broken, time_replays
from torch.nn.attention import SDPBackend, sdpa_kernel
from tuning import OURS, write_table

from mammoth_compiled.kernels.discovery import tuning_cases
from mammoth_compiled.kernels.runtime.cases import training_step

# More than the second-level cache holds, so that inputs come from memory as in training.
FRESH_BYTES = 256 * 2**20


def time_ops(context):
    """Yields a row of times per case, and writes the winners to the chip's table."""
    rates, winners = measured_limits(context.out), {}
    for case in few(
        in_turn(tuning_cases()), lambda case: case.op, lambda case: case.work().num_flops
    ):
        row = {"op": case.op, "problem": str(case)}
        if context.is_over():
            yield {**row, "left_out": "out of time"}
            continue
        try:
            names, row = time_case(case, rates)
        except Exception as error:  # one case must not cost the others
            stop_if_broken(error)
            yield {**row, "failed": f"{type(error).__name__}: {error}"[:500]}
            continue
        winners.setdefault(case.op, {})[str(case)] = _winner(names, row["ms"])
        write_table({"winners": winners}, context.out)
        print(_line(row), flush=True)
        yield row


def _winner(names, ms):
    """Returns the fastest of our implementations, or "torch" if stock Inductor is faster."""
    medians = {name: times["median"] for name, times in ms.items() if name in names}
    winner = min(medians, key=medians.get)
    # Stock Inductor is what compiles a graph that is left alone.
    return "torch" if ms["stock"]["median"] < medians[winner] else winner


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
    backend = "aot_eager" if DRY else "inductor"
    stock = torch.compile(case.contenders(inputs[0])["torch"], backend=backend, dynamic=False)
    functions["stock"] = [training_step(stock, given) for given in inputs]
    if "sdpa" in names:
        functions |= _torch_backends(functions["sdpa"])
    times = {name: [] for name in functions}
    for _ in range(1 if DRY else 3):  # interleaved
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
