"""The proof that items come from an array under a transform, and datasets that fail it."""

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from torchvision import transforms

from mammoth_compiled import MammothDataset
from mammoth_compiled.data.array_source import array_source
from mammoth_compiled.data.transforms import CannotBatchError

CPU = torch.device("cpu")
NORMALIZE = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))]
)


class Images(MammothDataset):
    """A dataset that passes; tests override one step of it."""

    target_transform = None

    def __init__(self, n=20, shape=(6, 5, 3), transform=NORMALIZE):
        generator = np.random.default_rng(0)
        self.data = generator.integers(0, 256, (n, *shape), dtype=np.uint8)
        self.targets = generator.integers(0, 4, n)
        self.transform = transform

    def __len__(self):
        return len(self.data)

    def open(self, index):
        return Image.fromarray(self.data[index])

    def __getitem__(self, index):
        image = self.open(index)
        return self.transform(image), int(self.targets[index]), self.not_aug_transform(image.copy())


class WithOptionalAttributes(Images):
    """Reads attributes that may exist, like the datasets of Mammoth."""

    def __getitem__(self, index):
        image, target = Image.fromarray(self.data[index], mode=None), self.targets[index]
        original = image.copy()
        not_aug = self.not_aug_transform(original)
        image = self.transform(image)
        if hasattr(self, "logits"):
            return image, target, not_aug, self.logits[index]
        return image, target, not_aug


class Pairs(Images):
    """Items without the image that is not augmented, like the datasets of torchvision."""

    def __getitem__(self, index):
        return self.transform(self.open(index)), self.targets[index]


class WithoutPIL(Images):
    """Passes arrays to the transform; ToTensor accepts these too."""

    def open(self, index):
        return self.data[index]

    def __getitem__(self, index):
        image = self.open(index)
        return self.transform(image), self.targets[index], self.not_aug_transform(image)


def gray(n=20):
    return Images(n, (6, 5), transforms.ToTensor())


def one_channel(n=20):
    dataset = Images(n, (6, 5, 1), transforms.ToTensor())
    dataset.open = lambda index: Image.fromarray(dataset.data[index, :, :, 0])
    return dataset


def colored(n=20):
    """Color jitter and rotation with fixed parameters: the order of items does not matter."""
    hue = transforms.ColorJitter(hue=(0.2, 0.2))
    steps = [transforms.ColorJitter((1.3, 1.3)), transforms.RandomRotation((33, 33)), hue]
    return Images(n, transform=transforms.Compose([*steps, transforms.ToTensor()]))


@pytest.mark.parametrize(
    "make", [Images, WithOptionalAttributes, Pairs, WithoutPIL, gray, one_channel, colored]
)
@pytest.mark.parametrize("n", [1, 3, 20])
def test_valid_datasets_are_accepted_and_equal(make, n):
    dataset = make(n)
    source = array_source(dataset, CPU)
    expected = next(iter(DataLoader(dataset, batch_size=n)))
    result = source.gather(torch.arange(n))
    assert len(result) == len(expected)
    for a, b in zip(result, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_targets_may_be_a_list():
    dataset = Images()
    dataset.targets = dataset.targets.tolist()
    assert array_source(dataset, CPU).labels.tolist() == dataset.targets


def test_gather_returns_items_in_the_given_order():
    dataset = Images()
    inputs, labels, not_aug = array_source(dataset, CPU).gather(torch.tensor([7, 0, 7]))
    for row, index in enumerate((7, 0, 7)):
        image, label, plain = dataset[index]
        assert torch.equal(inputs[row], image)
        assert labels[row] == label
        assert torch.equal(not_aug[row], plain)


def test_proof_does_not_modify_the_dataset():
    dataset = Images()
    before = dict(vars(dataset))
    array_source(dataset, CPU)
    assert vars(dataset) == before


class Inverts(Images):
    def open(self, index):
        return ImageOps.invert(Image.fromarray(self.data[index]))


class InvertsOne(Images):
    def open(self, index):
        image = Image.fromarray(self.data[index])
        return ImageOps.invert(image) if index == 0 else image


class InvertsAtRandom(Images):
    def __init__(self):
        super().__init__(n=200)

    def open(self, index):
        image = Image.fromarray(self.data[index])
        return ImageOps.invert(image) if random.random() < 0.1 else image


class Resizes(Images):
    def open(self, index):
        return Image.fromarray(self.data[index]).resize((8, 8))


class ScalesTheResult(Images):
    def __getitem__(self, index):
        image, label, not_aug = super().__getitem__(index)
        return image * 2, label, not_aug


class TransformsTwice(Images):
    def __getitem__(self, index):
        self.transform(self.open(index))
        return super().__getitem__(index)


class IgnoresTransform(Images):
    def __getitem__(self, index):
        plain = self.not_aug_transform(self.open(index))
        return plain, int(self.targets[index]), plain


class ShiftsLabels(Images):
    def __getitem__(self, index):
        image, label, not_aug = super().__getitem__(index)
        return image, label + 1, not_aug


class OtherOrder(Images):
    def open(self, index):
        return Image.fromarray(self.data[len(self) - 1 - index])


class NormalizesNotAug(Images):
    not_aug_transform = NORMALIZE


class FourParts(Images):
    def __getitem__(self, index):
        return *super().__getitem__(index), index


class OnlyTheImage(Images):
    def __getitem__(self, index):
        return self.transform(self.open(index))


class Raises(Images):
    def open(self, index):
        raise OSError("disk on fire")


class HalfLength(Images):
    def __len__(self):
        return len(self.data) // 2


class SometimesPairs(Images):
    def __getitem__(self, index):
        item = super().__getitem__(index)
        return item if index else item[:2]


def with_attributes(**attributes):
    dataset = Images()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def without_transform():
    dataset = Images()
    del dataset.transform
    return dataset


class Unhashable:
    __hash__ = None

    def __call__(self, image):
        return image


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Inverts, "does more to an image than `transform`"),
        (InvertsOne, "does more to an image than `transform`"),
        (InvertsAtRandom, "does more to an image than `transform`"),
        (Resizes, "does more to an image than `transform`"),
        (OtherOrder, "does more to an image than `transform`"),
        (ScalesTheResult, "item 0 cannot be read with another transform"),
        (TransformsTwice, "does more to an image than `transform`"),
        (IgnoresTransform, "does more to an image than `transform`"),
        (ShiftsLabels, "changes the labels"),
        (NormalizesNotAug, "its images without augmentation are not ToTensor"),
        (FourParts, "items are not (image, label[, not augmented image])"),
        (OnlyTheImage, "items are not (image, label[, not augmented image])"),
        (Raises, "item 0 cannot be read with another transform: disk on fire"),
        (HalfLength, "the lengths of data, targets and the dataset differ"),
        (SometimesPairs, "its items differ in length"),
        (
            lambda: with_attributes(data=np.zeros((20, 6, 5, 3), np.float32)),
            "not a uint8 array of images",
        ),
        (lambda: with_attributes(data=torch.zeros(20, 6, 5, 3)), "not a uint8 array of images"),
        (lambda: with_attributes(data=np.zeros((20, 30), np.uint8)), "not a uint8 array of images"),
        (lambda: with_attributes(data=[np.zeros((6, 5, 3), np.uint8)] * 20), "not a uint8 array"),
        (
            lambda: with_attributes(data=np.zeros((20, 3, 6, 5), np.uint8)),
            "images have shape (3, 6, 5)",
        ),
        (
            lambda: with_attributes(targets=np.zeros(3)),
            "lengths of data, targets and the dataset differ",
        ),
        (
            lambda: with_attributes(target_transform=lambda label: label),
            "it has a target_transform",
        ),
        (without_transform, "it has no attribute `transform`"),
        (
            lambda: with_attributes(transform=transforms.RandomRotation(5, expand=True)),
            "transform RandomRotation with expand has no batched version",
        ),
        (lambda: with_attributes(transform=Unhashable()), "its transform is not hashable"),
    ],
)
def test_other_datasets_are_rejected_with_a_reason(make, reason):
    with pytest.raises(CannotBatchError) as caught:
        array_source(make(), CPU)
    assert reason in str(caught.value)


@pytest.mark.parametrize("attribute", ["data", "targets", "transform"])
def test_replaced_attributes_are_noticed(attribute):
    dataset = Images()
    source = array_source(dataset, CPU)
    assert source.is_current(dataset)
    new = {"data": dataset.data.copy(), "targets": dataset.targets.copy(), "transform": None}
    setattr(dataset, attribute, new[attribute])
    assert not source.is_current(dataset)
