"""verify_bundle and the verify command check hashes and golden values."""

import numpy as np
import pytest
import torch
from hostile_bundles import WEIGHT_CHANGES, change_weights
from safetensors.torch import load_file, save_file

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import update_bundle, verify_bundle
from mammoth_compiled.export.__main__ import main
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.formats import FORMATS


def test_verify_command(every_format, capsys):
    assert main(["verify", str(every_format[1])]) == 0
    lines = capsys.readouterr().out.splitlines()
    models = read_manifest(every_format[1]).models
    assert [line.split()[0] for line in lines[:-1]] == [file.path for file in models]
    assert lines[-1].endswith(f"all hashes match, {len(models)} model files verified")
    assert main(["verify", str(every_format[1]), "--runtime", "ts"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("model.ts.pt")


def shift(path, by):
    """Adds a number to one bias in a file of weights."""
    weights = load_file(path)
    weights["classifier.bias"] += by
    save_file(weights, path, metadata={"format": "pt"})


def test_weights_of_another_training_are_refused(every_format_copy, rehash, small_net):
    shift(every_format_copy / "weights.safetensors", 0.25)
    rehash(every_format_copy, "weights.safetensors")
    message = r"weight 'classifier.bias' in .* differs from that in .* by up to 0.25"
    for refuse in (verify_bundle, lambda path: update_bundle(path, small_net)):
        with pytest.raises(ExportError, match=message) as caught:
            refuse(every_format_copy)
        assert caught.value.code == "damaged"


@pytest.mark.parametrize(
    ("what", "knows"),
    [
        *((what, True) for what in WEIGHT_CHANGES),
        # The other files hold bytes, without shapes.
        *((what, False) for what in WEIGHT_CHANGES if what != "another shape"),
    ],
)
def test_other_tensors_than_were_written_are_refused(every_format_copy, what, knows):
    if not knows:  # as bundles of earlier releases, which say nothing about their weights
        path = every_format_copy / "weights.safetensors"
        save_file(load_file(path), path, metadata={"format": "pt"})
    change_weights(every_format_copy, what)
    with pytest.raises(ExportError, match=r"weights.safetensors") as caught:
        verify_bundle(every_format_copy)
    assert caught.value.code == "damaged"


def test_weights_of_another_architecture_are_refused(every_format_copy, rehash):
    path = every_format_copy / "weights.safetensors"
    save_file({f"body.{name}": value for name, value in load_file(path).items()}, path)
    rehash(every_format_copy, "weights.safetensors")
    with pytest.raises(ExportError, match=r"weights.safetensors has none of the weights"):
        verify_bundle(every_format_copy)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_tells_its_weights(every_format, name):
    net, directory = every_format
    files = [file for file in read_manifest(directory).files if file.format == name]
    for file in files:
        stored = FORMATS[name].stored_weights(directory / file.path)
        for weight in ("conv.weight", "bn.running_var"):
            value = stored[f"net.{weight}"].reshape(-1).view(torch.float32)
            assert torch.equal(value, net.state_dict()[weight].reshape(-1))


def test_wrong_golden_values_raise(every_format_copy, rehash, capsys):
    values = np.load(every_format_copy / "golden/features.npy")
    np.save(every_format_copy / "golden/features.npy", values + 0.01)
    assert main(["verify", str(every_format_copy)]) == 2
    assert "golden/features.npy is not what the manifest says" in capsys.readouterr().err
    rehash(every_format_copy, "golden/features.npy")
    assert main(["verify", str(every_format_copy)]) == 2
    assert "output 'features' for 4 images (golden) differs by 0.01" in capsys.readouterr().err
    for data in (b"", b"garbage"):
        (every_format_copy / "golden/features.npy").write_bytes(data)
        rehash(every_format_copy, "golden/features.npy")
        with pytest.raises(ExportError, match="not a NumPy file") as caught:
            verify_bundle(every_format_copy)
        assert caught.value.code == "damaged"
