"""Reservoir sampling: uniform inclusion, with and without the kernel."""

import pytest
import torch

from mammoth_compiled import Buffer
from mammoth_compiled.buffers.policies.reservoir import POLICY
from mammoth_compiled.kernels.reservoir import reservoir_slots
from mammoth_compiled.kernels.runtime import device as kernel_device

CPU = torch.device("cpu")


def test_slots_follow_the_reference():
    state = POLICY.initial_state(7, 0, CPU)
    for num_seen in (0, 9, 18):
        torch.manual_seed(num_seen)
        draws = POLICY.draw(9, CPU)
        slots, state = POLICY.choose(state, draws, torch.empty(0), num_seen, 7)
        torch.manual_seed(num_seen)
        assert torch.equal(slots, reservoir_slots(num_seen, 9, 7, CPU))
    assert state["seen"] == 27


@pytest.fixture
def with_kernel(monkeypatch):
    """Makes buffers use the GPU operator, which runs its reference on a CPU."""
    monkeypatch.setattr(kernel_device, "supports_triton", lambda device: True)


def test_kernel_keeps_every_sample_with_equal_probability(with_kernel):
    kept = torch.zeros(40)
    for seed in range(400):
        torch.manual_seed(seed)
        buffer = Buffer(10)
        for items in torch.arange(40).split(7):
            buffer.add_data(items[:, None].float(), labels=items)
        assert torch.equal(buffer.examples[:, 0], buffer.labels.float())
        assert len(buffer.labels.unique()) == 10
        kept[buffer.labels] += 1
    # Probability 1/4: the standard deviation over 400 runs is 8.7; this is the largest of 40 items.
    assert (kept - 100).abs().max() < 4 * 8.7


def test_kernel_state_resumes_exactly(with_kernel):
    one, other = Buffer(6), Buffer(6)
    items = torch.arange(40.0)[:, None]
    one.add_data(items[:20])
    other.load_state_dict(one.state_dict())
    one.add_data(items[20:])
    other.add_data(items[20:])
    assert torch.equal(one.examples, other.examples)
    assert one.num_seen_examples == other.num_seen_examples == 40
