"""Reads of a buffer by the kernels of a GPU; on a CPU, by their references."""

import pytest
import torch
from torchvision import transforms

from mammoth_compiled import Buffer
from mammoth_compiled.kernels.runtime import device as kernel_device

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
TAIL = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]


def replayed(*parts):
    """A transform as `ContinualDataset.get_transform` returns it."""
    return transforms.Compose([transforms.ToPILImage(), transforms.Compose([*parts, *TAIL])])


@pytest.fixture(autouse=True)
def with_kernels(monkeypatch):
    monkeypatch.setattr(kernel_device, "supports_triton", lambda device: True)


@pytest.fixture
def images():
    return torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8)


def filled(images, policy="reservoir", size=12):
    buffer = Buffer(size, policy=policy, num_classes=4)
    labels = torch.arange(len(images)) % 4
    buffer.add_data(images.float() / 255, labels=labels, logits=torch.rand(len(images), 4))
    return buffer


@pytest.mark.parametrize("policy", ["reservoir", "class-balanced", "ring"])
def test_draws_are_distinct_filled_rows(images, policy):
    buffer = filled(images[:7], policy, size=20)
    seen = set()
    for _ in range(20):
        index, examples, labels, _ = buffer.get_data(5, return_index=True)
        assert len(index.unique()) == 5
        assert torch.equal(buffer.labels[index], labels)
        assert examples.amax() > 0
        seen.add(tuple(index.tolist()))
    assert len(seen) > 15
    assert len(buffer.get_data(50)[0]) == 7


def test_normalized_rows_equal_torchvision(images):
    buffer = filled(images)
    index, examples, labels, logits = buffer.get_data(6, replayed(), return_index=True)
    expected = torch.stack([replayed()(image) for image in buffer.examples[index]])
    assert torch.equal(examples, expected)
    assert torch.equal(labels, buffer.labels[index])
    assert torch.equal(logits, buffer.logits[index])


def test_every_crop_and_flip_is_one_of_torchvision(images):
    buffer = filled(images)
    crop = transforms.RandomCrop(8, padding=1)
    transform = replayed(crop, transforms.RandomHorizontalFlip())
    padded = torch.nn.functional.pad(buffer.examples, (1, 1, 1, 1))
    normalize = transforms.Normalize(MEAN, STD)
    outcomes = set()
    for _ in range(12):
        index, examples, *_ = buffer.get_data(4, transform, return_index=True)
        for row, image in zip(index, examples, strict=True):
            crops = [padded[row][:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
            possible = [normalize(c) for crop in crops for c in (crop, crop.flip(2))]
            match = [k for k, p in enumerate(possible) if torch.allclose(p, image, atol=1e-6)]
            assert match
            outcomes.add(match[0])
    assert len(outcomes) > 9


def test_chosen_rows_get_new_crops_each_time(images):
    buffer = filled(images)
    transform, index = replayed(transforms.RandomCrop(8, padding=3)), torch.arange(12)
    first, second = (buffer.get_data_by_index(index, transform)[0] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    "transform",
    [
        None,
        transforms.Normalize(MEAN, STD),
        replayed(transforms.ColorJitter(0.5)),
        lambda image: image + 1,
    ],
    ids=["none", "normalize", "jitter", "function"],
)
def test_other_transforms_are_applied_as_before(images, transform):
    buffer = filled(images)
    index, examples, *_ = buffer.get_data(6, transform, return_index=True)
    if not isinstance(transform, transforms.Compose):
        expected = (
            buffer.examples[index] if transform is None else transform(buffer.examples[index])
        )
        torch.testing.assert_close(examples, expected)
    assert examples.shape == (6, 3, 8, 8)


def test_resumed_draws_are_the_same(images):
    one, other = filled(images), Buffer(12, num_classes=4)
    one.get_data(3)
    other.load_state_dict(one.state_dict())
    transform = replayed(transforms.RandomHorizontalFlip())
    for _ in range(3):
        for a, b in zip(one.get_data(5, transform), other.get_data(5, transform), strict=True):
            assert torch.equal(a, b)


def test_a_captured_step_sees_the_generator(images):
    buffer = filled(images)
    addresses = [tensor.data_ptr() for tensor in buffer.tensors()]
    buffer.get_data(3)
    assert buffer._slots.random.data_ptr() in addresses
    assert [tensor.data_ptr() for tensor in buffer.tensors()] == addresses
