"""The directory of a bundle, and the callable that is loaded from it."""

import builtins
import json
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mammoth_compiled.errors import ContractError, ExportError, MammothError
from mammoth_compiled.export import directory, export_bundle, load_bundle, to_onnx
from mammoth_compiled.types import DatasetInfo, ReturnTypes

SHAPE = (3, 8, 6)
IMAGES = torch.linspace(-2, 2, 5 * 3 * 8 * 6).reshape(5, *SHAPE)


def eager(net, returnt):
    with torch.no_grad():
        return net(IMAGES, returnt=returnt)


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.fixture
def fast_export(monkeypatch, small_bundle):
    """`export_bundle` of the network in `small_bundle`, without the seconds of translating it."""
    model = onnx.load(small_bundle[1] / "model.onnx")
    del model.metadata_props[:]
    monkeypatch.setattr(to_onnx, "write", lambda graph: model.SerializeToString())

    def export(path, **arguments):
        return export_bundle(small_bundle[0], path, **(arguments or {"input_shape": SHAPE}))

    return export


# Loading.


@pytest.mark.parametrize("returnt", ["out", ReturnTypes.OUT, "features", "both", ReturnTypes.BOTH])
def test_bundle_answers_like_the_backbone(small_bundle, returnt):
    net, path = small_bundle
    bundle = load_bundle(path)
    close(bundle(IMAGES, returnt), eager(net, returnt))
    close(bundle(IMAGES, returnt=returnt), eager(net, returnt))
    close(bundle(IMAGES.numpy(), returnt), eager(net, returnt))


def test_bundle_takes_any_batch_and_layout(small_bundle):
    net, path = small_bundle
    bundle = load_bundle(path / "model.onnx")
    close(bundle(IMAGES), eager(net, "out"))
    close(bundle(IMAGES.to(memory_format=torch.channels_last)), eager(net, "out"))
    close(bundle(IMAGES.clone().requires_grad_()), eager(net, "out"))
    close(bundle(IMAGES.repeat(20, 1, 1, 1)), eager(net, "out").repeat(20, 1))
    assert bundle(IMAGES[:0]).shape == (0, 4)
    assert isinstance(bundle(IMAGES, "both"), tuple)
    assert not bundle(IMAGES).requires_grad


def test_bundle_knows_the_data(small_bundle, small_info):
    bundle = load_bundle(small_bundle[1])
    assert bundle.info == small_info
    assert bundle.input_shape == SHAPE
    assert bundle.classes_seen == (0, 1)
    assert bundle.class_names == ("red", "green", "blue", "grün")
    assert bundle.supports == (ReturnTypes.OUT, ReturnTypes.FEATURES, ReturnTypes.BOTH)
    assert "supports out, features, both" in repr(bundle)


def test_metadata_is_readable_without_this_package(small_bundle):
    model = onnx.load(small_bundle[1] / "model.onnx")
    properties = {p.key: p.value for p in model.metadata_props}
    assert properties["mammoth.schema"] == "1"
    assert json.loads(properties["names"]) == ["red", "green", "blue", "grün"]
    assert json.loads(properties["classes_seen"]) == [0, 1]
    assert json.loads(properties["mean"]) == [0.5, 0.25, 0.125]
    assert json.loads(properties["std"]) == [0.5, 0.25, 2.0]
    assert json.loads(properties["input_shape"]) == [3, 8, 6]
    assert json.loads(properties["mammoth.dataset"])["name"] == "seq-colours"
    assert json.loads(properties["mammoth.contract"]) == {
        "inputs": {"input": {"dtype": "float32", "shape": ["batch", 3, 8, 6]}},
        "outputs": {
            "out": {"dtype": "float32", "shape": ["batch", 4]},
            "features": {"dtype": "float32", "shape": ["batch", 5]},
        },
        "returnt": ["out", "features", "both"],
    }


def test_unknown_returnt_lists_the_valid_ones(small_bundle):
    bundle = load_bundle(small_bundle[1])
    with pytest.raises(ValueError, match="unknown returnt 'logits'; valid values: 'out'"):
        bundle(IMAGES, "logits")
    with pytest.raises(ValueError, match="no 'full'; it has: 'out', 'features', 'both'"):
        bundle(IMAGES, "full")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES.double(), r"float32 \[B, 3, 8, 6\], but is float64 \[5, 3, 8, 6\]"),
        (IMAGES.transpose(2, 3), r"\[B, 3, 8, 6\], but is float32 \[5, 3, 6, 8\]"),
        (IMAGES[0], r"\[3, 8, 6\]. A single image needs a batch axis"),
        (np.zeros((2, 8, 6, 3), np.uint8), "bundle.preprocess"),
        ([[1.0]], "tensor or a numpy array, not list"),
    ],
)
def test_wrong_images_are_refused(small_bundle, images, message):
    with pytest.raises(ExportError, match=message):
        load_bundle(small_bundle[1])(images)


def test_preprocess_normalises_both_layouts(small_bundle):
    bundle = load_bundle(small_bundle[1])
    images = torch.randint(0, 256, (2, *SHAPE), dtype=torch.uint8)
    mean, std = torch.tensor([0.5, 0.25, 0.125]), torch.tensor([0.5, 0.25, 2.0])
    want = (images / 255 - mean[:, None, None]) / std[:, None, None]
    close(bundle.preprocess(images), want)
    close(bundle.preprocess(images.permute(0, 2, 3, 1)), want)
    close(bundle.preprocess(images.permute(0, 2, 3, 1).numpy()), want)
    assert bundle(bundle.preprocess(images)).shape == (2, 4)
    with pytest.raises(ExportError, match="must be uint8"):
        bundle.preprocess(images / 255)
    with pytest.raises(
        ExportError, match=r"shape \[B, 3, 8, 6\] or \[B, 8, 6, 3\], not \[3, 8, 6\]"
    ):
        bundle.preprocess(images[0])


def test_preprocess_needs_to_know_the_data(fast_export, tmp_path):
    images = torch.full((1, *SHAPE), 255, dtype=torch.uint8)
    bare = load_bundle(fast_export(tmp_path / "bare", input_shape=SHAPE))
    with pytest.raises(ExportError, match="does not say how its images were normalised"):
        bare.preprocess(images)
    assert bare.info == DatasetInfo("", SHAPE, num_classes=4)
    plain = fast_export(tmp_path / "plain", info=DatasetInfo("plain", SHAPE))
    assert (load_bundle(plain).preprocess(images) == 1).all()


def test_what_is_no_bundle_is_refused(small_bundle, tmp_path):
    with pytest.raises(ExportError, match="there is no file"):
        load_bundle(tmp_path / "nothing")
    with pytest.raises(ExportError, match="there is no file"):
        load_bundle(tmp_path)

    file = tmp_path / "model.onnx"
    file.write_bytes(b"garbage")
    with pytest.raises(ExportError, match=r"cannot read .*model\.onnx"):
        load_bundle(tmp_path)
    whole = (small_bundle[1] / "model.onnx").read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ExportError, match=r"model\.onnx"):
        load_bundle(tmp_path)

    model = onnx.load_from_string(whole)
    del model.metadata_props[:]
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="it is no bundle"):
        load_bundle(tmp_path)
    file.write_bytes(to_onnx.with_metadata(model.SerializeToString(), {"mammoth.schema": "2"}))
    with pytest.raises(ExportError, match=r"has schema 2.* reads schema 1"):
        load_bundle(tmp_path)
    damaged = {"mammoth.schema": "1", "mammoth.contract": "{}"}
    file.write_bytes(to_onnx.with_metadata(model.SerializeToString(), damaged))
    with pytest.raises(ExportError, match=r"damaged \(KeyError: 'outputs'"):
        load_bundle(tmp_path)


def test_devices_are_checked(small_bundle):
    import onnxruntime

    with pytest.raises(ExportError, match="unknown device 'gpu'"):
        load_bundle(small_bundle[1], device="gpu")
    with pytest.raises(ExportError, match="valid: 'cpu', 'cuda'"):
        load_bundle(small_bundle[1], device="mps")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ExportError, match=r"has no CUDA.*mammoth-compiled"):
            load_bundle(small_bundle[1], device="cuda")


def test_a_silent_fall_back_to_the_cpu_is_an_error(small_bundle, monkeypatch):
    import onnxruntime

    real = onnxruntime.InferenceSession
    asked = []

    def fall_back(model, sess_options, providers):
        asked.extend(providers)
        return real(model, sess_options=sess_options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    with pytest.raises(ExportError, match="fell back to CPUExecutionProvider for device 'cuda:1'"):
        load_bundle(small_bundle[1], device="cuda:1")
    assert asked[0][0] == "CUDAExecutionProvider"
    assert asked[0][1]["device_id"] == 1


def test_missing_onnxruntime_says_what_to_install(small_net, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(to_onnx, "write", lambda graph: pytest.fail("exported before the check"))
    with pytest.raises(ExportError, match=r'pip install "mammoth-compiled\[cpu\]"'):
        export_bundle(small_net, tmp_path / "b", input_shape=SHAPE)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_backbone_on_a_gpu_stays_there(small_net, tmp_path):
    net = small_net.to("cuda").eval()
    bundle = load_bundle(export_bundle(net, tmp_path / "bundle", input_shape=SHAPE))
    assert {p.device.type for p in net.parameters()} == {"cuda"}
    images = IMAGES.to("cuda")
    with torch.no_grad():
        torch.testing.assert_close(bundle(images), net(images), rtol=1e-2, atol=1e-2)
    assert bundle(images).device.type == "cuda"


# Writing.


def test_a_model_gives_its_net_and_its_data(fast_export, small_bundle, small_info, tmp_path):
    class Dataset:
        def info(self):
            return small_info

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_bundle[0]
            self.dataset = Dataset()

    bundle = load_bundle(export_bundle(Model(), tmp_path / "a" / "b"))
    assert bundle.info == small_info
    other = replace(small_info, name="other", tasks_seen=2)
    bundle = load_bundle(export_bundle(Model(), tmp_path / "a" / "b", info=other))
    assert bundle.classes_seen == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"give input_shape=\(C, H, W\)"),
        ({"input_shape": (8, 6)}, r"three positive numbers \(C, H, W\), not \(8, 6\)"),
        ({"input_shape": 32}, "not 32"),
        ({"input_shape": (3, 0, 6)}, r"not \(3, 0, 6\)"),
        (
            {"input_shape": (3, 8, 8), "info": DatasetInfo("d", SHAPE)},
            r"\(3, 8, 8\) is not the \(3, 8, 6\) of dataset 'd'",
        ),
        ({"info": DatasetInfo("d", SHAPE, mean=(0.5,))}, "info.mean must have 3 entries, not 1"),
        ({"info": DatasetInfo("d", SHAPE, class_names=("a",))}, "info.class_names must have 4"),
        ({"input_shape": SHAPE, "samples": IMAGES[0]}, r"float32 \[N, 3, 8, 6\], but are"),
        ({"input_shape": SHAPE, "samples": IMAGES[:0]}, r"but are torch.float32 \[0, 3, 8, 6\]"),
        ({"input_shape": SHAPE, "samples": IMAGES.byte()}, "but are torch.uint8"),
        ({"input_shape": SHAPE, "samples": [1]}, "samples must be a torch tensor, not list"),
    ],
)
def test_bad_arguments_are_refused(small_net, tmp_path, arguments, message, monkeypatch):
    monkeypatch.setattr(to_onnx, "write", lambda graph: pytest.fail("exported before the check"))
    with pytest.raises(ExportError, match=message):
        export_bundle(small_net, tmp_path / "bundle", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_contract_is_checked(small_net, tmp_path):
    info = DatasetInfo("d", SHAPE, num_classes=9)
    with pytest.raises(ContractError, match="num_classes = 9"):
        export_bundle(small_net, tmp_path / "bundle", info=info)


def test_real_samples_are_compared(fast_export, tmp_path, monkeypatch):
    from mammoth_compiled.export import bundle as bundle_module

    seen = []
    real = bundle_module.compare
    monkeypatch.setattr(
        bundle_module, "compare", lambda *args: seen.append(args[-1]) or real(*args)
    )
    fast_export(tmp_path / "bundle", input_shape=SHAPE, samples=IMAGES)
    assert torch.equal(seen[0], IMAGES)


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


def test_new_empty_and_own_directories_are_written(fast_export, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert fast_export("new") == tmp_path / "new"
    assert fast_export(tmp_path / "empty") == tmp_path / "empty"
    (tmp_path / "link").symlink_to("new")
    (tmp_path / "new" / "model.onnx").chmod(0o600)
    before = (tmp_path / "new" / "model.onnx").stat().st_ino
    assert fast_export("link") == tmp_path / "new"
    assert (tmp_path / "new" / "model.onnx").stat().st_ino != before
    assert {p.name for p in tmp_path.iterdir()} == {"new", "empty", "link"}
    assert os.listdir(tmp_path / "new") == ["model.onnx"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o777 & ~umask


def test_other_peoples_files_are_left_alone(fast_export, small_bundle, tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "model.onnx").write_bytes(b"somebody else's")
    mixed = fast_export(tmp_path / "mixed")
    (mixed / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    for name, message in (
        ("file", "is a file"),
        ("file/below", "not a writable directory|cannot be looked into"),
        ("foreign", "holds something else than a bundle"),
        ("garbage", "holds something else than a bundle"),
        ("mixed", "holds something else than a bundle"),
        ("", "holds something else than a bundle"),
        ("new/model.onnx", "give the directory of the bundle"),
    ):
        with pytest.raises(ExportError, match=message):
            fast_export(tmp_path / name)
    assert tree(tmp_path) == before


def test_a_parent_that_is_not_writable_is_refused(fast_export, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(ExportError, match="is not a writable directory"):
        fast_export(tmp_path / "a" / "bundle")


def test_a_failed_write_leaves_the_old_bundle(fast_export, tmp_path, monkeypatch):
    path = fast_export(tmp_path / "bundle")
    before = tree(tmp_path)

    def full(self, data):
        with open(self, "wb") as stream:
            stream.write(data[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(ExportError, match=r"cannot be written .*No space left"):
            fast_export(path)
    assert tree(tmp_path) == before
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda self, data: self.open("wb").close())
        with pytest.raises(MammothError):  # an empty file does not load
            fast_export(path)
    assert tree(tmp_path) == before


def test_a_failed_swap_brings_the_old_bundle_back(tmp_path, fast_export, monkeypatch):
    path = fast_export(tmp_path / "bundle")
    before = tree(tmp_path)
    rename = Path.rename

    def fail_for_new(self, target):
        if self.name.endswith(".new"):
            raise OSError("rename refused")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(ExportError, match="rename refused"):
        fast_export(path)
    assert tree(tmp_path) == before


def test_files_that_come_while_exporting_are_kept(tmp_path):
    def export(target):
        with directory.replacing(target) as folder:
            (folder / "model.onnx").write_bytes(b"new")
            target.mkdir()
            (target / "notes.txt").write_text("mine")

    with pytest.raises(ExportError, match="something else"):
        export(directory.check_target(tmp_path / "bundle"))
    assert tree(tmp_path) == {"bundle": None, "bundle/notes.txt": b"mine"}
