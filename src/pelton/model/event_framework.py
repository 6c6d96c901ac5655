"""EventSource, EventBus, ClusterEventBus and Trigger: what users write, and what the runtime is told.

The resources keep the settings of a source or bus as they are written; `plan/event_framework` turns them
into components and subscriptions: relays (events of a source) and planned triggers. What is planned travels
to the runtime as it is, so it is plain data. Source: contracts, OpenFunction, section 9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pelton.model.desired import Component, Subscription

__all__ = [
    "SOURCE_KINDS",
    "Destination",
    "EventBus",
    "EventPlan",
    "EventSource",
    "Input",
    "PlannedInput",
    "PlannedSubscriber",
    "PlannedTrigger",
    "Reference",
    "Relay",
    "Sink",
    "Subscriber",
    "Trigger",
    "Webhook",
    "topic_of",
]

SOURCE_KINDS = ("kafka", "cron", "mqtt", "redis", "nats", "rabbitmq", "http", "logs")
"""Kinds of events that an EventSource can have, in the order in which they are looked at."""

WINDOW_S = 60.0
"""Seconds for which an input stays true after its last event, unless the Trigger says otherwise."""


def topic_of(namespace: str, source: str, event: str) -> str:
    """Return the topic on which an event of an EventSource is published."""
    return f"{namespace}-{source}-{event}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An object that is addressed: apiVersion, kind, name; namespace "" for that of whoever refers to it."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """Where events are posted: `uri` wins over `ref`; one of them is given."""

    uri: str = ""
    ref: Reference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSource:
    """Brings outside events onto a bus, to a sink, or both.

    Attributes:
        event_bus: Name of an EventBus of the namespace, else of a ClusterEventBus; "" for none.
        sink: Where each event is posted as well; None for nowhere.
        log_level: How much it logs.
        scaled: Whether some event has a scaleOption.
        kafka, cron, mqtt, redis, nats, rabbitmq, http, logs: Event name -> settings as written.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    event_bus: str = ""
    sink: Sink | None = None
    log_level: str = "1"
    build: dict[str, Any] | None = None
    kafka: dict[str, dict[str, Any]] = field(default_factory=dict)
    cron: dict[str, dict[str, Any]] = field(default_factory=dict)
    mqtt: dict[str, dict[str, Any]] = field(default_factory=dict)
    redis: dict[str, dict[str, Any]] = field(default_factory=dict)
    nats: dict[str, dict[str, Any]] = field(default_factory=dict)
    rabbitmq: dict[str, dict[str, Any]] = field(default_factory=dict)
    http: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def events(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Yield (kind, event name, settings) of every event."""
        for kind in SOURCE_KINDS:
            for event, settings in getattr(self, kind).items():
                yield kind, event, settings


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBus:
    """What EventSources publish on and Triggers listen to; without any block the embedded bus.

    Attributes:
        namespace: "" for a ClusterEventBus.
        topic: Has no meaning; kept.
        nats_streaming, kafka, jetstream: Settings as written; at most one is given.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    topic: str = ""
    nats_streaming: dict[str, Any] | None = None
    kafka: dict[str, Any] | None = None
    jetstream: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """An event that a Trigger listens to; namespace "" for the Trigger's."""

    event_source: str
    event: str
    namespace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """Who gets an event when a condition holds.

    Attributes:
        condition: CEL over the inputs' names, each true or false.
        sink, topic: Where the event goes; at least one of them.
        dead_letter_sink, dead_letter_topic: Where it goes when it cannot be delivered there.
    """

    condition: str
    sink: Sink | None = None
    topic: str = ""
    dead_letter_sink: Sink | None = None
    dead_letter_topic: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """Conditions over events of several sources.

    Attributes:
        event_bus: Name of an EventBus or ClusterEventBus.
        inputs: Input name -> event.
        subscribers: In written order; each is served by itself.
        log_level: How much it logs.
        window_s: Seconds for which an input stays true after its last event.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    event_bus: str = ""
    inputs: dict[str, Input] = field(default_factory=dict)
    subscribers: tuple[Subscriber, ...] = ()
    log_level: str = "1"
    window_s: float = WINDOW_S


# --------------------------------------------------------------------------------------------------- planned


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One place that events are delivered to.

    Attributes:
        subscription: The queue of what waits for it, with its attempts; names its dead letters.
        component: `bindings.http` for a sink, else the bus.
        topic: Topic on the bus; "" for a sink.
        title: What users know it by, e.g. `sink http://...` or `topic orders`. Holds no credentials.
        metadata: Headers of the request (capitalised names), for a sink.
    """

    subscription: Subscription
    component: Component
    topic: str = ""
    title: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """An address of the platform where events are posted.

    Attributes:
        path: Of the URL, e.g. `/events/default/shop/orders`.
        token: Bearer token that is asked for; "" for none.
    """

    path: str
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """One event of an EventSource.

    Attributes:
        namespace, source, kind, event: Whose it is.
        subscription: Where its events come from; a queue when they are posted (`webhook`).
        destinations: Bus, then sink; one or both.
        webhook: Where they are posted; None for sources that are read.
    """

    namespace: str
    source: str
    kind: str
    event: str
    subscription: Subscription
    destinations: tuple[Destination, ...]
    webhook: Webhook | None = None

    @property
    def key(self) -> str:
        """`namespace/name` of the EventSource."""
        return f"{self.namespace}/{self.source}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedInput:
    """Inputs by their names in conditions, and where their events come from: several may mean one topic."""

    names: tuple[str, ...]
    subscription: Subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSubscriber:
    """A condition and who gets the event: each destination has a queue of its own.

    Attributes:
        dead_letters: Get what cannot be delivered to `destinations`; may be empty.
    """

    condition: str
    destinations: tuple[Destination, ...]
    dead_letters: tuple[Destination, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTrigger:
    """A Trigger as the runtime needs it.

    Attributes:
        uid: Of the object: the state of another one of the same name is not its own.
        since: Epoch seconds before which events are none of its business: when it was created.
    """

    namespace: str
    name: str
    uid: str
    inputs: tuple[PlannedInput, ...]
    subscribers: tuple[PlannedSubscriber, ...]
    window_s: float = WINDOW_S
    since: float = 0.0

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    def destinations(self) -> Iterator[Destination]:
        """Yield all places that it delivers to, dead letters included."""
        for subscriber in self.subscribers:
            yield from subscriber.destinations
            yield from subscriber.dead_letters


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPlan:
    """Everything that EventSources and Triggers need of the runtime.

    Attributes:
        resting: `<kind>/<namespace>/<name>` of those that exist and cannot work now: what they had is kept.
    """

    relays: tuple[Relay, ...] = ()
    triggers: tuple[PlannedTrigger, ...] = ()
    resting: tuple[str, ...] = ()
