"""Buffers that every class shares equally after each task."""

import pytest
import torch

from mammoth_compiled import Buffer, load_runner, train
from mammoth_compiled.models.common.balanced import balanced_rows


@pytest.mark.parametrize(
    ("sizes", "capacity", "expected"),
    [([10, 10], 6, [3, 3]), ([2, 10], 6, [2, 4]), ([9, 9, 9], 7, [3, 2, 2]), ([2, 1], 9, [2, 1])],
)
def test_groups_share_the_capacity_evenly(sizes, capacity, expected):
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    rows = balanced_rows(groups, capacity)
    assert groups[rows].bincount().tolist() == expected
    for group in range(len(sizes)):
        first = (groups == group).nonzero()[0, 0]
        assert torch.equal(rows[groups[rows] == group], first + torch.arange(expected[group]))


def test_buffer_is_balanced_by_class_after_every_task(tiny):
    args = {"seed": 0, "batch_size": 8, "compile": "off", "buffer_size": 13, "alpha": 1.0}
    model, dataset = load_runner("fdr", "seq-tiny", args)
    counts, images = [], []

    def after_task(_):
        assert model.buffer.is_full()
        counts.append(sorted(model.buffer.labels.bincount().tolist()))
        images.append({tuple(image) for image in model.buffer.examples.flatten(1).tolist()})

    train(model, dataset, after_task=after_task)
    assert counts == [[6, 7], [3, 3, 3, 4], [2, 2, 2, 2, 2, 3]]
    assert len(images[0] & images[1]) in (6, 7)  # old classes only give up images
    assert len(images[1] & images[2]) in (8, 9)
    assert model.buffer.num_seen_examples == 108


def test_a_replay_batch_of_another_size_compiles_in_the_first_task(tiny, graph_counter):
    args = {"seed": 0, "batch_size": 8, "minibatch_size": 12, "buffer_size": 20, "alpha": 1.0}
    model, dataset = load_runner("fdr", "seq-tiny", {**args, "compile": "on"})
    graphs, buffers = [], []
    end_task = model.end_task

    def watched_end_task(dataset):
        before = [buffer.clone() for buffer in model.net.buffers()]
        end_task(dataset)
        buffers.append(all(map(torch.equal, before, model.net.buffers())))

    model.end_task = watched_end_task
    train(model, dataset, after_task=lambda _: graphs.append(graph_counter.frame_count))
    assert graphs == graphs[:1] * 3
    assert buffers == [True] * 3


@pytest.mark.parametrize(("name", "arguments"), [("fdr", {"alpha": 1.0}), ("bic", {})])
def test_steps_are_static_from_the_first_task_on(tiny, name, arguments):
    model, _ = load_runner(name, "seq-tiny", {"buffer_size": 500, **arguments})
    assert model.buffer.is_empty()
    assert all(b.has_static_reads for b in vars(model).values() if isinstance(b, Buffer))
