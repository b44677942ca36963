"""Reads manifest.json and checks that it is complete and consistent."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mammoth_compiled.errors import ExportError, shorten
from mammoth_compiled.export.bundle.file_entry import parse_file
from mammoth_compiled.export.bundle.json_fields import JsonFields
from mammoth_compiled.export.bundle.json_text import parse_json
from mammoth_compiled.export.bundle.manifest import FILE_NAME, SCHEMA, Manifest
from mammoth_compiled.export.capture.interface import INPUT, Interface
from mammoth_compiled.export.capture.options import SCALE, Head, Options
from mammoth_compiled.types import DatasetInfo, ReturnTypes

MAX_BYTES = 2**20
# Of all tasks together, seen or not, because readers list them.
MAX_CLASSES = 2**20
_OUTPUT_NAME = re.compile(r"out|features|full_\d+", re.ASCII)


def read_manifest(directory: Path) -> Manifest:
    """Reads the manifest of a bundle and validates it; the files are checked when they are used.

    Raises:
        ExportError: If the manifest is missing, truncated, of a later schema or not valid, or
            names a path outside the bundle; `code` says which.
    """
    path = directory / FILE_NAME
    root = JsonFields(_read_json(path, directory), str(path))
    schema = root.positive_integer("schema")
    if schema > SCHEMA:
        raise ExportError(
            f"{path} has schema {schema}, and this version of mammoth_compiled reads schemas up to "
            f"{SCHEMA}. Upgrade mammoth_compiled, or export again",
            "schema",
        )
    return _parse(root, directory)


def _read_json(path: Path, directory: Path) -> Any:
    try:
        # Reading a FIFO would wait for a writer, and reading a device might never end.
        if os.path.lexists(path) and not path.is_file():
            raise ExportError(f"{path} is not a regular file", "damaged")
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ExportError(f"{path} has more than 1 MiB, too much for a manifest", "damaged")
        text = content.decode()
    except (FileNotFoundError, NotADirectoryError):
        raise ExportError(
            f"no bundle at {directory}: there is no file {path}. Write bundles with export_bundle",
            "missing",
        ) from None
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read: {error}", "damaged") from error
    try:
        return parse_json(text)
    except ValueError as error:
        raise ExportError(f"{path} is not JSON, or truncated: {error}", "damaged") from error


def _parse(root: JsonFields, directory: Path) -> Manifest:
    interface = _parse_interface(root.object("contract"))
    classes = root.object("classes")
    info = _parse_info(root, interface)
    golden_input, golden_outputs = _parse_golden(root, interface)
    options = Options(
        fold_preprocessing=interface.pixels,
        classes=Head(classes.choice("head", tuple(Head))),
        softmax=classes.boolean("softmax"),
        full=ReturnTypes.FULL in interface.supports,
    )
    manifest = Manifest(
        name=root.optional_string("name"),
        interface=interface,
        info=info,
        class_ids=classes.integers("ids"),
        options=options,
        scale=_parse_scale(root),
        files=tuple(parse_file(entry, interface) for entry in root.objects("files")),
        golden_input=golden_input,
        golden_outputs=golden_outputs,
        versions=root.optional_strings("versions"),
        created=root.optional_string("created"),
    )
    _check_paths(manifest, root, directory)
    return manifest


def _parse_golden(root: JsonFields, interface: Interface) -> tuple[str, dict[str, str]]:
    """Returns the path of the golden input and those of its outputs, if the manifest has them."""
    golden = root.optional("golden")
    if golden is None:
        return "", {}
    outputs = golden.object("outputs")
    paths = {name: outputs.string(name) for name in interface.outputs}
    if len(outputs.content) > len(paths):
        raise golden.error(f"outputs must be {', '.join(paths)}, and no others")
    return golden.string("input"), paths


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
    entries = contract.objects("outputs")
    for output in entries:
        output.choice("dtype", ("float32",))
        outputs[output.string("name")] = output.shape("shape")
    if len(outputs) != len(entries):
        raise contract.error("outputs must be named differently")
    if len(outputs.get("out", ())) != 1 or len(outputs.get("features", (0,))) != 1:
        raise contract.error('outputs must have "out" of shape ["batch", K]; features likewise')
    unknown = [name for name in outputs if not _OUTPUT_NAME.fullmatch(name)]
    if unknown:
        raise contract.error(
            f"{shorten(unknown[0])} is not an output; valid: 'out', 'features', 'full_0', "
            "'full_1'..."
        )
    interface = Interface(channels_first, outputs, pixels)
    if contract.strings("returnt") != tuple(map(str, interface.supports)):
        raise contract.error(
            f"returnt must be what the outputs answer: {', '.join(interface.supports)}"
        )
    return interface


def _parse_info(root: JsonFields, interface: Interface) -> DatasetInfo:
    classes = root.object("classes")
    preprocessing, channels = root.optional("preprocessing"), interface.input_shape[0]
    mean = preprocessing.numbers("mean") if preprocessing else ()
    std = preprocessing.numbers("std") if preprocessing else ()
    if preprocessing:
        _check_length(preprocessing, "mean", mean, channels)
        _check_length(preprocessing, "std", std, channels)
        if preprocessing.boolean("folded") != interface.pixels:
            raise preprocessing.error("folded must be true for uint8 input, and only for that")
        if not all(map(_is_positive, std)):
            raise preprocessing.error("std must be positive")
    width = interface.outputs["out"][0]
    ids, names = classes.integers("ids"), classes.strings("names")
    _check_length(classes, "ids", ids, width)
    if names:
        _check_length(classes, "names", names, width)
    if len(set(ids)) != len(ids):
        raise classes.error("ids must differ")
    tasks = tuple((first, end) for first, end in classes.rows("tasks", 2))
    tasks_seen = classes.integer("tasks_seen")
    if any(first > end for first, end in tasks) or tasks_seen > len(tasks):
        raise classes.error("tasks must be [first, last + 1], and at most all of them were seen")
    if sum(end - first for first, end in tasks) > MAX_CLASSES:
        raise classes.error(f"tasks must not have more than {MAX_CLASSES} classes")
    info = DatasetInfo(
        name=root.optional_string("dataset"),
        input_shape=interface.input_shape,
        mean=mean,
        std=std,
        num_classes=width,
        class_names=names,
        tasks=tasks,
        tasks_seen=tasks_seen,
    )
    if classes.integers("seen") != info.classes_seen:
        raise root.error("classes.seen are not the classes of the tasks seen")
    return info


def _parse_scale(root: JsonFields) -> float:
    """Returns the factor from pixels to [0, 1]."""
    preprocessing = root.optional("preprocessing")
    if preprocessing is None:
        return SCALE
    scale = preprocessing.number("scale")
    if not _is_positive(scale):
        raise preprocessing.error(f"scale must be positive, not {scale}")
    return scale


def _is_positive(value: float) -> bool:
    """Returns whether a number is positive as float32, in which tiny ones are zeros."""
    return bool(np.float32(value) > 0)


def _check_length(fields: JsonFields, key: str, values: Sequence[object], length: int) -> None:
    if len(values) != length:
        raise fields.error(f"{key} has {len(values)} entries instead of {length}")


def _check_paths(manifest: Manifest, root: JsonFields, directory: Path) -> None:
    paths = [file.path for file in manifest.files]
    golden = list(manifest.golden_outputs.values())
    if golden:
        golden.append(manifest.golden_input)
    for path in (*paths, *golden):
        _check_inside(path, directory)
    missing = set(golden) - set(paths)
    if missing:
        raise root.error(f"files does not list {min(missing)[:200]}")
    if len(set(paths)) != len(paths):
        raise root.error("files lists a path twice")


def _check_inside(path: str, directory: Path) -> None:
    """Refuses a path that leaves the bundle, by its parts or through a symbolic link."""
    outside = not {"", ".", ".."}.isdisjoint(path.split("/")) or path == FILE_NAME
    unsafe = not {"\\", ":", "\0"}.isdisjoint(path)
    if outside or unsafe or not _resolves_inside(directory / path, directory):
        raise ExportError(
            f"the manifest in {directory} names {shorten(path)}, which leaves the bundle. Do not "
            "use a bundle from this source",
            "path",
        )


def _resolves_inside(path: Path, directory: Path) -> bool:
    """Returns whether the links in a path lead to somewhere in a directory."""
    resolved = Path(os.path.realpath(path))
    # A link that remains is part of a loop.
    return resolved.is_relative_to(os.path.realpath(directory)) and not os.path.islink(resolved)
