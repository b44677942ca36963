"""What every registered dataset keeps, on files in its source's own format.

A dataset that needs files gets a few small ones: class k's images have the value 10 k + 5 in every
pixel, so that a test can tell what became of them. A new dataset adds a writer to WRITERS.
"""

import gzip
import hashlib
import pickle
import struct
import urllib.request
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import transforms
from torchvision.datasets import CIFAR10, CIFAR100

from mammoth_compiled import load_runner, train
from mammoth_compiled.datasets import fashion_mnist
from mammoth_compiled.errors import DataError
from mammoth_compiled.registry import backbones, datasets, models

TRAIN, TEST = 12, 4  # images per class


def labelled(per_class, num_classes):
    """Labels [N] in mixed order, and the pixel value of each image."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(num_classes), per_class))
    return labels, (labels % 10 * 10 + 5).astype(np.uint8)


def idx(array):
    """An array of bytes in MNIST's format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder, compress=True):
    folder.mkdir(parents=True)
    for split, per_class in (("train", TRAIN), ("t10k", TEST)):
        labels, values = labelled(per_class, 10)
        images = np.broadcast_to(values[:, None, None], (len(values), 28, 28))
        for stem, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            content = idx(array)
            name = f"{split}-{stem}-ubyte"
            if compress:
                name, content = f"{name}.gz", gzip.compress(content, 1)
            (folder / name).write_bytes(content)


def write_cifar(source, num_classes, root, monkeypatch):
    """The pickled batches of the CIFAR archives; their md5 sums take the place of the real ones."""
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    key = "labels" if num_classes == 10 else "fine_labels"

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(labels, values):
        pixels = np.broadcast_to(values[:, None], (len(values), 3072))
        return {"data": np.ascontiguousarray(pixels), key: labels.tolist(), "batch_label": "x"}

    lists = {}
    for name, files, per_class in (
        ("train_list", [f[0] for f in source.train_list], TRAIN),
        ("test_list", [f[0] for f in source.test_list], TEST),
    ):
        labels, values = labelled(per_class, num_classes)
        parts = zip(
            files,
            np.array_split(labels, len(files)),
            np.array_split(values, len(files)),
            strict=True,
        )
        lists[name] = [write(file, batch(*part)) for file, *part in parts]
    names = [f"class {k}" for k in range(num_classes)]
    filename, md5 = write(source.meta["filename"], {source.meta["key"]: names})
    monkeypatch.setattr(source, "meta", {**source.meta, "filename": filename, "md5": md5})
    for name, files in lists.items():
        monkeypatch.setattr(source, name, files)


WRITERS = {
    "seq-fmnist": lambda root, _: write_mnist(root / "FashionMNIST" / "raw"),
    "seq-mnist": lambda root, _: write_mnist(root / "MNIST" / "raw"),
    "seq-cifar10": lambda root, patch: write_cifar(CIFAR10, 10, root, patch),
    "seq-cifar100": lambda root, patch: write_cifar(CIFAR100, 100, root, patch),
}
# What is published: tasks, classes per task, (C, H, W), train and test images per class here.
FACTS = {
    "seq-fmnist": (5, 2, (3, 32, 32), TRAIN, TEST),
    "seq-mnist": (5, 2, (1, 28, 28), TRAIN, TEST),
    "seq-cifar10": (5, 2, (3, 32, 32), TRAIN, TEST),
    "seq-cifar100": (10, 10, (3, 32, 32), TRAIN, TEST),
    "seq-fmnist-mini": (5, 2, (3, 32, 32), 600, 200),
}
each_dataset = pytest.mark.parametrize("name", list(datasets))
each_with_files = pytest.mark.parametrize("name", list(WRITERS))


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Returns a function that writes a dataset's files and makes it."""
    # This machine may have Debian's Fashion-MNIST.
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "nowhere")

    def build(name, **args):
        if name in WRITERS:
            WRITERS[name](tmp_path, monkeypatch)
        args = {"batch_size": 7, "data_dir": str(tmp_path), "device": "cpu", **args}
        return datasets[name].target(Namespace(**args))

    return build


@each_dataset
def test_tasks_classes_and_shapes(make, name):
    tasks, per_task, shape, train_images, test_images = FACTS[name]
    dataset = make(name)
    assert (name, "class-il") == (dataset.NAME, dataset.SETTING)
    assert (tasks, per_task) == (dataset.N_TASKS, dataset.N_CLASSES_PER_TASK)
    assert tasks * per_task == dataset.N_CLASSES
    assert dataset.input_shape() == shape
    for task in range(tasks):
        first, end = task * per_task, (task + 1) * per_task
        assert dataset.get_offsets(task) == (first, end)
        for loader, images in zip(
            dataset.meta_get_data_loaders(), (train_images, test_images), strict=True
        ):
            labels = torch.as_tensor(loader.dataset.targets)
            assert labels.bincount(minlength=end)[first:].tolist() == [images] * per_task
            # The fast way, for every built-in dataset.
            assert loader.fallback_reason is None
            inputs, _, not_aug = next(iter(loader))
            assert inputs.shape[1:] == not_aug.shape[1:] == shape
            assert torch.isfinite(inputs).all()
            assert ((not_aug >= 0) & (not_aug <= 1)).all()
    info = dataset.info()
    assert len(info.class_names) == len(set(info.class_names)) == dataset.N_CLASSES
    assert len(info.mean) == len(info.std) == shape[0]
    assert info.classes_seen == tuple(range(dataset.N_CLASSES))


@each_with_files
def test_pixels_become_what_the_transform_says(make, name):
    dataset = make(name)
    dataset.meta_get_data_loaders()
    inputs, labels, not_aug = next(iter(dataset.test_loaders[0]))
    middle = (slice(None), slice(None), 16, 16)
    values = (labels % 10 * 10 + 5).float() / 255
    mean, std = torch.tensor(dataset.MEAN), torch.tensor(dataset.STD)
    assert torch.equal(not_aug[middle], values[:, None].expand(-1, inputs.shape[1]))
    assert torch.allclose(inputs[middle], (values[:, None] - mean) / std, atol=1e-6)


@each_dataset
def test_images_in_the_loader_are_those_of_getitem(make, name):
    dataset = make(name)
    _, test_loader = dataset.meta_get_data_loaders()
    inputs, labels, not_aug = next(iter(test_loader))
    for i in (0, 1, len(labels) - 1):
        image, label, plain = test_loader.dataset[i]
        assert torch.equal(inputs[i], image)
        assert labels[i] == label
        assert torch.equal(not_aug[i], plain)


@each_dataset
def test_replay_transform_is_the_training_transform(make, name):
    dataset = make(name)
    steps = dataset.get_transform().transforms
    assert isinstance(steps[0], transforms.ToPILImage)
    assert steps[1] is dataset.TRANSFORM


@each_dataset
def test_default_backbone_is_registered_and_fits(make, name):
    assert datasets[name].target.get_backbone() in backbones
    model, _ = load_runner("sgd", name)
    channels = FACTS[name][2]
    assert model.net(torch.rand(2, *channels)).shape == (2, FACTS[name][0] * FACTS[name][1])


@each_dataset
@pytest.mark.parametrize("model", list(models))
def test_every_pair_with_a_built_in_model_has_all_its_arguments(name, model):
    loaded, dataset = load_runner(
        model, name, {"backbone": "mnistmlp", "input_size": int(np.prod(FACTS[name][2]))}
    )
    assert loaded.args.lr > 0
    assert loaded.args.batch_size >= 1
    assert loaded.num_classes == dataset.N_CLASSES


@each_dataset
def test_augmentation_is_that_of_the_literature(make, name):
    dataset = make(name)
    kinds = {type(step) for step in getattr(dataset.TRANSFORM, "transforms", [dataset.TRANSFORM])}
    augmented = {transforms.RandomCrop, transforms.RandomHorizontalFlip} <= kinds
    assert augmented == (name != "seq-mnist")


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("seq-mnist", "mnist"),
        ("seq-mnist", "MNIST/raw"),
        ("seq-fmnist", "."),
        ("seq-fmnist", "fashion-mnist"),
        ("seq-fmnist", "FashionMNIST/raw"),
    ],
)
def test_idx_files_are_found(tmp_path, monkeypatch, name, folder, compress):
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "nowhere")
    write_mnist(tmp_path / "root" / folder, compress)
    args = Namespace(batch_size=7, data_dir=str(tmp_path / "root"))
    dataset = datasets[name].target(args)
    dataset.meta_get_data_loaders()
    assert len(dataset.train_loader.dataset) == 2 * TRAIN


def test_debians_files_are_found(tmp_path, monkeypatch):
    write_mnist(tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    dataset = datasets["seq-fmnist"].target(Namespace(batch_size=7, data_dir=None))
    dataset.meta_get_data_loaders()
    assert len(dataset.train_loader.dataset) == 2 * TRAIN


@pytest.mark.parametrize(
    ("name", "source", "folder"),
    [
        ("seq-mnist", "mnist.MNIST", "MNIST"),
        ("seq-fmnist", "fashion_mnist.FashionMNIST", "FashionMNIST"),
    ],
)
def test_downloads_go_where_they_are_looked_for(tmp_path, monkeypatch, name, source, folder):
    # torchvision's class, which writes the files where it would unpack the real ones.
    def download(root, download):
        assert download
        write_mnist(Path(root) / folder / "raw")

    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(f"mammoth_compiled.datasets.{source}", download)
    for _ in range(2):  # the second time it is there
        dataset = datasets[name].target(Namespace(batch_size=7, data_dir=str(tmp_path)))
        dataset.meta_get_data_loaders()
        assert len(dataset.train_loader.dataset) == 2 * TRAIN


def test_mnist_does_not_take_fashion_mnists_files(tmp_path, monkeypatch):
    # They have the same names.
    write_mnist(tmp_path / "here")
    no_network(monkeypatch)
    dataset = datasets["seq-mnist"].target(Namespace(batch_size=7, data_dir=str(tmp_path / "here")))
    with pytest.raises(DataError):
        dataset.meta_get_data_loaders()


def no_network(monkeypatch):
    def fail(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", fail)


@each_with_files
def test_missing_data_without_a_network(tmp_path, monkeypatch, name):
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    no_network(monkeypatch)
    root = tmp_path / "empty"
    dataset = datasets[name].target(Namespace(batch_size=7, data_dir=str(root)))
    with pytest.raises(DataError) as caught:
        dataset.meta_get_data_loaders()
    message = str(caught.value)
    assert message.startswith(f"{name}: the data is not in {root}")
    assert "the download failed" in message
    assert "Put the files there or give --data_dir DIR" in message
    assert ("apt-get install dataset-fashion-mnist" in message) == (name == "seq-fmnist")
    assert "\n" not in message
    assert not [path for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("damage", ["cut", "text", "other type", "empty"])
def test_damaged_idx_files(tmp_path, damage):
    write_mnist(tmp_path / "mnist", compress=False)
    path = tmp_path / "mnist" / "train-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:-5],
            "text": b"<html>not found</html>",
            "other type": content[:2] + b"\x0d" + content[3:],
            "empty": b"",
        }[damage]
    )
    dataset = datasets["seq-mnist"].target(Namespace(batch_size=7, data_dir=str(tmp_path)))
    with pytest.raises(DataError, match=f"{path} is not a whole IDX file .*: fetch it again"):
        dataset.meta_get_data_loaders()


def test_cut_gzip_files(tmp_path):
    write_mnist(tmp_path / "mnist")
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-30])
    dataset = datasets["seq-mnist"].target(Namespace(batch_size=7, data_dir=str(tmp_path)))
    with pytest.raises(DataError, match="is not a whole IDX file"):
        dataset.meta_get_data_loaders()


def test_cifar_files_with_a_wrong_sum_are_not_used(make, monkeypatch, tmp_path):
    dataset = make("seq-cifar10")
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-9])
    no_network(monkeypatch)
    with pytest.raises(DataError, match="seq-cifar10: the data is not in"):
        dataset.meta_get_data_loaders()


def test_cifar_class_names_come_from_the_files(make):
    dataset = make("seq-cifar100")
    dataset.meta_get_data_loaders()
    assert dataset.info().class_names == tuple(f"class {k}" for k in range(100))


@pytest.mark.parametrize("name", ["seq-cifar10", "seq-mnist"])
def test_trains_on_files(make, name, tmp_path):
    make(name)
    args = {"data_dir": str(tmp_path), "n_epochs": 1, "batch_size": 8, "compile": "off", "seed": 0}
    args |= {"backbone": "mnistmlp", "input_size": int(np.prod(FACTS[name][2])), "lr": 0.05}
    results = train(*load_runner("sgd", name, args))
    assert len(results.class_il) == 5


def test_packaged_files_are_small_and_real():
    folder = Path(fashion_mnist.PACKAGED)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6e6
    for split, per_class in (("train", 600), ("test", 200)):
        dataset = datasets["seq-fmnist-mini"].target(Namespace(batch_size=7))
        images, labels = fashion_mnist.SequentialFashionMNIST.read(*dataset.files(split))
        assert np.bincount(labels).tolist() == [per_class] * 10
        assert len({image.tobytes() for image in images}) > 0.99 * len(images)
    # Training and test images are different ones.
    train_images, _ = fashion_mnist.SequentialFashionMNIST.read(*dataset.files("train"))
    test_images, _ = fashion_mnist.SequentialFashionMNIST.read(*dataset.files("test"))
    known = {image.tobytes() for image in train_images}
    assert sum(image.tobytes() in known for image in test_images) == 0
