"""EventSource, EventBus, ClusterEventBus and Trigger of events.openfunction.io/v1alpha1: tables and rules.

Settings of sources and buses stay as they are written once their types are checked; `plan/event_framework`
reads them. Sources nats, rabbitmq, http and logs, buses kafka and jetstream, `metadata` and the window of a
Trigger are Pelton's own. Conditions are compiled here, so that a wrong one is refused before it is stored.
Called through `manifest/kinds`. Source: contracts, OpenFunction, section 9.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from pelton.cel import BOOL, RESERVED, compile_cel
from pelton.errors import CelCompileError
from pelton.manifest.dapr import METADATA_ITEMS, SECRET_KEY_REF
from pelton.manifest.fields import (
    Boolean,
    Duration,
    Field,
    Integer,
    Items,
    Kept,
    Mapped,
    Problem,
    Raw,
    Record,
    Text,
    describe,
)
from pelton.manifest.verbs import TableVerbs
from pelton.model import event_framework as model
from pelton.quantity import parse_duration

__all__ = [
    "API_VERSION",
    "CLUSTER_EVENT_BUS",
    "EVENT_BUS",
    "EVENT_SOURCE",
    "TRIGGER",
    "bus_advice",
    "source_advice",
    "trigger_advice",
]

API_VERSION: Final = "events.openfunction.io/v1alpha1"

_TEXT = Text()
_NAMED = Text(min_length=1)
_FLAG = Boolean()
_NUMBER = Integer()
_EVENT_NAME = re.compile(r"[A-Za-z0-9]([-_A-Za-z0-9]*[A-Za-z0-9])?")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_IDENTIFIERS: Final = RESERVED | {"true", "false", "null", "in"}
_TOPIC = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")
_URI = re.compile(r"https?://[^/\s]+\S*")


def _text(name: str, doc: str, *, required: bool = False) -> Field:
    return Field(name, name, _TEXT, required=required, doc=doc)


def _flag(name: str, doc: str, *, required: bool = False) -> Field:
    return Field(name, name, _FLAG, required=required, doc=doc)


def _number(name: str, doc: str) -> Field:
    return Field(name, name, _NUMBER, doc=doc)


# ----------------------------------------------------------------------------------------------- shared parts

_REFERENCE = Record(
    model.Reference,
    (
        Field("apiVersion", "api_version", _NAMED, required=True, doc="Its apiVersion."),
        Field("kind", "kind", _NAMED, required=True, doc="Function or Service."),
        Field("name", "name", _NAMED, required=True, doc="Its name."),
        Field("namespace", "namespace", _TEXT, doc="Its namespace; default: that of this object."),
    ),
)
_SINK = Record(
    model.Sink,
    (
        Field("uri", "uri", _TEXT, doc="Address that events are posted to; wins over ref."),
        Field("ref", "ref", _REFERENCE, doc="Function or Service that events are posted to."),
    ),
)
_SETTINGS = Field(
    "metadata",
    "metadata",
    METADATA_ITEMS,
    doc="Further settings of the Dapr component that this stands for, also from Secrets.",
)
_SCALE = (
    _number("pollingInterval", "Seconds between two looks at the backlog."),
    _number("cooldownPeriod", "Seconds without events before scaling to zero."),
    _number("minReplicaCount", "Fewest instances of the handler."),
    _number("maxReplicaCount", "Most instances of the handler."),
    Field("advanced", "advanced", Raw(), doc="KEDA's advanced settings."),
    Field("metadata", "metadata", Mapped(_TEXT), doc="Further metadata of the KEDA trigger."),
    Field("authRef", "authRef", Raw(), doc="TriggerAuthentication of the KEDA trigger."),
)

# ------------------------------------------------------------------------------------------------ EventSource

_KAFKA = (
    _text("brokers", "Addresses of Kafka's brokers, separated by commas.", required=True),
    _flag("authRequired", "Whether the brokers ask for SASL credentials.", required=True),
    _text("topic", "Topic; default: the event's name."),
    _text("saslUsername", "User name."),
    _text("saslPassword", "Password; better from a Secret, by metadata."),
    _number("maxMessageBytes", "Largest record."),
)
_KAFKA_SCALE = Kept(
    (
        _text("consumerGroup", "Group whose lag counts."),
        _text("topic", "Topic whose lag counts."),
        _text("lagThreshold", "Lag for one instance.", required=True),
        *_SCALE,
    )
)
_REDIS = (
    _text("redisHost", "Address, host:port.", required=True),
    _text("redisPassword", "Password; may be empty.", required=True),
    _text("stream", "Stream that is read; default: the event's name."),
    _flag("enableTLS", "Whether the connection is encrypted."),
    _flag("failover", "Whether Sentinel names the server."),
    _text("sentinelMasterName", "Name of the master in Sentinel."),
    _text("redeliverInterval", "Pause between two looks for events that another consumer left."),
    _text("processingTimeout", "Time after which a held event goes to another consumer."),
    _text("redisType", "node or cluster."),
    _number("redisDB", "Database."),
    _number("redisMaxRetries", "Retries of a command."),
    _text("redisMinRetryInterval", "Shortest pause between retries."),
    _text("redisMaxRetryInterval", "Longest pause between retries."),
    *(_text(name, "Time limit.") for name in ("dialTimeout", "readTimeout", "writeTimeout")),
    _number("poolSize", "Most connections."),
    _text("poolTimeout", "Wait for a free connection."),
    _text("maxConnAge", "Longest life of a connection."),
    _number("minIdleConns", "Connections kept open."),
    _text("idleCheckFrequency", "Pause between two looks for idle connections."),
    _text("idleTimeout", "Time after which an idle connection is closed."),
)
_EVENT_SHAPES: Final[dict[str, tuple[str, Kept]]] = {
    "kafka": (
        "Records of Kafka topics.",
        Kept(
            (
                *_KAFKA,
                Field(
                    "scaleOption", "scaleOption", _KAFKA_SCALE, doc="How a handler would scale with the lag."
                ),
                _SETTINGS,
            )
        ),
    ),
    "cron": (
        "Schedules.",
        Kept(
            (
                Field(
                    "schedule",
                    "schedule",
                    _NAMED,
                    required=True,
                    doc="`@every 2s`, five fields, or six with seconds first.",
                ),
                _SETTINGS,
            )
        ),
    ),
    "mqtt": (
        "Messages of an MQTT broker.",
        Kept(
            (
                _text("url", "Address, tcp://host:1883.", required=True),
                _text("topic", "Topic or filter.", required=True),
                _text("consumerID", "Client id; default: one made of this object."),
                Field("qos", "qos", Integer(minimum=0, maximum=2), doc="Quality of service."),
                _flag("retain", "Whether what is published is retained."),
                _flag("cleanSession", "Whether the broker forgets the session at the end."),
                *(_text(name, "TLS, PEM text.") for name in ("caCert", "clientCert", "clientKey")),
                _SETTINGS,
            )
        ),
    ),
    "redis": ("Entries of Redis streams.", Kept((*_REDIS, _SETTINGS))),
    "nats": (
        "Messages of NATS JetStream.",
        Kept(
            (
                _text("url", "Address, nats://host:4222; default: the embedded bus."),
                Field("subject", "subject", _NAMED, required=True, doc="Subject."),
                _text("streamName", "Stream; default: the one that stores the subject."),
                _SETTINGS,
            )
        ),
    ),
    "rabbitmq": (
        "Messages of a RabbitMQ queue.",
        Kept(
            (
                _text("host", "Address, amqp://user:password@host:5672; a Secret by metadata."),
                Field("queueName", "queueName", _NAMED, required=True, doc="Queue."),
                _flag("durable", "Whether the queue survives the broker."),
                _flag("deleteWhenUnused", "Whether the queue goes with its last consumer."),
                _number("prefetchCount", "Most messages held at once."),
                _SETTINGS,
            )
        ),
    ),
    "http": (
        "Requests posted to the platform, at /events/<namespace>/<name>/<event> of its address for alerts.",
        Kept(
            (
                Field(
                    "tokenSecret",
                    "tokenSecret",
                    SECRET_KEY_REF,
                    doc="Secret with the bearer token that is asked for; default: none.",
                ),
            )
        ),
    ),
    "logs": (
        "Log records of functions; with path, httpListen or forwardListen those of files and log shippers.",
        Kept(
            (
                _text("namespace", "Namespace of the functions; default: that of this object."),
                _text("function", "Function; default: all of the namespace."),
                _text("path", "Patterns of files, such as /var/log/containers/*.log, with commas."),
                _text("exclude", "Patterns of files that are left out."),
                _text("format", "auto, cri, docker or text."),
                _text("multiline", "Traces that are one record: python, java, go."),
                _text("multilineStart", "Regular expression of the first line of a record."),
                _flag("readFromHead", "Whether files that are there at first are read from their beginning."),
                _text("httpListen", "Address, host:port, for Fluent Bit's http output."),
                _text("forwardListen", "Address, host:port, for the forward protocol."),
                _SETTINGS,
            )
        ),
    ),
}
_EVENT_SOURCE_SPEC = Record(
    model.EventSource,
    (
        _text("eventBus", "EventBus that events are published on.")._replace(attr="event_bus"),
        *(
            Field(kind, kind, Mapped(shape), doc=f"{doc} Event name -> settings.")
            for kind, (doc, shape) in _EVENT_SHAPES.items()
        ),
        Field("sink", "sink", _SINK, doc="Where each event is posted to."),
        Field("build", "build", Raw(), doc="Has no effect."),
        Field("logLevel", "log_level", _TEXT, doc="Kept; the runtime has one log for all.", default="1"),
    ),
)


_REFERRED: Final = {
    "Function": re.compile(r"core\.openfunction\.io/v1beta[12]"),
    "Service": re.compile(r"v1|serving\.knative\.dev/v1"),
}
_VERSIONS: Final = {
    "Function": "core.openfunction.io/v1beta2 or core.openfunction.io/v1beta1",
    "Service": "v1 or serving.knative.dev/v1",
}


def _sink(path: str, sink: model.Sink | None) -> Iterator[Problem]:
    if sink is None:
        return
    if not sink.uri and sink.ref is None:
        yield Problem(path, "needs uri or ref")
    elif sink.uri and not _URI.fullmatch(sink.uri):
        yield Problem(f"{path}.uri", f"must be an http:// or https:// address, found {describe(sink.uri)}")
    elif not sink.uri and sink.ref is not None and sink.ref.kind:
        ref = sink.ref
        if ref.kind not in _REFERRED:
            yield Problem(f"{path}.ref.kind", f"must be Function or Service, found {describe(ref.kind)}")
        elif ref.api_version and not _REFERRED[ref.kind].fullmatch(ref.api_version):
            yield Problem(
                f"{path}.ref.apiVersion",
                f"must be {_VERSIONS[ref.kind]} for a {ref.kind}, found {describe(ref.api_version)}",
            )


def _topic(path: str, topic: str) -> Iterator[Problem]:
    """Refuse what no bus can publish on, and the subjects of the platform itself."""
    if topic and (not _TOPIC.fullmatch(topic) or topic.startswith(("$", "pelton."))):
        yield Problem(
            path,
            "must be a topic: words separated by dots, without blanks, * and >, not under pelton.; found "
            f"{describe(topic)}",
        )


_OUTSIDE_LOGS: Final = ("path", "httpListen", "forwardListen")


def _source_rules(source: model.EventSource) -> list[Problem]:
    problems = list(_sink("spec.sink", source.sink))
    for kind, event, settings in source.events():
        if not _EVENT_NAME.fullmatch(event):
            problems.append(
                Problem(
                    f"spec.{kind}",
                    f"an event's name is letters, digits, - and _, as it is part of a topic; found {event!r}",
                )
            )
        if kind == "rabbitmq" and not settings.get("host") and not _names(settings, "host"):
            problems.append(Problem(f"spec.rabbitmq.{event}.host", "required, here or in metadata"))
        if kind == "logs":
            outside = [name for name in _OUTSIDE_LOGS if settings.get(name) or _names(settings, name)]
            inside = [name for name in ("namespace", "function") if settings.get(name)]
            if outside and inside:
                problems.append(
                    Problem(
                        f"spec.logs.{event}.{inside[0]}",
                        f"names functions, {outside[0]} something else: write two events",
                    )
                )
    return problems


def _names(settings: object, setting: str) -> bool:
    items = settings.get("metadata") if isinstance(settings, dict) else None
    return any(
        isinstance(item, dict) and str(item.get("name", "")).lower() == setting.lower()
        for item in (items if isinstance(items, list) else ())
    )


EVENT_SOURCE: TableVerbs[model.EventSource] = TableVerbs(
    API_VERSION, "EventSource", _EVENT_SOURCE_SPEC, rules=_source_rules, required=True
)
"""The verbs of EventSource."""


def source_advice(source: model.EventSource) -> list[Problem]:
    """Return what in an EventSource has no effect, or keeps it from working."""
    advice = []
    if not source.event_bus and source.sink is None:
        advice.append(Problem("spec", "goes nowhere: name an eventBus, a sink or both"))
    if not any(True for _ in source.events()):
        advice.append(Problem("spec", f"has no events: write {', '.join(model.SOURCE_KINDS[:-1])} or logs"))
    if source.build is not None:
        advice.append(Problem("spec.build", "has no effect"))
    advice += _log_level(source.log_level)
    advice += [
        Problem(f"spec.kafka.{event}.scaleOption", f"has no effect on this machine: {_SCALES_NOTHING}")
        for event, settings in source.kafka.items()
        if settings.get("scaleOption")
    ]
    return advice


_SCALES_NOTHING: Final = (
    "it says how many handlers KEDA starts for a lag, and none is started: one reader in the runtime process "
    "takes all partitions and costs nothing while idle, so there is no number to scale; what is read is not "
    "changed either, consumerGroup, topic and authRef are those of the lag"
)


def _log_level(level: str) -> list[Problem]:
    """Say that how much is logged is not set here, where something else than the default is asked for."""
    return [Problem("spec.logLevel", "has no effect: the runtime has one log")] if level != "1" else []


# --------------------------------------------------------------------------------- EventBus, ClusterEventBus

_NATS_STREAMING = Kept(
    (
        _text("natsURL", "Address of a NATS server with JetStream.", required=True),
        _text("natsStreamingClusterID", "Has no meaning for JetStream.", required=True),
        Field(
            "subscriptionType",
            "subscriptionType",
            Text(choices=("topic", "queue")),
            required=True,
            doc="topic or queue; each Trigger gets every event either way.",
        ),
        _text("durableSubscriptionName", "Begins the names of durable consumers.", required=True),
        _text("ackWaitTime", "Time after which an unacknowledged event comes again."),
        _number("maxInFlight", "Most unacknowledged events."),
        _flag("deliverNew", "Begin with new events; the default is the time the Trigger was created."),
        _number("startAtSequence", "Begin with this message."),
        _flag("startWithLastReceived", "Begin with the last message."),
        _flag("deliverAll", "Begin with the first message."),
        _text("startAtTimeDelta", "Begin with what came this long ago."),
        _text("startAtTime", "Begin with what came since this time."),
        _text("startAtTimeFormat", "Go's layout of startAtTime; RFC 3339 is understood."),
        _text("consumerID", "Has no effect: it is made of namespace and Trigger."),
        Field(
            "scaleOption",
            "scaleOption",
            Kept(
                (
                    _text("natsServerMonitoringEndpoint", "Monitoring address.", required=True),
                    _text("lagThreshold", "Lag for one instance.", required=True),
                    *(
                        _text(name, "Of the KEDA trigger.")
                        for name in ("queueGroup", "durableName", "subject")
                    ),
                    *_SCALE,
                )
            ),
            doc="How a handler would scale with the lag.",
        ),
    )
)
_BUS_SPEC = (
    Field("topic", "topic", _TEXT, doc="Has no meaning."),
    Field(
        "natsStreaming",
        "nats_streaming",
        _NATS_STREAMING,
        doc="NATS Streaming, which is gone: mapped to JetStream on that server.",
    ),
    Field(
        "kafka",
        "kafka",
        Kept(
            (
                _text("brokers", "Addresses of Kafka's brokers, separated by commas.", required=True),
                _flag("authRequired", "Whether the brokers ask for SASL credentials."),
                _text("saslUsername", "User name."),
                _text("saslPassword", "Password; better from a Secret, by metadata."),
                _SETTINGS,
            )
        ),
        doc="Kafka as the bus.",
    ),
    Field(
        "jetstream",
        "jetstream",
        Kept((_text("url", "Address; default: the embedded bus."), _SETTINGS)),
        doc="NATS JetStream as the bus.",
    ),
)


def _bus_rules(bus: model.EventBus) -> list[Problem]:
    given = [
        name
        for name, block in (
            ("natsStreaming", bus.nats_streaming),
            ("kafka", bus.kafka),
            ("jetstream", bus.jetstream),
        )
        if block is not None
    ]
    if len(given) > 1:
        return [Problem("spec", f"at most one of natsStreaming, kafka and jetstream, found {len(given)}")]
    return list(_times(bus.nats_streaming or {}))


def _times(block: Mapping[str, Any]) -> Iterator[Problem]:
    """Check what is a time or a duration, so that no Trigger stumbles over it later."""
    given = {name: value for name, value in block.items() if value and isinstance(value, str)}
    for name in [name for name in ("ackWaitTime", "startAtTimeDelta") if name in given]:
        try:
            parse_duration(given[name])
        except ValueError as error:
            yield Problem(f"spec.natsStreaming.{name}", str(error))
    try:
        datetime.fromisoformat(given.get("startAtTime", "2026-01-02"))
    except ValueError:
        yield Problem(
            "spec.natsStreaming.startAtTime",
            "must be a time such as 2026-01-02T03:04:05Z, whatever startAtTimeFormat says; found "
            f"{describe(given['startAtTime'])}",
        )


EVENT_BUS: TableVerbs[model.EventBus] = TableVerbs(
    API_VERSION, "EventBus", Record(model.EventBus, _BUS_SPEC), rules=_bus_rules
)
"""The verbs of EventBus."""
CLUSTER_EVENT_BUS: TableVerbs[model.EventBus] = TableVerbs(
    API_VERSION, "ClusterEventBus", Record(model.EventBus, _BUS_SPEC), rules=_bus_rules
)
"""The verbs of ClusterEventBus."""


def bus_advice(bus: model.EventBus) -> list[Problem]:
    """Return what in an EventBus or ClusterEventBus has no effect."""
    advice = [Problem("spec.topic", "has no effect: topics are made of namespace, EventSource and event")]
    advice = advice if bus.topic else []
    block = bus.nats_streaming
    if block is None:
        return advice
    advice.append(
        Problem(
            "spec.natsStreaming", "NATS Streaming has reached its end: JetStream on the same server is used"
        )
    )
    if block.get("scaleOption"):
        advice.append(
            Problem(
                "spec.natsStreaming.scaleOption",
                "has no effect on this machine: it says how many handlers KEDA starts for a lag, and none is "
                "started: Triggers run in the runtime process, so there is no number to scale",
            )
        )
    return advice


# ---------------------------------------------------------------------------------------------------- Trigger

_TRIGGER_SPEC = Record(
    model.Trigger,
    (
        Field("eventBus", "event_bus", _NAMED, required=True, doc="EventBus that is listened to."),
        Field(
            "inputs",
            "inputs",
            Mapped(
                Record(
                    model.Input,
                    (
                        Field(
                            "namespace", "namespace", _TEXT, doc="Of the EventSource; default: the own one."
                        ),
                        Field("eventSource", "event_source", _NAMED, required=True, doc="EventSource."),
                        Field("event", "event", _NAMED, required=True, doc="Its event."),
                    ),
                )
            ),
            required=True,
            doc="Name in conditions -> event.",
        ),
        Field(
            "subscribers",
            "subscribers",
            Items(
                Record(
                    model.Subscriber,
                    (
                        Field(
                            "condition",
                            "condition",
                            _NAMED,
                            required=True,
                            doc="CEL over the inputs' names, e.g. `orders && !stock`.",
                        ),
                        Field("sink", "sink", _SINK, doc="Where the event is posted to."),
                        Field(
                            "deadLetterSink",
                            "dead_letter_sink",
                            _SINK,
                            doc="Where it is posted to when it cannot be delivered.",
                        ),
                        Field("topic", "topic", _TEXT, doc="Topic of the bus that it is published on."),
                        Field(
                            "deadLetterTopic",
                            "dead_letter_topic",
                            _TEXT,
                            doc="Topic that it is published on when it cannot be delivered.",
                        ),
                    ),
                )
            ),
            required=True,
            doc="Who gets the event when a condition holds; each is served by itself.",
        ),
        Field(
            "window",
            "window_s",
            Duration(minimum_s=1),
            doc="How long an input stays true after its last event.",
            default="1m0s",
        ),
        Field("logLevel", "log_level", _TEXT, doc="Kept; the runtime has one log for all.", default="1"),
    ),
)


def _trigger_rules(trigger: model.Trigger) -> list[Problem]:
    return list(_trigger(trigger))


def _trigger(trigger: model.Trigger) -> Iterator[Problem]:
    if not trigger.inputs:
        yield Problem("spec.inputs", "must have at least one entry")
    names = []
    for name in trigger.inputs:
        if not _IDENTIFIER.fullmatch(name) or name in _NO_IDENTIFIERS:
            yield Problem(
                "spec.inputs",
                f"{name!r} cannot stand in a condition: use letters, digits and _, beginning with a letter, "
                "and no word of the language",
            )
        else:
            names.append(name)
    for name, one in trigger.inputs.items():
        if one.event and not _EVENT_NAME.fullmatch(one.event):
            yield Problem(f"spec.inputs.{name}.event", f"is no event's name: {describe(one.event)}")
    if not trigger.subscribers:
        yield Problem("spec.subscribers", "must have at least one entry")
    for index, subscriber in enumerate(trigger.subscribers):
        path = f"spec.subscribers[{index}]"
        if subscriber.condition:
            yield from _condition(f"{path}.condition", subscriber.condition, names)
        yield from _sink(f"{path}.sink", subscriber.sink)
        yield from _sink(f"{path}.deadLetterSink", subscriber.dead_letter_sink)
        if subscriber.sink is None and not subscriber.topic:
            yield Problem(path, "needs sink or topic")
        yield from _topic(f"{path}.topic", subscriber.topic)
        yield from _topic(f"{path}.deadLetterTopic", subscriber.dead_letter_topic)
        if subscriber.topic and subscriber.topic == subscriber.dead_letter_topic:
            yield Problem(f"{path}.deadLetterTopic", "must not be the topic that cannot be reached")


def _condition(path: str, condition: str, names: Iterable[str]) -> Iterator[Problem]:
    try:
        compile_cel(condition, dict.fromkeys(names, BOOL), result=BOOL)
    except CelCompileError as error:
        fault = (
            error.message.partition("\n")[0]
            .removeprefix("ERROR: <input>:")
            .removesuffix(" (in container '')")
        )
        known = f"inputs, each true or false: {', '.join(names) or 'none'}"
        yield Problem(path, f"is no condition over the inputs: {fault}; {known}")


TRIGGER: TableVerbs[model.Trigger] = TableVerbs(
    API_VERSION, "Trigger", _TRIGGER_SPEC, rules=_trigger_rules, required=True
)
"""The verbs of Trigger."""


def trigger_advice(trigger: model.Trigger) -> list[Problem]:
    """Return what in a Trigger has no effect, or has one that is hardly meant."""
    used: set[str] = set()
    for subscriber in trigger.subscribers:
        try:
            used |= compile_cel(subscriber.condition, dict.fromkeys(trigger.inputs, BOOL)).uses
        except CelCompileError:
            return []  # a rule says so
    advice = _log_level(trigger.log_level)
    advice += [
        Problem(
            f"spec.inputs.{name}", "stands in no condition; its events still have all conditions looked at"
        )
        for name in trigger.inputs
        if name not in used
    ]
    for index, subscriber in enumerate(trigger.subscribers):
        for field, topic in (("topic", subscriber.topic), ("deadLetterTopic", subscriber.dead_letter_topic)):
            advice += [
                Problem(
                    f"spec.subscribers[{index}].{field}",
                    f"is the topic of the input {name}: what is published there comes back to this Trigger",
                )
                for name, one in trigger.inputs.items()
                if _is_of(topic, one, trigger.namespace)
            ]
    return advice


def _is_of(topic: str, one: model.Input, namespace: str) -> bool:
    """Tell whether a topic is an input's; in a file, nothing may say yet in which namespace that is."""
    namespace = one.namespace or namespace
    own = model.topic_of(namespace, one.event_source, one.event)
    return topic == own if namespace else topic.endswith(own)
