"""How a field of the configuration becomes an argument of the command line."""

from collections.abc import Callable
from dataclasses import field
from typing import Any


def argument(
    default: Any,
    help: str,
    parse: Callable[[str], Any] | None = None,
    metavar: str | None = None,
    required: bool = False,
    bare: Any = None,
) -> Any:
    """Declares a field that is also a command-line argument.

    Booleans, choices (`Literal`) and lists are recognized by the field's annotation.

    Args:
        default: Its default value.
        help: Its help text.
        parse: Converts the text of one value; None for booleans and choices.
        metavar: Placeholder of its value in the help.
        required: True if every command line must give it.
        bare: Its value if the flag is given without one; None if it needs one.
    """
    metadata = {"help": help, "type": parse, "metavar": metavar, "required": required}
    if bare is not None:
        metadata |= {"nargs": "?", "const": bare}
    return field(default=default, metadata=metadata)
