"""What the gateway adds to a call over HTTP from one app of Dapr to another, on a whole platform.

Sixteen connections send 1 KB at a steady rate: to the `DAPR_HTTP_PORT` of a program of `pelton dapr run`, and
straight to the app that this calls, which answers at once. What the former takes longer is what is added.
The app is a program beside another `pelton dapr run`, and a Function. Dapr's figures are its own, for two
sidecars on the way: 1.06 ms at p50 and 2.90 ms at p99. The client shares the machine.
Run: python -m bench.dapr_gateway [--seconds 4] [--rate 500]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvloop

from bench.dapr_api import BODY, TURNS, Http, at_share, load, server
from bench.machine import cpu_s, cpus, pin
from bench.peers import write_function
from bench.platform import Platform, function, platform
from bench.table import Row, render
from pelton.cli.home import Home
from pelton.cli.status import collect

__all__ = ["rows"]

PUBLISHED = {"p50": (0.5, 1.06), "p99": (0.99, 2.90)}
"""Label -> share, and what Dapr publishes of itself, ms."""
STARTS = 5
APP = """
    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
"""


@contextlib.asynccontextmanager
async def program(home: Path, app_id: str, port: int = 0) -> AsyncIterator[tuple[int, float, float]]:
    """Run `pelton dapr run`.

    Gives its HTTP port, the seconds from its start until it says that it is up, and those of CPU time.
    """
    words = [
        sys.executable, "-m", "pelton.cli.main", "dapr", "run", "--app-id", app_id,
        *(["--app-port", str(port)] if port else []), "--", "sleep", "infinity",
    ]  # fmt: skip
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *words,
        env={**os.environ, "PELTON_HOME": str(home)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        said = ""
        async with asyncio.timeout(30):
            while "up and running" not in said:
                line = (await process.stdout.readline()).decode()
                if not line:
                    raise RuntimeError(f"`pelton dapr run` ended: {said}")
                said += line
        took, used = time.perf_counter() - began, cpu_s(process.pid)
        found = re.search(r"HTTP Port: (\d+)", said)
        assert found is not None
        yield int(found[1]), took, used
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


async def _measure(
    port: int, path: str, straight: int | str, parts: dict[str, list[int]], rate: float, seconds: float
) -> tuple[list[float], list[float], dict[str, float]]:
    """Return ms of each call by the gateway and straight, and CPU microseconds of each call by part."""
    took: tuple[list[float], list[float]] = ([], [])
    used = dict.fromkeys(parts, 0.0)
    async with Http(port) as one, Http(straight) as other:
        calls = []
        for http, target in ((one, f"/v1.0/invoke/{path}/method/echo"), (other, "/echo")):
            await http.open()
            calls.append(http.call("POST", target, BODY))
        for call in calls:
            await load(call, rate=rate, seconds=0.5)
        for _ in range(TURNS):
            for index, call in enumerate(calls):
                before = {name: cpu_s(*pids) for name, pids in parts.items()}
                took[index].extend(await load(call, rate=rate, seconds=seconds / TURNS / 2))
                if not index:
                    for name, pids in parts.items():
                        used[name] += cpu_s(*pids) - before[name]
    return *took, {name: seconds / len(took[0]) * 1e6 for name, seconds in used.items()}


def _parts(home: Home) -> dict[str, list[int]]:
    """Return the processes of the platform that a call could pass."""
    found = {part["name"]: part["pid"] for part in collect(home)["parts"]}
    return {"Envoy": [found["envoy"]], "Python": [found[name] for name in ("up", "node", "runtime")]}


def _app(running: Platform) -> dict[str, Any]:
    source = write_function(running.root / "app", APP)
    manifest = function("app", source, convention="asgi", target="app", min_replicas=1)
    manifest["metadata"]["annotations"]["dapr.io/enabled"] = "true"
    return manifest


async def _start_row(home: Path, where: str) -> Row:
    """Start programs one after the other; a home without a platform makes each its own runtime."""
    starts, used = [], []
    for number in range(STARTS):
        async with program(home, f"start-{number}") as (_, start, cpu):
            starts.append(start * 1000)
            used.append(cpu * 1000)
    return Row(
        f"`pelton dapr run` {where}, until it is up",
        statistics.median(starts),
        None,
        "ms",
        budget="ours <= 500",
        spread=f"{min(starts):.0f} to {max(starts):.0f}",
        note=f"{statistics.median(used):.0f} ms of CPU",
    )


async def _rows(app_port: int, rate: float, seconds: float) -> list[Row]:
    table: list[Row] = []
    servers, rest = cpus()
    async with platform() as running, contextlib.AsyncExitStack() as stack:
        await running.deploy([_app(running)])
        home = running.home.path
        starts = [await _start_row(home, "on a platform"), await _start_row(running.root / "none", "alone")]
        port, _, _ = await stack.enter_async_context(program(home, "caller"))
        await stack.enter_async_context(program(home, "program", app_port))
        (instance,) = (await running.workers())["app"]
        pin(running.processes(), servers)
        pin([os.getpid()], rest or servers)
        parts = await asyncio.to_thread(_parts, running.home)
        for target, name, straight in (
            ("program", "a program", app_port),
            ("app", "a Function", running.socket_of(instance["id"])),
        ):
            took, bare, used = await _measure(port, target, straight, parts, rate, seconds)
            spent = ", ".join(f"{value:.0f} us of {part}'s CPU" for part, value in used.items())
            for label, (share, peer) in PUBLISHED.items():
                table.append(
                    Row(
                        f"Dapr apps, call over HTTP by the gateway to {name}: added at {label}",
                        at_share(took, share) - at_share(bare, share),
                        peer,
                        "ms",
                        budget="<= 1" if label == "p50" else "",
                        note=f"{statistics.median(took):.2f} ms in all, {spent} a call",
                    )
                )
        table += starts
    return table


def rows(seconds: float = 4.0, rate: float = 500.0) -> list[Row]:
    """Measure and return the lines for a table; about 15 s and twice `seconds` long."""
    with server("direct") as direct:
        return uvloop.run(_rows(direct.ports[0][0], rate, seconds))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.dapr_gateway", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=500.0)
    options = parser.parse_args()
    print(render(rows(options.seconds, options.rate)))


if __name__ == "__main__":
    main()
