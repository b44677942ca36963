"""The Triton model repository: valid for the server, and with the contract of the manifest."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.hashes import with_hash
from mammoth_compiled.export.bundle.manifest import File, Manifest
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.bundle.onnx_snippets import onnx_snippets
from mammoth_compiled.export.capture.interface import Interface
from mammoth_compiled.export.capture.options import Options
from mammoth_compiled.export.serving.triton import write_triton_layout
from mammoth_compiled.types import DatasetInfo

NAMES = ("T-shirt", "grün", 'a "quoted" name')


def model_config():
    """Returns a message class with the fields used, as in Triton's model_config.proto.

    The text format knows fields by name, so that a wrong name, type or enumerator is an error.
    """
    field = descriptor_pb2.FieldDescriptorProto
    string, int32, int64 = field.TYPE_STRING, field.TYPE_INT32, field.TYPE_INT64
    tensor = {"name": string, "data_type": ".t.DataType", "dims": [int64]}
    messages = {
        "ModelInput": tensor,
        "ModelOutput": tensor | {"label_filename": string},
        "ModelInstanceGroup": {"name": string, "kind": ".t.Kind", "count": int32},
        "ModelDynamicBatching": {
            "preferred_batch_size": [int32],
            "max_queue_delay_microseconds": field.TYPE_UINT64,
        },
        "ModelConfig": {
            "name": string,
            "platform": string,
            "backend": string,
            "max_batch_size": int32,
            "input": [".t.ModelInput"],
            "output": [".t.ModelOutput"],
            "instance_group": [".t.ModelInstanceGroup"],
            "dynamic_batching": ".t.ModelDynamicBatching",
        },
    }
    enums = {
        "DataType": ["TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_FP16", "TYPE_FP32"],
        "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"],
    }
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    for name, values in enums.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, (key, kind) in enumerate(fields.items(), 1):
            repeated = isinstance(kind, list)
            kind = kind[0] if repeated else kind
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            added = message.field.add(name=key, number=number, label=label)
            if isinstance(kind, str):
                added.type_name = kind
                is_enum = kind.removeprefix(".t.") in enums
                added.type = field.TYPE_ENUM if is_enum else field.TYPE_MESSAGE
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.ModelConfig"))


CONFIG = model_config()


def read_config(folder):
    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, CONFIG()), text


def kind_of(config):
    (group,) = config.instance_group
    return group.DESCRIPTOR.fields_by_name["kind"].enum_type.values_by_number[group.kind].name


def types_of(config):
    return [
        tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[t].name
        for tensor in (*config.input, *config.output)
        for t in [tensor.data_type]
    ]


def package(entries):
    """Returns an archive in the layout of AOTInductor, with a placeholder for each entry's code."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for entry in entries:
            archive.writestr(f"model.aoti/data/aotinductor/{entry}/abc.wrapper.so", entry)
        archive.writestr("model.aoti/archive_format", "pt2")
        archive.writestr("model.aoti/.data/version", "3")
    return stream.getvalue()


@pytest.fixture
def make_bundle(tmp_path):
    """Returns a function that writes a bundle with placeholders for the models."""

    def make(outputs=("out", "features"), onnx=None, aoti=None, names=NAMES, pixels=False):
        folder = tmp_path / "bundle"
        folder.mkdir(exist_ok=True)
        shapes = {"out": (3,), "features": (128,), "full_0": (64, 16, 16)}
        interface = Interface((3, 32, 28), {name: shapes[name] for name in outputs}, pixels)
        files = []

        def add(file, data):
            (folder / file.path).write_bytes(data)
            files.append(with_hash(folder, file))

        onnx = onnx or {"model.out.onnx": ("fp32", ("out",)), "model.onnx": ("fp32", outputs)}
        for path, (precision, kept) in onnx.items():
            add(File(path, "onnx", precision, kept), path.encode())
        if aoti:
            file = File("model.aoti.pt2", "aoti", "fp32", outputs, requires=aoti)
            add(file, package(interface.entries))
        if names:
            add(File("labels.txt", "text"), "\n".join(names).encode() + b"\n")
        golden = {name: f"{name}.npy" for name in outputs}
        for path in ("input.npy", *golden.values()):
            add(File(path, "golden"), b"")
        manifest = Manifest(
            name="my-net",
            interface=interface,
            info=DatasetInfo("", interface.input_shape, num_classes=3, class_names=tuple(names)),
            class_ids=(0, 1, 2),
            options=Options(),
            files=tuple(files),
            golden_input="input.npy",
            golden_outputs=golden,
            versions={"opset": "20"},
        )
        (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
        return folder

    return make


CPU = {"device": "cpu", "machine": "x86_64", "isa": "avx2", "torch": "2.15.0"}


def test_onnx_model(make_bundle, tmp_path):
    bundle = make_bundle(outputs=("out", "features", "full_0"))
    (folder,) = write_triton_layout(bundle, tmp_path / "deep" / "models")
    assert folder == tmp_path / "deep" / "models" / "my-net"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) == [
        "1",
        "1/model.onnx",
        "config.pbtxt",
        "labels.txt",
    ]
    assert (folder / "1/model.onnx").read_bytes() == b"model.onnx"  # the one with all outputs
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines() == list(NAMES)
    config, text = read_config(folder)
    assert (config.name, config.backend, config.platform) == (
        "my-net",
        "onnxruntime",
        "onnxruntime_onnx",
    )
    assert config.max_batch_size == 32
    assert config.HasField("dynamic_batching")
    assert [(t.name, list(t.dims)) for t in (*config.input, *config.output)] == [
        ("input", [3, 32, 28]),
        ("out", [3]),
        ("features", [128]),
        ("full_0", [64, 16, 16]),
    ]
    assert types_of(config) == ["TYPE_FP32"] * 4
    assert [output.label_filename for output in config.output] == ["labels.txt", "", ""]
    assert kind_of(config) == "KIND_AUTO"
    assert "ONNX opset 20" in text
    assert str(tmp_path) not in text


def test_default_name_has_no_colon(make_bundle, tmp_path):
    bundle = make_bundle()
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"my-net"', '"timm:my-net"'))
    (folder,) = write_triton_layout(bundle, tmp_path / "models")
    assert folder.name == "timm_my-net"
    assert read_config(folder)[0].name == "timm_my-net"
    assert "/v2/models/timm_my-net/infer" in onnx_snippets(read_manifest(bundle))


def test_precision_device_and_batch_size(make_bundle, tmp_path):
    bundle = make_bundle(onnx={"a.onnx": ("fp32", ("out",)), "b.onnx": ("int8", ("out",))})
    (folder,) = write_triton_layout(
        bundle, tmp_path / "m", "other", precision="int8", device="cuda", max_batch_size=8
    )
    config, _ = read_config(folder)
    assert (config.name, config.max_batch_size, kind_of(config)) == ("other", 8, "KIND_GPU")
    assert [output.name for output in config.output] == ["out"]
    assert (folder / "1/model.onnx").read_bytes() == b"b.onnx"


def test_pixel_input_without_class_names(make_bundle, tmp_path):
    bundle = make_bundle(names=(), pixels=True)
    (folder,) = write_triton_layout(bundle, tmp_path / "m")
    config, _ = read_config(folder)
    assert types_of(config)[0] == "TYPE_UINT8"
    assert list(config.input[0].dims) == [32, 28, 3]
    assert config.output[0].label_filename == ""
    assert not (folder / "labels.txt").exists()


def test_package_becomes_a_second_model(make_bundle, tmp_path):
    _, folder = write_triton_layout(make_bundle(aoti=CPU), tmp_path / "m")
    assert folder.name == "my-net_aoti"
    config, text = read_config(folder)
    assert (config.name, config.backend, config.platform) == (
        "my-net_aoti",
        "pytorch",
        "torch_aoti",
    )
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert [(t.name, list(t.dims)) for t in (*config.input, *config.output)] == [
        ("ARGS[0]", [-1, 3, 32, 28]),
        ("RESULT[out]", [-1, 3]),
        ("RESULT[features]", [-1, 128]),
    ]
    assert [output.label_filename for output in config.output] == ["labels.txt", ""]
    assert kind_of(config) == "KIND_CPU"
    assert "Triton 26.05 or later" in text
    assert "device cpu, machine x86_64, isa avx2, torch 2.15.0" in text
    with zipfile.ZipFile(folder / "1/model.pt2") as archive:
        assert archive.namelist() == [
            "model.aoti/data/aotinductor/model/abc.wrapper.so",
            "model.aoti/archive_format",
            "model.aoti/.data/version",
        ]
        assert archive.read(archive.namelist()[0]) == b"both"


def test_gpu_package_with_logits_only(make_bundle, tmp_path):
    requires = {"device": "cuda", "compute_capability": "9.0", "torch": "2.15.0"}
    _, folder = write_triton_layout(make_bundle(("out",), aoti=requires), tmp_path / "m")
    config, _ = read_config(folder)
    assert [output.name for output in config.output] == ["RESULT[out]"]
    assert kind_of(config) == "KIND_GPU"


@pytest.mark.slow
def test_package_loads_with_tritons_entry_name(every_format, tmp_path, require_format):
    require_format("aoti")
    bundle = every_format[1]
    _, folder = write_triton_layout(bundle, tmp_path / "m", "net")
    loader = torch._C._aoti.AOTIModelPackageLoader(
        str(folder / "1/model.pt2"), "model", False, 1, -1
    )
    results = loader.boxed_run([torch.from_numpy(np.load(bundle / "golden/input.npy"))])
    for name, result in zip(("out", "features"), results, strict=True):
        golden = torch.from_numpy(np.load(bundle / f"golden/{name}.npy"))
        torch.testing.assert_close(result, golden)
    given, returned = (json.loads(spec)[1] for spec in loader.get_call_spec())
    arguments, keywords = given["children_spec"]
    assert len(arguments["children_spec"]) == 1  # ARGS[0]
    assert keywords["children_spec"] == []
    config, _ = read_config(folder)
    names = [f"RESULT[{key}]" for key in json.loads(returned["context"])]
    assert [output.name for output in config.output] == names


def test_own_models_are_replaced_and_foreign_ones_kept(make_bundle, tmp_path):
    repository = tmp_path / "m"
    bundle = make_bundle(aoti=CPU)
    write_triton_layout(bundle, repository)
    (repository / "my-net" / "1" / "old").touch()
    write_triton_layout(bundle, repository)
    assert not (repository / "my-net" / "1" / "old").exists()
    assert sorted(p.name for p in repository.iterdir()) == ["my-net", "my-net_aoti"]
    foreign = repository / "foreign"
    (foreign / "1").mkdir(parents=True)
    (foreign / "config.pbtxt").write_text('name: "foreign"\n')
    with pytest.raises(ExportError, match="was not written from a bundle; it is left unchanged"):
        write_triton_layout(bundle, repository, "foreign")
    assert (foreign / "config.pbtxt").read_text() == 'name: "foreign"\n'
    assert sorted(p.name for p in repository.iterdir()) == ["foreign", "my-net", "my-net_aoti"]


def content(repository):
    return {p: p.read_bytes() for p in repository.rglob("*") if p.is_file()}


def test_failure_leaves_the_repository_unchanged(make_bundle, tmp_path, monkeypatch):
    repository = tmp_path / "m"
    bundle = make_bundle(aoti=CPU)
    (bundle / "model.aoti.pt2").write_bytes(b"?")
    with pytest.raises(ExportError, match="is not what the manifest says"):
        write_triton_layout(bundle, repository)
    assert not repository.exists()
    bundle = make_bundle(aoti=CPU)
    write_triton_layout(bundle, repository)
    before = content(repository)

    rename = type(repository).rename

    def fails_at_the_end(self, target):
        if self.name == "my-net_aoti" and self.parent.name.endswith(".new"):
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(type(repository), "rename", fails_at_the_end)
    with pytest.raises(ExportError, match="cannot be written: disk full"):
        write_triton_layout(bundle, repository, max_batch_size=4)
    assert content(repository) == before


def test_invalid_arguments_raise(make_bundle, tmp_path):
    bundle, repository = make_bundle(), tmp_path / "m"
    with pytest.raises(ExportError, match=r"'\.\./x' cannot be a model's name"):
        write_triton_layout(bundle, repository, "../x")
    with pytest.raises(ExportError, match="unknown device 'tpu'; valid: 'auto', 'cpu', 'cuda'"):
        write_triton_layout(bundle, repository, device="tpu")
    with pytest.raises(ExportError, match="must be 1 or more, not 0"):
        write_triton_layout(bundle, repository, max_batch_size=0)
    with pytest.raises(ExportError, match="no ONNX file of precision 'int8'; it has: 'fp32'"):
        write_triton_layout(bundle, repository, precision="int8")
    with pytest.raises(ExportError) as caught:
        write_triton_layout(tmp_path / "absent", repository)
    assert caught.value.code == "missing"
    (bundle / "manifest.json").write_text("[")
    with pytest.raises(ExportError) as caught:
        write_triton_layout(bundle, repository)
    assert caught.value.code == "damaged"
    assert not repository.exists()
