"""Capture refuses inexpressible backbones with one line, is silent, and has no side effects."""

import logging
import warnings

import pytest
import torch
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle, load_bundle
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


def merges_windows(x):
    windows = x.reshape(-1, 2, 2)
    batch = int(windows.shape[0] / (3 * 8 * 6 / 2 / 2))  # as older Swin transformers do
    return windows.reshape(batch, -1)


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
        (merges_windows, r"not the same for every batch size .*: batch = int\(windows.shape"),
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
