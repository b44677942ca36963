"""The command line: arguments of the schema, and those of a model, a dataset and a backbone."""

import contextlib
import types
import typing
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mammoth_compiled.config.parser import Parser
from mammoth_compiled.config.schema import SECTIONS
from mammoth_compiled.config.values import (
    any_int,
    boolean,
    finite_float,
    float_from,
    int_from,
    positive_int,
)
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import Entry, Parameter, backbones, datasets, models

# Arguments of the run that a dataset or a backbone may also ask for by parameter name.
SHARED = ("batch_size", "n_epochs", "joint", "seed", "device", "num_workers", "data_dir")
# Names that no model, dataset or backbone may define.
RESERVED = (
    *("model", "dataset", "backbone"),
    *("list", "explain", "import", "help", "config", "show_config", "dry_run", "seeds"),
    *("workers", "html"),
)


def add_rehearsal_args(parser: ArgumentParser) -> None:
    """Adds `--buffer_size` and `--minibatch_size` to a model's parser."""
    group = parser.add_argument_group("Rehearsal")
    group.add_argument(
        "--buffer_size",
        type=positive_int,
        required=True,
        metavar="N",
        help="Buffer capacity, in samples.",
    )
    group.add_argument(
        "--minibatch_size",
        type=positive_int,
        metavar="N",
        help="Samples replayed per step (default: the batch size).",
    )


def add_base_args(parser: ArgumentParser) -> None:
    """Adds the arguments that every run has, in one group per section of the schema."""
    for title, section in SECTIONS.items():
        group = parser.add_argument_group(title.capitalize())
        annotations = get_type_hints(section)
        for field in fields(section):
            group.add_argument(f"--{field.name}", **_options(field, annotations[field.name]))


def _options(field: "Field[Any]", annotation: Any) -> dict[str, Any]:
    """Returns the options of `add_argument` for a field of the schema."""
    options = {key: value for key, value in field.metadata.items() if value is not None}
    if options["required"]:
        return options
    options["default"] = field.default
    if get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = get_args(annotation)[0]  # `X | None`
    if annotation is bool:
        options |= {"type": boolean, "metavar": "{0,1}", "nargs": "?", "const": True}
    elif get_origin(annotation) is Literal:
        options["choices"] = get_args(annotation)
    elif get_origin(annotation) is Sequence:
        options["nargs"] = "+"
    if (
        field.default is not None
        and field.default is not False
        and "default" not in options["help"]
    ):
        options["help"] = f"{options['help'].removesuffix('.')} (default: {field.default})."
    return options


def _add_parameters(parser: Parser, kind: str, entry: Entry) -> None:
    """Adds the parameters of a dataset's or a backbone's signature as arguments.

    Raises:
        ConfigError: If a name is taken by another part of the run; names both.
    """
    owner = f"{kind} {entry.name!r}"
    taken = {}
    with parser.section(f"{kind.capitalize()} {entry.name}", owner):
        for parameter in entry.parameters:
            name = parameter.name
            other = parser.owners.get(name, "the run" if name in RESERVED else None)
            if other is None:
                from_dataset = kind == "backbone" and parameter.input_shape is not None
                parser.add_argument(f"--{name}", **_parameter_options(parameter, from_dataset))
            elif not (other == "the run" and name in SHARED):
                taken[name] = other
    if not taken:
        return
    (name, other), *more = taken.items()
    others = ", ".join(f"--{name} ({other})" for name, other in more)
    raise ConfigError(
        f"--{name} would set both a parameter of {owner} ({entry.origin}) and an argument of "
        f"{other}: rename the parameter{f'. The same holds for {others}' if more else ''}. "
        f"Arguments of the run that a parameter may share: {', '.join(SHARED)}"
    )


def _parameter_options(parameter: Parameter, from_dataset: bool) -> dict[str, Any]:
    kind = parameter.type.__name__
    default = "from the dataset's images" if from_dataset else parameter.default
    required = parameter.required and not from_dataset
    text = (parameter.description or kind).removesuffix(".")
    if not required:
        text += f" (default: {default})"
    return {
        "type": _converter(parameter),
        "default": None if from_dataset else parameter.default,
        "required": required,
        "nargs": "+" if parameter.is_list else None,
        "metavar": kind.upper(),
        # Argparse formats help texts with %.
        "help": text.replace("%", "%%") + ".",
    }


def _converter(parameter: Parameter) -> Any:
    if parameter.type is int:
        return any_int if parameter.minimum is None else int_from(int(parameter.minimum))
    if parameter.type is float:
        return finite_float if parameter.minimum is None else float_from(parameter.minimum)
    return boolean if parameter.type is bool else parameter.type


def build_parser(
    model: str | None = None, dataset: str | None = None, backbone: str | None = None
) -> Parser:
    """Returns a parser of the base arguments and of those of the named parts.

    Raises:
        RegistryError: If a name is unknown.
        ConfigError: If two parts define an argument of the same name.
    """
    parser = Parser(prog="python -m mammoth_compiled.run")
    add_base_args(parser)
    if model is not None:
        parser.models_with = _models_with
        entry = models[model]
        target: Any = entry.target
        owner = f"model {entry.name!r}"
        with parser.section(f"Model {entry.name}", owner):
            target.get_parser(parser)
        for name in RESERVED:
            if parser.owners.get(name) == owner:
                raise ConfigError(f"{owner} ({entry.origin}) must not define --{name}: rename it")
    if dataset is not None:
        _add_parameters(parser, "dataset", datasets[dataset])
    if backbone is not None:
        _add_parameters(parser, "backbone", backbones[backbone])
    return parser


def _models_with(argument: str) -> list[str]:
    """Returns the models that have an argument of a name."""
    found = []
    for name in sorted(models):
        parser = Parser()
        target: Any = models[name].target
        with contextlib.suppress(Exception):  # of a user's model that has no part in the run
            target.get_parser(parser)
        if argument in parser.arguments:
            found.append(name)
    return found


def get_avail_args(
    dataset: str | None = None, model: str | None = None, backbone: str | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Returns the required and the optional arguments, each with its description.

    Args:
        dataset: Also list this dataset's arguments.
        model: Also list this model's arguments.
        backbone: Also list this backbone's arguments.

    Returns:
        Two dictionaries by argument name; values hold `description` and, if optional, `default`.

    Raises:
        RegistryError: If a name is unknown.

    Note:
        Differs from mammoth_lite: `lr`, `batch_size` and `n_epochs` are optional, because every
        pair of model and dataset has a setting to start from.
    """
    required, optional = {}, {}
    for name, action in build_parser(model, dataset, backbone).arguments.items():
        description = action.help and action.help.replace("%%", "%")
        if action.required:
            required[name] = {"description": description}
        else:
            optional[name] = {"default": action.default, "description": description}
    return required, optional


def default_backbone(dataset: str) -> str:
    """Returns the name of a dataset's default backbone.

    Raises:
        RegistryError: If the dataset is unknown.
    """
    target: Any = datasets[dataset].target
    name: str = target.get_backbone()
    return name
