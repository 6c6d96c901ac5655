import asyncio
import json
import logging
import zlib

import pytest

from pelton.sdk import trace_sender
from pelton.sdk.trace_codec import Segment, Skywalking, Span
from pelton.sdk.trace_export import Exporter, Settings

TRACE = "0af7651916cd43dd8448eb211c80319c"


def segment(**more):
    entry = Span(
        name="f",
        kind="server",
        span_id="a" * 16,
        parent_id="b" * 16,
        start_ns=1_000_000_000,
        end_ns=1_500_000_000,
    )
    out = Span(
        name="out publish",
        kind="producer",
        span_id="c" * 16,
        parent_id="a" * 16,
        number=1,
        start_ns=1_100_000_000,
        end_ns=1_200_000_000,
        peer="bus",
        tags={"component": "bus"},
        error="stream is full",
    )
    return Segment(trace_id=TRACE, sky_trace_id="T", segment_id="S", spans=[entry, out], **more)


class Collector:
    """An HTTP server that keeps what it gets."""

    def __init__(self):
        self.address = ""
        self.requests = []
        self.status = b"200 OK"
        self.came = asyncio.Event()
        self.hold: asyncio.Event | None = None

    async def serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers["Content-Length"]))
        if self.hold is not None:
            await self.hold.wait()
        self.requests.append((first, headers, body))
        writer.write(b"HTTP/1.1 " + self.status + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        self.came.set()


@pytest.fixture
async def collector(monkeypatch):
    monkeypatch.setattr(trace_sender, "_DELAY_S", 0.01)
    collector = Collector()
    server = await asyncio.start_server(collector.serve, "127.0.0.1", 0)
    collector.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield collector
    server.close()
    await server.wait_closed()


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "function.f")
    return caplog


@pytest.fixture
async def exporter():
    made = []

    async def make(**settings):
        found = Exporter(
            Settings(**{"provider": "opentelemetry", "function": "f", "namespace": "shop"} | settings),
            logging.getLogger("function.f"),
        )
        await found.start()
        made.append(found)
        return found

    yield make
    for found in made:
        await found.stop()


async def test_otlp_goes_to_the_endpoint_with_its_headers(collector, exporter):
    found = await exporter(
        exporter={"endpoint": collector.address, "headers": "x-key=a%20b,bad", "compression": "gzip"},
        tags={"layer": "faas", "func": "own"},
    )

    found.offer(segment())
    async with asyncio.timeout(30):
        await collector.came.wait()

    first, headers, body = collector.requests[0]
    assert first == "POST /v1/traces HTTP/1.1"
    assert (headers["x-key"], headers["Content-Type"]) == ("a b", "application/json")
    resource = json.loads(zlib.decompress(body, wbits=31))["resourceSpans"][0]
    attributes = {item["key"]: item["value"]["stringValue"] for item in resource["resource"]["attributes"]}
    assert (attributes["service.name"], attributes["service.namespace"]) == ("f", "shop")
    entry, out = resource["scopeSpans"][0]["spans"]
    assert (entry["traceId"], entry["spanId"], entry["parentSpanId"], entry["kind"]) == (
        TRACE,
        "a" * 16,
        "b" * 16,
        2,
    )
    assert (entry["startTimeUnixNano"], entry["endTimeUnixNano"]) == ("1000000000", "1500000000")
    tags = {item["key"]: item["value"]["stringValue"] for item in entry["attributes"]}
    assert tags == {"func": "own", "instance": found.instance, "namespace": "shop", "layer": "faas"}
    assert (out["kind"], out["parentSpanId"], out["status"]) == (
        4,
        "a" * 16,
        {"code": 2, "message": "stream is full"},
    )


async def test_skywalking_gets_segments_with_the_reference_to_the_caller(collector, exporter):
    found = await exporter(provider="skywalking", oap_server=f"http://{collector.address}/")
    caller = Skywalking(
        trace_id="T", segment_id="P", span_id=2, service="g", instance="i", endpoint="/e", address="bus"
    )

    found.offer(segment(caller=caller))
    async with asyncio.timeout(30):
        await collector.came.wait()

    first, _, body = collector.requests[0]
    assert first == "POST /v3/segments HTTP/1.1"
    (sent,) = json.loads(body)
    assert (sent["traceId"], sent["traceSegmentId"], sent["service"]) == ("T", "S", "f")
    entry, out = sent["spans"]
    assert (entry["spanLayer"], entry["componentId"], entry["parentSpanId"]) == ("FAAS", 5013, -1)
    assert entry["refs"][0]["parentTraceSegmentId"] == "P"
    assert {"func", "instance", "namespace"} <= {tag["key"] for tag in entry["tags"]}
    assert (out["spanType"], out["peer"], out["isError"], out["parentSpanId"]) == ("Exit", "bus", True, 0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"exporter": {"endpoint": "collector:4317", "protocol": "grpc"}},
        {"provider": "skywalking", "oap_server": "oap:11800"},
    ],
    ids=["nothing", "grpc", "oap"],
)
async def test_without_an_endpoint_each_trace_is_one_line(exporter, log, settings):
    found = await exporter(**settings)

    found.offer(segment())

    (line,) = [record.getMessage() for record in log.records]
    said = json.loads(line.removeprefix("trace "))
    assert (said["traceId"], said["durationMs"], said["tags"]["func"]) == ("T", 500.0, "f")
    assert said["outputs"] == [
        {"name": "out publish", "spanId": "c" * 16, "durationMs": 100.0, "error": "stream is full"}
    ]


async def test_many_travel_together_and_nothing_runs_afterwards(collector, exporter):
    found = await exporter(exporter={"endpoint": collector.address})

    for _ in range(100):
        found.offer(segment())
    async with asyncio.timeout(30):
        while found.sent < 100:
            await asyncio.sleep(0.005)

    assert len(collector.requests) == 1
    assert found._sender is not None
    assert found._sender._timer is None


async def test_threads_may_offer(collector, exporter):
    found = await exporter(exporter={"endpoint": collector.address})

    await asyncio.gather(*(asyncio.to_thread(found.offer, segment()) for _ in range(20)))
    async with asyncio.timeout(30):
        while found.sent < 20:
            await asyncio.sleep(0.005)

    assert found.dropped == 0


async def test_full_queue_drops_and_counts(collector, exporter, monkeypatch):
    monkeypatch.setattr(trace_sender, "QUEUE_LIMIT", 3)
    monkeypatch.setattr(trace_sender, "_DELAY_S", 3600)
    found = await exporter(exporter={"endpoint": collector.address})

    for _ in range(5):
        found.offer(segment())

    assert found.dropped == 2


async def test_collector_that_refuses_loses_the_batch_and_says_so_once(collector, exporter, log):
    collector.status = b"503 Unavailable"
    found = await exporter(exporter={"endpoint": collector.address})

    for expected in (1, 2):
        found.offer(segment())
        async with asyncio.timeout(30):
            while found.dropped < expected:
                await asyncio.sleep(0.005)
    collector.status = b"202 Accepted"
    found.offer(segment())
    async with asyncio.timeout(30):
        while found.sent < 1:
            await asyncio.sleep(0.005)

    said = [record.getMessage() for record in log.records]
    assert len(said) == 2
    assert "503 Unavailable" in said[0]
    assert "2 were lost" in said[1]


async def test_collector_that_hangs_costs_its_timeout_only(collector, exporter):
    collector.hold = asyncio.Event()
    found = await exporter(exporter={"endpoint": collector.address, "timeout": "50ms"})

    found.offer(segment())
    async with asyncio.timeout(30):
        while found.dropped < 1:
            await asyncio.sleep(0.005)
    collector.hold.set()


async def test_what_is_queued_goes_out_when_the_instance_ends(collector, exporter, monkeypatch):
    monkeypatch.setattr(trace_sender, "_DELAY_S", 3600)
    found = await exporter(exporter={"endpoint": f"http://{collector.address}/own/path"})
    found.offer(segment())

    await found.stop()

    assert (found.sent, collector.requests[0][0]) == (1, "POST /own/path HTTP/1.1")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("500ms", 0.5), ("2500", 2.5), ("1m", 60), ("", 10), ("soon", 10), ("1.5s", 1.5)],
)
def test_timeout_is_a_duration_or_milliseconds(text, seconds):
    assert trace_sender.timeout_s(text) == seconds
