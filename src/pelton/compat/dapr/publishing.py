"""Publishing: an app's bytes in Dapr's envelope, or raw, on a topic of a pub/sub component.

Called by both servers with what their protocol carried; returns when the broker has stored the event. How
events come to apps is the business of `delivery.py`.
Source: contracts, Dapr runtime, section 3 (envelope, TTL, scopes, bulk).
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from pelton.clock import Clock, rfc3339
from pelton.compat.dapr import faults
from pelton.compat.dapr.apps import App
from pelton.compat.dapr.components import Components
from pelton.compat.dapr.faults import Fault
from pelton.compat.dapr.guard import Guard
from pelton.compat.dapr.ports import Traces
from pelton.compat.dapr.topic_scopes import may_use
from pelton.errors import ProtocolError
from pelton.model import cloudevent
from pelton.model.settings import TRUE, positive_seconds
from pelton.ports import Bus, Message

__all__ = ["BulkEntry", "Publishing", "Trace"]

_PARALLEL: Final = 100
"""Entries of a bulk that are on their way at once."""
_KNOWN_TOPICS: Final = 10_000
_FALSE: Final = frozenset({"false", "0", "f", "n", "no", "off", ""})
_OWN_TTL: Final = frozenset({"pubsub.rabbitmq"})
"""Types whose broker lets messages expire by itself; for others the envelope says when."""
_KEEPS_IDS: Final = frozenset({"pubsub.in-memory", "pubsub.redis"})
"""Types whose driver takes a message with an id that it knows for a copy, though with Dapr every publish is
one of its own, whatever id the app's event has; only with JetStream do equal ids mean one event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """W3C trace context that came with a call; "" for none."""

    parent: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkEntry:
    """One event of a bulk: its id within the bulk, payload, media type, and metadata of its own."""

    entry_id: str
    data: bytes
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Topic:
    """Where to publish: names as the app has them, topic of the broker, component type, open bus."""

    pubsub: str
    topic: str
    broker_topic: str
    type: str
    bus: Bus


class Publishing:
    """Publishes for all apps.

    Args:
        components: Whose brokers.
        guard: Runs the calls.
        clock: Stamps events.
        traces: Takes publishes whose `traceparent` asks for a trace; None traces nothing.
    """

    def __init__(
        self, components: Components, guard: Guard, clock: Clock, traces: Traces | None = None
    ) -> None:
        self._components = components
        self._guard = guard
        self._clock = clock
        self._traces = traces
        # What is looked up once for each app and topic: the component, its open bus, whether it is allowed.
        self._topics: dict[tuple[str, str, str], _Topic] = {}
        self._generation = components.generation

    async def publish(
        self,
        app: App,
        pubsub: str,
        topic: str,
        data: bytes,
        *,
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
        trace: Trace | None = None,
    ) -> None:
        """Publish one event and wait until the broker has it.

        Args:
            app: Who publishes.
            pubsub: Name of the component.
            topic: Topic.
            data: Payload, or a whole CloudEvent where `content_type` says so.
            content_type: Media type; "" for text/plain.
            metadata: Of the request: `rawPayload`, `ttlInSeconds`, `cloudevent.*`, what the broker knows.
            trace: Context of the call.

        Raises:
            Fault: It was refused, or the broker did not take it.
        """
        where = await self._open(app, pubsub, topic)
        await self._publish(app, where, data, content_type, metadata or {}, trace or Trace())

    async def publish_bulk(
        self,
        app: App,
        pubsub: str,
        topic: str,
        entries: Sequence[BulkEntry],
        *,
        metadata: Mapping[str, str] | None = None,
        trace: Trace | None = None,
    ) -> dict[str, Fault]:
        """Publish several events; returns entry id -> why it was not published, in order of the entries.

        Raises:
            Fault: All of it is refused: the topic, an entry without an id, an id that is there twice.
        """
        where = await self._open(app, pubsub, topic)
        _check_ids(pubsub, topic, (entry.entry_id for entry in entries))
        room = asyncio.Semaphore(_PARALLEL)

        async def one(entry: BulkEntry) -> Fault | None:
            async with room:
                try:
                    await self._publish(
                        app,
                        where,
                        entry.data,
                        entry.content_type,
                        {**(metadata or {}), **entry.metadata},
                        trace or Trace(),
                    )
                except Fault as fault:
                    return fault
            return None

        outcomes = await asyncio.gather(*map(one, entries))
        return {
            entry.entry_id: fault for entry, fault in zip(entries, outcomes, strict=True) if fault is not None
        }

    async def _open(self, app: App, pubsub: str, topic: str) -> _Topic:
        if self._generation != self._components.generation:
            self._generation = self._components.generation
            self._topics.clear()
        known = self._topics.get((app.key, pubsub, topic))
        if known is not None:
            return known
        if not pubsub:
            raise faults.pubsub_refused("DAPR_PUBSUB_NAME_EMPTY", "pubsub name is empty", pubsub)
        resource = self._components.find(app, pubsub)
        if resource is None or resource.spec.category != "pubsub":
            raise faults.pubsub_missing(pubsub, self._components.of(app, "pubsub"))
        if not topic:
            raise faults.pubsub_refused(
                "DAPR_PUBSUB_TOPIC_NAME_EMPTY", f"topic is empty in pubsub {pubsub}", pubsub
            )

        async def attempt() -> Bus:
            bus: Bus = await self._components.need("pubsub", app, pubsub)
            component = await self._components.component(app, pubsub)
            if component is not None and not may_use(component.metadata, app.app_id, topic, "publishing"):
                raise faults.forbidden_topic(pubsub, topic, app.app_id)
            return bus

        bus = await self._guard.run(
            app, pubsub, "Pubsub", attempt, lambda why: faults.not_published(pubsub, topic, why)
        )
        broker_topic = self._components.broker_topic(app, pubsub, topic)
        found = _Topic(
            pubsub=pubsub, topic=topic, broker_topic=broker_topic, type=resource.spec.type, bus=bus
        )
        if self._generation == self._components.generation:  # it did not change meanwhile
            if len(self._topics) >= _KNOWN_TOPICS:
                self._topics.clear()
            self._topics[app.key, pubsub, topic] = found
        return found

    async def _publish(
        self,
        app: App,
        where: _Topic,
        data: bytes,
        content_type: str,
        metadata: Mapping[str, str],
        trace: Trace,
    ) -> None:
        parent = trace.parent or next(
            (value for key, value in metadata.items() if key.lower() == "cloudevent.traceparent"), ""
        )
        hop = (
            self._traces.begin(
                parent,
                name=f"publish {where.topic}",
                kind="producer",
                tags={
                    "messaging.system": where.type,
                    "messaging.destination.name": where.topic,
                    "pelton.app": app.key,
                },
            )
            if self._traces is not None and parent
            else None
        )
        error = "cancelled"
        try:
            if hop is not None:
                trace = replace(trace, parent=str(hop.context))
            message = self._message(app, where, data, content_type, metadata, trace)
            await self._guard.run(
                app,
                where.pubsub,
                "Pubsub",
                lambda: where.bus.publish(message),
                lambda why: faults.not_published(where.pubsub, where.topic, why),
            )
            error = ""
        except Fault as fault:
            error = fault.message
            raise
        finally:
            if hop is not None:
                hop.end(error)

    def _message(
        self,
        app: App,
        where: _Topic,
        data: bytes,
        content_type: str,
        metadata: Mapping[str, str],
        trace: Trace,
    ) -> Message:
        lower = {key.lower(): value for key, value in metadata.items()}
        ttl_s = _ttl_s(lower, where.pubsub)
        if _raw(lower, where.pubsub):
            headers = {"Content-Type": content_type} if content_type else {}
            given = dict(metadata)
            if trace.parent:
                given.setdefault("traceid", trace.parent)
            if trace.state:
                given.setdefault("tracestate", trace.state)
            return Message(
                topic=where.broker_topic, data=data, headers=headers, id=str(uuid.uuid4()), metadata=given
            )
        now = self._clock.now()
        try:
            event = cloudevent.wrap(
                data,
                id=str(uuid.uuid4()),
                source=app.app_id,
                topic=where.topic,
                pubsub=where.pubsub,
                time=rfc3339(now),
                content_type=content_type,
                metadata=metadata,
            )
        except ProtocolError as exc:
            raise faults.pubsub_refused(
                "DAPR_PUBSUB_CLOUD_EVENT_CREATION",
                "cannot create cloudevent",
                where.pubsub,
                metadata={"appID": app.app_id, "error": exc.message},
            ) from exc
        extensions = event.extensions
        if not extensions.get("traceparent"):
            extensions["traceparent"] = trace.parent or _new_trace()
        if not extensions.get("traceid"):
            extensions["traceid"] = extensions["traceparent"]
        if trace.state and not extensions.get("tracestate"):
            extensions["tracestate"] = trace.state
        if ttl_s and where.type not in _OWN_TTL:
            extensions["expiration"] = rfc3339(now + timedelta(seconds=ttl_s))
        if not event.data and content_type.partition(";")[0].strip().lower() != cloudevent.STRUCTURED:
            # An app that was sent nothing finds an empty payload in its event, not none.
            extensions["data_base64" if cloudevent.is_binary(content_type) else "data"] = ""
        return Message(
            topic=where.broker_topic,
            data=cloudevent.to_json(event),
            id=str(uuid.uuid4()) if where.type in _KEEPS_IDS else event.id,
            metadata=metadata,
        )


def _check_ids(pubsub: str, topic: str, ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for entry_id in ids:
        if not entry_id or entry_id in seen:
            why = "entryId is duplicated or not present for entry"
            raise faults.pubsub_refused(
                "DAPR_PUBSUB_MARSHAL_EVENTS",
                f"error marshaling events to bytes for topic {topic} pubsub {pubsub}. error: {why}",
                pubsub,
                metadata={"error": why, "entryId": entry_id},
            )
        seen.add(entry_id)


def _raw(lower: Mapping[str, str], pubsub: str) -> bool:
    given = lower.get("rawpayload", "").strip()
    text = given.lower()
    if text not in TRUE and text not in _FALSE:
        raise _no_metadata(pubsub, f"rawPayload value must be a valid boolean: actual is '{given}'")
    return text in TRUE


def _no_metadata(pubsub: str, why: str) -> Fault:
    return faults.pubsub_refused(
        "DAPR_PUBSUB_METADATA_DESERIALIZATION",
        f"failed deserializing metadata. Error: {why}",
        pubsub,
        metadata={"error": why},
    )


def _ttl_s(lower: Mapping[str, str], pubsub: str) -> float:
    """Return how long the event lives, seconds; 0 for ever."""
    text = lower.get("ttl") or lower.get("ttlinseconds") or ""
    try:
        return positive_seconds(text)
    except ValueError as exc:
        raise _no_metadata(
            pubsub, f"ttlInSeconds value must be a positive time: actual is '{text.strip()}'"
        ) from exc


def _new_trace() -> str:
    """Return a trace context that asks for no trace."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-00"
