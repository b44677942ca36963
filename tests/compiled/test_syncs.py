"""A training step of a built-in model causes no host sync.

A CPU has no host syncs, but the operations that cause them on a GPU are the same: those that turn
the values of a tensor into Python values or into shapes.
"""

import warnings
from collections import Counter

import pytest
import torch
from fake_gpu import READS
from torch.utils._python_dispatch import TorchDispatchMode

from mammoth_compiled import get_model_names, load_runner
from mammoth_compiled.engine.losses import LossReader
from mammoth_compiled.engine.observer import Observers, Run
from mammoth_compiled.engine.syncs import record_host_syncs
from mammoth_compiled.kernels.reservoir import reference


class HostSyncs(TorchDispatchMode):
    """Counts the operations that read values, by name."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in READS or (name.startswith("index") and _has_mask(args[1:])):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def _has_mask(args):
    """Whether a list of indices has a mask, whose number of ones becomes a shape."""
    lists = [arg for arg in args if isinstance(arg, (list, tuple))]
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for ids in lists for i in ids)


def syncs_of_steps(model, dataset, loader, count):
    run = Run(model, dataset, config=None, compute=model.compute)
    reader = LossReader(run, Observers([]), read_every=count + 1)  # between two reads on a GPU
    with HostSyncs() as syncs:
        for _, batch in zip(range(count), loader, strict=False):
            reader.add(model.observe(*batch, epoch=0))
    return syncs.found


@pytest.mark.parametrize("name", get_model_names())
def test_steps_cause_no_host_sync(tiny, example_args, monkeypatch, name):
    # On a CPU a buffer reads which rows stay, which costs no sync there.
    monkeypatch.setattr(reference, "may_read_values", lambda store: False)
    args = {"seed": 0, "batch_size": 8, **example_args(name)}
    model, dataset = load_runner(name, "seq-tiny-augmented", args)
    loader, _ = dataset.meta_get_data_loaders()
    model.begin_task(dataset)
    syncs_of_steps(model, dataset, loader, 4)  # fills the buffer
    assert syncs_of_steps(model, dataset, loader, 3) == {}


def test_host_syncs_are_detected():
    with HostSyncs() as syncs:
        float(torch.ones(1))
        torch.ones(3)[torch.tensor([True, False, True])]
    assert syncs.found == {"_local_scalar_dense": 1, "index": 1}


def test_only_warnings_of_user_code_are_shown_where_syncs_are_recorded(monkeypatch):
    modes = [0]

    def set_mode(mode):
        modes.append(mode)
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with record_host_syncs(torch.device("cuda")) as places:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("of user code", stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["of user code"]
    assert [place.partition(":")[0] for place in places] == [__file__]
    assert modes == [0, "warn", 0]
