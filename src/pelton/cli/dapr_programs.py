"""Programs of `pelton dapr run` at the gateway: their HTTP ports, and the ways by which others call them.

The node is told about all programs together, whenever one comes or goes and when it has started again; it
forgets them when this process ends. Where the gateway does not take a port, the runtime has it itself. A call
that the gateway could not bring to a program comes to a socket of the runtime, which tries as Dapr does.
Used by `dapr_platform.py`; the ways are decided in `plan/dapr_routing.py`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import msgspec

from pelton.apiserver.server import ApiServer
from pelton.cli.dapr_host import AppPorts, DaprHost, channel_for
from pelton.compat.dapr.apps import App, RegisteredApp
from pelton.compat.dapr.channel import AppChannel
from pelton.compat.dapr.http_server import MOST_CALLS, HttpApi
from pelton.compat.dapr.ports import AsgiReceive, AsgiScope, AsgiSend
from pelton.compat.dapr.replicas import Replicas
from pelton.errors import PeltonError
from pelton.log import get
from pelton.model.dapr_call import CalledApp, CallingApp
from pelton.model.routing import Endpoint

__all__ = ["JoinedApp", "ProgramWays", "SecondTry"]

Tell = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Find = Callable[[str, str], tuple[DaprHost, RegisteredApp] | None]

_LISTENS_S: Final = 2.0
_LOOK_S: Final = 0.002
_HEAD_BYTES: Final = 64 * 1024
"""The gateway's own limit: it has added headers of its own to what it took."""
_OF_A_CALL: Final = frozenset({b"dapr-api-token", b"dapr-app-id", b"x-forwarded-for"})
_log = get(__name__)


@dataclass(frozen=True, slots=True)
class _Caller:
    host: DaprHost
    registered: RegisteredApp
    name: str
    address: str
    port: int
    inner: int

    def described(self) -> CallingApp:
        app = self.registered.app
        return CallingApp(
            name=self.name,
            app_id=app.app_id,
            namespace=app.namespace,
            host=self.address,
            port=self.port,
            inner=self.inner,
            token=app.api_token,
            body_limit_bytes=app.body_limit_bytes,
            direct=app.configuration.serves("invoke", "http"),
            rules=self.host.call_rules(app),
        )


@dataclass(slots=True, eq=False)
class JoinedApp:
    """The programs of one app, by name: who each is, and the way to those that listen."""

    host: DaprHost
    replicas: Replicas
    programs: dict[str, App] = field(default_factory=dict)
    channels: dict[str, AppChannel] = field(default_factory=dict)

    def add(self, name: str, app: App) -> None:
        """Take a program in; safe to repeat."""
        if name in self.programs:
            return
        self.programs[name] = app
        channel = channel_for(app)
        if channel is not None:
            self.channels[name] = channel
            self.replicas.sync(self.channels)

    def remove(self, name: str) -> None:
        """Take a program out."""
        self.programs.pop(name, None)
        self.channels.pop(name, None)
        self.replicas.sync(self.channels)

    def listening(self) -> list[App]:
        """Return the programs that can be called."""
        return [self.programs[name] for name in self.channels]


class ProgramWays:
    """Keeps the node informed.

    Args:
        tell: Tells it about all programs; raises PeltonError.
        run: Directory of the sockets for second tries.
        find: Returns an app, by namespace and app id, with the host that serves it.
    """

    def __init__(self, tell: Tell, run: Path, find: Find) -> None:
        self._tell = tell
        self._run = run
        self._find = find
        self._callers: dict[str, _Caller] = {}
        self._called: dict[str, CalledApp] = {}
        self._sockets: dict[str, tuple[Path, AsyncExitStack]] = {}
        self._opened = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._stale = False
        self._telling: asyncio.Task[None] | None = None

    def described(self) -> dict[str, Any]:
        """Return all programs, as the node takes them."""
        described: dict[str, Any] = msgspec.to_builtins(
            {
                "callers": [one.described() for one in self._callers.values()],
                "called": list(self._called.values()),
            }
        )
        return described

    def changed(self) -> None:
        """Bring the node up to date soon; where it is away, it hears of it when it is back."""
        self._stale = True
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._until_told())

    async def _until_told(self) -> None:
        while self._stale:
            self._stale = False
            try:
                await self._tell(self.described())
            except PeltonError as exc:
                _log.warning("calls to programs go through the runtime: %s", exc)

    # -- as callers ------------------------------------------------------------------------------------------

    async def open(self, host: DaprHost, registered: RegisteredApp, name: str, ports: AppPorts) -> int:
        """Open a program's HTTP port: at the gateway where that can be, else in this process.

        Args:
            host: Serves the app.
            registered: The app.
            name: Of the program, under which the host keeps its ports.
            ports: Where the port is to be.

        Returns:
            The port.

        Raises:
            PortInUseError: Somebody else has it.
        """
        key, why = registered.app.key, ""
        if not ports.sockets and _is_address(ports.host):
            inner = await host.open_ports(key, name, AppPorts(http=0, grpc=-1))
            port = ports.http or _free_port(ports.host)
            title = f"dapr run {key} {port}"
            self._callers[name] = _Caller(host, registered, title, ports.host, port, inner.http)
            why = await self._refusal(name)
            if not why:
                return port
            del self._callers[name]
            await host.close_ports(key, name)
        self.changed()
        http = (await host.open_ports(key, name, replace(ports, grpc=-1, public=0))).http
        if why:
            _log.warning("the runtime has the port %d of the app %s: %s", http, registered.app.app_id, why)
        return http

    def forget(self, name: str) -> None:
        """Forget a program as a caller; `changed` is to follow. Safe to repeat."""
        self._callers.pop(name, None)

    async def _refusal(self, name: str) -> str:
        """Tell the node; return "" once the gateway takes connections at a program's port, else why not."""
        caller = self._callers[name]
        try:
            answer = await self._tell(self.described())
            why: str = answer["refused"].get(caller.name, "")
            if not answer["connected"]:
                return "the gateway is away"
            if not why:
                async with asyncio.timeout(_LISTENS_S):
                    await _until_it_listens(caller.address, caller.port)
        except (PeltonError, TimeoutError) as exc:
            why = str(exc) or f"the gateway did not listen there within {_LISTENS_S:g} s"
        return why

    # -- as those who are called -----------------------------------------------------------------------------

    async def serve(self, registered: RegisteredApp, programs: list[App]) -> None:
        """Say which programs of an app listen now, none when it is gone; `changed` is to follow."""
        app, key = registered.app, registered.app.key
        if not _is_direct(app, programs):
            self._called.pop(key, None)
            known = self._sockets.pop(key, None)
            if known is not None:  # an app that joins again does not wait for the end of the old socket
                task = asyncio.get_running_loop().create_task(known[1].aclose())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            return
        if key not in self._sockets:
            self._sockets[key] = await self._second_tries(app)
        self._called[key] = CalledApp(
            key=f"Service dapr app {key}",
            app_id=app.app_id,
            namespace=app.namespace,
            endpoints=tuple(
                sorted(
                    {Endpoint(host=one.address, port=one.port) for one in programs},
                    key=lambda one: (one.host, one.port),
                )
            ),
            fallback=str(self._sockets[key][0]),
            token=programs[0].app_token,
            access=app.configuration.access_control,
        )

    async def _second_tries(self, app: App) -> tuple[Path, AsyncExitStack]:
        """Serve second tries of calls to an app; returns the socket, and what closes it."""
        self._opened += 1
        path = self._run / "dapr" / f"{os.getpid()}-{self._opened}.sock"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        path.chmod(0o600)
        sock.setblocking(False)
        stack = AsyncExitStack()
        await stack.enter_async_context(ApiServer(SecondTry(app, self._find), sock))
        stack.callback(path.unlink, missing_ok=True)
        return path, stack

    async def close(self) -> None:
        """Close the sockets; the node sees for itself that this process is gone."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
        await asyncio.gather(*(stack.aclose() for _, stack in self._sockets.values()), *self._closing)
        self._sockets.clear()


class SecondTry:
    """An ASGI application for calls that the gateway could not bring to an app: makes them by the runtime.

    Args:
        app: Who is called.
        find: Returns the caller and its host; the gateway has checked its token and says who it is.
    """

    def __init__(self, app: App, find: Find) -> None:
        self._target = f"{app.app_id}.{app.namespace}".encode()
        self._find = find
        self._calls = 0

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        caller = self._find(
            headers.get(b"dapr-caller-namespace", b"").decode("latin-1"),
            headers.get(b"dapr-caller-app-id", b"").decode("latin-1"),
        )
        if caller is None or self._calls >= MOST_CALLS:
            why = b"the calling app is gone" if caller is None else b"too many calls are under way"
            await send({"type": "http.response.start", "status": 503, "headers": [(b"retry-after", b"1")]})
            await send({"type": "http.response.body", "body": why})
            return
        host, registered = caller
        api = HttpApi(
            host.runtime,
            lambda _token: registered,
            body_limit_bytes=registered.app.body_limit_bytes,
            header_limit_bytes=_HEAD_BYTES,
        )
        path = b"/v1.0/invoke/" + self._target + b"/method" + scope["raw_path"]
        client = headers.get(b"x-forwarded-for", b"").decode("latin-1")
        passed = {
            **scope,
            "raw_path": path,
            "path": path.decode("latin-1"),
            "headers": [pair for pair in scope["headers"] if pair[0] not in _OF_A_CALL],
            "client": (client, 0) if client else None,
        }
        self._calls += 1
        try:
            await api(passed, receive, send)
        finally:
            self._calls -= 1


def _is_direct(app: App, programs: list[App]) -> bool:
    """Tell whether calls of an app need nothing of the runtime."""
    if not programs or app.max_concurrency > 0 or app.health is not None:
        return False
    if any(one.protocol != "http" or not one.port or not _is_address(one.address) for one in programs):
        return False
    return len({one.app_token for one in programs}) == 1


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _free_port(host: str) -> int:
    """Return a port that is free now; the gateway takes it a moment later."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


async def _until_it_listens(host: str, port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(_LOOK_S)
        else:
            writer.close()
            return
