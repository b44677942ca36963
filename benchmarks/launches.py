"""Counts the kernels that Inductor launches on an H100 in a training step, without a GPU.

    python benchmarks/launches.py [--backbones cnn resnet18] [--batch 32]

Each step is traced on the CPU, moved to fake CUDA tensors and lowered with the properties of an
H100 written in by hand; nothing runs. It is Inductor's own code in bf16, without our patterns,
which replace some of these kernels on a GPU, and without the optimizer: "network" and "loss" apart,
as where the backbone is compiled alone (the loss then runs eagerly in no fewer kernels), "whole" in
one graph. Library calls (cuDNN, cuBLAS) may launch several kernels.
"""

import argparse
import contextlib
import re
from unittest import mock

import torch
import torch._inductor.config as inductor_config
from common import write_results
from torch._dynamo.device_interface import CudaInterface
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.post_grad import post_grad_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime import hints
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.nn import functional as F

import mammoth_compiled  # noqa: F401  registers the backbones
from mammoth_compiled.registry import backbones

COMBO = {"combo_kernels": True, "combo_kernels_autotune": 0, "benchmark_combo_kernel": False}


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


def fake_h100():
    """Returns a context in which Inductor compiles for an H100 that is not there."""
    import triton

    triton.runtime.driver.set_active(Driver())
    stack = contextlib.ExitStack()
    properties = hints.DeviceProperties(
        type="cuda",
        index=0,
        multi_processor_count=132,
        cc=90,
        major=9,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048,
        warp_size=32,
    )
    replaced = [(hints.DeviceProperties, "create", staticmethod(lambda *_: properties))]
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
    for owner, name, value in replaced:
        if hasattr(owner, name):
            stack.enter_context(mock.patch.object(owner, name, value))
    return stack


def launches(function, tensors, combo=False):
    """Returns the numbers of Triton kernels and library calls of a compiled function."""
    graph = make_fx(function, decomposition_table=select_decomp_table(), tracing_mode="fake")(
        *tensors
    )
    for node in graph.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda", 0)}
        node.meta.pop("val", None)
    graph.recompile()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.no_grad():
        fakes = [torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in tensors]
        FakeTensorProp(graph, mode).propagate_dont_convert_inputs(*fakes)
    with inductor_config.patch(COMBO if combo else {}), V.set_fake_mode(mode):
        post_grad_passes(graph, is_inference=True)
        lowering = GraphLowering(graph, example_inputs=fakes, is_inference=True)
        with V.set_graph_handler(lowering), V.set_debug_handler(DebugContext()):
            lowering.run(*fakes)
            code = lowering.codegen()[0]
    text = getattr(code, "value", code)
    body = text[text.index("def call(") :]
    triton_kernels = re.findall(r"(triton_\w+)\.run\(", body)
    library = re.findall(r"extern_kernels\.\w+\(|= torch\.ops\.\w+\.\w+", body)
    return {"triton": len(triton_kernels), "library": len(library)}


def count(name, batch):
    """Returns the launches of a step of a backbone: in parts, whole, and with combo kernels."""
    net = backbones[name].target(num_classes=10)
    names = [n for n, _ in net.named_parameters()]
    buffers = [n for n, _ in net.named_buffers()]
    images, labels = torch.zeros(batch, 3, 32, 32), torch.zeros(batch, dtype=torch.int64)
    tensors = [*(p.detach() for p in net.parameters()), *net.buffers()]

    def forward(images, state):
        held = [b.clone() for b in state[len(names) :]]
        params = [p.detach().requires_grad_() for p in state[: len(names)]]
        given = dict(zip([*names, *buffers], [*params, *held], strict=True))
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
            logits = functional_call(net, given, (images,)).float()
        return logits, params, held

    def network(images, grad, *state):
        logits, params, held = forward(images, state)
        return (logits.detach(), *torch.autograd.grad(logits, params, grad), *held)

    def loss_alone(logits, labels):
        logits = logits.detach().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(logits, labels)
        return (loss.detach(), *torch.autograd.grad(loss, logits))

    def whole(images, labels, *state):
        logits, params, held = forward(images, state)
        with torch.enable_grad():
            loss = F.cross_entropy(logits, labels)
        return (loss.detach(), *torch.autograd.grad(loss, params), *held)

    logits = torch.zeros(batch, 10)
    return {
        "batch": batch,
        "network": launches(network, [images, logits, *tensors]),
        "loss": launches(loss_alone, [logits, labels]),
        "whole": launches(whole, [images, labels, *tensors]),
        "whole with combo kernels": launches(whole, [images, labels, *tensors], combo=True),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", nargs="+", default=["cnn", "resnet18"])
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    counts = {}
    with fake_h100():
        for name in args.backbones:
            counts[name] = row = count(name, args.batch)
            print(name, row, flush=True)
    # Out of the context, as the environment says which GPU there is.
    print("written:", write_results("launches", {"steps": counts}))


if __name__ == "__main__":
    main()
