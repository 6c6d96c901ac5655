"""Who owns a taken port: read from /proc, for an error message that names the culprit.

Called by `cli/up.py` and `cli/run.py`.
"""

from __future__ import annotations

import socket
from pathlib import Path

from pelton.errors import PortInUseError, UsageError

__all__ = ["claim", "parse_address"]


def parse_address(text: str, flag: str) -> tuple[str, int]:
    """Split `HOST:PORT` (or `[::1]:PORT`, or a bare port); raises UsageError that names the flag."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{flag} {text!r} is not HOST:PORT", hint=f"for example {flag} 127.0.0.1:8080")
    return host, int(port)


def claim(host: str, port: int, flag: str) -> socket.socket:
    """Bind a TCP socket; port 0 takes a free one.

    Raises:
        PortInUseError: Another process has it; the message names it and the flag that chooses another.
        UsageError: The host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        if exc.errno in (98, 13):
            raise PortInUseError(
                f"port {port} on {host} is taken{_owner(port)}"
                if exc.errno == 98
                else f"port {port} is not permitted",
                hint=f"end that process, or choose another port with {flag} {host}:PORT (0 = a free one)",
            ) from None
        raise UsageError(f"{flag}: cannot listen on {host}:{port}: {exc.strerror}") from exc
    return sock


def _owner(port: int) -> str:
    """Return ` by NAME (pid N)`, or "" when it cannot be told."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            columns = row.split()
            if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{columns[9]}]")
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            for fd in (process / "fd").iterdir():
                if str(fd.readlink()) in inodes:
                    return f" by {(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue
    return ""
