"""Loss-aware reservoir sampling, alone and balanced, against the rule sample by sample."""

import pytest
import torch
from label_streams import labels_of
from torch.nn import functional as F

from mammoth_compiled import Buffer, load_runner
from mammoth_compiled.buffers.policies import POLICIES
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.types import Batch

CPU = torch.device("cpu")
NAMES = ("loss-aware", "loss-aware-balanced")


class Sequential:
    """The rule for one sample after the other, with given random numbers."""

    def __init__(self, name, capacity):
        self.name, self.capacity = name, capacity
        self.rows, self.seen = [], 0

    def weights(self):
        losses = [loss for loss, _ in self.rows]
        values = [-loss for loss in losses]
        if self.name == "loss-aware-balanced":
            classes = [label for _, label in self.rows]
            counts = [classes.count(label) for label in classes]
            size = sum(losses) / len(losses) * (sum(counts) / len(counts))
            values = [n / 2 - loss / (2 * size) for n, loss in zip(counts, losses, strict=True)]
        width = max(values) - min(values)
        return [(value - min(values)) / width if width else 1.0 for value in values]

    def offer(self, loss, label, keep, where):
        self.seen += 1
        if len(self.rows) < self.capacity:
            self.rows.append((loss, label))
            return len(self.rows) - 1
        if keep * self.seen >= self.capacity:
            return -1
        weights = self.weights()
        rest = where * sum(weights)
        for slot, weight in enumerate(weights):  # noqa: B007
            rest -= weight
            if rest < 0:
                break
        self.rows[slot] = (loss, label)
        return slot


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("capacity", "sizes"), [(7, (5, 1, 20)), (20, (32,)), (1, (3,))], ids=str)
def test_batched_choice_equals_the_sequential_rule(name, capacity, sizes):
    policy, sequential = POLICIES[name], Sequential(name, capacity)
    state, num_seen, replaced = policy.initial_state(capacity, 3, CPU), 0, 0
    for part in labels_of(160, 3).split([*sizes, 160 - sum(sizes)]):
        losses, draws = torch.rand(len(part)), policy.draw(len(part), CPU)
        slots, state = policy.choose(state, draws, part, num_seen, capacity, losses)
        rows = zip(losses.tolist(), part.tolist(), *draws.T.tolist(), strict=True)
        expected = [sequential.offer(*row) for row in rows]
        assert slots.tolist() == expected
        num_seen += len(part)
        replaced += sum(slot >= 0 for slot in expected)
        assert state["losses"][:num_seen].tolist() == [loss for loss, _ in sequential.rows]
    assert replaced > capacity + 3
    assert state["seen"] == 160


@pytest.mark.parametrize("name", NAMES)
def test_equal_losses_are_replaced_alike(name):
    buffer = Buffer(5, policy=name, num_classes=1)
    for part in torch.arange(400).split(50):
        buffer.add_data(part[:, None], torch.zeros_like(part), losses=torch.zeros(50))
    assert (buffer.examples > 20).sum() >= 3


def test_losses_are_needed():
    buffer = Buffer(5, policy="loss-aware")
    for losses in (None, torch.zeros(3)):
        with pytest.raises(ValueError, match="'loss-aware' needs losses"):
            buffer.add_data(torch.zeros(2, 3), losses=losses)


@pytest.mark.parametrize("model", ["er", "derpp", "er-ace", "mir", "agem", "cls-er"])
def test_losses_of_stream_and_replay_reach_the_buffer(tiny, example_args, monkeypatch, model):
    args = {**example_args(model), "buffer_size": 8, "minibatch_size": 8, "seed": 0}
    args |= {"buffer_policy": "loss-aware", "batch_size": 8, "compile": "off"}
    model, dataset = load_runner(model, "seq-tiny", args)
    model.net.eval()  # dropout would change the loss from call to call
    batches = iter(dataset.meta_get_data_loaders()[0])
    first, second = (Batch(*next(batches)) for _ in range(2))

    def losses():
        with torch.no_grad():
            return F.cross_entropy(model.net(first.inputs), first.labels, reduction="none")

    expected = losses()
    model.observe(first.inputs, first.labels, first.not_aug_inputs)
    held = model.buffer.state_dict()["policy_state"]["losses"]
    torch.testing.assert_close(held, expected)

    updates, expected = [], losses()
    monkeypatch.setattr(model.buffer, "update_losses", lambda *update: updates.append(update))
    model.observe(second.inputs, second.labels, second.not_aug_inputs)
    ((rows, replayed),) = updates
    assert rows.sort().values.tolist() == list(range(8))
    torch.testing.assert_close(replayed, expected[rows])


def test_updated_losses_decide():
    buffer = Buffer(4, policy="loss-aware")
    buffer.add_data(torch.zeros(4, 1), losses=torch.ones(4))
    buffer.update_losses(torch.tensor([3, 0, 1]), torch.tensor([5.0, 5.0, 5.0]))
    for _ in range(40):
        buffer.add_data(torch.ones(1, 1), losses=torch.full((1,), 1.0))
    assert buffer.examples[:, 0].tolist() == [0, 0, 1, 0]


def test_models_without_such_losses_are_refused(tiny):
    args = {"buffer_size": 8, "buffer_policy": "loss-aware"}
    message = "'scr' has no loss of each image to compare; choose from class-balanced, herding, res"
    with pytest.raises(ConfigError, match=message):
        load_runner("scr", "seq-tiny", args)
