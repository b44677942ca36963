"""A format that this module adds works everywhere, with no edit outside of its class."""

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

import mammoth_compiled.export
from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle, load_bundle, update_bundle, verify_bundle
from mammoth_compiled.export.__main__ import main
from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.formats import FORMATS, RunnableFormat, format_names, register_format
from mammoth_compiled.types import ReturnTypes

SHAPE = (3, 4, 2)
IMAGES = torch.linspace(-1, 1, 5 * 24).reshape(5, *SHAPE)
SCHEMA = Path(mammoth_compiled.export.__file__).parent / "manifest.schema.json"


class Linear(MammothBackbone):
    """Flattens an image and classifies it."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(24, 3)

    def forward(self, x, returnt=ReturnTypes.OUT):
        features = x.flatten(1)
        return select_return(self.classifier(features), features, returnt)


class Npz(RunnableFormat):
    """The weights of a linear backbone as `model.npz`, which NumPy runs."""

    name = "npz"
    description = "NumPy arrays, for `numpy.load`"
    aliases = ("numpy",)

    def write(self, source, directory):
        np.savez(directory / "model.npz", **self._arrays(source.graph.state_dict()))
        return [File("model.npz", self.name, "fp32", source.graph.selected)]

    def replace_weights(self, path, weights, properties):
        np.savez(path, **self._arrays(weights))

    def open_model(self, path, file, outputs, device):
        arrays = np.load(path)

        def run(images):
            features = images.flatten(1).numpy()
            out = features @ arrays["net.classifier.weight"].T + arrays["net.classifier.bias"]
            values = {"out": torch.from_numpy(out), "features": torch.from_numpy(features)}
            return {name: values[name] for name in outputs}

        return run

    def check_installed(self):
        if not hasattr(np, "savez"):
            raise ExportError("NumPy is too old", "backend")

    def versions(self):
        return {"numpy": np.__version__}

    def example(self, manifest):
        has_file = any(file.format == "npz" for file in manifest.files)
        return "\n`numpy.load('model.npz')`\n" if has_file else ""

    @staticmethod
    def _arrays(weights):
        return {name: value.numpy() for name, value in weights.items()}


@pytest.fixture(autouse=True)
def npz():
    """Registers the format for one test."""
    register_format(Npz)
    yield FORMATS["npz"]
    FORMATS.pop("npz", None)


@pytest.fixture
def net():
    return Linear().eval()


@pytest.fixture
def bundle(net, tmp_path):
    return export_bundle(net, tmp_path / "bundle", input_shape=SHAPE, formats="numpy,onnx")


def expected(net):
    with torch.no_grad():
        return net(IMAGES, returnt="both")


def test_export_verifies_and_describes_the_new_format(net, bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    jsonschema.validate(manifest, json.loads(SCHEMA.read_text()), jsonschema.Draft202012Validator)
    assert manifest["versions"]["numpy"] == np.__version__
    (file,) = (file for file in manifest["files"] if file["format"] == "npz")
    assert list(file["parity"]) == ["out", "features"]
    assert file["parity"]["out"]["inputs"] in ("random", "zeros", "ones", "golden")
    readme = (bundle / "README.md").read_text()
    assert re.search(
        r"\| `model\.npz` \| NumPy arrays, for `numpy\.load` \| [\d.]+ kB \| out ", readme
    )
    assert "`numpy.load('model.npz')`" in readme


def test_load_by_name_and_by_alias(net, bundle):
    for runtime in ("npz", "numpy"):
        loaded = load_bundle(bundle, runtime=runtime)
        torch.testing.assert_close(loaded(IMAGES, "both"), expected(net))


def test_update_replaces_the_weights(net, bundle):
    loaded, other = load_bundle(bundle, runtime="npz"), Linear().eval()
    update_bundle(bundle, other)
    torch.testing.assert_close(loaded(IMAGES, "both"), expected(net))
    assert loaded.reload()
    torch.testing.assert_close(loaded(IMAGES, "both"), expected(other))


def test_verify_runs_the_new_format(bundle, capsys):
    (result,) = verify_bundle(bundle, ["numpy"])
    assert (result.path, result.checked) == ("model.npz", True)
    assert main(["verify", str(bundle), "--runtime", "numpy"]) == 0
    assert capsys.readouterr().out.startswith("model.npz")


def test_help_lists_the_new_format(capsys):
    for command in ("export", "verify"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "npz" in capsys.readouterr().out


def test_wrong_result_stops_the_export(net, npz, tmp_path, monkeypatch):
    monkeypatch.setattr(
        npz, "_arrays", lambda weights: {n: v.numpy() + 0.5 for n, v in weights.items()}
    )
    with pytest.raises(ExportError, match=r"model.npz differs from eager: output 'out'"):
        export_bundle(net, tmp_path / "b", input_shape=SHAPE, formats="npz")
    assert not (tmp_path / "b").exists()


def test_missing_package_stops_the_export_first(net, npz, tmp_path, monkeypatch):
    monkeypatch.delattr(np, "savez")
    monkeypatch.setattr(npz, "write", lambda *_: pytest.fail("wrote before the check"))
    with pytest.raises(ExportError, match="NumPy is too old"):
        export_bundle(net, tmp_path / "b", input_shape=SHAPE, formats="npz")


def test_default_formats_are_those_declared_default(monkeypatch):
    assert "npz" not in format_names(None)
    monkeypatch.setattr(Npz, "default", True)
    assert "npz" in format_names(None)


@pytest.mark.parametrize("name", ["onnx", "ts", "npz", "golden", "text"])
def test_name_in_use_raises(name):
    with pytest.raises(ExportError, match=f"format name '{name}' is already in use"):
        register_format(type("Other", (Npz,), {"name": "other", "aliases": (name,)}))
    assert "other" not in FORMATS


def test_registering_a_class_again_replaces_it(npz):
    register_format(Npz)
    assert FORMATS["npz"] is not npz


def test_bundle_with_an_unknown_format_raises(bundle):
    del FORMATS["npz"]
    with pytest.raises(ExportError, match=r"format is 'npz'; valid: .*'onnx'"):
        read_manifest(bundle)
