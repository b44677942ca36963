"""A training step of a built-in model never makes the host wait for the device.

On a CPU nothing waits, but the operations that would on a GPU are the same: those that turn a
tensor's values into Python's or into shapes.
"""

from collections import Counter

import pytest
import torch
from gpu_on_paper import READS
from torch.utils._python_dispatch import TorchDispatchMode

from mammoth_compiled import get_model_names, load_runner
from mammoth_compiled.engine import monitor


class Waits(TorchDispatchMode):
    """Counts the operations that read values, by name."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in READS or (name.startswith("index") and _by_mask(args[1:])):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def _by_mask(args):
    """Whether a list of indices has a mask, whose number of ones becomes a shape."""
    lists = [arg for arg in args if isinstance(arg, (list, tuple))]
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for ids in lists for i in ids)


def steps(model, loader, count):
    watch = monitor.LossMonitor(model, 1)
    watch._every = count + 1  # as between two looks at the losses on a GPU
    with Waits() as waits:
        for number, batch in zip(range(count), loader, strict=False):
            watch.add(model.observe(*batch, epoch=0), 1, number + 1)
    return waits.found


@pytest.mark.parametrize("name", get_model_names())
def test_no_step_waits(tiny, name):
    args = {"buffer_size": 20} if name not in ("sgd", "joint") else {}
    args |= {"alpha": 0.1} if name.startswith("der") else {}
    args |= {"beta": 0.1} if name == "derpp" else {}
    model, dataset = load_runner(name, "seq-tiny-augmented", {"seed": 0, "batch_size": 8, **args})
    loader, _ = dataset.meta_get_data_loaders()
    model.begin_task(dataset)
    steps(model, loader, 4)  # until the buffer is full
    assert steps(model, loader, 3) == {}


def test_what_waits_is_seen():
    with Waits() as waits:
        float(torch.ones(1))
        torch.ones(3)[torch.tensor([True, False, True])]
    assert waits.found == {"_local_scalar_dense": 1, "index": 1}
