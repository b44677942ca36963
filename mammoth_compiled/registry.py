"""Names to models, datasets and backbones, and the arguments their signatures ask for."""

import inspect
import types
import typing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from mammoth_compiled.errors import RegistryError, unknown_name

Target = TypeVar("Target", bound=Callable[..., Any])


@dataclass(frozen=True)
class Parameter:
    """One argument of a registered target beyond those the framework passes itself.

    Attributes:
        name: Name of the argument.
        type: Type of one value.
        default: Default value; None where `required`.
        required: True if the signature gives no default.
        is_list: True if the argument takes several values.
    """

    name: str
    type: type
    default: Any = None
    required: bool = False
    is_list: bool = False


@dataclass(frozen=True)
class Entry:
    """A registered name: its target (a class or a function) and the target's parameters."""

    name: str
    target: Callable[..., Any]
    parameters: tuple[Parameter, ...]

    @property
    def summary(self) -> str:
        """First line of the target's docstring."""
        return (inspect.getdoc(self.target) or "").split("\n")[0]

    @property
    def origin(self) -> str:
        """Module and qualified name of the target."""
        return origin(self.target)


class Registry:
    """The registered names of one kind: models, datasets or backbones.

    Args:
        kind: What the names are, for messages.
        reserved: Parameters that the framework passes itself and nobody needs to set.
        classes_only: True if a function cannot be registered.
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
            name: The name; case and '_' against '-' do not matter.

        Raises:
            RegistryError: If `name` is no name or the target cannot be called.
        """
        if not isinstance(name, str) or not name.strip():
            raise RegistryError(
                f"a {self.kind} is registered with a name, as in "
                f"@register_{self.kind}('my-{self.kind}'), not with {name!r}"
            )
        key = normalise(name)

        def decorate(target: Target) -> Target:
            if not callable(target) or (self._classes_only and not isinstance(target, type)):
                valid = "a class" if self._classes_only else "a class or a function"
                raise RegistryError(
                    f"{self.kind} {key!r}: only {valid} can be registered, "
                    f"not a {type(target).__name__}"
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
        """Returns the entry of `name`.

        Raises:
            RegistryError: If nothing is registered under it; lists the valid names.
        """
        entry = self._entries.get(normalise(name)) if isinstance(name, str) else None
        if entry is None:
            raise RegistryError(unknown_name(self.kind, name, self._entries))
        return entry

    def __contains__(self, name: str) -> bool:
        return normalise(name) in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._entries))

    def listing(self, names_only: bool = False) -> dict[str, dict[str, Any]] | list[str]:
        """Returns the names, or for each name its target and its parameters."""
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


def normalise(name: str) -> str:
    """Returns the key of a name: lower case, '-' for '_'."""
    return name.strip().replace("_", "-").lower()


def origin(target: Callable[..., Any]) -> str:
    """Returns module and qualified name of a class or function."""
    return f"{target.__module__}.{getattr(target, '__qualname__', type(target).__qualname__)}"


def infer_parameters(
    target: Callable[..., Any], reserved: tuple[str, ...]
) -> tuple[Parameter, ...]:
    """Reads the settable parameters from a signature.

    The type comes from the annotation, else from the default, else it is `str`. Names that start
    with an underscore, `*args` and `**kwargs` are skipped.

    Args:
        target: A class or a function.
        reserved: Names to skip.
    """
    try:
        signature = inspect.signature(target, eval_str=True)
    except NameError:  # an annotation that only a type checker can resolve
        signature = inspect.signature(target)
    parameters = []
    for p in signature.parameters.values():
        if (
            p.name in reserved
            or p.name.startswith("_")
            or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ):
            continue
        required = p.default is p.empty
        default = None if required else p.default
        kind, is_list = _value_type(p.annotation, default)
        parameters.append(Parameter(p.name, kind, default, required, is_list))
    return tuple(parameters)


def _value_type(annotation: Any, default: Any) -> tuple[type, bool]:
    """Returns (type of one value, whether several are taken)."""
    options = [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(annotation) if a is not type(None)]
    for option in options:
        if option in (int, float, str, bool):
            return option, False
        if typing.get_origin(option) in (list, tuple) or option in (list, tuple):
            args = [a for a in typing.get_args(option) if a in (int, float, str, bool)]
            if args:
                return args[0], True
    if isinstance(default, (list, tuple)):
        return (type(default[0]) if default else str), True
    if isinstance(default, (int, float, str, bool)):
        return type(default), False
    return str, False


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

    Arguments other than `num_classes` are read from the signature; they can be set on the command
    line and in `load_runner`'s dictionary.
    """
    return backbones.register(name)


def get_model_names(names_only: bool = False) -> dict[str, dict[str, Any]] | list[str]:
    """Returns the registered models: a list of names, or a dictionary with their details."""
    return models.listing(names_only)


def get_dataset_names(names_only: bool = False) -> dict[str, dict[str, Any]] | list[str]:
    """Returns the registered datasets: a list of names, or a dictionary with their details."""
    return datasets.listing(names_only)


def get_backbone_names(names_only: bool = False) -> dict[str, dict[str, Any]] | list[str]:
    """Returns the registered backbones: a list of names, or a dictionary with their details."""
    return backbones.listing(names_only)
