"""The zygote: a single-threaded process with a warm interpreter that forks workers, checks and templates.

No event loop, no gRPC; a blocking `selectors` loop (design decision 5). It owns the children: it binds their
sockets, relays their exit statuses, and takes them with it when it dies. Serves `dataplane/instances.py` (in
the node) over a unix socket with the messages of `dataplane/wire.py`:

    spawn {instance, revision, uid, limits, workload, http, ctl, page, spool} -> {}           once forked
    check {revision, uid, limits, workload, timeout_s, keep}                  -> CheckResult  after one load
    kill {instance, signal}                                  -> {}
    drop-template {revision}                                 -> {}
    list {}                                                  -> {instances, templates, isolation, limits}
    notes to the node: exited {instance, status, reason, message}, template {revision, state}

`workload` is the path of a file with the Workload (`dataplane/instance.py` writes it). The zygote hands its
descriptor on and never reads it: whatever is in this process's memory is in every function's.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import Any, Final

from pelton.dataplane.isolation import Isolation, become_subreaper
from pelton.dataplane.limiter import Limiter
from pelton.dataplane.peers import is_function
from pelton.dataplane.template import (
    Resolve,
    become_spare,
    become_template,
)
from pelton.dataplane.wire import CALL, ERROR, HELLO, NOTE, RESULT, VERSION, FrameReader, send_frame
from pelton.errors import PeltonError
from pelton.log import get

__all__ = ["TEMPLATE_BUDGET_BYTES", "TEMPLATE_LOAD_MS", "Zygote"]

SPARES: Final = 2
"""Children forked ahead of need, about 1 MB each; they halve a cold start."""

_SPARE_BYTES: Final = 5 * 1024 * 1024
"""What the spare of a template adds to its own PSS, measured."""

_SPARE_PAUSE_S: Final = 0.02
"""Quiet time before a used spare is replaced: a fork takes milliseconds that a burst of wakes needs."""

TEMPLATE_LOAD_MS: Final = 20.0
"""A revision that loads faster than this needs no template: forking it from the zygote is as quick."""

TEMPLATE_BUDGET_BYTES: Final = 200 * 1024 * 1024
"""PSS of all templates together."""

_log = get(__name__)


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    reader: FrameReader

    def send(self, message: Any) -> None:
        try:
            send_frame(self.sock, message)
        except OSError:
            pass  # the node is gone; its successor will ask with `list`


@dataclass(slots=True)
class _Template:
    revision: str
    pid: int
    order: dict[str, Any]
    sock: socket.socket
    reader: FrameReader
    output: int
    keep: bool
    deadline: float
    asker: tuple[_Connection, int] | None
    ready: bool = False
    pss_bytes: int = 0
    last_used: float = 0.0
    spawns: dict[str, tuple[_Connection, int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Spare:
    pid: int
    sock: socket.socket


class Zygote:
    """Owns all function processes of the machine.

    Args:
        path: Unix socket to serve the node on.
        isolation: What `isolation.enter` gave.
        limiter: Keeps children within their limits.
        resolve: Convention name -> module.
    """

    def __init__(self, path: str, isolation: Isolation, limiter: Limiter, resolve: Resolve) -> None:
        self._path = path
        self._isolation = isolation
        self._limiter = limiter
        self._resolve = resolve
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._node: _Connection | None = None
        self._instances: dict[int, str] = {}
        self._bodies: dict[str, dict[str, Any]] = {}
        self._templates: dict[str, _Template] = {}
        self._exited_early: dict[int, int] = {}
        self._spares: list[_Spare] = []
        self._stopping = False

    def serve(self) -> None:
        """Serve until SIGTERM; on return every child has been killed."""
        become_subreaper()
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _n, _f: None)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._listener = _listen(self._path, 8)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(wake_read, selectors.EVENT_READ, lambda: _swallow(wake_read))
        gc.collect()
        gc.freeze()
        while not self._stopping:
            ready = self._selector.select(self._patience())
            for key, _events in ready:
                key.data()
            if not ready and len(self._spares) < SPARES:
                # Only when nothing else is to be done: the next wake must not wait for it.
                self._spares.append(self._fork_spare(rehearsed=True))
            self._reap()
            self._expire()
            for pid in self._limiter.look():
                _kill(pid, signal.SIGKILL)
        for pid in [
            *self._instances,
            *(spare.pid for spare in self._spares),
            *(template.pid for template in self._templates.values()),
        ]:
            _kill(pid, signal.SIGKILL)
        self._limiter.close()

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _patience(self) -> float | None:
        """Return how long to wait for messages: until a check's deadline, or until the moment for a spare."""
        waiting = [template.deadline for template in self._templates.values() if template.asker is not None]
        limits = [max(0.0, min(waiting) - time.monotonic())] if waiting else []
        if len(self._spares) < SPARES:
            limits.append(_SPARE_PAUSE_S)
        look = self._limiter.patience()
        if look is not None:
            limits.append(look)
        return min(limits) if limits else None

    def _fork_spare(self, *, rehearsed: bool) -> _Spare:
        ours, theirs = socket.socketpair()
        zygote_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            become_spare(self._isolation, theirs, self._resolve, zygote_pid, rehearsed=rehearsed)
        theirs.close()
        self._limiter.adopt(pid)
        return _Spare(pid, ours)

    def _hand_over(self, order: dict[str, Any], fds: list[int]) -> int:
        """Give an instance to a spare, or to a fresh fork when there is none; returns its pid."""
        while True:
            spare = self._spares.pop(0) if self._spares else self._fork_spare(rehearsed=False)
            try:
                self._limiter.begin(spare.pid, order)
                send_frame(spare.sock, order, fds)
            except ConnectionError:
                continue  # it died; the next one, or a fork
            finally:
                spare.sock.close()
            return spare.pid

    # -- the node's connection -------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101 -- registered only while it listens
        sock, _address = self._listener.accept()
        if is_function(sock):
            _log.warning("a function tried to use the zygote's socket; refused")
            sock.close()
            return
        connection = _Connection(sock, FrameReader(sock))
        connection.send([HELLO, 0, "", VERSION])
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._receive(connection))

    def _forget(self, connection: _Connection) -> None:
        self._selector.unregister(connection.sock)
        connection.sock.close()
        if self._node is connection:
            self._node = None

    def _receive(self, connection: _Connection) -> None:
        try:
            messages = connection.reader.read()
        except (EOFError, OSError):
            self._forget(connection)
            return
        for kind, call_id, op, body in messages:
            if kind == CALL:
                self._call(connection, call_id, op, body)

    def _call(self, connection: _Connection, call_id: int, op: str, body: Any) -> None:
        try:
            if op == "spawn":
                self._spawn(connection, call_id, body)
                return
            if op == "check":
                self._check(connection, call_id, body)
                return
            if op == "kill":
                result = self._kill_instance(body["instance"], body["signal"])
            elif op == "drop-template":
                self._drop(body["revision"], "evicted")
                result = {}
            elif op == "list":
                self._node = connection  # whoever asks for the list is the node from now on: notes go there
                result = self._list()
            else:
                raise PeltonError(f"the zygote does not know {op!r}")
        except Exception as exc:
            _log.exception("%s failed", op)
            connection.send([ERROR, call_id, op, {"type": "PeltonError", "message": f"{op}: {exc}"}])
            return
        connection.send([RESULT, call_id, op, result])

    def _note(self, op: str, body: Any) -> None:
        if self._node is not None:
            self._node.send([NOTE, 0, op, body])

    def _list(self) -> dict[str, Any]:
        return {
            "instances": [self._bodies[instance] for instance in self._instances.values()],
            "templates": [
                {"revision": template.revision, "pss_bytes": template.pss_bytes}
                for template in self._templates.values()
                if template.ready and template.asker is None
            ],
            "isolation": self._isolation.describe(),
            "pid_namespace": self._isolation.pid_namespace,
            "limits": self._limiter.describe(),
        }

    def _kill_instance(self, instance: str, number: int) -> dict[str, Any]:
        for pid, name in self._instances.items():
            if name == instance:
                _kill(pid, number)
        return {}

    # -- instances -------------------------------------------------------------------------------------------

    def _spawn(self, connection: _Connection, call_id: int, body: dict[str, Any]) -> None:
        instance = body["instance"]
        fds = _open_for(body)
        try:
            template = self._templates.get(body["revision"])
            if template is not None and template.ready and template.asker is None:
                template.last_used = time.monotonic()
                template.spawns[instance] = (connection, call_id)
                self._bodies[instance] = body
                try:
                    proc = self._isolation.outer_proc
                    order = {"instance": instance, "proc": proc >= 0}
                    send_frame(template.sock, order, [*fds[:4], proc] if proc >= 0 else fds[:4])
                    return
                except OSError:
                    del template.spawns[instance]
                    self._drop(template.revision, "evicted")
            made = self._limiter.order(body["limits"], body["http"])
            pid = self._hand_over({"instance": instance, "uid": body["uid"], **made}, fds)
            self._instances[pid] = instance
            self._bodies[instance] = body
        finally:
            for fd in fds:
                os.close(fd)
        connection.send([RESULT, call_id, "spawn", {}])

    # -- checks and templates --------------------------------------------------------------------------------

    def _check(self, connection: _Connection, call_id: int, body: dict[str, Any]) -> None:
        revision = body["revision"]
        self._drop(revision, "evicted")
        workload = os.open(body["workload"], os.O_RDONLY | os.O_CLOEXEC)
        ours, theirs = socket.socketpair()
        output = os.memfd_create("check")
        os.set_inheritable(output, False)
        _append_mode(output)
        zygote_pid = os.getpid()
        order = {"uid": body["uid"], **self._limiter.order(body["limits"], body["workload"])}
        pid = os.fork()
        if pid == 0:
            become_template(self._isolation, self._resolve, zygote_pid, order, theirs, (output, workload))
        theirs.close()
        os.close(workload)
        self._limiter.begin(pid, order)
        _send_quietly(ours, b"g")
        template = _Template(
            revision,
            pid,
            order,
            ours,
            FrameReader(ours),
            output,
            body["keep"],
            time.monotonic() + body["timeout_s"],
            (connection, call_id),
        )
        self._templates[revision] = template
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear(template))

    def _hear(self, template: _Template) -> None:
        try:
            messages = template.reader.read()
        except (EOFError, OSError):
            self._lost(template)
            return
        for message in messages:
            if "spawned" in message:
                self._spawned(template, message["spawned"], message["pid"])
            elif "spare" in message:
                self._limiter.begin(message["spare"], template.order)
            else:
                self._checked(template, message)

    def _spawned(self, template: _Template, instance: str, pid: int) -> None:
        asked = template.spawns.pop(instance, None)
        self._instances[pid] = instance
        if asked is not None:
            asked[0].send([RESULT, asked[1], "spawn", {}])
        # No more than a look, if it was its spare.
        self._limiter.begin(pid, {**template.order, "instance": instance})
        if pid in self._exited_early:
            self._exited(pid, self._exited_early.pop(pid))

    def _checked(self, template: _Template, message: dict[str, Any]) -> None:
        if not message["ok"]:
            self._answer(
                template,
                {
                    "ok": False,
                    "reason": "LoadFailed",
                    "message": message["message"],
                    "log_tail": _tail(template.output, message["log_tail"]),
                },
            )
            self._drop(template.revision, "")
            return
        template.pss_bytes = _pss_bytes(template.pid)
        verdict = self._verdict(template, message)
        template.ready = verdict == "kept"
        template.last_used = time.monotonic()
        self._answer(
            template,
            {
                "ok": True,
                "load_ms": message["load_ms"],
                "signature": message["signature"],
                "target": message["target"],
                "template": verdict,
            },
        )
        if verdict == "kept":
            self._make_room(template)
        else:
            self._drop(template.revision, "")

    def _verdict(self, template: _Template, message: dict[str, Any]) -> str:
        # Less the wait for a processor: on a busy machine everything takes 20 ms and nothing is gained.
        if not template.keep or message["load_ms"] - message["waited_ms"] <= TEMPLATE_LOAD_MS:
            return "not-needed"
        if message["threads"]:
            return f"refused ({message['threads']} threads alive after import)"
        if template.pss_bytes > TEMPLATE_BUDGET_BYTES:
            return (
                f"refused ({template.pss_bytes >> 20} MB, of {TEMPLATE_BUDGET_BYTES >> 20} for all templates)"
            )
        return "kept"

    def _make_room(self, newest: _Template) -> None:
        kept = sorted((t for t in self._templates.values() if t.ready), key=lambda t: t.last_used)
        for template in kept:  # read again: what was shared with a child that ended counts in full now
            template.pss_bytes = _pss_bytes(template.pid) + _SPARE_BYTES
        total = sum(t.pss_bytes for t in kept)
        for template in kept:
            if total <= TEMPLATE_BUDGET_BYTES:
                return
            if template is not newest:
                total -= template.pss_bytes
                self._drop(template.revision, "evicted")

    def _answer(self, template: _Template, result: dict[str, Any]) -> None:
        if template.asker is not None:
            connection, call_id = template.asker
            template.asker = None
            connection.send([RESULT, call_id, "check", result])

    def _lost(self, template: _Template) -> None:
        """The template ended by itself: while loading that is a failed check, later an eviction."""
        self._answer(
            template,
            {
                "ok": False,
                "reason": "Exited",
                "message": "the process ended while it loaded the function (os._exit, a crash?)",
                "log_tail": _tail(template.output, []),
            },
        )
        self._drop(template.revision, "evicted")

    def _drop(self, revision: str, state: str) -> None:
        template = self._templates.pop(revision, None)
        if template is None:
            return
        for connection, call_id in template.spawns.values():
            body = {"type": "WakeError", "message": "the template ended"}
            connection.send([ERROR, call_id, "spawn", body])
        self._selector.unregister(template.sock)
        template.sock.close()
        os.close(template.output)
        _kill(template.pid, signal.SIGKILL)
        if state and template.ready:
            self._note("template", {"revision": revision, "state": state})

    def _expire(self) -> None:
        now = time.monotonic()
        for template in list(self._templates.values()):
            if template.asker is not None and template.deadline <= now:
                self._answer(
                    template,
                    {
                        "ok": False,
                        "reason": "LoadTimeout",
                        "message": "loading took too long; move slow work from import time into the call",
                        "log_tail": _tail(template.output, []),
                    },
                )
                self._drop(template.revision, "")

    # -- children's ends -------------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._exited(pid, os.waitstatus_to_exitcode(status))

    def _exited(self, pid: int, status: int) -> None:
        instance = self._instances.pop(pid, None)
        ending = self._limiter.ended(pid)
        if instance is not None:
            body = self._bodies.pop(instance)
            for key in ("http", "ctl", "page", "workload"):
                _unlink(body[key])
            note = {"instance": instance, "status": status}
            self._note("exited", {**note, "reason": ending.reason, "message": ending.message})
        elif any(template.spawns for template in self._templates.values()):
            self._exited_early[pid] = status
        else:
            self._exited_early.clear()


def _open_for(body: dict[str, Any]) -> list[int]:
    """Bind an instance's sockets and open its files; returns http, ctl, page, spool and workload."""
    opened: list[int] = []
    try:
        opened.extend(_listen(body[key], backlog).detach() for key, backlog in (("http", 1024), ("ctl", 16)))
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        opened.append(os.open(body["page"], flags, 0o600))
        os.makedirs(os.path.dirname(body["spool"]), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120 -- no pathlib here
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        opened.append(os.open(body["spool"], flags, 0o600))
        opened.append(os.open(body["workload"], os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        for fd in opened:
            os.close(fd)
        raise
    return opened


def _listen(path: str, backlog: int) -> socket.socket:
    _unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(path)
    os.chmod(path, 0o600)  # noqa: PTH101 -- no pathlib in the zygote
    sock.listen(backlog)
    return sock


def _unlink(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108 -- no pathlib in the zygote
    except FileNotFoundError:
        pass


def _append_mode(fd: int) -> None:
    import fcntl

    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _send_quietly(sock: socket.socket, data: bytes) -> None:
    try:
        sock.send(data)
    except OSError:
        pass  # the other end has ended, which is noticed where its exit is


def _swallow(fd: int) -> None:
    try:
        os.read(fd, 4096)
    except BlockingIOError:
        pass


def _tail(output: int, log_tail: list[str]) -> list[str]:
    """Join what the code printed with the traceback; the last 20 lines, spool marks taken off."""
    size = os.fstat(output).st_size
    text = os.pread(output, 16384, max(0, size - 16384)).decode("utf-8", "replace")
    printed = [line.split("\t", 1)[-1] for line in text.split("\n") if line and not line.startswith("\x1eM")]
    return [*printed, *log_tail][-20:]


def _pss_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123 -- no pathlib in the zygote
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
