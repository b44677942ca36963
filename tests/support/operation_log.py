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

from mammoth_compiled.kernels.reservoir import reference


class OperationLog(TorchDispatchMode):
    """Records operations and replays them."""

    def __init__(self):
        super().__init__()
        self.operations = []
        # Tensors and their values before the first operation that wrote to them.
        self.written = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tree_leaves(value):
                    key = tensor.data_ptr(), tensor.shape
                    if key not in self.written:
                        self.written[key] = tensor.detach(), tensor.detach().clone()
        result = func(*args, **(kwargs or {}))
        # Detached tensors share the memory, and a replay must not extend autograd's graph.
        self.operations.append(
            (func, *tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs or {}, result)))
        )
        return result

    @torch.no_grad()
    def undo(self):
        """Gives all tensors the values from before; a capture on a GPU computes none."""
        for tensor, value in reversed(self.written.values()):
            tensor.copy_(value)

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

    def stream(self):
        return contextlib.nullcontext()

    def capture(self, function):
        # Batch norm does not declare that it writes to its statistics.
        statistics = [(t, t.clone()) for t in self.model.buffers()]
        random = torch.get_rng_state()
        log = OperationLog()
        try:
            on_gpu = mock.patch.object(reference, "may_read_values", return_value=False)
            with on_gpu, log:
                result = function()
        finally:
            log.undo()
            for tensor, value in statistics:
                tensor.copy_(value)
            torch.set_rng_state(random)
        self.captured += 1
        return log.replay, result
