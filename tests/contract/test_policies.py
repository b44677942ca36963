"""Every model with a buffer runs with every policy, and resumes exactly."""

from math import isfinite

import pytest
import torch

from mammoth_compiled import get_avail_args
from mammoth_compiled.buffers.policies import POLICIES
from mammoth_compiled.registry import models

VALUES = {"buffer_size": 15, "minibatch_size": 8, "alpha": 0.3, "beta": 0.5, "lr": 0.05}
REHEARSAL = [name for name in models if "buffer_policy" in get_avail_args(model=name)[1]]
each_policy = pytest.mark.parametrize("policy", POLICIES)
each_model = pytest.mark.parametrize("name", REHEARSAL)


def arguments(name, policy):
    required, optional = get_avail_args(model=name)
    known = {arg: value for arg, value in VALUES.items() if arg in {**required, **optional}}
    return {**known, "buffer_policy": policy}


def test_models_with_a_policy():
    assert {"er", "der", "derpp"} <= set(REHEARSAL)
    assert all(
        get_avail_args(model=n)[1]["buffer_policy"]["default"] == "reservoir" for n in REHEARSAL
    )


@each_model
@each_policy
def test_trains_with_every_policy(tiny, run_tiny, name, policy):
    model, _, results = run_tiny(name, "seq-tiny-augmented", **arguments(name, policy))
    assert all(isfinite(loss) for loss in results.loss)
    buffer = model.buffer
    assert (buffer.policy, buffer.num_seen_examples) == (policy, 108)
    # Rings of fifteen rows for six classes and 18 images each are full; herding has two rows each.
    assert len(buffer) == (12 if policy == "herding" else 15)
    images, classes = tiny.images(18, seed=1)
    known = {}
    for image, label in zip(torch.from_numpy(images).permute(0, 3, 1, 2), classes, strict=True):
        known[tuple((image / 255).flatten().tolist())] = int(label)
    held = [known[tuple(image.flatten().tolist())] for image in buffer.get_all_data()[0]]
    counts = torch.tensor(held).bincount(minlength=6)
    if policy != "reservoir":
        assert counts.min() >= 2
    if "labels" in buffer.used_attributes:
        assert buffer.get_all_data()[1].tolist() == held


@each_model
@each_policy
def test_a_resumed_run_equals_one_never_stopped(run_tiny, name, policy, tmp_path):
    args = arguments(name, policy)
    model, _, results = run_tiny(name, **args, savecheck="task", checkpoint_path=str(tmp_path))
    (path,) = tmp_path.glob("*_task2.pt")
    resumed, _, again = run_tiny(name, **{**args, "seed": 9}, loadcheck=str(path))
    assert torch.equal(resumed.net.get_params(), model.net.get_params())
    assert again.class_il == results.class_il
    one, other = resumed.buffer.state_dict(), model.buffer.state_dict()
    for part in ("data", "policy_state"):
        assert all(torch.equal(one[part][key], other[part][key]) for key in other[part])
