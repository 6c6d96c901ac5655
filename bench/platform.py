"""A whole platform in a scratch home for one section: `pelton up`, and Functions over its API.

Environments that functions need are kept in the benchmarks' cache, so that a second run installs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from bench.machine import descendants
from bench.peers import cache, write_function
from pelton.cli.home import Home
from pelton.dataplane import wire
from pelton.plan.function import CONVENTION

__all__ = ["HELLO", "Api", "Platform", "function", "platform", "until"]

HELLO = """
    def hello(request):
        return "Hello, world!\\n"
"""
_FUNCTIONS = "/apis/core.openfunction.io/v1beta2/namespaces/default/functions"
_READY_S = 30
_FREE_PORTS = ("--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0")


class Platform:
    """A running platform.

    Attributes:
        home: Its home.
        root: Scratch directory for sources.
        pid: Of `pelton up`.
        endpoints: What endpoints.json says.
    """

    def __init__(self, home: Home, root: Path, pid: int, endpoints: Mapping[str, Any]) -> None:
        self.home = home
        self.root = root
        self.pid = pid
        self.endpoints = endpoints

    @property
    def gateway(self) -> tuple[str, int]:
        """Host and port of the gateway."""
        return _address(self.endpoints["gateway"])

    def processes(self) -> list[int]:
        """Return every process of the platform."""
        return descendants(self.pid)

    async def status(self) -> dict[str, dict[str, Any]]:
        """Return what the node observes, by function name."""
        peer = await wire.connect(str(self.home.run_directory() / "up.sock"), name="bench")
        try:
            answer = await peer.call("status", {}, timeout=30)
        finally:
            await peer.close()
        return {item["name"]: item for item in answer["node"].get("functions", ())}

    async def workers(self) -> dict[str, list[dict[str, Any]]]:
        """Return the ready instances of each function."""
        return {
            name: [item for item in seen["instances"] if item["state"] == "ready"]
            for name, seen in (await self.status()).items()
        }

    def socket_of(self, instance: str) -> str:
        """Return the HTTP socket of an instance."""
        # Socket names are a checksum of the instance's id: paths are limited to 107 bytes.
        stem = f"{zlib.crc32(instance.encode()):08x}"
        (found,) = (self.home.run_directory() / "w").glob(f"{stem}*.http")
        return str(found)

    def api(self) -> Api:
        """Return a new connection to the API."""
        context = ssl.create_default_context(cafile=self.endpoints["ca"])
        return Api(_address(self.endpoints["api"]), context, self.home.secrets()["token"])

    async def deploy(self, functions: list[dict[str, Any]], *, timeout_s: float = 120) -> None:
        """Create Functions one after the other and return when all are Running."""
        async with self.api() as api:
            for obj in functions:
                await api.create(obj)
        await self.settled(len(functions), timeout_s=timeout_s)

    async def settled(self, count: int, *, timeout_s: float = 120) -> None:
        """Return when `count` Functions in all are Running."""
        async with self.api() as api, asyncio.timeout(timeout_s):
            running: set[str] = set()
            async for name, state in api.states(timeout_s):
                if state == "Running":
                    running.add(name)
                    if len(running) >= count:
                        return
                elif state == "Failed":
                    raise RuntimeError(f"function {name} failed")


class Api:
    """One keep-alive connection to the API server; a thin client, so that the server is what is measured."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, token: str) -> None:
        self._address = address
        self._context = context
        self._token = token

    async def __aenter__(self) -> Self:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(*self._address, ssl=self._context)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self._writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self._writer.wait_closed()

    def _send(self, method: str, path: str, body: bytes) -> None:
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {self._token}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )

    async def _head(self) -> tuple[int, bytes]:
        head = await self._reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), head.lower()

    async def create(self, obj: dict[str, Any]) -> float:
        """Create a Function and return the seconds that took."""
        body = json.dumps(obj).encode()
        began = time.perf_counter()
        self._send("POST", _FUNCTIONS, body)
        status, head = await self._head()
        answer = await self._reader.readexactly(int(head.partition(b"content-length:")[2].split(None, 1)[0]))
        took = time.perf_counter() - began
        if status != 201:
            raise RuntimeError(f"the API answered {status}: {answer[:300]!r}")
        return took

    async def delete(self, name: str) -> None:
        """Delete a Function; returns when the API has accepted it."""
        self._send("DELETE", f"{_FUNCTIONS}/{name}", b"")
        status, head = await self._head()
        await self._reader.readexactly(int(head.partition(b"content-length:")[2].split(None, 1)[0]))
        if status not in (200, 202):
            raise RuntimeError(f"the API answered {status} to the deletion of {name}")

    async def states(self, timeout_s: float) -> AsyncIterator[tuple[str, str]]:
        """Watch all Functions, those that exist first: (name, state of serving, or of a failed build)."""
        self._send("GET", f"{_FUNCTIONS}?watch=true&timeoutSeconds={int(timeout_s)}", b"")
        status, _head = await self._head()
        if status != 200:
            raise RuntimeError(f"the API answered {status} to a watch")
        held = b""
        while size := int(await self._reader.readline(), 16):
            held += await self._reader.readexactly(size)
            await self._reader.readexactly(2)
            *lines, held = held.split(b"\n")
            for line in lines:
                if line.strip():
                    obj = msgspec.json.decode(line, type=_Event).object
                    built = obj.status.get("build") or {}
                    serving = obj.status.get("serving") or {}
                    failed = "Failed" if built.get("state") == "Failed" else ""
                    yield obj.metadata.get("name", ""), failed or serving.get("state", "")


class _Object(msgspec.Struct):
    metadata: dict[str, Any] = {}
    status: dict[str, Any] = {}


class _Event(msgspec.Struct):
    type: str
    object: _Object


def function(
    name: str,
    source: Path,
    *,
    convention: str = "gcf",
    target: str = "hello",
    options: Mapping[str, str] | None = None,
    window_s: int = 600,
    min_replicas: int = 0,
    max_replicas: int = 1,
) -> dict[str, Any]:
    """Return the manifest of a Function.

    Args:
        name: Of the Function.
        source: Its directory.
        convention: Name in the convention table.
        target: Its function; "" lets the convention find it.
        options: Annotations `pelton.dev/KEY` without the prefix.
        window_s: Stable window.
        min_replicas: Least instances.
        max_replicas: Most instances.
    """
    annotations = {f"pelton.dev/{key}": value for key, value in (options or {}).items()}
    return {
        "apiVersion": "core.openfunction.io/v1beta2",
        "kind": "Function",
        "metadata": {
            "name": name,
            "namespace": "default",
            "annotations": {CONVENTION: convention, **annotations},
        },
        "spec": {
            "version": "v1",
            "image": f"localhost/{name}:latest",
            "build": {
                "builder": "pelton",
                "env": {"FUNC_NAME": target} if target else {},
                "srcRepo": {"url": source.as_uri()},
            },
            "serving": {
                "triggers": {"http": {"port": 8080}},
                "scaleOptions": {
                    "minReplicas": min_replicas,
                    "maxReplicas": max_replicas,
                    "knative": {"autoscaling.knative.dev/window": f"{window_s}s"},
                },
            },
        },
    }


def hello_sources(root: Path, count: int) -> Iterator[tuple[str, Path]]:
    """Write `count` hello functions that differ in a comment, so that each is a bundle of its own."""
    for number in range(count):
        name = f"hello-{number:04}"
        yield name, write_function(root / name, f"{HELLO}\n    # {name}\n")


@contextlib.asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    """Run a platform on free ports and a scratch home; it is gone, with all its processes, afterwards."""
    with tempfile.TemporaryDirectory(prefix="pb-") as folder:
        root = Path(folder)
        root.chmod(0o755)  # functions run under users of their own and read their bundles below
        home = Home(root / "home")
        kept = cache() / "environments"
        if kept.is_dir():
            await asyncio.to_thread(shutil.copytree, kept, home.environments, symlinks=True)
        log = root / "up.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PELTON_")}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pelton.cli.main", "up", *_FREE_PORTS],
                env={**clean, "PELTON_HOME": str(home.path)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            await until(lambda: home.endpoints_file.exists() or process.poll() is not None, _READY_S)
            if process.poll() is not None:
                raise RuntimeError(f"`pelton up` ended: {log.read_text()[-2000:]}")
            yield Platform(home, root, process.pid, json.loads(home.endpoints_file.read_text()))
            await asyncio.to_thread(_keep_environments, home.environments, kept)
        finally:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, 15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _keep_environments(made: Path, kept: Path) -> None:
    """Copy new environments into the cache, aside first, so that a torn copy is never found."""
    for place in made.iterdir():
        if place.is_dir() and not (kept / place.name).exists():
            aside = kept / f".{place.name}"
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(place, aside, symlinks=True)
            aside.rename(kept / place.name)


async def until(holds: Any, timeout_s: float) -> None:
    """Return when a condition holds; TimeoutError when it does not in time."""
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.02)


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.rpartition("//")[2].rpartition(":")
    return host, int(port)
