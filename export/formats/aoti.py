"""AOTInductor: compiled code for one kind of machine, without Python; entries out, features, both.

An entry computes what it is for and no more. Triton kernels that a backbone calls are kept, and for
a GPU the patterns of the compiler put in theirs, where they are faster than torch's.

Code is compiled with random numbers in place of the weights. That shows where in the package each
weight is stored, so that the weights after the next task can be put there without compiling; and
nothing is compiled for what the weights happen to be, a bias of zeros for example.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch.fx import GraphModule

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.storage.zip_archive import read, rewrite
from mammoth_compiled.export.capture.program import Source, capture, explain, first_line, quiet
from mammoth_compiled.export.capture.interface import entries_of
from mammoth_compiled.export.bundle.manifest import File, torch_release
from mammoth_compiled.export.bundle.local_paths import scrub
from mammoth_compiled.export.parity.compare import Run
from mammoth_compiled.export.storage.weights import as_bytes, put_in_archive

# In the order of what they can run.
_ISAS = ("default", "avx2", "avx512")
# What a compiler may use on each, in place of all that this very processor has.
_ARCHITECTURES = {"avx2": "x86-64-v3", "avx512": "x86-64-v4"}

# Where a package says at which bytes of which member a weight is stored.
_PLACES = "mammoth_weights.json"


def write(source: Source, folder: Path) -> list[File]:
    """Compiles `model.aoti-cpu.pt2`, or `model.aoti-cuda-smNN.pt2` for a GPU.

    Raises:
        ExportError: If the device is not there, there is no compiler, or the backbone cannot be
            compiled.
    """
    from torch._inductor.package import package_aoti

    requires = _requirements(source.device)
    name = f"model.aoti-{source.device.type}.pt2"
    if source.device.type == "cuda":
        capability = requires["compute_capability"].replace(".", "")
        name = f"model.aoti-cuda-sm{capability}.pt2"
    graph = source.graph
    markers = _markers(graph.state_dict())
    try:
        with quiet(), torch.no_grad():
            files = {
                str(returnt): _compile(source, outputs, markers, requires)
                for returnt, outputs in graph.interface.entries.items()
            }
            package_aoti(str(folder / name), files)
    except Exception as error:
        raise ExportError(explain(error, graph.net, "AOTInductor")) from None
    _locate(folder / name, markers)
    replace_weights(folder / name, graph.state_dict(), source.properties)
    return [File(name, "aoti", "fp32", graph.selected, requires)]


def open_file(path: Path, file: File, outputs: Sequence[str], device: torch.device) -> Run:
    """Returns what runs an entry of a package; see `formats.Runnable`."""
    check_hardware(file, device)
    names = tuple(outputs)
    entry = next(str(r) for r, given in entries_of(file.outputs).items() if given == names)
    index = (device.index or 0) if device.type == "cuda" else -1
    try:
        with quiet():
            loader = torch._C._aoti.AOTIModelPackageLoader(str(path), entry, False, 1, index)
    except Exception as error:
        raise ExportError(
            f"torch {torch.__version__} cannot load {path}: {first_line(error)}", "damaged"
        ) from error

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        try:
            values = loader.boxed_run([images.to(device).contiguous()])
        except Exception as error:  # whatever the operators raise
            raise ExportError(f"AOTInductor fails: {first_line(error)}", "backend") from error
        return dict(zip(names, values, strict=True))

    return run


def selections(file: File) -> list[tuple[str, ...]]:
    """Returns the outputs of every entry; see `formats.Runnable`."""
    return list(entries_of(file.outputs).values())


def replace_weights(
    path: Path, weights: Mapping[str, torch.Tensor], properties: Mapping[str, str]
) -> None:
    """Writes other weights where a package stores them; see `formats.Format`."""
    with ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(_PLACES))
        places = json.loads(archive.read(name))
    put_in_archive(path, places, weights)


def check_hardware(file: File, device: torch.device) -> None:
    """Refuses a package that this machine cannot run, before it is loaded.

    Raises:
        ExportError: Code `hardware`; says what the package needs and what there is.
    """
    needs = dict(file.requires)
    if needs.get("device") != device.type:
        raise ExportError(
            f"{file.path} is compiled for device {needs.get('device')!r}, not {device.type!r}. "
            f"Load it with device={needs.get('device')!r}, or use another runtime",
            "hardware",
        )
    has = _requirements(device)
    if "isa" in needs and needs["isa"] in _ISAS and needs.get("machine") == has["machine"]:
        runs = _ISAS[: _ISAS.index(has["isa"]) + 1] if has["isa"] in _ISAS else ()
        has["isa"] = needs["isa"] if needs["isa"] in runs else has["isa"]
    for key, wanted in needs.items():
        if has.get(key) != wanted:
            raise ExportError(
                f"{file.path} needs {key.replace('_', ' ')} {wanted}, and this machine has "
                f"{has.get(key, 'none')}. Export on a machine of this kind, or use another runtime",
                "hardware",
            )


def _requirements(device: torch.device) -> dict[str, str]:
    """Returns what a package compiled here for a device needs of a machine."""
    needs = {"device": device.type, "torch": torch_release()}
    if device.type == "cpu":
        isa = torch.backends.cpu.get_cpu_capability().lower()
        return needs | {"machine": platform.machine(), "isa": isa}
    if device.type != "cuda" or not torch.cuda.is_available():
        raise ExportError(
            f"AOTInductor compiles for cpu or cuda, and there is no device {str(device)!r}",
            "hardware",
        )
    major, minor = torch.cuda.get_device_capability(device)
    return needs | {"compute_capability": f"{major}.{minor}"}


def _compile(
    source: Source,
    outputs: tuple[str, ...],
    markers: Mapping[str, torch.Tensor],
    requires: Mapping[str, str],
) -> Any:
    """Compiles one entry and returns its files."""
    from torch._inductor import config

    options: dict[str, Any] = {
        "aot_inductor.package": True,
        # Small weights would become literals in the code, which nobody could replace.
        "always_keep_tensor_constants": True,
    }
    architecture = _ARCHITECTURES.get(requires.get("isa", ""))
    if architecture and hasattr(config.cpp, "march"):  # since torch 2.14
        options["cpp.march"] = architecture
    module = _module(source, outputs, markers)
    example = source.graph.interface.example(2).to(source.device)
    return torch._inductor.aot_compile(module, (example,), options=options)


def _module(
    source: Source, outputs: tuple[str, ...], markers: Mapping[str, torch.Tensor]
) -> GraphModule:
    """Returns an entry as it is compiled: on its device, with markers in place of weights."""
    program = source.program(outputs)
    if source.device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        # One of its own, since moving changes it: other formats write the one on the CPU.
        program = capture(source.graph.only(outputs))
        program = move_to_device_pass(program, str(source.device))
    module = program.module()
    assert isinstance(module, GraphModule)
    weights = {
        name: markers.get(name, value).to(source.device)
        for name, value in module.state_dict().items()
    }
    # The tensors themselves, since the program shares its own with the backbone.
    module.load_state_dict(weights, assign=True)
    if source.device.type == "cuda":
        # Imports Inductor, which takes seconds. What patterns do on a CPU is for training.
        from mammoth_compiled.compiler.patterns import apply_patterns

        apply_patterns(module.graph)
        module.recompile()
    return module


def _markers(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns random bits in the form of every weight; tied weights get the same."""
    generator = torch.Generator().manual_seed(0)
    by_storage: dict[tuple[int, torch.Size], torch.Tensor] = {}
    markers = {}
    for name, value in weights.items():
        if value.dtype == torch.bool:
            continue  # has no room for random bits; stays as it is
        key = (value.data_ptr(), value.shape)
        if key not in by_storage:
            # Whole numbers in float, as any bits would do but those that are no number.
            numbers = torch.randint(1, 2**24, (-(-value.nbytes // 4),), generator=generator)
            content = numbers.to(torch.float32).view(torch.uint8)[: value.nbytes]
            by_storage[key] = content.clone().view(value.dtype).view(value.shape)
        markers[name] = by_storage[key]
    return markers


def _locate(path: Path, markers: Mapping[str, torch.Tensor]) -> None:
    """Finds the markers in a package, notes where they are, and removes local paths.

    Raises:
        ExportError: If a marker is found twice.
    """
    members = {name: scrub(data) for name, data in read(path).items()}
    places: dict[str, dict[str, tuple[int, int]]] = {}
    for member, data in members.items():
        for weight, marker in markers.items():
            content = as_bytes(marker).tobytes()
            # What is stored is filled up to 64 bytes, which tells a few bytes from others.
            pattern = content if len(content) >= 16 else content.ljust(64, b"\0")
            offset = data.find(pattern)
            if offset >= 0:
                if data.find(pattern, offset + 1) >= 0:
                    raise ExportError(f"weight {weight!r} cannot be told from others in {member}")
                places.setdefault(member, {})[weight] = (offset, len(content))
    root = next(iter(members)).split("/")[0]
    rewrite(path, members | {f"{root}/extra/{_PLACES}": json.dumps(places).encode()})
