"""The runtime's event part as a process: bus, dispatcher, invoker. Endpoints come from a file of the test."""

import asyncio
import json
import sys
from pathlib import Path

import uvloop

from pelton.clock import SystemClock
from pelton.dataplane.dispatcher import Dispatcher
from pelton.dataplane.invoker import WorkerInvoker
from pelton.drivers.nats import JetStreamBus
from pelton.errors import WakeError
from pelton.model.desired import Component, Desired, Scaling, Subscription, Workload
from pelton.model.invocation import Delivered, Output

SUBSCRIPTION = Subscription(
    namespace="default",
    function="sink",
    name="in",
    input_name="in",
    component=Component(namespace="default", name="in", type="pubsub.jetstream"),
    topic="numbers",
    max_attempts=100,
    backoff_s=0.05,
    max_backoff_s=1.0,
    max_in_flight=500,
)


async def main() -> None:
    directory, url = sys.argv[1:]

    async def outputs(_namespace: str, _name: str, _output: Output, _revision: str) -> Delivered:
        return Delivered(ok=True)

    async def wake(_namespace: str, _name: str) -> None:
        raise WakeError("the test starts workers, nobody else")

    async with JetStreamBus(url, user="pelton", password='se"cret') as bus:

        async def bus_of(_component: Component) -> JetStreamBus:
            return bus

        invoker = WorkerInvoker(outputs=outputs, wake=wake)
        dispatcher = Dispatcher(invoker=invoker, ledger=bus, bus_of=bus_of, clock=SystemClock())
        workload = Workload(namespace="default", name="sink", revision="sink-1", bundle="/")
        await dispatcher.apply(Desired(workload=workload, scaling=Scaling(), subscriptions=(SUBSCRIPTION,)))
        known: list[str] = []
        while True:
            listed = json.loads(Path(directory, "endpoints.json").read_text())
            if listed != known:
                known = listed
                invoker.update("default", "sink", "sink-1", [(i, f"{directory}/{i}.ctl") for i in listed])
            await asyncio.sleep(0.02)


uvloop.run(main())
