"""The summary of a bundle that the command lines print."""

from pathlib import Path

from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.capture.interface import BATCH, dtype_name


def report(path: Path) -> str:
    """Returns a summary of a bundle: its contract, and size, parity and accuracy per model file."""
    manifest = read_manifest(path)
    interface = manifest.interface
    size_mb = sum(file.bytes for file in manifest.files) / 1e6
    outputs = ", ".join(
        f"{name} [{', '.join(map(str, (BATCH, *shape)))}]"
        for name, shape in interface.outputs.items()
    )
    shape = ", ".join(map(str, (BATCH, *interface.item_shape)))
    lines = [
        f"bundle    {path} ({size_mb:.1f} MB)",
        f"input     {dtype_name(interface.dtype)} [{shape}]",
        f"outputs   {outputs}; returnt {', '.join(interface.supports)}",
        *(f"file      {_line(file)}" for file in manifest.models),
        "verified  every output of every file against eager mode",
    ]
    return "\n".join(lines)


def _line(file: File) -> str:
    parity = ", ".join(f"{name} {d.size:.1e}" for name, d in file.parity.items())
    accuracy = f"; accuracy {file.accuracy['class_il']:.2%}" if "class_il" in file.accuracy else ""
    return f"{file.path:<20} {file.bytes / 1e6:7.2f} MB; max error {parity}{accuracy}"
