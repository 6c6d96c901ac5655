"""The outputs of `pelton run`: a child process that stands in for the runtime, without a platform.

It connects to the worker's control socket in the runtime's role and holds the drivers, since the worker left
Pelton's packages behind when it entered the function's environment. Bindings are carried out for real; what
goes to a topic is shown in the terminal and counts as accepted. Started by `cli/run.py` when FUNC_CONTEXT
names outputs.
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
from typing import Any, NoReturn
from uuid import uuid4

import msgspec

from pelton.cli.tables import DRIVERS, resolve_driver
from pelton.clock import SystemClock
from pelton.dataplane import wire
from pelton.dataplane.isolation import die_with_parent
from pelton.dataplane.outputs import Outputs
from pelton.errors import ComponentError, ProtocolError
from pelton.model import cloudevent
from pelton.model.desired import Component, Desired, OutputBinding, Scaling, Workload
from pelton.model.invocation import Output
from pelton.ports import Binding, Bus, Delivery, Message
from pelton.sdk import context as sdk

__all__ = ["start"]


class _Terminal:
    """A bus that shows what is published; nothing can be received from it."""

    async def publish(self, message: Message) -> None:
        try:
            data = cloudevent.from_json(message.data).data
        except ProtocolError:
            data = message.data
        text = data.decode("utf-8", "replace")
        print(f"output -> topic {message.topic}: {text}", file=sys.stderr, flush=True)

    def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        raise ComponentError("topics need the platform", hint="pelton up, then pelton deploy.")

    async def pending(self, topic: str, *, consumer: str) -> int:
        return 0


def start(namespace: str, name: str, components: Mapping[str, sdk.Component]) -> socket.socket:
    """Fork the process and return the control socket that the worker has to serve.

    Args:
        namespace: The function's.
        name: The function's.
        components: Output name -> component; not empty.
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
        _be_child(parent, folder, path, _desired(namespace, name, components))
    return sock


def _desired(namespace: str, name: str, components: Mapping[str, sdk.Component]) -> Desired:
    outputs = tuple(
        OutputBinding(
            name=output,
            component=Component(
                namespace=namespace,
                name=item.component_name,
                type=item.component_type,
                metadata=item.metadata,
            ),
            topic=item.topic,
            operation=item.operation,
        )
        for output, item in components.items()
    )
    workload = Workload(namespace=namespace, name=name, revision="run", bundle="")
    return Desired(workload=workload, scaling=Scaling(), outputs=outputs)


def _be_child(parent: int, folder: str, path: str, desired: Desired) -> NoReturn:
    code = 1
    try:
        die_with_parent(parent)
        # The worker drains first; this process ends when the worker hangs up.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        asyncio.run(_stand_in(folder, path, desired))
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


async def _stand_in(folder: str, path: str, desired: Desired) -> None:
    terminal = _Terminal()
    outputs = Outputs(
        binding_of=_binding,
        bus_of=lambda _: _ready(terminal),
        clock=SystemClock(),
        new_id=lambda: str(uuid4()),
    )
    outputs.apply(desired)
    where = desired.workload

    async def send(_peer: wire.Peer, body: Any) -> Any:
        output = msgspec.convert(body["output"], Output)
        return await outputs.send(where.namespace, where.name, output)

    peer = await wire.connect(path, {"output": send}, name="worker")
    shutil.rmtree(folder)
    try:
        await peer.call("hello", {"role": "runtime"}, timeout=None)
        await peer.closed.wait()
    except ConnectionError:
        pass  # the function did not load, or ended: so do we
    finally:
        await outputs.close()


async def _ready(bus: Bus) -> Bus:
    return bus


def _binding(component: Component) -> Binding:
    if component.type not in DRIVERS:
        raise ComponentError(
            f"{component.type or 'an output without componentType'} is not available here",
            hint=f"Known: {', '.join(DRIVERS)}.",
        )
    binding: Binding = resolve_driver(component.type)(component)
    return binding
