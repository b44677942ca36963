"""An operation log that stands in for a CUDA graph.

It records the operations of a step with the tensors that they read and write, and a replay repeats
them on the same memory. As on a GPU, Python code is not repeated, and an operation that reads a
value cannot be captured.
"""

import contextlib
from unittest import mock

import torch
from fake_gpu import READS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mammoth_compiled import Buffer
from mammoth_compiled.kernels.reservoir import reference


class OperationLog(TorchDispatchMode):
    """Records operations and replays them."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        # Detached tensors share the memory, and a replay must not extend autograd's graph.
        self.operations.append(
            (func, *tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs or {}, result)))
        )
        return result

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, result in self.operations:
            given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
            storages = {t.untyped_storage().data_ptr() for t in given}
            for old, new in zip(
                tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True
            ):
                # Views and in-place results share the memory of an input.
                if isinstance(old, torch.Tensor) and (
                    old.untyped_storage().data_ptr() not in storages
                ):
                    old.copy_(new)


class LogCapture:
    """Captures operation logs; as on a GPU, weights and buffers keep their values meanwhile."""

    def __init__(self, model):
        self.model = model
        self.captured = 0
        self.loader = None

    def stream(self):
        return contextlib.nullcontext()

    def capture(self, function):
        tensors = [*self.model.parameters(), *self.model.buffers()]
        tensors += [t for t in vars(self.model).values() if isinstance(t, torch.Tensor)]
        for state in self.model.opt.state.values():
            tensors += [t for t in state.values() if isinstance(t, torch.Tensor)]
        for buffer in vars(self.model).values():
            if isinstance(buffer, Buffer):
                tensors += buffer.tensors()
        if self.loader is not None:
            tensors += self.loader.state_tensors()
        before = [t.detach().clone() for t in tensors]
        random = torch.get_rng_state()
        try:
            on_gpu = mock.patch.object(reference, "may_read_values", return_value=False)
            with on_gpu, OperationLog() as log:
                result = function()
        finally:
            with torch.no_grad():
                for tensor, value in zip(tensors, before, strict=True):
                    tensor.copy_(value)
            torch.set_rng_state(random)
        self.captured += 1
        return log.replay, result
