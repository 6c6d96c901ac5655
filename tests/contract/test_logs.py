"""`bindings.logs`: files and both network intakes, up to the acknowledgement."""

import asyncio
import gzip
import hashlib
import json
import socket
from contextlib import aclosing, asynccontextmanager

import fluent.asyncsender
import fluent.sender
import httpx
import msgpack
import pytest

from pelton.clock import SystemClock
from pelton.drivers.log_intake import LogsBus, forward, http, intake
from pelton.errors import ComponentError, DeliveryError
from pelton.model.desired import Component
from pelton.ports import Message
from tests.contract.bus import settled, take
from tests.services.server import free_port

SECRET = "correct-horse"
ID = "0123456789abcdef" * 4
NAME = f"wordpress-v1-6f9c4-x7k2p_demo-project_wordpress-{ID}.log"


def component(**metadata):
    return Component(namespace="shop", name="logs", type="bindings.logs", metadata=metadata)


@pytest.fixture
def open_bus(tmp_path):
    def make(**metadata):
        return LogsBus(component(**metadata), clock=SystemClock(), folder=tmp_path / "state")

    return make


def logs(deliveries):
    return [json.loads(delivery.message.data)["log"] for delivery in deliveries]


@asynccontextmanager
async def listening(bus):
    """Yield an iterator of deliveries, and where the bus listens."""
    batches = bus.subscribe("", consumer="c", max_in_flight=100, options={})

    async def each():
        async with aclosing(batches) as iterator:
            async for batch in iterator:
                for delivery in batch:
                    yield delivery

    async with aclosing(each()) as deliveries:
        first = asyncio.ensure_future(anext(deliveries))
        while not bus.addresses:
            assert not first.done(), first.exception()
            await asyncio.sleep(0.01)

        async def get():
            nonlocal first
            async with asyncio.timeout(30):
                found = await first
            first = asyncio.ensure_future(anext(deliveries))
            return found

        try:
            yield get, bus.addresses[0]
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)


class TestFiles:
    async def test_lines_of_a_container_are_delivered_and_acked_ones_do_not_come_again(
        self, open_bus, tmp_path
    ):
        bus = open_bus(path=f"{tmp_path}/*.log", readFromHead="true")
        (tmp_path / NAME).write_text("".join(f"2026-01-02T03:04:05Z stdout F {n}\n" for n in range(30)))

        found = await take(bus, "", 30)
        assert logs(found) == [f"{n}\n" for n in range(30)]
        record = json.loads(found[0].message.data)
        assert record["kubernetes"]["namespace_name"] == "demo-project"
        assert found[0].message.headers["tag"].endswith(NAME)

        with (tmp_path / NAME).open("a") as handle:
            handle.write("2026-01-02T03:04:05Z stdout F last\n")
        assert logs(await take(bus, "", 1)) == ["last\n"]

    async def test_unacked_comes_again_to_the_next_subscriber_with_the_same_key(self, open_bus, tmp_path):
        bus = open_bus(path=f"{tmp_path}/*.log", readFromHead="true")
        (tmp_path / "a.log").write_text("1\n2\n")

        first = await take(bus, "", 2, finish=False)
        again = await take(bus, "", 2)
        assert [each.key for each in first] == [each.key for each in again]

    async def test_each_consumer_gets_every_record(self, open_bus, tmp_path):
        bus = open_bus(path=f"{tmp_path}/*.log", readFromHead="true")
        (tmp_path / "a.log").write_text("1\n2\n")

        assert logs(await take(bus, "", 2, consumer="one")) == ["1\n", "2\n"]
        assert logs(await take(bus, "", 2, consumer="two")) == ["1\n", "2\n"]

    async def test_no_more_than_max_in_flight_are_held_and_the_rest_is_pending(self, open_bus, tmp_path):
        bus = open_bus(path=f"{tmp_path}/*.log", readFromHead="true")
        (tmp_path / "a.log").write_text("".join(f"{n}\n" for n in range(10)))
        batches = bus.subscribe("", consumer="c", max_in_flight=3, options={})
        async with asyncio.timeout(30), aclosing(batches) as iterator:
            held = list(await anext(iterator))
            assert len(held) == 3
            assert await bus.pending("", consumer="c") == 10
            nothing = asyncio.ensure_future(anext(iterator))
            done, _ = await asyncio.wait({nothing}, timeout=0.2)
            assert not done
            await held[0].ack()
            assert logs(await nothing) == ["3\n"]
            await held[1].nak(0.0)
            assert logs(await anext(iterator)) == ["1\n"]
        assert await bus.pending("", consumer="c") == 0

    async def test_nothing_can_be_published(self, open_bus):
        with pytest.raises(DeliveryError) as caught:
            await open_bus(path="/var/log/*.log").publish(Message(topic="", data=b""))
        assert not caught.value.retriable


class TestHttp:
    async def test_answer_comes_when_the_records_are_finished(self, open_bus):
        bus = open_bus(httpListen="127.0.0.1:0", httpTagHeader="X-Tag")
        async with listening(bus) as (get, (host, port)), httpx.AsyncClient() as client:
            body = gzip.compress(b'[{"date":1.5,"log":"a"},{"date":2.5,"log":"b"}]')
            headers = {"Content-Encoding": "gzip", "Content-Type": "application/json", "X-Tag": "t"}
            request = asyncio.ensure_future(
                client.post(f"http://{host}:{port}/any", content=body, headers=headers)
            )
            one, two = await get(), await get()
            assert not request.done()
            assert json.loads(one.message.data) == {"@timestamp": 1.5, "log": "a"}
            assert one.message.headers["tag"] == "t"
            await one.ack()
            await two.ack()

            assert (await request).status_code == 200
            again = asyncio.ensure_future(client.post(f"http://{host}:{port}/", json=[{"log": "c"}]))
            await (await get()).term()
            assert (await again).status_code == 200

    async def test_same_body_sent_twice_while_it_is_under_way_is_delivered_once(self, open_bus):
        bus = open_bus(httpListen="127.0.0.1:0")
        async with listening(bus) as (get, (host, port)), httpx.AsyncClient() as client:
            posts = [
                asyncio.ensure_future(client.post(f"http://{host}:{port}/", json=[{"log": "a"}]))
                for _ in range(2)
            ]
            delivery = await get()
            await asyncio.sleep(0.1)
            assert await bus.pending("", consumer="c") == 1
            await delivery.ack()

            assert [(await post).status_code for post in posts] == [200, 200]

    async def test_same_body_of_another_tag_is_another_chunk(self, open_bus):
        bus = open_bus(httpListen="127.0.0.1:0", httpTagHeader="X-Tag")
        async with listening(bus) as (get, (host, port)), httpx.AsyncClient() as client:
            posts = [
                asyncio.ensure_future(
                    client.post(f"http://{host}:{port}/", json=[{"log": "a"}], headers={"X-Tag": tag})
                )
                for tag in ("one", "two")
            ]
            deliveries = [await get(), await get()]
            for delivery in deliveries:
                await delivery.ack()

            assert {each.message.headers["tag"] for each in deliveries} == {"one", "two"}
            assert [(await post).status_code for post in posts] == [200, 200]

    async def test_what_is_not_finished_in_time_is_answered_so_that_it_is_sent_again(
        self, open_bus, monkeypatch
    ):
        monkeypatch.setattr(http, "FINISH_S", 0.1)
        bus = open_bus(httpListen="127.0.0.1:0")
        async with listening(bus) as (get, (host, port)), httpx.AsyncClient() as client:
            assert (await client.post(f"http://{host}:{port}/", json=[{"log": "a"}])).status_code == 503
            await (await get()).ack()
            await settled(bus, "", 0, consumer="c")

    async def test_subscription_that_ends_answers_503_and_stops_listening(self, open_bus):
        bus = open_bus(httpListen="127.0.0.1:0")
        async with httpx.AsyncClient() as client:
            async with listening(bus) as (get, (host, port)):
                post = asyncio.ensure_future(client.post(f"http://{host}:{port}/", json=[{"log": "a"}]))
                await get()
            with pytest.raises(httpx.HTTPError):
                (await post).raise_for_status()
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://{host}:{port}/")

    @pytest.mark.parametrize(
        ("method", "headers", "body", "status"),
        [
            ("POST", {}, b"no json", 400),
            ("POST", {"Content-Encoding": "gzip"}, b"no gzip", 400),
            ("POST", {"Content-Encoding": "br"}, b"", 415),
            ("POST", {"Content-Encoding": "gzip"}, gzip.compress(b"x" * 4000), 413),
            ("POST", {}, b"x" * 4000, 413),
            ("GET", {}, b"", 405),
            ("POST", {"Authorization": "Basic bm86cGU="}, b"[]", 401),
            ("POST", {}, b"[]", 200),
        ],
        ids=["json", "gzip", "encoding", "bomb", "large", "method", "user", "empty"],
    )
    async def test_what_no_repetition_makes_better_is_refused(
        self, open_bus, monkeypatch, method, headers, body, status
    ):
        monkeypatch.setattr(http, "LARGEST", 2000)
        bus = open_bus(httpListen="127.0.0.1:0", httpUser="u", httpPassword=SECRET)
        auth = None if "Authorization" in headers else ("u", SECRET)
        async with listening(bus) as (_, (host, port)), httpx.AsyncClient(auth=auth) as client:
            answer = await client.request(method, f"http://{host}:{port}/", content=body, headers=headers)
            assert answer.status_code == status


async def test_what_comes_in_at_once_is_bounded_over_all_connections(open_bus, monkeypatch):
    monkeypatch.setattr(intake, "MOST_READ", 300_000)
    bus = open_bus(httpListen="127.0.0.1:0", forwardListen="127.0.0.1:0")
    async with listening(bus) as (get, (host, port)), httpx.AsyncClient() as client:
        _, forward_address = bus.addresses
        reader, writer = await asyncio.open_connection(*forward_address)
        writer.write(msgpack.packb(["t", b"x" * 400_000])[:250_000])  # never whole
        await writer.drain()
        body = json.dumps([{"log": "x" * 200_000}])
        async with asyncio.timeout(30):
            while bus._intake._reading < 250_000:
                await asyncio.sleep(0.01)
            assert (await client.post(f"http://{host}:{port}/", content=body)).status_code == 503
            writer.close()
            while bus._intake._reading:
                await asyncio.sleep(0.01)
        again = asyncio.ensure_future(client.post(f"http://{host}:{port}/", content=body))
        await (await get()).ack()
        assert (await again).status_code == 200
        del reader


class TestForward:
    async def test_fluentds_own_client_is_understood(self, open_bus):
        bus = open_bus(forwardListen="127.0.0.1:0")
        async with listening(bus) as (get, (host, port)):
            sender = fluent.sender.FluentSender("app", host=host, port=port, nanosecond_precision=True)
            assert await asyncio.to_thread(sender.emit_with_time, "web", 1767323045.5, {"log": "a"})
            await asyncio.to_thread(sender.close)

            delivery = await get()
            assert json.loads(delivery.message.data) == {"@timestamp": 1767323045.5, "log": "a"}
            assert delivery.message.headers["tag"] == "app.web"
            await delivery.ack()

    async def test_chunk_is_acknowledged_when_its_records_are_finished(self, open_bus):
        bus = open_bus(forwardListen="127.0.0.1:0")
        async with listening(bus) as (get, address):
            reader, writer = await asyncio.open_connection(*address)
            packed = b"".join(msgpack.packb([n, {"log": f"{n}"}]) for n in (1, 2))
            for data in (
                msgpack.packb(["t", packed, {"chunk": "c1", "size": 2}]),
                msgpack.packb(["t", gzip.compress(packed), {"chunk": "c2", "compressed": "gzip"}]),
            ):
                for at in range(0, len(data), 7):
                    writer.write(data[at : at + 7])
                    await writer.drain()
            held = [await get() for _ in range(4)]
            assert logs(held) == ["1", "2", "1", "2"]
            for delivery in held[2:]:
                await delivery.ack()
            assert msgpack.unpackb(await reader.read(100)) == {"ack": "c2"}
            for delivery in held[:2]:
                await delivery.ack()
            assert msgpack.unpackb(await reader.read(100)) == {"ack": "c1"}
            writer.close()

    @pytest.mark.parametrize(
        ("key", "password", "reason"),
        [
            (SECRET, "p", ""),
            ("wrong", "p", "shared_key mismatch"),
            (SECRET, "q", "username/password mismatch"),
        ],
        ids=["right", "key", "password"],
    )
    async def test_clients_have_to_know_key_and_user(self, open_bus, caplog, key, password, reason):
        bus = open_bus(forwardListen="127.0.0.1:0", sharedKey=SECRET, forwardUser="u", forwardPassword="p")

        def digest(*parts):
            return hashlib.sha512("".join(parts).encode()).hexdigest()

        async with listening(bus) as (get, address):
            reader, writer = await asyncio.open_connection(*address)
            kind, options = msgpack.unpackb(await reader.read(1000))
            assert kind == "HELO"
            proof = digest("salt", "host", options["nonce"], key)
            login = digest(options["auth"], "u", password)
            writer.write(msgpack.packb(["PING", "host", "salt", proof, "u", login]))
            pong = msgpack.unpackb(await reader.read(1000))
            assert pong[:4] == ["PONG", not reason, reason, "pelton"]
            if reason:
                assert await reader.read(10) == b""
                assert reason in caplog.text
            else:
                assert pong[4] == digest("salt", "pelton", options["nonce"], SECRET)
                writer.write(msgpack.packb(["t", 1, {"log": "a"}, {"chunk": "c"}]))
                await (await get()).ack()
                assert msgpack.unpackb(await reader.read(100)) == {"ack": "c"}
            writer.close()
        assert SECRET not in caplog.text

    async def test_what_is_no_message_closes_the_connection_and_no_other(self, open_bus, monkeypatch):
        monkeypatch.setattr(forward, "LARGEST", 1000)
        bus = open_bus(forwardListen="127.0.0.1:0")
        async with listening(bus) as (get, address):
            for data in (b"\xc1", msgpack.packb({"a": 1}), msgpack.packb(["t", b"x" * 2000])):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(data)
                assert await reader.read(10) == b""
                writer.close()
            _, writer = await asyncio.open_connection(*address)
            writer.write(msgpack.packb(["t", 1, {"log": "a"}]))
            assert logs([await get()]) == ["a"]
            writer.close()


async def test_address_that_is_taken_is_an_error_of_the_subscription(open_bus):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bus = open_bus(httpListen=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(DeliveryError, match="cannot be listened on"):
            await take(bus, "", 1)
    assert free_port()


@pytest.mark.parametrize(
    ("key", "metadata"),
    [
        ("path", {}),
        ("path", {"path": "logs/*.log"}),
        ("format", {"path": "/a", "format": "xml"}),
        ("multiline", {"path": "/a", "multiline": "cobol"}),
        ("multilineStart", {"path": "/a", "multilineStart": "(?=x)"}),
        ("maxLineBytes", {"path": "/a", "maxLineBytes": "99999999999"}),
        ("httpListen", {"httpListen": "somewhere"}),
        ("forwardListen", {"forwardListen": "127.0.0.1:99999"}),
    ],
)
def test_bad_settings_are_refused_with_their_name(open_bus, key, metadata):
    with pytest.raises(ComponentError, match=key):
        open_bus(**metadata)
