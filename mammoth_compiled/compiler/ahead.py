"""Compiling a call before it is made, so that its C++ kernels compile beside those of others."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

_compiles_ahead = ContextVar("compiles_ahead", default=False)


class NotComputed(BaseException):
    """Ends a call that is compiled ahead, in place of its result."""


@contextlib.contextmanager
def compiling_ahead() -> Iterator[None]:
    """Calls of functions for the backend "mammoth" inside are compiled, but compute nothing.

    The first one ends the block. Its kernels compile in the background.
    """
    token = _compiles_ahead.set(True)
    try:
        yield
    except NotComputed:
        pass
    finally:
        _compiles_ahead.reset(token)


def compiles_ahead() -> bool:
    """Returns whether calls compute nothing; see `compiling_ahead`."""
    return _compiles_ahead.get()


def computed_later(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a compiled function that computes only when it is not called ahead."""

    def compute(*args: Any) -> Any:
        if compiles_ahead():
            raise NotComputed
        return compiled(*args)

    return compute
