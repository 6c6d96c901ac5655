"""A connection to another part that is made again whenever it breaks.

`up` keeps one to the node and one to the runtime, the runtime keeps one to the node. Each time the other side
is there (again), `on_up` brings it up to date before anybody else's call goes through: state is pushed in
full, so a restarted part needs no memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pelton.clock import Clock
from pelton.dataplane import wire
from pelton.errors import PeltonError
from pelton.log import get

__all__ = ["Link"]

_RETRY_S = 0.05
_log = get(__name__)


class Link:
    """Keeps a Peer to a unix socket.

    Args:
        path: The socket.
        name: For logs and errors, e.g. `node`.
        clock: Time.
        handlers: Ops served to the other side.
        on_up: Called with each new Peer before calls go through; when it raises, the connection is made anew.
    """

    def __init__(
        self,
        path: str,
        *,
        name: str,
        clock: Clock,
        handlers: wire.Handlers | None = None,
        on_up: Callable[[wire.Peer], Awaitable[None]] | None = None,
    ) -> None:
        self._path = path
        self._name = name
        self._clock = clock
        self._handlers = handlers or {}
        self._on_up = on_up
        self._peer: wire.Peer | None = None
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Link:
        """Begin to connect; does not wait."""
        self._task = asyncio.create_task(self._keep(), name=f"link-{self._name}")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Close the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._peer is not None:
            await self._peer.close()

    @property
    def connected(self) -> bool:
        """Whether calls go through now."""
        return self._up.is_set()

    async def wait_up(self) -> None:
        """Wait until calls go through."""
        await self._up.wait()

    async def call(self, op: str, body: Any = None, *, timeout_s: float = 30.0) -> Any:
        """Call the other side, waiting for the connection if need be.

        Raises:
            PeltonError: The other side's own error, or that it could not be reached in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
                assert self._peer is not None  # noqa: S101 -- set before the event
                return await self._peer.call(op, body, timeout=timeout_s)
        except (TimeoutError, ConnectionError) as exc:
            why = str(exc) or f"no answer in {timeout_s:g} s"
            raise PeltonError(
                f"the {self._name} process did not answer {op!r}: {why}",
                hint="it is being restarted if it died; see `pelton status`",
            ) from exc

    def note(self, op: str, body: Any = None) -> None:
        """Tell the other side something; dropped while it is away."""
        if self._peer is not None:
            self._peer.note(op, body)

    async def _keep(self) -> None:
        while True:
            try:
                self._peer = peer = await wire.connect(self._path, self._handlers, name=self._name)
            except OSError:
                await self._clock.sleep(_RETRY_S)
                continue
            try:
                if self._on_up is not None:
                    await self._on_up(peer)
            except (PeltonError, OSError, TimeoutError) as exc:
                _log.warning("%s could not be brought up to date: %s", self._name, exc)
                await peer.close()
                await self._clock.sleep(_RETRY_S)
                continue
            self._up.set()
            await peer.closed.wait()
            self._up.clear()
