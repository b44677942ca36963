"""The registered models, datasets and backbones, by name."""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from mammoth_compiled.errors import RegistryError, unknown_name
from mammoth_compiled.signatures import Parameter, infer_parameters

Target = TypeVar("Target", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """A registered class or function.

    Attributes:
        name: Its name, lower case with hyphens.
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
        self._entries: dict[str, Entry] = {}

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
            old = self._entries.get(key)
            if old is not None and old.origin != origin(target):
                warnings.warn(
                    f"{self.kind} {key!r} was {old.origin} and is now {origin(target)}",
                    stacklevel=2,
                )
            self._entries[key] = Entry(key, target, infer_parameters(target, self._reserved))
            target.NAME = key  # type: ignore[attr-defined]
            return target

        return decorate

    def __getitem__(self, name: str) -> Entry:
        """Returns the entry of a name.

        Raises:
            RegistryError: If the name is not registered; lists the valid names.
        """
        entry = self._entries.get(normalize_name(name)) if isinstance(name, str) else None
        if entry is None:
            raise RegistryError(unknown_name(self.kind, name, self._entries))
        return entry

    def __contains__(self, name: str) -> bool:
        return normalize_name(name) in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._entries))

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Undoes at exit what is registered inside the block."""
        before = dict(self._entries)
        try:
            yield
        finally:
            self._entries = before

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


def get_model_names(names_only: bool = False) -> dict[str, dict[str, Any]] | list[str]:
    """Returns the registered models: their names, or a dictionary of class and arguments."""
    return models.listing(names_only)


def get_dataset_names(names_only: bool = False) -> dict[str, dict[str, Any]] | list[str]:
    """Returns the registered datasets: their names, or a dictionary of class and arguments."""
    return datasets.listing(names_only)


def get_backbone_names(names_only: bool = False) -> dict[str, dict[str, Any]] | list[str]:
    """Returns the registered backbones: their names, or a dictionary of class and arguments."""
    return backbones.listing(names_only)
