"""The ring buffer against one queue per class."""

import pytest
import torch
from label_streams import batches, labels_of

from mammoth_compiled import Buffer


class SequentialRing:
    """One queue per class that drops its oldest sample when it is full."""

    def __init__(self, capacity, num_classes):
        share, rest = divmod(capacity, num_classes)
        self.size = [share + (c < rest) for c in range(num_classes)]
        self.queues = [[] for _ in range(num_classes)]

    def offer(self, item, label):
        self.queues[label] = [*self.queues[label], item][-self.size[label] :]


@pytest.mark.parametrize(
    ("capacity", "num_classes", "sizes"),
    [(9, 3, (5, 1, 20)), (20, 6, (32,)), (8, 8, (4, 9)), (41, 4, (7, 64))],
    ids=str,
)
def test_batched_choice_equals_one_queue_per_class(capacity, num_classes, sizes):
    buffer, sequential = (
        Buffer(capacity, policy="ring", num_classes=num_classes),
        SequentialRing(capacity, num_classes),
    )
    item = 0
    for labels in batches(labels_of(300, num_classes), *sizes):
        items = torch.arange(item, item + len(labels))
        buffer.add_data(items[:, None], labels, task_labels=items)
        for number, label in zip(items.tolist(), labels.tolist(), strict=True):
            sequential.offer(number, label)
        item += len(labels)
        examples, held, numbers = buffer.get_all_data()
        expected = [(i, c) for c, queue in enumerate(sequential.queues) for i in queue]
        assert sorted(zip(numbers.tolist(), held.tolist(), strict=True)) == sorted(expected)
        assert torch.equal(examples[:, 0], numbers.float())
        assert len(buffer) == len(expected)


def test_rows_of_classes_that_never_occur_stay_empty():
    buffer = Buffer(12, policy="ring", num_classes=4)
    for part in batches(labels_of(60, 3), 7):
        buffer.add_data(part[:, None], part)
    assert len(buffer) == 9
    filled = buffer.state_dict()["policy_state"]["filled"]
    assert filled.tolist() == [True] * 9 + [False] * 3
