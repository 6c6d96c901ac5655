"""Apps of other runtimes on this machine: a file for each, by which `dapr run` processes find one another.

Takes the place of multicast DNS. The directory is private to the user ($XDG_RUNTIME_DIR, else the temporary
one); a file says how the app is called, its token included, and goes with its process. Calls go straight to
the app, unless its calls are to be counted: then they go through its runtime.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from pelton.compat.dapr.apps import App
from pelton.errors import HomeError
from pelton.model.dapr import AccessControl

__all__ = ["Peer", "announced", "peers"]

_VERSION: Final = 1


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One app as its file tells it.

    Attributes:
        app_id, namespace: Which.
        pid, started: Process of its runtime, and when that began (clock ticks since boot).
        protocol, address, port: How the app is called.
        token: What it is shown; "" for nothing.
        runtime: Port of its runtime's HTTP API, for calls that are to be counted; 0 for none.
        runtime_token: What that port wants to see.
        access: Who may call it.
        version: Of this form.
    """

    app_id: str
    namespace: str
    pid: int
    started: int
    protocol: str
    address: str
    port: int
    token: str = ""
    runtime: int = 0
    runtime_token: str = ""
    access: AccessControl | None = None
    version: int = _VERSION

    def app(self) -> App:
        """Return it as an app that can be called."""
        return App(
            app_id=self.app_id,
            namespace=self.namespace,
            protocol=self.protocol,
            address=self.address,
            port=self.port,
            app_token=self.token,
        )


@contextmanager
def announced(app: App, *, http_port: int) -> Iterator[None]:
    """Let other runtimes find an app for as long as the block lasts.

    Args:
        app: The app; one that does not listen is not announced.
        http_port: Port of its runtime's HTTP API.
    """
    if not app.port:
        yield
        return
    counted = app.max_concurrency > 0 and not app.speaks_grpc
    peer = Peer(
        app_id=app.app_id,
        namespace=app.namespace,
        pid=os.getpid(),
        started=_started(os.getpid()) or 0,
        protocol=app.protocol,
        address=app.address,
        port=app.port,
        token=app.app_token,
        runtime=http_port if counted else 0,
        runtime_token=app.api_token if counted else "",
        access=app.configuration.access_control,
    )
    path = _directory() / f"{_word(app.namespace)}~{_word(app.app_id)}~{os.getpid()}.json"
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.touch(mode=0o600)
    fresh.write_bytes(msgspec.json.encode(peer))
    fresh.rename(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def peers(namespace: str, app_id: str) -> list[Peer]:
    """Return the running instances of an app by file name; files of ended processes are removed."""
    found: list[Peer] = []
    for path in sorted(_directory().glob(f"{_word(namespace)}~{_word(app_id)}~*.json")):
        try:
            peer = msgspec.json.decode(path.read_bytes(), type=Peer)
        except (OSError, msgspec.DecodeError):
            continue
        if peer.version != _VERSION or (peer.app_id, peer.namespace) != (app_id, namespace):
            continue
        if _started(peer.pid) != peer.started:
            path.unlink(missing_ok=True)
            continue
        found.append(peer)
    return found


def _directory() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and os.access(base, os.W_OK):
        path = Path(base) / "pelton-dapr"
    else:
        path = Path(tempfile.gettempdir()) / f"pelton-dapr-{os.geteuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise HomeError(
            f"{path} is not a private directory of this user",
            hint="Remove it, or set XDG_RUNTIME_DIR to one that is.",
        )
    return path


def _word(text: str) -> str:
    return "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "_" for char in text)


def _started(pid: int) -> int | None:
    """Return when a process began, None for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] == b"Z" else int(fields[19])
