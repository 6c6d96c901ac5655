"""The gateway with the real Envoy: routes, wakes from zero, failing sockets, restarts of either side."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pelton.errors import GatewayError
from pelton.model.desired import Route
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

    def make_gateway(self) -> Gateway:
        return Gateway(
            xds_socket=self.socket("xds.sock"),
            activator_socket=self.socket("activator.sock"),
            listeners=[Listener(host="127.0.0.1", port=self.port, access_log=self.access_log)],
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
    async with asyncio.timeout(5):
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
        async with asyncio.timeout(10):
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

        async with asyncio.timeout(5):
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
