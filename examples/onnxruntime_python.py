"""Classifies images with an exported bundle, using only ONNX Runtime, NumPy and Pillow.

    python examples/onnxruntime_python.py BUNDLE IMAGE [IMAGE ...] [--precision fp32|fp16|int8]

Copy this file to the machine that runs the bundle: it needs neither torch nor mammoth_compiled.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image, UnidentifiedImageError

SCHEMA = 1
REQUIRED_KEYS = ("contract", "preprocessing", "classes", "files")


class BundleError(ValueError):
    """A bundle or an image that cannot be used."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads manifest.json and checks that it is complete."""
    file = folder / "manifest.json"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        schema = int(manifest["schema"])
    except OSError as error:
        raise BundleError(f"no bundle at {folder}: {error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{file} is damaged ({type(error).__name__}: {error})") from error
    if schema > SCHEMA:
        raise BundleError(f"{file} has schema {schema}; this program reads {SCHEMA}")
    missing = [key for key in REQUIRED_KEYS if key not in manifest]
    if missing:
        raise BundleError(f"{file} is damaged: it lacks {', '.join(missing)}")
    return manifest


def open_model(
    folder: Path, manifest: dict[str, Any], precision: str = "fp32"
) -> ort.InferenceSession:
    """Opens the smallest ONNX file with logits in the given precision, after checking its hash."""
    models = [file for file in manifest["files"] if file["format"] == "onnx"]
    fitting = [m for m in models if m["precision"] == precision and "out" in m["outputs"]]
    if not fitting:
        available = ", ".join(sorted({model["precision"] for model in models}))
        raise BundleError(f"{folder} has no {precision} model; it has: {available or 'none'}")
    entry = min(fitting, key=lambda model: len(model["outputs"]))
    file = folder / entry["path"]
    if not file.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{entry['path']} is outside the bundle")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise BundleError(f"{file} is not the file that was exported. Copy the bundle again")
    return ort.InferenceSession(data, providers=["CPUExecutionProvider"])


def read_image(path: Path, manifest: dict[str, Any]) -> np.ndarray:
    """Reads an image and preprocesses it for the model; the result has no batch axis."""
    contract, preprocessing = manifest["contract"]["input"], manifest["preprocessing"]
    if preprocessing is None:
        raise BundleError("the manifest does not say how pixels are preprocessed")
    shape = contract["shape"][1:]
    height, width, channels = shape if contract["layout"] == "NHWC" else (*shape[1:], shape[0])
    try:
        with Image.open(path) as image:
            resized = image.convert("L" if channels == 1 else "RGB").resize((width, height))
    except (OSError, UnidentifiedImageError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    pixels = np.asarray(resized).reshape(height, width, channels)
    if preprocessing["folded"]:
        return pixels
    scaled = pixels.astype(np.float32) * np.float32(preprocessing["scale"])
    mean, std = (np.array(preprocessing[key], np.float32) for key in ("mean", "std"))
    return ((scaled - mean) / std).transpose(2, 0, 1)


def probabilities(logits: np.ndarray, classes: dict[str, Any]) -> np.ndarray:
    """Returns probabilities [B, K] among the classes seen in training, and 0 for the others."""
    if classes["softmax"]:
        return logits
    seen = np.isin(classes["ids"], classes["seen"] or classes["ids"])
    weights = np.exp(logits - logits[:, seen].max(1, keepdims=True), where=seen, out=0 * logits)
    return weights / weights.sum(1, keepdims=True)


def table(paths: Sequence[Path], shares: np.ndarray, classes: dict[str, Any], top: int) -> str:
    """Returns one line per image with its most probable classes."""
    names = classes["names"] or [f"class {id_}" for id_ in classes["ids"]]
    rows = [["image", *(f"{rank}." for rank in range(1, top + 1))]]
    for path, row in zip(paths, shares, strict=True):
        order = np.argsort(-row, kind="stable")[:top]
        rows.append([path.name, *(f"{names[k]} {row[k]:.1%}" for k in order)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument(
        "--precision", default="fp32", choices=["fp32", "fp16", "int8"], help="Model to run."
    )
    parser.add_argument(
        "--top", type=int, default=3, help="Number of classes to print (default: 3)."
    )
    args = parser.parse_args(arguments)
    try:
        manifest = read_manifest(args.bundle)
        batch = np.stack([read_image(path, manifest) for path in args.images])
        session = open_model(args.bundle, manifest, args.precision)
        name = manifest["contract"]["input"]["name"]
        (logits,) = session.run(["out"], {name: batch})
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    classes = manifest["classes"]
    top = max(1, min(args.top, len(classes["ids"])))
    print(table(args.images, probabilities(logits, classes), classes, top))
    return 0


if __name__ == "__main__":
    sys.exit(main())
