"""`make demo-kafka`: container logs in a real Kafka become alerts, while parts of it are killed.

Starts Kafka and the platform in scratch directories, applies examples/19-log-alerts-kafka, writes 50,000 log
records with 500 server errors, kills the runtime, a worker and Kafka in the middle, and looks at what came
out. The exit code says whether all of it held. PELTON_DEMO_REPORT names a file for the figures as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import shutil
import signal
import socket
import string
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, Producer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pelton.apiserver.server import ApiServer
from tests.e2e.conftest import Platform
from tests.services.kafka import Kafka
from tests.services.table import SERVERS, started

__all__ = ["main"]

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "19-log-alerts-kafka"
RECORDS: Final = 50_000
ERRORS: Final = 500
PODS: Final = 20
STEP_S: Final = 180.0
LAG_THRESHOLD: Final = 20
MOST: Final = 10
"""Both as in the example's manifest."""


@dataclass
class Report:
    """What was observed."""

    records: int = 0
    errors_found: int = 0
    handled_twice: int = 0
    pods_alerted: int = 0
    slack_messages: int = 0
    kills: list[str] = field(default_factory=list)
    most_instances: int = 0
    back_at_zero: bool = False
    seconds: float = 0.0
    instance_seconds: float = 0.0
    ideal_seconds: float = 0.0
    sized_for_peak_seconds: float = 0.0
    failed: list[str] = field(default_factory=list)


class Demo:
    """One run.

    Args:
        scratch: Directory for everything.
        kafka: The broker, running.
        report: Filled in.
        records: Log records to write, server errors included.
    """

    def __init__(self, scratch: Path, kafka: Kafka, report: Report, records: int = RECORDS) -> None:
        self._kafka = kafka
        self._report = report
        self._records = records
        self._scratch = scratch
        self._platform = Platform(scratch)
        self._texts: list[str] = []
        self._errors: dict[str, int] = {}

    async def run(self) -> None:
        """Do it all; what does not hold is noted in the report."""
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        app = Starlette(routes=[Route("/services/demo", self._slack, methods=["POST"])])
        app.state.stopping = asyncio.Event()
        async with ApiServer(app, sock):
            url = f"http://127.0.0.1:{sock.getsockname()[1]}/services/demo"
            try:
                alias = f"kafka-logs-receiver-kafka-brokers={self._kafka.address}"
                await asyncio.to_thread(self._platform.start, "--alias", alias)
                await asyncio.to_thread(self._deploy, url)
                began = time.monotonic()
                await self._flow()
                self._report.seconds = time.monotonic() - began
                await self._at_zero()
                self._count(time.monotonic() - began)
            finally:
                await asyncio.to_thread(self._platform.discard)

    async def _slack(self, request: Request) -> PlainTextResponse:
        self._texts.append(json.dumps(await request.json()))
        return PlainTextResponse("ok")

    def _deploy(self, slack: str) -> None:
        work = self._scratch / "example"
        shutil.copytree(EXAMPLE, work, ignore=shutil.ignore_patterns("__pycache__", "expect.yaml"))
        values = {
            "KAFKA_BROKERS": self._kafka.address,
            "SLACK_URL": slack,
        }
        for manifest in work.glob("*.yaml"):
            manifest.write_text(string.Template(manifest.read_text()).safe_substitute(values))
        (work / "log-rule.yaml").unlink()  # the same without code; its alerts would be counted with these
        self._platform.cli("apply", "-f", str(work), "--wait", "--timeout", "60", timeout_s=90)
        say("applied: log-handler (topic logs), a Slack receiver; 0 instances run")

    async def _flow(self) -> None:
        """Write, kill in the middle, wait until every error came out."""
        stop = asyncio.Event()
        watching = asyncio.create_task(self._watch(stop))
        reading = asyncio.create_task(asyncio.to_thread(self._read_errors, stop))
        killing = asyncio.create_task(self._kill())
        await asyncio.to_thread(self._produce)
        self._report.records = self._records
        say(f"{self._records} log records written, {ERRORS} of them server errors")
        await killing
        deadline = time.monotonic() + STEP_S
        while time.monotonic() < deadline and (len(self._errors) < ERRORS or self._alerted() < PODS):
            await asyncio.sleep(0.2)
        stop.set()
        await asyncio.gather(watching, reading)
        report = self._report
        report.errors_found = len(self._errors)
        report.handled_twice = sum(self._errors.values()) - len(self._errors)
        report.pods_alerted, report.slack_messages = self._alerted(), len(self._texts)
        say(f"killed in the middle: {', '.join(report.kills)}")
        say(
            f"errors found: {report.errors_found} of {ERRORS}, {report.handled_twice} of them repeated; "
            f"{report.pods_alerted} of {PODS} pods are in the {report.slack_messages} messages to Slack"
        )
        self._check(report.errors_found == ERRORS, f"{ERRORS - report.errors_found} errors are lost")
        self._check(report.pods_alerted == PODS, f"{PODS - report.pods_alerted} pods have no alert")
        self._check(not any("quiet-" in text for text in self._texts), "a pod without errors has an alert")
        self._check(len(report.kills) == 3, f"only {report.kills} were killed")
        if self._texts:
            say("the first alert as Slack receives it:")
            print(json.dumps(json.loads(self._texts[0]), indent=2, ensure_ascii=False)[:2000])

    def _produce(self) -> None:
        """Write the log records over some seconds; the broker's death in between is waited out."""
        dice = random.Random(7)
        errors = set(dice.sample(range(self._records), ERRORS))
        producer = Producer(
            {
                "bootstrap.servers": self._kafka.address,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "log_level": 2,  # that Kafka is away for a while is meant
            }
        )
        failed: list[str] = []
        number = 0
        for index in range(self._records):
            code = 200
            pod = f"quiet-{index % 5}"
            if index in errors:
                code, pod = 503, f"shop-{number % PODS}"
                number += 1
            record = {
                "@timestamp": time.time(),
                "log": f'10.0.0.1 - - "GET /item/{index} HTTP/1.1" {code} 12\n',
                "stream": "stdout",
                "kubernetes": {"pod_name": pod, "namespace_name": "default", "container_name": "shop"},
            }
            while True:
                try:
                    producer.produce(
                        "logs",
                        json.dumps(record),
                        key=pod,
                        on_delivery=lambda error, _: failed.append(str(error)) if error else None,
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
            if index % 500 == 0:
                time.sleep(0.1)
        producer.flush(60)
        self._check(not failed, f"{len(failed)} records were not written: {failed[:1]}")

    async def _kill(self) -> None:
        """Kill a worker, the runtime and the broker with signal 9, while records flow."""
        await self._seen(0.1)
        for mark, what in ((0.1, "worker"), (0.3, "runtime"), (0.5, "Kafka")):
            await self._seen(mark)
            if what == "Kafka":
                await asyncio.to_thread(self._kafka.kill)
                await asyncio.to_thread(self._kafka.start)
            elif not await asyncio.to_thread(self._kill_process, what):
                continue
            self._report.kills.append(what)

    async def _seen(self, share: float) -> None:
        """Wait until such a share of the errors was found, not for ever."""
        deadline = time.monotonic() + 60
        while len(self._errors) < share * ERRORS and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    def _kill_process(self, what: str) -> bool:
        if what == "runtime":
            pids = [self._platform.part("runtime")["pid"]]
        else:
            pids = [each["pid"] for each in self._platform.function("log-handler")["workers"]]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # a worker may have ended since
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def _read_errors(self, stop: asyncio.Event) -> None:
        """Count what the function sent to its output topic."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._kafka.address,
                "group.id": "demo",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "topic.metadata.refresh.interval.ms": 500,
                "log_level": 2,
            }
        )
        consumer.subscribe(["log-errors"])
        seen: set[tuple[int | None, int | None]] = set()
        try:
            while not stop.is_set():
                record = consumer.poll(0.2)
                if record is None or record.error() is not None:
                    continue
                place = record.partition(), record.offset()
                if place in seen:  # after the broker's restart this reader begins anew
                    continue
                seen.add(place)
                data: Any = json.loads(record.value() or b"{}").get("data", {})
                path = (json.loads(data) if isinstance(data, str) else data)["path"]
                self._errors[path] = self._errors.get(path, 0) + 1
        finally:
            consumer.close()

    async def _watch(self, stop: asyncio.Event) -> None:
        """Note the most instances, and what an oracle would have: what is waiting asks for, at once."""
        at = time.monotonic()
        while not stop.is_set():
            try:
                found = await asyncio.to_thread(self._platform.function, "log-handler")
            except (AssertionError, KeyError, OSError, StopIteration):
                found = {"instances": 0, "pending_events": 0}
            now = time.monotonic()
            wanted = min(MOST, math.ceil(found["pending_events"] / LAG_THRESHOLD))
            self._report.ideal_seconds += wanted * (now - at)
            at = now
            self._report.most_instances = max(self._report.most_instances, int(found["instances"]))
            await asyncio.sleep(0.3)

    def _alerted(self) -> int:
        together = "\n".join(self._texts)
        return sum(f"shop-{number}" in together for number in reversed(range(PODS)))

    async def _at_zero(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = await asyncio.to_thread(self._platform.function, "log-handler")
            if not found["instances"]:
                self._report.back_at_zero = True
                self._report.instance_seconds = found["instance_seconds"]
                say(f"0 → {self._report.most_instances} → 0 instances")
                self._check(self._report.most_instances > 1, "it never had more than one instance")
                return
            await asyncio.sleep(0.5)
        self._check(False, "not back at zero within 60 s")

    def _count(self, seconds: float) -> None:
        peak = self._report.most_instances * seconds
        self._report.sized_for_peak_seconds = peak
        say(
            f"used {self._report.instance_seconds:.1f} instance-seconds; exactly what the lag asks for is "
            f"{self._report.ideal_seconds:.1f}, a set sized for the peak {peak:.1f}"
        )

    def _check(self, held: bool, failure: str) -> None:
        if not held:
            self._report.failed.append(failure)


def say(text: str) -> None:
    """Tell the reader."""
    print(f"• {text}", flush=True)


def main() -> int:
    """Run it; 0 when all of it held."""
    if reason := SERVERS["kafka"].missing():
        print(f"Kafka cannot be started: {reason}; run: scripts/services install kafka", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scratch = Path(tempfile.mkdtemp(prefix="pelton-demo-kafka-"))
    report = Report()
    try:
        with started("kafka") as kafka:
            say(f"Kafka runs on {kafka.address}")
            asyncio.run(Demo(scratch, kafka, report).run())
    finally:
        if not os.environ.get("PELTON_DEMO_KEEP"):
            shutil.rmtree(scratch, ignore_errors=True)
        if path := os.environ.get("PELTON_DEMO_REPORT"):
            Path(path).write_text(json.dumps(asdict(report)))
    for failure in report.failed:
        print(f"FAILED: {failure}", file=sys.stderr)
    print("\nAll of it held." if not report.failed else "\nNot all of it held.")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
