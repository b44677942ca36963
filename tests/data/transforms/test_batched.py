"""Batched transforms against torchvision: conversions, compositions, seeds, unsupported ones."""

import pytest
import torch
from torchvision import transforms as v1
from torchvision.transforms import functional as vision
from torchvision.transforms import v2

from mammoth_compiled.data.transforms import CannotBatchError, batch_transform


def transform_each(transform, images):
    """Applies a torchvision transform to bytes, [B, C, H, W], each as a PIL image."""
    return torch.stack([transform(vision.to_pil_image(image)) for image in images])


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 3, 5, 4), dtype=torch.uint8)


@pytest.mark.parametrize("version", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_to_tensor_and_normalize_are_exact(version, channels):
    # All byte values.
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, channels, 1, 1)
    mean, std = (0.4914, 0.4822, 0.4465)[:channels], (0.2470, 0.2435, 0.2615)[:channels]
    transform = version.Compose([v1.ToTensor(), version.Normalize(mean, std)])
    assert torch.equal(batch_transform(transform)(images), transform_each(transform, images))


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
def test_other_conversions_to_a_tensor(steps):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    transform = v2.Compose(steps)
    result, expected = batch_transform(transform)(images), transform_each(transform, images)
    # v2.ToDtype multiplies by 1 / 255, which differs from a division in the last bit.
    torch.testing.assert_close(result, expected.as_subclass(torch.Tensor), rtol=3e-7, atol=5e-7)


def test_to_pil_image_of_floats_equals_torchvision():
    # A buffer returns float images in [0, 1]: exact levels from ToTensor, and values in between.
    exact = torch.arange(256).view(1, 1, 16, 16).float() / 255
    images = torch.cat([exact, torch.rand(3, 1, 16, 16)])
    transform = v1.Compose([v1.ToPILImage(), v1.ToTensor()])
    expected = torch.stack([transform(image) for image in images])
    assert torch.equal(batch_transform(transform)(images), expected)


def test_none_is_the_identity(images):
    assert torch.equal(batch_transform(None)(images), images)


def test_nested_compositions(images):
    inner = v1.Compose([v1.ToTensor()])
    transform = v1.Compose([v1.Compose([inner]), v1.Normalize((0.5,) * 3, (0.5,) * 3)])
    assert torch.equal(batch_transform(transform)(images), transform_each(transform, images))


def test_random_transforms_follow_the_seed(images):
    transform = batch_transform(
        v1.Compose([v1.RandomCrop(4, padding=2), v1.RandomHorizontalFlip()])
    )
    torch.manual_seed(5)
    first = transform(images)
    torch.manual_seed(5)
    assert torch.equal(transform(images), first)


def test_input_is_not_modified(images):
    before = images.clone()
    everything = [v1.RandomCrop(4, padding=1), v1.RandomHorizontalFlip(1.0), v1.ToTensor()]
    batch_transform(v1.Compose([*everything, v1.Normalize((0.5,), (0.5,))]))(images)
    floats = torch.rand(2, 3, 4, 4)
    kept = floats.clone()
    batch_transform(v1.Compose([v1.ToTensor(), v1.Normalize((0.5,), (0.5,))]))(floats)
    assert torch.equal(images, before)
    assert torch.equal(floats, kept)


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
def test_unsupported_transforms_are_named(transform):
    with pytest.raises(CannotBatchError) as caught:
        batch_transform(transform)
    parts = transform.transforms if isinstance(transform, v1.Compose) else [transform]
    assert type(parts[-1]).__name__ in str(caught.value)
