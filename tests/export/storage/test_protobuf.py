"""Fields are located in serialized protobuf messages."""

import pytest

from mammoth_compiled.export.storage.protobuf import find_fields


def test_find_fields():
    # Field 1: the varint 300; 2: eight bytes; 3: four bytes; 4, twice: byte strings of 2 and 200.
    long = b"x" * 200
    data = b"\x08\xac\x02\x11" + b"a" * 8 + b"\x1d" + b"b" * 4 + b"\x22\x02hi\x22\xc8\x01" + long
    spans = find_fields(b"??" + data, 2, 2 + len(data))
    assert list(spans) == [4]
    assert [(b"??" + data)[a:b] for a, b in spans[4]] == [b"hi", long]
    assert find_fields(data, 0, 0) == {}
    with pytest.raises(ValueError, match="truncated"):
        find_fields(data, 0, len(data) - 1)
