"""The implementations of an operation as an ordered list, which everything consults.

Operators, the compiler's patterns, the autotuner and `--explain` ask each implementation the same
two questions: can it take these arguments, and is it known to be slower than another one?
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


def _never(*_: Any) -> str:
    return ""


@dataclass(frozen=True)
class Implementation:
    """An implementation of an operation.

    All implementations of an operation take the same arguments. So do `why_not` and `why_slow`,
    with real or fake tensors.

    Attributes:
        name: Its name in tables of measurements.
        description: What it is, for reports.
        function: Computes the operation.
        device_type: The only type of device it is for, "" for all.
        why_not: Returns why it cannot take the arguments, "" if it can.
        why_slow: Returns why another implementation is known to be faster for the arguments, "" if
            it may be the fastest.
    """

    name: str
    description: str
    function: Callable[..., Any]
    device_type: str = ""
    why_not: Callable[..., str] = _never
    why_slow: Callable[..., str] = _never

    def is_for(self, device: torch.device) -> bool:
        """Returns whether it is for this type of device."""
        return self.device_type in ("", device.type)


def usable(
    implementations: Sequence[Implementation], device: torch.device, *args: Any
) -> tuple[list[Implementation], list[str]]:
    """Splits the implementations for a device by whether they should be considered.

    Args:
        implementations: In order of preference.
        device: Device of the arguments.
        *args: Arguments of the operation, as real or fake tensors.

    Returns:
        Those that can take the arguments and may be the fastest, in order, and the reasons of the
        others that are for this device.
    """
    found, reasons = [], []
    for implementation in implementations:
        if implementation.is_for(device):
            # In this order, since `why_not` may have to build the C++ library first.
            reason = implementation.why_slow(*args) or implementation.why_not(*args)
            if reason:
                reasons.append(reason)
            else:
                found.append(implementation)
    return found, reasons


def capable(
    implementations: Sequence[Implementation], device: torch.device, *args: Any
) -> list[Implementation]:
    """Returns the implementations for a device that can take the arguments, fast or not."""
    return [i for i in implementations if i.is_for(device) and not i.why_not(*args)]
