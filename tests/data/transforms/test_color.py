"""Colors of a batch against Pillow and torchvision, with the same factors and orders."""

from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as v1
from torchvision.transforms.v2 import functional as v2

from mammoth_compiled.data.transforms.color import (
    BYTES,
    FLOATS,
    PILLOW,
    jitter,
    pillow_hsv,
    pillow_rgb,
)

ORDERS = torch.tensor(list(permutations(range(4))))
RANGES = ((0.0, 2.5), (0.0, 2.5), (0.0, 2.5), (-0.5, 0.5))


@pytest.fixture
def images():
    """Two images for each order: noise, and uniform regions in black, white and primary colors."""
    noise = torch.randint(0, 256, (len(ORDERS), 3, 7, 6), dtype=torch.uint8)
    flat = torch.randint(0, 2, (len(ORDERS), 3, 7, 6), dtype=torch.uint8) * 255
    return torch.cat([noise, flat])


def draw(n):
    return [torch.empty(n).uniform_(*bounds) for bounds in RANGES]


def one_by_one(image, order, factors, functional):
    """Applies the steps of ColorJitter to one image, without those whose factor is None."""
    steps = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    for kind in order.tolist():
        if factors[kind] is not None:
            image = steps[kind](image, float(factors[kind]))
    return image


def jitter_each(images, orders, factors, functional):
    rows = []
    for i, image in enumerate(images):
        own = [None if f is None else f[i] for f in factors]
        rows.append(one_by_one(image, orders[i], own, functional))
    return rows


def to_pillow(images):
    return [v1.to_pil_image(image) for image in images]


def from_pillow(images):
    return torch.stack([v1.pil_to_tensor(image) for image in images])


@pytest.mark.parametrize("functional", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_order_equals_pillow(images, functional, channels):
    images, orders = images[:, :channels], ORDERS.repeat(2, 1)
    factors = draw(len(images))
    expected = from_pillow(jitter_each(to_pillow(images), orders, factors, functional))
    assert torch.equal(jitter(images, orders, factors, PILLOW), expected)


@pytest.mark.parametrize("given", [(0,), (1,), (2,), (3,), (0, 2), (1, 3), (0, 1, 2)], ids=str)
def test_skipped_steps(images, given):
    orders = ORDERS.repeat(2, 1)
    factors = [f if k in given else None for k, f in enumerate(draw(len(images)))]
    expected = from_pillow(jitter_each(to_pillow(images), orders, factors, v1))
    assert torch.equal(jitter(images, orders, factors, PILLOW), expected)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.0, 1e6])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_special_factors(images, kind, factor):
    orders = ORDERS.repeat(2, 1)
    factors = [torch.full((len(images),), factor) if k == kind else None for k in range(4)]
    expected = from_pillow(jitter_each(to_pillow(images), orders, factors, v1))
    assert torch.equal(jitter(images, orders, factors, PILLOW), expected)


def test_contrast_rounds_the_mean_like_pillow():
    # Means of two pixels: half a level is rounded up.
    pairs = torch.cartesian_prod(torch.arange(0, 256, 5), torch.arange(0, 256, 7)).byte()
    images = pairs.view(-1, 1, 1, 2)
    factors = [None, torch.full((len(images),), 0.0), None, None]
    orders = ORDERS[:1].expand(len(images), 4)
    expected = from_pillow(jitter_each(to_pillow(images), orders, factors, v1))
    assert torch.equal(jitter(images, orders, factors, PILLOW), expected)


def triples(step):
    """Returns all triples of bytes whose first is a multiple of `step`, [n, 3, 256, 256]."""
    first = torch.arange(0, 256, step).view(-1, 1, 1)
    second, third = torch.arange(256).view(1, -1, 1), torch.arange(256).view(1, 1, -1)
    return torch.stack(torch.broadcast_tensors(first, second, third), 1).float()


def convert(rows, source, target):
    pictures = rows.byte().permute(0, 2, 3, 1).contiguous().numpy()
    results = [Image.frombuffer(source, p.shape[1::-1], p).convert(target) for p in pictures]
    return torch.from_numpy(np.stack([np.asarray(r) for r in results])).permute(0, 3, 1, 2)


# Multiples of 15 as red or hue with all values of the other two; all 2^24 would take 10 s.
def test_hsv_equals_pillow():
    colors = triples(15)
    actual = torch.stack(pillow_hsv(colors), 1).byte()
    assert torch.equal(actual, convert(colors, "RGB", "HSV"))
    assert torch.equal(pillow_rgb(*colors.unbind(1)).byte(), convert(colors, "HSV", "RGB"))


def test_all_hues_and_rotations():
    hues = torch.arange(256).view(1, 1, 256).expand(1, 1, 256)
    full = torch.full_like(hues, 255)
    wheel = pillow_rgb(hues.float(), full.float(), full.float()).byte()
    turns = torch.linspace(-0.5, 0.5, 511)
    images, orders = wheel.expand(511, 3, 1, 256), ORDERS[:1].expand(511, 4)
    expected = [v1.adjust_hue(v1.to_pil_image(wheel[0]), float(turn)) for turn in turns]
    actual = jitter(images, orders, [None, None, None, turns], PILLOW)
    assert torch.equal(actual, from_pillow(expected))


@pytest.mark.parametrize("functional", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_floats_equal_torchvision(images, functional, channels):
    images, orders = images[:, :channels].float() / 255, ORDERS.repeat(2, 1)
    factors = draw(len(images))
    expected = torch.stack(jitter_each(images, orders, factors, functional))
    torch.testing.assert_close(jitter(images, orders, factors, FLOATS), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("functional", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("kind", range(4))
def test_bytes_are_within_one_level_of_torchvision(images, functional, kind):
    orders = ORDERS.repeat(2, 1)
    factors = [f if k == kind else None for k, f in enumerate(draw(len(images)))]
    expected = torch.stack(jitter_each(images, orders, factors, functional))
    actual = jitter(images, orders, factors, BYTES)
    assert actual.dtype == torch.uint8
    distance = (actual.int() - expected.int()).abs()
    assert distance.max() <= 1
    assert (distance > 0).float().mean() < 1e-3


def test_input_is_not_modified(images):
    before = images.clone()
    jitter(images, ORDERS.repeat(2, 1), draw(len(images)), PILLOW)
    floats = images.float() / 255
    kept = floats.clone()
    jitter(floats, ORDERS.repeat(2, 1), draw(len(images)), FLOATS)
    assert torch.equal(images, before)
    assert torch.equal(floats, kept)
