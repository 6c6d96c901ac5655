"""1,000 Functions through the API: how long until accepted and Running, and what they cost once at rest.

Each has a source directory of its own, so each is built, checked by loading it and routed. Clients are four
keep-alive connections that send the next object when the last one was accepted. Then nobody asks for
anything: CPU and memory of all processes of the platform, with all functions at zero.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from bench.load import quantile
from bench.machine import cpu_s, pss_mb
from bench.platform import Platform, function, hello_sources, platform
from bench.table import Row

FUNCTIONS = 1000
CLIENTS = 4
REST_S = 20
_SETTLE_S = 85
"""Until the platform is at rest: watches may go back 80 s, so changes are remembered for that long."""


def rows() -> list[Row]:
    """Measure and return the lines for a table; about 70 s."""
    return asyncio.run(_measure())


async def _measure() -> list[Row]:
    async with platform() as here:
        empty = memory_by_part(here)
        functions = [function(name, source) for name, source in hello_sources(here.root, FUNCTIONS)]
        began = time.perf_counter()
        busy = cpu_by_part(here)
        done = asyncio.create_task(here.settled(FUNCTIONS))
        took = await _create_all(here, functions)
        accepted_s = time.perf_counter() - began
        await done
        running_s = time.perf_counter() - began
        spent = {name: cpu - busy.get(name, 0.0) for name, cpu in cpu_by_part(here).items()}
        await asyncio.sleep(_SETTLE_S)
        share, by_part = await _rest(here)
        held = memory_by_part(here)
        instances = sum(len(seen["instances"]) for seen in (await here.status()).values())
    return [
        Row(
            f"apply: {FUNCTIONS} Functions accepted and Running",
            running_s,
            None,
            "s",
            "ours <= 20",
            note=f"all accepted after {accepted_s:.1f} s; CPU s: {_words(spent)}",
        ),
        Row(
            "apply: one object, p99",
            quantile(took, 0.99) * 1e3,
            None,
            "ms",
            "ours <= 100",
            note=f"p50 {quantile(took, 0.5) * 1e3:.0f} ms, {CLIENTS} clients at once",
        ),
        Row(
            f"at rest: CPU with {FUNCTIONS} functions at zero",
            share * 100,
            None,
            "% of a core",
            "ours <= 1",
            note=f"over {REST_S} s, {instances} instances: {_words(by_part)}",
        ),
        Row(
            f"at rest: memory with {FUNCTIONS} functions at zero, PSS",
            sum(held.values()),
            sum(empty.values()),
            "MB",
            "ours <= 400",
            note=f"{_words(held)}; peer: the same platform without functions: {_words(empty)}",
        ),
    ]


async def _create_all(here: Platform, functions: list[dict[str, Any]]) -> list[float]:
    waiting = deque(functions)
    took: list[float] = []

    async def client() -> None:
        async with here.api() as api:
            while waiting:
                took.append(await api.create(waiting.popleft()))

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return took


async def _rest(here: Platform) -> tuple[float, dict[str, float]]:
    """Return CPU seconds per second of all processes together, and each part's percent of a core."""
    before, began = cpu_by_part(here), time.perf_counter()
    await asyncio.sleep(REST_S)
    took = time.perf_counter() - began
    spent = {name: cpu - before.get(name, 0.0) for name, cpu in cpu_by_part(here).items()}
    return sum(spent.values()) / took, {name: 100 * cpu / took for name, cpu in spent.items()}


def cpu_by_part(here: Platform) -> dict[str, float]:
    """Return CPU seconds so far by kind of process; children of the zygote that have ended are not in it."""
    found: dict[str, float] = {}
    for pid in here.processes():
        try:
            name, cpu = _part(pid), cpu_s(pid)
        except OSError:
            continue
        found[name] = found.get(name, 0.0) + cpu
    return found


def memory_by_part(here: Platform) -> dict[str, float]:
    """Return PSS in MB by kind of process."""
    found: dict[str, float] = {}
    for pid in here.processes():
        try:
            name, held = _part(pid), pss_mb(pid)
        except OSError:
            continue
        found[name] = found.get(name, 0.0) + held
    return found


def _part(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().split(b"\0")
    for word in words:
        if word.startswith(b"pelton.cli."):
            return word.rpartition(b".")[2].decode().replace("main", "up")
    return words[0].rpartition(b"/")[2].decode()[:12] or "other"


def _words(figures: dict[str, float]) -> str:
    ordered = sorted(figures.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {value:.2f}" for name, value in ordered if value >= 0.005)
