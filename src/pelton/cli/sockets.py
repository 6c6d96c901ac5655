"""Which process holds a listening socket, out of `/proc`. Used by `cli/trace.py`.

Another user's descriptors can be read by root only: then the holder is unknown, and said to be.
Source: proc(5), `/proc/net/tcp`, `/proc/net/unix`.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["Holder", "holder_of_port", "holder_of_socket"]

_LISTENING_TCP: Final = "0A"
_ACCEPTS: Final = 0x10000
"""Flag of a unix socket that listens (__SO_ACCEPTCON)."""

Holder = tuple[int, str]
"""Process id and command name; (0, "") when nobody that can be seen holds it."""


def holder_of_port(address: str, port: int, proc: Path = Path("/proc")) -> Holder | None:
    """Return who listens on an address and port; None when nobody listens there.

    Args:
        address: IPv4 or IPv6 address; one that listens on all addresses is found as well.
        port: TCP port.
        proc: The kernel's tree.
    """
    wanted = ipaddress.ip_address(address)
    inodes = set()
    for name in ("tcp", "tcp6"):
        for fields in _rows(proc / "net" / name):
            if len(fields) < 10 or fields[3] != _LISTENING_TCP:
                continue
            place, _, number = fields[1].partition(":")
            if int(number, 16) != port:
                continue
            found = _address(place)
            mapped = getattr(found, "ipv4_mapped", None) or found
            if mapped == wanted or int(found) == 0:
                inodes.add(fields[9])
    return _holder(inodes, proc) if inodes else None


def holder_of_socket(path: str, proc: Path = Path("/proc")) -> Holder | None:
    """Return who listens on a unix socket; None when nobody does."""
    inodes = {
        fields[6]
        for fields in _rows(proc / "net" / "unix")
        if len(fields) >= 8 and fields[7] == path and int(fields[3], 16) & _ACCEPTS
    }
    return _holder(inodes, proc) if inodes else None


def _rows(table: Path) -> list[list[str]]:
    try:
        return [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address as the kernel prints it: words of 32 bits, each in the machine's byte order."""
    raw = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    return ipaddress.IPv4Address(raw) if len(raw) == 4 else ipaddress.IPv6Address(raw)


def _holder(inodes: set[str], proc: Path) -> Holder:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in sorted((p for p in proc.iterdir() if p.name.isdigit()), key=lambda p: int(p.name)):
        if not wanted.isdisjoint(_open_files(process)):
            try:
                return int(process.name), (process / "comm").read_text().strip()
            except OSError:
                continue  # it has just ended
    return 0, ""


def _open_files(process: Path) -> list[str]:
    try:
        entries = list((process / "fd").iterdir())
    except OSError:
        return []
    found = []
    for entry in entries:
        with suppress(OSError):  # closed meanwhile, as is the descriptor by which they were listed
            found.append(str(entry.readlink()))
    return found
