"""The gateway with the real Envoy: routes, wakes from zero, failing sockets, restarts of either side, and
each feature of the Gateway API. Longer than other files, because all of it stands on one scripted site.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pelton.errors import GatewayError
from pelton.model.dapr_call import CalledApp, CallingApp, CallRules
from pelton.model.desired import Route
from pelton.model.resiliency import Resiliency, ResiliencyTarget
from pelton.model.routing import (
    EXTERNAL,
    INTERNAL,
    Backend,
    Certificate,
    Endpoint,
    FieldMatch,
    HeaderChanges,
    Match,
    Mirror,
    PathChange,
    PathMatch,
    Port,
    Redirect,
    Rewrite,
    RoutingState,
    Rule,
    StandaloneRoute,
    Upstream,
)
from pelton.plan.dapr_routing import app_ways
from pelton.targets.local.envoy import bootstrap, envoy_command
from pelton.targets.local.gateway import Gateway, Listener
from pelton.targets.local.gateway_config import ENDPOINTS, FUNCTION_HEADER, LISTENER_HEADER, NOBODY
from pelton.targets.local.xds import Change, RefusedError

pytestmark = [pytest.mark.connected, pytest.mark.timeout(60)]


@dataclass
class Request:
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    def value(self, name: str) -> str | None:
        return next(iter(self.values(name)), None)


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    wait: Awaitable[object] | None = None
    hang_up: bool = False

    def value(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


Handler = Callable[[Request], Answer]


async def read_message(reader: asyncio.StreamReader) -> tuple[str, list[tuple[str, str]], bytes] | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head[:-4].split("\r\n")
    headers = [(k, v.strip()) for k, _, v in (line.partition(":") for line in lines)]
    known = {k.lower(): v for k, v in headers}
    if known.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(known.get("content-length", "0")))
    return first, headers, body


class Worker:
    """An HTTP/1.1 server on a unix socket with a scripted handler."""

    def __init__(self, path: str, handler: Handler) -> None:
        self.path = path
        self.handler = handler
        self.requests: list[Request] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Worker":
        self._server = await asyncio.start_unix_server(self._serve, self.path, backlog=1024)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        Path(self.path).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while (message := await read_message(reader)) is not None:
                method, target, _ = message[0].split(" ")
                request = Request(method, target, *message[1:])
                self.requests.append(request)
                answer = self.handler(request)
                if answer.wait is not None:
                    await answer.wait
                if answer.hang_up:
                    break
                lines = [f"HTTP/1.1 {answer.status} x", f"content-length: {len(answer.body)}"]
                lines += [f"{k}: {v}" for k, v in answer.headers]
                writer.write("\r\n".join([*lines, "", ""]).encode() + answer.body)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


def says(text: str, status: int = 200) -> Handler:
    return lambda request: Answer(status, body=text.encode())


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.writer: asyncio.StreamWriter | None = None

    async def send(
        self,
        target: str,
        *,
        host: str = "other",
        method: str = "GET",
        headers: list[tuple[str, str]] | None = None,
        body: bytes = b"",
    ) -> Answer:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"{method} {target} HTTP/1.1", f"host: {host}", *(f"{k}: {v}" for k, v in headers or [])]
        if body:
            lines.append(f"content-length: {len(body)}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        message = await read_message(self.reader)
        assert message is not None, "connection closed without an answer"
        answer = Answer(int(message[0].split(" ")[1]), message[1], message[2])
        if answer.value("connection") == "close":
            await self.close()
        return answer

    async def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Site:
    """A run directory with Envoy, an activator and as many workers as a test asks for."""

    def __init__(self, run: str, port: int, stack: AsyncExitStack) -> None:
        self.run = run
        self.port = port
        self.stack = stack
        self.access_log = f"{run}/access.log"
        self.process: asyncio.subprocess.Process | None = None

    def socket(self, name: str) -> str:
        return f"{self.run}/{name}"

    def make_gateway(self, *further: Listener) -> Gateway:
        return Gateway(
            xds_socket=self.socket("xds.sock"),
            activator_socket=self.socket("activator.sock"),
            listeners=[Listener(host="127.0.0.1", port=self.port, access_log=self.access_log), *further],
            admin_socket=self.socket("admin.sock"),
        )

    async def start_envoy(self) -> None:
        path = Path(self.run) / "envoy.json"
        path.write_text(
            json.dumps(bootstrap(xds_socket=self.socket("xds.sock"), admin_socket=self.socket("admin.sock")))
        )
        log = await asyncio.to_thread(open, f"{self.run}/envoy.log", "ab")
        with log:
            self.process = await asyncio.create_subprocess_exec(
                *envoy_command(str(path), concurrency=1), stdout=log, stderr=log
            )

    async def stop_envoy(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def worker(self, name: str, handler: Handler) -> Worker:
        return await self.stack.enter_async_context(Worker(self.socket(name), handler))

    async def client(self) -> Client:
        client = Client(self.port)
        self.stack.push_async_callback(client.close)
        return client

    async def admin(self, path: str) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self.socket("admin.sock"))
        writer.write(f"GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
        message = await read_message(reader)
        writer.close()
        assert message is not None
        return message[2]

    def rss_mb(self) -> float:
        assert self.process
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@asynccontextmanager
async def running_site() -> AsyncIterator[tuple[Site, Gateway]]:
    run = tempfile.mkdtemp(prefix="pg-")
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, run, ignore_errors=True)
        site = Site(run, free_port(), stack)
        gateway = await stack.enter_async_context(site.make_gateway())
        stack.push_async_callback(site.stop_envoy)
        await site.start_envoy()
        await gateway.set_routes([])
        await gateway.ready(timeout_s=20)
        yield site, gateway


def route(name: str = "hello", **changes: object) -> Route:
    values: dict[str, object] = {
        "namespace": "default",
        "name": name,
        "hosts": (f"{name}.default.localhost",),
        "path": f"/default/{name}",
        "timeout_s": 30.0,
    }
    return Route(**(values | changes))  # type: ignore[arg-type]


async def test_route_added_answers_on_host_and_on_path():
    async with running_site() as (site, gateway):
        worker = await site.worker("w1", says("hi"))
        client = await site.client()
        await gateway.set_route(route())
        await gateway.set_endpoints("default", "hello", [worker.path])

        by_host = await client.send("/a%20b/../c//d?x=1", host=f"hello.default.localhost:{site.port}")
        by_path = await client.send("/default/hello/x?y")
        bare = await client.send("/default/hello")
        query = await client.send("/default/hello?q=/default/hello")
        doubled = await client.send("/default/hello//x")

        assert [a.status for a in (by_host, by_path, bare, query, doubled)] == [200] * 5
        assert [r.target for r in worker.requests] == [
            "/a%20b/../c//d?x=1",
            "/x?y",
            "/",
            "/?q=/default/hello",
            "//x",
        ]
        assert worker.requests[0].value("host") == f"hello.default.localhost:{site.port}"
        assert [r.value("x-forwarded-prefix") for r in worker.requests[:3]] == [
            None,
            "/default/hello",
            "/default/hello",
        ]
        assert all(r.values(FUNCTION_HEADER) == ["default/hello"] for r in worker.requests)


async def test_headers_of_platform_never_survive_from_client_and_none_of_envoys_reach_the_function():
    async with running_site() as (site, gateway):
        worker = await site.worker("w1", lambda r: Answer(200, [("server", "mine"), ("x-own", "1")], b"hi"))
        activator = await site.worker("activator.sock", says("no such function", 404))
        client = await site.client()
        await gateway.set_route(route())
        await gateway.set_endpoints("default", "hello", [worker.path])
        forged = [
            (FUNCTION_HEADER, "other/secret"),
            ("X-Pelton-Function", "other/second"),
            (LISTENER_HEADER, "x"),
            ("x-forwarded-prefix", "/evil"),
            ("x-envoy-upstream-rq-timeout-ms", "1"),
            ("x-envoy-retry-on", "5xx"),
            ("x-request-id", "0b5e1a30-0000-4000-8000-00000000000a"),
        ]

        by_host = await client.send("/", host="hello.default.localhost", headers=forged)
        await client.send("/default/hello", headers=forged)
        nobody = await client.send("/what/ever", headers=forged)

        first, second = worker.requests
        assert first.values(FUNCTION_HEADER) == second.values(FUNCTION_HEADER) == ["default/hello"]
        assert (first.values("x-forwarded-prefix"), first.values(LISTENER_HEADER)) == ([], [])
        assert second.values("x-forwarded-prefix") == ["/default/hello"]
        assert [k for k, _ in first.headers if k.startswith("x-envoy")] == []
        assert first.value("x-request-id") == "0b5e1a30-0000-4000-8000-00000000000a"
        assert first.values("x-forwarded-for") == ["127.0.0.1"]
        assert (by_host.value("server"), by_host.value("x-own")) == ("mine", "1")
        assert [k for k, _ in by_host.headers if k.startswith("x-envoy")] == []
        assert nobody.status == 404
        assert activator.requests[0].values(FUNCTION_HEADER) == [NOBODY]
        assert activator.requests[0].values(LISTENER_HEADER) == ["loopback"]


@pytest.mark.parametrize(
    "target",
    [
        "/default/hello2",
        "/default/hell",
        "//default/hello",
        "/default/%68ello",
        "/default%2Fhello",
        "/other/../default/hello",
        "/default/hello%2Fx",
        "/DEFAULT/hello",
    ],
)
async def test_path_that_only_resembles_a_prefix_goes_to_nobody(target):
    async with running_site() as (site, gateway):
        activator = await site.worker("activator.sock", says("no", 404))
        client = await site.client()
        await gateway.set_route(route())

        answer = await client.send(target)

        assert answer.status == 404
        assert [(r.target, r.value(FUNCTION_HEADER)) for r in activator.requests] == [(target, NOBODY)]


async def test_endpoint_flips_between_worker_and_activator_lose_no_request():
    async with running_site() as (site, gateway):
        worker = await site.worker("w1", says("worker"))
        activator = await site.worker("activator.sock", says("activator"))
        await gateway.set_route(route())
        stop = asyncio.Event()
        answers: list[tuple[int, bytes]] = []

        async def load() -> None:
            client = await site.client()
            while not stop.is_set():
                answer = await client.send("/default/hello", method="POST", body=b"x" * 100)
                answers.append((answer.status, answer.body))

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(load())
            for flip in range(40):
                before = len(answers)
                await gateway.set_endpoints("default", "hello", [worker.path] if flip % 2 == 0 else [])
                while len(answers) < before + 20:
                    await asyncio.sleep(0)
            stop.set()

        assert {status for status, _ in answers} == {200}
        assert worker.requests
        assert activator.requests


async def test_endpoint_change_once_confirmed_decides_the_next_request():
    async with running_site() as (site, gateway):
        worker = await site.worker("w1", says("worker"))
        await site.worker("activator.sock", says("activator"))
        client = await site.client()
        await gateway.set_route(route())
        took = []

        for _ in range(20):
            start = time.perf_counter()
            await gateway.set_endpoints("default", "hello", [worker.path])
            took.append(time.perf_counter() - start)
            await poll(client, b"worker")
            await gateway.set_endpoints("default", "hello", [])
            await poll(client, b"activator")

        sys.stderr.write(f"endpoint change confirmed in {sorted(took)[10] * 1000:.2f} ms (median of 20)\n")


async def poll(client: Client, body: bytes) -> None:
    async with asyncio.timeout(30):
        while (await client.send("/default/hello")).body != body:
            pass


async def test_dead_sockets_are_retried_on_activator_with_body():
    async with running_site() as (site, gateway):
        activator = await site.worker("activator.sock", lambda r: Answer(200, body=b"got " + r.body))
        client = await site.client()
        with socket.socket(socket.AF_UNIX) as refusing:
            refusing.bind(site.socket("refusing"))  # bound, not listening: connection refused
            await gateway.set_route(route())
            await gateway.set_endpoints(
                "default", "hello", [site.socket("refusing"), site.socket("gone"), site.socket("gone2")]
            )

            answers = [
                await client.send("/default/hello", method="POST", body=b"precious %d" % i) for i in range(20)
            ]

        assert [(a.status, a.body) for a in answers] == [(200, b"got precious %d" % i) for i in range(20)]
        assert len(activator.requests) == 20


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_failing_answer_of_the_function_is_delivered_once_and_unchanged(status):
    async with running_site() as (site, gateway):
        worker = await site.worker(
            "w1", lambda r: Answer(status, [("retry-after", "7")], b"the function says so")
        )
        activator = await site.worker("activator.sock", says("activator"))
        client = await site.client()
        await gateway.set_route(route())
        await gateway.set_endpoints("default", "hello", [worker.path])

        answer = await client.send("/default/hello", method="POST", body=b"x")

        assert (answer.status, answer.body) == (status, b"the function says so")
        assert answer.value("retry-after") == "7"
        assert (len(worker.requests), len(activator.requests)) == (1, 0)


async def test_worker_that_dies_with_the_request_is_502_and_not_repeated():
    async with running_site() as (site, gateway):
        worker = await site.worker("w1", lambda r: Answer(200, hang_up=True))
        activator = await site.worker("activator.sock", says("activator"))
        client = await site.client()
        await gateway.set_route(route())
        await gateway.set_endpoints("default", "hello", [worker.path])

        answer = await client.send("/default/hello", method="POST", body=b"x")

        assert answer.status == 502
        assert (len(worker.requests), len(activator.requests)) == (1, 0)


async def test_nobody_listening_is_503_with_retry_after():
    async with running_site() as (site, gateway):
        client = await site.client()
        await gateway.set_route(route())

        answer = await client.send("/default/hello")

        assert (answer.status, answer.value("retry-after")) == (503, "1")
        lines = await access_log(site, 1)
        assert (lines[0]["status"], lines[0]["function"]) == (503, "default/hello")
        assert "UF" in str(lines[0]["flags"])


async def access_log(site: Site, count: int) -> list[dict[str, object]]:
    async with asyncio.timeout(20):
        while len(lines := Path(site.access_log).read_text().splitlines()) < count:
            await asyncio.sleep(0.05)
    return [json.loads(line) for line in lines]


async def test_stuck_function_is_504_and_not_repeated_but_a_stream_may_outlive_the_limit():
    async with running_site() as (site, gateway):
        release = asyncio.Event()
        stuck = await site.worker("w1", lambda r: Answer(200, wait=release.wait()))
        activator = await site.worker("activator.sock", says("activator"))
        gates: list[asyncio.StreamWriter] = []

        async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            gates.append(writer)

        server = await asyncio.start_unix_server(stream, site.socket("w2"))
        await gateway.set_route(route(timeout_s=0.1))
        await gateway.set_route(route("stream", timeout_s=0.1))
        await gateway.set_endpoints("default", "hello", [stuck.path])
        await gateway.set_endpoints("default", "stream", [site.socket("w2")])
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"GET /default/stream HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"first\r\n")
        client = await site.client()

        answer = await client.send("/default/hello", method="POST", body=b"x")
        gates[0].write(b"4\r\nlast\r\n0\r\n\r\n")
        rest = await reader.readuntil(b"0\r\n\r\n")

        assert answer.status == 504
        assert (len(stuck.requests), len(activator.requests)) == (1, 0)
        assert rest == b"4\r\nlast\r\n0\r\n\r\n"
        for one in (writer, *gates):
            one.close()
        server.close()
        release.set()


async def test_restarted_control_plane_resyncs_without_dropping_routes():
    async with running_site() as (site, first):
        worker = await site.worker("w1", says("hi"))
        await first.set_routes([route(), route("old")])
        await first.set_endpoints("default", "hello", [worker.path])
        stop = asyncio.Event()
        statuses: list[int] = []

        async def load() -> None:
            client = await site.client()
            while not stop.is_set():
                statuses.append((await client.send("/default/hello")).status)

        async with asyncio.TaskGroup() as group:
            group.create_task(load())
            await first.__aexit__(None, None, None)
            async with site.make_gateway() as second:
                async with asyncio.timeout(20):
                    while not second.connected:
                        await asyncio.sleep(0.01)
                before = len(statuses)
                await second.set_endpoints("default", "hello", [worker.path])
                while len(statuses) < before + 20:
                    await asyncio.sleep(0)
                await second.set_routes([route(), route("new")])
                await second.ready()
                stats = json.loads(await site.admin("/stats?format=json&filter=cluster_manager.cluster_"))
                stop.set()
                client = await site.client()
                added = await client.send("/default/new")
                config = await site.admin("/config_dump?resource=dynamic_active_clusters")

        counters = {s["name"]: s["value"] for s in stats["stats"] if "name" in s}
        assert set(statuses) == {200}
        assert added.status == 503  # routed, nobody there
        assert b"default/old" not in config
        assert counters["cluster_manager.cluster_modified"] == 0


async def test_restarted_envoy_gets_everything_at_once():
    async with running_site() as (site, gateway):
        worker = await site.worker("w1", says("hi"))
        await gateway.set_route(route())
        await gateway.set_endpoints("default", "hello", [worker.path])
        assert site.process
        site.process.send_signal(signal.SIGKILL)
        await site.process.wait()
        async with asyncio.timeout(30):
            while gateway.connected:
                await asyncio.sleep(0.01)
        await gateway.set_route(route("while-away"))
        await site.start_envoy()

        await gateway.ready(timeout_s=20)

        client = await site.client()
        assert (await client.send("/default/hello")).status == 200
        assert (await client.send("/default/while-away")).status == 503


async def test_removed_function_is_404_and_its_cluster_gone():
    async with running_site() as (site, gateway):
        worker = await site.worker("w1", says("hi"))
        await site.worker("activator.sock", says("no", 404))
        client = await site.client()
        await gateway.set_route(route())
        await gateway.set_endpoints("default", "hello", [worker.path])
        assert (await client.send("/default/hello")).status == 200

        await gateway.remove_route("default", "hello")

        async with asyncio.timeout(30):
            while (await client.send("/default/hello")).status != 404:
                pass
        assert (await client.send("/", host="hello.default.localhost")).status == 404
        assert b"default/hello" not in await site.admin("/config_dump?resource=dynamic_active_clusters")

        await gateway.set_route(route())
        await gateway.set_endpoints("default", "hello", [worker.path])
        await poll(client, b"hi")


async def test_thousand_routes_in_one_go():
    async with running_site() as (site, gateway):
        worker = await site.worker("w1", says("hi"))
        client = await site.client()
        before = site.rss_mb()
        start = time.perf_counter()

        await gateway.set_routes([route(f"fn-{i:04}") for i in range(1000)])
        pushed = time.perf_counter()
        await gateway.set_endpoints("default", "fn-0999", [worker.path])
        flipped = time.perf_counter()
        await gateway.set_route(route("one-more"))
        added = time.perf_counter()

        assert (await client.send("/default/fn-0999/x")).status == 200
        assert (await client.send("/", host="fn-0999.default.localhost")).status == 200
        sys.stderr.write(
            f"1000 routes: {pushed - start:.2f} s, then one endpoint {1000 * (flipped - pushed):.1f} ms,"
            f" one route {1000 * (added - flipped):.1f} ms, Envoy {before:.0f} -> {site.rss_mb():.0f} MB\n"
        )
        await gateway.set_routes([])
        assert b"fn-0999" not in await site.admin("/config_dump?resource=dynamic_active_clusters")


async def test_taken_port_is_reported_with_envoys_reason():
    """The port belongs to another gateway: two must not share its traffic silently."""
    async with running_site() as (site, _):
        run = tempfile.mkdtemp(prefix="pg-")
        site.stack.callback(shutil.rmtree, run, ignore_errors=True)
        second = Site(run, site.port, site.stack)
        gateway = await site.stack.enter_async_context(second.make_gateway())
        site.stack.push_async_callback(second.stop_envoy)
        await second.start_envoy()
        await gateway.set_routes([])

        with pytest.raises(GatewayError, match="Address already in use"):
            await gateway.ready(timeout_s=20)


async def test_endpoint_that_envoy_refuses_is_an_error_with_its_reason():
    async with running_site() as (site, gateway):
        await gateway.set_route(route())
        broken = Change(ENDPOINTS, "default/hello", b"\x0a\x00")  # an assignment without a cluster name

        with pytest.raises(RefusedError, match=r"default/hello.*refused") as caught:
            await gateway._server.apply([broken], timeout_s=5)

        assert isinstance(caught.value, GatewayError)
        await gateway.set_endpoints("default", "hello", [site.socket("w1")])


async def test_concurrent_route_changes_all_arrive():
    async with running_site() as (site, gateway):
        client = await site.client()

        await asyncio.gather(*(gateway.set_route(route(f"fn-{i}")) for i in range(50)))

        assert len(gateway.routes) == 50
        assert [(await client.send(f"/default/fn-{i}")).status for i in (0, 25, 49)] == [503] * 3


@pytest.mark.parametrize(
    ("headers", "status"),
    [([("x-big", "y" * 70_000)], 431), ([(f"x-{i}", "1") for i in range(250)], 431), ([], 503)],
)
async def test_header_limits(headers, status):
    async with running_site() as (site, gateway):
        client = await site.client()
        await gateway.set_route(route())

        assert (await client.send("/default/hello", headers=headers)).status == status


async def test_h2_prior_knowledge_is_answered():
    async with running_site() as (site, gateway):
        worker = await site.worker("w1", says("hi"))
        await gateway.set_route(route())
        await gateway.set_endpoints("default", "hello", [worker.path])
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)

        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        frame = await reader.readexactly(9)

        assert frame[3] == 4  # SETTINGS: the server speaks HTTP/2
        writer.close()


# -- the Gateway API -----------------------------------------------------------------------------------------


def certificate(name: str, *hosts: str) -> Certificate:
    """Return a fresh self-signed certificate for host names."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts or ("any",)]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return Certificate(
        name=f"default/{name}",
        hosts=hosts,
        chain=made.public_bytes(serialization.Encoding.PEM).decode(),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )


def web(*rules: Rule, hosts: tuple[str, ...] = ("web.test",), port: str = EXTERNAL) -> StandaloneRoute:
    return StandaloneRoute(namespace="default", name="web", hosts=((port, hosts),), rules=rules)


def to(*keys: str, **more: object) -> Rule:
    values: dict[str, object] = {"backends": tuple(Backend(key=key) for key in keys)}
    return Rule(**(values | more))  # type: ignore[arg-type]


def at(path: str, kind: str = "PathPrefix", **more: object) -> tuple[Match, ...]:
    return (Match(path=PathMatch(type=kind, value=path), **more),)  # type: ignore[arg-type]


async def serving(site: Site, gateway: Gateway, *names: str) -> dict[str, Worker]:
    """Run a worker per function name, each saying its name."""
    workers = {}
    for name in names:
        workers[name] = await site.worker(name, says(name))
        await gateway.set_route(route(name))
        await gateway.set_endpoints("default", name, [workers[name].path])
    return workers


async def test_rules_choose_by_path_method_header_and_query():
    async with running_site() as (site, gateway):
        await serving(site, gateway, "a", "b", "c", "d", "e")
        client = await site.client()
        rules = [
            to("default/a"),
            to("default/b", matches=at("/x", "Exact")),
            to("default/c", matches=at("/", method="POST")),
            to(
                "default/d",
                matches=at("/", headers=(FieldMatch(name="k", value="v.*", type="RegularExpression"),)),
            ),
            to("default/e", matches=at("/", query=(FieldMatch(name="q", value="1"),))),
        ]
        assert await gateway.set_state(RoutingState(routes=(web(*rules),))) == {}

        answers = [
            (await client.send(target, host="web.test", method=method, headers=headers)).body
            for target, method, headers in (
                ("/", "GET", []),
                ("/x", "GET", []),
                ("/x/y", "POST", []),
                ("/", "GET", [("K", "value")]),
                ("/?q=1", "GET", []),
                ("/?q=2&q=1", "GET", []),
            )
        ]

        assert answers == [b"a", b"b", b"c", b"d", b"e", b"a"]


async def test_wildcard_host_leaves_the_apex_and_narrower_hosts_to_others():
    async with running_site() as (site, gateway):
        await serving(site, gateway, "a", "b")
        activator = await site.worker("activator.sock", says("nobody", 404))
        client = await site.client()
        wide = web(to("default/a"), hosts=("*.test.org",))
        narrow = StandaloneRoute(
            namespace="default",
            name="narrow",
            hosts=((EXTERNAL, ("api.test.org",)),),
            rules=(to("default/b", matches=at("/v1")),),
        )
        await gateway.set_state(RoutingState(routes=(wide, narrow)))

        answers = [
            (await client.send(path, host=host)).body
            for host, path in (
                ("x.test.org", "/"),
                ("x.y.test.org:99", "/"),
                ("api.test.org", "/v1/z"),
                ("api.test.org", "/v2"),
                ("test.org", "/"),
            )
        ]

        assert answers == [b"a", b"a", b"b", b"a", b"nobody"]
        assert activator.requests[0].value(FUNCTION_HEADER) == NOBODY


@pytest.mark.parametrize(
    ("prefix", "change", "asked", "seen"),
    [
        ("/old", PathChange(type="ReplacePrefixMatch", value="/new"), "/old/x?q=1", "/new/x?q=1"),
        ("/old", PathChange(type="ReplacePrefixMatch", value="/new"), "/old", "/new"),
        ("/old", PathChange(type="ReplacePrefixMatch", value="/"), "/old/x", "/x"),
        ("/old", PathChange(type="ReplacePrefixMatch", value="/"), "/old", "/"),
        ("/", PathChange(type="ReplacePrefixMatch", value="/new"), "/x", "/new/x"),
        ("/old", PathChange(type="ReplaceFullPath", value="/one"), "/old/x?q=1", "/one?q=1"),
    ],
)
async def test_path_is_rewritten_and_redirected_alike(prefix, change, asked, seen):
    async with running_site() as (site, gateway):
        workers = await serving(site, gateway, "a")
        client = await site.client()
        rewriting = to("default/a", matches=at(prefix), rewrite=Rewrite(hostname="new.test", path=change))
        redirecting = Rule(matches=at(prefix), redirect=Redirect(path=change, status=307))
        other = StandaloneRoute(
            namespace="default", name="other", hosts=((EXTERNAL, ("go.test",)),), rules=(redirecting,)
        )
        await gateway.set_state(RoutingState(routes=(web(rewriting), other)))

        await client.send(asked, host="web.test")
        sent_on = await client.send(asked, host="go.test")

        (request,) = workers["a"].requests
        assert (request.target, request.value("host")) == (seen, "new.test")
        assert sent_on.status == 307
        assert sent_on.value("location") == f"http://go.test{seen}"


async def test_redirect_to_https_goes_to_the_port_that_speaks_it():
    async with running_site() as (site, gateway):
        client = await site.client()
        rule = Rule(redirect=Redirect(scheme="https", status=301))
        await gateway.set_route(route(https_only=True))
        await gateway.set_state(RoutingState(routes=(web(rule),), https_port=8443))

        first = await client.send("/a?b", host=f"web.test:{site.port}")
        second = await client.send("/c", host="hello.default.localhost")

        assert (first.status, first.value("location")) == (301, "https://web.test:8443/a?b")
        assert (second.status, second.value("location")) == (301, "https://hello.default.localhost:8443/c")


async def test_headers_are_set_added_and_removed_in_both_directions():
    async with running_site() as (site, gateway):
        worker = await site.worker("a", lambda r: Answer(200, [("x-gone", "1"), ("x-set", "old")], b"a"))
        client = await site.client()
        await gateway.set_route(route("a"))
        await gateway.set_endpoints("default", "a", [worker.path])
        changes = HeaderChanges(set=(("x-set", "50%"),), add=(("x-add", "2"),), remove=("x-gone",))
        await gateway.set_state(
            RoutingState(routes=(web(to("default/a", request_headers=changes, response_headers=changes)),))
        )

        answer = await client.send(
            "/", host="web.test", headers=[("x-set", "old"), ("x-add", "1"), ("x-gone", "1")]
        )

        (request,) = worker.requests
        assert (request.values("x-set"), request.values("x-add"), request.values("x-gone")) == (
            ["50%"],
            ["1", "2"],
            [],
        )
        assert (answer.value("x-set"), answer.value("x-add"), answer.value("x-gone")) == ("50%", "2", None)


async def test_weights_share_requests_and_a_missing_backend_answers_500_for_its_share():
    async with running_site() as (site, gateway):
        await serving(site, gateway, "a", "b")
        client = await site.client()
        backends = (
            Backend(key="default/a", weight=3),
            Backend(key="default/b", weight=0),
            Backend(key="", weight=1, problem="BackendNotFound: there is no Service default/x"),
        )
        await gateway.set_state(
            RoutingState(
                routes=(
                    web(
                        Rule(matches=at("/"), backends=backends),
                        Rule(matches=at("/none"), backends=backends[1:]),
                        Rule(matches=at("/zero"), backends=backends[1:2]),
                    ),
                )
            )
        )

        answers = [await client.send("/", host="web.test") for _ in range(400)]
        none = await client.send("/none", host="web.test")
        zero = await client.send("/zero", host="web.test")

        shares = Counter(answer.status for answer in answers)
        assert set(shares) == {200, 500}
        assert 60 <= shares[500] <= 145  # 100 expected of 400, five standard deviations to each side
        assert {answer.body for answer in answers if answer.status == 200} == {b"a"}
        assert none.status == 500
        assert b"BackendNotFound" in none.body
        assert zero.status == 500


async def test_split_and_tags_of_a_function_reach_its_revisions():
    async with running_site() as (site, gateway):
        client = await site.client()
        keys = ("default/hello:r2", "default/hello:r1")
        for key in keys:
            worker = await site.worker(
                key[-2:], lambda r: Answer(200, body=(r.value(FUNCTION_HEADER) or "").encode())
            )
            await gateway.set_endpoints("default", key.partition("/")[2], [worker.path])
        await gateway.set_route(route(split=((keys[0], 90), (keys[1], 10)), tags=(("old", keys[1]),)))

        answers = Counter([(await client.send("/", host="hello.default.localhost")).body for _ in range(400)])
        by_header = await client.send("/default/hello", host="any", headers=[("Knative-Serving-Tag", "old")])
        by_host = await client.send("/", host="old-hello.default.localhost")

        assert set(answers) == {key.encode() for key in keys}
        assert 10 <= answers[b"default/hello:r1"] <= 75  # 40 expected of 400
        assert (by_header.body, by_host.body) == (b"default/hello:r1", b"default/hello:r1")


async def test_mirror_gets_a_copy_and_nobody_sees_its_answer():
    async with running_site() as (site, gateway):
        workers = await serving(site, gateway, "a", "b")
        client = await site.client()
        await gateway.set_state(
            RoutingState(routes=(web(to("default/a", mirrors=(Mirror(key="default/b"),))),))
        )

        answer = await client.send("/m", host="web.test")
        async with asyncio.timeout(30):
            while not workers["b"].requests:
                await asyncio.sleep(0)

        assert answer.body == b"a"
        assert workers["b"].requests[0].target == "/m"


async def test_timeout_of_a_rule_ends_the_exchange():
    async with running_site() as (site, gateway):
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        worker = await site.worker("a", lambda r: Answer(200, wait=asyncio.shield(never)))
        client = await site.client()
        await gateway.set_route(route("a"))
        await gateway.set_endpoints("default", "a", [worker.path])
        await gateway.set_state(RoutingState(routes=(web(to("default/a", timeout_s=0.05)),)))

        answer = await client.send("/", host="web.test")

        assert (answer.status, answer.value("x-pelton-reason")) == (
            504,
            "the function did not answer in time",
        )
        assert len(worker.requests) == 1


async def test_service_is_reached_by_its_endpoints_and_without_any_is_503():
    async with running_site() as (site, gateway):
        client = await site.client()
        upstream = Worker("", says("service"))
        server = await asyncio.start_server(upstream._serve, "127.0.0.1", 0)
        site.stack.callback(server.close)
        port = server.sockets[0].getsockname()[1]
        key = "Service default/web:80"
        state = RoutingState(routes=(web(to(key)),), upstreams=(Upstream(key=key),))

        await gateway.set_state(state)
        empty = await client.send("/", host="web.test")
        await gateway.set_state(
            replace(state, upstreams=(Upstream(key=key, endpoints=(Endpoint(host="127.0.0.1", port=port),)),))
        )
        full = await client.send("/", host="web.test", headers=[(FUNCTION_HEADER, "forged")])
        await gateway.set_state(
            replace(
                state,
                upstreams=(
                    Upstream(key=key, endpoints=(Endpoint(host="localhost", port=port),), named=True),
                ),
            )
        )
        async with asyncio.timeout(30):
            while (by_name := await client.send("/", host="web.test")).status != 200:
                pass

        assert (empty.status, empty.value("x-pelton-reason")) == (
            503,
            "there is no endpoint for the function",
        )
        assert (full.body, by_name.body) == (b"service", b"service")
        assert upstream.requests[0].values(FUNCTION_HEADER) == []


async def test_route_that_envoy_refuses_is_named_and_the_others_are_in_place():
    async with running_site() as (site, gateway):
        await serving(site, gateway, "a")
        client = await site.client()
        bad = StandaloneRoute(
            namespace="default",
            name="bad",
            hosts=((EXTERNAL, ("bad.test",)),),
            rules=(to("default/a", matches=at("(", "RegularExpression")),),
        )

        refused = await gateway.set_state(RoutingState(routes=(bad, web(to("default/a")))))

        assert list(refused) == ["HTTPRoute default/bad"]
        assert (await client.send("/", host="web.test")).body == b"a"


async def test_port_of_a_gateway_opens_and_closes_and_a_taken_one_is_named():
    async with running_site() as (site, gateway):
        await serving(site, gateway, "a")
        other = free_port()
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            taken = holder.getsockname()[1]
            state = RoutingState(
                routes=(web(to("default/a"), hosts=("*",), port="port-a"),),
                ports=(
                    Port(name="port-a", port=other, functions=False),
                    Port(name="port-b", port=taken, functions=False),
                ),
            )

            refused = await gateway.set_state(state)

        client = Client(other)
        site.stack.push_async_callback(client.close)
        assert list(refused) == ["port-b"]
        assert (await client.send("/", host="anything")).body == b"a"
        assert (
            await client.send("/x", host="a.default.localhost")
        ).body == b"a"  # by the route, not the function
        await gateway.set_state(RoutingState())
        await client.close()
        async with asyncio.timeout(30):
            while True:
                try:
                    await client.send("/", host="anything")
                except (OSError, AssertionError):
                    break
                await client.close()


async def test_internal_port_serves_what_the_external_one_does_not():
    run = tempfile.mkdtemp(prefix="pg-")
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, run, ignore_errors=True)
        site = Site(run, free_port(), stack)
        inside = Listener(host="127.0.0.1", port=free_port(), name=INTERNAL, routes=INTERNAL)
        gateway = await stack.enter_async_context(site.make_gateway(inside))
        stack.push_async_callback(site.stop_envoy)
        await site.start_envoy()
        await gateway.set_routes([])
        await gateway.ready(timeout_s=20)
        worker = await site.worker("a", says("a"))
        await site.worker("activator.sock", says("nobody", 404))
        await gateway.set_route(route("a", internal=True, internal_hosts=("a.default.svc.cluster.local",)))
        await gateway.set_endpoints("default", "a", [worker.path])
        outer, inner = await site.client(), Client(inside.port)
        stack.push_async_callback(inner.close)

        seen = [
            (await client.send(path, host=host)).status
            for client in (outer, inner)
            for host, path in (
                ("a.default.localhost", "/"),
                ("a.default.svc.cluster.local", "/"),
                ("any", "/default/a"),
            )
        ]

        assert seen == [404, 404, 404, 200, 200, 200]


def trusting(*certificates: Certificate) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata="".join(one.chain for one in certificates))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def test_tls_shows_certificates_by_name_and_new_ones_without_dropping_a_connection():
    async with running_site() as (site, gateway):
        await serving(site, gateway, "a")
        port = free_port()
        first, wild = certificate("one", "a.default.localhost"), certificate("two", "*.web.test")

        def state(*certificates: Certificate) -> RoutingState:
            route = web(to("default/a"), hosts=("x.web.test",), port="tls")
            return RoutingState(
                routes=(route,), ports=(Port(name="tls", port=port, certificates=certificates),)
            )

        assert await gateway.set_state(state(first, wild)) == {}

        async def connect(host: str, *trusted: Certificate, alpn: str = "http/1.1") -> Client:
            client = Client(port)
            context = trusting(*trusted)
            context.set_alpn_protocols([alpn])
            client.reader, client.writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname=host
            )
            site.stack.push_async_callback(client.close)
            return client

        open_one = await connect("a.default.localhost", first)
        by_wildcard = await connect("x.web.test", wild)
        assert (await open_one.send("/", host="a.default.localhost")).body == b"a"
        assert (await by_wildcard.send("/", host="x.web.test")).body == b"a"
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect("x.web.test", first)
        h2 = await connect("x.web.test", wild, alpn="h2")
        assert h2.writer is not None
        assert h2.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"

        stop = asyncio.Event()
        answers: list[int] = []

        async def load() -> None:
            while not stop.is_set():
                answers.append((await open_one.send("/", host="a.default.localhost")).status)

        loading = asyncio.create_task(load())
        renewed = certificate("one", "a.default.localhost")
        await gateway.set_state(state(renewed, wild))
        async with asyncio.timeout(30):
            while True:
                try:
                    fresh = await connect("a.default.localhost", renewed)
                    break
                except ssl.SSLCertVerificationError:
                    continue
        assert (await fresh.send("/", host="a.default.localhost")).body == b"a"
        before = len(answers)
        while len(answers) < before + 20:
            await asyncio.sleep(0)
        stop.set()
        await loading

        assert set(answers) == {200}


async def test_full_instance_has_the_activator_queue_the_request_with_its_body():
    async with running_site() as (site, gateway):
        full = await site.worker("w1", lambda r: Answer(503, [("x-pelton-overflow", "1")], b"full"))
        activator = await site.worker("activator.sock", lambda r: Answer(200, body=b"queued " + r.body))
        client = await site.client()
        await gateway.set_route(route())
        await gateway.set_endpoints("default", "hello", [full.path])

        answer = await client.send("/default/hello", method="POST", body=b"data")

        assert (answer.status, answer.body) == (200, b"queued data")
        assert (len(full.requests), len(activator.requests)) == (1, 1)


async def test_access_log_has_function_revision_instance_and_reason():
    async with running_site() as (site, gateway):
        worker = await site.worker("w1", says("hi"))
        client = await site.client()
        await gateway.set_route(route())
        await gateway.set_endpoints(
            "default", "hello", [worker.path], {worker.path: "hello-0123456789-abcde"}
        )
        await client.send("/default/hello")
        await gateway.set_endpoints("default", "hello", [])
        await client.send("/default/hello")

        log = Path(site.access_log)
        async with asyncio.timeout(30):
            while len(lines := (await asyncio.to_thread(log.read_text)).splitlines()) < 2:
                await asyncio.sleep(0.05)
        warm, failed = (json.loads(line) for line in lines)

        assert (warm["function"], warm["revision"], warm["instance"], warm["start"]) == (
            "default/hello",
            "hello-0123456789",
            "hello-0123456789-abcde",
            "warm",
        )
        assert (warm["status"], warm["reason"]) == (200, None)
        assert (failed["status"], failed["start"]) == (503, "cold")
        assert failed["reason"]
        assert failed["flags"] != "-"


async def test_call_between_apps_goes_straight_and_fails_as_dapr_says():
    async with running_site() as (site, gateway), asyncio.timeout(20):
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def app(request: Request) -> Answer:
            slow = asyncio.shield(never) if "slow" in request.target else None
            return Answer(200, body=b"app", wait=slow, hang_up="die" in request.target)

        program, runtime = Worker("", app), Worker("", says("runtime"))
        servers = []
        for one in (program, runtime):
            servers.append(await asyncio.start_server(one._serve, "127.0.0.1", 0))
            site.stack.callback(servers[-1].close)
        port, inner = (server.sockets[0].getsockname()[1] for server in servers)
        second = await site.worker("second.sock", says("second try"))
        caller = CallingApp(
            name="dapr run default/a 1", app_id="a", namespace="default", port=free_port(), inner=inner,
            token="secret",
            rules=CallRules(resiliencies=(Resiliency(
                name="r", namespace="default", timeouts={"short": 0.2},
                apps={"p": ResiliencyTarget(timeout="short")}),
            )),
        )  # fmt: skip
        called = CalledApp(
            key="Service dapr app default/p", app_id="p", namespace="default", fallback=second.path,
            endpoints=(Endpoint(host="127.0.0.1", port=port),), token="for the app",
        )  # fmt: skip
        routes, upstreams, ports = app_ways([caller], [called])
        assert await gateway.set_state(RoutingState(routes=routes, upstreams=upstreams, ports=ports)) == {}
        client = Client(caller.port)
        site.stack.push_async_callback(client.close)
        shown = [
            ("dapr-api-token", "secret"),
            ("x-forwarded-for", "6.6.6.6"),
            ("dapr-callee-app-id", "forged"),
        ]

        while client.writer is None:  # Envoy confirms a listener before it takes connections there
            try:
                client.reader, client.writer = await asyncio.open_connection("127.0.0.1", caller.port)
            except ConnectionRefusedError:
                await asyncio.sleep(0)

        async def call(path: str, headers: list[tuple[str, str]] = shown) -> Answer:
            return await client.send(f"/v1.0/invoke/p/method/{path}", host="here:1", headers=headers)

        straight = await call("x?y=1")
        refused = [
            await call("x", [("dapr-api-token", "wrong")]),
            await client.send("/x", headers=[("dapr-app-id", "p")]),
        ]
        assert runtime.requests == []
        origin = await call("x", [("origin", "http://page.test")])
        other = await client.send("/v1.0/metadata", headers=[("dapr-callee-app-id", "forged")])
        dead, slow = await call("die"), await call("slow")
        servers[0].close()
        again = await call("x?y=2")
        await second.__aexit__()
        gone = await call("x")

        assert (straight.body, again.body) == (b"app", b"second try")
        assert [(one.status, one.value("content-type"), one.body) for one in refused] == [
            (401, "text/plain", b"invalid api token")
        ] * 2
        assert (origin.body, other.body) == (b"runtime", b"runtime")
        seen = program.requests[0]
        assert (seen.target, seen.value("host"), seen.value("dapr-api-token")) == (
            "/x?y=1",
            "localhost",
            "for the app",
        )
        told = ("dapr-caller-app-id", "dapr-caller-namespace", "dapr-callee-app-id", "destination-app-id")
        assert [seen.values(name) for name in told] == [["a"], ["default"], ["p"], ["p"]]
        assert seen.values("x-forwarded-for") == ["127.0.0.1"]
        assert seen.values("x-forwarded-host") == ["here:1"]
        assert seen.values("forwarded") == ["for=127.0.0.1;by=127.0.0.1;host=here:1"]
        assert [one.target for one in runtime.requests] == ["/v1.0/invoke/p/method/x", "/v1.0/metadata"]
        assert runtime.requests[1].value("dapr-callee-app-id") is None
        assert all(each.value("x-pelton-runtime") is None for each in (seen, runtime.requests[0]))
        assert second.requests[0].target == "/x?y=2"
        for answer, why in (
            (dead, "the function's instance ended before it answered"),
            (slow, "the function did not answer in time"),
            (gone, "no connection to the function could be made"),
        ):
            assert (answer.status, answer.value("content-type")) == (500, "application/json")
            assert json.loads(answer.body) == {
                "errorCode": "ERR_DIRECT_INVOKE",
                "message": f"fail to invoke, id: p, err: {why}",
            }
