"""Publishing: the envelope's gaps, traces, bulks that fail in part, policies, topics of a namespace."""

import asyncio
import json
from datetime import UTC, datetime

import pytest

from pelton.compat.dapr.apps import App
from pelton.compat.dapr.components import Components
from pelton.compat.dapr.faults import Fault
from pelton.compat.dapr.guard import Guard
from pelton.compat.dapr.ports import Drivers
from pelton.compat.dapr.publishing import BulkEntry, Publishing, Trace
from pelton.compat.dapr.resiliency import Calls
from pelton.errors import DeliveryError
from pelton.model.component import ComponentResource, ComponentSpec, MetadataItem
from pelton.model.resiliency import ComponentTarget, Resiliency, ResiliencyTarget, RetryPolicy
from pelton.testing.clock import FakeClock

A = App(app_id="a", namespace="shop")
PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


class Bus:
    def __init__(self):
        self.messages = []
        self.refused = 0
        self.closed = False

    async def publish(self, message):
        if self.refused:
            self.refused -= 1
            raise DeliveryError("the broker is away")
        self.messages.append(message)

    async def close(self):
        self.closed = True

    def event(self):
        return json.loads(self.messages[-1].data)


class Hop:
    context = f"00-{'a' * 32}-{'c' * 16}-01"

    def __init__(self):
        self.errors = []

    def end(self, error="", **_tags):
        self.errors.append(error)


class Traces:
    def __init__(self):
        self.hops = []

    def begin(self, traceparent, *, name, kind, tags):
        assert (traceparent, name, kind) == (PARENT, "publish t", "producer")
        self.hops.append(Hop())
        return self.hops[-1]


def pubsub(**settings):
    items = tuple(MetadataItem(name=key, value=value) for key, value in settings.items())
    return ComponentResource(name="bus", spec=ComponentSpec(type="pubsub.redis", metadata=items))


@pytest.fixture
def bus():
    return Bus()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def components(bus):
    async def opened(_component):
        return bus

    made = Components(Drivers(open={"pubsub": opened}, types={"pubsub": ["pubsub.redis"]}))
    made.sync([pubsub()])
    yield made
    await made.close()


@pytest.fixture
def publishing(components, clock):
    return Publishing(components, Guard(), clock)


async def test_event_without_a_trace_gets_one_that_asks_for_none(publishing, bus):
    await publishing.publish(A, "bus", "t", b"x")

    event = bus.event()
    assert event["traceparent"].endswith("-00")
    assert event["traceid"] == event["traceparent"]


@pytest.mark.parametrize(
    ("kind", "distinct"), [("pubsub.redis", 2), ("pubsub.in-memory", 2), ("pubsub.jetstream", 1)]
)
async def test_only_jetstream_takes_equal_ids_of_events_for_one_event(bus, clock, kind, distinct):
    async def opened(_component):
        return bus

    components = Components(Drivers(open={"pubsub": opened}, types={"pubsub": [kind]}))
    components.sync([ComponentResource(name="bus", spec=ComponentSpec(type=kind))])
    publishing = Publishing(components, Guard(), clock)

    for _ in range(2):
        await publishing.publish(A, "bus", "t", b"x", metadata={"cloudevent.id": "1"})
    await components.close()

    assert len({message.id for message in bus.messages}) == distinct
    assert bus.event()["id"] == "1"


@pytest.mark.parametrize(
    ("content_type", "member"),
    [("", "data"), ("application/json", "data"), ("application/octet-stream", "data_base64")],
)
async def test_empty_payload_is_one(publishing, bus, content_type, member):
    await publishing.publish(A, "bus", "t", b"", content_type=content_type)

    assert bus.event()[member] == ""


async def test_ready_event_without_data_stays_without(publishing, bus):
    await publishing.publish(A, "bus", "t", b"{}", content_type="application/cloudevents+json")

    assert not {"data", "data_base64"} & bus.event().keys()


async def test_traced_publish_is_a_hop_and_its_event_names_it_as_parent(components, clock, bus):
    traces = Traces()
    publishing = Publishing(components, Guard(), clock, traces)

    await publishing.publish(A, "bus", "t", b"x", trace=Trace(parent=PARENT, state="s=1"))
    bus.refused = 1
    with pytest.raises(Fault):
        await publishing.publish(A, "bus", "t", b"x", trace=Trace(parent=PARENT))

    assert bus.event()["traceparent"] == Hop.context
    assert bus.event()["tracestate"] == "s=1"
    assert [hop.errors for hop in traces.hops] == [
        [""],
        ["error when publishing to topic t in pubsub bus: the broker is away"],
    ]


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1m", 60), ("1h30m", 5400)])
async def test_time_to_live_becomes_an_expiration(publishing, bus, clock, text, seconds):
    await publishing.publish(A, "bus", "t", b"x", metadata={"ttlInSeconds": text})

    expires = datetime.fromisoformat(bus.event()["expiration"]).astimezone(UTC)
    assert round((expires - clock.now()).total_seconds()) in {seconds - 1, seconds}


@pytest.mark.parametrize("text", ["0", "-5", "soon"])
async def test_time_to_live_that_is_none_is_refused(publishing, text):
    with pytest.raises(Fault) as refused:
        await publishing.publish(A, "bus", "t", b"x", metadata={"ttlInSeconds": text})

    assert refused.value.reason == "DAPR_PUBSUB_METADATA_DESERIALIZATION"


async def test_bulk_names_the_entries_that_failed(publishing, bus):
    bus.refused = 1

    failed = await publishing.publish_bulk(
        A, "bus", "t", [BulkEntry(entry_id="1", data=b"x"), BulkEntry(entry_id="2", data=b"y")]
    )

    assert list(failed) == ["1"]
    assert bus.event()["data"] == "y"


async def test_metadata_of_an_entry_go_before_those_of_the_bulk(publishing, bus):
    entry = BulkEntry(entry_id="1", data=b"x", metadata={"cloudevent.type": "own"})

    await publishing.publish_bulk(A, "bus", "t", [entry], metadata={"cloudevent.type": "all", "key": "k"})

    assert bus.event()["type"] == "own"
    assert bus.messages[-1].metadata["key"] == "k"


async def test_topic_of_a_component_with_the_namespace_in_it_carries_the_namespace(
    publishing, components, bus
):
    components.sync([pubsub(consumerID="{namespace}")])

    await publishing.publish(A, "bus", "orders", b"x")

    assert bus.messages[-1].topic == "shoporders"
    assert bus.event()["topic"] == "orders"


async def test_policy_repeats_a_publish_that_failed(components, clock, bus):
    guard = Guard(Calls(clock, lambda: 0.5))
    guard.set_policies(
        [
            Resiliency(
                name="r",
                retries={"twice": RetryPolicy(duration_s=1.0, max_retries=2)},
                components={"bus": ComponentTarget(outbound=ResiliencyTarget(retry="twice"))},
            )
        ]
    )
    publishing = Publishing(components, guard, clock)
    bus.refused = 2
    task = asyncio.create_task(publishing.publish(A, "bus", "t", b"x"))

    await clock.advance(2.0)
    await task

    assert len(bus.messages) == 1


async def test_changed_component_is_found_by_the_next_publish(publishing, components, bus):
    await publishing.publish(A, "bus", "t", b"x")

    components.sync([])

    with pytest.raises(Fault) as refused:
        await publishing.publish(A, "bus", "t", b"x")
    assert refused.value.reason == "DAPR_PUBSUB_NOT_CONFIGURED"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"metadata": {"rawPayload": "perhaps"}},
            "failed deserializing metadata. Error: "
            "rawPayload value must be a valid boolean: actual is 'perhaps'",
        ),
        ({"content_type": "application/cloudevents+json"}, "cannot create cloudevent"),
    ],
)
async def test_refused_publish_says_the_sentence_that_clients_compare(publishing, arguments, message):
    with pytest.raises(Fault) as refused:
        await publishing.publish(A, "bus", "t", b'{"', **arguments)

    assert refused.value.message == message
    assert refused.value.metadata["error"]


async def test_bulk_with_an_entry_twice_says_the_sentence_that_clients_compare(publishing):
    twice = [BulkEntry(entry_id="1", data=b"x")] * 2

    with pytest.raises(Fault) as refused:
        await publishing.publish_bulk(A, "bus", "t", twice)

    assert refused.value.message == (
        "error marshaling events to bytes for topic t pubsub bus. "
        "error: entryId is duplicated or not present for entry"
    )
