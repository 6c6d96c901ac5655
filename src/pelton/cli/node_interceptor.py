"""The node's interceptor as a server: on loopback, from the first route that needs it.

`cli/node` owns one; `cli/node_gateway` hands it each new state of routing. What happens to a request is in
`dataplane/interceptor`. A second port of loopback has what the HTTP add-on's admin port has: `/queue`,
`/livez`, `/readyz`.
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
        self._servers: list[Any] = []
        self.admin = ""
        """URL of the admin port; "" before the first route."""
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
        for server in self._servers:
            await server.__aexit__(None, None, None)
        if self._interceptor is not None:
            await self._interceptor.close()

    async def _start(self) -> None:
        # Imported only here: a platform without such routes does not pay for them.
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import JSONResponse, PlainTextResponse, Response
        from starlette.routing import Route

        from pelton.dataplane.interceptor import Interceptor

        interceptor = Interceptor(wake=self._wake, ready=self._ready, activator_socket=self._activator_socket)

        async def queue(_request: Request) -> Response:
            return JSONResponse(interceptor.queue())

        async def alive(_request: Request) -> Response:
            return PlainTextResponse("ok")

        admin = [Route("/queue", queue), Route("/livez", alive), Route("/readyz", alive)]
        port = await self._serve(Starlette(routes=[Route("/{path:path}", endpoint=interceptor)]))
        self._endpoint = Endpoint(host="127.0.0.1", port=port)
        self.admin = f"http://127.0.0.1:{await self._serve(Starlette(routes=admin))}"
        self._interceptor = interceptor

    async def _serve(self, app: Any) -> int:
        from pelton.apiserver.server import ApiServer

        app.state.stopping = asyncio.Event()
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self._servers.append(await ApiServer(app, sock).__aenter__())
        return int(sock.getsockname()[1])
