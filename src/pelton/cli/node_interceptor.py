"""The node's interceptor as a server: on loopback, from the first route that needs it.

`cli/node` owns one; `cli/node_gateway` hands it each new state of routing. What happens to a request is in
`dataplane/interceptor`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from pelton.dataplane import wire
from pelton.model.routing import Endpoint, RoutingState
from pelton.plan.interception import leading_routes

__all__ = ["Interception"]


class Interception:
    """Requests that go through this process.

    Args:
        wake: Starts an instance of a function, by `namespace/name`; returns when one is ready.
        ready: Whether a function has a ready instance.
        activator_socket: Path of the activator's socket.
    """

    def __init__(
        self,
        *,
        wake: Callable[[str], Awaitable[Any]],
        ready: Callable[[str], bool],
        activator_socket: str,
    ) -> None:
        self._wake = wake
        self._ready = ready
        self._activator_socket = activator_socket
        self._interceptor: Any = None
        self._server: Any = None
        self._endpoint = Endpoint(host="127.0.0.1", port=0)
        self._lock = asyncio.Lock()

    async def take(self, state: RoutingState) -> RoutingState:
        """Intercept what a state says; returns the state as the gateway is to have it."""
        async with self._lock:
            if self._interceptor is None and state.intercepts:
                await self._start()
            if self._interceptor is not None:
                self._interceptor.update(state.intercepts)
        routes, upstreams = leading_routes(state.intercepts, self._endpoint)
        return replace(
            state, intercepts=(), routes=(*state.routes, *routes), upstreams=(*state.upstreams, *upstreams)
        )

    async def queue(self, _peer: wire.Peer, _body: Any) -> dict[str, dict[str, int]]:
        """Return route -> {Concurrency, RequestCount}."""
        return self._interceptor.queue() if self._interceptor is not None else {}

    async def close(self) -> None:
        """End the server and its connections."""
        if self._server is not None:
            await self._server.__aexit__(None, None, None)
            await self._interceptor.close()

    async def _start(self) -> None:
        # Imported only here: a platform without such routes does not pay for them.
        from starlette.applications import Starlette
        from starlette.routing import Route

        from pelton.apiserver.server import ApiServer
        from pelton.dataplane.interceptor import Interceptor

        self._interceptor = Interceptor(
            wake=self._wake, ready=self._ready, activator_socket=self._activator_socket
        )
        app = Starlette(routes=[Route("/{path:path}", endpoint=self._interceptor)])
        app.state.stopping = asyncio.Event()
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self._server = await ApiServer(app, sock).__aenter__()
        self._endpoint = Endpoint(host="127.0.0.1", port=sock.getsockname()[1])
