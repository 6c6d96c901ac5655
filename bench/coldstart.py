"""How long a request waits for a function at zero, from connecting to the gateway to the first byte.

Peers in the same run: the floor (fork of a warm interpreter to the first byte of a bare protocol, nothing
else done) and the start of a functions-framework process. Then a function with imports of the size of pandas,
woken while its template is kept, against hello with the same wakes in between.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

from bench.load import quantile
from bench.peers import PEERS, PeerError, install, serving, write_function
from bench.platform import HELLO, Platform, function, hello_sources, platform
from bench.table import Row

WAKES = 50
PAUSE_S = 0.15
"""Between wakes that come one at a time."""

_HEAVY_MODULES = 220
_HEAVY_ROUNDS = 6
_HEAVY_WINDOW_S = 6
_PEER_STARTS = 5
_REQUEST = b"GET %b HTTP/1.1\r\nhost: %b.default.localhost\r\nconnection: close\r\n\r\n"


def rows() -> list[Row]:
    """Measure and return the lines for a table; about 80 s."""
    floor = _floor()
    peer, note = asyncio.run(_peer_starts())
    single, burst, hello, heavy, load = asyncio.run(_wakes())
    median = statistics.median
    note_single = f"{WAKES} functions, each woken once, {PAUSE_S} s apart"
    return [
        Row(
            "cold start, first ever, p50",
            _ms(single, 0.5),
            _ms(floor, 0.5),
            "ms",
            "ours <= 10",
            note=note_single + "; peer: fork to first byte",
        ),
        Row("cold start, first ever, p99", _ms(single, 0.99), _ms(floor, 0.99), "ms", "ours <= 30"),
        Row("cold start, without a pause in between, p50", _ms(burst, 0.5), _ms(floor, 0.5), "ms"),
        Row("cold start, without a pause in between, p99", _ms(burst, 0.99), _ms(floor, 0.99), "ms"),
        Row(
            "cold start against functions-framework's",
            _ms(single, 0.5),
            median(peer) * 1e3 if peer else None,
            "ms",
            note=note or f"peer: process start to first byte, {len(peer)} starts",
        ),
        Row(
            "cold start with a template against hello, p50",
            _ms(heavy, 0.5),
            _ms(hello, 0.5),
            "ms",
            "<= 1.5",
            note=f"imports take {load}; {len(heavy)} wakes each",
        ),
        Row("cold start with a template against hello, slowest", max(heavy) * 1e3, max(hello) * 1e3, "ms"),
    ]


def _ms(values_s: list[float], share: float) -> float:
    return quantile(values_s, share) * 1e3


# --- the platform ---


async def first_byte_s(address: tuple[str, int], name: str, path: str = "/") -> float:
    """Send one request on a new connection; return seconds until its first byte, and insist on 200."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        began = time.perf_counter()
        await loop.sock_connect(sock, address)
        await loop.sock_sendall(sock, _REQUEST % (path.encode(), name.encode()))
        data = await loop.sock_recv(sock, 65536)
        took = time.perf_counter() - began
    if not data.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{name} answered {data[:200]!r}")
    return took


async def _wakes() -> tuple[list[float], list[float], list[float], list[float], str]:
    """Return seconds to the first byte: single wakes, back-to-back wakes, hello and heavy ones; imports."""
    async with platform() as here:
        functions = [function(name, source) for name, source in hello_sources(here.root, 2 * WAKES)]
        await here.deploy(functions)
        names = [obj["metadata"]["name"] for obj in functions]
        await asyncio.sleep(2)
        single = []
        for name in names[:WAKES]:
            single.append(await first_byte_s(here.gateway, name))
            await asyncio.sleep(PAUSE_S)
        await asyncio.sleep(1)
        burst = [await first_byte_s(here.gateway, name) for name in names[WAKES:]]
    async with platform() as here:
        hello, heavy, load = await _heavy(here)
    return single, burst, hello, heavy, load


async def _heavy(here: Platform) -> tuple[list[float], list[float], str]:
    light = write_function(here.root / "light", HELLO)
    big = write_heavy(here.root / "heavy")
    load = _import_cost(big)
    names = {"light-1": light, "heavy-1": big, "light-2": light, "heavy-2": big}
    await here.deploy([function(name, source, window_s=_HEAVY_WINDOW_S) for name, source in names.items()])
    templates = {name: seen["template"] for name, seen in (await here.status()).items()}
    if any(templates[name] != "kept" for name in names if name.startswith("heavy")):
        raise RuntimeError(f"templates are not kept: {templates}")
    await asyncio.sleep(2)
    took: dict[str, list[float]] = {"light": [], "heavy": []}
    for turn in range(_HEAVY_ROUNDS):
        for name in names if turn % 2 else reversed(names):
            took[name[:5]].append(await first_byte_s(here.gateway, name))
            await asyncio.sleep(PAUSE_S)
        await _all_at_zero(here)
    return took["light"], took["heavy"], load


async def _all_at_zero(here: Platform) -> None:
    async with asyncio.timeout(30):
        while any(seen["instances"] for seen in (await here.status()).values()):
            await asyncio.sleep(0.2)
    await asyncio.sleep(0.5)


def write_heavy(place: Path) -> Path:
    """Write a function that imports a package of the size of pandas: many modules, some large tables."""
    write_function(place, "import heavy\n" + "\n".join(line[4:] for line in HELLO.splitlines()))
    package = place / "heavy"
    package.mkdir()
    names = [f"part{number:03}" for number in range(_HEAVY_MODULES)]
    (package / "__init__.py").write_text("".join(f"from heavy import {name}\n" for name in names))
    for name in names:
        lines = ["TABLE = [{} for i in range(1500)]\nBLOB = bytes(range(256)) * 800\n"]
        for index in range(6):
            lines.append(
                f"class C{index}:\n"
                + "".join(f"    def m{m}(self, a, b={m}):\n        return a + b + {m}\n" for m in range(8))
                + f"def f{index}(x, y={index}):\n    return [x, y, {index}]\n"
            )
        (package / f"{name}.py").write_text("\n".join(lines))
    return place


def _import_cost(place: Path) -> str:
    """Return time and memory that the imports take in a plain interpreter with compiled modules."""
    code = (
        "import time, resource, sys; sys.path.insert(0, '.'); b = time.perf_counter(); import main; "
        "print(time.perf_counter() - b, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    plain = [
        sys.executable,
        "-c",
        "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)",
    ]
    base = int(subprocess.check_output(plain))
    outputs = [subprocess.check_output([sys.executable, "-c", code], cwd=place, text=True) for _ in range(3)]
    took, peak = min(out.split() for out in outputs[1:])  # the first one compiles
    return f"{float(took) * 1e3:.0f} ms and {(int(peak) - base) / 1e3:.0f} MB"


# --- peers ---


async def _peer_starts() -> tuple[list[float], str]:
    """Return seconds from the start of a functions-framework process to its first byte; why not, if not."""
    took = []
    peer = PEERS["functions-framework"]
    try:
        install(peer)
        with tempfile.TemporaryDirectory(prefix="pb-") as folder:
            source = write_function(Path(folder), HELLO)
            for _ in range(_PEER_STARTS):
                began = time.perf_counter()
                async with serving(peer, source, "hello", _REQUEST % (b"/", b"hello")):
                    took.append(time.perf_counter() - began)
    except PeerError as exc:
        return took, f"no peer: {exc}"
    return took, ""


def _floor() -> list[float]:
    """Return seconds from fork to first byte of a bare protocol, measured by a warm process of its own."""
    command = [sys.executable, "-m", "bench.coldstart", "--floor"]
    return cast("list[float]", json.loads(subprocess.check_output(command, timeout=60)))


def _measure_floor() -> list[float]:
    """Fork, let the child make its loop and serve one request; nothing else is done."""
    import httptools
    import uvloop

    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\nHello, world!\n"

    class Bare(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)
            self.parser = httptools.HttpRequestParser(self)

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_message_complete(self) -> None:
            self.transport.write(answer)

    async def serve(listener: socket.socket) -> None:
        server = await asyncio.get_running_loop().create_unix_server(Bare, sock=listener)
        await server.serve_forever()

    gc.collect()
    gc.freeze()
    took = []
    with tempfile.TemporaryDirectory(prefix="pb-") as folder:
        for number in range(WAKES):
            path = f"{folder}/{number}"
            began = time.perf_counter()
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen(16)
            pid = os.fork()
            if pid == 0:
                try:
                    uvloop.run(serve(listener))
                finally:
                    os._exit(1)
            listener.close()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(_REQUEST % (b"/", b"hello"))
                client.recv(4096)
                took.append(time.perf_counter() - began)
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            time.sleep(0.02)
    return took


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--floor", action="store_true", required=True)
    parser.parse_args()
    print(json.dumps(_measure_floor()))
