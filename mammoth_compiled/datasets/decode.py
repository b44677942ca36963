"""Decodes image files once, into an array on disk that later runs map into memory.

The array lies in the user's cache folder (`MAMMOTH_CACHE_DIR` sets it): N * size * size * 3 bytes,
0.4 GB for 100,000 images of 36x36 pixels and 15 GB at 224x224. Training copies only the images of
the current task into memory. A changed, added or removed file makes a new array, which replaces
the old one.
"""

import contextlib
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mammoth_compiled.console import say
from mammoth_compiled.errors import DataError
from mammoth_compiled.files import user_cache, write_once

# Change it when the same file would be decoded to other pixels.
VERSION = 1
CHUNK = 256
MAX_NAMED = 5


def decoded(root: Path, files: Sequence[str], size: int) -> np.ndarray:
    """Returns images as an array, decoded now or by an earlier run.

    Args:
        root: Folder of the files.
        files: Paths relative to it.
        size: Height and width of the result, pixels; see `decode`.

    Returns:
        uint8, [N, size, size, 3], mapped into memory; changes to it are not written to disk.

    Raises:
        DataError: If files are missing or cannot be decoded; names them.
        MammothError: If the cache cannot be written.
    """
    path = _cache_path(root, files, size)
    shape = (len(files), size, size, 3)
    for _ in range(2):
        write_once(path, partial(_array_file, root, files, size))
        with contextlib.suppress(OSError, ValueError, EOFError):
            # Something else than a file, a pipe for example, might be read forever.
            images = np.load(path, mmap_mode="c") if path.is_file() else np.zeros(0)
            if images.shape == shape and images.dtype == np.uint8:
                _remove_outdated(path)
                return np.asarray(images)
        with contextlib.suppress(OSError):  # a directory
            path.unlink(missing_ok=True)  # damaged
    raise DataError(f"{path} cannot be read: give another folder by MAMMOTH_CACHE_DIR")


def _cache_path(root: Path, files: Sequence[str], size: int) -> Path:
    """Returns the path of an array; its name tells the list of files, and their state."""
    root = root.resolve()
    listed = hashlib.sha256(f"{VERSION}|{size}|{root}".encode())
    state = hashlib.sha256()
    missing = []
    for name in files:
        listed.update(f"|{name}".encode(errors="surrogateescape"))
        try:
            found = os.stat(root / name)
            state.update(f"{found.st_size}|{found.st_mtime_ns}|".encode())
            if not stat.S_ISREG(found.st_mode):  # reading a pipe might never end
                missing.append((name, "not a regular file"))
        except OSError:
            missing.append((name, "no such file"))
    if missing:
        raise _unreadable(root, missing, len(files))
    folder = user_cache() / "images"
    return folder / f"{listed.hexdigest()[:24]}-{state.hexdigest()[:16]}.npy"


def _remove_outdated(path: Path) -> None:
    same_files = path.name.split("-")[0]
    for other in path.parent.glob(f"{same_files}-*.npy"):
        if other != path:
            other.unlink(missing_ok=True)


def _array_file(root: Path, files: Sequence[str], size: int) -> Iterator[bytes]:
    """Yields the bytes of a .npy file with all images."""
    say(f"data: decoding {len(files):,} images of {root} to {size}x{size} pixels, once")
    header = io.BytesIO()
    shape = (len(files), size, size, 3)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    yield header.getvalue()
    failed: list[tuple[str, str]] = []

    def read(name: str) -> bytes:
        try:
            return decode(root / name, size).tobytes()
        except Exception as error:  # Pillow's decoders raise whatever a damaged file leads to
            failed.append((name, " ".join(str(error).split()) or type(error).__name__))
            return b""

    # Pillow decodes without holding the interpreter's lock. Of a file that it warns of, either the
    # pixels can be used or the error below says what is wrong.
    with warnings.catch_warnings(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        warnings.simplefilter("ignore")
        for first in range(0, len(files), CHUNK):
            yield from pool.map(read, files[first : first + CHUNK])
    if failed:
        raise _unreadable(root, sorted(failed), len(files))


def _unreadable(root: Path, failed: list[tuple[str, str]], total: int) -> DataError:
    shown = "; ".join(f"{name} ({reason})" for name, reason in failed[:MAX_NAMED])
    more = f"; and {len(failed) - MAX_NAMED} others" if len(failed) > MAX_NAMED else ""
    return DataError(
        f"{len(failed)} of {total} images in {root} cannot be read: {shown}{more}. Replace or "
        "remove them"
    )


def decode(path: Path, size: int) -> np.ndarray:
    """Reads an image: its central square, resized with Pillow's bilinear filter.

    The orientation in EXIF data is applied. Transparent pixels are shown on white, 16-bit gray
    values are reduced to 8 bits, and of an animation the first frame is taken.

    Args:
        path: A file in any format of Pillow.
        size: Height and width of the result, pixels.

    Returns:
        uint8, [size, size, 3].

    Raises:
        Exception: Whatever Pillow raises if the file is missing or damaged.
    """
    with Image.open(path) as image:
        image.draft("RGB", (size, size))  # JPEG: decodes at a smaller scale, no smaller than this
        upright = ImageOps.exif_transpose(image)
        fitted = ImageOps.fit(_to_rgb(upright), (size, size), Image.Resampling.BILINEAR)
        return np.asarray(fitted)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("has pixels that are NaN or infinite")
        # Only the range tells whether 32-bit integers hold 8 or 16 bits, and where floats end.
        tops = {"F": (1, 255), "I": (255, 65535)}.get(image.mode, (65535,))
        top = next((top for top in tops if values.max() <= top), values.max())
        image = Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
