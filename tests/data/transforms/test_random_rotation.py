"""Batched RandomRotation against torchvision, with the same angles."""

import numpy as np
import pytest
import torch
from photos import photos, transform_batch, transform_each
from torchvision import transforms as v1
from torchvision.transforms import v2

from mammoth_compiled.data.transforms import CannotBatchError, batch_transform, rotation


@pytest.fixture
def angles(monkeypatch):
    """Returns a list that collects the angles drawn by the batched RandomRotation."""
    drawn = []
    for name in ("rotate_pillow", "rotate_tensor"):
        real = getattr(rotation, name)

        def spy(images, degrees, *rest, real=real):
            drawn.extend(degrees.tolist())
            return real(images, degrees, *rest)

        monkeypatch.setattr(rotation, name, spy)
    return drawn


def transform_with_angles(transform, angles, monkeypatch, images):
    """Applies RandomRotation of torchvision to each image with a given angle."""
    remaining = iter(angles)
    monkeypatch.setattr(v1.RandomRotation, "get_params", staticmethod(lambda *_: next(remaining)))
    monkeypatch.setattr(v2.RandomRotation, "make_params", lambda *_: {"angle": next(remaining)})
    return transform_each(transform, images)


@pytest.mark.parametrize("version", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"degrees": 10},
        {"degrees": (90, 90)},
        {"degrees": (-30, 200), "interpolation": v1.InterpolationMode.BILINEAR},
        {"degrees": 45, "center": (3, 4), "fill": 9},
    ],
    ids=str,
)
def test_equals_pillow(version, arguments, angles, monkeypatch):
    images, transform = photos(12), version.RandomRotation(**arguments)
    actual = transform_batch(transform, images)
    assert len(angles) == 12
    expected = transform_with_angles(transform, angles, monkeypatch, images)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("version", [v1, v2], ids=["v1", "v2"])
def test_tensors_equal_torchvision(version, angles, monkeypatch):
    images = photos(12)
    transform = version.Compose(
        [v1.ToTensor(), version.RandomRotation(40, v1.InterpolationMode.BILINEAR, fill=0.5)]
    )
    actual = batch_transform(transform)(torch.from_numpy(images).permute(0, 3, 1, 2))
    expected = transform_with_angles(transform, angles, monkeypatch, images)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_angles_are_uniform(angles):
    n = 4000
    transform_batch(v1.RandomRotation((-20, 60)), np.zeros((n, 1, 1, 3), np.uint8))
    steps = (np.sort(angles) + 20) / 80
    assert np.abs(steps - np.arange(n) / n).max() < 2.23 / n**0.5  # Kolmogorov-Smirnov, 1e-4


def test_fractional_fill_is_rejected_for_pil_images():
    transform = v1.RandomRotation(9, fill=0.5)
    with pytest.raises(CannotBatchError, match=r"fill 0\.5"):
        batch_transform(transform)
    batch_transform(v1.Compose([v1.ToTensor(), transform]))


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (v1.RandomRotation(9, expand=True), "RandomRotation with expand"),
        (v2.RandomRotation(9, v2.InterpolationMode.BICUBIC), "interpolation bicubic"),
        (v1.RandomRotation(9, fill=(1, 2, 3)), "fill per channel"),
        (v2.RandomRotation(9, fill=None), "fill per channel"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unsupported_options_are_named(transform, reason):
    with pytest.raises(CannotBatchError, match=reason):
        batch_transform(v1.Compose([v1.ToTensor(), transform]))
