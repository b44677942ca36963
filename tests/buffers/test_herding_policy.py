"""Herding against the algorithm of iCaRL, and how tasks share the buffer."""

import numpy as np
import pytest
import torch
from label_streams import labels_of

from mammoth_compiled import Buffer
from mammoth_compiled.buffers.policies.herding import herding_ranks


def sequential_herding(features, labels, quota):
    """Algorithm 4 of iCaRL, class by class."""
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    ranks = np.full(len(labels), quota)
    for label in set(labels.tolist()):
        rows = np.flatnonzero(labels == label)
        mean = features[rows].mean(0)
        mean /= np.linalg.norm(mean)
        total = np.zeros_like(mean)
        for k in range(min(quota, len(rows))):
            left = [row for row in rows if ranks[row] == quota]
            distances = [np.linalg.norm(mean - (features[row] + total) / (k + 1)) for row in left]
            best = left[int(np.argmin(distances))]
            ranks[best] = k
            total += features[best]
    return ranks


@pytest.mark.parametrize("quota", [1, 6, 50])
def test_ranks_equal_the_algorithm_of_icarl(quota):
    features, labels = torch.rand(90, 5, dtype=torch.float64) - 0.3, labels_of(90, 4)
    ranks = herding_ranks(features, labels, 6, quota)
    assert ranks.tolist() == sequential_herding(features.numpy(), labels.numpy(), quota).tolist()


def test_identical_samples_are_selected_once_each():
    ranks = herding_ranks(torch.ones(5, 3), torch.tensor([1, 1, 0, 1, 0]), 2, 4)
    assert ranks.tolist() == [0, 1, 0, 2, 1]


def end_task(buffer, first, labels):
    """Ends a task whose examples are their own indices; returns their features."""
    numbers = torch.arange(first, first + len(labels))
    features = torch.rand(len(labels), 4)
    buffer.end_task(
        features,
        labels,
        lambda index: {"examples": numbers[index, None].float(), "labels": labels[index]},
    )
    return features


def test_new_classes_take_the_rows_selected_last():
    buffer = Buffer(12, policy="herding", num_classes=5)
    first = torch.tensor([0, 1] * 10)
    ranks = herding_ranks(end_task(buffer, 0, first), first, 5, 6)
    assert len(buffer) == 12
    examples, labels = buffer.get_all_data()
    assert set(examples[:, 0].tolist()) == set((ranks < 6).nonzero()[:, 0].tolist())
    assert torch.equal(labels, first[examples[:, 0].long()])
    second = torch.tensor([2, 3, 4] * 7)
    later = herding_ranks(end_task(buffer, 100, second), second, 5, 2)
    # Five classes have two rows each; an old class keeps the two that it selected first.
    assert len(buffer) == 10
    examples, labels = buffer.get_all_data()
    kept = set((ranks < 2).nonzero()[:, 0].tolist())
    kept |= {100 + row for row in (later < 2).nonzero()[:, 0].tolist()}
    assert set(examples[:, 0].tolist()) == kept
    assert labels.bincount().tolist() == [2] * 5
    assert buffer.labels[10:].tolist() == [0, 0]


def test_stream_is_not_stored():
    buffer = Buffer(4, policy="herding", num_classes=2)
    buffer.add_data(torch.zeros(3, 2), labels=[0, 1, 1])
    assert (len(buffer), buffer.is_empty(), buffer.num_seen_examples) == (0, True, 3)


def test_a_class_of_several_tasks_counts_once_per_task():
    buffer = Buffer(6, policy="herding", num_classes=2)
    for first in (0, 100, 200):
        end_task(buffer, first, torch.tensor([0, 1] * 4))
    tasks = buffer.get_all_data()[0][:, 0].long() // 100
    assert tasks.bincount().tolist() == [2, 2, 2]
    before = buffer.state_dict()
    with pytest.raises(ValueError, match="the buffer holds 6 samples and there are 8 classes"):
        end_task(buffer, 300, torch.tensor([0, 1]))
    assert torch.equal(buffer.examples, before["data"]["examples"])


def test_streaming_policies_reject_end_task():
    with pytest.raises(ValueError, match="the buffer policy 'reservoir' samples from the stream"):
        end_task(Buffer(5), 0, torch.tensor([0]))
