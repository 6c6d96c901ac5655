"""Events: brokers to functions and functions to brokers, beside loops over the bare client libraries.

A platform and a Kafka of the benchmark's own. Each turn gives a fresh topic with records to a fresh Function
(its source is built once) and to the bare loop, one after the other; all records are there from the start.
Ours is timed by the runtime's count of acknowledged events, from the first tenth on (until then the worker
is started and sync code moves to the loop), the loop by its own clock over the same share. The function
parses its record and checks that a key's numbers only rise, so a lost order or a lost record ends the run.
The bare loops call the same function: with `poll()` and automatic commits for Kafka, with `fetch` and an ack
per message for JetStream.
Run: python -m bench.events [--profile]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.server
import json
import os
import queue
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.peers import write_function
from bench.platform import Platform, platform
from bench.table import Row, render, spread
from pelton.dataplane import wire
from pelton.plan.function import CONVENTION

__all__ = ["rows"]

PARTITIONS: Final = 4
KEYS: Final = 64
RECORDS: Final = {100: 200_000, 1000: 100_000}
MESSAGES: Final = 20_000
OUTPUTS: Final = 10_000
WAKES: Final = 10
ALERTS: Final = 20
ROUNDS: Final = 3
WARM: Final = 0.1
"""Share of a turn's records that is not timed."""

HANDLER = """
    import json

    last = {}

    def handle(data):
        record = json.loads(data)
        key, number = record["key"], record["number"]
        if number <= last.get(key, -1):
            raise ValueError(f"{key}: {number} after {last[key]}")
        last[key] = number

    def count(context: "UserContext"):
        handle(context.get_binding_request().data)

    def count_topic(context: "UserContext"):
        json.loads(context.get_topic_event().Data())["number"]
"""


SENDER = """
    import asyncio, time

    async def fan_out(context: "UserContext"):
        count = int(context.get_http_request().args["count"])
        left = iter(range(count))

        async def send():
            for number in left:
                answer = await context.send_async("out", {"number": number, "pad": "x" * 60})
                if isinstance(answer, str):
                    raise RuntimeError(answer)

        began = time.perf_counter()
        await asyncio.gather(*(send() for _ in range(256)))
        return str(count / (time.perf_counter() - began))
"""

WAKER = """
    import time

    def tell(context: "UserContext"):
        now = time.time()
        import socket

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(str(now).encode(), ("127.0.0.1", %d))
"""


ALERTER = """
    import json

    def alert(context: "UserContext"):
        record = json.loads(context.get_binding_request().data)
        labels = {"alertname": "ServerError", "severity": "critical", "pod": record["pod"]}
        context.send("alerts", json.dumps([{"labels": labels, "annotations": {"message": record["log"]}}]))
"""


def record(number: int, size: int) -> bytes:
    """Return a JSON record of `size` bytes; numbers of one key rise."""
    body = json.dumps({"key": number % KEYS, "number": number, "pad": ""})
    return f'{body[:-2]}{"x" * (size - len(body))}"}}'.encode()


class Broker:
    """A Kafka with topics full of records."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._topics = 0

    def topic(self, records: int, size: int) -> str:
        """Return a new topic with PARTITIONS partitions, filled."""
        from confluent_kafka import Producer
        from confluent_kafka.admin import AdminClient
        from confluent_kafka.cimpl import NewTopic

        self._topics += 1
        name = f"bench-{self._topics}"
        client: dict[str, str | int | float | bool] = {"bootstrap.servers": self.address, "log_level": 2}
        admin = AdminClient(client)  # named, since it must live until the answer
        admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result()
        buffer = {"linger.ms": 5, "queue.buffering.max.messages": 1_000_000, "enable.idempotence": True}
        producer = Producer({**client, **buffer})
        for number in range(records):
            producer.produce(name, record(number, size), key=str(number % KEYS))
        producer.flush()
        return name

    def bare(self, topic: str, records: int, source: Path) -> float:
        """Read a topic with the client library alone; returns records a second."""
        return float(_alone("kafka", self.address, topic, records, source))


def _alone(kind: str, address: str, topic: str, count: int, source: Path) -> str:
    """Run a bare loop in a process of its own, where nothing else takes the interpreter's lock."""
    command = [sys.executable, "-m", "bench.events", "--bare", kind, address, topic, str(count), str(source)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout


def bare_kafka(address: str, topic: str, count: int, source: str) -> float:
    """Consume in a loop around the function; returns records a second after the first tenth."""
    from confluent_kafka import Consumer

    handle = _handler(source)
    settings = {"bootstrap.servers": address, "group.id": f"bare-{topic}", "auto.offset.reset": "earliest"}
    consumer = Consumer({**settings, "log_level": 2})
    consumer.subscribe([topic])
    first, seen, began = int(count * WARM), 0, 0.0
    while seen < count:
        message = consumer.poll(1.0)
        if message is None or message.error() is not None:
            continue
        handle(message.value())
        seen += 1
        if seen == first:
            began = time.perf_counter()
    took = time.perf_counter() - began
    consumer.close()
    return (count - first) / took


async def bare_nats(url: str, topic: str, count: int) -> float:
    """The same with nats-py's pull subscription, each message acknowledged."""
    import nats

    client = await nats.connect(url)
    subscription = await client.jetstream().pull_subscribe(topic, f"bare-{topic}")
    first, seen, began = int(count * WARM), 0, 0.0
    while seen < count:
        for message in await subscription.fetch(256, timeout=5):
            json.loads(message.data)["number"]
            await message.ack()
            seen += 1
            if seen == first:
                began = time.perf_counter()
    await client.flush()
    took = time.perf_counter() - began
    await client.close()
    return (count - first) / took


def _handler(source: str) -> Any:
    space: dict[str, Any] = {}
    exec(compile((Path(source) / "main.py").read_text(), source, "exec"), space)
    return space["handle"]


def bare_output(address: str, topic: str, count: int) -> float:
    """Publish the envelopes that an output would; returns records a second, all of them confirmed."""
    from confluent_kafka import Producer

    settings = {"bootstrap.servers": address, "acks": "all", "enable.idempotence": True, "linger.ms": 1}
    producer = Producer({**settings, "log_level": 2})
    confirmed = 0

    def confirm(error: Any, _record: Any) -> None:
        nonlocal confirmed
        confirmed += error is None

    began = time.perf_counter()
    for number in range(count):
        envelope = {
            "specversion": "1.0",
            "id": str(uuid.uuid4()),
            "source": "default/bare",
            "type": "com.dapr.event.sent",
            "time": datetime.now(UTC).isoformat(),
            "datacontenttype": "application/json",
            "topic": topic,
            "pubsubname": "out",
            "data": {"number": number, "pad": "x" * 60},
        }
        producer.produce(topic, json.dumps(envelope), on_delivery=confirm)
        producer.poll(0)
    producer.flush()
    took = time.perf_counter() - began
    if confirmed != count:
        raise RuntimeError(f"{count - confirmed} records are not confirmed")
    return count / took


class Runtime:
    """Asks the runtime process what has been delivered."""

    def __init__(self, platform: Platform) -> None:
        self._path = str(platform.home.run_directory() / "runtime.sock")

    async def __aenter__(self) -> Runtime:
        """Connect."""
        self._peer = await wire.connect(self._path, name="bench")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Close."""
        await self._peer.close()

    async def counters(self, function: str) -> Mapping[str, Any]:
        """Return the counters of a function's subscription; {} before it is there."""
        stats = await self._peer.call("stats", {})
        return next((item for item in stats["subscriptions"] if item["function"] == function), {})

    async def rate(self, function: str, count: int) -> float:
        """Return events a second from the first tenth to the last of `count`."""
        first, at, seen = int(count * WARM), 0.0, 0
        async with asyncio.timeout(90):
            while True:
                counters = await self.counters(function)
                now = time.perf_counter()
                delivered = counters.get("delivered", 0)
                if counters.get("failed"):
                    raise RuntimeError(f"{function}: {counters['failed']} events failed: lost order")
                if not at and delivered >= first:
                    at, seen = now, delivered
                if delivered >= count:
                    if delivered > count:
                        raise RuntimeError(f"{function}: {delivered} of {count} events delivered")
                    return float((delivered - seen) / (now - at))
                await asyncio.sleep(0.03)


def manifest(
    name: str, source: Path, trigger: Mapping[str, Any], *, target: str, workers: int, **serving: Any
) -> dict[str, Any]:
    """Return a Function with one Dapr trigger and a fixed number of instances."""
    return {
        "apiVersion": "core.openfunction.io/v1beta2",
        "kind": "Function",
        "metadata": {"name": name, "namespace": "default", "annotations": {CONVENTION: "openfunction"}},
        "spec": {
            "version": "v1",
            "image": f"localhost/{name}:latest",
            "build": {"builder": "pelton", "env": {"FUNC_NAME": target}, "srcRepo": {"url": source.as_uri()}},
            "serving": {
                "triggers": {"dapr": [trigger] if trigger else []},
                "scaleOptions": {"minReplicas": workers, "maxReplicas": workers},
                **serving,
            },
        },
    }


def kafka_input(broker: str, topic: str) -> dict[str, Any]:
    """Return the component of an input binding."""
    metadata = {
        "brokers": broker,
        "topics": topic,
        "consumerGroup": f"ours-{topic}",
        "initialOffset": "oldest",
        "authType": "none",
    }
    items = [{"name": name, "value": value} for name, value in metadata.items()]
    return {"type": "bindings.kafka", "version": "v1", "metadata": items}


async def kafka_rows(running: Platform, runtime: Runtime, broker: Broker, source: Path) -> list[Row]:
    """Kafka to a function."""
    found: list[Row] = []
    for size, workers in ((100, 1), (100, 2), (1000, 1), (1000, 2)):
        ours: list[float] = []
        peer: list[float] = []
        for _ in range(ROUNDS):
            count = RECORDS[size]
            topic = await asyncio.to_thread(broker.topic, count, size)
            peer.append(await asyncio.to_thread(broker.bare, topic, count, source))
            function = f"k-{topic}"
            made = manifest(
                function,
                source,
                {"name": "in", "type": "bindings.kafka"},
                target="count",
                workers=workers,
                bindings={"in": kafka_input(broker.address, topic)},
            )
            async with deployed(running, made):
                ours.append(await runtime.rate(function, count))
            print(f"{function}: {size} bytes, {workers}: {ours[-1]:.0f} {peer[-1]:.0f}", file=sys.stderr)
        note = f"{PARTITIONS} partitions, {RECORDS[size]} records, in order per key"
        found.append(
            Row(
                f"Kafka to a function, {size} bytes, {workers} worker{'s' if workers > 1 else ''}",
                statistics.median(ours),
                statistics.median(peer),
                "1/s",
                ">= 0.6",
                spread(ours, peer),
                note,
            )
        )
    return found


async def nats_rows(running: Platform, runtime: Runtime, source: Path) -> list[Row]:
    """JetStream to a function."""
    import nats

    ours: list[float] = []
    peer: list[float] = []
    url = running.endpoints["nats"]
    client = await nats.connect(url)
    try:
        for turn in range(ROUNDS):
            topic = f"bench{turn}"
            stream = client.jetstream()
            await stream.add_stream(name=topic, subjects=[topic])
            for first in range(0, MESSAGES, 500):
                await asyncio.gather(
                    *(stream.publish(topic, record(number, 100)) for number in range(first, first + 500))
                )
            peer.append(float(await asyncio.to_thread(_alone, "nats", url, topic, MESSAGES, source)))
            function = f"n-{topic}"
            made = manifest(
                function,
                source,
                {"name": "in", "type": "pubsub.jetstream", "topic": topic},
                target="count_topic",
                workers=1,
                pubsub={"in": {"type": "pubsub.jetstream", "version": "v1", "metadata": []}},
            )
            async with deployed(running, made):
                ours.append(await runtime.rate(function, MESSAGES))
            print(f"{function}: {ours[-1]:.0f} {peer[-1]:.0f}", file=sys.stderr)
    finally:
        await client.close()
    note = f"{MESSAGES} messages of 100 bytes"
    return [
        Row(
            "JetStream to a function, 1 worker",
            statistics.median(ours),
            statistics.median(peer),
            "1/s",
            ">= 0.6",
            spread(ours, peer),
            note,
        )
    ]


async def output_rows(running: Platform, broker: Broker) -> list[Row]:
    """A function's outputs to Kafka."""
    ours: list[float] = []
    peer: list[float] = []
    source = write_function(running.root / "sender", SENDER)
    topic = await asyncio.to_thread(broker.topic, 0, 0)
    items = [{"name": "brokers", "value": broker.address}, {"name": "authType", "value": "none"}]
    made = manifest(
        "sender",
        source,
        {},
        target="fan_out",
        workers=1,
        triggers={"http": {"port": 8080}},
        outputs=[{"dapr": {"name": "out", "type": "pubsub.kafka", "topic": topic}}],
        pubsub={"out": {"type": "pubsub.kafka", "version": "v1", "metadata": items}},
    )
    host, port = running.gateway
    address = f"http://{host}:{port}/default/sender/?count="
    async with deployed(running, made):
        await running.settled(1)
        for turn in range(ROUNDS + 1):
            answer = await asyncio.to_thread(_get, f"{address}{OUTPUTS if turn else 100}")
            if turn:
                ours.append(float(answer))
                peer.append(
                    float(await asyncio.to_thread(_alone, "output", broker.address, topic, OUTPUTS, source))
                )
    return [
        Row(
            "output to Kafka, acks all",
            statistics.median(ours),
            statistics.median(peer),
            "1/s",
            ">= 0.6",
            spread(ours, peer),
            "the peer builds the same envelopes and awaits nothing; 256 at a time for the function",
        )
    ]


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode()
        return text


async def zero_rows(running: Platform, broker: Broker) -> list[Row]:
    """From a record to the first line of a function at zero."""
    from confluent_kafka import Producer

    waited: list[float] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind(("127.0.0.1", 0))
        heard.settimeout(20)
        source = write_function(running.root / "waker", WAKER % heard.getsockname()[1])
        topic = await asyncio.to_thread(broker.topic, 0, 0)
        made = manifest(
            "waker",
            source,
            {"name": "in", "type": "bindings.kafka"},
            target="tell",
            workers=0,
            bindings={"in": kafka_input(broker.address, topic)},
        )
        made["spec"]["serving"]["scaleOptions"] |= {
            "maxReplicas": 1,
            "keda": {"scaledObject": {"cooldownPeriod": 1}},
        }
        producer = Producer({"bootstrap.servers": broker.address, "linger.ms": 0, "log_level": 2})
        async with deployed(running, made):
            for turn in range(WAKES + 1):
                began = time.time()
                producer.produce(topic, str(began))
                producer.flush()
                told = float(await asyncio.to_thread(heard.recv, 100))
                if turn:  # the first one also waits for the group to be joined
                    waited.append((told - began) * 1000)
                async with asyncio.timeout(60):
                    while (await running.workers()).get("waker"):
                        await asyncio.sleep(0.2)
    return [
        Row(
            "record to a function at zero: its first line, p50",
            statistics.median(waited),
            None,
            "ms",
            "ours <= 50",
            f"{min(waited):.0f}..{max(waited):.0f}",
            f"{WAKES} times",
        )
    ]


class Chat(http.server.BaseHTTPRequestHandler):
    """Stands for Slack: remembers when a request came."""

    heard: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def do_POST(self) -> None:
        """Take a message."""
        now = time.time()
        self.heard.put((now, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_args: object) -> None:
        """Write nothing."""


async def chat_rows(running: Platform, broker: Broker) -> list[Row]:
    """From a log record in Kafka, by a warm function and an alert, to the request at Slack."""
    from confluent_kafka import Producer

    source = write_function(running.root / "alerter", ALERTER)
    topic = await asyncio.to_thread(broker.topic, 0, 0)
    alerts = f"{running.endpoints['notify']}/api/v2/alerts"
    made = manifest(
        "alerter",
        source,
        {"name": "in", "type": "bindings.kafka"},
        target="alert",
        workers=1,
        outputs=[{"dapr": {"name": "alerts", "type": "bindings.http", "operation": "post"}}],
        bindings={
            "in": kafka_input(broker.address, topic),
            "alerts": {
                "type": "bindings.http",
                "version": "v1",
                "metadata": [{"name": "url", "value": alerts}],
            },
        },
    )
    producer = Producer({"bootstrap.servers": broker.address, "linger.ms": 0, "log_level": 2})
    waited: list[float] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Chat) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/services/bench"
        receiver = {
            "apiVersion": "notification.kubesphere.io/v2beta2",
            "kind": "Receiver",
            "metadata": {"name": "chat", "labels": {"type": "global"}},
            "spec": {"slack": {"webhook": {"value": url}}},
        }
        (running.root / "receiver.json").write_text(json.dumps(receiver))
        words = [sys.executable, "-m", "pelton.cli.main", "apply", "-f", str(running.root / "receiver.json")]
        env = os.environ | {"PELTON_HOME": str(running.home.path)}
        await asyncio.to_thread(subprocess.run, words, check=True, env=env, stdout=subprocess.DEVNULL)
        async with deployed(running, made):
            await running.settled(1)
            for turn in range(ALERTS + 1):
                line = {"log": '"GET / HTTP/1.1" 500', "pod": f"shop-{turn}"}
                began = time.time()
                producer.produce(topic, json.dumps(line))
                producer.flush()
                at, message = await asyncio.to_thread(Chat.heard.get, True, 30)
                if f"shop-{turn}" not in message.decode():
                    raise RuntimeError(f"another alert than expected: {message[:200]!r}")
                if turn:  # the first one also waits for the group to be joined
                    waited.append((at - began) * 1000)
                await asyncio.sleep(1.1)  # a webhook of Slack's takes one message a second
        server.shutdown()
    return [
        Row(
            "log record in Kafka to the request at Slack, warm, p50",
            statistics.median(waited),
            None,
            "ms",
            "ours <= 100",
            f"{min(waited):.0f}..{max(waited):.0f}",
            f"{ALERTS} times",
        )
    ]


@contextlib.asynccontextmanager
async def deployed(running: Platform, made: dict[str, Any]) -> AsyncIterator[None]:
    """Have a Function for a while."""
    name = made["metadata"]["name"]
    async with running.api() as api:
        await api.create(made)
    try:
        yield
    finally:
        async with running.api() as api:
            await api.delete(name)


async def measure() -> list[Row]:
    """Run all sections on one platform and one broker."""
    from tests.services.table import SERVERS, started

    if reason := SERVERS["kafka"].missing():
        return [Row("events", None, None, "1/s", note=f"Kafka cannot be started: {reason}")]
    os.environ["PELTON_KAFKA_JIT"] = "1"
    with started("kafka") as server:
        broker = Broker(server.address)
        async with platform() as running, Runtime(running) as runtime:
            source = write_function(running.root / "source", HANDLER)
            found = await kafka_rows(running, runtime, broker, source)
            found += await nats_rows(running, runtime, source)
            found += await output_rows(running, broker)
            found += await zero_rows(running, broker)
            found += await chat_rows(running, broker)
            return found


def rows() -> list[Row]:
    """Measure and return the lines for the table."""
    return asyncio.run(measure())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bare", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        kind, address, topic, count, source = options.bare
        if kind == "kafka":
            print(bare_kafka(address, topic, int(count), source))
        elif kind == "output":
            print(bare_output(address, topic, int(count)))
        else:
            print(asyncio.run(bare_nats(address, topic, int(count))))
    else:
        print(render(rows()))
