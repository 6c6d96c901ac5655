"""The framing of `application/vnd.amazon.eventstream`, in which streamed invocations are answered.

A message is: total length, length of the headers, CRC-32 of these two, headers, payload, CRC-32 of everything
before; all numbers are big endian with four bytes. A header is: length of the name (one byte), name, type 7
(text), length of the value (two bytes), value. Used by `invoke_api.py`. Pure.
Source: `faas-conventions` contract, section 2.5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Final

__all__ = ["MEDIA_TYPE", "message", "parse"]

MEDIA_TYPE: Final = "application/vnd.amazon.eventstream"
_TEXT: Final = 7
_PRELUDE: Final = struct.Struct(">II")
_NUMBER: Final = struct.Struct(">I")
_SHORT: Final = struct.Struct(">H")
_OVERHEAD_BYTES: Final = 16


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Return one message.

    Args:
        headers: Name -> value, e.g. `:event-type`; names have at most 255 bytes, values 32,767.
        payload: Payload, at most 16 MiB.
    """
    parts = []
    for name, value in headers.items():
        raw_name, raw_value = name.encode(), value.encode()
        parts.append(
            bytes((len(raw_name),)) + raw_name + bytes((_TEXT,)) + _SHORT.pack(len(raw_value)) + raw_value
        )
    head = b"".join(parts)
    prelude = _PRELUDE.pack(_OVERHEAD_BYTES + len(head) + len(payload), len(head))
    whole = prelude + _NUMBER.pack(zlib.crc32(prelude)) + head + payload
    return whole + _NUMBER.pack(zlib.crc32(whole))


def parse(data: bytes) -> list[tuple[dict[str, str], bytes]]:
    """Return the messages of a whole stream as (headers, payload).

    Raises:
        ValueError: A checksum is wrong, a message is cut off, or a header is no text.
    """
    found = []
    while data:
        if len(data) < _OVERHEAD_BYTES:
            raise ValueError("a message is cut off")
        total, head_length = _PRELUDE.unpack_from(data)
        if total < _OVERHEAD_BYTES + head_length or total > len(data):
            raise ValueError("a message is cut off")
        if _NUMBER.unpack_from(data, 8)[0] != zlib.crc32(data[:8]):
            raise ValueError("the checksum of a prelude is wrong")
        if _NUMBER.unpack_from(data, total - 4)[0] != zlib.crc32(data[: total - 4]):
            raise ValueError("the checksum of a message is wrong")
        found.append((_headers(data[12 : 12 + head_length]), data[12 + head_length : total - 4]))
        data = data[total:]
    return found


def _headers(data: bytes) -> dict[str, str]:
    found = {}
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        name = data[at + 1 : end].decode()
        if data[end] != _TEXT:
            raise ValueError(f"the header {name} is no text")
        length = _SHORT.unpack_from(data, end + 1)[0]
        found[name] = data[end + 3 : end + 3 + length].decode()
        at = end + 3 + length
    return found
