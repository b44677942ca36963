"""Counts the kernels that a captured training step launches on an H100, without a GPU.

    python benchmarks/launches.py [--rows "er cnn 32 bf16" ...]

The step is that of the engine: the stream batch, the draw of the replay batch, the network, the
loss, the optimizer, the update of the buffer and the end, where counters advance. Compiled parts
are traced on the CPU, rewritten by our patterns, moved to fake CUDA tensors and lowered with the
properties of an H100; elsewhere each operator counts as many launches as it makes. Nothing runs.

"default" compiles the backbone alone; "whole step" is `--whole_step`. Calls of libraries (cuDNN,
cuBLAS) count as one launch, and may be two to five. `measured` are the launches that the profiler
saw on an H100 at commit 0357572 (results/gpu_h100_profile.json).
"""

import argparse
import json
import warnings

import torch
from common import RESULTS, write_results
from fake_h100 import gpu_code
from launch_counts import CountLaunches, compiled_launches
from torch import nn

import mammoth_compiled as mc
from mammoth_compiled.engine.forward import forward_function
from mammoth_compiled.engine.static_step import EpochOrder, LossRing, StaticBatch
from mammoth_compiled.engine.whole_step import _step_function
from mammoth_compiled.kernels.runtime.deferred import defer_counters
from mammoth_compiled.kernels.step_end import end_step
from mammoth_compiled.models.core.optimizers import flat_parameters
from mammoth_compiled.types import Batch

DATASET = "seq-fmnist-mini"  # comes with the package; 3x32x32, with random crops and flips
# Each row with the launches of a whole step that were planned, on paper, before it was written.
ROWS = {
    "sgd cnn 32 bf16": 10,
    "sgd cnn 32 off": 10,
    "sgd cnn 128 bf16": 10,
    "er cnn 32 bf16": 11,
    "er resnet18 32 bf16": 147,
    "er resnet18 128 bf16": 147,
    "sgd attention-cnn 32 bf16": 66,
}


class _Logits(nn.Module):
    """Stands for the network, to count the launches of the loss alone."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return self.logits.float()


def count(row):
    """Returns the launches of one row by part, as default and as a whole step."""
    method, backbone, batch_size, amp = row.split()
    given = {"backbone": backbone, "batch_size": int(batch_size), "amp": amp, "lr": 0.03, "seed": 0}
    if method == "er":
        given |= {"buffer_size": 500, "minibatch_size": int(batch_size)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bf16 on this CPU
        model, dataset = mc.load_runner(method, DATASET, {**given, "device": "cpu"})
    loader, _ = dataset.meta_get_data_loaders()
    model.meta_begin_task(dataset)
    while method == "er" and not model.buffer.is_full():
        model.after_step(Batch(*next(iter(loader))))

    with defer_counters() as deferred:
        return _count_step(model, loader, amp, deferred)


def _count_step(model, loader, amp, deferred):
    # As the graph does on a GPU, which gathers its batch itself and advances counters at the end.
    (first, *_) = loader.lazy_batches()
    static = StaticBatch(first, EpochOrder(first.window))
    parts = {}
    batch = Batch(*_counted(parts, "batch", lambda: static.lazy.materialize(*static.lazy.tensors)))
    _counted(parts, "draw", lambda: model.draw(batch))
    parameters = [p for p in flat_parameters(model.opt.param_groups) if p.requires_grad]
    default, whole = dict(parts), dict(parts)
    size = len(batch.labels) * (2 if batch.replay else 1)
    images = torch.zeros(size, *batch.inputs.shape[1:])
    default["network"] = compiled_launches(
        _network(model.net), parameters, images, torch.zeros(size, model.num_classes)
    )
    step = _step_function(model)
    given = (batch.inputs, batch.labels, batch.not_aug_inputs, None, batch.replay)
    whole["network and loss"] = compiled_launches(step, parameters, *given, combo=True)
    plain = {**whole, "network and loss": compiled_launches(step, parameters, *given)}
    _count_loss(default, model, batch, size, amp)
    after = {}
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad():
        _counted(after, "optimizer", model.opt.step)
        _counted(after, "buffer", lambda: model.after_step(batch))
    static.advance(deferred)
    losses = LossRing(torch.float32, torch.device("cpu"))
    ends = (*deferred.take(), torch.zeros(()), losses.values, losses.slot)
    _counted(after, "end", lambda: end_step(*ends))
    return {
        "default": {**default, **after},
        "whole step": {**whole, **after},
        "whole step without combo kernels": {**plain, **after},
    }


def _counted(parts, name, function):
    with CountLaunches() as launches:
        result = function()
    parts[name] = launches.count
    return result


def _network(net):
    forward = forward_function(net, "out")

    def network(parameters, images, grad):
        with torch.autocast("cpu", torch.bfloat16, enabled=net._runner.policy.amp == "bf16"):
            logits = forward(images).float()
        return logits.detach(), *torch.autograd.grad(logits, parameters, grad)

    return network


def _count_loss(parts, model, batch, size, amp):
    """Counts the loss and its gradient, computed from logits as without a compiled step."""
    dtype = torch.bfloat16 if amp == "bf16" else torch.float32
    net, model.net = model.net, _Logits(torch.zeros(size, model.num_classes, dtype=dtype))
    _counted(parts, "loss", lambda: model.training_loss(batch).backward())
    model.net = net


def total(parts):
    """Returns the launches of all parts."""
    return sum(sum(n.values()) if isinstance(n, dict) else n for n in parts.values())


def measured():
    """Returns the launches that a profiler saw on an H100, by row."""
    steps = json.loads((RESULTS / "gpu_h100_profile.json").read_text())["steps"]
    return {
        " ".join(map(str, step["case"])): round(step["kernels_per_step"])
        for step in steps
        if "kernels_per_step" in step
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", default=ROWS)
    args = parser.parse_args()
    seen, steps = measured(), {}
    with gpu_code():
        for row in args.rows:
            parts = count(row)
            totals = {way: total(found) for way, found in parts.items()}
            steps[row] = {"measured": seen.get(row), "total": totals, "parts": parts}
            print(row, json.dumps(steps[row]), flush=True)
    # Rows that were not asked for keep their counts.
    path = RESULTS / "launches.json"
    held = json.loads(path.read_text())["steps"] if path.exists() else {}
    held.update(steps)
    steps = {row: {**held[row], "planned": ROWS[row]} for row in ROWS if row in held}
    print("written:", write_results("launches", {"steps": steps}))


if __name__ == "__main__":
    main()
