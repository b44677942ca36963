"""Says what a bundle holds."""

from pathlib import Path

from mammoth_compiled.export.capture.interface import BATCH
from mammoth_compiled.export.bundle.manifest import File, read_manifest


def report(path: Path) -> str:
    """Returns what a bundle holds and how near it is to eager, one line a file."""
    manifest = read_manifest(path)
    interface = manifest.interface
    size_mb = sum(file.bytes for file in manifest.files) / 1e6
    outputs = ", ".join(
        f"{name} [{', '.join(map(str, (BATCH, *shape)))}]"
        for name, shape in interface.outputs.items()
    )
    dtype = str(interface.dtype).removeprefix("torch.")
    shape = ", ".join(map(str, (BATCH, *interface.item_shape)))
    lines = [
        f"bundle    {path} ({size_mb:.1f} MB)",
        f"input     {dtype} [{shape}]",
        f"outputs   {outputs}; returnt {', '.join(interface.supports)}",
        *(f"file      {_line(file)}" for file in manifest.files if file.is_model),
        "verified  every output of every file against eager",
    ]
    return "\n".join(lines)


def _line(file: File) -> str:
    parity = ", ".join(f"{name} {d.size:.1e}" for name, d in file.parity.items())
    accuracy = f"; accuracy {file.accuracy['class_il']:.2%}" if "class_il" in file.accuracy else ""
    return f"{file.path:<20} {file.bytes / 1e6:7.2f} MB; off by {parity}{accuracy}"
