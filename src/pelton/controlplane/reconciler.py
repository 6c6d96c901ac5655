"""Makes what runs match what is asked for, one Function at a time: plan, build, check, diff, apply, status.

Level-triggered: every pass reads the Function, its facts and what the target runs, and does what is missing,
so a restart at any point converges. A build or check that fails leaves the previous revision serving. `cli/`
hands in builder, checker and target; `plan/` decides; `controlplane/queue` orders the passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pelton import log
from pelton.clock import Clock, rfc3339
from pelton.controlplane.facts import COMPONENTS, SECRETS, FactsReader
from pelton.controlplane.queue import KeyQueue
from pelton.controlplane.revisions import Revisions
from pelton.errors import BuildError, ConflictError, NotFoundError, PeltonError
from pelton.manifest import openfunction_core
from pelton.model.build import BuildResult
from pelton.model.desired import BuildRun, Desired, Workload
from pelton.model.function import Function
from pelton.model.snapshot import CheckResult
from pelton.plan.conditions import REVISION_REF, Phase, function_status, of_problems
from pelton.plan.diff import Action, Apply, Check, Remove, diff
from pelton.plan.eventing import Facts
from pelton.plan.function import Plan, plan
from pelton.plan.names import FINALIZER, content_hash
from pelton.ports import Store, Target, WatchEvent

__all__ = ["FUNCTIONS", "Reconciler"]

FUNCTIONS = "functions.core.openfunction.io"
_RETRY_S, _MAX_RETRY_S = 30.0, 600.0  # for content that failed: what it needs from outside may come back
_WRITE_TRIES = 5
_log = log.get(__name__)
T = TypeVar("T")

Builder = Callable[[BuildRun, Function], Awaitable[BuildResult]]
Checker = Callable[[Workload], Awaitable[CheckResult]]


class _SupersededError(Exception):
    """The Function changed while its previous content was being worked on."""


class _CheckFailedError(Exception):
    def __init__(self, result: CheckResult) -> None:
        super().__init__(result.message)
        self.result = result


@dataclass(slots=True)
class _Broken:
    """Content that failed and is not tried again before `retry_at` (monotonic seconds)."""

    content: str
    retry_at: float
    tries: int


@dataclass(slots=True)
class _Pass:
    """One look at one Function."""

    key: str
    obj: dict[str, Any]
    function: Function
    facts: Facts
    plan: Plan
    observed: Desired | None  # what the target says it was told
    live: Desired | None  # the same, or what served before the target forgot
    forced: bool
    kicks: int
    build: Phase = field(default_factory=lambda: Phase(state=""))
    digest: str = ""
    retry_s: float | None = None

    @property
    def generation(self) -> int:
        return int(self.obj["metadata"].get("generation", 0))

    @property
    def status(self) -> dict[str, Any]:
        return self.obj.get("status") or {}

    def before(self, phase: str) -> dict[str, Any]:
        """Return the stored status of `build` or `serving`."""
        return self.status.get(phase) or {}


class Reconciler:
    """Reconciles Functions until cancelled.

    Args:
        store: Functions, Components and Secrets.
        build: Builds source; raises PeltonError (BuildError with the log's tail) when it cannot.
        check: Loads a revision once in a short-lived child.
        target: Where desired state becomes real.
        clock: For times in the status, timeouts and retries.
        gateway: Returns the gateway's URL without path, "" while it is unknown.
        facts: What holds for all Functions: component types that can be used, environment variables.
        built: Whether what a recorded build left behind still exists; else it is built again.
        parallel: Most Functions worked on at once.
        resync_s: Seconds between two looks at everything.
    """

    def __init__(
        self,
        *,
        store: Store,
        build: Builder,
        check: Checker,
        target: Target,
        clock: Clock,
        gateway: Callable[[], str],
        facts: Facts | None = None,
        built: Callable[[BuildResult], bool] = lambda _result: True,
        parallel: int = 32,
        resync_s: float = 300.0,
    ) -> None:
        self._store = store
        self._build = build
        self._check = check
        self._target = target
        self._clock = clock
        self._gateway = gateway
        self._built = built
        self._resync_s = resync_s
        self._facts = FactsReader(store, facts or Facts())
        self._revisions = Revisions(store)
        self._queue = KeyQueue(self.reconcile, clock=clock, parallel=parallel)
        self._keys: set[str] = set()
        self._broken: dict[str, _Broken] = {}
        self._inside: dict[str, tuple[int, asyncio.Task[Any]]] = {}  # work that a change would supersede
        self._written: dict[str, str] = {}  # key -> resourceVersion of our own last write
        self._kicks = 0
        self._applied: dict[str, int] = {}  # key -> value of `_kicks` that it was last applied for

    # -- running ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch and reconcile until cancelled."""
        # Functions that vanished around their finalizer left a record: the pass finds them gone, cleans up.
        present, _ = await self._store.list(FUNCTIONS)
        known = {_key(obj["metadata"]) for obj in present}
        for namespace, name in await self._revisions.keys():
            if f"{namespace}/{name}" not in known:
                self._queue.add(f"{namespace}/{name}")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run())
            group.create_task(self._watch(FUNCTIONS, self._on_function))
            for resource in (COMPONENTS, SECRETS):
                group.create_task(self._watch(resource, self._on_reference(resource)))
            group.create_task(self._resync())

    def kick(self, namespace: str, name: str) -> None:
        """Look at one Function again, now."""
        self._queue.add(f"{namespace}/{name}")

    def kick_all(self) -> None:
        """Apply everything again: a part of the target came back and may have forgotten."""
        self._kicks += 1
        for key in sorted(self._keys):
            self._queue.add(key)

    async def idle(self) -> None:
        """Wait until no Function is being worked on or due now."""
        await self._queue.idle()

    async def _watch(self, resource: str, on_event: Callable[[WatchEvent], None]) -> None:
        while True:
            try:
                async for event in self._store.watch(resource):
                    if event.type != "BOOKMARK":
                        on_event(event)
                return  # the store was closed
            except Exception as error:
                # Whatever was missed is in the listing that the next watch begins with; deletions are not.
                _log.warning("watch of %s broke off, starting again: %s", resource, error)
                await self._clock.sleep(1.0)
                if resource == FUNCTIONS:
                    for key in self._keys:
                        self._queue.add(key)

    def _on_function(self, event: WatchEvent) -> None:
        metadata = event.object["metadata"]
        key = _key(metadata)
        if event.type == "DELETED":
            self._keys.discard(key)
        else:
            self._keys.add(key)
            if self._written.get(key) == str(metadata.get("resourceVersion")):
                return  # our own status: nothing to learn from it
        inside = self._inside.get(key)
        if inside is not None and (
            event.type == "DELETED"
            or metadata.get("deletionTimestamp")
            or int(metadata.get("generation", 0)) > inside[0]
        ):
            inside[1].cancel()
        self._queue.add(key)

    def _on_reference(self, resource: str) -> Callable[[WatchEvent], None]:
        def on_event(event: WatchEvent) -> None:
            metadata = event.object["metadata"]
            for key in self._facts.users(resource, metadata.get("namespace", ""), metadata["name"]):
                self._queue.add(key)

        return on_event

    async def _resync(self) -> None:
        while True:
            await self._clock.sleep(self._resync_s)
            for key in sorted(self._keys):
                self._queue.add(key)

    # -- one pass --------------------------------------------------------------------------------------------

    async def reconcile(self, key: str) -> float | None:
        """Bring one Function a step or all the way; returns seconds until the next look, or None.

        Raises:
            Exception: The target or the store could not be reached; the queue tries again.
        """
        namespace, _, name = key.partition("/")
        kicks = self._kicks
        try:
            obj = await self._store.get(FUNCTIONS, namespace, name)
        except NotFoundError:
            await self._clean(key, namespace, name, removed=False)
            return None
        try:
            if obj["metadata"].get("deletionTimestamp"):
                await self._finalize(key, obj)
                return None
            if FINALIZER not in (obj["metadata"].get("finalizers") or ()):
                obj["metadata"]["finalizers"] = [*(obj["metadata"].get("finalizers") or ()), FINALIZER]
                obj = await self._update(key, obj)
            return await self._converge(key, obj, kicks)
        except _SupersededError:
            return 0.0
        except ConflictError:
            return 0.0  # somebody was faster: read again

    async def _converge(self, key: str, obj: dict[str, Any], kicks: int) -> float | None:
        try:
            function, _ = openfunction_core.decode(openfunction_core.default(obj))
        except PeltonError as error:
            await self._refuse(key, obj, error)
            return None
        facts = await self._facts.read(function)
        observed, _ = await self._target.observe(function.namespace, function.name)
        work = _Pass(
            key=key,
            obj=obj,
            function=function,
            facts=facts,
            plan=plan(function, facts),
            observed=observed,
            live=observed or await self._revisions.load(function.namespace, function.name),
            forced=self._applied.get(key, 0) < kicks,
            kicks=kicks,
        )
        ready, result = await self._have_build(work)
        if not ready:
            await self._keep(work)
            await self._write(work, _held(work))
            return work.retry_s
        work.plan = plan(function, facts, result)
        return await self._serve(work)

    async def _refuse(self, key: str, obj: dict[str, Any], error: PeltonError) -> None:
        """Say that a stored object cannot be read; whatever serves goes on serving."""
        metadata = obj["metadata"]
        live, _ = await self._target.observe(metadata["namespace"], metadata["name"])
        serving = Phase(state="Failed", reason="Invalid", message=f"{error.message} {error.hint}".strip())
        status = function_status(
            obj.get("status") or {},
            generation=int(metadata.get("generation", 0)),
            build=_remembered((obj.get("status") or {}).get("build") or {}),
            serving=serving,
            live=live,
            digest="",
            partial=(),
            gateway=self._gateway(),
            now=rfc3339(self._clock.now()),
        )
        await self._store_status(key, obj, status)

    async def _have_build(self, work: _Pass) -> tuple[bool, BuildResult | None]:
        """Return (whether serving can go on, the build); fills in `work.build`."""
        before = work.before("build")
        last_successful = before.get("lastSuccessfulResourceRef") or {}
        work.digest = (work.status.get("revision") or {}).get("imageDigest", "")
        problems = [problem for problem in work.plan.problems if problem.phase == "build"]
        if problems:
            reason, message = of_problems(problems)
            work.build = Phase(
                state="Failed", reason=reason, message=message, last_successful=last_successful
            )
            return False, None
        run, content = work.plan.build, work.plan.build_hash
        if run is None:
            work.build = Phase(state="Skipped")
            work.digest = ""
            return True, None
        if before.get("state") == "Succeeded" and before.get("resourceHash") == content:
            recorded = BuildResult.from_refs(before.get("resourceRef") or {})
            if recorded is not None and self._built(recorded):
                work.build = _remembered(before)
                return True, recorded
        if self._waits(work, content):
            work.build = _remembered(before)
            return False, None
        base = Phase(state="Building", last_successful=last_successful, content=content)
        work.build = base
        if before.get("state") not in ("Failed", "Timeout") or before.get("resourceHash") != content:
            await self._write(work, _held(work))
        _log.info("%s: building", work.key)
        try:
            result = await self._guarded(work, self._build(run, work.function), run.timeout_s)
        except TimeoutError:
            message = f"the build did not finish within {run.timeout_s:g} s; raise spec.build.timeout"
            self._break(work, content)
            work.build = replace(base, state="Timeout", message=message)
            return False, None
        except _SupersededError:
            raise
        except Exception as error:
            if not isinstance(error, PeltonError):
                _log.exception("%s: the builder broke", work.key)
            self._break(work, content)
            tail = error.log_tail if isinstance(error, BuildError) else ()
            work.build = replace(
                base, state="Failed", reason=_reason(error), message=_sentence(error), log_tail=tail
            )
            return False, None
        self._broken.pop(work.key, None)
        refs = result.to_refs()
        work.digest = result.digest
        work.build = Phase(state="Succeeded", refs=refs, last_successful=refs, content=content)
        return True, result

    async def _serve(self, work: _Pass) -> float | None:
        before = work.before("serving")
        last = before.get("lastSuccessfulResourceRef") or {}
        if work.plan.problems:
            reason, message = of_problems(work.plan.problems)
            await self._keep(work)
            phase = Phase(state="Failed", reason=reason, message=message, last_successful=last)
            await self._write(work, phase)
            return None
        wanted = work.plan.desired
        if wanted is None:
            await self._act(diff(work.live, None))
            await self._revisions.forget(work.function.namespace, work.function.name)
            work.live = None
            await self._write(work, Phase(state="Skipped"))
            return None
        revision = wanted.workload.revision
        content = content_hash(wanted.workload)
        failed_before = before.get("state") in ("Failed", "Timeout") and before.get("resourceHash") == content
        if failed_before and work.key not in self._broken:
            self._break(work, content)  # known from before a restart: not at once again
        if self._waits(work, content):
            await self._keep(work)
            await self._write(work, _remembered(before))
            return work.retry_s
        actions = diff(work.observed, wanted, checked=last.get(REVISION_REF, ""))
        if not actions and work.forced:
            actions = (Apply(desired=wanted, changes=("asked again",)),)
        refs = {REVISION_REF: revision}
        phase = Phase(state="Running", refs=refs, last_successful=refs, content=content)
        if actions:
            if last.get(REVISION_REF) != revision and not failed_before:
                await self._write(work, replace(phase, state="Starting", last_successful=last))
            failure = await self._carry_out(work, actions, replace(phase, last_successful=last))
            if failure is not None:
                await self._write(work, failure)
                return work.retry_s
        self._broken.pop(work.key, None)
        self._applied[work.key] = work.kicks
        await self._revisions.save(wanted)
        work.live = wanted
        await self._write(work, phase)
        return None

    async def _carry_out(self, work: _Pass, actions: tuple[Action, ...], phase: Phase) -> Phase | None:
        """Carry the actions out; returns the phase to show when the content failed, else None."""
        serving = work.function.serving
        timeout_s = (serving.timeout_s if serving else None) or 0.0
        try:
            await self._guarded(work, self._act(actions), timeout_s)
        except _CheckFailedError as error:
            self._break(work, phase.content)
            await self._keep(work)
            result = error.result
            return replace(
                phase,
                state="Failed",
                reason=result.reason or "LoadFailed",
                message=result.message,
                log_tail=result.log_tail,
            )
        except TimeoutError:
            self._break(work, phase.content)
            await self._keep(work, rolled=True)
            message = f"not running within {timeout_s:g} s; raise spec.serving.timeout"
            return replace(phase, state="Timeout", message=message)
        except _SupersededError:
            raise
        except Exception as error:
            # Not the content's fault as far as is known: shown, and tried again by the queue. The target may
            # take what it was told for done, so it is told again.
            self._applied[work.key] = -1
            shown = replace(phase, state="Starting", reason=_reason(error), message=_sentence(error))
            await self._write(work, shown)
            raise
        return None

    async def _act(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action:
                case Check(workload=workload):
                    result = await self._check(workload)
                    if not result.ok:
                        raise _CheckFailedError(result)
                case Apply(desired=desired, changes=changes):
                    load = desired.workload
                    _log.info("%s: applying %s (%s)", load.key, load.revision, ", ".join(changes))
                    await self._target.apply(desired)
                case Remove(namespace=namespace, name=name):
                    _log.info("%s/%s: removing", namespace, name)
                    await self._target.remove(namespace, name)

    async def _keep(self, work: _Pass, *, rolled: bool = False) -> None:
        """Make sure that the previous revision serves where the wanted one cannot.

        Args:
            work: The pass.
            rolled: The target may have been told of the wanted one already.
        """
        if work.live is not None and (work.observed is None or work.forced or rolled):
            await self._target.apply(work.live)
            self._applied[work.key] = work.kicks

    # -- what failed -----------------------------------------------------------------------------------------

    def _break(self, work: _Pass, content: str) -> None:
        """Note that content failed; it is tried again after a wait that doubles."""
        known = self._broken.get(work.key)
        tries = known.tries + 1 if known is not None and known.content == content else 1
        wait_s = min(_MAX_RETRY_S, _RETRY_S * 2.0 ** min(tries - 1, 10))
        self._broken[work.key] = _Broken(content, self._clock.monotonic() + wait_s, tries)
        work.retry_s = wait_s

    def _waits(self, work: _Pass, content: str) -> bool:
        known = self._broken.get(work.key)
        if known is None or known.content != content:
            return False
        remaining = known.retry_at - self._clock.monotonic()
        if remaining <= 0:
            return False
        work.retry_s = remaining
        return True

    async def _guarded(self, work: _Pass, doing: Awaitable[T], timeout_s: float) -> T:
        """Await something that is given up when the Function changes or `timeout_s` (0 = none) has passed."""

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
                raise _SupersededError
            return task.result()
        finally:
            del self._inside[work.key]
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)

    # -- the end of a Function -------------------------------------------------------------------------------

    async def _finalize(self, key: str, obj: dict[str, Any]) -> None:
        metadata = obj["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        if FINALIZER not in (metadata.get("finalizers") or ()):
            return  # ours is done, somebody else's is not
        await self._clean(key, namespace, name, removed=True)
        metadata["finalizers"] = [each for each in metadata["finalizers"] if each != FINALIZER]
        await self._update(key, obj)

    async def _clean(self, key: str, namespace: str, name: str, *, removed: bool) -> None:
        """Take everything away; `removed` says that there was something for sure."""
        recorded = await self._revisions.load(namespace, name)
        if removed or recorded is not None or (await self._target.observe(namespace, name))[0] is not None:
            await self._target.remove(namespace, name)
        await self._revisions.forget(namespace, name)
        self._facts.forget(key)
        for memory in (self._broken, self._written, self._applied):
            memory.pop(key, None)

    # -- writing ---------------------------------------------------------------------------------------------

    async def _write(self, work: _Pass, serving: Phase) -> None:
        status = function_status(
            work.status,
            generation=work.generation,
            build=work.build,
            serving=serving,
            live=work.live,
            digest=work.digest,
            partial=work.plan.partial,
            gateway=self._gateway(),
            now=rfc3339(self._clock.now()),
        )
        work.obj = await self._store_status(work.key, work.obj, status)

    async def _store_status(self, key: str, obj: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
        """Write a status where it differs; returns the object as stored.

        Raises:
            _SupersededError: The Function's content changed meanwhile; the status would speak of the old one.
        """
        generation = obj["metadata"].get("generation")
        for _ in range(_WRITE_TRIES):
            if obj.get("status") == status:
                return obj
            try:
                return await self._update(key, {**obj, "status": status}, subresource="status")
            except ConflictError:
                metadata = obj["metadata"]
                obj = await self._store.get(FUNCTIONS, metadata["namespace"], metadata["name"])
                fresh = obj["metadata"]
                if fresh.get("generation") != generation or fresh.get("deletionTimestamp"):
                    raise _SupersededError from None
        raise _SupersededError

    async def _update(self, key: str, obj: dict[str, Any], *, subresource: str = "") -> dict[str, Any]:
        stored = await self._store.update(FUNCTIONS, obj, subresource=subresource)
        self._written[key] = str(stored["metadata"].get("resourceVersion"))
        return stored


def _sleep(clock: Clock, seconds: float) -> Coroutine[Any, Any, None]:
    async def sleep() -> None:
        await clock.sleep(seconds)

    return sleep()


def _key(metadata: dict[str, Any]) -> str:
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def _remembered(stored: dict[str, Any]) -> Phase:
    """Return a stored phase as it was written, so that writing it again changes nothing."""
    return Phase(
        state=stored.get("state", ""),
        reason=stored.get("reason", ""),
        message=stored.get("message", ""),
        refs=stored.get("resourceRef") or {},
        last_successful=stored.get("lastSuccessfulResourceRef") or {},
        content=stored.get("resourceHash", ""),
    )


def _held(work: _Pass) -> Phase:
    """Return the serving phase while there is nothing new to serve; a start that was cut off is none."""
    before = _remembered(work.before("serving"))
    if before.state != "Starting":
        return before
    refs = {REVISION_REF: work.live.workload.revision} if work.live else {}
    return Phase(state="Running" if work.live else "", refs=refs, last_successful=before.last_successful)


def _reason(error: Exception) -> str:
    """Return the error's class in CamelCase as a reason: BuildError -> BuildFailed."""
    return f"{type(error).__name__.removesuffix('Error')}Failed"


def _sentence(error: Exception) -> str:
    if not isinstance(error, PeltonError):
        return f"{type(error).__name__}: {error}"
    text = f"{error.where}: {error.message}" if error.where else error.message
    return f"{text}\n{error.hint}" if error.hint else text
