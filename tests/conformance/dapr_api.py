"""A Dapr runtime on free ports in a thread of its own, for clients that block: the SDK, httpx."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from pelton.apiserver.server import ApiServer
from pelton.cli.dapr_drivers import drivers
from pelton.cli.state_stores import StateStores
from pelton.clock import SystemClock
from pelton.compat.dapr.apps import App, RegisteredApp
from pelton.compat.dapr.grpc_server import GrpcServer
from pelton.compat.dapr.http_server import HttpApi
from pelton.compat.dapr.ports import Drivers
from pelton.compat.dapr.resiliency import Calls
from pelton.compat.dapr.runtime import DaprRuntime
from pelton.dataplane import state_query
from pelton.drivers.memory import MemoryBus
from pelton.drivers.nats import JetStreamBus
from pelton.model.component import ComponentResource, ComponentSpec, MetadataItem
from pelton.model.desired import Component

T = TypeVar("T")


def component(
    name: str,
    kind: str,
    *,
    scopes: tuple[str, ...] = (),
    init_timeout_s: float | None = None,
    **settings: Any,
) -> ComponentResource:
    items = tuple(MetadataItem(name=key, value=value) for key, value in settings.items())
    spec = ComponentSpec(type=kind, metadata=items, init_timeout_s=init_timeout_s)
    return ComponentResource(name=name, spec=spec, scopes=scopes)


class Api:
    """The runtime; a context manager.

    Attributes:
        runtime: It, on the loop of its thread: `call` runs things there.
        bus: What `pubsub.in-memory` components publish on.
        ports: app id -> (HTTP port, gRPC port).
        common: Components that tests of a file share.
        opened: Name of a component -> its driver.
        jetstream: Makes the bus of `pubsub.jetstream` components.
    """

    def __init__(self, *apps: App, folder: Path, **more: Any) -> None:
        self._apps = apps
        self._folder = folder
        self._more = more
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._failure: BaseException | None = None
        self.runtime: DaprRuntime
        self.bus: MemoryBus
        self.common: list[ComponentResource] = []
        self.opened: dict[str, Any] = {}
        self.jetstream: Callable[[], JetStreamBus] | None = None
        self.ports: dict[str, tuple[int, int]] = {}
        self.registered: dict[str, RegisteredApp] = {}

    def __enter__(self) -> Api:
        self._thread.start()
        assert self._ready.wait(20)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    def call(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(20)

    def sync(self, *resources: ComponentResource, **more: Any) -> None:
        async def run() -> None:
            self.runtime.sync(components=resources, **more)

        self.call(run())

    def url(self, app_id: str = "a") -> str:
        return f"http://127.0.0.1:{self.ports[app_id][0]}"

    def grpc(self, app_id: str = "a") -> str:
        return f"127.0.0.1:{self.ports[app_id][1]}"

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self._serve()
        except BaseException as exc:
            self._failure = exc
            self._ready.set()
            raise

    async def _serve(self) -> None:
        self.bus = MemoryBus()
        clock = SystemClock()
        found = drivers(bus_of=self._bus, clock=clock, stores=StateStores(clock, self._folder))
        noting = {category: self._noting(opener) for category, opener in found.open.items()}
        self.runtime = DaprRuntime(
            Drivers(open=noting, types=found.types),
            clock=clock,
            query=state_query.run,
            version="1.2.3",
            calls=Calls(clock, lambda: 0.5),
            **self._more,
        )
        registered = [self.runtime.apps.put(app) for app in self._apps]
        self.registered = {each.app.app_id: each for each in registered}
        self.runtime.sync()
        async with self.runtime, asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._port(each)) for each in registered]
            while len(self.ports) < len(registered):
                await asyncio.sleep(0.01)
            self._ready.set()
            await self._stop.wait()
            for task in tasks:
                task.cancel()

    async def _port(self, registered: RegisteredApp) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        served = HttpApi(self.runtime, registered.identify, own=registered)
        async with (
            GrpcServer(self.runtime, registered.identify) as grpc_server,
            ApiServer(served, sock),
        ):
            self.ports[registered.app.app_id] = (sock.getsockname()[1], grpc_server.port)
            await self._stop.wait()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[tuple[int, int]]:
        """Serve all apps at one port for each protocol, known by their tokens; yields (HTTP, gRPC)."""
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        identify = self.runtime.apps.by_token
        async with (
            GrpcServer(self.runtime, identify) as grpc_server,
            ApiServer(HttpApi(self.runtime, identify), sock),
        ):
            yield sock.getsockname()[1], grpc_server.port

    async def _bus(self, wanted: Component) -> Any:
        if self.jetstream is not None and wanted.type == "pubsub.jetstream":
            found = self.jetstream()
            await found.open()
            return found
        return self.bus

    def _noting(self, opener: Any) -> Any:
        async def opened(wanted: Component) -> Any:
            self.opened[wanted.name] = await opener(wanted)
            return self.opened[wanted.name]

        return opened
