"""Hostile images, and caches of decoded images and compiled code."""

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
from PIL import Image

from hostile_inputs.harness import ACCEPTED, EITHER, REFUSED, Input
from hostile_inputs.texts import PLACES
from mammoth_compiled.kernels.runtime import library_cache

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
