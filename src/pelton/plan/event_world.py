"""The world around EventSources and Triggers: facts, faults, and the components that their buses mean.

A bus is the embedded one, JetStream elsewhere, Kafka, or what a NATS Streaming block is mapped to. Settings
become metadata of components here, Secrets and aliases resolved. Called by `plan/event_framework`; the facts
come from `controlplane/event_framework`. Pure. Source: contracts, OpenFunction, section 9.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from pelton.model.component import MetadataItem
from pelton.model.desired import Component
from pelton.model.event_framework import EventBus, Reference
from pelton.plan.aliases import NO_ALIASES, Aliases
from pelton.quantity import parse_duration

__all__ = [
    "DEFAULT_BUS",
    "NOT_METADATA",
    "Address",
    "Fault",
    "Faulty",
    "World",
    "begin",
    "bus_component",
    "lookup",
    "metadata_of",
    "says_where_to_begin",
    "secret",
    "texts",
]

DEFAULT_BUS: Final = "default"
"""Name of the bus that needs no object: the embedded one, unless there is an object of that name."""

# Names of fields of a source that are not metadata of its component.
NOT_METADATA: Final = frozenset(
    ("metadata", "scaleOption", "topic", "stream", "subject", "url", "qos", "namespace", "function")
)
_BEGINNINGS: Final = (
    *("deliverAll", "deliverNew", "startWithLastReceived", "startAtSequence", "startAtTimeDelta"),
    "startAtTime",
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


class Faulty(Exception):
    """Carries a Fault up to the planner, which returns it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(reason=reason, message=message)


def lookup(name: str, namespace: str, world: World) -> EventBus | None:
    """Return the EventBus of the namespace, else the ClusterEventBus of that name, else None."""
    return world.buses.get((namespace, name)) or world.buses.get(("", name))


def bus_component(
    name: str, namespace: str, world: World, component: str, *, created: float = 0.0
) -> Component:
    """Return the component that publishes and subscribes.

    Args:
        name: The EventBus or ClusterEventBus.
        namespace: Of whoever uses it.
        world: Where it is looked for.
        component: Name of the component; the consumer at the broker is called `<namespace>-<component>`.
        created: Epoch seconds at which a subscriber begins by default; 0 to publish only.
    """
    found = lookup(name, namespace, world)
    if found is None and name != DEFAULT_BUS:
        raise Faulty(
            "ErrorToFindExistEventBus",
            f"there is no EventBus {namespace}/{name} and no ClusterEventBus {name}; apply one, or use "
            f"`{DEFAULT_BUS}`, the embedded bus",
        )
    start = begin(created)
    type_, metadata = "pubsub.jetstream", start
    if found is not None and found.nats_streaming is not None:
        metadata = _nats_streaming(found.nats_streaming, created)
    elif found is not None and found.kafka is not None:
        type_ = "pubsub.kafka"
        # From the first record on: what is older than the Trigger is passed over by its time.
        metadata = {
            "authRequired": "false",
            "initialOffset": "oldest",
            **texts(found.kafka, NOT_METADATA),
            **metadata_of(world, namespace, found.kafka, f"EventBus {name}: spec.kafka.metadata"),
        }
    elif found is not None and found.jetstream is not None:
        url = found.jetstream.get("url")
        metadata = {
            **start,
            **({"natsURL": url, "createStreams": "true"} if url else {}),
            **metadata_of(world, namespace, found.jetstream, f"EventBus {name}: spec.jetstream.metadata"),
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
            raise Faulty("ErrorGenerateComponent", f"natsStreaming.startAtTimeDelta: {error}") from error
        return metadata | begin(began)
    if block.get("startAtTime"):
        try:
            moment = datetime.fromisoformat(str(block["startAtTime"]))
        except ValueError as error:
            raise Faulty(
                "ErrorGenerateComponent",
                "natsStreaming.startAtTime must be a time such as 2026-01-02T03:04:05Z, whatever "
                "startAtTimeFormat says",
            ) from error
        return metadata | begin(moment.timestamp())
    return metadata | ({"deliverPolicy": "new"} if block.get("deliverNew") else begin(created))


def begin(since: float) -> dict[str, str]:
    """Return JetStream's settings for a consumer that begins at a time, epoch seconds; 0 for none."""
    return {"deliverPolicy": "time", "startTime": str(int(since))} if since else {}


def says_where_to_begin(bus: EventBus) -> bool:
    """Tell whether a bus names the place from which its consumers begin."""
    if bus.nats_streaming is not None:
        return any(bus.nats_streaming.get(name) for name in _BEGINNINGS)
    own = [*((bus.kafka or {}).get("metadata") or ()), *((bus.jetstream or {}).get("metadata") or ())]
    return any(str(item.get("name")).lower() in ("initialoffset", "deliverpolicy") for item in own)


def texts(settings: Mapping[str, Any], without: frozenset[str]) -> dict[str, str]:
    """Return fields as metadata: text as it is, flags and numbers as in JSON."""
    return {
        name: MetadataItem(name=name, value=value).text
        for name, value in settings.items()
        if name not in without and isinstance(value, str | int | float)
    }


def metadata_of(world: World, namespace: str, settings: Mapping[str, Any], path: str) -> dict[str, str]:
    """Return the entries of `metadata`, Secrets resolved."""
    found: dict[str, str] = {}
    for item in settings.get("metadata") or ():
        reference = item.get("secretKeyRef") or {}
        if reference.get("name"):
            found[item["name"]] = secret(world, namespace, reference, path)
        elif item.get("value") is not None:
            found[item["name"]] = MetadataItem(name=item["name"], value=item["value"]).text
    return found


def secret(world: World, namespace: str, reference: Mapping[str, Any], path: str) -> str:
    """Return the text that a secretKeyRef at a field path means; raises Faulty when there is none."""
    name, key = reference["name"], reference.get("key") or reference["name"]
    value = world.secrets.get((namespace, name, key))
    if value is None:
        raise Faulty(
            "ErrorGenerateComponent",
            f'{path}: there is no key "{key}" in Secret {namespace}/{name}; apply that Secret',
        )
    return value
