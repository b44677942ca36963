"""Properties of every registered buffer policy, alone and in every model with a buffer."""

from math import isfinite

import pytest
import torch
from label_streams import batches, labels_of
from torch._subclasses.fake_tensor import FakeTensorMode

from mammoth_compiled import Buffer, get_avail_args
from mammoth_compiled.buffers.policies import POLICIES
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import models

CPU = torch.device("cpu")
STREAMING = [name for name, policy in POLICIES.items() if policy.choose is not None]
NEEDS_LABELS = [name for name in STREAMING if POLICIES[name].needs_labels]
REHEARSAL = [name for name in models if "buffer_policy" in get_avail_args(model=name)[1]]
PAIRS = [
    (name, policy)
    for name in REHEARSAL
    for policy in POLICIES
    if models[name].target.HAS_LOSSES or not POLICIES[policy].needs_losses
]
each_pair = pytest.mark.parametrize(("name", "policy"), PAIRS)


def choose(policy, state, labels, num_seen, capacity):
    """Lets a policy choose slots for samples with random losses."""
    losses = (torch.rand(len(labels)),) if policy.needs_losses else ()
    draws = policy.draw(len(labels), CPU)
    return policy.choose(state, draws, labels, num_seen, capacity, *losses)


@pytest.mark.parametrize("name", STREAMING)
def test_choose_causes_no_host_sync(name):
    policy = POLICIES[name]
    # A fake tensor has no values: reading one, or a data-dependent shape, raises.
    with FakeTensorMode():
        state = policy.initial_state(10, 4, CPU)
        labels = torch.zeros(16, dtype=torch.int64)
        for num_seen in (0, 16):
            slots, after = choose(policy, state, labels, num_seen, 10)
            assert slots.shape == (16,)
            shapes = {name: tensor.shape for name, tensor in after.items()}
            assert shapes == {name: tensor.shape for name, tensor in state.items()}
            state = after


@pytest.mark.parametrize("name", STREAMING)
def test_choose_does_not_modify_its_arguments(name):
    policy = POLICIES[name]
    state, labels = policy.initial_state(5, 3, CPU), labels_of(20, 3)
    _, state = choose(policy, state, labels, 0, 5)
    kept, draws = {k: v.clone() for k, v in state.items()}, policy.draw(20, CPU)
    before = draws.clone()
    policy.choose(state, draws, labels, 20, 5, *(torch.rand(20),) * policy.needs_losses)
    assert torch.equal(draws, before)
    assert all(torch.equal(state[k], kept[k]) for k in kept)


def fill(buffer, n=60, seed=3):
    """Offers n samples, whose pixels equal their label, in batches of 7 or as one finished task."""
    labels = labels_of(n, 3, seed)
    if buffer.selects_after_task:
        rows = {"examples": labels[:, None].float(), "labels": labels}
        buffer.end_task(
            torch.rand(n, 4), labels, lambda index: {k: v[index] for k, v in rows.items()}
        )
    else:
        for part in batches(labels, 7):
            buffer.add_data(part[:, None], part, losses=(part + 7) * 13 % 11 / 10)


@pytest.mark.parametrize("name", POLICIES)
def test_get_data_draws_filled_rows_without_replacement(name):
    buffer = Buffer(12, policy=name, num_classes=4)  # the fourth class never occurs
    fill(buffer)
    counts = torch.zeros(12)
    for _ in range(600):
        index, examples, labels = buffer.get_data(4, return_index=True)
        assert len(set(index.tolist())) == 4
        assert torch.equal(examples[:, 0], labels.float())
        counts[index] += 1
    filled = buffer.state_dict()["policy_state"].get("filled", torch.ones(12, dtype=torch.bool))
    assert len(buffer) == filled.sum() >= 9
    assert counts[~filled].sum() == 0
    p = 4 / len(buffer)
    assert (counts[filled] - 600 * p).abs().max() < 5 * (600 * p * (1 - p)) ** 0.5
    assert len(buffer.get_data(100)[0]) == len(buffer)


@pytest.mark.parametrize("name", POLICIES)
def test_state_resumes_exactly(name):
    buffer, other = (Buffer(8, policy=name, num_classes=3) for _ in range(2))
    fill(buffer)
    random, state, held = torch.get_rng_state(), buffer.state_dict(), len(buffer)
    fill(buffer, seed=4)
    other.load_state_dict(state)
    assert len(other) == held
    torch.set_rng_state(random)
    fill(other, seed=4)
    assert torch.equal(buffer.labels, other.labels)
    assert torch.equal(buffer.get_all_data()[0], other.get_all_data()[0])


def test_state_of_another_policy_is_rejected():
    ring = Buffer(4, policy="ring", num_classes=2)
    with pytest.raises(ValueError, match=r"policy 'ring'.* 'reservoir': use --buffer_policy ring"):
        Buffer(4).load_state_dict(ring.state_dict())


@pytest.mark.parametrize("name", POLICIES)
def test_reset_restores_the_initial_state(name):
    buffer = Buffer(8, policy=name, num_classes=3)
    fill(buffer)
    buffer.reset()
    assert (len(buffer), buffer.is_empty(), buffer.is_full()) == (0, True, False)
    fresh = Buffer(8, policy=name, num_classes=3).state_dict()
    for key, tensor in buffer.state_dict()["policy_state"].items():
        assert torch.equal(tensor, fresh["policy_state"][key])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "rings"}, "unknown buffer policy 'rings'. Did you mean 'ring'"),
        (
            {"policy": "ring"},
            r"'ring' needs the number of classes: pass Buffer\(..., num_classes=...\)",
        ),
        ({"policy": "herding", "num_classes": 6}, "each of the 6 classes, but --buffer_size is 5"),
        ({"policy": "ring", "num_classes": 6}, "'ring' needs room for one sample of each"),
    ],
)
def test_invalid_policies_are_rejected(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Buffer(5, **arguments)


@pytest.mark.parametrize("name", NEEDS_LABELS)
def test_missing_or_unknown_labels_are_rejected(name):
    buffer = Buffer(5, policy=name, num_classes=2)
    with pytest.raises(ValueError, match=f"the buffer policy '{name}' needs labels"):
        buffer.add_data(torch.zeros(2, 3), losses=torch.zeros(2))
    with pytest.raises(RuntimeError, match="labels must be 0 to 1"):
        buffer.add_data(torch.zeros(2, 3), labels=[0, 2], losses=torch.zeros(2))
    assert buffer.is_empty()


def arguments(name, policy):
    sizes = {"buffer_size": 15, "minibatch_size": 8}
    return {**models[name].target.EXAMPLE_ARGS, **sizes, "lr": 0.05, "buffer_policy": policy}


def test_replay_models_take_a_policy():
    assert {"er", "der", "derpp"} <= set(REHEARSAL)
    assert all(
        get_avail_args(model=n)[1]["buffer_policy"]["default"] == "reservoir" for n in REHEARSAL
    )


@each_pair
def test_trains_with_every_policy(tiny, run_tiny, name, policy):
    model, _, results = run_tiny(name, "seq-tiny-augmented", **arguments(name, policy))
    assert all(isfinite(loss) for loss in results.loss)
    buffer = model.buffer
    assert (buffer.policy, buffer.num_seen_examples) == (policy, 108)
    # 18 images of each of 6 classes fill 15 rows; selection after a task divides them evenly.
    assert len(buffer) == (12 if buffer.selects_after_task else 15)
    images, classes = tiny.images(18, seed=1)
    known = {}
    for image, label in zip(torch.from_numpy(images).permute(0, 3, 1, 2), classes, strict=True):
        known[tuple((image / 255).flatten().tolist())] = int(label)
    held = [known[tuple(image.flatten().tolist())] for image in buffer.get_all_data()[0]]
    counts = torch.tensor(held).bincount(minlength=6)
    if buffer.needs_labels and not buffer.needs_losses:
        assert counts.min() >= 2
    if "labels" in buffer.used_attributes:
        assert buffer.get_all_data()[1].tolist() == held


@each_pair
def test_resumed_run_equals_uninterrupted_run(run_tiny, name, policy, tmp_path):
    args = arguments(name, policy)
    model, _, results = run_tiny(name, **args, savecheck="task", checkpoint_path=str(tmp_path))
    (path,) = tmp_path.glob("*_task2.pt")
    resumed, _, again = run_tiny(name, **{**args, "seed": 9}, loadcheck=str(path))
    assert torch.equal(resumed.net.get_params(), model.net.get_params())
    assert again.class_il == results.class_il
    one, other = resumed.buffer.state_dict(), model.buffer.state_dict()
    for part in ("data", "policy_state"):
        assert all(torch.equal(one[part][key], other[part][key]) for key in other[part])
