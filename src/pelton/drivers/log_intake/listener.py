"""A TCP port whose connections end with it: what the `http` and the `forward` intake listen with.

They differ in what they do with a connection (`_serve`); what is said on it is no matter of this file.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["Listener"]


class Listener:
    """Listens, and keeps a task per connection.

    Args:
        read_bytes: Most bytes that are read ahead of what is asked for, per connection.
    """

    def __init__(self, *, read_bytes: int) -> None:
        self._read_bytes = read_bytes
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError."""
        self._server = await asyncio.start_server(self._accept, host, port, limit=self._read_bytes)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        assert self._server is not None  # noqa: S101 -- asked for by whoever started it
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def close(self) -> None:
        """Close all connections; what is under way is sent again by who waits for it."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        raise NotImplementedError
