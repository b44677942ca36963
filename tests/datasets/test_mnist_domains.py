"""Permuted and rotated MNIST: each task moves the pixels in its own, reproducible way."""

import numpy as np
import pytest
import torch
from contract_cases import DatasetCase
from dataset_files import TEST_PER_CLASS, TRAIN_PER_CLASS, build_dataset, write_idx_files
from PIL import Image

from mammoth_compiled import load_runner, train
from mammoth_compiled.datasets.mnist_domains import rotation_sources
from mammoth_compiled.errors import CheckpointError


def write_files(root, monkeypatch):
    write_idx_files(root / "MNIST" / "raw")


CASES = {
    name: DatasetCase(
        num_tasks=20,
        classes_per_task=10,
        input_shape=(1, 28, 28),
        train_per_class=TRAIN_PER_CLASS,
        test_per_class=TEST_PER_CLASS,
        is_augmented=False,
        setting="domain-il",
        write_files=write_files,
    )
    for name in ("perm-mnist", "rot-mnist")
}


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """Returns a function that returns the training images of the tasks of random digits."""
    write_files(tmp_path, monkeypatch)
    noise = np.random.default_rng(0).integers(0, 256, (120, 28, 28), np.uint8)

    def load(name, **args):
        dataset = build_dataset(name, tmp_path, **args)
        monkeypatch.setattr(type(dataset), "read", lambda *_: (noise, np.arange(120) % 10))
        return noise, [
            dataset.meta_get_data_loaders()[0].dataset.data for _ in range(dataset.num_stages)
        ]

    return load


def test_every_task_permutes_all_images_alike(tasks):
    original, permuted = tasks("perm-mnist", n_tasks=3)
    assert len(permuted) == 3
    for images in permuted:
        assert not np.array_equal(images, original)
        flat = images.reshape(120, -1)
        # The first image tells the permutation of most pixels; check with sorted columns.
        columns = {column.tobytes() for column in original.reshape(120, -1).T}
        assert {column.tobytes() for column in flat.T} == columns
    assert not np.array_equal(permuted[0], permuted[1])


def test_rotation_is_that_of_pillow(tasks):
    original, rotated = tasks("rot-mnist", n_tasks=2, seed=3)
    angles = [np.random.default_rng([3, task]).uniform(0, 180) for task in range(2)]
    for images, angle in zip(rotated, angles, strict=True):
        expected = Image.fromarray(original[7]).rotate(angle, Image.Resampling.NEAREST)
        assert np.array_equal(images[7], np.asarray(expected))
    assert (rotation_sources(45.0) == -1).any()


@pytest.mark.parametrize("name", ["perm-mnist", "rot-mnist"])
def test_tasks_depend_on_the_seed_and_not_on_what_came_before(tasks, name):
    _, first = tasks(name, seed=1, n_tasks=2)
    torch.rand(5)
    np.random.rand(5)
    _, again = tasks(name, seed=1, n_tasks=4)
    _, other = tasks(name, seed=2, n_tasks=2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=False))
    assert not np.array_equal(first[0], other[0])


def test_validation_holds_out_the_same_digits_in_every_domain(tmp_path, monkeypatch):
    write_files(tmp_path, monkeypatch)
    dataset = build_dataset("perm-mnist", tmp_path, n_tasks=2, validation=15)
    for _ in range(2):
        loader, held_out = dataset.meta_get_data_loaders()
        assert len(held_out.dataset) == 20
        assert len(loader.dataset) == 100
    first, second = (loader.dataset.targets for loader in dataset.test_loaders)
    assert np.array_equal(first, second)


def test_runs_resume_with_the_same_seed_only(tmp_path, monkeypatch):
    write_files(tmp_path, monkeypatch)
    args = {"data_dir": str(tmp_path), "n_tasks": 2, "batch_size": 32, "seed": 0, "compile": "off"}
    args |= {"checkpoint_path": str(tmp_path / "saved"), "buffer_size": 10, "minibatch_size": 10}
    model, dataset = load_runner("er", "perm-mnist", {**args, "savecheck": "task"})
    results = train(model, dataset)
    assert [len(row) for row in results.class_il] == [1, 2]
    (path,) = (tmp_path / "saved").glob("*task1.pt")
    resumed, stream = load_runner("er", "perm-mnist", {**args, "loadcheck": str(path)})
    train(resumed, stream)
    assert torch.equal(resumed.net.get_params(), model.net.get_params())
    with pytest.raises(CheckpointError, match="use --seed 0"):
        train(*load_runner("er", "perm-mnist", {**args, "seed": 1, "loadcheck": str(path)}))


def test_joint_training_on_all_domains(tmp_path, monkeypatch):
    write_files(tmp_path, monkeypatch)
    args = {"data_dir": str(tmp_path), "n_tasks": 3, "compile": "off", "batch_size": 60}
    model, dataset = load_runner("joint", "perm-mnist", args)
    results = train(model, dataset)
    assert results.train_images == [3 * 120]
    assert [len(row) for row in results.class_il] == [3]
