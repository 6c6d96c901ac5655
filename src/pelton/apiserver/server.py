"""The API's HTTPS server: uvicorn on a socket that is already bound.

Used by `cli/`, which binds the socket (so that a taken port is told before anything starts) and brings the
certificate files of `certificates.py`.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn

__all__ = ["ApiServer"]

_GRACE_S = 0.8  # for answers under way; watches end at once
_STALLED_S = 60.0  # a client that reads nothing for so long is cut off, so that it holds no memory


class ApiServer:
    """Serves an application while its context is entered; leaving ends watches and returns within a second.

    uvicorn's own loop is not used: it would wake ten times a second and catch signals that belong to the
    supervisor.

    Args:
        app: The application of `rest.create_app`, or another one; its `state.stopping` is set, if any.
        sock: Listening or only bound; closed on leaving.
        certfile: PEM of the leaf and its chain; None serves plain HTTP (tests).
        keyfile: PEM of the key.
        stalled_s: Seconds after which a client that does not read is cut off.
        grace_s: Seconds that answers under way have on leaving.
    """

    def __init__(
        self,
        app: Any,
        sock: socket.socket,
        certfile: str | Path | None = None,
        keyfile: str | Path | None = None,
        *,
        stalled_s: float = _STALLED_S,
        grace_s: float = _GRACE_S,
    ) -> None:
        self._app = app
        self._grace_s = grace_s
        self._stalled_ms = int(stalled_s * 1000)
        self._sock = sock
        self._config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,  # uvicorn renews the date in the loop that is not run here
            backlog=1024,
            timeout_keep_alive=75,
            ssl_certfile=None if certfile is None else str(certfile),
            ssl_keyfile=None if keyfile is None else str(keyfile),
        )
        self._server: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        """Where it listens, e.g. `https://127.0.0.1:8081`."""
        host, port = self._sock.getsockname()[:2]
        scheme = "https" if self._config.is_ssl else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def __aenter__(self) -> Self:
        if self._sock.family != socket.AF_UNIX:
            # Accepted sockets inherit it. asyncio sets it only on sockets made with their protocol number;
            # without it every answer waits 40 ms for the client's delayed ACK.
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The kernel sees that nothing is taken, wherever in the server the bytes wait.
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._stalled_ms)
        self._config.load()
        server = uvicorn.Server(self._config)
        server.lifespan = self._config.lifespan_class(self._config)
        self._server = server
        await server.startup(sockets=[self._sock])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        state = getattr(self._app, "state", None)
        if state is not None:
            state.stopping.set()
        server, self._server = self._server, None
        try:
            if server is not None:
                async with asyncio.timeout(self._grace_s):
                    await server.shutdown(sockets=[self._sock])
        except TimeoutError:
            pass  # clients that do not read their answers are cut off below
        finally:
            if server is not None:
                for task in list(server.server_state.tasks):
                    task.cancel()
                for connection in list(server.server_state.connections):
                    connection.transport.abort()
            self._sock.close()
