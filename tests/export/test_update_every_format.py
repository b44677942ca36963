"""update_bundle on a bundle of every format: no tracing, no compiling, and all or nothing."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import load_bundle, update_bundle, verify_bundle
from mammoth_compiled.export.bundle.hashes import sha256
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.formats import FORMATS, runtimes

SHAPE = (3, 8, 6)
IMAGES = torch.linspace(-2, 2, 5 * 3 * 8 * 6).reshape(5, *SHAPE)


def eager(net, returnt, images=IMAGES):
    with torch.no_grad():
        return net(images, returnt=returnt)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def trained(every_format):
    """Another network of the same architecture, all of whose weights differ."""
    net = type(every_format[0])().eval()
    for tensor in (*net.parameters(), net.bn.running_mean, net.bn.running_var):
        nn.init.uniform_(tensor, 0.1, 1)
    return net


def test_update_neither_traces_nor_compiles(every_format_copy, trained, small_info, monkeypatch):
    written = {file.format for file in read_manifest(every_format_copy).files}
    bundles = {
        runtime: load_bundle(every_format_copy, runtime=runtime)
        for runtime in set(runtimes()) & written
    }
    before = {runtime: bundle(IMAGES) for runtime, bundle in bundles.items()}
    for module, name in (
        (torch.export, "export"),
        (torch.onnx, "export"),
        (torch.jit, "trace_module"),
        (torch._inductor, "aot_compile"),
    ):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("traced or compiled"))
    requires = {file.path: file.requires for file in read_manifest(every_format_copy).files}

    assert (
        update_bundle(every_format_copy, trained, info=replace(small_info, tasks_seen=2))
        == every_format_copy
    )

    for runtime, bundle in bundles.items():
        assert torch.equal(bundle(IMAGES), before[runtime])
        assert bundle.reload()
        assert not bundle.reload()
        assert (bundle(IMAGES) - before[runtime]).abs().max() > 0.1
        close(bundle(IMAGES, "both"), eager(trained, "both"))
        assert bundle.classes_seen == (0, 1, 2, 3)
    properties = {
        p.key: p.value for p in onnx.load(every_format_copy / "model.onnx").metadata_props
    }
    assert json.loads(properties["classes_seen"]) == [0, 1, 2, 3]
    close(
        torch.from_numpy(np.load(every_format_copy / "golden/out.npy")),
        eager(trained, "out", torch.from_numpy(np.load(every_format_copy / "golden/input.npy"))),
    )
    assert {file.path: file.requires for file in read_manifest(every_format_copy).files} == requires
    assert all(result.checked for result in verify_bundle(every_format_copy))


def test_failed_update_keeps_the_old_version(every_format_copy, trained, monkeypatch):
    before = {path: sha256(path) for path in every_format_copy.rglob("*") if path.is_file()}
    wider = type(trained)(num_classes=5)
    with pytest.raises(ExportError, match=r"gives .*\(5,\).*the bundle has") as caught:
        update_bundle(every_format_copy, wider)
    assert caught.value.code == "contract"
    monkeypatch.setattr(FORMATS["pt2"], "replace_weights", lambda *_: None)
    with pytest.raises(ExportError, match=r"model.pt2 differs from eager: output 'out'"):
        update_bundle(every_format_copy, trained)
    assert {path: sha256(path) for path in every_format_copy.rglob("*") if path.is_file()} == before
    assert [path.name for path in every_format_copy.parent.iterdir()] == [every_format_copy.name]


def test_damaged_bundle_is_not_updated(every_format_copy, trained):
    (every_format_copy / "model.pt2").write_bytes(b"garbage")
    with pytest.raises(ExportError, match="SHA-256 differs") as caught:
        update_bundle(every_format_copy, trained)
    assert caught.value.code == "damaged"


def test_failed_reload_keeps_the_old_version(every_format_copy, every_format, edit_manifest):
    bundle = load_bundle(every_format_copy)
    (every_format_copy / "model.onnx").write_bytes(b"garbage")
    edit_manifest(every_format_copy, lambda manifest: manifest.update(name="other"))
    with pytest.raises(ExportError, match="SHA-256 differs"):
        bundle.reload()
    (every_format_copy / "manifest.json").unlink()
    with pytest.raises(ExportError, match="there is no file"):
        bundle.reload()
    close(bundle(IMAGES), eager(every_format[0], "out"))
