"""Lists the kernels that Inductor launches for an exported backbone on a fake GPU.

python lower_exported.py BACKBONE prints them in order, one a line. torch is told of an sm_90 chip,
tensors are fake, and code is written but not compiled to machine code.
"""

import functools
import re
import sys
from types import SimpleNamespace

import torch
import triton
from torch._dynamo.device_interface import CudaInterface
from torch._functorch.aot_autograd import aot_export_module
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.post_grad import post_grad_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch.export import Dim
from torch.fx.graph import CodeGen
from triton.backends.compiler import GPUTarget

from mammoth_compiled.compiler import autotune
from mammoth_compiled.compiler.patterns import apply_patterns
from mammoth_compiled.kernels.runtime import device as kernel_device
from mammoth_compiled.registry import backbones

CHIP = SimpleNamespace(
    name="NVIDIA H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    regs_per_multiprocessor=65536,
    warp_size=32,
    total_memory=80 << 30,
    L2_cache_size=50 << 20,
    shared_memory_per_block=48 << 10,
    shared_memory_per_block_optin=227 << 10,
)


class Driver:
    """The target that Triton compiles for."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0


def main():
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    torch.cuda.current_device = lambda: 0
    triton.runtime.driver.set_active(Driver())
    kernel_device.supports_triton = lambda device: device.type == "cuda"
    autotune.fastest = lambda case, device, names: names[0]
    torch.set_float32_matmul_precision("high")  # strict float32 has no kernel for attention
    with torch.no_grad():
        graph, inputs = captured(backbones[sys.argv[1]].target(num_classes=3).eval())
        code = lowered(graph, inputs)
    for name in re.findall(r"^ +(?:\w+ = )?(extern_kernels\.\w+|\w+\.run)\(", code, re.MULTILINE):
        sys.stdout.write(f"{name}\n")


def captured(net):
    """Returns the exported and rewritten graph after AOTAutograd, and its inputs, weights first."""
    images = torch.rand(2, 3, 32, 32)
    program = torch.export.export(net, (images,), dynamic_shapes=({0: Dim("batch")},), strict=False)
    module = program.module()
    (placeholder,) = module.graph.find_nodes(op="placeholder")
    mode = placeholder.meta["val"].fake_mode

    def fake(value):
        with mode:
            return torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device="cuda"
            )

    for node in module.graph.nodes:
        if isinstance(node.meta.get("val"), torch.Tensor):
            node.meta["val"] = fake(node.meta["val"])
    module.load_state_dict({k: fake(v) for k, v in module.state_dict().items()}, assign=True)
    apply_patterns(module.graph)

    # Like aot_compile: without guards, with results as a tuple.
    for guards in module.graph.find_nodes(op="call_module"):
        module.graph.erase_node(guards)
    module.graph.output_node().args = ((module.graph.output_node().args[0],),)
    module.graph.set_codegen(CodeGen())
    module.recompile()
    table = select_decomp_table()
    graph, _ = aot_export_module(
        module, [placeholder.meta["val"]], trace_joint=False, decompositions=table
    )
    assert not mode.shape_env.guards, mode.shape_env.guards  # valid for any batch
    return graph, [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")]


def lowered(graph, inputs):
    """Returns the Python code that launches kernels."""
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    for name, value in {
        "get_device_properties": CHIP,
        "current_device": 0,
        "is_available": True,
        "get_compute_capability": 90,
    }.items():
        answer = functools.partial(lambda value, device=None: value, value)
        setattr(CudaInterface, name, staticmethod(answer))
    CudaInterface.Worker.get_device_properties = CudaInterface.get_device_properties
    mode = inputs[-1].fake_mode
    with V.set_fake_mode(mode), V.set_debug_handler(DebugContext()):
        post_grad_passes(graph, True)
        lowering = GraphLowering(graph, example_inputs=inputs, shape_env=mode.shape_env)
        with V.set_graph_handler(lowering):
            lowering.run(*inputs)
            return lowering.codegen()[0].value


if __name__ == "__main__":
    main()
