"""The flags of the command line beside the configuration: help, listing, imports."""

from argparse import ArgumentParser
from typing import Any

from mammoth_compiled.config.catalog import built_in_names
from mammoth_compiled.config.cli import build_parser, default_backbone
from mammoth_compiled.config.values import file_path, positive_int, seed_list
from mammoth_compiled.registry import backbones, datasets, models

DESCRIPTION = (
    "Trains a continual-learning model with a compiled backbone and exports the backbone. The "
    "arguments of a model, dataset or backbone are shown when it is given: --model derpp --help."
)
EXAMPLE = """example:
  python -m mammoth_compiled.run --model derpp --dataset seq-fmnist-mini --backbone cnn \\
      --n_epochs 3 --seed 0 --compile on --export bundle --results_path results.json
"""


def add_layout_args(parser: Any) -> None:
    """Adds the flags that say how several runs share the machine to a parser or a group of it."""
    parser.add_argument(
        "--workers",
        metavar="N",
        type=positive_int,
        help="Of several runs, how many run at the same time (default: measured; 1 on a GPU).",
    )
    parser.add_argument(
        "--together",
        metavar="N",
        type=positive_int,
        help="Of several runs, how many take turns in one process, so that their steps overlap on "
        "a GPU (default: 1).",
    )


def add_command_args(parser: ArgumentParser) -> None:
    """Adds the flags of the command line that are not part of the configuration."""
    group = parser.add_argument_group("Other")
    group.add_argument(
        "--list", action="store_true", help="List models, datasets and backbones and exit."
    )
    group.add_argument(
        "--explain",
        action="store_true",
        help="Print how the backbone is compiled, without training, and exit.",
    )
    group.add_argument(
        "--html",
        metavar="FILE",
        type=file_path,
        help="Also write what --explain prints to this HTML file.",
    )
    group.add_argument(
        "--config",
        metavar="FILE.yaml",
        type=file_path,
        help="Take arguments from this file unless the command line gives them. A list stands for "
        "alternatives: one run for every combination.",
    )
    group.add_argument(
        "--seeds",
        metavar="LIST",
        type=seed_list,
        help="Run once with each of these seeds, 0-9 or 0,3,5, several at a time, and report mean "
        "and spread.",
    )
    add_layout_args(group)
    group.add_argument(
        "--show_config",
        action="store_true",
        help="Print all arguments and where each comes from, and exit.",
    )
    group.add_argument(
        "--dry_run",
        action="store_true",
        help="Print all arguments and the estimated time of every run, and exit.",
    )
    group.add_argument(
        "--import",
        action="append",
        metavar="FILE|MODULE",
        help="Import this file or module first, to register your own parts (repeatable).",
    )
    group.add_argument("-h", "--help", action="store_true", help="Show this help and exit.")


def help_text(
    model: str | None = None, dataset: str | None = None, backbone: str | None = None
) -> str:
    """Returns the help of the command line, including the arguments of the named parts.

    Raises:
        RegistryError: If a name is unknown.
    """
    if backbone is None and dataset is not None:
        backbone = default_backbone(dataset)
    parser = build_parser(model, dataset, backbone)
    parser.usage = "%(prog)s --model NAME --dataset NAME [options]"
    parser.description = DESCRIPTION
    add_command_args(parser)
    return f"{parser.format_help()}\n{EXAMPLE}"


def listing(plugins: bool = False) -> str:
    """Returns the registered names, one a line, with a summary of each.

    Args:
        plugins: True to list what user code has registered as well.
    """
    lines = []
    for kind, registry in (("model", models), ("dataset", datasets), ("backbone", backbones)):
        names = built_in_names(kind)
        if plugins:
            names |= {name: registry[name].summary for name in registry}
        width = max(18, *map(len, names))
        lines.append(f"{kind.capitalize()}s:")
        lines += [f"  {name:<{width}} {summary}" for name, summary in sorted(names.items())]
    return "\n".join(lines)
