"""python -m mammoth_compiled.run: one experiment from the command line."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mammoth_compiled import export_bundle, update_bundle
from mammoth_compiled.backbones import probe
from mammoth_compiled.compiler.explain import explain
from mammoth_compiled.config import Parser, build_parser, default_backbone, resolve
from mammoth_compiled.console import say
from mammoth_compiled.data import TaskLoader
from mammoth_compiled.device import random_state, set_random_state
from mammoth_compiled.engine import train
from mammoth_compiled.engine.forward import forward_function
from mammoth_compiled.engine.saving import save
from mammoth_compiled.errors import ConfigError, ExportError, MammothError
from mammoth_compiled.export.bundle.directory import check_target
from mammoth_compiled.export.formats import format_names
from mammoth_compiled.export.bundle.manifest import read_manifest
from mammoth_compiled.export.bundle.summary import report
from mammoth_compiled.export.onnx_runtime import import_onnxruntime
from mammoth_compiled.metrics import Results
from mammoth_compiled.plugins import import_plugin
from mammoth_compiled.registry import backbones, datasets, models
from mammoth_compiled.runner import build

CALIBRATION_IMAGES = 256

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
        if "onnx" in format_names(args.formats):
            import_onnxruntime()
    if args.results_path:
        path = Path(args.results_path)
        if path.is_dir():
            raise ConfigError(f"--results_path {path} is a folder; give a file in it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--results_path {path} cannot be written: {error}") from error


class TaskExporter:
    """Exports the backbone of a run, at its end or task by task; weights outlive a failure.

    Args:
        model: The model that is trained.
        dataset: Its data.
    """

    def __init__(self, model: Any, dataset: Any) -> None:
        self.model, self.dataset, self.args = model, dataset, model.args
        self.done = False

    def after_task(self, results: Results) -> None:
        """Brings the bundle to the weights of now and says what it holds, in one line."""
        started = time.perf_counter()
        what = "updated" if self.done else "exported"
        path = self.export(results)
        bundle = read_manifest(path)
        models = [file for file in bundle.files if file.is_model]
        worst = max((d.size for file in models for d in file.parity.values()), default=0.0)
        accuracy = next((f.accuracy["class_il"] for f in models if "class_il" in f.accuracy), None)
        say(
            f"bundle after task {len(results.class_il)}: {what} in "
            f"{time.perf_counter() - started:.1f} s, {len(models)} models, "
            f"{len(bundle.info.classes_seen)} of {bundle.info.num_classes} classes seen, "
            f"off by {worst:.1e}" + ("" if accuracy is None else f", Class-IL {accuracy:.2%}")
        )

    def export(self, results: Results) -> Path:
        """Exports the backbone, or updates what was exported after an earlier task."""
        evidence = {
            "samples": next(iter(self.dataset.test_loaders[0]))[0][:32].cpu(),
            "calibration": self._training_images if "int8" in self._variants else None,
            "test_set": self._test_set,
        }
        try:
            if self.done:
                path = update_bundle(self.args.export, self.model, **evidence)
            else:
                path = export_bundle(
                    self.model,
                    self.args.export,
                    formats=self.args.formats,
                    variants=self._variants,
                    **evidence,
                )
        except MammothError as error:
            args, done = self.args, len(results.class_il)
            kept = save(self.model, self.dataset, args, results, done)
            raise ExportError(
                f"{error}. The weights are kept in {kept}; once mended: "
                f"python -m mammoth_compiled.export {kept} {args.export}"
            ) from error
        self.done = True
        return path

    @property
    def _variants(self) -> list[str]:
        return [kind for kind in (self.args.export_variants or "").split(",") if kind]

    def _training_images(self) -> torch.Tensor:
        """Returns images of all classes seen; the random numbers of the run stay as they are."""
        before = random_state()
        train, _ = self.dataset.get_data_loaders()
        loader = TaskLoader(train, self.args.batch_size, True, self.model.device, 0)
        seen = torch.tensor(self.dataset.info().classes_seen, device=self.model.device)
        found: list[torch.Tensor] = []
        for inputs, labels, *_ in loader:
            found.append(inputs[torch.isin(labels, seen)].cpu())
            if sum(map(len, found)) >= CALIBRATION_IMAGES:
                break
        set_random_state(before)
        return torch.cat(found)

    def _test_set(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the test images of all tasks seen, and their class ids."""
        batches = [batch for loader in self.dataset.test_loaders for batch in loader]
        return (
            torch.cat([inputs.cpu() for inputs, *_ in batches]),
            torch.cat([labels.cpu() for _, labels, *_ in batches]),
        )


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
    exporter = TaskExporter(model, dataset)
    results = train(
        model, dataset, after_task=exporter.after_task if args.export_each_task else None
    )
    if args.results_path:
        results.write_json(args.results_path)
    if results.class_il:
        say("\nAccuracy in %:\n" + results.table())
    if args.results_path:
        say(f"results: {args.results_path}")
    if results.interrupted:
        return 130
    if args.export:
        path = Path(args.export).resolve() if exporter.done else exporter.export(results)
        say(report(path))
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
