"""Reads manifest.json and checks that it is complete and consistent."""

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.json_fields import JsonFields
from mammoth_compiled.export.bundle.manifest import (
    FILE_NAME,
    GOLDEN,
    SCHEMA,
    TEXT,
    File,
    Manifest,
)
from mammoth_compiled.export.capture.interface import INPUT, Interface
from mammoth_compiled.export.capture.options import Head, Options
from mammoth_compiled.export.formats import FORMATS, RunnableFormat
from mammoth_compiled.export.parity.compare import Difference
from mammoth_compiled.types import DatasetInfo, ReturnTypes

MAX_BYTES = 2**20


def read_manifest(directory: Path) -> Manifest:
    """Reads the manifest of a bundle and validates it; the files are checked when they are used.

    Raises:
        ExportError: If the manifest is missing, truncated, of a later schema or not valid, or
            names a path outside the bundle; `code` says which.
    """
    path = directory / FILE_NAME
    root = JsonFields(_read_json(path, directory), str(path))
    schema = root.integer("schema")
    if schema > SCHEMA:
        raise ExportError(
            f"{path} has schema {schema}, and this version of mammoth_compiled reads schemas up to "
            f"{SCHEMA}. Upgrade mammoth_compiled, or export again",
            "schema",
        )
    return _parse(root, directory)


def _read_json(path: Path, directory: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ExportError(f"{path} has more than 1 MiB, too much for a manifest", "damaged")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ExportError(
            f"no bundle at {directory}: there is no file {path}. Write bundles with export_bundle",
            "missing",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} cannot be read: {error}", "damaged") from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is no JSON, or truncated: {error}", "damaged") from error


def _parse(root: JsonFields, directory: Path) -> Manifest:
    interface = _parse_interface(root.object("contract"))
    classes, golden = root.object("classes"), root.object("golden")
    info = _parse_info(root, interface)
    options = Options(
        fold_preprocessing=interface.pixels,
        classes=Head(classes.choice("head", tuple(Head))),
        softmax=classes.boolean("softmax"),
        full=ReturnTypes.FULL in interface.supports,
    )
    outputs = golden.object("outputs")
    manifest = Manifest(
        name=root.string("name"),
        interface=interface,
        info=info,
        class_ids=classes.integers("ids"),
        options=options,
        files=tuple(_parse_file(entry) for entry in root.objects("files")),
        golden_input=golden.string("input"),
        golden_outputs={name: outputs.string(name) for name in interface.outputs},
        versions={key: str(value) for key, value in root.object("versions").content.items()},
        created=root.string("created"),
    )
    _check_paths(manifest, root, directory)
    return manifest


def _parse_interface(contract: JsonFields) -> Interface:
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
        outputs[output.string("name")] = output.shape("shape")
    if len(outputs.get("out", ())) != 1 or len(outputs.get("features", (0,))) != 1:
        raise contract.error('outputs must have "out" of shape ["batch", K]; features likewise')
    interface = Interface(channels_first, outputs, pixels)
    if contract.strings("returnt") != tuple(map(str, interface.supports)):
        raise contract.error(
            f"returnt must be what the outputs answer: {', '.join(interface.supports)}"
        )
    return interface


def _parse_info(root: JsonFields, interface: Interface) -> DatasetInfo:
    classes = root.object("classes")
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    if root.content.get("preprocessing"):
        preprocessing = root.object("preprocessing")
        mean, std = preprocessing.numbers("mean"), preprocessing.numbers("std")
    width, channels = interface.outputs["out"][0], interface.input_shape[0]
    names = classes.strings("names")
    for name, values, length in (
        ("classes.ids", classes.integers("ids"), width),
        ("classes.names", names, width),
        ("preprocessing.mean", mean, channels),
        ("preprocessing.std", std, channels),
    ):
        if values and len(values) != length:
            raise root.error(f"{name} has {len(values)} entries instead of {length}")
    info = DatasetInfo(
        name=root.string("dataset"),
        input_shape=interface.input_shape,
        mean=mean,
        std=std,
        num_classes=width,
        class_names=names,
        tasks=tuple((first, end) for first, end in classes.rows("tasks", 2)),
        tasks_seen=classes.integer("tasks_seen"),
    )
    if classes.integers("seen") != info.classes_seen:
        raise root.error("classes.seen are not the classes of the tasks seen")
    return info


def _parse_file(entry: JsonFields) -> File:
    format_ = entry.choice("format", (*FORMATS, GOLDEN, TEXT))
    file = File(
        path=entry.string("path"),
        format=format_,
        sha256=entry.string("sha256"),
        bytes=entry.integer("bytes"),
        requires=entry.object("requires").all_strings() if "requires" in entry.content else {},
    )
    if len(file.sha256) != 64 or set(file.sha256) - set("0123456789abcdef"):
        raise entry.error("sha256 must be 64 hexadecimal digits")
    if not isinstance(FORMATS.get(format_), RunnableFormat):
        return file
    parity = {
        name: Difference(
            size=value.number("size"),
            bound=value.number("bound"),
            batch_size=value.integer("batch_size"),
            inputs=value.string("inputs"),
        )
        for name, value in entry.optional_objects("parity").items()
    }
    outputs = entry.strings("outputs")
    if not outputs:
        raise entry.error("outputs must name one output or more")
    return replace(
        file,
        precision=entry.choice("precision", ("fp32", "fp16", "int8")),
        outputs=outputs,
        parity=parity,
        accuracy=entry.object("accuracy").content if "accuracy" in entry.content else {},
        latency=_parse_latency(entry.object("latency")) if "latency" in entry.content else {},
    )


def _parse_latency(latency: JsonFields) -> dict[str, float | str]:
    return {
        "median_ms": latency.number("median_ms"),
        "calls": latency.integer("calls"),
        "machine": latency.string("machine"),
    }


def _check_paths(manifest: Manifest, root: JsonFields, directory: Path) -> None:
    paths = [file.path for file in manifest.files]
    golden = [manifest.golden_input, *manifest.golden_outputs.values()]
    for path in (*paths, *golden):
        _check_inside(path, directory)
    missing = set(golden) - set(paths)
    if missing:
        raise root.error(f"files does not list {', '.join(sorted(missing))}")
    if len(set(paths)) != len(paths):
        raise root.error("files lists a path twice")


def _check_inside(path: str, directory: Path) -> None:
    """Refuses a path that leaves the bundle, by its parts or through a symbolic link."""
    pure = PurePosixPath(path)
    outside = not path or pure.is_absolute() or ".." in pure.parts or "\\" in path or ":" in path
    inside = directory.resolve()
    if outside or "\0" in path or not (directory / path).resolve().is_relative_to(inside):
        raise ExportError(
            f"the manifest in {directory} names {path!r}, which leaves the bundle. Do not use a "
            "bundle from this source",
            "path",
        )
