"""Every format answers like eager, holds no trace of the machine, and takes other weights."""

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle, load_bundle, update_bundle, verify_bundle
from mammoth_compiled.export.__main__ import main
from mammoth_compiled.export.bundle.hashes import sha256
from mammoth_compiled.export.bundle.local_paths import check_no_local_path, local_directories, scrub
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.formats import FORMATS, aoti, format_names, runtimes
from mammoth_compiled.types import ReturnTypes

SHAPE = (3, 8, 6)
IMAGES = torch.linspace(-2, 2, 5 * 3 * 8 * 6).reshape(5, *SHAPE)


def eager(net, returnt, images=IMAGES):
    with torch.no_grad():
        return net(images, returnt=returnt)


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.fixture
def copied(every_format, tmp_path):
    return shutil.copytree(every_format[1], tmp_path / "copy")


def edit(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("runtime", [*runtimes(), "ts"])
def test_every_runtime_answers_like_eager(every_format, runtime):
    net, path = every_format
    bundle = load_bundle(path, runtime=runtime)
    for returnt in ("out", "features", "both"):
        fixed = load_bundle(path, runtime=runtime, returnt=returnt)
        for images in (IMAGES, IMAGES[:1], IMAGES.to(memory_format=torch.channels_last)):
            close(bundle(images, returnt), eager(net, returnt, images))
            close(fixed(images), eager(net, returnt, images))
        assert fixed.supports == (ReturnTypes(returnt),)


def test_the_manifest_lists_every_format(every_format):
    files = read_manifest(every_format[1]).files
    assert set(FORMATS) <= {file.format for file in files}
    for file in files:
        if file.is_model:
            assert list(file.parity) == list(file.outputs)
            assert all(d.size <= d.bound for d in file.parity.values())


def test_format_names():
    assert format_names(None) == ("onnx", "pt2", "safetensors")
    assert format_names("onnx, ts,onnx") == ("onnx", "torchscript")
    assert format_names(["aoti"]) == ("aoti",)
    for given, message in (
        ("onxx", "unknown format 'onxx'. Did you mean 'onnx'"),
        ([], "no format"),
    ):
        with pytest.raises(ExportError, match=message):
            format_names(given)


# What is in the files.


def test_no_file_names_this_machine(every_format):
    _, path = every_format
    files = [file for file in path.rglob("*") if file.is_file()]
    assert len(files) > 10
    for file in files:
        check_no_local_path(file)
        assert not any(folder + b"/" in file.read_bytes() for folder in local_directories())


@pytest.mark.parametrize("compressed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_local_path_is_found_and_removed(tmp_path, compressed):
    text = b"x\0" + local_directories()[0] + b"/name/of_a.file:12\0y"
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compressed) as archive:
        archive.writestr("inner", text * 20)
    with pytest.raises(ExportError, match="would hold the local path"):
        check_no_local_path(tmp_path / "a.zip")
    clean = scrub(text)
    assert len(clean) == len(text)
    assert (clean[:3], clean[-6:]) == (b"x\0/", b"_:12\0y")
    (tmp_path / "b").write_bytes(clean)
    check_no_local_path(tmp_path / "b")
    assert scrub(b"/usr/lib/libc.so") == b"/usr/lib/libc.so"


@pytest.mark.parametrize("name", ["model.onnx", "model.out.onnx", "model.features.onnx"])
def test_initializers_are_the_state_dict(every_format, name):
    net, path = every_format
    model = onnx.load(path / name)
    state = {f"net.{key}": value for key, value in net.state_dict().items()}
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    used = set(weights) & set(state)
    assert {"net.conv.weight", "net.bn.weight", "net.bn.running_var"} <= used
    assert ("net.classifier.bias" in used) == (name != "model.features.onnx")
    for key in used:
        assert np.array_equal(weights[key], state[key].numpy())
    assert not {key for key in weights if key not in state and weights[key].dtype == np.float32}


def test_onnx_runtime_folds_what_the_file_keeps(every_format, tmp_path):
    import onnxruntime

    model = every_format[1] / "model.onnx"
    assert "BatchNormalization" in {node.op_type for node in onnx.load(model).graph.node}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    nodes = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "BatchNormalization" not in nodes


def test_safetensors_hold_the_state_dict(every_format, small_net):
    net, path = every_format
    small_net.load_state_dict(load_file(path / "weights.safetensors"))
    close(small_net.eval()(IMAGES, "both"), eager(net, "both"))


def test_the_programs_hold_torchs_operators_only(every_format):
    program = torch.export.load(every_format[1] / "model.pt2")
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert {target.namespace for target in targets} == {"aten"}
    with zipfile.ZipFile(every_format[1] / "model.ts.pt") as archive:
        assert not [name for name in archive.namelist() if name.endswith(".debug_pkl")]


@pytest.mark.parametrize("format_", ["onnx", "pt2", "torchscript"])
def test_an_operator_of_ours_is_refused_in_portable_files(tmp_path, format_):
    class Special(MammothBackbone):
        def __init__(self):
            super().__init__()
            self.classifier = nn.Linear(3 * 8 * 6, 4)

        def forward(self, x, returnt=ReturnTypes.OUT):
            features = torch.ops.mammoth_test.double(x).flatten(1)
            return select_return(self.classifier(features), features, returnt)

    with torch.library._scoped_library("mammoth_test", "DEF") as library:
        library.define("double(Tensor x) -> Tensor")
        library.impl("double", lambda x: x * 2, "CompositeExplicitAutograd")
        with pytest.raises(ExportError, match=r"calls mammoth_test::double.*portable file"):
            export_bundle(Special(), tmp_path / "b", input_shape=SHAPE, formats=format_)
    assert list(tmp_path.iterdir()) == []


# Hardware.


def test_a_package_says_what_it_needs(every_format):
    requires = read_manifest(every_format[1]).file("model.aoti-cpu.pt2").requires
    assert set(requires) == {"device", "torch", "machine", "isa"}
    assert requires["device"] == "cpu"
    assert requires["isa"] in ("default", "avx2", "avx512")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("torch", "1.0.0", "needs torch 1.0.0, and this machine has 2"),
        ("machine", "vax", "needs machine vax"),
        ("isa", "avx4096", "needs isa avx4096"),
        ("device", "cuda", "compiled for device 'cuda', not 'cpu'"),
    ],
)
def test_a_package_for_another_machine_is_not_loaded(copied, monkeypatch, key, value, message):
    def change(manifest):
        file = next(file for file in manifest["files"] if file["format"] == "aoti")
        file["requires"][key] = value

    edit(copied, change)
    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ExportError, match=message) as caught:
        load_bundle(copied, runtime="aoti")
    assert caught.value.code == "hardware"
    results = {result.path: result for result in verify_bundle(copied)}
    assert not results["model.aoti-cpu.pt2"].checked
    assert message.split()[-1] in results["model.aoti-cpu.pt2"].text
    assert results["model.onnx"].checked
    with pytest.raises(ExportError, match=message):
        verify_bundle(copied, ["aoti"])


@pytest.mark.parametrize(("has", "runs"), [("DEFAULT", 1), ("AVX2", 2), ("AVX512", 3), ("NEON", 0)])
def test_a_processor_runs_what_lesser_ones_run(every_format, monkeypatch, has, runs):
    file = read_manifest(every_format[1]).file("model.aoti-cpu.pt2")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: has)
    for i, isa in enumerate(("default", "avx2", "avx512")):
        package = replace(file, requires={**file.requires, "isa": isa})
        if i < runs:
            aoti.check_hardware(package, torch.device("cpu"))
        else:
            with pytest.raises(ExportError, match=f"needs isa {isa}") as caught:
                aoti.check_hardware(package, torch.device("cpu"))
            assert caught.value.code == "hardware"


# Other weights.


@pytest.fixture
def trained(every_format):
    """Another network of the same architecture, all of whose weights differ."""
    net = type(every_format[0])().eval()
    for tensor in (*net.parameters(), net.bn.running_mean, net.bn.running_var):
        nn.init.uniform_(tensor, 0.1, 1)
    return net


def test_an_update_neither_traces_nor_compiles(copied, trained, small_info, monkeypatch):
    bundles = {runtime: load_bundle(copied, runtime=runtime) for runtime in runtimes()}
    before = {runtime: bundle(IMAGES) for runtime, bundle in bundles.items()}
    for module, name in (
        (torch.export, "export"),
        (torch.onnx, "export"),
        (torch.jit, "trace_module"),
        (torch._inductor, "aot_compile"),
    ):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("traced or compiled"))
    created = read_manifest(copied).file("model.aoti-cpu.pt2")

    assert update_bundle(copied, trained, info=replace(small_info, tasks_seen=2)) == copied

    for runtime, bundle in bundles.items():
        assert torch.equal(bundle(IMAGES), before[runtime])
        assert bundle.reload()
        assert not bundle.reload()
        assert (bundle(IMAGES) - before[runtime]).abs().max() > 0.1
        close(bundle(IMAGES, "both"), eager(trained, "both"))
        assert bundle.classes_seen == (0, 1, 2, 3)
    properties = {p.key: p.value for p in onnx.load(copied / "model.onnx").metadata_props}
    assert json.loads(properties["classes_seen"]) == [0, 1, 2, 3]
    close(
        torch.from_numpy(np.load(copied / "golden/out.npy")),
        eager(trained, "out", torch.from_numpy(np.load(copied / "golden/input.npy"))),
    )
    assert read_manifest(copied).file("model.aoti-cpu.pt2").requires == created.requires
    assert all(result.checked for result in verify_bundle(copied))


def test_an_update_that_fails_leaves_the_old_version(copied, trained, monkeypatch):
    before = {path: sha256(path) for path in copied.rglob("*") if path.is_file()}
    wider = type(trained)(num_classes=5)
    with pytest.raises(ExportError, match=r"gives .*\(5,\).*the bundle has") as caught:
        update_bundle(copied, wider)
    assert caught.value.code == "contract"
    monkeypatch.setattr(FORMATS["pt2"], "replace_weights", lambda *_: None)
    with pytest.raises(ExportError, match=r"model.pt2 differs from eager: output 'out'"):
        update_bundle(copied, trained)
    assert {path: sha256(path) for path in copied.rglob("*") if path.is_file()} == before
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


def test_a_damaged_bundle_is_not_updated(copied, trained):
    (copied / "model.pt2").write_bytes(b"garbage")
    with pytest.raises(ExportError, match="SHA-256 differs") as caught:
        update_bundle(copied, trained)
    assert caught.value.code == "damaged"


def test_a_reload_that_fails_keeps_the_old_version(copied, every_format):
    bundle = load_bundle(copied)
    (copied / "model.onnx").write_bytes(b"garbage")
    edit(copied, lambda manifest: manifest.update(name="other"))
    with pytest.raises(ExportError, match="SHA-256 differs"):
        bundle.reload()
    (copied / "manifest.json").unlink()
    with pytest.raises(ExportError, match="there is no file"):
        bundle.reload()
    close(bundle(IMAGES), eager(every_format[0], "out"))


# Verifying again.


def test_the_command_verifies(every_format, capsys):
    assert main(["verify", str(every_format[1])]) == 0
    lines = capsys.readouterr().out.splitlines()
    models = read_manifest(every_format[1]).models
    assert [line.split()[0] for line in lines[:-1]] == [file.path for file in models]
    assert {file.format for file in models} == set(runtimes())
    assert lines[-1].endswith("all hashes match, 6 model files verified")
    assert main(["verify", str(every_format[1]), "--runtime", "ts"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("model.ts.pt")


def rehash(path, name):
    def change(manifest):
        file = next(file for file in manifest["files"] if file["path"] == name)
        file |= {"sha256": sha256(path / name), "bytes": (path / name).stat().st_size}

    edit(path, change)


def test_wrong_golden_values_are_found(copied, capsys):
    values = np.load(copied / "golden/features.npy")
    np.save(copied / "golden/features.npy", values + 0.01)
    assert main(["verify", str(copied)]) == 2
    assert "golden/features.npy is not what the manifest says" in capsys.readouterr().err
    rehash(copied, "golden/features.npy")
    assert main(["verify", str(copied)]) == 2
    assert "output 'features' for 4 images (golden) differs by 0.01" in capsys.readouterr().err
    for data in (b"", b"garbage"):
        (copied / "golden/features.npy").write_bytes(data)
        rehash(copied, "golden/features.npy")
        with pytest.raises(ExportError, match="no NumPy file") as caught:
            verify_bundle(copied)
        assert caught.value.code == "damaged"
