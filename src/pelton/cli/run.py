"""`pelton run SOURCE`: one function in this process, without a platform.

Listens on 127.0.0.1 unless told otherwise: this is a developer's machine, not a container. This process keeps
the socket and forks a child (`run_serve.py`) per version of the source; the child is the function's. It ends
and replaces a child that overruns its time limit, as the node does, and with `--reload` one whose source has
changed.
Source: the frameworks' variables PORT, FUNCTION_TARGET, FUNCTION_SOURCE, FUNCTION_SIGNATURE_TYPE,
FUNC_CONTEXT.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from pelton.cli import run_serve
from pelton.cli.ports_owner import claim
from pelton.cli.printing import tell
from pelton.cli.run_serve import Asked, report
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.dataplane.isolation import become_subreaper, die_with_parent
from pelton.dataplane.load_page import LoadPage
from pelton.errors import PeltonError, PortInUseError, SourceError, UsageError

__all__ = ["run"]

_LOOK_S: Final = 0.1
_GRACE_S: Final = run_serve.GRACE_S
_OVERRUN_GRACE_S: Final = 1.0
"""How long past its deadline an invocation may go on before its process is ended; the node's number."""
_DEBOUNCE_MS: Final = 10
"""Changes that come this close together are one: editors write several files for one save."""


def run(
    source: str | None = None,
    target: str | None = None,
    signature: str | None = None,
    convention: str | None = None,
    host: str | None = None,
    port: int | None = None,
    reload: bool = False,
    install: bool = True,
    options: Mapping[str, str] | None = None,
    event: str | None = None,
    access_log: bool = True,
) -> int:
    """Serve one function until SIGTERM or Ctrl-C; returns the exit code, errors are printed.

    Args:
        source: Directory or Python file; FUNCTION_SOURCE when None, else the working directory.
        target: Name of the function; FUNCTION_TARGET.
        signature: Signature type; FUNCTION_SIGNATURE_TYPE.
        convention: Name in the convention table; detected when None.
        host: Address to listen on; 127.0.0.1.
        port: TCP port, 0 for a free one; PORT, else the port of FUNC_CONTEXT, else 8080.
        reload: Start again whenever a file of the source changes.
        install: Whether requirements.txt is installed into its environment.
        options: What annotations `pelton.dev/KEY` would say, without the prefix.
        event: File with a saved event: handle it, print the outcome, and end.
        access_log: Whether each HTTP answer is a line on standard error.
    """
    try:
        wanted = _wanted(
            source, target, signature, convention, host, port, install, options or {}, access_log
        )
        if event is not None:
            from pelton.cli.run_event import run_event

            return run_event(wanted, event)
        return _keep_running(wanted, _listen(wanted.host, wanted.port), reload=reload)
    except PeltonError as exc:
        report(exc)
        return exc.exit_code
    except KeyboardInterrupt:
        return 130


def _wanted(
    source: str | None,
    target: str | None,
    signature: str | None,
    convention: str | None,
    host: str | None,
    port: int | None,
    install: bool,
    options: Mapping[str, str],
    access_log: bool,
) -> Asked:
    env = os.environ
    # The command line's default is the working directory; a framework's variable is more specific than that.
    named = source if source not in {None, "", "."} else env.get("FUNCTION_SOURCE") or "."
    path = Path(str(named)).absolute()
    if not path.exists():
        raise SourceError(
            "there is no such source directory or file",
            where=str(named),
            hint="Check the path and its spelling.",
        )
    context = _context(env)
    return Asked(
        folder=path if path.is_dir() else path.parent,
        file="" if path.is_dir() else path.name,
        target=target or env.get("FUNCTION_TARGET", ""),
        signature=signature or env.get("FUNCTION_SIGNATURE_TYPE", ""),
        convention=convention or options.get("convention") or ("process" if "command" in options else ""),
        host=host or "127.0.0.1",
        port=port if port is not None else _port(env, context),
        context=context,
        install=install,
        options=options,
        access_log=access_log,
    )


def _context(env: Mapping[str, str]) -> Mapping[str, Any]:
    text = env.get("FUNC_CONTEXT", "")
    if not text:
        return {}
    try:
        context = json.loads(text)
    except ValueError as exc:
        raise UsageError(f"FUNC_CONTEXT is not JSON: {exc}") from exc
    if not isinstance(context, dict):
        raise UsageError("FUNC_CONTEXT is not a JSON object")
    return context


def _port(env: Mapping[str, str], context: Mapping[str, Any]) -> int:
    http = (context.get("triggers") or {}).get("http") or {}
    for name, value in (("PORT", env.get("PORT")), ("FUNC_CONTEXT", http.get("port") or context.get("port"))):
        if value not in {None, ""}:
            if not str(value).isdigit() or int(str(value)) > 65535:
                raise UsageError(
                    f"{name} says port {value!r}", hint="Expected 0 to 65535; --port wins over it."
                )
            return int(str(value))
    return 8080


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is not a port", hint="Expected 0 to 65535.")
    try:
        sock = claim(host, port, "--port")
    except PortInUseError as exc:
        raise PortInUseError(
            exc.message, hint="End that process, or choose another port: --port PORT, 0 for a free one."
        ) from None
    sock.listen(1024)
    sock.setblocking(False)
    return sock


# --- the parent ---


def _keep_running(wanted: Asked, sock: socket.socket, *, reload: bool) -> int:
    """Keep a child running until SIGTERM or Ctrl-C; returns the exit code.

    Without `reload` this ends with a child that could not be started. One that ends after it was called is
    replaced, as an instance is on the platform: a call did it (`os._exit`, a signal, no memory).
    """
    for name in CONVENTIONS:  # before the first fork, or each version of the source would pay for it again
        resolve_convention(name)
    become_subreaper()  # what the function forks and leaves behind comes back here
    stopping: list[int] = []
    waker, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: stopping.append(number))
    changes = _Changes(wanted.folder) if reload else None
    page = run_serve.shared_page()
    code = 0
    try:
        while not stopping:
            page.reset()
            child = _Child(wanted, sock, page)
            why, code = _watch(child, page, waker, stopping, changes)
            if stopping:
                break
            if why == "ended" and page.read().total:
                tell(f"the process ended, {_how(code)}: starting again")
                continue
            if why == "ended" and reload:
                tell("waiting for a change of the source")
                why = _await_change(changes, waker, stopping)
            if why == "ended":
                break
            if why == "changed":
                tell("the source changed: starting again")
            elif why == "overran":
                tell("ended: it overran its time limit; starting again")
    finally:
        signal.set_wakeup_fd(-1)
        if changes is not None:
            changes.close()
        page.close()
        waker.close()
        wake.close()
    return 0 if stopping else code


class _Child:
    """A forked process that serves one version of the source."""

    def __init__(self, wanted: Asked, sock: socket.socket, page: LoadPage) -> None:
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(wanted, sock, page, parent)
        self.fd = os.pidfd_open(self.pid)

    def end(self) -> None:
        """Let it finish what runs, then kill it."""
        os.kill(self.pid, signal.SIGTERM)
        if not _readable([self.fd], _GRACE_S + 1):
            self.kill()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def collect(self) -> int:
        """Return its exit code; 128 and the signal's number for a killed one, as shells do."""
        os.close(self.fd)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        _sweep()
        return status if status >= 0 else 128 - status


def _sweep() -> None:
    """End what the function left behind: a process that it forked would hold the port and run on."""
    me = os.getpid()
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline:
        try:
            found = Path(f"/proc/{me}/task/{me}/children").read_text(encoding="ascii").split()
        except OSError:
            return
        if not found:
            return
        for pid in map(int, found):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _watch(
    child: _Child, page: LoadPage, waker: socket.socket, stopping: list[int], changes: _Changes | None
) -> tuple[str, int]:
    """Wait until the child ends or has to; returns why (`ended`, `changed`, `overran`) and its exit code."""
    watched = [child.fd, waker.fileno(), *([changes.fd] if changes is not None else [])]
    why = "ended"
    while True:
        ready = _readable(watched, _LOOK_S)
        if child.fd in ready:
            break
        if stopping:
            child.end()
            break
        if changes is not None and changes.fd in ready and changes.take():
            why = "changed"
            child.end()
            break
        if page.read().earliest_deadline + _OVERRUN_GRACE_S < time.monotonic():
            why = "overran"
            child.kill()
            break
    return why, child.collect()


def _how(code: int) -> str:
    if code <= 128:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(code - 128).name}"
    except ValueError:
        return f"exit code {code}"


def _await_change(changes: _Changes | None, waker: socket.socket, stopping: list[int]) -> str:
    while changes is not None and not stopping:
        if changes.fd in _readable([changes.fd, waker.fileno()], None) and changes.take():
            return "changed"
    return "ended"


def _readable(fds: list[int], seconds: float | None) -> list[int]:
    try:
        return select.select(fds, [], [], seconds)[0]
    except InterruptedError:
        return []


class _Changes:
    """Tells through a descriptor that a file of the source has changed; watchfiles waits in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self._stamp = run_serve.stamp(folder)
        self._ours, self._theirs = socket.socketpair()
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    @property
    def fd(self) -> int:
        return self._ours.fileno()

    def take(self) -> bool:
        """Return whether what is served has really changed, and not a cache or a log beside it."""
        self._ours.recv(4096)
        stamp = run_serve.stamp(self._folder)
        changed, self._stamp = stamp != self._stamp, stamp
        return changed

    def close(self) -> None:
        self._stop.set()
        self._thread.join(1.0)
        self._ours.close()
        self._theirs.close()

    def _wait(self) -> None:
        from watchfiles import watch

        looked = False
        for changes in watch(
            self._folder,
            stop_event=self._stop,
            debounce=_DEBOUNCE_MS,
            step=1,
            rust_timeout=200,
            raise_interrupt=False,
            watch_filter=None,
            yield_on_timeout=True,
        ):
            if not changes and looked:
                continue
            looked = True  # once without a change: one may have come before the watch began
            try:
                self._theirs.send(b"c")
            except OSError:
                return


def _be_child(wanted: Asked, sock: socket.socket, page: LoadPage, parent: int) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(parent)
        run_serve.serve(wanted, sock, page)
        code = 0
    except PeltonError as exc:
        report(exc)
        code = exc.exit_code
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()  # the process ends without unwinding: nobody else would say it
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # user code closed it
                continue
        os._exit(code)
