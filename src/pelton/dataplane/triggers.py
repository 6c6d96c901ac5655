"""EventSources and Triggers at work: relays from sources to bus and sink, conditions, deliveries.

An `Invoker` for a dispatcher of its own, so that every hop has the dispatcher's attempts, pauses and dead
letters. A Trigger notes an event durably, puts a copy into the queue of each destination of each condition
that holds, and only then acknowledges it; each destination works through its queue by itself. A process that
dies in between gets the event again, meets the same state, and the copies have ids, so that they are not
stored twice. `cli/runtime.py` makes one; what is wanted comes from `plan/event_framework`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from pelton import errors
from pelton.clock import Clock, rfc3339
from pelton.dataplane import retry
from pelton.dataplane.dispatcher import Dispatcher
from pelton.dataplane.event_queues import EventQueues, owner_of
from pelton.dataplane.event_traces import CAUSES, HOLDS, NO_TRACES, EventTraces
from pelton.dataplane.trigger_state import TriggerState, register_of
from pelton.log import get
from pelton.model import cloudevent
from pelton.model.cloudevent import CloudEvent
from pelton.model.desired import QUEUE_TYPE, Component, Subscription
from pelton.model.event_framework import (
    Destination,
    EventPlan,
    PlannedInput,
    PlannedTrigger,
    Relay,
)
from pelton.model.invocation import Event
from pelton.plan import trigger_window
from pelton.plan.trigger_window import Conditions
from pelton.ports import Binding, Bus, EventResult, Ledger, Message, Registers

__all__ = ["EventFramework", "read_event"]

_TIMEOUT_S: Final = 60.0
_RECENT_S: Final = 60.0
"""Seconds for which a hop that could not reach its destination counts as hindered, unless it gets there."""
# Metadata of an event that the reader adds: the delivery's key, and when the broker stored it.
_KEY: Final = "Pelton-Key"
_AT: Final = "Pelton-At"
# Components whose deliveries have keys that never come again. Others number their messages anew with each
# session: such a key would make the bus take a new event for an old one.
_LASTING_KEYS: Final = frozenset(
    ("bindings.kafka", "pubsub.jetstream", "pubsub.redis", "bindings.cron", QUEUE_TYPE)
)
# Answers of a sink after which another attempt may help; others are given up at once, as Knative does.
_WORTH_ANOTHER_TRY: Final = frozenset((404, 408, 409, 425, 429))
_CONTEXT: Final = frozenset(
    ("id", "source", "type", "specversion", "datacontenttype", "subject", "time", "dataschema")
)
_DEAD: Final = {
    retry.DEAD_FROM: "deadfrom",
    retry.DEAD_REASON: "deadreason",
    retry.DEAD_ATTEMPTS: "deadattempts",
}

_log = get(__name__)


def read_event(subscription: Subscription, message: Message, *, key: str, attempt: int) -> Event:
    """Return a message as an event: unwrapped when it is a CloudEvent, else its bytes without attributes."""
    found = cloudevent.from_message(message.headers, message.data)
    metadata = {name: value for name, value in message.headers.items() if name != _AT}
    metadata[_KEY] = key
    if at := message.at or _milliseconds(message.headers.get("__timestamp", "")):
        metadata[_AT] = repr(at)
    data = message.data if found is None else found.data
    if found is not None and found.content_type:
        content_type = found.content_type
    elif found is not None and data is not message.data:
        # JSON is what the JSON format means where it says nothing; data_base64 may hold anything.
        content_type = "application/json" if data and _is_json(data) else _looks(data)
    else:
        content_type = _guess(message, data)
    return Event(
        kind="topic",
        component=subscription.component.name,
        component_type=subscription.component.type,
        topic=message.topic,
        data=data,
        content_type=content_type,
        attributes={**_trace(message.headers), **({} if found is None else found.attributes())},
        metadata=metadata,
        attempt=attempt,
    )


def _trace(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the trace that a message's headers name, as attributes of an event."""
    return {name.lower(): value for name, value in headers.items() if name.lower() == "traceparent"}


def _milliseconds(text: str) -> float:
    return int(text) / 1000 if text.isdecimal() else 0.0


def _guess(message: Message, data: bytes) -> str:
    """Return the media type of what is no event: as told, else JSON, text or bytes; "" for nothing."""
    for name, value in message.headers.items():
        if name.lower() == "content-type" and not (cloudevent.is_json(value) and not _is_json(data)):
            return value
    return _looks(data)


def _looks(data: bytes) -> str:
    """Return the media type of data that nobody told it of."""
    if not data:
        return ""
    if data.lstrip()[:1] in {b"{", b"["} and _is_json(data):
        return "application/json"
    try:
        data.decode()
    except UnicodeDecodeError:
        return "application/octet-stream"
    return "text/plain"


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


@dataclass(slots=True)
class _Working:
    """A Trigger at work.

    Attributes:
        passed_over: Events from before it was made.
        events: Events that were looked at, since this process began.
        fired: For each subscriber, how often its condition held.
        last_fired: For each, epoch seconds of the last time; 0 for never.
    """

    planned: PlannedTrigger
    conditions: Conditions
    state: TriggerState
    passed_over: int = 0
    events: int = 0
    fired: list[int] = field(default_factory=list)
    last_fired: list[float] = field(default_factory=list)


class EventFramework:
    """All EventSources and Triggers of this process.

    Args:
        ledger: The embedded bus, which keeps queues, attempts and dead letters.
        registers: Where the state of Triggers is kept.
        bus_of: Returns the bus of a component, the same for the same component; raises ComponentError.
        binding_of: Makes the driver of a component; raises ComponentError.
        clock: Times waits and stamps events.
        new_id: Returns a new unique id.
        traces: Takes hops of events that are traced.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        registers: Registers,
        bus_of: Callable[[Component], Awaitable[Bus]],
        binding_of: Callable[[Component], Binding],
        clock: Clock,
        new_id: Callable[[], str],
        traces: EventTraces = NO_TRACES,
    ) -> None:
        self._new_id = new_id
        self._traces = traces
        self._ledger = ledger
        self._registers = registers
        self._bus_of = bus_of
        self._binding_of = binding_of
        self._clock = clock
        self._dispatcher = Dispatcher(
            invoker=self, ledger=ledger, bus_of=bus_of, clock=clock, unwrap=read_event
        )
        self._owners: dict[tuple[str, str], tuple[Subscription, ...]] = {}
        self._relays: dict[str, Relay] = {}
        self._webhooks: dict[str, Relay] = {}
        self._inputs: dict[str, tuple[_Working, PlannedInput]] = {}
        self._destinations: dict[str, Destination] = {}
        self._triggers: dict[str, _Working] = {}
        self._bindings: dict[str, Binding] = {}
        self._troubles: dict[str, tuple[float, str]] = {}
        self._queues = EventQueues(ledger, registers)
        self._applying = asyncio.Lock()

    async def start(self) -> None:
        """Begin measuring; work begins with `apply`."""
        await self._dispatcher.start()

    async def stop(self, grace_s: float = 4.0) -> None:
        """Stop; what is not done within `grace_s` seconds stays with the brokers."""
        await self._dispatcher.stop(grace_s)
        bindings, self._bindings = self._bindings, {}
        await asyncio.gather(*(binding.close() for binding in bindings.values()), return_exceptions=True)

    async def apply(self, plan: EventPlan) -> None:
        """Make everything as planned; what did not change goes on undisturbed. Idempotent."""
        async with self._applying:
            await self._apply(plan)

    async def _apply(self, plan: EventPlan) -> None:
        triggers = {planned.key: self._working(planned) for planned in plan.triggers}
        gone = [
            one.planned
            for key, one in self._triggers.items()
            if key not in triggers and f"Trigger/{key}" not in plan.resting
        ]
        owners: dict[tuple[str, str], list[Subscription]] = {}
        destinations: dict[str, Destination] = {}

        def own(namespace: str, owner: str, subscription: Subscription, to: Iterable[Destination]) -> None:
            listed = owners.setdefault((namespace, owner), [])
            listed.append(subscription)
            for destination in to:
                destinations[destination.subscription.id] = destination
                listed.append(destination.subscription)

        for relay in plan.relays:
            own(relay.namespace, f"EventSource/{relay.source}", relay.subscription, relay.destinations)
        for one in triggers.values():
            where = (one.planned.namespace, f"Trigger/{one.planned.name}")
            for each in one.planned.inputs:
                own(*where, each.subscription, ())
            for destination in one.planned.destinations():
                destinations[destination.subscription.id] = destination
                owners[where].append(destination.subscription)
        at_work = {owner_of(*where) for where in owners}
        for former in await self._queues.begin(destinations, at_work, plan.resting):
            own(former.subscription.namespace, former.subscription.function, former.subscription, ())
            destinations[former.subscription.id] = former
        self._triggers = triggers
        self._relays = {relay.subscription.id: relay for relay in plan.relays}
        self._webhooks = {one.webhook.path: one for one in plan.relays if one.webhook is not None}
        self._inputs = {
            each.subscription.id: (one, each) for one in triggers.values() for each in one.planned.inputs
        }
        self._destinations = destinations
        for namespace, name in [where for where in self._owners if where not in owners]:
            await self._dispatcher.remove(namespace, name)
        for where, subscriptions in owners.items():
            await self._dispatcher.feed(where, subscriptions, timeout_s=_TIMEOUT_S)
        ended = [
            subscriptions
            for where, subscriptions in self._owners.items()
            if where not in owners and owner_of(*where) not in plan.resting
        ]
        self._owners = {where: tuple(subscriptions) for where, subscriptions in owners.items()}
        known = {one.id for subscriptions in owners.values() for one in subscriptions}
        self._troubles = {name: told for name, told in self._troubles.items() if name in known}
        for subscription in [one for without_owner in ended for one in without_owner]:
            await self._queues.discard(subscription)
        await self._queues.end(destinations, at_work, plan.resting)
        for planned in gone:
            await self._registers.delete_register(register_of(planned.namespace, planned.name))
        await self._close_unused()

    def _working(self, planned: PlannedTrigger) -> _Working:
        before = self._triggers.get(planned.key)
        if before is not None and before.planned == planned:
            return before
        names = [name for each in planned.inputs for name in each.names]
        count = len(planned.subscribers)
        return _Working(
            planned,
            Conditions.of(names, [one.condition for one in planned.subscribers]),
            TriggerState(planned, self._registers),
            fired=[0] * count,
            last_fired=[0.0] * count,
        )

    async def _close_unused(self) -> None:
        used = {_key(destination.component) for destination in self._destinations.values()}
        for key in [key for key in self._bindings if key not in used]:
            await self._bindings.pop(key).close()

    # --- ports.Invoker --------------------------------------------------------------------------------------

    async def invoke(
        self, subscription: Subscription, event: Event, *, invocation_id: str, timeout_s: float
    ) -> EventResult:
        """Carry out one hop; see `ports.Invoker`. A bus that cannot be reached is no attempt."""
        given = dict(event.attributes)
        hop = self._traces.delivery(subscription, event, name=self._hop_name(subscription))
        tags: dict[str, str] = {}
        result = await self._invoke(subscription, event, tags)
        if result.outcome == "busy":  # no attempt: the next one is a hop of its own
            event.attributes.clear()
            event.attributes.update(given)
        elif hop is not None:
            hop.end(result.reason if result.outcome != "ok" else "", **tags)
        return result

    def _hop_name(self, subscription: Subscription) -> str:
        name = subscription.id
        if name in self._relays:
            return f"relay {self._relays[name].key}/{self._relays[name].event}"
        if name in self._inputs:
            return f"trigger {self._inputs[name][0].planned.key}"
        found = self._destinations.get(name)
        return f"deliver {found.title}" if found is not None else ""

    async def _invoke(self, subscription: Subscription, event: Event, tags: dict[str, str]) -> EventResult:
        """Carry out one hop; `tags` is given what a trace tells of it beside the outcome."""
        name = subscription.id
        try:
            if name in self._relays:
                result = await self._relay(self._relays[name], event, tags)
            elif name in self._inputs:
                result = await self._look(*self._inputs[name], event, tags)
            elif name in self._destinations:
                result = await self._deliver(self._destinations[name], event)
            else:
                return EventResult(outcome="busy", reason="it is not planned any more")
            self._troubles.pop(name, None)
            return result
        except errors.DeliveryError as exc:
            return self._hindered(subscription, exc, retriable=exc.retriable)
        except (errors.ComponentError, errors.ConflictError, ConnectionError, TimeoutError) as exc:
            return self._hindered(subscription, exc, retriable=True)
        except Exception as exc:
            # Nobody foresaw this event. It has attempts as others have: it must not stop those behind it.
            _log.exception("%s: an event failed inside Pelton", name)
            return EventResult(outcome="error", reason=f"{type(exc).__name__}: {exc}")

    def _hindered(self, subscription: Subscription, exc: Exception, *, retriable: bool) -> EventResult:
        name = subscription.id
        if name not in self._troubles or self._troubles[name][1] != str(exc):
            _log.warning("%s: %s", name, exc)
        self._troubles[name] = (self._clock.monotonic(), str(exc))
        return EventResult(outcome="busy" if retriable else "drop", reason=str(exc))

    async def _relay(self, relay: Relay, event: Event, tags: dict[str, str]) -> EventResult:
        """Bring a source's event to the bus, or right to the sink; what comes second gets a copy queued."""
        key = event.metadata[_KEY]
        if relay.subscription.component.type not in _LASTING_KEYS:
            key = self._new_id()
        made = self._as_cloudevent(event, id=key, source=relay.key)
        first, *others = relay.destinations
        result = await self._send(first, made, id=f"{relay.subscription.id}:{key}")
        if result.outcome == "ok":
            await self._queue(others, made, key)
            heard = [name for name, (_, one) in self._inputs.items() if one.subscription.topic == first.topic]
            tags[CAUSES] = " ".join([*heard, *(one.subscription.id for one in others)])
        return result

    async def _look(
        self, one: _Working, source: PlannedInput, event: Event, tags: dict[str, str]
    ) -> EventResult:
        """Note an event, and queue it for whom a condition holds."""
        planned, key = one.planned, event.metadata[_KEY]
        now = self._clock.now().timestamp()
        # A producer whose clock is ahead does not keep its input true for longer than the window.
        at = min(float(event.metadata.get(_AT, "0")) or now, now)
        if at < planned.since:
            one.passed_over += 1
            return EventResult(outcome="ok")
        marks = await one.state.mark(source.names, at)
        met = one.conditions.met(marks, source.names, at, planned.window_s)
        made = self._as_cloudevent(event, id=key, source=f"{planned.namespace}/{event.component}")
        reached = [each for index in met for each in planned.subscribers[index].destinations]
        await self._queue(reached, made, key)
        tags[HOLDS] = (
            ", ".join(dict.fromkeys(planned.subscribers[index].condition for index in met)) or "none"
        )
        tags[CAUSES] = " ".join(each.subscription.id for each in reached)
        one.events += 1
        for index in met:
            one.fired[index] += 1
            one.last_fired[index] = now
        return EventResult(outcome="ok")

    async def _deliver(self, destination: Destination, event: Event) -> EventResult:
        """Deliver what waited in a destination's queue; a dead letter says in attributes why it is one."""
        key = event.metadata[_KEY]
        made = self._as_cloudevent(event, id=key, source=f"{destination.subscription.namespace}/pelton")
        dead = {
            attribute: event.metadata[header]
            for header, attribute in _DEAD.items()
            if header in event.metadata
        }
        made = _extended(made, dead)
        return await self._send(destination, made, id=f"{destination.subscription.id}:{key}")

    async def _queue(self, destinations: Iterable[Destination], event: CloudEvent, key: str) -> None:
        headers, data = cloudevent.to_headers(event)
        message = Message(topic=str(event.extensions.get("topic", "")), data=data, headers=dict(headers))
        await asyncio.gather(
            *(
                self._ledger.publish(
                    retry.park(message, one.subscription.id, key=key, attempts=0, not_before=0.0)
                )
                for one in destinations
            )
        )

    def _as_cloudevent(self, event: Event, *, id: str, source: str) -> CloudEvent:
        """Return the event as it came, or an event made of bytes that were none."""
        given = event.attributes
        return CloudEvent(
            id=str(given.get("id") or id),
            source=str(given.get("source") or source),
            type=str(given.get("type") or cloudevent.DAPR_TYPE),
            content_type=event.content_type,
            subject=str(given.get("subject", "")),
            time=str(given.get("time") or rfc3339(self._clock.now())),
            dataschema=str(given.get("dataschema", "")),
            extensions={name: value for name, value in given.items() if name not in _CONTEXT},
            data=event.data,
        )

    # --- destinations ---------------------------------------------------------------------------------------

    async def _send(self, destination: Destination, event: CloudEvent, *, id: str) -> EventResult:
        if destination.topic:
            return await self._publish(destination, event, id)
        return await self._post(destination, event)

    async def _publish(self, destination: Destination, event: CloudEvent, id: str) -> EventResult:
        """Publish in Dapr's envelope; a bus that cannot be reached is no attempt."""
        component, topic = destination.component, destination.topic
        event = _extended(event, {"topic": topic, "pubsubname": component.name})
        bus = await self._bus_of(component)
        await bus.publish(Message(topic=topic, data=cloudevent.to_json(event, exact=True), id=id))
        return EventResult(outcome="ok")

    async def _post(self, destination: Destination, event: CloudEvent) -> EventResult:
        """Post in binary mode: the data as they are, attributes as headers."""
        headers, data = cloudevent.to_headers(event)
        metadata = {name.title(): value for name, value in headers} | destination.metadata
        if trace := event.extensions.get("traceparent"):
            metadata["Traceparent"] = str(trace)
        try:
            answer = await self._binding(destination.component).invoke("post", data, metadata)
        except errors.DeliveryError as exc:
            return EventResult(outcome="error" if exc.retriable else "drop", reason=str(exc))
        except errors.ComponentError as exc:
            return EventResult(outcome="error", reason=str(exc))
        if answer.ok:
            return EventResult(outcome="ok")
        status = int(answer.metadata.get("statusCode", "0") or 0)
        again = status >= 500 or status in _WORTH_ANOTHER_TRY
        return EventResult(outcome="error" if again else "drop", reason=answer.error)

    def _binding(self, component: Component) -> Binding:
        key = _key(component)
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._bindings[key] = self._binding_of(component)
        return binding

    # --- looking at it --------------------------------------------------------------------------------------

    def relay_at(self, path: str) -> Relay | None:
        """Return the relay whose events are posted at a path."""
        return self._webhooks.get(path)

    async def accept(self, relay: Relay, events: Iterable[tuple[Mapping[str, str], bytes, str]]) -> None:
        """Store posted events; each is (headers, data, id). Raises DeliveryError."""
        name = relay.subscription.id
        await asyncio.gather(
            *(
                self._ledger.publish(
                    retry.park(
                        Message(
                            topic=relay.webhook.path if relay.webhook else "", data=data, headers=headers
                        ),
                        name,
                        key=id,
                        attempts=0,
                        not_before=0.0,
                    )
                )
                for headers, data, id in events
            )
        )

    def states(self) -> dict[str, dict[str, Any]]:
        """Return `EventSource/namespace/name` or `Trigger/...` -> {ready, trouble}."""
        feeds = self._dispatcher.states()
        now = self._clock.monotonic()
        found = {}
        for where, subscriptions in self._owners.items():
            told = [feeds.get(one.id, (False, "")) for one in subscriptions]
            hops = [self._troubles[one.id] for one in subscriptions if one.id in self._troubles]
            troubles = [text for _, text in told] + [text for at, text in hops if now - at < _RECENT_S]
            found[owner_of(*where)] = {
                "ready": all(ready for ready, _ in told) and not any(troubles),
                "trouble": next((text for text in troubles if text), ""),
            }
        return found

    def stats(self) -> dict[str, dict[str, Any]]:
        """Return subscription id -> counters, with namespace, owner (`function`) and topic."""
        counters = self._dispatcher.stats()
        return {
            one.id: {
                "namespace": one.namespace,
                "function": one.function,
                "topic": one.topic or one.name,
                **counters[one.id],
            }
            for subscriptions in self._owners.values()
            for one in subscriptions
            if one.id in counters
        }

    async def explain(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return how a Trigger stands and what its events would cause; None if it is not here."""
        one = self._triggers.get(f"{namespace}/{name}")
        if one is None:
            return None
        planned, window_s = one.planned, one.planned.window_s
        marks = await one.state.read()
        now = self._clock.now().timestamp()
        holds = one.conditions.truth(marks, now, window_s)
        pending = self._dispatcher.stats()
        inputs: list[dict[str, Any]] = []
        wakes: dict[str, list[int]] = {}
        for each in planned.inputs:
            after = trigger_window.marked(marks, each.names, now, window_s)
            would = one.conditions.met(after, each.names, now, window_s)
            for input_name in each.names:
                wakes[input_name] = would
                stretch = marks.get(input_name)
                inputs.append(
                    {
                        "name": input_name,
                        "topic": each.subscription.topic,
                        "true": trigger_window.is_true(stretch, now, window_s),
                        "since": stretch.since if stretch else None,
                        "last": stretch.last if stretch else None,
                        "waiting": pending.get(each.subscription.id, {}).get("pending", 0),
                    }
                )
        return {
            "namespace": namespace,
            "name": name,
            "now": now,
            "windowSeconds": window_s,
            "events": one.events,
            "passedOver": one.passed_over,
            "inputs": inputs,
            "subscribers": [
                {
                    "condition": subscriber.condition,
                    "holds": holds[index],
                    "firesOn": [input_name for input_name, would in wakes.items() if index in would],
                    "destinations": [self._shown(to, pending) for to in subscriber.destinations],
                    "deadLetters": [self._shown(to, pending) for to in subscriber.dead_letters],
                    "fired": one.fired[index],
                    "lastFired": one.last_fired[index] or None,
                }
                for index, subscriber in enumerate(planned.subscribers)
            ],
        }

    @staticmethod
    def _shown(destination: Destination, stats: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        counters = stats.get(destination.subscription.id, {})
        return {
            "to": destination.title,
            "subscription": destination.subscription.id,
            **{name: counters.get(name, 0) for name in ("pending", "delivered", "failed", "dead")},
        }


def _extended(event: CloudEvent, extensions: Mapping[str, Any]) -> CloudEvent:
    """Return the event with further attributes."""
    if not extensions:
        return event
    return replace(event, extensions={**event.extensions, **extensions})


def _key(component: Component) -> str:
    """Tell components apart by content."""
    return repr((component.namespace, component.name, sorted(component.metadata.items())))
