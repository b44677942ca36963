"""The browser example, in headless Chromium: the page shows the results of the bundle."""

import functools
import hashlib
import http.server
import importlib.util
import io
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import in_browser, visit
from PIL import Image
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.export import export_bundle
from mammoth_compiled.export.browser_page import golden_samples, make_server
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.types import DatasetInfo, ReturnTypes

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "export" / "browser"
SAMPLES = REPOSITORY / "examples" / "browser" / "samples.py"
DRIVER = Path(__file__).with_name("browser_driver.mjs")
pytestmark = in_browser

SIZE = 12
NAMES = ("circle", "square", "grün & <b>", "star")
INFO = DatasetInfo(
    name="seq-shapes",
    input_shape=(3, SIZE, SIZE),
    mean=(0.5, 0.25, 0.125),
    std=(0.5, 0.25, 2.0),
    num_classes=4,
    class_names=NAMES,
    tasks=((0, 2), (2, 4)),
    tasks_seen=1,
)


class SmallNet(MammothBackbone):
    """A convolution and a head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.classifier = nn.Linear(6, 4)

    def forward(self, x, returnt=ReturnTypes.OUT):
        features = torch.relu(self.conv(x)).mean((2, 3))
        return select_return(self.classifier(features), features, returnt)


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallNet().eval()


@pytest.fixture(scope="module")
def pixels():
    """Six test images, uint8 [6, H, W, 3]."""
    return np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def site(tmp_path_factory, net, pixels):
    """The directory to serve: the page, a bundle, samples, and invalid bundles."""
    root = tmp_path_factory.mktemp("site")
    for file in PAGE.iterdir():
        if file.suffix in {".html", ".css", ".js"} or file.name == "node_modules":
            (root / file.name).symlink_to(file)
    export_bundle(net, root / "bundle", info=INFO, formats="onnx")
    spec = importlib.util.spec_from_file_location("samples", SAMPLES)
    samples = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(samples)
    samples.write_samples(root, "seq-shapes", pixels, np.array([0, 1, 2, 3, 0, 1]), list(NAMES))
    return root


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def drive(*visits):
    return visit(DRIVER, *visits)


def expected(net, images):
    """Returns the logits in eager mode for stored pixels [N, H, W, 3]."""
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (INFO.mean, INFO.std))
    with torch.no_grad():
        return net((values - mean) / std).numpy()


def test_page_matches_the_bundle(net, pixels, site, address, tmp_path):
    own = tmp_path / "own.png"
    photo = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(photo).save(own)
    screenshot = tmp_path / "page.png"
    steps = [
        {"sample": 4},
        {"upload": str(own)},
        {"invert": True},
        {"model": 1},
        {"screenshot": str(screenshot)},
    ]
    (visit,) = drive({"url": f"{address}/", "steps": steps})
    assert visit["problems"] == []
    assert visit["hosts"] == [address.removeprefix("http://")]  # no requests to other hosts
    first, sample, dropped, inverted, other_file, _ = visit["seen"]

    manifest = json.loads((site / "bundle/manifest.json").read_text())
    golden = np.load(site / "bundle" / manifest["golden"]["outputs"]["out"])
    np.testing.assert_allclose(first["goldenLogits"], golden.ravel(), rtol=1e-4, atol=1e-5)
    assert first["golden"].startswith(f"✓ equals eager on {len(golden)} golden inputs")
    assert first["error"] is None
    assert first["files"] == [file["path"] for file in manifest["files"]]
    assert [model.split(" ")[0] for model in first["models"]] == ["model.out.onnx", "model.onnx"]
    assert first["formula"] == "(pixel / 255 - [0.5, 0.25, 0.125]) / [0.5, 0.25, 2], NCHW"
    assert first["chips"] == ["chip", "chip", "chip unseen", "chip unseen"]

    logits = expected(net, pixels)
    np.testing.assert_allclose(first["logits"], logits[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sample["logits"], logits[4], rtol=1e-4, atol=1e-5)
    right = logits[:, :2].argmax(1) == [0, 1, 2, 3, 0, 1]
    marks = ["right" if hit else "wrong" for hit in right]
    assert first["marks"] == [*marks[:2], "unseen", "unseen", *marks[4:]]
    assert sample["truth"] == "True class: circle"

    # Probabilities among the classes seen, the first two.
    shares = np.exp(logits[4, :2]) / np.exp(logits[4, :2]).sum()
    assert [row[0] for row in sample["cells"]] == list(NAMES)
    assert [row[2] for row in sample["cells"]] == [
        *(f"{100 * share:.1f} %" for share in shares),
        "unseen",
        "unseen",
    ]
    assert sample["headline"] == f"{NAMES[shares.argmax()]} · {100 * shares.max():.1f} %"

    np.testing.assert_allclose(
        dropped["logits"], expected(net, photo[None])[0], rtol=1e-4, atol=1e-5
    )
    negative = expected(net, 255 - photo[None])[0]
    np.testing.assert_allclose(inverted["logits"], negative, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other_file["logits"], negative, rtol=1e-4, atol=1e-5)
    with Image.open(screenshot) as picture:
        assert picture.width == 1240
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50


@pytest.mark.parametrize("with_labels", [False, True])
def test_open_serves_the_page_and_the_golden_images(site, net, with_labels):
    samples = site if with_labels else None
    with make_server(site / "bundle", samples=samples) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (visit,) = drive({"url": f"http://127.0.0.1:{server.server_port}/"})
        server.shutdown()
    assert visit["problems"] == []
    (page,) = visit["seen"]
    assert page["error"] is None
    assert page["golden"].startswith("✓ equals eager")
    if with_labels:
        assert len(page["marks"]) == 6
        assert page["truth"] == "True class: circle"
        return
    assert page["score"] == "golden images of the bundle"
    assert page["marks"] == [""] * 4
    made = golden_samples(site / "bundle", read_manifest(site / "bundle"))
    with Image.open(io.BytesIO(made["samples.png"])) as image:
        shown = np.array(image).reshape(-1, SIZE, SIZE, 3)
    np.testing.assert_allclose(page["logits"], expected(net, shown)[0], rtol=1e-4, atol=1e-5)


def copy_of(site, name):
    folder = site / name
    shutil.copytree(site / "bundle", folder)
    return folder, json.loads((folder / "manifest.json").read_text())


def rewrite(folder, manifest):
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_bundle_without_samples_names_and_seen_classes(net, site, address):
    folder, manifest = copy_of(site, "plain")
    manifest["classes"] |= {"names": [], "seen": [], "tasks": [], "tasks_seen": 0}
    rewrite(folder, manifest)
    folder, manifest = copy_of(site, "unknown")
    rewrite(folder, manifest | {"preprocessing": None})
    plain, unknown = drive(
        {"url": f"{address}/?bundle=plain&samples=absent.json"},
        {"url": f"{address}/?bundle=unknown/"},
    )
    (page,) = plain["seen"]
    assert page["error"] is None
    assert page["noSamples"].startswith("There are no test images")
    assert page["chips"] == ["chip"] * 4
    (page,) = unknown["seen"]
    assert page["error"] is None
    assert page["formula"] == "unknown"
    assert "does not say how pixels are preprocessed" in page["noSamples"]
    assert page["golden"].startswith("✓ equals eager")


def test_folded_preprocessing_softmax_and_variants(net, pixels, site, address):
    calibration = torch.rand(64, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    export_bundle(
        net,
        site / "ready",
        info=INFO,
        formats="onnx",
        fold_preprocessing=True,
        classes="seen",
        softmax=True,
        variants=("fp16", "int8"),
        calibration=calibration,
    )
    steps = [{"sample": 3}, {"model": 2}, {"model": 3}]
    (visit,) = drive({"url": f"{address}/?bundle=ready/", "steps": steps})
    assert visit["problems"] == []
    first, exact, half, whole = visit["seen"]
    assert first["error"] is None
    assert first["formula"] == "the graph normalizes uint8 pixels itself"
    files = ["model.out.onnx", "model.onnx", "model.fp16.onnx", "model.int8.onnx"]
    assert [model.split(" ")[0] for model in first["models"]] == files
    logits = expected(net, pixels)[3, :2]
    shares = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(exact["logits"], shares, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(half["logits"], shares, atol=1e-2)
    np.testing.assert_allclose(whole["logits"], shares, atol=5e-2)
    assert [row[2] for row in exact["cells"]] == [f"{100 * share:.1f} %" for share in shares]


def test_invalid_bundles_show_their_error(site, address):
    def visit_changed(name, change):
        folder, manifest = copy_of(site, name)
        change(folder, manifest)
        return {"url": f"{address}/?bundle={name}"}

    def truncate(folder, _):
        file = folder / "manifest.json"
        file.write_bytes(file.read_bytes()[:200])

    def later(folder, manifest):
        rewrite(folder, manifest | {"schema": 2})

    def headless(folder, manifest):
        del manifest["contract"]["outputs"]
        rewrite(folder, manifest)

    def leaving(folder, manifest):
        manifest["files"][0]["path"] = "../bundle/model.onnx"
        rewrite(folder, manifest)

    def altered(folder, _):
        file = folder / "model.out.onnx"
        file.write_bytes(file.read_bytes()[:-1] + b"?")

    def garbage(folder, manifest):
        file = folder / "model.out.onnx"
        file.write_bytes(b"garbage")
        (entry,) = [e for e in manifest["files"] if e["path"] == "model.out.onnx"]
        entry["sha256"] = hashlib.sha256(b"garbage").hexdigest()
        rewrite(folder, manifest)

    def other_golden(folder, manifest):
        file = folder / manifest["golden"]["outputs"]["out"]
        np.save(file, np.load(file) + 1)
        (entry,) = [
            e for e in manifest["files"] if e["path"] == manifest["golden"]["outputs"]["out"]
        ]
        entry["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        rewrite(folder, manifest)

    def without_model(folder, manifest):
        manifest["files"] = [e for e in manifest["files"] if e["format"] != "onnx"]
        rewrite(folder, manifest)

    cases = [
        (truncate, "damaged", "truncated or not JSON"),
        (later, "schema", "schema 2, and this page reads 1"),
        (headless, "damaged", "contract.outputs is not a list"),
        (leaving, "path", "names ../bundle/model.onnx, which is outside the bundle"),
        (altered, "damaged", "model.out.onnx is not the file that was exported"),
        (garbage, "damaged", "model.out.onnx cannot be run"),
        (other_golden, "backend", "differs from eager by 1.0e+0 on the golden input"),
        (without_model, "missing", "no ONNX file with the output out"),
    ]
    visits = [visit_changed(change.__name__, change) for change, _, _ in cases]
    results = drive(*visits, {"url": f"{address}/?bundle=nowhere"})
    for (change, code, message), result in zip(cases, results[:-1], strict=True):
        (page,) = result["seen"]
        assert (page["code"], change.__name__) == (code, change.__name__)
        assert message in page["error"]
        assert page["headline"] is None  # no prediction is shown
    (page,) = results[-1]["seen"]
    assert page["code"] == "missing"
    assert "There is no manifest.json" in page["error"]
