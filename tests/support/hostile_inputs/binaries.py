"""Hostile files that are not text: checkpoints, bundles, images, caches."""

import copy
import io
import os
import random
import zlib
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile_bundles import BUNDLES, UNUSED, hostile_manifests, write
from PIL import Image

from hostile_inputs.harness import ACCEPTED, EITHER, REFUSED, Input, command
from hostile_inputs.texts import PLACES, changed, places
from mammoth_compiled.checkpoint import FORMAT, VERSION, add_checksum, pack, read_checkpoint
from mammoth_compiled.export import load_bundle
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.kernels.runtime import library_cache

RUN = ["--model=er", "--dataset=seq-fmnist-mini", "--backbone=mnistmlp", "--buffer_size=20"]
RUN += ["--compile=off", "--seed=0", "--debug_mode=1", "--batch_size=8", "--hidden_size=4"]
SAVED = "er_seq-fmnist-mini_mnistmlp_seed0_task2.pt"
BIT_FLIPS = 1000


def make_files(directory: Path) -> None:
    """Writes a checkpoint after two of five tasks, `SAVED`, a bundle and `results.json`."""
    paths = [f"--checkpoint_path={directory}", f"--export={directory / 'bundle'}", "--out=off"]
    paths.append(f"--results_path={directory / 'results.json'}")
    command(
        "run", *RUN, *paths, "--savecheck=task", "--stop_after=2", "--formats=onnx,safetensors"
    )()


# --- Checkpoints ----------------------------------------------------------------------------------

WRONG: list[Any] = [None, True, -7, 3, 1.5, float("nan"), float("inf"), 2**70, "x", b"x", [], {}]
WRONG += [[None], {"x": 1}, torch.ones(2), torch.ones(2, dtype=torch.complex64)]
WRONG += [torch.full((3,), torch.nan), torch.zeros(0), torch.zeros(10**4, dtype=torch.uint8)]


def fields(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of the values in a checkpoint; of lists only the first."""
    if path:
        yield path
    if isinstance(content, dict):
        for key in content:
            yield from fields(content[key], (*path, key))
    elif isinstance(content, (list, tuple)) and content and "random" not in path:
        yield from fields(content[0], (*path, 0))


def write_checkpoint(content: Any) -> int:
    return Path("c.pt").write_bytes(add_checksum(pack(content)))


def as_lists(value: Any) -> Any:
    """Returns a copy with lists for tuples, whose entries can be replaced."""
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def checkpoints(directory: Path) -> Iterator[Input]:
    """Yields damaged checkpoints, and those with a wrong value in any field.

    What the schema cannot know, such as the shapes of weights, is noticed when the run resumes.
    """
    raw = (directory / SAVED).read_bytes()
    good = as_lists(read_checkpoint(directory / SAVED))
    read = partial(read_checkpoint, "c.pt")
    draw = random.Random(0)
    for bit in draw.sample(range(8 * len(raw)), BIT_FLIPS):
        data = bytearray(raw)
        data[bit // 8] ^= 1 << bit % 8
        put = partial(_put, "c.pt", bytes(data))
        yield Input("checkpoints", f"bit {bit} flipped", read, REFUSED, put, shares=True)
    for size in [0, 1, 4, 100, *draw.sample(range(len(raw)), 40)]:
        put = partial(_put, "c.pt", raw[:size])
        yield Input("checkpoints", f"first {size} bytes", read, REFUSED, put, shares=True)
    resume = command("run", *RUN, "--loadcheck=c.pt", "--out=off", "--stop_after=3")
    seen = 0
    for path in fields(good):
        for value in WRONG:
            seen += 1
            # Reading is quick; every seventh is used as well, which trains a task if it is valid.
            call = resume if seen % 7 == 0 else read
            what = f"{'.'.join(map(str, path))} = {str(value)[:20]!r}"
            put = partial(_put_changed, good, path, value)
            shares = call is read
            yield Input("checkpoints", what, call, EITHER, put, shares=shares)
    others = {
        "version": {"version": VERSION + 1},
        "format": {"format": "another"},
        "text as version": {"version": "2"},
        "nothing but a format": {},
    }
    for what, entries in others.items():
        content = {**good, **entries} if entries else {"format": FORMAT, "version": VERSION}
        yield Input("checkpoints", what, read, REFUSED, partial(write_checkpoint, content))
    yield from places("checkpoints", "c.pt", command("run", *RUN, "--loadcheck=c.pt", "--out=off"))
    yield from places("checkpoints", "c.pt", command("export", "c.pt", "bundle"))


def _put(name: str, data: bytes) -> None:
    Path(name).write_bytes(data)


def _put_changed(good: Any, path: tuple[Any, ...], value: Any) -> None:
    write_checkpoint(changed(good, path, copy.deepcopy(value)))


# --- Bundles --------------------------------------------------------------------------------------


def bundles(directory: Path) -> Iterator[Input]:
    """Yields manifests and directories of bundles; `mammoth-run` refuses the same ones."""
    good = directory / "bundle"
    for what, text, valid in hostile_manifests((good / "manifest.json").read_text()):
        put = partial(_put, "manifest.json", text)
        expected = ACCEPTED if valid else REFUSED
        yield Input("bundles", what, _read_manifest, expected, put, shares=True)
    for name in BUNDLES:
        copied = partial(write, good, Path(), name)
        yield Input(
            "bundles",
            f"verify: {name}",
            command("export", "verify", "bundle"),
            REFUSED,
            copied,
            check=_nothing,
        )
        if name not in UNUSED:
            yield Input("bundles", f"load: {name}", _load, REFUSED, copied)


def _read_manifest() -> None:
    read_manifest(Path())


def _load() -> None:
    bundle = load_bundle("bundle")
    bundle(torch.zeros(1, *read_manifest(Path("bundle")).info.input_shape))


def _nothing() -> str:
    return ""


# --- Images ---------------------------------------------------------------------------------------

FORMATS = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "ppm": "PPM", "tif": "TIFF", "webp": "WEBP"}
MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I;16", "I", "F", "YCbCr", "LAB", "HSV")


def encoded(mode: str, format: str, size: tuple[int, int] = (12, 9)) -> bytes | None:
    """Returns an image file, None if the format does not have the mode."""
    stream = io.BytesIO()
    try:
        Image.new(mode, size, 1).save(stream, format)
    except (OSError, KeyError, ValueError):
        return None
    return stream.getvalue()


def png(width: int, height: int) -> bytes:
    """Returns a PNG whose header claims a size, and whose pixels are missing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        )

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def _folder(add: Callable[[Path], Any]) -> None:
    for name in ("ant", "bee"):
        for i in range(4):
            path = Path("photos", name, f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (i, 2 * i, 3)).save(path)
    add(Path("photos/ant/0.png"))


def _read_folder(suffix: str = "") -> None:
    from mammoth_compiled.config import resolve
    from mammoth_compiled.runner import build_dataset

    given = {"data_dir": "photos", "image_size": 8, "backbone": "mnistmlp", "test_fraction": 0.5}
    args: Namespace = resolve("sgd", "seq-folder", given)
    for loader in build_dataset(args).meta_get_data_loaders():
        for batch in loader:
            assert batch[0].isfinite().all()


def images() -> Iterator[Input]:
    """Yields folders of images of which one is hostile."""

    def one(what: str, expected: str, add: Callable[[Path], Any]) -> Input:
        return Input("images", what, _read_folder, expected, partial(_folder, add))

    for suffix, format in FORMATS.items():
        data = encoded("RGB", format)
        assert data is not None
        for size in sorted({0, 1, 8, len(data) // 4, len(data) // 2, len(data) - 4}):
            cut = partial(_replace, suffix, data[:size])
            yield one(f"{format}: first {size} bytes", REFUSED if size < 8 else EITHER, cut)
        draw = random.Random(0)
        for i in range(5):
            damaged = bytearray(data)
            damaged[draw.randrange(len(data))] ^= 0xFF
            yield one(f"{format}: damage {i}", EITHER, partial(_replace, suffix, bytes(damaged)))
        for mode in MODES:
            if (other := encoded(mode, format)) is not None:
                yield one(f"{format}: mode {mode}", ACCEPTED, partial(_replace, suffix, other))
        for size in ((1, 1), (1, 2000), (2000, 1)):
            other = encoded("RGB", format, size)
            assert other is not None
            yield one(f"{format}: {size}", ACCEPTED, partial(_replace, suffix, other))
    contents = {
        "text": b"not an image",
        "HTML": b"<!doctype html><html></html>",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "100,000 x 100,000 pixels": png(100_000, 100_000),
        "2^31 pixels wide": png(2**31 - 1, 1),
        "no pixels": png(0, 0),
        "12,000 x 12,000 pixels": png(12_000, 12_000),
        "a program": b"\x7fELF" + bytes(100),
        "an archive": b"PK\x03\x04" + bytes(100),
    }
    for what, data in contents.items():
        yield one(what, REFUSED, partial(_replace, "png", data))
    for what, make in PLACES.items():
        # A link to nothing has no contents, and a folder may be named as an image is.
        expected = ACCEPTED if what in ("absent", "a directory") else REFUSED
        yield one(what, expected, partial(_put_instead, make))


def _replace(suffix: str, data: bytes, path: Path) -> None:
    path.unlink()
    path.with_suffix(f".{suffix}").write_bytes(data)


def _put_instead(make: Callable[[Path], Any], path: Path) -> None:
    path.unlink()
    make(path)


# --- Caches ---------------------------------------------------------------------------------------


def caches() -> Iterator[Input]:
    """Yields damaged caches: they are rebuilt, or refused where nothing else is possible."""

    def array(damage: Callable[[Path], Any]) -> None:
        os.environ["MAMMOTH_CACHE_DIR"] = "cache"
        _folder(lambda path: None)
        _read_folder()
        for path in (_cache() / "images").glob("*.npy"):
            damage(path)

    damages: dict[str, Callable[[Path], Any]] = {
        "empty": lambda path: path.write_bytes(b""),
        "garbage": lambda path: path.write_bytes(b"\x5a" * 5000),
        "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
        "a header alone": lambda path: path.write_bytes(path.read_bytes()[:128]),
        "another shape": lambda path: np.save(path, np.zeros((2, 2), np.uint8)),
        "another type": lambda path: np.save(path, np.zeros((4, 8, 8, 3), np.float32)),
        "objects": lambda path: np.save(path, np.array([{}]), allow_pickle=True),
    }
    for what, make in PLACES.items():
        damages[what] = partial(_put_instead, make)
    for what, damage in damages.items():
        expected = EITHER if what in ("a directory",) else ACCEPTED
        put = partial(array, damage)
        yield Input("caches", f"decoded images: {what}", _read_folder, expected, put)
    for what, damage in damages.items():
        if what in ("another shape", "another type", "objects", "a header alone", "4 TiB of zeros"):
            continue

        def library(damage: Callable[[Path], Any] = damage) -> None:
            Path("torch").mkdir()
            path = Path("torch/main.so")
            path.write_bytes(b"\x7fELF" + bytes(5000))
            library_cache.record(path)
            damage(path)

        yield Input("caches", f"compiled code: {what}", _verify_library, ACCEPTED, library)


def _cache() -> Path:
    return Path("cache")


def _verify_library() -> None:
    assert not library_cache.is_intact(Path("torch/main.so"))
