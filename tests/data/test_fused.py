"""Fused batches: which transforms the kernel computes, and that they equal torchvision."""

import numpy as np
import pytest
import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from mammoth_compiled.data import TaskLoader, array_source
from mammoth_compiled.data.fused import FusedTransform, fuse_transform

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
TAIL = [v1.ToTensor(), v1.Normalize(MEAN, STD)]
CROP, FLIP = v1.RandomCrop((6, 5), padding=(1, 2)), v1.RandomHorizontalFlip(0.3)
NORMALIZED = {"mean": MEAN, "std": STD}
CROPPED = {"size": (6, 5), "padding": (1, 1, 2, 2)}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (TAIL, FusedTransform(**NORMALIZED)),
        ([v1.ToTensor()], FusedTransform()),
        ([CROP, FLIP, *TAIL], FusedTransform(**CROPPED, flip=0.3, **NORMALIZED)),
        ([FLIP, CROP, *TAIL], FusedTransform(**CROPPED, flip=0.3, **NORMALIZED)),
        ([v1.Compose([CROP]), v2.Compose(TAIL)], FusedTransform(**CROPPED, **NORMALIZED)),
        ([v1.RandomCrop(4, padding=[1, 2, 3, 4], fill=7), *TAIL],
         FusedTransform(size=(4, 4), padding=(1, 3, 2, 4), fill=7, **NORMALIZED)),
        ([v2.RandomCrop(4, padding=[1, 2, 3, 4]), *TAIL],
         FusedTransform(size=(4, 4), padding=(1, 3, 2, 4), **NORMALIZED)),
        ([v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)],
         FusedTransform(flip=0.5)),
    ],
    ids=str,
)  # fmt: skip
def test_parameters_of_fusible_transforms(parts, expected):
    assert fuse_transform(v1.Compose(parts)) == expected


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [v1.Normalize(MEAN, STD)],
        [CROP, CROP, *TAIL],
        [FLIP, FLIP, *TAIL],
        [*TAIL, FLIP],
        [v1.ToPILImage(), *TAIL],
        [v1.ColorJitter(0.1), *TAIL],
        [v1.RandomCrop(4, padding_mode="reflect", padding=1), *TAIL],
        [v1.RandomCrop(4, pad_if_needed=True), *TAIL],
        [v1.RandomCrop(4, fill=(1, 2, 3), padding=1), *TAIL],
        [v1.RandomCrop(4, fill=0.5, padding=1), *TAIL],
        [v2.ToImage(), v2.ToDtype(torch.float32)],
        [v2.ToImage(), v2.ToDtype(torch.float64, scale=True)],
    ],
    ids=str,
)
def test_other_transforms_are_not_fused(parts):
    assert fuse_transform(v1.Compose(parts)) is None


@pytest.fixture
def images(tiny):
    """Returns a function that builds a dataset of random images."""

    def make(transform, shape=(8, 7, 3), n=24):
        data = np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)
        return tiny.Split(data, np.arange(n) % 3, transform)

    return make


@pytest.fixture
def loader(monkeypatch):
    """Returns a function that builds a loader that uses the operator; on a CPU, its reference."""
    monkeypatch.setattr(array_source, "supports_triton", lambda device: True)
    return lambda dataset, shuffle=False: TaskLoader(dataset, 10, shuffle, CPU)


@pytest.mark.parametrize("shape", [(8, 7, 3), (8, 7)], ids=str)
@pytest.mark.parametrize("tail", [TAIL[:1], [v1.ToTensor(), v1.Normalize(0.4, 0.2)]], ids=str)
def test_deterministic_batches_equal_the_items_of_the_dataset(loader, images, shape, tail):
    dataset = images(v1.Compose(tail), shape)
    batches = loader(dataset)
    assert batches.is_fused
    for actual, expected in zip(
        batches, torch.utils.data.DataLoader(dataset, 10, shuffle=False), strict=True
    ):
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
            assert a.is_contiguous()


def test_every_crop_and_flip_is_one_of_torchvision(loader, images):
    dataset = images(
        v1.Compose([v1.RandomCrop(8, padding=1), v1.RandomHorizontalFlip(), *TAIL[:1]]), (8, 8, 3)
    )
    possible = {}
    for k, image in enumerate(dataset.data):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        crops = [padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
        possible[k] = {c.tobytes() for crop in crops for c in (crop, crop[:, ::-1].copy())}
    seen = set()
    batches = loader(dataset)
    for _ in range(4):
        inputs = torch.cat([batch[0] for batch in batches])
        for k, image in enumerate(inputs):
            found = (image.permute(1, 2, 0) * 255).round().byte().numpy().tobytes()
            assert found in possible[k]
            seen.add((k, found))
    assert len(seen) > 3 * len(dataset)


def test_epochs_and_batches_differ_and_follow_the_seed(loader, images):
    batches = loader(images(v1.Compose([CROP, *TAIL])))

    def epoch(seed=None):
        if seed is not None:
            torch.manual_seed(seed)
        return torch.cat([batch[0] for batch in batches])

    first, second = epoch(3), epoch()
    assert not torch.equal(first, second)
    assert torch.equal(epoch(3), first)
    same = images(v1.Compose([CROP, *TAIL]))
    same.data[:] = same.data[:1]
    one, other, *_ = (batch[0] for batch in loader(same))
    assert not torch.equal(one, other)


def test_deterministic_transform_draws_no_random_numbers(loader, images):
    before = torch.get_rng_state()
    list(loader(images(v1.Compose(TAIL))))
    assert torch.equal(torch.get_rng_state(), before)
