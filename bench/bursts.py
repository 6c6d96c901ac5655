"""What a sudden load does to a platform at rest: a step of requests on one function, and many woken at once.

The step comes from a clock, not from answers: every request has the moment at which it is due, and its
latency counts from there, so that a stall is not hidden by clients that wait. Run: python -m bench bursts
"""

from __future__ import annotations

import asyncio
import time

from bench.load import quantile
from bench.platform import Platform, function, hello_sources, platform
from bench.table import Row

PER_S = 1000
STEP_S = 5.0
CONNECTIONS = 64
AT_ONCE = 100
_REQUEST = b"GET / HTTP/1.1\r\nhost: %b.default.localhost\r\nuser-agent: bench/1\r\n\r\n"


def rows() -> list[Row]:
    """Measure and return the lines for a table; about half a minute."""
    step, step_errors, woken, wake_errors = asyncio.run(_measure())
    return [
        Row(
            f"burst: 0 to {PER_S} requests/s on one function, p99",
            quantile(step, 0.99) * 1e3,
            None,
            "ms",
            "ours <= 250",
            note=f"{len(step)} requests in {STEP_S:g} s, {step_errors} errors",
        ),
        Row(f"burst: errors of {len(step)}", float(step_errors), None, "", "ours <= 0"),
        Row(
            f"burst: {AT_ONCE} functions woken at the same instant, p99",
            quantile(woken, 0.99) * 1e3,
            None,
            "ms",
            "ours <= 1000",
            note=f"p50 {quantile(woken, 0.5) * 1e3:.0f} ms",
        ),
        Row(f"burst: unanswered of {AT_ONCE}", float(wake_errors), None, "", "ours <= 0"),
    ]


async def _measure() -> tuple[list[float], int, list[float], int]:
    async with platform() as here:
        sources = list(hello_sources(here.root, AT_ONCE + 1))
        await here.deploy([function(name, source) for name, source in sources])
        await asyncio.sleep(2)
        step, step_errors = await _step(here, sources[-1][0])
        began = time.perf_counter()
        answers = await asyncio.gather(
            *(_one(here, name, began) for name, _ in sources[:AT_ONCE]), return_exceptions=True
        )
        woken = [took for took in answers if isinstance(took, float)]
        return step, step_errors, woken, AT_ONCE - len(woken)


async def _one(here: Platform, name: str, due: float) -> float:
    reader, writer = await asyncio.open_connection(*here.gateway)
    try:
        return await _ask(reader, writer, name, due)
    finally:
        writer.close()


async def _step(here: Platform, name: str) -> tuple[list[float], int]:
    """Send at a constant rate over connections that take turns; latencies count from when each is due."""
    took: list[float] = []
    errors = 0
    count = int(PER_S * STEP_S)
    began = time.perf_counter() + 0.05

    async def client(first: int) -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(*here.gateway)
        try:
            for number in range(first, count, CONNECTIONS):
                due = began + number / PER_S
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                try:
                    took.append(await _ask(reader, writer, name, due))
                except (OSError, RuntimeError, asyncio.IncompleteReadError):
                    errors += 1
                    writer.close()
                    reader, writer = await asyncio.open_connection(*here.gateway)
        finally:
            writer.close()

    await asyncio.gather(*(client(number) for number in range(CONNECTIONS)))
    return took, errors


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, due: float) -> float:
    writer.write(_REQUEST % name.encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(None, 1)[0])
    await reader.readexactly(length)
    if b" 200 " not in head[:16]:
        raise RuntimeError(head.partition(b"\r\n")[0].decode())
    return time.perf_counter() - due
