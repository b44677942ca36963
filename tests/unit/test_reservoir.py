"""Reservoir sampling of batches has the distribution of the sequential rule, algorithm R."""

import itertools
from collections import Counter
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mammoth_compiled.kernels.reservoir import reservoir_slots, slot_owners, write_slots

CPU = torch.device("cpu")


def keep(stream, batches, capacity, generator=None):
    """Runs a stream of numbers through a reservoir in batches; returns what is kept."""
    store, seen = torch.full((capacity,), -1), 0
    for rows in stream.split(batches):
        slots = reservoir_slots(seen, len(rows), capacity, CPU, generator)
        write_slots(store, rows, slots, slot_owners(slots, capacity))
        seen += len(rows)
    return store


def algorithm_r(length, capacity):
    """Returns the exact probability of every content of the reservoir, slot by slot."""
    draws = [range(i + 1) for i in range(capacity, length)]
    outcomes = Counter()
    for choice in itertools.product(*draws):
        store = list(range(capacity))
        for item, slot in enumerate(choice, capacity):
            if slot < capacity:
                store[slot] = item
        outcomes[tuple(store)] += 1
    total = sum(outcomes.values())
    return {content: count / total for content, count in outcomes.items()}


def chi_square_bound(degrees):
    """Returns a value that chi square exceeds with a chance below 1e-6 (Wilson and Hilferty)."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + 4.9 * sqrt(spread)) ** 3


@pytest.mark.parametrize(
    "batches", [[1, 1, 1, 1, 1], [5], [2, 3], [1, 4]], ids=lambda b: "-".join(map(str, b))
)
def test_contents_are_distributed_as_by_algorithm_r(batches):
    # Two slots and batches up to five: most batches hold items that meet in one slot.
    expected = algorithm_r(length=5, capacity=2)
    generator = torch.Generator().manual_seed(1)
    n = 1200
    seen = Counter(tuple(keep(torch.arange(5), batches, 2, generator).tolist()) for _ in range(n))
    assert set(seen) == set(expected)
    chi_square = sum((seen[c] - n * p) ** 2 / (n * p) for c, p in expected.items())
    assert chi_square < chi_square_bound(len(expected) - 1)


@pytest.mark.parametrize("batch", [7, 64])
def test_every_item_of_a_long_stream_is_kept_equally_often(batch):
    length, capacity, n = 60, 12, 400
    generator = torch.Generator().manual_seed(2)
    counts = torch.zeros(length)
    for _ in range(n):
        counts[keep(torch.arange(length), batch, capacity, generator)] += 1
    # Each item is kept with chance capacity / length; items of one stream hang together a little,
    # which makes the sum smaller, not larger.
    p = capacity / length
    chi_square = ((counts - n * p) ** 2 / (n * p * (1 - p))).sum().item()
    assert chi_square < chi_square_bound(length)
    assert chi_square > 1


@settings(max_examples=60)
@given(
    capacity=st.integers(1, 9),
    batches=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    seed=st.integers(0, 2**31),
)
def test_slots_follow_the_rule(capacity, batches, seed):
    generator = torch.Generator().manual_seed(seed)
    seen = 0
    for batch in batches:
        slots = reservoir_slots(seen, batch, capacity, CPU, generator)
        for i, slot in enumerate(slots.tolist(), seen):
            if i < capacity:
                assert slot == i
            else:
                assert -1 <= slot < capacity
        seen += batch


@settings(max_examples=100)
@given(slots=st.lists(st.integers(-1, 5), min_size=1, max_size=20))
def test_of_several_rows_with_one_slot_the_last_stays(slots):
    capacity = 6
    store = torch.arange(100, 100 + capacity)
    expected = store.tolist()
    for row, slot in enumerate(slots):
        if slot >= 0:
            expected[slot] = row
    index = torch.tensor(slots)
    write_slots(store, torch.arange(len(slots)), index, slot_owners(index, capacity))
    assert store.tolist() == expected


def test_rows_of_several_tensors_stay_together():
    slots = torch.tensor([0, 2, 0, -1, 2])
    owner = slot_owners(slots, 3)
    assert owner.tolist() == [2, -1, 4]
    images, labels = torch.zeros(3, 2, 2), torch.full((3,), -1)
    write_slots(images, torch.arange(5.0)[:, None, None].expand(5, 2, 2), slots, owner)
    write_slots(labels, torch.arange(5), slots, owner)
    assert labels.tolist() == [2, -1, 4]
    assert images[:, 0, 0].tolist() == [2, 0, 4]


def test_values_are_cast_to_the_stores_type():
    store = torch.zeros(2, dtype=torch.float32)
    slots = torch.tensor([1, 0])
    write_slots(store, torch.tensor([1, 2], dtype=torch.float64), slots, slot_owners(slots, 2))
    assert store.tolist() == [2.0, 1.0]


def test_late_in_a_long_stream_draws_are_in_range():
    seen = 2**40
    slots = reservoir_slots(seen, 1000, 10, CPU)
    assert (slots == -1).all()
    everything = reservoir_slots(seen, 50, 2**41, CPU)
    assert everything.tolist() == list(range(seen, seen + 50))
