"""The instance manager: the only owner of the instance table, the only one who talks to the zygote.

Wakes, scales, drains and buries workers; adopts those that outlived a restart of the node. `namespace/name`
means a function's primary revision, `namespace/name:revision` any live one. Every change of a function's
ready instances goes to `on_change`, which the node (`cli/node.py`) turns into EDS and into notes for the
runtime.
Called by the activator, the scaling tick and the node's socket; calls the zygote and the workers' ctl sockets
over `dataplane/wire.py`. Over 600 lines: the table has one owner.
"""

from __future__ import annotations

import asyncio
import random
import signal
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from pelton.clock import Clock
from pelton.dataplane import wire
from pelton.dataplane.instance import (
    FunctionState,
    Instance,
    RevisionState,
    ending,
    keep_workload,
    kept_workload,
    last_words,
)
from pelton.dataplane.job_history import JobHistory
from pelton.errors import PeltonError, WakeError
from pelton.log import get
from pelton.model.desired import EVENTS_PER_JOB, Desired, Workload
from pelton.model.limits import Limits, resolve
from pelton.model.snapshot import (
    CheckResult,
    FunctionObserved,
    InstanceObserved,
    LoadReading,
    RevisionObserved,
    Terminated,
)
from pelton.model.span import SpanRecord

__all__ = ["Instance", "InstanceManager"]

START_TIMEOUT_S: Final = 60.0
"""From fork to ready; user code has already been loaded once by the check."""

SLOW_START_S: Final = 0.05
"""A start slower than this is worth a template, if the revision has none."""

DRAIN_GRACE_S: Final = 30.0

JOB_IDLE_S: Final = 1.0
"""Seconds that a job waits for further events before it ends."""
OVERRUN_GRACE_S: Final = 1.0
"""How late a worker may be with ending an overrun invocation before it is taken down."""

NEIGHBOUR_GRACE_S: Final = 5.0
_UID_BASE: Final = 200_000
_UID_COUNT: Final = 60_000
_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"

_log = get(__name__)


class InstanceManager:
    """Owns every worker of this machine.

    Args:
        run_dir: Holds the workers' sockets and pages, in `w/`.
        spool_dir: Holds the workers' output files.
        zygote_socket: Where the zygote listens.
        clock: Time.
        on_change: Called with the function's key whenever its ready instances changed.
        on_spans: Takes the spans that workers finished.
    """

    def __init__(
        self,
        *,
        run_dir: Path,
        spool_dir: Path,
        zygote_socket: Path,
        clock: Clock,
        on_change: Callable[[str], Awaitable[None]],
        on_spans: Callable[[list[SpanRecord]], None] | None = None,
    ) -> None:
        self._workers_dir = run_dir / "w"
        self._spool_dir = spool_dir
        self._zygote_socket = zygote_socket
        self._clock = clock
        self._on_change = on_change
        self._take_spans = on_spans
        self._functions: dict[str, FunctionState] = {}
        self._instances: dict[str, Instance] = {}
        self._lost: dict[str, Instance] = {}  # buried, until the zygote tells how it ended
        self._kept: set[str] = set()  # revisions of templates that the zygote had when it was asked
        self._zygote: wire.Peer | None = None
        self._zygote_up = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._checks = asyncio.Semaphore(2)
        self._random = random.SystemRandom()
        self._isolation = ""
        self._limits: dict[str, Any] = {}
        self._default = Limits()
        self._uids: dict[str, int] = {}
        self._busy = asyncio.Event()
        self._jobs = JobHistory(clock)

    # -- life ------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> InstanceManager:
        """Start keeping the connection to the zygote; returns when it is up for the first time."""
        self._workers_dir.mkdir(mode=0o700, exist_ok=True)
        self._spawn_task(self._keep_zygote(), "zygote-connection")
        async with asyncio.timeout(30):
            await self._zygote_up.wait()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop managing; the workers stay with the zygote."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._zygote is not None:
            await self._zygote.close()

    def _spawn_task(self, work: Any, name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep_zygote(self) -> None:
        handlers = {"exited": self._exited, "template": self._template_changed}
        while True:
            try:
                peer = await wire.connect(str(self._zygote_socket), handlers, name="zygote")
                listing = await peer.call("list", {})
            except (OSError, TimeoutError):
                await self._clock.sleep(0.05)
                continue
            self._zygote = peer
            self._isolation = listing["isolation"]
            self._limits = listing["limits"]
            self._default = Limits(**self._limits["default"])
            self._adopt(listing)
            self._zygote_up.set()
            await peer.closed.wait()
            self._zygote_up.clear()
            _log.warning("the zygote is gone; its workers with it")
            self._lost.clear()
            for instance in list(self._instances.values()):
                self._bury(instance)

    def _adopt(self, listing: dict[str, Any]) -> None:
        """Take over workers that outlived the last node; ask for templates again if the zygote lost them."""
        for body in listing["instances"]:
            if body["instance"] in self._instances:
                continue
            try:
                workload = kept_workload(body["workload"])
            except OSError:
                continue  # it has just ended
            self._uids[workload.key] = body["uid"]
            instance = self._new_instance(workload, body)
            instance.listening.set()
            self._spawn_task(self._greet(instance), f"adopt-{instance.id}")
        revisions = self._kept = {template["revision"] for template in listing["templates"]}
        for function in self._functions.values():
            for state in function.revisions.values():
                if state.template == "kept" and state.desired and state.revision not in revisions:
                    self._spawn_task(self._recheck(state.desired.workload), "recheck")

    async def _recheck(self, workload: Workload) -> None:
        try:
            await self.check(workload)
        except (PeltonError, OSError, TimeoutError) as exc:
            _log.warning("template of %s could not be made again: %s", workload.revision, exc)

    # -- desired state ---------------------------------------------------------------------------------------

    async def check(self, workload: Workload, *, timeout_s: float = START_TIMEOUT_S) -> CheckResult:
        """Load a revision once in a short-lived child; at most two at a time."""
        async with self._checks:
            path = str(self._workers_dir / f"check-{workload.revision}.workload")
            body = {
                "revision": workload.revision,
                "uid": self._uid(workload.key),
                "limits": msgspec.to_builtins(workload.limits),
                "workload": path,
                "timeout_s": timeout_s,
                "keep": True,
            }
            keep_workload(path, workload)
            try:
                answer = await self._call_zygote("check", body, timeout_s + 5)
            finally:
                Path(path).unlink(missing_ok=True)
            result = msgspec.convert(answer, CheckResult, strict=False)
        if result.ok:
            state = self._function(workload.key).revision(workload.revision)
            state.template, state.checked = result.template, True
        return result

    async def apply(self, desired: Desired) -> None:
        """Make these revisions the ones that serve, with their bounds.

        Returns when the primary can answer where the one before it could. Revisions that are not wanted any
        more go on serving until `release`: until then routes may lead to them.
        """
        function = self._function(desired.workload.key)
        async with function.changing:
            before = function.main()
            first = function.applied is None
            function.applied = desired
            wanted = (desired, *desired.others)
            for one in wanted:
                self._want(function.revision(one.revision), one)
            self._busy.set()  # a lower bound may ask for instances
            primary = function.revision(desired.revision)
            if first:
                function.primary = primary.revision
            floor = max(desired.scaling.floor, desired.scaling.initial_scale if first else 0)
            # What was adopted may be of a revision that was replaced while this process was away.
            left = {state.revision for state in function.revisions.values()} - {
                one.revision for one in wanted
            }
            busy = any(
                instance.state == "ready"
                for state in function.revisions.values()
                if state is before or (first and state.revision in left)
                for instance in state.instances.values()
            )
            if (before is not primary and busy) or floor:
                await self._grow(primary, max(1, floor))
            function.primary = primary.revision
            await self._on_change(function.key)

    def _want(self, state: RevisionState, desired: Desired) -> None:
        if state.desired is None and state.revision in self._kept:
            # This process was restarted, the zygote was not.
            state.template, state.checked = "kept", True
        state.desired = desired
        state.failures, state.retry_at = 0, 0.0

    async def release(self, key: str) -> None:
        """Let go of a function's revisions that are not wanted any more; their workers finish what they have.

        Call it when no route leads to them.
        """
        function = self._functions.get(key)
        if function is None or function.applied is None:
            return
        async with function.changing:
            wanted = {one.revision for one in (function.applied, *function.applied.others)}
            replaced = [state for state in function.revisions.values() if state.revision not in wanted]
            for state in replaced:
                if state.desired is not None or state.checked:
                    self._spawn_task(self._drop_template(state.revision), "drop-template")
                state.desired, state.checked = None, False
                for instance in list(state.instances.values()):
                    self._retire(instance)
                self._prune(function, state)
        if replaced:
            await self._on_change(key)

    def _prune(self, function: FunctionState, state: RevisionState) -> None:
        """Forget a revision that is not wanted once its last worker has gone."""
        if state.desired is None and not state.checked and not state.instances:
            function.revisions.pop(state.revision, None)

    async def _drop_template(self, revision: str) -> None:
        try:
            await self._call_zygote("drop-template", {"revision": revision}, 5)
        except (PeltonError, OSError, TimeoutError) as exc:
            _log.warning("the template of %s stays until room is needed: %s", revision, exc)

    async def remove(self, key: str) -> None:
        """Take a function away; returns when its workers are gone."""
        function = self._functions.get(key)
        if function is None:
            return
        function.applied = None
        for state in list(function.revisions.values()):
            if state.desired is not None:
                await self._drop_template(state.revision)
            state.desired = None
        leaving = function.instances()
        for instance in leaving:
            self._retire(instance)
        await asyncio.gather(*(instance.gone.wait() for instance in leaving))
        self._functions.pop(key, None)
        self._uids.pop(key, None)
        await self._on_change(key)

    async def keep_only(self, keys: set[str]) -> None:
        """Remove every function that is not among `keys` (what a full sync leaves out)."""
        await asyncio.gather(*(self.remove(key) for key in set(self._functions) - keys))

    # -- what others ask -------------------------------------------------------------------------------------

    def isolation(self) -> str:
        """Return what keeps functions apart, as the zygote said."""
        return self._isolation

    def limits(self) -> dict[str, Any]:
        """Return by what means limits are kept, what is missing, and the defaults; as the zygote said."""
        return self._limits

    def keys(self) -> list[str]:
        """Return `namespace/name` of all functions."""
        return list(self._functions)

    async def until_busy(self) -> None:
        """Wait until a function begins to need attention; call it when `active` is empty."""
        self._busy.clear()
        await self._busy.wait()

    def active(self) -> list[str]:
        """Return keys of revisions that scaling has to look at; those at rest cost nothing per tick.

        The primary's key is `namespace/name`.
        """
        return [
            function.key if main else state.key
            for function in self._functions.values()
            for state in function.revisions.values()
            if state.desired is not None
            and (
                state.instances
                or state.wanted
                or state.desired.scaling.floor
                or (function.pending and state.revision == function.primary)
            )
            for main in (state.revision == function.primary,)
        ]

    def canonical(self, key: str) -> str:
        """Return the key that scaling uses: `namespace/name` for the primary, under whichever key it is."""
        name, _, revision = key.partition(":")
        function = self._functions.get(name)
        return name if function is not None and revision == function.primary else key

    def names_of(self, key: str) -> tuple[str, ...]:
        """Return all keys under which requests may wait for the revision that a key means."""
        state = self._revision(key)
        if state is None or state.key == key:
            return (key,)
        return (key, state.key)

    def desired(self, key: str) -> Desired | None:
        """Return what was applied last: for `namespace/name` with all revisions, else the one revision's."""
        function = self._functions.get(key)
        if function is not None:
            return function.applied
        state = self._revision(key)
        return state.desired if state is not None else None

    def primary(self, key: str) -> str:
        """Return the revision that `namespace/name` stands for now; "" for none."""
        function = self._functions.get(key)
        return function.primary if function is not None and function.applied is not None else ""

    def ready(self, key: str) -> list[Instance]:
        """Return instances that can take work."""
        state = self._revision(key)
        return state.ready() if state is not None else []

    def everywhere(self, key: str) -> list[Instance]:
        """Return instances of all revisions of a function that can take work."""
        function = self._functions.get(key)
        return [i for i in function.instances() if i.state == "ready"] if function is not None else []

    def pick(self, key: str) -> Instance | None:
        """Return the ready instance with the least in flight, or None."""
        ready = self.ready(key)
        return min(ready, key=lambda instance: instance.in_flight) if ready else None

    def readings(self, key: str) -> dict[str, LoadReading]:
        """Return a reading per ready or draining instance."""
        state = self._revision(key)
        if state is None:
            return {}
        return {i.id: i.page.read() for i in state.instances.values() if i.page is not None}

    def set_pending(self, key: str, count: int) -> None:
        """Note how many events wait for a function."""
        function = self._functions.get(key)
        if function is not None:
            function.pending = count
            self._busy.set()

    def look_at(self, key: str) -> None:
        """Let scaling look at a function: what it goes by has changed."""
        if key in self._functions:
            self._busy.set()

    def pending(self, key: str) -> int:
        """Return how many events wait; they wait for the primary only."""
        function = self._functions.get(key)
        return function.pending if function else 0

    def count(self, key: str) -> int:
        """Return instances that are ready or starting."""
        state = self._revision(key)
        return len(state.current()) if state is not None else 0

    def unfinished(self, key: str) -> int:
        """Return instances that have not ended, those on their way out included."""
        state = self._revision(key)
        return len(state.instances) if state is not None else 0

    def end_jobs(self, key: str, *, keep: int, waiting: int) -> None:
        """Let jobs end that have taken their share of events, or for which nothing is left.

        Args:
            key: The function.
            keep: Jobs that stay although there is nothing to do.
            waiting: Events that wait.
        """
        state = self._revision(key)
        if state is None:
            return
        now = self._clock.monotonic()
        for instance in sorted(state.current(), key=lambda one: one.started_at):
            if instance.state != "ready" or instance.page is None:
                continue
            reading = instance.page.read()
            busy = bool(reading.in_flight or reading.queued)
            if busy or reading.total != instance.seen_total:
                instance.idle_since, instance.seen_total = now, reading.total
            if busy:
                continue
            share = int(instance.workload.options.get(EVENTS_PER_JOB) or 0)
            idle = not waiting and now - max(instance.ready_at, instance.idle_since) >= JOB_IDLE_S
            if (share and reading.total >= share) or (idle and len(state.current()) > keep):
                self._retire(instance)

    def forget_jobs(self, key: str) -> None:
        """Drop what is remembered of the jobs of a function that is gone."""
        self._jobs.forget(key)

    def jobs(self) -> list[dict[str, Any]]:
        """Return the jobs of all functions, running and ended ones, as plain data."""
        return self._jobs.listed(
            instance for instance in self._instances.values() if EVENTS_PER_JOB in instance.workload.options
        )

    def explain(self, key: str, wanted: int, decision: Callable[[], str]) -> None:
        """Keep the last scaling decision for the status; its sentence is made only when somebody asks."""
        state = self._revision(key)
        if state is not None:
            state.wanted, state.decision = wanted, decision

    def observe(self, key: str) -> FunctionObserved | None:
        """Return what is known of a function."""
        function = self._functions.get(key)
        main = function.main() if function is not None else None
        if function is None or main is None or function.applied is None:
            return None
        now = self._clock.monotonic()
        instances = function.instances()
        readings = [i.page.read() for i in instances if i.page is not None]
        return FunctionObserved(
            namespace=main.namespace,
            name=main.name,
            revision=main.revision,
            instances=tuple(
                InstanceObserved(
                    id=i.id,
                    revision=i.workload.revision,
                    pid=i.pid,
                    state=i.state,
                    in_flight=i.in_flight,
                    mode=i.page.mode_name if i.page else "",
                    socket=i.http,
                )
                for i in instances
            ),
            desired=sum(state.wanted for state in function.revisions.values()),
            template=main.template,
            cold_starts=function.cold_starts,
            instance_seconds=function.past_seconds + sum(now - i.started_at for i in instances),
            invocations=function.past_invocations + sum(reading.total for reading in readings),
            busy_seconds=(function.past_busy_ns + sum(reading.busy_ns for reading in readings)) / 1e9,
            isolation=self._isolation,
            limits=resolve(main.desired.workload.limits, self._default) if main.desired else None,
            last_terminated=function.last_terminated,
            decision=main.decision(),
            revisions=tuple(
                RevisionObserved(
                    revision=state.revision,
                    instances=len(state.current()),
                    desired=state.wanted,
                    template=state.template,
                    failures=state.failures,
                    failure=state.failure if state.failures else "",
                )
                for state in function.revisions.values()
                if state.desired is not None
            ),
        )

    def _function(self, key: str) -> FunctionState:
        return self._functions.setdefault(key, FunctionState(key))

    def _revision(self, key: str) -> RevisionState | None:
        """Return what a key means: `namespace/name` the primary, `namespace/name:revision` that one."""
        name, _, revision = key.partition(":")
        function = self._functions.get(name)
        return function.revisions.get(revision or function.primary) if function is not None else None

    # -- wake and scale --------------------------------------------------------------------------------------

    async def wake(self, key: str, *, timeout_s: float = START_TIMEOUT_S, early: bool = False) -> Instance:
        """Return a ready instance, starting one if there is none; callers share one start.

        Args:
            key: `namespace/name`.
            timeout_s: Seconds to wait.
            early: Return as soon as the instance's sockets take connections; its code may still be loading.
                Where instances have a hard limit, wait for one with room; others than the first are started
                by scaling, which counts who waits.

        Raises:
            WakeError: The function is unknown, its code does not start, or it took too long.
        """
        state = self._revision(key)
        if state is None or state.desired is None:
            raise WakeError(f"function {key} does not exist")
        if early and state.desired.workload.concurrency:
            try:
                async with asyncio.timeout(timeout_s):
                    return await state.places.take(lambda: self._with_room(key))
            except TimeoutError:
                raise WakeError(f"{key} had no room within {timeout_s:g} s") from None
        deadline = self._clock.monotonic() + timeout_s
        while True:
            instance = self.pick(key)
            if instance is not None:
                return instance
            starting = [i for i in state.current() if i.state == "starting"] or [self._start_first(state)]
            try:
                async with asyncio.timeout(deadline - self._clock.monotonic()):
                    if early:
                        await starting[0].listening.wait()
                        if starting[0].state == "starting":
                            return starting[0]
                    await starting[0].settled.wait()
            except TimeoutError:
                raise WakeError(f"{key} was not ready within {timeout_s:g} s") from None
            if starting[0].state == "gone" and state.failure and not starting[0].served:
                raise self.why_gone(key)

    def _start_first(self, state: RevisionState) -> Instance:
        """Start an instance for whoever waits for one."""
        self._refuse_while_failing(state)
        if state.desired is not None and state.desired.scaling.is_asleep:
            raise WakeError(
                f"{state.key} has no instance, and scaling out is paused by annotations of "
                f"{state.desired.scaling.owner}"
            )
        if not state.instances:
            self._functions[f"{state.namespace}/{state.name}"].cold_starts += 1
        return self._start(state)

    def _with_room(self, key: str) -> Instance | None:
        """Return the instance with the least to do that has room, ready ones first; start one if none is."""
        state = self._revision(key)
        if state is None or state.desired is None:
            raise WakeError(f"function {key} does not exist")
        current = state.current()
        if not current:
            self._start_first(state)
        free = [instance for instance in current if instance.has_place()]
        return min(free, key=lambda i: (i.state != "ready", max(i.handed, i.in_flight)), default=None)

    def why_gone(self, key: str) -> WakeError:
        """Return the error that says why the last instance of a function did not start."""
        state = self._revision(key)
        reason = state.failure if state is not None else ""
        namespace, _, name = key.partition(":")[0].partition("/")
        where = "" if namespace == "default" else f" -n {namespace}"
        return WakeError(
            reason or "the worker ended while it started", where=key, hint=f"see: pelton logs {name}{where}"
        )

    async def scale(self, key: str, wanted: int) -> None:
        """Bring a revision to `wanted` instances; starts at once, drains in the background."""
        state = self._revision(key)
        if state is None or state.desired is None:
            return
        current = state.current()
        if wanted > len(current) and self._clock.monotonic() >= state.retry_at:
            for _ in range(wanted - len(current)):
                self._start(state)
        elif wanted < len(current):
            ready = sorted((i for i in current if i.state == "ready"), key=lambda i: i.in_flight)
            for instance in ready[: len(current) - wanted]:
                self._retire(instance)

    async def _grow(self, state: RevisionState, wanted: int) -> None:
        started = [self._start(state) for _ in range(wanted - len(state.current()))]
        starting = [instance for instance in state.current() if instance.state == "starting"]
        await asyncio.gather(*(instance.settled.wait() for instance in {*started, *starting}))

    def _refuse_while_failing(self, state: RevisionState) -> None:
        if self._clock.monotonic() < state.retry_at:
            raise self.why_gone(state.key)

    def _start(self, state: RevisionState) -> Instance:
        assert state.desired is not None  # noqa: S101 -- callers checked
        workload = state.desired.workload
        suffix = "".join(self._random.choices(_ALPHABET, k=5))
        instance_id = f"{workload.revision}-{suffix}"
        # Socket names are short and their own: paths are limited to 107 bytes, names of functions are not so
        # short.
        stem = self._workers_dir / f"{zlib.crc32(instance_id.encode()):08x}{suffix}"
        body = {
            "instance": instance_id,
            "revision": workload.revision,
            "workload": f"{stem}.workload",
            "http": f"{stem}.http",
            "ctl": f"{stem}.ctl",
            "page": f"{stem}.page",
            "spool": str(self._spool_dir / workload.namespace / workload.name / f"{instance_id}.log"),
            "uid": self._uid(workload.key),
            "limits": msgspec.to_builtins(workload.limits),
        }
        instance = self._new_instance(workload, body)
        self._spawn_task(self._bring_up(instance, body), f"start-{instance_id}")
        return instance

    def _new_instance(self, workload: Workload, body: dict[str, Any]) -> Instance:
        instance = Instance(
            body["instance"],
            workload,
            body["http"],
            body["ctl"],
            body["page"],
            body["spool"],
            self._clock.monotonic(),
        )
        self._instances[instance.id] = instance
        state = self._function(workload.key).revision(workload.revision)
        state.instances[instance.id] = instance
        instance.freed = state.places.freed
        self._busy.set()
        return instance

    async def _bring_up(self, instance: Instance, body: dict[str, Any]) -> None:
        try:
            instance.hold_page()
            keep_workload(body["workload"], instance.workload)
            await self._call_zygote("spawn", body, START_TIMEOUT_S)
            instance.forked_at = self._clock.monotonic()
            instance.listening.set()
            instance.freed()
        except (PeltonError, OSError, TimeoutError) as exc:
            self._failed(instance, f"no worker could be forked: {exc}")
            return
        forked = self._clock.monotonic()
        await self._greet(instance)
        state = self._state_of(instance)
        slow = self._clock.monotonic() - forked > SLOW_START_S
        if slow and state is not None and state.desired is not None and not state.checked:
            # Checked before the platform was restarted: its template went with the old zygote.
            state.checked = True
            self._spawn_task(self._recheck(instance.workload), "recheck")

    async def _greet(self, instance: Instance) -> None:
        """Wait until a worker answers; then it is ready."""
        try:
            peer = await wire.connect(instance.ctl, {"spans": self._on_spans}, name=instance.id)
            instance.peer = peer
            self._spawn_task(self._follow(instance, peer), f"follow-{instance.id}")
            await peer.call("hello", {"role": "node"}, timeout=START_TIMEOUT_S)
            instance.map_page()
        except (PeltonError, OSError, TimeoutError, ValueError) as exc:
            self._failed(
                instance, f"the worker ended before it was ready: {last_words(instance.spool) or exc}"
            )
            await self._signal(instance, signal.SIGKILL)
            return
        if instance.state == "starting":
            instance.state = "ready"
            instance.ready_at = self._clock.monotonic()
            state = self._state_of(instance)
            if state is not None:
                state.failures = 0
        instance.settled.set()
        await self._on_change(instance.workload.key)

    async def _on_spans(self, _peer: wire.Peer, body: Any) -> None:
        if self._take_spans is not None:
            self._take_spans(msgspec.convert(body, list[SpanRecord]))

    def _failed(self, instance: Instance, reason: str) -> None:
        if instance.state == "gone":
            return  # told already: connection, greeting and zygote all notice an end, in any order
        if instance.begun():
            instance.tell(self._clock, "this instance ended by itself in its first invocation")
            instance.served = True
            self._bury(instance)
            self._await_exit(instance)
            return
        state = self._state_of(instance)
        if state is not None:
            state.failures += 1
            state.failure = reason
            state.retry_at = self._clock.monotonic() + min(5.0, 0.1 * 2 ** min(state.failures, 10))
        _log.warning("%s: %s", instance.id, reason)
        self._bury(instance)
        self._await_exit(instance)

    def _await_exit(self, instance: Instance) -> None:
        """Keep an instance until the zygote says how it ended: a limit has more to say than was told."""
        instance.told = True
        if instance.status is None:
            self._lost[instance.id] = instance

    async def _follow(self, instance: Instance, peer: wire.Peer) -> None:
        """A closed ctl connection means that the worker is gone."""
        await peer.closed.wait()
        if instance.state == "starting":
            words = last_words(instance.spool) or "it printed nothing"
            self._failed(instance, f"the worker ended before it was ready: {words}")
            return
        was_ready = instance.state == "ready"
        self._bury(instance)
        if was_ready:
            self._lost[instance.id] = instance
            await self._on_change(instance.workload.key)

    def _bury(self, instance: Instance) -> None:
        if instance.state == "gone":
            return
        drained = instance.state == "draining"
        instance.state = "gone"
        if EVENTS_PER_JOB in instance.workload.options:
            self._note_job(instance, succeeded=drained)
        instance.listening.set()
        instance.settled.set()
        instance.gone.set()
        self._instances.pop(instance.id, None)
        function = self._functions.get(instance.workload.key)
        state = self._state_of(instance)
        if function is not None and state is not None and state.instances.pop(instance.id, None) is not None:
            function.past_seconds += self._clock.monotonic() - instance.started_at
            if instance.page is not None:
                last = instance.page.read()
                function.past_invocations += last.total
                function.past_busy_ns += last.busy_ns
            self._prune(function, state)
        instance.let_go()
        instance.freed()  # whoever waits for room has to look again

    def _note_job(self, instance: Instance, *, succeeded: bool) -> None:
        """Remember a job that has ended; one that was not asked to end has failed."""
        function = self._functions.get(instance.workload.key)
        applied = function.applied if function is not None else None
        rules = applied.scaling.jobs if applied is not None else None
        if rules is not None:
            self._jobs.note(
                instance,
                now=self._clock.monotonic(),
                succeeded=succeeded,
                kept=(rules.kept_succeeded, rules.kept_failed),
            )

    def _state_of(self, instance: Instance) -> RevisionState | None:
        function = self._functions.get(instance.workload.key)
        return function.revisions.get(instance.workload.revision) if function is not None else None

    # -- scale-down ------------------------------------------------------------------------------------------

    def _retire(self, instance: Instance) -> None:
        if instance.state in ("draining", "gone"):
            return
        was_starting = instance.state == "starting"
        instance.state = "draining"
        instance.settled.set()
        self._spawn_task(self._drain(instance, was_starting=was_starting), f"drain-{instance.id}")

    async def _drain(self, instance: Instance, *, was_starting: bool) -> None:
        """Out of EDS, wait for the ACK and Envoy's workers, then let the worker finish, then end it."""
        if was_starting:
            await self._signal(instance, signal.SIGKILL)
        else:
            await self._on_change(instance.workload.key)
            await self._clock.sleep(0.01)
            grace = instance.workload.request_timeout_s or DRAIN_GRACE_S
            try:
                if instance.peer is not None:
                    await instance.peer.call("drain", {"grace_s": grace}, timeout=grace + 5)
            except (PeltonError, OSError, TimeoutError):
                await self._signal(instance, signal.SIGKILL)
        try:
            async with asyncio.timeout(5):
                await instance.gone.wait()
        except TimeoutError:
            await self._signal(instance, signal.SIGKILL)

    async def take_down_overrun(self) -> None:
        """Take workers whose invocation overran its deadline out of EDS and end them (design decision 9)."""
        now = self._clock.monotonic()
        for instance in list(self._instances.values()):
            if instance.state != "ready" or instance.page is None:
                continue
            if instance.page.read().earliest_deadline + OVERRUN_GRACE_S < now:
                instance.state = "draining"
                said = "an invocation overran its time limit; this instance is ended"
                instance.tell(self._clock, said)
                self._terminated(instance, "Timeout", said)
                self._spawn_task(self._end_overrun(instance), f"overrun-{instance.id}")

    async def _end_overrun(self, instance: Instance) -> None:
        await self._on_change(instance.workload.key)
        deadline = self._clock.monotonic() + NEIGHBOUR_GRACE_S
        while self._clock.monotonic() < deadline and instance.in_flight > 1 and not instance.gone.is_set():
            await self._clock.sleep(0.05)
        await self._signal(instance, signal.SIGKILL)

    # -- the zygote ------------------------------------------------------------------------------------------

    async def _call_zygote(self, op: str, body: dict[str, Any], timeout_s: float) -> Any:
        async with asyncio.timeout(timeout_s):
            await self._zygote_up.wait()
            assert self._zygote is not None  # noqa: S101 -- set before the event
            return await self._zygote.call(op, body, timeout=timeout_s)

    async def _signal(self, instance: Instance, number: int) -> None:
        try:
            await self._call_zygote("kill", {"instance": instance.id, "signal": int(number)}, 5)
        except (PeltonError, OSError, TimeoutError) as exc:
            _log.warning("%s could not be ended: %s", instance.id, exc)

    async def _exited(self, _peer: wire.Peer, body: dict[str, Any]) -> None:
        instance = self._instances.get(body["instance"]) or self._lost.pop(body["instance"], None)
        if instance is None:
            return
        instance.status = body["status"]
        key, was = instance.workload.key, instance.state
        limit = f"{body['reason']}: {body['message']}" if body["reason"] else ""
        how = limit or ending(body["status"])
        if was == "starting":
            words = last_words(instance.spool)
            self._terminated(instance, body["reason"], body["message"] or how)
            self._failed(instance, f"the worker ended while it started ({how}): {words}")
            return
        self._bury(instance)
        if was in {"ready", "gone"}:  # gone: its connection has closed before this note
            self._terminated(instance, body["reason"], body["message"] or how)
            state = self._state_of(instance)
            if limit and state is not None and state.failures:
                state.failure = f"the worker ended while it started ({how})"
            if limit or not instance.told:
                instance.tell(self._clock, f"this instance ended by itself ({how})")
            await self._on_change(key)

    def _terminated(self, instance: Instance, reason: str, message: str) -> None:
        """Note an end that nobody asked for."""
        function = self._functions.get(instance.workload.key)
        if function is not None:
            before = function.last_terminated
            function.last_terminated = Terminated(
                instance=instance.id,
                reason=reason or "Error",
                message=message,
                at=self._clock.now().timestamp(),
                count=before.count + 1 if before is not None else 1,
            )

    async def _template_changed(self, _peer: wire.Peer, body: dict[str, Any]) -> None:
        for function in self._functions.values():
            state = function.revisions.get(body["revision"])
            if state is not None:
                state.template = body["state"]

    def _uid(self, key: str) -> int:
        """Return the function's own uid: from its name, so that it survives restarts, else the next free."""
        if key not in self._uids:
            taken = set(self._uids.values())
            offset = zlib.crc32(key.encode())
            self._uids[key] = next(
                uid
                for uid in (_UID_BASE + (offset + step) % _UID_COUNT for step in range(_UID_COUNT))
                if uid not in taken
            )
        return self._uids[key]
