"""manifest.json, the one file of a bundle that a reader must understand.

`manifest.schema.json` beside this module is its published JSON Schema (2020-12). A reader of schema
N reads every schema up to N and refuses later ones; keys that it does not know it leaves alone.
"""

import datetime
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.json_fields import Fields
from mammoth_compiled.export.capture.interface import BATCH, INPUT, Interface
from mammoth_compiled.export.capture.options import SCALE, Head, Options
from mammoth_compiled.export.parity.compare import Difference
from mammoth_compiled.types import DatasetInfo, ReturnTypes

SCHEMA = 1
FILE_NAME = "manifest.json"
MAX_BYTES = 2**20
MODEL_FORMATS = ("onnx", "pt2", "aoti", "torchscript")
FORMATS = (*MODEL_FORMATS, "safetensors", "golden", "text")


@dataclass(frozen=True)
class File:
    """One file of a bundle.

    Attributes:
        path: Where it is, relative to the bundle, with `/`.
        format: One of `FORMATS`.
        precision: `fp32`, `fp16` or `int8`; empty for what is no model.
        outputs: What a model computes, in order.
        requires: What the machine must have; empty where any will do.
        parity: Output name to the largest difference from eager that was measured.
        accuracy: What was measured on test images, `class_il` in [0, 1] and `images` for example.
        sha256: 64 hexadecimal digits.
        bytes: Size.
    """

    path: str
    format: str
    precision: str = ""
    outputs: tuple[str, ...] = ()
    requires: Mapping[str, str] = field(default_factory=dict, hash=False)
    parity: Mapping[str, Difference] = field(default_factory=dict, hash=False)
    accuracy: Mapping[str, float] = field(default_factory=dict, hash=False)
    sha256: str = ""
    bytes: int = 0

    @property
    def is_model(self) -> bool:
        """Whether it can be run."""
        return self.format in MODEL_FORMATS

    def to_dict(self) -> dict[str, Any]:
        """Returns the file's entry in the manifest."""
        entry: dict[str, Any] = {"path": self.path, "format": self.format}
        if self.is_model:
            entry |= {"precision": self.precision, "outputs": list(self.outputs)}
        entry |= {"sha256": self.sha256, "bytes": self.bytes}
        if self.parity:
            entry["parity"] = {name: d.to_dict() for name, d in self.parity.items()}
        if self.accuracy:
            entry["accuracy"] = dict(self.accuracy)
        return entry | {"requires": dict(self.requires)}


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        name: Name of the backbone.
        interface: The contract of its model files.
        info: The data the backbone was trained on; `name` is empty where nothing is known of it.
        class_ids: The class that each column of `out` stands for.
        options: What was added to the graph.
        files: All files but the manifest itself.
        golden_input: Path of the golden input.
        golden_outputs: Output name to the path of what eager gave for it.
        versions: What wrote the bundle: package to version.
        created: When, UTC, as in ISO 8601.
    """

    name: str
    interface: Interface
    info: DatasetInfo
    class_ids: tuple[int, ...]
    options: Options
    files: tuple[File, ...] = ()
    golden_input: str = ""
    golden_outputs: Mapping[str, str] = field(default_factory=dict, hash=False)
    versions: Mapping[str, str] = field(default_factory=dict, hash=False)
    created: str = ""

    def to_json(self) -> str:
        """Returns the text of manifest.json."""
        info = self.info
        preprocessing = {
            "folded": self.interface.pixels,
            "scale": SCALE,
            "mean": list(info.mean),
            "std": list(info.std),
        }
        classes = {
            "ids": list(self.class_ids),
            "names": list(info.class_names),
            "seen": list(info.classes_seen),
            "tasks": [list(task) for task in info.tasks],
            "tasks_seen": info.tasks_seen,
            "head": str(self.options.classes),
            "softmax": self.options.softmax,
        }
        content = {
            "schema": SCHEMA,
            "name": self.name,
            "created": self.created,
            "versions": dict(self.versions),
            "contract": self.contract(),
            "preprocessing": preprocessing if info.mean else None,
            "classes": classes,
            "dataset": info.name,
            "files": [file.to_dict() for file in self.files],
            "golden": {"input": self.golden_input, "outputs": dict(self.golden_outputs)},
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def contract(self) -> dict[str, Any]:
        """Returns what goes in and comes out, for JSON."""
        interface = self.interface
        outputs = [
            {"name": name, "dtype": "float32", "shape": [BATCH, *shape]}
            for name, shape in interface.outputs.items()
        ]
        return {
            "input": {
                "name": INPUT,
                "dtype": str(interface.dtype).removeprefix("torch."),
                "shape": [BATCH, *interface.item_shape],
                "layout": interface.layout,
            },
            "outputs": outputs,
            "returnt": [str(returnt) for returnt in interface.supports],
        }

    def file(self, path: str) -> File:
        """Returns the entry of a file."""
        return next(file for file in self.files if file.path == path)


def now() -> str:
    """Returns the time in the manifest's form."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> dict[str, str]:
    """Returns the versions of what writes bundles."""
    found = {"torch": torch_release()}
    for package in ("mammoth-compiled", "onnx"):
        try:
            found[package.replace("-", "_")] = version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            found[package.replace("-", "_")] = "unknown"
    return found


def torch_release() -> str:
    """Returns torch's version without the mark of its build, as in 2.15.0."""
    return str(torch.__version__).split("+")[0]


def describe(folder: Path, file: File) -> File:
    """Returns a file's entry with the size and hash of what is on the disk."""
    path = folder / file.path
    return replace(file, sha256=sha256(path), bytes=path.stat().st_size)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_file(folder: Path, file: File) -> Path:
    """Returns where a file of a bundle is, after comparing it with the manifest.

    Raises:
        ExportError: If it is not there, or has another size or hash.
    """
    path = folder / file.path
    try:
        if not path.is_file():
            raise ExportError(f"the bundle {folder} lacks its file {file.path}", "missing")
        if path.stat().st_size != file.bytes or sha256(path) != file.sha256:
            raise ExportError(
                f"{path} is not what the manifest says: its size or SHA-256 differs. It is "
                "damaged or was changed; copy the bundle again, or export again",
                "damaged",
            )
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error}", "missing") from error
    return path


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a bundle and checks its form; files are checked when they are used.

    Raises:
        ExportError: If it is not there, truncated, of a later schema or not what the schema says,
            or a path leaves the bundle; the code says which.
    """
    path = folder / FILE_NAME
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ExportError(f"{path} has more than 1 MiB, too much for a manifest", "damaged")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ExportError(
            f"no bundle at {folder}: there is no file {path}. Write bundles with export_bundle",
            "missing",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} cannot be read: {error}", "damaged") from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is no JSON, or truncated: {error}", "damaged") from error
    root = Fields(content, str(path))
    schema = root.number("schema")
    if schema > SCHEMA:
        raise ExportError(
            f"{path} has schema {schema}, and this version of mammoth_compiled reads schemas up to "
            f"{SCHEMA}. Upgrade mammoth_compiled, or export again",
            "schema",
        )
    return _read(root, folder)


def _read(root: Fields, folder: Path) -> Manifest:
    interface = _interface(root.object("contract"))
    classes = root.object("classes")
    preprocessing = root.object("preprocessing") if root.content.get("preprocessing") else None
    ids, names = classes.numbers("ids"), classes.texts("names")
    width = interface.outputs["out"][0]
    tasks = tuple((task[0], task[1]) for task in classes.rows("tasks", 2))
    tasks_seen = classes.number("tasks_seen")
    channels = interface.input_shape[0]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    if preprocessing is not None:
        mean, std = preprocessing.reals("mean"), preprocessing.reals("std")
    for name, values, length in (
        ("classes.ids", ids, width),
        ("classes.names", names, width),
        ("preprocessing.mean", mean, channels),
        ("preprocessing.std", std, channels),
    ):
        if values and len(values) != length:
            raise root.error(f"{name} has {len(values)} entries instead of {length}")
    info = DatasetInfo(
        name=root.text("dataset"),
        input_shape=interface.input_shape,
        mean=mean,
        std=std,
        num_classes=width,
        class_names=names,
        tasks=tasks,
        tasks_seen=tasks_seen,
    )
    if classes.numbers("seen") != info.classes_seen:
        raise root.error("classes.seen are not the classes of the tasks seen")
    options = Options(
        fold_preprocessing=interface.pixels,
        classes=Head(classes.choice("head", tuple(Head))),
        softmax=classes.boolean("softmax"),
        full=ReturnTypes.FULL in interface.supports,
    )
    golden = root.object("golden")
    outputs = golden.object("outputs")
    manifest = Manifest(
        name=root.text("name"),
        interface=interface,
        info=info,
        class_ids=ids,
        options=options,
        files=tuple(_file(entry) for entry in root.objects("files")),
        golden_input=golden.text("input"),
        golden_outputs={name: outputs.text(name) for name in interface.outputs},
        versions={key: str(value) for key, value in root.object("versions").content.items()},
        created=root.text("created"),
    )
    paths = [file.path for file in manifest.files]
    for path in (*paths, manifest.golden_input, *manifest.golden_outputs.values()):
        _check_path(path, folder)
    missing = {manifest.golden_input, *manifest.golden_outputs.values()} - set(paths)
    if missing:
        raise root.error(f"files does not list {', '.join(sorted(missing))}")
    if len(set(paths)) != len(paths):
        raise root.error("files lists a path twice")
    return manifest


def _interface(contract: Fields) -> Interface:
    input_ = contract.object("input")
    dtype = input_.choice("dtype", ("float32", "uint8"))
    pixels = dtype == "uint8"
    input_.choice("layout", ("NHWC",) if pixels else ("NCHW",))
    input_.choice("name", (INPUT,))
    shape = input_.shape("shape")
    if len(shape) != 3:
        raise contract.error('input.shape must be ["batch", and three sizes]')
    channels_first = (shape[2], shape[0], shape[1]) if pixels else (shape[0], shape[1], shape[2])
    outputs = {}
    for output in contract.objects("outputs"):
        output.choice("dtype", ("float32",))
        outputs[output.text("name")] = output.shape("shape")
    if len(outputs.get("out", ())) != 1 or len(outputs.get("features", (0,))) != 1:
        raise contract.error('outputs must have "out" of shape ["batch", K]; features likewise')
    interface = Interface(channels_first, outputs, pixels)
    if contract.texts("returnt") != tuple(map(str, interface.supports)):
        raise contract.error(
            f"returnt must be what the outputs answer: {', '.join(interface.supports)}"
        )
    return interface


def _file(entry: Fields) -> File:
    format_ = entry.choice("format", FORMATS)
    file = File(
        path=entry.text("path"),
        format=format_,
        sha256=entry.text("sha256"),
        bytes=entry.number("bytes"),
        requires=entry.object("requires").all_texts() if "requires" in entry.content else {},
    )
    if len(file.sha256) != 64 or set(file.sha256) - set("0123456789abcdef"):
        raise entry.error("sha256 must be 64 hexadecimal digits")
    if not file.is_model:
        return file
    parity = {
        name: Difference(
            size=value.real("size"),
            bound=value.real("bound"),
            batch_size=value.number("batch_size"),
            inputs=value.text("inputs"),
        )
        for name, value in entry.optional_objects("parity").items()
    }
    accuracy = entry.object("accuracy").content if "accuracy" in entry.content else {}
    return replace(
        file,
        precision=entry.choice("precision", ("fp32", "fp16", "int8")),
        outputs=entry.texts("outputs"),
        parity=parity,
        accuracy=accuracy,
    )


def _check_path(path: str, folder: Path) -> None:
    """Refuses a path that leaves the bundle, by its words or by a link."""
    pure = PurePosixPath(path)
    outside = not path or pure.is_absolute() or ".." in pure.parts or "\\" in path or ":" in path
    if outside or "\0" in path or not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise ExportError(
            f"the manifest in {folder} names {path!r}, which leaves the bundle. Do not use a "
            "bundle from this source",
            "path",
        )
