"""AOTInductor: native code for one kind of machine, which runs without Python.

A package has one entry per return type, and an entry computes nothing else. Triton kernels that a
backbone calls stay in the package; on a GPU, the compiler's patterns also insert their kernels
wherever those are faster than torch's.

Compilation uses random placeholders instead of the weights. They reveal where the package stores
each weight, so that an update can overwrite the weights without compiling again, and they keep the
compiler from specializing on the current values, such as a bias of zeros.
"""

import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch.fx import GraphModule

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.local_paths import scrub
from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.bundle.versions import torch_release
from mammoth_compiled.export.capture.interface import Run
from mammoth_compiled.export.capture.program import Source, capture, explain, first_line, quiet
from mammoth_compiled.export.formats.base import MultiEntryFormat, register_format
from mammoth_compiled.export.storage.weights import (
    WeightLocations,
    read_from_archive,
    replace_in_archive,
    tensor_bytes,
)
from mammoth_compiled.export.storage.zip_archive import read_members, write_members

# CPU capabilities as torch names them; each can run the code of those before it.
_CAPABILITIES = ("default", "avx2", "avx512")
# The architecture level to compile for, instead of everything that this very CPU supports.
_ARCHITECTURES = {"avx2": "x86-64-v3", "avx512": "x86-64-v4"}

# Member of a package that records at which offset of which member each weight is stored.
_LOCATIONS = "mammoth_weights.json"


@register_format
class Aoti(MultiEntryFormat):
    """Compiles `model.aoti-cpu.pt2`, or `model.aoti-cuda-smNN.pt2` for a GPU."""

    name = "aoti"
    description = "AOTInductor package, compiled for one kind of machine"

    def write(self, source: Source, directory: Path) -> list[File]:
        """Compiles all entries for `source.device`.

        Raises:
            ExportError: If the device is missing, there is no compiler, or compilation fails.
        """
        from torch._inductor.package import package_aoti
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        requires = _requirements(source.device)
        file_name = f"model.aoti-{source.device.type}.pt2"
        if source.device.type == "cuda":
            capability = requires["compute_capability"].replace(".", "")
            file_name = f"model.aoti-cuda-sm{capability}.pt2"
        path, graph = directory / file_name, source.graph
        placeholders = _placeholders(graph.state_dict())
        try:
            # A folder of its own: another export of this network writes files of the same names.
            with (
                quiet(),
                torch.no_grad(),
                tempfile.TemporaryDirectory(dir=cache_dir()) as folder,
            ):
                files = {
                    str(returnt): _compile(source, outputs, placeholders, requires, folder)
                    for returnt, outputs in graph.interface.entries.items()
                }
                package_aoti(str(path), files)
        except Exception as error:
            raise ExportError(explain(error, graph.net, "AOTInductor")) from None
        _record_locations(path, placeholders)
        self.replace_weights(path, graph.state_dict(), source.properties)
        return [File(file_name, self.name, "fp32", graph.selected, requires)]

    def open_model(
        self, path: Path, file: File, outputs: Sequence[str], device: torch.device
    ) -> Run:
        """Loads an entry of the package; see `RunnableFormat`."""
        check_hardware(file, device)
        names, entry = tuple(outputs), self.entry_of(file, outputs)
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
            except Exception as error:  # operators may raise anything
                raise ExportError(f"AOTInductor fails: {first_line(error)}", "backend") from error
            return dict(zip(names, values, strict=True))

        return run

    def replace_weights(
        self, path: Path, weights: Mapping[str, torch.Tensor], properties: Mapping[str, str]
    ) -> None:
        """Overwrites the weights at their recorded locations; see `Format`."""
        replace_in_archive(path, _weight_locations(path), weights)

    def stored_weights(self, path: Path) -> Mapping[str, torch.Tensor]:
        """Returns the weights at their recorded locations; see `Format`."""
        return read_from_archive(path, _weight_locations(path))

    def check_installed(self) -> None:
        """Checks for a C++ compiler, which Inductor needs."""
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise ExportError(
                f"AOTInductor needs a C++ compiler, and there is none ({first_line(error)}). "
                "Install g++ or set CXX, or choose other formats",
                "backend",
            ) from error


def check_hardware(file: File, device: torch.device) -> None:
    """Refuses a package that this machine cannot run, before it is loaded.

    Raises:
        ExportError: Code `hardware`; says what the package needs and what the machine has.
    """
    needs = dict(file.requires)
    if needs.get("device") != device.type:
        raise ExportError(
            f"{file.path} is compiled for device {needs.get('device')!r}, not {device.type!r}. "
            f"Load it with device={needs.get('device')!r}, or use another runtime",
            "hardware",
        )
    has = _requirements(device)
    if needs.get("machine") == has.get("machine") and _runs_code_for(has, needs.get("isa")):
        has["isa"] = needs["isa"]
    for key, needed in needs.items():
        if has.get(key) != needed:
            raise ExportError(
                f"{file.path} needs {key.replace('_', ' ')} {needed}, and this machine has "
                f"{has.get(key, 'none')}. Export on a machine of this kind, or use another runtime",
                "hardware",
            )


def _runs_code_for(has: Mapping[str, str], capability: str | None) -> bool:
    """Returns whether a machine's CPU runs code that was compiled for a lesser capability."""
    if has.get("isa") not in _CAPABILITIES or capability not in _CAPABILITIES:
        return False
    return _CAPABILITIES.index(capability) <= _CAPABILITIES.index(has["isa"])


def _requirements(device: torch.device) -> dict[str, str]:
    """Returns what a machine must have to run a package compiled here for a device."""
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
    placeholders: Mapping[str, torch.Tensor],
    requires: Mapping[str, str],
    folder: str,
) -> Any:
    """Compiles one entry into a folder and returns the paths of its files."""
    from torch._inductor import config

    options: dict[str, Any] = {
        "aot_inductor.package": True,
        "aot_inductor.output_path": folder,
        # Otherwise small weights become literals in the code, which cannot be replaced.
        "always_keep_tensor_constants": True,
    }
    architecture = _ARCHITECTURES.get(requires.get("isa", ""))
    if architecture and hasattr(config.cpp, "march"):  # since torch 2.14
        options["cpp.march"] = architecture
    module = _module_to_compile(source, outputs, placeholders)
    example = source.graph.interface.example(2).to(source.device)
    return torch._inductor.aot_compile(module, (example,), options=options)


def _module_to_compile(
    source: Source, outputs: tuple[str, ...], placeholders: Mapping[str, torch.Tensor]
) -> GraphModule:
    """Returns the module of an entry, on its device and with placeholders as weights."""
    program = source.program(outputs)
    if source.device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        # Captured again, because the pass changes the program, which other formats share.
        program = capture(source.graph.select(outputs))
        program = move_to_device_pass(program, str(source.device))
    module = program.module()
    assert isinstance(module, GraphModule)
    weights = {
        name: placeholders.get(name, value).to(source.device)
        for name, value in module.state_dict().items()
    }
    # assign=True: copying would overwrite the backbone's own weights, which the program shares.
    module.load_state_dict(weights, assign=True)
    if source.device.type == "cuda":
        # The CPU patterns only help training. Imported here, as it imports Inductor: seconds.
        from mammoth_compiled.compiler.patterns import apply_patterns

        apply_patterns(module.graph)
        module.recompile()
    return module


def _placeholders(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns a random tensor of the same form for every weight; tied weights share one."""
    generator = torch.Generator().manual_seed(0)
    by_storage: dict[tuple[int, torch.Size], torch.Tensor] = {}
    placeholders = {}
    for name, value in weights.items():
        if value.dtype == torch.bool:
            continue  # cannot hold random bits, so it cannot be located
        key = (value.data_ptr(), value.shape)
        if key not in by_storage:
            # Any bits would do except NaNs; integers converted to float32 never are.
            numbers = torch.randint(1, 2**24, (-(-value.nbytes // 4),), generator=generator)
            content = numbers.to(torch.float32).view(torch.uint8)[: value.nbytes]
            by_storage[key] = content.clone().view(value.dtype).view(value.shape)
        placeholders[name] = by_storage[key]
    return placeholders


def _weight_locations(path: Path) -> WeightLocations:
    """Returns where a package stores each weight, as `_record_locations` recorded it."""
    with ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(_LOCATIONS))
        locations: WeightLocations = json.loads(archive.read(name))
    return locations


def _record_locations(path: Path, placeholders: Mapping[str, torch.Tensor]) -> None:
    """Records where a package stores each placeholder, and removes local paths from it.

    Raises:
        ExportError: If a placeholder occurs twice in a member.
    """
    members = {name: scrub(data) for name, data in read_members(path).items()}
    locations: dict[str, dict[str, tuple[int, int]]] = {}
    for member, data in members.items():
        for weight, placeholder in placeholders.items():
            content = tensor_bytes(placeholder).tobytes()
            # Constants are padded to 64 bytes, which makes the pattern of a tiny one unique.
            pattern = content if len(content) >= 16 else content.ljust(64, b"\0")
            offset = data.find(pattern)
            if offset >= 0:
                if data.find(pattern, offset + 1) >= 0:
                    raise ExportError(f"weight {weight!r} cannot be told from others in {member}")
                locations.setdefault(member, {})[weight] = (offset, len(content))
    root = next(iter(members)).split("/")[0]
    record = json.dumps(locations).encode()
    write_members(path, members | {f"{root}/extra/{_LOCATIONS}": record})
