"""python tool_test.py MAMMOTH_RUN BUNDLE BACKEND [TEST...]: drives the command-line tool."""

import json
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib
from pathlib import Path

import numpy as np

TOOL, BUNDLE, BACKEND = sys.argv[1:4]
MANIFEST = json.loads(Path(BUNDLE, "manifest.json").read_text())
GOLDEN = {
    name: np.load(Path(BUNDLE, path)) for name, path in MANIFEST["golden"]["outputs"].items()
}
INPUT = str(Path(BUNDLE, MANIFEST["golden"]["input"]))
CONTRACT = MANIFEST["contract"]["input"]
FOLDED = CONTRACT["layout"] == "NHWC"
AXES = dict(zip(CONTRACT["layout"][1:], CONTRACT["shape"][1:], strict=True))
HEIGHT, WIDTH, CHANNELS = AXES["H"], AXES["W"], AXES["C"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [TOOL, BUNDLE, "--backend", BACKEND, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def run_json(*arguments: object) -> dict:
    result = run(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 1] or [H, W, 3] as a PNG file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part)
        for part in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


class ToolTest(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.pixels = np.random.default_rng(0).integers(
            0, 256, (HEIGHT, WIDTH, CHANNELS), dtype=np.uint8
        )

    def write(self, name: str, data: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(data)
        return path

    def test_golden_input(self) -> None:
        report = run_json(INPUT, "--returnt", "both", "--top", 3)
        self.assertEqual(report["backend"], BACKEND)
        self.assertEqual(len(report["results"]), len(GOLDEN["out"]))
        classes = MANIFEST["classes"]
        for answer, out, features in zip(
            report["results"], GOLDEN["out"], GOLDEN["features"], strict=True
        ):
            columns = np.argsort(-out)[:3]
            self.assertEqual([t["id"] for t in answer["top"]], [classes["ids"][k] for k in columns])
            if classes["names"]:
                names = [classes["names"][k] for k in columns]
                self.assertEqual([t["name"] for t in answer["top"]], names)
            scores = [t["score"] for t in answer["top"]]
            np.testing.assert_allclose(scores, out[columns], rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(answer["features"], features, rtol=1e-3, atol=1e-4)

    def test_only_what_was_asked_for(self) -> None:
        self.assertNotIn("features", run_json(INPUT)["results"][0])
        self.assertNotIn("top", run_json(INPUT, "--returnt", "features")["results"][0])

    def test_every_kind_of_image_gives_the_same(self) -> None:
        kind = b"P6" if CHANNELS == 3 else b"P5"
        header = b"%s %d %d 255\n" % (kind, WIDTH, HEIGHT)
        np.save(self.directory / "pixels.npy", self.pixels)
        values = self.pixels
        if not FOLDED:
            how = MANIFEST["preprocessing"]
            values = values.astype(np.float32) * np.float32(how["scale"])
            values = (values - np.float32(how["mean"])) / np.float32(how["std"])
            values = np.ascontiguousarray(values.transpose(2, 0, 1))
        np.save(self.directory / "input.npy", values)
        report = run_json(
            self.write("image.png", png(self.pixels)),
            self.write("image.ppm", header + self.pixels.tobytes()),
            self.directory / "pixels.npy",
            self.directory / "input.npy",
        )
        scores = [answer["top"][0]["score"] for answer in report["results"]]
        self.assertEqual(len(scores), 4)
        np.testing.assert_allclose(scores, scores[0], rtol=1e-4)

    def test_text(self) -> None:
        result = run(INPUT)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(len(result.stdout.splitlines()), len(GOLDEN["out"]))

    def test_benchmark(self) -> None:
        result = run("--benchmark", "--batch", 2, "--seconds", 0.1, "--threads", 1)
        self.assertEqual(result.returncode, 0, result.stderr)
        report = json.loads(result.stdout)
        self.assertEqual(report["batch"], 2)
        self.assertGreaterEqual(report["rounds"], 10)
        for key in ("runtime", "bare"):
            self.assertLessEqual(report[key]["p20_ms"], report[key]["median_ms"])
            self.assertLessEqual(report[key]["median_ms"], report[key]["p80_ms"])

    def test_errors(self) -> None:
        large = np.zeros((HEIGHT + 1, WIDTH, CHANNELS), np.uint8)
        np.save(self.directory / "double.npy", np.zeros((1, 2)))
        cases = {
            "contract): an image is": (self.write("large.png", png(large)),),
            "damaged)": (self.write("cut.png", png(self.pixels)[:50]),),
            "missing)": (self.directory / "absent.png",),
            "contract): " + str(self.directory): (self.directory / "double.npy",),
            "valid: out, features, both": (INPUT, "--returnt", "logits"),
            "valid: onnx, aoti": (INPUT, "--backend", "tflite"),
            "no fp4 model": (INPUT, "--precision", "fp4"),
            "--top must be a number from 1": (INPUT, "--top", "0"),
            "--top must be": (INPUT, "--top", "3x"),
            "--top wants a value": (INPUT, "--top"),
            "unknown option --tpo": (INPUT, "--tpo", "3"),
            "either images or --benchmark": (),
        }
        for message, arguments in cases.items():
            with self.subTest(message):
                result = run(*arguments)
                self.assertEqual(result.returncode, 2, result.stdout)
                self.assertIn(message, result.stderr)
                self.assertEqual(result.stderr.count("\n"), 1)

    def test_help(self) -> None:
        self.assertIn("usage: mammoth-run", run("--help").stdout)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]])
