"""Listening sockets and their connections: accept, drain, close. The protocol itself is `dataplane/http.py`.

Called by `dataplane/worker.py`. Sockets arrive bound and listening from whoever starts the worker.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence

from pelton.dataplane.http import Application, Connection, Limits, Shared
from pelton.dataplane.wire import KEEP_SOCKET

__all__ = ["Server"]


class Server:
    """Listens on sockets that are already bound and owns the connections.

    Args:
        app: Who answers.
        limits: What clients may ask for.

    Attributes:
        shared: What the connections know of it.
    """

    def __init__(self, app: Application, limits: Limits) -> None:
        self.shared = Shared(app, limits)
        self._listeners: list[asyncio.AbstractServer] = []
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(
        self, sockets: Sequence[socket.socket], *, raw: Callable[[], asyncio.Protocol] | None = None
    ) -> None:
        """Accept connections on listening sockets, unix or TCP.

        Args:
            sockets: They listen already.
            raw: Makes a protocol per connection instead of the HTTP/1.1 one.
        """
        loop = asyncio.get_running_loop()
        for sock in sockets:
            if sock.family == socket.AF_UNIX:
                listener = await loop.create_unix_server(
                    raw or (lambda: Connection(self.shared, trusted=True)), sock=sock, **KEEP_SOCKET
                )
            else:
                listener = await loop.create_server(
                    raw or (lambda: Connection(self.shared, trusted=False)), sock=sock
                )
                if self._sweeper is None and self.shared.limits.head_timeout_s != float("inf"):
                    self._sweep()
            self._listeners.append(listener)

    def drain(self) -> None:
        """End idle connections, and every other one with its next answer; new ones are still served."""
        self.shared.draining = True
        for connection in list(self.shared.connections):
            connection.settle()

    @property
    def busy(self) -> bool:
        """Whether a request is being received, waits or runs on any connection."""
        return any(not connection.idle for connection in self.shared.connections)

    def close(self) -> None:
        """Stop listening and close all connections after what is already written."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for listener in self._listeners:
            listener.close()
        for connection in list(self.shared.connections):
            connection.close()

    def _sweep(self) -> None:
        """Close TCP connections whose request head takes too long; one timer for all of them."""
        limit = self.shared.limits.head_timeout_s
        now = time.monotonic()
        for connection in list(self.shared.connections):
            if connection.head_since and now - connection.head_since > limit:
                connection.close()
        self._sweeper = asyncio.get_running_loop().call_later(max(0.05, limit / 4), self._sweep)
