"""An H100 that is not there: Inductor and our kernels take its properties, and nothing runs."""

import contextlib
from unittest import mock

import torch
from torch._dynamo.device_interface import CudaInterface
from torch._inductor.runtime import hints
from torch._subclasses import fake_tensor
from torch.utils._triton import has_triton

from mammoth_compiled.compiler import autotune
from mammoth_compiled.data import array_source
from mammoth_compiled.kernels.runtime import device as kernel_device


class Properties:
    """What Inductor asks of an H100."""

    multi_processor_count, major, minor, total_memory, warp_size = 132, 9, 0, 80 << 30, 32
    regs_per_multiprocessor, max_threads_per_multi_processor = 65536, 2048
    shared_memory_per_block_optin, L2_cache_size = 232448, 50 << 20
    name = "NVIDIA H100 80GB HBM3"
    gcnArchName = ""  # noqa: N815  torch's name


class Driver:
    """What Triton asks of its driver."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def is_active(self):
        return True


def _hints():
    return hints.DeviceProperties(
        type="cuda",
        index=0,
        multi_processor_count=132,
        cc=90,
        major=9,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048,
        warp_size=32,
    )


def _first_kernel(case, device, names):
    """Takes our kernel wherever there is one, as the autotuner would if it were the fastest."""
    return next((name for name in names if name not in ("torch", "sdpa")), names[0])


def gpu_code():
    """Returns a context in which CPU tensors take the code for GPUs, as if our kernels ran."""
    return _replacing(
        [
            (kernel_device, "supports_triton", lambda _: True),
            (array_source, "supports_triton", lambda _: True),
            (autotune, "fastest", _first_kernel),
        ]
    )


def fake_h100():
    """Returns a context in which Inductor and Triton compile for an H100."""
    import triton

    triton.runtime.driver.set_active(Driver())
    has_triton.cache_clear()  # it may have been asked before there was a GPU
    properties = _hints()
    replaced = [(hints.DeviceProperties, "create", staticmethod(lambda *_: properties))]
    replaced.append((fake_tensor, "init_gpu_context", lambda _: None))  # needs a driver
    replaced.append((torch._C, "_conv_determine_backend_memory_format", memory_format_of_cudnn))
    replaced += [
        (torch.cuda, name, lambda *_, value=value: value)
        for name, value in (
            ("is_available", True),
            ("current_device", 0),
            ("device_count", 1),
            ("get_device_capability", (9, 0)),
            ("get_device_properties", Properties),
            ("_lazy_init", None),
            ("synchronize", None),
            ("get_rng_state", torch.get_rng_state()),
            ("set_rng_state", None),
        )
    ]
    replaced += [
        (CudaInterface, name, staticmethod(lambda *_, value=value, **__: value))
        for name, value in (
            ("is_available", True),
            ("get_compute_capability", 90),
            ("is_triton_capable", True),
            ("raise_if_triton_unavailable", None),
            ("is_bf16_supported", True),
        )
    ]
    worker = CudaInterface.Worker
    replaced += [
        (worker, "get_device_properties", staticmethod(lambda *_: Properties)),
        (worker, "current_device", staticmethod(lambda: 0)),
    ]
    return _replacing(replaced)


def memory_format_of_cudnn(images, weight, _):
    """Returns the layout of what cuDNN computes: that of either tensor that is channels-last."""
    last = torch.channels_last
    for t in (images, weight):
        if t.dim() == 4 and t.is_contiguous(memory_format=last) and not t.is_contiguous():
            return last
    return torch.contiguous_format


@contextlib.contextmanager
def _replacing(attributes):
    with contextlib.ExitStack() as stack:
        for owner, name, value in attributes:
            if hasattr(owner, name):
                stack.enter_context(mock.patch.object(owner, name, value))
        yield
