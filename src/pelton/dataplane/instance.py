"""What the instance manager knows: one record per worker, per revision, per function.

Plain state and the questions it answers by itself; `dataplane/instances.py` changes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pelton.clock import Clock
from pelton.dataplane import wire
from pelton.dataplane.load_page import LoadPage
from pelton.dataplane.places import Places
from pelton.log import get
from pelton.model.desired import Desired, Workload, revision_key
from pelton.model.snapshot import Terminated

__all__ = [
    "FunctionState",
    "Instance",
    "RevisionState",
    "ending",
    "keep_workload",
    "kept_workload",
    "last_words",
]

_log = get(__name__)


@dataclass(slots=True, eq=False)
class Instance:
    """One worker process.

    Attributes:
        id: `<revision>-<5 chars>`.
        workload: Its revision.
        http, ctl, page_path, spool: Paths.
        state: `starting`, `ready`, `draining` or `gone`.
        page: Its load page once it is ready.
        peer: Connection to its ctl socket.
        started_at: CLOCK_MONOTONIC seconds.
        forked_at, ready_at: When its sockets took connections, and when it answered; 0 until then.
        page_fd: The page's file until the page is mapped; its name goes with the worker. -1 without.
        served: Whether it had begun an invocation when it ended before it was ready.
        told: Whether its end has been told of.
        idle_since, seen_total: When a job was last seen with something to do, 0 before, and the invocations
            that it had begun by then.
        handed: Requests that the activator gave it and that are not answered yet.
        freed: Called when one of them is.
        listening: Set when its sockets take connections; what is sent then is answered once it is ready.
        settled: Set when it is ready or gone.
    """

    id: str
    workload: Workload
    http: str
    ctl: str
    page_path: str
    spool: str
    started_at: float
    state: str = "starting"
    page: LoadPage | None = None
    peer: wire.Peer | None = None
    status: int | None = None
    page_fd: int = -1
    served: bool = False
    forked_at: float = 0.0
    ready_at: float = 0.0
    told: bool = False
    idle_since: float = 0.0
    seen_total: int = 0
    handed: int = 0
    freed: Callable[[], None] = lambda: None
    listening: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        """Outer pid, 0 until known."""
        return self.page.pid if self.page is not None else 0

    @property
    def in_flight(self) -> int:
        """Invocations running now."""
        return self.page.in_flight if self.page is not None else 0

    def has_place(self) -> bool:
        """Whether it takes connections and has room for one more request of the activator's."""
        limit = self.workload.concurrency
        return self.listening.is_set() and (not limit or max(self.handed, self.in_flight) < limit)

    def give_back(self) -> None:
        """Say that a request of the activator's is over."""
        self.handed -= 1
        self.freed()

    def hold_page(self) -> None:
        """Keep the page's file open from before the worker is forked: a quick end takes its name away."""
        try:
            self.page_fd = os.open(self.page_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            self.page_fd = -1

    def map_page(self) -> None:
        """Map the page of a worker that has initialised it; raises OSError or ValueError."""
        self.page = LoadPage(self.page_fd if self.page_fd >= 0 else self.page_path)
        self._close_fd()

    def begun(self) -> bool:
        """Whether user code was called: then an early end is an invocation's outcome, no failed start."""
        if self.page is None and self.page_fd >= 0:
            try:
                self.map_page()
            except (OSError, ValueError):
                return False  # it ended before it had a page
        return self.page is not None and self.page.read().total > 0

    def tell(self, clock: Clock, text: str) -> None:
        """Warn in the platform's log and in the function's, where the worker itself cannot any more.

        The spool is made anew where it has been read to its end and removed since the worker died.
        """
        _log.warning("%s: %s", self.id, text)
        time_ns = int(clock.now().timestamp() * 1e9)
        with contextlib.suppress(OSError):  # the function is deleted, and its spool with it
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(self.spool, flags, 0o600)
            try:
                os.write(descriptor, f"\x1e{time_ns} e -\tpelton: {text}\n".encode())
            finally:
                os.close(descriptor)

    def let_go(self) -> None:
        """Unmap and close the page."""
        self._close_fd()
        if self.page is not None:
            self.page.close()
            self.page = None

    def _close_fd(self) -> None:
        if self.page_fd >= 0:
            os.close(self.page_fd)
            self.page_fd = -1


@dataclass(slots=True)
class RevisionState:
    """One revision and its workers, ready, starting or on their way out.

    Attributes:
        namespace, name, revision: Which.
        desired: What it needs; None when it is known from a check or an adopted worker only, or is replaced.
        wanted: Instances that the last scaling decision asked for.
        template: As in CheckResult.
        checked: Whether this process has had it checked.
        failure: Why its last start failed; "" after one that did not.
        failures: Failed starts in a row.
        retry_at: Monotonic seconds before which no start is tried.
        places: Who waits for room in an instance.
    """

    namespace: str
    name: str
    revision: str
    desired: Desired | None = None
    instances: dict[str, Instance] = field(default_factory=dict)
    wanted: int = 0
    template: str = "not-needed"
    checked: bool = False
    decision: Callable[[], str] = str
    failure: str = ""
    failures: int = 0
    retry_at: float = 0.0
    places: Places = field(default_factory=Places)

    @property
    def key(self) -> str:
        """`namespace/name:revision`."""
        return revision_key(self.namespace, self.name, self.revision)

    def ready(self) -> list[Instance]:
        """Instances that can take work."""
        return [instance for instance in self.instances.values() if instance.state == "ready"]

    def current(self) -> list[Instance]:
        """Instances that are not on their way out."""
        return [instance for instance in self.instances.values() if instance.state != "draining"]


@dataclass(slots=True)
class FunctionState:
    """A function: its revisions, and which one is the primary.

    Attributes:
        key: `namespace/name`.
        applied: What was asked for last, all revisions included; None while nothing was.
        primary: The revision that `namespace/name` stands for; "" before one was applied.
        revisions: Name -> revision, the replaced ones until their last worker has gone.
        pending: Events that wait for it.
        cold_starts: Wakes of a revision without instances.
        past_seconds: Lifetimes of all instances that have gone.
        past_invocations, past_busy_ns: What those had counted.
        last_terminated: The last end of an instance that nobody asked for.
        changing: Held while revisions are applied or released.
    """

    key: str
    applied: Desired | None = None
    primary: str = ""
    revisions: dict[str, RevisionState] = field(default_factory=dict)
    pending: int = 0
    cold_starts: int = 0
    past_seconds: float = 0.0
    past_invocations: int = 0
    past_busy_ns: int = 0
    last_terminated: Terminated | None = None
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def revision(self, name: str) -> RevisionState:
        """Return a revision's state, made when it is new."""
        if name not in self.revisions:
            namespace, _, function = self.key.partition("/")
            self.revisions[name] = RevisionState(namespace, function, name)
        return self.revisions[name]

    def main(self) -> RevisionState | None:
        """Return the primary revision."""
        return self.revisions.get(self.primary)

    def instances(self) -> list[Instance]:
        """Return the workers of all revisions."""
        return [one for revision in self.revisions.values() for one in revision.instances.values()]


def keep_workload(path: str, workload: Workload) -> None:
    """Write a workload where its process reads it; it may hold secrets, so nobody in between has it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.msgpack.encode(workload))


def kept_workload(path: str) -> Workload:
    """Read what `keep_workload` wrote; raises OSError when it is gone."""
    return msgspec.msgpack.decode(Path(path).read_bytes(), type=Workload)


def ending(status: int) -> str:
    """Say how a process ended: `SIGKILL`, `exit code 3`."""
    if status < 0:
        return signal.Signals(-status).name
    return f"exit code {status}"


def last_words(spool: str) -> str:
    """Return the last line a worker printed."""
    try:
        with Path(spool).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = [line for line in file.read().decode("utf-8", "replace").split("\n") if line.strip()]
    except OSError:
        return ""
    return lines[-1].split("\t", 1)[-1] if lines else ""
