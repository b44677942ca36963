"""Buffer by Mammoth's names: reads with conditions, items, capacity, sampling strategies."""

import numpy as np
import pytest
import torch

from mammoth_compiled import Buffer
from mammoth_compiled.errors import ConfigError


def images(labels):
    return torch.as_tensor(labels).float()[:, None] / 10


@pytest.fixture(params=["reservoir", "ring"])
def filled(request):
    """Labels 0 to 2 in two policies: in a ring, filled rows are not the first ones."""
    buffer = Buffer(9, policy=request.param, num_classes=3)
    labels = torch.tensor([1, 2, 0, 1, 1])
    buffer.add_data(images(labels), labels, task_labels=labels // 2)
    return buffer


def test_draws_without_a_task(filled):
    for _ in range(5):
        index, examples, labels, tasks = filled.get_data(9, mask_task_out=0, return_index=True)
        assert (labels.tolist(), tasks.tolist()) == ([2], [1])
        assert torch.equal(filled.examples[index], examples)
    # By number of classes, if there are no task labels.
    buffer = Buffer(4)
    buffer.add_data(images([0, 1, 2, 3]), [0, 1, 2, 3])
    assert set(buffer.get_data(4, mask_task_out=1, cpt=2)[1].tolist()) == {0, 1}
    assert len(buffer.get_data(1, mask_task_out=0, cpt=2)[0]) == 1
    with pytest.raises(ValueError, match="mask_task_out needs stored task_labels, or cpt="):
        buffer.get_data(4, mask_task_out=1)


def test_a_draw_may_be_empty():
    buffer = Buffer(4)
    buffer.add_data(images([0, 1]), [0, 1])
    examples, labels = buffer.get_data(4, lambda image: image, mask_task_out=0, cpt=2)
    assert (examples.shape, labels.shape) == ((0, 1), (0,))


def test_forced_rows_with_and_without_augmentation(filled):
    row = (filled.labels == 2).nonzero()[0, 0].item()
    for rows in ([row], np.array([row]), torch.tensor([row])):
        plain, doubled, labels, _ = filled.get_data(
            1, lambda x: 2 * x, force_indexes=rows, return_not_aug=True
        )
        assert (plain.item(), doubled.item(), labels.item()) == pytest.approx((0.2, 0.4, 2))
    shifted = filled.get_data(
        1, force_indexes=[row], return_not_aug=True, not_aug_transform=lambda x: x + 1
    )
    assert (shifted[0].item(), shifted[1].item()) == pytest.approx((1.2, 0.2))


def test_balanced_draws(filled):
    for _ in range(10):
        _, labels, tasks = filled.get_balanced_data(4)
        assert labels.bincount(minlength=3).tolist() == [1, 2, 1]
        assert torch.equal(tasks, labels // 2)
        assert len(filled.get_balanced_data(3, n_classes=2)[1].unique()) == 2
    with pytest.raises(ValueError, match="the buffer is empty"):
        Buffer(3).get_balanced_data(2)
    unlabeled = Buffer(3)
    unlabeled.add_data(images([1]))
    with pytest.raises(ValueError, match="stores no labels"):
        unlabeled.get_balanced_data(2)


def test_items_are_the_filled_rows(filled):
    stored = filled.get_all_data()
    items = list(filled)
    assert len(items) == len(filled) == 5
    for column, values in zip(zip(*items, strict=True), stored, strict=True):
        assert torch.equal(torch.stack(column), values)
    assert torch.equal(filled[-1][1], stored[1][-1])


def test_dataloader(filled):
    loader = filled.get_dataloader(None, batch_size=2, transform=lambda x: 10 * x, drop_last=True)
    batches = list(loader)
    assert [len(labels) for _, labels, _ in batches] == [2, 2]
    for examples, labels, _ in batches:
        torch.testing.assert_close(examples[:, 0], labels.float())
    shuffled = filled.get_dataloader(None, batch_size=5, shuffle=True)
    assert sorted(next(iter(shuffled))[1].tolist()) == [0, 1, 1, 1, 2]


def test_empty_is_reset(filled):
    filled.empty()
    assert (len(filled), filled.used_attributes, filled.num_seen_examples) == (0, [], 0)


def test_a_smaller_or_larger_capacity_keeps_the_first_samples():
    buffer = Buffer(6)
    buffer.add_column("score")
    labels = torch.arange(6)
    buffer.add_data(images(labels), labels, score=labels / 2)
    buffer.buffer_size = 3
    assert (len(buffer), buffer.is_full(), buffer.score.tolist()) == (3, True, [0, 0.5, 1])
    buffer.buffer_size = 5
    buffer.add_data(images([7]), [7])
    assert (buffer.labels.tolist(), buffer.score.tolist()) == ([0, 1, 2, 7, 0], [0, 0.5, 1, 0, 0])
    other = Buffer(6)  # as its constructor builds it, when a run is resumed
    other.load_state_dict(buffer.state_dict())
    assert (other.buffer_size, len(other)) == (5, 4)


def test_only_samples_in_order_can_be_resized():
    with pytest.raises(ConfigError, match="the policy 'ring' cannot be resized"):
        Buffer(4, policy="ring", num_classes=2).resize(8)


def test_lenient_buffer_ignores_surplus_rows_and_fills_up_missing_ones():
    buffer = Buffer(4, lenient=True)
    buffer.add_data(images([1, 2]), labels=torch.arange(9), task_labels=torch.ones(5))
    buffer.add_data(images([3]), labels=[7])
    buffer.add_data(images([]), labels=[])
    assert buffer.labels.tolist() == [0, 1, 7, 0]
    assert buffer.task_labels.tolist() == [1, 1, 0, 0]
    with pytest.raises(ValueError, match="2 examples but 1 labels"):
        buffer.add_data(images([3, 4]), labels=[7])


def offer(buffer, first, count):
    for start in range(first, first + count, 20):
        part = torch.arange(start, start + 20)
        buffer.add_data(images(part), part % 3, sample_selection_scores=torch.rand(20))


@pytest.mark.parametrize("strategy", ["unlimited", "balancoir", "lars", "labrs"])
def test_strategies_resume_exactly(strategy):
    def make():
        return Buffer(30, sample_selection_strategy=strategy)

    buffer, other = make(), make()
    offer(buffer, 0, 100)
    state = buffer.state_dict()
    for resumed in (buffer, other):
        torch.manual_seed(1)
        np.random.seed(1)
        if resumed is other:
            other.load_state_dict(state)
        offer(resumed, 100, 60)
    assert torch.equal(other.get_all_data()[0], buffer.get_all_data()[0])
    if strategy == "unlimited":
        assert other.get_all_data()[0].flatten().tolist() == images(range(160)).flatten().tolist()
        assert not other.is_full()
    else:
        assert len(other) == 30
        scores = [b.sample_selection_fn.importance_scores for b in (other, buffer)]
        assert torch.equal(*scores)


def test_strategies_that_cannot_be_used():
    with pytest.raises(ConfigError, match=r"'ring' and .* 'lars' exclude each other"):
        Buffer(4, policy="ring", num_classes=2, sample_selection_strategy="lars")
    with pytest.raises(ConfigError, match=r"unknown sample_selection_strategy 'laars'.*'lars'"):
        Buffer(4, sample_selection_strategy="laars")
    buffer = Buffer(2, sample_selection_strategy="labrs")
    buffer.add_data(images([0, 1]))
    with pytest.raises(ValueError, match="the strategy 'labrs' needs labels"):
        buffer.add_data(images([2] * 99))
