"""The runtime process: `python -m pelton.cli.runtime SETTINGS`.

Owns every connection to the outside: the bus, the dispatcher, outputs, the alert intake and pipeline, the
follower of what instances print. Serves runtime.sock for `up`; calls the node for endpoints and wakes.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import sys
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from pelton import log
from pelton.apiserver.server import ApiServer
from pelton.cli import cyclic_gc, kafka_topics
from pelton.cli.bus_table import BusTable
from pelton.cli.buses import open_bus
from pelton.cli.dapr_platform import DaprPlatform
from pelton.cli.home import Home, Settings
from pelton.cli.rule_brokers import with_brokers
from pelton.cli.runtime_alerts import AlertObjects
from pelton.cli.scalers import make_scaler
from pelton.cli.state_stores import StateStores
from pelton.cli.tables import SENDERS, resolve_driver, resolve_sender
from pelton.clock import SystemClock
from pelton.dataplane import wire
from pelton.dataplane.dispatcher import Dispatcher
from pelton.dataplane.event_intake import event_routes
from pelton.dataplane.event_traces import EventTraces
from pelton.dataplane.invoker import WorkerInvoker
from pelton.dataplane.link import Link
from pelton.dataplane.outputs import Outputs
from pelton.dataplane.scaler_pool import Round, ScalerPool, plain
from pelton.dataplane.states import States
from pelton.dataplane.triggers import EventFramework
from pelton.drivers.logs import SpoolFollower
from pelton.drivers.nats import JetStreamBus, is_embedded
from pelton.model.desired import Component, Desired
from pelton.model.event_framework import EventPlan
from pelton.model.matching import parse_matcher
from pelton.model.scaler import ScalerTrigger
from pelton.notify.alert_table import AlertTable
from pelton.notify.alertmanager import alertmanager_routes
from pelton.notify.group_store import GroupStore
from pelton.notify.intake import create_app
from pelton.notify.log_rules import LogRules
from pelton.notify.pipeline import Options, Pipeline
from pelton.notify.records import Records
from pelton.notify.rule_store import RuleStore
from pelton.notify.silences import SilenceBook
from pelton.notify.verify import verify_routes
from pelton.plan.aliases import Aliases
from pelton.plan.eventing import useful_events
from pelton.ports import Binding, Bus, Message
from pelton.random_ids import RandomIds

__all__ = ["Runtime", "main"]

_CLUSTER: Final = "default"
_SWITCH_S: Final = 0.0005
_GATEWAY_S: Final = 6.0
"""A little longer than the gateway waits for Envoy."""
_FUNCTION: Final = "Function "
"""How owners of triggers begin that are Functions, whose scaling the node decides."""
_log = log.get(__name__)


class Runtime:
    """Everything that happens per event.

    Args:
        settings: What `up` decided.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._run = Path(settings.run)
        self._clock = SystemClock()
        self._bus = JetStreamBus(settings.nats_url)
        self._buses = BusTable(self._open, self._clock)
        self._node = Link(
            str(self._run / "node.sock"),
            name="node",
            clock=self._clock,
            handlers={"endpoints": self._endpoints},
            on_up=self._node_up,
        )
        traces = EventTraces(
            lambda span: self._node.note("spans", [span]),
            exported=bool(settings.otlp_url),
            percent=settings.trace_percent,
            draw=lambda: random.uniform(0, 100),  # noqa: S311 -- which events are looked at is no secret
        )
        self._outputs = Outputs(
            binding_of=_binding,
            bus_of=self._bus_of,
            clock=self._clock,
            new_id=RandomIds(),
            traces=traces,
        )
        stores = StateStores(self._clock, Home(Path(settings.home)).states)
        self._states = States(store_of=stores.open)
        self._invoker = WorkerInvoker(
            outputs=self._outputs.send,
            wake=self._wake,
            defer=self._outputs.defer,
            states=self._states.perform,
        )
        self._dispatcher = Dispatcher(
            invoker=self._invoker,
            ledger=self._bus,
            bus_of=self._bus_of,
            clock=self._clock,
            on_pending=self._pending,
            traces=traces,
        )
        self._events = EventFramework(
            ledger=self._bus,
            registers=self._bus,
            bus_of=self._bus_of,
            binding_of=_binding,
            clock=self._clock,
            new_id=lambda: uuid.uuid4().hex,
            traces=traces,
        )
        self._senders = {name: resolve_sender(name)(self._clock) for name in SENDERS}
        # One machine is one cluster; the label is what Notification Manager fills in (contracts, section 5).
        self._objects = AlertObjects(self._senders)
        self._records = Records(Home(Path(settings.home)).notifications, self._clock)
        self._alerts = AlertTable()
        self._silences = SilenceBook(Home(Path(settings.home)).silences)
        self._pipeline = Pipeline(
            self._bus,
            self._senders,
            self._clock,
            options=Options(cluster=_CLUSTER),
            book=self._silences,
            store=GroupStore(Home(Path(settings.home)).alert_groups, power=settings.durability == "power"),
            table=self._alerts,
            secret=self._objects.secret,
            config_map=self._objects.config_map,
            records=self._records,
        )
        self._apps = DaprPlatform(
            run=self._run,
            stores=stores,
            kept=Home(Path(settings.home)).dapr_apps,
            kubeconfig=Home(Path(settings.home)).kubeconfig,
            bus_of=self._bus_of,
            ledger=self._bus,
            clock=self._clock,
            traces=traces,
            wake=self._wake,
            on_pending=self._pending,
            tell=self._tell_programs,
        )
        home = Path(settings.home)
        self._follower = SpoolFollower(
            home / "spool", home / "logs", publish=self._publish_log, clock=self._clock
        )
        self._wanted: dict[str, Desired] = {}
        self._aliases = aliases = Aliases(settings.aliases)
        self._rules_waiting: list[tuple[str, str, str, str, int]] = []
        self._log_rules = LogRules(
            bus=self._bus,
            bus_of=self._bus_of,
            accept=self._pipeline.accept,
            store=RuleStore(Home(Path(settings.home)).log_rules, power=settings.durability == "power"),
            clock=self._clock,
        )
        self._scalers = ScalerPool(
            make=lambda trigger, clock: make_scaler(trigger, clock, aliases),
            clock=self._clock,
            heard=self._read,
        )

    async def run(self) -> None:
        """Serve until SIGTERM."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._bus)
            await stack.enter_async_context(self._node)
            for sender in self._senders.values():
                if hasattr(sender, "__aenter__"):
                    await stack.enter_async_context(sender)
            await stack.enter_async_context(self._records)
            await stack.enter_async_context(self._pipeline)
            sock = socket.create_server((self._settings.notify_host, self._settings.notify_port))
            sock.setblocking(False)
            app = create_app(
                self._pipeline.accept,
                clock=self._clock,
                further=[
                    *alertmanager_routes(
                        table=self._alerts,
                        book=self._silences,
                        receivers=self._pipeline.receivers,
                        placing=self._pipeline.placing,
                        silences_changed=self._pipeline.silences_changed,
                        clock=self._clock,
                    ),
                    *verify_routes(
                        try_out=self._objects.try_out,
                        stored=lambda: self._objects.items,
                        tenant_of=self._objects.tenant_of,
                        clock=self._clock,
                    ),
                    *event_routes(
                        self._events.relay_at, self._events.accept, new_id=lambda: uuid.uuid4().hex
                    ),
                ],
            )
            app.state.stopping = asyncio.Event()
            await stack.enter_async_context(ApiServer(app, sock))
            await stack.enter_async_context(self._follower)
            await stack.enter_async_context(self._log_rules)
            await self._dispatcher.start()
            await self._events.start()
            stack.push_async_callback(self._invoker.close)
            stack.push_async_callback(self._outputs.close)
            stack.push_async_callback(self._states.close)
            stack.push_async_callback(self._buses.close)
            stack.push_async_callback(self._scalers.close)
            stack.push_async_callback(self._events.stop, 1.0)
            stack.push_async_callback(self._dispatcher.stop, 1.0)
            await stack.enter_async_context(self._apps)
            server = await wire.serve(
                str(self._run / "runtime.sock"),
                {
                    "sync": self._sync,
                    "apply": self._apply,
                    "remove": self._remove,
                    "receivers": self._receivers,
                    "dapr": self._dapr,
                    "dapr-join": self._apps.join,
                    "problems": self._problems,
                    "events": self._event_plan,
                    "event_states": self._event_states,
                    "trigger": self._trigger,
                    "stats": self._stats,
                    "alert": self._alert,
                    "logRules": self._rule_states,
                    "scalers": self._read_for,
                    "kafka-topic": self._kafka_topic,
                    "components": self._components,
                },
                name="runtime-client",
            )
            stack.callback(server.close)
            cyclic_gc.rarely()
            await stop.wait()

    # -- for up ----------------------------------------------------------------------------------------------

    async def _sync(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        wanted = [msgspec.convert(item, Desired) for item in body["desired"]]
        self._wanted = {desired.workload.key: desired for desired in wanted}
        for desired in wanted:
            self._outputs.apply(desired)
            self._states.apply(desired)
            self._scale_by(desired)
        self._scalers.keep_only({_owner(key) for key in self._wanted}, prefix=_FUNCTION)
        await self._dispatcher.sync(wanted)
        await self._apps.sync(wanted)
        self._keep_buses()
        return {}

    async def _apply(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        desired = msgspec.convert(body["desired"], Desired)
        self._wanted[desired.workload.key] = desired
        self._outputs.apply(desired)
        self._states.apply(desired)
        self._scale_by(desired)
        await self._dispatcher.apply(desired)
        await self._apps.apply(desired)
        self._keep_buses()
        return {}

    async def _remove(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        namespace, name = body["namespace"], body["name"]
        self._wanted.pop(f"{namespace}/{name}", None)
        self._scalers.drop(_owner(f"{namespace}/{name}"))
        await self._dispatcher.remove(namespace, name)
        await self._apps.remove(namespace, name)
        self._invoker.forget(namespace, name)
        self._outputs.remove(namespace, name)
        self._states.remove(namespace, name)
        self._keep_buses()
        return {}

    async def _receivers(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        self._objects.take(body)
        self._pipeline.set_receivers(
            self._objects.receivers,
            configs=self._objects.configs,
            routers=self._objects.routers,
            silences=self._objects.silences,
            manager=self._objects.manager,
        )
        rules, self._rules_waiting = with_brokers(
            self._objects.log_rules, secret=self._objects.secret, aliases=self._aliases
        )
        self._log_rules.set_rules(
            rules, waiting=[f"{namespace}/{name}" for namespace, name, *_ in self._rules_waiting]
        )
        return {}

    async def _dapr(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        self._apps.resources(body["items"], body["secrets"])
        return {}

    async def _problems(self, _peer: wire.Peer, _body: Any) -> list[list[str]]:
        """Return [receiver, block, reason, sentence] per destination; the latter are "" without a problem."""
        return [[*place, *problem] for place, problem in self._pipeline.problems().items()]

    async def _rule_states(self, _peer: wire.Peer, _body: Any) -> list[tuple[str, str, str, str, int]]:
        return [*self._log_rules.states(), *self._rules_waiting]

    async def _alert(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        wanted = [parse_matcher(text) for text in body["matchers"]]
        return {"alerts": self._pipeline.explain(wanted, body["name"])}

    async def _event_plan(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        await self._events.apply(msgspec.convert(body["plan"], EventPlan))
        return {}

    async def _event_states(self, _peer: wire.Peer, _body: Any) -> dict[str, Any]:
        return {"states": self._events.states()}

    async def _trigger(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        return {"trigger": await self._events.explain(body["namespace"], body["name"])}

    async def _stats(self, _peer: wire.Peer, _body: Any) -> dict[str, Any]:
        owners = {
            subscription.id: subscription
            for desired in self._wanted.values()
            for subscription in desired.subscriptions
        }
        subscriptions = [
            {
                "id": key,
                "namespace": owners[key].namespace,
                "function": owners[key].function,
                "topic": owners[key].topic,
                **counters,
            }
            for key, counters in self._dispatcher.stats().items()
            if key in owners
        ]
        subscriptions += [{"id": key, **counters} for key, counters in self._events.stats().items()]
        subscriptions += self._apps.stats()
        return {
            "subscriptions": subscriptions,
            "apps": self._apps.unserved(),
            "outputs": self._outputs.states(),
            "notifications": self._pipeline.stats(),
            "logRules": self._log_rules.stats(),
            "triggers": self._scalers.stats(),
        }

    async def _kafka_topic(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        return await kafka_topics.ensured(body)

    async def _components(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        """Return what Functions of a namespace take from and send to, with secrets, for our own commands."""
        namespace = body["namespace"]
        desired = [one for one in self._wanted.values() if one.workload.namespace == namespace]
        return {
            "subscriptions": [each for one in desired for each in one.subscriptions],
            "outputs": [each for one in desired for each in one.outputs],
        }

    # -- the node --------------------------------------------------------------------------------------------

    async def _node_up(self, peer: wire.Peer) -> None:
        await peer.call("watch", {})
        await peer.call("dapr-programs", self._apps.programs())
        for key, due in self._due().items():
            namespace, _, name = key.partition("/")
            peer.note("pending", {"namespace": namespace, "name": name, "count": due})
        for owner, found in self._scalers.rounds().items():
            self._read(owner, found)

    def _due(self) -> dict[str, int]:
        """Return what waits per function, for a node that has just started and knows nothing."""
        return {key: self._due_of(desired) for key, desired in self._wanted.items() if desired.subscriptions}

    def _due_of(self, desired: Desired) -> int:
        """Return what waits for a function, no more than further instances could take."""
        stats = self._dispatcher.stats()
        threshold = desired.scaling.lag_threshold
        return sum(
            useful_events(stats[each.id]["due"], each, lanes=stats[each.id]["lanes"], lag_threshold=threshold)
            for each in desired.subscriptions
            if each.id in stats
        )

    async def _endpoints(self, _peer: wire.Peer, body: dict[str, Any]) -> None:
        revision, listed = body["revision"], body["instances"]
        self._apps.endpoints(
            f"{body['namespace']}/{body['name']}",
            [(item["id"], item["ctl"]) for item in listed if item["revision"] == revision],
        )
        self._invoker.update(
            body["namespace"],
            body["name"],
            revision,
            [(item["id"], item["ctl"]) for item in listed if item["revision"] == revision],
            others=[
                (item["id"], item["ctl"], item["revision"]) for item in listed if item["revision"] != revision
            ],
        )

    async def _tell_programs(self, programs: dict[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = await self._node.call("dapr-programs", programs, timeout_s=_GATEWAY_S)
        return told

    async def _wake(self, namespace: str, name: str) -> None:
        await self._node.call("wake", {"namespace": namespace, "name": name}, timeout_s=65)

    def _pending(self, namespace: str, name: str, count: int) -> None:
        desired = self._wanted.get(f"{namespace}/{name}")
        if desired is not None and desired.subscriptions:
            count = self._due_of(desired)
        self._node.note("pending", {"namespace": namespace, "name": name, "count": count})

    # -- triggers for scaling --------------------------------------------------------------------------------

    def _scale_by(self, desired: Desired) -> None:
        """Read a Function's triggers; the node decides by them."""
        policy, load = desired.scaling.triggered, desired.workload
        triggers = desired.scalers if policy is not None else ()
        if not triggers and self._scalers.last(_owner(load.key)) is not None:
            self._tell_node(load.namespace, load.name, None)
        self._scalers.put(_owner(load.key), triggers, polling_s=policy.polling_s if policy else 0.0)

    async def _read_for(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        """Read the triggers of other objects, all of a kind named; returns their last rounds."""
        owners: dict[str, Any] = body["owners"]
        for key, item in owners.items():
            if item is not None:  # None: the same as before
                self._scalers.put(
                    key,
                    msgspec.convert(item["triggers"], list[ScalerTrigger]),
                    polling_s=item["polling_s"],
                    cached=item["cached"],
                    listen=item.get("listen", True),
                )
        self._scalers.keep_only(set(owners), prefix=f"{body['kind']} ")
        return {key: self._scalers.to_plain(key) for key in owners}

    def _read(self, owner: str, found: Round) -> None:
        if owner.startswith(_FUNCTION):
            namespace, _, name = owner.removeprefix(_FUNCTION).partition("/")
            self._tell_node(namespace, name, plain(found)["readings"])

    def _tell_node(self, namespace: str, name: str, readings: dict[str, Any] | None) -> None:
        self._node.note("triggers", {"namespace": namespace, "name": name, "readings": readings})

    # -- drivers ---------------------------------------------------------------------------------------------

    async def _bus_of(self, component: Component) -> Bus:
        """Return the bus that a component means; one connection per component, the embedded bus shared."""
        if component.type == "pubsub.jetstream" and is_embedded(component.metadata, self._settings.nats_url):
            return self._bus
        return await self._buses.get(component)

    async def _open(self, component: Component) -> Bus:
        return await open_bus(component, clock=self._clock, home=Home(Path(self._settings.home)))

    def _keep_buses(self) -> None:
        """Let go of the brokers that no Function uses any more."""
        revisions = [one for desired in self._wanted.values() for one in (desired, *desired.others)]
        used = [each.component for one in revisions for each in one.subscriptions]
        self._buses.keep([*used, *(each.component for one in revisions for each in one.outputs)])

    async def _publish_log(self, subject: str, data: bytes, message_id: str) -> None:
        await self._bus.publish(Message(topic=subject, data=data, id=message_id))


def _owner(key: str) -> str:
    """Return under which name a Function's triggers are read."""
    return f"{_FUNCTION}{key}"


def _binding(component: Component) -> Binding:
    """Make the driver of an output component."""
    binding: Binding = resolve_driver(component.type)(component)
    return binding


def main() -> None:
    """Run until SIGTERM."""
    log.setup("runtime")
    # Threads of client libraries hand records over in many small steps, each of which waits for the lock.
    sys.setswitchinterval(_SWITCH_S)

    async def run() -> None:
        await Runtime(Settings.load(sys.argv[1])).run()

    uvloop.run(run())


if __name__ == "__main__":
    main()
