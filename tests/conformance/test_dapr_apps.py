"""Apps on Dapr's unmodified Python SDK beside `pelton dapr run` and `pelton daprd`, without a platform."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from pelton.cli.home import Home
from pelton.clock import SystemClock
from pelton.dataplane import retry
from pelton.drivers.ledger import SqliteLedger

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

WAIT_S = 30.0
BUS = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
spec: {type: pubsub.in-memory, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: tick}
spec:
  type: bindings.cron
  version: v1
  metadata: [{name: schedule, value: "@every 1s"}]
scopes: [rpc]
"""
DECLARED = """
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: late}
spec: {topic: late, pubsubname: bus, routes: {default: /late}}
scopes: [web]
"""
WEB = """
    import os, uvicorn
    from dapr.clients import DaprClient
    from dapr.conf import settings
    from dapr.ext.fastapi import DaprApp
    from fastapi import FastAPI, Request

    app = FastAPI()
    events = DaprApp(app)

    @events.subscribe(pubsub="bus", topic="orders", route="/orders", dead_letter_topic="dead")
    async def orders(request: Request):
        event = await request.json()
        print("ORDER", event["data"], flush=True)
        return {"status": event["data"].get("answer", "SUCCESS")}

    @events.subscribe(pubsub="bus", topic="dead", route="/dead")
    async def dead(request: Request):
        print("DEAD", (await request.json())["data"], flush=True)

    @app.post("/late")
    async def late(request: Request):
        print("LATE", (await request.json())["data"], flush=True)

    @app.get("/relay")
    def relay(protocol: str):
        settings.DAPR_API_METHOD_INVOCATION_PROTOCOL = protocol
        with DaprClient() as client:
            return client.invoke_method("rpc", "echo", data="from web", http_verb="POST").text()

    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["APP_PORT"]), log_level="warning")
"""
RPC = """
    import os
    from dapr.ext.grpc import App, BindingRequest, InvokeMethodRequest, InvokeMethodResponse, Rule

    app = App()

    @app.subscribe(pubsub_name="bus", topic="kinds", rule=Rule('event.type == "special"', 1))
    def special(event):
        print("SPECIAL", event.Data().decode(), flush=True)

    @app.subscribe(pubsub_name="bus", topic="kinds", rule=Rule("true", 2))
    def usual(event):
        print("USUAL", event.Data().decode(), flush=True)

    @app.method(name="echo")
    def echo(request: InvokeMethodRequest):
        return InvokeMethodResponse(b"rpc got " + request.data, "text/plain")

    @app.binding("tick")
    def tick(request: BindingRequest):
        print("TICK", flush=True)

    app.run(int(os.environ["APP_PORT"]), "127.0.0.1")
"""
STREAM = """
    import time
    from dapr.clients import DaprClient
    from dapr.clients.grpc._response import TopicEventResponse

    with DaprClient() as client:
        def handle(message):
            print("STREAMED", message.data(), flush=True)
            return TopicEventResponse("success")
        close = client.subscribe_with_handler(pubsub_name="bus", topic="stream", handler_fn=handle)
        for number in range(2):
            client.publish_event("bus", "stream", f"event {number}")
        time.sleep(1)
        close()
"""

FAILING = """
    import http.server, json, os, pathlib

    class App(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            topics = [{"pubsubname": "bus", "topic": "orders", "route": "/orders"}]
            self.answer(200, topics if self.path == "/dapr/subscribe" else {})

        def do_POST(self):
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            well = pathlib.Path("well").exists()
            print("OK" if well else "FAILED", event["data"], flush=True)
            self.answer(200 if well else 500, {})

        def do_OPTIONS(self):
            self.answer(404, {})

        def answer(self, status, body):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *words):
            pass

    http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["APP_PORT"])), App).serve_forever()
"""
PATIENT = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
spec: {type: pubsub.in-memory, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: patient}
spec:
  policies: {retries: {patient: {policy: constant, duration: 1s, maxRetries: 2}}}
  targets: {components: {bus: {inbound: {retry: patient}}}}
"""


class Command:
    """A running `pelton` command and what it prints."""

    def __init__(self, *words: object, cwd: Path, **env: str) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pelton.cli.main", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            env={**os.environ, "PELTON_HOME": str(cwd / "no-platform"), "XDG_RUNTIME_DIR": str(cwd), **env},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def until(self, text: str, times: int = 1) -> str:
        """Wait for a line that has `text` in it."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: sum(text in line for line in self.lines) >= times or self.process.poll() is not None,
                WAIT_S,
            )
            assert found and sum(text in line for line in self.lines) >= times, self.lines
            return next(line for line in self.lines if text in line)

    @property
    def http(self) -> str:
        """URL of the runtime's HTTP API, as the command says it."""
        line = self.until("HTTP Port: ")
        return f"http://127.0.0.1:{line.partition('HTTP Port: ')[2].partition('.')[0]}"

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Return its exit code."""
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def is_ready(url: str) -> bool:
    return httpx.get(f"{url}/v1.0/healthz").status_code == 204


def publish(command: Command, topic: str, data: object, **query: str) -> None:
    answer = httpx.post(f"{command.http}/v1.0/publish/bus/{topic}", json=data, params=query)
    assert answer.status_code == 204, answer.text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dapr")
    (folder / "resources").mkdir()
    (folder / "resources" / "bus.yaml").write_text(BUS)
    for name, code in (("web", WEB), ("rpc", RPC), ("stream", STREAM)):
        (folder / f"{name}.py").write_text(textwrap.dedent(code))
    folder.chmod(0o700)
    return folder


@pytest.fixture(scope="module")
def both(place: Path) -> Iterator[tuple[Command, Command]]:
    """`web` over HTTP and `rpc` over gRPC, each with a runtime of its own."""
    common = ("--resources-path", place / "resources")
    web = Command(
        "dapr", "run", "--app-id", "web", "--app-port", free_port(), *common,
        "--", sys.executable, "web.py", cwd=place,
    )  # fmt: skip
    rpc = Command(
        "dapr", "run", "-a", "rpc", "-p", free_port(), "-P", "grpc", *common,
        "--", sys.executable, "rpc.py", cwd=place,
    )  # fmt: skip
    for url in (web.http, rpc.http):
        until(partial(is_ready, url))
    yield web, rpc
    assert [web.end(), rpc.end(signal.SIGINT)] == [0, 0]
    for command in (web, rpc):
        assert any("Exited App successfully" in line for line in command.lines)
        assert any("Exited Dapr successfully" in line for line in command.lines)


def test_run_prints_what_scripts_look_for(both: tuple[Command, Command]) -> None:
    web, _ = both

    assert web.until("You're up and running! Both Dapr and your app logs will appear here.")
    assert web.until("Starting Dapr with id web.")


def test_topic_event_reaches_the_http_app_and_what_it_gives_up_its_dead_letter_topic(
    both: tuple[Command, Command],
) -> None:
    web, _ = both

    for answer in ("SUCCESS", "DROP", "RETRY"):
        publish(web, "orders", {"answer": answer})

    for answer in ("SUCCESS", "DROP", "RETRY"):
        web.until(f"== APP == ORDER {{'answer': '{answer}'}}")
    for answer in ("DROP", "RETRY"):
        web.until(f"== APP == DEAD {{'answer': '{answer}'}}")
    assert not any("DEAD {'answer': 'SUCCESS'}" in line for line in web.lines)


def test_topic_event_meets_the_rules_of_the_grpc_app(both: tuple[Command, Command]) -> None:
    _, rpc = both

    publish(rpc, "kinds", "one", **{"metadata.cloudevent.type": "special"})
    publish(rpc, "kinds", "two")

    rpc.until('== APP == SPECIAL "one"')
    rpc.until('== APP == USUAL "two"')


def test_input_binding_calls_the_grpc_app(both: tuple[Command, Command]) -> None:
    both[1].until("== APP == TICK", times=2)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_sdk_calls_an_app_of_another_runtime(both: tuple[Command, Command], protocol: str) -> None:
    web, _ = both

    answer = httpx.get(
        f"{web.http}/v1.0/invoke/web/method/relay", params={"protocol": protocol}, timeout=WAIT_S
    )

    assert (answer.status_code, answer.json()) == (200, "rpc got from web")


def test_calls_over_http_in_all_forms(both: tuple[Command, Command]) -> None:
    _, rpc = both
    asked = httpx.get(
        f"{rpc.http}/relay", params={"protocol": "http"}, headers={"dapr-app-id": "web"}, timeout=WAIT_S
    )
    basic = httpx.post(f"{rpc.http}/echo", content=b"x", auth=("dapr-app-id", "rpc"))
    missing = httpx.get(f"{rpc.http}/v1.0/invoke/web/method/nowhere")
    nobody = httpx.get(f"{rpc.http}/v1.0/invoke/nobody/method/x")

    assert (asked.status_code, asked.json()) == (200, "rpc got from web")
    assert (basic.status_code, basic.text) == (200, "rpc got x")
    assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})
    assert (nobody.status_code, nobody.json()["errorCode"]) == (500, "ERR_DIRECT_INVOKE")


def test_subscription_that_is_added_while_running_brings_its_events(
    both: tuple[Command, Command], place: Path
) -> None:
    web, _ = both
    (place / "resources" / "late.yaml").write_text(DECLARED)

    def known() -> bool:
        listed = httpx.get(f"{web.http}/v1.0/metadata").json()["subscriptions"]
        return any(each["topic"] == "late" and each["type"] == "DECLARATIVE" for each in listed)

    until(known)
    publish(web, "late", "declared")

    web.until("== APP == LATE declared")


def test_sdk_gets_a_topic_on_a_stream_without_a_port(place: Path) -> None:
    command = Command(
        "dapr", "run", "--app-id", "streamer", "-d", place / "resources", "--", sys.executable, "stream.py",
        cwd=place,
    )  # fmt: skip

    assert command.wait() == 0, command.lines
    assert [line for line in command.lines if "STREAMED" in line] == [
        "== APP == STREAMED event 0",
        "== APP == STREAMED event 1",
    ]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--", "sh", "-c", "echo out; echo err >&2; exit 3"), 1, "exited with error code: exit status 3"),
        (("--", "sh", "-c", "kill -9 $$"), 1, "signal: SIGKILL"),
        (("--", "true"), 0, "Exited App successfully"),
        (("--", "no-such-program"), 2, "no-such-program"),
        (("--resources-path", "nowhere", "--", "true"), 2, "nowhere"),
        (("--app-protocol", "carrier-pigeon", "--", "true"), 2, "carrier-pigeon"),
    ],
)
def test_run_ends_with_its_app(place: Path, words: tuple[str, ...], code: int, said: str) -> None:
    command = Command("dapr", "run", "--app-id", "brief", *words, cwd=place)

    assert command.wait() == code, command.lines
    assert any(said in line for line in command.lines), command.lines


def test_daprd_takes_its_flags_and_ends_in_order(place: Path) -> None:
    http, grpc, public = free_port(), free_port(), free_port()
    command = Command(
        "daprd", "-app-id", "side", "--dapr-http-port", http, "--dapr-grpc-port", grpc, "--sentry-address",
        "localhost:1", "--brand-new-flag", "x", "--resources-path", place / "resources",
        "--dapr-public-port", public, cwd=place, DAPR_API_TOKEN="secret",
    )  # fmt: skip
    command.until("dapr initialized. Status: Running. Init Elapsed")
    command.until("--brand-new-flag")
    url = f"http://127.0.0.1:{http}/v1.0"
    taken = Command("daprd", "--app-id", "other", "--dapr-http-port", http, "--dapr-grpc-port", 0, cwd=place)
    assert taken.wait() != 0  # before the port is free for a moment below
    assert any(f"--dapr-http-port {http} is taken" in line for line in taken.lines), taken.lines

    assert httpx.get(f"{url}/healthz").status_code == 204
    assert httpx.get(f"{url}/metadata").status_code == 401
    assert httpx.get(f"{url}/metadata", headers={"dapr-api-token": "secret"}).json()["id"] == "side"
    probes = f"http://127.0.0.1:{public}/v1.0"
    assert httpx.get(f"{probes}/healthz").status_code == 204
    token = {"dapr-api-token": "secret"}
    assert httpx.get(f"{probes}/metadata", headers=token).json()["id"] == "side"
    assert httpx.post(f"{probes}/publish/bus/orders", headers=token).status_code == 404
    command.process.send_signal(signal.SIGHUP)
    command.until("dapr initialized. Status: Running. Init Elapsed", times=2)
    assert httpx.get(f"{url}/healthz").status_code == 204

    assert httpx.post(f"{url}/shutdown", headers={"dapr-api-token": "secret"}).status_code == 204
    assert command.wait() == 0
    assert any("Shutdown requested via API" in line for line in command.lines)
    assert any("Daprd shutdown gracefully" in line for line in command.lines)
    assert json.dumps(command.lines).count("secret") == 0


@pytest.mark.parametrize(
    ("seconds", "code", "said"),
    [
        (1, 1, "Graceful shutdown timeout exceeded, forcing shutdown"),
        (30, 0, "Daprd shutdown gracefully"),
    ],
)
def test_daprd_gives_what_is_under_way_its_time(place: Path, seconds: int, code: int, said: str) -> None:
    begun, over = threading.Event(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            begun.set()
            over.wait(WAIT_S)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port, answers = free_port(), list[int]()
        command = Command(
            "daprd", "--app-id", "slow", "--app-port", server.server_port, "--dapr-http-port", port,
            "--dapr-grpc-port", 0, "--disable-init-endpoints", "config,subscribe",
            "--dapr-graceful-shutdown-seconds", seconds, cwd=place,
        )  # fmt: skip

        def ask() -> None:
            with contextlib.suppress(httpx.HTTPError):
                url = f"http://127.0.0.1:{port}/v1.0/invoke/slow/method/x"
                answers.append(httpx.get(url, timeout=WAIT_S).status_code)

        asking = threading.Thread(target=ask)
        try:
            command.until("dapr initialized. Status: Running. Init Elapsed")
            asking.start()
            assert begun.wait(WAIT_S)
            command.process.send_signal(signal.SIGTERM)
            if code == 0:
                until(lambda: not listens(port))
                over.set()
            exit_code = command.wait()
            asking.join(WAIT_S)
        finally:
            over.set()
            command.process.kill()
            server.shutdown()

    assert (exit_code, answers) == (code, [204] if code == 0 else [])
    assert any(said in line for line in command.lines), command.lines


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


async def _kept(folder: Path) -> tuple[list[int], list[int]]:
    """Attempts of the retries and of the dead letters in a ledger."""
    async with SqliteLedger(folder, clock=SystemClock()) as ledger:
        retries = [retry.unpark(stored.message).attempts async for stored in ledger.stored("pelton.retry.>")]
        return retries, [
            retry.letter(stored.message).attempts async for stored in ledger.stored(retry.DEAD_TOPICS)
        ]


def test_retry_that_waits_survives_a_kill_with_its_attempts_and_its_dead_letter_is_redriven(
    tmp_path: Path,
) -> None:
    """Neither the runtime nor the app has time for anything; three attempts are made in all."""
    tmp_path.chmod(0o700)
    (tmp_path / "app.py").write_text(textwrap.dedent(FAILING))
    (tmp_path / "resources.yaml").write_text(PATIENT)
    words = ("dapr", "run", "--app-id", "failing", "-d", "resources.yaml")
    app = ("--", sys.executable, "app.py")
    first = Command(*words, "-p", free_port(), *app, cwd=tmp_path)
    until(partial(is_ready, first.http))
    publish(first, "orders", "one")
    first.until("FAILED one")
    folder = Home(tmp_path / "no-platform").dapr_ledger("default", "failing")
    until(lambda: asyncio.run(_kept(folder)) == ([1], []))
    first.end(signal.SIGKILL)

    second = Command(*words, "-p", free_port(), *app, cwd=tmp_path)
    second.until("FAILED one", times=2)
    until(lambda: asyncio.run(_kept(folder)) == ([], [3]))
    listed = Command("dlq", "list", "--app-id", "failing", cwd=tmp_path)
    assert listed.wait() == 0
    assert "orders" in listed.lines[1]
    assert [sum("FAILED one" in line for line in each.lines) for each in (first, second)] == [1, 2]

    (tmp_path / "well").touch()
    redriven = Command("dlq", "redrive", "--app-id", "failing", "--all", cwd=tmp_path)
    assert redriven.wait() == 0, redriven.lines
    second.until("OK one")
    until(lambda: asyncio.run(_kept(folder)) == ([], []))
    assert second.end() == 0
