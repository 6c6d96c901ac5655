"""`pelton demo`: the main job of the platform, end to end, in a scratch home, in under a minute.

Runs examples/01-log-alerts with real parts; nothing is shown that was not observed. The exit code says
whether all of it held.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import string
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import pelton
from pelton.apiserver.server import ApiServer
from pelton.cli import status
from pelton.cli.home import Endpoints, Home
from pelton.errors import NotRunningError, PeltonError

__all__ = ["demo"]

_EXAMPLE: Final = "01-log-alerts"
_UP_TIMEOUT_S: Final = 30.0
_STEP_TIMEOUT_S: Final = 30.0
_REQUESTS: Final = (("apples", 200), ("pears", 200), ("plums", 404), ("apples", 200), ("figs", 404))


@dataclass
class _Report:
    """What was observed; printed as JSON to the file named by PELTON_DEMO_REPORT, for tests."""

    ready_s: float = 0.0
    cold_start_ms: float = 0.0
    warm_ms: float = 0.0
    log_records_found: int = 0
    alerts_received: int = 0
    back_at_zero: bool = False
    instance_seconds: float = 0.0
    ideal_seconds: float = 0.0
    always_on_seconds: float = 0.0
    failed: list[str] = field(default_factory=list)


def demo(*, keep: bool) -> int:
    """Run the demo; returns 0 when everything held."""
    scratch = Path(tempfile.mkdtemp(prefix="pelton-demo-"))
    os.environ["PELTON_HOME"] = str(scratch / "home")
    report = _Report()
    try:
        asyncio.run(_Demo(scratch, report).run())
    except PeltonError as exc:
        report.failed.append(str(exc))
    finally:
        if not keep:
            shutil.rmtree(scratch, ignore_errors=True)
    for failure in report.failed:
        print(f"FAILED: {failure}", file=sys.stderr)
    if path := os.environ.get("PELTON_DEMO_REPORT"):
        Path(path).write_text(json.dumps(asdict(report)))
    print("\nAll of it held." if not report.failed else "\nNot all of it held.")
    return 1 if report.failed else 0


class _Demo:
    def __init__(self, scratch: Path, report: _Report) -> None:
        self._scratch = scratch
        self._report = report
        self._home = Home()
        self._alerts: list[dict[str, Any]] = []
        self._alerted = asyncio.Event()

    async def run(self) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        port = sock.getsockname()[1]
        app = Starlette(routes=[Route("/services/demo", self._receive, methods=["POST"])])
        app.state.stopping = asyncio.Event()
        platform: subprocess.Popen[bytes] | None = None
        try:
            async with ApiServer(app, sock):
                started = time.monotonic()
                platform = _start_platform(self._scratch / "up.log")
                endpoints = await self._ready(platform)
                self._report.ready_s = time.monotonic() - started
                _say(f"platform ready in {self._report.ready_s:.1f} s (gateway {endpoints.gateway})")
                await self._deploy(endpoints, f"http://127.0.0.1:{port}/services/demo")
                deployed = time.monotonic()
                await self._request(endpoints)
                requested = time.monotonic()
                await self._wait_alerts()
                # The shop had something to do until the last answer, the handler until the last alert.
                self._report.ideal_seconds = requested + time.monotonic() - 2 * deployed
                await self._wait_zero()
                self._count(time.monotonic() - deployed)
        finally:
            if platform is not None:
                platform.terminate()
                try:
                    platform.wait(10)
                except subprocess.TimeoutExpired:
                    platform.kill()
                    self._report.failed.append("the platform did not end within 10 s of SIGTERM")

    async def _receive(self, request: Request) -> PlainTextResponse:
        self._alerts.append(await request.json())
        self._alerted.set()
        return PlainTextResponse("ok")

    async def _ready(self, platform: subprocess.Popen[bytes]) -> Endpoints:
        deadline = time.monotonic() + _UP_TIMEOUT_S
        while time.monotonic() < deadline:
            if platform.poll() is not None:
                raise PeltonError(f"`pelton up` ended: {(self._scratch / 'up.log').read_text()[-2000:]}")
            try:
                return self._home.endpoints()
            except NotRunningError:
                await asyncio.sleep(0.02)
        raise PeltonError(f"the platform was not ready within {_UP_TIMEOUT_S:g} s")

    async def _deploy(self, endpoints: Endpoints, slack_url: str) -> None:
        """Fill in the addresses of this run and apply the example's manifests, as a user would."""
        source = _example()
        work = self._scratch / _EXAMPLE
        shutil.copytree(source, work, ignore=shutil.ignore_patterns("__pycache__"))
        values = {"NOTIFY_URL": endpoints.notify, "SLACK_URL": slack_url}
        for manifest in work.glob("*.yaml"):
            manifest.write_text(string.Template(manifest.read_text()).safe_substitute(values))
        (work / "expect.yaml").unlink(missing_ok=True)
        if real := os.environ.get("SLACK_WEBHOOK_URL"):
            manifest = work / "receivers.yaml"
            text = manifest.read_text()
            copy = text.replace("team-slack", "team-slack-channel").replace(slack_url, real)
            manifest.write_text(f"{text}---\n{copy}")
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-P",
                "-m",
                "pelton.cli.main",
                "apply",
                "-f",
                str(work),
                "--wait",
                "--timeout",
                "60",
            ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise PeltonError(f"the example could not be applied:\n{output.decode()}")
        _say("applied: shop (HTTP), log-handler (topic logs.default.shop), a Slack receiver; 0 instances run")

    async def _request(self, endpoints: Endpoints) -> None:
        async with httpx.AsyncClient(base_url=endpoints.gateway, timeout=30, trust_env=False) as client:
            times = []
            for item, expected in _REQUESTS:
                began = time.perf_counter()
                response = await client.get(f"/default/shop/{item}")
                times.append((time.perf_counter() - began) * 1e3)
                if response.status_code != expected:
                    self._report.failed.append(
                        f"GET /{item}: {response.status_code}, not {expected}: {response.text}"
                    )
        self._report.cold_start_ms, self._report.warm_ms = times[0], min(times[1:])
        _say(
            f"first request, from zero: {times[0]:.1f} ms; warm: {min(times[1:]):.1f} ms;"
            f" {len(_REQUESTS)} requests sent, 2 of them for what the shop does not have"
        )

    async def _wait_alerts(self) -> None:
        wanted = sum(expected == 404 for _, expected in _REQUESTS)
        deadline = time.monotonic() + _STEP_TIMEOUT_S
        paths: set[str] = set()
        while time.monotonic() < deadline and len(paths) < wanted:
            self._alerted.clear()
            text = json.dumps(self._alerts)
            paths = {item for item, expected in _REQUESTS if expected == 404 and item in text}
            if len(paths) < wanted:
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        await self._alerted.wait()
                except TimeoutError:
                    break
        self._report.log_records_found = len(paths)
        self._report.alerts_received = len(self._alerts)
        if len(paths) < wanted:
            self._report.failed.append(f"alerts for {wanted} lost items expected, {len(paths)} came")
            return
        _say(f"{wanted} log records found by log-handler; the alert as Slack receives it:")
        print(json.dumps(self._alerts[0], indent=2, ensure_ascii=False))

    async def _wait_zero(self) -> None:
        deadline = time.monotonic() + _STEP_TIMEOUT_S
        counts: dict[str, int] = {}
        while time.monotonic() < deadline:
            found = await asyncio.to_thread(status.collect, self._home)
            counts = {function["name"]: function["instances"] for function in found["functions"]}
            self._report.instance_seconds = sum(f["instance_seconds"] for f in found["functions"])
            if not any(counts.values()):
                self._report.back_at_zero = True
                _say("both functions are back at zero instances")
                return
            await asyncio.sleep(0.2)
        self._report.failed.append(f"not back at zero within {_STEP_TIMEOUT_S:g} s: {counts}")

    def _count(self, seconds: float) -> None:
        used, always = self._report.instance_seconds, 2 * seconds
        self._report.always_on_seconds = always
        _say(
            f"used {used:.1f} instance-seconds; one of each just while there was work would have used "
            f"{self._report.ideal_seconds:.1f}, always-on {always:.1f}"
        )


def _start_platform(log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "pelton.cli.main",
                "up",
                "--gateway",
                "127.0.0.1:0",
                "--api",
                "127.0.0.1:0",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _example() -> Path:
    package = Path(pelton.__file__).parent
    for place in (package / "examples", package.parents[1] / "examples"):
        if (place / _EXAMPLE).is_dir():
            return place / _EXAMPLE
    raise PeltonError(
        "the examples are not installed", hint="install Pelton from its wheel or run from a clone"
    )


def _say(text: str) -> None:
    print(f"• {text}", flush=True)
