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
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from pelton.model.desired import QUEUE_TYPE, Component, Subscription
from pelton.model.event_framework import (
    Destination,
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
from pelton.plan.event_world import (
    NOT_METADATA,
    Fault,
    Faulty,
    World,
    begin,
    bus_component,
    lookup,
    metadata_of,
    says_where_to_begin,
    secret,
    texts,
)

__all__ = [
    "MAX_ATTEMPTS",
    "plan_source",
    "plan_trigger",
    "rivals",
    "secrets_of",
    "sinks_of",
    "webhook_path",
]

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
    bus = lookup(resource.event_bus, resource.namespace, world)
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
    except Faulty as error:
        return (), error.fault


def _relays(source: EventSource, world: World, created: float) -> Iterator[Relay]:
    if not source.event_bus and source.sink is None:
        raise Faulty("ErrorConfiguration", "spec needs an eventBus, a sink or both")
    owner = f"EventSource/{source.name}"
    namespace = source.namespace
    attempts = _attempts(source.annotations)
    bus = (
        bus_component(source.event_bus, namespace, world, f"ebfes-{source.name}")
        if source.event_bus
        else None
    )
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
            token = secret(world, namespace, reference, f"spec.http.{event}.tokenSecret")
        webhook = Webhook(path=webhook_path(namespace, source.name, event), token=token)
        return _queue(namespace, owner, name, MAX_ATTEMPTS), webhook
    type_, topic, given = _component(source, kind, event, settings, created)
    metadata = {
        **texts(settings, NOT_METADATA),
        **given,
        **metadata_of(world, namespace, settings, f"spec.{kind}.{event}.metadata"),
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
    """Return `namespace/name` of EventSources two of whose events, or one and another's, would share events.

    Upstream's names of consumers hold namespace, kind and event: the same event name in two EventSources is
    one consumer, whose members share the events of a topic, as those do that name the same one themselves.
    The first one of a group keeps it.
    """
    holders: dict[tuple[str, ...], Relay] = {}
    found: dict[str, Fault] = {}
    for relay in relays:
        metadata = {name.lower(): text for name, text in relay.subscription.component.metadata.items()}
        name = metadata.get("consumergroup") or metadata.get("consumerid")
        if not name:
            continue
        server = next((metadata[each] for each in ("brokers", "url", "redishost") if each in metadata), "")
        what = metadata.get("topics") or metadata.get("topic") or relay.subscription.topic
        # A client id of MQTT is one connection, whatever it subscribes to.
        mine = (relay.kind, name, server, "" if relay.kind == "mqtt" else what)
        holder = holders.setdefault(mine, relay)
        if (holder.key, holder.event) != (relay.key, relay.event):
            setting = "consumerGroup" if relay.kind == "kafka" else "consumerID"
            other = f"EventSource {holder.key}" if holder.key != relay.key else f"its event {holder.event}"
            found[relay.key] = Fault(
                reason="ErrorConfiguration",
                message=f"spec.{relay.kind}.{relay.event} consumes as {name}, as {other} does: "
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
        return "pubsub.jetstream", f"logs.{where}.{function}", begin(created)
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
    except Faulty as error:
        return None, error.fault


def _planned(trigger: Trigger, world: World, uid: str, created: float) -> PlannedTrigger:
    namespace, owner = trigger.namespace, f"Trigger/{trigger.name}"
    bus = bus_component(trigger.event_bus, namespace, world, f"ebft-{trigger.name}", created=created)
    given = lookup(trigger.event_bus, namespace, world)
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
        since=0.0 if given is not None and says_where_to_begin(given) else created,
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
        raise Faulty(
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
            raise Faulty(
                reason,
                f"{path}.ref: {ref.kind} {ref.namespace}/{ref.name} ({ref.api_version}) has no address: it "
                "does not exist, or is not ready",
            )
        url, host, title = found.url, found.host, f"sink {ref.kind} {ref.namespace}/{ref.name}"
    else:
        raise Faulty("ErrorConfiguration", f"{path} needs uri or ref")
    component = world.component(
        Component(
            namespace=namespace, name=f"{name}-{namespace}", type="bindings.http", metadata={"url": url}
        )
    )
    return component, title, {"Host": host} if host else {}


def _without_credentials(uri: str) -> str:
    """Return scheme, host and path; queries of chat systems hold secrets."""
    return re.sub(r"//[^/@]*@", "//", uri).partition("?")[0]
