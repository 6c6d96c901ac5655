"""What the two network intakes share: where records go, how much may be under way, when they are finished.

A chunk is what a shipper sends and waits for at once. Its records are offered to every subscription of the
component, and it is finished when all of them are. The same chunk sent again while it is under way is waited
for and not doubled. Called by `http.py` and `forward.py`; `bus.py` registers subscriptions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pelton.errors import DeliveryError

__all__ = ["Chunk", "Intake", "Record"]

_MOST_BYTES: Final = 64 * 1024 * 1024
MOST_READ: Final = 128 * 1024 * 1024
"""Bytes of requests and messages that are not whole yet, of all connections together."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record as JSON, and its tag."""

    tag: str
    data: bytes


@dataclass(eq=False, slots=True)
class Chunk:
    """What came at once.

    Attributes:
        key: Names it; the same for the same chunk.
        size: Bytes of its records.
        name: Begins the names of its records; another one when it was failed while somebody held it.
        left: Records that are not finished, counted once per subscription.
        finished: Set when none is left, or fails when a subscription ends before.
    """

    key: str
    name: str
    size: int
    left: int
    finished: asyncio.Future[None] = field(repr=False)


class Intake:
    """Records under way between shippers and subscriptions.

    Args:
        where: For messages.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._takers: list[Callable[[Chunk, Sequence[Record]], None]] = []
        self._chunks: dict[str, Chunk] = {}
        self._size = 0
        self._failures = 0
        self._reading = 0
        self._room = asyncio.Event()
        self._room.set()

    def add(self, taker: Callable[[Chunk, Sequence[Record]], None]) -> None:
        """Offer chunks to a subscription as well."""
        self._takers.append(taker)

    def remove(self, taker: Callable[[Chunk, Sequence[Record]], None]) -> None:
        """Offer it no more; chunks that it has not finished fail, so that shippers send them again."""
        self._takers.remove(taker)
        self._failures += bool(self._chunks)
        for chunk in list(self._chunks.values()):
            self._settle(chunk, ok=False)

    def done(self, chunk: Chunk) -> None:
        """Say that one record of a chunk is finished by one subscription."""
        chunk.left -= 1
        if chunk.left <= 0:
            self._settle(chunk, ok=True)

    def reading(self, size: int) -> None:
        """Count bytes of what is not whole yet; negative when they are done with.

        Raises:
            DeliveryError: That is too much; the bytes are counted all the same.
        """
        self._reading += size
        if size > 0 and self._reading > MOST_READ:
            raise DeliveryError("too much comes in at once", where=self._where)

    @property
    def full(self) -> bool:
        """Whether nothing more is taken now."""
        return not self._room.is_set()

    async def room(self) -> None:
        """Wait until something more is taken."""
        await self._room.wait()

    def take(self, key: str, records: Sequence[Record]) -> Chunk:
        """Offer a chunk to all subscriptions; `Chunk.finished` says when it is done with.

        Raises:
            DeliveryError: Nobody subscribes.
        """
        known = self._chunks.get(key)
        if known is not None:
            return known
        if not self._takers:
            raise DeliveryError("nobody takes log records now", where=self._where)
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        size = sum(len(record.data) for record in records)
        left = len(records) * len(self._takers)
        name = f"{key}~{self._failures}" if self._failures else key
        chunk = Chunk(key=key, name=name, size=size, left=left, finished=finished)
        finished.add_done_callback(lambda future: future.exception())  # nobody may be waiting
        if not records:
            finished.set_result(None)
            return chunk
        self._chunks[key] = chunk
        self._size += size
        if self._size >= _MOST_BYTES:
            self._room.clear()
        for taker in self._takers:
            taker(chunk, records)
        return chunk

    def _settle(self, chunk: Chunk, *, ok: bool) -> None:
        if self._chunks.get(chunk.key) is not chunk:
            return
        del self._chunks[chunk.key]
        self._size -= chunk.size
        if self._size < _MOST_BYTES:
            self._room.set()
        if not chunk.finished.done():
            if ok:
                chunk.finished.set_result(None)
            else:
                chunk.finished.set_exception(DeliveryError("the subscription ended", where=self._where))
