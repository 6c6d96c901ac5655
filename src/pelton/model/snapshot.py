"""Observed state: what targets report and what decisions are taken on. Plain data, sent between processes.

`targets/` and the node process make these; `plan/`, `autoscale/`, `controlplane/` and the status table read
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pelton.model.limits import Limits

__all__ = [
    "CheckResult",
    "FunctionObserved",
    "InstanceObserved",
    "LoadReading",
    "PartObserved",
    "RevisionObserved",
    "Terminated",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReading:
    """One reading of a worker's load page, or of the activator's queue.

    Attributes:
        in_flight: Invocations running now.
        queued: Invocations waiting in the instance's gate.
        total: Invocations started since the instance began.
        busy_ns: Integral of in_flight over time, nanoseconds.
        at_ns: CLOCK_MONOTONIC nanoseconds of the reading.
        earliest_deadline: CLOCK_MONOTONIC seconds; inf when nothing runs or nothing has a deadline.
    """

    in_flight: int
    queued: int
    total: int
    busy_ns: int
    at_ns: int
    earliest_deadline: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What one load of a revision in a short-lived child showed.

    Attributes:
        ok: Whether the code loaded.
        load_ms: Milliseconds it took.
        reason: CamelCase reason when not ok, e.g. `LoadFailed`, `LoadTimeout`, `Exited`.
        message: One sentence.
        log_tail: Last 20 lines of output and traceback, oldest first.
        signature, target: What the convention found.
        template: `kept`, `evicted`, `not-needed` or `refused (reason)`.
    """

    ok: bool
    load_ms: float = 0.0
    reason: str = ""
    message: str = ""
    log_tail: tuple[str, ...] = ()
    signature: str = ""
    target: str = ""
    template: str = "not-needed"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceObserved:
    """One worker process.

    Attributes:
        id: `<revision>-<5 chars>`.
        revision: Its revision.
        pid: Process id as seen from outside its PID namespace.
        state: `starting`, `ready`, `draining`.
        in_flight: Invocations running now.
        mode: How sync handlers run now: `inline`, `thread`, or `async`.
        socket: Unix socket that it takes requests on.
    """

    id: str
    revision: str
    pid: int
    state: str
    in_flight: int = 0
    mode: str = ""
    socket: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionObserved:
    """One live revision as the node sees it.

    Attributes:
        revision: Its name.
        instances: Its workers that are ready or starting.
        desired: Instances wanted by the last scaling decision.
        template: As in CheckResult.
        failures: Failed starts in a row.
        failure: Why the last start failed; "" when it did not.
    """

    revision: str
    instances: int = 0
    desired: int = 0
    template: str = "not-needed"
    failures: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminated:
    """How an instance ended that nobody asked to end.

    Attributes:
        instance: Its id.
        reason: `OOMKilled`, `PidsLimit`, `DiskLimit`, `Timeout` or `Error`.
        message: A sentence.
        at: Unix time, seconds.
        count: Such ends since the node started, this one included.
    """

    instance: str
    reason: str
    message: str
    at: float
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionObserved:
    """A function as the node sees it.

    Attributes:
        namespace, name: Which.
        revision: Its primary revision.
        instances: Its workers, of all revisions.
        desired: Instances wanted by the last scaling decisions.
        template: As in CheckResult.
        cold_starts: Wakes from zero since the node started.
        instance_seconds: Sum of the lifetimes of all instances, seconds.
        invocations: Invocations begun since the node started, those of ended instances included.
        busy_seconds: Time that they took, summed over those that ran at once, seconds.
        isolation: `uid`, `userns`, `landlock` or `none`, with what is missing in parentheses.
        limits: What each instance of the primary may take, defaults filled in.
        last_terminated: The last end that nobody asked for; None without one.
        decision: The last scaling decision on the primary in one sentence.
        revisions: All live revisions.
    """

    namespace: str
    name: str
    revision: str
    instances: tuple[InstanceObserved, ...] = ()
    desired: int = 0
    template: str = "not-needed"
    cold_starts: int = 0
    instance_seconds: float = 0.0
    invocations: int = 0
    busy_seconds: float = 0.0
    isolation: str = ""
    limits: Limits | None = None
    last_terminated: Terminated | None = None
    decision: str = ""
    revisions: tuple[RevisionObserved, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartObserved:
    """One process of the platform; state is `starting`, `running`, `failed` or `stopped`."""

    name: str
    pid: int
    state: str
    restarts: int = 0
    detail: dict[str, str] = field(default_factory=dict)
