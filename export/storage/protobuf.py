"""Locates fields in serialized protobuf messages, for which the protobuf library has no API.

Source: https://protobuf.dev/programming-guides/encoding
"""

from collections import defaultdict
from collections.abc import Sequence

# Wire types: length-delimited, and those of fixed size with their size in bytes. Every other field
# is a varint.
_LENGTH_DELIMITED, _FIXED = 2, {1: 8, 5: 4}


def find_fields(
    data: Sequence[int], start: int, end: int
) -> defaultdict[int, list[tuple[int, int]]]:
    """Locates the strings, byte strings and submessages of a message.

    Args:
        data: The bytes that hold the message.
        start: Offset of its first byte.
        end: Offset after its last byte.

    Returns:
        Field number to the (start, end) offsets of each of its values, in their order.

    Raises:
        ValueError: If the bytes are not a message.
    """
    found = defaultdict(list)
    while start < end:
        tag, start = _read_varint(data, start)
        size = 0
        if tag & 7 == _LENGTH_DELIMITED:
            size, start = _read_varint(data, start)
            found[tag >> 3].append((start, start + size))
        elif tag & 7 in _FIXED:
            size = _FIXED[tag & 7]
        else:
            _, start = _read_varint(data, start)
        start += size
    if start != end:
        raise ValueError("the message is truncated")
    return found


def _read_varint(data: Sequence[int], start: int) -> tuple[int, int]:
    """Returns a varint and the offset after it."""
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
