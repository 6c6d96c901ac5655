"""EventSources and Triggers as the runtime needs them: components, subscriptions, destinations.

Nothing of upstream's handler functions is made: both run inside the runtime process, one relay per event of a
source, one state per Trigger. Names of components, topics and consumers are upstream's. What is in the way is
a `Fault` with upstream's reason. `controlplane/event_framework` gathers the facts and calls this. Pure.
Source: contracts, OpenFunction, sections 9.1 to 9.4.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from pelton.model.component import MetadataItem
from pelton.model.desired import QUEUE_TYPE, Component, Subscription
from pelton.model.event_framework import (
    Destination,
    EventBus,
    EventSource,
    PlannedInput,
    PlannedSubscriber,
    PlannedTrigger,
    Reference,
    Relay,
    Sink,
    Subscriber,
    Trigger,
    Webhook,
    topic_of,
)
from pelton.plan.aliases import NO_ALIASES, Aliases
from pelton.quantity import parse_duration

__all__ = [
    "DEFAULT_BUS",
    "MAX_ATTEMPTS",
    "Address",
    "Fault",
    "World",
    "plan_source",
    "plan_trigger",
    "rivals",
    "secrets_of",
    "sinks_of",
    "webhook_path",
]

DEFAULT_BUS: Final = "default"
"""Name of the bus that needs no object: the embedded one, unless there is an object of that name."""

MAX_ATTEMPTS: Final = 10
"""Attempts at a destination, about three minutes of pauses, before the dead letter."""

_IN_FLIGHT: Final = 64
"""Posts to one sink at once: within the connections and the time limit of bindings.http."""

_TOPIC_IN_FLIGHT: Final = 512
_ATTEMPTS_NOTE: Final = "pelton.dev/max-attempts"
_FUNCTION_VERSION: Final = "core.openfunction.io/v1beta2"
# Names of a function inside a cluster; others of that form are somebody else's Services.
_IN_CLUSTER: Final = re.compile(
    r"(?P<name>[a-z0-9][-a-z0-9]*)\.(?P<namespace>[a-z0-9][-a-z0-9]*)(?:\.svc(?:\.cluster\.local)?)?"
)
_BEGINNINGS: Final = (
    *("deliverAll", "deliverNew", "startWithLastReceived", "startAtSequence", "startAtTimeDelta"),
    "startAtTime",
)
# Names of fields of a source that are not metadata of its component.
_NOT_METADATA: Final = frozenset(
    ("metadata", "scaleOption", "topic", "stream", "subject", "url", "qos", "namespace", "function")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why an EventSource or Trigger cannot work: upstream's reason, and a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a referred object is reached: URL, and the Host header to send when it is another one."""

    url: str
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the planner is told.

    Attributes:
        buses: (namespace, name) -> EventBus; namespace "" for ClusterEventBuses.
        addresses: Reference with its namespace filled in -> where it is reached; those that cannot be reached
            are missing.
        secrets: (namespace, name, key) -> text.
        aliases: Host names that stand for other addresses.
    """

    buses: Mapping[tuple[str, str], EventBus] = field(default_factory=dict)
    addresses: Mapping[Reference, Address] = field(default_factory=dict)
    secrets: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    aliases: Aliases = NO_ALIASES

    def component(self, component: Component) -> Component:
        """Return a component with addresses in place of aliases."""
        return replace(component, metadata=self.aliases.metadata(component.metadata)[0])


class _Faulty(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(reason=reason, message=message)


def webhook_path(namespace: str, source: str, event: str) -> str:
    """Return the path at which an event of kind http is posted."""
    return f"/events/{namespace}/{source}/{event}"


# --------------------------------------------------------------------------------------------- what is needed


def sinks_of(resource: EventSource | Trigger) -> frozenset[Reference]:
    """Return the objects whose addresses are needed, with their namespaces."""
    sinks: list[Sink | None]
    if isinstance(resource, EventSource):
        sinks = [resource.sink]
    else:
        sinks = [sink for one in resource.subscribers for sink in (one.sink, one.dead_letter_sink)]
    found = set()
    for sink in sinks:
        if sink is not None and sink.uri:
            found |= {local[0] for local in [_local(sink.uri)] if local is not None}
        elif sink is not None and sink.ref is not None:
            found.add(_full(sink.ref, resource.namespace))
    return frozenset(found)


def _local(uri: str) -> tuple[Reference, str] | None:
    """Return the function that a URI of a cluster means, and path and query; None where it is no such URI."""
    parts = urlsplit(uri)
    match = _IN_CLUSTER.fullmatch(parts.hostname or "")
    if (
        match is None
        or parts.scheme != "http"
        or parts.netloc.rpartition("@")[2].partition(":")[2] not in ("", "80")
    ):
        return None
    reference = Reference(
        api_version=_FUNCTION_VERSION, kind="Function", name=match["name"], namespace=match["namespace"]
    )
    return reference, parts.path + (f"?{parts.query}" if parts.query else "")


def secrets_of(resource: EventSource | Trigger, world: World) -> frozenset[tuple[str, str]]:
    """Return (namespace, name) of the Secrets that values are taken from, those of its bus included."""
    found = set()
    if isinstance(resource, EventSource):
        for _, _, settings in resource.events():
            found |= {(resource.namespace, name) for name, _ in _references(settings)}
            token = settings.get("tokenSecret") or {}
            if token.get("name"):
                found.add((resource.namespace, token["name"]))
    bus = _lookup(resource.event_bus, resource.namespace, world)
    for block in (bus.kafka, bus.jetstream) if bus else ():
        found |= {(resource.namespace, name) for name, _ in _references(block or {})}
    return frozenset(found)


def _references(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (Secret, key) of every metadata entry that takes its value from one."""
    for item in settings.get("metadata") or ():
        reference = item.get("secretKeyRef") or {}
        if reference.get("name"):
            yield reference["name"], reference.get("key") or reference["name"]


# -------------------------------------------------------------------------------------------------- sources


def plan_source(
    source: EventSource, world: World, *, created: float
) -> tuple[tuple[Relay, ...], Fault | None]:
    """Return a relay per event, or what is in the way of all of them.

    Args:
        source: The EventSource.
        world: Buses, addresses and Secrets.
        created: Epoch seconds at which it was created: logs before that are none of its events.
    """
    try:
        return tuple(_relays(source, world, created)), None
    except _Faulty as error:
        return (), error.fault


def _relays(source: EventSource, world: World, created: float) -> Iterator[Relay]:
    if not source.event_bus and source.sink is None:
        raise _Faulty("ErrorConfiguration", "spec needs an eventBus, a sink or both")
    owner = f"EventSource/{source.name}"
    namespace = source.namespace
    attempts = _attempts(source.annotations)
    bus = _bus(source.event_bus, namespace, world, f"ebfes-{source.name}") if source.event_bus else None
    sink = (
        _sink(
            source.sink,
            namespace,
            world,
            name=f"ts-{source.name}",
            path="spec.sink",
            reason="ErrorCreatingEventSource",
        )
        if source.sink
        else None
    )
    for kind, event, settings in source.events():
        destinations = []
        if bus is not None:
            topic = topic_of(namespace, source.name, event)
            queue = _queue(namespace, owner, f"bus/{kind}/{event}", attempts, in_flight=_TOPIC_IN_FLIGHT)
            destinations.append(
                Destination(subscription=queue, component=bus, topic=topic, title=f"topic {topic}")
            )
        if sink is not None:
            queue = _queue(namespace, owner, f"sink/{kind}/{event}", attempts)
            destinations.append(_to(sink, queue))
        subscription, webhook = _subscription(source, kind, event, settings, world, created)
        subscription = replace(
            subscription,
            max_attempts=attempts,
            # Posts happen right there when there is no bus to publish on.
            max_in_flight=subscription.max_in_flight if bus is not None else _IN_FLIGHT,
        )
        yield Relay(
            namespace=namespace,
            source=source.name,
            kind=kind,
            event=event,
            subscription=subscription,
            destinations=tuple(destinations),
            webhook=webhook,
        )


def _subscription(
    source: EventSource, kind: str, event: str, settings: Mapping[str, Any], world: World, created: float
) -> tuple[Subscription, Webhook | None]:
    namespace, owner, name = source.namespace, f"EventSource/{source.name}", f"{kind}/{event}"
    if kind == "http":
        token = ""
        reference = settings.get("tokenSecret") or {}
        if reference.get("name"):
            token = _secret(world, namespace, reference, f"spec.http.{event}.tokenSecret")
        webhook = Webhook(path=webhook_path(namespace, source.name, event), token=token)
        return _queue(namespace, owner, name, MAX_ATTEMPTS), webhook
    type_, topic, given = _component(source, kind, event, settings, created)
    metadata = {
        **_texts(settings, _NOT_METADATA),
        **given,
        **_metadata(world, namespace, settings, f"spec.{kind}.{event}.metadata"),
    }
    # Upstream calls it esc-<kind>-<event>, which two EventSources of a namespace may both have.
    name_ = f"{source.name}.esc-{kind}-{event}"
    component = world.component(Component(namespace=namespace, name=name_, type=type_, metadata=metadata))
    return (
        Subscription(
            namespace=namespace,
            function=owner,
            name=name,
            input_name=f"esi-{event}",
            component=component,
            topic=topic,
        ),
        None,
    )


def rivals(relays: Iterable[Relay]) -> dict[str, Fault]:
    """Return `namespace/name` of EventSources that would take events from another one, and a sentence.

    Upstream's names of consumers hold namespace, kind and event: the same event name in two EventSources is
    one consumer, whose members share the events of a topic. The first one of a group keeps it.
    """
    holders: dict[tuple[str, ...], str] = {}
    found: dict[str, Fault] = {}
    for relay in relays:
        metadata = relay.subscription.component.metadata
        name = metadata.get("consumerGroup") or metadata.get("consumerID")
        if not name:
            continue
        server = next((metadata[each] for each in ("brokers", "url", "redisHost") if each in metadata), "")
        what = metadata.get("topics") or metadata.get("topic") or relay.subscription.topic
        # A client id of MQTT is one connection, whatever it subscribes to.
        mine = (relay.kind, name, server, "" if relay.kind == "mqtt" else what)
        holder = holders.setdefault(mine, relay.key)
        if holder != relay.key:
            setting = "consumerID" if relay.kind == "mqtt" else "consumerGroup"
            setting = "consumerID" if relay.kind == "redis" else setting
            found[relay.key] = Fault(
                reason="ErrorConfiguration",
                message=f"spec.{relay.kind}.{relay.event} consumes as {name}, as EventSource {holder} does: "
                f"each would get a part of the events; rename the event, or set {setting} by its metadata",
            )
    return found


def _component(
    source: EventSource, kind: str, event: str, settings: Mapping[str, Any], created: float
) -> tuple[str, str, dict[str, str]]:
    """Return component type, topic ("" for bindings) and metadata that are no fields of the same name."""
    namespace = source.namespace
    consumer = f"{namespace}-esc-{kind}-{event}"
    text = {key: str(value) for key, value in settings.items() if isinstance(value, str | int)}
    if kind == "kafka":
        topic = text.get("topic") or event
        return "bindings.kafka", "", {"topics": topic, "publishTopic": topic, "consumerGroup": consumer}
    if kind == "cron":
        return "bindings.cron", "", {}
    if kind == "mqtt":
        named = {} if text.get("consumerID") else {"consumerID": consumer}
        quality = {"qos": text["qos"]} if "qos" in text else {}
        # The binding's own default forgets what comes while nobody is connected.
        if "cleanSession" not in settings:
            quality["cleanSession"] = "false"
        return (
            "bindings.mqtt3",
            "",
            {"url": text.get("url", ""), "topic": text.get("topic", ""), **named, **quality},
        )
    if kind == "redis":
        return "pubsub.redis", text.get("stream") or event, {"consumerID": consumer}
    if kind == "rabbitmq":
        return "bindings.rabbitmq", "", {}
    if kind == "logs":
        asked = {name.lower() for name, value in settings.items() if value}
        asked |= {str(item.get("name")).lower() for item in settings.get("metadata") or ()}
        if asked & {"path", "httplisten", "forwardlisten"}:
            return "bindings.logs", "", {}
        where, function = text.get("namespace") or namespace, text.get("function") or ">"
        return "pubsub.jetstream", f"logs.{where}.{function}", _begin(created)
    server = {"natsURL": text["url"]} if text.get("url") else {}
    return "pubsub.jetstream", text.get("subject", ""), server


# ------------------------------------------------------------------------------------------------- triggers


def plan_trigger(
    trigger: Trigger, world: World, *, uid: str, created: float
) -> tuple[PlannedTrigger | None, Fault | None]:
    """Return what the runtime needs, or what is in the way.

    Args:
        trigger: The Trigger.
        world: Buses, addresses and Secrets.
        uid: The object's.
        created: Epoch seconds at which it was created: where it begins to listen.
    """
    try:
        return _planned(trigger, world, uid, created), None
    except _Faulty as error:
        return None, error.fault


def _planned(trigger: Trigger, world: World, uid: str, created: float) -> PlannedTrigger:
    namespace, owner = trigger.namespace, f"Trigger/{trigger.name}"
    bus = _bus(trigger.event_bus, namespace, world, f"ebft-{trigger.name}", created=created)
    given = _lookup(trigger.event_bus, namespace, world)
    # Part of the consumer's name at the broker, as upstream's durable is.
    durable = ((given.nats_streaming or {}).get("durableSubscriptionName") if given else "") or "input"
    named: dict[str, list[str]] = {}
    for name, wanted in trigger.inputs.items():
        topic = topic_of(wanted.namespace or namespace, wanted.event_source, wanted.event)
        named.setdefault(topic, []).append(name)
    attempts = _attempts(trigger.annotations)
    subscribers = []
    seen: Counter[str] = Counter()
    for index, one in enumerate(trigger.subscribers):
        content = json.dumps([one.condition, _identity(one.sink), one.topic])
        seen[content] += 1
        # Named by content, not by position: what waits for it is still its own behind a new neighbour.
        name = hashlib.sha256(f"{content}{seen[content]}".encode()).hexdigest()[:8]
        subscribers.append(_subscriber(trigger, index, one, name, bus, world, attempts))
    return PlannedTrigger(
        namespace=namespace,
        name=trigger.name,
        uid=uid,
        inputs=tuple(
            PlannedInput(
                names=tuple(names),
                subscription=Subscription(
                    namespace=namespace,
                    function=owner,
                    name=durable,
                    input_name=f"ti-{topic}",
                    component=bus,
                    topic=topic,
                    ordering="partition",
                ),
            )
            for topic, names in named.items()
        ),
        subscribers=tuple(subscribers),
        window_s=trigger.window_s,
        since=0.0 if given is not None and _says_where_to_begin(given) else created,
    )


def _subscriber(
    trigger: Trigger,
    index: int,
    one: Subscriber,
    name: str,
    bus: Component,
    world: World,
    attempts: int,
) -> PlannedSubscriber:
    namespace, owner = trigger.namespace, f"Trigger/{trigger.name}"
    path = f"spec.subscribers[{index}]"

    def both(
        sink: Sink | None, topic: str, what: str, field: str, then: tuple[str, ...]
    ) -> tuple[Destination, ...]:
        made = []
        if sink is not None:
            address = _sink(
                sink,
                namespace,
                world,
                name=f"ts-{trigger.name}",
                path=f"{path}.{field}",
                reason="ErrorToFindTriggerSubscribers",
            )
            queue = _queue(namespace, owner, f"{what}sink/{name}", attempts, then)
            made.append(_to(address, queue))
        if topic:
            queue = _queue(
                namespace, owner, f"{what}topic/{name}", attempts, then, in_flight=_TOPIC_IN_FLIGHT
            )
            made.append(Destination(subscription=queue, component=bus, topic=topic, title=f"topic {topic}"))
        return tuple(made)

    dead = both(one.dead_letter_sink, one.dead_letter_topic, "dead-", "deadLetterSink", ())
    then = tuple(each.subscription.id for each in dead)
    return PlannedSubscriber(
        condition=one.condition,
        destinations=both(one.sink, one.topic, "", "sink", then),
        dead_letters=dead,
    )


def _identity(sink: Sink | None) -> list[str]:
    if sink is None:
        return []
    ref = sink.ref
    return [sink.uri] if sink.uri or ref is None else [ref.kind, ref.namespace, ref.name]


# --------------------------------------------------------------------------------------------- shared parts


def _attempts(annotations: Mapping[str, str]) -> int:
    text = annotations.get(_ATTEMPTS_NOTE, "")
    if not text:
        return MAX_ATTEMPTS
    if not text.isdecimal() or int(text) < 1:
        raise _Faulty(
            "ErrorConfiguration", f"metadata.annotations[{_ATTEMPTS_NOTE}] must be a whole number from 1 on"
        )
    return int(text)


def _queue(
    namespace: str,
    owner: str,
    name: str,
    attempts: int,
    dead_letters: tuple[str, ...] = (),
    *,
    in_flight: int = _IN_FLIGHT,
) -> Subscription:
    return Subscription(
        namespace=namespace,
        function=owner,
        name=name,
        input_name=name,
        component=Component(namespace=namespace, name=QUEUE_TYPE, type=QUEUE_TYPE),
        max_attempts=attempts,
        max_in_flight=in_flight,
        dead_letters=dead_letters,
    )


def _to(address: tuple[Component, str, dict[str, str]], queue: Subscription) -> Destination:
    component, title, headers = address
    return Destination(subscription=queue, component=component, title=title, metadata=headers)


def _full(ref: Reference, namespace: str) -> Reference:
    return ref if ref.namespace else replace(ref, namespace=namespace)


def _sink(
    sink: Sink, namespace: str, world: World, *, name: str, path: str, reason: str
) -> tuple[Component, str, dict[str, str]]:
    """Return the component to post by, what it is called, and request headers."""
    local = _local(sink.uri) if sink.uri else None
    if local is not None and local[0] in world.addresses:
        address = world.addresses[local[0]]
        url, host = address.url.rstrip("/") + local[1], address.host
        title = f"sink {_without_credentials(sink.uri)}"
    elif sink.uri:
        url, host, title = sink.uri, "", f"sink {_without_credentials(sink.uri)}"
    elif sink.ref is not None:
        ref = _full(sink.ref, namespace)
        found = world.addresses.get(ref)
        if found is None:
            raise _Faulty(
                reason,
                f"{path}.ref: {ref.kind} {ref.namespace}/{ref.name} ({ref.api_version}) has no address: it "
                "does not exist, or is not ready",
            )
        url, host, title = found.url, found.host, f"sink {ref.kind} {ref.namespace}/{ref.name}"
    else:
        raise _Faulty("ErrorConfiguration", f"{path} needs uri or ref")
    component = world.component(
        Component(
            namespace=namespace, name=f"{name}-{namespace}", type="bindings.http", metadata={"url": url}
        )
    )
    return component, title, {"Host": host} if host else {}


def _without_credentials(uri: str) -> str:
    """Return scheme, host and path; queries of chat systems hold secrets."""
    return re.sub(r"//[^/@]*@", "//", uri).partition("?")[0]


def _lookup(name: str, namespace: str, world: World) -> EventBus | None:
    return world.buses.get((namespace, name)) or world.buses.get(("", name))


def _bus(name: str, namespace: str, world: World, component: str, *, created: float = 0.0) -> Component:
    """Return the component that publishes and subscribes.

    Args:
        name: The EventBus or ClusterEventBus.
        namespace: Of whoever uses it.
        world: Where it is looked for.
        component: Name of the component; the consumer at the broker is called `<namespace>-<component>`.
        created: Epoch seconds at which a subscriber begins by default; 0 to publish only.
    """
    found = _lookup(name, namespace, world)
    if found is None and name != DEFAULT_BUS:
        raise _Faulty(
            "ErrorToFindExistEventBus",
            f"there is no EventBus {namespace}/{name} and no ClusterEventBus {name}; apply one, or use "
            f"`{DEFAULT_BUS}`, the embedded bus",
        )
    begin = _begin(created)
    type_, metadata = "pubsub.jetstream", begin
    if found is not None and found.nats_streaming is not None:
        metadata = _nats_streaming(found.nats_streaming, created)
    elif found is not None and found.kafka is not None:
        type_ = "pubsub.kafka"
        # From the first record on: what is older than the Trigger is passed over by its time.
        metadata = {
            "authRequired": "false",
            "initialOffset": "oldest",
            **_texts(found.kafka, _NOT_METADATA),
            **_metadata(world, namespace, found.kafka, f"EventBus {name}: spec.kafka.metadata"),
        }
    elif found is not None and found.jetstream is not None:
        url = found.jetstream.get("url")
        metadata = {
            **begin,
            **({"natsURL": url, "createStreams": "true"} if url else {}),
            **_metadata(world, namespace, found.jetstream, f"EventBus {name}: spec.jetstream.metadata"),
        }
    return world.component(
        Component(
            namespace=namespace,
            name=component,
            type=type_,
            metadata={**metadata, "consumerID": f"{namespace}-{component}"},
        )
    )


def _nats_streaming(block: Mapping[str, Any], created: float) -> dict[str, str]:
    """Map NATS Streaming's settings to JetStream's; topics are subjects, consumers are durable."""
    metadata = {"natsURL": str(block.get("natsURL", "")), "createStreams": "true"}
    if block.get("ackWaitTime"):
        metadata["ackWait"] = str(block["ackWaitTime"])
    if block.get("maxInFlight"):
        metadata["maxAckPending"] = str(block["maxInFlight"])
    if not created:
        return metadata
    if block.get("deliverAll"):
        return {**metadata, "deliverPolicy": "all"}
    if block.get("startWithLastReceived"):
        return {**metadata, "deliverPolicy": "last"}
    if block.get("startAtSequence"):
        return {
            **metadata,
            "deliverPolicy": "sequence",
            "startSequence": str(block["startAtSequence"]),
        }
    if block.get("startAtTimeDelta"):
        try:
            began = created - parse_duration(str(block["startAtTimeDelta"]))
        except ValueError as error:
            raise _Faulty("ErrorGenerateComponent", f"natsStreaming.startAtTimeDelta: {error}") from error
        return metadata | _begin(began)
    if block.get("startAtTime"):
        try:
            moment = datetime.fromisoformat(str(block["startAtTime"]))
        except ValueError as error:
            raise _Faulty(
                "ErrorGenerateComponent",
                "natsStreaming.startAtTime must be a time such as 2026-01-02T03:04:05Z, whatever "
                "startAtTimeFormat says",
            ) from error
        return metadata | _begin(moment.timestamp())
    return metadata | ({"deliverPolicy": "new"} if block.get("deliverNew") else _begin(created))


def _begin(since: float) -> dict[str, str]:
    """Return JetStream's settings for a consumer that begins at a time, epoch seconds; 0 for none."""
    return {"deliverPolicy": "time", "startTime": str(int(since))} if since else {}


def _says_where_to_begin(bus: EventBus) -> bool:
    """Tell whether a bus names the place from which its consumers begin."""
    if bus.nats_streaming is not None:
        return any(bus.nats_streaming.get(name) for name in _BEGINNINGS)
    own = [*((bus.kafka or {}).get("metadata") or ()), *((bus.jetstream or {}).get("metadata") or ())]
    return any(item.get("name") in ("initialOffset", "deliverPolicy") for item in own)


def _texts(settings: Mapping[str, Any], without: frozenset[str]) -> dict[str, str]:
    """Return fields as metadata: text as it is, flags and numbers as in JSON."""
    return {
        name: MetadataItem(name=name, value=value).text
        for name, value in settings.items()
        if name not in without and isinstance(value, str | int | float)
    }


def _metadata(world: World, namespace: str, settings: Mapping[str, Any], path: str) -> dict[str, str]:
    """Return the entries of `metadata`, Secrets resolved."""
    found: dict[str, str] = {}
    for item in settings.get("metadata") or ():
        reference = item.get("secretKeyRef") or {}
        if reference.get("name"):
            found[item["name"]] = _secret(world, namespace, reference, path)
        elif item.get("value") is not None:
            found[item["name"]] = MetadataItem(name=item["name"], value=item["value"]).text
    return found


def _secret(world: World, namespace: str, reference: Mapping[str, Any], path: str) -> str:
    name, key = reference["name"], reference.get("key") or reference["name"]
    value = world.secrets.get((namespace, name, key))
    if value is None:
        raise _Faulty(
            "ErrorGenerateComponent",
            f'{path}: there is no key "{key}" in Secret {namespace}/{name}; apply that Secret',
        )
    return value
