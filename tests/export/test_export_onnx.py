"""What the ONNX writer does with backbones of every kind, and what it refuses."""

import copy
import logging
import warnings

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.backbones.contract import Contract
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle, load_bundle
from mammoth_compiled.export.capture.backbone import eager_copy, unwrap
from mammoth_compiled.export.capture.graph import NamedOutputs
from mammoth_compiled.export.formats import onnx as to_onnx
from mammoth_compiled.types import DatasetInfo, ReturnTypes

SHAPE = (3, 8, 6)
IMAGES = torch.linspace(-2, 2, 5 * 3 * 8 * 6).reshape(5, *SHAPE)


class Flat(MammothBackbone):
    """Flattens, lets `body` do something, and classifies."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.classifier = nn.Linear(3 * 8 * 6, 4)

    def forward(self, x, returnt=ReturnTypes.OUT):
        features = self.body(x).flatten(1)
        return select_return(self.classifier(features), features, returnt)


class Attention(nn.Module):
    """One head over all pixels, with view and bmm as tutorials write it."""

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
    """Keeps the contract without a word on unknown return types, as user code does."""

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
    """Knows no return types at all."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 6, 4)

    def forward(self, x):
        return self.fc(x.flatten(1))


class NoBoth(MammothBackbone):
    """Answers out and features, and rejects both."""

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


def test_user_backbone_of_the_tutorials(tmp_path):
    net = UserAttentionCNN(10).eval()
    bundle = load_bundle(export_bundle(net, tmp_path / "b", input_shape=SHAPE))
    assert bundle.supports == (ReturnTypes.OUT, ReturnTypes.FEATURES, ReturnTypes.BOTH)
    torch.testing.assert_close(bundle(IMAGES, "both"), eager(net, "both"), rtol=1e-4, atol=1e-5)


def test_net_in_train_mode_is_exported_as_eval_and_stays_in_train_mode(small_net, tmp_path):
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


def test_out_only_backbone_gets_one_output(tmp_path):
    net = OutOnly().eval()
    path = export_bundle(net, tmp_path / "b", input_shape=SHAPE)
    bundle = load_bundle(path)
    assert [o.name for o in onnx.load(path / "model.onnx").graph.output] == ["out"]
    assert bundle.supports == (ReturnTypes.OUT,)
    torch.testing.assert_close(bundle(IMAGES), net(IMAGES).detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ExportError, match="no 'features'; it has: 'out'"):
        bundle(IMAGES, "features")


def test_backbone_without_both_gets_both_outputs(tmp_path):
    net = NoBoth().eval()
    bundle = load_bundle(export_bundle(net, tmp_path / "b", input_shape=SHAPE))
    want = (eager(net, "out"), eager(net, "features"))
    torch.testing.assert_close(bundle(IMAGES, "both"), want, rtol=1e-4, atol=1e-5)


def test_unwrap_finds_the_backbone_in_compiled_wrappers_and_models(small_net, small_info):
    class Dataset:
        def info(self):
            return small_info

    class Model(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net
            self.dataset = Dataset()

    compiled = torch.compile(small_net, backend="eager")
    assert unwrap(small_net) == (small_net, None)
    assert unwrap(compiled) == (small_net, None)
    assert unwrap(Model(small_net)) == (small_net, small_info)
    assert unwrap(torch.compile(Model(compiled), backend="eager")) == (small_net, small_info)
    with pytest.raises(ExportError, match="not Linear"):
        unwrap(nn.Linear(2, 2))
    with pytest.raises(ExportError, match="not NoneType"):
        unwrap(None)


def test_a_backbone_with_its_own_net_is_the_backbone(small_net):
    outer = OutOnly()
    outer.net = small_net
    assert unwrap(outer) == (outer, None)


def test_eager_copy_runs_nothing_compiled(small_net):
    def fail(*args, **kwargs):
        raise AssertionError("ran compiled")

    class Runner:
        __call__ = fail

        def for_copy(self, net):
            return Runner()

    small_net.conv = torch.compile(small_net.conv, backend=fail)
    small_net.bn.compile(backend=fail)
    small_net.set_runner(Runner())
    clone = eager_copy(small_net)
    assert clone(IMAGES).shape == (5, 4)
    assert not any(module.training for module in clone.modules())
    assert not any("_orig_mod" in key for key in clone.state_dict())
    assert "_orig_mod" in small_net.conv._modules


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_refused(small_net, dtype, tmp_path):
    with pytest.raises(ExportError, match=rf"'conv.weight' is {dtype}"):
        export_bundle(small_net.to(dtype), tmp_path / "b", input_shape=SHAPE)


def test_a_backbone_that_cannot_be_copied_is_refused(small_net, tmp_path):
    small_net.last = small_net(IMAGES)  # not a leaf of the autograd graph
    with pytest.raises(ExportError, match="SmallNet cannot be copied"):
        export_bundle(small_net, tmp_path / "b", input_shape=SHAPE)


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
        (branches, r"branches on the values .*test_export_onnx.py:\d+: if x.mean\(\) > 0.1:\)"),
        (loops, "not the same for every batch size"),
        (doubles_even_batches, "not the same for every batch size"),
        (has_no_operator, r"ONNX has no operator for .*bessel_j0"),
    ],
)
def test_a_backbone_onnx_cannot_express_is_refused_in_one_line(function, reason, tmp_path, capfd):
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


def test_a_shape_that_hides_the_batch_is_refused(tmp_path):
    class Fixed(MammothBackbone):
        def forward(self, x, returnt=ReturnTypes.OUT):
            return x.reshape(2, -1)

    with pytest.raises(ExportError, match="not the same for every batch size"):
        export_bundle(Fixed(), tmp_path / "b", input_shape=SHAPE)


def test_export_is_silent(tmp_path, capfd):
    class Chatty(nn.Module):
        def forward(self, x):
            self.seen = x  # torch.export warns of that
            return x

    net = Flat(Chatty())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export_bundle(net, tmp_path / "b", input_shape=SHAPE)
    assert caught == []
    assert capfd.readouterr() == ("", "")


def test_the_random_state_stays(tmp_path):
    def draws(x):
        torch.rand(3)
        return x

    net = Flat(Body(draws))
    before = torch.get_rng_state()
    export_bundle(net, tmp_path / "b", input_shape=SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_too_large_weights_are_refused_before_the_export(small_net, monkeypatch, tmp_path):
    monkeypatch.setattr(to_onnx, "_MAX_WEIGHT_BYTES", 100)
    monkeypatch.setattr(to_onnx, "to_proto", lambda source: pytest.fail("translated"))
    with pytest.raises(ExportError, match="GB of weights"):
        export_bundle(small_net, tmp_path / "b", input_shape=SHAPE)


def relu_model(middle, end, width=4, batch="batch"):
    """input -> Relu -> middle -> Neg -> end."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Relu", ["input"], [middle]),
        helper.make_node("Neg", [middle], [end]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", float32, [batch, 3, 8, 6])],
        [helper.make_tensor_value_info(end, float32, [batch, 3, 8, 6][: 4 if width == 4 else 2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (relu_model("out", "out"), "not valid ONNX: .*'out' has been used"),
        (relu_model("input", "out"), "not valid ONNX: .*'input' has been used"),
        (relu_model("a", "features"), "input, features instead of input, out"),
        (relu_model("a", "out", batch=2), r"shape \[2, 3, 8, 6\] for 'input'"),
        (relu_model("a", "out"), r"shape \['batch', 3, 8, 6\] for 'out'"),
    ],
)
def test_check_finds_collisions_and_wrong_forms(model, message):
    graph = NamedOutputs(OutOnly(), Contract(SHAPE, 4, None, (ReturnTypes.OUT,)))
    with pytest.raises(ExportError, match=message):
        to_onnx.check(model, graph.interface)


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
