"""TaskLoader: order and sizes of batches, changes of the dataset, workers, prefetching."""

from collections import Counter

import numpy as np
import pytest
import torch
from torchvision import transforms

from mammoth_compiled.data import TaskLoader, array_source, prefetch

CPU = torch.device("cpu")


@pytest.fixture
def split(tiny):
    """20 images whose red value is their index."""
    data = np.zeros((20, 4, 4, 3), np.uint8)
    data[..., 0] = np.arange(20)[:, None, None]
    return tiny.Split(data, np.arange(20), transforms.ToTensor())


@pytest.fixture
def slow_split(split):
    """The same images behind a transform that has no batched version."""
    split.transform = transforms.Compose([transforms.Lambda(lambda image: image), split.transform])
    return split


def labels_of(loader):
    return [labels.tolist() for _, labels, _ in loader]


def test_order_with_a_ragged_last_batch(split):
    loader = TaskLoader(split, 8, shuffle=False, device=CPU)
    assert labels_of(loader) == [list(range(8)), list(range(8, 16)), list(range(16, 20))]
    assert len(loader) == 3
    assert loader.fallback_reason is None


def test_multiple_of_the_batch_size_has_no_ragged_batch(split):
    loader = TaskLoader(split, 10, shuffle=False, device=CPU)
    assert [len(batch) for batch in labels_of(loader)] == [10, 10]
    assert len(loader) == 2


@pytest.mark.parametrize("fixture", ["split", "slow_split"])
def test_shuffles_every_epoch_from_the_seed(fixture, request):
    loader = TaskLoader(request.getfixturevalue(fixture), 8, shuffle=True, device=CPU)
    torch.manual_seed(7)
    first, second = labels_of(loader), labels_of(loader)
    torch.manual_seed(7)
    assert [labels_of(loader), labels_of(loader)] == [first, second]
    assert first != second
    for epoch in (first, second):
        assert sorted(label for batch in epoch for label in batch) == list(range(20))
        assert [len(batch) for batch in epoch] == [8, 8, 4]


def test_every_order_is_equally_likely(split):
    split.data, split.targets = split.data[:3], split.targets[:3]
    loader = TaskLoader(split, 3, shuffle=True, device=CPU)
    seen = Counter(tuple(labels_of(loader)[0]) for _ in range(600))
    assert len(seen) == 6
    assert all(60 < count < 140 for count in seen.values())


def test_inputs_labels_and_not_aug_inputs_stay_aligned(split):
    for inputs, labels, plain in TaskLoader(split, 6, shuffle=True, device=CPU):
        assert torch.equal(inputs[:, 0, 0, 0], labels / 255)
        assert torch.equal(plain, inputs)
        assert labels.dtype == torch.int64


def test_fallback_yields_the_same_batches(split, slow_split):
    fast = TaskLoader(split, 8, shuffle=False, device=CPU)
    slow = TaskLoader(slow_split, 8, shuffle=False, device=CPU)
    assert slow.fallback_reason == "transform Lambda has no batched version"
    for one, other in zip(fast, slow, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


@pytest.mark.parametrize("fixture", ["split", "slow_split"])
def test_replaced_data_is_used(fixture, request):
    split = request.getfixturevalue(fixture)
    loader = TaskLoader(split, 8, shuffle=False, device=CPU)
    list(loader)
    split.data = np.concatenate([split.data, split.data[:4]])
    split.targets = np.concatenate([split.targets, split.targets[:4]])
    assert labels_of(loader)[2] == [16, 17, 18, 19, 0, 1, 2, 3]
    assert len(loader) == 3


def test_replaced_transform_is_used(split):
    loader = TaskLoader(split, 20, shuffle=False, device=CPU)
    split.transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((1.0,), (2.0,))]
    )
    inputs, labels, _ = next(iter(loader))
    assert torch.equal(inputs[:, 0, 0, 0], (labels / 255 - 1) / 2)


def test_data_modified_in_place_is_used_on_a_cpu(split):
    loader = TaskLoader(split, 20, shuffle=False, device=CPU)
    split.data[3] = 255
    split.targets[3] = 9
    inputs, labels, _ = next(iter(loader))
    assert inputs[3].unique().tolist() == [1.0]
    assert labels[3] == 9


def test_falls_back_if_a_new_transform_cannot_be_batched(split):
    loader = TaskLoader(split, 20, shuffle=False, device=CPU)
    split.transform = transforms.Compose([transforms.Lambda(lambda image: image), split.transform])
    split.data = split.data.copy()
    assert labels_of(loader) == [list(range(20))]
    assert loader.fallback_reason == "transform Lambda has no batched version"


def test_items_may_be_pairs(split):
    class Pairs(type(split)):
        def __getitem__(self, index):
            return super().__getitem__(index)[:2]

    pairs = Pairs(split.data, split.targets, split.transform)
    for batch in TaskLoader(pairs, 8, shuffle=False, device=CPU):
        assert len(batch) == 2


class NumpyNoise:
    """Draws from the generator of NumPy, which workers would share without a seed of their own."""

    def __call__(self, image):
        return torch.full((1,), np.random.rand())


# From Python 3.12 on: another test may have left a thread behind.
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


def test_there_are_no_workers_on_a_cpu_by_default(split):
    assert TaskLoader(split, 5, shuffle=False, device=CPU).num_workers == 0


@pytest.mark.parametrize("fixture", ["split", "slow_split"])
def test_gather_returns_items_in_the_given_order(fixture, request):
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
    """Makes images too large for the device."""
    monkeypatch.setattr(array_source, "fits_on_device", lambda num_bytes, device: False)
    prefetch.report_prefetching.cache_clear()
    yield
    prefetch.report_prefetching.cache_clear()


@pytest.fixture
def augmented(split):
    split.transform = transforms.Compose([transforms.RandomCrop(4, padding=2), split.transform])
    return split


@pytest.mark.parametrize("shuffle", [False, True])
def test_prefetched_batches_equal_those_on_the_device(augmented, shuffle, monkeypatch):
    def epochs():
        loader = TaskLoader(augmented, 8, shuffle, CPU)
        torch.manual_seed(3)
        return [batch for _ in range(2) for batch in loader], loader

    on_device, _ = epochs()
    monkeypatch.setattr(array_source, "fits_on_device", lambda num_bytes, device: False)
    prefetched, loader = epochs()
    assert loader.fallback_reason is None
    assert [len(labels) for _, labels, _ in prefetched] == [8, 8, 4] * 2
    for one, other in zip(on_device, prefetched, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_one_batch_is_prefetched(split):
    requested = []

    def batches():
        for start in range(0, 20, 5):
            requested.append(start)
            yield torch.arange(start, start + 5)

    labels = torch.arange(20)
    for k, (rows,) in enumerate(prefetch.prefetch_rows((labels,), batches(), CPU)):
        assert rows.tolist() == list(range(5 * k, 5 * k + 5))
        assert len(requested) == min(k + 2, 4)
    assert list(prefetch.prefetch_rows((labels,), [], CPU)) == []


@pytest.mark.usefixtures("too_large")
def test_prefetching_is_reported_once(split, capsys):
    for _ in range(3):
        TaskLoader(split, 8, shuffle=False, device=CPU)
    out = capsys.readouterr().out
    assert out == (
        "data: the images of a task need more than 40% of the free memory of cpu; they stay in "
        "host memory and are copied batch by batch\n"
    )


@pytest.mark.usefixtures("too_large")
def test_prefetched_data_may_be_replaced_or_modified(split):
    loader = TaskLoader(split, 20, shuffle=False, device=CPU)
    split.data[3] = 255
    assert next(iter(loader))[0][3].unique().tolist() == [1.0]
    assert loader.gather(torch.tensor([3]))[0].unique().tolist() == [1.0]
    split.data, split.targets = split.data[:4], split.targets[:4]
    assert labels_of(loader) == [[0, 1, 2, 3]]


def test_images_may_use_two_fifths_of_the_free_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    gpu = torch.device("cuda", 0)
    assert prefetch.fits_on_device(400, gpu)
    assert not prefetch.fits_on_device(401, gpu)
    assert prefetch.fits_on_device(10**15, CPU)


@pytest.mark.gpu
@pytest.mark.usefixtures("too_large")
def test_prefetches_to_a_gpu(augmented):
    gpu = torch.device("cuda")
    augmented.data = np.repeat(augmented.data, 50, 0)
    augmented.targets = np.repeat(augmented.targets, 50)
    seen = []
    for inputs, labels, plain in TaskLoader(augmented, 32, shuffle=True, device=gpu):
        assert inputs.is_cuda
        assert torch.equal(plain[:, 0, 0, 0], labels / 255)
        seen.append(labels)
    assert torch.cat(seen).bincount().tolist() == [50] * 20
