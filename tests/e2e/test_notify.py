"""Alerts over HTTP, through NATS JetStream, to receivers over HTTP: real parts, local, free ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from pelton.clock import SystemClock
from pelton.drivers.console import ConsoleSender
from pelton.drivers.nats.bus import JetStreamBus
from pelton.drivers.slack import SlackSender
from pelton.drivers.webhook import WebhookSender
from pelton.model.notification import Credential, LabelSelector, Receiver, SlackReceiver, WebhookReceiver
from pelton.notify.intake import create_app
from pelton.notify.pipeline import Options, Pipeline
from pelton.notify.retry import RetryPolicy
from pelton.ports import Sender
from pelton.targets.local import nats as server

pytestmark = pytest.mark.connected

Answer = tuple[int, dict[str, str]]
OK: Answer = (200, {})
QUICK = Options(policy=RetryPolicy(max_attempts=4, backoff_s=0.05, max_backoff_s=0.2), close_grace_s=0.2)


class Hook:
    """An HTTP receiver: answers with `answers` in order, the last for ever; None hangs."""

    def __init__(self, *answers: Answer | None) -> None:
        self.answers = list(answers)
        self.bodies: list[Any] = []
        self.at: list[float] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Hook:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/hook"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def names(self) -> list[str]:
        """Alert names in the order of arrival."""
        return [alert["labels"]["alertname"] for body in self.bodies for alert in body["alerts"]]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().lower().split("\r\n")
                length = next(int(line[15:]) for line in lines if line.startswith("content-length:"))
                body = json.loads(await reader.readexactly(length))
                self.bodies.append(body)
                self.at.append(time.monotonic())
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer is None:
                    await asyncio.Event().wait()
                else:
                    status, headers = answer
                    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                    writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\n{extra}\r\n".encode())
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client or the test has ended it
        finally:
            self._tasks.discard(task)
            writer.close()


async def until(holds: Callable[[], bool | Awaitable[bool]], *, within_s: float = 20.0) -> None:
    """Poll until something holds; the deadline is there for failing tests only."""
    async with asyncio.timeout(within_s):
        while True:
            found = holds()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


@pytest.fixture
async def nats_url(tmp_path: Path) -> AsyncIterator[str]:
    config = tmp_path / "nats.conf"
    config.write_text(
        server.config(store_dir=str(tmp_path / "store"), user="u", password="p", ports_file_dir=str(tmp_path))
    )
    process = await asyncio.create_subprocess_exec(
        *server.command(str(config)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        host, port = await server.wait_ready(pid=process.pid, ports_file_dir=str(tmp_path))
        yield server.url(host, port)
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[JetStreamBus]:
    async with JetStreamBus(nats_url, user="u", password="p") as made:
        yield made


@contextlib.asynccontextmanager
async def running(
    bus: JetStreamBus, *receivers: Receiver, options: Options = QUICK
) -> AsyncIterator[Pipeline]:
    clock = SystemClock()
    async with WebhookSender(clock, timeout_s=0.5) as webhook, SlackSender(clock) as slack:
        senders: dict[str, Sender] = {"webhook": webhook, "slack": slack, "console": ConsoleSender(clock)}
        async with Pipeline(bus, senders, clock, options=options) as made:
            made.set_receivers(receivers)
            yield made


@contextlib.asynccontextmanager
async def intake(pipeline: Pipeline) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(pipeline.accept, status=pipeline.stats)
    http = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))
    task = asyncio.create_task(http.serve())
    await until(lambda: http.started)
    port = http.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            yield client
    finally:
        http.should_exit = True
        await task


def hook_receiver(name: str, url: str, **selector: str) -> Receiver:
    wanted = LabelSelector(match_labels=selector) if selector else None
    return Receiver(name=name, webhook=WebhookReceiver(url=url, alert_selector=wanted))


def alerts(*names: str) -> list[dict[str, Any]]:
    return [{"labels": {"alertname": name}} for name in names]


async def dead_letters(bus: JetStreamBus, receiver: str) -> list[str]:
    topic = f"pelton.dead.notifications.{receiver}"
    return [item.message.headers["Pelton-Reason"] async for item in bus.stored(topic)]


async def test_alert_reaches_slack_in_its_wire_format(bus):
    async with Hook(OK) as hook:
        receiver = Receiver(name="chat", slack=SlackReceiver(webhook=Credential(value=hook.url)))
        async with running(bus, receiver) as pipeline, intake(pipeline) as http:
            labels = {"alertname": "404 Request", "namespace": "shop", "severity": "warning"}
            body = {"alerts": [{"labels": labels}, {"labels": labels}], "version": "4", "status": "firing"}
            answer = await http.post("/api/v2/alerts", json=body)
            await until(lambda: bool(hook.bodies))

    assert answer.json() == {"Status": 200, "Message": "Notification request accepted"}
    (sent,) = hook.bodies
    assert sent["text"].startswith("[FIRING:2] 404 Request (namespace=shop, severity=warning)\n• ")
    assert sent["blocks"][0]["type"] == "section"


async def test_receiver_that_fails_and_pauses_gets_the_alert_in_the_end(bus):
    async with (
        Hook((500, {}), (429, {"retry-after": "1"}), (503, {}), OK) as hook,
        running(bus, hook_receiver("ops", hook.url)) as pipeline,
        intake(pipeline) as http,
    ):
        await http.post("/api/v2/alerts", json=alerts("a"))
        await until(lambda: pipeline.stats()["receivers"]["ops/webhook"]["sent"] == 1)
        stats = pipeline.stats()["receivers"]["ops/webhook"]

    assert hook.names == ["a"] * 4
    assert hook.at[2] - hook.at[1] >= 0.95
    assert (stats["failed_attempts"], stats["pauses"], stats["dead"]) == (2, 1, 0)


async def test_dead_and_hanging_receivers_do_not_hold_up_another(bus):
    names = [f"a{i}" for i in range(30)]
    async with Hook(OK) as good, Hook(None) as hanging, Hook(OK) as closed:
        await closed.__aexit__()
        receivers = [
            hook_receiver(name, hook.url)
            for name, hook in (("good", good), ("hanging", hanging), ("closed", closed))
        ]
        async with running(bus, *receivers) as pipeline, intake(pipeline) as http:
            for name in names:
                await http.post("/api/v2/alerts", json=alerts(name))
            await until(lambda: sorted(good.names) == sorted(names))
            assert pipeline.stats()["receivers"]["hanging/webhook"]["sent"] == 0

            await until(lambda: pipeline.stats()["receivers"]["closed/webhook"]["dead"] == 30)
            reasons = await dead_letters(bus, "closed")

    assert len(reasons) == 30
    assert all("4 attempts failed, the last with: No answer: ConnectError." in reason for reason in reasons)


async def test_refused_alert_is_a_dead_letter_and_wanted_alerts_go_on(bus):
    async with Hook((400, {}), OK) as hook:
        receiver = hook_receiver("ops", hook.url, alertname="wanted")
        async with running(bus, receiver) as pipeline, intake(pipeline) as http:
            await http.post("/api/v2/alerts", json=alerts("unwanted"))
            for _ in range(2):
                await http.post("/api/v2/alerts", json=alerts("wanted"))
            counted = lambda: pipeline.stats()["receivers"]["ops/webhook"]  # noqa: E731 -- read twice
            await until(lambda: (counted()["sent"], counted()["dead"]) == (1, 1))
            reasons = await dead_letters(bus, "ops")
            assert pipeline.stats()["unmatched_alerts"] == 1

    assert reasons == ["HTTP 400"]
    assert hook.names == ["wanted", "wanted"]


async def test_restart_midway_sends_what_was_left(bus):
    names = [f"a{i}" for i in range(20)]
    async with Hook(*[OK] * 5, None) as first, Hook(OK) as second:
        async with running(bus, hook_receiver("ops", first.url)) as pipeline:
            async with intake(pipeline) as http:
                for name in names:
                    await http.post("/api/v2/alerts", json=alerts(name))
            await until(lambda: len(first.bodies) > 5)
        done = set(first.names[:5])
        async with running(bus, hook_receiver("ops", second.url)):
            await until(lambda: done | set(second.names) == set(names))


CHILD = """
import asyncio, sys
import uvicorn
from pelton.clock import SystemClock
from pelton.drivers.nats.bus import JetStreamBus
from pelton.drivers.webhook import WebhookSender
from pelton.model.notification import Receiver, WebhookReceiver
from pelton.notify.intake import create_app
from pelton.notify.pipeline import Options, Pipeline
from pelton.notify.retry import RetryPolicy

async def main(nats, *urls):
    clock = SystemClock()
    options = Options(policy=RetryPolicy(max_attempts=50, backoff_s=0.05, max_backoff_s=0.2))
    async with JetStreamBus(nats, user="u", password="p") as bus, WebhookSender(clock, timeout_s=2) as sender:
        async with Pipeline(bus, {"webhook": sender}, clock, options=options) as pipeline:
            pipeline.set_receivers(
                [Receiver(name=f"r{i}", webhook=WebhookReceiver(url=url)) for i, url in enumerate(urls)]
            )
            config = uvicorn.Config(create_app(pipeline.accept), port=0, lifespan="off", log_config=None)
            http = uvicorn.Server(config)
            task = asyncio.create_task(http.serve())
            while not http.started:
                await asyncio.sleep(0.01)
            print(http.servers[0].sockets[0].getsockname()[1], flush=True)
            await task

asyncio.run(main(*sys.argv[1:]))
"""


async def test_kill_9_at_any_time_loses_no_accepted_alert(nats_url):
    """Every alert that was answered 200 arrives at both receivers, though the process dies thrice."""
    accepted: list[str] = []
    async with Hook(OK, (500, {}), OK, (500, {}), OK) as steady, Hook(*[(500, {}), OK] * 60) as shaky:

        async def life(lives: int) -> None:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-c", CHILD, nats_url, steady.url, shaky.url),
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                assert child.stdout is not None
                port = int(await child.stdout.readline())
                async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
                    url = f"http://127.0.0.1:{port}/api/v2/alerts"
                    sends = [post(http, url, f"{lives}-{i}") for i in range(40)]
                    if lives < 4:
                        # Killed in the midst of its work: after a share of the posts were answered.
                        goal = len(accepted) + 8 * lives
                        gathered = asyncio.gather(*sends)
                        await until(lambda: len(accepted) >= goal)
                        child.kill()
                        await gathered
                    else:
                        await asyncio.gather(*sends)
                        await until(
                            lambda: set(accepted) <= set(steady.names) & set(shaky.names), within_s=40
                        )
            finally:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()

        async def post(http: httpx.AsyncClient, url: str, name: str) -> None:
            with contextlib.suppress(httpx.HTTPError):
                if (await http.post(url, json=alerts(name))).status_code == 200:
                    accepted.append(name)

        for lives in range(1, 5):
            await life(lives)

    assert len(accepted) >= 40 + 8 + 16 + 24
