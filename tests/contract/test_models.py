"""The contract of every registered model: it trains, reports, and resumes exactly."""

import math
from pathlib import Path

import pytest
import torch

from mammoth_compiled import ContinualModel, evaluate, get_avail_args
from mammoth_compiled.models.common.exemplars import ExemplarModel
from mammoth_compiled.models.core.state import model_state
from mammoth_compiled.registry import models

SETTINGS = {
    "plain": {"lr": 0.05},
    "momentum-augmented": {
        "optimizer": "sgd",
        "lr": 0.05,
        "dataset": "seq-tiny-augmented",
        "optim_mom": 0.9,
        "optim_nesterov": 1,
        "optim_wd": 1e-3,
        "n_epochs": 2,
    },
    "adam-augmented": {"lr": 0.01, "dataset": "seq-tiny-augmented", "optimizer": "adam"},
}

NAMES = list(models)
REHEARSAL = [name for name in NAMES if "buffer_size" in get_avail_args(model=name)[0]]
OWN_SCORES = [name for name in NAMES if models[name].target.forward is not ContinualModel.forward]
each_model = pytest.mark.parametrize("name", NAMES)


def arguments(example_args, name, **args):
    """Small arguments of a model; what it gives in `EXAMPLE_ARGS` comes first."""
    return {**args, **example_args(name)}


def images_per_stage(model, dataset):
    """Training images that a run on 36 images per task must have used in an epoch of each stage.

    The buffer is full, or holds 18 images of each class seen, after the first task.
    """
    if dataset.joint:
        return [108]
    if hasattr(model, "validation"):  # for which it holds out equally many images of each class
        per_class = [model.validation.buffer_size // (2 * task) for task in (1, 2, 3)]
        assert all(per_class)
        return [36 - 2 * number for number in per_class]
    if not isinstance(model, ExemplarModel):
        return [36, 36, 36]
    size = model.buffer.buffer_size
    if model.TRAINS_ON_STREAM:  # and selects size // classes of each class after a task
        assert model.buffer.selects_after_task
        return [36, 36 + size // 2 * 2, 36 + size // 4 * 4]
    return [min(36 * (task + 1), size) for task in range(3)]


def assert_equal(one, other, where="state"):
    """Bit for bit, whatever the nesting; NaN equals NaN."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}[{i}]")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    else:
        assert one == other or (one != one and other != other), where


@each_model
def test_trains_and_reports(run_tiny, example_args, name):
    model, dataset, results = run_tiny(name, **arguments(example_args, name, lr=0.05))
    stages = dataset.num_stages
    rows = [3] if dataset.joint else [1, 2, 3]
    assert [len(row) for row in results.class_il] == rows
    assert [len(row) for row in results.task_il] == rows
    assert all(
        0 <= a <= 1 for matrix in (results.class_il, results.task_il) for r in matrix for a in r
    )
    for class_row, task_row in zip(results.class_il, results.task_il, strict=True):
        assert all(c <= t for c, t in zip(class_row, task_row, strict=True))
    assert len(results.loss) == stages
    assert all(math.isfinite(loss) for loss in results.loss)
    assert results.train_images == images_per_stage(model, dataset)
    # What estimates of the time left are made from.
    assert results.train_images == model.epoch_sizes([108 // stages] * stages)
    assert results.config["model"] == name
    assert all(torch.isfinite(p).all() for p in model.net.parameters())


@each_model
def test_learns_a_task(run_tiny, example_args, name):
    _, _, results = run_tiny(name, **arguments(example_args, name, lr=0.05, n_epochs=4))
    assert results.task_il[0][0] >= 0.9
    assert results.task_il[-1][-1] >= 0.9


@each_model
def test_seed_determines_the_run(run_tiny, example_args, name):
    first, _, one = run_tiny(name, **example_args(name), dataset="seq-tiny-augmented")
    second, _, other = run_tiny(name, **example_args(name), dataset="seq-tiny-augmented")
    third, _, _ = run_tiny(name, **example_args(name), dataset="seq-tiny-augmented", seed=1)
    assert_equal(first.net.state_dict(), second.net.state_dict())
    assert one.class_il == other.class_il
    assert not torch.equal(first.net.get_params(), third.net.get_params())


@each_model
@pytest.mark.parametrize("setting", SETTINGS)
def test_resumed_run_equals_uninterrupted_run(run_tiny, example_args, name, setting, tmp_path):
    args = {**example_args(name), **SETTINGS[setting]}
    model, dataset, results = run_tiny(name, **args)
    run_tiny(name, **args, savecheck="task", checkpoint_path=str(tmp_path))
    for done in range(1, dataset.num_stages + 1):
        (path,) = Path(tmp_path).glob(f"*_task{done}.pt")
        # Another seed: the checkpoint's random state must win.
        resumed, _, resumed_results = run_tiny(name, **{**args, "seed": 9}, loadcheck=str(path))
        assert_equal(resumed.net.state_dict(), model.net.state_dict(), "net")
        assert_equal(model_state(resumed), model_state(model), "model")
        for figure in ("class_il", "task_il", "loss", "train_images"):
            assert_equal(getattr(resumed_results, figure), getattr(results, figure), figure)


@each_model
def test_scores_are_what_the_evaluation_compares(run_tiny, example_args, name):
    model, dataset, results = run_tiny(name, **example_args(name))
    again = evaluate(model, dataset)
    assert again.class_il == results.class_il[-1]
    assert math.isfinite(again.loss)
    model.net.eval()
    images = next(iter(dataset.test_loaders[0]))[0]
    scores = model(images)
    if name in OWN_SCORES:
        assert scores.shape == (len(images), 6)
        assert torch.isfinite(scores).all()  # every class has been seen
    else:
        assert torch.equal(scores, model.net(images))


@pytest.mark.parametrize("name", REHEARSAL)
def test_buffer_contains_images_of_the_stream(tiny, run_tiny, example_args, name):
    model, dataset, _ = run_tiny(name, "seq-tiny-augmented", **example_args(name))
    offered = 108 if isinstance(model, ExemplarModel) else sum(images_per_stage(model, dataset))
    assert model.buffer.num_seen_examples == offered
    size = model.buffer.buffer_size
    assert len(model.buffer) == (size // 6 * 6 if model.buffer.selects_after_task else size)
    # Stored images are neither augmented nor normalised: each is one of the training images.
    stored = {tuple(image.flatten().tolist()) for image in model.buffer.get_all_data()[0]}
    data = torch.from_numpy(tiny.images(18, seed=1)[0]).permute(0, 3, 1, 2).float() / 255
    assert stored <= {tuple(image.flatten().tolist()) for image in data}
