"""A runtime for one app in this process.

Resources come from files and are read again when these change. Without any, topics and state are kept in this
process's memory under the names that Dapr's own installation gives them. Retries and dead letters are in a
file of the home, one per app (`drivers/ledger`); `pelton dlq --app-id` reads it. Used by
`dapr_run.py`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from pelton.cli.buses import open_bus
from pelton.cli.dapr_flags import Parsed
from pelton.cli.dapr_host import DaprHost, channel_for, ports_of
from pelton.cli.dapr_peers import Peer, announced, peers
from pelton.cli.dapr_resources import (
    Resources,
    configuration_of,
    default_folder,
    load_folders,
    stamp,
)
from pelton.cli.dapr_settings import Served, settings_of
from pelton.cli.home import Home
from pelton.cli.state_stores import StateStores
from pelton.clock import Clock, SystemClock
from pelton.compat.dapr.apps import App, RegisteredApp
from pelton.compat.dapr.callbacks import Settings
from pelton.compat.dapr.channel_http import HttpChannel
from pelton.compat.dapr.invocation import Target
from pelton.compat.dapr.replicas import Replicas
from pelton.drivers.ledger import SqliteLedger
from pelton.drivers.memory import MemoryBus
from pelton.log import get
from pelton.model.component import ComponentResource, ComponentSpec
from pelton.model.desired import Component
from pelton.ports import Bus

__all__ = ["alone", "ledger_for"]

_LOOK_S: Final = 1.0
_AGAIN_S: Final = 0.5
_IN_MEMORY: Final = Resources(
    components=(
        ComponentResource(name="pubsub", spec=ComponentSpec(type="pubsub.in-memory")),
        ComponentResource(name="statestore", spec=ComponentSpec(type="state.in-memory")),
    )
)
_log = get(__name__)


@asynccontextmanager
async def alone(parsed: Parsed) -> AsyncIterator[Served]:
    """Serve an app for as long as the block lasts.

    Raises:
        PeltonError: A port is taken, or a resource cannot be used.
    """
    settings = settings_of(
        parsed, os.environ, configuration_of([Path(each).absolute() for each in parsed.values["config"]])
    )
    clock, asked, ended = SystemClock(), asyncio.Event(), asyncio.Event()
    buses = _Buses(clock)
    ledger = ledger_for(settings.app, home=Home(), clock=clock)
    others = _Others()

    def shut_down(_app: RegisteredApp, force: bool) -> None:
        if force:
            host.grace_s = 0.0
        ended.set()

    async with AsyncExitStack() as stack:
        stack.push_async_callback(ledger.close)
        stack.push_async_callback(buses.close)
        stack.push_async_callback(others.close)
        host = await stack.enter_async_context(
            DaprHost(
                bus_of=buses.of,
                ledger=ledger,
                clock=clock,
                stores=StateStores(clock, Path.cwd()),
                variables=os.environ,
                find=others.find,
                shutdown=shut_down,
                grace_s=settings.grace_s,
                answer_s=settings.grace_s,
            )
        )
        folders = [Path(each) for each in settings.folders]
        if not folders and (found := default_folder(Path.home())) is not None:
            folders = [found]
        host.sync(_loaded(folders, settings.own_namespace))
        await _checked(host, settings.app)
        channel = channel_for(settings.app)
        replicas = None
        if channel is not None:
            replicas = Replicas(max_concurrency=settings.app.max_concurrency)
            replicas.sync({"app": channel})
        ports = await host.serve(
            settings.app,
            replicas,
            ports_of(settings),
            Settings(ask=settings.ask, learned=lambda _learned: asked.set()),
        )
        stack.enter_context(announced(settings.app, http_port=ports.http))
        if folders:
            watching = asyncio.create_task(_watch(host, folders, settings.own_namespace))
            stack.callback(watching.cancel)

        async def over() -> str:
            await ended.wait()
            return ""

        yield Served(
            host=ports.host,
            http=ports.http,
            grpc=ports.grpc,
            ready=asked.wait,
            ended=over,
            overdue=lambda: host.overdue,
        )


def ledger_for(app: App, *, home: Home, clock: Clock) -> SqliteLedger | MemoryBus:
    """Return what keeps an app's retries and dead letters: a file of the home, where one can be written."""
    folder = home.dapr_ledger(app.namespace, app.app_id)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return SqliteLedger(folder, clock=clock)
    _log.warning(
        "retries and dead letters end with this process: %s cannot be written; PELTON_HOME names a place",
        there,
    )
    return MemoryBus()


class _Buses:
    """One connection per component."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buses: dict[tuple[str, str], tuple[Component, Bus]] = {}
        self._opening = asyncio.Lock()

    async def of(self, component: Component) -> Bus:
        """Return the bus that a component means. Raises ComponentError."""
        key = (component.namespace, component.name)
        async with self._opening:
            known = self._buses.get(key)
            if known is not None and known[0] == component:
                return known[1]
            bus = await open_bus(component, clock=self._clock, home=Home())
            self._buses[key] = (component, bus)
            return bus

    async def close(self) -> None:
        """Leave the brokers properly."""
        for _, bus in self._buses.values():
            close = getattr(bus, "close", None)
            if close is not None:
                await close()


def _loaded(folders: list[Path], namespace: str) -> Resources:
    """Read all resources; the first fault ends the start, as with Dapr."""
    if not folders:
        return _IN_MEMORY
    resources, errors = load_folders(folders, namespace=namespace)
    if errors:
        raise errors[0]
    return resources


async def _checked(host: DaprHost, app: App) -> None:
    """Open what the app may use; what can never work ends the start, as with Dapr, unless it is tolerated.

    A backend that is away is no reason to end: it is tried again with every use.
    """
    for problem in await host.runtime.components.check(app):
        if not problem.is_away and not problem.tolerated:
            raise problem.error


async def _watch(host: DaprHost, folders: list[Path], namespace: str) -> None:
    """Take changed files over; what is faulty is logged, and what was there stays."""
    known = stamp(folders)
    while True:
        await asyncio.sleep(_LOOK_S)
        try:
            now = stamp(folders)
        except OSError:
            continue  # a file went between listing and looking
        if now == known:
            continue
        known = now
        resources, errors = load_folders(folders, namespace=namespace)
        for error in errors:
            _log.error("resources are not taken over: %s", error)
        if not errors:
            host.sync(resources)
            _log.info("resources were read again")


class _Others:
    """Apps of other runtimes, kept as long as their files are the same; looked for at most twice a second."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[list[Peer], Target]] = {}
        self._looked: dict[tuple[str, str], float] = {}

    async def find(self, namespace: str, app_id: str) -> Target | None:
        """Return an app as a target, None where no runtime serves one."""
        key = (namespace, app_id)
        known = self._known.get(key)
        now = time.monotonic()
        if known is not None and now - self._looked[key] < _AGAIN_S:
            return known[1]
        self._looked[key] = now
        found = peers(namespace, app_id)
        if known is not None and known[0] == found:
            return known[1]
        if known is not None:
            del self._known[key]
            await known[1].channel.close()
        if not found:
            return None
        replicas = Replicas()
        channels = {}
        for peer in found:
            if peer.runtime:
                named = [(b"dapr-app-id", app_id.encode())]
                channels[str(peer.pid)] = HttpChannel(
                    ("127.0.0.1", peer.runtime), token=peer.runtime_token, headers=named
                )
            else:
                channels[str(peer.pid)] = channel_for(peer.app())
        replicas.sync(channels)
        target = Target(
            app_id=app_id,
            namespace=namespace,
            channel=replicas,
            speaks_grpc=found[0].app().speaks_grpc,
            access=found[0].access,
        )
        self._known[key] = (found, target)
        return target

    async def close(self) -> None:
        """Close all connections."""
        for _, target in self._known.values():
            await target.channel.close()
