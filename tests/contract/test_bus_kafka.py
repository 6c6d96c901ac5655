import asyncio
import uuid
from contextlib import aclosing
from typing import Any, cast

import msgspec
import pytest
from confluent_kafka.cimpl import NewTopic

from pelton.drivers.kafka import KafkaBinding, KafkaBus
from pelton.errors import ComponentError, DeliveryError
from pelton.model.desired import Component
from pelton.ports import Message
from tests.contract.bus import BusContract, fill, settled, take, texts
from tests.services.kafka import QUICK, SASL_PASSWORD, SASL_USER

pytestmark = pytest.mark.connected

PLAIN = {"authType": "none", "initialOffset": "oldest"}


class _Scoped:
    """Gives each test topics and groups of its own on the shared broker; one partition, so one order."""

    def __init__(self, bus, partitions=1):
        self.real = bus
        self.prefix = f"t{uuid.uuid4().hex[:10]}."
        self._partitions = partitions
        self._made = set()

    async def _topic(self, topic):
        name = self.prefix + topic
        if name not in self._made and "*" not in name:
            self._made.add(name)
            await self.real.create_topic(name, partitions=self._partitions, replicas=1, config={})
        return name

    async def publish(self, message):
        topic = await self._topic(message.topic)
        await self.real.publish(
            Message(
                topic=topic,
                data=message.data,
                headers=message.headers,
                id=message.id,
                metadata=message.metadata,
            )
        )

    async def subscribe(self, topic, *, consumer, max_in_flight, options):
        batches = self.real.subscribe(
            await self._topic(topic),
            consumer=self.prefix + consumer,
            max_in_flight=max_in_flight,
            options=options,
        )
        async with aclosing(batches) as iterator:
            async for batch in iterator:
                for delivery in batch:
                    topic = delivery.message.topic.removeprefix(self.prefix)
                    delivery.message = msgspec.structs.replace(delivery.message, topic=topic)
                yield batch

    async def pending(self, topic, *, consumer):
        return await self.real.pending(self.prefix + topic, consumer=self.prefix + consumer)


@pytest.fixture
async def real(kafka):
    async with KafkaBus({"brokers": kafka.address, **PLAIN}) as bus:
        yield bus


@pytest.fixture
async def bus(real):
    return _Scoped(real)


class TestKafkaBus(BusContract):
    @pytest.fixture
    async def bus(self, bus):
        return bus

    async def test_publish_with_a_known_id_is_stored_once(self, bus):
        """Kafka knows no ids: what is published twice is there twice."""
        for _ in range(2):
            await bus.publish(Message(topic="orders", data=b"x", id="one"))

        assert texts(await take(bus, "orders", 2)) == ["x", "x"]

    async def test_wildcard_subscription_covers_a_family_of_topics(self, bus):
        """Between topics there is no order."""
        await bus.publish(Message(topic="logs.shop.cart", data=b"1"))
        await bus.publish(Message(topic="logs.bank.pay", data=b"2"))
        await bus.publish(Message(topic="logs.shop.pay", data=b"3"))

        found = await take(bus, "logs.shop.*", 2)
        assert {delivery.message.topic for delivery in found} == {"logs.shop.cart", "logs.shop.pay"}


async def test_record_without_key_value_or_readable_headers_arrives(bus, real, kafka):
    from confluent_kafka import Producer

    topic = await bus._topic("odd")
    producer = Producer({"bootstrap.servers": kafka.address})
    producer.produce(topic, None, key=b"\xff\x01", headers=[("h", b"\xfe!"), ("none", None)])
    producer.produce(topic, b"not json", headers=[("a", "1"), ("a", "2")])
    await asyncio.to_thread(producer.flush, 10)

    first, second = await take(bus, "odd", 2)
    assert first.message.data == b""
    assert first.message.headers["__tombstone"] == "true"
    assert first.message.headers["__key"] == "\\xff\x01"
    assert first.message.headers["h"] == "\\xfe!"
    assert first.message.headers["none"] == ""
    assert "__key" not in second.message.headers
    assert second.message.headers["a"] == "2"
    assert second.message.headers["__offset"] == "1"
    assert int(second.message.headers["__timestamp"]) > 1_600_000_000_000


async def test_key_and_partition_come_from_metadata_and_other_entries_become_headers(real):
    bus = _Scoped(real, partitions=4)
    keyed = {"partitionKey": "ann", "team": "shop"}
    await bus.publish(Message(topic="keyed", data=b"1", metadata=keyed))
    await bus.publish(Message(topic="keyed", data=b"2", metadata=keyed))
    await bus.publish(Message(topic="keyed", data=b"3", metadata={"partitionNumber": "3"}))

    found = {delivery.message.data: delivery for delivery in await take(bus, "keyed", 3)}
    assert found[b"1"].order_key == "ann"
    assert found[b"1"].lane == found[b"2"].lane
    assert found[b"1"].message.headers["team"] == "shop"
    assert found[b"3"].message.headers["__partition"] == "3"


async def test_group_without_offsets_begins_with_what_comes_later_unless_told_otherwise(bus, real, kafka):
    await fill(bus, "late", 3)
    async with KafkaBus({"brokers": kafka.address, "authType": "none"}) as newest:
        batches = newest.subscribe(
            bus.prefix + "late", consumer=bus.prefix + "g", max_in_flight=10, options={}
        )
        async with asyncio.timeout(20), aclosing(cast(Any, batches)) as iterator:
            nothing = asyncio.ensure_future(anext(iterator))
            while not newest.lanes(bus.prefix + "late", consumer=bus.prefix + "g"):
                await asyncio.sleep(0.01)
            await bus.publish(Message(topic="late", data=b"new"))
            (delivery,) = await nothing
            assert delivery.message.data == b"new"


async def test_ack_moves_the_group_only_over_what_is_finished_without_a_gap(bus, real):
    await fill(bus, "gap", 4)
    held = await take(bus, "gap", 4, finish=False)
    for number in (0, 2, 3):
        await held[number].ack()

    # Another process would begin with 1; who finished 2 and 3 knows it.
    assert texts(await take(bus, "gap", 1, finish=False)) == ["1"]
    found = [lag for lag in await real.lags() if lag.topic == bus.prefix + "gap"]
    assert [(lag.committed, lag.end) for lag in found] == [(1, 4)]


async def test_second_member_takes_partitions_over_after_what_is_in_hand(real, kafka):
    first = _Scoped(real, partitions=4)
    for number in range(40):
        await first.publish(
            Message(topic="shared", data=str(number).encode(), metadata={"partitionNumber": str(number % 4)})
        )
    seen: list[str] = []
    hold = asyncio.Event()

    async def consume(bus, mine):
        async for batch in bus.subscribe(
            first.prefix + "shared", consumer=first.prefix + "g", max_in_flight=4, options={}
        ):
            for delivery in batch:
                if delivery.lost:
                    await delivery.nak(0)
                    continue
                seen.append(delivery.message.data.decode())
                mine.append(delivery.lane)
                await hold.wait()
                await delivery.ack()

    lanes_one: list[str] = []
    lanes_two: list[str] = []
    async with KafkaBus({"brokers": kafka.address, **PLAIN}) as other, asyncio.timeout(20):
        one = asyncio.create_task(consume(real, lanes_one))
        while not lanes_one:
            await asyncio.sleep(0.01)
        two = asyncio.create_task(consume(other, lanes_two))
        hold.set()
        while len(set(seen) - {"more"}) < 40 or not lanes_two:
            await asyncio.sleep(0.1)
            for number in range(4):
                more = {"partitionNumber": str(number)}
                await first.publish(Message(topic="shared", data=b"more", metadata=more))
        for task in (one, two):
            task.cancel()
        await asyncio.gather(one, two, return_exceptions=True)

    numbers = [text for text in seen if text != "more"]
    assert sorted(set(numbers), key=int) == [str(number) for number in range(40)]
    assert len(numbers) == 40


async def test_partition_that_was_paused_when_it_was_revoked_is_read_on_when_it_is_given_back(
    bus, kafka, monkeypatch
):
    """Without the look for what is not fetched, which would hide a partition that stays paused."""
    monkeypatch.setattr("pelton.drivers.kafka.consumer._STALL_S", 1e9)
    metadata = {"brokers": kafka.address, **PLAIN, "heartbeatInterval": "500ms"}
    topic, group = bus.prefix + "full", bus.prefix + "g"
    seen: set[str] = set()
    hold = asyncio.Event()
    await bus.real.create_topic(topic, partitions=2, replicas=1, config={})
    for number in range(40):
        await bus.real.publish(
            Message(topic=topic, data=b"%d" % number, metadata={"partitionNumber": str(number % 2)})
        )

    async def consume(member):
        async for batch in member.subscribe(topic, consumer=group, max_in_flight=4, options={}):
            await hold.wait()
            for delivery in batch:
                if delivery.lost:
                    await delivery.nak(0)
                else:
                    seen.add(delivery.message.data.decode())
                    await delivery.ack()

    async with KafkaBus(metadata) as first, KafkaBus(metadata) as second, asyncio.timeout(30):
        one = asyncio.create_task(consume(first))
        while not (first._active.get((topic, group)) and first._active[topic, group]._paused):
            await asyncio.sleep(0.02)
        two = asyncio.create_task(consume(second))
        while not first._active[topic, group]._leaving:
            await asyncio.sleep(0.01)
        kafka.pause()  # so that it is not given back before there is room
        try:
            hold.set()
            while first._active[topic, group]._paused:
                await asyncio.sleep(0.01)
        finally:
            kafka.resume()
        while len(seen) < 40:
            await asyncio.sleep(0.02)
        for task in (one, two):
            task.cancel()
        await asyncio.gather(one, two, return_exceptions=True)


async def test_drained_subscription_still_takes_acks(bus):
    await fill(bus, "drain", 3)
    held = await take(bus, "drain", 3, finish=False)
    for delivery in held:
        await delivery.ack()
    await bus.publish(Message(topic="drain", data=b"last"))

    assert texts(await take(bus, "drain", 1)) == ["last"]


async def test_record_larger_than_allowed_is_refused_and_5_mb_passes_when_allowed(bus, kafka):
    big = bytes(5 * 1024 * 1024)
    with pytest.raises(DeliveryError, match="larger than 1000000") as caught:
        await bus.publish(Message(topic="big", data=big))
    assert not caught.value.retriable

    await bus.real.create_topic(
        bus.prefix + "huge", partitions=1, replicas=1, config={"max.message.bytes": "8000000"}
    )
    bus._made.add(bus.prefix + "huge")
    settings = {"brokers": kafka.address, **PLAIN, "maxMessageBytes": "8000000"}
    async with KafkaBus(settings) as wide:
        await wide.publish(Message(topic=bus.prefix + "huge", data=big))
    (delivery,) = await take(bus, "huge", 1)
    assert len(delivery.message.data) == len(big)


async def test_pending_of_a_group_that_is_away_counts_what_was_published_meanwhile(bus, real):
    await fill(bus, "lag", 3)
    await take(bus, "lag", 3)
    await fill(bus, "lag", 5)

    await settled(bus, "lag", 5)
    found = [lag for lag in await real.lags() if lag.topic == bus.prefix + "lag"]
    assert [(lag.committed, lag.end) for lag in found] == [(3, 8)]


async def test_offsets_are_read_while_the_coordinator_is_being_found(own_server):
    """The first question makes a new cluster set up its coordinators; until then it answers "not I"."""
    server = own_server("kafka")
    for number in range(3):
        async with KafkaBus({"brokers": server.address, **PLAIN}) as bus, asyncio.timeout(50):
            assert await bus.pending("none", consumer=f"group-{number}") == 0


@pytest.mark.parametrize("mechanism", ["", "SHA-256", "SHA-512"])
async def test_password_opens_the_door_and_a_wrong_one_is_told(kafka, mechanism):
    metadata = {
        "brokers": kafka.sasl_address,
        "authType": "password",
        "saslUsername": SASL_USER,
        "saslPassword": SASL_PASSWORD,
        "saslMechanism": mechanism,
        "disableTls": "true",
        "initialOffset": "oldest",
    }
    async with KafkaBus(metadata) as real:
        bus = _Scoped(real)
        await fill(bus, "sasl", 1)
        assert texts(await take(bus, "sasl", 1)) == ["0"]

    async with KafkaBus({**metadata, "saslPassword": "no"}) as wrong:
        with pytest.raises(DeliveryError, match=r"(?i)authentication") as caught:
            async with asyncio.timeout(30):
                batches = wrong.subscribe("t", consumer="g", max_in_flight=1, options={})
                await anext(batches)
        assert "no" not in str(caught.value).split()


async def test_topic_that_vanished_and_came_back_is_read_on(bus, real):
    """What the new topic has below the group's committed offset counts as read, as with any consumer."""
    await fill(bus, "gone", 1)
    topic = bus.prefix + "gone"
    found: list[bytes] = []
    async with asyncio.timeout(50):
        batches = real.subscribe(topic, consumer=topic, max_in_flight=10, options={})
        async with aclosing(cast(Any, batches)) as iterator:
            for delivery in await anext(iterator):
                await delivery.ack()
            admin = real._client()
            await asyncio.to_thread(admin.delete_topics([topic])[topic].result)
            for number in range(3):
                first = {"partitionNumber": "0"}
                await bus.publish(Message(topic="gone", data=b"%d" % number, metadata=first))
            async for batch in iterator:
                for delivery in batch:
                    found.append(delivery.message.data)
                    await delivery.ack()
                if b"2" in found:
                    break
    assert found[-2:] == [b"1", b"2"]


async def test_topic_that_vanished_for_good_is_told_of(own_server):
    """Where the broker makes no topics by itself; else what vanished is there again at once."""
    server = own_server("kafka", settings={"auto.create.topics.enable": "false"})
    metadata = {"brokers": server.address, **PLAIN, "initialOffset": "oldest"}
    async with KafkaBus(metadata) as real, asyncio.timeout(50):
        admin = real._client()
        topics = [NewTopic("gone", 1, 1)]
        await asyncio.to_thread(admin.create_topics(topics)["gone"].result)
        await real.publish(Message(topic="gone", data=b"0"))
        batches = real.subscribe("gone", consumer="c", max_in_flight=10, options={})
        async with aclosing(cast(Any, batches)) as iterator:
            for delivery in await anext(iterator):
                await delivery.ack()
            await asyncio.to_thread(admin.delete_topics(["gone"])["gone"].result)
            following = asyncio.ensure_future(anext(iterator))
            while "does not exist" not in real.trouble("gone", consumer="c"):
                await asyncio.sleep(0.05)
            topics = [NewTopic("gone", 1, 1)]
            await asyncio.to_thread(admin.create_topics(topics)["gone"].result)
            while real.trouble("gone", consumer="c"):
                await asyncio.sleep(0.05)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@pytest.mark.timeout(90)
async def test_broker_killed_in_the_middle_loses_nothing_and_may_be_away_at_the_start(own_server):
    server = own_server("kafka", settings=QUICK)
    async with KafkaBus({"brokers": server.address, **PLAIN}) as real, asyncio.timeout(80):
        bus = _Scoped(real)
        await fill(bus, "orders", 3)
        found: list[str] = []

        async def consume():
            batches = bus.subscribe("orders", consumer="c", max_in_flight=10, options={})
            async with aclosing(batches) as iterator:
                async for batch in iterator:
                    for delivery in batch:
                        found.append(delivery.message.data.decode())
                        await delivery.ack()

        consumer = asyncio.create_task(consume())
        while len(found) < 3:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.kill)
        late = asyncio.create_task(bus.publish(Message(topic="orders", data=b"late")))
        while not real.trouble(bus.prefix + "orders", consumer=bus.prefix + "c"):
            await asyncio.sleep(0.02)
        async with KafkaBus({"brokers": server.address, **PLAIN}) as new:
            with pytest.raises(DeliveryError, match=r"refused|down"):
                await anext(
                    new.subscribe(
                        bus.prefix + "orders", consumer=bus.prefix + "new", max_in_flight=10, options={}
                    )
                )
            await asyncio.to_thread(server.start)
            await late
            again = await take(new, bus.prefix + "orders", 4, consumer=bus.prefix + "new")
        assert sorted(texts(again)) == ["0", "1", "2", "late"]
        while "late" not in found:
            await asyncio.sleep(0.02)
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
        assert sorted(set(found)) == ["0", "1", "2", "late"]


@pytest.mark.long
@pytest.mark.timeout(150)
async def test_what_was_finished_before_the_broker_died_does_not_come_again(own_server):
    server = own_server("kafka", settings=QUICK)
    seen: list[str] = []
    held: list[Any] = []
    metadata = {"brokers": server.address, **PLAIN, "sessionTimeout": "6s"}
    async with KafkaBus(metadata) as bus, asyncio.timeout(140):
        await bus.create_topic("once", partitions=1, replicas=1, config={})
        for number in range(20):
            await bus.publish(Message(topic="once", data=str(number).encode()))

        async def consume():
            batches = bus.subscribe("once", consumer="c", max_in_flight=100, options={})
            async with aclosing(cast(Any, batches)) as iterator:
                async for batch in iterator:
                    for delivery in batch:
                        text = delivery.message.data.decode()
                        seen.append(text)
                        if text == "3":
                            held.append(delivery)  # keeps the position before all behind it
                        else:
                            await delivery.ack()

        task = asyncio.create_task(consume())
        while len(seen) < 20:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)  # committed is what lies before the one that is held
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await bus.publish(Message(topic="once", data=b"last"))
        while "last" not in seen:
            await asyncio.sleep(0.02)
        # What is still being worked on stays with its holder; only a new member is given it once more.
        assert seen[20:] in (["last"], ["3", "last"])
        for delivery in held:
            await delivery.ack()
        while [(lag.committed, lag.end) for lag in await bus.lags("c")] != [(21, 21)]:
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_binding_publishes_with_a_key_and_consumes_its_topics(kafka):
    one, two = (f"b{uuid.uuid4().hex[:8]}" for _ in range(2))
    metadata = {"brokers": kafka.address, "topics": f"{one}, {two}", "publishTopic": one, **PLAIN}
    binding = KafkaBinding(
        Component(namespace="default", name="out", type="bindings.kafka", metadata=metadata)
    )
    try:
        done = await binding.invoke("create", b"hello", {"partitionKey": "k", "x": "y"})
        assert done.ok
        with pytest.raises(ComponentError, match="no operation"):
            await binding.invoke("get", b"", {})
    finally:
        await binding.close()
    async with KafkaBus(metadata) as bus:
        await bus.publish(Message(topic=two, data=b"other"))
        found = await take(bus, "", 2, consumer=one)
    assert {delivery.message.topic for delivery in found} == {one, two}
    assert {delivery.order_key for delivery in found} == {"k", ""}


async def test_tls_checks_the_broker(own_server, tmp_path):
    key, certificate = _certificate()
    pem = tmp_path / "broker.pem"
    pem.write_text(key + certificate)
    server = own_server("kafka", keystore=pem)
    trusted = {"brokers": server.tls_address, "authType": "certificate", "caCert": certificate}
    async with KafkaBus({**trusted, "initialOffset": "oldest"}) as real:
        bus = _Scoped(real)
        await fill(bus, "tls", 1)
        assert texts(await take(bus, "tls", 1)) == ["0"]
    _, other = _certificate()
    async with KafkaBus({**trusted, "caCert": other}) as real:
        with pytest.raises(DeliveryError, match=r"(?i)ssl|certificate"):
            await anext(real.subscribe("t", consumer="g", max_in_flight=1, options={}))


def _certificate():
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return pem, certificate.public_bytes(serialization.Encoding.PEM).decode()
