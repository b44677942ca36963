"""Infers command-line arguments from the signature of a registered class or function."""

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any

_PLAIN_TYPES = (int, float, str, bool)


class InputShape(Enum):
    """What a parameter of a backbone means in terms of the dataset's images, [C, H, W].

    The parameters `in_channels` and `input_size` are `CHANNELS` and `SIZE`. Others say it with an
    annotation: `in_features: Annotated[int, InputShape.FLAT]`.

    Attributes:
        CHANNELS: C.
        SIZE: H, which must equal W; (H, W) if the parameter is a list or a tuple.
        FLAT: C * H * W.
    """

    CHANNELS = "channels"
    SIZE = "size"
    FLAT = "flat"


@dataclass(frozen=True)
class Minimum:
    """The smallest valid value of a number: `num_filters: Annotated[int, Minimum(1)]`."""

    value: float


_BY_NAME = {"in_channels": InputShape.CHANNELS, "input_size": InputShape.SIZE}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a registered target that users may set.

    Attributes:
        name: Name of the parameter.
        type: Type of one value.
        default: Default value; None if `required`.
        required: True if the signature gives no default.
        is_list: True if the parameter takes several values.
        input_shape: What it means in terms of the input images, None if unrelated to them.
        minimum: Smallest valid value, None if there is none.
        description: Its entry in the docstring, "" if there is none.
    """

    name: str
    type: type
    default: Any = None
    required: bool = False
    is_list: bool = False
    input_shape: InputShape | None = None
    minimum: float | None = None
    description: str = ""


def infer_parameters(target: Callable[..., Any], reserved: Iterable[str]) -> tuple[Parameter, ...]:
    """Returns the parameters of a signature that users may set.

    The type comes from the annotation, else from the default, else it is `str`. Names that start
    with an underscore, `*args` and `**kwargs` are skipped.

    Args:
        target: A class or a function.
        reserved: Names of the parameters that the framework passes.
    """
    try:
        signature = inspect.signature(target, eval_str=True)
    except NameError:  # an annotation that exists only for type checkers
        signature = inspect.signature(target)
    # A function often returns a class that documents the parameters.
    descriptions = _descriptions(signature.return_annotation) | _descriptions(target)
    return tuple(
        replace(_parameter(parameter), description=descriptions.get(parameter.name, ""))
        for parameter in signature.parameters.values()
        if parameter.name not in reserved
        and not parameter.name.startswith("_")
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    )


def _parameter(parameter: inspect.Parameter) -> Parameter:
    annotation, input_shape = parameter.annotation, _BY_NAME.get(parameter.name)
    minimum = None
    if typing.get_origin(annotation) is Annotated:
        annotation, *notes = typing.get_args(annotation)
        input_shape = next((n for n in notes if isinstance(n, InputShape)), input_shape)
        minimum = next((n.value for n in notes if isinstance(n, Minimum)), None)
    if minimum is None and input_shape is not None:
        minimum = 1  # no image has fewer channels or pixels
    required = parameter.default is parameter.empty
    default = None if required else parameter.default
    kind, is_list = _value_type(annotation, default)
    return Parameter(parameter.name, kind, default, required, is_list, input_shape, minimum)


def _descriptions(target: Any) -> dict[str, str]:
    """Returns the entries of the `Args:` section of a docstring, by parameter name."""
    if not callable(target) or target is inspect.Signature.empty:
        return {}
    section = re.search(r"^Args:\n((?:[ ]+.*\n|\n)*)", f"{inspect.getdoc(target)}\n", re.MULTILINE)
    if section is None:
        return {}
    entries = re.split(r"^ {4}(\w+):", section[1], flags=re.MULTILINE)[1:]
    return {
        name: " ".join(text.split()) for name, text in zip(entries[::2], entries[1::2], strict=True)
    }


def _value_type(annotation: Any, default: Any) -> tuple[type, bool]:
    """Returns the type of one value, and whether there may be several."""
    options = [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(annotation) if option is not type(None)]
    for option in options:
        if option in _PLAIN_TYPES:
            return option, False
        if typing.get_origin(option) in (list, tuple):
            items = [item for item in typing.get_args(option) if item in _PLAIN_TYPES]
            if items:
                return items[0], True
    if isinstance(default, (list, tuple)):
        return (type(default[0]) if default else str), True
    if isinstance(default, _PLAIN_TYPES):
        return type(default), False
    return str, False
