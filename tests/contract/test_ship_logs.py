"""`pelton ship-logs`: from files into a topic, on the way through kills of both ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from typing import Any

import pytest

from pelton.cli.ship_logs import ship
from pelton.clock import SystemClock
from pelton.drivers.kafka import KafkaBus
from pelton.drivers.log_intake import LogsBus
from pelton.errors import DeliveryError
from pelton.model.desired import Component
from tests.contract.bus import take

ID = "0123456789abcdef" * 4
NAME = f"wordpress-v1-6f9c4-x7k2p_demo-project_wordpress-{ID}.log"


def line(text):
    return f"2026-01-02T03:04:05Z stdout F {text}\n"


def texts(deliveries):
    return [json.loads(delivery.message.data)["log"].rstrip("\n") for delivery in deliveries]


class Unwilling:
    """A broker that refuses each record once, and one for ever."""

    def __init__(self):
        self.stored, self.seen = [], set()

    async def publish(self, message):
        text = json.loads(message.data)["log"].rstrip("\n")
        if text == "too large":
            raise DeliveryError("too large", retriable=False)
        if text not in self.seen:
            self.seen.add(text)
            raise DeliveryError("away")
        self.stored.append(text)


async def test_what_is_refused_is_repeated_and_what_never_can_be_is_dropped(tmp_path, caplog):
    (tmp_path / "a.log").write_text("1\ntoo large\n2\n")
    component = Component(
        namespace="cli",
        name="ship-logs",
        type="bindings.logs",
        metadata={"path": f"{tmp_path}/*.log", "readFromHead": "true"},
    )
    source = LogsBus(component, clock=SystemClock(), folder=tmp_path / "state")
    target: Any = Unwilling()
    counter = [0]
    shipping = asyncio.create_task(ship(source, "", target, "logs", clock=SystemClock(), counter=counter))
    async with asyncio.timeout(30):
        while counter[0] < 3:
            await asyncio.sleep(0.01)
    shipping.cancel()
    await asyncio.gather(shipping, return_exceptions=True)

    assert target.stored == ["1", "2"]
    assert "a record is dropped" in caplog.text
    assert caplog.text.count("records wait: away") == 1


class Shipper:
    """The command as a process."""

    def __init__(self, tmp_path, *arguments):
        self._command = [sys.executable, "-m", "pelton.cli.main", "ship-logs", *arguments]
        self._home = tmp_path / "home"
        self.process: Any = None

    def start(self):
        self.process = subprocess.Popen(
            self._command,
            env={**os.environ, "PELTON_HOME": str(self._home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert "shipping log records" in self.process.stdout.readline()

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, out
        return out


@pytest.mark.connected
async def test_container_logs_reach_kafka_through_kills_and_rotation(kafka, tmp_path):
    topic = f"t-{uuid.uuid4()}"
    logs = tmp_path / "containers"
    logs.mkdir()
    shipper = Shipper(
        tmp_path,
        "--set",
        "readFromHead=true",
        "--path",
        f"{logs}/*.log",
        "--brokers",
        kafka.address,
        "--topic",
        topic,
    )
    metadata = {"brokers": kafka.address, "authType": "none", "initialOffset": "oldest"}
    async with KafkaBus(metadata, where="test") as bus:
        await bus.create_topic(topic, partitions=1, replicas=1, config={})
    try:
        shipper.start()
        (logs / NAME).write_text("".join(line(n) for n in range(100)))
        async with KafkaBus(metadata, where="test") as bus:
            assert sorted({int(text) for text in texts(await take(bus, topic, 100))}) == list(range(100))
            shipper.kill()
            with (logs / NAME).open("a") as handle:
                handle.write("".join(line(n) for n in range(100, 200)))
            (logs / NAME).rename(logs / f"{NAME}.1")
            (logs / NAME).write_text("".join(line(n) for n in range(200, 300)))
            shipper.start()
            seen: set[int] = set()
            record: dict[str, Any] = {}
            async with asyncio.timeout(40):
                while len(seen) < 200:
                    found = await take(bus, topic, 1)
                    seen |= {int(text) for text in texts(found) if int(text) >= 100}
                    record = json.loads(found[-1].message.data)
            assert record["kubernetes"]["pod_name"] == "wordpress-v1-6f9c4-x7k2p"
    finally:
        out = shipper.end()
    assert "shipped" in out
