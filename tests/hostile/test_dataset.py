"""Hostile datasets: class attributes, labels, images and items that cannot be used."""

from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision import transforms

from mammoth_compiled import MammothBackbone, load_runner, register_backbone, train
from mammoth_compiled.backbones.base import select_return
from mammoth_compiled.errors import DataError, TrainingError
from mammoth_compiled.registry import backbones, datasets

RUN = {"batch_size": 8, "compile": "off", "device": "cpu", "debug_mode": True, "n_epochs": 1}


@pytest.fixture
def build(tiny):
    """Returns a function that builds the tiny dataset with other attributes."""

    def build(**attributes):
        kind = type("Hostile", (tiny.Dataset,), attributes)
        datasets.register("seq-hostile")(kind)
        return kind(Namespace(**RUN))

    return build


@pytest.fixture
def load(build, tiny):
    """Returns a function that loads the first task of a dataset with other images and labels."""

    def load(change, split="train", item=None, **attributes):
        """Changes a dictionary of `data`, `targets` and other attributes of one split."""

        def splits(self):
            found = []
            for name, per_class in (("train", 4), ("test", 4)):
                data, targets = tiny.images(per_class, num_classes=6)
                values = {"data": data, "targets": targets, "transform": self.TRANSFORM}
                if name == split:
                    values |= change(data, targets)
                kind = type("Split", (tiny.Split,), item if item and name == split else {})
                made = kind(data, targets, None)
                for key, value in values.items():
                    setattr(made, key, value)
                found.append(made)
            return tuple(found)

        dataset = build(get_data_loaders=splits, **attributes)
        loader, test_loader = dataset.meta_get_data_loaders()
        return list(loader), list(test_loader)

    return load


# --- Class attributes ------------------------------------------------------------------------

ATTRIBUTES = {
    "SETTING": [None, "", "general", "CLASS-IL", 3, [], {}],
    "N_TASKS": [0, -1, None, "3", 2.0, True, [3], float("nan")],
    "N_CLASSES_PER_TASK": [
        0,
        -2,
        None,
        "2",
        2.0,
        True,
        [],
        [2, 2],
        [2, 0, 2],
        [2, "2", 2],
        (2, 2, -1),
    ],
    "N_CLASSES": [0, -1, 5, "6", 6.0, None, True],
    "SIZE": [(), (8,), (8, 8, 3), (0, 8), (8, -8), 8, "8x8", (8.0, 8.0), None],
    "MEAN": [("a", "b", "c"), (float("nan"),) * 3, (None,) * 3, 0.5, "0.5", None],
    "STD": [(0, 0, 0), (-1.0, 1.0, 1.0), (float("inf"),) * 3, (1.0,), 0.5, ("x",) * 3],
    "CLASS_NAMES": [("a",), tuple("abcdefg")],
}


@pytest.mark.parametrize(
    ("attribute", "value"),
    [(name, value) for name, values in ATTRIBUTES.items() for value in values],
    ids=str,
)
def test_attribute(refused, build, attribute, value):
    refused(attribute, lambda: build(**{attribute: value}), "Hostile", attribute)


# --- Labels ----------------------------------------------------------------------------------

LABELS = {
    "from 1": (lambda t: t + 1, "labels outside the classes 0 to 5", "6 ("),
    "one negative": (lambda t: np.where(np.arange(len(t)) == 3, -1, t), "1 of 24", "-1 (1 time)"),
    "one large": (lambda t: np.where(np.arange(len(t)) == 3, 2**40, t), "1 of 24", "item 3"),
    "all outside": (lambda t: t + 100, "24 of 24", "and 1 others"),
    "texts": (lambda t: np.array([f"class{k}" for k in t]), "label of item 0 is 'class", "str"),
    "list of texts": (lambda t: [str(k) for k in t], "label of item 0", "integer class ids"),
    "bytes": (lambda t: np.array([b"cat"] * len(t)), "label of item 0", "bytes"),
    "none": (lambda t: [None] * len(t), "label of item 0 is None"),
    "one none": (lambda t: [*t[:-1].tolist(), None], "label of item 23 is None"),
    "nan": (lambda t: np.where(np.arange(len(t)) == 2, np.nan, t), "label of item 2 is nan"),
    "fractions": (lambda t: t + 0.5, "label of item 0 is"),
    "complex": (lambda t: t + 1j, "label of item 0 is"),
    "complex without imaginary part": (lambda t: t + 0j, "label of item 0 is"),
    "beyond 64 bits": (lambda t: [10**30, *t[1:].tolist()], "label of item 0 is 1000"),
    "infinite": (lambda t: np.full(len(t), np.inf), "label of item 0 is inf"),
    "one-hot": (lambda t: np.eye(6)[t], "shape [24, 6]", "one-hot"),
    "rows": (lambda t: t[None], "shape [1, 24]"),
    "scalar": (lambda t: np.int64(3), "shape []"),
    "absent": (lambda t: None, "shape []"),
    "ragged": (lambda t: [[1], [1, 2]] * 12, "targets"),
    "dictionary": (lambda t: dict(enumerate(t)), "shape []"),
    "too few": (lambda t: t[:-1], "24 images in `data`, 23 labels"),
    "too many": (lambda t: np.append(t, 0), "24 images in `data`, 25 labels"),
    "empty": (lambda t: t[:0], "0 labels"),
    "tensor outside": (lambda t: torch.from_numpy(t) + 1, "outside the classes"),
    "tensor of fractions": (lambda t: torch.from_numpy(t) + 0.5, "label of item 0 is"),
    "dates": (lambda t: t.astype("datetime64[s]"), "label of item 0"),
    "sets": (lambda t: [{k} for k in t], "label of item 0"),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", LABELS)
def test_labels(refused, load, split, name):
    change, *message = LABELS[name]
    where = f"seq-hostile: the {'training' if split == 'train' else 'test'} set"
    refused(name, lambda: load(lambda d, t: {"targets": change(t)}, split), where, *message)


def test_class_that_is_in_no_task(refused, load):
    def seventh(data, targets):
        return {"targets": np.where(np.arange(len(targets)) < 5, 6, targets)}

    refused("6", lambda: load(seventh, N_CLASSES=7), "5 of 24", "6 (5 times)", "N_TASKS = 3")


VALID_LABELS = {
    "column": lambda t: t[:, None],
    "column tensor": lambda t: torch.from_numpy(t)[:, None],
    "tensor": torch.from_numpy,
    "list": lambda t: t.tolist(),
    "tuple": lambda t: tuple(t.tolist()),
    "float": lambda t: t.astype(np.float32),
    "float tensor": lambda t: torch.from_numpy(t).float(),
    "uint8": lambda t: t.astype(np.uint8),
    "objects": lambda t: t.astype(object),
    "zero-dimensional tensors": lambda t: [torch.tensor(k) for k in t],
    "lists of one": lambda t: [[k] for k in t],
}


@pytest.mark.parametrize("name", VALID_LABELS)
def test_labels_of_other_types_are_class_ids(load, name):
    expected, _ = load(lambda d, t: {})
    batches, _ = load(lambda d, t: {"targets": VALID_LABELS[name](t)})
    labels, other = (torch.cat([b[1] for b in found]).sort()[0] for found in (batches, expected))
    assert labels.dtype == torch.int64
    assert torch.equal(labels, other)


# --- Images ----------------------------------------------------------------------------------


class Plain(nn.Module):
    """A transform that only makes float tensors, so that anything may come through."""

    def forward(self, image):
        return torch.as_tensor(np.asarray(image)).permute(2, 0, 1)


def plain_item(self, i):
    image = Plain()(self.data[i])
    return image, int(self.targets[i]), image


def unequal(data, targets):
    sizes = [8 if i < 2 else 9 for i in range(len(data))]
    return {"data": [np.zeros((size, size, 3), np.uint8) for size in sizes]}


def as_images(data, targets):
    return {"data": [Image.fromarray(image) for image in data]}


IMAGES = {
    "nan": (lambda d, t: {"data": np.where(d > 200, np.nan, d)}, {}, "NaN or infinite"),
    "infinite": (lambda d, t: {"data": np.full(d.shape, np.inf)}, {}, "NaN or infinite"),
    "too few": (lambda d, t: {"data": d[:-1]}, {}, "23 images in `data`, 24 labels"),
    "none": (lambda d, t: {"data": None}, {}, "has no len()"),
    "number": (lambda d, t: {"data": 3}, {}, "has no len()"),
    "gray": (lambda d, t: {"data": d[..., :1].copy()}, {}, "shape [1, 8, 8]", "[3, 8, 8]"),
    "four channels": (lambda d, t: {"data": np.repeat(d, 2, 3)[..., :4].copy()}, {}, "[4, 8, 8]"),
    "smaller": (lambda d, t: {"data": d[:, :6, :6].copy()}, {}, "[3, 6, 6]", "SIZE"),
    "larger": (
        lambda d, t: {"data": np.pad(d, ((0, 0), (1, 1), (1, 1), (0, 0)))},
        {},
        "[3, 10, 10]",
    ),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", IMAGES)
def test_images(refused, load, split, name):
    change, attributes, *message = IMAGES[name]
    refused(
        name,
        lambda: load(change, split, {"__getitem__": plain_item}, **attributes),
        "seq-hostile: the",
        *message,
    )


ITEMS = {
    "image alone": (lambda s, i: torch.zeros(3, 8, 8), "item 0 is a Tensor"),
    "none": (lambda s, i: None, "item 0 is a NoneType"),
    "dictionary": (lambda s, i: {"image": 1}, "item 0 is a dict"),
    "text": (lambda s, i: "ab", "item 0 is a str"),
    "one part": (lambda s, i: (torch.zeros(3, 8, 8),), "item 0 is a tuple"),
    "PIL image": (lambda s, i: (Image.new("RGB", (8, 8)), 0), "type Image", "ToTensor()"),
    "list image": (lambda s, i: ([0.0] * 3, 0), "type list", "ToTensor()"),
    "PIL third": (lambda s, i: (torch.zeros(3, 8, 8), 0, Image.new("L", (8, 8))), "type Image"),
    "text label": (lambda s, i: (torch.zeros(3, 8, 8), "cat"), "has the label 'cat'"),
    "no label": (lambda s, i: (torch.zeros(3, 8, 8), None), "has the label None"),
    "vector label": (lambda s, i: (torch.zeros(3, 8, 8), torch.zeros(6)), "has the label tensor"),
    "fraction label": (lambda s, i: (torch.zeros(3, 8, 8), 0.5), "has the label 0.5"),
    "nan label": (lambda s, i: (torch.zeros(3, 8, 8), float("nan")), "has the label nan"),
    "complex label": (lambda s, i: (torch.zeros(3, 8, 8), np.complex64(1)), "has the label"),
    "infinite label": (lambda s, i: (torch.zeros(3, 8, 8), np.float64("inf")), "has the label"),
    "huge label": (lambda s, i: (torch.zeros(3, 8, 8), 10**30), "has the label 1000"),
    "large label": (lambda s, i: (torch.zeros(3, 8, 8), 6), "has the label 6", "0 to 5"),
    "negative label": (lambda s, i: (torch.zeros(3, 8, 8), -1), "has the label -1"),
    "nan image": (lambda s, i: (torch.full((3, 8, 8), torch.nan), 0), "NaN"),
    "no channels": (lambda s, i: (torch.zeros(8, 8), 0), "shape [8, 8]"),
    "batch": (lambda s, i: (torch.zeros(1, 3, 8, 8), 0), "shape [1, 3, 8, 8]"),
    "channels last": (lambda s, i: (torch.zeros(8, 8, 3), 0), "shape [8, 8, 3]"),
}


@pytest.mark.parametrize("name", ITEMS)
def test_items(refused, load, name):
    item, *message = ITEMS[name]
    refused(
        name,
        lambda: load(lambda d, t: {}, item={"__getitem__": item}),
        "seq-hostile: the training set",
        *message,
    )


def test_items_of_different_lengths(refused, load):
    def item(self, i):
        image = torch.zeros(3, 8, 8)
        return (image, 0, image) if i else (image, 0)

    refused("parts", lambda: load(lambda d, t: {}, item={"__getitem__": item}), "parts")


def test_images_without_mean_of_different_channels(refused, load, tiny, monkeypatch):
    monkeypatch.delattr(tiny.Dataset, "MEAN")
    monkeypatch.delattr(tiny.Dataset, "STD")

    def gray(data, targets):
        return {"data": data[..., :1].copy(), "transform": Plain()}

    item = {"__getitem__": plain_item}
    refused("gray", lambda: load(gray, item=item), "the test set", "[3, 8, 8]", "without MEAN")


def test_images_of_different_sizes(refused, load):
    refused(
        "sizes",
        lambda: load(unequal, item={"__getitem__": plain_item}),
        "[3, 9, 9]",
        "transforms.Resize",
    )


def test_images_of_different_sizes_may_be_resized(load):
    resize = transforms.Compose(
        [transforms.ToPILImage(), transforms.Resize((8, 8)), transforms.ToTensor()]
    )

    def item(self, i):
        image = resize(self.data[i])
        return image, int(self.targets[i]), image

    batches, _ = load(unequal, item={"__getitem__": item})
    assert batches[0][0].shape == (8, 3, 8, 8)


def test_list_of_images_stays_a_list(load):
    def item(self, i):
        image = transforms.functional.to_tensor(self.data[i].convert("RGB"))
        return image, int(self.targets[i]), image

    batches, _ = load(as_images, item={"__getitem__": item})
    assert batches[0][0].shape == (8, 3, 8, 8)


def test_float64_images_become_float32(load):
    batches, _ = load(
        lambda d, t: {"data": d / 255.0},
        item={"__getitem__": plain_item},
    )
    assert {part.dtype for part in batches[0]} == {torch.float32, torch.int64}


@pytest.mark.parametrize("value", [None, 3, (), (1,), (1, 2, 3), "ab"], ids=str)
def test_get_data_loaders_that_returns_something_else(refused, build, value):
    dataset = build(get_data_loaders=lambda self: value)
    # Texts of two characters are no pair of datasets either.
    refused("loaders", dataset.meta_get_data_loaders, "seq-hostile")


def test_task_without_images(refused, load):
    def first_task_missing(data, targets):
        return {"targets": np.where(targets < 2, 2, targets)}

    refused("empty", lambda: load(first_task_missing), "no image of classes 0 to 1 (task 1)")


@pytest.mark.parametrize("workers", [0, 1])
def test_invalid_item_in_a_worker_is_one_line(load, build, tiny, workers):
    item = {"__getitem__": lambda s, i: (torch.zeros(3, 8, 8), "cat" if i else 0)}

    def splits(self):
        kind = type("Split", (tiny.Split,), item)
        return kind(*tiny.images(4), None), tiny.Split(*tiny.images(2), self.TRANSFORM)

    dataset = build(get_data_loaders=splits)
    dataset.config = type(dataset.config).from_namespace(Namespace(**RUN, num_workers=workers))
    loader, _ = dataset.meta_get_data_loaders()
    with pytest.raises(DataError, match=r"^seq-hostile: the training set: item \d+ has the label"):
        list(loader)


# --- User code that raises -------------------------------------------------------------------


def run_hostile(**attributes):
    return train(*load_runner("sgd", "seq-hostile", {**RUN, **attributes}))


def boom(*_, **__):
    raise KeyError("mine")


def test_error_in_get_data_loaders_keeps_its_traceback(build):
    build(get_data_loaders=boom)
    with pytest.raises(KeyError, match="mine") as caught:
        run_hostile()
    (note,) = caught.value.__notes__
    assert note.startswith(
        "in model 'sgd' on dataset 'seq-hostile' with backbone 'tiny-net': task 1"
    )
    assert caught.traceback[-1].name == "boom"


def test_error_in_an_item_names_it(build, tiny):
    class Broken(tiny.Split):
        def __getitem__(self, index):
            if index == 5:
                raise IndexError("mine")
            return super().__getitem__(index)

    def splits(self):
        return Broken(*tiny.images(4), self.TRANSFORM), tiny.Split(*tiny.images(2), self.TRANSFORM)

    build(get_data_loaders=splits)
    with pytest.raises(IndexError, match="mine") as caught:
        run_hostile()
    first, second = caught.value.__notes__
    assert first == "while reading item 5 of seq-hostile: the training set"
    assert second.endswith("task 1, epoch 1, step 0")


def test_error_in_a_later_step_names_task_epoch_and_step(build, tiny, monkeypatch):
    calls = []

    class Breaks(tiny.Net):
        def forward(self, x, returnt="out"):
            if self.training:
                calls.append(1)
                if len(calls) == 3:
                    boom()
            return super().forward(x, returnt)

    backbones.register("breaks")(Breaks)
    build()
    monkeypatch.setattr("mammoth_compiled.runner.probe", lambda *_: None)
    with pytest.raises(KeyError) as caught:
        run_hostile(backbone="breaks")
    assert caught.value.__notes__ == [
        "in model 'sgd' on dataset 'seq-hostile' with backbone 'breaks': task 1, epoch 1, step 3"
    ]


class FlatNorm(MammothBackbone):
    """Batch norm over features without spatial size."""

    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Linear(192, 4)
        self.norm = nn.BatchNorm1d(4)
        self.classifier = nn.Linear(4, num_classes)

    def forward(self, x, returnt="out"):
        features = F.relu(self.norm(self.body(x.flatten(1))))
        return select_return(self.classifier(features), features, returnt)


@pytest.mark.parametrize("compile", ["off", "on"])
@pytest.mark.usefixtures("compiled_functions")
def test_last_batch_of_one_image_under_batch_norm(build, compile):
    register_backbone("flat-norm")(FlatNorm)
    build()  # 36 images a task: the last of the batches of 7 has one
    with pytest.raises(
        TrainingError, match="seq-hostile: a training batch of task 1 has one image"
    ):
        run_hostile(backbone="flat-norm", batch_size=7, compile=compile)
