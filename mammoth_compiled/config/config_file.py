"""Reads the arguments of one or several runs from a YAML file."""

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mammoth_compiled.config.schema import SECTIONS
from mammoth_compiled.errors import ConfigError, shorten

_BOOLEAN_TAG = "tag:yaml.org,2002:bool"


def read_config_file(path: str, keep: Collection[str] = ()) -> dict[str, Any]:
    """Returns the arguments in a YAML file, by name.

    They may stand in sections named as those of the schema (`optimizer:`), which do not matter.
    Booleans are `true` and `false`; `on` and `off` are texts, as in `compile: off`.

    Args:
        path: The file.
        keep: Sections of other programs, which are returned as they are.

    Raises:
        ConfigError: If it cannot be read or is not a mapping of names to values.
    """
    import yaml  # here, because few runs need it

    class Loader(yaml.SafeLoader):
        """YAML 1.2's booleans, and no silent repetition of a name."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value]
            for name in names:
                if names.count(name) > 1:
                    line = node.start_mark.line + 1
                    raise ConfigError(f"--config {path}: {name} is given twice (from line {line})")
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag != _BOOLEAN_TAG]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(_BOOLEAN_TAG, re.compile("^(true|false)$", re.I), list("tTfF"))
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(f"--config {path}: {reason}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path}: not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"--config {path}: must give arguments by name, as in `lr: 0.1`, got a "
            f"{type(content).__name__}"
        )
    return dict(_flat(content, path, keep))


def _flat(
    content: Mapping[Any, Any], path: str, keep: Collection[str]
) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if not isinstance(name, str):
            raise ConfigError(f"--config {path}: {shorten(name)} is not the name of an argument")
        if name in (*SECTIONS, "extra") and isinstance(value, Mapping):
            yield from _flat(value, path, keep)
        elif isinstance(value, Mapping) and not (keep and (name in keep or "low" in value)):
            raise ConfigError(
                f"--config {path}: {shorten(name)} is not a section; valid: "
                f"{', '.join(SECTIONS)}, extra"
            )
        else:
            yield name, value


def expand_grid(values: Mapping[str, Any], lists: Collection[str]) -> list[dict[str, Any]]:
    """Returns the arguments of each run of a grid.

    Args:
        values: Arguments by name; a list stands for alternatives.
        lists: Arguments that take several values; alternatives of those are lists of lists.

    Returns:
        One dictionary for every combination, the last argument varying fastest.

    Example:
        >>> expand_grid({"lr": [0.1, 0.2], "seed": 0}, lists=())
        [{'lr': 0.1, 'seed': 0}, {'lr': 0.2, 'seed': 0}]
    """
    axes = {name: list(value) for name, value in values.items() if is_axis(name, value, lists)}
    for name, alternatives in axes.items():
        if not alternatives:
            raise ConfigError(f"{name}: an empty list has no alternatives")
    combinations: Iterable[tuple[Any, ...]] = itertools.product(*axes.values())
    return [{**values, **dict(zip(axes, chosen, strict=True))} for chosen in combinations]


def is_axis(name: str, value: Any, lists: Collection[str]) -> bool:
    """Returns whether a value stands for alternatives, see `expand_grid`."""
    if not isinstance(value, list):
        return False
    return name not in lists or any(isinstance(item, list) for item in value)
