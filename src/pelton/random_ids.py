"""Ids of events: random UUIDs, whose bytes the system is asked for once for many."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["RandomIds"]

_BYTES: Final = 4096
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


class RandomIds:
    """Makes UUIDs of version 4 as text, for one thread of a process that does not fork."""

    def __init__(self) -> None:
        self._bytes = b""
        self._next = 0

    def __call__(self) -> str:
        """Return another one."""
        begin = self._next
        if begin == len(self._bytes):
            self._bytes, begin = os.urandom(_BYTES), 0
        self._next = begin + 16
        digits = self._bytes[begin : self._next].hex()
        variant = _VARIANT[digits[16]]
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
