"""What happens in the zygote's children: becoming a worker, checking a revision, serving as its template.

A template is a child that has loaded a revision's code and then waits; each instance is forked from it, so
imports are paid for once (design decision 6). Everything here runs after fork, in order: keep only the needed
descriptors, confine, load, run. Called by `dataplane/zygote.py` only; calls `isolation`, `loader`, `streams`,
`worker`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, NoReturn

import msgspec

from pelton.dataplane import loader
from pelton.dataplane.isolation import Isolation, confine, die_with_parent, outer_pid, prepare
from pelton.dataplane.limits import Rlimits
from pelton.dataplane.load_page import LoadPage
from pelton.dataplane.mounts import View
from pelton.dataplane.rehearsal import rehearse
from pelton.dataplane.streams import Streams
from pelton.dataplane.wire import FrameReader, send_frame
from pelton.dataplane.worker import Worker, WorkerSettings, run
from pelton.errors import FunctionLoadError
from pelton.model.desired import EVENTS_PER_JOB, Workload
from pelton.model.invocation import Deferred, Delivered, LoadedFunction, Output
from pelton.model.state import StateAnswer, StateCall

__all__ = ["Birth", "become_spare", "become_template"]

_THREADS_ONE: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_KEPT_ENVIRONMENT: Final = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HOME",
    "PELTON_PLATFORM",
)

_SPARE_PAUSE_S: Final = 0.02

# Made before any fork: a child that looked at the type itself would copy half a megabyte of pages.
_workloads = msgspec.msgpack.Decoder(Workload)

Resolve = Callable[[str], ModuleType]
"""Convention name -> its module; the table lives in `cli/`, so it is handed down."""


@dataclass(slots=True)
class Birth:
    """What a new child needs to know.

    Attributes:
        workload: The revision.
        isolation: What the zygote could get.
        order: `uid` (of the function, for isolation `uid`), `instance` (but for templates), and what
            `Limiter.order` returned.
        resolve: Finds the convention's module.
        zygote_pid: Inner pid of the zygote, the parent to die with.
    """

    workload: Workload
    isolation: Isolation
    order: dict[str, Any]
    resolve: Resolve
    zygote_pid: int


class _LateSender:
    """Lets code that was loaded in a template send through the worker it later becomes part of."""

    def __init__(self) -> None:
        self.worker: Worker | None = None

    def send(self, output: Output) -> Delivered:
        if self.worker is None:
            raise RuntimeError("outputs can be sent only while an invocation runs")
        return self.worker.send(output)

    async def send_async(self, output: Output) -> Delivered:
        if self.worker is None:
            raise RuntimeError("outputs can be sent only while an invocation runs")
        return await self.worker.send_async(output)

    async def defer(self, deferred: Deferred) -> Delivered:
        if self.worker is None:
            raise RuntimeError("work can be deferred only while an invocation runs")
        return await self.worker.defer(deferred)

    def state(self, call: StateCall) -> StateAnswer:
        if self.worker is None:
            raise RuntimeError("state can be used only while an invocation runs")
        return self.worker.state(call)

    async def state_async(self, call: StateCall) -> StateAnswer:
        if self.worker is None:
            raise RuntimeError("state can be used only while an invocation runs")
        return await self.worker.state_async(call)


def _go_on(birth: Birth, view: View | None, fds: Sequence[int], streams: Streams, pid: int) -> NoReturn:
    instance = birth.order["instance"]
    try:
        page = _page(fds[2], pid, birth.isolation.outer_proc)
        _enter(birth, view)
        os.environ["POD_NAME"] = instance
        sender = _LateSender()
        worker = _worker(birth, instance, page, streams)
        sender.worker = worker
        started = time.perf_counter()
        function = _load(birth, sender)
        load_ms = (time.perf_counter() - started) * 1e3
        worker.birth = {"pelton.start": "fork", "pelton.load_ms": f"{load_ms:.3f}"}
    except BaseException as exc:
        _die_of(exc)
    _serve(worker, function, fds)


def become_spare(
    isolation: Isolation, control: socket.socket, resolve: Resolve, zygote_pid: int, *, rehearsed: bool
) -> NoReturn:
    """Wait for what to become, then load that and serve it; never returns.

    Forking, hiding files and the first touch of copied pages are most of a cold start: a child that is forked
    ahead of need has them behind it.

    Args:
        isolation: What the zygote could get.
        control: This end of the socket pair with the zygote.
        resolve: Finds conventions.
        zygote_pid: Inner pid of the zygote.
        rehearsed: Whether to spend the waiting on a rehearsal; False when an order is on its way.
    """
    _shed((control.fileno(), isolation.outer_proc))
    os.setsid()
    die_with_parent(zygote_pid)
    pid = outer_pid(isolation.outer_proc)
    try:
        view = prepare(isolation)
    except OSError as exc:
        _die_of(exc)
    if rehearsed:
        rehearse()
    order, fds = _one_message(control)
    streams = _streams(fds[3])
    birth = Birth(read_workload(fds[4]), isolation, order, resolve, zygote_pid)
    _go_on(birth, view, fds, streams, pid)


def become_template(
    isolation: Isolation,
    resolve: Resolve,
    zygote_pid: int,
    order: dict[str, Any],
    control: socket.socket,
    fds: Sequence[int],
) -> NoReturn:
    """Load the revision, report, then fork instances on request until the control socket closes.

    Args:
        isolation: What the zygote could get.
        resolve: Finds conventions.
        zygote_pid: Inner pid of the zygote.
        order: See Birth.
        control: This end of the socket pair with the zygote.
        fds: Descriptors of a file that takes what the code prints while it loads, and of the workload.
    """
    output = fds[0]
    os.setsid()
    _shed((control.fileno(), *fds))  # not the outer /proc: user code runs from here on
    streams = _streams(output)
    sender = _LateSender()
    try:
        view = prepare(isolation)
        control.recv(1)  # limits are set
        birth = Birth(read_workload(fds[1]), isolation, order, resolve, zygote_pid)
        _enter(birth, view)
        started, waited_ms = time.perf_counter(), _waited_ms()
        function = _load(birth, sender)
        load_ms = (time.perf_counter() - started) * 1e3
        waited_ms = _waited_ms() - waited_ms
        if function.probe is not None:
            _probe(function.probe, output)
    except FunctionLoadError as exc:
        send_frame(control, {"ok": False, "message": exc.message, "log_tail": list(exc.log_tail)})
        os._exit(0)
    except BaseException as exc:
        tail = traceback.format_exception(exc)
        send_frame(
            control,
            {"ok": False, "message": f"{type(exc).__name__}: {exc}", "log_tail": "".join(tail).splitlines()},
        )
        os._exit(0)
    send_frame(
        control,
        {
            "ok": True,
            "load_ms": load_ms,
            "waited_ms": waited_ms,
            "signature": function.signature,
            "target": function.target,
            "threads": _threads(),
        },
    )
    gc.collect()
    gc.freeze()
    template = _Template(birth, function, sender, streams)
    reader = FrameReader(control)
    while True:
        # A spare is made when nothing else is to be done: the next wake must not wait for a fork.
        pause = _SPARE_PAUSE_S if template.spare is None else None
        if not select.select([control], [], [], pause)[0]:
            template.spare = template.fork(rehearsed=True)
            send_frame(control, {"spare": template.spare[0]})
            continue
        try:
            messages = reader.read()
        except (EOFError, OSError):
            os._exit(0)
        for message in messages:
            fds = reader.take_fds(5 if message["proc"] else 4)
            pid = template.instance(message, fds)
            for fd in fds:
                os.close(fd)
            send_frame(control, {"spawned": message["instance"], "pid": pid})


def _probe(probe: Callable[[], Awaitable[None]], output: int) -> None:
    """Run a convention's probe in a child, since a loop and its threads must not be in what is forked later.

    Raises:
        FunctionLoadError: The probe's own, with the last lines that were printed.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        failed: dict[str, Any] = {}
        try:
            os.close(read_end)
            asyncio.run(_probed(probe))
        except FunctionLoadError as exc:
            failed = {"message": exc.message, "hint": exc.hint, "log_tail": list(exc.log_tail)}
        except BaseException as exc:
            failed = {"message": f"{type(exc).__name__}: {exc}", "hint": "", "log_tail": []}
        with contextlib.suppress(OSError):
            os.write(write_end, msgspec.json.encode(failed)[:65536])
        os._exit(0)
    os.close(write_end)
    data = b""
    while piece := os.read(read_end, 65536):
        data += piece
    os.close(read_end)
    os.waitpid(child, 0)
    found = msgspec.json.decode(data) if data else {"message": "the check ended without a word"}
    if found:
        printed = _printed(output)
        raise FunctionLoadError(
            found["message"],
            log_tail=tuple(found.get("log_tail") or printed),
            hint=found.get("hint", ""),
        )


async def _probed(probe: Callable[[], Awaitable[None]]) -> None:
    await probe()


def _printed(output: int) -> list[str]:
    """Return the last lines of a spool as they were printed."""
    try:
        size = os.fstat(output).st_size
        text = os.pread(output, 8192, max(0, size - 8192)).decode("utf-8", "replace")
    except OSError:
        return []  # not a file that can be read again
    lines = [
        line.rpartition("\t")[2] if line.startswith("\x1e") else line for line in text.split("\n")
    ]  # not at \x1e
    return [line for line in lines if line.strip()][-20:]


@dataclass(slots=True)
class _Template:
    """A loaded revision in its own process; forks instances, one of them ahead of need.

    Attributes:
        spare: (pid, socket) of a child that waits for what to become, or None.
    """

    birth: Birth
    function: LoadedFunction
    sender: _LateSender
    streams: Streams
    spare: tuple[int, socket.socket] | None = None

    def instance(self, message: dict[str, Any], fds: Sequence[int]) -> int:
        """Turn the spare, or a fresh fork, into an instance; returns its pid."""
        while True:
            pid, sock = self.spare or self.fork(rehearsed=False)
            self.spare = None
            try:
                send_frame(sock, message, fds)
            except OSError:
                continue  # it died meanwhile
            finally:
                sock.close()
            return pid

    def fork(self, *, rehearsed: bool) -> tuple[int, socket.socket]:
        """Fork twice, so that the child becomes the zygote's; it waits for one message on the socket."""
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        middle = os.fork()
        if middle:
            os.close(write_end)
            theirs.close()
            pid = int(os.read(read_end, 32) or b"0")
            os.close(read_end)
            os.waitpid(middle, 0)
            return pid, ours
        child = os.fork()
        if child:
            os.write(write_end, str(child).encode())
            os._exit(0)
        self._become_instance(theirs, rehearsed=rehearsed)

    def _become_instance(self, control: socket.socket, *, rehearsed: bool) -> NoReturn:
        birth = self.birth
        _shed((control.fileno(), self.streams.fd))
        try:
            os.setsid()
            _await_parent(birth.zygote_pid)
            confine(Isolation("inherited"), None, uid=0, keep=(), parent=birth.zygote_pid)
            _reseed()
            if rehearsed:
                rehearse()
            message, fds = _one_message(control)
            pid = outer_pid(fds[4] if message["proc"] else -1)
            for target in (self.streams.fd, 1, 2):
                os.dup2(fds[3], target)
            page = _page(fds[2], pid, fds[4] if message["proc"] else -1)
            os.environ["POD_NAME"] = message["instance"]
            worker = _worker(birth, message["instance"], page, self.streams)
            worker.birth = {"pelton.start": "template", "pelton.load_ms": "0"}
            self.sender.worker = worker
        except BaseException as exc:
            _die_of(exc)
        _serve(worker, self.function, fds)


def _one_message(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for the one message that says what this process becomes; ends the process when none will come."""
    reader = FrameReader(control)
    messages: list[Any] = []
    while not messages:
        try:
            messages = reader.read()
        except (EOFError, OSError):
            os._exit(0)
    control.close()
    return messages[0], reader.fds


def _serve(worker: Worker, function: LoadedFunction, fds: Sequence[int]) -> NoReturn:
    code = 0
    try:
        http = socket.socket(fileno=fds[0])
        control = socket.socket(fileno=fds[1])
        run(worker, function, http=[http], control=control)
        atexit._run_exitfuncs()
    except FunctionLoadError as exc:  # a program that does not start: no traceback says more than this
        sys.stderr.write(f"{exc.message}. {exc.hint}".rstrip() + "\n")
        code = 3
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _die_of(exc: BaseException) -> NoReturn:
    if isinstance(exc, FunctionLoadError):
        sys.stderr.write("\n".join((exc.message, *exc.log_tail)) + "\n")
    else:
        traceback.print_exception(exc)
    sys.stderr.flush()
    os._exit(3)


def _shed(keep: Iterable[int]) -> None:
    """Close every descriptor but the standard three and `keep`; put signals back to their defaults."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    low = 3
    for fd in sorted(set(keep)):
        if fd >= 3:
            os.closerange(low, fd)
            low = fd + 1
    os.closerange(low, 65536)


def _streams(fd: int) -> Streams:
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    streams = Streams(fd)
    streams.install()
    return streams


def _page(fd: int, pid: int, outer_proc: int) -> LoadPage:
    page = LoadPage(fd, create=True)
    page.pid = pid
    os.close(fd)
    if outer_proc >= 0:
        os.close(outer_proc)  # nothing of the outer /proc reaches user code that runs here
    return page


def _enter(birth: Birth, view: View | None) -> None:
    """Confine this process and give it its environment variables."""
    workload, isolation, order = birth.workload, birth.isolation, birth.order
    Rlimits(order["data_bytes"], order["nproc"]).apply()
    confine(
        isolation,
        view,
        uid=order["uid"],
        keep=[path for path in (workload.bundle, workload.environment) if path],
        parent=birth.zygote_pid,
        scratch_bytes=order["limits"]["disk_bytes"],
        scratch=order["scratch"],
    )
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    os.environ.clear()
    os.environ.update(kept)
    if order["scratch"]:
        os.environ["HOME"] = os.environ["TMPDIR"] = order["scratch"]
    elif isolation.kind == "uid" or isolation.layout is not None:
        os.environ["HOME"] = "/tmp"  # noqa: S108 -- no other home can be written, or even seen
        os.environ.pop("TMPDIR", None)
    for name in _THREADS_ONE:
        os.environ[name] = "1"
    os.environ.update(workload.env)


def _await_parent(zygote_pid: int) -> None:
    """Wait until the middle process is gone, so that the parent-death signal is tied to the zygote."""
    deadline = time.monotonic() + 5
    while os.getppid() != zygote_pid:
        if time.monotonic() > deadline:
            os._exit(4)
        os.sched_yield()


def _load(birth: Birth, sender: _LateSender) -> LoadedFunction:
    convention = birth.resolve(birth.workload.convention)
    loader.enter_environment(birth.workload.environment, birth.workload.bundle)
    return loader.load(
        birth.workload,
        convention,
        sender.send,
        sender.send_async,
        sender.defer,
        state=sender.state,
        state_async=sender.state_async,
    )


def _worker(birth: Birth, instance: str, page: LoadPage, streams: Streams) -> Worker:
    workload = birth.workload
    settings = WorkerSettings(
        instance=instance,
        namespace=workload.namespace,
        name=workload.name,
        revision=workload.revision,
        bundle=workload.bundle,
        concurrency=workload.concurrency,
        request_timeout_s=workload.request_timeout_s,
        body_limit_bytes=workload.body_limit_bytes,
        events=int(workload.options.get(EVENTS_PER_JOB) or 0),
    )
    return Worker(settings, page, spool=streams)


def _waited_ms() -> float:
    """Return how long this process was ready to run and had no processor; 0 where the kernel does not say."""
    try:
        with open("/proc/self/schedstat", "rb") as file:  # noqa: PTH123 -- no pathlib in the zygote's children
            return int(file.read().split()[1]) / 1e6
    except (OSError, IndexError, ValueError):
        return 0.0


def _threads() -> int:
    """Return threads besides this one: a template may have none, since fork would lose them."""
    return max(threading.active_count(), len(os.listdir("/proc/self/task"))) - 1  # noqa: PTH208 -- no pathlib here


def _reseed() -> None:
    """Give each instance its own random numbers; `random` does so itself at fork, numpy's does not."""
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def read_workload(fd: int) -> Workload:
    """Read a Workload from the file that the node wrote, and close it."""
    with open(fd, "rb") as file:
        return _workloads.decode(file.read())
