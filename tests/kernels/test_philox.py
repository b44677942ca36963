"""Philox in plain torch: published test vectors, Triton's words, and draws from words."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mammoth_compiled.kernels.runtime import philox

ONES = 0xFFFFFFFF
# Counter, key and result, from the file kat_vectors of Random123, the authors' library.
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([ONES] * 4, [ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def words(numbers):
    return tuple(torch.tensor(n) for n in numbers)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter, key, answer):
    assert [w.item() for w in philox.philox(words(counter), words(key))] == answer


@settings(max_examples=20)
@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    step=st.integers(0, 2**40),
    stream=st.integers(0, 2**31 - 1),
)
@pytest.mark.usefixtures("triton_kernels")
def test_draws_equal_triton(device, seed, step, stream):
    import triton
    import triton.language as tl

    @triton.jit
    def kernel(state, result, stream, ROWS: tl.constexpr):  # noqa: N803
        row = tl.arange(0, ROWS)
        step = tl.load(state + 1)
        low, high = step.to(tl.uint32), (step >> 32).to(tl.uint32)
        w0, w1, w2, w3 = tl.philox(tl.load(state), low, high, row, stream)
        tl.store(result + row, w0.to(tl.int64))
        tl.store(result + ROWS + row, w1.to(tl.int64))
        tl.store(result + 2 * ROWS + row, w2.to(tl.int64))
        tl.store(result + 3 * ROWS + row, w3.to(tl.int64))

    state = philox.random_state(seed, device)
    state[1] = step
    result = torch.empty(4, 16, dtype=torch.int64, device=device)
    kernel[(1,)](state, result, stream, ROWS=16)
    assert torch.equal(result, torch.stack(philox.draw(state, 16, stream)))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**63 - 1), offset=st.integers(0, 2**31 - 17))
@pytest.mark.usefixtures("triton_kernels")
def test_words_equal_randint4x(device, seed, offset):
    import triton
    import triton.language as tl

    @triton.jit
    def kernel(result, seed, offset, ROWS: tl.constexpr):  # noqa: N803
        row = tl.arange(0, ROWS)
        w0, _, _, w3 = tl.randint4x(seed, offset + row)
        tl.store(result + row, w0.to(tl.int64))
        tl.store(result + ROWS + row, w3.to(tl.int64))

    result = torch.empty(2, 16, dtype=torch.int64, device=device)
    kernel[(1,)](result, seed, offset, ROWS=16)
    zero = torch.zeros(16, dtype=torch.int64)
    counter = (torch.arange(offset, offset + 16), zero, zero, zero)
    drawn = philox.philox(counter, words([seed & ONES, seed >> 32]))
    assert torch.equal(result.cpu() & ONES, torch.stack((drawn[0], drawn[3])))


def test_every_part_of_the_state_changes_the_draw():
    state = philox.random_state(5, torch.device("cpu"))
    first = torch.stack(philox.draw(state, 4, 1))
    assert len(first.unique()) == 16
    assert torch.equal(torch.stack(philox.draw(state, 2, 1)), first[:, :2])
    others = [torch.stack(philox.draw(state, 4, 2))]
    for seed, step in ((6, 0), (5 + 2**32, 0), (5, 1), (5, 2**32)):
        state = torch.tensor([seed, step])
        others.append(torch.stack(philox.draw(state, 4, 1)))
    for other in others:
        assert not (other == first).any()


def test_advance_increments_the_step_in_place():
    state = philox.random_state(-3, torch.device("cpu"))
    view = state[:]
    philox.advance(state)
    philox.advance(state)
    assert view.tolist() == [-3, 2]


def test_below_is_uniform():
    limit = 7
    # The first word that maps to each number, and the one before it.
    starts = torch.tensor([-(-(k << 32) // limit) for k in range(limit)])
    assert philox.below(starts, limit).tolist() == list(range(limit))
    assert philox.below(starts[1:] - 1, limit).tolist() == list(range(limit - 1))
    assert philox.below(torch.tensor(ONES), 2**31).item() == 2**31 - 1


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_events_have_their_probability(probability):
    edge = round(probability * 2**32)
    word = torch.tensor([0, max(edge - 1, 0), min(edge, ONES), ONES])
    expected = [probability > 0, probability > 0, probability == 1, probability == 1]
    assert philox.happens(word, probability).tolist() == expected


def test_uniform_uses_53_bits():
    high, low = torch.tensor([0, 0, ONES, 1 << 31]), torch.tensor([0, 1 << 11, ONES, 0])
    expected = torch.tensor([0.0, 2.0**-53, 1 - 2.0**-53, 0.5], dtype=torch.float64)
    assert torch.equal(philox.uniform(high, low), expected)
