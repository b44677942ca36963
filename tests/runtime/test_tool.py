"""The command line of mammoth-run. ctest runs this file with a tool, a bundle and a backend."""

import json
import os
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if "MAMMOTH_RUN" not in os.environ:
    pytest.skip("run by ctest in a build of the C++ runtime", allow_module_level=True)

TOOL = os.environ["MAMMOTH_RUN"]
BUNDLE = Path(os.environ["MAMMOTH_BUNDLE"])
BACKEND = os.environ["MAMMOTH_BACKEND"]
MANIFEST = json.loads((BUNDLE / "manifest.json").read_text())
GOLDEN = {name: np.load(BUNDLE / path) for name, path in MANIFEST["golden"]["outputs"].items()}
INPUT = BUNDLE / MANIFEST["golden"]["input"]
CONTRACT = MANIFEST["contract"]["input"]
AXES = dict(zip(CONTRACT["layout"][1:], CONTRACT["shape"][1:], strict=True))
HEIGHT, WIDTH, CHANNELS = AXES["H"], AXES["W"], AXES["C"]
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, CHANNELS), dtype=np.uint8)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [TOOL, str(BUNDLE), "--backend", BACKEND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def run_json(*arguments: object) -> dict[str, Any]:
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def png(pixels: np.ndarray) -> bytes:
    """Returns uint8 [H, W, 1] or [H, W, 3] as a PNG file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def preprocessed(pixels: np.ndarray) -> np.ndarray:
    """Preprocesses one image as the manifest says."""
    preprocessing = MANIFEST["preprocessing"]
    if preprocessing["folded"]:
        return pixels
    values = pixels.astype(np.float32) * np.float32(preprocessing["scale"])
    values = (values - np.float32(preprocessing["mean"])) / np.float32(preprocessing["std"])
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def test_golden_input() -> None:
    report = run_json(INPUT, "--returnt", "both", "--top", 3, "--json")
    assert report["backend"] == BACKEND
    classes = MANIFEST["classes"]
    for answer, out, features in zip(
        report["results"], GOLDEN["out"], GOLDEN["features"], strict=True
    ):
        columns = np.argsort(-out)[:3]
        assert [best["id"] for best in answer["top"]] == [classes["ids"][k] for k in columns]
        assert [best["name"] for best in answer["top"]] == [classes["names"][k] for k in columns]
        scores = [best["score"] for best in answer["top"]]
        np.testing.assert_allclose(scores, out[columns], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(answer["features"], features, rtol=1e-3, atol=1e-4)


def test_only_requested_outputs_are_reported() -> None:
    assert "features" not in run_json(INPUT, "--json")["results"][0]
    assert "top" not in run_json(INPUT, "--returnt", "features", "--json")["results"][0]


def test_all_image_formats_give_the_same_scores(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("x.png", "x.ppm", "pixels.npy", "input.npy")]
    files[0].write_bytes(png(PIXELS))
    header = b"P%d %d %d 255\n" % ({1: 5, 3: 6}[CHANNELS], WIDTH, HEIGHT)
    files[1].write_bytes(header + PIXELS.tobytes())
    np.save(files[2], PIXELS)
    np.save(files[3], preprocessed(PIXELS))
    results = run_json(*files, "--json")["results"]
    assert [answer["file"] for answer in results] == list(map(str, files))
    scores = [answer["top"][0]["score"] for answer in results]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-4)


def test_a_batch_of_stored_images(tmp_path: Path) -> None:
    np.save(tmp_path / "two.npy", np.stack([PIXELS, PIXELS[::-1]]))
    results = run_json(tmp_path / "two.npy", "--json")["results"]
    assert [answer["index"] for answer in results] == [0, 1]
    assert results[0]["top"] != results[1]["top"]


def test_text() -> None:
    result = run(INPUT)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == len(GOLDEN["out"])


def test_benchmark() -> None:
    report = run_json("--benchmark", "--batch", 2, "--seconds", 0.1, "--threads", 1)
    assert report["batch"] == 2
    assert report["rounds"] >= 10
    for key in ("runtime", "bare"):
        assert 0 < report[key]["p20_ms"] <= report[key]["median_ms"] <= report[key]["p80_ms"]


def test_help() -> None:
    assert "usage: mammoth-run" in run("--help").stdout


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("contract): an image is", ("large.png",)),
        ("damaged): ", ("cut.png",)),
        ("missing): there is no file", ("absent.png",)),
        ("'<f8'; valid: '<f4'", ("double.npy",)),
        ("valid: out, features, both", (INPUT, "--returnt", "logits")),
        ("valid: onnx, aoti, torchscript", (INPUT, "--backend", "tflite")),
        ("no fp4 model", (INPUT, "--precision", "fp4")),
        ("--top must be a number from 1", (INPUT, "--top", "0")),
        ("--top must be a number from 1", (INPUT, "--top", "3x")),
        ("--top needs a value", (INPUT, "--top")),
        ("unknown option --tpo", (INPUT, "--tpo", "3")),
        ("either images or --benchmark", ()),
    ],
)
def test_errors_are_one_line(
    message: str, arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("large.png").write_bytes(png(np.zeros((HEIGHT + 1, WIDTH, CHANNELS), np.uint8)))
    Path("cut.png").write_bytes(png(PIXELS)[:50])
    np.save("double.npy", np.zeros((1, 2)))
    result = run(*arguments)
    assert result.returncode == 2, result.stdout
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full of Linux")
@pytest.mark.parametrize("arguments", [("--help",), (BUNDLE, "--backend", BACKEND, INPUT)])
def test_full_output_is_an_error(arguments: tuple[object, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [TOOL, *map(str, arguments)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=600,
        )
    assert (done.returncode, done.stderr) == (1, "error: cannot write to standard output\n")
