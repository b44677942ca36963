"""Model repositories for serving systems, written from a bundle's manifest.

NVIDIA Triton Inference Server (`--serve-layout triton`) wants a folder per model with a
configuration and numbered versions, docs/user_guide/model_repository.md and model_configuration.md
of triton-inference-server/server; what its PyTorch backend makes of AOTInductor packages is in the
README of triton-inference-server/pytorch_backend (read at 266fd386, 2026-05-13).
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
from mammoth_compiled.export.storage import zip_archive as archive
from mammoth_compiled.export.capture.interface import INPUT
from mammoth_compiled.export.bundle.manifest import File, Manifest, check_file, read_manifest
from mammoth_compiled.types import ReturnTypes

LAYOUTS = ("triton",)

_MARK = "# Model configuration that mammoth_compiled wrote"
_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}
_KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "cuda": "KIND_GPU"}
_LABELS = "labels.txt"
# The folder of a package's entries, below the name of the archive.
_ENTRIES = ["data", "aotinductor"]
# The one entry that Triton's PyTorch backend loads.
_TRITON_ENTRY = "model"


@dataclass(frozen=True)
class _Tensor:
    """An input or output in a configuration: `dims` as the server counts them."""

    name: str
    dtype: str
    dims: Sequence[int]
    labels: bool = False


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

    `<repository>/<name>` holds the ONNX model with all outputs, batched by the server. If the
    bundle has an AOTInductor package, `<name>_aoti` holds it as well: only the entry that gives all
    outputs, under the name that Triton loads. Models of these names that were written before are
    replaced in the end; if anything fails, the repository stays as it was.

    Args:
        bundle: The directory of the bundle.
        repository: The model repository; made if it is not there.
        name: What clients call the model; None takes the bundle's name.
        precision: Which ONNX file: `fp32`, `fp16` or `int8`.
        device: Where the ONNX model runs: `auto` (a GPU if the server has one), `cpu` or `cuda`.
        max_batch_size: How many images the server may join; exports are compared up to 32.

    Returns:
        The folders of the models.

    Raises:
        ExportError: If the bundle is damaged or lacks an ONNX file of that precision, an argument
            is not valid, a model of that name is somebody else's, or a file cannot be written.

    Example:
        >>> from mammoth_compiled import export_bundle
        >>> from mammoth_compiled.backbones.cnn import CNN
        >>> path = export_bundle(CNN(10), "exported/cnn", input_shape=(3, 32, 32), name="cnn")
        >>> write_triton_layout(path, "models")
        [PosixPath('models/cnn')]
    """
    source, target = Path(bundle), Path(repository)
    manifest = read_manifest(source)
    name = manifest.name if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise ExportError(f"{name!r} cannot be a model's name: give letters, digits, '_', '-', '.'")
    if device not in _KINDS:
        raise ExportError(f"unknown device {device!r}; valid: {', '.join(map(repr, _KINDS))}")
    if max_batch_size < 1:
        raise ExportError(f"max_batch_size must be 1 or more, not {max_batch_size}")
    onnx = _find_onnx(manifest, precision)
    package = next((file for file in manifest.files if file.format == "aoti"), None)
    models = [name] + ([f"{name}_aoti"] if package else [])
    for model in models:
        _check_target(target / model)
    with _replacing(target, models) as folders:
        config = _onnx_config(manifest, onnx, name, _KINDS[device], max_batch_size)
        _write_model(source, manifest, folders[0], config)
        shutil.copyfile(check_file(source, onnx), folders[0] / "1" / "model.onnx")
        if package:
            entry = _largest_entry(manifest)
            config = _package_config(manifest, package, entry, models[1])
            _write_model(source, manifest, folders[1], config)
            _keep_entry(check_file(source, package), entry, folders[1] / "1" / "model.pt2")
    return [target / model for model in models]


def _find_onnx(manifest: Manifest, precision: str) -> File:
    models = [file for file in manifest.files if file.format == "onnx"]
    fitting = [file for file in models if file.precision == precision]
    if not fitting:
        there = ", ".join(sorted({repr(file.precision) for file in models})) or "none"
        raise ExportError(
            f"the bundle has no ONNX file of precision {precision!r}; it has: {there}", "missing"
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
            f"ONNX opset {opset}: a server whose ONNX Runtime reads it (opset 20: 1.17 or later)",
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
            "Its support is beta and does not join requests: one may hold any number of images",
        ],
        backend="pytorch",
        platform="torch_aoti",
        max_batch_size=0,
        input_=_input(manifest, "ARGS[0]", batch=[-1]),
        outputs=[_output(manifest, f"RESULT[{name}]", name, batch=[-1]) for name in outputs],
        kind=_KINDS[file.requires["device"]],
    )


def _input(manifest: Manifest, name: str, batch: Sequence[int] = ()) -> _Tensor:
    interface = manifest.interface
    dtype = str(interface.dtype).removeprefix("torch.")
    return _Tensor(name, dtype, [*batch, *interface.item_shape])


def _output(manifest: Manifest, name: str, output: str, batch: Sequence[int] = ()) -> _Tensor:
    labels = output == "out" and bool(manifest.info.class_names)
    return _Tensor(name, "float32", [*batch, *manifest.interface.outputs[output]], labels)


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
    """Returns a model configuration, protobuf text of `inference.ModelConfig`."""
    lines = [
        _MARK,
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
                f"  data_type: {_TYPES[tensor.dtype]}",
                f"  dims: [ {', '.join(map(str, tensor.dims))} ]",
                *([f"  label_filename: {_quote(_LABELS)}"] if tensor.labels else []),
                "}",
            ]
    lines.append(f"instance_group {{ kind: {kind} }}")
    if max_batch_size > 0:
        # Joins the requests that wait already and delays none.
        lines.append("dynamic_batching { }")
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _write_model(source: Path, manifest: Manifest, folder: Path, config: str) -> None:
    """Writes what both kinds of model have: configuration, labels and a version's folder."""
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    if manifest.info.class_names:
        shutil.copyfile(check_file(source, manifest.file(_LABELS)), folder / _LABELS)


def _keep_entry(package: Path, entry: str, target: Path) -> None:
    """Writes a package with one of its entries, which becomes the entry that Triton loads."""
    members, found = {}, False
    for name, data in archive.read(package).items():
        root, *parts = name.split("/")
        if parts[:2] == _ENTRIES:
            if parts[2] != entry:
                continue
            found, parts[2] = True, _TRITON_ENTRY
        members["/".join([root, *parts])] = data
    if not found:
        raise ExportError(f"{package} has no entry {entry!r}. Export again", "damaged")
    archive.rewrite(target, members)


def _check_target(folder: Path) -> None:
    """Refuses a folder that is there and was not written by `write_triton_layout`."""
    if not os.path.lexists(folder):
        return
    try:
        with (folder / "config.pbtxt").open(encoding="utf-8") as file:
            ours = file.readline().rstrip("\n") == _MARK
    except (OSError, UnicodeDecodeError):
        ours = False
    if not ours:
        raise ExportError(
            f"{folder} is there and was not written from a bundle: it stays as it is. Give "
            "another name or another repository"
        )


@contextlib.contextmanager
def _replacing(repository: Path, models: Sequence[str]) -> Iterator[list[Path]]:
    """Gives new folders to write into, which become the models if the body succeeds."""
    is_new = not repository.exists()
    # Beside the models, so that a rename is enough.
    token = uuid.uuid4().hex[:8]
    staging = repository / f".{token}.new"
    replaced = repository / f".{token}.old"
    moved = []
    try:
        for folder in (staging, replaced):
            folder.mkdir(parents=True)
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
        for model in moved:  # of a replacement that failed half-way
            shutil.rmtree(repository / model, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                (replaced / model).rename(repository / model)
        for leftover in (staging, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # it holds models
                repository.rmdir()
