"""Mammoth's buffers."""

import numpy as np
import pytest
import torch

from mammoth_compiled.compat.mammoth.buffer import Buffer
from mammoth_compiled.compat.mammoth.gss_buffer import Buffer as GssBuffer
from mammoth_compiled.compat.mammoth.replay import herd
from mammoth_compiled.compat.mammoth.ring_buffer import RingBuffer
from mammoth_compiled.errors import ConfigError


def images(labels):
    return torch.as_tensor(labels).float()[:, None] / 10


@pytest.fixture
def filled():
    buffer = Buffer(6)
    labels = torch.tensor([0, 0, 0, 0, 1, 2])
    buffer.add_data(images(labels), labels, task_labels=labels // 2)
    return buffer


def test_surplus_rows_are_ignored_and_missing_ones_are_zero():
    buffer = Buffer(4)
    buffer.add_data(images([1, 2]), labels=torch.arange(9), task_labels=torch.ones(5))
    buffer.add_data(images([3]), labels=[7])
    buffer.add_data(images([]), labels=[])
    assert buffer.labels.tolist() == [0, 1, 7, 0]
    assert buffer.task_labels.tolist() == [1, 1, 0, 0]
    assert buffer.num_seen_examples == 3


def test_unlimited_buffer_keeps_all_in_order():
    buffer = Buffer(-1, sample_selection_strategy="unlimited")
    for first in range(0, 300, 60):
        buffer.add_data(images(range(first, first + 60)), torch.arange(first, first + 60))
    assert len(buffer) == 300
    assert buffer.get_all_data()[1].tolist() == list(range(300))
    assert not buffer.is_full()


def test_resizing_keeps_the_first_samples(filled):
    filled.buffer_size = 3
    assert (len(filled), filled.labels.tolist()) == (3, [0, 0, 0])
    filled.buffer_size = 5
    assert (len(filled), filled.buffer_size) == (3, 5)
    filled.add_data(images([4, 4]), [4, 4], task_labels=[2, 2])
    assert filled.labels.tolist() == [0, 0, 0, 4, 4]
    filled.empty()
    assert filled.is_empty()


def test_attention_maps_follow_their_samples():
    buffer = Buffer(4)
    assert (len(buffer.attention_maps), buffer.attention_maps[0]) == (4, None)
    for part in torch.arange(1, 41).split(5):
        maps = [part[:, None].float(), part[:, None, None].expand(-1, 2, 3)]
        buffer.add_data(images(part), part, attention_maps=maps)
    rows, *read = buffer.get_data(4, return_index=True)
    assert len(read) == 2  # examples and labels
    for row, label in zip(rows, read[1], strict=True):
        one, two = buffer.attention_maps[row]
        assert (one.shape, two.shape, one.dtype) == ((1,), (2, 3), torch.uint8)
        assert one.unique() == two.unique() == label
    buffer.attention_maps[torch.tensor(2)] = [torch.zeros(1), torch.ones(2, 3)]
    assert [m.unique().item() for m in buffer.attention_maps[2]] == [0, 1]
    other = Buffer(4)
    other.load_state_dict(buffer.state_dict())
    assert torch.equal(other.attention_maps[3][1], buffer.attention_maps[3][1])
    assert len(other.get_all_data()) == 2


def test_draws_without_a_task(filled):
    for _ in range(5):
        index, _, labels, tasks = filled.get_data(9, mask_task_out=0, return_index=True)
        assert (index.tolist(), labels.tolist(), tasks.tolist()) == ([5], [2], [1])
    buffer = Buffer(4)
    buffer.add_data(images([0, 1, 2, 3]), [0, 1, 2, 3])
    assert set(buffer.get_data(4, mask_task_out=1, cpt=2)[1].tolist()) == {0, 1}
    with pytest.raises(ValueError, match="mask_task_out needs stored task_labels, or cpt="):
        buffer.get_data(4, mask_task_out=1)


def test_forced_rows_with_and_without_augmentation(filled):
    plain, doubled, labels, _ = filled.get_data(
        1, lambda x: 2 * x, force_indexes=np.array([5]), return_not_aug=True
    )
    assert (plain.item(), doubled.item(), labels.item()) == pytest.approx((0.2, 0.4, 2))


def test_balanced_draws(filled):
    for _ in range(10):
        counts = filled.get_balanced_data(4)[1].bincount(minlength=3)
        assert counts.tolist() == [2, 1, 1]
        assert len(filled.get_balanced_data(3, n_classes=2)[1].unique()) == 2


def stream(strategy, scores=None, **kwargs):
    """Offers 400 samples of class 0 and 20 of class 1; returns the buffer."""
    buffer = Buffer(20, sample_selection_strategy=strategy, **kwargs)
    labels = torch.cat((torch.zeros(400), torch.ones(20))).long()
    for part in labels.split(20):
        buffer.add_data(
            images(part), part, sample_selection_scores=None if scores is None else scores(part)
        )
    return buffer


def test_balanced_reservoir():
    assert 7 <= stream("balancoir").labels.sum() <= 13
    assert stream("reservoir").labels.sum() <= 5


def test_loss_aware_strategies_keep_high_losses():
    # As Mammoth's `er_tricks` and `er_ace_tricks`, which give minus the loss.
    def scores_of(part):
        return -torch.rand(len(part))

    torch.manual_seed(0)
    for strategy in ("lars", "labrs"):
        scores = stream(strategy, scores_of).sample_selection_fn.importance_scores
        assert scores.mean() < -0.6


def test_asymmetric_strategy_keeps_low_losses_of_current_classes():
    class Dataset:
        def get_offsets(self):
            return 0, 2

    torch.manual_seed(0)
    buffer = stream("abs", lambda part: torch.rand(len(part)), dataset=Dataset())
    assert buffer.sample_selection_fn.importance_scores.mean() < 0.4
    with pytest.raises(ValueError, match="'abs' needs Buffer"):
        stream("abs")


def test_unknown_strategy_is_rejected():
    with pytest.raises(ConfigError, match="unknown sample_selection_strategy 'best'"):
        Buffer(3, sample_selection_strategy="best")


def test_ring_per_task():
    ring = RingBuffer(6, n_tasks=2)
    ring.add_data(images(range(2)), torch.arange(2))
    assert (len(ring), ring.is_empty()) == (2, False)
    ring.add_data(images(range(2, 9)), torch.arange(2, 9))
    assert ring.get_all_data()[1].tolist() == [6, 7, 8]
    ring.task_number, ring.num_seen_examples = 1, 0
    ring.add_data(images([20]), torch.tensor([20]))
    assert sorted(ring.get_data(9)[1].tolist()) == [6, 7, 8, 20]
    other = RingBuffer(6, n_tasks=2)
    other.load_state_dict(ring.state_dict())
    assert other.get_all_data()[1].tolist() == [6, 7, 8, 20]
    ring.empty()
    assert len(ring) == 0


class Gradients:
    """The gradient of a sample is its image, which has two pixels."""

    def get_grads(self, inputs, labels):
        return inputs.mean(0, keepdim=True)


def test_gss_prefers_different_gradients():
    torch.manual_seed(0)
    np.random.seed(0)
    buffer = GssBuffer(10, "cpu", minibatch_size=10, model=Gradients())
    east, west = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    for _ in range(10):
        buffer.add_data(east.repeat(2, 1), torch.zeros(2).long())
    assert buffer.labels.sum() == 0
    for _ in range(10):
        buffer.add_data(west, torch.ones(1).long())
    assert buffer.labels.sum() > 0
    buffer.reset_fathom()
    first, second = buffer.get_data(5)[0], buffer.get_data(5)[0]
    assert len(first) == len(second) == 5
    assert len(buffer.get_data(4, give_index=True, random=True)[2].unique()) == 4


def test_herding_follows_the_mean():
    features = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    assert herd(features, 1).tolist() == [2]  # nearest to the mean, 3
    assert len(set(herd(features, 9).tolist())) == 4
