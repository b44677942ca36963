"""Batches of a task: order, sizes, and data that changes on the way."""

from collections import Counter

import numpy as np
import pytest
import torch
from torchvision import transforms

from mammoth_compiled.data import TaskLoader

CPU = torch.device("cpu")


@pytest.fixture
def split(tiny):
    """20 images whose red value is their number."""
    data = np.zeros((20, 4, 4, 3), np.uint8)
    data[..., 0] = np.arange(20)[:, None, None]
    return tiny.Split(data, np.arange(20), transforms.ToTensor())


@pytest.fixture
def slow_split(split):
    """The same images behind a transform that has no batched code."""
    split.transform = transforms.Compose([transforms.Lambda(lambda image: image), split.transform])
    return split


def numbers(loader):
    return [labels.tolist() for _, labels, _ in loader]


def test_in_order_with_a_ragged_last_batch(split):
    loader = TaskLoader(split, 8, shuffle=False, device=CPU)
    assert numbers(loader) == [list(range(8)), list(range(8, 16)), list(range(16, 20))]
    assert len(loader) == 3
    assert loader.fallback_reason is None


def test_exact_multiple_has_no_ragged_batch(split):
    loader = TaskLoader(split, 10, shuffle=False, device=CPU)
    assert [len(batch) for batch in numbers(loader)] == [10, 10]
    assert len(loader) == 2


@pytest.mark.parametrize("fixture", ["split", "slow_split"])
def test_shuffles_anew_each_epoch_from_torchs_seed(fixture, request):
    loader = TaskLoader(request.getfixturevalue(fixture), 8, shuffle=True, device=CPU)
    torch.manual_seed(7)
    first, second = numbers(loader), numbers(loader)
    torch.manual_seed(7)
    assert [numbers(loader), numbers(loader)] == [first, second]
    assert first != second
    for epoch in (first, second):
        assert sorted(label for batch in epoch for label in batch) == list(range(20))
        assert [len(batch) for batch in epoch] == [8, 8, 4]


def test_every_order_is_as_likely(split):
    split.data, split.targets = split.data[:3], split.targets[:3]
    loader = TaskLoader(split, 3, shuffle=True, device=CPU)
    seen = Counter(tuple(numbers(loader)[0]) for _ in range(600))
    assert len(seen) == 6
    assert all(60 < count < 140 for count in seen.values())


def test_image_label_and_plain_image_belong_together(split):
    for inputs, labels, plain in TaskLoader(split, 6, shuffle=True, device=CPU):
        assert torch.equal(inputs[:, 0, 0, 0], labels / 255)
        assert torch.equal(plain, inputs)
        assert labels.dtype == torch.int64


def test_both_ways_give_the_same(split, slow_split):
    fast = TaskLoader(split, 8, shuffle=False, device=CPU)
    slow = TaskLoader(slow_split, 8, shuffle=False, device=CPU)
    assert slow.fallback_reason == "transform Lambda has no batched code yet"
    for one, other in zip(fast, slow, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


@pytest.mark.parametrize("fixture", ["split", "slow_split"])
def test_replaced_data_is_noticed(fixture, request):
    split = request.getfixturevalue(fixture)
    loader = TaskLoader(split, 8, shuffle=False, device=CPU)
    list(loader)
    split.data = np.concatenate([split.data, split.data[:4]])
    split.targets = np.concatenate([split.targets, split.targets[:4]])
    assert numbers(loader)[2] == [16, 17, 18, 19, 0, 1, 2, 3]
    assert len(loader) == 3


def test_replaced_transform_is_noticed(split):
    loader = TaskLoader(split, 20, shuffle=False, device=CPU)
    split.transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((1.0,), (2.0,))]
    )
    inputs, labels, _ = next(iter(loader))
    assert torch.equal(inputs[:, 0, 0, 0], (labels / 255 - 1) / 2)


def test_data_changed_in_place_is_seen_on_a_cpu(split):
    loader = TaskLoader(split, 20, shuffle=False, device=CPU)
    split.data[3] = 255
    split.targets[3] = 9
    inputs, labels, _ = next(iter(loader))
    assert inputs[3].unique().tolist() == [1.0]
    assert labels[3] == 9


def test_data_that_cannot_be_batched_any_more(split):
    loader = TaskLoader(split, 20, shuffle=False, device=CPU)
    split.transform = transforms.Compose([transforms.Lambda(lambda image: image), split.transform])
    split.data = split.data.copy()
    assert numbers(loader) == [list(range(20))]
    assert loader.fallback_reason == "transform Lambda has no batched code yet"


def test_items_of_two_parts(split):
    class Pairs(type(split)):
        def __getitem__(self, index):
            return super().__getitem__(index)[:2]

    pairs = Pairs(split.data, split.targets, split.transform)
    for batch in TaskLoader(pairs, 8, shuffle=False, device=CPU):
        assert len(batch) == 2


class NumpyNoise:
    """Draws from NumPy's generator, which workers would share without a seed of their own."""

    def __call__(self, image):
        return torch.full((1,), np.random.rand())


# Python 3.12 on: whether another test left a thread behind is not the matter here.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_draw_different_numbers_and_follow_the_seed(split):
    split.transform = NumpyNoise()
    loader = TaskLoader(split, 5, shuffle=False, device=CPU, num_workers=2)

    def epoch():
        return torch.cat([inputs[:, 0] for inputs, *_ in loader]).tolist()

    torch.manual_seed(1)
    first, second = epoch(), epoch()
    torch.manual_seed(1)
    assert epoch() == first
    assert len(set(first + second)) == 40


def test_workers_are_few_by_default(split):
    assert TaskLoader(split, 5, shuffle=False, device=CPU).num_workers == 0
