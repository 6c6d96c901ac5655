import struct

import msgpack as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.drivers.log_intake import msgpack

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES)
def test_values_of_another_library_are_read(value):
    data = reference.packb(value, use_bin_type=True)

    assert msgpack.decode(data) == (value, len(data))
    assert msgpack.Scanner(1 << 20).end(data) == len(data)


@settings(max_examples=50)
@given(st.lists(VALUES, min_size=1, max_size=5), st.integers(1, 50))
def test_scanner_finds_ends_over_any_number_of_reads(values, size):
    packed = [reference.packb(value) for value in values]
    data, scanner, buffer, found = b"".join(packed), msgpack.Scanner(1 << 20), bytearray(), []
    for at in range(0, len(data), size):
        buffer += data[at : at + size]
        while end := scanner.end(buffer):
            found.append(bytes(buffer[:end]))
            del buffer[:end]

    assert found == packed
    assert not buffer


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    try:
        msgpack.decode_all(data)
    except msgpack.BrokenError:
        pass
    try:
        msgpack.Scanner(1 << 16).end(data)
    except msgpack.BrokenError:
        pass


def test_event_time_is_seconds():
    data = b"\xd7\x00" + struct.pack(">II", 1_767_323_045, 500_000_000)

    assert msgpack.decode(data)[0] == 1767323045.5
    assert msgpack.decode(b"\xc7\x08\x00" + data[2:])[0] == 1767323045.5


def test_text_that_is_no_utf8_can_be_encoded_again():
    value, _ = msgpack.decode(b"\xa2a\xff")

    assert value.encode(errors="surrogateescape") == b"a\xff"


@pytest.mark.parametrize(
    "data",
    [b"\xdb\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x00"],
    ids=["text", "list", "map", "extension"],
)
def test_sizes_beyond_reason_are_refused_at_once(data):
    with pytest.raises(msgpack.BrokenError, match="more than"):
        msgpack.Scanner(1 << 20).end(data)
    with pytest.raises(msgpack.BrokenError):
        msgpack.decode(data)


def test_nesting_beyond_reason_is_refused():
    with pytest.raises(msgpack.BrokenError, match="nested"):
        msgpack.decode(b"\x91" * 1000 + b"\xc0")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_what_is_written_is_read_by_another_library(value):
    assert reference.unpackb(msgpack.encode(value)) == value


def test_more_values_than_any_chunk_has_are_refused():
    with pytest.raises(msgpack.BrokenError, match="more than"):
        msgpack.decode_all(b"\x90" * (msgpack.MOST_VALUES + 1))
