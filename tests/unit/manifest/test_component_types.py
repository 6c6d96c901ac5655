import re
from pathlib import Path

import pytest

import pelton
from pelton.cli import tables
from pelton.manifest.component_types import CATEGORIES, TYPES, metadata_advice
from pelton.model.component import ComponentSpec, MetadataItem

TABLES = (
    tables.DRIVERS,
    tables.BUSES,
    tables.STATES,
    tables.LOCKS,
    tables.CONFIGURATIONS,
    tables.SECRET_STORES,
)
READ = re.compile(r'settings\.(?:text|flag|number|seconds|required)\(\s*"(\w+)"')
WRITTEN = re.compile(r'"([A-Za-z0-9_]+)"')


def sources(name):
    """Return the texts of the modules that serve a type."""
    found = []
    for table in TABLES:
        if name in table:
            path = Path(pelton.__file__).parent / table[name].partition(":")[0].removeprefix(
                "pelton."
            ).replace(".", "/")
            found += sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return "\n".join(path.read_text() for path in found)


def names(kind):
    return {each.name.lower() for each in kind.settings}


def test_every_type_is_in_the_table_and_no_other():
    served = {name for table in TABLES for name in table}

    assert {name for kind in TYPES for name in kind.names} == served
    assert {kind.names[0].partition(".")[0] for kind in TYPES} == set(CATEGORIES)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.names[0])
def test_what_is_documented_is_read_by_the_driver(kind):
    """But for what the page itself says to be without effect."""
    text = sources(kind.names[0]).lower()
    written = {found.lower() for found in WRITTEN.findall(text)}

    missing = {
        each.name
        for each in kind.settings
        if "no effect" not in each.does and each.name.lower() not in written
    }
    assert missing == set()


def test_what_drivers_read_is_documented():
    documented = {name for kind in TYPES for name in names(kind)}
    documented |= {each.name.lower() for common in CATEGORIES.values() for each in common}
    read = {found.lower() for kind in TYPES for found in READ.findall(sources(kind.names[0]))}

    assert read - documented == set()


def spec(kind, *keys):
    return ComponentSpec(type=kind, metadata=tuple(MetadataItem(name=key, value="x") for key in keys))


def test_unknown_key_is_pointed_out_with_the_one_that_was_meant():
    (problem,) = metadata_advice(spec("pubsub.redis", "RedisHost", "redisPasword", "allowedTopics"), "spec")

    assert problem.path == "spec.metadata[1]"
    assert 'did you mean "redisPassword"?' in problem.message


@pytest.mark.parametrize("kind", ["pubsub.pulsar", "configuration.in-memory"])
def test_nothing_is_said_of_types_that_take_any_key_or_are_not_known(kind):
    assert list(metadata_advice(spec(kind, "anything"), "spec")) == []


def test_known_key_without_an_effect_is_pointed_out_with_the_reason():
    (problem,) = metadata_advice(spec("pubsub.kafka", "brokers", "ConsumeRetryEnabled"), "spec")

    assert problem.path == "spec.metadata[1]"
    assert problem.message == (
        '"ConsumeRetryEnabled" of pubsub.kafka has no effect: retries are the subscription\'s'
    )


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.names[0])
def test_what_has_no_effect_says_why(kind):
    settings = (*kind.settings, *CATEGORIES[kind.names[0].partition(".")[0]])

    assert [each.name for each in settings if each.does == "no effect"] == []


REDIS = (
    "redisHost redisPort redisUsername redisPassword consumerID enableTLS insecureSkipTLSVerify clientCert "
    "clientKey redeliverInterval processingTimeout queueDepth concurrency redisType redisDB redisMaxRetries "
    "redisMinRetryInterval redisMaxRetryInterval dialTimeout readTimeout writeTimeout poolSize poolTimeout "
    "maxConnAge minIdleConns idleCheckFrequency idleTimeout failover sentinelMasterName sentinelUsername "
    "sentinelPassword maxLenApprox streamTTL useEntraID"
)
JETSTREAM = (
    "natsURL name token jwt seedKey tls_client_cert tls_client_key streamName durableName queueGroupName "
    "startSequence startTime flowControl ackWait maxDeliver backOff maxAckPending replicas memoryStorage "
    "rateLimit heartbeat deliverPolicy ackPolicy domain apiPrefix concurrency"
)
RABBITMQ = (
    "connectionString protocol hostname username password durable enableDeadLetter deletedWhenUnused autoAck "
    "requeueInFailure deliveryMode prefetchCount reconnectWaitSeconds maxLen maxLenBytes exchangeKind "
    "publisherConfirm concurrency ttlInSeconds clientName heartBeat saslExternal caCert clientCert clientKey "
    "publishMessagePropertiesToMetadata"
)
STATE = "actorStateStore keyPrefix primaryEncryptionKey secondaryEncryptionKey outboxPublishPubsub"


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("pubsub.redis", REDIS),
        ("state.redis", f"redisHost writeTimeout ttlInSeconds queryIndexes {STATE}"),
        ("pubsub.jetstream", JETSTREAM),
        ("pubsub.rabbitmq", RABBITMQ),
        ("state.sqlite", f"connectionString {STATE} outboxPublishTopic outboxPubsub"),
    ],
)
def test_dapr_keys_are_known_each_with_its_meaning(kind, keys):
    """Source: contracts, Dapr components, sections 2 and 3."""
    unknown = [each for each in metadata_advice(spec(kind, *keys.split()), "spec") if "known" in each.message]

    assert unknown == []


@pytest.mark.parametrize(
    ("kind", "version", "said"),
    [
        ("state.redis", "v1", ""),
        ("state.redis", "", ""),
        ("state.postgresql", "v2", ""),
        ("state.redis", "v2", "state.redis has no version 'v2'; there is v1"),
        ("state.pulsar", "v9", ""),
    ],
)
def test_unknown_version_is_pointed_out(kind, version, said):
    advice = metadata_advice(ComponentSpec(type=kind, version=version), "spec")

    assert [each.message for each in advice] == ([said] if said else [])


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (
            MetadataItem(name="enableTLS", value="ture"),
            '"enableTLS" is neither true nor false, and counts as false',
        ),
        (MetadataItem(name="enableTLS", value="On"), ""),
        (MetadataItem(name="enableTLS", value=False), ""),
        (MetadataItem(name="enableTLS", env_ref="TLS"), ""),
        (MetadataItem(name="redisHost", value="ture"), ""),
    ],
)
def test_flag_that_is_none_is_pointed_out(item, said):
    advice = metadata_advice(ComponentSpec(type="state.redis", metadata=(item,)), "spec")

    assert [each.message for each in advice] == ([said] if said else [])
