"""Makes what runs match what is asked for, one Function at a time: plan, build, check, diff, apply, status.

Level-triggered: every pass reads the Function, its facts and what the target runs, and does what is missing,
so a restart at any point converges. A build or check that fails leaves the previous revision serving. `cli/`
hands in builder, checker and target; `plan/` decides; `controlplane/queue` orders the passes;
`controlplane/building.py` and `controlplane/serving.py` carry one out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pelton import log
from pelton.clock import Clock
from pelton.controlplane.building import Builder, Building
from pelton.controlplane.children import BUILDERS, SERVINGS, Children
from pelton.controlplane.events import Recorder
from pelton.controlplane.facts import COMPONENTS, GATEWAYS, SECRETS, FactsReader
from pelton.controlplane.queue import KeyQueue
from pelton.controlplane.revisions import Record, Revisions
from pelton.controlplane.scaler_triggers import RESOURCES
from pelton.controlplane.serving import Checker, Serving
from pelton.controlplane.work import FUNCTIONS, Failures, Guard, Statuses, SupersededError, Work
from pelton.errors import ConflictError, NotFoundError, PeltonError
from pelton.manifest import openfunction_core
from pelton.model.build import BuildResult
from pelton.model.dapr_app import DaprPorts
from pelton.model.desired import Component, ScaledBy
from pelton.model.function import Function
from pelton.plan.eventing import Facts
from pelton.plan.function import plan
from pelton.plan.names import FINALIZER
from pelton.plan.rollout import Rollout
from pelton.ports import SecretStore, Store, Target, WatchEvent

__all__ = ["FUNCTIONS", "Reconciler"]

_EXPIRE_S = 60.0
_log = log.get(__name__)


class Reconciler:
    """Reconciles Functions until cancelled.

    Args:
        store: Functions, Builders, Servings, Components and Secrets.
        build: Builds source; raises PeltonError (BuildError with the log's tail) when it cannot.
        check: Loads a revision once in a short-lived child.
        target: Where desired state becomes real.
        clock: For times in the status, timeouts, steps and retries.
        gateway: Returns the gateway's URL without path, "" while it is unknown.
        internal: Returns that of its internal port.
        facts: What holds for all Functions: component types that can be used, environment variables.
        scaled_by: Returns what scales a Function instead of its own options, by `namespace/name`.
        dapr: Returns where a Function that is an app of Dapr reaches the runtime; None for the others.
        built: Whether what a recorded build left behind still exists; else it is built again.
        trigger_files: Directory of the files that a ClusterTriggerAuthentication names.
        secret_store: Makes the driver of a secret store that Components name.
        pruned: Called when bundles or environments may have become free.
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
        internal: Callable[[], str] = lambda: "",
        facts: Facts | None = None,
        scaled_by: Callable[[str], ScaledBy | None] = lambda _key: None,
        dapr: Callable[[Function], DaprPorts | None] = lambda _function: None,
        built: Callable[[BuildResult], bool] = lambda _result: True,
        pruned: Callable[[], None] = lambda: None,
        trigger_files: Path = Path(),
        secret_store: Callable[[Component], SecretStore] | None = None,
        parallel: int = 32,
        resync_s: float = 300.0,
    ) -> None:
        self._store = store
        self._target = target
        self._clock = clock
        self._resync_s = resync_s
        self._pruned = pruned
        self._scaled_by = scaled_by
        self._dapr = dapr
        self._facts = FactsReader(
            store, facts or Facts(), trigger_files=trigger_files, secret_store=secret_store
        )
        self._revisions = Revisions(store)
        self._children = Children(store)
        self._failures = Failures(clock)
        self._guard = Guard(clock)
        self._statuses = Statuses(store, clock, gateway, internal)
        recorder = Recorder(store, clock)
        self._building = Building(
            build=build,
            built=built,
            children=self._children,
            statuses=self._statuses,
            failures=self._failures,
            guard=self._guard,
            recorder=recorder,
            clock=clock,
        )
        self._serving = Serving(
            check=check,
            target=target,
            children=self._children,
            statuses=self._statuses,
            failures=self._failures,
            guard=self._guard,
            recorder=recorder,
            clock=clock,
        )
        self._queue = KeyQueue(self.reconcile, clock=clock, parallel=parallel)
        self._keys: set[str] = set()
        self._kicks = 0
        self._passes = self._finished = 0

    # -- running ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch and reconcile until cancelled."""
        await self._children.load()
        # Functions that vanished around their finalizer left a record: the pass finds them gone, cleans up.
        present, _ = await self._store.list(FUNCTIONS)
        known = {_key(obj["metadata"]) for obj in present}
        for namespace, name in await self._revisions.all():
            if f"{namespace}/{name}" not in known:
                self._queue.add(f"{namespace}/{name}")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run())
            group.create_task(self._watch(FUNCTIONS, self._on_function))
            for resource in (BUILDERS, SERVINGS):
                group.create_task(self._watch(resource, self._on_child(resource)))
            for resource in dict.fromkeys((COMPONENTS, SECRETS, GATEWAYS, *RESOURCES.values())):
                group.create_task(self._watch(resource, self._on_reference(resource)))
            group.create_task(self._resync())
            group.create_task(self._expire())

    async def paths(self) -> set[str] | None:
        """Return the directories that Functions need; None while that cannot be said.

        A pass that is under way may be about to need one that nobody needed so far, and a record that
        cannot be read may, too.
        """
        before = self._passes
        if before != self._finished:
            return None
        needed: set[str] = set()
        for record in (await self._revisions.all()).values():
            if record is None:
                return None
            needed |= record.paths()
        return needed if self._passes == before else None

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
            if self._statuses.is_own(key, str(metadata.get("resourceVersion"))):
                return  # our own status: nothing to learn from it
        if event.type == "DELETED" or metadata.get("deletionTimestamp"):
            self._guard.give_up(key)
        else:
            self._guard.give_up(key, newer_than=int(metadata.get("generation", 0)))
        self._queue.add(key)

    def _on_child(self, resource: str) -> Callable[[WatchEvent], None]:
        def on_event(event: WatchEvent) -> None:
            key, child = self._children.see(resource, event)
            if not key:
                return
            if resource == BUILDERS and not self._building.see(key, event.object["metadata"]["name"], child):
                return
            if child is None:
                self._queue.add(key)

        return on_event

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

    async def _expire(self) -> None:
        while True:
            await self._clock.sleep(_EXPIRE_S)
            await self._building.expire()

    # -- one pass --------------------------------------------------------------------------------------------

    async def reconcile(self, key: str) -> float | None:
        """Bring one Function a step or all the way; returns seconds until the next look, or None.

        Raises:
            Exception: The target or the store could not be reached; the queue tries again.
        """
        namespace, _, name = key.partition("/")
        kicks = self._kicks
        await self._children.load()
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
                obj = await self._statuses.update(key, obj)
            return await self._converge(key, obj, kicks)
        except SupersededError:
            return 0.0
        except ConflictError:
            return 0.0  # somebody was faster: read again

    async def _converge(self, key: str, obj: dict[str, Any], kicks: int) -> float | None:
        filled = openfunction_core.default(obj)
        namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
        try:
            function, _ = openfunction_core.decode(filled)
        except PeltonError as error:
            live, _ = await self._target.observe(namespace, name)
            await self._statuses.refuse(key, obj, live, error)
            return None
        created = str(obj["metadata"].get("creationTimestamp") or "")
        facts = replace(
            await self._facts.read(function),
            created=created,
            scaled_by=self._scaled_by(function.key),
            dapr=self._dapr(function),
        )
        observed, seen = await self._target.observe(namespace, name)
        record = await self._revisions.load(namespace, name) or Record()
        work = Work(
            key=key,
            obj=obj,
            filled=filled,
            function=function,
            facts=facts,
            plan=plan(function, facts),
            record=record,
            observed=observed,
            seen=seen,
            forced=self._serving.is_behind(key, kicks),
            kicks=kicks,
            live=observed or record.live,
            latest=record.latest,
        )
        work.rollout = Rollout.from_status(work.status)
        self._passes += 1
        try:
            ready, result = await self._building.have(work)
            if ready:
                work.plan = plan(function, facts, result)
                await self._serving.serve(work)
            else:
                await self._serving.keep(work)
                await self._statuses.write(work, work.held())
        finally:
            try:
                await self._revisions.save(namespace, name, work.record)
            finally:
                self._finished += 1
            if record != work.record and record.paths() - work.record.paths():
                self._pruned()
        return work.retry_s

    # -- the end of a Function -------------------------------------------------------------------------------

    async def _finalize(self, key: str, obj: dict[str, Any]) -> None:
        metadata = obj["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        if FINALIZER not in (metadata.get("finalizers") or ()):
            return  # ours is done, somebody else's is not
        await self._clean(key, namespace, name, removed=True)
        metadata["finalizers"] = [each for each in metadata["finalizers"] if each != FINALIZER]
        await self._statuses.update(key, obj)

    async def _clean(self, key: str, namespace: str, name: str, *, removed: bool) -> None:
        """Take everything away; `removed` says that there was something for sure."""
        recorded = await self._revisions.load(namespace, name)
        if removed or recorded is not None or (await self._target.observe(namespace, name))[0] is not None:
            await self._target.remove(namespace, name)
        for resource in (BUILDERS, SERVINGS):
            names = [child.name for child in self._children.of(resource, key)]
            await self._children.delete(resource, namespace, names)
        await self._revisions.forget(namespace, name)
        self._facts.forget(key)
        for memory in (self._failures, self._statuses, self._serving):
            memory.forget(key)
        if recorded is not None:
            self._pruned()


def _key(metadata: dict[str, Any]) -> str:
    return f"{metadata.get('namespace', '')}/{metadata['name']}"
