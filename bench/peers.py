"""Peers in environments of their own: installed once by name and version, kept outside the repository.

`PELTON_BENCH_CACHE` names the directory, by default `pelton-bench` in the user's cache directory. A second
run finds what the first has installed. What cannot be installed or started is a PeerError, which a row shows
instead of a figure.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load import Address, ask
from bench.machine import free_port

__all__ = [
    "PEERS",
    "Peer",
    "PeerError",
    "cache",
    "describe",
    "install",
    "serving",
    "until_answering",
    "write_function",
]

_INSTALL_S = 300
_START_S = 20


class PeerError(Exception):
    """A peer cannot be had on this machine; the text says why."""


@dataclass(frozen=True)
class Peer:
    """A peer and how its own command line serves a function.

    Attributes:
        name: As on the package index.
        requirements: Exact versions of the package and of what must fit it.
        command: Program of the environment and its arguments; `{source}`, `{target}`, `{port}` are put in.
        runner: What its own tool generates to start a function, as a file `bench_runner.py`; "" for none.
    """

    name: str
    requirements: tuple[str, ...]
    command: tuple[str, ...] = (
        "functions-framework",
        *("--source", "{source}/main.py", "--target", "{target}"),
        *("--host", "127.0.0.1", "--port", "{port}"),
    )
    runner: str = ""


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "functions-framework",
            ("functions-framework==3.10.2", "flask==3.1.3", "gunicorn==27.0.1", "werkzeug==3.1.9"),
        ),
        Peer(
            "ofn-functions-framework",
            # It asks for dapr 1.11.0 but lets its extensions float, which need a newer one.
            ("ofn-functions-framework==0.2.0rc1", "dapr-ext-grpc==1.11.0", "dapr-ext-fastapi==1.11.0"),
            (
                "ff",
                *("--source", "{source}/main.py", "--target", "{target}"),
                *("--host", "127.0.0.1", "--port", "{port}"),
            ),
        ),
        Peer(
            "func-python",
            ("func-python==0.7.0", "hypercorn==0.17.3"),
            ("python", "bench_runner.py"),
            runner="from func_python.http import serve\nfrom function import new\n\nserve(new)\n",
        ),
    )
}


def cache() -> Path:
    """Return the directory for what is kept between runs."""
    named = os.environ.get("PELTON_BENCH_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pelton-bench"


def install(peer: Peer) -> Path:
    """Return the environment of a peer, made if it is not there.

    Raises:
        PeerError: With the installer's last line.
    """
    wanted = "\n".join([sys.version, *peer.requirements])
    place = cache() / f"{peer.name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    if (place / "installed").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    print(f"installing {', '.join(peer.requirements)} into {place}", file=sys.stderr)
    for command in (
        [sys.executable, "-m", "venv", str(place)],
        [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", *peer.requirements],
    ):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_INSTALL_S, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            raise PeerError(f"{peer.name}: not installed within {_INSTALL_S} s") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise PeerError(f"{peer.name}: not installed: {last}")
    (place / "installed").touch()
    return place


@contextlib.asynccontextmanager
async def serving(
    peer: Peer, source: Path, target: str, request: bytes
) -> AsyncIterator[tuple[int, Address]]:
    """Serve a function as the peer's own command does, on a loopback port; yields its first pid and address.

    Raises:
        PeerError: It ended, or did not answer in time.
    """
    place = await asyncio.to_thread(install, peer)
    port = free_port()
    log = source / f"{peer.name}.log"
    context = {"name": target, "version": "v1", "port": port, "triggers": {"http": {"port": port}}}
    environment = {
        **{name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "HOME", "TMPDIR")},
        "FUNC_CONTEXT": json.dumps(context),
        "FUNCTION_TARGET": target,
        "POD_NAME": target,
        "POD_NAMESPACE": "default",
        "LISTEN_ADDRESS": f"127.0.0.1:{port}",
    }
    program, *arguments = peer.command
    if peer.runner:
        (source / "bench_runner.py").write_text(peer.runner)
    words = [word.format(source=source, target=target, port=port) for word in arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(place / "bin" / program), *words],
            cwd=source,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await until_answering(process, ("127.0.0.1", port), request, log)
        yield process.pid, ("127.0.0.1", port)
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def until_answering(
    process: subprocess.Popen[bytes], address: Address, request: bytes, log: Path
) -> None:
    """Return when a server answers 200; PeerError when it ended or took too long."""
    last: Exception | None = None
    try:
        async with asyncio.timeout(_START_S):
            while True:
                try:
                    await ask(address, request)
                    return
                except (OSError, asyncio.IncompleteReadError) as exc:
                    last = exc
                if process.poll() is not None:
                    raise PeerError(f"ended with code {process.returncode}: {_last_line(log)}")
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise PeerError(f"did not answer 200 within {_START_S} s: {last}; {_last_line(log)}") from None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


def write_function(place: Path, code: str | Mapping[str, str]) -> Path:
    """Write a function into a directory of its own: its main.py, or files by name; returns the directory."""
    for name, text in ({"main.py": code} if isinstance(code, str) else code).items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
    return place


def describe(names: Sequence[str]) -> str:
    """Return the pinned versions of some peers."""
    return ", ".join(PEERS[name].requirements[0] for name in names)
