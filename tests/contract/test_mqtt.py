"""The MQTT drivers against a real Mosquitto."""

import asyncio
import uuid
from contextlib import aclosing

import pytest

from pelton.clock import SystemClock
from pelton.drivers.mqtt import MqttBinding, MqttBus
from pelton.drivers.mqtt import bus as driver
from pelton.errors import ComponentError, DeliveryError
from pelton.model.desired import Component
from pelton.ports import Message
from tests.contract.authority import Authority
from tests.contract.binding import BindingContract
from tests.contract.bus import BusContract, fill, take, texts
from tests.services.server import free_port

pytestmark = [pytest.mark.connected, pytest.mark.timeout(60)]

SECRET = "correct-horse"


def component(kind="pubsub.mqtt3", **metadata):
    return Component(namespace="shop", name="mosquitto", type=kind, metadata=metadata)


class Space:
    """A bus of one test: topics of its own, and sessions that are there before messages."""

    def __init__(self, bus):
        self._bus, self._tag = bus, f"{uuid.uuid4()}/"
        self.patterns = ["orders.new", "orders", "logs.shop.*"]
        self._made = False
        self.open = None

    def _topic(self, topic):
        return self._tag + topic.replace(".", "/").replace("*", "+")

    async def publish(self, message):
        if not self._made:
            self._made = True
            for consumer in ("ns.fn.in", "one", "two"):
                for pattern in self.patterns:
                    await self._bus.prepare(self._topic(pattern), consumer=consumer, options={})
        await self._bus.publish(Message(topic=self._topic(message.topic), data=message.data, id=message.id))

    async def subscribe(self, topic, **more):
        async with aclosing(self._bus.subscribe(self._topic(topic), **more)) as batches:
            async for batch in batches:
                yield batch

    async def pending(self, topic, *, consumer):
        return await self._bus.pending(self._topic(topic), consumer=consumer)


@pytest.fixture
async def open_bus(mosquitto):
    buses = []

    def make(kind="pubsub.mqtt3", url=mosquitto.url, **metadata):
        buses.append(MqttBus(component(kind, url=url, **metadata), clock=SystemClock()))
        return buses[-1]

    yield make
    for bus in buses:
        await bus.close()


@pytest.fixture
def topic():
    return f"t-{uuid.uuid4()}"


class TestMqttBus(BusContract):
    @pytest.fixture
    def bus(self, open_bus):
        space = Space(open_bus())
        space.open = open_bus
        return space

    async def test_message_keeps_topic_data_and_headers(self, bus):
        """There are no headers on the wire; the topic that a message came on is one."""
        bus, topic = bus.open(), f"t-{uuid.uuid4()}"
        await bus.prepare(f"{topic}/+", consumer="c", options={})
        await bus.publish(Message(topic=f"{topic}/a", data=b"\x00\xff", headers={"a": "b"}))

        (delivery,) = await take(bus, f"{topic}/+", 1, consumer="c")
        assert delivery.message.topic == f"{topic}/a"
        assert delivery.message.data == b"\x00\xff"
        assert dict(delivery.message.headers) == {"topic": f"{topic}/a"}

    async def test_publish_with_a_known_id_is_stored_once(self, bus):
        """The protocol has no ids: both come, each with a key of its own."""
        for _ in range(2):
            await bus.publish(Message(topic="orders", data=b"x", id="one"))

        found = await take(bus, "orders", 2, finish=False)
        assert texts(found) == ["x", "x"]
        assert len({delivery.key for delivery in found}) == 2

    async def test_wildcard_subscription_covers_a_family_of_topics(self, bus):
        for name in ("logs.shop.cart", "logs.bank.pay", "logs.shop.pay"):
            await bus.publish(Message(topic=name, data=name.encode()))

        assert texts(await take(bus, "logs.shop.*", 2)) == ["logs.shop.cart", "logs.shop.pay"]


async def test_what_comes_while_nobody_is_connected_waits_in_the_session(open_bus, topic):
    first = open_bus()
    await first.prepare(topic, consumer="c", options={})
    await first.close()
    await fill(open_bus(), topic, 3)

    assert texts(await take(open_bus(), topic, 3, consumer="c")) == ["0", "1", "2"]


async def test_clean_session_loses_it_and_the_log_says_so(open_bus, topic, caplog):
    bus = open_bus(cleanSession="true")
    await bus.prepare(topic, consumer="c", options={})
    await fill(bus, topic, 1)
    async with asyncio.timeout(30):
        async with aclosing(bus.subscribe(topic, consumer="c", max_in_flight=5, options={})) as iterator:
            first = asyncio.ensure_future(anext(iterator))
            while not first.done():
                await bus.publish(Message(topic=topic, data=b"later"))
                await asyncio.wait({first}, timeout=0.05)
            assert set(texts(await first)) == {"later"}
    assert "is lost" in caplog.text


async def test_shared_subscription_gives_each_message_to_one(open_bus, topic):
    bus, shared = open_bus(), f"$share/group/{topic}"
    got = []

    async def read(consumer):
        batches = bus.subscribe(shared, consumer=consumer, max_in_flight=5, options={})
        async with aclosing(batches) as iterator:
            async for batch in iterator:
                for delivery in batch:
                    got.append((consumer, delivery.message.data.decode()))
                    await delivery.ack()

    for consumer in ("one", "two"):
        await bus.prepare(shared, consumer=consumer, options={})
    async with asyncio.timeout(20):
        readers = [asyncio.create_task(read(consumer)) for consumer in ("one", "two")]
        await fill(bus, topic, 40)
        while len(got) < 40:
            await asyncio.sleep(0.01)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)

    assert sorted(int(text) for _, text in got) == list(range(40))


async def test_retained_message_is_marked_and_reaches_whoever_comes_later(open_bus, topic):
    bus = open_bus()
    await bus.publish(Message(topic=topic, data=b"old", metadata={"retain": "true"}))

    (delivery,) = await take(bus, topic, 1, consumer="c")
    assert (delivery.message.data, delivery.message.headers["retain"]) == (b"old", "true")


async def test_quality_0_is_delivered_and_needs_no_ack(open_bus, topic):
    bus = open_bus(qos="0")
    async with asyncio.timeout(30):
        batches = bus.subscribe(topic, consumer="c", max_in_flight=5, options={})
        async with aclosing(batches) as iterator:
            first = asyncio.ensure_future(anext(iterator))
            while not first.done():
                await bus.publish(Message(topic=topic, data=b"x"))
                await asyncio.wait({first}, timeout=0.05)
            for delivery in await first:
                await delivery.ack()


async def test_quality_2_is_published_as_such_and_received_at_least_once(open_bus, topic):
    bus = open_bus(qos="2")
    await bus.prepare(topic, consumer="c", options={})
    await fill(bus, topic, 3)

    assert texts(await take(bus, topic, 3, consumer="c", finish=False)) == ["0", "1", "2"]
    assert texts(await take(bus, topic, 3, consumer="c")) == ["0", "1", "2"]


async def test_uuid_in_the_consumer_id_stays_the_same_after_a_restart(open_bus, topic):
    await open_bus(consumerID="app-{uuid}").prepare(topic, consumer="c", options={})
    await fill(open_bus(), topic, 1)

    assert texts(await take(open_bus(consumerID="app-{uuid}"), topic, 1, consumer="c")) == ["0"]


async def test_two_subscriptions_with_one_client_id_are_an_error_and_no_endless_quarrel(open_bus, topic):
    bus = open_bus(consumerID="same")
    await bus.prepare(topic, consumer="a", options={})
    await fill(bus, topic, 1)
    async with asyncio.timeout(30):
        async with aclosing(bus.subscribe(topic, consumer="a", max_in_flight=5, options={})) as iterator:
            await anext(iterator)
            with pytest.raises(DeliveryError, match="in use"):
                await take(bus, topic, 1, consumer="b")


async def test_flood_is_bounded_here_and_the_rest_is_fetched_later(open_bus, topic, monkeypatch):
    monkeypatch.setattr(driver, "KEPT", 5)
    bus = open_bus()
    await bus.prepare(topic, consumer="c", options={})
    await fill(bus, topic, 60)
    seen, most = [], 0
    async with asyncio.timeout(30):
        async with aclosing(bus.subscribe(topic, consumer="c", max_in_flight=3, options={})) as iterator:
            async for batch in iterator:
                most = max(most, await bus.pending(topic, consumer="c"))
                await asyncio.sleep(0.01)
                for delivery in batch:
                    seen.append(int(delivery.message.data))
                    await delivery.ack()
                if len(set(seen)) == 60:
                    break

    assert most <= 8
    assert sorted(set(seen)) == list(range(60))


async def test_large_messages_are_bounded_by_their_bytes(open_bus, topic, monkeypatch):
    monkeypatch.setattr(driver, "KEPT_BYTES", 1_000_000)
    bus = open_bus()
    await bus.prepare(topic, consumer="c", options={})
    for number in range(8):
        await bus.publish(Message(topic=topic, data=bytes([number]) * 400_000))
    seen: set[int] = set()
    async with asyncio.timeout(30):
        async with aclosing(bus.subscribe(topic, consumer="c", max_in_flight=9, options={})) as iterator:
            async for batch in iterator:
                assert await bus.pending(topic, consumer="c") <= 3
                for delivery in batch:
                    seen.add(delivery.message.data[0])
                    await delivery.ack()
                if len(seen) == 8:
                    break


async def test_kill_of_the_broker_loses_nothing_and_it_may_be_away_at_the_start(own_server, open_bus):
    server = own_server("mosquitto")
    bus = open_bus(url=server.url)
    await bus.prepare("orders", consumer="c", options={})
    await fill(bus, "orders", 3)
    with pytest.raises(DeliveryError, match="broke off"):
        async with asyncio.timeout(30):
            batches = bus.subscribe("orders", consumer="c", max_in_flight=5, options={})
            async with aclosing(batches) as iterator:
                await anext(iterator)
                server.kill()
                while True:
                    await anext(iterator)
    late = open_bus(url=server.url)
    for call in (fill(late, "orders", 1), take(bus, "orders", 1, consumer="c"), fill(bus, "orders", 1)):
        with pytest.raises(DeliveryError, match=r"was not reached|broke off"):
            await call

    await asyncio.to_thread(server.start)
    await fill(late, "orders", 1)
    assert texts(await take(bus, "orders", 4, consumer="c")) == ["0", "1", "2", "0"]


async def test_rejected_credentials_are_named_and_never_shown(own_server, open_bus, caplog):
    server = own_server("mosquitto", users={"shop": "right"})
    bus = open_bus(url=f"tcp://shop:{SECRET}@{server.address}")
    for call in (fill(bus, "orders", 1), take(bus, "orders", 1)):
        with pytest.raises(ComponentError, match="rejected the credentials") as caught:
            await call
        assert SECRET not in f"{caught.value} {caught.value.hint} {caplog.text}"

    await fill(open_bus(url=f"tcp://shop:right@{server.address}"), "orders", 1)


async def test_tls_with_certificates_of_both_sides(own_server, open_bus, tmp_path):
    authority = Authority()
    paths = []
    for name, text in zip(("ca", "cert", "key"), (authority.pem, *authority.issue("127.0.0.1")), strict=True):
        (tmp_path / name).write_text(text)
        paths.append(tmp_path / name)
    server = own_server("mosquitto", certificates=tuple(paths))
    cert, key = authority.issue("client")
    url = f"ssl://{server.address}"
    bus = open_bus(url=url, caCert=authority.pem, clientCert=cert, clientKey=key)
    await bus.prepare("orders", consumer="c", options={})
    # Several in one TLS record: what is decrypted already has to be read as well.
    await asyncio.gather(*(bus.publish(Message(topic="orders", data=b"x" * 100)) for _ in range(200)))
    assert len(await take(bus, "orders", 200, consumer="c")) == 200

    for wrong in (
        {"caCert": Authority().pem, "clientCert": cert, "clientKey": key},
        {"caCert": authority.pem},
    ):
        with pytest.raises(DeliveryError, match=r"was not reached|broke off"):
            await fill(open_bus(url=url, **wrong), "orders", 1)


@pytest.mark.parametrize(
    ("key", "metadata"),
    [
        ("url", {"url": f"http://a:{SECRET}@b"}),
        ("url", {"url": f"tcp://a:{SECRET}@b:port"}),
        ("qos", {"url": "tcp://b", "qos": "3"}),
        ("certificate", {"url": "ssl://b", "caCert": "-----BEGIN CERTIFICATE-----\nx\n"}),
    ],
    ids=["scheme", "port", "qos", "certificate"],
)
def test_bad_settings_are_refused_with_their_name(key, metadata):
    with pytest.raises(ComponentError, match=key) as caught:
        MqttBus(component(**metadata), clock=SystemClock())
    assert SECRET not in str(caught.value)


async def test_topic_that_cannot_be_published_to_is_refused_for_good(open_bus):
    with pytest.raises(DeliveryError) as caught:
        await open_bus().publish(Message(topic="a/#", data=b""))
    assert not caught.value.retriable


class TestMqttBinding(BindingContract):
    @pytest.fixture
    def settings(self, mosquitto, topic):
        return component("bindings.mqtt3", url=mosquitto.url, topic=topic, cleanSession="false")

    @pytest.fixture
    async def binding(self, settings):
        binding = MqttBinding(settings)
        yield binding
        await binding.close()

    @pytest.fixture
    async def unreachable(self):
        binding = MqttBinding(component("bindings.mqtt", url=f"tcp://127.0.0.1:{free_port()}", topic="t"))
        yield binding
        await binding.close()

    async def test_what_is_created_is_delivered_by_the_same_component(self, binding, settings, topic):
        source = MqttBus(settings, clock=SystemClock())
        await source.prepare("", consumer="c", options={})
        await binding.invoke("create", b"1", {})
        await binding.invoke("create", b"elsewhere", {"topic": f"{topic}/other"})
        await binding.invoke("create", b"2", {"qos": "2"})

        found = await take(source, "", 2, consumer="c")
        assert texts(found) == ["1", "2"]
        assert found[0].message.topic == topic
        await source.close()

    async def test_number_that_is_none_is_refused(self, binding):
        with pytest.raises(ComponentError, match="qos"):
            await binding.invoke("create", b"", {"qos": "high"})
