"""Batched transforms give what torchvision's give, image by image.

For random ones: the same set of results, each as often, and a draw of its own for every image.
"""

from collections import Counter
from itertools import permutations
from math import sqrt

import pytest
import torch
from torchvision import transforms as v1
from torchvision.transforms import functional as vision
from torchvision.transforms import v2

from mammoth_compiled.data import color_jitter
from mammoth_compiled.data.transforms import CannotBatchError, batch_transform


def one_by_one(transform, images):
    """What torchvision makes of bytes [B, C, H, W], each as the PIL image of a dataset."""
    return torch.stack([transform(vision.to_pil_image(image)) for image in images])


def frequencies(outputs):
    return Counter(tuple(image.flatten().tolist()) for image in outputs)


def assert_frequencies(seen, probabilities, n):
    """The same set, and each count within five standard deviations."""
    assert set(seen) == set(probabilities)
    for result, p in probabilities.items():
        assert abs(seen[result] - n * p) < 5 * sqrt(n * p * (1 - p)) + 1


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 3, 5, 4), dtype=torch.uint8)


@pytest.mark.parametrize("version", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_to_tensor_and_normalise_are_exact(version, channels):
    # All byte values.
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, channels, 1, 1)
    mean, std = (0.4914, 0.4822, 0.4465)[:channels], (0.2470, 0.2435, 0.2615)[:channels]
    transform = version.Compose([v1.ToTensor(), version.Normalize(mean, std)])
    assert torch.equal(batch_transform(transform)(images), one_by_one(transform, images))


@pytest.mark.parametrize(
    "steps",
    [
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.4,), (0.3,))],
        [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)],
        [v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)],
        [v1.PILToTensor()],
    ],
    ids=["v2", "v2 PILToTensor", "v1", "bytes"],
)
def test_other_ways_to_a_tensor(steps):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    transform = v2.Compose(steps)
    result, expected = batch_transform(transform)(images), one_by_one(transform, images)
    # v2.ToDtype multiplies by 1 / 255, which differs from a division in the last bit.
    torch.testing.assert_close(result, expected.as_subclass(torch.Tensor), rtol=3e-7, atol=5e-7)


def test_float_images_go_through_to_pil_image_as_in_torchvision():
    # What a buffer hands over: float images in [0, 1], as ToTensor made them and in between.
    exact = torch.arange(256).view(1, 1, 16, 16).float() / 255
    images = torch.cat([exact, torch.rand(3, 1, 16, 16)])
    transform = v1.Compose([v1.ToPILImage(), v1.ToTensor()])
    expected = torch.stack([transform(image) for image in images])
    assert torch.equal(batch_transform(transform)(images), expected)


def test_none_changes_nothing(images):
    assert torch.equal(batch_transform(None)(images), images)


def test_nested_compositions(images):
    inner = v1.Compose([v1.ToTensor()])
    transform = v1.Compose([v1.Compose([inner]), v1.Normalize((0.5,) * 3, (0.5,) * 3)])
    assert torch.equal(batch_transform(transform)(images), one_by_one(transform, images))


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
def test_random_crop_gives_torchvisions_set(version, size, padding, sides):
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


def test_crop_with_a_fill():
    image = torch.zeros(200, 1, 2, 2, dtype=torch.uint8)
    crops = batch_transform(v1.RandomCrop(2, padding=1, fill=9))(image)
    assert crops.unique().tolist() == [0, 9]


def test_crop_larger_than_the_image(images):
    with pytest.raises(ValueError, match=r"RandomCrop\(\(8, 8\)\) is larger than the padded image"):
        batch_transform(v1.RandomCrop(8, padding=1))(images)


@pytest.mark.parametrize("version", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_random_flip_as_often_as_asked(version, p):
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
def test_a_crop_with_a_flip_draws_as_the_two_alone(images, p):
    crop, flip = v1.RandomCrop((3, 4), padding=2, fill=7), v1.RandomHorizontalFlip(p)
    torch.manual_seed(11)
    alone, after = batch_transform(flip)(batch_transform(crop)(images)), torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(batch_transform(v1.Compose([crop, flip]))(images), alone)
    assert torch.equal(torch.rand(3), after)


def test_draws_follow_torchs_seed(images):
    transform = batch_transform(
        v1.Compose([v1.RandomCrop(4, padding=2), v1.RandomHorizontalFlip()])
    )
    torch.manual_seed(5)
    first = transform(images)
    torch.manual_seed(5)
    assert torch.equal(transform(images), first)


def test_input_is_left_alone(images):
    before = images.clone()
    everything = [v1.RandomCrop(4, padding=1), v1.RandomHorizontalFlip(1.0), v1.ToTensor()]
    batch_transform(v1.Compose([*everything, v1.Normalize((0.5,), (0.5,))]))(images)
    floats = torch.rand(2, 3, 4, 4)
    kept = floats.clone()
    batch_transform(v1.Compose([v1.ToTensor(), v1.Normalize((0.5,), (0.5,))]))(floats)
    assert torch.equal(images, before)
    assert torch.equal(floats, kept)


@pytest.fixture
def jitter_draws(monkeypatch):
    """Returns a list of the (order, factors) that ColorJitter's batched code has drawn."""
    draws, real = [], color_jitter.jitter

    def spy(images, order, factors, arithmetic):
        draws.append((order, factors))
        return real(images, order, factors, arithmetic)

    monkeypatch.setattr(color_jitter, "jitter", spy)
    return draws


def with_these_draws(transform, draw, monkeypatch, images):
    """What torchvision makes of bytes, each image with its row of a batched draw."""
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
    return one_by_one(transform, images)


@pytest.mark.parametrize("version", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize(
    ("ranges", "channels"), [((0.4, 0.4, 0.4, 0.1), 3), ((0.8, 0, 0.5, 0), 3), ((2, 2, 2, 0.5), 1)]
)
def test_color_jitter_of_pil_images_is_exact(
    version, ranges, channels, images, jitter_draws, monkeypatch
):
    images = images[:, :channels]
    transform = version.Compose([version.ColorJitter(*ranges), v1.ToTensor()])
    got = batch_transform(transform)(images)
    want = with_these_draws(transform, jitter_draws[0], monkeypatch, images)
    assert torch.equal(got, want)


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
def test_color_jitter_of_tensors(steps, bound, images, jitter_draws, monkeypatch):
    transform = v2.Compose(steps)
    got = batch_transform(transform)(images)
    want = with_these_draws(transform, jitter_draws[0], monkeypatch, images)
    torch.testing.assert_close(got, want.as_subclass(torch.Tensor), rtol=0, atol=bound)


def test_bytes_of_tensors_are_not_those_of_pil_images(images, jitter_draws, monkeypatch):
    # Grey levels are rounded by Pillow and cut off by torchvision.
    transform = v1.ColorJitter(saturation=(0.0, 0.0))
    got = batch_transform(transform, pil=False)(images)
    assert torch.equal(got, torch.stack([transform(image) for image in images]))
    assert not torch.equal(got, batch_transform(transform)(images))


def test_color_jitter_has_torchvisions_distribution(jitter_draws):
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
    # Factors and order are drawn apart.
    table = torch.corrcoef(torch.stack([*factors, order[:, 0].float()]))
    assert (table - torch.eye(5)).abs().max() < 5 / sqrt(n)


class NoisyToTensor(v1.ToTensor):
    """A subclass may do anything."""


@pytest.mark.parametrize(
    "transform",
    [
        v1.RandomGrayscale(),
        v2.RandomErasing(),
        v1.RandomCrop(4, padding=1, padding_mode="reflect"),
        v1.RandomCrop(4, pad_if_needed=True),
        v1.RandomCrop(4, padding=1, fill=(1, 2, 3)),
        v1.ToPILImage(mode="YCbCr"),
        v2.ToDtype(torch.float32),
        v2.ToDtype(torch.float64, scale=True),
        v1.ConvertImageDtype(torch.float16),
        v1.Lambda(lambda image: image),
        v1.Compose([v1.ToTensor(), v1.GaussianBlur(3)]),
        NoisyToTensor(),
        torch.nn.Identity(),
    ],
    ids=lambda t: type(t).__name__,
)
def test_what_cannot_be_turned_is_named(transform):
    with pytest.raises(CannotBatchError) as caught:
        batch_transform(transform)
    parts = transform.transforms if isinstance(transform, v1.Compose) else [transform]
    assert type(parts[-1]).__name__ in str(caught.value)
