"""A runtime for apps with everything around it: their ports, what they are told, what they are asked.

Puts `compat/dapr/runtime.py` (what apps call) and `compat/dapr/callbacks.py` (what calls apps) together with
the drivers and a dispatcher. One host serves any number of apps; each has ports of its own, by which it is
known. Made by `dapr_alone.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pelton import __version__
from pelton.apiserver.server import ApiServer
from pelton.cli.dapr_drivers import BINDING_TRIGGERS, drivers
from pelton.cli.dapr_feeds import AppFeeds
from pelton.cli.dapr_resources import Resources
from pelton.cli.dapr_settings import AppSettings
from pelton.cli.state_stores import StateStores
from pelton.clock import Clock
from pelton.compat.dapr.apps import App, RegisteredApp
from pelton.compat.dapr.callbacks import Callbacks, Settings
from pelton.compat.dapr.faults import Fault
from pelton.compat.dapr.grpc_server import GrpcServer
from pelton.compat.dapr.http_server import HttpApi
from pelton.compat.dapr.invocation import AppInvocation, Target
from pelton.compat.dapr.replicas import Replicas
from pelton.compat.dapr.resiliency import Calls
from pelton.compat.dapr.runtime import DaprRuntime
from pelton.compat.dapr.subscriptions import TopicSubscription, declared_for
from pelton.dataplane import state_query
from pelton.dataplane.event_traces import NO_TRACES, EventTraces
from pelton.errors import DeliveryError, PortInUseError
from pelton.model.dapr_call import CallRules
from pelton.model.desired import Component
from pelton.plan.resiliency import Policies
from pelton.ports import Bus, Ledger

__all__ = ["AppPorts", "DaprHost", "channel_for", "ports_of"]


_HANG_UP_S: Final = 0.2
"""Time for closing ports once the time for what is under way is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppPorts:
    """Where an app reaches its runtime.

    Attributes:
        host: Address.
        http, grpc: TCP ports, 0 for free ones; -1 for none.
        sockets: Directory of the unix sockets `dapr-<app id>-http.socket` and `-grpc.socket`; "" for TCP.
        public: Port that serves health and metadata only, on `public_host`; 0 for none.
    """

    host: str = "127.0.0.1"
    http: int = 0
    grpc: int = 0
    sockets: str = ""
    public: int = 0
    public_host: str = ""


@dataclass(slots=True, eq=False)
class _Open:
    registered: RegisteredApp
    stacks: dict[str, AsyncExitStack]
    replicas: Replicas | None = None


class DaprHost:
    """Serves apps; an async context manager.

    Args:
        bus_of: Returns the bus of a component that brings events.
        ledger: Keeps retries and dead letters.
        clock: Time.
        stores: Opens state stores.
        kubeconfig: The platform's, None without one.
        secrets: Entries of the platform's Secrets; None without one.
        variables: What `envRef` may name.
        traces: Takes hops.
        find: Finds apps elsewhere, by namespace and app id.
        on_pending: Told how many events wait for an app.
        shutdown: Told by an app to end its runtime; None ends nothing.
        grace_s: Seconds that deliveries and calls under way have when the host closes.
        answer_s: Seconds that HTTP answers under way have when an app's port closes.

    Attributes:
        grace_s: As above; may be shortened before it closes.
        overdue: Whether something was not done in that time.
    """

    def __init__(
        self,
        *,
        bus_of: Callable[[Component], Awaitable[Bus]],
        ledger: Ledger,
        clock: Clock,
        stores: StateStores,
        kubeconfig: Path | None = None,
        secrets: Callable[[str, str], Awaitable[Mapping[str, str] | None]] | None = None,
        variables: Mapping[str, str] | None = None,
        traces: EventTraces = NO_TRACES,
        find: Callable[[str, str], Awaitable[Target | None]] | None = None,
        on_pending: Callable[[str, str, int], None] | None = None,
        shutdown: Callable[[RegisteredApp, bool], None] | None = None,
        grace_s: float = 4.0,
        answer_s: float = 0.8,
    ) -> None:
        self.grace_s = grace_s
        self.overdue = False
        self._answer_s = answer_s
        calls = Calls(clock, random.random)
        self._bus_of = bus_of
        self._clock = clock
        self.runtime = DaprRuntime(
            drivers(bus_of=bus_of, clock=clock, stores=stores, kubeconfig=kubeconfig),
            clock=clock,
            query=state_query.run,
            version=__version__,
            secrets=secrets,
            variables=variables,
            pod_name=socket.gethostname(),
            traces=traces,
            calls=calls,
            shutdown=shutdown,
        )
        self.feeds = AppFeeds(
            self.runtime.apps,
            open_bus=self._open_bus,
            ledger=ledger,
            clock=clock,
            traces=traces,
            on_pending=on_pending,
        )
        self.callbacks = Callbacks(
            feeds=self.feeds,
            invoker=self.feeds.invoker,
            components=self.runtime.components,
            declared=self._declared,
            policies=self._policies,
            calls=calls,
            send=self._send,
            trigger_types=BINDING_TRIGGERS,
            clock=clock,
        )
        self.runtime.streams = self.callbacks.streams
        self.runtime.invocation = AppInvocation(
            self.runtime.apps,
            policies=self._policies,
            calls=calls,
            find=find,
            endpoints=self.runtime.endpoints,
            traces=traces,
        )
        self._resources = Resources()
        self._open: dict[str, _Open] = {}
        self._cached_policies: dict[str, Policies] = {}

    async def __aenter__(self) -> DaprHost:
        await self.feeds.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    def sync(self, resources: Resources) -> None:
        """Make these the resources; what did not change goes on undisturbed."""
        self._resources = resources
        self._cached_policies.clear()
        self.runtime.sync(
            components=resources.components,
            resiliencies=resources.resiliencies,
            endpoints=resources.endpoints,
        )
        self.callbacks.refresh()

    async def serve(
        self,
        app: App,
        replicas: Replicas | None,
        ports: AppPorts,
        settings: Settings | None = None,
        *,
        name: str = "",
        owns: bool = True,
    ) -> AppPorts:
        """Serve an app that is not served yet: open its ports, ask what it wants, bring it that.

        Args:
            app: Who.
            replicas: The way to it; None for an app that is never called.
            ports: Where it reaches the runtime.
            settings: How it is asked.
            name: Whose ports these are, where an app has several instances.
            owns: Whether `replicas` are closed when the app is left.

        Returns:
            The ports with their numbers.

        Raises:
            PortInUseError: Somebody else has one of them.
        """
        registered = self.runtime.apps.put(app)
        registered.channel = replicas
        found = self._open[app.key] = _Open(registered, {}, replicas if owns else None)
        try:
            bound = await self.open_ports(app.key, name, ports)
        except BaseException:
            del self._open[app.key]
            self.runtime.apps.remove(app.app_id, app.namespace)
            if found.replicas is not None:
                await found.replicas.close()
            raise
        self.callbacks.serve(registered, settings or Settings())
        return bound

    async def open_ports(self, key: str, name: str, ports: AppPorts) -> AppPorts:
        """Open ports for a further instance of an app. Raises PortInUseError."""
        found = self._open[key]
        stack = AsyncExitStack()
        try:
            bound = await self._listen(found.registered, ports, stack)
        except BaseException:
            await stack.aclose()
            raise
        found.stacks[name] = stack
        return bound

    async def close_ports(self, key: str, name: str) -> bool:
        """Close an instance's ports; returns whether others are open."""
        found = self._open.get(key)
        if found is None:
            return False
        stack = found.stacks.pop(name, None)
        if stack is not None:
            await stack.aclose()
        return bool(found.stacks)

    def call_rules(self, app: App) -> CallRules:
        """Return what holds for the calls of an app, its Configuration apart."""
        found = self._resources
        rules = CallRules(resiliencies=tuple(found.resiliencies), endpoints=tuple(found.endpoints))
        return rules.of_calls(app.namespace)

    def find(self, key: str) -> RegisteredApp | None:
        """Return a served app by `namespace/app_id`."""
        found = self._open.get(key)
        return found.registered if found is not None else None

    async def leave(self, key: str) -> None:
        """Stop serving an app: deliveries first, then its ports. Safe to repeat."""
        found = self._open.pop(key, None)
        if found is None:
            return
        self._cached_policies.pop(key, None)
        try:
            await self.callbacks.leave(key)
        except asyncio.CancelledError:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HANG_UP_S):
                    await asyncio.gather(*(stack.aclose() for stack in found.stacks.values()))
            raise
        for stack in found.stacks.values():
            await stack.aclose()
        app = found.registered.app
        self.runtime.apps.remove(app.app_id, app.namespace)
        if found.replicas is not None:
            await found.replicas.close()

    async def close(self, grace_s: float | None = None) -> None:
        """Stop serving all; what is not done within `grace_s` seconds stays with the brokers."""
        grace_s = self.grace_s if grace_s is None else grace_s
        try:
            async with asyncio.timeout(grace_s):
                await asyncio.gather(*(self.leave(key) for key in list(self._open)))
        except TimeoutError:
            self.overdue = grace_s > 0
        await self.callbacks.close()
        await self.feeds.stop(0.0)
        await self.runtime.close()

    def apps(self) -> list[RegisteredApp]:
        """Return the apps that are served."""
        return [found.registered for found in self._open.values()]

    async def _listen(self, registered: RegisteredApp, ports: AppPorts, stack: AsyncExitStack) -> AppPorts:
        app = registered.app
        http = grpc = -1
        if ports.grpc >= 0:
            address = (
                f"unix:{ports.sockets}/dapr-{app.app_id}-grpc.socket"
                if ports.sockets
                else f"{_bracketed(ports.host)}:{ports.grpc}"
            )
            try:
                server = await stack.enter_async_context(
                    GrpcServer(
                        self.runtime,
                        registered.identify,
                        address,
                        body_limit_bytes=app.body_limit_bytes,
                    )
                )
            except OSError as exc:
                raise PortInUseError(
                    f"--dapr-grpc-port {ports.grpc} is taken", hint="Name another one, or none."
                ) from exc
            grpc = server.port
        if ports.http >= 0:
            if ports.sockets:
                sock = _socket_file(Path(ports.sockets) / f"dapr-{app.app_id}-http.socket")
            else:
                sock = _bound(ports.host, ports.http, "--dapr-http-port")
            api = HttpApi(
                self.runtime,
                registered.identify,
                own=registered,
                body_limit_bytes=app.body_limit_bytes,
                header_limit_bytes=app.header_limit_bytes,
                allowed_origins=app.allowed_origins,
            )
            await stack.enter_async_context(ApiServer(api, sock, grace_s=self._answer_s))
            http = 0 if ports.sockets else sock.getsockname()[1]
        if ports.public:
            probes = HttpApi(self.runtime, registered.identify, own=registered, public=True)
            sock = _bound(ports.public_host or ports.host, ports.public, "--dapr-public-port")
            await stack.enter_async_context(ApiServer(probes, sock))
        return AppPorts(host=ports.host, http=http, grpc=grpc, sockets=ports.sockets)

    def _declared(self, app: App) -> list[TopicSubscription]:
        return declared_for(self._resources.subscriptions, app_id=app.app_id, namespace=app.namespace)

    def _policies(self, app: App) -> Policies:
        found = self._cached_policies.get(app.key)
        if found is None:
            mine = [each for each in self._resources.resiliencies if each.namespace in ("", app.namespace)]
            found = self._cached_policies[app.key] = Policies(mine, app.app_id)
        return found

    async def _open_bus(self, app: App, component: Component) -> Bus:
        if component.type.startswith("bindings."):
            return await self._bus_of(_plain(component))
        found: Bus | None = await self.runtime.components.get("pubsub", app, component.name)
        if found is None:
            raise DeliveryError(f"component {component.name} is gone")
        return found

    async def _send(self, registered: RegisteredApp, name: str, data: bytes) -> None:
        try:
            done = await self.runtime.bindings.invoke(registered.app, name, "create", data, {})
        except Fault as fault:
            raise DeliveryError(fault.message) from fault
        if not done.ok:
            raise DeliveryError(done.error or f"binding {name} refused it")


def _plain(component: Component) -> Component:
    """Return a component without the app whose it is, so that equal ones are the same."""
    return Component(
        namespace=component.namespace,
        name=component.name,
        type=component.type,
        version=component.version,
        metadata=component.metadata,
    )


def ports_of(settings: AppSettings) -> AppPorts:
    """Return where an app wants its ports."""
    return AppPorts(
        host=settings.host,
        http=settings.http,
        grpc=settings.grpc,
        sockets=settings.sockets,
        public=settings.public,
        public_host=settings.public_host,
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _socket_file(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    path.chmod(0o600)
    made.setblocking(False)
    return made


def _bound(host: str, port: int, flag: str) -> socket.socket:
    try:
        made = socket.create_server((host, port), backlog=1024)
    except OSError as exc:
        raise PortInUseError(f"{flag} {port} is taken", hint="Name another one, or none.") from exc
    made.setblocking(False)
    return made


def channel_for(app: App) -> Any:
    """Return a channel to an app by its protocol and address; None for an app that does not listen."""
    if not app.is_called:
        return None
    address: tuple[str, int] | str = app.socket or (app.address, app.port)
    if app.speaks_grpc:
        from pelton.compat.dapr.channel_grpc import GrpcChannel

        return GrpcChannel(address, token=app.app_token, limit_bytes=app.body_limit_bytes)
    from pelton.compat.dapr.channel_http import HttpChannel

    return HttpChannel(address, token=app.app_token)
