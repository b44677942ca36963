"""Calls that compilation does not see are reported after the first step that makes them."""

import copy
import sys
import warnings

import pytest
from torch import nn

from mammoth_compiled import ContinualModel, load_runner, register_backbone, register_model, train


def messages_of(cls, compile="on", **args):
    """Trains three tasks of five steps; returns the warnings and when in the run they came."""
    seen = []

    @register_model("calls")
    class Model(cls):
        steps = 0

        def observe(self, inputs, labels, not_aug_inputs, epoch=None):
            self.steps += 1
            return super().observe(inputs, labels, not_aug_inputs, epoch)

    args = {"seed": 0, "batch_size": 8, "n_epochs": 1, "lr": 0.05, "compile": compile, **args}
    model, dataset = load_runner("calls", "seq-tiny", args)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: seen.append((model.steps, str(message)))
        train(model, dataset)
    return seen


class Forward(ContinualModel):
    def training_loss(self, batch):
        return self.loss(self.net.forward(batch.inputs), batch.labels)


class Both(ContinualModel):
    def training_loss(self, batch):
        first = self.net.forward(batch.inputs)
        return self.loss(self.net(batch.inputs) + first, batch.labels)


class TeacherForward(ContinualModel):
    def end_task(self, dataset):
        self.teacher = copy.deepcopy(self.net)

    def training_loss(self, batch):
        loss = self.loss(self.net(batch.inputs), batch.labels)
        if self.current_task:
            loss = loss + self.teacher.forward(batch.inputs).square().mean()
        return loss


class Parts(ContinualModel):
    def training_loss(self, batch):
        hidden = self.net.conv(batch.inputs).relu()
        return self.loss(self.net.classifier(hidden[:, :, ::2, ::2].flatten(1)), batch.labels)


class PlainNet(ContinualModel):
    def begin_task(self, dataset):
        if dataset.c_task == 1:
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, self.num_classes))
            self.opt = self.get_optimizer()

    def training_loss(self, batch):
        return self.loss(self.net(batch.inputs), batch.labels)


@pytest.mark.parametrize(
    ("cls", "step", "expected"),
    [
        (Forward, 1, "no call of the backbone in task 1 could be compiled (test_direct_calls.py:"),
        (Both, 1, ": first = self.net.forward(batch.inputs)). Call self.net(x)"),
        (TeacherForward, 6, "self.teacher.forward(batch.inputs).square().mean()). Call self.net"),
        (Parts, 1, ": hidden = self.net.conv(batch.inputs).relu()). Call self.net(x)"),
        (PlainNet, 6, "self.net is a Sequential, not a MammothBackbone, so it is not compiled"),
    ],
)
def test_reported_once_and_at_once(tiny, graph_counter, cls, step, expected):
    ((when, message),) = messages_of(cls)
    assert when == step
    assert expected in message
    assert messages_of(cls, compile="off") == []


def test_a_submodule_named_features_hides_the_function(tiny, graph_counter):
    class Net(tiny.Net):
        def __init__(self, num_classes):
            super().__init__(num_classes)
            self.features = self.conv

    class UsesFeatures(ContinualModel):
        def training_loss(self, batch):
            penalty = self.net.features(batch.inputs).square().mean()
            return self.loss(self.net(batch.inputs), batch.labels) + 1e-3 * penalty

    register_backbone("has-features")(Net)
    ((step, message),) = messages_of(UsesFeatures, backbone="has-features")
    assert step == 1
    assert 'self.net(x, returnt="features")' in message
    assert "penalty = self.net.features(batch.inputs)" in message
    assert messages_of(UsesFeatures, backbone="tiny-net") == []  # the function runs compiled
    assert graph_counter.frame_count > 0


def test_nothing_to_compile_under_compile_on_is_a_warning(tiny, graph_counter):
    class Once(ContinualModel):
        def training_loss(self, batch):
            return self.loss(self.net(batch.inputs), batch.labels)

    ((_, message),) = messages_of(Once, batch_size=36, stop_after=1)
    assert "--compile on, but 0 graphs in 1 steps" in message
    assert messages_of(Once, batch_size=36, stop_after=1, compile="off") == []
    assert messages_of(Once, batch_size=36, stop_after=2) == []  # the second step is compiled


def test_a_profiler_of_the_user_stays(tiny, graph_counter):
    def profile(*_):
        return None

    sys.setprofile(profile)
    try:
        messages_of(Both)
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)
