"""The component types that are served, and the metadata of each: what a user may write, in one table.

Pure data. `scripts/docs` writes the reference page from it; `kinds.py` and `openfunction_advice.py` beside it
warn of keys that their type does not know. What a key means is the driver's business; none is refused here. A
test compares the table with the drivers' sources. Over 600 lines: one table.
Source: `dapr-components` contract, sections 2 to 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pelton.manifest.fields import Problem, nearest
from pelton.model.component import ComponentResource, ComponentSpec, MetadataItem
from pelton.model.settings import TRUE

__all__ = [
    "CATEGORIES",
    "TYPES",
    "ComponentType",
    "Setting",
    "component_advice",
    "metadata_advice",
    "unknown_version",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One metadata key.

    Attributes:
        name: As documented; any case is taken.
        does: What it means, in half a sentence.
        default: What counts without it; "" for nothing.
        required: Whether the driver refuses to go without it.
    """

    name: str
    does: str
    default: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentType:
    """A type, or several that are one.

    Attributes:
        names: Its names; the first is shown.
        does: What it is for, in a sentence.
        roles: `input`, `output`, or what the category says.
        settings: Its metadata in the order of the page.
        extra: Extra of the installation that brings its client library; "" for none.
        open: Whether any key may be written.
        request: Metadata of a request or subscription, key -> meaning.
        versions: What `spec.version` may say; "" and `v0` mean the first.
    """

    names: tuple[str, ...]
    does: str
    roles: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    extra: str = ""
    open: bool = False
    request: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[str, ...] = ("v1",)


def _settings(text: str) -> tuple[Setting, ...]:
    """Read lines of `name = default | meaning`; `name!` is required."""
    found = []
    for line in text.strip().splitlines():
        head, _, does = line.strip().partition(" | ")
        name, _, default = head.partition(" = ")
        found.append(
            Setting(
                name=name.strip().removesuffix("!"),
                does=does.strip(),
                default=default.strip(),
                required=name.strip().endswith("!"),
            )
        )
    return tuple(found)


_FLAG: Final = ("true", "false")
_FALSE: Final = frozenset({"false", "0", "f", "n", "no", "off"})
_NONE: Final = "no effect"
"""How the meaning of a key begins that is Dapr's and means nothing here."""

_CERTIFICATES: Final = _settings("""
caCert | who signed the server's certificate: PEM text or a file
clientCert | our certificate: PEM text or a file
clientKey | its key: PEM text or a file
""")
_REDIS: Final = _settings("""
redisHost! | `host:port`
redisPort = 6379 | port, where redisHost has none
redisUsername | user
redisPassword | password
redisDB = 0 | database
enableTLS = false | speak TLS
insecureSkipTLSVerify = false | do not look at the server's certificate
redisMaxRetries = 3 | repetitions of a command
redisMinRetryInterval = 8ms | shortest pause between them; a plain number here and below is milliseconds
redisMaxRetryInterval = 512ms | longest pause
dialTimeout = 5s | time to connect
readTimeout = 3s | time for an answer, to write as to read
writeTimeout | no effect: readTimeout counts for both
poolSize = 64 | most connections
poolTimeout | no effect: a connection too many is an error at once
minIdleConns | no effect: connections are made when they are needed
maxConnAge | no effect: connections are kept
idleTimeout | no effect: connections are kept
idleCheckFrequency | no effect: connections are kept
redisType = node | nothing but `node` is served
failover = false | Sentinel is refused
sentinelMasterName | no effect: Sentinel is refused
sentinelUsername | no effect: Sentinel is refused
sentinelPassword | no effect: Sentinel is refused
useEntraID = false | refused
useAzureAD = false | refused
useOIDC = false | refused
""")
_REDIS_TLS: Final = _REDIS + _CERTIFICATES
_POSTGRES: Final = _settings("""
connectionString! | `postgresql://user:password@host/db`, or `key=value` words, or the single keys below
host | server
hostaddr | its address
port = 5432 | port
database | database
user | user
password | password
sslRootCert | who signed the server's certificate: PEM text or a file
timeout = 20s | time of one use
maxConns = 10 | most connections
connectionMaxIdleTime = 5m | after it an idle connection is closed
""")
_KAFKA: Final = _settings("""
brokers! | `host:port`, with commas
authType | `none`, `password`, `mtls`, `certificate` or `oidc`
authRequired | older than authType: `true` means `password`
saslUsername | user
saslPassword | password
saslMechanism = PLAINTEXT | `PLAINTEXT`, `SHA-256` or `SHA-512`
oidcTokenEndpoint | where tokens come from
oidcClientID | client
oidcClientSecret | its secret
oidcScopes = openid | scopes, with commas
oidcExtensions | further fields, JSON
disableTls = false | plain text although there is a login
skipVerify = false | do not look at the server's certificate
consumerGroup | group
consumerID | group, where consumerGroup is absent; also the client's id
clientID | client's id
initialOffset = newest | where a new group begins: `newest` or `oldest`
topics | topics of an input, with commas
publishTopic | topic of an output
maxMessageBytes = 1000000 | largest record that is published
producerRequiredAcks = all | `all`, `leader` or `none`
producerRetryMax = 5 | repetitions unless acks are `all`
compression = none | `none`, `gzip`, `snappy`, `lz4` or `zstd`
heartbeatInterval = 3s | of the group
sessionTimeout = 10s | of the group
consumerGroupRebalanceStrategy = range | `range`, `roundrobin` or `sticky`
consumerFetchMin = 1 | bytes that a fetch waits for
consumerFetchDefault = 1048576 | bytes of a fetch
channelBufferSize = 256 | no effect: what is fetched ahead is bounded by the subscription
dialTimeout = 30s | time to connect
readTimeout = 30s | no effect: requests have limits of their own
writeTimeout = 30s | no effect: requests have limits of their own
metadataTimeout = 0 | no effect: requests have limits of their own
clientConnectionTopicMetadataRefreshInterval = 10s | age of what is known of topics
clientConnectionKeepAliveInterval = 0 | over 0: TCP keepalive
consumeRetryEnabled | no effect: retries are the subscription's
consumeRetryInterval | no effect: retries are the subscription's
escapeHeaders = false | percent-encode the key and headers of what is read
excludeHeaderMetaRegex | names of metadata that become no headers, and of headers that become no metadata
version | no effect: it is negotiated
schemaRegistryURL | no effect: values pass as they are
schemaRegistryAPIKey | no effect: values pass as they are
schemaRegistryAPISecret | no effect: values pass as they are
schemaCachingEnabled | no effect: values pass as they are
schemaLatestVersionCacheTTL | no effect: values pass as they are
useAvroJSON | no effect: values pass as they are
awsRegion | no effect: `awsiam` is refused
""")
_RABBIT: Final = _settings("""
clientName | name of the connection
heartBeat = 10s | of the connection
saslExternal = false | log in by the client certificate
prefetchCount | messages under way; twice those in flight
""")
_MQTT: Final = _settings("""
url! | `tcp://`, `mqtt://`, `ssl://` or `mqtts://`, user and password within
consumerID | client id; the subscription's where it is absent. `{uuid}` stays the same after a restart
qos = 1 | quality of what is published; subscriptions ask for 1 at most
retain = false | the broker keeps the last message
cleanSession | forget what comes while nobody is connected; false for topics, true for bindings
skipTLSVerify = false | do not look at the server's certificate
backOffMaxRetries | no effect: retries are the subscription's
backOffInterval | no effect: retries are the subscription's
backOffPolicy | no effect: retries are the subscription's
""")
_JETSTREAM: Final = _settings("""
natsURL | `nats://host:port`, several with commas; the platform's own bus where it is absent
name = pelton | name of the connection
token | token
jwt | user's token, with seedKey
seedKey | user's seed, `SU...`
tls_client_cert | our certificate: PEM text or a file
tls_client_key | its key: PEM text or a file
domain | JetStream domain
apiPrefix = $JS.API | prefix of its API
streamName | stream, where several store the subject
durableName | consumer; the subscription's where it is absent
queueGroupName | as durableName
deliverPolicy = all | `all`, `last`, `new`, `sequence` or `time`
startSequence | for `sequence`
startTime | for `time`, epoch seconds
ackWait = 30s | time until the broker repeats, 15 s at least
maxAckPending | messages under way; those in flight
replicas = 1 | of streams that are made
memoryStorage = false | of streams that are made
concurrency | `single`: one event at a time; otherwise as many as the subscription takes
flowControl | no effect: events are pulled
heartbeat | no effect: events are pulled
rateLimit | no effect: events are pulled as workers take them
maxDeliver | no effect: attempts are counted by Pelton
backOff | no effect: retries are timed by Pelton
ackPolicy | no effect: every event is acknowledged by itself
""")

CATEGORIES: Final[Mapping[str, tuple[Setting, ...]]] = {
    "pubsub": _settings("""
consumerID | name of the consumer; the app's or the subscription's where it is absent
allowedTopics | topics that apps may use, with commas
publishingScopes | `app=topic,topic;app=...`: who may publish what
subscriptionScopes | who may subscribe to what
protectedTopics | topics that need such a grant
"""),
    "bindings": _settings("""
direction | `input`, `output` or both, with a comma
route | path at a Dapr app
"""),
    "state": _settings("""
keyPrefix = appid | what keys of Dapr apps begin with: `appid`, `name`, `namespace`, `none` or any text
actorStateStore | no effect: there are no actors
primaryEncryptionKey | refused: values are not encrypted
secondaryEncryptionKey | no effect: values are not encrypted
outboxPublishPubsub | refused: changes are not published
outboxPublishTopic | no effect: changes are not published
outboxPubsub | no effect: changes are not published
outboxDiscardWhenMissingState | no effect: changes are not published
"""),
    "configuration": (),
    "lock": _settings("""
keyPrefix = appid | what names of Dapr apps' locks begin with
"""),
    "secretstores": (),
}
"""Category -> metadata that every type of it takes."""

TYPES: Final[tuple[ComponentType, ...]] = (
    ComponentType(
        names=("pubsub.jetstream",),
        does="Topics on NATS JetStream, the platform's own or another server.",
        settings=_JETSTREAM,
    ),
    ComponentType(
        names=("pubsub.kafka",),
        does="Topics on Kafka, in order within a partition.",
        settings=_KAFKA + _CERTIFICATES,
        extra="kafka",
        request={
            "partitionKey": "key of the record, also `__key`",
            "partitionNumber": "partition",
        },
    ),
    ComponentType(
        names=("pubsub.redis",),
        does="Streams in Redis.",
        settings=_REDIS_TLS
        + _settings("""
concurrency | events under way at most; those in flight
processingTimeout = 15s | after it what another consumer holds is taken over
redeliverInterval = 60s | how often that is looked for
queueDepth = 100 | entries of one read
maxLenApprox | entries that a stream keeps
streamTTL | age that its entries reach
"""),
        extra="redis",
    ),
    ComponentType(
        names=("pubsub.rabbitmq",),
        does="An exchange per topic, a queue per subscription.",
        settings=_settings("""
connectionString | `amqp://` or `amqps://` URL; the single keys below will do as well
protocol = amqp | `amqp` or `amqps`
hostname = localhost | server, with or without a port
username = guest | user
password = guest | password
durable = false | queues and messages outlive the broker
deletedWhenUnused = true | queues go with their last subscriber
enableDeadLetter = false | what is given up goes to `dlq-<queue>`
exchangeKind = fanout | `fanout`, `topic`, `direct` or `headers`
deliveryMode | 2 for persistent messages; those of durable queues are
maxLen | messages of a queue
maxLenBytes | bytes of a queue
ttlInSeconds | life of a message
queueName | queue, in place of `<consumerID>-<topic>`
autoAck | no effect: an event is acknowledged when its outputs are accepted
requeueInFailure | no effect: retries are Pelton's
reconnectWaitSeconds | no effect: a lost connection is made again at once, then every second
concurrency = parallel | `single`: one event at a time
publisherConfirm | no effect: every message is confirmed
publishMessagePropertiesToMetadata | no effect: headers come always, other properties never
""")
        + _RABBIT
        + _CERTIFICATES,
        extra="rabbitmq",
        request={
            "routingKey": "of a message; of a subscription, with commas",
            "priority": "of a message",
            "ttlInSeconds": "life of a message, also `ttl`",
            "queueName": "of a subscription: its queue",
            "queueType": "of a subscription: `classic` or `quorum`",
            "maxPriority": "of a subscription's queue",
            "singleActiveConsumer": "of a subscription's queue",
        },
    ),
    ComponentType(
        names=("pubsub.mqtt3", "pubsub.mqtt"),
        does="Topics of an MQTT 3.1.1 broker, with `+`, `#` and `$share/`.",
        settings=_MQTT + _CERTIFICATES,
        extra="mqtt",
        request={"retain": "of a message", "qos": "of a message"},
    ),
    ComponentType(names=("pubsub.in-memory",), does="Topics within the runtime process."),
    ComponentType(
        names=("bindings.kafka",),
        does="Records of topics; a topic to write to.",
        roles=("input", "output"),
        settings=_KAFKA + _CERTIFICATES,
        extra="kafka",
        request={"partitionKey": "key of the record"},
    ),
    ComponentType(
        names=("bindings.cron",),
        does="A schedule.",
        roles=("input",),
        settings=_settings("""
schedule! | `@every 10s`, `@hourly`, five fields, or six with seconds first; `TZ=Europe/Berlin` before fields
"""),
    ),
    ComponentType(
        names=("bindings.logs",),
        does="Log files of this machine, and what log shippers send.",
        roles=("input",),
        settings=_settings("""
path | patterns of absolute paths, with commas; `**` goes through directories
exclude | patterns of paths or names that are left out
format = auto | `cri`, `docker`, `text`, or `auto` line by line
multiline | `python`, `java`, `go`: traces that are one record
multilineStart | regular expression (RE2) of the first line of a record
multilineFlush = 1s | after it a record without a further line is whole
readFromHead = false | read files that are there at the very first start from their beginning
maxLineBytes = 262144 | longest record; the rest is cut
httpListen | `host:port` for Fluent Bit's `http` output
httpUser | user of its requests
httpPassword | password of its requests
httpTagHeader | header that names the tag
dateKey = date | key that holds a record's time
forwardListen | `host:port` for the `forward` protocol
sharedKey | key that its clients know
forwardUser | user of its clients
forwardPassword | their password
selfHostname = pelton | our name in its handshake
"""),
    ),
    ComponentType(
        names=("bindings.http",),
        does="Requests to an address.",
        roles=("output",),
        settings=_settings("""
url! | address; `path` of a request is appended
responseTimeout = 30s | time for an answer
maxResponseBodySize = 100Mi | largest answer
errorIfNot2XX = true | whether other answers are failures
securityToken | value of a header of every request
securityTokenHeader | its name
MTLSRootCA | who signed the server's certificate: PEM text or a file
MTLSClientCert | our certificate: PEM text or a file
MTLSClientKey | its key: PEM text or a file
MTLSRenegotiation | no effect: TLS 1.3 knows none
"""),
        request={
            "path": "appended to the address",
            "errorIfNot2XX": "in place of the component's",
            "X-...": "keys that begin with a capital letter become headers",
        },
    ),
    ComponentType(
        names=("bindings.rabbitmq",),
        does="One queue.",
        roles=("input", "output"),
        settings=_settings("""
host! | `amqp://` or `amqps://` URL
queueName! | queue
durable = false | queue and messages outlive the broker
deleteWhenUnused = false | the queue goes with its last consumer
exclusive = false | the queue is this connection's
ttlInSeconds | life of a message
maxPriority | of the queue
contentType | of messages
reconnectWaitInSeconds | no effect: a lost connection is made again at once, then every second
""")
        + _RABBIT
        + _CERTIFICATES,
        extra="rabbitmq",
        request={
            "ttlInSeconds": "life of the message",
            "priority": "of the message",
            "contentType": "of the message",
            "correlationID": "of the message",
            "messageID": "of the message",
        },
    ),
    ComponentType(
        names=("bindings.mqtt3", "bindings.mqtt"),
        does="One topic.",
        roles=("input", "output"),
        settings=_settings("topic! | topic; an input's may have wildcards") + _MQTT + _CERTIFICATES,
        extra="mqtt",
        request={"topic": "in place of the component's", "retain": "of the message", "qos": "of the message"},
    ),
    ComponentType(
        names=("bindings.redis",),
        does="Values by key: create, get, delete, increment.",
        roles=("output",),
        settings=_REDIS_TLS,
        extra="redis",
        request={
            "key": "required",
            "ttlInSeconds": "life of a value",
            "delete": "with get: take the value away",
        },
    ),
    ComponentType(
        names=("bindings.postgresql", "bindings.postgres"),
        does="Statements: exec, query, close.",
        roles=("output",),
        settings=_POSTGRES + _settings("queryExecMode | no effect: statements are prepared"),
        extra="postgresql",
        request={"sql": "required", "params": "JSON array of its parameters"},
    ),
    ComponentType(
        names=("bindings.smtp",),
        does="Mails.",
        roles=("output",),
        settings=_settings("""
host! | mail server
port! | its port; 465 speaks TLS from the start
user | user, with password
password | password
skipTLSVerify = false | do not look at the server's certificate
emailFrom | sender
emailTo | recipients, with `;`
emailCC | further ones
emailBCC | hidden ones
subject | subject
priority = 3 | 1 to 5
"""),
        request={"emailTo, subject, ...": "in place of the component's"},
    ),
    ComponentType(
        names=("bindings.localstorage",),
        does="Files below a directory: create, get, list, delete.",
        roles=("output",),
        settings=_settings("rootPath! | the directory"),
        request={"fileName": "relative to it; a random one for create where it is absent"},
    ),
    ComponentType(
        names=("state.sqlite",),
        does="A table in a SQLite file.",
        settings=_settings("""
connectionString! | path, `file:` URI or `:memory:`
timeout = 20s | time of one use
busyTimeout = 2s | time to wait for a lock
disableWAL = false | no write-ahead log
tableName = state | table
metadataTableName = metadata | table of our notes
cleanupInterval = 0 | how often what has expired is removed; 0 never
"""),
    ),
    ComponentType(
        names=("state.redis",),
        does="A hash per key in Redis.",
        settings=_REDIS_TLS
        + _settings("""
ttlInSeconds | life of values that bring none
queryIndexes | no effect: queries look at every key
"""),
        extra="redis",
    ),
    ComponentType(
        names=("state.postgresql", "state.postgres"),
        versions=("v1", "v2"),
        does="A table in PostgreSQL; `version: v2` has another layout.",
        settings=_POSTGRES
        + _settings("""
tableName = state | table of v1
tablePrefix | what tables of v2 begin with
metadataTableName = dapr_metadata | table of our notes
cleanupInterval = 1h | how often what has expired is removed
queryExecMode | no effect: statements are prepared
"""),
        extra="postgresql",
    ),
    ComponentType(names=("state.in-memory",), does="Values within the runtime process."),
    ComponentType(
        names=("lock.redis",),
        does="Locks in Redis.",
        settings=_REDIS_TLS,
        extra="redis",
    ),
    ComponentType(names=("lock.in-memory",), does="Locks within the runtime process; Pelton's own."),
    ComponentType(
        names=("configuration.redis",),
        does="Strings `value||version` in Redis, with notifications.",
        settings=_REDIS_TLS,
        extra="redis",
    ),
    ComponentType(
        names=("configuration.postgresql", "configuration.postgres"),
        does="Rows of a table in PostgreSQL, with a trigger's notifications.",
        settings=_POSTGRES
        + _settings("""
table! | table with the columns key, value, version, metadata
notifyChannel | channel that its trigger notifies
"""),
        extra="postgresql",
        request={"pgNotifyChannel": "of a subscription, in place of notifyChannel"},
    ),
    ComponentType(
        names=("configuration.in-memory",),
        does="The component's metadata themselves, `value` or `value||version`; Pelton's own.",
        open=True,
    ),
    ComponentType(
        names=("secretstores.local.file",),
        does="A JSON file.",
        settings=_settings("""
secretsFile! | path
nestedSeparator = : | joins the names of nested objects
multiValued = false | the first level are secrets with several keys
"""),
    ),
    ComponentType(
        names=("secretstores.local.env",),
        does="Environment variables of the runtime, but for `APP_API_TOKEN` and `DAPR_*`.",
        settings=_settings("prefix | what their names begin with; callers leave it out"),
    ),
    ComponentType(
        names=("secretstores.kubernetes",),
        does="Secrets of the API server.",
        settings=_settings("""
kubeconfigPath | kubeconfig; else the pod's service account, `KUBECONFIG`, or the platform's own
defaultNamespace | namespace of requests that name none
"""),
        request={"namespace": "in place of defaultNamespace"},
    ),
)
"""All types, in the order of the page."""

_BY_NAME: Final[Mapping[str, ComponentType]] = {name: kind for kind in TYPES for name in kind.names}


def component_advice(component: ComponentResource) -> list[Problem]:
    """Return what in a standalone Component is worth a warning."""
    return list(metadata_advice(component.spec, "spec"))


def unknown_version(type_name: str, version: str) -> str:
    """Return a sentence about a version that a type does not have; "" for one that it has."""
    kind = _BY_NAME.get(type_name)
    if kind is None or version in {"", "v0", *kind.versions}:
        return ""
    return f"{type_name} has no version {version!r}; there is {', '.join(kind.versions)}"


def metadata_advice(spec: ComponentSpec, path: str) -> Iterator[Problem]:
    """Yield a warning for each key without an effect: the type does not know it, or it means nothing here.

    Nothing is said of types that are not known here.

    Args:
        spec: Of a component.
        path: Field path of the spec.
    """
    kind = _BY_NAME.get(spec.type)
    if kind is not None and (other := unknown_version(spec.type, spec.version)):
        yield Problem(f"{path}.version", other)
    if kind is None or kind.open:
        return
    known = {each.name.lower(): each for each in _all(kind, spec.category)}
    for index, item in enumerate(spec.metadata):
        setting = known.get(item.name.lower())
        if setting is not None and setting.does.startswith(_NONE):
            yield Problem(f"{path}.metadata[{index}]", f'"{item.name}" of {spec.type} has {setting.does}')
        elif setting is not None and setting.default in _FLAG and not _is_flag(item):
            yield Problem(
                f"{path}.metadata[{index}]", f'"{item.name}" is neither true nor false, and counts as false'
            )
        elif setting is None:
            meant = nearest(item.name, [each.name for each in known.values()])
            yield Problem(
                f"{path}.metadata[{index}]",
                f'"{item.name}" is not known to {spec.type} and has no effect'
                + (f'; did you mean "{meant}"?' if meant else ""),
            )


def _is_flag(item: MetadataItem) -> bool:
    """Tell whether a value is a boolean, or not written here."""
    text = item.text.strip().lower()
    return item.value is None or not text or text in TRUE or text in _FALSE


def _all(kind: ComponentType, category: str) -> Sequence[Setting]:
    return (*kind.settings, *CATEGORIES.get(category, ()))
