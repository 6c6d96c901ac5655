"""EventSource, EventBus and Trigger on a whole platform, with the real brokers that they name."""

import asyncio
import json
import os
import signal
import threading
import time
import uuid
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from redis import Redis
from ruamel.yaml import YAML

from pelton.cli.client import Client
from pelton.cli.home import Home
from pelton.clock import SystemClock
from pelton.drivers.kafka import KafkaBus
from pelton.drivers.mqtt import MqttBus
from pelton.drivers.nats import JetStreamBus
from pelton.drivers.rabbitmq import RabbitMqBinding
from pelton.manifest.text import write
from pelton.model.cloudevent import from_message
from pelton.model.desired import Component
from pelton.ports import Message
from tests.contract.nats_server import NatsServer
from tests.e2e.conftest import Platform

pytestmark = [pytest.mark.connected, pytest.mark.long, pytest.mark.timeout(200)]

EXAMPLES = Path(__file__).parents[2] / "examples"
API = "events.openfunction.io/v1alpha1"
ECHO = """
from functions_framework.context.user_context import UserContext

def main(context: UserContext):
    request = context.get_http_request()
    print("got", request.headers.get("ce-id"), request.get_data(as_text=True), flush=True)
    return "ok"
"""


class Sink:
    """An HTTP server that notes what is posted: path -> bodies."""

    def __init__(self):
        self.got: list[tuple[str, str, dict[str, str]]] = []
        noted = self.got

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                noted.append((self.path, body.decode(), dict(self.headers)))
                self.send_response(500 if self.path.endswith("/broken") else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format, *args):
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def bodies(self, path):
        return [body for to, body, _ in self.got if to == path]

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def sink():
    found = Sink()
    yield found
    found.close()


@pytest.fixture(scope="module")
def other_nats(tmp_path_factory):
    found = NatsServer(tmp_path_factory.mktemp("nats"))
    asyncio.run(found.start())
    yield found
    found.kill()


@pytest.fixture(scope="module")
def samples_sink():
    found = Sink()
    yield found
    found.close()


@pytest.fixture(scope="module")
def aliased(scratch, kafka, redis, mosquitto, other_nats, samples_sink):
    """A platform on which host names of the public manifests stand for servers of this run."""
    names = {
        "kafka-server-kafka-brokers:9092": kafka.address,
        "redis-server-master:6379": redis.address,
        "mosquitto:1883": mosquitto.address,
        "nats.default:4222": f"127.0.0.1:{other_nats.port}",
        "openfunction.io.svc.cluster.local": samples_sink.url.removeprefix("http://"),
    }
    platform = Platform(scratch())
    try:
        platform.start(
            *(word for name, address in names.items() for word in ("--alias", f"{name}={address}"))
        )
        yield platform
        platform.stop()
    finally:
        platform.discard()


def obj(kind, name, spec, **metadata):
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


def apply(platform, *objects, name="events.yaml"):
    file = platform.root / name
    file.write_text(write(objects))
    return platform.cli("apply", "-f", file)


def stored(platform, kind):
    """Return all objects of a kind, asked without a process, for it is polled."""
    with Client(Home(platform.home)) as api:
        return api.list(api.resource(f"{kind}.events.openfunction.io"), None)["items"]


def last_condition(item):
    return ((item.get("status") or {}).get("conditions") or [{}])[-1]


def until_ready(platform):
    """Wait until all EventSources and Triggers are Ready."""
    left: dict[str, object] = {}

    def all_ready():
        left.clear()
        for item in [*stored(platform, "eventsources"), *stored(platform, "triggers")]:
            if last_condition(item).get("type") != "Ready":
                left[item["metadata"]["name"]] = last_condition(item)
        return not left

    try:
        platform.until("ready", all_ready, timeout_s=60, every_s=0.1)
    except AssertionError:
        pytest.fail(f"not ready: {left}")


def post(platform, path, data, **headers):
    answer = httpx.post(
        f"{platform.endpoints['notify']}{path}", content=data, headers=headers, trust_env=False
    )
    assert answer.status_code == 202, answer.text


WANTED = {
    "records": "record",
    "messages": "message",
    "entries": "entry",
    "mails": "mail",
    "billing": "paid",
    "hook": "posted",
    "lines": "got",
    "tick": "",
}
"""Event -> what the body of one of its events holds."""
BUSES = ("default", "stan", "records")
KAFKA = "kafka-server-kafka-brokers.default.svc.cluster.local:9092"
STAN = {
    "natsURL": 'nats://pelton:se"cret@nats.default:4222',
    "natsStreamingClusterID": "stan",
    "subscriptionType": "queue",
    "durableSubscriptionName": "ImDurable",
}


def test_public_manifests_become_ready_and_work_as_they_are(aliased, samples_sink, kafka):
    """A source with bus and sink, NATS Streaming as the bus, and a Trigger: their fields, own names."""
    platform, tag = aliased, uuid.uuid4().hex[:8]
    answer = "http://openfunction.io.svc.cluster.local/default"
    input_ = {"namespace": "default", "eventSource": "my-eventsource", "event": "sample-one"}
    records = {"brokers": KAFKA, "topic": f"events-sample-{tag}", "authRequired": False}
    asyncio.run(_send_record(kafka, f"events-sample-{tag}", b'{"message": "hello"}'))
    applied = apply(
        platform,
        obj("EventBus", "samples", {"natsStreaming": STAN}),
        obj(
            "EventSource",
            "my-eventsource",
            {
                "logLevel": "2",
                "eventBus": "samples",
                "kafka": {
                    "sample-one": {**records, "metadata": [{"name": "initialOffset", "value": "oldest"}]}
                },
                "sink": {"uri": f"{answer}/sink"},
            },
        ),
        obj(
            "Trigger",
            "my-trigger",
            {
                "logLevel": "2",
                "eventBus": "samples",
                "inputs": {"inputDemo": input_},
                "subscribers": [
                    {"condition": "inputDemo", "sink": {"uri": f"{answer}/metrics"}, "topic": "metrics"},
                    {
                        "condition": "inputDemo",
                        "sink": {"uri": f"{answer}/broken"},
                        "deadLetterSink": {"uri": f"{answer}/dead"},
                    },
                ],
            },
            annotations={"pelton.dev/max-attempts": "2"},
        ),
        name="samples.yaml",
    )
    until_ready(platform)

    for path in ("sink", "metrics", "dead"):
        platform.until(
            path, lambda path=path: samples_sink.bodies(f"/default/{path}") == ['{"message": "hello"}']
        )
    assert f"note: {KAFKA} stands for {kafka.address}" in applied.text
    delete_all(platform)


async def _send_record(kafka, topic, data):
    async with KafkaBus({"brokers": kafka.address, "authType": "none"}) as broker:
        await broker.publish(Message(topic=topic, data=data))


def delete_all(platform):
    with Client(Home(platform.home)) as api:
        for plural in ("triggers", "eventsources", "eventbuses", "clustereventbuses"):
            kind = api.resource(f"{plural}.events.openfunction.io")
            for item in api.list(kind, None)["items"]:
                metadata = item["metadata"]
                api.delete(kind, metadata.get("namespace", ""), metadata["name"])


def test_every_kind_of_source_reaches_a_sink_over_each_bus(
    aliased, sink, kafka, redis, mosquitto, rabbitmq, other_nats
):
    """The sources and buses of the public manifests, and Pelton's own, against real servers."""
    platform = aliased
    tag = uuid.uuid4().hex[:8]
    nats_url = f'nats://pelton:se"cret@127.0.0.1:{other_nats.port}'
    platform.apply("sink", ECHO)

    def source(bus):
        """Return an EventSource; names of consumers are made of its events' names."""
        records = {
            "brokers": KAFKA,
            "topic": f"records-{tag}",
            "authRequired": False,
            "metadata": [{"name": "initialOffset", "value": "oldest"}],
        }
        spec = {
            "kafka": {f"records-{bus}": records},
            "mqtt": {f"messages-{bus}": {"url": "tcp://mosquitto:1883", "topic": f"t/{tag}", "qos": 1}},
            "redis": {
                f"entries-{bus}": {
                    "redisHost": "redis-server-master:6379",
                    "redisPassword": "",
                    "stream": f"s-{tag}",
                }
            },
            "rabbitmq": {f"mails-{bus}": {"host": rabbitmq.url, "queueName": f"q-{tag}-{bus}"}},
            "nats": {f"billing-{bus}": {"url": nats_url, "subject": f"billing.{tag}"}},
            "http": {f"hook-{bus}": {}},
            "logs": {f"lines-{bus}": {"function": "sink"}},
            "cron": {f"tick-{bus}": {"schedule": "@every 1s"}},
        }
        return obj("EventSource", f"from-{bus}", {"eventBus": bus, **spec})

    def trigger(bus):
        inputs = {what: {"eventSource": f"from-{bus}", "event": f"{what}-{bus}"} for what in WANTED}
        subscribers = [{"condition": what, "sink": {"uri": f"{sink.url}/{bus}/{what}"}} for what in WANTED]
        return obj("Trigger", f"on-{bus}", {"eventBus": bus, "inputs": inputs, "subscribers": subscribers})

    function = {"apiVersion": "core.openfunction.io/v1beta1", "kind": "Function", "name": "sink"}
    asyncio.run(_make_stream(nats_url, f"billing.{tag}"))
    asyncio.run(_send_record(kafka, f"records-{tag}", b"record"))
    apply(
        platform,
        obj("EventBus", "stan", {"natsStreaming": STAN}),
        obj("ClusterEventBus", "records", {"kafka": {"brokers": KAFKA, "authRequired": False}}),
        obj("EventSource", "to-function", {"sink": {"ref": function}, "http": {"hook": {}}}),
        *map(source, BUSES),
        *map(trigger, BUSES),
    )
    until_ready(platform)
    asyncio.run(_send_everywhere(mosquitto, rabbitmq, nats_url, tag))
    with Redis(port=redis.port, protocol=2) as client:
        client.xadd(f"s-{tag}", {"data": "entry"})
    text = {"content-type": "text/plain"}
    post(platform, "/events/default/to-function/hook", b"hello", **text)
    for bus in BUSES:
        post(platform, f"/events/default/from-{bus}/hook-{bus}", b"posted", **text)
    missing: list[tuple[str, str]] = []

    def arrived():
        missing[:] = [
            (bus, what)
            for bus in BUSES
            for what, body in WANTED.items()
            if not any(body in found for found in sink.bodies(f"/{bus}/{what}"))
        ]
        return not missing

    try:
        platform.until("all events", arrived, timeout_s=40, every_s=0.5)
    except AssertionError:
        pytest.fail(f"missing: {missing}")
    platform.until("function as sink", lambda: "hello" in platform.logs("sink"))
    delete_all(platform)


async def _make_stream(nats_url, subject):
    async with JetStreamBus(nats_url, settings={"createStreams": "true"}, embedded=False) as bus:
        await bus.stream_of(subject)


async def _send_everywhere(mosquitto, rabbitmq, nats_url, tag):
    def component(**metadata):
        return Component(namespace="e2e", name="e2e", type="", metadata=metadata)

    async with MqttBus(component(url=mosquitto.url), clock=SystemClock()) as sessions:
        await sessions.publish(Message(topic=f"t/{tag}", data=b"message"))
    for name in BUSES:
        queue = RabbitMqBinding(component(host=rabbitmq.url, queueName=f"q-{tag}-{name}"))
        await queue.invoke("create", b"mail", {})
        await queue.close()
    async with JetStreamBus(nats_url, embedded=False) as streams:
        await streams.publish(Message(topic=f"billing.{tag}", data=b"paid"))


def test_example_shows_what_it_promises(aliased):
    platform, example = aliased, EXAMPLES / "21-trigger"
    expected = YAML(typ="safe", pure=True).load((example / "expect.yaml").read_text())
    platform.cli("apply", "-f", example / "shipper", "--wait")
    platform.cli("apply", "-f", example / "events.yaml")
    until_ready(platform)

    for one in expected["posted"]:
        body = json.dumps(one["send"]).encode()
        post(platform, f"/events/default/shop/{one['event']}", body, **{"content-type": "application/json"})
        printed = platform.cli("topic", "tail", one["topic"], "--since", "1h", "--count", "1").out
        found = from_message({}, printed.partition("  ")[2].encode())
        assert found is not None
        assert json.loads(found.data) == one["send"]
        if "shows" in one:
            platform.until(one["shows"], lambda one=one: one["shows"] in platform.logs("shipper"))
    delete_all(platform)


def kill(platform, part):
    os.kill(platform.part(part)["pid"], signal.SIGKILL)


def test_conditions_hold_and_no_event_is_lost_while_parts_are_killed(aliased, sink):
    """Between input and firing dies the runtime; then runtime and bus die while events come."""
    platform = aliased
    apply(
        platform,
        obj("EventSource", "pair", {"eventBus": "default", "http": {"left": {}, "right": {}, "many": {}}}),
        obj(
            "Trigger",
            "pair",
            {
                "eventBus": "default",
                "inputs": {
                    "left": {"eventSource": "pair", "event": "left"},
                    "right": {"eventSource": "pair", "event": "right"},
                    "many": {"eventSource": "pair", "event": "many"},
                },
                "subscribers": [
                    {"condition": "left && right", "sink": {"uri": f"{sink.url}/both"}, "topic": "both"},
                    {"condition": "many", "sink": {"uri": f"{sink.url}/many"}},
                    {
                        "condition": "many",
                        "sink": {"uri": f"{sink.url}/broken"},
                        "deadLetterSink": {"uri": f"{sink.url}/dead"},
                    },
                ],
            },
            annotations={"pelton.dev/max-attempts": "1"},
        ),
        name="pair.yaml",
    )
    until_ready(platform)
    post(platform, "/events/default/pair/left", b"first")
    platform.until("state of left", lambda: _input(platform, "pair", "left")["true"])
    kill(platform, "runtime")
    platform.until("intake again", lambda: _posted(platform, "/events/default/pair/right", b"second"))

    platform.until("both", lambda: sink.bodies("/both") == ["second"])
    shown = platform.cli("why", "trigger", "pair").text
    assert "left && right: holds; fires on the next event of left or right or many" in shown

    sent = [f"event {number}" for number in range(90)]
    for number, text in enumerate(sent):
        if number in (20, 60):
            kill(platform, "runtime")
        if number == 40:
            kill(platform, "nats")
        headers = {"ce-id": text, "ce-source": "test", "ce-type": "t", "ce-specversion": "1.0"}
        platform.until(
            "accepted",
            lambda text=text, headers=headers: _posted(
                platform, "/events/default/pair/many", text.encode(), **headers
            ),
        )
    platform.until("every event", lambda: set(sink.bodies("/many")) >= set(sent), timeout_s=60)
    platform.until("every dead letter", lambda: set(sink.bodies("/dead")) >= set(sent), timeout_s=60)
    # At least once: what was under way when a part died may have come twice, nothing else.
    assert sum(Counter(sink.bodies("/many")).values()) <= len(sent) + 3 * 64
    topic = platform.cli("topic", "tail", "both", "--since", "1h", "--count", "1").out
    found = from_message({}, topic.partition("  ")[2].encode())
    assert found is not None
    assert found.data == b"second"


def _posted(platform, path, data, **headers):
    try:
        post(platform, path, data, **headers)
    except (httpx.HTTPError, AssertionError):
        time.sleep(0.05)
        return False
    return True


def _input(platform, name, wanted):
    found = json.loads(platform.cli("why", "trigger", name, "-o", "json").out)["trigger"]
    return next(one for one in found["inputs"] if one["name"] == wanted)


def test_what_is_in_the_way_is_told_and_goes_away(aliased, sink):
    platform = aliased
    apply(
        platform,
        obj("EventSource", "lost", {"eventBus": "nowhere", "cron": {"tick": {"schedule": "@hourly"}}}),
        obj(
            "EventSource",
            "down",
            {"sink": {"uri": sink.url}, "kafka": {"e": {"brokers": "127.0.0.1:9", "authRequired": False}}},
        ),
        obj("EventSource", "never", {"sink": {"uri": sink.url}, "cron": {"tick": {"schedule": "sometimes"}}}),
        name="lost.yaml",
    )

    def reason(name):
        (found,) = [item for item in stored(platform, "eventsources") if item["metadata"]["name"] == name]
        last = last_condition(found)
        return last.get("type"), last.get("reason"), last.get("message", "")

    platform.until("no bus", lambda: reason("lost")[:2] == ("Error", "ErrorToFindExistEventBus"))
    platform.until("no broker", lambda: reason("down")[:2] == ("Error", "ErrorCreatingEventSource"))
    platform.until("no schedule", lambda: "not a schedule" in reason("never")[2])
    apply(platform, obj("EventBus", "nowhere", {}), name="bus.yaml")
    platform.until("ready", lambda: reason("lost")[0] == "Ready")
    delete_all(platform)
    refused = apply_refused(
        platform,
        obj(
            "Trigger",
            "wrong",
            {
                "eventBus": "default",
                "inputs": {"a": {"eventSource": "s", "event": "e"}},
                "subscribers": [{"condition": "a && b", "topic": "t"}],
            },
        ),
    )
    assert "spec.subscribers[0].condition: is no condition over the inputs: 1:6" in refused.text


def apply_refused(platform, *objects):
    file = platform.root / "refused.yaml"
    file.write_text(write(objects))
    return platform.cli("apply", "-f", file, code=None)
