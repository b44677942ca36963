"""Batches by the data kernel: which transforms it takes, and that they are those of torchvision."""

import numpy as np
import pytest
import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from mammoth_compiled.data import TaskLoader, source
from mammoth_compiled.data.fused import Recipe, recipe

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
TAIL = [v1.ToTensor(), v1.Normalize(MEAN, STD)]
CROP, FLIP = v1.RandomCrop((6, 5), padding=(1, 2)), v1.RandomHorizontalFlip(0.3)
NUMBERS = {"mean": MEAN, "std": STD}
CROPPED = {"size": (6, 5), "padding": (1, 1, 2, 2)}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (TAIL, Recipe(**NUMBERS)),
        ([v1.ToTensor()], Recipe()),
        ([CROP, FLIP, *TAIL], Recipe(**CROPPED, flip=0.3, **NUMBERS)),
        ([FLIP, CROP, *TAIL], Recipe(**CROPPED, flip=0.3, **NUMBERS)),
        ([v1.Compose([CROP]), v2.Compose(TAIL)], Recipe(**CROPPED, **NUMBERS)),
        ([v1.RandomCrop(4, padding=[1, 2, 3, 4], fill=7), *TAIL],
         Recipe(size=(4, 4), padding=(1, 3, 2, 4), fill=7, **NUMBERS)),
        ([v2.RandomCrop(4, padding=[1, 2, 3, 4]), *TAIL],
         Recipe(size=(4, 4), padding=(1, 3, 2, 4), **NUMBERS)),
        ([v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)],
         Recipe(flip=0.5)),
    ],
    ids=str,
)  # fmt: skip
def test_recipes(parts, expected):
    assert recipe(v1.Compose(parts)) == expected


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [v1.Normalize(MEAN, STD)],
        [CROP, CROP, *TAIL],
        [FLIP, FLIP, *TAIL],
        [*TAIL, FLIP],
        [v1.ToPILImage(), *TAIL],
        [v1.ColorJitter(0.1), *TAIL],
        [v1.RandomCrop(4, padding_mode="reflect", padding=1), *TAIL],
        [v1.RandomCrop(4, pad_if_needed=True), *TAIL],
        [v1.RandomCrop(4, fill=(1, 2, 3), padding=1), *TAIL],
        [v1.RandomCrop(4, fill=0.5, padding=1), *TAIL],
        [v2.ToImage(), v2.ToDtype(torch.float32)],
        [v2.ToImage(), v2.ToDtype(torch.float64, scale=True)],
    ],
    ids=str,
)
def test_other_chains_have_none(parts):
    assert recipe(v1.Compose(parts)) is None


@pytest.fixture
def images(tiny):
    """Makes datasets of random images in Mammoth's style."""

    def make(transform, shape=(8, 7, 3), n=24):
        data = np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)
        return tiny.Split(data, np.arange(n) % 3, transform)

    return make


@pytest.fixture
def loader(monkeypatch):
    """Makes loaders that use the operator, which on a CPU is its reference."""
    monkeypatch.setattr(source, "supports", lambda device: True)
    return lambda dataset, shuffle=False: TaskLoader(dataset, 10, shuffle, CPU)


@pytest.mark.parametrize("shape", [(8, 7, 3), (8, 7)], ids=str)
@pytest.mark.parametrize("tail", [TAIL[:1], [v1.ToTensor(), v1.Normalize(0.4, 0.2)]], ids=str)
def test_without_chance_batches_are_those_of_the_dataset(loader, images, shape, tail):
    dataset = images(v1.Compose(tail), shape)
    made = loader(dataset)
    assert made.is_fused
    for got, expected in zip(
        made, torch.utils.data.DataLoader(dataset, 10, shuffle=False), strict=True
    ):
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
            assert a.is_contiguous()


def test_each_image_is_cropped_and_mirrored_as_torchvision_could(loader, images):
    dataset = images(
        v1.Compose([v1.RandomCrop(8, padding=1), v1.RandomHorizontalFlip(), *TAIL[:1]]), (8, 8, 3)
    )
    places = {}
    for k, image in enumerate(dataset.data):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        crops = [padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
        places[k] = {c.tobytes() for crop in crops for c in (crop, crop[:, ::-1].copy())}
    seen = set()
    made = loader(dataset)
    for _ in range(4):
        inputs = torch.cat([batch[0] for batch in made])
        for k, image in enumerate(inputs):
            found = (image.permute(1, 2, 0) * 255).round().byte().numpy().tobytes()
            assert found in places[k]
            seen.add((k, found))
    assert len(seen) > 3 * len(dataset)


def test_epochs_and_batches_differ_and_the_seed_repeats_them(loader, images):
    made = loader(images(v1.Compose([CROP, *TAIL])))

    def epoch(seed=None):
        if seed is not None:
            torch.manual_seed(seed)
        return torch.cat([batch[0] for batch in made])

    first, second = epoch(3), epoch()
    assert not torch.equal(first, second)
    assert torch.equal(epoch(3), first)
    same = images(v1.Compose([CROP, *TAIL]))
    same.data[:] = same.data[:1]
    one, other, *_ = (batch[0] for batch in loader(same))
    assert not torch.equal(one, other)


def test_a_chain_without_chance_draws_nothing(loader, images):
    before = torch.get_rng_state()
    list(loader(images(v1.Compose(TAIL))))
    assert torch.equal(torch.get_rng_state(), before)
