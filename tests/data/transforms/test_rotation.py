"""Rotation of a batch against Pillow and torchvision, with the same angles."""

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as v1
from torchvision.transforms.v2 import functional as v2

from mammoth_compiled.data.transforms.rotation import rotate_pillow, rotate_tensor

ROUND = [0, 90, 180, 270, -90, -180, 360, 30, 60, 120, 1, -1, 359]
SHAPES = [(3, 32, 32), (1, 28, 28), (3, 17, 30), (1, 1, 5)]
MODES = {False: InterpolationMode.NEAREST, True: InterpolationMode.BILINEAR}

each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_mode = pytest.mark.parametrize("bilinear", [False, True], ids=["nearest", "bilinear"])
each_center = pytest.mark.parametrize("center", [None, (5, 9.5), (-3, 40)], ids=str)


def angles(n, *given):
    return torch.cat([torch.tensor(given, dtype=torch.float32), torch.empty(n).uniform_(-400, 400)])


def bytes_of(n, shape):
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8)


def with_pillow(images, degrees, bilinear, center, fill):
    return torch.stack(
        [
            v1.pil_to_tensor(
                v1.rotate(v1.to_pil_image(image), d, MODES[bilinear], center=center, fill=fill)
            )
            for image, d in zip(images, degrees.tolist(), strict=True)
        ]
    )


@each_shape
@each_mode
@each_center
def test_equals_pillow(shape, bilinear, center):
    degrees = angles(100, *ROUND)
    images = bytes_of(len(degrees), shape)
    expected = with_pillow(images, degrees, bilinear, center, 7)
    assert torch.equal(rotate_pillow(images, degrees, bilinear, center, 7), expected)


def test_nearest_at_45_degrees_equals_pillow():
    degrees = torch.arange(-360.0, 361, 45)
    images = bytes_of(len(degrees), (3, 32, 32))
    assert torch.equal(rotate_pillow(images, degrees), with_pillow(images, degrees, False, None, 0))


def test_bilinear_at_45_degrees_is_within_one_level_of_pillow():
    degrees = torch.arange(-360.0, 361, 45).repeat(10)
    images = bytes_of(len(degrees), (3, 32, 32))
    expected = with_pillow(images, degrees, True, None, 0)
    distance = (rotate_pillow(images, degrees, True).int() - expected.int()).abs()
    assert distance.max() <= 1
    assert (distance > 0).float().mean() < 1e-3


@pytest.mark.parametrize("functional", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
@each_shape
@each_mode
def test_tensors_equal_torchvision(functional, dtype, shape, bilinear):
    # Right angles are excluded: if a side is odd, they sample halfway between pixels.
    degrees = angles(100, 1, -1, 30, 359)
    images = bytes_of(len(degrees), shape)
    fill = 7.0
    if dtype.is_floating_point:
        images, fill = images / 255, 0.25
    expected = torch.stack(
        [
            functional.rotate(image, d, MODES[bilinear], fill=[fill] * shape[0])
            for image, d in zip(images, degrees.tolist(), strict=True)
        ]
    )
    actual = rotate_tensor(images, degrees, bilinear, fill=fill)
    assert actual.dtype == dtype
    close = 1.0 if dtype == torch.uint8 else 1e-5
    far = (actual.double() - expected.double()).abs() > close
    # Rounding may select another pixel that lies halfway, in fewer than one image of a hundred.
    assert far.flatten(1).any(1).sum() <= (0 if bilinear else 1)


def test_tensors_rotate_about_a_given_center():
    degrees = angles(50)
    images = torch.rand(50, 3, 20, 24)
    expected = torch.stack(
        [
            v1.rotate(image, d, MODES[True], center=[3, 8.5], fill=[0.0] * 3)
            for image, d in zip(images, degrees.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(
        rotate_tensor(images, degrees, True, (3, 8.5)), expected, rtol=0, atol=1e-5
    )
