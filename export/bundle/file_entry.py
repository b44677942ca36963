"""Reads the entry of one file in manifest.json."""

from collections.abc import Sequence
from dataclasses import replace

from mammoth_compiled.errors import shorten
from mammoth_compiled.export.bundle.json_fields import JsonFields
from mammoth_compiled.export.bundle.manifest import GOLDEN, TEXT, File
from mammoth_compiled.export.capture.interface import Interface
from mammoth_compiled.export.formats import FORMATS, RunnableFormat
from mammoth_compiled.export.parity.compare import EAGER, FLOAT64, Difference

# A file that claims to have more is not read. A message of ONNX holds less than 2 GiB.
MAX_BYTES, MAX_ONNX_BYTES = 2**36, 2**31


def parse_file(entry: JsonFields, interface: Interface) -> File:
    """Returns a file's entry after checking it.

    Args:
        entry: The JSON of the entry.
        interface: The contract of the model files.

    Raises:
        ExportError: Code `damaged`; names the field.
    """
    format_ = entry.choice("format", (*FORMATS, GOLDEN, TEXT))
    file = File(
        path=entry.string("path"),
        format=format_,
        sha256=entry.string("sha256"),
        bytes=entry.integer("bytes", MAX_ONNX_BYTES if format_ == "onnx" else MAX_BYTES),
        requires=entry.optional_strings("requires"),
    )
    if len(file.sha256) != 64 or set(file.sha256) - set("0123456789abcdef"):
        raise entry.error("sha256 must be 64 hexadecimal digits")
    if not isinstance(FORMATS.get(format_), RunnableFormat):
        return file
    outputs = entry.strings("outputs")
    if not outputs:
        raise entry.error("outputs must name one output or more")
    _check_names(entry, "outputs", outputs, tuple(interface.outputs))
    parity = {
        name: Difference(
            size=value.size("size"),
            bound=value.size("bound"),
            batch_size=value.positive_integer("batch_size"),
            inputs=value.string("inputs"),
            # Absent in bundles of earlier releases.
            reference=value.choice("reference", (EAGER, FLOAT64))
            if "reference" in value.content
            else EAGER,
        )
        for name, value in entry.optional_objects("parity").items()
    }
    _check_names(entry, "parity", tuple(parity), outputs)
    accuracy, latency = entry.optional("accuracy"), entry.optional("latency")
    return replace(
        file,
        precision=entry.choice("precision", ("fp32", "fp16", "int8")),
        outputs=outputs,
        parity=parity,
        accuracy=accuracy.all_numbers() if accuracy else {},
        latency=_parse_latency(latency) if latency else {},
    )


def _check_names(entry: JsonFields, key: str, names: Sequence[str], valid: Sequence[str]) -> None:
    """Refuses names that are not among the valid ones, or occur twice."""
    unknown = sorted(set(names) - set(valid))
    if unknown or len(set(names)) != len(names):
        raise entry.error(
            f"{key} must be different names out of {', '.join(valid)}, but are "
            f"{shorten(list(names))}"
        )


def _parse_latency(latency: JsonFields) -> dict[str, float | str]:
    return {
        "median_ms": latency.size("median_ms"),
        "calls": latency.positive_integer("calls"),
        "machine": latency.string("machine"),
    }
