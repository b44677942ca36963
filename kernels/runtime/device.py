"""What a device and the settings of torch allow: Triton kernels, tensor cores, TF32."""

import functools
import importlib.util
from typing import Any

import torch

# Element types of the Triton kernels.
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def has_triton() -> bool:
    """Returns whether Triton is installed; without it the references compute everything."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def supports_triton(device: torch.device) -> bool:
    """Returns whether the Triton kernels run on a device: CUDA, sm_80 or newer, Triton installed.

    bfloat16, TF32 and asynchronous copies begin with sm_80; ROCm devices have other limits.
    """
    if device.type != "cuda" or torch.version.hip is not None or not has_triton():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def triton_why_not(*tensors: torch.Tensor, any_dtype: bool = False) -> str:
    """Returns why the Triton kernels cannot take these tensors, "" if they can.

    Args:
        *tensors: Real or fake; the first decides the dtype.
        any_dtype: For kernels that move data of any dtype.
    """
    if not all(t.is_cuda for t in tensors) or not supports_triton(tensors[0].device):
        return "Triton kernels need a CUDA GPU of compute capability 8.0 or newer, and Triton"
    dtype = tensors[0].dtype
    return "" if any_dtype or dtype in TRITON_DTYPES else f"there is no kernel for {dtype}"


def input_precision(dtype: torch.dtype, *, convolution: bool) -> str:
    """Returns the precision of float32 multiplications: "tf32" where torch uses it, else "ieee".

    Args:
        dtype: Dtype of the operands.
        convolution: Whether torch would call cuDNN (TF32 by default) or a matrix multiplication
            (TF32 only on request).
    """
    if dtype != torch.float32:
        return "ieee"
    backend: Any = torch.backends
    setting = backend.cudnn.conv if convolution else backend.cuda.matmul
    precision = setting.fp32_precision
    if precision == "none":
        precision = "tf32" if torch.get_float32_matmul_precision() != "highest" else "ieee"
    return "tf32" if precision == "tf32" else "ieee"
