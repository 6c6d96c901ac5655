"""The RabbitMQ drivers against a real server."""

import asyncio
import uuid
from contextlib import aclosing

import pytest

from pelton.clock import SystemClock
from pelton.drivers.rabbitmq import RabbitMqBinding, RabbitMqBus, RabbitMqQueue
from pelton.errors import ComponentError, DeliveryError
from pelton.model.desired import Component
from pelton.ports import Message
from tests.contract.binding import BindingContract
from tests.contract.bus import BusContract, fill, settled, take, texts
from tests.services.server import free_port

pytestmark = [pytest.mark.connected, pytest.mark.timeout(90)]

KEPT = {"durable": "true", "deletedWhenUnused": "false"}
SECRET = "correct-horse"


def component(kind, **metadata):
    return Component(namespace="shop", name="rabbit", type=kind, metadata=metadata)


class Space:
    """A bus of one test: names of its own, and queues that are there before messages."""

    def __init__(self, open_bus):
        self.open = open_bus
        self._bus, self._tag = open_bus(**KEPT), f"{uuid.uuid4()}-"

    async def publish(self, message):
        topic = self._tag + message.topic
        for consumer in ("ns.fn.in", "one", "two"):
            await self._bus.prepare(topic, consumer=consumer, options={})
        await self._bus.publish(
            Message(topic=topic, data=message.data, headers=message.headers, id=message.id)
        )

    async def subscribe(self, topic, **more):
        async with aclosing(self._bus.subscribe(self._tag + topic, **more)) as batches:
            async for batch in batches:
                yield batch

    async def pending(self, topic, *, consumer):
        return await self._bus.pending(self._tag + topic, consumer=consumer)


@pytest.fixture
async def open_bus(rabbitmq):
    buses = []

    def make(url=rabbitmq.url, **metadata):
        settings = component("pubsub.rabbitmq", connectionString=url, **metadata)
        buses.append(RabbitMqBus(settings, clock=SystemClock()))
        return buses[-1]

    yield make
    for bus in buses:
        await bus.close()


@pytest.fixture
def topic():
    return f"t-{uuid.uuid4()}"


class TestRabbitMqBus(BusContract):
    @pytest.fixture
    def bus(self, open_bus):
        return Space(open_bus)

    async def test_message_keeps_topic_data_and_headers(self, bus):
        bus, topic = bus.open(**KEPT), f"t-{uuid.uuid4()}"
        await bus.prepare(topic, consumer="c", options={})
        headers = {"Content-Type": "x/y", "a": "ä"}
        await bus.publish(Message(topic=topic, data=b"\x00\xff", headers=headers))

        (delivery,) = await take(bus, topic, 1, consumer="c")
        assert delivery.message.topic == topic
        assert delivery.message.data == b"\x00\xff"
        assert dict(delivery.message.headers) == headers

    async def test_publish_with_a_known_id_is_stored_once(self, bus):
        """The broker does not look at ids: both come, each with a key of its own."""
        for _ in range(2):
            await bus.publish(Message(topic="orders", data=b"x", id="one"))

        found = await take(bus, "orders", 2, finish=False)
        assert texts(found) == ["x", "x"]
        assert len({delivery.key for delivery in found}) == 2

    async def test_wildcard_subscription_covers_a_family_of_topics(self, bus):
        """Patterns are those of a topic exchange: of routing keys, within one topic."""
        keys = {"routingKey": "shop.*, bank.#"}
        bus, topic = bus.open(**KEPT, exchangeKind="topic"), f"t-{uuid.uuid4()}"
        await bus.prepare(topic, consumer="c", options=keys)
        for key in ("shop.cart", "else", "bank.pay.now"):
            message = Message(topic=topic, data=key.encode(), metadata={"routingKey": key})
            await bus.publish(message)

        assert texts(await take(bus, topic, 2, consumer="c")) == ["shop.cart", "bank.pay.now"]


async def test_queue_is_named_by_the_app_or_by_the_subscription(open_bus, topic):
    bus = open_bus(**KEPT)
    for options in ({"consumerID": "app"}, {"consumerID": "app", "queueName": f"mine-{topic}"}):
        await bus.prepare(topic, consumer="c", options=options)
    await bus.publish(Message(topic=topic, data=b"x"))

    channel = await bus._link.channel()
    for name in (f"app-{topic}", f"mine-{topic}"):
        queue = await channel.declare_queue(name, passive=True)
        assert queue.declaration_result.message_count == 1
    await channel.close()


async def test_pending_of_a_named_queue_is_found(open_bus, topic):
    bus = open_bus(**KEPT)
    batches = bus.subscribe(topic, consumer="c", max_in_flight=5, options={"consumerID": "app"})
    async with asyncio.timeout(10), aclosing(batches) as iterator:
        first = asyncio.ensure_future(anext(iterator))
        while not bus._holdings:
            await asyncio.sleep(0.01)
        await bus.prepare(topic, consumer="c", options={"consumerID": "app"})
        await bus.publish(Message(topic=topic, data=b"x"))
        (delivery,) = await first
        assert await bus.pending(topic, consumer="c") == 1
        await delivery.ack()


@pytest.mark.parametrize(
    "ttl", [{"ttlInSeconds": "1"}, {"ttl": "1s"}, {"ttlInSeconds": "1000ms"}], ids=lambda value: str(value)
)
async def test_message_ends_after_its_time_to_live(open_bus, topic, ttl):
    bus = open_bus(**KEPT)
    await bus.prepare(topic, consumer="c", options={})
    await bus.publish(Message(topic=topic, data=b"x", metadata=ttl))

    channel = await bus._link.channel()
    queue = await channel.declare_queue(f"c-{topic}", passive=True)
    message = await queue.get(no_ack=True)
    await channel.close()
    assert message.expiration == 1.0


async def test_one_event_at_a_time_where_the_component_says_so(open_bus, topic):
    bus = open_bus(**KEPT, concurrency="single")
    await bus.prepare(topic, consumer="c", options={})
    await fill(bus, topic, 2)
    batches = bus.subscribe(topic, consumer="c", max_in_flight=5, options={})
    async with asyncio.timeout(10), aclosing(batches) as iterator:
        (held,) = await anext(iterator)
        again = asyncio.ensure_future(anext(iterator))
        while await bus.pending(topic, consumer="c") < 2 or again.done():
            await asyncio.sleep(0.01)
        assert not again.done()
        await held.ack()
        assert texts(await again) == ["1"]


@pytest.mark.parametrize("options", [{"queueType": "fast"}, {"maxPriority": "high"}], ids=str)
async def test_options_that_make_no_sense_are_refused(open_bus, topic, options):
    with pytest.raises(ComponentError, match=next(iter(options))):
        await open_bus(**KEPT).prepare(topic, consumer="c", options=options)


async def test_default_queue_goes_with_its_subscriber_and_the_log_says_so(open_bus, topic, caplog):
    bus = open_bus()
    batches = bus.subscribe(topic, consumer="c", max_in_flight=5, options={})
    async with asyncio.timeout(30), aclosing(batches) as iterator:
        first = asyncio.ensure_future(anext(iterator))
        while "events are lost with it" not in caplog.text:
            await asyncio.sleep(0.01)
        await bus.prepare(topic, consumer="c", options={})
        await bus.publish(Message(topic=topic, data=b"x"))
        assert texts(await first) == ["x"]
    await settled(bus, topic, 0, consumer="c")


async def test_refused_message_goes_to_the_dead_letter_queue_when_asked_for(open_bus, topic, rabbitmq):
    bus = open_bus(**KEPT, enableDeadLetter="true")
    await bus.prepare(topic, consumer="c", options={})
    await bus.publish(Message(topic=topic, data=b"bad"))
    async with asyncio.timeout(30):
        async with aclosing(bus.subscribe(topic, consumer="c", max_in_flight=5, options={})) as iterator:
            for delivery in await anext(iterator):
                await delivery.term()
        queue = component("bindings.rabbitmq", host=rabbitmq.url, queueName=f"dlq-c-{topic}", durable="true")
        dead = RabbitMqQueue(queue, clock=SystemClock())
        assert texts(await take(dead, "", 1)) == ["bad"]
        await dead.close()


async def test_deleted_queue_ends_the_subscription_with_an_error(open_bus, topic, rabbitmq):
    bus = open_bus(**KEPT)
    await bus.prepare(topic, consumer="c", options={})
    await bus.publish(Message(topic=topic, data=b"x"))
    async with asyncio.timeout(20):
        with pytest.raises(DeliveryError, match="ended the subscription"):
            async with aclosing(bus.subscribe(topic, consumer="c", max_in_flight=5, options={})) as iterator:
                await anext(iterator)
                channel = await bus._link.channel()
                await channel.queue_delete(f"c-{topic}")
                await channel.close()
                await anext(iterator)
    assert await bus.pending(topic, consumer="c") == 0


async def test_queue_with_other_settings_is_explained(open_bus, topic):
    await open_bus(**KEPT).prepare(topic, consumer="c", options={})

    with pytest.raises(ComponentError, match="other settings"):
        await open_bus().prepare(topic, consumer="c", options={})


async def test_kill_of_the_broker_loses_nothing_and_it_may_be_away_at_the_start(own_server, open_bus):
    server = own_server("rabbitmq")
    bus = open_bus(server.url, **KEPT)
    await bus.prepare("orders", consumer="c", options={})
    await fill(bus, "orders", 3)
    with pytest.raises(DeliveryError):
        async with asyncio.timeout(30):
            batches = bus.subscribe("orders", consumer="c", max_in_flight=5, options={})
            async with aclosing(batches) as iterator:
                await anext(iterator)
                server.kill()
                while True:
                    await anext(iterator)
    late = open_bus(server.url, **KEPT)
    for call in (fill(late, "orders", 1), late.pending("orders", consumer="c"), fill(bus, "orders", 1)):
        with pytest.raises(DeliveryError, match="was not reached"):
            await call

    await asyncio.to_thread(server.start)
    await fill(late, "orders", 1)
    assert texts(await take(bus, "orders", 4, consumer="c")) == ["0", "1", "2", "0"]


async def test_rejected_credentials_are_named_and_never_shown(open_bus, rabbitmq, caplog):
    bus = open_bus(f"amqp://guest:{SECRET}@{rabbitmq.address}/")

    with pytest.raises(ComponentError, match="rejected the credentials") as caught:
        await fill(bus, "orders", 1)
    assert SECRET not in f"{caught.value} {caught.value.hint} {caplog.text}"


@pytest.mark.parametrize(
    "metadata",
    [
        {"connectionString": f"http://a:{SECRET}@b"},
        {"exchangeKind": "round"},
        {"heartBeat": "often"},
        {"concurrency": "some"},
    ],
    ids=lambda value: next(iter(value)),
)
async def test_bad_settings_are_refused_with_their_name(metadata):
    with pytest.raises(ComponentError, match=next(iter(metadata))) as caught:
        RabbitMqBus(component("pubsub.rabbitmq", **metadata), clock=SystemClock())
    assert SECRET not in str(caught.value)


def test_address_is_made_of_its_parts():
    bus = RabbitMqBus(
        component("pubsub.rabbitmq", hostname="mq", username="u", password="p@ss"), clock=SystemClock()
    )
    assert str(bus._link._url).startswith("amqp://u:p%40ss@mq:5672/")


class TestRabbitMqBinding(BindingContract):
    @pytest.fixture
    def settings(self, rabbitmq):
        name = f"q-{uuid.uuid4()}"
        return component("bindings.rabbitmq", host=rabbitmq.url, queueName=name, durable="true")

    @pytest.fixture
    async def binding(self, settings):
        binding = RabbitMqBinding(settings)
        yield binding
        await binding.close()

    @pytest.fixture
    async def unreachable(self):
        url = f"amqp://a:b@127.0.0.1:{free_port()}"
        binding = RabbitMqBinding(component("bindings.rabbitmq", host=url, queueName="q"))
        yield binding
        await binding.close()

    async def test_what_is_created_is_delivered_by_the_same_component(self, binding, settings):
        await binding.invoke("create", b"1", {"contentType": "text/plain", "messageID": "m"})
        await binding.invoke("create", b"2", {"ttlInSeconds": "100", "priority": "3"})
        source = RabbitMqQueue(settings, clock=SystemClock())

        assert await source.pending("", consumer="c") == 2
        found = await take(source, "", 2)
        assert texts(found) == ["1", "2"]
        assert found[0].message.headers["Content-Type"] == "text/plain"
        assert found[0].message.id == "m"
        await settled(source, "", 0)
        await source.close()

    async def test_queue_is_declared_once_and_again_when_it_is_gone(self, binding, settings):
        source = RabbitMqQueue(settings, clock=SystemClock())
        await binding.invoke("create", b"1", {})
        declared, link = [], binding._link
        declare = link.declare_once

        async def spy(name, make):
            async def counted(channel):
                declared.append(name)
                return await make(channel)

            await declare(name, counted)

        link.declare_once = spy
        await binding.invoke("create", b"2", {})
        assert declared == []

        channel = await link.channel()
        await channel.queue_delete(settings.metadata["queueName"])
        await channel.close()
        await binding.invoke("create", b"3", {})

        assert declared == [settings.metadata["queueName"]]
        assert texts(await take(source, "", 1)) == ["3"]
        await source.close()

    async def test_number_that_is_none_is_refused(self, binding):
        with pytest.raises(ComponentError, match="priority"):
            await binding.invoke("create", b"", {"priority": "high"})
