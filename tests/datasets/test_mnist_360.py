"""MNIST-360: the order of the stream, the angles, one pass."""

import numpy as np
import pytest
import torch
from contract_cases import DatasetCase
from dataset_files import TEST_PER_CLASS, TRAIN_PER_CLASS, build_dataset, write_idx_files
from PIL import Image

from mammoth_compiled import load_runner, train
from mammoth_compiled.datasets.mnist_360 import angles, stream_order
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import datasets


def write_files(root, monkeypatch):
    write_idx_files(root / "MNIST" / "raw")


CASES = {
    "mnist-360": DatasetCase(
        num_tasks=1,
        classes_per_task=9,
        input_shape=(1, 28, 28),
        train_per_class=TRAIN_PER_CLASS,
        test_per_class=TEST_PER_CLASS,
        is_augmented=False,
        setting="general-continual",
        write_files=write_files,
    )
}

TARGETS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), [60] * 5 + [120] * 5))


def test_two_digits_at_a_time_three_times_around():
    digits = TARGETS[stream_order(TARGETS)]
    assert len(digits) == 60 * 5 + 120 * 4
    changes = [set(digits[:20].tolist())]
    first = 0
    segments = []
    for _ in range(3):
        for digit in range(9):
            size = sum((60 if d < 5 else 120) // 6 for d in (digit, (digit + 1) % 9))
            segments.append(digits[first : first + size])
            first += size
    assert first == len(digits)
    for number, segment in enumerate(segments):
        pair = {number % 9, (number + 1) % 9}
        assert set(segment.tolist()) == pair
    assert changes[0] == {0, 1}


def test_pairs_alternate_in_proportion():
    digits = TARGETS[stream_order(TARGETS)]
    # The pair (4, 5) has 10 and 20 images: every three consecutive ones contain one 4.
    start = 4 * 20
    pair = digits[start : start + 30].reshape(10, 3)
    assert ((pair == 4).sum(1) == 1).all()


def test_every_image_appears_once_and_nine_is_left_out():
    order = stream_order(TARGETS)
    assert sorted(order) == np.flatnonzero(TARGETS < 9).tolist()


def test_digits_turn_once_around():
    digits = TARGETS[stream_order(TARGETS)]
    turned = angles(digits)
    for digit in range(9):
        steps = turned[digits == digit]
        assert steps[0] == (digit - 1) * 60 % 360
        assert np.allclose(np.diff(steps) % 360, 360 / len(steps))


def test_images_are_rotated_and_in_order(tmp_path, monkeypatch):
    write_files(tmp_path, monkeypatch)
    dataset = build_dataset("mnist-360", tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (780, 28, 28), np.uint8)
    targets = TARGETS[:780]
    monkeypatch.setattr(type(dataset), "read", lambda *_: (noise, targets))
    loader, test_loader = dataset.meta_get_data_loaders()
    order = stream_order(targets)
    labels = torch.cat([labels for _, labels, _ in loader])
    assert labels.tolist() == targets[order].tolist()  # not shuffled
    angle = angles(targets[order])[100]
    expected = Image.fromarray(noise[order[100]]).rotate(angle, Image.Resampling.BILINEAR)
    assert np.array_equal(loader.dataset.data[100], np.asarray(expected))
    assert sorted(set(test_loader.dataset.targets.tolist())) == list(range(9))


def test_trains_once_in_order_or_jointly(tmp_path, monkeypatch):
    write_files(tmp_path, monkeypatch)
    dataset_defaults = datasets["mnist-360"].target.DEFAULTS
    args = {"data_dir": str(tmp_path), "compile": "off", "buffer_size": 10, "lr": 0.01}
    results = train(*load_runner("er", "mnist-360", args))
    assert dataset_defaults["batch_size"] == 16
    assert results.train_images == [9 * TRAIN_PER_CLASS]
    assert [len(row) for row in results.class_il] == [1]
    with pytest.raises(ConfigError, match="--n_epochs 2: dataset 'mnist-360' is one pass"):
        load_runner("er", "mnist-360", {**args, "n_epochs": 2})
    args.pop("buffer_size")
    joint = train(*load_runner("joint", "mnist-360", {**args, "n_epochs": 2}))
    assert joint.train_images == [2 * 9 * TRAIN_PER_CLASS]
