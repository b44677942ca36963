"""The registered models, datasets and backbones, by name.

The built-in parts register themselves when they are imported, which takes seconds; the first look
at a registry imports them.
"""

import contextlib
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from mammoth_compiled.errors import RegistryError, unknown_name
from mammoth_compiled.signatures import Parameter, infer_parameters

_PACKAGE = "mammoth_compiled"
Target = TypeVar("Target", bound=Callable[..., Any])


@dataclass(frozen=True)
class Family:
    """Names that one function resolves, `PREFIX:NAME`, such as all networks of a library.

    Attributes:
        prefix: What the names start with, before the colon.
        find: Returns the library's own spelling of a name and its target, or raises
            `RegistryError`.
    """

    prefix: str
    find: Callable[[str], tuple[str, Callable[..., Any]]]

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.find) or "").split("\n")[0]


@dataclass(frozen=True)
class Entry:
    """A registered class or function.

    Attributes:
        name: Its name, lower case with hyphens; that of a family in the library's own spelling.
        target: The class or function.
        parameters: The parameters that users may set.
    """

    name: str
    target: Callable[..., Any]
    parameters: tuple[Parameter, ...]

    @property
    def summary(self) -> str:
        """The first line of the target's docstring."""
        return (inspect.getdoc(self.target) or "").split("\n")[0]

    @property
    def origin(self) -> str:
        """The target's module and qualified name."""
        return origin(self.target)


class Registry:
    """The registered names of one kind: models, datasets or backbones.

    Args:
        kind: The kind, for messages.
        reserved: Names of the parameters that the framework passes.
        classes_only: True if functions cannot be registered.
    """

    def __init__(self, kind: str, reserved: tuple[str, ...], classes_only: bool) -> None:
        self.kind = kind
        self._reserved = reserved
        self._classes_only = classes_only
        self._own_entries: dict[str, Entry] = {}
        self._own_families: dict[str, Family] = {}

    @property
    def _entries(self) -> dict[str, Entry]:
        _import_built_in_parts()
        return self._own_entries

    @property
    def _families(self) -> dict[str, Family]:
        _import_built_in_parts()
        return self._own_families

    def register(self, name: str) -> Callable[[Target], Target]:
        """Returns a decorator that registers a class or a function under `name`.

        Registering a name again replaces it: silently if the target has the same module and
        qualified name (a notebook cell run twice), with a warning that names both otherwise.

        Args:
            name: The name. Case is ignored, and `_` equals `-`.

        Raises:
            RegistryError: If `name` is not a name or the target is not callable.
        """
        if not isinstance(name, str) or not name.strip():
            raise RegistryError(
                f"register a {self.kind} with a name, as in "
                f"@register_{self.kind}('my-{self.kind}'); got {name!r}"
            )
        key = normalize_name(name)

        def decorate(target: Target) -> Target:
            if not callable(target) or (self._classes_only and not isinstance(target, type)):
                valid = "a class" if self._classes_only else "a class or a function"
                raise RegistryError(
                    f"{self.kind} {key!r}: only {valid} can be registered, "
                    f"got a {type(target).__name__}"
                )
            if not str(target.__module__).startswith(f"{_PACKAGE}."):
                _import_built_in_parts()  # so that user code replaces them, not the reverse
            old = self._own_entries.get(key)
            if old is not None and old.origin != origin(target):
                warnings.warn(
                    f"{self.kind} {key!r} was {old.origin} and is now {origin(target)}",
                    stacklevel=2,
                )
            self._own_entries[key] = Entry(key, target, infer_parameters(target, self._reserved))
            target.NAME = key  # type: ignore[attr-defined]
            return target

        return decorate

    def register_family(self, prefix: str) -> Callable[[Target], Target]:
        """Returns a decorator that registers a function as a `Family` of names."""

        def decorate(find: Target) -> Target:
            self._own_families[prefix] = Family(prefix, find)
            return find

        return decorate

    @property
    def families(self) -> list[Family]:
        """The families of names, which `iter` does not list."""
        return list(self._families.values())

    def __getitem__(self, name: str) -> Entry:
        """Returns the entry of a name.

        Raises:
            RegistryError: If the name is not registered; lists the valid names.
        """
        key = normalize_name(name) if isinstance(name, str) else ""
        prefix, _, rest = key.partition(":")
        if key in self._entries:
            return self._entries[key]
        if rest and prefix in self._families:
            found, target = self._families[prefix].find(rest)
            name = f"{prefix}:{found}"
            return Entry(name, target, infer_parameters(target, self._reserved))
        valid = [*self._entries, *(f"{prefix}:NAME" for prefix in self._families)]
        raise RegistryError(unknown_name(self.kind, name, valid))

    def __contains__(self, name: str) -> bool:
        try:
            return bool(self[name])
        except RegistryError:
            return False

    def __iter__(self) -> Iterator[str]:
        """Yields the registered names, without those of families."""
        return iter(list(self._entries))

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Undoes at exit what is registered inside the block."""
        before = dict(self._entries), dict(self._families)
        try:
            yield
        finally:
            self._own_entries, self._own_families = before

    def listing(self, names_only: bool = False) -> dict[str, dict[str, Any]] | list[str]:
        """Returns the names, or a dictionary with the class and the arguments of each."""
        if names_only:
            return list(self._entries)
        return {
            name: {
                "class": entry.target,
                "parsable_args": {
                    p.name: {"type": p.type, "default": p.default, "required": p.required}
                    for p in entry.parameters
                },
            }
            for name, entry in self._entries.items()
        }


def _import_built_in_parts() -> None:
    importlib.import_module(f"{_PACKAGE}.public")


def normalize_name(name: str) -> str:
    """Returns a name in lower case, with hyphens for underscores."""
    return name.strip().replace("_", "-").lower()


def origin(target: Callable[..., Any]) -> str:
    """Returns the module and qualified name of a class or function."""
    return f"{target.__module__}.{getattr(target, '__qualname__', type(target).__qualname__)}"


models = Registry(
    "model",
    reserved=("self", "backbone", "loss", "args", "transform", "dataset"),
    classes_only=True,
)
datasets = Registry("dataset", reserved=("self", "args"), classes_only=True)
backbones = Registry("backbone", reserved=("self", "num_classes"), classes_only=False)


def register_model(name: str) -> Callable[[Target], Target]:
    """Registers a `ContinualModel` class under `name`."""
    return models.register(name)


def register_dataset(name: str) -> Callable[[Target], Target]:
    """Registers a `ContinualDataset` class under `name`."""
    return datasets.register(name)


def register_backbone(name: str) -> Callable[[Target], Target]:
    """Registers a `MammothBackbone` class, or a function that returns one, under `name`.

    Parameters other than `num_classes` become arguments of the command line and of `load_runner`.
    `in_channels` and `input_size` (height and width) are taken from the dataset unless given; see
    `mammoth_compiled.signatures.InputShape`.

    Example:
        >>> from mammoth_compiled import register_backbone
        >>> from mammoth_compiled.backbones.cnn import CNN
        >>> @register_backbone("small-cnn")
        ... def small_cnn(num_classes, num_channels: int = 8, in_channels: int = 3):
        ...     return CNN(num_classes, num_channels, in_channels=in_channels)
    """
    return backbones.register(name)


def register_backbone_family(prefix: str) -> Callable[[Target], Target]:
    """Registers a function that finds backbones by name, `PREFIX:NAME`; see `Family`.

    Example:
        >>> from mammoth_compiled.registry import backbones, register_backbone_family
        >>> from mammoth_compiled.backbones.cnn import cnn
        >>> @register_backbone_family("my")
        ... def find(name):
        ...     return name, lambda num_classes: cnn(num_classes, num_channels=int(name))
        >>> backbones["my:16"].name
        'my:16'
    """
    return backbones.register_family(prefix)


def get_model_names(names_only: bool = False) -> dict[str, dict[str, Any]] | list[str]:
    """Returns the registered models: their names, or a dictionary of class and arguments."""
    return models.listing(names_only)


def get_dataset_names(names_only: bool = False) -> dict[str, dict[str, Any]] | list[str]:
    """Returns the registered datasets: their names, or a dictionary of class and arguments."""
    return datasets.listing(names_only)


def get_backbone_names(names_only: bool = False) -> dict[str, dict[str, Any]] | list[str]:
    """Returns the registered backbones: their names, or a dictionary of class and arguments."""
    return backbones.listing(names_only)
