"""Decoding image files once: pixels, the cache, damage, concurrent runs and kills."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from mammoth_compiled.datasets import decode as module
from mammoth_compiled.datasets.decode import decode, decoded
from mammoth_compiled.errors import DataError, MammothError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder of a test."""
    monkeypatch.setenv("MAMMOTH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def files(tmp_path):
    """Ten images with one value each: their folder and names."""
    names = [f"{i}.png" for i in range(10)]
    for i, name in enumerate(names):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("RGB", (9, 6), (20 * i,) * 3).save(tmp_path / "in" / name)
    return tmp_path / "in", names


@pytest.fixture
def decodes(monkeypatch):
    """Names of the files that are decoded."""
    names = []
    original = module.decode
    monkeypatch.setattr(
        module, "decode", lambda path, size: (names.append(path.name), original(path, size))[1]
    )
    return names


def values(images):
    return images[:, 0, 0, 0].tolist()


def test_the_central_square_is_resized(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    box = (25, 0, 65, 40)
    expected = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BILINEAR, box)
    assert np.array_equal(decode(tmp_path / "x.png", 16), np.asarray(expected))


def test_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (20, 20))
    image.paste((255, 255, 255), (0, 0, 20, 10))  # white above black
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    image.save(tmp_path / "x.png", exif=exif)
    shown = decode(tmp_path / "x.png", 8)
    assert shown[0].max() == 0
    assert shown[-1].min() == 255


def test_transparent_pixels_are_white(tmp_path):
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(tmp_path / "x.png")
    assert (decode(tmp_path / "x.png", 4) == 255).all()


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (np.full((4, 4), 0.5, np.float32), 127),
        (np.full((4, 4), 200, np.float32), 200),
        (np.full((4, 4), 200, np.int32), 200),
        (np.full((4, 4), 51_400, np.int32), 200),
        (np.full((4, 4), 257, np.uint16), 1),
    ],
)
def test_other_pixel_types_are_scaled(tmp_path, array, value):
    Image.fromarray(array).save(tmp_path / "x.tif")
    assert (decode(tmp_path / "x.tif", 4) == value).all()


def test_nan_pixels_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif \(has pixels that are NaN or infinite\)"):
        decoded(tmp_path, ["x.tif"], 4)


def test_files_are_decoded_once(files, decodes, cache):
    for _ in range(2):
        assert values(decoded(*files, 4)) == [20 * i for i in range(10)]
        assert sorted(decodes) == files[1]
    assert decoded(*files, 4).shape == (10, 4, 4, 3)
    assert [path.suffix for path in cache.iterdir()] == [".npy"]


def test_changes_of_the_array_stay_in_memory(files):
    images = decoded(*files, 4)
    images[:] = 1
    assert values(decoded(*files, 4)) == [20 * i for i in range(10)]


def test_a_changed_file_replaces_the_array(files, cache):
    folder, names = files
    before = decoded(folder, names, 4)
    Image.new("RGB", (3, 3), (7, 7, 7)).save(folder / "3.png")
    assert values(decoded(folder, names, 4))[3] == 7
    assert len(list(cache.iterdir())) == 1
    assert values(before)[3] == 60  # still mapped by a run that uses it


def test_other_sizes_and_files_have_their_own_array(files, cache):
    folder, names = files
    decoded(folder, names, 4)
    assert decoded(folder, names, 5).shape == (10, 5, 5, 3)
    assert values(decoded(folder, names[:3], 4)) == [0, 20, 40]
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: b"", lambda c: b"x" * len(c)])
def test_damaged_arrays_are_written_again(files, cache, damage):
    decoded(*files, 4)
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert values(decoded(*files, 4)) == [20 * i for i in range(10)]


def test_unreadable_files_are_named_and_nothing_is_written(files, cache):
    folder, names = files
    for name in names[:7]:
        (folder / name).write_bytes(b"?")
    message = r"7 of 10 images in .* cannot be read: 0\.png \(.*; 4\.png .*; and 2 others\. Replace"
    with pytest.raises(DataError, match=message):
        decoded(folder, names, 4)
    assert not list(cache.iterdir())
    with pytest.raises(DataError, match=r"1 of 1 images .*: gone\.png \(no such file\)"):
        decoded(folder, ["gone.png"], 4)


def test_an_unwritable_cache_is_reported(files, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MAMMOTH_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(MammothError, match="cannot write"):
        decoded(*files, 4)


def test_concurrent_runs_decode_once(files, decodes):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(values(decoded(*files, 4))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[20 * i for i in range(10)]] * 4
    assert sorted(decodes) == files[1]


def test_a_killed_run_leaves_nothing_that_is_used(files, cache):
    folder, names = files
    program = f"""
import time
from pathlib import Path
from mammoth_compiled.datasets import decode
chunks = decode._array_file
def slow(*args):
    for chunk in chunks(*args):
        yield chunk
        print("wrote", flush=True)
        time.sleep(600 if chunk[:1] != b"\\x93" else 0)
decode._array_file = slow
decode.decoded(Path({str(folder)!r}), {names!r}, 4)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert any(b"wrote" in line for line in process.stdout)
        os.kill(process.pid, signal.SIGKILL)
    assert not list(cache.glob("*.npy"))
    assert values(decoded(folder, names, 4)) == [20 * i for i in range(10)]
