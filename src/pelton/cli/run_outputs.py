"""The outside world of `pelton run`: a child process that stands in for the runtime, without a platform.

It connects to the worker's control socket in the runtime's role and holds the drivers, since the worker left
Pelton's packages behind when it entered the function's environment. Bindings are carried out for real; what
goes to a topic is shown in the terminal and counts as accepted, unless its metadata name a NATS server.
States are kept in files of PELTON_HOME or in memory. Triggers fire by `run_triggers.py`. Started by
`cli/run_serve.py` when FUNC_CONTEXT names any of these.
Components have no object here: what FUNC_CONTEXT says as their `metadata` are their settings.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn
from uuid import uuid4

import msgspec

from pelton.cli.home import Home
from pelton.cli.printing import tell
from pelton.cli.run_triggers import Triggers
from pelton.cli.tables import DRIVERS, resolve_driver, resolve_state
from pelton.clock import SystemClock
from pelton.dataplane import wire
from pelton.dataplane.isolation import die_with_parent
from pelton.dataplane.outputs import Outputs
from pelton.dataplane.states import States
from pelton.errors import ComponentError, PeltonError, ProtocolError
from pelton.model import cloudevent
from pelton.model.desired import (
    Component,
    Desired,
    OutputBinding,
    Scaling,
    StateBinding,
    Subscription,
    Workload,
)
from pelton.model.invocation import Output
from pelton.model.state import StateCall
from pelton.plan.states import key_prefix
from pelton.ports import Binding, Bus, Delivery, Message, StateStore
from pelton.sdk import context as sdk

__all__ = ["start"]

_SQLITE: Final = "state.sqlite"
_MEMORY: Final = "state.in-memory"


class _Terminal:
    """A bus that shows what is published; nothing can be received from it."""

    async def publish(self, message: Message) -> None:
        try:
            data = cloudevent.from_json(message.data).data
        except ProtocolError:
            data = message.data
        text = data.decode("utf-8", "replace")
        tell(f"output -> topic {message.topic}: {text}")

    def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        raise ComponentError("topics need the platform", hint="pelton up, then pelton deploy.")

    async def pending(self, topic: str, *, consumer: str) -> int:
        return 0


def start(namespace: str, name: str, context: sdk.RuntimeContext) -> socket.socket:
    """Fork the process and return the control socket that the worker has to serve.

    Args:
        namespace: The function's.
        name: The function's.
        context: What it needs.
    """
    folder = tempfile.mkdtemp(prefix="pelton-run-")  # 0700: nobody else connects
    path = f"{folder}/ctl"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(8)
    sock.setblocking(False)
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        sock.close()
        _be_child(parent, folder, path, _desired(namespace, name, context))
    return sock


def _desired(namespace: str, name: str, context: sdk.RuntimeContext) -> Desired:
    def component(item: sdk.Component) -> Component:
        return Component(
            namespace=namespace, name=item.component_name, type=item.component_type, metadata=item.metadata
        )

    outputs = tuple(
        OutputBinding(name=key, component=component(item), topic=item.topic, operation=item.operation)
        for key, item in context.outputs.items()
    )
    states = []
    for key, item in context.states.items():
        store = _local(component(item), name, key)
        states.append(StateBinding(name=key, component=store, prefix=key_prefix(store, namespace, name)))
    subscriptions = tuple(
        Subscription(
            namespace=namespace,
            function=name,
            name=trigger.name,
            input_name=trigger.input_name,
            component=Component(
                namespace=namespace,
                name=trigger.name,
                type=trigger.component_type,
                metadata=trigger.metadata,
            ),
            topic=trigger.topic,
        )
        for trigger in context.dapr_triggers
    )
    workload = Workload(namespace=namespace, name=name, revision="run", bundle="")
    return Desired(
        workload=workload,
        scaling=Scaling(),
        outputs=outputs,
        states=tuple(states),
        subscriptions=subscriptions,
    )


def _local(component: Component, function: str, state: str) -> Component:
    """Return a state store as it is kept here: what has no driver or no place is a file of its own."""
    kind = component.type
    given = {key.lower() for key in component.metadata}
    if kind == _MEMORY or (kind == _SQLITE and "connectionstring" in given):
        return component
    metadata = {
        **{key: value for key, value in component.metadata.items() if key.lower() == "keyprefix"},
        "connectionString": f"{function}-{state}.db",
    }
    return Component(
        namespace=component.namespace,
        name=component.name,
        type=_SQLITE,
        metadata=metadata,
    )


def _be_child(parent: int, folder: str, path: str, desired: Desired) -> NoReturn:
    code = 1
    try:
        die_with_parent(parent)
        # The worker drains first; this process ends when the worker hangs up.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        asyncio.run(_StandIn(desired).run(folder, path))
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


class _StandIn:
    """What the runtime does for one function."""

    def __init__(self, desired: Desired) -> None:
        self._desired = desired
        self._clock = SystemClock()
        self._terminal = _Terminal()
        self._buses: dict[tuple[tuple[str, str], ...], Any] = {}
        self._outputs = Outputs(
            binding_of=_binding,
            bus_of=self._bus_of,
            clock=self._clock,
            new_id=lambda: str(uuid4()),
        )
        self._states = States(store_of=self._store)
        self._triggers = Triggers(desired.subscriptions, clock=self._clock, bus_of=self._nats)

    async def run(self, folder: str, path: str) -> None:
        """Serve the worker until it hangs up."""
        self._outputs.apply(self._desired)
        self._states.apply(self._desired)
        self._tell_states()
        handlers = {"output": self._send, "state": self._state, "outcomes": self._triggers.outcomes}
        peer = await wire.connect(path, handlers, name="worker")
        shutil.rmtree(folder)
        try:
            await peer.call("hello", {"role": "runtime"}, timeout=None)
            async with self._triggers.firing(peer):
                await peer.closed.wait()
        except ConnectionError:
            pass  # the function did not load, or ended: so do we
        finally:
            await self._outputs.close()
            await self._states.close()
            for bus in self._buses.values():
                await bus.close()

    async def _send(self, _peer: wire.Peer, body: Any) -> Any:
        where = self._desired.workload
        return await self._outputs.send(where.namespace, where.name, msgspec.convert(body["output"], Output))

    async def _state(self, _peer: wire.Peer, body: Any) -> Any:
        where = self._desired.workload
        call = msgspec.convert(body["call"], StateCall)
        return await self._states.perform(where.namespace, where.name, call)

    async def _bus_of(self, component: Component) -> Bus:
        if component.type == "pubsub.jetstream" and _server(component):
            return await self._nats(component)
        return self._terminal

    async def _nats(self, component: Component) -> Bus:
        """Return the connection to the server that a component names, opened once."""
        key = tuple(sorted(component.metadata.items()))
        if key not in self._buses:
            where = f"component {component.name}"
            bus = resolve_driver(component.type)(
                _server(component), settings=component.metadata, embedded=False, where=where
            )
            try:
                await bus.open()
            except PeltonError:
                await bus.close()
                raise
            if key in self._buses:  # opened twice at the same time
                await bus.close()
            else:
                self._buses[key] = bus
        found: Bus = self._buses[key]
        return found

    def _store(self, component: Component) -> StateStore:
        folder = self._folder()
        store: StateStore = resolve_state(component.type)(component, clock=self._clock, folder=folder)
        return store

    def _folder(self) -> Path:
        return Home().states / "run"

    def _tell_states(self) -> None:
        for binding in self._desired.states:
            place = "memory"
            if binding.component.type != _MEMORY:
                place = str(self._folder() / binding.component.metadata.get("connectionString", ""))
            tell(f"state {binding.name} is kept in {place}")


def _server(component: Component) -> str:
    return next((value for key, value in component.metadata.items() if key.lower() == "natsurl"), "")


def _binding(component: Component) -> Binding:
    if component.type not in DRIVERS:
        raise ComponentError(
            f"{component.type or 'an output without componentType'} is not available here",
            hint=f"Known: {', '.join(DRIVERS)}.",
        )
    binding: Binding = resolve_driver(component.type)(component)
    return binding
