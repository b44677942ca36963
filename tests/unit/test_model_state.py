"""All that a model of a user's own remembers comes back when a run is resumed."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mammoth_compiled import Buffer, ContinualModel, load_runner, register_model
from mammoth_compiled.errors import CheckpointError
from mammoth_compiled.models.state import from_plain, is_plain, model_state, restore_model, to_plain

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


def test_optimiser_and_frozen_weights_come_back(make, tmp_path):
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


def test_state_that_does_not_fit_names_the_part(make):
    state = model_state(make())
    state["modules"]["projector"]["state"]["weight"] = torch.zeros(7, 7)
    with pytest.raises(CheckpointError, match=r"does not fit Rich\.projector"):
        restore_model(make(), state)
