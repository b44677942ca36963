"""A fake GPU: graphs have CUDA tensors, and the references compute on the CPU.

The fixture is `gpu`; the networks are what the patterns look for, in several spellings.
"""

import copy
from collections import Counter

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from mammoth_compiled.compiler.patterns import apply_patterns
from mammoth_compiled.kernels.attention import joint_linear

# Operations that turn values of a tensor into Python values or shapes, which is a host sync.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero")

OURS = {
    "fused conv": torch.ops.mammoth.conv_relu_pool.default,
    "unpooled conv": torch.ops.mammoth.conv_relu_pool_unpooled.default,
    "pool": torch.ops.mammoth.relu_pool.default,
    "attention": torch.ops.mammoth.attention.default,
    "sdpa": F.scaled_dot_product_attention,
    "projections": joint_linear,
}


class Gpu:
    """Predetermined autotuning: `winners` are the fastest implementations, `cases` the lookups.

    `precision` is that of float32 in attention.
    """

    def __init__(self):
        self.winners = {"conv_relu_pool": "triton", "attention": "triton", "projections": "joint"}
        self.cases = []
        self.precision = "tf32"

    def input_precision(self, dtype, *, convolution):
        return self.precision

    def fastest(self, case, device, names):
        assert device.type == "cuda"
        self.cases.append(str(case))
        winner = self.winners[case.op]
        return winner if winner in names else names[0]


def to_cuda(graph):
    """Moves the fake values of a graph to a GPU."""
    for node in graph.nodes:
        for key in ("example_value", "val"):
            value = node.meta.get(key)
            if isinstance(value, FakeTensor):
                with value.fake_mode:  # which knows the dynamic sizes
                    made = torch.empty_strided(
                        value.shape, value.stride(), dtype=value.dtype, device="cuda"
                    )
                node.meta[key] = made.requires_grad_(value.requires_grad)


def rewrite(graph):
    """Rewrites a graph module for a GPU; returns the matches and the counts of our operators."""
    to_cuda(graph.graph)
    matches = apply_patterns(graph.graph)
    graph.recompile()
    names = [name for n in graph.graph.nodes for name, f in OURS.items() if n.target is f]
    return matches, dict(Counter(names))


def rewriting(graphs):
    """Returns a backend that appends the results of `rewrite` to `graphs`."""

    def backend(graph, _):
        graphs.append(rewrite(graph))
        return graph

    return backend


def rewritten(function, images):
    """(result of the graph rewritten for a GPU, matches, counts of our operators)."""
    graphs = []
    torch._dynamo.reset()
    result = torch.compile(function, backend=rewriting(graphs), fullgraph=True)(images)
    torch._dynamo.reset()
    return result, *graphs[0]


def assert_same_results(net, images):
    """Compares result, layout and gradients with eager mode; returns matches and counts."""
    other = copy.deepcopy(net)
    ours, theirs = (images.clone().requires_grad_(images.requires_grad) for _ in range(2))
    result, matches, found = rewritten(net, ours)
    expected = other(theirs)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5, check_stride=True)
    result.square().sum().backward()
    expected.square().sum().backward()
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-4)
    if images.requires_grad:
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
    return matches, found


class Functional(nn.Module):
    """A small CNN written with functions."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.head = nn.Linear(6 * 4, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.one(x)), 2)
        x = F.max_pool2d(F.relu(self.two(x)), 2)
        return self.head(x.view(len(x), -1))


class Modules(Functional):
    """The same with modules."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Sequential(
            self.one, nn.ReLU(inplace=True), nn.MaxPool2d(2), self.two, nn.ReLU(), nn.MaxPool2d(2)
        )

    def forward(self, x):
        return self.head(self.maps(x).flatten(1))


class Methods(Functional):
    """The same with methods, pooling before relu."""

    def forward(self, x):
        x = torch.max_pool2d(self.one(x), 2).relu()
        x = torch.max_pool2d(self.two(x), kernel_size=(2, 2)).relu_()
        return self.head(x.reshape(x.size(0), -1))


class Stem(nn.Module):
    """The stem of a ResNet for large images."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x):
        return self.pool(F.relu(self.norm(self.conv(x))))


def bmm(query, key, value, scale):
    return torch.bmm(torch.softmax(torch.bmm(query, key.transpose(1, 2)) * scale, dim=-1), value)


def operators(query, key, value, scale):
    return ((query @ key.mT) / (1 / scale)).softmax(-1) @ value


def einsum(query, key, value, scale):
    scores = torch.einsum("bqd,bkd->bqk", query * scale, key)
    return torch.einsum("bqk,bkd->bqd", F.softmax(scores, 2), value)


class Attention(nn.Module):
    """Self-attention with the given multiplications."""

    def __init__(self, products, size=8):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.products, self.scale = products, size**-0.5

    def forward(self, x):
        return self.products(self.query(x), self.key(x), self.value(x), self.scale)


class Heads(Attention):
    """Three projections whose results are viewed as heads."""

    def __init__(self, view):
        super().__init__(bmm)
        self.view = view

    def forward(self, x):
        return sum(self.view(layer(x)).sum(-1) for layer in (self.query, self.key, self.value))
