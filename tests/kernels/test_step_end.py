"""The end of a training step: counters and losses, the same from reference and kernel."""

import pytest
import torch

from mammoth_compiled.kernels.runtime.deferred import (
    advance_counters,
    defer_counters,
    settle_counters,
)
from mammoth_compiled.kernels.step_end import end_step, end_step_op, reference
from mammoth_compiled.kernels.step_end.op import MAX_COUNTERS


def tensors(count, device, dtype=torch.float32):
    values = torch.arange(2 * count, dtype=torch.int64, device=device) * 2**40
    # Every other one, at addresses of any alignment.
    counters = [values[2 * k + 1] for k in range(count)]
    loss = torch.tensor(0.75, dtype=dtype, device=device)
    losses = torch.full((5,), -1.0, dtype=dtype, device=device)
    return counters, loss, losses, torch.tensor([3], device=device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 3, MAX_COUNTERS])
@pytest.mark.usefixtures("triton_kernels")
def test_kernel_equals_the_reference(device, count, dtype):
    from mammoth_compiled.kernels.step_end import triton

    found, expected = tensors(count, device, dtype), tensors(count, device, dtype)
    amounts = [1, 32, 16, 7, 5, 1, 64, 2**31 - 1][:count]
    for _ in range(3):  # past the end of the ring
        triton.end(found[0], amounts, *found[1:])
        reference.end(expected[0], amounts, *expected[1:])
    for a, b in zip([*found[0], *found[1:]], [*expected[0], *expected[1:]], strict=True):
        assert torch.equal(a, b)
    assert found[3].item() == 1


def test_more_counters_than_a_launch_takes():
    counters, loss, losses, slot = tensors(MAX_COUNTERS + 2, "cpu")
    before = [int(counter) for counter in counters]
    end_step(counters, list(range(MAX_COUNTERS + 2)), loss, losses, slot)
    assert [int(c) - b for c, b in zip(counters, before, strict=True)] == list(range(10))


def test_operator():
    counters, loss, losses, slot = tensors(2, "cpu")
    torch.library.opcheck(end_step_op, (counters, [1, 2], loss, losses, slot))


@pytest.mark.parametrize("wrong", ["dtype", "size", "loss", "amounts"])
def test_wrong_tensors_raise(wrong):
    counters, loss, losses, slot = tensors(2, "cpu")
    if wrong == "dtype":
        counters[1] = counters[1].int()
    elif wrong == "size":
        counters[1] = torch.zeros(2, dtype=torch.int64)
    elif wrong == "loss":
        loss = torch.zeros(2)
    with pytest.raises(ValueError, match="end_step"):
        end_step(counters, [1] if wrong == "amounts" else [1, 1], loss, losses, slot)


def test_counters_are_deferred_until_they_are_read():
    first, second = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)
    advance_counters([first], [1])
    assert first == 1
    with defer_counters() as deferred:
        advance_counters([first, second], [1, 32])
        advance_counters([first], [2])
        settle_counters(torch.zeros((), dtype=torch.int64))
        assert (first, second) == (1, 0)
        settle_counters(second)
        assert (first, second) == (4, 32)
        advance_counters([second], [32])
        counters, amounts = deferred.take()
    assert amounts == [32]
    assert counters[0] is second
    assert second == 32
