"""A problem that a kernel's launcher is called with on paper, to compile and count it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One call of a launcher.

    Attributes:
        name: Shape and dtype, for messages.
        call: Calls the launchers with tensors on the meta device.
    """

    name: str
    call: Callable[[], object]
