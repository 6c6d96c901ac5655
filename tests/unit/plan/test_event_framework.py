"""What EventSources and Triggers become: components, consumers, topics, destinations."""

import pytest

from pelton.manifest.openfunction_events import EVENT_BUS, EVENT_SOURCE, TRIGGER
from pelton.model.event_framework import Reference
from pelton.plan.aliases import Aliases
from pelton.plan.event_framework import (
    MAX_ATTEMPTS,
    plan_source,
    plan_trigger,
    rivals,
    secrets_of,
    sinks_of,
)
from pelton.plan.event_world import Address, World

CREATED = 1_700_000_000.0
NOTHING = World()
STAN = {
    "natsURL": "nats://nats.default:4222",
    "natsStreamingClusterID": "stan",
    "subscriptionType": "queue",
    "durableSubscriptionName": "ImDurable",
}


def decoded(verbs, kind, spec, name, **metadata):
    obj = {
        "apiVersion": verbs.api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop", **metadata},
        "spec": spec,
    }
    return verbs.decode(verbs.default(obj))[0]


def source(name="src", annotations=None, **spec):
    return decoded(EVENT_SOURCE, "EventSource", spec, name, annotations=annotations or {})


def trigger(**spec):
    spec = {"eventBus": "default", "inputs": {"a": {"eventSource": "src", "event": "a"}}, **spec}
    return decoded(TRIGGER, "Trigger", spec, "t")


def bus(**spec):
    return decoded(EVENT_BUS, "EventBus", spec, "default")


def relays(made, world=NOTHING):
    found, fault = plan_source(made, world, created=CREATED)
    assert fault is None, fault
    return found


def planned(made, world=NOTHING):
    found, fault = plan_trigger(made, world, uid="u", created=CREATED)
    assert fault is None, fault
    return found


@pytest.mark.parametrize(
    ("kind", "settings", "type_", "topic", "metadata"),
    [
        (
            "kafka",
            {"brokers": "k:9092", "topic": "orders", "authRequired": False, "maxMessageBytes": 7},
            "bindings.kafka",
            "",
            {
                "brokers": "k:9092",
                "authRequired": "false",
                "maxMessageBytes": "7",
                "topics": "orders",
                "publishTopic": "orders",
                "consumerGroup": "shop-esc-kafka-e",
            },
        ),
        ("cron", {"schedule": "@every 2s"}, "bindings.cron", "", {"schedule": "@every 2s"}),
        (
            "mqtt",
            {"url": "tcp://m:1883", "topic": "t/#", "qos": 2, "cleanSession": False},
            "bindings.mqtt3",
            "",
            {
                "url": "tcp://m:1883",
                "topic": "t/#",
                "qos": "2",
                "cleanSession": "false",
                "consumerID": "shop-esc-mqtt-e",
            },
        ),
        (
            "mqtt",
            {"url": "tcp://m:1883", "topic": "t", "consumerID": "mine"},
            "bindings.mqtt3",
            "",
            {"url": "tcp://m:1883", "topic": "t", "consumerID": "mine", "cleanSession": "false"},
        ),
        (
            "redis",
            {"redisHost": "r:6379", "redisPassword": "", "enableTLS": True, "redisDB": 3},
            "pubsub.redis",
            "e",
            {
                "redisHost": "r:6379",
                "redisPassword": "",
                "enableTLS": "true",
                "redisDB": "3",
                "consumerID": "shop-esc-redis-e",
            },
        ),
        ("nats", {"subject": "s.t"}, "pubsub.jetstream", "s.t", {}),
        (
            "nats",
            {"url": "nats://n:4222", "subject": "s", "streamName": "S"},
            "pubsub.jetstream",
            "s",
            {"natsURL": "nats://n:4222", "streamName": "S"},
        ),
        (
            "rabbitmq",
            {"host": "amqp://r", "queueName": "q", "durable": True},
            "bindings.rabbitmq",
            "",
            {"host": "amqp://r", "queueName": "q", "durable": "true"},
        ),
        (
            "logs",
            {},
            "pubsub.jetstream",
            "logs.shop.>",
            {"deliverPolicy": "time", "startTime": "1700000000"},
        ),
        (
            "logs",
            {"namespace": "web", "function": "f"},
            "pubsub.jetstream",
            "logs.web.f",
            {"deliverPolicy": "time", "startTime": "1700000000"},
        ),
        (
            "logs",
            {"path": "/var/log/containers/*.log", "multiline": "java", "readFromHead": True},
            "bindings.logs",
            "",
            {"path": "/var/log/containers/*.log", "multiline": "java", "readFromHead": "true"},
        ),
        (
            "logs",
            {"metadata": [{"name": "forwardListen", "value": "127.0.0.1:24224"}]},
            "bindings.logs",
            "",
            {"forwardListen": "127.0.0.1:24224"},
        ),
    ],
)
def test_source_becomes_the_component_of_its_kind(kind, settings, type_, topic, metadata):
    (relay,) = relays(source(eventBus="default", **{kind: {"e": settings}}))

    component = relay.subscription.component
    assert (component.type, relay.subscription.topic, component.metadata) == (type_, topic, metadata)
    assert component.name == f"src.esc-{kind}-e"


def test_bus_comes_first_and_the_sink_is_a_destination_of_its_own():
    (relay,) = relays(
        source(eventBus="default", sink={"uri": "http://s/x"}, cron={"e": {"schedule": "@hourly"}})
    )

    assert [each.title for each in relay.destinations] == ["topic shop-src-e", "sink http://s/x"]
    assert relay.destinations[0].topic == "shop-src-e"
    assert relay.destinations[1].component.metadata == {"url": "http://s/x"}
    assert len({relay.subscription.id, *(each.subscription.id for each in relay.destinations)}) == 3


def test_events_of_one_name_and_two_kinds_have_queues_of_their_own():
    made = source(eventBus="default", cron={"e": {"schedule": "@hourly"}}, nats={"e": {"subject": "s"}})

    ids = [one.subscription.id for relay in relays(made) for one in (relay, *relay.destinations)]

    assert len(set(ids)) == 4


def test_metadata_add_to_a_source_and_take_values_from_secrets():
    made = source(
        eventBus="default",
        kafka={
            "e": {
                "brokers": "k",
                "authRequired": True,
                "metadata": [
                    {"name": "saslPassword", "secretKeyRef": {"name": "kafka", "key": "password"}},
                    {"name": "initialOffset", "value": "oldest"},
                ],
            }
        },
    )
    world = World(secrets={("shop", "kafka", "password"): "s3cret"})

    (relay,) = relays(made, world)

    assert secrets_of(made, world) == {("shop", "kafka")}
    assert relay.subscription.component.metadata["saslPassword"] == "s3cret"
    assert relay.subscription.component.metadata["initialOffset"] == "oldest"


@pytest.mark.parametrize(
    ("kind", "one", "other", "clash"),
    [
        ("kafka", {"brokers": "k", "topic": "t"}, {"brokers": "k", "topic": "t"}, True),
        ("kafka", {"brokers": "k", "topic": "t"}, {"brokers": "k", "topic": "u"}, False),
        ("kafka", {"brokers": "k", "topic": "t"}, {"brokers": "l", "topic": "t"}, False),
        (
            "kafka",
            {"brokers": "k", "topic": "t"},
            {"brokers": "k", "topic": "t", "metadata": [{"name": "consumerGroup", "value": "mine"}]},
            False,
        ),
        ("mqtt", {"url": "m", "topic": "t"}, {"url": "m", "topic": "u"}, True),
        ("redis", {"redisHost": "r", "redisPassword": ""}, {"redisHost": "r", "redisPassword": ""}, True),
        ("cron", {"schedule": "@hourly"}, {"schedule": "@hourly"}, False),
        ("nats", {"subject": "s"}, {"subject": "s"}, False),
    ],
)
def test_sources_that_would_share_a_consumer_are_told(kind, one, other, clash):
    """Upstream's names of consumers do not hold the EventSource's."""
    if kind == "kafka":
        one, other = ({**each, "authRequired": False} for each in (one, other))
    made = [
        *relays(source("first", eventBus="default", **{kind: {"e": one}})),
        *relays(source("second", eventBus="default", **{kind: {"e": other}})),
    ]

    found = rivals(made)

    assert list(found) == (["shop/second"] if clash else [])
    assert all("as EventSource shop/first does" in fault.message for fault in found.values())
    assert rivals(made[:1] * 2) == {}


def test_events_of_one_source_that_would_share_a_consumer_are_told():
    mqtt = {"url": "tcp://m", "consumerID": "c"}
    made = relays(source(eventBus="default", mqtt={"a": {**mqtt, "topic": "a"}, "b": {**mqtt, "topic": "b"}}))

    assert "spec.mqtt.b consumes as c, as its event a does" in rivals(made)["shop/src"].message


def test_group_that_metadata_name_in_any_case_is_the_one_that_counts():
    def kafka(**metadata):
        items = [{"name": name, "value": value} for name, value in metadata.items()]
        return {"e": {"brokers": "k:9092", "authRequired": False, "metadata": items}}

    made = [
        *relays(source("first", eventBus="default", kafka=kafka())),
        *relays(source("second", eventBus="default", kafka=kafka(consumergroup="own"))),
    ]

    assert rivals(made) == {}


def test_http_event_waits_in_a_queue_and_asks_for_its_token():
    made = source(eventBus="default", http={"e": {"tokenSecret": {"name": "hook", "key": "token"}}})

    (relay,) = relays(made, World(secrets={("shop", "hook", "token"): "t"}))

    assert relay.subscription.queued
    assert relay.webhook is not None
    assert (relay.webhook.path, relay.webhook.token) == ("/events/shop/src/e", "t")


@pytest.mark.parametrize(
    ("made", "reason", "words"),
    [
        (source(cron={"e": {"schedule": "@hourly"}}), "ErrorConfiguration", "eventBus"),
        (
            source(eventBus="none", cron={"e": {"schedule": "@hourly"}}),
            "ErrorToFindExistEventBus",
            "no EventBus shop/none",
        ),
        (
            source(
                sink={"ref": {"apiVersion": "core.openfunction.io/v1beta2", "kind": "Function", "name": "f"}},
                cron={"e": {"schedule": "@hourly"}},
            ),
            "ErrorCreatingEventSource",
            "Function shop/f",
        ),
        (
            source(eventBus="default", http={"e": {"tokenSecret": {"name": "hook", "key": "token"}}}),
            "ErrorGenerateComponent",
            'key "token" in Secret shop/hook',
        ),
        (
            source(
                annotations={"pelton.dev/max-attempts": "0"},
                eventBus="default",
                cron={"e": {"schedule": "@hourly"}},
            ),
            "ErrorConfiguration",
            "max-attempts",
        ),
    ],
)
def test_what_is_in_the_way_of_a_source_has_upstreams_reason(made, reason, words):
    found, fault = plan_source(made, World(), created=CREATED)

    assert found == ()
    assert fault is not None
    assert fault.reason == reason
    assert words in fault.message


@pytest.mark.parametrize(
    "version", ["core.openfunction.io/v1beta1", "core.openfunction.io/v1beta2"], ids=["v1beta1", "v1beta2"]
)
def test_sink_by_reference_is_a_function_of_any_served_version(version):
    """Upstream takes v1beta1 only, and its controller ends over a reference without uri."""
    made = source(
        sink={"ref": {"apiVersion": version, "kind": "Function", "name": "f"}},
        cron={"e": {"schedule": "@hourly"}},
    )
    ref = Reference(api_version=version, kind="Function", name="f", namespace="shop")
    world = World(addresses={ref: Address(url="http://127.0.0.1:1/shop/f/", host="f")})

    (relay,) = relays(made, world)

    assert sinks_of(made) == {ref}
    (destination,) = relay.destinations
    assert destination.component.metadata == {"url": "http://127.0.0.1:1/shop/f/"}
    assert destination.metadata == {"Host": "f"}
    assert destination.title == "sink Function shop/f"


def test_credentials_in_a_sinks_address_are_not_shown():
    (relay,) = relays(
        source(
            sink={"uri": "https://user:pass@chat.test/hook?key=secret"}, cron={"e": {"schedule": "@hourly"}}
        )
    )

    assert relay.destinations[0].title == "sink https://chat.test/hook"
    assert "pass" not in relay.destinations[0].subscription.id


def test_uri_of_a_function_inside_a_cluster_is_the_function():
    ref = Reference(api_version="core.openfunction.io/v1beta2", kind="Function", name="f", namespace="web")
    world = World(addresses={ref: Address(url="http://127.0.0.1:1/web/f/")})

    def url(uri, known=world):
        (relay,) = relays(source(sink={"uri": uri}, cron={"e": {"schedule": "@hourly"}}), known)
        return relay.destinations[0].component.metadata["url"]

    for host in ("f.web", "f.web.svc", "f.web.svc.cluster.local", "f.web.svc.cluster.local:80"):
        assert url(f"http://{host}/in?x=1") == "http://127.0.0.1:1/web/f/in?x=1"
    for other in ("http://f.web:8000/in", "https://f.web.svc/in", "http://g.web.svc/in", "http://f/in"):
        assert url(other) == other
    assert url("http://f.web.svc/in", NOTHING) == "http://f.web.svc/in"


def test_aliases_stand_in_every_component():
    world = World(
        buses={("shop", "default"): bus(natsStreaming=STAN)},
        aliases=Aliases(
            {"kafka": "127.0.0.1:19092", "nats.default:4222": "127.0.0.1:14222", "hook": "127.0.0.1:1"}
        ),
    )
    made = source(
        eventBus="default",
        sink={"uri": "http://hook/x"},
        kafka={"e": {"brokers": "kafka.team.svc.cluster.local:9092", "authRequired": False}},
    )

    (relay,) = relays(made, world)

    assert relay.subscription.component.metadata["brokers"] == "127.0.0.1:19092"
    assert [
        next(value for key, value in each.component.metadata.items() if key.lower().endswith("url"))
        for each in relay.destinations
    ] == ["nats://127.0.0.1:14222", "http://127.0.0.1:1/x"]


def test_uri_wins_over_ref():
    made = source(
        sink={"uri": "http://s", "ref": {"apiVersion": "v1", "kind": "Service", "name": "gone"}},
        cron={"e": {"schedule": "@hourly"}},
    )

    assert sinks_of(made) == frozenset()
    assert relays(made)[0].destinations[0].component.metadata == {"url": "http://s"}


@pytest.mark.parametrize(
    ("spec", "type_", "metadata", "since"),
    [
        (None, "pubsub.jetstream", {"deliverPolicy": "time", "startTime": "1700000000"}, CREATED),
        ({}, "pubsub.jetstream", {"deliverPolicy": "time", "startTime": "1700000000"}, CREATED),
        (
            {"jetstream": {"url": "nats://n:4222"}},
            "pubsub.jetstream",
            {
                "natsURL": "nats://n:4222",
                "createStreams": "true",
                "deliverPolicy": "time",
                "startTime": "1700000000",
            },
            CREATED,
        ),
        (
            {"kafka": {"brokers": "k:9092"}},
            "pubsub.kafka",
            {"brokers": "k:9092", "authRequired": "false", "initialOffset": "oldest"},
            CREATED,
        ),
        (
            {"kafka": {"brokers": "k", "metadata": [{"name": "initialOffset", "value": "newest"}]}},
            "pubsub.kafka",
            {"brokers": "k", "authRequired": "false", "initialOffset": "newest"},
            0.0,
        ),
    ],
)
def test_bus_is_the_embedded_one_unless_it_is_named(spec, type_, metadata, since):
    world = World(buses={} if spec is None else {("shop", "default"): bus(**spec)})

    found = planned(trigger(subscribers=[{"condition": "a", "topic": "out"}]), world)

    component = found.inputs[0].subscription.component
    assert (component.type, component.metadata) == (type_, {**metadata, "consumerID": "shop-ebft-t"})
    assert found.since == since


@pytest.mark.parametrize(
    ("block", "metadata", "since"),
    [
        ({}, {"deliverPolicy": "time", "startTime": "1700000000"}, CREATED),
        ({"deliverAll": True}, {"deliverPolicy": "all"}, 0.0),
        ({"deliverNew": True}, {"deliverPolicy": "new"}, 0.0),
        ({"startWithLastReceived": True}, {"deliverPolicy": "last"}, 0.0),
        ({"startAtSequence": 7}, {"deliverPolicy": "sequence", "startSequence": "7"}, 0.0),
        ({"startAtTimeDelta": "5m"}, {"deliverPolicy": "time", "startTime": "1699999700"}, 0.0),
        (
            {"startAtTime": "2023-11-14T22:13:19Z"},
            {"deliverPolicy": "time", "startTime": "1699999999"},
            0.0,
        ),
        (
            {"ackWaitTime": "40s", "maxInFlight": 9},
            {
                "ackWait": "40s",
                "maxAckPending": "9",
                "deliverPolicy": "time",
                "startTime": "1700000000",
            },
            CREATED,
        ),
    ],
)
def test_nats_streaming_is_mapped_to_jetstream(block, metadata, since):
    world = World(buses={("shop", "default"): bus(natsStreaming={**STAN, **block})})

    found = planned(trigger(subscribers=[{"condition": "a", "topic": "out"}]), world)

    subscription = found.inputs[0].subscription
    assert subscription.component.metadata == {
        "natsURL": "nats://nats.default:4222",
        "createStreams": "true",
        "consumerID": "shop-ebft-t",
        **metadata,
    }
    assert subscription.id == "shop.Trigger/t.ImDurable.shop-src-a"
    assert found.since == since


def test_bus_of_the_cluster_is_found_behind_that_of_the_namespace():
    cluster = {("", "shared"): bus(kafka={"brokers": "cluster:1"})}
    made = source(eventBus="shared", cron={"e": {"schedule": "@hourly"}})

    far = relays(made, World(buses=cluster))
    near = relays(made, World(buses={**cluster, ("shop", "shared"): bus(kafka={"brokers": "near:1"})}))

    assert far[0].destinations[0].component.metadata["brokers"] == "cluster:1"
    assert near[0].destinations[0].component.metadata["brokers"] == "near:1"


def test_each_subscriber_has_queues_of_its_own():
    """Upstream keys them by condition and gives all sinks one component: the last address wins."""
    found = planned(
        trigger(
            subscribers=[
                {"condition": "a", "sink": {"uri": "http://one"}, "topic": "out"},
                {"condition": "a", "sink": {"uri": "http://two"}},
                {"condition": "a", "sink": {"uri": "http://two"}},
                {"condition": "!a", "topic": "out"},
            ]
        )
    )

    places = list(found.destinations())
    assert [each.title for each in places] == [
        "sink http://one",
        "topic out",
        "sink http://two",
        "sink http://two",
        "topic out",
    ]
    assert len({each.subscription.id for each in places}) == 5
    assert {each.subscription.max_attempts for each in places} == {MAX_ATTEMPTS}


def test_queue_of_a_subscriber_stays_its_own_behind_new_neighbours():
    old = {"condition": "a", "sink": {"uri": "http://one"}}

    before = planned(trigger(subscribers=[old]))
    after = planned(trigger(subscribers=[{"condition": "!a", "topic": "new"}, old]))

    assert before.subscribers[0] == after.subscribers[1]


def test_dead_letters_go_where_the_subscriber_says():
    """Upstream makes them of the sink itself, and never uses them."""
    found = planned(
        trigger(
            subscribers=[
                {
                    "condition": "a",
                    "sink": {"uri": "http://one"},
                    "topic": "out",
                    "deadLetterSink": {"uri": "http://dead"},
                    "deadLetterTopic": "dead",
                }
            ]
        )
    )

    (subscriber,) = found.subscribers
    dead = tuple(each.subscription.id for each in subscriber.dead_letters)
    assert [each.title for each in subscriber.dead_letters] == ["sink http://dead", "topic dead"]
    assert [each.subscription.dead_letters for each in subscriber.destinations] == [dead, dead]
    assert [each.subscription.dead_letters for each in subscriber.dead_letters] == [(), ()]


def test_inputs_of_one_event_share_a_consumer():
    found = planned(
        trigger(
            inputs={
                "a": {"eventSource": "src", "event": "x"},
                "b": {"eventSource": "src", "event": "x", "namespace": "shop"},
                "c": {"eventSource": "src", "event": "x", "namespace": "other"},
            },
            subscribers=[{"condition": "a && b && c", "topic": "out"}],
        )
    )

    assert [(each.names, each.subscription.topic) for each in found.inputs] == [
        (("a", "b"), "shop-src-x"),
        (("c",), "other-src-x"),
    ]


def test_sink_that_cannot_be_reached_is_in_the_way_of_a_trigger():
    ref = {"apiVersion": "v1", "kind": "Service", "name": "gone"}

    _, fault = plan_trigger(
        trigger(subscribers=[{"condition": "a", "sink": {"ref": ref}}]), World(), uid="u", created=CREATED
    )

    assert fault is not None
    assert fault.reason == "ErrorToFindTriggerSubscribers"
    assert "spec.subscribers[0].sink.ref: Service shop/gone" in fault.message


@pytest.mark.parametrize("block", [{"startAtTime": "yesterday"}, {"startAtTimeDelta": "long"}])
def test_bus_that_begins_at_no_time_is_in_the_way(block):
    world = World(buses={("shop", "default"): bus(natsStreaming={**STAN, **block})})

    _, fault = plan_trigger(
        trigger(subscribers=[{"condition": "a", "topic": "out"}]), world, uid="u", created=CREATED
    )

    assert fault is not None
    assert fault.reason == "ErrorGenerateComponent"
