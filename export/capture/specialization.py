"""Finds the lines of user code that turn a dynamic size into a Python number."""

import contextlib
import os
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.fx.experimental.sym_node import SymNode


@contextlib.contextmanager
def recorded_specializations() -> Iterator[list[str]]:
    """Yields a list that receives the line of each specialization inside the block.

    `int(x.shape[0] / 4)`, `len(x)` and `for row in x` need a number where torch.export has a
    symbol. It takes the number of the example, so that the program would fit no other batch size,
    and complains only after the capture, when the line is no longer known.
    """
    original: Any = SymNode.guard_int
    lines: list[str] = []

    def guard_int(self: SymNode, *args: Any) -> int:
        where = user_line(traceback.extract_stack())
        if where:
            lines.append(where)
        number: int = original(self, *args)
        return number

    patched: Any = SymNode
    patched.guard_int = guard_int
    try:
        yield lines
    finally:
        patched.guard_int = original


def user_line(frames: Iterable[traceback.FrameSummary]) -> str:
    """Returns the innermost line of user code in a stack, " (file:line: code)", or ""."""
    export = os.path.dirname(os.path.dirname(__file__))
    package = os.path.join(os.path.dirname(export), "mammoth_compiled")
    foreign = (os.path.dirname(torch.__file__), os.path.dirname(os.__file__), export, "<")
    call = os.path.join(package, "backbones", "base.py")
    own = [f for f in frames if not f.filename.startswith(foreign) and f.filename != call]
    return f" ({own[-1].filename}:{own[-1].lineno}: {own[-1].line})" if own else ""
