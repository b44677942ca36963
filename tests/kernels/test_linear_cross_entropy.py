"""Linear layer with mean cross-entropy: kernels, operator and pattern."""

import pytest
import torch
from fake_gpu import to_cuda
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.compiler import autotune
from mammoth_compiled.compiler.patterns import apply_patterns
from mammoth_compiled.compiler.patterns import linear_cross_entropy as patterns_module
from mammoth_compiled.kernels.linear_cross_entropy import linear_cross_entropy_op, reference
from mammoth_compiled.kernels.runtime import device as kernel_device

IGNORED = -100


def problem(batch, features, classes, dtype=torch.float32):
    x = torch.randn(batch, features).to(dtype)
    weight, bias = torch.randn(classes, features) / features**0.5, torch.randn(classes)
    return x, weight, bias, torch.randint(classes, (batch,))


@pytest.mark.parametrize("with_bias", [True, False])
def test_reference_equals_autograd(with_bias):
    x, weight, bias, labels = problem(7, 5, 3)
    labels[2] = IGNORED
    inputs = [t.double().requires_grad_() for t in (x, weight, bias)[: 2 + with_bias]]
    loss = F.cross_entropy(F.linear(*inputs), labels)
    given = [t.detach() for t in inputs] + [None] * (not with_bias)
    found, *grads = reference.loss_and_grads(*given, labels, IGNORED)
    torch.testing.assert_close(found, loss.detach())
    for grad, expected in zip(grads, torch.autograd.grad(loss, inputs), strict=False):
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(32, 130, 10), (20, 70, 100), (37, 33, 200), (3, 16, 2)], ids=str
)
@pytest.mark.usefixtures("triton_kernels")
def test_kernels_are_as_accurate_as_torch(device, assert_as_accurate, shape, dtype):
    from mammoth_compiled.kernels.linear_cross_entropy import triton

    if dtype == torch.bfloat16 and device.type == "cpu":
        pytest.skip("the interpreter truncates to bfloat16 instead of rounding")
    x, weight, bias, labels = problem(*shape, dtype)
    labels[1] = IGNORED
    exact = reference.loss_and_grads(*(t.double() for t in (x, weight, bias)), labels, IGNORED)
    in_torch = reference.loss_and_grads(x, weight, bias, labels, IGNORED)
    moved = [t.to(device) for t in (x, weight, bias, labels)]
    result = triton.loss_and_grads(*moved, IGNORED, "ieee")
    # Sums of few terms: one rounding of the logits of this dtype may cancel by luck in torch's.
    resolution = torch.finfo(dtype).eps * 8 / shape[0]
    for ours, true, torchs in zip(result, exact, in_torch, strict=True):
        assert_as_accurate(ours, true, torchs, factor=3, resolution=resolution)
    without = triton.loss_and_grads(*moved[:2], None, moved[3], IGNORED, "ieee")
    expected = reference.loss_and_grads(x, weight, None, labels, IGNORED)
    torch.testing.assert_close(without[0].cpu(), expected[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("shape", [(5, 3, 7, 4), (33, 16, 6, 10), (2, 6, 1, 3)], ids=str)
@pytest.mark.usefixtures("triton_kernels")
def test_features_in_the_order_of_channels_last_images(device, shape):
    from mammoth_compiled.kernels.linear_cross_entropy import triton

    batch, channels, pixels, classes = shape
    x, weight, bias, labels = problem(batch, channels * pixels, classes)
    moved = x.view(batch, channels, pixels).transpose(1, 2).reshape(x.shape)
    loss, grad_x, *others = reference.loss_and_grads(x, weight, bias, labels, IGNORED)
    grad_x = grad_x.view(batch, channels, pixels).transpose(1, 2).reshape(x.shape)
    given = moved, weight, bias, labels
    on_device = [t.to(device) for t in given]
    for found in (
        reference.loss_and_grads(*given, IGNORED, channels),
        linear_cross_entropy_op(*given, IGNORED, channels),
        triton.loss_and_grads(*on_device, IGNORED, "ieee", channels),
    ):
        for one, other in zip(found, (loss, grad_x, *others), strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-5)


# The interpreter computes with numpy, which warns.
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.usefixtures("triton_kernels")
def test_no_label_counts(device):
    from mammoth_compiled.kernels.linear_cross_entropy import triton

    x, weight, bias, labels = (t.to(device) for t in problem(4, 16, 3))
    loss, *_ = triton.loss_and_grads(x, weight, bias, torch.full_like(labels, 9), 9, "ieee")
    assert loss.isnan()


@pytest.mark.parametrize("with_bias", [True, False])
def test_operator_has_fake_tensors_and_gradients(with_bias):
    x, weight, bias, labels = problem(5, 4, 3)
    tensors = [t.double().requires_grad_() for t in (x, weight, bias)]
    given = (*tensors[:2], tensors[2] if with_bias else None, labels, IGNORED)
    torch.library.opcheck(linear_cross_entropy_op, given)

    def loss(x, weight, bias):
        rest = (bias if with_bias else None, labels, IGNORED)
        return 3 * linear_cross_entropy_op(x, weight, *rest)[0]

    assert torch.autograd.gradcheck(loss, tensors)


class Head(nn.Module):
    def __init__(self, bias=True):
        super().__init__()
        self.layer = nn.Linear(6, 4, bias=bias)

    def forward(self, x, labels):
        return F.cross_entropy(self.layer(x).float(), labels)


@pytest.fixture
def rewritten(monkeypatch):
    """Returns a function that compiles another as for a GPU; gives its loss and the matches."""
    chosen = {"winner": "triton"}
    monkeypatch.setattr(kernel_device, "supports_triton", lambda device: device.type == "cuda")
    monkeypatch.setattr(autotune, "fastest", lambda case, device, names: chosen["winner"])

    def run(function, *inputs, winner="triton"):
        matches = []
        chosen["winner"] = winner

        def backend(graph, _):
            to_cuda(graph.graph)
            matches.extend(apply_patterns(graph.graph))
            graph.recompile()
            return graph

        torch._dynamo.reset()
        result = torch.compile(function, backend=backend, fullgraph=True)(*inputs)
        torch._dynamo.reset()
        return result, [m for m in matches if m.pattern == "linear-cross-entropy"]

    return run


def assert_equals_eager(loss, net, *inputs):
    expected, parameters = net(*inputs), list(net.parameters())
    torch.testing.assert_close(loss, expected)
    for one, other in zip(
        torch.autograd.grad(loss, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("winner", ["triton", "torch"])
@pytest.mark.parametrize("bias", [True, False])
def test_pattern_follows_the_autotuner(rewritten, winner, bias):
    head, x, labels = Head(bias), torch.randn(5, 6), torch.tensor([0, 3, 1, 1, -100])
    loss, (match,) = rewritten(head, x, labels, winner=winner)
    assert bool(match.replacement) == (winner == "triton")
    assert_equals_eager(loss, head, x, labels)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 2 * 3, 5)

    def forward(self, x, labels):
        images = torch.max_pool2d(torch.relu(self.conv(x)), 2)
        return F.cross_entropy(self.head(torch.flatten(images, 1)), labels)


def test_flattened_images_are_read_as_a_kernel_wrote_them(rewritten, monkeypatch):
    channels = []
    op = "mammoth_compiled.compiler.patterns.linear_cross_entropy._in_memory_order"
    original = patterns_module._in_memory_order

    def spied(*args):
        features, count = original(*args)
        channels.append(count)
        return features, count

    monkeypatch.setattr(op, spied)
    net, x, labels = Net(), torch.randn(6, 3, 4, 6), torch.tensor([0, 3, 1, 1, 2, 4])
    loss, (match,) = rewritten(net, x, labels)
    assert match.replacement
    assert channels == [4]
    assert_equals_eager(loss, net, x, labels)


def smoothed(head, x, labels):
    return F.cross_entropy(head.layer(x), labels, label_smoothing=0.1)


def weighted(head, x, labels):
    return F.cross_entropy(head.layer(x), labels, torch.ones(4))


def summed(head, x, labels):
    return F.cross_entropy(head.layer(x), labels, reduction="sum")


def with_logits(head, x, labels):
    logits = head.layer(x)
    return F.cross_entropy(logits, labels) + logits.square().mean()


def probabilities(head, x, labels):
    return F.cross_entropy(head.layer(x), F.one_hot(labels, 4).float())


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (smoothed, "it is not the plain mean over the batch"),
        (weighted, "it is not the plain mean over the batch"),
        (summed, "it is not the plain mean over the batch"),
        (with_logits, "the logits are used elsewhere, too"),
        (probabilities, "its targets are not classes"),
    ],
)
def test_other_losses_are_left_alone(rewritten, function, reason):
    head, x, labels = Head(), torch.randn(5, 6), torch.tensor([0, 3, 1, 1, 2])
    loss, (match,) = rewritten(lambda x, y: function(head, x, y), x, labels)
    assert (match.reason, match.replacement) == (reason, "")
    torch.testing.assert_close(loss, function(head, x, labels))


def test_nothing_is_replaced_without_gradients(rewritten):
    head, x, labels = Head(), torch.randn(5, 6), torch.tensor([0, 3, 1, 1, 2])
    with torch.no_grad():
        _, (match,) = rewritten(head, x, labels)
    assert match.reason == "nothing is trained"
