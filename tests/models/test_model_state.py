"""All that a model of a user's own remembers comes back when a run is resumed."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mammoth_compiled import Buffer, ContinualModel, load_runner, register_model, train
from mammoth_compiled.errors import CheckpointError, ConfigError
from mammoth_compiled.models.core.state import (
    from_plain,
    is_plain,
    model_state,
    restore_model,
    to_plain,
)
from mammoth_compiled.models.sgd import SGD

PLAIN = {
    "none": None,
    "numbers": [1, 2.5, True],
    "pair": (1, "a"),
    "text": "a",
    "tensor": torch.arange(3),
    "array": np.arange(4.0).reshape(2, 2),
    "per_class": {0: torch.ones(2), 1: [np.int64(3)]},
}


@pytest.fixture
def make(tiny):
    @register_model("rich")
    class Rich(ContinualModel):
        """Holds every kind of thing that published methods hold."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.buffer = Buffer(5)
            self.old_net = None
            self.projector = nn.Linear(2, 3)
            self.class_means = {}
            self.step = 0
            self.register_buffer("fisher", torch.zeros(3))
            self.scale = nn.Parameter(torch.ones(2))

        def observe(self, inputs, labels, not_aug_inputs, epoch=None):
            return 0.0

    return lambda **args: load_runner("rich", "seq-tiny", args)[0]


def restored(model, make, tmp_path, **args):
    """Takes the state through a file, as a checkpoint does."""
    torch.save(model_state(model), tmp_path / "state.pt")
    other = make(**args)
    other.net.load_state_dict(model.net.state_dict())
    restore_model(other, torch.load(tmp_path / "state.pt", weights_only=True))
    return other


def test_plain_values_round_trip():
    assert is_plain(PLAIN)
    back = from_plain(to_plain(PLAIN), torch.device("cpu"))
    assert list(back) == list(PLAIN)
    assert isinstance(back["array"], np.ndarray)
    assert (back["array"] == PLAIN["array"]).all()
    assert back["pair"] == (1, "a")
    assert back["per_class"][1] == [3]
    assert torch.equal(back["per_class"][0], torch.ones(2))


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, lambda: 0, [object()], {(1, 2): 3}, np.array("a")]
)
def test_others_are_not_plain(value):
    assert not is_plain(value)


def test_plain_copies_are_copies():
    value = torch.zeros(2)
    saved = to_plain({"a": value})
    value += 1
    assert saved["a"].tolist() == [0, 0]


def test_attributes_come_back(make, tmp_path):
    model = make(seed=0)
    model.class_means = {0: torch.ones(4), 3: torch.zeros(4)}
    model.step = 17
    model.history = [0.5, 0.25]
    model.logits_of_old = np.arange(6).reshape(2, 3)
    model.buffer.add_data(torch.rand(3, 2), labels=[1, 2, 3])
    other = restored(model, make, tmp_path)
    assert (other.step, other.history) == (17, [0.5, 0.25])
    assert torch.equal(other.class_means[0], torch.ones(4))
    assert (other.logits_of_old == model.logits_of_old).all()
    assert other.buffer.num_seen_examples == 3
    assert torch.equal(other.buffer.labels, model.buffer.labels)


def test_parameters_and_buffers_of_the_model_itself_come_back(make, tmp_path):
    model = make(seed=0)
    model.fisher += 2
    model.register_buffer("late", torch.ones(2))  # registered while training, as EWC does
    with torch.no_grad():
        model.scale.mul_(3)
    other = restored(model, make, tmp_path)
    assert other.fisher.tolist() == [2, 2, 2]
    assert dict(other.named_buffers())["late"].tolist() == [1, 1]
    assert other.scale.tolist() == [3, 3]


def test_modules_and_a_teacher_come_back(make, tmp_path):
    model = make(seed=0)
    model.old_net = copy.deepcopy(model.net).eval()
    for parameter in model.old_net.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        model.net.classifier.weight.zero_()
    other = restored(model, make, tmp_path, seed=5)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(other.old_net(images), model.old_net(images))
    assert not other.old_net.training
    assert not any(p.requires_grad for p in other.old_net.parameters())
    assert torch.equal(other.projector.weight, model.projector.weight)
    assert all(p.requires_grad for p in other.net.parameters())


def test_optimizer_and_frozen_weights_are_restored(make, tmp_path):
    model = make(seed=0, optim_mom=0.9)
    model.net.conv.weight.requires_grad_(False)
    model.net(torch.rand(2, 3, 8, 8)).sum().backward()
    model.opt.step()
    model.opt.param_groups[0]["lr"] = 0.007
    other = restored(model, make, tmp_path, optim_mom=0.9)
    assert not other.net.conv.weight.requires_grad
    assert other.opt.param_groups[0]["lr"] == 0.007
    momentum = model.opt.state[model.net.classifier.weight]["momentum_buffer"]
    assert torch.equal(other.opt.state[other.net.classifier.weight]["momentum_buffer"], momentum)


def filled():
    buffer = Buffer(5)
    buffer.add_data(torch.rand(9, 2), labels=torch.arange(9))
    return buffer


@pytest.mark.parametrize("take", [lambda b: b, Buffer.state_dict])
def test_load_buffer_restores_a_buffer(make, take):
    model = make()
    model.args.buffer_size = 5
    model.load_buffer(take(filled()))
    assert model.buffer.num_seen_examples == 9
    assert len(model.buffer.get_data(5)[1].unique()) == 5


def test_load_buffer_of_bare_tensors_counts_them_as_the_stream(make):
    # What mammoth saves, without the length of the stream.
    model = make()
    model.args.buffer_size = 5
    model.load_buffer(filled().serialize())
    assert model.buffer.num_seen_examples == len(model.buffer) == 5


def test_load_buffer_of_another_size_raises(make):
    model = make()
    model.args.buffer_size = 6
    with pytest.raises(ValueError, match="the buffer has 5 rows, but --buffer_size is 6"):
        model.load_buffer(filled())
    model.buffer = Buffer(6)
    with pytest.raises(ValueError, match="use --buffer_size 5"):
        model.load_buffer(filled().state_dict())


def test_to_keeps_the_device_up_to_date(make):
    model = make()
    assert model.to("meta").device == model.net.device == torch.device("meta")


def test_model_without_a_dataset_raises(make):
    model = make()
    with pytest.raises(ConfigError, match="Rich requires a dataset: use load_runner"):
        type(model)(model.net, model.loss, model.args, model.transform)


def test_what_has_a_state_of_its_own_comes_back(make, tmp_path):
    # A second optimizer and a scheduler, created in the constructor.
    def prepare(model):
        model.other_opt = torch.optim.SGD([model.scale], lr=0.5, momentum=0.9)
        model.scheduler = torch.optim.lr_scheduler.StepLR(model.other_opt, 1)
        return model

    model = prepare(make(seed=0))
    model.scale.sum().backward()
    model.other_opt.step()
    model.scheduler.step()
    torch.save(model_state(model), tmp_path / "state.pt")
    other = prepare(make())
    restore_model(other, torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.scheduler.last_epoch == 1
    assert other.other_opt.param_groups[0]["lr"] == pytest.approx(0.05)
    momentum = other.other_opt.state[other.scale]["momentum_buffer"]
    assert momentum.tolist() == [1, 1]


def test_what_is_created_while_training_is_not_restored(make):
    model = make()
    model.bias_opt = torch.optim.SGD([model.scale], lr=0.5)
    with pytest.warns(UserWarning, match=r"Rich\.bias_opt was created while training"):
        restore_model(make(), model_state(model))


def test_what_cannot_be_saved_is_named(make):
    model = make()
    model.teachers = [copy.deepcopy(model.net)]
    model.seen = {1, 2}
    model.rule = lambda loss: 2 * loss  # code: comes with the program
    model.kind = nn.Linear
    state = model_state(model)
    assert state["left_out"] == ["teachers", "seen"]
    assert not {"teachers", "seen", "rule", "kind"} & {*state["values"], *state["buffers"]}


def test_a_run_says_what_it_cannot_save(tiny, capsys, tmp_path):
    @register_model("forgetful")
    class Forgetful(SGD):
        def begin_task(self, dataset):
            self.teachers = [copy.deepcopy(self.net)]

    args = {"compile": "off", "savecheck": "last", "checkpoint_path": str(tmp_path)}
    train(*load_runner("forgetful", "seq-tiny", args))
    assert "checkpoint: teachers of forgetful is not saved" in capsys.readouterr().out


def test_built_in_models_leave_nothing_out(run_tiny):
    for name in ("sgd", "joint", "derpp"):
        args = {"buffer_size": 9, "alpha": 0.3, "beta": 0.5} if name == "derpp" else {}
        assert model_state(run_tiny(name, **args)[0])["left_out"] == []


def test_state_that_does_not_fit_names_the_part(make):
    state = model_state(make())
    state["modules"]["projector"]["state"]["weight"] = torch.zeros(7, 7)
    with pytest.raises(CheckpointError, match=r"does not fit Rich\.projector"):
        restore_model(make(), state)
