"""A request body that a function reads while it arrives, with flow control, and what can go wrong with it.

Filled by `dataplane/http.py`, read by user code.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

__all__ = ["HIGH_BYTES", "LOW_BYTES", "BodyError", "BodyStream", "ClientGoneError"]

HIGH_BYTES: Final = 256 * 1024
"""Reading from the socket stops when this much waits here."""
LOW_BYTES: Final = 64 * 1024
"""Reading goes on when no more than this waits here."""


class _Source(Protocol):
    def send_continue(self) -> None: ...
    def update_reading(self) -> None: ...


class ClientGoneError(ConnectionError):
    """The client closed the connection before it had its answer."""


class BodyError(Exception):
    """A request body that is read as a stream turned out to be bad.

    Args:
        status: HTTP status that says so.
        text: What is wrong with it.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class BodyStream:
    """A request body as it arrives; reading from the socket stops while 256 KiB wait here.

    Iterating raises BodyError for a malformed body and ClientGoneError when the client left in the middle.
    """

    def __init__(self, connection: _Source, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._chunks: deque[bytes] = deque()
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.buffered = 0
        self.complete = False
        self.wants_continue = False

    def __aiter__(self) -> BodyStream:
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk, never empty."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self.complete:
                raise StopAsyncIteration
            if self.wants_continue:
                self.wants_continue = False
                self._connection.send_continue()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        chunk = self._chunks.popleft()
        self.buffered -= len(chunk)
        if self.buffered <= LOW_BYTES:
            self._connection.update_reading()
        return chunk

    def feed(self, chunk: bytes) -> None:
        """Add what arrived."""
        self._chunks.append(chunk)
        self.buffered += len(chunk)
        self._wake()

    def take(self) -> bytes:
        """Return all that has arrived, for a body that is complete before anybody reads it."""
        chunks = self._chunks
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def finish(self, error: Exception | None = None) -> None:
        """Note the end of the body, or why there is none."""
        self.complete = self.complete or error is None
        if not self.complete:
            self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
