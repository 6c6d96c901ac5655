import asyncio
import itertools
import json
from dataclasses import replace

import pytest

from pelton.dataplane.outputs import Outputs
from pelton.drivers.memory import MemoryBus
from pelton.errors import DeliveryError
from pelton.model.desired import Component, Desired, OutputBinding, Scaling, Workload
from pelton.model.invocation import Delivered, Output
from pelton.testing.clock import FakeClock

HTTP = Component(namespace="ns", name="hook", type="bindings.http", metadata={"url": "http://x"})
BUS = Component(namespace="ns", name="bus", type="pubsub.jetstream")
TO_HTTP = OutputBinding(name="notify", component=HTTP, operation="post", metadata={"path": "/a"})
TO_TOPIC = OutputBinding(name="orders", component=BUS, topic="orders.new")


class Binding:
    def __init__(self, component):
        self.component = component
        self.calls = []
        self.closed = False
        self.answer = Delivered(ok=True, data=b"done")
        self.failure = None

    async def invoke(self, operation, data, metadata):
        self.calls.append((operation, data, dict(metadata)))
        if self.failure is not None:
            raise self.failure
        return self.answer

    async def close(self):
        self.closed = True


@pytest.fixture
async def bus():
    async with MemoryBus() as bus:
        yield bus


@pytest.fixture
def made():
    return []


@pytest.fixture
async def outputs(bus, made):
    def binding_of(component):
        made.append(Binding(component))
        return made[-1]

    async def bus_of(_component):
        return bus

    numbers = itertools.count(1)
    outputs = Outputs(
        binding_of=binding_of, bus_of=bus_of, clock=FakeClock(), new_id=lambda: f"id-{next(numbers)}"
    )
    outputs.apply(desired(TO_HTTP, TO_TOPIC))
    yield outputs
    await outputs.close()


def desired(*bindings):
    workload = Workload(namespace="ns", name="fn", revision="fn-1", bundle="/")
    return Desired(workload=workload, scaling=Scaling(), outputs=bindings)


async def test_binding_gets_operation_data_and_merged_metadata(outputs, made):
    delivered = await outputs.send(
        "ns", "fn", Output(name="notify", data=b"{}", metadata={"path": "/b", "X": "y"})
    )

    assert delivered == Delivered(ok=True, data=b"done")
    assert made[0].calls == [("post", b"{}", {"path": "/b", "X": "y"})]


async def test_content_type_other_than_json_becomes_a_header(outputs, made):
    await outputs.send(
        "ns", "fn", Output(name="notify", data=b"a", content_type="text/plain", operation="put")
    )

    assert made[0].calls == [("put", b"a", {"path": "/a", "Content-Type": "text/plain"})]


async def test_topic_gets_an_envelope_whose_id_is_the_message_id(outputs, bus):
    delivered = await outputs.send("ns", "fn", Output(name="orders", data=b'{"n": 1}'))

    (message,) = bus.messages("orders.new")
    assert delivered == Delivered(ok=True, metadata={"id": "id-1"})
    assert message.id == "id-1"
    assert json.loads(message.data) == {
        "specversion": "1.0",
        "id": "id-1",
        "source": "ns/fn",
        "type": "com.dapr.event.sent",
        "datacontenttype": "application/json",
        "time": "2026-01-02T03:04:05Z",
        "topic": "orders.new",
        "pubsubname": "bus",
        "data": {"n": 1},
    }


async def test_raw_payload_is_published_as_it_is(outputs, bus):
    await outputs.send("ns", "fn", Output(name="orders", data=b"\xff", metadata={"rawPayload": "true"}))

    (message,) = bus.messages("orders.new")
    assert message.data == b"\xff"
    assert message.headers == {"Content-Type": "application/json"}


async def test_lone_output_is_found_by_any_name(outputs, bus):
    outputs.apply(desired(TO_TOPIC))

    assert (await outputs.send("ns", "fn", Output(name="whatever", data=b"1"))).ok
    assert len(bus.messages("orders.new")) == 1


@pytest.mark.parametrize(("function", "known"), [("fn", "notify, orders"), ("other", "none")])
async def test_unknown_output_lists_the_known_ones(outputs, function, known):
    delivered = await outputs.send("ns", function, Output(name="nope", data=b""))

    assert not delivered.ok
    assert f"no output is named 'nope'; there are: {known}" in delivered.error


async def test_unreached_destination_is_told_not_raised(outputs, made):
    await outputs.send("ns", "fn", Output(name="notify", data=b""))
    made[0].failure = DeliveryError("connection refused")

    delivered = await outputs.send("ns", "fn", Output(name="notify", data=b""))
    assert (delivered.ok, "connection refused" in delivered.error) == (False, True)


async def test_binding_is_made_once_and_anew_when_its_component_changes(outputs, made):
    for _ in range(2):
        await outputs.send("ns", "fn", Output(name="notify", data=b""))
    assert len(made) == 1
    changed = Component(namespace="ns", name="hook", type="bindings.http", metadata={"url": "http://y"})
    outputs.apply(desired(OutputBinding(name="notify", component=changed)))
    await outputs.send("ns", "fn", Output(name="notify", data=b""))
    await asyncio.sleep(0)

    assert [(binding.component, binding.closed) for binding in made] == [(HTTP, True), (changed, False)]


async def test_remove_closes_what_nobody_uses(outputs, made):
    await outputs.send("ns", "fn", Output(name="notify", data=b""))
    outputs.remove("ns", "fn")
    await asyncio.sleep(0)

    assert made[0].closed


async def test_each_revision_has_its_own_outputs_and_unlisted_ones_the_primarys(outputs, made):
    other = Component(namespace="ns", name="hook", type="bindings.http", metadata={"url": "http://z"})
    old = replace(
        desired(OutputBinding(name="notify", component=other)),
        workload=Workload(namespace="ns", name="fn", revision="fn-0", bundle="/"),
    )
    outputs.apply(replace(desired(TO_HTTP), others=(old,)))
    for revision in ("fn-0", "fn-1", "fn-gone"):
        await outputs.send("ns", "fn", Output(name="notify", data=b""), revision)

    assert [binding.component for binding in made] == [other, HTTP]


def troubles(outputs):
    return {one["destination"]: one["trouble"] for one in outputs.states()}


@pytest.mark.parametrize(
    ("failure", "answer", "trouble"),
    [
        (DeliveryError("not reached"), None, "not reached [PEL-EVENT-001]"),
        (ConnectionError("reset"), None, "reset"),
        (DeliveryError("too large", retriable=False), None, ""),
        (None, Delivered(ok=False, metadata={"statusCode": "503"}, error="503"), "503"),
        (None, Delivered(ok=False, metadata={"statusCode": "404"}, error="404"), ""),
        (None, Delivered(ok=True, metadata={"statusCode": "500"}), ""),
    ],
)
async def test_destination_that_is_not_reached_is_told(outputs, made, failure, answer, trouble):
    await outputs.send("ns", "fn", Output(name="notify", data=b"{}"))
    assert troubles(outputs) == {"hook": "", "orders.new": ""}
    made[0].failure, made[0].answer = failure, answer
    await outputs.send("ns", "fn", Output(name="notify", data=b"{}"))

    assert troubles(outputs) == {"hook": trouble, "orders.new": ""}


async def test_what_no_destination_is_to_blame_for_is_not_told(outputs):
    content_type = "application/cloudevents+json"
    refused = await outputs.send("ns", "fn", Output(name="orders", data=b"{", content_type=content_type))
    unknown = await outputs.send("ns", "fn", Output(name="other", data=b"{}"))

    assert not refused.ok
    assert not unknown.ok
    assert troubles(outputs) == {"hook": "", "orders.new": ""}


async def test_topic_that_does_not_confirm_is_told(bus, made):
    clock, blocked = FakeClock(), asyncio.Event()

    class Slow(MemoryBus):
        async def publish(self, message):
            await blocked.wait()

    async def bus_of(_component):
        return Slow()

    outputs = Outputs(binding_of=Binding, bus_of=bus_of, clock=clock, new_id=lambda: "id")
    outputs.apply(desired(TO_TOPIC))
    sending = asyncio.create_task(outputs.send("ns", "fn", Output(name="orders", data=b"{}")))
    await asyncio.sleep(0)
    await clock.advance(11)
    assert troubles(outputs) == {"orders.new": "not confirmed within 10 s"}
    blocked.set()
    await sending

    assert troubles(outputs) == {"orders.new": ""}
    await outputs.close()
