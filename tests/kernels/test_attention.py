"""Softmax attention: reference, operators and Triton kernels against torch."""

import math

import pytest
import torch
from hardware import HAS_GPU
from hypothesis import given, settings
from hypothesis import strategies as st
from tf32 import emulated_tf32
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from mammoth_compiled.kernels.attention import (
    attention_backward_op,
    attention_op,
    joint_linear,
    op,
    reference,
)
from mammoth_compiled.kernels.attention.cases import attention_work
from mammoth_compiled.kernels.runtime import device
from mammoth_compiled.kernels.runtime.launch import record_launches

NAN, INF = float("nan"), float("inf")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# On a GPU float32 is multiplied in TF32, by the kernels and by torch.
TF32_TOLERANCE = {"rtol": 1e-2, "atol": 1e-2} if HAS_GPU else {}


@pytest.fixture(autouse=True, scope="module")
def _tf32():
    """Lets torch multiply float32 in TF32 on a GPU, as the kernels do."""
    before = torch.get_float32_matmul_precision()
    if HAS_GPU:
        torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def torch_forward(q, k, v, scale):
    return torch.softmax(q @ k.mT * scale, -1) @ v


def gradients_of(function, q, k, v, scale, grad):
    """[value, gradients of q, k and v]."""
    inputs = [x.detach().requires_grad_() for x in (q, k, v)]
    value = function(*inputs, scale)
    return [value.detach(), *torch.autograd.grad(value, inputs, grad)]


def run_operator(q, k, v, scale):
    return attention_op(q, k, v, scale)[0]


def run_kernels(q, k, v, scale, grad):
    from mammoth_compiled.kernels.attention import triton

    o, lse = triton.forward(q, k, v, scale)
    return [o, *triton.backward(grad, q, k, v, o, lse, scale)], lse


def log_sum(q, k, scale):
    """The base-2 log-sum-exp of every query by its definition, in float64."""
    return torch.logsumexp(q.double() @ k.double().mT * scale, -1) / math.log(2)


def assert_same(results, expected):
    for a, b in zip(results, expected, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


@st.composite
def problems(draw, longest=70):
    """(q, k, v, gradient of the result, scale), float32, in one of several layouts."""
    batch, heads = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    size = draw(st.sampled_from([8, 24, 40, 64]))
    layout = draw(st.sampled_from(["projection", "contiguous", "transposed"]))
    # A single key has all the weight, and then gradients are 0 and have no relative error.
    keys = draw(st.integers(2, longest))
    queries = keys if layout == "projection" else draw(st.integers(1, longest))
    torch.manual_seed(draw(st.integers(0, 10_000)))
    if layout == "projection":
        joint = torch.randn(batch, queries, 3 * heads * size)
        parts = joint.split(heads * size, -1)
        q, k, v = (x.unflatten(-1, (heads, size)).transpose(1, 2) for x in parts)
    else:
        q, k, v = (torch.randn(batch, heads, n, size) for n in (queries, keys, keys))
        if layout == "transposed":
            q, k, v = (x.mT.contiguous().mT for x in (q, k, v))
    grad = torch.randn(batch, heads, queries, size)
    if draw(st.booleans()):
        grad = grad[:, :, :1].expand_as(grad)
    return q, k, v, grad, draw(st.sampled_from([size**-0.5, 1.0, -0.3]))


@settings(max_examples=40)
@given(problems(longest=20))
def test_operator_equals_torch(problem):
    *tensors, scale = problem
    q, k, v, grad = (x.double() for x in tensors)
    results = gradients_of(run_operator, q, k, v, scale, grad)
    assert_same(results, gradients_of(torch_forward, q, k, v, scale, grad))
    assert all(x.transpose(1, 2).is_contiguous() for x in results)
    torch.testing.assert_close(attention_op(q, k, v, scale)[1], log_sum(q, k, scale))


@pytest.mark.usefixtures("looping_kernels")
@settings(max_examples=15)
@given(problem=problems(), dtype=st.sampled_from(DTYPES))
def test_kernels_are_as_accurate_as_torch(device, assert_as_accurate, problem, dtype):
    *tensors, scale = problem
    check_kernels(assert_as_accurate, *(x.to(device, dtype) for x in tensors), scale)


@pytest.mark.usefixtures("looping_kernels")
@pytest.mark.parametrize(
    ("queries", "keys", "size"), [(37, 21, 33), (37, 21, 100), (64, 64, 128), (160, 130, 16)]
)
def test_other_sizes(device, assert_as_accurate, queries, keys, size):
    q, grad = torch.randn(2, 1, 2, queries, size, device=device)
    k, v = torch.randn(2, 1, 2, keys, size, device=device)
    check_kernels(assert_as_accurate, q, k, v, grad, 0.2)


@pytest.mark.skipif(HAS_GPU, reason="a GPU multiplies in TF32 itself")
@pytest.mark.usefixtures("looping_kernels")
@pytest.mark.parametrize(("queries", "keys", "size"), [(37, 21, 33), (64, 64, 128)])
def test_float32_is_as_accurate_as_torch_in_tf32(assert_as_accurate, queries, keys, size):
    q, grad = torch.randn(2, 1, 2, queries, size)
    k, v = torch.randn(2, 1, 2, keys, size)
    with emulated_tf32():
        check_kernels(assert_as_accurate, q, k, v, grad, 0.2, tf32=True)


def float32_resolution(q, k, v, scale, grad):
    """What float32 resolves of the output and the gradients of q, k and v.

    They are sums of terms that may cancel, and their weights are powers of scores, whose relative
    error is the rounding of the score or of the log-sum-exp.
    """
    q, k, v, grad = (x.double() for x in (q, k, v, grad))
    score = q @ k.mT * scale / math.log(2)
    weight = torch.softmax(score * math.log(2), -1)
    largest = torch.maximum(score.abs().amax(), log_sum(q, k, scale).abs().amax())
    delta = ((weight @ v).abs() * grad.abs()).sum(-1, keepdim=True)
    grad_score = weight * (grad.abs() @ v.abs().mT + delta) * abs(scale)
    gradients = grad_score @ k.abs(), grad_score.mT @ q.abs(), weight.mT @ grad.abs()
    unit = torch.finfo(torch.float32).eps
    return [unit * (1 + largest) * terms.amax() for terms in (weight @ v.abs(), *gradients)]


def check_kernels(assert_as_accurate, q, k, v, grad, scale, *, tf32=HAS_GPU):
    results, lse = run_kernels(q, k, v, scale, grad)
    exact = gradients_of(torch_forward, *(x.double() for x in (q, k, v)), scale, grad.double())
    own = gradients_of(torch_forward, q, k, v, scale, grad)
    resolution = float32_resolution(q, k, v, scale, grad)
    factors = (2, 3, 3, 3)
    for arguments in zip(results, exact, own, factors, resolution, strict=True):
        assert_as_accurate(*arguments)
    assert lse.dtype == torch.float32
    tolerance = 1e-2 if tf32 and q.dtype == torch.float32 else 1e-5  # of the scores
    torch.testing.assert_close(lse.double(), log_sum(q, k, scale), rtol=tolerance, atol=tolerance)
    again, lse_again = run_kernels(q, k, v, scale, grad)
    assert all(map(torch.equal, [*results, lse], [*again, lse_again]))


@pytest.mark.usefixtures("looping_kernels")
def test_one_key_has_all_the_weight(device):
    q, k, v, grad = torch.randn(4, 1, 1, 1, 24, device=device)
    (o, grad_q, grad_k, grad_v), _ = run_kernels(q, k, v, 0.5, grad)
    zero = torch.zeros_like(q)
    for result, expected in zip((o, grad_v, grad_q, grad_k), (v, grad, zero, zero), strict=True):
        torch.testing.assert_close(result, expected, **TF32_TOLERANCE)


# name: (tensor, index, value) to write into queries, keys or values.
NON_FINITE = {
    "NaN in a query": ("q", (0, 3, 5), NAN),
    "NaN in a key": ("k", (0, 3, 5), NAN),
    "NaN in a value": ("v", (0, 3, 5), NAN),
    "inf in a query": ("q", (0, 3, 5), INF),
    "a query whose scores are all -inf": ("q", (0, 3), -INF),
    "a first tile whose scores are all -inf": ("k", (0, slice(64)), -INF),
    "a key of score +inf": ("k", (0, 69), INF),
    "inf in a value": ("v", (0, 3, 5), INF),
}


@pytest.mark.usefixtures("looping_kernels")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.parametrize("where", NON_FINITE)
def test_nan_and_inf_match_the_reference(device, where):
    q, k = torch.rand(2, 2, 1, 70, 8, device=device) + 0.1
    v, grad = torch.randn(2, 2, 1, 70, 8, device=device)
    name, at, value = NON_FINITE[where]
    {"q": q, "k": k, "v": v}[name][(at[0], 0, *at[1:])] = value
    results, lse = run_kernels(q, k, v, 0.3, grad)
    o, expected_lse = reference.forward(q, k, v, 0.3)
    expected = reference.backward(grad, q, k, v, o, expected_lse, 0.3)
    for one, other in zip([*results, lse], [o, *expected, expected_lse], strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, rtol=1e-2, atol=1e-2)
    expected = torch_forward(q, k, v, 0.3)
    torch.testing.assert_close(o, expected, equal_nan=True, **TF32_TOLERANCE)
    assert not o[1].isnan().any()
    if name == "q":
        assert o[0].isnan().all(-1).sum() == 1


@pytest.mark.usefixtures("triton_kernels")
def test_views_of_one_projection_are_not_copied(device):
    from mammoth_compiled.kernels.attention import triton

    parts = torch.randn(2, 9, 3, 2, 8, device=device).permute(2, 0, 3, 1, 4)
    with record_launches() as launches:
        triton.forward(*parts, 0.1)
    assert [x.data_ptr() for x in launches[0].args[:3]] == [x.data_ptr() for x in parts]


@pytest.mark.usefixtures("looping_kernels")
def test_operator_launches_the_kernels_on_a_gpu(monkeypatch, device):
    q, k, v, grad = torch.randn(4, 2, 3, 20, 24, device=device)
    expected = gradients_of(torch_forward, q, k, v, 0.2, grad)
    monkeypatch.setattr(op, "kernel_why_not", lambda *_: "")
    with record_launches() as launches:
        gradients_of(run_operator, q, k, v, 0.2, grad)
    assert [x.config.kernel for x in launches] == [
        "attention.forward",
        "attention.delta",
        "attention.backward",
    ]
    results = gradients_of(run_operator, q, k, v, 0.2, grad)
    for result, other in zip(results, expected, strict=True):
        torch.testing.assert_close(result, other, **TF32_TOLERANCE)
    assert all(x.transpose(1, 2).is_contiguous() for x in results)


def test_unsupported_tensors_report_a_reason(monkeypatch):
    x = torch.empty(1, 1, 4, 128)
    assert "compute capability 8.0" in op.kernel_why_not(x, x, x)
    monkeypatch.setattr(device, "supports_triton", lambda device: device.type == "cuda")
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(1, 1, 4, 128, device="cuda")
        for dtype in (torch.bfloat16, torch.float16):
            y = x.to(dtype)
            assert op.kernel_why_not(y, y, y) == ""
        y = x.double()
        assert op.kernel_why_not(y, y, y) == "there is no kernel for torch.float64"
        wide = torch.empty(1, 1, 4, 129, dtype=torch.bfloat16, device="cuda")
        assert op.kernel_why_not(wide, wide, wide) == "its heads have more than 128 elements"
        for precision, reason in [("ieee", "there is no kernel for strict float32"), ("tf32", "")]:
            monkeypatch.setattr(op, "input_precision", lambda *_, p=precision, **__: p)
            assert op.kernel_why_not(x, x, x) == reason


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
def test_equals_scaled_dot_product_attention(dtype):
    q, grad = torch.randn(2, 2, 3, 33, 24).to(dtype)
    k, v = torch.randn(2, 2, 3, 20, 24).to(dtype)

    def fused(q, k, v, scale):
        return F.scaled_dot_product_attention(q, k, v, scale=scale)

    results = gradients_of(run_operator, q, k, v, 0.4, grad)
    expected = gradients_of(fused, q, k, v, 0.4, grad)
    for a, b in zip(results, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b, rtol=0, atol=16 * torch.finfo(dtype).eps * b.abs().max())


def test_gradcheck():
    q, k, v = (torch.randn(1, 2, n, 3, dtype=torch.float64) for n in (4, 5, 5))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    assert torch.autograd.gradcheck(lambda *x: run_operator(*x, 0.7), inputs)


def test_opcheck(device):
    joint = torch.randn(2, 6, 3, 2, 8, device=device)
    q, k, v = (x.requires_grad_() for x in joint.permute(2, 0, 3, 1, 4).unbind())
    torch.library.opcheck(attention_op, (q, k, v, 0.3))
    q, k, v = (x.detach() for x in (q, k, v))
    o, lse = attention_op(q, k, v, 0.3)
    torch.library.opcheck(attention_backward_op, (torch.randn_like(q), q, k, v, o, lse, 0.3))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_in_one_graph(backend):
    q, k, v, grad = torch.randn(4, 2, 2, 12, 8)
    compiled = torch.compile(run_operator, fullgraph=True, backend=backend)
    results = gradients_of(compiled, q, k, v, 0.3, grad)
    assert_same(results, gradients_of(run_operator, q, k, v, 0.3, grad))


@pytest.mark.parametrize(
    ("shapes", "dtypes", "said"),
    [
        ([(1, 2, 4, 8), (1, 2, 5, 8), (1, 2, 4, 8)], [torch.float32] * 3, "shapes"),
        ([(1, 2, 4, 8), (1, 1, 4, 8), (1, 1, 4, 8)], [torch.float32] * 3, "shapes"),
        ([(2, 4, 8)] * 3, [torch.float32] * 3, "must be [B, H, LQ, D]"),
        ([(1, 2, 4, 8), (1, 2, 0, 8), (1, 2, 0, 8)], [torch.float32] * 3, "none may be empty"),
        ([(1, 2, 4, 8)] * 3, [torch.float32, torch.float16, torch.float32], "one float dtype"),
        ([(1, 2, 4, 8)] * 3, [torch.int32] * 3, "one float dtype"),
    ],
)
def test_invalid_inputs_raise(shapes, dtypes, said):
    tensors = [torch.zeros(s, dtype=d) for s, d in zip(shapes, dtypes, strict=True)]
    with pytest.raises(ValueError, match="attention got q, k, v") as error:
        attention_op(*tensors, 1.0)
    assert said in str(error.value)


@pytest.mark.parametrize("biased", [(True, True, True), (False, False, False), (True, False, True)])
def test_joint_projections_equal_separate_layers(biased):
    layers = [nn.Linear(8, n, bias=b) for n, b in zip((8, 16, 8), biased, strict=True)]
    parameters = [p for layer in layers for p in layer.parameters()]
    x = torch.randn(2, 5, 8, requires_grad=True)
    results = joint_linear(x, [m.weight for m in layers], [m.bias for m in layers])
    expected = [layer(x) for layer in layers]
    assert_same(results, expected)
    assert len({y.untyped_storage().data_ptr() for y in results}) == 1
    grads = [torch.randn_like(y) for y in expected]
    assert_same(
        torch.autograd.grad(results, [x, *parameters], grads),
        torch.autograd.grad(expected, [x, *parameters], grads),
    )


def test_invalid_projections_raise():
    x, weight = torch.randn(3, 8), torch.randn(4, 8)
    with pytest.raises(ValueError, match="2 weights and 1 biases"):
        joint_linear(x, [weight, weight], [None])
    with pytest.raises(ValueError, match=r"each must be \[N, 8\]"):
        joint_linear(x, [weight, weight.T], [None, None])


def test_work_counts_each_tensor_once():
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.bfloat16) for n in (20, 10, 10))
    o, lse = attention_op(q, k, v, 1.0)
    work = attention_work(q.shape, 10, q.dtype)
    assert work.num_bytes == sum(x.nbytes for x in (q, k, v, o, lse))
    assert work.num_flops == 2 * (2 * 3 * 20 * 10 * 8) * 2
    back = attention_work(q.shape, 10, q.dtype, backward=True)
    gradients = attention_backward_op(o, q, k, v, o, lse, 1.0)
    assert back.num_bytes == sum(x.nbytes for x in (q, k, v, o, o, lse, *gradients))
    assert back.num_flops == 5 * (2 * 3 * 20 * 10 * 8) * 2
