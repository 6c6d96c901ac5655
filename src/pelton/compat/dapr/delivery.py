"""Brings events to apps: an Invoker whose workers are app channels.

The dispatcher holds the events and keeps attempts, waits and dead letters (design decision 10); here an event
is unwrapped, meets its rule, goes to the app, and what the app answers becomes an outcome. What an app gives
up goes to the dead letter topic it named, as the broker had it; without one it is a letter of the ledger.
An app that cannot be reached has made no attempt: the event waits.
The dispatcher that `cli/` makes for apps has this invoker and unwraps by its `event`.
Source: contracts, Dapr runtime, section 3.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

import msgspec

from pelton import errors
from pelton.clock import Clock
from pelton.compat.dapr.channel import (
    ABSENT,
    DROP,
    RETRY,
    SUCCESS,
    UNREACHED,
    Answer,
    BindingAnswer,
    BindingEvent,
    TopicEvent,
)
from pelton.compat.dapr.subscriptions import Bulk, Router, TopicSubscription
from pelton.log import get
from pelton.model import cloudevent
from pelton.model.cloudevent import CloudEvent
from pelton.model.desired import Component, Subscription
from pelton.model.invocation import Event
from pelton.ports import Bus, EventResult, Message

__all__ = ["AppEvent", "AppInvoker", "BindingRoute", "Counts", "TopicRoute"]

_DEAD_LETTER_S: Final = 30.0
_KEY: Final = "__key"
"""Header of a record's key, and what asks for one: a dead letter keeps the order of its key."""
_RAW_TYPE: Final = "application/octet-stream"
_log = get(__name__)


class AppEvent(Event, kw_only=True):
    """An event with the message that brought it.

    Attributes:
        message: As the broker has it.
        key: Identity of the delivery.
        event: The message unwrapped; None for a binding's, and for what is no event.
        problem: Why it is no event that an app could get; "" for none.
    """

    message: Message
    key: str
    event: CloudEvent | None = None
    problem: str = ""


@dataclass(slots=True, kw_only=True)
class Counts:
    """What became of a subscription's events at the app.

    Attributes:
        dropped: Answered DROP, met no rule, or expired, and no dead letter topic took them.
        dead_lettered: Sent to the app's dead letter topic.
    """

    dropped: int = 0
    dead_lettered: int = 0


Deliver = Callable[[TopicEvent, float], Awaitable[Answer]]
DeliverBulk = Callable[[list[TopicEvent], float], Awaitable[list[Answer]]]
Trigger = Callable[[BindingEvent, float], Awaitable[BindingAnswer]]
SendOutput = Callable[[str, bytes], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class TopicRoute:
    """Where a subscription's events go.

    Attributes:
        topic: What the app asked for.
        router: Its rules.
        prefix: What the broker has before its topics and the app does not see.
        deliver, deliver_bulk: The app's; taken anew for each event, since its instances change.
        retriable: Tells by the code of an answer whether another attempt may be made.
        counts: What became of its events.
    """

    topic: TopicSubscription
    router: Router
    deliver: Deliver
    prefix: str = ""
    deliver_bulk: DeliverBulk | None = None
    retriable: Callable[[str], bool] = lambda _code: True
    counts: Counts = field(default_factory=Counts)


@dataclass(slots=True, kw_only=True)
class BindingRoute:
    """Where a binding's events go: the app's `route` for it; `send` takes what the app returns for others."""

    name: str
    route: str
    trigger: Trigger
    send: SendOutput
    counts: Counts = field(default_factory=Counts)


class AppInvoker:
    """Implements `ports.Invoker` for the subscriptions of apps.

    Args:
        bus_of: Returns the bus of a component; dead letters are published there.
        clock: Says what has expired.
    """

    def __init__(self, *, bus_of: Callable[[Component], Awaitable[Bus]], clock: Clock) -> None:
        self._bus_of = bus_of
        self._clock = clock
        self._routes: dict[str, TopicRoute | BindingRoute] = {}
        self._gathering: dict[tuple[str, str], _Gathering] = {}

    def set_route(self, subscription_id: str, route: TopicRoute | BindingRoute) -> None:
        """Say where a subscription's events go from now on."""
        self._routes[subscription_id] = route

    def forget(self, subscription_id: str) -> None:
        """Let its events wait. Safe to repeat."""
        self._routes.pop(subscription_id, None)

    def counts(self) -> dict[str, Counts]:
        """Return subscription id -> what became of its events."""
        return {name: route.counts for name, route in self._routes.items()}

    def event(self, subscription: Subscription, message: Message, *, key: str, attempt: int) -> AppEvent:
        """Return a message as an event; one that cannot be read says so in `problem`."""
        route = self._routes.get(subscription.id)
        found, problem = None, ""
        prefix = route.prefix if isinstance(route, TopicRoute) else ""
        topic = message.topic.removeprefix(prefix)
        if not isinstance(route, BindingRoute):
            try:
                raw = route is not None and route.topic.raw
                found = _raw_event(message) if raw else cloudevent.from_message(message.headers, message.data)
                if found is None:
                    problem = "the message is no CloudEvent: an app that wants it as it is says rawPayload"
            except errors.ProtocolError as exc:
                problem = exc.message
        attributes = found.attributes() if found is not None else {}
        if found is not None:
            attributes.setdefault("topic", topic)
            attributes.setdefault("pubsubname", subscription.component.name)
        return AppEvent(
            kind="topic" if subscription.topic else "binding",
            component=subscription.component.name,
            component_type=subscription.component.type,
            topic=topic if subscription.topic else "",
            data=found.data if found is not None else message.data,
            content_type=found.content_type if found is not None else "",
            attributes=attributes,
            metadata={**message.headers, "Topic": topic}
            if subscription.component.type == "pubsub.jetstream"
            else dict(message.headers),
            attempt=attempt,
            message=message,
            key=key,
            event=found,
            problem=problem,
        )

    async def invoke(
        self, subscription: Subscription, event: Event, *, invocation_id: str, timeout_s: float
    ) -> EventResult:
        """Deliver one event to the app; see `ports.Invoker`."""
        del invocation_id
        route = self._routes.get(subscription.id)
        if route is None or not isinstance(event, AppEvent):
            return EventResult(outcome="busy", reason="the app is not there")
        if isinstance(route, BindingRoute):
            return await self._trigger(route, event, timeout_s)
        answer, final = await self._topic(subscription, route, event, timeout_s)
        if answer.status == SUCCESS:
            if answer.reason:
                _log.warning("subscription %s: %s: %s", subscription.id, event.key, answer.reason)
            return EventResult(outcome="ok")
        if answer.status == UNREACHED:
            return EventResult(outcome="busy", reason=answer.reason)
        if answer.status == RETRY and not final:
            last = event.attempt >= subscription.max_attempts
            if not last and route.retriable(answer.code):
                return EventResult(outcome="error", reason=answer.reason)
        return await self._give_up(subscription, route, event, answer)

    async def _topic(
        self, subscription: Subscription, route: TopicRoute, event: AppEvent, timeout_s: float
    ) -> tuple[Answer, bool]:
        """Return the answer to an event, and whether another attempt is out of the question."""
        if event.event is None:
            return Answer(status=ABSENT, reason=event.problem), True
        if self._expired(event):
            return Answer(status=DROP, reason="it has expired"), True
        envelope = _envelope(event, event.event)
        try:
            known = msgspec.json.decode(envelope) if route.router.needs_event else {}
            path = route.router.path(known)
        except (errors.PeltonError, *cloudevent.UNREADABLE) as exc:
            return Answer(status=RETRY, reason=f"its route cannot be found: {exc}"), False
        if path is None:
            return Answer(status=DROP, reason="it meets no rule of the subscription"), True
        wanted = TopicEvent(
            pubsub=subscription.component.name,
            topic=event.topic,
            path=path,
            envelope=envelope,
            attributes=event.attributes,
            data=event.data,
            metadata=event.metadata,
            entry_id=str(uuid.uuid4()) if route.topic.bulk else "",
        )
        if route.topic.bulk is None or route.deliver_bulk is None:
            return await route.deliver(wanted, timeout_s), False
        return await self._gather(subscription.id, route, wanted, timeout_s), False

    async def _gather(
        self, subscription_id: str, route: TopicRoute, event: TopicEvent, timeout_s: float
    ) -> Answer:
        where = (subscription_id, event.path)
        gathering = self._gathering.get(where)
        if gathering is None:
            bulk, deliver = route.topic.bulk, route.deliver_bulk
            gathering = self._gathering[where] = _Gathering(
                bulk or Bulk(), deliver, timeout_s, done=lambda: self._gathering.pop(where, None)
            )
        return await gathering.add(event)

    async def _trigger(self, route: BindingRoute, event: AppEvent, timeout_s: float) -> EventResult:
        answer = await route.trigger(
            BindingEvent(name=route.name, route=route.route, data=event.data, metadata=event.metadata),
            timeout_s,
        )
        status, reason = answer.answer.status, answer.answer.reason
        if status == UNREACHED:
            return EventResult(outcome="busy", reason=reason)
        if status != SUCCESS:
            return EventResult(outcome="error", reason=reason)
        try:
            if answer.parallel:
                sending = [route.send(name, answer.data) for name in answer.to]
                outcomes = await asyncio.gather(*sending, return_exceptions=True)
                for failed in outcomes:
                    if isinstance(failed, BaseException):
                        raise failed
            else:
                for name in answer.to:
                    await route.send(name, answer.data)
        except errors.PeltonError as exc:
            return EventResult(outcome="error", reason=f"what it returned was not sent: {exc.message}")
        return EventResult(outcome="ok")

    async def _give_up(
        self, subscription: Subscription, route: TopicRoute, event: AppEvent, answer: Answer
    ) -> EventResult:
        """Send an event to the app's dead letter topic; without one a drop is a drop, the rest is buried."""
        topic = route.topic.dead_letter_topic
        if topic:
            topic = route.prefix + topic
            try:
                async with asyncio.timeout(_DEAD_LETTER_S):
                    bus = await self._bus_of(subscription.component)
                    await bus.publish(
                        Message(
                            topic=topic,
                            data=event.message.data,
                            headers=event.message.headers,
                            metadata={_KEY: key} if (key := event.message.headers.get(_KEY)) else {},
                            id=f"{subscription.id}:{event.key}:{topic}",
                        )
                    )
            except (errors.PeltonError, ConnectionError, TimeoutError) as exc:
                reason = f"{answer.reason}; the dead letter topic {topic} does not take it: {exc}"
                return EventResult(outcome="error", reason=reason)
            route.counts.dead_lettered += 1
            _log.warning(
                "subscription %s: %s goes to %s: %s", subscription.id, event.key, topic, answer.reason
            )
            return EventResult(outcome="ok")
        if answer.status == DROP:
            route.counts.dropped += 1
            _log.warning("subscription %s: %s is dropped: %s", subscription.id, event.key, answer.reason)
            return EventResult(outcome="ok")
        return EventResult(outcome="error" if answer.status == RETRY else "drop", reason=answer.reason)

    def _expired(self, event: AppEvent) -> bool:
        text = event.attributes.get("expiration")
        if not text:
            return False
        try:
            end = datetime.fromisoformat(str(text))
        except ValueError:
            return False
        now = self._clock.now()
        return end.replace(tzinfo=end.tzinfo or now.tzinfo) <= now


class _Gathering:
    """Events for one route that go to the app together."""

    def __init__(
        self,
        bulk: Bulk,
        deliver: DeliverBulk | None,
        timeout_s: float,
        *,
        done: Callable[[], object],
    ) -> None:
        self._bulk = bulk
        self._deliver = deliver
        self._timeout_s = timeout_s
        self._done = done
        self._waiting: list[tuple[TopicEvent, asyncio.Future[Answer]]] = []
        self._timer = asyncio.get_running_loop().call_later(bulk.max_wait_s, self._flush)
        self._task: asyncio.Task[None] | None = None

    async def add(self, event: TopicEvent) -> Answer:
        """Wait for the answer to an event; cancelling takes it out of a bulk that is not on its way yet."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, future))
        if len(self._waiting) >= self._bulk.max_messages:
            self._flush()
        return await future

    def _flush(self) -> None:
        self._timer.cancel()
        self._done()
        self._task = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        waiting = [(event, future) for event, future in self._waiting if not future.done()]
        if not waiting or self._deliver is None:
            return
        try:
            answers = await self._deliver([event for event, _ in waiting], self._timeout_s)
        except Exception as exc:
            _log.exception("a bulk could not be delivered")
            answers = [Answer(status=RETRY, reason=f"the bulk failed: {exc}")] * len(waiting)
        for (_, future), answer in zip(waiting, answers, strict=True):
            if not future.done():
                future.set_result(answer)


def _raw_event(message: Message) -> CloudEvent:
    """Wrap a message that has no envelope."""
    given = {name.lower(): value for name, value in message.headers.items()}
    traceparent = given.get("traceparent") or given.get("traceid", "")
    extensions = {"traceparent": traceparent, "tracestate": given.get("tracestate", "")}
    return CloudEvent(
        id=str(uuid.uuid4()),
        source="Dapr",
        type=cloudevent.DAPR_TYPE,
        content_type=_RAW_TYPE,
        extensions={name: value for name, value in extensions.items() if value},
        data=message.data,
    )


def _envelope(event: AppEvent, found: CloudEvent) -> bytes:
    """Return an event in the JSON format: the message as it is where that is one and says its topic."""
    if found.data is not event.message.data and "topic" in found.extensions:
        return event.message.data
    added = {name: event.attributes[name] for name in ("topic", "pubsubname")}
    return cloudevent.to_json(replace(found, extensions={**found.extensions, **added}))
