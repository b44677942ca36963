"""Capture refuses inexpressible backbones with one line, is silent, and has no side effects."""

import logging
import warnings

import pytest
import torch
from torch import nn

from mammoth_compiled.backbones import probe
from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle, load_bundle
from mammoth_compiled.export.capture.graph import NamedOutputs
from mammoth_compiled.export.capture.program import capture
from mammoth_compiled.types import ReturnTypes

SHAPE = (3, 8, 6)


class Flat(MammothBackbone):
    """Applies `body`, flattens and classifies."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.classifier = nn.Linear(3 * 8 * 6, 4)

    def forward(self, x, returnt=ReturnTypes.OUT):
        features = self.body(x).flatten(1)
        return select_return(self.classifier(features), features, returnt)


def branches(x):
    if x.mean() > 0.1:
        return x
    return -x


def loops(x):
    return torch.stack([image * 2 for image in x])


def doubles_even_batches(x):
    return x * 2 if len(x) % 2 == 0 else x


def has_no_operator(x):
    return torch.special.bessel_j0(x)


class Body(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (branches, r"branches on the values .*test_program.py:\d+: if x.mean\(\) > 0.1:\)"),
        (loops, r"not the same for every batch size .*test_program.py:\d+: return torch.stack"),
        (doubles_even_batches, r"not the same for every batch size .*: return x \* 2 if len"),
        (has_no_operator, r"ONNX has no operator for .*bessel_j0"),
    ],
)
def test_inexpressible_backbone_raises_one_line(function, reason, tmp_path, capfd):
    net = Flat(Body(function))
    level = logging.root.manager.disable
    with pytest.raises(ExportError, match=f"Flat cannot be exported.*: .*{reason}") as caught:
        export_bundle(net, tmp_path / "b", input_shape=SHAPE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == level
    assert list(tmp_path.iterdir()) == []


def test_len_of_the_batch_is_exported_as_its_size(tmp_path):
    net = Flat(Body(lambda x: x.reshape(len(x), -1) + len(x)))
    bundle = load_bundle(export_bundle(net, tmp_path / "b", input_shape=SHAPE, formats="onnx"))
    images = torch.rand(5, *SHAPE)
    torch.testing.assert_close(torch.as_tensor(bundle(images)), net(images))


def merges_windows(x):
    windows = x.permute(0, 2, 3, 1).reshape(-1, 2, 2, 3)
    batch = int(windows.shape[0] / (8 * 6 / 2 / 2))  # as Swin transformers do
    return windows.view(batch, 4, 3, 2, 2, -1).flatten(1)


PROTOTYPES = torch.linspace(-1, 1, 30 * 144).reshape(30, 144)
CAPTURED = {
    "len(x)": lambda x: x.reshape(len(x), -1) * len(x),
    "expand(len(x))": lambda x: x + torch.ones(1, 3, 8, 6).expand(len(x), -1, -1, -1),
    "x.repeat": lambda x: x * torch.full((1, 3, 8, 6), 0.5).repeat(len(x), 1, 1, 1),
    "x.shape[0] * 3": lambda x: x.reshape(x.shape[0] * 3, 8, 6).reshape(x.shape[0], -1),
    "x.numel() // 144": lambda x: x.reshape(x.numel() // 144, -1),
    "int(B / 1)": lambda x: x.reshape(int(x.shape[0] / 1), -1),
    "windows": merges_windows,
    "zeros of B": lambda x: x + torch.zeros(x.shape[0], 1, 8, 6),
    "arange(B)": lambda x: x * torch.arange(x.size(0)).view(-1, 1, 1, 1),
    "B ** 0.5": lambda x: x / x.shape[0] ** 0.5,
    "cdist, few rows": lambda x: torch.cdist(x.flatten(1), PROTOTYPES[:5]),
    "cdist, many rows": lambda x: torch.cdist(x.flatten(1), PROTOTYPES, p=1.0),
    "item()": lambda x: x * x.max().item(),
    "float()": lambda x: x * float(x.mean()),
    "numpy()": lambda x: torch.from_numpy(x.numpy() * 2),
    "where": lambda x: torch.where(x.sum((1, 2, 3), keepdim=True) > 0, x, -x),
}


class Plain(MammothBackbone):
    """Returns what `function` returns, flattened, as features, and twice that as logits."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, returnt=ReturnTypes.OUT):
        out = self.function(x).flatten(1)
        return select_return(2 * out, out, returnt)


def graph_of(function):
    net = Plain(function).eval()
    return NamedOutputs(net, probe(net, SHAPE))


@pytest.mark.parametrize("name", CAPTURED)
def test_sizes_and_values_that_capture_follows(name):
    graph = graph_of(CAPTURED[name])
    module = capture(graph.select(["out"])).module()
    for size in (1, 2, 7, 30):
        images = torch.rand(size, *SHAPE)
        expected = graph.compute_alone("out", images)
        torch.testing.assert_close(module(images)["out"], expected, rtol=1e-3, atol=1e-4)


def test_expressions_of_the_batch_size_are_exported(tmp_path):
    for name in ("windows", "cdist, few rows"):
        net = Plain(CAPTURED[name])
        bundle = load_bundle(export_bundle(net, tmp_path / "b", input_shape=SHAPE, formats="onnx"))
        images = torch.rand(30, *SHAPE)
        found = torch.as_tensor(bundle(images))
        torch.testing.assert_close(found, net(images), rtol=1e-3, atol=1e-4)


def large_batches_differ(x):
    return x * 2 if x.shape[0] > 4 else x


def takes_rows(x):
    return torch.stack([x[i] * 2 for i in range(len(x))])


def takes_halves(x):
    return torch.cat(x.chunk(2)[::-1])


def reads_values(x):
    return x * x.mean((1, 2, 3)).tolist()[0]


def reads_a_truth(x):
    return x * 2 if bool((x > 0.5).any()) else x


def keeps_large_values(x):
    return x + x[x > 0.5].chunk(2)[0].sum()


NUMBER = r"not the same for every batch size but takes it as a number \("
REFUSED = {
    large_batches_differ: r"every batch size but needs batch <= 4 \(.*x.shape\[0\] > 4 else",
    doubles_even_batches: NUMBER + r".*: return x \* 2 if len\(x\) % 2",
    takes_rows: NUMBER + r".*: return torch.stack\(\[x\[i\]",
    takes_halves: r"every batch size but needs .*batch.* == 1 \(.*x.chunk\(2\)",
    loops: NUMBER + r".*: return torch.stack\(\[image",
    reads_values: NUMBER + r".*\.tolist\(\)",
    branches: r"branches on the values of the images \(.*: if x.mean\(\) > 0.1:\). Use torch.where",
    reads_a_truth: r"branches on the values of the images \(.*: return x \* 2 if bool",
    keeps_large_values: r"has shapes that depend on them \(.*x\[x > 0.5\].chunk",
}


@pytest.mark.parametrize("function", REFUSED, ids=lambda function: function.__name__)
def test_what_capture_cannot_follow_names_line_and_guard(function):
    with pytest.raises(ExportError, match=REFUSED[function]) as caught:
        capture(graph_of(function))
    assert f"{__file__}:" in str(caught.value)


def test_torchscript_names_the_line_that_it_keeps_a_number_of(tmp_path):
    net = Plain(CAPTURED["len(x)"])
    with pytest.raises(ExportError, match=r"to TorchScript, .*test_program.py:\d+: .*len\(x\)"):
        export_bundle(net, tmp_path / "b", input_shape=SHAPE, formats="torchscript")


def test_backbone_that_fails_for_a_batch_size_is_named(tmp_path):
    net = Plain(lambda x: x.view(x.shape[0] // 2, 2, -1).reshape(x.shape[0], -1))
    message = (
        r"itself does not run for 1 image \(random\): RuntimeError: .*test_program.py:\d+: net"
    )
    with pytest.raises(ExportError, match=message):
        export_bundle(net, tmp_path / "b", input_shape=SHAPE, formats="onnx")


def test_fixed_batch_size_raises(tmp_path):
    class Fixed(MammothBackbone):
        def forward(self, x, returnt=ReturnTypes.OUT):
            return x.reshape(2, -1)

    with pytest.raises(ExportError, match="not the same for every batch size"):
        export_bundle(Fixed(), tmp_path / "b", input_shape=SHAPE)


def test_export_is_silent(tmp_path, capfd):
    class Chatty(nn.Module):
        def forward(self, x):
            self.seen = x  # torch.export warns about this
            return x

    net = Flat(Chatty())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export_bundle(net, tmp_path / "b", input_shape=SHAPE)
    assert caught == []
    assert capfd.readouterr() == ("", "")


def test_export_keeps_the_random_state(tmp_path):
    def draws(x):
        torch.rand(3)
        return x

    net = Flat(Body(draws))
    before = torch.get_rng_state()
    export_bundle(net, tmp_path / "b", input_shape=SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
