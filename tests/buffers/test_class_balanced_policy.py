"""Class-balancing reservoir sampling against the published algorithm."""

import pytest
import torch
from label_streams import batches, labels_of

from mammoth_compiled import Buffer
from mammoth_compiled.buffers.policies.class_balanced import POLICY

CPU = torch.device("cpu")


class SequentialClassBalanced:
    """Algorithm 1 of Chrysakis and Moens 2020, sample by sample, with given random numbers."""

    def __init__(self, capacity, num_classes):
        self.capacity = capacity
        self.rows = []
        self.seen = [0] * num_classes
        self.full = set()

    def offer(self, label, keep, where):
        self.seen[label] += 1
        if len(self.rows) < self.capacity:
            self.rows.append(label)
            return len(self.rows) - 1
        count = {c: self.rows.count(c) for c in set(self.rows)}
        largest = {c for c in count if count[c] == max(count.values())}
        self.full |= largest
        if label not in self.full:
            candidates = [i for i, c in enumerate(self.rows) if c in largest]
        elif keep * self.seen[label] < count.get(label, 0):
            candidates = [i for i, c in enumerate(self.rows) if c == label]
        else:
            return -1
        slot = candidates[int(where * len(candidates))]
        self.rows[slot] = label
        return slot


@pytest.mark.parametrize(
    ("capacity", "num_classes", "sizes"),
    [(7, 3, (5, 1, 20)), (20, 6, (32,)), (3, 8, (4, 9)), (1, 2, (3,)), (40, 4, (7, 64))],
    ids=str,
)
def test_batched_choice_equals_the_sequential_algorithm(capacity, num_classes, sizes):
    sequential = SequentialClassBalanced(capacity, num_classes)
    state, num_seen, has_overwrites = POLICY.initial_state(capacity, num_classes, CPU), 0, False
    for labels in batches(labels_of(300, num_classes), *sizes):
        draws = POLICY.draw(len(labels), CPU)
        slots, state = POLICY.choose(state, draws, labels, num_seen, capacity)
        expected = [
            sequential.offer(*row) for row in zip(labels.tolist(), *draws.T.tolist(), strict=True)
        ]
        assert slots.tolist() == expected
        num_seen += len(labels)
        kept = [slot for slot in expected if slot >= 0]
        has_overwrites |= len(set(kept)) < len(kept)
        assert state["seen"].tolist() == sequential.seen
    assert state["classes"].tolist() == sequential.rows
    assert set(state["full"].nonzero()[:, 0].tolist()) == sequential.full
    assert has_overwrites


def test_samples_of_a_class_are_kept_with_equal_probability():
    # 30 samples of class 0 and 8 of class 1 in six rows end up with three rows each.
    labels = torch.tensor(([0] * 4 + [1]) * 7 + [0, 0, 1])
    runs, counts = 400, torch.zeros(len(labels))
    torch.manual_seed(1)
    for _ in range(runs):
        buffer = Buffer(6, policy="class-balanced", num_classes=2)
        for index in torch.arange(len(labels)).split(16):
            buffer.add_data(index[:, None], labels[index])
        rows = buffer.examples[:, 0].long()
        assert labels[rows].bincount().tolist() == [3, 3]
        counts[rows] += 1
    for label in (0, 1):
        seen = counts[labels == label]
        n = len(seen)
        # Chi-square of n equally likely samples, 3 of which each run keeps; its mean is n - 1.
        expected = runs * 3 / n
        chi = ((seen - expected) ** 2 / expected).sum() * (n - 1) / (n - 3)
        assert chi < n - 1 + 4.5 * (2 * (n - 1)) ** 0.5
