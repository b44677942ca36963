"""Small dataset files in the formats of their sources, and the tools of tests that read them.

Every pixel of an image of class k has the value 10 * (k % 10) + 5.
"""

import gzip
import struct
import urllib.error
import urllib.request
from argparse import Namespace

import numpy as np

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


def build_dataset(name, root, **args):
    """Builds a dataset that looks for its files in `root`."""
    args = {"batch_size": 7, "data_dir": str(root), "device": "cpu", **args}
    return datasets[name].target(Namespace(**args))


def disable_network(monkeypatch):
    """Makes every download fail as it does without a network."""

    def fail(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
