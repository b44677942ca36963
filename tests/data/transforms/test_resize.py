"""Batched resizing against torchvision on PIL images."""

import numpy as np
import pytest
import torch
from photos import photos, transform_batch, transform_each
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import functional as tv
from torchvision.transforms import v2

from mammoth_compiled.data.transforms import CannotBatchError, batch_transform
from mammoth_compiled.data.transforms.resize import Boxes, crop_resize, random_boxes


@pytest.mark.parametrize("version", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("size", [20, 64, (64, 50), (11, 90), (37, 29), (1, 1)], ids=str)
def test_resize_is_within_one_level_of_pillow(version, size):
    images = photos()
    expected = transform_each(version.Resize(size), images)
    actual = transform_batch(version.Resize(size), images)
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected).max() <= 1


def test_crop_resize_uses_one_box_per_image():
    images = photos(5)
    boxes = [(3, 2, 20, 15), (0, 0, 37, 29), (10, 5, 9, 20), (5, 7, 30, 3), (36, 28, 1, 1)]
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    actual = (
        crop_resize(tensor, Boxes(*torch.tensor(boxes).unbind(1)), (32, 24))
        .permute(0, 2, 3, 1)
        .numpy()
    )
    for k, box in enumerate(boxes):
        expected = np.asarray(tv.resized_crop(Image.fromarray(images[k]), *box, (32, 24)))
        assert np.abs(actual[k].astype(int) - expected).max() <= 1


def test_float_images_are_not_rounded():
    image = torch.tensor([[[[0.0, 1.0]]]])
    one = torch.ones(1)
    actual = crop_resize(image, Boxes(0 * one, 0 * one, one, 2 * one), (1, 4))
    torch.testing.assert_close(actual, torch.tensor([[[[0.0, 0.25, 0.75, 1.0]]]]))


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [(40, 30, (0.08, 1.0), (0.75, 4 / 3)), (20, 60, (0.5, 1.0), (0.5, 2.0))],
)
def test_random_boxes_have_torchvisions_distribution(height, width, scale, ratio):
    n = 4000
    image = torch.zeros(3, height, width)
    draw = v1.RandomResizedCrop.get_params
    expected = np.array([draw(image, scale, ratio) for _ in range(n)], dtype=float)
    actual = torch.stack(random_boxes(n, height, width, scale, ratio), 1).numpy().astype(float)
    assert (actual[:, 0] + actual[:, 2] <= height).all()
    assert (actual[:, 1] + actual[:, 3] <= width).all()
    for column in range(4):
        # Two-sample Kolmogorov-Smirnov test at 1e-4.
        grid = np.unique(np.concatenate([expected[:, column], actual[:, column]]))
        below = [
            np.searchsorted(np.sort(x[:, column]), grid, "right") / n for x in (expected, actual)
        ]
        assert np.abs(below[0] - below[1]).max() < 2.23 * (2 / n) ** 0.5


def test_box_falls_back_to_the_center():
    # If none of ten boxes fits, torchvision takes the largest central one.
    expected = v1.RandomResizedCrop.get_params(torch.zeros(3, 10, 100), (5.0, 5.0), (1.0, 1.0))
    actual = random_boxes(3, 10, 100, (5.0, 5.0), (1.0, 1.0))
    assert [tuple(int(side) for side in box) for box in zip(*actual, strict=True)] == [expected] * 3


def test_random_resized_crop_has_its_own_box_for_each_image():
    images = np.repeat(photos(1), 8, axis=0)
    result = transform_batch(v1.RandomResizedCrop(16), images)
    assert result.shape == (8, 16, 16, 3)
    assert len({image.tobytes() for image in result}) == 8


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (v1.Resize(8, interpolation=v1.InterpolationMode.NEAREST), "nearest"),
        (v2.Resize(8, interpolation=v2.InterpolationMode.BICUBIC), "bicubic"),
        (v1.Resize(8, max_size=9), "max_size"),
        (v1.RandomResizedCrop(8, antialias=False), "antialias"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unsupported_options_are_named(transform, reason):
    with pytest.raises(CannotBatchError, match=reason):
        batch_transform(v1.Compose([v1.ToTensor(), transform]))


def test_random_boxes_are_drawn_on_the_device():
    # A box from the host would be the same in every replay of a captured step.
    boxes = random_boxes(3, 10, 20, (0.1, 1.0), (0.5, 2.0), torch.device("meta"))
    assert all(side.is_meta and side.shape == (3,) for side in boxes)
