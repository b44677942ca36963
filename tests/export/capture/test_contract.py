"""Exported graphs keep the contract of the backbone, whatever return types it supports."""

import copy

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle, load_bundle
from mammoth_compiled.types import DatasetInfo, ReturnTypes

SHAPE = (3, 8, 6)


IMAGES = torch.linspace(-2, 2, 5 * 3 * 8 * 6).reshape(5, *SHAPE)


class Attention(nn.Module):
    """Single-head attention over all pixels, with view and bmm, as tutorials write it."""

    def __init__(self, channels):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))

    def forward(self, x):
        batch, channels, height, width = x.shape
        tokens = x.view(batch, channels, height * width).transpose(1, 2)
        scores = torch.bmm(self.query(tokens), self.key(tokens).transpose(1, 2)) * channels**-0.5
        mixed = torch.bmm(torch.softmax(scores, dim=-1), self.value(tokens))
        return mixed.transpose(1, 2).view(batch, channels, height, width)


class UserAttentionCNN(MammothBackbone):
    """Ignores unknown return types, as user code tends to."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, 1, 1)
        self.attention1 = Attention(6)
        self.conv2 = nn.Conv2d(6, 12, 3, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Linear(12, num_classes)

    def forward(self, x, returnt=ReturnTypes.OUT):
        x = self.attention1(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        features = x.view(x.size(0), -1)
        logits = self.classifier(features)
        if returnt == ReturnTypes.OUT:
            return logits
        elif returnt == ReturnTypes.FEATURES:
            return features
        elif returnt == ReturnTypes.BOTH:
            return logits, features


class OutOnly(MammothBackbone):
    """Has a forward without `returnt`."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 6, 4)

    def forward(self, x):
        return self.fc(x.flatten(1))


class NoBoth(MammothBackbone):
    """Supports out and features, but not both."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 6, 4)

    def forward(self, x, returnt="out"):
        features = x.flatten(1) * 2
        if returnt == "features":
            return features
        if returnt == "out":
            return self.fc(features)
        raise NotImplementedError(returnt)


def eager(net, returnt):
    with torch.no_grad():
        return net(IMAGES, returnt=returnt)


def test_backbone_in_the_style_of_the_tutorials(tmp_path):
    net = UserAttentionCNN(10).eval()
    bundle = load_bundle(export_bundle(net, tmp_path / "b", input_shape=SHAPE))
    assert bundle.supports == (ReturnTypes.OUT, ReturnTypes.FEATURES, ReturnTypes.BOTH)
    torch.testing.assert_close(bundle(IMAGES, "both"), eager(net, "both"), rtol=1e-4, atol=1e-5)


def test_net_in_train_mode_is_exported_in_eval_mode_and_left_unchanged(small_net, tmp_path):
    net = small_net.train()
    net.classifier.eval()
    net.classifier.requires_grad_(False)
    net.conv.weight.grad = torch.ones_like(net.conv.weight)
    state = copy.deepcopy(net.state_dict())
    modes = {name: module.training for name, module in net.named_modules()}

    bundle = load_bundle(export_bundle(net, tmp_path / "b", input_shape=SHAPE))

    assert {name: module.training for name, module in net.named_modules()} == modes
    assert [p.requires_grad for p in net.classifier.parameters()] == [False, False]
    assert torch.equal(net.conv.weight.grad, torch.ones_like(net.conv.weight))
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name])
    out = bundle(IMAGES)
    assert (out - eager(copy.deepcopy(net), "out")).abs().max() > 1e-2
    torch.testing.assert_close(out, eager(net.eval(), "out"), rtol=1e-4, atol=1e-5)


def test_backbone_without_returnt_has_one_output(tmp_path):
    net = OutOnly().eval()
    path = export_bundle(net, tmp_path / "b", input_shape=SHAPE)
    bundle = load_bundle(path)
    assert [o.name for o in onnx.load(path / "model.onnx").graph.output] == ["out"]
    assert bundle.supports == (ReturnTypes.OUT,)
    torch.testing.assert_close(bundle(IMAGES), net(IMAGES).detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ExportError, match="no 'features'; it has: 'out'"):
        bundle(IMAGES, "features")


def test_backbone_without_both_supports_both(tmp_path):
    net = NoBoth().eval()
    bundle = load_bundle(export_bundle(net, tmp_path / "b", input_shape=SHAPE))
    expected = (eager(net, "out"), eager(net, "features"))
    torch.testing.assert_close(bundle(IMAGES, "both"), expected, rtol=1e-4, atol=1e-5)


def test_parameters_named_like_outputs_do_not_collide(tmp_path):
    class Names(MammothBackbone):
        def __init__(self):
            super().__init__()
            self.input = nn.Parameter(torch.ones(6))
            self.out = nn.Linear(3 * 8 * 6, 4)
            self.features = nn.Identity()

        def forward(self, x, returnt=ReturnTypes.OUT):
            features = self.features((x * self.input).flatten(1))
            return select_return(self.out(features), features, returnt)

    net = Names().eval()
    bundle = load_bundle(
        export_bundle(net, tmp_path / "b", info=DatasetInfo("names", input_shape=SHAPE))
    )
    torch.testing.assert_close(bundle(IMAGES, "both"), eager(net, "both"), rtol=1e-4, atol=1e-5)


class SharedOutputs(MammothBackbone):
    """Its features are its logits, a view of them, or the images."""

    def __init__(self, num_classes, shared):
        super().__init__()
        self.classifier = nn.Linear(3 * 8 * 6, num_classes)
        self.shared = shared

    def forward(self, x, returnt=ReturnTypes.OUT):
        x = x.flatten(1)
        logits = self.classifier(x)
        shared = {"logits": logits, "view": logits[:, :3], "images": x}
        return select_return(logits, shared[self.shared], returnt)


@pytest.mark.parametrize("shared", ["logits", "view", "images"])
def test_outputs_that_share_memory_are_exported_to_every_format(tmp_path, shared):
    net = SharedOutputs(5, shared).eval()
    formats = ("onnx", "torchscript", "pt2")
    export_bundle(net, tmp_path / "bundle", input_shape=SHAPE, formats=formats)
    for runtime in formats:
        bundle = load_bundle(tmp_path / "bundle", runtime=runtime)
        both = bundle(IMAGES, returnt="both")
        for value, name in zip(both, ("out", "features"), strict=True):
            expected = net(IMAGES, returnt=name)
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close(bundle(IMAGES, returnt=name), expected)
