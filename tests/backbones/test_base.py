"""MammothBackbone: parameter vectors, features, device, runners, copies, unknown return types."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mammoth_compiled import MammothBackbone, ReturnTypes


@pytest.fixture
def net(tiny):
    return tiny.Net(3).eval()


@pytest.fixture
def images():
    return torch.rand(4, 3, 8, 8)


def test_get_params_and_set_params(net):
    vector = net.get_params()
    assert vector.shape == (sum(p.numel() for p in net.parameters()),)
    net.set_params(torch.zeros_like(vector))
    assert all((p == 0).all() for p in net.parameters())
    net.set_params(vector.detach())
    assert torch.equal(net.get_params(), vector)


def test_parameter_vector_is_differentiable(net):
    net.get_params().square().sum().backward()
    assert torch.equal(net.conv.weight.grad, 2 * net.conv.weight)


def test_get_grads_and_set_grads(net, images):
    net(images).sum().backward()
    grads = net.get_grads()
    before = [p.grad.clone() for p in net.parameters()]
    net.set_grads(2 * grads)
    for parameter, old in zip(net.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, 2 * old)
    assert torch.equal(net.get_grads(), 2 * grads)


def test_get_grads_before_backward_names_the_parameter(net):
    with pytest.raises(ValueError, match=r"'conv\.weight' has no gradient: call backward"):
        net.get_grads()


def test_features_equal_the_return_type(net, images):
    assert torch.equal(net.features(images), net(images, returnt="features"))
    assert net.features(images).requires_grad


def test_features_may_be_a_submodule(images):
    class Named(MammothBackbone):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
            self.classifier = nn.Linear(5, 2)

        def forward(self, x, returnt=ReturnTypes.OUT):
            features = self.features(x)
            return features if returnt == "features" else self.classifier(features)

    net = Named()
    assert isinstance(net.features, nn.Sequential)
    assert next(iter(net.state_dict())) == "features.1.weight"
    assert torch.equal(net.features(images), net(images, returnt="features"))
    clone = copy.deepcopy(net)
    assert clone.features is not net.features
    assert torch.equal(clone.features(images), net.features(images))


def test_device_follows_the_parameters(net):
    assert net.device == torch.device("cpu")
    assert net.to("meta").device == torch.device("meta")


def test_device_follows_the_parent_module(net):
    nn.Sequential(net).to("meta")
    assert net.device == torch.device("meta")


def test_device_argument_of_the_constructor():
    class Empty(MammothBackbone):
        def forward(self, x, returnt=ReturnTypes.OUT):
            return x

    assert Empty(device="cuda:1").device == torch.device("cuda:1")
    assert Empty().to("cpu").device == torch.device("cpu")


def test_missing_forward_is_reported(images):
    class Empty(MammothBackbone):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty does not define forward\(x, returnt\)"):
        Empty()(images)


def test_forward_that_returns_none_means_unknown_returnt(images):
    # Typical of a chain of elifs without an else.
    class NoElse(MammothBackbone):
        def forward(self, x, returnt=ReturnTypes.OUT):
            if returnt == ReturnTypes.OUT:
                return x

    assert NoElse()(images) is images
    for call in (lambda: NoElse()(images, "foo"), lambda: NoElse()(images, returnt="foo")):
        with pytest.raises(ValueError, match="NoElse: unknown returnt 'foo'; valid values: 'out'"):
            call()


def test_returnt_may_be_positional(net, images):
    assert torch.equal(net(images, ReturnTypes.FEATURES), net(images, "features"))


class Scale:
    """A runner that scales the output, to show that it is used."""

    def __init__(self, net, factor):
        self.net, self.factor = net, factor

    def __call__(self, *args, **kwargs):
        return self.factor * nn.Module.__call__(self.net, *args, **kwargs)

    def for_copy(self, net):
        return Scale(net, self.factor + 1)


def test_runner_runs_every_call(net, images):
    plain, features = net(images), net.features(images)
    net.set_runner(Scale(net, 2))
    assert torch.equal(net(images), 2 * plain)
    assert torch.equal(net.features(images), 2 * features)
    assert torch.equal(copy.deepcopy(net)(images), 3 * plain)
    net.set_runner(None)
    assert torch.equal(net(images), plain)


def test_copies_have_their_own_runner_and_weights(net, images):
    net.set_runner(Scale(net, 1))
    clone = copy.deepcopy(net)
    assert clone.__dict__["_runner"].net is clone
    expected = clone(images)
    with torch.no_grad():
        net.classifier.weight.zero_()
    assert torch.equal(clone(images), expected)


def test_copies_keep_shared_modules_shared(net):
    pair = copy.deepcopy([net, net])
    assert pair[0] is pair[1]


def test_pickle_drops_the_runner(net, images):
    # A runner holds compiled code, which cannot be pickled; this one holds a lambda.
    expected = net(images)
    net.set_runner(Scale(net, lambda: 0))
    loaded = pickle.loads(pickle.dumps(net))
    assert torch.equal(loaded(images), expected)


def test_forward_hooks_run(net, images):
    seen = []
    net.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    net(images)
    assert seen == [(4, 3)]
