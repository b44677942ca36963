"""python -m mammoth_compiled.export CHECKPOINT DIR: exports the backbone of a training run."""

import argparse
import inspect
import sys
from collections.abc import Sequence
from typing import Any

from mammoth_compiled.backbones import MammothBackbone
from mammoth_compiled.checkpoint import read_checkpoint
from mammoth_compiled.errors import CheckpointError, MammothError, RegistryError
from mammoth_compiled.export.bundle import export_bundle
from mammoth_compiled.export.report import report
from mammoth_compiled.plugins import import_plugin
from mammoth_compiled.registry import backbones
from mammoth_compiled.types import DatasetInfo


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, or 2 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m mammoth_compiled.export",
        description="Exports the backbone of a checkpoint to ONNX and proves that it equals eager.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="what a training run saved")
    parser.add_argument("directory", metavar="DIR", help="where to write: new, empty or a bundle")
    parser.add_argument(
        "--import",
        dest="plugins",
        metavar="FILE_OR_MODULE",
        action="append",
        default=[],
        help="Python code that registers the backbone, imported first; may be repeated",
    )
    args = parser.parse_args(arguments)
    try:
        for spec in args.plugins:
            import_plugin(spec)
        net, info = _restore(args.checkpoint)
        path = export_bundle(net, args.directory, info=info)
        sys.stdout.write(report(path) + "\n")
    except MammothError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    return 0


def _restore(path: str) -> tuple[MammothBackbone, DatasetInfo]:
    """Builds the backbone of a checkpoint with its weights, and reads what it says of the data."""
    checkpoint = read_checkpoint(path)
    try:
        name, given = checkpoint["backbone"]["name"], checkpoint["backbone"]["arguments"]
        weights = checkpoint["net"]
        info = DatasetInfo.from_dict(checkpoint["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not describe its backbone ({type(error).__name__}: {error}). Give a "
            "checkpoint that mammoth_compiled saved"
        ) from error
    try:
        target = backbones[name].target
    except RegistryError as error:
        raise RegistryError(
            f"{error}. --import the file that registers a backbone of yours"
        ) from error
    arguments: dict[str, Any] = dict(given)
    if "num_classes" in inspect.signature(target).parameters:
        arguments.setdefault("num_classes", info.num_classes)
    try:
        net: MammothBackbone = target(**arguments)
        net.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the weights of {path} do not fit backbone {name!r} with {arguments}: {error}"
        ) from error
    return net, info


if __name__ == "__main__":
    sys.exit(main())
