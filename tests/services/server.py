"""How a real server of somebody else is found, started on a free port, waited for, killed and ended.

One file per system beside this one; `table.py` has them all. Nothing is installed here (`scripts/services`
does that): a server that is not on the machine says so by `missing`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

__all__ = ["HOST", "NotReadyError", "Server", "free_port", "program"]

HOST: Final = "127.0.0.1"
READY_S: Final = 60.0
STOP_S: Final = 10.0
_POLL_S: Final = 0.05
_PLACES: Final = ("/usr/sbin", "/usr/local/sbin", "/sbin")
_PDEATHSIG: Final = 1


class NotReadyError(Exception):
    """A server ended or said nothing in time; the message has the end of its log."""


def free_port() -> int:
    """Return a port that nobody has now."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


def program(*names: str, places: Sequence[str] = ()) -> str:
    """Return the path of the first program that is there, "" for none."""
    for name in names:
        for place in (None, *_PLACES, *places):
            found = shutil.which(name, path=place)
            if found:
                return found
    return ""


class Server:
    """One server in one directory; the port and the data stay when it is killed and started again.

    Args:
        directory: Holds data, configuration and log; made when absent. Its path should be short: some servers
            put sockets there.
    """

    name: ClassVar[str]
    """As in `scripts/services`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.log = directory / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> str:
        """Say what is not on this machine; "" when it can be started."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{HOST}:{self.port}"

    def prepare(self) -> None:
        """Write configuration and make data before the first start; called before every start."""

    def command(self) -> Sequence[str]:
        """Return the command that runs it in the foreground."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Return variables beside the usual ones."""
        return {}

    def ready(self) -> bool:
        """Tell whether it answers its own protocol; a port that takes connections unless it knows better."""
        return listening(self.port)

    def start(self, *, timeout_s: float = READY_S) -> None:
        """Start it and wait until it is ready.

        Raises:
            NotReadyError: It ended, or was not ready in time.
        """
        self.prepare()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                list(self.command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, **self.environment()},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.wait(self.ready, timeout_s=timeout_s)

    def wait(self, there: Callable[[], bool], *, timeout_s: float = READY_S) -> None:
        """Poll until `there` is true; raises NotReadyError with the end of the log."""
        deadline = time.monotonic() + timeout_s
        while not there():
            ended = self.process is not None and self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
                self.kill()
                raise NotReadyError(f"{self.name} {'ended' if ended else 'is not ready in time'}:\n{tail}")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """SIGKILL it and what it started; its data stay."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM it, and SIGKILL when it takes too long."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Stop it from answering, its connections kept; `resume` ends that."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        self._signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        for number in (how, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                continue
            break
        # The leader may be a wrapper: what it started has let go of the port only when the group is empty.
        deadline = time.monotonic() + STOP_S
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(process.pid, signal.SIGKILL)
                time.sleep(_POLL_S)

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, number)

    def owned_by(self, user: str) -> list[str]:
        """Give the directory to a user; return the words that run a command as that user, [] if not root."""
        if os.geteuid() != 0:
            return []
        account = pwd.getpwnam(user)
        for path in (self.directory, *self.directory.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid)
        return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]


def listening(port: int) -> bool:
    """Tell whether a port takes connections."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
