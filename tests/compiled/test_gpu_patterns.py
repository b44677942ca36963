"""What the patterns make of graphs on a GPU, without one: the graph says CUDA, the numbers are the
references' on a CPU.
"""

import copy
from collections import Counter

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from mammoth_compiled.compiler import dispatch, ways
from mammoth_compiled.compiler.patterns import apply_patterns
from mammoth_compiled.compiler.patterns.match import OPEN_SIZE
from mammoth_compiled.compiler.ways import FUSED, POOL, SDPA, UNFUSED
from mammoth_compiled.kernels import launch
from mammoth_compiled.kernels.attention import projections
from mammoth_compiled.registry import backbones

OURS = {
    "fused conv": torch.ops.mammoth.conv_relu_pool.default,
    "pool": torch.ops.mammoth.relu_pool.default,
    "attention": torch.ops.mammoth.attention.default,
    "sdpa": F.scaled_dot_product_attention,
    "projections": projections,
}


@pytest.fixture
def gpu(monkeypatch):
    """A GPU on paper; `ways` says what is fastest there, `asked` which problems were looked up."""

    class Gpu:
        def __init__(self):
            self.ways = {"conv_relu_pool": FUSED, "attention": FUSED, "projections": FUSED}
            self.asked = []

        def fastest(self, op, problem, device, ways):
            assert device.type == "cuda"
            self.asked.append(problem)
            return self.ways[op]

    gpu = Gpu()
    monkeypatch.setattr(launch, "supports", lambda device: device.type == "cuda")
    monkeypatch.setattr(dispatch, "fastest", gpu.fastest)
    return gpu


def to_cuda(graph):
    """Makes every value that the graph tells of one on a GPU."""
    for node in graph.nodes:
        for key in ("example_value", "val"):
            value = node.meta.get(key)
            if isinstance(value, FakeTensor):
                with value.fake_mode:  # which knows the sizes left open
                    made = torch.empty_strided(
                        value.shape, value.stride(), dtype=value.dtype, device="cuda"
                    )
                node.meta[key] = made.requires_grad_(value.requires_grad)


def rewrite(graph):
    """Rewrites a graph module for a GPU; returns the matches and the count of operators of ours."""
    to_cuda(graph.graph)
    matches = apply_patterns(graph.graph)
    graph.recompile()
    names = [name for n in graph.graph.nodes for name, f in OURS.items() if n.target is f]
    return matches, dict(Counter(names))


def rewriting(graphs):
    """Returns a backend that rewrites for a GPU; `graphs` gets what `rewrite` returns."""

    def backend(graph, _):
        graphs.append(rewrite(graph))
        return graph

    return backend


def rewritten(function, images):
    """(result of the graph rewritten for a GPU, the matches, count of each operator of ours)."""
    graphs = []
    torch._dynamo.reset()
    result = torch.compile(function, backend=rewriting(graphs), fullgraph=True)(images)
    torch._dynamo.reset()
    return result, *graphs[0]


def assert_same_numbers(net, images):
    """Compares result, layout and gradients with eager; returns matches and counts."""
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
    """The document's small CNN written with functions."""

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


@pytest.mark.parametrize("style", [Functional, Modules, Methods])
@pytest.mark.parametrize(("way", "name"), [(FUSED, "fused conv"), (POOL, "pool")])
def test_convolutions_in_three_styles(gpu, style, way, name):
    gpu.ways["conv_relu_pool"] = way
    matches, found = assert_same_numbers(style(), torch.rand(2, 3, 8, 8))
    assert found == {name: 2}
    assert [match.reason for match in matches] == ["", ""]
    assert "Triton kernel" in matches[0].by
    assert [problem.split()[1:4] for problem in gpu.asked] == [
        ["batch=2", "in=3", "out=4"],
        ["batch=2", "in=4", "out=6"],
    ]
    assert ["input_grad=0" in problem for problem in gpu.asked] == [True, False]


def test_gradient_of_the_images(gpu):
    assert_same_numbers(Functional(), torch.rand(2, 3, 8, 8, requires_grad=True))
    assert all("input_grad=1" in problem for problem in gpu.asked)


def test_without_gradients(gpu):
    with torch.no_grad():
        _, _, found = rewritten(Functional(), torch.rand(2, 3, 8, 8))
    assert found == {"fused conv": 2}
    assert all("train=0" in problem for problem in gpu.asked)


def test_where_torch_is_faster_the_graph_stays(gpu):
    gpu.ways["conv_relu_pool"] = UNFUSED
    matches, found = assert_same_numbers(Functional(), torch.rand(2, 3, 8, 8))
    assert found == {}
    assert {match.reason for match in matches} == {"torch's own kernels were measured to be faster"}


def test_strict_float32_stays_with_cudnn(gpu, monkeypatch):
    monkeypatch.setattr(launch, "input_precision", lambda dtype, convolution: "ieee")
    _, found = assert_same_numbers(Functional(), torch.rand(2, 3, 8, 8))
    assert found == {"pool": 2}
    assert gpu.asked == []


class Stem(nn.Module):
    """What begins a ResNet for large images."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x):
        return self.pool(F.relu(self.norm(self.conv(x))))


def test_the_stem_of_a_resnet(gpu):
    matches, found = assert_same_numbers(Stem(), torch.rand(2, 3, 32, 32))
    assert found == {"pool": 1}
    assert matches[0].by == "a Triton kernel for relu+pool"
    assert gpu.asked == []


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (lambda x: F.max_pool2d(F.relu(x), 2, dilation=2), "are dilated or rounded up"),
        (lambda x: F.max_pool2d(F.relu(x), 3, ceil_mode=True), "are dilated or rounded up"),
        (lambda x: F.max_pool2d(F.relu(x), 16), "more than 126 cells"),
        (lambda x: F.max_pool2d(F.relu(x.sin()), 2), "not a convolution or a batch norm"),
        (lambda x: F.max_pool2d(F.relu(x.double()), 2), "not a convolution or a batch norm"),
    ],
)
def test_what_is_left_alone_and_why(gpu, tail, reason):
    conv = nn.Conv2d(3, 4, 3, padding=1)
    images = torch.rand(2, 3, 16, 16)
    result, matches, found = rewritten(lambda x: tail(conv(x)), images)
    assert found == {}
    assert reason in matches[0].reason
    assert torch.equal(result, tail(conv(images)))


def test_double_precision_is_left_alone(gpu):
    net = Functional().double()
    _, matches, found = rewritten(net, torch.rand(2, 3, 8, 8).double())
    assert found == {}
    assert matches[0].reason == "there is no kernel for torch.float64"


def test_a_gpu_without_support_is_left_alone(gpu, monkeypatch):
    monkeypatch.setattr(launch, "supports", lambda device: False)
    matches, found = assert_same_numbers(Functional(), torch.rand(2, 3, 8, 8))
    assert found == {}
    assert "compute capability 8.0" in matches[0].reason


def bmm(query, key, value, scale):
    return torch.bmm(torch.softmax(torch.bmm(query, key.transpose(1, 2)) * scale, dim=-1), value)


def operators(query, key, value, scale):
    return ((query @ key.mT) / (1 / scale)).softmax(-1) @ value


def einsum(query, key, value, scale):
    scores = torch.einsum("bqd,bkd->bqk", query * scale, key)
    return torch.einsum("bqk,bkd->bqd", F.softmax(scores, 2), value)


class Attention(nn.Module):
    """The document's self-attention, with the products as given."""

    def __init__(self, products, size=8):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.products, self.scale = products, size**-0.5

    def forward(self, x):
        return self.products(self.query(x), self.key(x), self.value(x), self.scale)


@pytest.mark.parametrize("products", [bmm, operators, einsum])
@pytest.mark.parametrize(("way", "name"), [(FUSED, "attention"), (SDPA, "sdpa")])
def test_attention_in_three_styles(gpu, products, way, name):
    gpu.ways["attention"] = way
    matches, found = assert_same_numbers(Attention(products), torch.rand(2, 7, 8))
    assert found == {name: 1}
    assert (matches[0].pattern, matches[0].reason) == ("attention", "")
    assert "heads=1 queries=7 keys=7 size=8" in gpu.asked[0]


def test_attention_with_heads_of_other_keys(gpu):
    query, key, value = (torch.rand(2, 3, n, 8) for n in (5, 9, 9))

    def cross(x):
        return torch.softmax(x @ key.transpose(-2, -1) * 8**-0.5, -1) @ value

    result, _, found = rewritten(cross, query)
    assert found == {"attention": 1}
    assert "heads=3 queries=5 keys=9" in gpu.asked[0]
    torch.testing.assert_close(result, cross(query))


def test_attention_in_strict_float32_is_a_problem_of_its_own(gpu, monkeypatch):
    assert_same_numbers(Attention(bmm), torch.rand(2, 7, 8))
    monkeypatch.setattr(ways, "input_precision", lambda dtype, convolution: "tf32")
    assert_same_numbers(Attention(bmm), torch.rand(2, 7, 8))
    strict, tf32 = (problem for problem in gpu.asked if "heads" in problem)
    assert strict != tf32


def test_attention_where_torch_is_faster(gpu):
    gpu.ways["attention"] = UNFUSED
    matches, found = assert_same_numbers(Attention(bmm), torch.rand(2, 7, 8))
    assert found == {}
    assert matches[0].reason == "torch's own kernels were measured to be faster"


def loss_curve(net, forward, steps=10):
    torch.manual_seed(0)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    images, labels = torch.rand(8, 3, 32, 32), torch.randint(0, 3, (8,))
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = F.cross_entropy(forward(images), labels)
        loss.backward()
        optimiser.step()
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
def test_the_documents_backbones_train_as_in_eager(gpu, name, expected):
    net = backbones[name].target(num_classes=3, num_channels=4)
    other, graphs = copy.deepcopy(net), []
    torch._dynamo.reset()
    ours = loss_curve(net, torch.compile(net, backend=rewriting(graphs)))
    torch._dynamo.reset()
    assert graphs[0][1] == expected
    assert ours == pytest.approx(loss_curve(other, other), rel=1e-4)
    assert ours[-1] < ours[0]


class Heads(Attention):
    """Three projections whose results are viewed as heads."""

    def __init__(self, view):
        super().__init__(bmm)
        self.view = view

    def forward(self, x):
        return sum(self.view(layer(x)).sum(-1) for layer in (self.query, self.key, self.value))


def test_projections_of_the_same_tokens_become_one_product(gpu):
    matches, found = assert_same_numbers(Attention(bmm), torch.rand(2, 64, 8))
    assert [(match.pattern, match.by) for match in matches] == [
        ("attention", "one Triton kernel"),
        ("projections", "one product"),
    ]
    assert found == {"attention": 1, "projections": 1}
    assert "tokens=64 in=8 out0=8 out1=8 out2=8" in gpu.asked[1]


@pytest.mark.parametrize(
    "view", [lambda y: y.view(2, 64, 4, 2), lambda y: y.reshape(2, -1), lambda y: y.transpose(1, 2)]
)
def test_projections_that_are_viewed_as_heads(gpu, view):
    _, found = assert_same_numbers(Heads(view), torch.rand(2, 64, 8))
    assert found == {"projections": 1}


def test_projections_left_alone(gpu):
    matches, found = assert_same_numbers(Heads(lambda y: y.view(2, -1)), torch.rand(2, 64, 8))
    assert (found, matches[0].reason) == ({}, "a view of its results wants them contiguous")
    matches, found = assert_same_numbers(Heads(lambda y: y.permute(2, 0, 1)), torch.rand(2, 9, 8))
    assert (found, matches[0].reason) == ({}, "it pays for 64 to 256 tokens")
    gpu.ways["projections"] = UNFUSED
    matches, found = assert_same_numbers(Heads(lambda y: y.transpose(1, 2)), torch.rand(2, 64, 8))
    assert (found, matches[0].reason) == ({}, "three products were measured to be faster")


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
def test_exported_graphs_are_rewritten_as_dynamos(gpu, exported, name, first):
    if not first:
        gpu.ways = {"conv_relu_pool": POOL, "attention": SDPA, "projections": UNFUSED}
    make, shape = EXPORTED[name]
    # The batch that is chosen for where any may come.
    net, images = make().eval(), torch.rand(32, *shape)
    module = exported(net, images)
    with torch.no_grad():
        expected, matches, found = rewritten(net, images)
        asked = gpu.asked.copy()
        gpu.asked.clear()
        module_matches, module_found = rewrite(module)
        torch.testing.assert_close(module(images), expected, check_stride=True)
    assert (module_found, gpu.asked) == (found, asked)
    assert [(m.pattern, m.reason, m.by) for m in module_matches] == [
        (m.pattern, m.reason, m.by) for m in matches
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
def test_exported_backbones_keep_their_numbers_for_any_batch(gpu, exported, name, fused, other):
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
        gpu.ways |= {"conv_relu_pool": POOL, "attention": SDPA}
    assert all("train=0" in problem and "batch=32" in problem for problem in gpu.asked)


def test_sizes_other_than_the_batch_that_are_left_open(gpu):
    def tokens_open(x):
        return torch.softmax(x @ x.mT, -1) @ x

    def height_open(x):
        return F.max_pool2d(F.relu(F.conv2d(x, torch.ones(4, 3, 3, 3), padding=1)), 2)

    linear = [torch.rand(8, 8) for _ in range(3)]

    def projected(x):
        return [F.linear(x, weight).mT for weight in linear]

    shapes = {tokens_open: (2, 64, 8), height_open: (2, 3, 64, 8), projected: (2, 64, 8)}
    for function, shape in shapes.items():
        images = torch.rand(shape)
        torch._dynamo.mark_dynamic(images, len(shape) - 2)
        result, (match,), found = rewritten(function, images)
        assert (found, match.reason) == ({}, OPEN_SIZE)
        for one, two in zip(result, function(images), strict=True):
            assert torch.equal(one, two)
    assert gpu.asked == []
