"""python -m mammoth_compiled.export: export a checkpoint, verify a bundle, update one."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mammoth_compiled.errors import MammothError
from mammoth_compiled.export.export import export_bundle
from mammoth_compiled.export.verify import verify_bundle
from mammoth_compiled.export.formats import DEFAULT, FORMATS, RUNTIMES
from mammoth_compiled.export.images import read_images
from mammoth_compiled.export.bundle.manifest import read_manifest
from mammoth_compiled.export.bundle.summary import report
from mammoth_compiled.export.checkpoint import restore
from mammoth_compiled.export.serving.triton import LAYOUTS, write_triton_layout
from mammoth_compiled.export.capture.options import Head
from mammoth_compiled.export.update import update_bundle
from mammoth_compiled.plugins import import_plugin

_EXAMPLES = """examples:
  python -m mammoth_compiled.export checkpoint.pt bundle --formats onnx,aoti
  python -m mammoth_compiled.export verify bundle
  python -m mammoth_compiled.export update bundle checkpoint_after_task_2.pt
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, or 2 after an error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"export": _export, "verify": _verify, "update": _update}
    # The first word may be left out: a checkpoint is exported.
    if words and words[0] not in commands and not words[0].startswith("-"):
        words.insert(0, "export")
    args = _parser().parse_args(words)
    try:
        for spec in args.plugins:
            import_plugin(spec)
        sys.stdout.write(commands[args.command](args) + "\n")
    except MammothError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mammoth_compiled.export",
        description="Exports trained backbones and proves that what is written equals eager.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    export = commands.add_parser("export", help="export the backbone of a checkpoint (default)")
    add = export.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="what a training run saved")
    add("directory", metavar="DIR", help="where to write: new, empty or a bundle")
    add(
        "--formats",
        metavar="LIST",
        help=f"with commas, from {', '.join(FORMATS)} (default: {','.join(DEFAULT)})",
    )
    add("--device", default="cpu", metavar="cpu|cuda", help="what aoti compiles for (default: cpu)")
    add("--fold_preprocessing", action="store_true", help="take uint8 pixels, normalise inside")
    add(
        "--classes",
        choices=[str(head) for head in Head],
        default=str(Head.ALL),
        help="columns of the head: all, those seen only, or the others masked",
    )
    add("--softmax", action="store_true", help="give probabilities")
    add("--full", action="store_true", help="give the stage maps too, as full_0, full_1, ...")
    add("--variants", metavar="LIST", default="", help="smaller ONNX models: fp16, int8")
    _add_calibration(export)
    add("--serve-layout", choices=LAYOUTS, help="also write DIR for a serving system ...")
    add("--repository", metavar="DIR", help="... into this model repository (default: DIR-triton)")
    _add_import(export)

    verify = commands.add_parser("verify", help="check a bundle, anywhere")
    verify.add_argument("directory", metavar="DIR", help="the bundle")
    verify.add_argument(
        "--runtime",
        action="append",
        choices=[*RUNTIMES, "ts"],
        help="must be run; may be repeated (default: those that this machine has)",
    )
    verify.add_argument("--device", default="cpu", help="where compiled code runs (default: cpu)")
    verify.set_defaults(plugins=[])  # a bundle is verified without user code

    update = commands.add_parser("update", help="put other weights into a bundle")
    update.add_argument("directory", metavar="DIR", help="the bundle")
    update.add_argument("checkpoint", metavar="CHECKPOINT", help="what a training run saved")
    _add_calibration(update)
    _add_import(update)
    return parser


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibration",
        metavar="FILE.npy",
        help="training images for int8, 32 or more: uint8 pixels [N, H, W, C], or normalised "
        "float32 [N, C, H, W]",
    )


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="plugins",
        metavar="FILE_OR_MODULE",
        action="append",
        default=[],
        help="Python code that registers the backbone, imported first; may be repeated",
    )


def _export(args: argparse.Namespace) -> str:
    name, net, info = restore(args.checkpoint)
    path = export_bundle(
        net,
        args.directory,
        info=info,
        formats=args.formats,
        device=args.device,
        fold_preprocessing=args.fold_preprocessing,
        classes=args.classes,
        softmax=args.softmax,
        full=args.full,
        variants=[kind for kind in args.variants.split(",") if kind],
        calibration=read_images(args.calibration, info) if args.calibration else None,
        name=name,
    )
    lines = [report(path)]
    if args.serve_layout:
        written = write_triton_layout(path, args.repository or f"{path}-{args.serve_layout}")
        lines += [f"serving   {folder}" for folder in written]
    return "\n".join(lines)


def _verify(args: argparse.Namespace) -> str:
    results = verify_bundle(args.directory, args.runtime, args.device)
    lines = [f"{result.path:<22} {result.text}" for result in results]
    count = sum(result.checked for result in results)
    return "\n".join([*lines, f"{args.directory}: all hashes right, {count} model files run"])


def _update(args: argparse.Namespace) -> str:
    calibration = None
    if args.calibration:
        calibration = read_images(args.calibration, read_manifest(Path(args.directory)).info)
    return report(update_bundle(args.directory, args.checkpoint, calibration=calibration))


if __name__ == "__main__":
    sys.exit(main())
