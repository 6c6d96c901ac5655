"""Memory of warm workers: 100, then 200 hello functions with one instance each, all of which have answered.

PSS counts a page that n processes share as 1/n for each, so the sum is what the workers really take; the peer
is a functions-framework process with its one gunicorn worker, which shares nothing with its neighbours.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

from bench.coldstart import first_byte_s
from bench.machine import descendants, pss_mb
from bench.peers import PEERS, PeerError, serving, write_function
from bench.platform import HELLO, Platform, function, hello_sources, platform
from bench.table import Row

WORKERS = 100
REQUESTS = 5
"""To each worker, so that what the first ones touch is counted."""

_HELLO = b"GET / HTTP/1.1\r\nhost: hello.default.localhost\r\nconnection: close\r\n\r\n"


def rows() -> list[Row]:
    """Measure and return the lines for a table; about 40 s."""
    ours, parts, twice = asyncio.run(_ours())
    peer, why = asyncio.run(_peer())
    return [
        Row(
            f"memory per worker at {WORKERS} warm workers, PSS",
            statistics.mean(ours),
            peer,
            "MB",
            "ours <= 4",
            spread=f"{min(ours):.1f}..{max(ours):.1f} MB",
            note=why or "peer: one functions-framework, all its processes",
        ),
        Row(
            f"memory of everything at {WORKERS} warm workers, PSS",
            sum(ours) + parts,
            WORKERS * peer if peer else None,
            "MB",
            note=f"of which the parts of the platform: {parts:.0f} MB",
        ),
        Row(
            f"memory of everything at {2 * WORKERS} warm workers, PSS",
            twice,
            2 * WORKERS * peer if peer else None,
            "MB",
        ),
    ]


async def _ours() -> tuple[list[float], float, float]:
    """Return PSS of each worker, of all other processes together, and of everything at twice as many, MB."""
    async with platform() as here:
        functions = [function(name, source) for name, source in hello_sources(here.root, 2 * WORKERS)]
        await here.deploy(functions)
        workers = await _warm(here, functions[:WORKERS], WORKERS)
        others = [pid for pid in here.processes() if pid not in workers]
        measured = [pss_mb(pid) for pid in workers], sum(map(pss_mb, others))
        await _warm(here, functions[WORKERS:], 2 * WORKERS)
        return *measured, sum(map(pss_mb, here.processes()))


async def _warm(here: Platform, functions: list[dict[str, Any]], expected: int) -> list[int]:
    """Wake functions and have them answer; return the pids of all workers that there are then."""
    for _ in range(REQUESTS):
        for obj in functions:
            await first_byte_s(here.gateway, obj["metadata"]["name"])
    await asyncio.sleep(2)
    workers = [item["pid"] for ready in (await here.workers()).values() for item in ready]
    if len(workers) != expected:
        raise RuntimeError(f"{len(workers)} workers are ready instead of {expected}")
    return workers


async def _peer() -> tuple[float | None, str]:
    """Return PSS of a functions-framework with all its processes, MB; or why there is none."""
    try:
        with tempfile.TemporaryDirectory(prefix="pb-") as folder:
            source = write_function(Path(folder), HELLO)
            async with serving(PEERS["functions-framework"], source, "hello", _HELLO) as (pid, _address):
                return sum(map(pss_mb, descendants(pid))), ""
    except PeerError as exc:
        return None, f"no peer: {exc}"
