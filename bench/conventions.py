"""A hello function of each convention on one worker, against Google's plain one, as ratios of one run.

What is a coroutine by its signature is compared with a plain coroutine function, the others with a plain
function: a task per request is not the convention's doing.

Each is served from its own source in a process of its own (`served.py`), all on one CPU; the load comes from
another: 32 connections. They take turns of an eighth of a second, so that a neighbour's load on the machine
hits all of them alike; the table shows medians over the turns. CPU is that of the worker and, where it has
one, of its program.
Run: python -m bench.conventions [--seconds 2.5] [--profile HELLO]
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench.hellos import HELLOS, PLAIN, PLAIN_ASYNC, TEXT, Hello, write
from bench.load import Refused, ask, quantile, turn, warm
from bench.machine import cpu_s, cpus, descendants, pin, pinned
from bench.served import Server, environment_of, start_worker
from bench.table import Row, render, spread

CONNECTIONS = 32
TURN_S = 0.125


@dataclass
class Measured:
    """What the turns of one server showed; runs that had to be repeated; why there are no figures."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    refused: int = 0
    why: str = ""


def rows(seconds: float = 2.4) -> list[Row]:
    """Measure and return the lines for a table; `seconds` per convention and some for their starts."""
    results = measure(HELLOS, seconds)
    table = []
    for hello in HELLOS:
        if hello is not PLAIN:
            peer = PLAIN_ASYNC if hello.asynchronous else PLAIN
            table += _rows(hello, results[hello.slug], results[peer.slug])
    return table


def _rows(hello: Hello, ours: Measured, plain: Measured) -> list[Row]:
    median = statistics.median
    if ours.why:
        return [Row(f"{hello.name}: requests", None, median(plain.per_s), "1/s", hello.budget, note=ours.why)]
    ours_cpu = median(ours.cpu_us) if ours.cpu_us else None
    return [
        Row(
            f"{hello.name}: requests",
            median(ours.per_s),
            median(plain.per_s),
            "1/s",
            hello.budget,
            spread(ours.per_s, plain.per_s),
            "; ".join(filter(None, [hello.note, f"{ours.refused} turns repeated" if ours.refused else ""])),
        ),
        Row(
            f"{hello.name}: CPU",
            ours_cpu,
            median(plain.cpu_us) if plain.cpu_us else None,
            "us/request",
            "",
            spread(ours.cpu_us, plain.cpu_us),
        ),
        Row(
            f"{hello.name}: p99",
            quantile(ours.latencies_s, 0.99) * 1e6,
            quantile(plain.latencies_s, 0.99) * 1e6,
            "us",
        ),
    ]


def measure(hellos: tuple[Hello, ...], seconds: float) -> dict[str, Measured]:
    """Let the functions take turns, `seconds` each in total."""
    results = {hello.slug: Measured() for hello in hellos}
    for requirements in {hello.requirements for hello in hellos}:
        environment_of(requirements)
    servers, rest = cpus()
    with tempfile.TemporaryDirectory(prefix="pb-") as folder, contextlib.ExitStack() as stack:
        running: dict[str, Server] = {}
        for hello in hellos:
            source = write(hello, Path(folder) / hello.slug)
            running[hello.slug] = stack.enter_context(
                start_worker(
                    source, f"{folder}/{hello.slug}.sock", hello.convention, hello.target, hello.options
                )
            )
        stack.enter_context(pinned(rest))
        for hello in hellos:
            try:
                running[hello.slug].wait()
                uvloop.run(_check(hello, running[hello.slug]))
            except (OSError, RuntimeError) as exc:
                results[hello.slug].why = str(exc)
            else:
                pin(descendants(running[hello.slug].process.pid), servers)
        able = [hello for hello in hellos if not results[hello.slug].why]
        uvloop.run(_take_turns(able, running, results, seconds))
    return results


async def _check(hello: Hello, server: Server) -> None:
    answer = await ask(server.path, hello.request)
    if not answer.endswith(TEXT):
        raise RuntimeError(f"{hello.name} answered {answer!r}")


async def _take_turns(
    hellos: list[Hello], running: dict[str, Server], results: dict[str, Measured], seconds: float
) -> None:
    for hello in hellos:
        await warm(running[hello.slug].path, hello.request)
    for _ in range(max(1, round(seconds / TURN_S))):
        for hello in hellos:
            server, measured = running[hello.slug], results[hello.slug]
            if measured.why:
                continue
            pids = descendants(server.process.pid)
            before = cpu_s(*pids)
            try:
                done, refused = await turn(
                    server.path, hello.request, seconds=TURN_S, connections=CONNECTIONS
                )
            except Refused as exc:
                measured.why = str(exc)
                continue
            if refused:  # its CPU time is of more than this run
                measured.refused += refused
            else:
                measured.cpu_us.append((cpu_s(*pids) - before) / len(done.latencies_s) * 1e6)
            measured.per_s.append(done.per_s)
            measured.latencies_s.extend(done.latencies_s)


def profile(name: str, seconds: float) -> None:
    """Print where the worker of one hello spends its time under load, by cProfile."""
    (hello,) = (hello for hello in HELLOS if hello.slug == name)
    environment_of(hello.requirements)
    with tempfile.TemporaryDirectory(prefix="pb-") as folder:
        source = write(hello, Path(folder) / "source")
        worker = start_worker(
            source, f"{folder}/s.sock", hello.convention, hello.target, hello.options, profile=True
        )
        with worker as server:
            server.wait()

            async def drive() -> None:
                await warm(server.path, hello.request)
                await turn(server.path, hello.request, seconds=seconds, connections=CONNECTIONS)

            uvloop.run(drive())
            server.process.terminate()
            server.process.wait(10)
            print(server.log.read_text(errors="replace"))


def main() -> None:
    """Print the rows, or a profile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.4)
    parser.add_argument("--profile", choices=[hello.slug for hello in HELLOS])
    options = parser.parse_args()
    if options.profile:
        profile(options.profile, options.seconds)
    else:
        print(render(rows(options.seconds)))


if __name__ == "__main__":
    main()
