"""Counts the launches that operations and compiled graphs would make on an H100."""

import re
from unittest import mock

import torch
import torch._inductor.config as inductor_config
from fake_h100 import fake_h100
from torch._functorch.aot_autograd import aot_export_module
from torch._inductor.debug import DebugContext
from torch._inductor.fx_passes.joint_graph import (
    canonicalize_aten_ir_passes,
    constant_fold_uniform_value,
)
from torch._inductor.fx_passes.post_grad import post_grad_passes, remove_noop_ops
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime import triton_helpers
from torch._inductor.virtualized import V
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from mammoth_compiled.compiler.backend import (
    _Decompositions,
    _graph_pass,
    _rewrite_joint,
    _rewrite_lowered,
)
from mammoth_compiled.compiler.combined_kernels import combine_more_kernels
from mammoth_compiled.compiler.compat import COMBO_KERNELS
from mammoth_compiled.compiler.patterns import apply_patterns
from mammoth_compiled.kernels.runtime.launch import record_launches

# Launches of ATen's operators that make another number than one, as seen in
# results/gpu_h100_profile.json: topk selects, then sorts; padding fills, then copies; the gradient
# of the loss is zeroed first.
_LAUNCHES = {"topk": 2, "constant_pad_nd": 2, "nll_loss_backward": 2}
# These only allocate, or change what Python knows.
_NONE = {"detach", "lift_fresh", "alias", "_unsafe_view", "_assert_async", "set_"}
# Limits of one launch over a list of tensors, from ATen's MultiTensorApply.cuh: tensors by the
# number of lists, blocks, and elements of a block.
_TENSORS_PER_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
_BLOCKS_PER_LAUNCH, _BLOCK = 320, 65536
_OPTIONS = {
    "post_grad_custom_pre_pass": _graph_pass(_rewrite_lowered, "launches"),
    "compile_threads": 1,  # with more, processes begin to compile kernels that nothing needs
}


class CountLaunches(TorchDispatchMode):
    """Counts the launches that the operators called within it would make on a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += operator_launches(func, args)
        return func(*args, **(kwargs or {}))


def operator_launches(func, args):
    """Returns the launches of one operator of ATen or of ours."""
    namespace, name = func._schema.name.split("::")
    if namespace == "mammoth":
        return custom_launches(func._schema.name, args)
    if name.startswith("_fused_"):
        states = sum(isinstance(arg, (list, tuple)) and len(arg) > 0 for arg in args)
        return multi_tensor_launches(args[0], states)
    if namespace != "aten" or func.is_view or name in _NONE or "empty" in name:
        return 0
    if name == "copy_" and args[0].data_ptr() == args[1].data_ptr():
        return 0  # of a view to itself, as in `x[0] += 1`
    return _LAUNCHES.get(name, 1)


def multi_tensor_launches(tensors, num_lists):
    """Returns the launches of a fused optimizer over lists of tensors."""
    launches = in_launch = blocks = 0
    for tensor in tensors:
        in_launch += 1
        for _ in range(-(-tensor.numel() // _BLOCK)):
            blocks += 1
            if blocks == _BLOCKS_PER_LAUNCH:
                launches, in_launch, blocks = launches + 1, 1, 0
        if in_launch == _TENSORS_PER_LAUNCH[num_lists] and blocks:
            launches, in_launch, blocks = launches + 1, 0, 0
    return launches + (blocks > 0)


def custom_launches(name, args):
    """Returns the launches of one of our operators: those of Triton, and ATen's around them."""
    with fake_h100(), FakeTensorMode(allow_non_fake_inputs=True):

        def on_gpu(value):
            if not isinstance(value, torch.Tensor):
                return value
            return torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device="cuda"
            )

        fakes = tree_map(on_gpu, args)
        with record_launches() as launches, torch.no_grad(), CountLaunches() as around:
            OPDEFS[name]._init_fn(*fakes)
    return len(launches) + around.count


def compiled_launches(function, *inputs, combo=False, compile_kernels=False):
    """Returns the launches of a function that our backend compiles into one graph.

    Args:
        function: A function of tensors, and lists of tensors.
        *inputs: Its arguments, on the CPU.
        combo: Whether Inductor combines independent kernels.
        compile_kernels: Whether to compile all Triton kernels as well, from Inductor's code.

    Returns:
        The numbers of Inductor's Triton kernels, of our own kernels, and of calls of libraries
        (cuDNN, cuBLAS), which may launch several kernels each.
    """
    graphs = []

    def backend(graph, examples):
        graphs.append((graph, examples))
        return graph

    torch._dynamo.reset()
    torch._dynamo.config.trace_autograd_ops = True
    torch.compile(function, backend=backend, fullgraph=True, dynamic=False)(*inputs)
    torch._dynamo.reset()
    ((graph, examples),) = graphs
    with fake_h100():
        _to_cuda(graph.graph)
        apply_patterns(graph.graph)
    graph.recompile()
    return _lowered(graph, examples, combo, compile_kernels)


def _to_cuda(graph):
    for node in graph.nodes:
        value = node.meta.get("example_value")
        if isinstance(value, FakeTensor):
            with value.fake_mode:
                fake = torch.empty_strided(
                    value.shape, value.stride(), dtype=value.dtype, device="cuda"
                )
            node.meta["example_value"] = fake.requires_grad_(value.requires_grad)


def _lowered(graph, examples, combo, compile_kernels):
    # Traced on the CPU, since autograd asks a GPU for its stream, and moved afterwards.
    inputs = [
        torch.empty_strided(e.shape, e.stride(), dtype=e.dtype).requires_grad_(e.requires_grad)
        for e in examples
    ]
    table = _Decompositions.make()
    graph = make_fx(graph, decomposition_table=table, tracing_mode="fake")(*inputs)
    constant_fold_uniform_value(graph)  # the gradient of a loss is 1
    for node in graph.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda", 0)}
        if node.target is torch.ops.aten.view.default:
            # A convolution may have other strides on a GPU.
            node.target = torch.ops.aten.reshape.default
        node.meta.pop("val", None)
    graph.recompile()
    with fake_h100():
        return _counted(graph, inputs, combo, table, compile_kernels)


def _counted(graph, inputs, combo, table, compile_kernels):
    with FakeTensorMode(allow_non_fake_inputs=True):
        fakes = [
            torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda") for t in inputs
        ]
    options = {**combine_more_kernels(), **COMBO_KERNELS} if combo else {}
    with torch.no_grad(), inductor_config.patch(_OPTIONS | options):
        # Traces the bodies of our operators: Inductor fuses what they do besides launches.
        graph, _ = aot_export_module(graph, fakes, trace_joint=False, decompositions=table)
        canonicalize_aten_ir_passes(graph)
        remove_noop_ops(graph.graph)
        _rewrite_joint(graph.graph)
        fakes = [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")]
        with V.set_fake_mode(fakes[0].fake_mode), V.set_debug_handler(DebugContext()):
            post_grad_passes(graph, is_inference=True)
            lowering = GraphLowering(graph, example_inputs=fakes, is_inference=True)
            with V.set_graph_handler(lowering):
                lowering.run(*fakes)
                code = lowering.codegen()[0]
                text = getattr(code, "value", code)
                if compile_kernels:
                    _compile_kernels(text)
    body = text[text.index("def call(") :]
    kernels = re.findall(r"(\w+)\.run\(", body)
    generated = sum(name.startswith("triton_") for name in kernels)
    library = re.findall(r"extern_kernels\.\w+\(|= torch\.ops\.\w+\.\w+", body)
    return {"inductor": generated, "ours": len(kernels) - generated, "library": len(library)}


def _compile_kernels(text):
    """Loads the module that Inductor wrote; compiles its Triton kernels, and loads none of them."""
    from torch._inductor import async_compile
    from torch._inductor.codecache import PyCodeCache

    def compile_kernel(self, name, source, **_):
        kernel = async_compile._load_triton_kernel_from_source(name, source)
        kernel.precompile(warm_cache_only=True)
        return kernel

    with (
        mock.patch.object(async_compile.AsyncCompile, "triton", compile_kernel),
        mock.patch.object(triton_helpers, "set_driver_to_gpu"),
    ):
        PyCodeCache.load(text)
