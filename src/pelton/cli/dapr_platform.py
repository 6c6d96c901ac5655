"""Apps of Dapr on the platform: Functions that are apps, and programs that `pelton dapr run` brings along.

One host serves them all; programs with resources of their own share one with all that name the same folders.
Events and calls reach a Function at its instances' sockets; at zero the node is asked to start one. What a
revision said that it wants is kept, so that nobody has to be started to be asked again. Made by the runtime
process.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from pelton.cli.dapr_host import AppPorts, DaprHost, ports_of
from pelton.cli.dapr_programs import JoinedApp, ProgramWays
from pelton.cli.dapr_resources import configuration_of, decoded, load_folders, sorted_resources
from pelton.cli.dapr_settings import AppSettings
from pelton.cli.state_stores import StateStores
from pelton.clock import Clock
from pelton.compat.dapr.apps import App, AppHealth, RegisteredApp
from pelton.compat.dapr.callbacks import Learned, Settings
from pelton.compat.dapr.channel import AppChannel
from pelton.compat.dapr.channel_grpc import GrpcChannel
from pelton.compat.dapr.channel_http import HttpChannel
from pelton.compat.dapr.invocation import Target
from pelton.compat.dapr.replicas import Replicas
from pelton.dataplane import wire
from pelton.dataplane.event_traces import EventTraces
from pelton.errors import ConflictError, PeltonError
from pelton.log import get
from pelton.model.dapr import AccessControl, DaprConfiguration
from pelton.model.dapr_app import DaprApp
from pelton.model.desired import Component, Desired
from pelton.plan import names
from pelton.ports import Bus, Ledger

__all__ = ["DaprPlatform"]

_log = get(__name__)
_AGAIN_S: Final = 2.0
_NOBODY: Final = AccessControl(default_action="deny")


class _Function:
    """One function as a target: its instances' sockets, and what starts one when there is none."""

    def __init__(self, *, grpc: bool, limit: int, wake: Callable[[], Awaitable[None]]) -> None:
        self.grpc = grpc
        self._made: dict[str, AppChannel] = {}
        self.replicas = Replicas(max_concurrency=limit, wake=wake)

    def update(self, instances: Iterable[tuple[str, str]]) -> None:
        """Take over the list of instances: (id, control socket) each."""
        listed = {name: f"{ctl.removesuffix('.ctl')}.http" for name, ctl in instances}
        self._made = {name: channel for name, channel in self._made.items() if name in listed}
        for name, path in listed.items():
            if name not in self._made:
                self._made[name] = GrpcChannel(path) if self.grpc else HttpChannel(path)
        self.replicas.sync(self._made)


class DaprPlatform:
    """All apps of the platform; an async context manager.

    Args:
        run: The run directory, where sockets are.
        stores: Opens state stores, for functions as well.
        kept: File for what apps said that they want.
        kubeconfig: For components that keep their secrets in the API server.
        bus_of: Returns the bus of a component.
        ledger: Keeps retries and dead letters.
        clock: Time.
        traces: Takes hops.
        wake: Starts an instance of a function: namespace, name.
        on_pending: Told how many events wait for a function: namespace, name, number.
        tell: Tells the node about the programs that joined; None where there is no gateway.
    """

    def __init__(
        self,
        *,
        run: Path,
        stores: StateStores,
        kept: Path,
        kubeconfig: Path,
        bus_of: Callable[[Component], Awaitable[Bus]],
        ledger: Ledger,
        clock: Clock,
        traces: EventTraces,
        wake: Callable[[str, str], Awaitable[None]],
        on_pending: Callable[[str, str, int], None],
        tell: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]] | None = None,
    ) -> None:
        self._wake = wake
        self._run = run
        self._stores = stores
        self._kubeconfig = kubeconfig
        self._bus_of = bus_of
        self._ledger = ledger
        self._clock = clock
        self._traces = traces
        self._on_pending = on_pending
        self._book = _Book(kept)
        self._configurations: dict[tuple[str, str], DaprConfiguration] = {}
        self._secrets: dict[tuple[str, str], dict[str, str]] = {}
        self._desired: dict[str, Desired] = {}
        self._instances: dict[str, list[tuple[str, str]]] = {}
        self._functions: dict[str, _Function] = {}
        self._ids: dict[str, str] = {}  # namespace/app id -> namespace/name of the Function
        self._unserved: dict[str, str] = {}  # namespace/name of a Function -> why its app is not served
        self._peers: dict[str, set[wire.Peer]] = {}
        self._joined: dict[str, JoinedApp] = {}
        self._hosts: dict[tuple[str, ...], DaprHost] = {}
        self._lock = asyncio.Lock()
        self._retries: set[asyncio.Task[None]] = set()
        self._main = self._host(())
        self._programs = ProgramWays(tell, run, self._registered) if tell is not None else None

    async def __aenter__(self) -> DaprPlatform:
        await self._main.__aenter__()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for task in self._retries:
            task.cancel()
        if self._programs is not None:
            await self._programs.close()
        await asyncio.gather(*(host.close(1.0) for host in self._hosts.values()))
        await asyncio.gather(*(each.replicas.close() for each in self._functions.values()))

    # -- resources -------------------------------------------------------------------------------------------

    def resources(self, items: Iterable[Mapping[str, Any]], secrets: Iterable[tuple[Any, ...]]) -> None:
        """Make these objects of the API the resources; what cannot be used is logged and left out."""
        found: list[Any] = []
        for item in items:
            try:
                model = decoded(item)
            except PeltonError as exc:
                _log.warning("%s %s is left out: %s", item.get("kind"), item["metadata"].get("name"), exc)
                continue
            if model is not None:
                found.append(model)
        old = self._secrets
        self._secrets = {(namespace, name): dict(entries) for namespace, name, entries in secrets}
        self._configurations = {
            (each.namespace, each.name): each for each in found if isinstance(each, DaprConfiguration)
        }
        self._main.sync(sorted_resources(found))
        changed = {key for key in old.keys() | self._secrets.keys() if old.get(key) != self._secrets.get(key)}
        if changed:
            named = {name for _, name in changed}
            self._main.runtime.components.refresh(
                frozenset(
                    each.name
                    for each in sorted_resources(found).components
                    if any(
                        item.secret_key_ref is not None and item.secret_key_ref.name in named
                        for item in each.spec.metadata
                    )
                )
            )
        for desired in list(self._desired.values()):
            self._spawn(self.apply(desired))
        if self._programs is not None and self._joined:
            self._programs.changed()

    async def _secret(self, namespace: str, name: str) -> Mapping[str, str] | None:
        return self._secrets.get((namespace, name))

    # -- functions -------------------------------------------------------------------------------------------

    async def apply(self, desired: Desired) -> None:
        """Serve a function's app, or stop serving it; idempotent. A port that is taken is tried again."""
        key = desired.workload.key
        self._desired[key] = desired
        app = desired.dapr
        async with self._lock:
            if self._desired.get(key) is not desired:
                return
            target = self._target(desired) if app is not None or key in self._functions else None
            old = next((app_key for app_key, function in self._ids.items() if function == key), None)
            wanted = f"{desired.workload.namespace}/{app.app_id}" if app is not None else None
            if old is not None and old != wanted:
                await self._main.leave(old)
                self._give_up(old)
            reason = ""
            if app is not None and wanted is not None and target is not None:
                holder = self._ids.setdefault(wanted, key)
                try:
                    if holder != key:
                        reason = f"the app id {app.app_id} is that of the Function {holder}"
                    else:
                        reason = await self._serve(desired, app, target)
                except PeltonError as exc:
                    reason = exc.message
                    self._spawn(self._later(desired))
            if reason and reason != self._unserved.get(key):
                _log.error("%s is not served as an app: %s", key, reason)
            self._unserved[key] = reason

    def _give_up(self, app_key: str) -> None:
        """Let another Function that has the app id be the app."""
        del self._ids[app_key]
        for desired in self._desired.values():
            if desired.dapr is not None and f"{desired.workload.namespace}/{desired.dapr.app_id}" == app_key:
                self._spawn(self.apply(desired))

    async def remove(self, namespace: str, name: str) -> None:
        """Forget a function. Idempotent."""
        key = f"{namespace}/{name}"
        async with self._lock:
            self._desired.pop(key, None)
            self._instances.pop(key, None)
            self._unserved.pop(key, None)
            for app_key in [each for each, function in self._ids.items() if function == key]:
                await self._main.leave(app_key)
                self._give_up(app_key)
                self._book.forget(app_key)
            function = self._functions.pop(key, None)
            if function is not None:
                await function.replicas.close()

    async def sync(self, wanted: Iterable[Desired]) -> None:
        """Make the whole set these; of two with one app id the one that was the app before goes first."""
        listed = {desired.workload.key: desired for desired in wanted}
        for key in [key for key in self._desired if key not in listed]:
            await self.remove(*key.split("/", 1))
        for desired in sorted(listed.values(), key=self._is_new):
            await self.apply(desired)

    def _is_new(self, desired: Desired) -> bool:
        if desired.dapr is None:
            return True
        return self._book.get(f"{desired.workload.namespace}/{desired.dapr.app_id}", desired.revision) is None

    def endpoints(self, key: str, instances: list[tuple[str, str]]) -> None:
        """Take over a function's instances, (id, control socket) each."""
        self._instances[key] = instances
        if key in self._functions:
            self._functions[key].update(instances)

    def _target(self, desired: Desired) -> _Function:
        key, app = desired.workload.key, desired.dapr
        grpc = desired.route.h2c if desired.route is not None else False
        known = self._functions.get(key)
        if known is not None and known.grpc == grpc:
            return known
        if known is not None:
            self._spawn(known.replicas.close())
        made = self._functions[key] = _Function(
            grpc=grpc,
            limit=app.max_concurrency if app is not None else -1,
            wake=lambda: self._wake(desired.workload.namespace, desired.workload.name),
        )
        made.update(self._instances.get(key, []))
        return made

    async def _serve(self, desired: Desired, told: DaprApp, target: _Function) -> str:
        """Serve an app; returns why it is not, "" when it is. Raises PeltonError."""
        namespace, revision = desired.workload.namespace, desired.revision
        configuration = self._configuration(namespace, told)
        if configuration is None:  # `resources` comes back when it is there
            return f"there is no Configuration {told.configuration}"
        app = App(
            app_id=told.app_id,
            namespace=namespace,
            protocol=told.protocol,
            socket=str(self._run / "activator.sock"),
            max_concurrency=told.max_concurrency,
            health=AppHealth(
                path=told.health_path,
                interval_s=told.health_interval_s,
                timeout_s=told.health_timeout_s,
                threshold=told.health_threshold,
            )
            if told.health_path
            else None,
            api_token=told.ports.token,
            configuration=configuration,
            body_limit_bytes=told.body_limit_bytes,
        )
        known = self._book.get(app.key, revision)
        registered = self._main.find(app.key)
        if registered is not None and registered.app == app and self._book.asked(app.key) == revision:
            return ""
        self._book.ask(app.key, revision)
        if registered is not None:
            await self._main.leave(app.key)

        def learned(found: Learned) -> None:
            self._book.put(app.key, revision, found)

        await self._main.serve(
            app,
            target.replicas,
            AppPorts(http=told.ports.inner or told.ports.http, grpc=told.ports.grpc),
            Settings(known=known, learned=learned, ask=told.asked),
            owns=False,
        )
        return ""

    async def _later(self, desired: Desired) -> None:
        await self._clock.sleep(_AGAIN_S)
        await self.apply(desired)

    async def _find(self, namespace: str, app_id: str) -> Target | None:
        """Return an app of another host, or a function by its name or its app id."""
        for host in self._hosts.values():
            registered = host.find(f"{namespace}/{app_id}")
            if registered is not None and registered.channel is not None:
                return Target(
                    app_id=app_id,
                    namespace=namespace,
                    channel=registered.channel,
                    speaks_grpc=registered.app.speaks_grpc,
                    healthy=registered.healthy,
                    access=registered.app.configuration.access_control,
                )
        for desired in self._desired.values():
            workload = desired.workload
            if workload.namespace == namespace and app_id in (
                workload.name,
                names.app_id(namespace, workload.name),
            ):
                function = self._target(desired)
                return Target(
                    app_id=app_id,
                    namespace=namespace,
                    channel=function.replicas,
                    speaks_grpc=function.grpc,
                    access=self._access(desired),
                )
        return None

    def _registered(self, namespace: str, app_id: str) -> tuple[DaprHost, RegisteredApp] | None:
        """Return an app that is served, and its host."""
        for host in self._hosts.values():
            registered = host.find(f"{namespace}/{app_id}")
            if registered is not None:
                return host, registered
        return None

    def programs(self) -> dict[str, Any] | None:
        """Return the programs that joined, as the node takes them; None where nobody is told."""
        return self._programs.described() if self._programs is not None else None

    def _configuration(self, namespace: str, told: DaprApp) -> DaprConfiguration | None:
        """Return an app's Configuration, None where the one that it names is missing."""
        if not told.configuration:
            return DaprConfiguration()
        return self._configurations.get((namespace, told.configuration))

    def _access(self, desired: Desired) -> AccessControl | None:
        """Return who may call a Function, by whichever of its names; nobody while its rules are missing."""
        if desired.dapr is None:
            return None
        found = self._configuration(desired.workload.namespace, desired.dapr)
        return found.access_control if found is not None else _NOBODY

    def _pending(self, namespace: str, app_id: str, count: int) -> None:
        key = self._ids.get(f"{namespace}/{app_id}")
        if key is not None:
            self._on_pending(namespace, key.partition("/")[2], count)

    # -- programs that join ----------------------------------------------------------------------------------

    async def join(self, peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        """Serve a program for as long as its connection lasts; further ones of the same app take turns.

        Returns:
            `host`, `http` and `grpc`: where it reaches the runtime.
        """
        settings = msgspec.convert(body, AppSettings)
        app, name = settings.app, f"{id(peer)}"
        async with self._lock:
            if app.key in self._ids:
                raise ConflictError(f"the app id {app.app_id} is that of a Function")
            host = await self._host_for(settings)
            known = self._joined.get(app.key)
            # Its HTTP port is opened below.
            ports = replace(ports_of(settings), http=-1)
            if known is not None:
                registered = known.host.find(app.key)
                if registered is None or known.host is not host:
                    raise ConflictError(f"the app id {app.app_id} is taken by one with other resources")
                ports = await host.open_ports(app.key, name, ports)
            else:
                known, ports = await self._begin(peer, host, settings, name, ports)
            try:
                http = await self._open_http(known, settings, name)
            except BaseException:
                await self._forget_program(app.key, name)
                raise
            self._peers.setdefault(app.key, set()).add(peer)
        self._spawn(self._until_closed(peer, app.key, name))
        return {"host": ports.host, "http": http, "grpc": ports.grpc}

    async def _begin(
        self, peer: wire.Peer, host: DaprHost, settings: AppSettings, name: str, ports: AppPorts
    ) -> tuple[JoinedApp, AppPorts]:
        """Serve the first program of an app."""
        configuration = configuration_of([Path(each) for each in settings.configuration])
        app = replace(settings.app, configuration=configuration)
        replicas = Replicas(max_concurrency=app.max_concurrency)
        known = JoinedApp(host, replicas)
        known.add(name, app)
        asked: asyncio.Event = asyncio.Event()
        ports = await host.serve(
            app,
            replicas if known.channels else None,
            ports,
            Settings(ask=settings.ask, learned=lambda _found: _ready(peer, asked)),
            name=name,
        )
        self._joined[app.key] = known
        return known, ports

    async def _open_http(self, known: JoinedApp, settings: AppSettings, name: str) -> int:
        """Open a program's HTTP port, and say that it can be called."""
        key = settings.app.key
        known.add(name, settings.app)
        registered = known.host.find(key)
        assert registered is not None  # noqa: S101 -- served under the lock
        wanted = ports_of(settings)
        if self._programs is None:
            return (await known.host.open_ports(key, _http(name), replace(wanted, grpc=-1, public=0))).http
        await self._programs.serve(registered, known.listening())
        return await self._programs.open(known.host, registered, _http(name), wanted)

    def _shut_down(self, registered: RegisteredApp, _force: bool) -> None:
        """Tell the programs of an app to end; a function's instances are the platform's to end."""
        for peer in self._peers.get(registered.app.key, ()):
            peer.note("dapr-shutdown", None)

    async def _until_closed(self, peer: wire.Peer, app_key: str, name: str) -> None:
        await peer.closed.wait()
        async with self._lock:
            self._peers.get(app_key, set()).discard(peer)
            await self._forget_program(app_key, name)

    async def _forget_program(self, app_key: str, name: str) -> None:
        """Stop serving a program, and its app with the last one."""
        found = self._joined.get(app_key)
        registered = found.host.find(app_key) if found is not None else None
        if found is None or registered is None:
            return
        found.remove(name)
        if self._programs is not None:
            self._programs.forget(_http(name))
            await self._programs.serve(registered, found.listening())
            self._programs.changed()
        await found.host.close_ports(app_key, _http(name))
        if not await found.host.close_ports(app_key, name):
            del self._joined[app_key]
            self._peers.pop(app_key, None)
            await found.host.leave(app_key)

    async def _host_for(self, settings: AppSettings) -> DaprHost:
        if not settings.folders:
            return self._main
        key = (settings.own_namespace, *settings.folders)
        host = self._hosts.get(key)
        if host is None:
            resources, errors = load_folders(
                [Path(each) for each in settings.folders], namespace=settings.own_namespace
            )
            if errors:
                raise errors[0]
            host = self._host(key)
            await host.__aenter__()
            host.sync(resources)
        return host

    def _host(self, key: tuple[str, ...]) -> DaprHost:
        made = self._hosts[key] = DaprHost(
            bus_of=self._bus_of,
            ledger=self._ledger,
            clock=self._clock,
            stores=self._stores,
            kubeconfig=self._kubeconfig,
            secrets=None if key else self._secret,
            variables=os.environ,
            shutdown=self._shut_down,
            traces=self._traces,
            find=self._find,
            on_pending=self._pending,
        )
        return made

    def stats(self) -> list[dict[str, Any]]:
        """Return whose each subscription of an app is, and its counters; a Function's is the Function's."""
        found = [
            {"id": name, **counters}
            for host in self._hosts.values()
            for name, counters in host.feeds.stats().items()
        ]
        for one in found:
            key = self._ids.get(f"{one['namespace']}/{one['function']}", "")
            one["function"] = key.partition("/")[2] or one["function"]
        return found

    def unserved(self) -> list[dict[str, str]]:
        """Return `namespace`, `function` and `trouble` of each Function whose app is not served."""
        return [
            {"namespace": key.partition("/")[0], "function": key.partition("/")[2], "trouble": reason}
            for key, reason in self._unserved.items()
            if reason
        ]

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._retries.add(task)
        task.add_done_callback(self._retries.discard)


class _Book:
    """What apps said that they want, by app and revision; a file that outlives the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asked: dict[str, str] = {}
        try:
            self._known: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            self._known = {}

    def get(self, app_key: str, revision: str) -> Learned | None:
        """Return what an app's revision said, None where it was not asked."""
        found = self._known.get(app_key)
        if not isinstance(found, dict) or found.get("revision") != revision:
            return None
        try:
            return msgspec.convert(found["learned"], Learned)
        except (KeyError, msgspec.ValidationError):
            return None

    def put(self, app_key: str, revision: str, learned: Learned) -> None:
        """Keep what it said."""
        if self.get(app_key, revision) == learned:
            return
        self._known[app_key] = {"revision": revision, "learned": msgspec.to_builtins(learned)}
        self._save()

    def forget(self, app_key: str) -> None:
        """Drop an app that is gone."""
        self._asked.pop(app_key, None)
        if self._known.pop(app_key, None) is not None:
            self._save()

    def asked(self, app_key: str) -> str:
        """Return the revision that is being served."""
        return self._asked.get(app_key, "")

    def ask(self, app_key: str, revision: str) -> None:
        """Note that a revision is being served."""
        self._asked[app_key] = revision

    def _save(self) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(self._known))
        fresh.replace(self._path)


def _http(name: str) -> str:
    """Return under which name a program has its HTTP port, which is not always where its gRPC port is."""
    return f"{name} http"


def _ready(peer: wire.Peer, asked: asyncio.Event) -> None:
    if not asked.is_set():
        asked.set()
        peer.note("dapr-ready", None)
