"""Properties of every registered backbone: return types, capture, copies, reproducible weights."""

import copy
import inspect

import pytest
import torch
from contract_cases import BackboneCase, case_of, names_with_families

from mammoth_compiled import MammothBackbone, ReturnTypes
from mammoth_compiled.backbones import probe
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.registry import backbones

CLASSES = 7

NAMES = names_with_families(backbones)
each_backbone = pytest.mark.parametrize("name", NAMES)
each_with_channels = pytest.mark.parametrize(
    "name", [n for n in NAMES if any(p.name == "in_channels" for p in backbones[n].parameters)]
)


def build(name, num_classes=CLASSES, **arguments):
    """Builds the small version of a backbone."""
    arguments = {**case_of(backbones[name], BackboneCase()).arguments, **arguments}
    return backbones[name].target(num_classes=num_classes, **arguments)


@pytest.fixture
def net(name):
    return build(name)


@pytest.fixture
def case(name):
    return case_of(backbones[name], BackboneCase())


@pytest.fixture
def images(case):
    return torch.rand(3, *case.input_shape)


def flatten(output):
    """Returns all tensors of an output, however it is nested."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [tensor for part in output for tensor in flatten(part)]


def assert_same(one, other):
    assert len(flatten(one)) == len(flatten(other))
    for a, b in zip(flatten(one), flatten(other), strict=True):
        assert torch.equal(a, b)


@each_backbone
def test_return_types(net, case, images):
    net.eval()
    contract = probe(net, case.input_shape, CLASSES)
    full = ("full",) if case.has_full else ()
    assert contract.supports == ("out", "features", "both", *full)
    with torch.no_grad():
        out, features, both = (net(images, returnt=r) for r in ("out", "features", "both"))
    assert isinstance(net, MammothBackbone)
    assert out.shape == (3, CLASSES)
    assert features.shape == (3, contract.feature_dim) == (3, net.feature_dim)
    assert isinstance(both, tuple)
    assert_same(both, (out, features))
    assert_same(net(images), out)
    assert_same(net.features(images), features)
    assert_same(net.classifier(features), out)


@each_backbone
def test_members_and_strings_are_equivalent(net, images):
    net.eval()
    for returnt in (ReturnTypes.OUT, ReturnTypes.FEATURES, ReturnTypes.BOTH):
        assert_same(net(images, returnt), net(images, returnt=str(returnt)))


@each_backbone
@pytest.mark.parametrize("value", ["foo", "", None])
def test_unknown_returnt_lists_the_valid_values(net, images, value):
    with pytest.raises(ValueError, match="unknown returnt") as caught:
        net(images, returnt=value)
    assert all(repr(v) in str(caught.value) for v in ("out", "features", "both"))


@each_backbone
def test_every_parameter_has_a_finite_gradient(net, images):
    out, features = net(images, returnt="both")
    (out.square().sum() + features.sum()).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        # The bias of attention keys shifts all scores of a query alike, which softmax ignores.
        assert parameter.grad.abs().sum() > 0 or key.endswith("key.bias"), key


@each_backbone
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_forward_is_captured_in_one_graph(net, images, training):
    # With fullgraph a graph break is an error. The smallest and the largest output stand for all.
    net.train(training)
    torch._dynamo.reset()
    supports = probe(net, tuple(images.shape[1:]), CLASSES).supports
    for returnt in (supports[0], supports[-1]):
        captured = torch.compile(
            lambda x, r=returnt: net(x, returnt=r), backend="eager", fullgraph=True
        )
        assert_same(captured(images), net(images, returnt=returnt))
    torch._dynamo.reset()


@each_backbone
def test_copies_are_equal_and_independent(net, images):
    net.eval()
    clone = copy.deepcopy(net)
    expected = net(images, returnt="both")
    assert_same(clone(images, returnt="both"), expected)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    assert_same(clone(images, returnt="both"), expected)


@each_backbone
def test_compilation_keeps_state_dict_keys(net):
    plain = list(net.state_dict())
    Compute(torch.device("cpu"), compile=True).attach(net)
    assert list(net.state_dict()) == plain
    assert not [key for key in plain if key.startswith("_") or "_orig_mod" in key]
    fresh = copy.deepcopy(net)
    fresh.load_state_dict(net.state_dict(), strict=True)


@each_backbone
def test_images_of_a_batch_are_independent_in_eval_mode(net, images):
    net.eval()
    alone = torch.cat([net(image[None]) for image in images])
    assert torch.allclose(net(images), alone, atol=1e-5)


@each_backbone
def test_seed_determines_the_weights(name):
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(build(name, 4).get_params())
    assert_same(*weights)


@each_backbone
def test_summary_fits_on_one_line(name):
    assert 10 < len(backbones[name].summary) < 100


@each_backbone
def test_every_other_argument_has_a_default(name):
    assert not [p.name for p in backbones[name].parameters if p.required]
    assert "num_classes" in inspect.signature(backbones[name].target).parameters


@each_with_channels
def test_gray_images(name, case):
    size = case.input_shape[1:]
    assert build(name, 3, in_channels=1)(torch.rand(2, 1, *size)).shape == (2, 3)
