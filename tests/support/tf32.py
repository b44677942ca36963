"""TF32 without a GPU: operands of float32 multiplications are rounded to 10 bits of mantissa."""

import contextlib
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


def rounded(values):
    """Returns a float32 array as tensor cores read it."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    near = ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(values), near, values)


class _Products(TorchDispatchMode):
    """Rounds the operands of torch's matrix multiplications."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("mm", "bmm") and args[0].dtype == torch.float32:
            args = tuple(torch.from_numpy(rounded(x.detach().numpy())) for x in args)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def emulated_tf32():
    """Lets torch, and Triton's interpreter where a kernel asks for it, multiply in TF32."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    multiply = InterpreterBuilder.create_dot

    def create_dot(self, a, b, d, input_precision, *rest):
        if "TF32" in str(input_precision).upper() and a.data.dtype == np.float32:
            a, b = (TensorHandle(rounded(x.data), x.dtype) for x in (a, b))
        return multiply(self, a, b, d, input_precision, *rest)

    with mock.patch.object(InterpreterBuilder, "create_dot", create_dot), _Products():
        yield
