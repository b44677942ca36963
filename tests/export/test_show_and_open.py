"""What the receiver of a bundle sees: `show`, the server of `open`, and notebooks."""

import _socket
import io
import json
import socket
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import __main__ as command
from mammoth_compiled.export import browser_page, export_bundle, load_bundle
from mammoth_compiled.export.browser_page import golden_samples, make_server, runtime_directory
from mammoth_compiled.export.bundle.manifest_reader import read_manifest


def test_show_prints_the_readme(small_bundle, capsys):
    _, folder = small_bundle
    assert command.main(["show", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert shown.rstrip() == (folder / "README.md").read_text().rstrip()
    for text in (
        "| input `input` | float32 [batch, 3, 8, 6], NCHW |",
        "| output `out` | float32 [batch, 4], logits |",
        "(pixel / 255 - mean) / std per channel, mean [0.5, 0.25, 0.125], std [0.5, 0.25, 2]",
        "| classes | 0 red; 1 green; 2 blue; 3 grün |",
        "| not trained | classes 2, 3:",
        "| training data | seq-colors, 1 of 2 tasks |",
    ):
        assert text in shown
    assert "## ONNX Runtime, Python" in shown


def test_show_formats_in_a_terminal(small_bundle, capsys, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert command.main(["show", str(small_bundle[1])]) == 0
    shown = capsys.readouterr().out
    assert "preprocessing" in shown
    assert "| ---" not in shown


def test_accuracy_and_latency_are_shown(small_net, small_info, tmp_path):
    images = torch.randn(8, 3, 8, 6)
    path = export_bundle(
        small_net.eval(),
        tmp_path / "bundle",
        info=small_info,
        formats="onnx",
        test_set=(images, torch.tensor([0, 1] * 4)),
    )
    manifest = read_manifest(path)
    (model,) = (file for file in manifest.models if file.path == "model.onnx")
    assert model.latency["median_ms"] > 0
    assert model.latency["calls"] >= 1
    features = next(file for file in manifest.models if file.outputs == ("features",))
    assert not features.latency
    readme = (path / "README.md").read_text()
    assert (
        f"| {model.accuracy['class_il']:.2%} of 8 images | {model.latency['median_ms']:.2f} ms |"
        in readme
    )
    assert model.latency["machine"] in readme


def test_bundles_without_data_say_so(small_net, tmp_path):
    path = export_bundle(small_net.eval(), tmp_path / "b", input_shape=(3, 8, 6), formats="onnx")
    readme = (path / "README.md").read_text()
    assert "the normalization of the training data is unknown" in readme
    assert "| training data | unknown |" in readme
    assert "not trained" not in readme


def test_notebooks_show_a_bundle(small_bundle):
    text = load_bundle(small_bundle[1])._repr_html_()
    assert "float32 [batch, 3, 8, 6], NCHW" in text
    assert "model.onnx" in text
    assert "grün" in text


def test_golden_images_are_restored(small_net, small_info, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 6, 3), dtype=np.uint8)
    mean, std = np.float32(small_info.mean), np.float32(small_info.std)
    samples = torch.from_numpy(((pixels / np.float32(255) - mean) / std).transpose(0, 3, 1, 2))
    path = export_bundle(
        small_net.eval(), tmp_path / "b", info=small_info, formats="onnx", samples=samples
    )
    made = golden_samples(path, read_manifest(path))
    about = json.loads(made["samples.json"])
    assert (about["height"], about["width"], about["labels"]) == (8, 6, [None] * 4)
    with Image.open(io.BytesIO(made["samples.png"])) as image:
        np.testing.assert_array_equal(np.asarray(image).reshape(4, 8, 6, 3), pixels)


@pytest.fixture
def served(small_bundle, tmp_path, monkeypatch):
    """Returns a function: the content of a path that `open` serves."""
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("the page")
    (tmp_path / "secret.txt").write_text("secret")
    (page / "node_modules" / "onnxruntime-web").mkdir(parents=True)
    (page / "node_modules" / "onnxruntime-web" / "ort.mjs").write_text("the runtime")
    monkeypatch.setattr(browser_page, "PAGE", page)
    # Tests have no network; this one connects to itself.
    monkeypatch.setattr(socket.socket, "connect", _socket.socket.connect)
    with make_server(small_bundle[1]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def get(path):
            address = f"http://127.0.0.1:{server.server_port}/{path}"
            with urllib.request.urlopen(address) as response:
                return response.read()

        yield get
        server.shutdown()


def test_open_serves_page_runtime_and_bundle(small_bundle, served):
    _, folder = small_bundle
    assert served("") == b"the page"
    assert served("node_modules/onnxruntime-web/ort.mjs") == b"the runtime"
    assert served("bundle/manifest.json") == (folder / "manifest.json").read_bytes()
    assert json.loads(served("samples.json"))["labels"] == [None] * 4
    assert served("samples.png").startswith(b"\x89PNG")
    for outside in ("../secret.txt", "bundle/../../secret.txt", "bundle/%2e%2e/secret.txt"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            served(outside)


def test_open_needs_npm_or_the_installed_runtime(small_bundle, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page"
    page.mkdir()
    for name in ("package.json", "package-lock.json"):
        (page / name).write_text("{}")
    monkeypatch.setattr(browser_page, "PAGE", page)
    monkeypatch.setenv("MAMMOTH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    assert command.main(["open", str(small_bundle[1]), "--no_browser"]) == 2
    assert "install Node.js with npm" in capsys.readouterr().err
    assert command.main(["open", str(tmp_path / "absent"), "--no_browser"]) == 2
    assert "no bundle at" in capsys.readouterr().err

    def install(words, cwd, **_):
        (cwd / "node_modules" / "onnxruntime-web").mkdir(parents=True)
        return type("Result", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(browser_page.shutil, "which", lambda name: name)
    monkeypatch.setattr(browser_page.subprocess, "run", install)
    directory = runtime_directory()
    assert directory.is_relative_to(tmp_path / "cache")
    monkeypatch.setattr(browser_page.subprocess, "run", None)
    assert runtime_directory() == directory  # installed once


@pytest.mark.parametrize("opens", [True, False])
def test_open_prints_the_address_and_opens_it(small_bundle, tmp_path, monkeypatch, capsys, opens):
    def stop(server):
        raise KeyboardInterrupt

    opened = []
    monkeypatch.setattr(browser_page, "runtime_directory", lambda: tmp_path)
    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", stop)
    monkeypatch.setattr("webbrowser.open", opened.append)
    words = ["open", str(small_bundle[1]), *([] if opens else ["--no_browser"])]
    assert command.main(words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    address = captured.out.split()[1]
    assert address.startswith("http://127.0.0.1:")
    assert opened == ([address] if opens else [])


def test_a_port_in_use_raises(small_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(browser_page, "runtime_directory", lambda: tmp_path)
    with (
        make_server(small_bundle[1]) as server,
        pytest.raises(ExportError, match="Give another --port"),
    ):
        make_server(small_bundle[1], server.server_port)
    with pytest.raises(ExportError, match="port must be 0-65535"):
        make_server(small_bundle[1], 99_999)
