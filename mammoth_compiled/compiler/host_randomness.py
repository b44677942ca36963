"""Refuses to compile functions that draw random numbers with Python.

While Dynamo traces, it runs `random.shuffle`, `random.sample` and the methods of a `random.Random`
once, and every later call repeats what they drew.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_MESSAGE = (
    "it draws random numbers with Python's random, which a compiled graph would repeat. "
    "Draw them with torch"
)
# How Dynamo of PyTorch 2.11 says that it does not trace `random.shuffle` and the like.
_NOT_TRACED = "module: random, qualname: Random."
_is_refused = ContextVar("host_randomness_is_refused", default=False)


class HostRandomnessError(Exception):
    """The traced function draws random numbers with Python."""


@contextmanager
def host_randomness_refused() -> Iterator[None]:
    """Inside, `check_host_randomness` raises an error."""
    token = _is_refused.set(True)
    try:
        yield
    finally:
        _is_refused.reset(token)


def check_host_randomness() -> None:
    """Raises an error if the function that Dynamo has just traced draws with Python.

    A backend calls it before it compiles. Generators that the function creates itself, from a seed,
    draw the same in eager mode.

    Raises:
        HostRandomnessError: Inside `host_randomness_refused`.
    """
    if _is_refused.get() and _has_drawn():
        raise HostRandomnessError(_MESSAGE)


def host_randomness(error: BaseException | None) -> str:
    """Returns the message of a `HostRandomnessError` if Dynamo failed for that reason, else ""."""
    while error is not None:
        if isinstance(error, HostRandomnessError) or _NOT_TRACED in str(error):
            return _MESSAGE
        error = getattr(error, "inner_exception", None) or error.__cause__
    return ""


def _has_drawn() -> bool:
    from torch._dynamo.symbolic_convert import InstructionTranslator
    from torch._dynamo.variables.misc import RandomVariable

    output: Any = InstructionTranslator.current_tx().output
    if any(
        isinstance(getattr(f, "__self__", None), random.Random) for f, *_ in output.random_calls
    ):
        return True
    effects = output.side_effects
    return any(
        isinstance(variable, RandomVariable) and variable.source and effects.is_modified(variable)
        for variable in effects.id_to_variable.values()
    )
