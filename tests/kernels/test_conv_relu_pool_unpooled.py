"""Gradients from the unpooled gradient of the convolution: kernels, operators, float32 weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mammoth_compiled.kernels.conv_relu_pool import op, reference
from mammoth_compiled.kernels.conv_relu_pool import unpooled_op as unpooled
from mammoth_compiled.kernels.runtime.tiles import override_tiles

CHANNELS_LAST = torch.channels_last


@st.composite
def problems(draw):
    """(x, weight, pooled gradient, argmax): one or several taps per block, odd sizes."""
    shape = [draw(st.integers(*sizes)) for sizes in ((1, 3), (2, 6), (2, 7))]
    batch, height, width = shape
    in_channels = draw(st.sampled_from([1, 3, 16, 20, 32]))
    out_channels = draw(st.sampled_from([1, 5, 16, 32, 40, 64]))
    torch.manual_seed(draw(st.integers(0, 10_000)))
    x = torch.randn(batch, in_channels, height, width).contiguous(memory_format=CHANNELS_LAST)
    weight = torch.randn(out_channels, in_channels, 3, 3) / (9 * in_channels) ** 0.5
    if draw(st.booleans()):
        weight = weight.contiguous(memory_format=CHANNELS_LAST)
    y, argmax = reference.forward(x, weight, None)
    return x, weight, torch.randn_like(y), argmax


def in_dtype(tensors, dtype):
    return [t.to(dtype) if t.is_floating_point() else t for t in tensors]


@settings(max_examples=12)
@given(
    problem=problems(),
    kind=st.sampled_from(["float32 tf32", "float32 ieee", "bfloat16 ieee"]),
    candidate=st.integers(0, 7),
)
@pytest.mark.usefixtures("looping_kernels")
def test_kernels_are_as_accurate_as_torch(device, assert_as_accurate, problem, kind, candidate):
    from mammoth_compiled.kernels.conv_relu_pool import triton_unpooled

    name, precision = kind.split()
    dtype = getattr(torch, name)
    # TF32 has the mantissa of float16.
    as_exact_as = torch.float16 if precision == "tf32" else dtype
    x, weight, grad, argmax = (t.to(device) for t in in_dtype(problem, dtype))
    size = tuple(x.shape[2:])
    with override_tiles(lambda _, tiles: tiles[candidate % len(tiles)]):
        dz = triton_unpooled.unpool(grad, argmax, size)
        assert torch.equal(dz, reference.unpool(grad, argmax, size))
        assert dz.is_contiguous(memory_format=CHANNELS_LAST)
        grads = triton_unpooled.gradients(dz, x, weight, True, True, precision)
        alone = (
            *triton_unpooled.gradients(dz, x, weight, True, False, precision)[:1],
            *triton_unpooled.gradients(dz, x, weight, False, True, precision)[1:],
        )
    assert all(torch.equal(one, other) for one, other in zip(grads, alone, strict=True))
    exact = reference.plain_gradients(*in_dtype([dz, x, weight], torch.float64), True, True)
    torch_own = reference.plain_gradients(*in_dtype([dz, x, weight], as_exact_as), True, True)
    for ours, e, t in zip(grads, exact, torch_own, strict=True):
        assert_as_accurate(ours, e, t.to(dtype), factor=3)
    assert grads[0].is_contiguous(memory_format=CHANNELS_LAST)
    assert grads[1].stride() == weight.stride()


@pytest.mark.usefixtures("looping_kernels")
@pytest.mark.parametrize("layout", [torch.contiguous_format, CHANNELS_LAST])
def test_kernels_take_float32_weights_of_bfloat16_images(device, assert_as_accurate, layout):
    """As under autocast: the weight is cast and reordered at once, its gradient is not rounded."""
    from mammoth_compiled.kernels.conv_relu_pool import triton, triton_unpooled

    x = torch.randn(2, 16, 5, 4, device=device).bfloat16().contiguous(memory_format=CHANNELS_LAST)
    weight = torch.randn(8, 16, 3, 3, device=device).contiguous(memory_format=layout) / 12
    bias = torch.randn(8, device=device)
    y, argmax = triton.forward(x, weight, bias, "ieee")
    exact_y, _ = reference.forward(x.double(), weight, bias)
    assert_as_accurate(y, exact_y, reference.forward(x, weight, bias)[0])

    grad = torch.randn_like(y)
    dz = triton_unpooled.unpool(grad, argmax, (5, 4))
    grad_x = triton.input_grad(grad, argmax, weight, (5, 4), "ieee")
    assert grad_x.dtype == torch.bfloat16
    unpooled_x, *unpooled_grads = triton_unpooled.gradients(dz, x, weight, True, True, "ieee")
    assert torch.equal(unpooled_x, grad_x)
    exact = reference.weight_grad(grad.double(), argmax, x.double(), weight)
    for grads in (triton.weight_grad(grad, argmax, x, weight, "ieee"), unpooled_grads):
        for ours, e in zip(grads, exact, strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours.double(), e.double(), rtol=1e-5, atol=1e-5)
        assert grads[0].stride() == weight.stride()


@pytest.mark.usefixtures("looping_kernels")
def test_kernels_with_empty_batch(device):
    from mammoth_compiled.kernels.conv_relu_pool import triton_unpooled

    x = torch.empty(0, 3, 4, 4, device=device).contiguous(memory_format=CHANNELS_LAST)
    weight = torch.randn(8, 3, 3, 3, device=device)
    y, argmax = reference.forward(x, weight, None)
    dz = triton_unpooled.unpool(y, argmax, (4, 4))
    assert dz.shape == (0, 8, 4, 4)
    grad_x, *grads = triton_unpooled.gradients(dz, x, weight, True, True, "ieee")
    assert grad_x.shape == x.shape
    assert grads[0].shape == weight.shape
    assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operator_equals_torch(dtype):
    """Float32 weights, images in `dtype`; odd sizes."""
    leaves = [torch.randn(2, 3, 5, 6).to(dtype), torch.randn(4, 3, 3, 3), torch.randn(4)]
    results = []
    for function in (
        lambda x, w, b: op.conv_relu_pool_unpooled_op(x, w, b)[0],
        lambda x, w, b: F.max_pool2d(F.relu(F.conv2d(x, w.to(dtype), b.to(dtype), padding=1)), 2),
    ):
        given = [leaf.clone().requires_grad_() for leaf in leaves]
        y = function(*given)
        y.sum().backward()
        results.append([y, *(leaf.grad for leaf in given)])
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(
            ours, theirs, rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=1e-5
        )


def test_gradcheck_and_opcheck():
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *a: op.conv_relu_pool_unpooled_op(*a)[0], (x, weight, bias)
    )
    torch.library.opcheck(op.conv_relu_pool_unpooled_op, (x, weight, bias))
    x, weight = x.detach(), weight.detach()
    y, argmax = op.conv_relu_pool_unpooled_op(x, weight, None)
    torch.library.opcheck(unpooled.unpool_op, (y, argmax, (5, 4)))
    dz = unpooled.unpool_op(y, argmax, (5, 4))
    for needed in ((True, True), (False, True), (True, False)):
        torch.library.opcheck(unpooled.plain_gradients_op, (dz, x, weight, *needed))


# Traces on fake CUDA tensors, with what Triton and the kernels ask of a GPU.
COUNTS = """
import torch
import triton
from triton.backends.compiler import GPUTarget
from torch._functorch.aot_autograd import aot_export_module
from torch._functorch.compile_utils import fx_graph_cse
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map
from mammoth_compiled.compiler.patterns.weight_sums import pair_weight_sums
from mammoth_compiled.kernels.conv_relu_pool import op, unpooled_op
from mammoth_compiled.kernels.runtime import device, tiles

class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(Driver())
device.supports_triton = lambda d: d.type == "cuda"
tiles.chip_name = lambda d: "sm_90"

class Step(torch.nn.Module):
    def __init__(self, unpools):
        super().__init__()
        self.unpools = unpools

    def forward(self, x, w1, b1, w2, b2, grad):
        y1, argmax1 = op.conv_relu_pool_op(x, w1, b1)
        y2, argmax2 = op.conv_relu_pool_op(y1, w2, b2)
        if self.unpools:
            dz = unpooled_op.unpool_op(grad, argmax2, y1.shape[2:])
            grad_y, *grads = unpooled_op.plain_gradients_op(dz, y1, w2, True, True)
        else:
            grad_y, *grads = op.gradients_op(grad, argmax2, y1, w2)
        return y2, *grads, *op.weight_grad_op(grad_y, argmax1, x, w1)

def count(unpools, dtype):
    with FakeTensorMode(), torch.no_grad():
        images, grad = (
            torch.empty(shape, dtype=dtype, device="cuda").permute(0, 3, 1, 2)
            for shape in ((32, 32, 32, 3), (32, 8, 8, 64))
        )
        weights = [
            torch.empty(shape, device="cuda") for shape in ((32, 3, 3, 3), 32, (64, 32, 3, 3), 64)
        ]
        module, _ = aot_export_module(Step(unpools), [images, *weights, grad], trace_joint=False)
    before = [n.meta["val"].stride() for n in module.graph.output_node().args[0]]
    pair_weight_sums(module.graph)
    module.graph.lint()
    assert [n.meta["val"].stride() for n in module.graph.output_node().args[0]] == before
    for n in module.graph.nodes:
        if eager := n.meta.get("eager_input_vals"):  # Inductor reads them side by side
            tree_map(lambda *_: None, (n.args, n.kwargs), eager)
    nodes = [str(n.target) for n in fx_graph_cse(module.graph).nodes if n.op == "call_function"]
    kernels = sum("triton_kernel_wrapper" in name for name in nodes)
    copies = sum(name.startswith(("aten._to_copy", "aten.clone")) for name in nodes)
    return kernels, copies

for unpools in (False, True):
    print(*(count(unpools, dtype) for dtype in (torch.bfloat16, torch.float32)))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("triton_kernels")
def test_two_layers_launch_few_kernels_and_pack_each_weight_once(run_python, tmp_path):
    """In float32 the first layer's weight, with three channels, is read as it is."""
    script = tmp_path / "counts.py"
    script.write_text(COUNTS)
    done = run_python(script, TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(5, 2) (5, 1)", "(6, 2) (6, 1)"]
