"""Reservoir sampling: distribution, operator and Triton kernel."""

import itertools
from collections import Counter
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mammoth_compiled.kernels.reservoir import op, reference, update_reservoir
from mammoth_compiled.kernels.reservoir.cases import reservoir_work
from mammoth_compiled.kernels.reservoir.reference import (
    reservoir_slots,
    slot_owners,
    slots_from_draws,
    write_slots,
)
from mammoth_compiled.kernels.runtime import philox

CPU = torch.device("cpu")


def keep(stream, batches, capacity, generator=None):
    """Runs a stream of numbers through a reservoir in batches; returns its content."""
    store, seen = torch.full((capacity,), -1), 0
    for rows in stream.split(batches):
        slots = reservoir_slots(seen, len(rows), capacity, CPU, generator)
        write_slots(store, rows, slots, slot_owners(slots, capacity))
        seen += len(rows)
    return store


def algorithm_r(length, capacity):
    """Returns the exact probability of every content of the reservoir."""
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
    """Returns a value that chi square exceeds with probability below 1e-6 (Wilson and Hilferty)."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + 4.9 * sqrt(spread)) ** 3


@pytest.mark.parametrize(
    "batches", [[1, 1, 1, 1, 1], [5], [2, 3], [1, 4]], ids=lambda b: "-".join(map(str, b))
)
def test_contents_have_the_distribution_of_algorithm_r(batches):
    # With two slots and batches of up to five, most batches have items with the same slot.
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
    # Each item is kept with probability capacity / length. Items of one stream are slightly
    # dependent, which makes the sum smaller, not larger.
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
def test_last_of_several_rows_with_one_slot_stays(slots):
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


def test_values_are_cast_to_the_dtype_of_the_store():
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


def sequential(draws, num_seen, capacity):
    """Algorithm R, item by item: {slot: row}."""
    kept = {}
    for row, u in enumerate(draws):
        position = num_seen + row
        slot = position if position < capacity else int(u * (position + 1))
        if slot < capacity:
            kept[slot] = row
    return kept


@st.composite
def states(draw):
    """(items seen, batch, capacity): filling, reaching the capacity, full, late in a stream."""
    capacity = draw(st.integers(1, 12))
    near = st.integers(0, 3 * capacity)
    num_seen = draw(st.one_of(near, near, st.integers(0, 2**45)))
    return num_seen, draw(st.integers(1, 20)), capacity


@settings(max_examples=150)
@given(states(), st.integers(0, 2**63 - 1))
def test_operator_equals_the_sequential_algorithm(problem, seed):
    num_seen, batch, capacity = problem
    state = philox.random_state(seed, CPU)
    store, labels = torch.full((capacity, 2), -1.0), torch.full((capacity,), -1)
    rows = torch.arange(batch)
    update_reservoir(
        [store, labels], [rows[:, None].expand(-1, 2), rows], torch.tensor([num_seen]), state
    )
    kept = sequential(reference.philox_draws(state, batch, 0).tolist(), num_seen, capacity)
    expected = [kept.get(slot, -1) for slot in range(capacity)]
    assert labels.tolist() == expected
    assert store[:, 1].tolist() == expected
    assert state.tolist() == [seed, 0]


def device_tensors(batch, capacity, device, layout):
    """(stores, rows, flags): bytes and labels by index, logits, floats, task labels and more."""
    generator = torch.Generator().manual_seed(batch * 100 + capacity)

    def bytes_of(n):
        images = torch.randint(0, 256, (n, 3, 5, 7), dtype=torch.uint8, generator=generator)
        return images.contiguous(memory_format=layout)

    rows = [
        bytes_of(40),
        torch.arange(1000, 1040),
        torch.randn(batch, 10, generator=generator).half(),
        torch.randn(batch, 3, 5, 7, generator=generator),
        torch.arange(batch),
        torch.arange(batch).float().view(batch, 1),
    ]
    stores = [
        bytes_of(capacity),
        torch.full((capacity,), -1),
        torch.zeros(capacity, 10),
        torch.zeros(capacity, 3, 5, 7).contiguous(memory_format=layout),
        torch.full((capacity,), -1),
        torch.full((capacity, 1), -1.0),
    ]
    flags = [True, True, False, False, False, False]
    return [s.to(device) for s in stores], [r.to(device) for r in rows], flags


@settings(max_examples=25)
@given(
    problem=states(),
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 2**40),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
@pytest.mark.usefixtures("triton_kernels")
def test_kernel_equals_operator_bitwise(device, problem, seed, step, layout):
    from mammoth_compiled.kernels.reservoir import triton

    num_seen, batch, capacity = problem
    stores, rows, flags = device_tensors(batch, capacity, device, layout)
    # Items of one batch are different images.
    index = torch.randperm(40)[:batch].to(device)
    state, seen = torch.tensor([seed, step], device=device), torch.tensor([num_seen], device=device)
    expected = [store.clone().cpu() for store in stores]
    tensors = [row.cpu() for row in rows]
    update_reservoir(
        *(expected, tensors, seen.cpu(), state.cpu()), index=index.cpu(), by_index=flags, stream=3
    )
    laid = [
        r.contiguous(memory_format=op.storage_format(s)) for s, r in zip(stores, rows, strict=True)
    ]
    triton.update(stores, laid, flags, index, seen, state, 3, batch)
    for store, value in zip(stores, expected, strict=True):
        assert torch.equal(store.cpu(), value)


@pytest.mark.usefixtures("triton_kernels")
def test_kernel_finds_later_items_beyond_one_tile(device):
    from mammoth_compiled.kernels.reservoir import triton
    from mammoth_compiled.kernels.runtime.tiles import override_tiles

    batch, capacity, widest = 150, 2, []

    def smallest(_, candidates):
        widest.append(min(c["BLOCK_ITEMS"] for c in candidates))
        return min(candidates, key=lambda c: c["BLOCK_ITEMS"])

    labels, rows = torch.full((capacity,), -1), torch.arange(batch)
    state, seen = philox.random_state(7, CPU), torch.tensor([0])
    kept = sequential(reference.philox_draws(state, batch, 0).tolist(), 0, capacity)
    moved = [t.to(device) for t in (labels, rows, seen, state)]
    with override_tiles(smallest):
        triton.update([moved[0]], [moved[1]], [False], None, moved[2], moved[3], 0, batch)
    assert moved[0].tolist() == [kept[0], kept[1]]
    assert widest[0] < batch


def test_draw_just_below_one_stays_in_range():
    draw = torch.full((3,), 1 - 2.0**-53, dtype=torch.float64)
    for num_seen in (3, 2**31, 2**52 + 1):
        last = slots_from_draws(draw, torch.tensor(num_seen), 1)
        assert last.tolist() == [-1] * 3
        everything = slots_from_draws(draw[:1], num_seen, num_seen)
        assert num_seen - 1 <= everything.item() < num_seen or everything.item() == -1


def test_philox_draws_have_the_distribution_of_algorithm_r():
    # One seed and one step per batch, as in training.
    expected = algorithm_r(length=5, capacity=2)
    state, n, seen = philox.random_state(11, CPU), 900, Counter()
    for _ in range(n):
        store, count = torch.full((2,), -1), torch.tensor([0])
        for rows in torch.arange(5).split(3):
            update_reservoir([store], [rows], count, state)
            count += len(rows)
            philox.advance(state)
        seen[tuple(store.tolist())] += 1
    assert set(seen) == set(expected)
    chi_square = sum((seen[c] - n * p) ** 2 / (n * p) for c, p in expected.items())
    assert chi_square < chi_square_bound(len(expected) - 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [torch.zeros(2, 3)]}, "2 stores, 1 rows"),
        ({"rows": [torch.zeros(2, 3), torch.zeros(3)]}, "store 1 has 4 slots and 3 rows"),
        ({"rows": [torch.zeros(2, 4), torch.zeros(2)]}, r"rows of shape \[3\], got \[4\]"),
        ({"stores": [torch.zeros(4, 6)[:, ::2], torch.zeros(4)]}, "store 0 is neither"),
        ({"by_index": [True, False]}, "index is None"),
        (
            {
                "rows": [torch.zeros(9, 6)[:, ::2], torch.zeros(2)],
                "by_index": [True, False],
                "index": torch.tensor([0, 1]),
            },
            "rows 0 are read by index",
        ),
    ],
)
def test_invalid_inputs_raise(change, message):
    arguments = {
        "stores": [torch.zeros(4, 3), torch.zeros(4)],
        "rows": [torch.zeros(2, 3), torch.zeros(2)],
        "num_seen": torch.tensor([0]),
        "state": philox.random_state(0, CPU),
        **change,
    }
    before = [store.clone() for store in arguments["stores"]]
    with pytest.raises(ValueError, match=message):
        update_reservoir(**arguments)
    assert all(map(torch.equal, arguments["stores"], before))


def test_opcheck(device):
    state, seen = philox.random_state(1, device), torch.tensor([3], device=device)
    stores, rows, flags = device_tensors(6, 4, device, torch.contiguous_format)
    index = torch.arange(6, device=device)
    torch.library.opcheck(op.reservoir_op, (stores, rows, flags, index, seen, state, 0))
    torch.library.opcheck(op.reservoir_op, (stores[2:], rows[2:], flags[2:], None, seen, state, 1))


def test_compiles_together_with_its_counters():
    def step(stores, rows, seen, state):
        update_reservoir(stores, rows, seen, state)
        seen += len(rows[0])
        philox.advance(state)

    results = []
    for function in (step, torch.compile(step, backend="aot_eager", fullgraph=True)):
        stores, seen = [torch.zeros(3, 2), torch.full((3,), -1)], torch.tensor([0])
        state = philox.random_state(5, CPU)
        for start in range(0, 20, 4):
            rows = torch.arange(start, start + 4)
            function(stores, [rows[:, None].expand(4, 2).float(), rows], seen, state)
        results.append((*stores, seen, state))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    assert results[0][2].item() == 20
    assert results[0][3].tolist() == [5, 5]


@pytest.mark.gpu
def test_cuda_graph_keeps_counting():
    state, seen = philox.random_state(2, torch.device("cuda")), torch.tensor([0], device="cuda")
    labels, rows = torch.full((6,), -1, device="cuda"), torch.arange(4, device="cuda")

    def step():
        update_reservoir([labels], [rows], seen, state)
        seen.add_(4)
        rows.add_(4)
        philox.advance(state)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(9):
        graph.replay()
    expected, on_cpu = torch.full((6,), -1), philox.random_state(2, CPU)
    for batch in torch.arange(40).split(4):
        update_reservoir([expected], [batch], batch[:1].clone(), on_cpu)
        philox.advance(on_cpu)
    assert torch.equal(labels.cpu(), expected)


def test_work_counts_reads_and_writes_of_written_rows():
    assert reservoir_work(batch=32, num_written=3, row_bytes=3072 + 8).num_bytes == 2 * 3 * 3080
