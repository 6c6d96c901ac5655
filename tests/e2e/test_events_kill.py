"""10,000 events while workers, runtime and broker are killed at random: each handled, none lost."""

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pelton.dataplane.retry import DEAD_TOPICS
from pelton.drivers.nats import JetStreamBus
from pelton.ports import Message
from pelton.targets.local import nats as server
from tests.contract.nats_server import NatsServer

pytestmark = [pytest.mark.connected, pytest.mark.long, pytest.mark.timeout(300)]

EVENTS = 10_000
WORKERS = 3
PARTS = Path(__file__).parent / "events_kill"


class Fleet:
    """Workers and a runtime that are started again as soon as they are gone, as node and `up` do it."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.runtime: subprocess.Popen[bytes] | None = None
        self.kills: Counter[str] = Counter()
        self._serial = 0

    def keep(self) -> None:
        self.workers = {name: process for name, process in self.workers.items() if process.poll() is None}
        while len(self.workers) < WORKERS:
            self._serial += 1
            name = f"sink-1-{self._serial:05d}"
            self.workers[name] = self._start("worker.py", str(self.directory), name)
        ready = [name for name in self.workers if (self.directory / f"{name}.ctl").exists()]
        fresh = self.directory / "endpoints.new"
        fresh.write_text(json.dumps(ready))
        fresh.replace(self.directory / "endpoints.json")
        if self.runtime is None or self.runtime.poll() is not None:
            self.runtime = self._start("runtime.py", str(self.directory), self.url)

    def kill(self, what: str, dice: random.Random) -> None:
        process = dice.choice(list(self.workers.values())) if what == "worker" else self.runtime
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            self.kills[what] += 1

    def stop(self) -> None:
        for process in [*self.workers.values(), *([self.runtime] if self.runtime else [])]:
            process.kill()
            process.wait()

    def handled(self) -> Counter[int]:
        found: Counter[int] = Counter()
        for path in self.directory.glob("*.handled"):
            found.update(int(line) for line in path.read_text().split())
        return found

    def _start(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{script}.log").open("ab") as log:
            return subprocess.Popen([sys.executable, str(PARTS / script), *arguments], stdout=log, stderr=log)


async def publish(bus: JetStreamBus, seconds: float) -> None:
    """Publish all events, spread over some seconds."""
    began = time.monotonic()
    for first in range(0, EVENTS, 100):
        await asyncio.gather(
            *(
                bus.publish(Message(topic="numbers", data=b"%d" % number, id=f"n{number}"))
                for number in range(first, first + 100)
            )
        )
        await asyncio.sleep(max(0.0, began + seconds * first / EVENTS - time.monotonic()))


async def test_every_event_is_handled_while_processes_are_killed(tmp_path, capsys):
    dice = random.Random(20)
    nats = NatsServer(tmp_path)
    await nats.start()
    fleet = Fleet(tmp_path, server.url("127.0.0.1", nats.port))
    began = time.monotonic()
    try:
        async with nats.bus() as bus:
            fleet.keep()
            publishing = asyncio.create_task(publish(bus, 8.0))
            plan = ["worker"] * 4 + ["runtime", "worker", "worker", "runtime", "worker", "broker"]
            turn = 0
            while not publishing.done():
                await asyncio.sleep(dice.uniform(0.1, 0.4))
                what = plan[turn % len(plan)]
                turn += 1
                if what == "broker":
                    nats.kill()
                    fleet.kills[what] += 1
                    await nats.start()
                else:
                    fleet.kill(what, dice)
                fleet.keep()
            await publishing
            async with asyncio.timeout(120):
                while len(fleet.handled()) < EVENTS:
                    fleet.keep()
                    await asyncio.sleep(0.1)
            took = time.monotonic() - began
            dead = [stored async for stored in bus.stored(DEAD_TOPICS)]
    finally:
        fleet.stop()
        nats.kill()
    handled = fleet.handled()

    assert set(handled) == set(range(EVENTS))
    assert dead == []
    assert fleet.kills["worker"] >= 5
    assert fleet.kills["runtime"] >= 2
    assert fleet.kills["broker"] >= 1
    with capsys.disabled():
        again = sum(handled.values()) - EVENTS
        print(
            f"\n{EVENTS} events, killed {dict(fleet.kills)}: none lost, {again} handled more than once, "
            f"{took:.1f} s until the last"
        )
