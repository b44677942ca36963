"""X-DER with cross entropy: updates of stored logits and the constraint on future classes."""

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.data import apply_transform
from mammoth_compiled.models.common.transplant import transplant
from mammoth_compiled.types import Batch

ARGS = {"seed": 0, "batch_size": 8, "minibatch_size": 6, "buffer_size": 12, "compile": "off"}


@pytest.fixture
def model_and_batch(run_tiny):
    """A model after its third task, as if in the second one, so that there are future classes."""
    model, dataset, _ = run_tiny("xder-ce", lr=0.05, alpha=0.1, beta=0.5, gamma=0.8, **ARGS)
    loader = dataset.train_loader
    dataset.c_task = 1
    inputs, labels, images = next(iter(loader))
    return model, Batch(inputs, labels - 2, images)


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ([9.0, 1.0, 0.5, 0.2], [2.0, 1.0, 0.5, 0.2]),  # below the true logit: as they are
        ([9.0, 4.0, 1.0, -2.0], [2.0, 1.6, 0.4, -0.8]),  # times 0.8 * 2 / 4
    ],
)
def test_new_logits_stay_below_that_of_the_true_class(new, expected):
    stored = torch.tensor([[2.0, 7.0, 7.0, 7.0]])
    result = transplant(stored, torch.tensor([new]), torch.tensor([0]), slice(1, 4), gamma=0.8)
    torch.testing.assert_close(result, torch.tensor([expected]))
    assert stored[0, 1] == 7.0


def test_a_negative_true_logit_does_not_change_signs():
    stored, new = torch.tensor([[-2.0, 0.0, 0.0]]), torch.tensor([[0.0, 3.0, -1.0]])
    result = transplant(stored, new, torch.tensor([0]), slice(1, 3), gamma=0.8)
    torch.testing.assert_close(result, torch.tensor([[-2.0, 0.0, 0.0]]))


def test_violation_compares_future_classes_with_the_own_task(model_and_batch):
    model, _ = model_and_batch
    model.args.constr_margin = 0.5
    logits = torch.tensor([[5.0, 0, 1, 0, 2, 0], [1.0, 0, 3, 0, 2, 0], [1.0, 2, 9, 9, 2, 3]])
    # max future + margin - max own: 2.5 - 1, 2.5 - 3, 3.5 - 2; two are positive.
    violation = model.future_violation(logits, torch.tensor([3, 2, 0]), end=4)
    torch.testing.assert_close(violation, torch.tensor((1.5 + 1.5) / 2))


def test_past_classes_may_be_constrained_too(model_and_batch):
    model, batch = model_and_batch
    model.args.constr_margin = 0.5
    # Probabilities 3/8 of class 0 and 1/8 of each of the own classes 2 and 3; 5/8 own, 1/8 past.
    logits = torch.tensor([[3.0, 3, 1, 1, 1, 1], [1.0, 1, 5, 1, 1, 1]]).log()
    violation = model.past_violation(logits, first=2, end=4)
    torch.testing.assert_close(violation, torch.tensor(0.375 + 0.5 - 0.125))
    model.net.eval()
    model.buffer.reset()
    model.args.past_constraint = True
    with torch.no_grad():
        logits = model.net(batch.inputs)
        violations = model.future_violation(logits, batch.labels, end=4)
        violations += model.past_violation(logits, first=2, end=4)
        expected = F.cross_entropy(logits[:, 2:4], batch.labels - 2) + 0.1 * violations
        torch.testing.assert_close(model.training_loss(batch), expected)


def test_loss_is_the_sum_of_the_terms(model_and_batch, monkeypatch):
    model, batch = model_and_batch
    model.net.eval()
    index = torch.tensor([0, 1, 2, 3])  # two images of each class of the first task
    labels = model.buffer.labels[index]
    assert (labels < 2).all()
    stored = model.buffer.logits[index]
    with torch.no_grad():
        old = model.net(apply_transform(model.buffer.examples[index], model.transform))
        monkeypatch.setattr(model, "_draw", lambda: (index, labels, stored, old))
        logits = model.net(batch.inputs)
        everything = torch.cat((logits, old, old)), torch.cat((batch.labels, labels, labels))
        expected = F.cross_entropy(logits[:, 2:4], batch.labels - 2)
        expected += 0.1 * F.mse_loss(old, stored) + 0.5 * F.cross_entropy(old[:, :2], labels)
        expected += 0.1 * model.future_violation(*everything, end=4)
        torch.testing.assert_close(model.training_loss(batch), expected)


def test_an_image_drawn_for_the_first_time_gets_new_logits_for_later_classes(model_and_batch):
    model, batch = model_and_batch
    index = torch.tensor([0, 1])
    before, labels = model.buffer.logits.clone(), model.buffer.labels[index]
    new = before[index] + 1
    model.buffer.draws.zero_()
    # Drawn twice in one step, an image counts and is updated once.
    model._replayed = ((index, labels, before[index], new), (index, labels, before[index], new))
    model.after_step(batch)
    assert model.buffer.draws.tolist() == [1, 1] + [0] * 10
    expected = transplant(before[index], new, labels, slice(2, None), gamma=0.8)
    torch.testing.assert_close(model.buffer.logits[index], expected)
    assert torch.equal(model.buffer.logits[2:], before[2:])
    assert torch.equal(expected[:, :2], before[index, :2])


def test_stored_logits_of_other_tasks_stay_below_the_true_one(run_tiny):
    model, _, _ = run_tiny("xder-ce", lr=0.05, alpha=0.1, beta=0.5, gamma=0.8, **ARGS)
    labels, logits = model.buffer.labels, model.buffer.logits
    true = logits.gather(1, labels[:, None])
    others = logits.masked_fill(model._same_task[labels], -torch.inf).amax(1, keepdim=True)
    assert (others <= true.clamp(min=0) + 1e-6).all()
    assert labels.bincount().tolist() == [2] * 6


def test_buffer_is_empty_in_the_first_task(tiny):
    model, dataset = load_runner("xder-ce", "seq-tiny", {**ARGS, "alpha": 0.1, "beta": 0.5})
    loader, _ = dataset.meta_get_data_loaders()
    batch = Batch(*next(iter(loader)))
    model.observe(*next(iter(loader)))
    model.after_step(batch)
    assert model.buffer.is_empty()
