"""Alerts: accepted over HTTP, kept, silenced and grouped by a process on one CPU; memory, and a restart.

A thousand requests of a hundred alerts each come over eight connections to the intake and the pipeline as the
runtime process has them, with a real NATS server and a real file; ten posted silences count, two receivers
with timers want the alerts, half of them both. A figure is taken when all are in their groups. The peer is
Alertmanager on the same CPU with the same receivers and silences, once it has answered all requests; it keeps
alerts in memory only. Restarts follow `kill -9`.
Run: python -m bench.alerts [--alerts 100000]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.machine import cpu_s, cpus, free_port, pin, rss_mb
from bench.table import Row, render

__all__ = ["rows"]

ALERTS = 100_000
PER_REQUEST = 100
CONNECTIONS = 8
SILENCES = 10
_WITHIN_S = 120.0
_USER, _PASSWORD = "bench", "bench"
_CONFIG = """
route:
  receiver: all
  group_by: [alertname]
  group_wait: 1h
  routes:
    - receiver: critical
      matchers: ['severity="critical"']
      group_by: [alertname, namespace]
      continue: true
    - {receiver: all}
receivers: [{name: all}, {name: critical}]
"""
_TIMES = {"pelton.dev/group-wait": "1h"}


def rows(alerts: int = ALERTS) -> list[Row]:
    """Measure; about a minute."""
    return asyncio.run(_rows(alerts))


async def _rows(alerts: int) -> list[Row]:
    bodies = [_body(start) for start in range(0, alerts, PER_REQUEST)]
    peer = shutil.which("prometheus-alertmanager")
    took_s, used_s = await _peer(peer, bodies) if peer else (None, 0.0)
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with _nats(directory) as url:
            server = _Server(directory, url)
            await server.start()
            server.silence()
            used, began = cpu_s(server.pid), time.perf_counter()
            await _send(server.port, bodies)
            accepted_s = time.perf_counter() - began
            await server.until(alerts)
            wall_s, used = time.perf_counter() - began, cpu_s(server.pid) - used
            found.append(
                Row(
                    "alerts accepted, silenced and grouped on one CPU",
                    alerts / wall_s,
                    alerts / took_s if took_s else None,
                    "1/s",
                    budget="ours >= 10000",
                    note=f"{used / alerts * 1e6:.0f} us of CPU per alert; accepted after {accepted_s:.1f} s; "
                    + (f"Alertmanager {used_s / alerts * 1e6:.0f} us" if peer else "no Alertmanager here"),
                )
            )
            found.append(
                Row(f"memory with {alerts:,} alerts in groups", rss_mb(server.pid), None, "MB", note="RSS")
            )
            server.kill()
            found.append(
                Row(
                    f"restart with {alerts:,} alerts in groups",
                    await _restart_s(server, alerts),
                    None,
                    "s",
                    budget="ours <= 5",
                    note="from the start of the process until all are in their groups again",
                )
            )
            server.kill()
            (directory / "groups.db").unlink()
            await server.start(idle=True)
            await _send(server.port, bodies)
            server.kill()
            found.append(
                Row(
                    f"restart with {alerts:,} alerts waiting on the bus",
                    await _restart_s(server, alerts),
                    None,
                    "s",
                    budget="ours <= 5",
                    note="from the start of the process until all are in groups and kept",
                )
            )
            server.kill()
    return found


async def _restart_s(server: _Server, alerts: int) -> float:
    began = time.perf_counter()
    await server.start()
    await server.until(alerts)
    return time.perf_counter() - began


def _body(start: int) -> bytes:
    return json.dumps(
        [
            {
                "labels": {
                    "alertname": f"Alert{number % 100}",
                    "severity": ("critical", "warning")[number % 2],
                    "namespace": f"team-{number % 20}",
                    "pod": f"pod-{number}",
                    "instance": "10.0.0.1:9090",
                },
                "annotations": {
                    "summary": f"pod-{number} answers late",
                    "description": "A request took longer than the limit of its service for ten minutes.",
                },
            }
            for number in range(start, start + PER_REQUEST)
        ]
    ).encode()


async def _send(port: int, bodies: list[bytes]) -> None:
    """Post all bodies over a few connections, each with one request in flight."""
    waiting = iter(bodies)

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in waiting:
            head = (
                "POST /api/v2/alerts HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            if " 200 " not in answer.splitlines()[0]:
                raise RuntimeError(f"refused: {answer.splitlines()[0]}")
            length = [int(line[15:]) for line in answer.splitlines() if line.startswith("content-length:")]
            await reader.readexactly(length[0] if length else 0)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))


def _silences() -> Iterator[dict[str, Any]]:
    for number in range(SILENCES):
        yield {
            "matchers": [{"name": "alertname", "value": f"Alert{number}", "isRegex": False, "isEqual": True}],
            "startsAt": "2026-01-01T00:00:00Z",
            "endsAt": "2126-01-01T00:00:00Z",
            "createdBy": "bench",
            "comment": "-",
        }


def _post(port: int, path: str, value: Mapping[str, Any]) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=json.dumps(value).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


async def _peer(program: str, bodies: list[bytes]) -> tuple[float, float]:
    """Return what Alertmanager took for all requests: seconds, and seconds of CPU."""
    with tempfile.TemporaryDirectory() as directory:
        config, port = Path(directory) / "alertmanager.yml", free_port()
        config.write_text(_CONFIG)
        process = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            pin([process.pid], cpus()[0])
            _ready(port, "/-/ready")
            for silence in _silences():
                _post(port, "/api/v2/silences", silence)
            used, began = cpu_s(process.pid), time.perf_counter()
            await _send(port, bodies)
            return time.perf_counter() - began, cpu_s(process.pid) - used
        finally:
            process.kill()
            process.wait()


def _ready(port: int, path: str) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextlib.asynccontextmanager
async def _nats(directory: Path) -> AsyncIterator[str]:
    from pelton.targets.local import nats

    config = directory / "nats.conf"
    config.write_text(
        nats.config(
            store_dir=str(directory / "nats"),
            user=_USER,
            password=_PASSWORD,
            ports_file_dir=str(directory),
        )
    )
    process = subprocess.Popen(
        nats.command(str(config)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        host, port = await nats.wait_ready(pid=process.pid, ports_file_dir=str(directory))
        pin([process.pid], cpus()[1])
        yield nats.url(host, port)
    finally:
        process.kill()
        process.wait()


class _Server:
    """Intake and pipeline in a process of their own, on the first CPU."""

    def __init__(self, directory: Path, url: str) -> None:
        self._directory = directory
        self._url = url
        self.port = free_port()
        self.pid = 0

    async def start(self, *, idle: bool = False) -> None:
        words = [
            *("-m", "bench.alerts", "--serve", str(self._directory), "--nats", self._url),
            *("--port", str(self.port)),
        ]
        self._process = subprocess.Popen([sys.executable, *words, *(["--idle"] if idle else [])])
        self.pid = self._process.pid
        pin([self.pid], cpus()[0])
        await asyncio.to_thread(_ready, self.port, "/-/ready")

    def silence(self) -> None:
        for silence in _silences():
            _post(self.port, "/api/v2/silences", silence)

    async def until(self, alerts: int) -> None:
        """Wait until so many alerts are in groups: half of them are in two."""
        deadline = time.monotonic() + _WITHIN_S
        while await asyncio.to_thread(self._grouped) < alerts * 3 // 2:
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {self._grouped()} memberships after {_WITHIN_S:.0f} s")
            await asyncio.sleep(0.05)

    def _grouped(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=30) as answer:
            found = json.loads(answer.read())
        waits = found["accepted_batches"] - found["dispatched_batches"]
        return 0 if waits > 0 else int(found["groups"]["alerts"])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()


async def _serve(directory: Path, url: str, port: int, *, idle: bool) -> None:
    """Be the server; `idle` takes alerts and leaves them on the bus."""
    from pelton.apiserver.server import ApiServer
    from pelton.cli import cyclic_gc
    from pelton.clock import SystemClock
    from pelton.drivers.nats import JetStreamBus
    from pelton.model.notification import LabelSelector, Receiver, WebhookReceiver
    from pelton.notify.alert_table import AlertTable
    from pelton.notify.alertmanager import alertmanager_routes
    from pelton.notify.group_store import GroupStore
    from pelton.notify.intake import create_app
    from pelton.notify.pipeline import Options, Pipeline
    from pelton.notify.silences import SilenceBook
    from pelton.ports import SendResult

    class Nowhere:
        async def send(self, settings: Mapping[str, Any], payload: Mapping[str, Any]) -> SendResult:
            return SendResult(ok=True)

    clock = SystemClock()
    table, book = AlertTable(), SilenceBook(directory / "silences.json")
    async with JetStreamBus(url, user=_USER, password=_PASSWORD) as bus:
        store = GroupStore(directory / "groups.db")
        options = Options(cluster="default")
        async with Pipeline(
            bus, {"webhook": Nowhere()}, clock, options=options, book=book, store=store, table=table
        ) as pipeline:
            critical = LabelSelector(match_labels={"severity": "critical"})
            if not idle:
                pipeline.set_receivers(
                    [
                        Receiver(
                            name="all",
                            annotations=_TIMES | {"pelton.dev/group-by": "alertname"},
                            webhook=WebhookReceiver(url="http://nowhere/"),
                        ),
                        Receiver(
                            name="critical",
                            annotations=_TIMES | {"pelton.dev/group-by": "alertname,namespace"},
                            webhook=WebhookReceiver(url="http://nowhere/", alert_selector=critical),
                        ),
                    ]
                )
            routes = alertmanager_routes(
                table=table,
                book=book,
                receivers=pipeline.receivers,
                placing=pipeline.placing,
                silences_changed=pipeline.silences_changed,
                clock=clock,
            )
            app = create_app(pipeline.accept, status=pipeline.stats, clock=clock, further=routes)
            app.state.stopping = asyncio.Event()
            sock = socket.create_server(("127.0.0.1", port))
            sock.setblocking(False)
            async with ApiServer(app, sock):
                cyclic_gc.rarely()
                await asyncio.Event().wait()


def main() -> None:
    """Print the table, or be the server that is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alerts", type=int, default=ALERTS)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--nats", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--idle", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        import uvloop

        uvloop.run(_serve(options.serve, options.nats, options.port, idle=options.idle))
    else:
        print(render(rows(options.alerts)))


if __name__ == "__main__":
    main()
