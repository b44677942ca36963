"""Batches of a task: order, sizes, and data that changes on the way."""

from collections import Counter

import numpy as np
import pytest
import torch
from torchvision import transforms

from mammoth_compiled.data import TaskLoader, source, stream

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


@pytest.mark.parametrize("fixture", ["split", "slow_split"])
def test_take_gives_the_items_in_the_order_asked(fixture, request):
    split = request.getfixturevalue(fixture)
    inputs, labels, plain = TaskLoader(split, 5, shuffle=True, device=CPU).gather(
        torch.tensor([7, 0, 7])
    )
    assert labels.tolist() == [7, 0, 7]
    for row, index in enumerate((7, 0, 7)):
        image, _, not_aug = split[index]
        assert torch.equal(inputs[row], image)
        assert torch.equal(plain[row], not_aug)


@pytest.fixture
def too_large(monkeypatch):
    """No image fits on the device."""
    monkeypatch.setattr(source, "fits", lambda num_bytes, device: False)
    stream.say_streamed.cache_clear()
    yield
    stream.say_streamed.cache_clear()


@pytest.fixture
def augmented(split):
    split.transform = transforms.Compose([transforms.RandomCrop(4, padding=2), split.transform])
    return split


@pytest.mark.parametrize("shuffle", [False, True])
def test_streamed_batches_are_those_of_the_device(augmented, shuffle, monkeypatch):
    def epochs():
        loader = TaskLoader(augmented, 8, shuffle, CPU)
        torch.manual_seed(3)
        return [batch for _ in range(2) for batch in loader], loader

    resident, _ = epochs()
    monkeypatch.setattr(source, "fits", lambda num_bytes, device: False)
    streamed, loader = epochs()
    assert loader.fallback_reason is None
    assert [len(labels) for _, labels, _ in streamed] == [8, 8, 4] * 2
    for one, other in zip(resident, streamed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_one_batch_is_on_its_way(split):
    sent = []

    def batches():
        for start in range(0, 20, 5):
            sent.append(start)
            yield torch.arange(start, start + 5)

    labels = torch.arange(20)
    for k, (rows,) in enumerate(stream.stream((labels,), batches(), CPU)):
        assert rows.tolist() == list(range(5 * k, 5 * k + 5))
        assert len(sent) == min(k + 2, 4)
    assert list(stream.stream((labels,), [], CPU)) == []


@pytest.mark.usefixtures("too_large")
def test_streaming_is_said_once(split, capsys):
    for _ in range(3):
        TaskLoader(split, 8, shuffle=False, device=CPU)
    out = capsys.readouterr().out
    assert out == (
        "data: a task's images take more than 40% of the free memory of cpu, so they stay in host "
        "memory and are copied batch by batch\n"
    )


@pytest.mark.usefixtures("too_large")
def test_streamed_data_may_be_replaced_or_changed(split):
    loader = TaskLoader(split, 20, shuffle=False, device=CPU)
    split.data[3] = 255
    assert next(iter(loader))[0][3].unique().tolist() == [1.0]
    assert loader.gather(torch.tensor([3]))[0].unique().tolist() == [1.0]
    split.data, split.targets = split.data[:4], split.targets[:4]
    assert numbers(loader) == [[0, 1, 2, 3]]


def test_images_may_take_two_fifths_of_the_free_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    gpu = torch.device("cuda", 0)
    assert stream.fits(400, gpu)
    assert not stream.fits(401, gpu)
    assert stream.fits(10**15, CPU)


@pytest.mark.gpu
@pytest.mark.usefixtures("too_large")
def test_streamed_to_a_gpu(augmented):
    gpu = torch.device("cuda")
    augmented.data = np.repeat(augmented.data, 50, 0)
    augmented.targets = np.repeat(augmented.targets, 50)
    seen = []
    for inputs, labels, plain in TaskLoader(augmented, 32, shuffle=True, device=gpu):
        assert inputs.is_cuda
        assert torch.equal(plain[:, 0, 0, 0], labels / 255)
        seen.append(labels)
    assert torch.cat(seen).bincount().tolist() == [50] * 20
