"""Reads the arguments of one or several runs from a YAML file."""

import itertools
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mammoth_compiled.config.schema import SECTIONS
from mammoth_compiled.errors import ConfigError, MammothError, shorten
from mammoth_compiled.reading import read_file

MAX_BYTES = 2**24
# More runs than that in one command are a typing error.
MAX_RUNS = 10_000
# Also of the lists that stand for alternatives.
MAX_VALUES = 100_000
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
        """YAML 1.2's booleans, no silent repetition of a name, and no endless aliases."""

        def get_single_node(self) -> Any:
            node = super().get_single_node()
            _count(node, {})
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [str(key.value) for key, _ in node.value]
            for name in names:
                if names.count(name) > 1:
                    line = node.start_mark.line + 1
                    raise ConfigError(f"{name} is given twice (from line {line})")
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag != _BOOLEAN_TAG]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(_BOOLEAN_TAG, re.compile("^(true|false)$", re.I), list("tTfF"))
    try:
        content = yaml.load(read_file(Path(path), MAX_BYTES).decode(), Loader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {path}: not UTF-8") from error
    except MammothError as error:
        raise ConfigError(f"--config {path}: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"--config {path}: too deeply nested") from error
    # ValueError and TypeError: PyYAML does not check dates and the keys of mappings.
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"--config {path}: not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"--config {path}: must give arguments by name, as in `lr: 0.1`, got the "
            f"{type(content).__name__}"
        )
    return dict(_flat(content, path, keep))


def _count(node: Any, counts: dict[int, float]) -> float:
    """Returns the number of values in a YAML node with its aliases expanded.

    Raises:
        ConfigError: If there are too many: a few lines of aliases can stand for billions.
    """
    if id(node) not in counts:
        counts[id(node)] = math.inf  # for a node that contains itself
        children = node.value if isinstance(getattr(node, "value", None), list) else []
        nodes = [n for child in children for n in (child if isinstance(child, tuple) else [child])]
        counts[id(node)] = 1 + sum(_count(child, counts) for child in nodes)
    if counts[id(node)] > MAX_VALUES:
        line = node.start_mark.line + 1
        raise ConfigError(f"more than {MAX_VALUES:,} values with all aliases (line {line})")
    return counts[id(node)]


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

    Raises:
        ConfigError: If a list is empty, or there are too many combinations.

    Example:
        >>> expand_grid({"lr": [0.1, 0.2], "seed": 0}, lists=())
        [{'lr': 0.1, 'seed': 0}, {'lr': 0.2, 'seed': 0}]
    """
    axes = {name: list(value) for name, value in values.items() if is_axis(name, value, lists)}
    for name, alternatives in axes.items():
        if not alternatives:
            raise ConfigError(f"{name}: an empty list has no alternatives")
    count = math.prod(map(len, axes.values()))
    if count > MAX_RUNS:
        raise ConfigError(
            f"the lists stand for {count:,} runs, at most {MAX_RUNS:,} are allowed: shorten "
            f"{', '.join(axes)}"
        )
    combinations: Iterable[tuple[Any, ...]] = itertools.product(*axes.values())
    return [{**values, **dict(zip(axes, chosen, strict=True))} for chosen in combinations]


def is_axis(name: str, value: Any, lists: Collection[str]) -> bool:
    """Returns whether a value stands for alternatives, see `expand_grid`."""
    if not isinstance(value, list):
        return False
    return name not in lists or any(isinstance(item, list) for item in value)
