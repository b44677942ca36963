"""Loaded bundles match the backbone, and invalid bundles, inputs and devices are refused."""

import builtins
import json
import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle, load_bundle
from mammoth_compiled.export.formats import FORMATS
from mammoth_compiled.types import DatasetInfo, ReturnTypes

SHAPE = (3, 8, 6)
IMAGES = torch.linspace(-2, 2, 5 * 3 * 8 * 6).reshape(5, *SHAPE)


def eager(net, returnt):
    with torch.no_grad():
        return net(IMAGES, returnt=returnt)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("returnt", ["out", ReturnTypes.OUT, "features", "both", ReturnTypes.BOTH])
def test_bundle_matches_the_backbone(small_bundle, returnt):
    net, path = small_bundle
    bundle = load_bundle(path)
    close(bundle(IMAGES, returnt), eager(net, returnt))
    close(bundle(IMAGES, returnt=returnt), eager(net, returnt))
    close(bundle(IMAGES.numpy(), returnt), eager(net, returnt))


def test_bundle_accepts_any_batch_size_and_layout(small_bundle):
    net, path = small_bundle
    bundle = load_bundle(path / "model.onnx")
    close(bundle(IMAGES), eager(net, "out"))
    close(bundle(IMAGES.to(memory_format=torch.channels_last)), eager(net, "out"))
    close(bundle(IMAGES.clone().requires_grad_()), eager(net, "out"))
    close(bundle(IMAGES.repeat(20, 1, 1, 1)), eager(net, "out").repeat(20, 1))
    assert bundle(IMAGES[:0]).shape == (0, 4)
    array = IMAGES.numpy().copy()
    array.flags.writeable = False
    close(bundle(array), eager(net, "out"))
    close(bundle(array[::-1]), eager(net, "out").flip(0))
    assert isinstance(bundle(IMAGES, "both"), tuple)
    assert not bundle(IMAGES).requires_grad


def test_bundle_describes_the_data(small_bundle, small_info):
    bundle = load_bundle(small_bundle[1])
    assert bundle.info == small_info
    assert bundle.input_shape == SHAPE
    assert bundle.classes_seen == (0, 1)
    assert bundle.class_names == ("red", "green", "blue", "grün")
    assert bundle.supports == (ReturnTypes.OUT, ReturnTypes.FEATURES, ReturnTypes.BOTH)
    assert "supports out, features, both" in repr(bundle)


@pytest.mark.parametrize("name", ["model.onnx", "model.out.onnx", "model.features.onnx"])
def test_metadata_is_readable_with_onnx_alone(small_bundle, name):
    model = onnx.load(small_bundle[1] / name)
    properties = {p.key: p.value for p in model.metadata_props}
    assert properties["mammoth.schema"] == "1"
    assert json.loads(properties["names"]) == ["red", "green", "blue", "grün"]
    assert json.loads(properties["classes_seen"]) == [0, 1]
    assert json.loads(properties["mean"]) == [0.5, 0.25, 0.125]
    assert json.loads(properties["std"]) == [0.5, 0.25, 2.0]
    assert json.loads(properties["input_shape"]) == [3, 8, 6]
    assert json.loads(properties["mammoth.dataset"])["name"] == "seq-colors"
    assert json.loads(properties["mammoth.contract"]) == {
        "input": {
            "name": "input",
            "dtype": "float32",
            "shape": ["batch", 3, 8, 6],
            "layout": "NCHW",
        },
        "outputs": [
            {"name": "out", "dtype": "float32", "shape": ["batch", 4]},
            {"name": "features", "dtype": "float32", "shape": ["batch", 5]},
        ],
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
        (np.zeros((2, 3, 8, 6), np.uint16), r"but is uint16 \[2, 3, 8, 6\]"),
        ([[1.0]], "tensor or a numpy array, not list"),
    ],
)
def test_invalid_input_raises(small_bundle, images, message):
    with pytest.raises(ExportError, match=message):
        load_bundle(small_bundle[1])(images)


def test_preprocess_accepts_both_layouts(small_bundle):
    bundle = load_bundle(small_bundle[1])
    images = torch.randint(0, 256, (2, *SHAPE), dtype=torch.uint8)
    mean, std = torch.tensor([0.5, 0.25, 0.125]), torch.tensor([0.5, 0.25, 2.0])
    expected = (images / 255 - mean[:, None, None]) / std[:, None, None]
    close(bundle.preprocess(images), expected)
    close(bundle.preprocess(images.permute(0, 2, 3, 1)), expected)
    close(bundle.preprocess(images.permute(0, 2, 3, 1).numpy()), expected)
    assert bundle(bundle.preprocess(images)).shape == (2, 4)
    with pytest.raises(ExportError, match="must be uint8"):
        bundle.preprocess(images / 255)
    with pytest.raises(
        ExportError, match=r"shape \[B, 3, 8, 6\] or \[B, 8, 6, 3\], not \[3, 8, 6\]"
    ):
        bundle.preprocess(images[0])


@pytest.fixture
def copied(small_bundle, tmp_path):
    return shutil.copytree(small_bundle[1], tmp_path / "copy")


def test_preprocess_without_known_normalization_raises(copied, edit_manifest):
    edit_manifest(copied, lambda manifest: manifest.update(preprocessing=None))
    with pytest.raises(ExportError, match="does not say how its images were normalized"):
        load_bundle(copied).preprocess(torch.full((1, *SHAPE), 255, dtype=torch.uint8))


def test_preprocess_without_mean_only_scales(small_net, tmp_path):
    images = torch.full((1, *SHAPE), 255, dtype=torch.uint8)
    plain = export_bundle(
        small_net, tmp_path / "plain", info=DatasetInfo("plain", SHAPE), formats="pt2"
    )
    assert (load_bundle(plain, runtime="pt2").preprocess(images) == 1).all()


@pytest.mark.parametrize(("returnt", "file"), [("out", "out"), ("features", "features")])
def test_returnt_at_load_opens_only_the_pruned_file(small_bundle, copied, returnt, file):
    for other in {"model.onnx", "model.out.onnx", "model.features.onnx"} - {f"model.{file}.onnx"}:
        (copied / other).unlink()
    bundle = load_bundle(copied, returnt=returnt)
    close(bundle(IMAGES), eager(small_bundle[0], returnt))
    close(bundle(IMAGES, returnt), eager(small_bundle[0], returnt))
    with pytest.raises(ExportError, match=f"it has: '{returnt}' .it was loaded for that alone"):
        bundle(IMAGES, "both")


def test_returnt_at_load_becomes_the_default(small_bundle):
    bundle = load_bundle(small_bundle[1], returnt="both")
    close(bundle(IMAGES), eager(small_bundle[0], "both"))
    with pytest.raises(ExportError, match="has no 'full'") as caught:
        load_bundle(small_bundle[1], returnt="full")
    assert caught.value.code == "contract"
    with pytest.raises(ValueError, match="unknown returnt 'logits'"):
        load_bundle(small_bundle[1], returnt="logits")


def test_missing_runtime_or_precision_raises(small_bundle):
    with pytest.raises(ExportError, match=r"no file for runtime 'aoti' in fp32; it has: onnx"):
        load_bundle(small_bundle[1], runtime="aoti")
    with pytest.raises(ExportError, match=r"no file for runtime 'onnx' in int8"):
        load_bundle(small_bundle[1], precision="int8")
    with pytest.raises(ExportError, match="unknown runtime 'onx'") as caught:
        load_bundle(small_bundle[1], runtime="onx")
    assert caught.value.code == "backend"


def code_of(path, **arguments):
    with pytest.raises(ExportError) as caught:
        load_bundle(path, **arguments)
    return caught.value.code


def test_missing_or_damaged_bundle_raises(copied, tmp_path):
    with pytest.raises(ExportError, match="there is no file"):
        load_bundle(tmp_path / "nothing")
    assert code_of(tmp_path / "nothing") == "missing"
    assert code_of(tmp_path / "nothing" / "model.onnx") == "missing"

    whole = (copied / "model.onnx").read_bytes()
    for data in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], b""):
        (copied / "model.onnx").write_bytes(data)
        assert code_of(copied) == "damaged"
    (copied / "model.onnx").unlink()
    assert code_of(copied) == "missing"
    load_bundle(copied, returnt="out")


@pytest.mark.parametrize(("runtime", "name"), [("onnx", "model.onnx"), ("pt2", "model.pt2")])
@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_damaged_model_with_a_matching_hash_raises(copied, rehash, runtime, name, keep):
    whole = (copied / name).read_bytes()
    size = int(keep * len(whole)) if keep < 1 else keep
    (copied / name).write_bytes(whole[:size] + b"garbage")
    rehash(copied, name)
    with pytest.raises(ExportError, match=name) as caught:
        load_bundle(copied, runtime=runtime)
    assert caught.value.code == "damaged"
    assert "\n" not in str(caught.value)


WRONG_INPUTS = {
    "a list": lambda x: x.tolist(),
    "None": lambda x: None,
    "an image": lambda x: Image.new("RGB", (6, 8)),
    "sparse": lambda x: x.to_sparse(),
    "sparse_csr": lambda x: x[0, 0].to_sparse_csr(),
    "nested": lambda x: torch.nested.nested_tensor([x[0], x[1]]),
    "mkldnn": lambda x: x.to_mkldnn(),
    "meta": lambda x: x.to("meta"),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
    "fake": lambda x: FakeTensorMode().from_tensor(x),
    "masked": lambda x: np.ma.masked_array(x.numpy()),
    "complex": lambda x: x.to(torch.complex64),
    "half": lambda x: x.half(),
    "objects": lambda x: x.numpy().astype(object),
    "texts": lambda x: x.numpy().astype(str),
    "records": lambda x: np.zeros(3, dtype=[("x", "<f4")]),
    "big-endian": lambda x: x.numpy().astype(">f4"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("runtime", ["onnx", "pt2"])
@pytest.mark.parametrize("kind", WRONG_INPUTS)
def test_wrong_input_raises(small_bundle, kind, runtime):
    bundle = load_bundle(small_bundle[1], runtime=runtime)
    wrong = WRONG_INPUTS[kind](IMAGES)
    for call in (bundle, bundle.preprocess):
        with pytest.raises(
            ExportError, match=r"float32 \[B|accepted are|array, not|uint8"
        ) as caught:
            call(wrong)
        assert caught.value.code == "contract"


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.requires_grad_(),
        lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda x: x[:, :1].expand(-1, 3, -1, -1),
        lambda x: torch.nn.Parameter(x),
        lambda x: x.numpy()[:, :, ::-1],
        lambda x: torch.view_as_complex(torch.stack([x, x], -1)).conj().imag,
        lambda x: np.asfortranarray(x.numpy()),
    ],
)
def test_any_strides_are_accepted(small_bundle, change):
    bundle = load_bundle(small_bundle[1])
    x = change(IMAGES.clone())
    plain = x.detach().tolist() if isinstance(x, torch.Tensor) else x.tolist()
    plain = np.array(plain, dtype=np.float32)
    torch.testing.assert_close(bundle(x), bundle(plain), rtol=1e-5, atol=1e-6)


def test_unknown_or_missing_device_raises(small_bundle):
    import onnxruntime

    with pytest.raises(ExportError, match="unknown device 'gpu'"):
        load_bundle(small_bundle[1], device="gpu")
    with pytest.raises(ExportError, match="valid: 'cpu', 'cuda'"):
        load_bundle(small_bundle[1], device="mps")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ExportError, match=r"has no CUDA.*mammoth-compiled"):
            load_bundle(small_bundle[1], device="cuda")


def test_silent_fallback_to_the_cpu_raises(small_bundle, monkeypatch):
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


def test_missing_onnxruntime_says_what_to_install(small_net, small_bundle, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(
        FORMATS["onnx"], "write", lambda *_: pytest.fail("exported before the check")
    )
    with pytest.raises(ExportError, match=r'pip install "mammoth-compiled\[cpu\]"'):
        export_bundle(small_net, tmp_path / "b", input_shape=SHAPE)
    assert code_of(small_bundle[1]) == "backend"
    load_bundle(small_bundle[1], runtime="pt2")


@pytest.mark.gpu
def test_export_leaves_the_backbone_on_the_gpu(small_net, tmp_path):
    net = small_net.to("cuda").eval()
    bundle = load_bundle(export_bundle(net, tmp_path / "bundle", input_shape=SHAPE))
    assert {p.device.type for p in net.parameters()} == {"cuda"}
    images = IMAGES.to("cuda")
    with torch.no_grad():
        torch.testing.assert_close(bundle(images), net(images), rtol=1e-2, atol=1e-2)
    assert bundle(images).device.type == "cuda"
