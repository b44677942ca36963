"""probe: the outputs it detects, and its messages about broken contracts."""

import pytest
import torch
from torch import nn

from mammoth_compiled import MammothBackbone
from mammoth_compiled.backbones import probe
from mammoth_compiled.errors import ContractError

SHAPE = (3, 8, 8)


class Net(MammothBackbone):
    """A correct backbone whose outputs the tests override in `select`."""

    def __init__(self, num_classes=5):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.BatchNorm1d(7), nn.Dropout())
        self.classifier = nn.Linear(7, num_classes)

    def forward(self, x, returnt="out"):
        features = self.body(x)
        return self.select(self.classifier(features), features, returnt)

    def select(self, logits, features, returnt):
        return {"out": logits, "features": features, "both": (logits, features)}[returnt]


def test_detects_shapes_and_return_types():
    contract = probe(Net(), SHAPE, 5)
    assert contract.input_shape == SHAPE
    assert (contract.num_classes, contract.feature_dim) == (5, 7)
    assert contract.supports == ("out", "features", "both")


def test_detects_full():
    class Full(Net):
        def select(self, logits, features, returnt):
            if returnt == "full":
                return logits, [features]
            return super().select(logits, features, returnt)

    assert probe(Full(), SHAPE).supports == ("out", "features", "both", "full")


def test_backbone_with_logits_only_is_valid():
    class Plain(MammothBackbone):
        def __init__(self):
            super().__init__()
            self.classifier = nn.Linear(192, 5)

        def forward(self, x):
            return self.classifier(x.flatten(1))

    contract = probe(Plain(), SHAPE, 5)
    assert contract.supports == ("out",)
    assert contract.feature_dim is None


def test_tensor_output_is_not_support_for_both_or_full():
    class Same(Net):
        def select(self, logits, features, returnt):
            return logits if returnt in ("out", "both", "full") else features

    assert probe(Same(), SHAPE).supports == ("out", "features")


def test_leaves_weights_modes_and_random_state_unchanged():
    net = Net()
    net.body[3].eval()
    modes = [m.training for m in net.modules()]
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    probe(net, SHAPE)
    assert torch.equal(torch.rand(3), expected)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_restores_modes_after_an_error():
    class Breaks(Net):
        def forward(self, x, returnt="out"):
            raise RuntimeError("boom")

    net = Breaks()
    with pytest.raises(ContractError, match=r"returns no logits .* RuntimeError: boom"):
        probe(net, SHAPE)
    assert all(m.training for m in net.modules())


def returning(function):
    class Changed(Net):
        def select(self, logits, features, returnt):
            outputs = {"out": logits, "features": features, "both": (logits, features)}
            return function(outputs)[returnt]

    return Changed()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {**a, "both": (a["features"], a["out"])}, r"its out has shape \[2, 7\]"),
        (lambda a: {**a, "both": (a["out"] + 1, a["features"])}, "its out differs by up to 1"),
        (lambda a: {**a, "both": (a["out"], a["features"] * 2)}, "its features differs by up to"),
        (lambda a: {**a, "both": (a["out"], a["features"][:1])}, r"features has shape \[1, 7\]"),
        (lambda a: {**a, "out": a["out"].sum(1)}, r"out must have shape \[B, 5\]"),
        (lambda a: {**a, "out": a["out"][:1]}, r"out must have shape \[B, 5\].* gave \[1, 5\]"),
        (lambda a: {**a, "out": None}, "returns no logits"),
        (lambda a: {**a, "out": (a["out"],)}, "returns no logits"),
        (lambda a: {**a, "features": a["features"].view(2, 7, 1)}, r"Flatten them with x\.flatten"),
    ],
)
def test_broken_contracts_are_reported(change, message):
    with pytest.raises(ContractError, match=message):
        probe(returning(change), SHAPE, 5)


def test_ignored_num_classes_is_reported():
    with pytest.raises(ContractError, match=r"\(num_classes = 9\).*Pass num_classes to"):
        probe(Net(5), SHAPE, 9)


def test_unsupported_image_size_is_reported():
    with pytest.raises(ContractError, match=r"for images of shape \(3, 9, 9\).*Check the input"):
        probe(Net(), (3, 9, 9))


def test_other_modules_are_rejected():
    with pytest.raises(ContractError, match="backbone Linear must inherit from MammothBackbone"):
        probe(nn.Linear(3, 3), SHAPE)


def test_nan_counts_as_a_difference():
    def change(outputs):
        return {**outputs, "both": (outputs["out"] * float("nan"), outputs["features"])}

    with pytest.raises(ContractError, match="its out differs"):
        probe(returning(change), SHAPE, 5)
