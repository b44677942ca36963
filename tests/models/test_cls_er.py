"""CLS-ER: the averaged networks, and consistency with the surer one."""

import copy

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.models.common.averages import move_toward, surer
from mammoth_compiled.types import Batch

ARGS = {"seed": 0, "buffer_size": 4, "minibatch_size": 4, "reg_weight": 0.5, "ema_alpha": 0.75}


@pytest.fixture
def make(tiny):
    def build(**args):
        model, _ = load_runner("cls-er", "seq-tiny", {**ARGS, **args})
        model.net.eval()  # the same numbers at every call
        return model

    return build


def batch(labels):
    images = torch.randint(0, 256, (len(labels), 3, 8, 8)) / 255
    return Batch((images - 0.5) / 0.25, torch.tensor(labels), images)


def test_the_surer_network_is_the_target_of_each_row():
    one = torch.tensor([[3.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    other = torch.tensor([[1.0, 0.0], [0.0, 5.0], [5.0, 3.0]])
    # Probabilities of the label 1, 1 and 0: 0.05 and 0.27; 0.73 and 0.99; 0.5 and 0.88.
    selected = surer(one, other, torch.tensor([1, 1, 0]))
    assert torch.equal(selected, other)
    assert torch.equal(surer(one, other, torch.tensor([0, 1, 1]))[[0, 2]], one[[0, 2]])


def test_loss_by_hand(make):
    model = make()
    stream, old = batch([2, 3]), batch([0, 1, 1, 0])
    model.buffer.add_data(old.not_aug_inputs, labels=old.labels)
    for net, seed in ((model.plastic, 1), (model.stable, 2)):
        torch.manual_seed(seed)
        net.classifier.reset_parameters()
    both = torch.cat((stream.inputs, old.inputs)), torch.cat((stream.labels, old.labels))
    logits = model.net(both[0])
    targets = []
    for k in range(4):
        z = [net(old.inputs[k : k + 1])[0] for net in (model.plastic, model.stable)]
        targets.append(max(z, key=lambda z: z.softmax(0)[old.labels[k]]))
    expected = F.cross_entropy(logits, both[1])
    expected = expected + 0.5 * (logits[2:] - torch.stack(targets)).square().mean()
    torch.testing.assert_close(model.training_loss(stream), expected)


def test_averages_follow_the_network(make):
    model = make(plastic_update_prob=1.0, stable_update_prob=0.0, lr=0.5)
    initial = copy.deepcopy(model.net.state_dict())
    average, stream = model.net.classifier.bias.detach().clone(), batch([0, 1, 2, 3])
    for decay in (1 / 2, 2 / 3, 3 / 4, 3 / 4):  # at most ema_alpha
        model.observe(stream.inputs, stream.labels, stream.not_aug_inputs)
        average = decay * average + (1 - decay) * model.net.classifier.bias.detach()
        torch.testing.assert_close(model.plastic.classifier.bias, average)
    for name, value in model.stable.state_dict().items():
        assert torch.equal(value, initial[name])


def test_probability_of_updates(make, monkeypatch):
    model = make(plastic_update_prob=0.6, stable_update_prob=0.2)
    rates = []
    monkeypatch.setattr(
        "mammoth_compiled.models.common.averages.move_toward",
        lambda net, _, rate: rates.append(rate > 0),
    )
    model.buffer.add_data(torch.rand(1, 3, 8, 8), labels=torch.zeros(1))
    for _ in range(300):
        model.after_step(batch([0]))
    plastic, stable = torch.stack(rates).reshape(300, 2).float().mean(0).tolist()
    assert plastic == pytest.approx(0.6, abs=0.1)
    assert stable == pytest.approx(0.2, abs=0.1)


def test_statistics_of_batch_norm_are_averaged(make):
    model = make()
    model.net.norm.running_mean += 1.0
    move_toward(model.stable, model.net, torch.tensor(0.25))
    assert torch.equal(model.stable.norm.running_mean, torch.full((4,), 0.25))


def test_the_stable_network_predicts(make):
    model = make()
    with torch.no_grad():
        model.stable.classifier.bias[3] += 100.0
    assert (model(torch.randn(5, 3, 8, 8)).argmax(1) == 3).all()
