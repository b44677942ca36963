"""Draws without replacement: distinct rows, uniform, the same from reference and kernel."""

import math

import pytest
import torch

from mammoth_compiled.kernels.draw import draw_rows, draw_rows_op, reference
from mammoth_compiled.kernels.runtime import philox

CPU = torch.device("cpu")
SIZES = [(500, 32), (37, 32), (1, 1), (2, 2), (200, 200), (7, 3), (5120, 64), (5, 9)]


@pytest.mark.parametrize(("num_rows", "size"), SIZES, ids=str)
def test_rows_are_distinct_and_in_range(num_rows, size):
    state = philox.random_state(11, CPU)
    for _ in range(4):
        rows = draw_rows(size, num_rows, state)
        assert rows.min() >= 0
        assert rows.max() < num_rows
        assert len(rows.unique()) == min(size, num_rows)
    assert state.tolist() == [11, 4]


def test_fewer_rows_than_asked_for_repeat():
    state = philox.random_state(3, CPU)
    rows = draw_rows(9, 5, state).tolist()
    assert sorted(rows[:5]) == [0, 1, 2, 3, 4]
    assert rows[5:] == rows[:4]


def test_masked_rows_only():
    mask = torch.zeros(50, dtype=torch.bool)
    mask[[3, 17, 18, 44]] = True
    state = philox.random_state(3, CPU)
    assert sorted(draw_rows(4, 50, state, mask=mask).tolist()) == [3, 17, 18, 44]
    firsts = {draw_rows(1, 50, state, mask=mask).item() for _ in range(60)}
    assert firsts == {3, 17, 18, 44}


def test_draws_depend_on_seed_step_and_stream():
    def draw(seed, step, stream):
        state = philox.random_state(seed, CPU)
        state[1] = step
        return tuple(draw_rows(16, 500, state, stream=stream).tolist())

    draws = {draw(*case) for case in [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 2**32, 0), (1, 0, 1)]}
    assert len(draws) == 5
    assert draw(1, 7, 2) == draw(1, 7, 2)


@pytest.mark.parametrize(("num_rows", "size"), [(3, 2), (5, 3), (7, 2), (25, 2)], ids=str)
def test_ordered_tuples_are_uniform(num_rows, size):
    draws = 4000
    rows = torch.stack(
        [
            reference.permuted(torch.arange(size), num_rows, torch.tensor([77, step]))
            for step in range(draws)
        ]
    )
    code = torch.zeros(draws, dtype=torch.int64)
    for column in rows.T:
        code = code * num_rows + column
    cells = math.perm(num_rows, size)
    counts = torch.bincount(code, minlength=num_rows**size).double()
    assert (counts > 0).sum() <= cells
    expected = draws / cells
    chi_square = (counts.square().sum() / expected - draws).item()
    # Five standard deviations of chi square.
    assert abs(chi_square - (cells - 1)) < 5 * math.sqrt(2 * (cells - 1))


@pytest.mark.parametrize(("num_rows", "size"), SIZES, ids=str)
@pytest.mark.parametrize("share", [None, 0.4], ids=["all", "masked"])
@pytest.mark.usefixtures("triton_kernels")
def test_kernel_equals_reference(device, num_rows, size, share):
    from mammoth_compiled.kernels.draw import triton

    mask = None if share is None else torch.rand(num_rows) < share
    if mask is not None:
        mask[num_rows // 2] = True
    state = torch.tensor([123456789012345, 2**33 + 77])
    expected = reference.drawn(size, num_rows, mask, state)
    on_device = state.to(device)
    moved = None if mask is None else mask.to(device)
    rows = triton.draw(size, num_rows, moved, on_device, 0)
    assert torch.equal(rows.cpu(), expected)
    assert on_device.tolist() == [123456789012345, 2**33 + 78]


@pytest.mark.parametrize("masked", [False, True])
def test_opcheck(device, masked):
    state = philox.random_state(1, device)
    mask = torch.arange(9, device=device) > 2 if masked else None
    # The reference loops until all rows are in range, so that no compiler can trace it.
    utilities = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(draw_rows_op, (4, 9, mask, state, 0), test_utils=utilities)


@pytest.mark.parametrize(
    ("size", "num_rows", "mask", "message"),
    [
        (0, 5, None, "size must be at least 1"),
        (1, 0, None, "num_rows 1 to 16777215, got 1 and 0"),
        (1, 2**24, None, "num_rows 1 to 16777215"),
        (1, 5, torch.ones(4, dtype=torch.bool), r"mask must be bool \[5\], got torch.bool \[4\]"),
        (1, 5, torch.ones(5), r"mask must be bool \[5\], got torch.float32"),
    ],
)
def test_invalid_arguments_raise(size, num_rows, mask, message):
    with pytest.raises(ValueError, match=message):
        draw_rows(size, num_rows, philox.random_state(0, CPU), mask=mask)


@pytest.mark.gpu
def test_cuda_graph_draws_new_rows_in_every_replay():
    state = philox.random_state(4, torch.device("cuda"))
    draw_rows(32, 500, state)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        rows = draw_rows(32, 500, state)
    on_cpu = philox.random_state(4, CPU)
    on_cpu[1] = 1
    for _ in range(3):
        graph.replay()
        assert torch.equal(rows.cpu(), draw_rows(32, 500, on_cpu))
