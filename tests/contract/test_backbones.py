"""What every registered backbone keeps: the ReturnTypes contract, eager, captured and copied."""

import copy
import inspect

import pytest
import torch

from mammoth_compiled import MammothBackbone, ReturnTypes
from mammoth_compiled.backbones import probe
from mammoth_compiled.engine.forward import ForwardPolicy, attach
from mammoth_compiled.errors import MammothError
from mammoth_compiled.registry import backbones

# Those that are not made for 32x32 colour images.
SHAPES = {"mnistmlp": (1, 28, 28)}
# Narrow versions: the structure is what is tested.
NARROW = {"num_filters": 4, "num_channels": 4, "hidden_size": 8}
# What is published, for 10 classes.
PARAMETERS = {
    "resnet18": 11_173_962,
    "resnet32": 464_154,
    "resnet50": 23_520_842,
    "cnn": 60_362,
    "cnn-wide": 157_578,
    "mnistmlp": 89_610,
}
FULL = {"resnet18", "resnet32", "resnet50", "reduced-resnet18"}
CLASSES = 7

each_backbone = pytest.mark.parametrize("name", list(backbones))


def shape_of(name):
    return SHAPES.get(name, (3, 32, 32))


@pytest.fixture
def net(name):
    entry = backbones[name]
    narrow = {p.name: NARROW[p.name] for p in entry.parameters if p.name in NARROW}
    return entry.target(num_classes=CLASSES, **narrow)


@pytest.fixture
def images(name):
    return torch.rand(3, *shape_of(name))


def flat(answer):
    """All tensors of an answer, whatever its nesting."""
    if isinstance(answer, torch.Tensor):
        return [answer]
    return [tensor for part in answer for tensor in flat(part)]


def assert_same(one, other):
    assert len(flat(one)) == len(flat(other))
    for a, b in zip(flat(one), flat(other), strict=True):
        assert torch.equal(a, b)


@each_backbone
def test_contract(net, name, images):
    net.eval()
    contract = probe(net, shape_of(name), CLASSES)
    full = ("full",) if name in FULL else ()
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


@pytest.mark.parametrize("name", sorted(FULL))
def test_full_adds_the_stage_maps(net, images):
    net.eval()
    logits, maps = net(images, returnt=ReturnTypes.FULL)
    assert_same(logits, net(images))
    assert len(maps) == len(net.stages) + 1
    assert all(m.dim() == 4 and len(m) == 3 for m in maps)
    sizes = [m.shape[2] for m in maps]
    assert sizes == sorted(sizes, reverse=True)
    assert torch.allclose(maps[-1].mean((2, 3)), net.features(images), atol=1e-6)


@each_backbone
def test_members_and_strings_are_the_same(net, images):
    net.eval()
    for returnt in (ReturnTypes.OUT, ReturnTypes.FEATURES, ReturnTypes.BOTH):
        assert_same(net(images, returnt), net(images, returnt=str(returnt)))


@each_backbone
@pytest.mark.parametrize("value", ["foo", "", None])
def test_unknown_returnt_lists_the_valid_ones(net, images, value):
    with pytest.raises(ValueError, match="unknown returnt") as caught:
        net(images, returnt=value)
    assert all(repr(v) in str(caught.value) for v in ("out", "features", "both"))


@each_backbone
def test_every_parameter_gets_a_finite_gradient(net, images):
    out, features = net(images, returnt="both")
    (out.square().sum() + features.sum()).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        # Attention's keys shift every score of a query alike: their bias has no influence.
        assert parameter.grad.abs().sum() > 0 or key.endswith("key.bias"), key


@each_backbone
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_captured_in_one_graph(net, images, training):
    # fullgraph: a graph break is an error. The shortest and the longest answer stand for all.
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
def test_state_dict_keys_are_the_modules_own(net):
    plain = list(net.state_dict())
    attach(net, ForwardPolicy(torch.device("cpu"), compile=True))
    assert list(net.state_dict()) == plain
    assert not [key for key in plain if key.startswith("_") or "_orig_mod" in key]
    fresh = copy.deepcopy(net)
    fresh.load_state_dict(net.state_dict(), strict=True)


@each_backbone
def test_batches_do_not_mix_in_eval_mode(net, images):
    net.eval()
    alone = torch.cat([net(image[None]) for image in images])
    assert torch.allclose(net(images), alone, atol=1e-5)


@each_backbone
def test_the_seed_decides_the_weights(name):
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        narrow = {p.name: NARROW[p.name] for p in backbones[name].parameters if p.name in NARROW}
        weights.append(backbones[name].target(num_classes=4, **narrow).get_params())
    assert_same(*weights)


@each_backbone
def test_one_line_for_the_list(name):
    assert 10 < len(backbones[name].summary) < 100


@each_backbone
def test_every_other_argument_has_a_default(name):
    assert not [p.name for p in backbones[name].parameters if p.required]
    assert "num_classes" in inspect.signature(backbones[name].target).parameters


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_number_of_parameters(name, count):
    with torch.device("meta"):
        net = backbones[name].target(num_classes=10)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("name", ["resnet18", "resnet32", "cnn", "attention-cnn"])
def test_grey_images(name):
    net = backbones[name].target(num_classes=3, in_channels=1)
    assert net(torch.rand(2, 1, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("name", ["resnet18", "resnet32", "attention-cnn"])
def test_image_sizes(net, size):
    assert net(torch.rand(2, 3, size, size)).shape == (2, CLASSES)


@pytest.mark.parametrize("size", [28, 30, 64])
def test_cnn_takes_its_image_size(size):
    net = backbones["cnn"].target(num_classes=3, num_channels=2, input_size=size)
    assert probe(net, (3, size, size), 3).feature_dim == net.feature_dim
    with pytest.raises(MammothError, match="Check the input size"):
        probe(net, (3, size + 8, size + 8))
