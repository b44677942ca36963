"""Finds the lines of user code that hold for some batch sizes only."""

import contextlib
import os
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.printers import PythonPrinter

# Batch sizes that a guard is tried with; torch's own guards fail at 26 rows, for instance.
_TRIED = (*range(2, 65), 100, 128, 200, 256, 1000, 1024)


@dataclass(frozen=True)
class Guard:
    """A condition on the batch size that torch.export needs to capture a line of code.

    Attributes:
        condition: The condition, such as `batch <= 4`; "" if the code takes the size as a number.
        where: The line of user code, " (file:line: code)".
    """

    condition: str
    where: str


class Guards:
    """The guards of a capture, in the order in which they were needed."""

    def __init__(self) -> None:
        self._found: dict[sympy.Basic, tuple[Any, str]] = {}

    def add(self, expression: sympy.Basic, value: Any) -> None:
        """Notes that an expression was evaluated in the current line of user code."""
        if expression not in self._found and expression.free_symbols:
            where = user_line(traceback.extract_stack())
            if where:
                self._found[expression] = value, where

    def culprit(self) -> Guard | None:
        """Returns the first guard that does not hold for all batch sizes, None if all do."""
        for expression, (value, where) in self._found.items():
            if len(expression.free_symbols) == 1 and self._is_violated(expression, value):
                return Guard(_condition(expression, value), where)
        return None

    def _is_violated(self, expression: sympy.Basic, value: Any) -> bool:
        (symbol,) = expression.free_symbols
        with contextlib.suppress(Exception):  # a guard may divide by zero for some sizes
            return any(expression.subs(symbol, size) != value for size in _TRIED)
        return False


def _condition(expression: sympy.Basic, value: Any) -> str:
    if not isinstance(value, (bool, sympy.logic.boolalg.BooleanAtom)):
        return ""
    (symbol,) = expression.free_symbols
    holds = expression if value else sympy.Not(expression)
    batch = sympy.Symbol("batch", integer=True, positive=True)
    return str(PythonPrinter().doprint(holds.subs(symbol, batch)))


@contextlib.contextmanager
def recorded_guards() -> Iterator[Guards]:
    """Yields the guards that torch.export needs inside the block.

    `if x.shape[0] > 4` and `len(x)` need a truth or a number where torch.export has a symbol. It
    takes that of the example, so that the program would fit no other batch size, and complains only
    after the capture, when the line is no longer known.
    """
    original: Any = ShapeEnv.evaluate_expr
    guards = Guards()

    def evaluate_expr(self: ShapeEnv, expression: Any, *args: Any, **kwargs: Any) -> Any:
        value = original(self, expression, *args, **kwargs)
        guards.add(expression, value)
        return value

    patched: Any = ShapeEnv
    patched.evaluate_expr = evaluate_expr
    try:
        yield guards
    finally:
        patched.evaluate_expr = original


def user_line(frames: Iterable[traceback.FrameSummary]) -> str:
    """Returns the innermost line of user code in a stack, " (file:line: code)", or ""."""
    export = os.path.dirname(os.path.dirname(__file__))
    package = os.path.join(os.path.dirname(export), "mammoth_compiled")
    foreign = (os.path.dirname(torch.__file__), os.path.dirname(os.__file__), export, "<")
    call = os.path.join(package, "backbones", "base.py")
    own = [f for f in frames if not f.filename.startswith(foreign) and f.filename != call]
    return f" ({own[-1].filename}:{own[-1].lineno}: {own[-1].line})" if own else ""
