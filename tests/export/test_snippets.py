"""The programs in the README of a bundle run, and match the network in eager mode.

The C++ program is built and run by ctest, in `export/runtime/tests/consumer.cmake`.
"""

import _socket
import http.server
import json
import re
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from mammoth_compiled.export import export_bundle

MODULES = Path(__file__).parents[2] / "export" / "browser" / "node_modules"
BLOCK = re.compile(r"^## ([^\n]*)\n.*?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)


def programs(folder):
    """Returns the programs in the README of a bundle, by title."""
    return {title: code for title, _, code in BLOCK.findall((folder / "README.md").read_text())}


def expected(net, info):
    """Returns the logits of the test image in eager mode, [4]."""
    mean, std = np.float32(info.mean), np.float32(info.std)
    values = ((PIXELS / np.float32(255) - mean) / std).transpose(2, 0, 1)
    with torch.no_grad():
        return net(torch.from_numpy(values[None]))[0].numpy()


@pytest.fixture
def folded_bundle(small_net, small_info, tmp_path):
    """A bundle that takes pixels and has only the columns of the classes seen."""
    return export_bundle(
        small_net.eval(),
        tmp_path / "folded",
        info=small_info,
        formats="onnx",
        fold_preprocessing=True,
        classes="seen",
    )


def test_every_language_has_a_program(small_bundle):
    titles = [f"ONNX Runtime, {name}" for name in ("Python", "JavaScript", "C++")]
    assert list(programs(small_bundle[1])) == [*titles, "Triton Inference Server"]


def test_without_onnx_there_are_none(small_net, tmp_path):
    folder = export_bundle(
        small_net.eval(), tmp_path / "b", input_shape=(3, 8, 6), formats="safetensors"
    )
    assert programs(folder) == {}


def test_python(small_bundle, small_info, monkeypatch, capsys, tmp_path):
    net, folder = small_bundle
    monkeypatch.chdir(folder)
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    names = {}
    exec(programs(folder)["ONNX Runtime, Python"], names)
    *labels, difference = capsys.readouterr().out.splitlines()
    assert float(difference.split()[-1]) < 1e-5
    golden = np.load(folder / "golden" / "out.npy")
    assert labels == [("red", "green")[row[:2].argmax()] for row in golden]
    image = np.stack([names["preprocess"](tmp_path / "image.png")])
    (out,) = names["session"].run(["out"], {"input": image})
    np.testing.assert_allclose(out[0], expected(net, small_info), rtol=1e-4, atol=1e-5)


def test_python_with_folded_preprocessing(small_net, small_info, folded_bundle, monkeypatch):
    monkeypatch.chdir(folded_bundle)
    names = {}
    exec(programs(folded_bundle)["ONNX Runtime, Python"], names)
    Image.fromarray(PIXELS).save("image.png")
    (out,) = names["session"].run(["out"], {"input": names["preprocess"]("image.png")[None]})
    want = expected(small_net, small_info)[:2]
    np.testing.assert_allclose(out[0], want, rtol=1e-4, atol=1e-5)
    assert names["LABELS"] == ["red", "green"]


@pytest.mark.skipif(
    shutil.which("node") is None or not (MODULES / "onnxruntime-web").is_dir(),
    reason="needs Node.js (apt-get install nodejs npm) and npm ci in export/browser",
)
@pytest.mark.parametrize("folded", [False, True])
def test_javascript(request, small_info, tmp_path, folded):
    net, folder = request.getfixturevalue("small_bundle")
    if folded:
        net = request.getfixturevalue("small_net").eval()
        folder = request.getfixturevalue("folded_bundle")
    work = tmp_path / "work"
    shutil.copytree(folder, work)
    (work / "node_modules").symlink_to(MODULES)
    (work / "run.mjs").write_text(programs(folder)["ONNX Runtime, JavaScript"])
    (work / "image.raw").write_bytes(PIXELS.tobytes())
    result = subprocess.run(
        ["node", "run.mjs", "image.raw"], cwd=work, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    label, values = result.stdout.split("[")
    logits = [float(value) for value in values.strip(" ]\n").split(",")]
    want = expected(net, small_info)[: len(logits)]
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-5)
    assert label.strip() == ("red", "green")[want[:2].argmax()]


def test_triton_client(small_bundle, monkeypatch, capsys):
    """A server with the part of Triton's HTTP interface that the program uses answers it."""
    _, folder = small_bundle
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    paths = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            paths.append(self.path)
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            (tensor,) = request["inputs"]
            assert (tensor["name"], tensor["datatype"]) == ("input", "FP32")
            images = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
            assert request["outputs"] == [{"name": "out"}]
            (out,) = session.run(["out"], {"input": images})
            answer = {"name": "out", "shape": out.shape, "data": out.ravel().tolist()}
            body = json.dumps({"outputs": [answer]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    monkeypatch.chdir(folder)
    # Tests have no network; this one connects to itself.
    monkeypatch.setattr(socket.socket, "connect", _socket.socket.connect)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("sys.argv", ["client", f"http://127.0.0.1:{server.server_port}"])
        exec(programs(folder)["Triton Inference Server"], {})
        server.shutdown()
    assert paths == ["/v2/models/SmallNet/infer"]
    golden = np.load(folder / "golden" / "out.npy")
    assert capsys.readouterr().out.strip() == str(golden.argmax(1))
