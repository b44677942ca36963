"""The content of manifest.json, the one file of a bundle that every reader must understand.

`export/manifest.schema.json` is its published JSON Schema (2020-12). A reader of schema N reads
every schema up to N, refuses later ones, and ignores unknown keys.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mammoth_compiled.export.capture.interface import BATCH, INPUT, Interface, dtype_name
from mammoth_compiled.export.capture.options import SCALE, Options
from mammoth_compiled.export.parity.compare import Difference
from mammoth_compiled.types import DatasetInfo

SCHEMA = 1
FILE_NAME = "manifest.json"
# Values of `format` for files that are not written by an export format.
GOLDEN, TEXT = "golden", "text"


@dataclass(frozen=True)
class File:
    """One file of a bundle.

    Attributes:
        path: Path relative to the bundle, with `/`.
        format: Name of the export format that wrote it, or `golden` or `text`.
        precision: `fp32`, `fp16` or `int8`; empty if the file is not a model.
        outputs: The outputs that a model computes, in order; empty if the file is not a model.
        requires: What the machine must have to run the file; empty if any machine can.
        parity: Output name to the largest measured difference from eager mode.
        accuracy: Results on test images, for example `class_il` in [0, 1] and `images`.
        latency: Time of a call with one image at export: `median_ms`, `calls` and `machine`.
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
    latency: Mapping[str, float | str] = field(default_factory=dict, hash=False)
    sha256: str = ""
    bytes: int = 0

    @property
    def is_model(self) -> bool:
        """Whether the file can be run."""
        return bool(self.outputs)

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
        if self.latency:
            entry["latency"] = dict(self.latency)
        return entry | {"requires": dict(self.requires)}


@dataclass(frozen=True)
class Manifest:
    """The description of a bundle.

    Attributes:
        name: Name of the backbone.
        interface: The contract of its model files.
        info: The data the backbone was trained on; `name` is empty if the data is unknown.
        class_ids: The class id of each column of `out`.
        options: What the graph computes besides the backbone.
        scale: Factor that turns stored pixels into [0, 1].
        files: All files except the manifest itself.
        golden_input: Path of the golden input.
        golden_outputs: Output name to the path of its values in eager mode.
        versions: Package to version, for the packages that wrote the bundle.
        created: Time of creation, UTC, ISO 8601.
    """

    name: str
    interface: Interface
    info: DatasetInfo
    class_ids: tuple[int, ...]
    options: Options
    scale: float = SCALE
    files: tuple[File, ...] = ()
    golden_input: str = ""
    golden_outputs: Mapping[str, str] = field(default_factory=dict, hash=False)
    versions: Mapping[str, str] = field(default_factory=dict, hash=False)
    created: str = ""

    @property
    def models(self) -> tuple[File, ...]:
        """The files that can be run."""
        return tuple(file for file in self.files if file.is_model)

    def file(self, path: str) -> File:
        """Returns the entry of a file."""
        return next(file for file in self.files if file.path == path)

    def to_json(self) -> str:
        """Returns the text of manifest.json."""
        info = self.info
        preprocessing = {
            "folded": self.interface.pixels,
            "scale": self.scale,
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
        """Returns the contract of the model files, for JSON."""
        interface = self.interface
        outputs = [
            {"name": name, "dtype": "float32", "shape": [BATCH, *shape]}
            for name, shape in interface.outputs.items()
        ]
        return {
            "input": {
                "name": INPUT,
                "dtype": dtype_name(interface.dtype),
                "shape": [BATCH, *interface.item_shape],
                "layout": interface.layout,
            },
            "outputs": outputs,
            "returnt": [str(returnt) for returnt in interface.supports],
        }
