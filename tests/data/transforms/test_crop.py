"""Batched crops and flips: the results and probabilities of torchvision."""

import numpy as np
import pytest
import torch
from frequencies import assert_frequencies, frequencies
from photos import photos, transform_batch, transform_each
from torchvision import transforms as v1
from torchvision.transforms import functional as vision
from torchvision.transforms import v2

from mammoth_compiled.data.transforms import batch_transform


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 3, 5, 4), dtype=torch.uint8)


@pytest.mark.parametrize("version", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize(
    ("size", "padding", "sides"),
    [
        ((3, 3), None, (0, 0, 0, 0)),
        (4, 1, (1, 1, 1, 1)),
        ((4, 3), (2, 1), (2, 1, 2, 1)),
        ((2, 5), (0, 1, 2, 3), (0, 1, 2, 3)),
    ],
)
def test_random_crop_has_the_distribution_of_torchvision(version, size, padding, sides):
    image = torch.arange(1, 25, dtype=torch.uint8).view(1, 4, 6)
    transform = version.RandomCrop(size, padding)
    height, width = transform.size
    padded = vision.pad(image, list(sides))
    rows, columns = padded.shape[1] - height + 1, padded.shape[2] - width + 1
    crops = [
        vision.crop(padded, top, left, height, width)
        for top in range(rows)
        for left in range(columns)
    ]
    probabilities = {key: c / len(crops) for key, c in frequencies(crops).items()}
    n = 150 * len(crops)
    seen = frequencies(batch_transform(transform)(image.repeat(n, 1, 1, 1)))
    assert_frequencies(seen, probabilities, n)
    assert set(frequencies(transform(image) for _ in range(200))) <= set(seen)


def test_random_crop_with_fill():
    image = torch.zeros(200, 1, 2, 2, dtype=torch.uint8)
    crops = batch_transform(v1.RandomCrop(2, padding=1, fill=9))(image)
    assert crops.unique().tolist() == [0, 9]


def test_crop_larger_than_the_image_is_rejected(images):
    with pytest.raises(ValueError, match=r"RandomCrop\(\(8, 8\)\) is larger than the padded image"):
        batch_transform(v1.RandomCrop(8, padding=1))(images)


@pytest.mark.parametrize("version", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_flip_has_the_given_probability(version, p):
    image = torch.arange(6, dtype=torch.uint8).view(1, 2, 3)
    n = 2000
    seen = frequencies(batch_transform(version.RandomHorizontalFlip(p))(image.repeat(n, 1, 1, 1)))
    plain, mirrored = ((tuple(i.flatten().tolist())) for i in (image, vision.hflip(image)))
    expected = {key: q for key, q in ((plain, 1 - p), (mirrored, p)) if q > 0}
    assert_frequencies(seen, expected, n)


def test_crop_and_flip_are_drawn_independently():
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 3, 3)
    transform = v1.Compose([v1.RandomCrop(3, padding=1), v1.RandomHorizontalFlip(), v1.ToTensor()])
    padded = vision.pad(image, [1, 1, 1, 1])
    crops = [vision.crop(padded, top, left, 3, 3) for top in range(3) for left in range(3)]
    results = [f(c).float().div(255) for c in crops for f in (lambda c: c, vision.hflip)]
    probabilities = {key: c / 18 for key, c in frequencies(results).items()}
    n = 18 * 150
    assert_frequencies(
        frequencies(batch_transform(transform)(image.repeat(n, 1, 1, 1))), probabilities, n
    )


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_crop_fused_with_flip_equals_the_two_in_sequence(images, p):
    crop, flip = v1.RandomCrop((3, 4), padding=2, fill=7), v1.RandomHorizontalFlip(p)
    torch.manual_seed(11)
    alone, after = batch_transform(flip)(batch_transform(crop)(images)), torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(batch_transform(v1.Compose([crop, flip]))(images), alone)
    assert torch.equal(torch.rand(3), after)


@pytest.mark.parametrize("version", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("size", [20, 33, (50, 17), (18, 60), (50, 61)], ids=str)
def test_center_crop_equals_pillow(version, size):
    images = photos()
    expected = transform_each(version.CenterCrop(size), images)
    np.testing.assert_array_equal(transform_batch(version.CenterCrop(size), images), expected)
