"""Complete graphs on a fake GPU: training, exported graphs, dynamic sizes."""

import copy

import pytest
import torch
from fake_gpu import (
    Attention,
    Functional,
    Heads,
    Methods,
    Modules,
    Stem,
    bmm,
    einsum,
    operators,
    rewrite,
    rewriting,
    rewritten,
)
from torch.nn import functional as F

from mammoth_compiled.compiler.pattern import DYNAMIC_SIZE
from mammoth_compiled.registry import backbones


def loss_curve(net, forward, steps=10):
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    images, labels = torch.rand(8, 3, 32, 32), torch.randint(0, 3, (8,))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cnn", {"fused conv": 2}),
        ("cnn-wide", {"fused conv": 2}),
        ("attention-cnn", {"attention": 2, "projections": 1}),
    ],
)
def test_builtin_backbones_train_as_in_eager(gpu, name, expected):
    net = backbones[name].target(num_classes=3, num_channels=4)
    other, graphs = copy.deepcopy(net), []
    torch._dynamo.reset()
    ours = loss_curve(net, torch.compile(net, backend=rewriting(graphs)))
    torch._dynamo.reset()
    assert graphs[0][1] == expected
    assert ours == pytest.approx(loss_curve(other, other), rel=1e-4)
    assert ours[-1] < ours[0]


EXPORTED = {
    **{style.__name__: (style, (3, 8, 8)) for style in (Functional, Modules, Methods)},
    "stem": (Stem, (3, 32, 32)),
    **{f.__name__: (lambda f=f: Attention(f), (64, 8)) for f in (bmm, operators, einsum)},
    "view": (lambda: Heads(lambda y: y.view(len(y), 64, 4, 2)), (64, 8)),
    "contiguous view": (lambda: Heads(lambda y: y.view(len(y), -1)), (64, 8)),
    "permute": (lambda: Heads(lambda y: y.permute(2, 0, 1)), (64, 8)),
    "few tokens": (lambda: Attention(bmm), (7, 8)),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", EXPORTED)
def test_exported_graphs_are_rewritten_like_dynamo_graphs(gpu, exported, name, first):
    if not first:
        gpu.winners = {"conv_relu_pool": "relu_pool", "attention": "sdpa", "projections": "torch"}
    make, shape = EXPORTED[name]
    # Batch 32 represents a dynamic batch.
    net, images = make().eval(), torch.rand(32, *shape)
    module = exported(net, images)
    with torch.no_grad():
        expected, matches, found = rewritten(net, images)
        looked_up = gpu.cases.copy()
        gpu.cases.clear()
        module_matches, module_found = rewrite(module)
        torch.testing.assert_close(module(images), expected, check_stride=True)
    assert (module_found, gpu.cases) == (found, looked_up)
    assert [(m.pattern, m.reason, m.replacement) for m in module_matches] == [
        (m.pattern, m.reason, m.replacement) for m in matches
    ]


@pytest.mark.parametrize(
    ("name", "fused", "other"),
    [
        ("cnn", {"fused conv": 2}, {"pool": 2}),
        ("cnn-wide", {"fused conv": 2}, {"pool": 2}),
        ("attention-cnn", {"attention": 2, "projections": 1}, {"sdpa": 2, "projections": 1}),
        ("resnet18", {}, {}),
    ],
)
def test_exported_backbones_compute_the_same_for_any_batch(gpu, exported, name, fused, other):
    narrow = {
        p.name: 8 for p in backbones[name].parameters if p.name in ("num_filters", "num_channels")
    }
    net = backbones[name].target(num_classes=3, **narrow).eval()
    for expected in (fused, other):
        module = exported(net, torch.rand(2, 3, 32, 32))
        with torch.no_grad():
            assert rewrite(module)[1] == expected
            for batch in (1, 3):
                images = torch.rand(batch, 3, 32, 32)
                torch.testing.assert_close(module(images), net(images), rtol=1e-4, atol=1e-5)
        gpu.winners |= {"conv_relu_pool": "relu_pool", "attention": "sdpa"}
    assert all("train=0" in case and "batch=32" in case for case in gpu.cases)


def test_dynamic_sizes_other_than_the_batch(gpu):
    def dynamic_tokens(x):
        return torch.softmax(x @ x.mT, -1) @ x

    def dynamic_height(x):
        return F.max_pool2d(F.relu(F.conv2d(x, torch.ones(4, 3, 3, 3), padding=1)), 2)

    linear = [torch.rand(8, 8) for _ in range(3)]

    def projected(x):
        return [F.linear(x, weight).mT for weight in linear]

    shapes = {dynamic_tokens: (2, 64, 8), dynamic_height: (2, 3, 64, 8), projected: (2, 64, 8)}
    for function, shape in shapes.items():
        images = torch.rand(shape)
        torch._dynamo.mark_dynamic(images, len(shape) - 2)
        result, (match,), found = rewritten(function, images)
        assert (found, match.reason) == ({}, DYNAMIC_SIZE)
        for one, two in zip(result, function(images), strict=True):
            assert torch.equal(one, two)
    assert gpu.cases == []
