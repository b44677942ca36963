"""Batched resizing and cropping against torchvision on Pillow images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import functional as tv
from torchvision.transforms import v2

from mammoth_compiled.data import geometry
from mammoth_compiled.data.geometry import CannotBatchError, _random_boxes
from mammoth_compiled.data.transforms import batch_transform
from mammoth_compiled.data.resampling import crop_resize


def photos(n=4, height=37, width=29):
    """Smooth images with some noise, like photographs."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 5, 4, 3), dtype=np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(c).resize((width, height))) for c in coarse])
    return np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def one_by_one(transform, images):
    return np.stack([np.asarray(transform(Image.fromarray(image))) for image in images])


def batched(transform, images):
    result = batch_transform(transform)(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert result.dtype == torch.uint8
    return result.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("version", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("size", [20, 64, (64, 50), (11, 90), (37, 29), (1, 1)], ids=str)
def test_resize_is_within_one_level_of_pillow(version, size):
    images = photos()
    want = one_by_one(version.Resize(size), images)
    got = batched(version.Resize(size), images)
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).max() <= 1


@pytest.mark.parametrize("version", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("size", [20, 33, (50, 17), (18, 60), (50, 61)], ids=str)
def test_centre_crop_is_pillows(version, size):
    images = photos()
    want = one_by_one(version.CenterCrop(size), images)
    np.testing.assert_array_equal(batched(version.CenterCrop(size), images), want)


def test_each_image_has_its_own_box():
    images = photos(5)
    boxes = [(3, 2, 20, 15), (0, 0, 37, 29), (10, 5, 9, 20), (5, 7, 30, 3), (36, 28, 1, 1)]
    top, left, height, width = torch.tensor(boxes).unbind(1)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    got = crop_resize(tensor, top, left, height, width, (32, 24)).permute(0, 2, 3, 1).numpy()
    for k, box in enumerate(boxes):
        want = np.asarray(tv.resized_crop(Image.fromarray(images[k]), *box, (32, 24)))
        assert np.abs(got[k].astype(int) - want).max() <= 1


def test_float_images_are_not_rounded():
    image = torch.tensor([[[[0.0, 1.0]]]])
    one = torch.ones(1)
    got = crop_resize(image, 0 * one, 0 * one, one, 2 * one, (1, 4))
    torch.testing.assert_close(got, torch.tensor([[[[0.0, 0.25, 0.75, 1.0]]]]))


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [(40, 30, (0.08, 1.0), (0.75, 4 / 3)), (20, 60, (0.5, 1.0), (0.5, 2.0))],
)
def test_random_boxes_have_torchvisions_distribution(height, width, scale, ratio):
    n = 4000
    image = torch.zeros(3, height, width)
    draw = v1.RandomResizedCrop.get_params
    want = np.array([draw(image, scale, ratio) for _ in range(n)], dtype=float)
    got = torch.stack(_random_boxes(n, height, width, scale, ratio), 1).numpy().astype(float)
    assert (got[:, 0] + got[:, 2] <= height).all()
    assert (got[:, 1] + got[:, 3] <= width).all()
    for column in range(4):
        # The largest distance of two empirical distributions (Kolmogorov-Smirnov), at 1e-4.
        grid = np.unique(np.concatenate([want[:, column], got[:, column]]))
        below = [np.searchsorted(np.sort(x[:, column]), grid, "right") / n for x in (want, got)]
        assert np.abs(below[0] - below[1]).max() < 2.23 * (2 / n) ** 0.5


def test_box_falls_back_to_the_centre():
    # No box of this shape fits ten times out of ten: torchvision takes the largest central one.
    want = v1.RandomResizedCrop.get_params(torch.zeros(3, 10, 100), (5.0, 5.0), (1.0, 1.0))
    got = _random_boxes(3, 10, 100, (5.0, 5.0), (1.0, 1.0))
    assert [tuple(int(side) for side in box) for box in zip(*got, strict=True)] == [want] * 3


def test_random_resized_crop_gives_the_size_and_differs_per_image():
    images = np.repeat(photos(1), 8, axis=0)
    result = batched(v1.RandomResizedCrop(16), images)
    assert result.shape == (8, 16, 16, 3)
    assert len({image.tobytes() for image in result}) == 8


@pytest.fixture
def angles(monkeypatch):
    """Returns a list of the angles that RandomRotation's batched code has drawn."""
    drawn = []
    for name in ("rotate_pillow", "rotate_tensor"):
        real = getattr(geometry, name)

        def spy(images, degrees, *rest, real=real):
            drawn.extend(degrees.tolist())
            return real(images, degrees, *rest)

        monkeypatch.setattr(geometry, name, spy)
    return drawn


def with_these_angles(transform, angles, monkeypatch, images):
    remaining = iter(angles)
    monkeypatch.setattr(v1.RandomRotation, "get_params", staticmethod(lambda *_: next(remaining)))
    monkeypatch.setattr(v2.RandomRotation, "make_params", lambda *_: {"angle": next(remaining)})
    return one_by_one(transform, images)


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
def test_rotation_is_pillows(version, arguments, angles, monkeypatch):
    images, transform = photos(12), version.RandomRotation(**arguments)
    got = batched(transform, images)
    assert len(angles) == 12
    want = with_these_angles(transform, angles, monkeypatch, images)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("version", [v1, v2], ids=["v1", "v2"])
def test_rotation_of_tensors_is_torchvisions(version, angles, monkeypatch):
    images = photos(12)
    transform = version.Compose(
        [v1.ToTensor(), version.RandomRotation(40, v1.InterpolationMode.BILINEAR, fill=0.5)]
    )
    got = batch_transform(transform)(torch.from_numpy(images).permute(0, 3, 1, 2))
    want = with_these_angles(transform, angles, monkeypatch, images)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_angles_are_uniform(angles):
    n = 4000
    batched(v1.RandomRotation((-20, 60)), np.zeros((n, 1, 1, 3), np.uint8))
    steps = (np.sort(angles) + 20) / 80
    assert np.abs(steps - np.arange(n) / n).max() < 2.23 / n**0.5  # Kolmogorov-Smirnov, 1e-4


def test_pil_images_take_no_fraction_as_fill():
    transform = v1.RandomRotation(9, fill=0.5)
    with pytest.raises(CannotBatchError, match=r"fill 0\.5"):
        batch_transform(transform)
    batch_transform(v1.Compose([v1.ToTensor(), transform]))


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (v1.Resize(8, interpolation=v1.InterpolationMode.NEAREST), "nearest"),
        (v2.Resize(8, interpolation=v2.InterpolationMode.BICUBIC), "bicubic"),
        (v1.Resize(8, max_size=9), "max_size"),
        (v1.RandomResizedCrop(8, antialias=False), "antialias"),
        (v1.RandomRotation(9, expand=True), "RandomRotation with expand"),
        (v2.RandomRotation(9, v2.InterpolationMode.BICUBIC), "interpolation bicubic"),
        (v1.RandomRotation(9, fill=(1, 2, 3)), "fill per channel"),
        (v2.RandomRotation(9, fill=None), "fill per channel"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_turned_is_named(transform, reason):
    with pytest.raises(CannotBatchError, match=reason):
        batch_transform(v1.Compose([v1.ToTensor(), transform]))
