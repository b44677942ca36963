"""A compiled package records its hardware requirements, which are checked before loading."""

import platform
from dataclasses import replace

import pytest
import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import load_bundle, verify_bundle
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.formats import FORMATS, aoti

pytestmark = pytest.mark.usefixtures("aoti_installed")


@pytest.fixture
def aoti_installed(require_format):
    require_format("aoti")


def test_package_records_its_requirements(every_format):
    requires = read_manifest(every_format[1]).file("model.aoti-cpu.pt2").requires
    assert set(requires) == {"device", "torch", "machine", "isa"}
    assert requires["device"] == "cpu"
    assert requires["machine"] == platform.machine()
    assert requires["isa"] == torch.backends.cpu.get_cpu_capability().lower()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names are those of x86-64")
def test_capability_of_an_x86_machine_is_known(every_format):
    requires = read_manifest(every_format[1]).file("model.aoti-cpu.pt2").requires
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
def test_package_for_another_machine_is_not_loaded(
    every_format_copy, edit_manifest, monkeypatch, key, value, message
):
    def change(manifest):
        file = next(file for file in manifest["files"] if file["format"] == "aoti")
        file["requires"][key] = value

    edit_manifest(every_format_copy, change)
    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ExportError, match=message) as caught:
        load_bundle(every_format_copy, runtime="aoti")
    assert caught.value.code == "hardware"
    results = {result.path: result for result in verify_bundle(every_format_copy)}
    assert not results["model.aoti-cpu.pt2"].checked
    assert message.split()[-1] in results["model.aoti-cpu.pt2"].text
    assert results["model.onnx"].checked
    with pytest.raises(ExportError, match=message):
        verify_bundle(every_format_copy, ["aoti"])


@pytest.mark.parametrize(("has", "runs"), [("DEFAULT", 1), ("AVX2", 2), ("AVX512", 3), ("NEON", 0)])
def test_cpu_runs_packages_for_lesser_capabilities(every_format, monkeypatch, has, runs):
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


def test_missing_compiler_raises_before_the_export():
    from torch._inductor import config

    with (
        config.patch({"cpp.cxx": ("/nowhere/c++",)}),
        pytest.raises(ExportError, match=r"needs a C\+\+ compiler.*Install g\+\+") as caught,
    ):
        FORMATS["aoti"].check_installed()
    assert caught.value.code == "backend"
