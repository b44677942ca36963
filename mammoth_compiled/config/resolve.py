"""Resolves the arguments of a run.

Precedence: given > configuration file > best known setting of (model, dataset) > the model's
`set_defaults` > the dataset's default > the argument's default.
"""

from argparse import Action, Namespace
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mammoth_compiled.config.cli import build_parser, default_backbone
from mammoth_compiled.config.compatibility import check_setting, declared_setting
from mammoth_compiled.config.mammoth_arguments import translate, translated
from mammoth_compiled.config.parser import Parser
from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.config.validate import validate
from mammoth_compiled.errors import ConfigError, shorten
from mammoth_compiled.registry import backbones, datasets, models, normalize_name


@dataclass(frozen=True)
class Resolution:
    """The arguments of a run and where they come from.

    Attributes:
        args: All arguments.
        origins: By name, where the value comes from, for users: "given", "default".
    """

    args: Namespace
    origins: Mapping[str, str]


def resolve(model: str, dataset: str, given: Mapping[str, Any] | Sequence[str]) -> Namespace:
    """Returns all arguments of a run; see `resolve_with_origins`."""
    return resolve_with_origins(model, dataset, given).args


def resolve_with_origins(
    model: str,
    dataset: str,
    given: Mapping[str, Any] | Sequence[str],
    file: Mapping[str, Any] | None = None,
) -> Resolution:
    """Returns all arguments of a run, and where each comes from.

    Args:
        model: Registered name.
        dataset: Registered name.
        given: Values by name, None meaning not given; or the words of a command line.
        file: Values of a configuration file by name, which `given` overrides.

    Raises:
        ConfigError: If an argument is unknown, missing, of the wrong type or out of range.
        RegistryError: If a name is unknown.
    """
    file = file or {}
    backbone = _given_backbone(given)
    if backbone is None:
        backbone = file.get("backbone", default_backbone(dataset))
    parser = build_parser(model, dataset, backbone)
    required = [action for action in parser.arguments.values() if action.required]
    values = parser.read(translate(given, parser.arguments))
    from_file = parser.read(translate(file, parser.arguments))
    names = {
        "model": models[model].name,
        "dataset": datasets[dataset].name,
        "backbone": backbones[backbone].name,
    }
    _reject_other_names(values, names)
    layers = _layers(parser, names, values, from_file)
    merged = {key: value for layer in layers.values() for key, value in layer.items()} | names
    origins = {key: origin for origin, layer in layers.items() for key in layer}
    # First, so that nobody looks up arguments for a run that cannot be.
    is_blurry = bool(merged["blurry"])
    setting = declared_setting(names["dataset"], is_blurry)
    check_setting(names["model"], names["dataset"], setting, is_blurry)
    _check_required(required, merged)
    _adjust(merged, values, from_file)
    args = Namespace(**merged)
    validate(RunConfig.from_namespace(args))
    return Resolution(args, origins)


def _layers(
    parser: Parser,
    names: Mapping[str, str],
    values: Mapping[str, Any],
    from_file: Mapping[str, Any],
) -> dict[str, Mapping[str, Any]]:
    """Returns the values by origin, from low to high precedence."""
    method: Any = models[names["model"]].target
    source: Any = datasets[names["dataset"]].target
    defaults = parser.defaults()
    best = _best_known(method.DEFAULTS.get(names["dataset"], {}), {**from_file, **values})
    # They mean arguments of a method, not parameters of a user's backbone with the same name.
    of_backbone = {name for name, owner in parser.owners.items() if owner.startswith("backbone")}
    shared = defaults.keys() - of_backbone
    from_dataset = defaults.keys() if _is_own_backbone(names) else shared
    return {
        "default": defaults,
        f"default of dataset {names['dataset']}": _known(
            translated(source.DEFAULTS, parser.arguments), from_dataset
        ),
        f"default of model {names['model']}": translated(
            {n: defaults[n] for n in parser.own_defaults}, parser.arguments
        ),
        f"best known: {best.get('source', 'this package')}": _known(best, shared),
        "configuration file": from_file,
        "given": values,
    }


def _check_required(required: Iterable[Action], merged: Mapping[str, Any]) -> None:
    """Raises a ConfigError if a required argument has no value."""
    for action in required:
        if merged.get(action.dest) is None:
            raise ConfigError(
                f"--{action.dest} is required for model {merged['model']!r} on "
                f"{merged['dataset']!r} with backbone {merged['backbone']!r}: "
                f"{action.help or ''}".rstrip(": ")
            )


def _adjust(
    merged: dict[str, Any], values: Mapping[str, Any], from_file: Mapping[str, Any]
) -> None:
    """Sets, in place, the values that follow from others."""
    method: Any = models[merged["model"]].target
    merged["joint"] = merged["joint"] or method.JOINT
    if merged["online"] and method.TRAINS_ON_STREAM:
        if values.get("n_epochs", 1) != 1:
            raise ConfigError("--online 1 is one pass over each task: leave --n_epochs out")
        merged["n_epochs"] = 1
    if "buffer_size" in merged and "minibatch_size" in merged:
        if merged["minibatch_size"] is None:
            merged["minibatch_size"] = merged["batch_size"]
        if "minibatch_size" not in values.keys() | from_file.keys():
            merged["minibatch_size"] = min(merged["minibatch_size"], merged["buffer_size"])


def _reject_other_names(values: Mapping[str, Any], names: Mapping[str, str]) -> None:
    for name in ("model", "dataset"):
        given = values.get(name, names[name])
        if normalize_name(given) != names[name]:
            raise ConfigError(
                f"argument --{name}: {shorten(given)} contradicts the {name} {names[name]!r}, "
                "which is built: give one of them"
            )


def _given_backbone(given: Mapping[str, Any] | Sequence[str]) -> str | None:
    if isinstance(given, Mapping):
        return given.get("backbone")
    parser = Parser()
    parser.add_argument("--backbone")
    values, _ = parser.read_known(given)
    return values.get("backbone")


def _is_own_backbone(names: Mapping[str, str]) -> bool:
    """Returns whether the backbone is the one that the dataset names."""
    try:
        return normalize_name(default_backbone(names["dataset"])) == names["backbone"]
    except NotImplementedError:
        return False


def _known(values: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Returns the values that this run has an argument for."""
    return {name: value for name, value in values.items() if name in known}


def _best_known(
    settings: Mapping[str, Any] | list[dict[str, Any]], given: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Returns the best known setting; of several, the one nearest in buffer size."""
    if not isinstance(settings, list):
        return settings
    wanted = given.get("buffer_size", settings[0].get("buffer_size"))
    return min(settings, key=lambda setting: abs(setting["buffer_size"] - wanted))
