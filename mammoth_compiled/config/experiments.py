"""The runs that a command line and a configuration file describe."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mammoth_compiled.config.cli import build_parser, default_backbone
from mammoth_compiled.config.config_file import expand_grid, is_axis
from mammoth_compiled.config.mammoth_arguments import translate_words
from mammoth_compiled.config.parser import Parser
from mammoth_compiled.config.resolve import Resolution, resolve_with_origins
from mammoth_compiled.config.schema import SECTIONS, RunConfig
from mammoth_compiled.errors import ConfigError, shorten
from mammoth_compiled.registry import backbones, datasets, models

PARTS = ("model", "dataset", "backbone")


def given_parts(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the model, dataset and backbone of a command line, and its other words."""
    parser = Parser()
    for part in PARTS:
        parser.add_argument(f"--{part}")
    return parser.read_known(words)


def resolve_experiments(
    words: Sequence[str], file: Mapping[str, Any], seeds: Sequence[int] | None = None
) -> list[Resolution]:
    """Returns the arguments of every run.

    Args:
        words: The words of the command line, which override the file.
        file: Arguments by name; a list stands for alternatives, see `expand_grid`.
        seeds: One run for each of these seeds.

    Raises:
        ConfigError: If an argument is unknown, missing, of the wrong type or out of range.
        RegistryError: If a name is unknown.
    """
    given, rest = given_parts(words)
    values = {**file, **given}
    if seeds is not None:
        values["seed"] = list(seeds)
    parsers = {parts: build_parser(*parts) for parts in _alternative_parts(values)}
    known = {
        name: action for parser in parsers.values() for name, action in parser.arguments.items()
    }
    lists = {name for name, action in known.items() if action.nargs not in (None, 0, "?")}
    if any(is_axis(name, value, lists) for name, value in values.items()):
        # What the command line gives is no alternative. Only a grid needs to know it here.
        overridden = next(iter(parsers.values())).read_known(translate_words(rest, known))[0]
        if seeds is not None and "seed" in overridden:
            raise ConfigError("--seed and --seeds exclude each other: give one of them")
        values = {name: value for name, value in values.items() if name not in overridden}
    words = [*rest, "--backbone", given["backbone"]] if "backbone" in given else rest
    found: list[Resolution] = []
    for run in expand_grid(values, lists):
        model, dataset, backbone = _parts(run)
        own = parsers[model, dataset, backbone].arguments
        # In a grid over models, an argument may be that of another model.
        run = {name: value for name, value in run.items() if name in own or name not in known}
        resolution = resolve_with_origins(model, dataset, words, run)
        if all(resolution.args != other.args for other in found):
            found.append(resolution)
    return found


def list_arguments(words: Sequence[str], file: Mapping[str, Any]) -> set[str]:
    """Returns the arguments of the runs that take several values.

    Args:
        words: The words of the command line.
        file: Arguments by name.
    """
    given, _ = given_parts(words)
    parts = _alternative_parts({**file, **given})
    return _taking_several(build_parser(*names) for names in parts)


def _taking_several(parsers: Iterable[Parser]) -> set[str]:
    return {
        name
        for parser in parsers
        for name, action in parser.arguments.items()
        if action.nargs not in (None, 0, "?")
    }


def _alternative_parts(values: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Returns the combinations of model, dataset and backbone in a grid."""
    grid = expand_grid({part: values[part] for part in PARTS if part in values}, lists=())
    return dict.fromkeys(map(_parts, grid))


def _parts(values: Mapping[str, Any]) -> tuple[str, str, str]:
    """Returns the registered names of the model, the dataset and the backbone of one run.

    Raises:
        ConfigError: If one is missing or not a name.
        RegistryError: If one is unknown.
    """
    for part, registry in (("model", models), ("dataset", datasets)):
        if values.get(part) is None:
            raise ConfigError(f"--{part} is required; valid: {', '.join(sorted(registry))}")
    for part in PARTS:
        if not isinstance(values.get(part), str | None):
            raise ConfigError(f"{part}: must be a name, got {shorten(values[part])}")
    model, dataset = models[values["model"]].name, datasets[values["dataset"]].name
    return model, dataset, backbones[values.get("backbone") or default_backbone(dataset)].name


def describe(resolution: Resolution) -> str:
    """Returns all arguments of a run, by section, and where each comes from.

    Args:
        resolution: The arguments.
    """
    config = RunConfig.from_namespace(resolution.args)
    sections = {name: vars(getattr(config, name)) for name in SECTIONS}
    sections["model, dataset and backbone"] = dict(config.extra)
    width = max(len(name) for section in sections.values() for name in section)
    lines = []
    for title, section in sections.items():
        if not section:
            continue
        lines.append(f"{title}:")
        for name, value in section.items():
            text = "-" if value is None else str(value)
            origin = resolution.origins.get(name, "derived")
            comment = "" if origin == "default" else f"  # {origin}"
            lines.append(f"  {name:<{width}} {text}{comment}")
    return "\n".join(lines)
