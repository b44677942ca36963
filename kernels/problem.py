"""A problem that a kernel's launcher is called with on paper, and the work that it is."""

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


@dataclass(frozen=True)
class Work:
    """What an operation cannot do without; the roofline of a chip makes a time of it.

    Attributes:
        bytes_moved: Bytes read from and written to memory.
        operations: Additions and multiplications.
    """

    bytes_moved: int
    operations: int
