"""Convolution, ReLU and pooling: reference, operators and Triton kernels against torch."""

from dataclasses import replace
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.kernels.conv_relu_pool import conv_relu_pool, op, reference
from mammoth_compiled.kernels.conv_relu_pool.cases import conv_relu_pool_work, launch_two_sums
from mammoth_compiled.kernels.runtime.launch import record_launches
from mammoth_compiled.kernels.runtime.tiles import override_tiles, tile_candidates

CHANNELS_LAST = torch.channels_last


def torch_forward(x, weight, bias=None):
    return F.max_pool2d(F.relu(F.conv2d(x, weight, bias, padding=1)), 2)


def gradients_of(function, x, weight, bias):
    """[value, gradients] for the output gradient 1, 2, 3..."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias) if t is not None]
    y = function(*leaves)
    y.backward(torch.arange(1.0, y.numel() + 1, dtype=y.dtype, device=y.device).view(y.shape))
    return [y.detach(), *(leaf.grad for leaf in leaves)]


def with_layout(weight, layout):
    """The same weight, dense in either layout or with gaps between its rows."""
    if layout == "gaps":
        return F.pad(weight, (0, 1))[..., :3]
    return weight.contiguous(memory_format=getattr(torch, layout))


@st.composite
def problems(draw, most_channels=40):
    """(x, weight, bias): one or several taps per block of the kernels, odd sizes, ties."""
    batch = draw(st.integers(1, 3))
    in_channels = draw(
        st.sampled_from([1, 3, 5, 16, 20, 32, 33]).filter(lambda c: c < most_channels)
    )
    out_channels = draw(st.sampled_from([1, 5, 16, 32, 40]).filter(lambda c: c < most_channels))
    height, width = draw(st.integers(2, 7)), draw(st.integers(2, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    shapes = (batch, in_channels, height, width), (out_channels, in_channels, 3, 3), (out_channels,)
    if draw(st.booleans()):
        x, weight, bias = (torch.randint(-1, 2, s, generator=generator).float() for s in shapes)
    else:
        x, weight, bias = (torch.randn(s, generator=generator) for s in shapes)
        weight /= (9 * in_channels) ** 0.5
    layout = draw(st.sampled_from(["contiguous_format", "channels_last", "gaps"]))
    if draw(st.booleans()):
        x = x.contiguous(memory_format=CHANNELS_LAST)
    return x, with_layout(weight, layout), bias if draw(st.booleans()) else None


@settings(max_examples=30)
@given(problems(most_channels=8))
def test_operator_equals_torch(problem):
    # Small integers and their sums are exact, so that ties are the same in float64.
    problem = [None if t is None else t.double() for t in problem]
    for ours, theirs in zip(
        gradients_of(conv_relu_pool, *problem), gradients_of(torch_forward, *problem), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@settings(max_examples=16)
@given(
    problem=problems(),
    kind=st.sampled_from(["float32 tf32", "float32 ieee", "bfloat16 ieee", "float16 ieee"]),
    candidate=st.integers(0, 7),
)
@pytest.mark.usefixtures("looping_kernels")
def test_kernels_are_as_accurate_as_torch(device, assert_as_accurate, problem, kind, candidate):
    from mammoth_compiled.kernels.conv_relu_pool import triton

    name, precision = kind.split()
    dtype = getattr(torch, name)
    # TF32 has the mantissa of float16.
    as_exact_as = torch.float16 if precision == "tf32" else dtype
    x, weight, bias = (None if t is None else t.to(device, dtype) for t in problem)
    x = x.contiguous(memory_format=CHANNELS_LAST)

    def check(results, function, *tensors, factor):
        exact, torch_own = (
            function(
                *(None if t is None else t.to(d) if t.is_floating_point() else t for t in tensors)
            )
            for d in (torch.float64, as_exact_as)
        )
        for result, e, t in zip(results, exact, torch_own, strict=True):
            assert_as_accurate(result, e, t.to(dtype), factor=factor)

    with override_tiles(lambda _, tiles: tiles[candidate % len(tiles)]):
        y, argmax = triton.forward(x, weight, bias, precision)
        check([y], lambda *args: reference.forward(*args)[:1], x, weight, bias, factor=2)
        assert y.is_contiguous(memory_format=CHANNELS_LAST)
        assert argmax.is_contiguous(memory_format=CHANNELS_LAST)
        assert ((argmax == 4) == (y == 0)).all()

        grad = torch.randn_like(y)
        size = tuple(x.shape[2:])
        grad_x = triton.input_grad(grad, argmax, weight, size, precision)
        check(
            [grad_x],
            lambda *args: [reference.input_grad(*args, size)],
            *(grad, argmax, weight),
            factor=3,
        )
        grads = triton.weight_grad(grad, argmax, x, weight, precision)
        check(grads, reference.weight_grad, grad, argmax, x, weight, factor=3)
        assert grads[0].stride() == torch.empty_like(weight).stride()


@settings(max_examples=4)
@given(
    problem=problems(), name=st.sampled_from(["float32", "bfloat16"]), candidate=st.integers(0, 7)
)
@pytest.mark.usefixtures("looping_kernels")
def test_one_launch_computes_the_gradients_of_two(device, problem, name, candidate):
    from mammoth_compiled.kernels.conv_relu_pool import triton

    def pick(_, tiles):
        """Takes the same sizes of tiles for one launch and for two."""
        if tiles[0].kernel.endswith("sum_partial"):
            return tiles[0]
        tile = dict(both[candidate % len(both)].tile)
        if not tiles[0].kernel.endswith("gradients"):
            kind = "SUM" if tiles[0].kernel.endswith("weight_grad") else "BLOCK"
            tile = {f"BLOCK_{k}": tile[f"{kind}_{k}"] for k in "MNK"}
        return replace(tiles[0], tile=tuple(tile.items()))

    x, weight, _ = (None if t is None else t.to(device, getattr(torch, name)) for t in problem)
    x = x.contiguous(memory_format=CHANNELS_LAST)
    sizes = {"in_channels": x.shape[1], "out_channels": weight.shape[0], "strict": 1}
    both = tile_candidates("conv_relu_pool.gradients", x.dtype, sizes)
    y, argmax = triton.forward(x, weight, None, "ieee")
    grad = torch.randn_like(y)
    with override_tiles(pick):
        grad_x = triton.input_grad(grad, argmax, weight, tuple(x.shape[2:]), "ieee")
        two = grad_x, *triton.weight_grad(grad, argmax, x, weight, "ieee")
        for ours, theirs in zip(
            triton.gradients(grad, argmax, x, weight, "ieee"), two, strict=True
        ):
            assert ours.stride() == theirs.stride()
            assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("looping_kernels")
@pytest.mark.parametrize("programs", [1, 3, 7])
def test_weight_gradient_does_not_depend_on_the_number_of_splits(device, monkeypatch, programs):
    from mammoth_compiled.kernels.conv_relu_pool import triton

    # Small integers, so that sums are exact in any order.
    x = torch.randint(-2, 3, (3, 5, 9, 10)).float().to(device, memory_format=CHANNELS_LAST)
    grad = torch.randint(-2, 3, (3, 6, 4, 5)).float().to(device, memory_format=CHANNELS_LAST)
    argmax = torch.randint_like(grad, 5).to(torch.int8)
    weight = torch.empty(6, 5, 3, 3, device=device)
    monkeypatch.setattr(triton, "SPLIT_PROGRAMS", programs)
    result = triton.weight_grad(grad, argmax, x, weight, "ieee")
    expected = reference.weight_grad(grad, argmax, x, weight)
    for ours, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.usefixtures("looping_kernels")
def test_one_launch_adds_up_the_sums_of_two_layers(device):
    from mammoth_compiled.kernels.conv_relu_pool import triton

    shapes = (7, 5, 3, 3), (4, 3, 3, 3)
    weights = [torch.empty(shape, device=device) for shape in shapes]
    weights[1] = weights[1].bfloat16().contiguous(memory_format=CHANNELS_LAST)
    partials = [
        torch.randn(splits, w.numel() + len(w), device=device)
        for splits, w in zip((70, 3), weights, strict=True)
    ]
    expected = [triton.sum_splits(p, w) for p, w in zip(partials, weights, strict=True)]
    with record_launches() as launches:
        results = [triton.sum_splits(p, w) for p, w in zip(partials, weights, strict=True)]
    launch_two_sums(*launches)
    for ours, theirs in zip(chain(*results), chain(*expected), strict=True):
        assert ours.stride() == theirs.stride()
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("looping_kernels")
def test_kernels_with_empty_batch(device):
    from mammoth_compiled.kernels.conv_relu_pool import triton

    x = torch.empty(0, 3, 4, 4, device=device).contiguous(memory_format=CHANNELS_LAST)
    weight = torch.randn(8, 3, 3, 3, device=device)
    y, argmax = triton.forward(x, weight, None, "ieee")
    assert y.shape == (0, 8, 2, 2)
    assert triton.input_grad(y, argmax, weight, (4, 4), "ieee").shape == x.shape
    assert not any(g.any() for g in triton.weight_grad(y, argmax, x, weight, "ieee"))
    assert not any(g.any() for g in triton.gradients(y, argmax, x, weight, "ieee"))


@pytest.mark.usefixtures("looping_kernels")
def test_kernels_are_deterministic(device):
    from mammoth_compiled.kernels.conv_relu_pool import triton

    x = torch.randn(3, 8, 6, 5, device=device).contiguous(memory_format=CHANNELS_LAST)
    weight = torch.randn(16, 8, 3, 3, device=device)

    def run():
        y, argmax = triton.forward(x, weight, None, "ieee")
        grads = triton.weight_grad(y, argmax, x, weight, "ieee")
        return y, argmax, triton.input_grad(y, argmax, weight, (6, 5), "ieee"), *grads

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.usefixtures("looping_kernels")
@pytest.mark.parametrize("in_channels", [3, 16])
def test_kernel_with_ties_nan_and_dead_windows(device, in_channels):
    from mammoth_compiled.kernels.conv_relu_pool import triton

    x = torch.zeros(2, in_channels, 4, 4, device=device).contiguous(memory_format=CHANNELS_LAST)
    x[1, 0, 1, 1] = float("nan")
    weight = torch.randn(8, in_channels, 3, 3, device=device)
    bias = torch.linspace(-1, 1, 8, device=device)
    y, argmax = triton.forward(x, weight, bias, "ieee")
    expected, expected_argmax = reference.forward(x, weight, bias)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(argmax, expected_argmax)
    # All pixels of the first image are equal: the first wins if the bias makes it positive.
    assert torch.equal(argmax[0, :, 0, 0].cpu(), torch.tensor([4] * 4 + [0] * 4, dtype=torch.int8))
    assert y[1, :, 1, 1].isnan().all()
    assert (argmax[1, :, 1, 1] == 4).all()
    grad = torch.ones_like(y)
    dead = torch.full_like(argmax, 4)
    assert not triton.input_grad(grad, dead, weight, (4, 4), "ieee").any()
    assert not any(g.any() for g in triton.weight_grad(grad, dead, x.nan_to_num(), weight, "ieee"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_operator_in_other_dtypes(dtype):
    x, weight, bias = torch.randn(2, 3, 5, 4), torch.randn(4, 3, 3, 3), torch.randn(4)
    results = gradients_of(conv_relu_pool, x.to(dtype), weight.to(dtype), bias.to(dtype))
    assert {t.dtype for t in results} == {dtype}
    assert torch.equal(results[0], torch_forward(x.to(dtype), weight.to(dtype), bias.to(dtype)))


def test_autocast_casts_like_a_convolution():
    x, weight = torch.randn(2, 3, 4, 4), torch.randn(4, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv_relu_pool(x, weight, torch.zeros(4))
        assert torch.equal(y, torch_forward(x, weight, torch.zeros(4)))
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32


def test_only_required_gradients_are_computed():
    called = []

    class Calls(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(str(function))
            return function(*args, **(kwargs or {}))

    x, weight = torch.randn(1, 3, 4, 4), torch.randn(4, 3, 3, 3, requires_grad=True)
    with Calls():
        conv_relu_pool(x, weight).sum().backward()
        assert not any("input_grad" in name for name in called)
        assert any("weight_grad" in name for name in called)
        called.clear()
        conv_relu_pool(x.requires_grad_(), weight.detach()).sum().backward()
    assert any("input_grad" in name for name in called)
    assert not any("weight_grad" in name for name in called)


def test_gradcheck():
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(conv_relu_pool, (x, weight, bias))
    assert torch.autograd.gradcheck(conv_relu_pool, (x, weight))


def test_opcheck(device):
    x = torch.randn(2, 3, 6, 7, device=device, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, device=device, requires_grad=True)
    bias = torch.randn(4, device=device, requires_grad=True)
    torch.library.opcheck(op.conv_relu_pool_op, (x, weight, bias))
    x, weight = x.detach(), weight.detach()
    y, argmax = op.conv_relu_pool_op(x, weight, None)
    torch.library.opcheck(op.input_grad_op, (y, argmax, weight, (6, 7)))
    torch.library.opcheck(op.weight_grad_op, (y, argmax, x, weight))
    torch.library.opcheck(op.gradients_op, (y, argmax, x, weight))


class Net(nn.Module):
    """A small CNN with the given layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)
        self.head = nn.Linear(16 * 4, 5)

    def forward(self, x):
        for conv in (self.first, self.second):
            x = self.layer(x, conv.weight, conv.bias)
        return self.head(x.flatten(1))


def losses_of(net, device):
    """Losses of 20 steps on the same random images."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        x = torch.randn(8, 3, 8, 8, generator=generator).to(device)
        target = torch.randint(5, (8,), generator=generator).to(device)
        loss = F.cross_entropy(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.parametrize("compiled", [False, True])
def test_training_equals_eager(device, compiled):
    torch.manual_seed(0)
    plain, fused = Net(torch_forward), Net(conv_relu_pool)
    fused.load_state_dict(plain.state_dict())
    plain, fused = plain.to(device), fused.to(device)
    if compiled:
        fused = torch.compile(fused, fullgraph=True, backend="aot_eager")
    with torch.backends.cudnn.flags(allow_tf32=False):
        torch.testing.assert_close(losses_of(fused, device), losses_of(plain, device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_work_counts_each_tensor_once(dtype):
    x, weight = torch.randn(2, 3, 8, 6, dtype=dtype), torch.randn(4, 3, 3, 3, dtype=dtype)
    y, argmax = op.conv_relu_pool_op(x, weight, None)
    forward = conv_relu_pool_work(x.shape, 4, dtype)
    assert forward.num_bytes == x.nbytes + y.nbytes + argmax.nbytes
    # A multiplication and an addition per weight and pixel.
    assert forward.num_flops == 2 * weight.numel() * 2 * 8 * 6
    assert conv_relu_pool_work(x.shape, 4, dtype, backward=True, input_grad=False) == forward
    backward = conv_relu_pool_work(x.shape, 4, dtype, backward=True)
    assert backward.num_flops == 2 * forward.num_flops
