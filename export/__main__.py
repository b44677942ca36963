"""python -m mammoth_compiled.export: exports a checkpoint; shows, verifies or updates a bundle."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from mammoth_compiled.command_line import LineParser, file_path
from mammoth_compiled.console import say
from mammoth_compiled.exit_codes import SUCCESS
from mammoth_compiled.plugins import import_plugin
from mammoth_compiled.signals import exit_code

_EXAMPLES = """examples:
  python -m mammoth_compiled.export checkpoint.pt bundle --formats onnx,aoti
  python -m mammoth_compiled.export show bundle
  python -m mammoth_compiled.export open bundle
  python -m mammoth_compiled.export verify bundle
  python -m mammoth_compiled.export update bundle checkpoint_after_task_2.pt
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    It is 0 on success, 2 after an error, 1 if standard output cannot be written, and 130 after
    Ctrl-C, each with one line.

    Raises:
        SystemExit: With 128 + n, after another signal n that ends a process.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    commands = {
        "export": _export,
        "show": _show,
        "open": _open,
        "verify": _verify,
        "update": _update,
    }
    # Without a command, the first argument is a checkpoint to export.
    if argv and argv[0] not in commands and not argv[0].startswith("-"):
        argv.insert(0, "export")

    def command() -> int:
        args = _parser(argv[0] if argv else "").parse_args(argv)
        for spec in args.plugins:
            import_plugin(spec)
        if text := commands[args.command](args):
            say(text)
        return SUCCESS

    return exit_code(command)


def _parser(command: str | None = None) -> argparse.ArgumentParser:
    """Returns the parser.

    Args:
        command: The only command whose arguments are added, because those of some name formats and
            importing these takes seconds; None adds all.
    """
    parser = LineParser(
        prog="python -m mammoth_compiled.export",
        description="Exports trained backbones, and verifies every file against eager mode.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add_arguments, text in (
        ("export", _add_export, "Export the backbone of a checkpoint (default)."),
        ("show", _add_show, "Print what a bundle contains and how to run it."),
        ("open", _add_open, "Show a bundle in the browser, on this machine."),
        ("verify", _add_verify, "Verify a bundle on this machine."),
        ("update", _add_update, "Replace the weights of a bundle."),
    ):
        subparser = commands.add_parser(name, help=text)
        if command in (None, name):
            add_arguments(subparser)
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    from mammoth_compiled.export.capture.options import Head
    from mammoth_compiled.export.formats import FORMATS, default_formats
    from mammoth_compiled.export.serving import LAYOUTS

    add = parser.add_argument
    add("checkpoint", type=file_path, metavar="CHECKPOINT", help="Checkpoint of a training run.")
    add(
        "directory", type=file_path, metavar="DIR", help="Output directory: new, empty or a bundle."
    )
    add(
        "--formats",
        metavar="LIST",
        help=f"Comma-separated formats: {', '.join(FORMATS)} (default: "
        f"{','.join(default_formats())}).",
    )
    add(
        "--device",
        default="cpu",
        metavar="cpu|cuda",
        help="Device that aoti compiles for (default: cpu).",
    )
    add(
        "--fold_preprocessing",
        action="store_true",
        help="Take uint8 pixels and normalize them in the graph.",
    )
    add(
        "--classes",
        choices=[str(head) for head in Head],
        default=str(Head.ALL),
        help="Columns of the head: all; only the classes seen; or all, with unseen classes masked.",
    )
    add("--softmax", action="store_true", help="Output probabilities.")
    add("--full", action="store_true", help="Also output the stage maps: full_0, full_1, ...")
    add(
        "--variants",
        metavar="LIST",
        default="",
        help="Comma-separated smaller ONNX models: fp16, int8.",
    )
    _add_calibration(parser)
    add("--serve-layout", choices=LAYOUTS, help="Also write a model repository for this server.")
    add(
        "--repository",
        type=file_path,
        metavar="DIR",
        help="Model repository to write to (default: DIR-triton).",
    )
    _add_import(parser)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=file_path, metavar="DIR", help="Bundle.")
    _add_import(parser)


def _add_open(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=file_path, metavar="DIR", help="Bundle.")
    parser.add_argument(
        "--port", type=int, default=0, help="Port on the loopback interface (default: a free one)."
    )
    parser.add_argument(
        "--samples",
        type=file_path,
        metavar="DIR",
        help="Directory with samples.json and samples.png, labeled images as "
        "examples/browser/samples.py writes them (default: the golden images of the bundle).",
    )
    parser.add_argument(
        "--no_browser", action="store_true", help="Print the address and open no browser."
    )
    _add_import(parser)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    from mammoth_compiled.export.formats import runtimes

    parser.add_argument("directory", type=file_path, metavar="DIR", help="Bundle.")
    parser.add_argument(
        "--runtime",
        action="append",
        metavar="NAME",
        help=f"Runtime that must work: {', '.join(runtimes())}; repeatable (default: those that "
        "this machine has).",
    )
    parser.add_argument(
        "--device", default="cpu", help="Device that compiled code runs on (default: cpu)."
    )
    _add_import(parser)


def _add_update(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=file_path, metavar="DIR", help="Bundle.")
    parser.add_argument(
        "checkpoint", type=file_path, metavar="CHECKPOINT", help="Checkpoint of a training run."
    )
    _add_calibration(parser)
    _add_import(parser)


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibration",
        type=file_path,
        metavar="FILE.npy",
        help="Training images for int8, 32 or more: uint8 pixels [N, H, W, C], or normalized "
        "float32 [N, C, H, W].",
    )


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="plugins",
        metavar="FILE_OR_MODULE",
        action="append",
        default=[],
        help="Python code that registers your backbone or format, imported first; repeatable.",
    )


def _export(args: argparse.Namespace) -> str:
    from mammoth_compiled.export.bundle.summary import report
    from mammoth_compiled.export.checkpoint import load_backbone
    from mammoth_compiled.export.export import export_bundle
    from mammoth_compiled.export.images import read_images
    from mammoth_compiled.export.serving import LAYOUTS

    name, net, info = load_backbone(args.checkpoint)
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
        variants=args.variants,
        calibration=read_images(args.calibration, info) if args.calibration else None,
        name=name,
    )
    lines = [report(path)]
    if args.serve_layout:
        repository = args.repository or f"{path}-{args.serve_layout}"
        models = LAYOUTS[args.serve_layout](path, repository)
        lines += [f"serving   {model}" for model in models]
    return "\n".join(lines)


def _show(args: argparse.Namespace) -> str:
    from mammoth_compiled.export.bundle.manifest_reader import read_manifest
    from mammoth_compiled.export.bundle.readme import render_readme

    text = render_readme(read_manifest(Path(args.directory)))
    if not sys.stdout.isatty():
        return text.rstrip()
    try:
        from rich.console import Console
        from rich.markdown import Markdown
    except ImportError:
        return text.rstrip()
    Console().print(Markdown(text))
    return ""


def _open(args: argparse.Namespace) -> str:
    import webbrowser

    from mammoth_compiled.export.browser_page import make_server

    with make_server(args.directory, args.port, args.samples) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        say(f"{args.directory}: {address} (Ctrl-C ends it)")
        if not args.no_browser:
            webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return ""


def _verify(args: argparse.Namespace) -> str:
    from mammoth_compiled.export.verify import verify_bundle

    results = verify_bundle(args.directory, args.runtime, args.device)
    lines = [f"{result.path:<22} {result.text}" for result in results]
    count = sum(result.checked for result in results)
    return "\n".join([*lines, f"{args.directory}: all hashes match, {count} model files verified"])


def _update(args: argparse.Namespace) -> str:
    from mammoth_compiled.export.bundle.manifest_reader import read_manifest
    from mammoth_compiled.export.bundle.summary import report
    from mammoth_compiled.export.images import read_images
    from mammoth_compiled.export.update import update_bundle

    calibration = None
    if args.calibration:
        calibration = read_images(args.calibration, read_manifest(Path(args.directory)).info)
    return report(update_bundle(args.directory, args.checkpoint, calibration=calibration))


if __name__ == "__main__":
    sys.exit(main())
