"""Says what a bundle holds."""

from pathlib import Path

from mammoth_compiled.export.load import load_bundle
from mammoth_compiled.export.verify import BATCH_SIZES


def report(path: Path) -> str:
    """Returns what a bundle holds and how near it is to eager, in a few lines."""
    bundle = load_bundle(path)
    size_mb = sum(file.stat().st_size for file in path.iterdir()) / 1e6
    outputs = ", ".join(f"{name} [batch, {width}]" for name, width in bundle.widths.items())
    parity = ", ".join(
        f"{name} {difference.size:.1e} (bound {difference.bound:.1e})"
        for name, difference in bundle.parity.items()
    )
    return (
        f"bundle    {path} ({size_mb:.1f} MB)\n"
        f"input     float32 {'[batch, {}, {}, {}]'.format(*bundle.input_shape)}\n"
        f"outputs   {outputs}; returnt {', '.join(map(str, bundle.supports))}\n"
        f"parity    {parity}, at batch {', '.join(map(str, BATCH_SIZES))}"
    )
