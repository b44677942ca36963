"""Writes test images of a dataset for the page: one PNG, and a JSON file with their labels.

    python examples/browser/samples.py [--dataset seq-fmnist-mini] [--per-class 3] [--out DIR]

The images are stored pixels; the page preprocesses them as the bundle says.
"""

import argparse
import contextlib
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

import mammoth_compiled as mc


def test_images(dataset_name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns the test set of a dataset: uint8 [N, H, W, C], class ids [N] and class names."""
    with contextlib.redirect_stdout(io.StringIO()):
        _, dataset = mc.load_runner("joint", dataset_name)
    _, test = dataset.get_data_loaders()
    pixels = test.data if test.data.ndim == 4 else test.data[..., None]
    return pixels, np.asarray(test.targets), list(dataset.info().class_names)


def write_samples(
    directory: Path, dataset: str, pixels: np.ndarray, labels: np.ndarray, names: list[str]
) -> None:
    """Writes `samples.png`, with the images in one column, and `samples.json`."""
    height, width = pixels.shape[1:3]
    strip = pixels.reshape(-1, *pixels.shape[2:])
    Image.fromarray(strip if strip.shape[-1] == 3 else strip[..., 0]).save(
        directory / "samples.png", optimize=True
    )
    about = {
        "dataset": dataset,
        "image": "samples.png",
        "width": width,
        "height": height,
        "labels": labels.tolist(),
        "names": names,
    }
    (directory / "samples.json").write_text(json.dumps(about) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="seq-fmnist-mini", help="Dataset.")
    parser.add_argument("--per-class", type=int, default=3, help="Images per class.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="Output directory.")
    args = parser.parse_args()
    pixels, labels, names = test_images(args.dataset)
    chosen = np.concatenate(
        [np.flatnonzero(labels == k)[: args.per_class] for k in np.unique(labels)]
    )
    write_samples(args.out, args.dataset, pixels[chosen], labels[chosen], names)
    print(f"wrote {len(chosen)} test images of {args.dataset} to {args.out}")


if __name__ == "__main__":
    main()
