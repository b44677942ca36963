"""Finds what is where in a protobuf message, which the protobuf library does not tell."""

from collections import defaultdict
from collections.abc import Sequence

# What follows a field's number: bytes after their number, a number of this many bytes, or else one
# of as many as it takes.
_BYTES, _FIXED = 2, {1: 8, 5: 4}


def find_fields(
    data: Sequence[int], start: int, end: int
) -> defaultdict[int, list[tuple[int, int]]]:
    """Returns where the texts, byte strings and messages in a message are.

    Args:
        data: The bytes.
        start: The first byte of the message.
        end: The byte behind it.

    Returns:
        Number of a field to (first byte, byte behind) of each of its values, in their order.

    Raises:
        ValueError: If it is no message.
    """
    found = defaultdict(list)
    while start < end:
        tag, start = _number(data, start)
        size = 0
        if tag & 7 == _BYTES:
            size, start = _number(data, start)
            found[tag >> 3].append((start, start + size))
        elif tag & 7 in _FIXED:
            size = _FIXED[tag & 7]
        else:
            _, start = _number(data, start)
        start += size
    if start != end:
        raise ValueError("the message is truncated")
    return found


def _number(data: Sequence[int], start: int) -> tuple[int, int]:
    """Reads seven bits from every byte until one says it is the last; also returns what is next."""
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
