import asyncio
import base64
import binascii
import json
import logging
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pelton.drivers.nats import JetStreamBus, is_embedded
from pelton.errors import ComponentError, DeliveryError
from pelton.ports import Message
from pelton.targets.local import nats as server
from tests.contract.bus import LedgerContract, fill, settled, take, texts
from tests.contract.nats_server import NatsServer

pytestmark = pytest.mark.connected


@pytest.fixture
async def nats(tmp_path):
    found = NatsServer(tmp_path)
    await found.start()
    yield found
    found.kill()


@pytest.fixture
async def bus(nats):
    async with nats.bus() as bus:
        yield bus


class TestJetStreamBus(LedgerContract):
    @pytest.fixture
    async def bus(self, bus):
        return bus


async def test_publish_waits_for_a_broker_that_was_killed_and_loses_nothing(nats, bus):
    await fill(bus, "orders", 5)
    nats.kill()
    late = [
        asyncio.create_task(bus.publish(Message(topic="orders", data=b"late", id=f"late-{number}")))
        for number in range(5)
    ]
    await asyncio.wait(late, timeout=0.2)
    assert not any(task.done() for task in late)
    await nats.start()
    await asyncio.gather(*late)

    assert texts(await take(bus, "orders", 10)) == ["0", "1", "2", "3", "4"] + ["late"] * 5


async def test_subscription_goes_on_after_the_broker_was_killed(nats, bus):
    await fill(bus, "orders", 3)
    found: list[str] = []

    async def consume():
        async for batch in bus.subscribe("orders", consumer="c", max_in_flight=10, options={}):
            for delivery in batch:
                found.append(delivery.message.data.decode())
                await delivery.ack()

    consumer = asyncio.create_task(consume())
    async with asyncio.timeout(20):
        while len(found) < 3:
            await asyncio.sleep(0.01)
        nats.kill()
        await nats.start()
        await bus.publish(Message(topic="orders", data=b"after"))
        while "after" not in found:
            await asyncio.sleep(0.01)
    consumer.cancel()
    await asyncio.gather(consumer, return_exceptions=True)


async def test_what_the_killed_broker_had_delivered_to_nobody_comes_again_at_once(nats, bus):
    await fill(bus, "orders", 3)
    held = await take(bus, "orders", 3, finish=False)
    nats.kill()
    await nats.start()

    assert sorted(texts(await take(bus, "orders", 3))) == texts(held)
    await settled(bus, "orders", 0)


async def test_a_forgotten_consumer_begins_anew_and_the_topic_keeps_its_messages(bus):
    await bus.publish(Message(topic="logs.shop.a", data=b"1"))
    await bus.publish(Message(topic="logs.shop.b", data=b"2"))
    first = await take(bus, "logs.shop.*", 2, consumer="rule")

    await bus.forget("logs.shop.*", consumer="rule")
    await bus.forget("logs.shop.*", consumer="rule")

    again = await take(bus, "logs.shop.*", 2, consumer="rule")
    assert texts(first) == texts(again) == ["1", "2"]


async def test_publish_gives_up_at_its_deadline(nats, bus):
    await fill(bus, "orders", 1)
    nats.kill()

    with pytest.raises(DeliveryError):
        await bus.publish(Message(topic="orders", data=b"x"), deadline_s=0.2)


async def test_publish_of_an_oversized_message_is_not_retriable(bus):
    with pytest.raises(DeliveryError) as caught:
        await bus.publish(Message(topic="orders", data=bytes(9 * 1024 * 1024)))

    assert not caught.value.retriable


async def test_large_message_passes(bus):
    data = bytes(7 * 1024 * 1024)
    await bus.publish(Message(topic="orders", data=data))

    (delivery,) = await take(bus, "orders", 1)
    assert delivery.message.data == data


async def test_topic_that_is_no_subject_is_refused(bus):
    with pytest.raises(ComponentError, match="not a NATS subject"):
        await bus.publish(Message(topic="two words", data=b""))


async def test_external_server_without_the_stream_says_that_it_must_exist(nats):
    async with nats.bus(embedded=False, where="Component default/orders") as bus:
        with pytest.raises(ComponentError) as caught:
            await take(bus, "orders", 1)

    assert "no stream stores the subject orders" in str(caught.value)
    assert "streamName" in caught.value.hint


async def test_wrong_password_says_so(nats):
    bus = JetStreamBus(server.url("127.0.0.1", nats.port), user="pelton", password="wrong")
    with pytest.raises(ComponentError, match="Authorization") as caught:
        await bus.open(timeout_s=1.0)

    assert "credentials" in caught.value.hint


async def test_unreachable_server_says_so(nats):
    nats.kill()
    with pytest.raises(DeliveryError, match="no connection to NATS"):
        await nats.bus().open(timeout_s=0.3)


async def test_deliver_policy_new_skips_what_is_there(bus):
    await fill(bus, "orders", 3)
    iterator = bus.subscribe("orders", consumer="c", max_in_flight=9, options={"deliverPolicy": "new"})
    first = asyncio.ensure_future(anext(iterator))
    async with asyncio.timeout(30):
        while not await bus.lags():
            await asyncio.sleep(0.01)
        await bus.publish(Message(topic="orders", data=b"fresh"))
        batch = await first
    await iterator.aclose()

    assert texts(batch) == ["fresh"]


async def test_unknown_deliver_policy_lists_the_known_ones(bus):
    with pytest.raises(ComponentError) as caught:
        async for _ in bus.subscribe(
            "orders", consumer="c", max_in_flight=9, options={"deliverPolicy": "newest"}
        ):
            pass

    assert "sequence" in caught.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {"maxAckPending": "many"},
        {"ackWait": "soon"},
        {"concurrency": "some"},
        {"startSequence": "x", "deliverPolicy": "sequence"},
        {"startTime": "", "deliverPolicy": "time"},
    ],
    ids=lambda value: next(iter(value)),
)
async def test_settings_of_a_consumer_that_make_no_sense_are_named(bus, options):
    with pytest.raises(ComponentError, match=next(iter(options))):
        await anext(bus.subscribe("orders", consumer="c", max_in_flight=9, options=options))


async def test_durable_name_of_the_metadata_is_used_and_its_lag_is_found(bus):
    await fill(bus, "orders", 2)
    iterator = bus.subscribe("orders", consumer="c", max_in_flight=9, options={"durableName": "mine"})
    async with asyncio.timeout(30):
        await anext(iterator)
    assert [lag.consumer for lag in await bus.lags()] == ["mine"]
    assert await bus.pending("orders", consumer="c") == 2
    await iterator.aclose()


async def test_unknown_metadata_is_warned_about(nats, caplog):
    with caplog.at_level(logging.WARNING):
        async with nats.bus(settings={"natsUrl": "x", "colour": "red", "maxDeliver": "3"}):
            pass

    assert "unknown metadata colour" in caplog.text
    assert "maxdeliver has no effect" in caplog.text


async def test_stored_messages_can_be_listed_and_removed(bus):
    await fill(bus, "orders", 3)
    found = [stored async for stored in bus.stored("orders")]
    await bus.remove(found[1])
    await bus.remove(found[1])

    assert [stored.message.data async for stored in bus.stored("orders")] == [b"0", b"2"]
    assert [stored.sequence for stored in found] == [1, 2, 3]


async def test_tail_sees_new_messages_only(bus):
    await fill(bus, "orders", 3)
    iterator = bus.tail("orders")
    waiting = asyncio.ensure_future(anext(iterator))
    await asyncio.wait({waiting}, timeout=0.1)
    await bus.publish(Message(topic="orders", data=b"fresh"))
    async with asyncio.timeout(30):
        message = await waiting
    await iterator.aclose()

    assert message.data == b"fresh"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, True),
        ({"natsURL": "nats://127.0.0.1:4222"}, True),
        ({"NATSURL": "nats://localhost:4222"}, True),
        ({"natsURL": "localhost:4222"}, True),
        ({"natsURL": "nats://127.0.0.1:4223"}, False),
        ({"natsURL": "nats://nats.example:4222"}, False),
        ({"natsURL": "nats://127.0.0.1:4222,nats://127.0.0.1:4223"}, False),
        ({"natsURL": "nats://u:pass/word@127.0.0.1:4222"}, False),
    ],
)
def test_embedded_bus_is_meant_by_no_address_or_its_own(metadata, expected):
    assert is_embedded(metadata, "nats://127.0.0.1:4222") is expected


class Keys:
    """A pair of NATS keys, and tokens signed with it."""

    def __init__(self, kind):
        self._prefix = {"O": 14 << 3, "A": 0, "U": 20 << 3}[kind]
        self.key = Ed25519PrivateKey.generate()
        public = self.key.public_key().public_bytes_raw()
        self.public = self._written(bytes([self._prefix]) + public)
        head = bytes([18 << 3 | self._prefix >> 5, (self._prefix & 31) << 3])
        self.seed = self._written(head + self.key.private_bytes_raw())

    @staticmethod
    def _written(raw):
        checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
        return base64.b32encode(checked).decode().rstrip("=")

    def token(self, subject, nats):
        claims = {"jti": "x", "iat": 1, "iss": self.public, "name": "test", "sub": subject, "nats": nats}
        parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, claims]
        text = ".".join(self._url(json.dumps(part).encode()) for part in parts)
        return f"{text}.{self._url(self.key.sign(text.encode()))}"

    @staticmethod
    def _url(raw):
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")


async def test_users_of_an_operator_come_in_by_jwt_and_seed(tmp_path, caplog):
    operator, account, system, user = Keys("O"), Keys("A"), Keys("A"), Keys("U")
    few = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    store = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    may = {"type": "account", "version": 2, "limits": {**few, **store, "wildcards": True}}
    issuer = operator.token(
        operator.public, {"type": "operator", "version": 2, "system_account": system.public}
    )
    accounts = {
        account.public: operator.token(account.public, may),
        system.public: operator.token(
            system.public, {"type": "account", "version": 2, "limits": {**few, "wildcards": True}}
        ),
    }
    preload = "\n".join(f"{key}: {text}" for key, text in accounts.items())
    (tmp_path / "nats.conf").write_text(
        f"port: -1\nports_file_dir: {json.dumps(str(tmp_path))}\noperator: {issuer}\n"
        f"system_account: {system.public}\nresolver: MEMORY\nresolver_preload: {{\n{preload}\n}}\n"
        f"jetstream {{ store_dir: {json.dumps(str(tmp_path / 'store'))} }}\n"
    )
    with (tmp_path / "log").open("ab") as log:
        process = subprocess.Popen(server.command(str(tmp_path / "nats.conf")), stderr=log)
    try:
        _, port = await server.wait_ready(pid=process.pid, ports_file_dir=str(tmp_path), port=0)
        limits = {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2}
        jwt = account.token(user.public, limits)
        url = f"nats://127.0.0.1:{port}"
        async with JetStreamBus(url, settings={"jwt": jwt, "seedKey": user.seed}) as bus:
            await bus.publish(Message(topic="orders", data=b"x"))
            assert texts(await take(bus, "orders", 1)) == ["x"]

        wrong = JetStreamBus(url, settings={"jwt": jwt, "seedKey": Keys("U").seed})
        with pytest.raises(ComponentError, match="no connection"):
            await wrong.open(timeout_s=2)
        other = user.seed[:-1] + ("E" if user.seed.endswith("A") else "A")
        for bad in ("", other, "no seed"):
            with pytest.raises(ComponentError, match="seedKey"):
                await JetStreamBus(url, settings={"jwt": jwt, "seedKey": bad}).open()
        for secret in (user.seed, jwt):
            assert secret not in caplog.text
    finally:
        process.kill()
        process.wait()
