"""MessagePack as log shippers send it: one value after the other, no frames, texts that may be no UTF-8.

A Scanner finds where a value ends, over any number of reads and without reading a byte twice; `decode` reads
one that is complete. Both refuse what is nested or sized beyond reason. Pure.
Source: the MessagePack specification; `log-notification` contract, section 2.3 (EventTime).
"""

from __future__ import annotations

import struct
from typing import Any, Final

__all__ = ["DEEPEST", "MOST_VALUES", "BrokenError", "Scanner", "decode", "decode_all", "encode"]

DEEPEST: Final = 64
MOST_VALUES: Final = 500_000
"""Values that follow one another in a body or chunk: a compressed one of some KB could hold many millions."""


class BrokenError(ValueError):
    """It is no MessagePack, or larger or deeper than is taken."""


# First byte -> (length of what follows, kind): the length is fixed or itself written in so many bytes.
_FIXED: Final = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8} | {
    **{0xCC + n: 1 << n for n in range(4)},
    **{0xD0 + n: 1 << n for n in range(4)},
    **{0xD4 + n: (1 << n) + 1 for n in range(5)},
}
_SIZED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENDED: Final = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_COUNTED: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
_NUMBERS: Final = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip


class Scanner:
    """Finds the end of the first value of a stream.

    Args:
        largest: Bytes of a value.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._at = 0
        self._left = 1

    def end(self, data: bytes | bytearray) -> int:
        """Return the offset behind the value, 0 while more bytes are needed; begin anew after an end.

        Args:
            data: All bytes of the stream from the value's first one on; may only grow between calls.

        Raises:
            BrokenError: See the class.
        """
        while self._left:
            step = self._step(data)
            if step is None:
                return 0
            size, inner = step
            self._at += size
            self._left += inner - 1
            if self._at > self._largest or self._left > self._largest:
                raise BrokenError(f"a value of more than {self._largest} bytes")
        found, self._at, self._left = self._at, 0, 1
        return found

    def _step(self, data: bytes | bytearray) -> tuple[int, int] | None:
        """Return size and number of inner values of what begins here; None when it is not there whole."""
        at = self._at
        if at >= len(data):
            return None
        first = data[at]
        inner, size = 0, 1
        if first <= 0x7F or first >= 0xE0:
            pass
        elif first <= 0x8F:
            inner = 2 * (first & 0x0F)
        elif first <= 0x9F:
            inner = first & 0x0F
        elif first <= 0xBF:
            size += first & 0x1F
        elif first in _FIXED:
            size += _FIXED[first]
        else:
            width, times, more = _SIZED.get(first, 0), 0, 0
            if first in _EXTENDED:
                width, more = _EXTENDED[first], 1
            elif first in _COUNTED:
                width, times = _COUNTED[first]
            if not width:
                raise BrokenError(f"the byte {first:#x} begins no value")
            if len(data) < at + 1 + width:
                return None
            number = int.from_bytes(data[at + 1 : at + 1 + width], "big")
            size += width
            if times:
                inner = times * number
            else:
                size += number + more
        if size > self._largest:
            raise BrokenError(f"a value of more than {self._largest} bytes")
        return (size, inner) if len(data) >= at + size else None


def decode(data: bytes, at: int = 0, *, deep: int = 0) -> tuple[Any, int]:
    """Return the value at an offset, and the offset behind it.

    Bytes of a text that are no UTF-8 become surrogates, so that the text can be encoded again. An EventTime
    is a float of epoch seconds, any other extension its bytes.

    Raises:
        BrokenError: It is cut off, or no MessagePack.
    """
    if deep > DEEPEST:
        raise BrokenError(f"nested more than {DEEPEST} times")
    try:
        first = data[at]
    except IndexError:
        raise BrokenError("cut off") from None
    at += 1
    if first <= 0x7F:
        return first, at
    if first >= 0xE0:
        return first - 256, at
    if first <= 0x8F:
        return _map(data, at, first & 0x0F, deep)
    if first <= 0x9F:
        return _array(data, at, first & 0x0F, deep)
    if first <= 0xBF:
        raw, at = _bytes(data, at, first & 0x1F)
        return raw.decode(errors="surrogateescape"), at
    if first == 0xC0:
        return None, at
    if first in {0xC2, 0xC3}:
        return first == 0xC3, at
    if first in _NUMBERS:
        raw, at = _bytes(data, at, struct.calcsize(_NUMBERS[first]))
        return struct.unpack(_NUMBERS[first], raw)[0], at
    if first in _SIZED:
        raw, at = _bytes(data, at, _SIZED[first])
        raw, at = _bytes(data, at, int.from_bytes(raw, "big"))
        return (raw if first <= 0xC6 else raw.decode(errors="surrogateescape")), at
    if first in _COUNTED:
        width, times = _COUNTED[first]
        raw, at = _bytes(data, at, width)
        count = int.from_bytes(raw, "big")
        return _array(data, at, count, deep) if times == 1 else _map(data, at, count, deep)
    if first in _EXTENDED:
        raw, at = _bytes(data, at, _EXTENDED[first])
        return _extension(data, at, int.from_bytes(raw, "big"))
    if 0xD4 <= first <= 0xD8:
        return _extension(data, at, 1 << (first - 0xD4))
    raise BrokenError(f"the byte {first:#x} begins no value")


def decode_all(data: bytes) -> list[Any]:
    """Return all values, one after the other, of which there may be MOST_VALUES. Raises BrokenError."""
    found: list[Any] = []
    at = 0
    while at < len(data):
        if len(found) >= MOST_VALUES:
            raise BrokenError(f"more than {MOST_VALUES} values")
        value, at = decode(data, at)
        found.append(value)
    return found


def _bytes(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(data):
        raise BrokenError("cut off")
    return bytes(data[at : at + size]), at + size


def _array(data: bytes, at: int, count: int, deep: int) -> tuple[list[Any], int]:
    if count > len(data) - at:
        raise BrokenError("cut off")
    found = []
    for _ in range(count):
        value, at = decode(data, at, deep=deep + 1)
        found.append(value)
    return found, at


def _map(data: bytes, at: int, count: int, deep: int) -> tuple[dict[Any, Any], int]:
    if 2 * count > len(data) - at:
        raise BrokenError("cut off")
    found = {}
    for _ in range(count):
        key, at = decode(data, at, deep=deep + 1)
        value, at = decode(data, at, deep=deep + 1)
        found[key if isinstance(key, str | int | float | bool) else str(key)] = value
    return found, at


def _extension(data: bytes, at: int, size: int) -> tuple[Any, int]:
    raw, at = _bytes(data, at, size + 1)
    if raw[0] == 0 and size == 8:
        seconds, nanoseconds = struct.unpack(">II", raw[1:])
        return seconds + nanoseconds / 1e9, at
    return raw[1:], at


def encode(value: Any) -> bytes:
    """Return a value of None, bool, whole numbers, text, bytes, lists and dicts: what answers consist of."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return b"\xd3" + struct.pack(">q", value)
    if isinstance(value, str):
        raw = value.encode()
        return b"\xdb" + struct.pack(">I", len(raw)) + raw
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if isinstance(value, dict):
        parts = [encode(part) for pair in value.items() for part in pair]
        return b"\xdf" + struct.pack(">I", len(value)) + b"".join(parts)
    return b"\xdd" + struct.pack(">I", len(value)) + b"".join(encode(item) for item in value)
