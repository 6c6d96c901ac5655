"""Container logs: how fast files become finished records, and how soon a line is seen.

The peer is the least that a program in Python can do: read the file, take each line apart with one
expression, make its JSON. Ours also joins what is partial, keeps positions, and has each record acknowledged.
Turns alternate in one process; the file is in the page cache.
Run: python -m bench.logs [--lines 100000]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

from bench.table import Row, render, spread

NAME = f"wordpress-v1-6f9c4-x7k2p_demo-project_wordpress-{'0123456789abcdef' * 4}.log"
LINE = '2026-01-02T03:04:05.{:09d}Z stdout F 10.0.0.1 - - "GET /posts/{} HTTP/1.1" 404 153 "-" "agent"\n'
ROUNDS = 5
PROBES = 50
_CRI = re.compile(r"(\S+) (stdout|stderr) (\S+) (.*)")


def _loop(path: Path) -> int:
    """Do as little as possible; returns bytes made."""
    made = 0
    with path.open() as handle:
        for line in handle:
            found = _CRI.match(line)
            if found is not None:
                record = {"time": found[1], "stream": found[2], "logtag": found[3], "log": found[4] + "\n"}
                made += len(json.dumps({"@timestamp": 1767323045.0, **record}))
    return made


async def _ours(directory: Path, lines: int) -> float:
    """Return seconds from the subscription to the last acknowledgement."""
    bus = _bus(directory, read_from_head=True)
    done, began = 0, time.perf_counter()
    batches = bus.subscribe("", consumer="bench", max_in_flight=1000, options={})
    async with aclosing(cast(Any, batches)) as iterator:
        async for batch in iterator:
            for delivery in batch:
                await delivery.ack()
            done += len(batch)
            if done >= lines:
                break
    return time.perf_counter() - began


async def _latencies(directory: Path) -> list[float]:
    """Return seconds from the write of a line to its delivery."""
    bus = _bus(directory, read_from_head=False)
    path, found = directory / NAME, list[float]()
    path.write_text("")
    batches = bus.subscribe("", consumer="bench", max_in_flight=10, options={})
    async with aclosing(cast(Any, batches)) as iterator:
        following = asyncio.ensure_future(anext(iterator))
        await asyncio.sleep(1)
        for number in range(PROBES):
            began = time.perf_counter()
            with path.open("a") as handle:
                handle.write(LINE.format(number, number))
            for delivery in await following:
                found.append(time.perf_counter() - began)
                await delivery.ack()
            following = asyncio.ensure_future(anext(iterator))
            await asyncio.sleep(0.013)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    return found


def _bus(directory: Path, *, read_from_head: bool) -> Any:
    from pelton.clock import SystemClock
    from pelton.drivers.log_intake import LogsBus
    from pelton.model.desired import Component

    metadata = {"path": f"{directory}/*.log", "readFromHead": str(read_from_head).lower()}
    component = Component(namespace="bench", name="logs", type="bindings.logs", metadata=metadata)
    state = Path(tempfile.mkdtemp(dir=directory))
    return LogsBus(component, clock=SystemClock(), folder=state)


def rows(lines: int = 50_000) -> list[Row]:
    """Measure; lines per turn."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        path = directory / NAME
        path.write_text("".join(LINE.format(number, number) for number in range(lines)))
        ours, theirs = list[float](), list[float]()
        for _ in range(ROUNDS):
            ours.append(lines / asyncio.run(_ours(directory, lines)))
            began = time.perf_counter()
            _loop(path)
            theirs.append(lines / (time.perf_counter() - began))
        path.unlink()
        latencies = [seconds * 1000 for seconds in asyncio.run(_latencies(directory))]
    return [
        Row(
            "logs: lines of a container, read to finished",
            statistics.median(ours),
            statistics.median(theirs),
            "lines/s",
            spread=spread(ours, theirs),
        ),
        Row("logs: line written to line delivered, p50", statistics.median(latencies), None, "ms"),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=50_000)
    print(render(rows(parser.parse_args().lines)))


if __name__ == "__main__":
    main()
