"""python -m mammoth_compiled.run: one experiment from the command line."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mammoth_compiled.backbones import probe
from mammoth_compiled.compiler.explain import explain
from mammoth_compiled.config import Parser, build_parser, default_backbone, resolve
from mammoth_compiled.console import say
from mammoth_compiled.engine import Observer
from mammoth_compiled.engine.forward import forward_function
from mammoth_compiled.errors import ConfigError, MammothError
from mammoth_compiled.export.bundle.directory import check_target
from mammoth_compiled.export.formats import FORMATS, format_names
from mammoth_compiled.observers import BundleExporter, FinalTable, ResultsWriter
from mammoth_compiled.plugins import import_plugin
from mammoth_compiled.registry import backbones, datasets, models
from mammoth_compiled.runner import build
from mammoth_compiled.training import train

EXAMPLE = """example:
  python -m mammoth_compiled.run --model derpp --dataset seq-fmnist-mini --backbone cnn \\
      --n_epochs 3 --seed 0 --compile on --export bundle --results_path results.json
"""


def _front(words: Sequence[str]) -> Any:
    """Reads what decides which further arguments there are."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--explain", action="store_true")
    parser.add_argument("--import", dest="imports", action="append", default=[])
    for name in ("model", "dataset", "backbone"):
        parser.add_argument(f"--{name}")
    return parser.parse_known_args(list(words))


def _help(front: Any) -> str:
    dataset = front.dataset
    backbone = front.backbone or (default_backbone(dataset) if dataset else None)
    parser = build_parser(front.model, dataset, backbone)
    parser.usage = "%(prog)s --model NAME --dataset NAME [options]"
    more = parser.add_argument_group("Other")
    on = "store_true"
    more.add_argument("--list", action=on, help="List models, datasets and backbones.")
    more.add_argument("--explain", action=on, help="Say what the compiler makes of the backbone.")
    more.add_argument(
        "--import", metavar="FILE|MODULE", help="Import your registrations first (repeatable)."
    )
    more.add_argument("-h", "--help", action=on, help="Show this help.")
    parser.description = (
        "Trains a continual-learning model with a compiled backbone and exports it. The arguments "
        "of a model, dataset or backbone are listed when it is named: --model derpp --help."
    )
    return parser.format_help() + "\n" + EXAMPLE


def _listing() -> str:
    lines = []
    for title, registry in (("Models", models), ("Datasets", datasets), ("Backbones", backbones)):
        lines.append(f"{title}:")
        lines += [f"  {name:<18} {registry[name].summary}" for name in sorted(registry)]
    return "\n".join(lines)


def _check_outputs(args: Any) -> None:
    """Finds out before the training whether its outcome can be written.

    Raises:
        ConfigError: If `--results_path` cannot be a file.
        ExportError: If `--export` holds other files, or ONNX Runtime is missing.
    """
    if args.export:
        check_target(args.export)
        for name in format_names(args.formats):
            FORMATS[name].check_installed()
    if args.results_path:
        path = Path(args.results_path)
        if path.is_dir():
            raise ConfigError(f"--results_path {path} is a folder; give a file in it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--results_path {path} cannot be written: {error}") from error


def _explanation(model: Any, dataset: Any) -> str:
    if dataset.input_shape() is None:
        dataset.meta_get_data_loaders()
    shape = dataset.info().input_shape
    net = model.net.to(model.device)
    images = torch.rand(model.args.batch_size, *shape, device=model.device)
    lines = [f"{type(net).__name__} on {model.device}, images {tuple(images.shape)}"]
    lines += [
        f"returnt={str(returnt)!r}: {explain(forward_function(net, returnt), images)}"
        for returnt in probe(net, shape, dataset.N_CLASSES).supports
    ]
    return "\n".join(lines)


def run(words: Sequence[str]) -> int:
    """Runs the command line and returns its exit code.

    Raises:
        MammothError: On bad input.
    """
    front, rest = _front(words)
    for spec in front.imports:
        import_plugin(spec)
    if front.list:
        say(_listing())
        return 0
    if front.help:
        say(_help(front))
        return 0
    for name, registry in (("model", models), ("dataset", datasets)):
        if getattr(front, name) is None:
            raise ConfigError(f"--{name} is required; valid: {', '.join(sorted(registry))}")
    if front.backbone:
        rest = [*rest, "--backbone", front.backbone]
    args = resolve(front.model, front.dataset, rest)
    _check_outputs(args)
    if args.data_dir:
        # User-written datasets look where base_path() says.
        os.environ["MAMMOTH_BASE_PATH"] = args.data_dir
    started = time.perf_counter()
    model, dataset = build(args)
    if front.explain:
        say(_explanation(model, dataset))
        return 0
    parameters = sum(p.numel() for p in model.net.parameters())
    say(
        f"{args.model} on {args.dataset} with {args.backbone} ({parameters:,} parameters) on "
        f"{model.device}: lr {args.lr:g}, batch {args.batch_size}, {args.n_epochs} epochs per task"
    )
    observers: list[Observer] = []
    if args.results_path:
        observers.append(ResultsWriter(args.results_path))
    observers.append(FinalTable())
    if args.export:
        observers.append(
            BundleExporter(args.export, args.formats, args.export_variants, args.export_each_task)
        )
    results = train(model, dataset, observers=observers)
    if args.results_path:
        say(f"results: {args.results_path}")
    if results.interrupted:
        return 130
    say(
        f"total: {time.perf_counter() - started:.1f} s; training "
        f"{sum(results.train_s) - sum(results.compile_s):.1f} s ({results.images_per_second:,.0f} "
        f"images/s), compiling {sum(results.compile_s):.1f} s, evaluation "
        f"{sum(results.eval_s):.1f} s"
    )
    return 0


def main() -> None:
    """Ends the process with 0, or with 2 and one message on bad input."""
    try:
        code = run(sys.argv[1:])
    except MammothError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
