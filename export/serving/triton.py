"""Writes a bundle into a model repository of NVIDIA Triton Inference Server.

The server wants a directory per model with a configuration and numbered versions.

Source: docs/user_guide/model_repository.md and model_configuration.md of
triton-inference-server/server; for AOTInductor packages the README of
triton-inference-server/pytorch_backend (266fd386, 2026-05-13).
"""

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.finalize import LABELS
from mammoth_compiled.export.bundle.hashes import check_file
from mammoth_compiled.export.bundle.manifest import File, Manifest
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.capture.interface import INPUT, dtype_name
from mammoth_compiled.export.storage.zip_archive import read_members, write_members
from mammoth_compiled.files import portable_name
from mammoth_compiled.types import ReturnTypes

# First line of a configuration, by which models that may be replaced are recognized.
_HEADER = "# Model configuration that mammoth_compiled wrote"
_DATA_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}
_INSTANCE_KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "cuda": "KIND_GPU"}
# Directory of a package's entries, below the name of the archive.
_ENTRIES = ["data", "aotinductor"]
# The one entry that Triton's PyTorch backend loads.
_TRITON_ENTRY = "model"


@dataclass(frozen=True)
class _Tensor:
    """An input or output in a configuration; `dims` excludes the batch if the server batches."""

    name: str
    dtype: str
    dims: Sequence[int]
    has_labels: bool = False


def write_triton_layout(
    bundle: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    name: str | None = None,
    *,
    precision: str = "fp32",
    device: str = "auto",
    max_batch_size: int = 32,
) -> list[Path]:
    """Writes a bundle into a model repository of NVIDIA Triton Inference Server.

    `<repository>/<name>` holds the ONNX model with all outputs, with dynamic batching. If the
    bundle has an AOTInductor package, `<name>_aoti` holds it too, reduced to the entry with most
    outputs, under the entry name that Triton loads. Models of these names from an earlier call are
    replaced last; if anything fails, the repository stays unchanged.

    Args:
        bundle: The directory of the bundle.
        repository: The model repository; created if missing.
        name: Name of the model for clients; None takes the bundle's name, with `_` for characters
            such as the colon of `timm:NAME`.
        precision: Which ONNX file: `fp32`, `fp16` or `int8`.
        device: Where the ONNX model runs: `auto` (a GPU if the server has one), `cpu` or `cuda`.
        max_batch_size: Largest batch the server may form; exports are verified up to 32.

    Returns:
        The directories of the models.

    Raises:
        ExportError: If the bundle is damaged or has no ONNX file of that precision, an argument is
            invalid, a model of that name was not written from a bundle, or a file cannot be
            written.

    Example:
        >>> from mammoth_compiled import export_bundle
        >>> from mammoth_compiled.backbones.cnn import CNN
        >>> path = export_bundle(CNN(10), "exported/cnn", input_shape=(3, 32, 32), name="cnn")
        >>> write_triton_layout(path, "models")
        [PosixPath('models/cnn')]
    """
    source, target = Path(bundle), Path(repository)
    manifest = read_manifest(source)
    name = portable_name(manifest.name) if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise ExportError(f"{name!r} cannot be a model's name: use letters, digits, '_', '-', '.'")
    if device not in _INSTANCE_KINDS:
        valid = ", ".join(map(repr, _INSTANCE_KINDS))
        raise ExportError(f"unknown device {device!r}; valid: {valid}")
    if max_batch_size < 1:
        raise ExportError(f"max_batch_size must be 1 or more, not {max_batch_size}")
    onnx = _find_onnx(manifest, precision)
    package = next((file for file in manifest.files if file.format == "aoti"), None)
    models = [name] + ([f"{name}_aoti"] if package else [])
    for model in models:
        _check_replaceable(target / model)
    with _replace_atomically(target, models) as directories:
        config = _onnx_config(manifest, onnx, name, _INSTANCE_KINDS[device], max_batch_size)
        _write_common(source, manifest, directories[0], config)
        shutil.copyfile(check_file(source, onnx), directories[0] / "1" / "model.onnx")
        if package:
            entry = _largest_entry(manifest)
            config = _package_config(manifest, package, entry, models[1])
            _write_common(source, manifest, directories[1], config)
            _extract_entry(check_file(source, package), entry, directories[1] / "1" / "model.pt2")
    return [target / model for model in models]


def _find_onnx(manifest: Manifest, precision: str) -> File:
    models = [file for file in manifest.files if file.format == "onnx"]
    fitting = [file for file in models if file.precision == precision]
    if not fitting:
        available = ", ".join(sorted({repr(file.precision) for file in models})) or "none"
        raise ExportError(
            f"the bundle has no ONNX file of precision {precision!r}; it has: {available}",
            "missing",
        )
    return max(fitting, key=lambda file: len(file.outputs))


def _largest_entry(manifest: Manifest) -> ReturnTypes:
    both = ReturnTypes.BOTH in manifest.interface.supports
    return ReturnTypes.BOTH if both else ReturnTypes.OUT


def _onnx_config(manifest: Manifest, file: File, name: str, kind: str, max_batch_size: int) -> str:
    opset = manifest.versions.get("opset", "20")
    return _config(
        name,
        comments=[
            f"{file.path}, sha256 {file.sha256}",
            f"ONNX opset {opset}: needs an ONNX Runtime that reads it (opset 20: 1.17 or later)",
        ],
        backend="onnxruntime",
        platform="onnxruntime_onnx",
        max_batch_size=max_batch_size,
        input_=_input(manifest, INPUT),
        outputs=[_output(manifest, output, output) for output in file.outputs],
        kind=kind,
    )


def _package_config(manifest: Manifest, file: File, entry: ReturnTypes, name: str) -> str:
    outputs = manifest.interface.entries[entry]
    return _config(
        name,
        comments=[
            f"{file.path}, sha256 {file.sha256}",
            "AOTInductor, compiled for "
            + ", ".join(f"{key} {value}" for key, value in file.requires.items()),
            "Triton 26.05 or later, built with that torch (26.03 loads packages, but does not know "
            "these names)",
            "Its support is beta and does not batch requests; a request may hold any number of "
            "images",
        ],
        backend="pytorch",
        platform="torch_aoti",
        max_batch_size=0,
        input_=_input(manifest, "ARGS[0]", batch=[-1]),
        outputs=[_output(manifest, f"RESULT[{name}]", name, batch=[-1]) for name in outputs],
        kind=_INSTANCE_KINDS[file.requires["device"]],
    )


def _input(manifest: Manifest, name: str, batch: Sequence[int] = ()) -> _Tensor:
    interface = manifest.interface
    return _Tensor(name, dtype_name(interface.dtype), [*batch, *interface.item_shape])


def _output(manifest: Manifest, name: str, output: str, batch: Sequence[int] = ()) -> _Tensor:
    has_labels = output == "out" and bool(manifest.info.class_names)
    return _Tensor(name, "float32", [*batch, *manifest.interface.outputs[output]], has_labels)


def _config(
    name: str,
    comments: Sequence[str],
    backend: str,
    platform: str,
    max_batch_size: int,
    input_: _Tensor,
    outputs: Sequence[_Tensor],
    kind: str,
) -> str:
    """Returns a model configuration: `inference.ModelConfig` in protobuf's text format."""
    lines = [
        _HEADER,
        *(f"# {comment}" for comment in comments),
        f"name: {_quote(name)}",
        f"backend: {_quote(backend)}",
        f"platform: {_quote(platform)}",
        f"max_batch_size: {max_batch_size}",
    ]
    for field, tensors in (("input", [input_]), ("output", outputs)):
        for tensor in tensors:
            lines += [
                f"{field} {{",
                f"  name: {_quote(tensor.name)}",
                f"  data_type: {_DATA_TYPES[tensor.dtype]}",
                f"  dims: [ {', '.join(map(str, tensor.dims))} ]",
                *([f"  label_filename: {_quote(LABELS)}"] if tensor.has_labels else []),
                "}",
            ]
    lines.append(f"instance_group {{ kind: {kind} }}")
    if max_batch_size > 0:
        # Without a delay: batches only requests that are already queued.
        lines.append("dynamic_batching { }")
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _write_common(source: Path, manifest: Manifest, directory: Path, config: str) -> None:
    """Writes what every model has: configuration, labels and the directory of a version."""
    (directory / "1").mkdir(parents=True)
    (directory / "config.pbtxt").write_text(config, encoding="utf-8")
    if manifest.info.class_names:
        shutil.copyfile(check_file(source, manifest.file(LABELS)), directory / LABELS)


def _extract_entry(package: Path, entry: str, target: Path) -> None:
    """Writes a package with a single entry, renamed to the one that Triton loads."""
    members, found = {}, False
    for name, data in read_members(package).items():
        root, *parts = name.split("/")
        if parts[:2] == _ENTRIES:
            if parts[2] != entry:
                continue
            found, parts[2] = True, _TRITON_ENTRY
        members["/".join([root, *parts])] = data
    if not found:
        raise ExportError(f"{package} has no entry {entry!r}. Export again", "damaged")
    write_members(target, members)


def _check_replaceable(directory: Path) -> None:
    """Refuses an existing directory that `write_triton_layout` did not write."""
    if not os.path.lexists(directory):
        return
    try:
        with (directory / "config.pbtxt").open(encoding="utf-8") as file:
            own = file.readline().rstrip("\n") == _HEADER
    except (OSError, UnicodeDecodeError):
        own = False
    if not own:
        raise ExportError(
            f"{directory} exists and was not written from a bundle; it is left unchanged. Give "
            "another name or another repository"
        )


@contextlib.contextmanager
def _replace_atomically(repository: Path, models: Sequence[str]) -> Iterator[list[Path]]:
    """Yields new directories that become the models when the body succeeds."""
    is_new = not repository.exists()
    # In the repository, so that a rename suffices to move them.
    token = uuid.uuid4().hex[:8]
    staging = repository / f".{token}.new"
    replaced = repository / f".{token}.old"
    moved = []
    try:
        for directory in (staging, replaced):
            directory.mkdir(parents=True)
        yield [staging / model for model in models]
        for model in models:
            if (repository / model).exists():
                (repository / model).rename(replaced / model)
            moved.append(model)
            (staging / model).rename(repository / model)
        moved.clear()
    except OSError as error:
        raise ExportError(f"{repository} cannot be written: {error}") from error
    finally:
        for model in moved:  # roll back a replacement that failed halfway
            shutil.rmtree(repository / model, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                (replaced / model).rename(repository / model)
        for leftover in (staging, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # not empty: it holds models
                repository.rmdir()
