"""Batched ColorJitter against torchvision, with the same random parameters."""

from collections import Counter
from itertools import permutations
from math import sqrt

import pytest
import torch
from frequencies import assert_frequencies
from torchvision import transforms as v1
from torchvision.transforms import functional as vision
from torchvision.transforms import v2

from mammoth_compiled.data.transforms import batch_transform, color_jitter


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 3, 5, 4), dtype=torch.uint8)


@pytest.fixture
def jitter_draws(monkeypatch):
    """Returns a list that collects the (order, factors) drawn by the batched ColorJitter."""
    draws, real = [], color_jitter.jitter

    def spy(images, order, factors, arithmetic):
        draws.append((order, factors))
        return real(images, order, factors, arithmetic)

    monkeypatch.setattr(color_jitter, "jitter", spy)
    return draws


def transform_with_draw(transform, draw, monkeypatch, images):
    """Applies ColorJitter of torchvision to PIL images, each with its row of a batched draw."""
    order, factors = draw
    rows = iter(range(len(order)))

    def row(*_):
        i = next(rows)
        return order[i], *(None if f is None else float(f[i]) for f in factors)

    def params(*_):
        names = (
            "fn_idx",
            *(f"{k}_factor" for k in ("brightness", "contrast", "saturation", "hue")),
        )
        return dict(zip(names, row(), strict=True))

    monkeypatch.setattr(v1.ColorJitter, "get_params", staticmethod(row))
    monkeypatch.setattr(v2.ColorJitter, "make_params", params)
    return torch.stack([transform(vision.to_pil_image(image)) for image in images])


@pytest.mark.parametrize("version", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize(
    ("ranges", "channels"), [((0.4, 0.4, 0.4, 0.1), 3), ((0.8, 0, 0.5, 0), 3), ((2, 2, 2, 0.5), 1)]
)
def test_pil_images_are_exact(version, ranges, channels, images, jitter_draws, monkeypatch):
    images = images[:, :channels]
    transform = version.Compose([version.ColorJitter(*ranges), v1.ToTensor()])
    actual = batch_transform(transform)(images)
    expected = transform_with_draw(transform, jitter_draws[0], monkeypatch, images)
    assert torch.equal(actual, expected)


LEVEL = 1.001 / 255


@pytest.mark.parametrize(
    ("steps", "bound"),
    [
        ([v1.ToTensor(), v1.ColorJitter(0.4, 0.4, 0.4, 0.1)], 1e-5),
        ([v1.ToTensor(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 1e-5),
        ([v2.ToImage(), v2.ColorJitter(0.4), v2.ToDtype(torch.float32, scale=True)], LEVEL),
        ([v1.PILToTensor(), v1.ColorJitter(0, 2), v1.ConvertImageDtype(torch.float32)], LEVEL),
        ([v1.ToTensor(), v1.ToPILImage(), v1.ColorJitter(0.4, 1, 1, 0.1), v1.ToTensor()], 0),
    ],
    ids=["floats v1", "floats v2", "bytes v2", "bytes v1", "back to PIL"],
)
def test_tensors_are_within_rounding(steps, bound, images, jitter_draws, monkeypatch):
    transform = v2.Compose(steps)
    actual = batch_transform(transform)(images)
    expected = transform_with_draw(transform, jitter_draws[0], monkeypatch, images)
    torch.testing.assert_close(actual, expected.as_subclass(torch.Tensor), rtol=0, atol=bound)


def test_byte_tensors_are_rounded_unlike_pil_images(images, jitter_draws, monkeypatch):
    # Pillow rounds gray levels and torchvision truncates them.
    transform = v1.ColorJitter(saturation=(0.0, 0.0))
    actual = batch_transform(transform, is_pil=False)(images)
    assert torch.equal(actual, torch.stack([transform(image) for image in images]))
    assert not torch.equal(actual, batch_transform(transform)(images))


def test_distribution_is_that_of_torchvision(jitter_draws):
    n, transform = 4800, v1.ColorJitter(0.4, (0.5, 0.9), 3, 0.2)
    batch_transform(transform)(torch.zeros(n, 3, 1, 1, dtype=torch.uint8))
    order, factors = jitter_draws[0]
    counts = Counter(map(tuple, order.tolist()))
    assert_frequencies(counts, dict.fromkeys(permutations(range(4)), 1 / 24), n)
    for values, (low, high) in zip(
        factors, [(0.6, 1.4), (0.5, 0.9), (0, 4), (-0.2, 0.2)], strict=True
    ):
        # Kolmogorov-Smirnov against the uniform distribution, at 1e-4.
        steps = ((values - low) / (high - low)).sort().values
        assert (steps - torch.arange(n) / n).abs().max() < 2.23 / sqrt(n)
    # Factors and order are independent.
    table = torch.corrcoef(torch.stack([*factors, order[:, 0].float()]))
    assert (table - torch.eye(5)).abs().max() < 5 / sqrt(n)
