"""Small dataset files in the formats of their sources, and the tools of tests that read them.

Every pixel of an image of class k has the value 10 * (k % 10) + 5.
"""

import gzip
import hashlib
import pickle
import struct
import urllib.error
import urllib.request
from argparse import Namespace

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from mammoth_compiled.registry import datasets

TRAIN_PER_CLASS, TEST_PER_CLASS = 12, 4


def labels_and_values(per_class, num_classes):
    """Returns shuffled labels, [N], and the pixel value of each image, uint8, [N]."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(num_classes), per_class))
    return labels, (labels % 10 * 10 + 5).astype(np.uint8)


def write_idx_files(folder, compress=True):
    """Writes the four files of MNIST with 28x28 images of 10 classes."""
    folder.mkdir(parents=True)
    for split, per_class in (("train", TRAIN_PER_CLASS), ("t10k", TEST_PER_CLASS)):
        labels, values = labels_and_values(per_class, 10)
        images = np.broadcast_to(values[:, None, None], (len(values), 28, 28))
        for stem, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            content = header + array.tobytes()
            name = f"{split}-{stem}-ubyte"
            if compress:
                name, content = f"{name}.gz", gzip.compress(content, 1)
            (folder / name).write_bytes(content)


def write_cifar(
    source,
    num_classes,
    root,
    monkeypatch,
    train_per_class=TRAIN_PER_CLASS,
    test_per_class=TEST_PER_CLASS,
):
    """Writes pickled batches as in the CIFAR archives, and replaces the published MD5 sums."""
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
        ("train_list", [f[0] for f in source.train_list], train_per_class),
        ("test_list", [f[0] for f in source.test_list], test_per_class),
    ):
        labels, values = labels_and_values(per_class, num_classes)
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


def write_cifar10(root, monkeypatch):
    write_cifar(CIFAR10, 10, root, monkeypatch)


def write_cifar100(root, monkeypatch):
    write_cifar(CIFAR100, 100, root, monkeypatch)


def write_image(path, label, size=(20, 16)):
    """Writes an image of a class, in the format of its suffix; JPEG keeps the value too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = int(label % 10 * 10 + 5)
    Image.new("RGB", size, (value,) * 3).save(path)


def build_dataset(name, root, **args):
    """Builds a dataset that looks for its files in `root`."""
    args = {"batch_size": 7, "data_dir": str(root), "device": "cpu", **args}
    entry = datasets[name]
    options = {p.name: args[p.name] for p in entry.parameters if p.name in args}
    return entry.target(Namespace(**args), **options)


def disable_network(monkeypatch):
    """Makes every download fail as it does without a network."""

    def fail(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
