"""update_bundle overwrites weights in place and changes nothing else."""

import json
import shutil
import struct
import zipfile
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle, load_bundle, update_bundle
from mammoth_compiled.export.bundle.hashes import sha256
from mammoth_compiled.export.bundle.local_paths import local_directories
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.formats import FORMATS, runtimes, torchscript
from mammoth_compiled.types import ReturnTypes

SHAPE = (3, 8, 6)
IMAGES = torch.linspace(-2, 2, 5 * 3 * 8 * 6).reshape(5, *SHAPE)
# Compiling takes too long here; test_update_every_format.py includes it.
UNCOMPILED = [name for name in FORMATS if name != "aoti"]


class Tied(MammothBackbone):
    """Has tied layers, a bool and an integer buffer, a scalar parameter and a plain tensor."""

    def __init__(self, width=5, extra=False):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("mask", torch.arange(width) % 2 == 0)
        self.register_buffer("shift", torch.arange(width))
        self.constant = torch.full((width,), 0.5)
        self.classifier = nn.Linear(width, 4)
        if extra:
            self.extra = nn.Linear(width, width)

    def forward(self, x, returnt=ReturnTypes.OUT):
        features = F.relu(self.bn(self.conv(x))).mean((2, 3)) + self.constant
        features = self.second(self.first(features) * self.mask) * self.scale + self.shift
        if hasattr(self, "extra"):
            features = self.extra(features)
        return select_return(self.classifier(features), features, returnt)


def build(seed, **arguments):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Tied(**arguments).eval()
        for tensor in (*net.parameters(), net.bn.running_mean, net.bn.running_var):
            nn.init.uniform_(tensor, 0.1, 1)
    return net


def close(actual, want):
    torch.testing.assert_close(actual, want, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(the network, its bundle)."""
    net = build(0)
    folder = tmp_path_factory.mktemp("tied") / "bundle"
    return net, export_bundle(net, folder, input_shape=SHAPE, formats=UNCOMPILED)


@pytest.fixture
def bundle(exported, tmp_path):
    return shutil.copytree(exported[1], tmp_path / "bundle")


@pytest.fixture
def other():
    net = build(1)
    net.mask.logical_not_()
    net.shift.mul_(-3)
    net.bn.num_batches_tracked.fill_(7)
    return net


def hashes(path):
    return {file: sha256(file) for file in path.rglob("*") if file.is_file()}


def members(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_every_kind_of_weight_is_replaced(bundle, other):
    loaded = {runtime: load_bundle(bundle, runtime=runtime) for runtime in ("onnx", "pt2", "ts")}
    update_bundle(bundle, other)
    state = other.state_dict()
    assert int(state["bn.num_batches_tracked"]) == 7
    for actual in (
        torch.export.load(bundle / "model.pt2").state_dict,
        torchscript._load(bundle / "model.ts.pt", torch.device("cpu")).state_dict(),
    ):
        for name, value in state.items():
            found = [actual[key] for key in actual if key.removeprefix("graph.") == f"net.{name}"]
            assert len(found) == 1
            assert torch.equal(found[0], value)
            assert found[0].dtype == value.dtype
    actual = load_file(bundle / "weights.safetensors")
    assert all(torch.equal(actual[name], value) for name, value in state.items())
    for runtime in loaded.values():
        assert runtime.reload()
        with torch.no_grad():
            close(runtime(IMAGES, "both"), other(IMAGES, returnt="both"))


def test_updated_program_equals_one_that_was_loaded_and_saved(exported, bundle, other, tmp_path):
    program = torch.export.load(exported[1] / "model.pt2")
    with torch.no_grad():
        for name, value in program.state_dict.items():
            value.copy_(other.state_dict()[name.removeprefix("net.")])
    expected = program.module()(IMAGES)
    update_bundle(bundle, other)
    actual = torch.export.load(bundle / "model.pt2")
    assert actual.state_dict.keys() == program.state_dict.keys()
    assert str(actual.graph) == str(program.graph)
    first, second = (actual.state_dict[f"net.{name}.weight"] for name in ("first", "second"))
    assert first.data_ptr() == second.data_ptr()
    outputs = actual.module()(IMAGES)
    assert all(torch.equal(outputs[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["model.pt2", "model.ts.pt", "model.aoti-cpu.pt2"])
def test_updated_archives_are_valid(every_format, require_format, tmp_path, name):
    if name == "model.aoti-cpu.pt2":
        require_format("aoti")
    net = type(every_format[0])().eval()
    path = shutil.copytree(every_format[1], tmp_path / "bundle")
    before = members(path / name)
    update_bundle(path, net)
    after = members(path / name)
    assert list(after) == list(before)
    changed = [member for member in after if after[member] != before[member]]
    assert changed
    assert all("/data/" in member for member in changed)
    assert not [member for member in changed if member.endswith((".json", ".cpp"))]
    data = (path / name).read_bytes()
    with zipfile.ZipFile(path / name) as archive:
        for info in archive.infolist():  # local headers, data descriptors and the central directory
            crc, *lengths = struct.unpack_from("<I8xHH", data, info.header_offset + 14)
            end = info.header_offset + 30 + sum(lengths) + info.file_size
            if info.flag_bits & 8:
                signature, crc = struct.unpack_from("<II", data, end)
                assert signature == 0x08074B50
            assert crc == info.CRC


def test_onnx_metadata_is_replaced(small_bundle, small_info, tmp_path):
    path = shutil.copytree(small_bundle[1], tmp_path / "bundle")
    before = onnx.load(path / "model.onnx")
    update_bundle(path, small_bundle[0], info=replace(small_info, tasks_seen=2))
    after = onnx.load(path / "model.onnx")
    onnx.checker.check_model(after, full_check=True)
    keys = [entry.key for entry in after.metadata_props]
    assert keys == [entry.key for entry in before.metadata_props]
    assert len(keys) == len(set(keys))
    facts = {entry.key: entry.value for entry in after.metadata_props}
    assert json.loads(facts["classes_seen"]) == [0, 1, 2, 3]
    del before.metadata_props[:], after.metadata_props[:]
    assert after == before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.pt2", lambda data: data[: len(data) // 2]),
        ("model.pt2", lambda data: data.replace(b"_weights_config.json", b"_weights_xonfig.json")),
        ("model.ts.pt", lambda data: data.replace(b"data.pkl", b"date.pkl")),
        ("model.ts.pt", lambda data: b"garbage"),
        ("model.onnx", lambda data: data[:-1000]),
        ("model.onnx", lambda data: b""),
        ("weights.safetensors", lambda data: data[8:]),
    ],
)
def test_unreadable_file_keeps_the_old_version(bundle, other, rehash, name, change):
    reason = "(has a form that its weights|is not a safetensors file)"
    (bundle / name).write_bytes(change((bundle / name).read_bytes()))
    rehash(bundle, name)
    before = hashes(bundle)
    with pytest.raises(ExportError, match=f"{name} {reason}") as caught:
        update_bundle(bundle, other)
    assert caught.value.code == "damaged"
    assert hashes(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


@pytest.mark.parametrize("format_", UNCOMPILED)
def test_another_architecture_raises(tmp_path, format_):
    narrow = build(0, width=4, extra=True)
    narrow.classifier = nn.Linear(4, 4)
    path = export_bundle(narrow, tmp_path / "b", input_shape=SHAPE, formats=format_)
    before = hashes(path)
    wider = build(0, width=4)
    wider.conv = nn.Conv2d(3, 4, 5)
    with pytest.raises(ExportError, match=r"weight 'net\..*(had \d+ when|no weight|differs)"):
        update_bundle(path, wider)
    assert hashes(path) == before


def test_update_with_a_local_path_in_info_raises(bundle, other):
    before = hashes(bundle)
    info = replace(read_manifest(bundle).info, name=f"{local_directories()[0].decode()}/data")
    with pytest.raises(ExportError, match="would hold the local path"):
        update_bundle(bundle, other, info=info)
    assert hashes(bundle) == before


def test_update_compares_every_output_set_again(bundle, other, monkeypatch):
    opened = []
    for name in ("onnx", "pt2", "torchscript"):
        runtime = runtimes()[name]

        def open_model(path, file, outputs, device, original=runtime.open_model):
            run = original(path, file, outputs, device)

            def counted(images):
                opened.append((file.path, outputs, len(images)))
                return run(images)

            return counted

        monkeypatch.setattr(runtime, "open_model", open_model)
    update_bundle(bundle, other)
    both = ("out", "features")
    expected = [
        ("model.onnx", both),
        ("model.out.onnx", ("out",)),
        ("model.features.onnx", ("features",)),
        ("model.pt2", both),
        *(("model.ts.pt", outputs) for outputs in (("out",), ("features",), both)),
    ]
    assert opened == [(*output_set, size) for output_set in expected for size in (1, 4)]
    parity = {file.path: file.parity for file in read_manifest(bundle).files if file.is_model}
    assert {d.inputs for found in parity.values() for d in found.values()} == {"golden"}


def test_update_replaces_golden_values(bundle, other):
    update_bundle(bundle, other)
    images = torch.from_numpy(np.load(bundle / "golden/input.npy"))
    with torch.no_grad():
        expected = other(images, returnt="features")
    close(torch.from_numpy(np.load(bundle / "golden/features.npy")), expected)
