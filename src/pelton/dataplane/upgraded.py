"""A connection that left HTTP for another protocol, WebSocket for one: passes everything on, and counts.

Made by `dataplane/worker.py` when a convention's `upgrade` hook takes a connection over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["Upgraded"]


class Upgraded(asyncio.Protocol):
    """Stands between the transport and the protocol that took over.

    Args:
        protocol: Whoever took over; its `connection_made` has been called.
        end: Called once, when the connection is lost.
        forget: Called with this object at the same time.
    """

    def __init__(self, protocol: Any, end: Callable[[], None], forget: Callable[[Upgraded], None]) -> None:
        self._protocol = protocol
        self._end = end
        self._forget = forget

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        """See asyncio.Protocol."""
        keep_open: bool | None = self._protocol.eof_received()
        return keep_open

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._forget(self)
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._end()

    def shutdown(self) -> None:
        """Ask the other side to end, where the protocol knows how (uvicorn's name for it)."""
        shutdown = getattr(self._protocol, "shutdown", None)
        if shutdown is not None:
            shutdown()
