"""One look at one Function, and what its parts share: the status writer, failures, work that can be given up.

`controlplane/reconciler.py` makes a `Work` per pass and hands it to `controlplane/building.py` and
`controlplane/serving.py`, which read the world from it and leave in it what they found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pelton.clock import Clock, rfc3339
from pelton.controlplane.revisions import Record
from pelton.errors import ConflictError, PeltonError
from pelton.model.desired import Desired
from pelton.model.function import Function
from pelton.model.snapshot import FunctionObserved
from pelton.plan.conditions import Phase, function_status
from pelton.plan.eventing import Facts
from pelton.plan.function import Plan
from pelton.plan.rollout import Rollout
from pelton.ports import Store

__all__ = [
    "FUNCTIONS",
    "Failures",
    "Guard",
    "Statuses",
    "SupersededError",
    "Work",
    "reason_of",
    "sentence_of",
]

FUNCTIONS = "functions.core.openfunction.io"
_RETRY_S, _MAX_RETRY_S = 30.0, 600.0  # for content that failed: what it needs from outside may come back
_WRITE_TRIES = 5
_OWN_WRITES = 32
"""Own writes remembered per Function; more than one pass makes."""
T = TypeVar("T")


class SupersededError(Exception):
    """The Function changed while its previous content was being worked on, or the work was cancelled."""


@dataclass(slots=True)
class Work:
    """One look at one Function.

    Attributes:
        key: `namespace/name`.
        obj: As stored, or as written last in this pass.
        filled: The same with defaults filled in.
        function, facts, plan: What it means.
        record: What was kept of it before.
        observed: What the target says it was told; None for nothing.
        seen: How that fares.
        forced: Whether the target has to be told again.
        kicks: Number of this telling.
        build: How the build stands, for the status.
        digest: `sha256:...` of the last successful build.
        rollout: How far a new revision has come.
        latest: The newest revision, for the status.
        live: What serves now: what the target was told, or what served before it forgot.
        retry_s: Seconds until the next look; None when only a change makes one.
    """

    key: str
    obj: dict[str, Any]
    filled: dict[str, Any]
    function: Function
    facts: Facts
    plan: Plan
    record: Record
    observed: Desired | None
    seen: FunctionObserved | None
    forced: bool
    kicks: int
    build: Phase = field(default_factory=lambda: Phase(state=""))
    digest: str = ""
    rollout: Rollout | None = None
    latest: str = ""
    live: Desired | None = None
    retry_s: float | None = None

    @property
    def generation(self) -> int:
        """metadata.generation."""
        return int(self.obj["metadata"].get("generation", 0))

    @property
    def status(self) -> dict[str, Any]:
        """The stored status."""
        return self.obj.get("status") or {}

    def before(self, phase: str) -> Phase:
        """Return the stored status of `build` or `serving`."""
        stored = self.status.get(phase)
        return Phase.stored(stored if isinstance(stored, dict) else {})

    def held(self) -> Phase:
        """Return the serving phase while there is nothing new to serve; a start that was cut off is none."""
        before = self.before("serving")
        if before.state != "Starting":
            return before
        return Phase(
            state="Running" if self.live else "",
            ref=before.last_successful if self.live else "",
            last_successful=before.last_successful,
            revision=self.record.stable if self.live else "",
        )

    def again(self, seconds: float | None) -> None:
        """Ask for another look after some time; the earliest counts."""
        if seconds is not None:
            self.retry_s = seconds if self.retry_s is None else min(self.retry_s, seconds)


class Failures:
    """Content that failed: it is not tried again before its time, which doubles with each failure.

    Args:
        clock: For waits.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, tuple[str, float, int]] = {}  # key -> (content, not before, failures in a row)

    def __contains__(self, key: str) -> bool:
        """Whether a Function's content failed."""
        return key in self._known

    def note(self, work: Work, content: str) -> None:
        """Remember that content failed just now."""
        known, _, tries = self._known.get(work.key, ("", 0.0, 0))
        tries = tries + 1 if known == content else 1
        wait_s = min(_MAX_RETRY_S, _RETRY_S * 2.0 ** min(tries - 1, 10))
        self._known[work.key] = (content, self._clock.monotonic() + wait_s, tries)
        work.again(wait_s)

    def waits(self, work: Work, content: str) -> bool:
        """Tell whether this content has to wait; then the pass is repeated when it has waited."""
        known, not_before, _ = self._known.get(work.key, ("", 0.0, 0))
        remaining = not_before - self._clock.monotonic()
        if known != content or remaining <= 0:
            return False
        work.again(remaining)
        return True

    def forget(self, key: str) -> None:
        """Let a Function be tried at once."""
        self._known.pop(key, None)


class Guard:
    """Work that is given up when the Function changes, or takes too long.

    Args:
        clock: For time limits.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._inside: dict[str, tuple[int, asyncio.Task[Any]]] = {}

    async def run(self, work: Work, doing: Awaitable[T], timeout_s: float) -> T:
        """Await something.

        Args:
            work: Whose pass it is part of.
            doing: What to await.
            timeout_s: Seconds, 0 for no limit.

        Raises:
            TimeoutError: It took longer.
            SupersededError: It was given up.
        """

        async def run() -> T:
            return await doing

        task = asyncio.create_task(run())
        waiters: set[asyncio.Task[Any]] = {task}
        if timeout_s > 0:
            waiters.add(asyncio.create_task(_sleep(self._clock, timeout_s)))
        self._inside[work.key] = (work.generation, task)
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise TimeoutError
            if task.cancelled():
                raise SupersededError
            return task.result()
        finally:
            del self._inside[work.key]
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)

    def give_up(self, key: str, *, newer_than: int | None = None) -> None:
        """End a Function's work; with `newer_than` only when it is of an older generation than that."""
        inside = self._inside.get(key)
        if inside is not None and (newer_than is None or newer_than > inside[0]):
            inside[1].cancel()


class Statuses:
    """Writes the status of Functions, and only when it differs from what is stored.

    Args:
        store: Where they are.
        clock: For times of transition.
        gateway: Returns the gateway's URL without path, "" while it is unknown.
        internal: Returns that of its internal port.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        gateway: Callable[[], str],
        internal: Callable[[], str] = lambda: "",
    ) -> None:
        self._store = store
        self._clock = clock
        self._gateway = gateway
        self._internal = internal
        # key -> resourceVersions of own writes that no watch has told of yet
        self._written: dict[str, list[str]] = {}

    def is_own(self, key: str, version: str) -> bool:
        """Tell whether a version that a watch tells of was written from here; each is asked for once."""
        written = self._written.get(key)
        if written is None or version not in written:
            return False
        del written[: written.index(version) + 1]  # watches tell in order: what is older was told, or missed
        if not written:
            del self._written[key]
        return True

    def forget(self, key: str) -> None:
        """Drop what is remembered of a Function that is gone."""
        self._written.pop(key, None)

    async def write(self, work: Work, serving: Phase) -> None:
        """Write how the build and the serving stand; raises SupersededError."""
        status = function_status(
            work.status,
            generation=work.generation,
            build=work.build,
            serving=serving,
            live=work.live,
            digest=work.digest,
            partial=work.plan.partial,
            gateway=self._gateway(),
            internal=self._internal(),
            now=rfc3339(self._clock.now()),
            rollout=work.rollout,
            latest=work.latest,
        )
        work.obj = await self._store_status(work.key, work.obj, status)

    async def refuse(self, key: str, obj: dict[str, Any], live: Desired | None, error: PeltonError) -> None:
        """Write that a stored object cannot be read; whatever serves goes on serving."""
        before = obj.get("status") or {}
        build = before.get("build")
        status = function_status(
            before,
            generation=int(obj["metadata"].get("generation", 0)),
            build=Phase.stored(build if isinstance(build, dict) else {}),
            serving=Phase(state="Failed", reason="Invalid", message=f"{error.message} {error.hint}".strip()),
            live=live,
            digest="",
            partial=(),
            gateway=self._gateway(),
            internal=self._internal(),
            now=rfc3339(self._clock.now()),
            rollout=Rollout.from_status(before),
        )
        await self._store_status(key, obj, status)

    async def _store_status(self, key: str, obj: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
        """Return the object as stored.

        Raises:
            SupersededError: The Function's content changed meanwhile; the status would speak of the old one.
        """
        generation = obj["metadata"].get("generation")
        for _ in range(_WRITE_TRIES):
            if obj.get("status") == status:
                return obj
            try:
                return await self.update(key, {**obj, "status": status}, subresource="status")
            except ConflictError:
                metadata = obj["metadata"]
                obj = await self._store.get(FUNCTIONS, metadata["namespace"], metadata["name"])
                fresh = obj["metadata"]
                if fresh.get("generation") != generation or fresh.get("deletionTimestamp"):
                    raise SupersededError from None
        raise SupersededError

    async def update(self, key: str, obj: dict[str, Any], *, subresource: str = "") -> dict[str, Any]:
        """Write a Function and remember that it was written from here."""
        stored = await self._store.update(FUNCTIONS, obj, subresource=subresource)
        version = str(stored["metadata"].get("resourceVersion"))
        if version != str(obj["metadata"].get("resourceVersion")):  # else nothing was written
            written = self._written.setdefault(key, [])
            written.append(version)
            del written[:-_OWN_WRITES]
        return stored


def _sleep(clock: Clock, seconds: float) -> Coroutine[Any, Any, None]:
    async def sleep() -> None:
        await clock.sleep(seconds)

    return sleep()


def reason_of(error: Exception) -> str:
    """Return the error's class in CamelCase as a reason: BuildError -> BuildFailed."""
    return f"{type(error).__name__.removesuffix('Error')}Failed"


def sentence_of(error: Exception) -> str:
    """Return what an error says, with where and what to do."""
    if not isinstance(error, PeltonError):
        return f"{type(error).__name__}: {error}"
    text = f"{error.where}: {error.message}" if error.where else error.message
    return f"{text}\n{error.hint}" if error.hint else text
