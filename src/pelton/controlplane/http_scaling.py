"""Scales workloads by the requests that are intercepted for them, as HTTPScaledObjects and ScaledObjects say.

`cli/control_plane` runs one. Every half second it asks the node for the counts, `autoscale/http` decides, and
the number goes into the target's `spec.replicas`, where its controller finds it. Of a Function only the rules
are handed on, by `of`: the node, which sees all of its requests, decides by them. What an object sees is told
in the conditions of its ScaledObject. Source: contracts, autoscaling, sections 1.1, 2, 5.1, 5.2 and 5.6.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pelton.autoscale.http import Counts, HttpScaler
from pelton.clock import Clock, rfc3339
from pelton.controlplane.scaled_objects import FUNCTIONS, SKIP, Found, Wanted, find, key_of, target_of
from pelton.controlplane.scaled_status import conditions, refusal, remembered, write_status
from pelton.errors import AlreadyExistsError, ConflictError, NotFoundError, PeltonError
from pelton.log import get
from pelton.model.desired import ScaledBy
from pelton.ports import Store

__all__ = ["HttpTargets"]

INTERCEPTOR_ROUTES: Final = "interceptorroutes.http.keda.sh"
HTTP_SCALED_OBJECTS: Final = "httpscaledobjects.http.keda.sh"
SCALED_OBJECTS: Final = "scaledobjects.keda.sh"
_DEPLOYMENTS: Final = "deployments.apps"
_TICK_S: Final = 0.5
_IDLE_S: Final = 2.0
_HPA_S: Final = 15.0
_ORPHAN: Final = "httpscaledobject.keda.sh/orphan-scaledobject"

_log = get(__name__)

Obj = dict[str, Any]
Report = Mapping[str, Mapping[str, int]]


@dataclass(slots=True)
class _Scaler:
    """A decider, when it may take replicas away, and what it shows."""

    wanted: Wanted
    decider: HttpScaler
    counts: Counts = field(default_factory=Counts)
    poll_at: float = 0.0
    boundary_at: float = 0.0
    active: bool | None = None  # what the condition says; None until the first look
    active_since: str = ""  # RFC 3339 time of the last poll that found it active


class HttpTargets:
    """Works until cancelled.

    Args:
        store: Where objects are.
        counts: Returns route -> {Concurrency, RequestCount}; raises PeltonError while the node is away.
        clock: Time.
        changed: Called with namespace and name of a Function whose rules are others than before.
        beside: Returns (replicas, whether active, trouble) of other triggers of a ScaledObject, by
            `namespace/name`; None without any.
    """

    def __init__(
        self,
        *,
        store: Store,
        counts: Callable[[], Awaitable[Report]],
        clock: Clock,
        changed: Callable[[str, str], None] = lambda _namespace, _name: None,
        beside: Callable[[str], tuple[int, bool, str] | None] = lambda _key: None,
    ) -> None:
        self._store = store
        self._counts = counts
        self._clock = clock
        self._changed = changed
        self._beside = beside
        self._scalers: dict[str, _Scaler] = {}
        self._functions: dict[str, ScaledBy] = {}
        self._away = False

    def of(self, key: str) -> ScaledBy | None:
        """Return what scales a Function instead of its own options, by `namespace/name`; None for nothing."""
        return self._functions.get(key)

    async def run(self) -> None:
        """Look, decide, write; again and again."""
        while True:
            try:
                busy = await self.tick()
            except PeltonError as error:
                _log.warning("intercepted workloads are looked at again: %s", error)
                busy = True
            except Exception:
                _log.exception("intercepted workloads are looked at again")
                busy = False
            await self._clock.sleep(_TICK_S if busy else _IDLE_S)

    async def begin(self) -> None:
        """Look once before Functions are planned; what fails is left to `run`, and nobody has to wait."""
        try:
            await self.look()
        except Exception:
            _log.exception("intercepted workloads are looked at again")

    async def tick(self) -> bool:
        """Look once at everything; returns whether there is anything to scale."""
        found = await self.look()
        wanted = found.wanted
        self._scalers = {
            owner: one
            for owner, one in self._scalers.items()
            if owner in wanted and _place(wanted[owner]) == _place(one.wanted)
        }
        reports = await self._reports() if wanted else None
        now = self._clock.monotonic()
        shown: dict[str, _Scaler] = {}
        objects = {key_of(obj): obj for obj in await self._list(SCALED_OBJECTS)}
        for owner, one in wanted.items():
            scaler = self._scalers.get(owner)
            if scaler is None:
                scaler = self._scalers[owner] = _Scaler(one, HttpScaler(one.policy, now=now))
                if one.scaled_object in objects:
                    created, active_at = remembered(objects[one.scaled_object], self._clock)
                    scaler.decider.resume(created=created, active_at=active_at)
            elif scaler.wanted != one:
                scaler.decider.adopt(one.policy)
                scaler.wanted = one
            if one.scaled_object:
                shown[one.scaled_object] = scaler
            await self._scale(scaler, reports, now)
        for key, obj in objects.items():
            problem = found.problems.get(key, "")
            if problem or key in shown:
                said = _conditions(shown.get(key), problem, now, self._beside(key))
                since = shown[key].active_since if key in shown else ""
                further = {"lastActiveTime": since} if since else None
                await write_status(self._store, self._clock, SCALED_OBJECTS, obj, said, further)
        return bool(wanted)

    async def look(self) -> Found:
        """Find what scales what, and say it of Functions; nothing is scaled."""
        objects = await self._list(HTTP_SCALED_OBJECTS)
        functions = {key_of(obj) for obj in objects if await self._is_function(obj)}
        for obj in objects:
            await self._own(obj, function=key_of(obj) in functions)
        scaled = await self._list(SCALED_OBJECTS)
        routes = await self._list(INTERCEPTOR_ROUTES) if scaled else []
        found = find(objects, scaled, routes, functions)
        by = {
            f"{one.namespace}/{one.name}": ScaledBy(owner=one.owner, policy=one.policy)
            for one in found.wanted.values()
            if one.resource == FUNCTIONS
        }
        before, self._functions = self._functions, by
        for key in {*before, *by}:
            if before.get(key) != by.get(key):
                namespace, _, name = key.partition("/")
                self._changed(namespace, name)
        return found

    async def _is_function(self, obj: Obj) -> bool:
        """Tell whether an HTTPScaledObject that says no kind means the Function behind its Service."""
        target = obj["spec"]["scaleTargetRef"]
        service = target["service"]
        if target.get("kind") or (target.get("name") or target.get("deployment") or service) != service:
            return False
        namespace = obj["metadata"]["namespace"]
        return await self._exists(FUNCTIONS, namespace, service) and not await self._exists(
            _DEPLOYMENTS, namespace, service
        )

    async def _exists(self, resource: str, namespace: str, name: str) -> bool:
        try:
            await self._store.get(resource, namespace, name)
        except NotFoundError:
            return False
        return True

    async def _reports(self) -> Report | None:
        """Return the counts; None while nobody can tell them."""
        try:
            reports = await self._counts()
        except PeltonError as error:
            if not self._away:
                _log.warning("intercepted requests cannot be counted: %s", error)
            self._away = True
            return None
        self._away = False
        return reports

    async def _list(self, resource: str) -> list[Obj]:
        return [
            obj
            for obj in (await self._store.list(resource))[0]
            if not obj["metadata"].get("deletionTimestamp")
        ]

    async def _own(self, obj: Obj, *, function: bool) -> None:
        """Keep the ScaledObject that an HTTPScaledObject stands for; one of its user's is left alone."""
        metadata, spec = obj["metadata"], obj["spec"]
        notes = metadata.get("annotations") or {}
        if notes.get(SKIP) == "true":
            return
        replicas = spec.get("replicas") or {}
        owner = {
            "apiVersion": obj["apiVersion"],
            "kind": obj["kind"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        made: Obj = {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                **({} if notes.get(_ORPHAN) == "true" else {"ownerReferences": [owner]}),
            },
            "spec": {
                "scaleTargetRef": target_of(obj, function=function),
                "pollingInterval": 15,
                "cooldownPeriod": spec.get("scaledownPeriod", 300),
                "initialCooldownPeriod": spec.get("initialCooldownPeriod", 0),
                "minReplicaCount": replicas.get("min", 0),
                "maxReplicaCount": replicas.get("max", 100),
                "advanced": {"restoreToOriginalReplicaCount": True},
                "triggers": [
                    {
                        "type": "external-push",
                        "metadata": {"scalerAddress": "pelton", "httpScaledObject": metadata["name"]},
                    }
                ],
            },
        }
        try:
            old = await self._store.get(SCALED_OBJECTS, metadata["namespace"], metadata["name"])
        except NotFoundError:
            try:
                await self._store.create(SCALED_OBJECTS, made)
            except AlreadyExistsError:
                pass
            return
        ours = any(one.get("uid") == metadata["uid"] for one in old["metadata"].get("ownerReferences") or ())
        if ours and old["spec"] != made["spec"]:
            try:
                await self._store.update(SCALED_OBJECTS, {**old, "spec": made["spec"]})
            except (ConflictError, NotFoundError):
                return  # the next look finds it

    async def _scale(self, scaler: _Scaler, reports: Report | None, now: float) -> None:
        one, decider = scaler.wanted, scaler.decider
        poll, boundary = now >= scaler.poll_at, now >= scaler.boundary_at
        if reports is None:
            if not poll:
                return  # failures count by the polls, not by these looks
        else:
            report = reports.get(one.route)
            pair = None if report is None else (float(report["Concurrency"]), float(report["RequestCount"]))
            concurrency, requests = scaler.counts.take({"node": pair})
            decider.record(now=now, concurrency=concurrency, requests=requests)
        target: Obj | None = None
        current = 0
        if one.resource != FUNCTIONS:
            try:
                target = await self._store.get(one.resource, one.namespace, one.name)
            except NotFoundError:
                return
            replicas = target["spec"].get("replicas")
            current = 1 if replicas is None else int(replicas)
        decision = decider.decide(
            now=now, current=current, poll=poll, boundary=boundary, chain=True, failed=reports is None
        )
        if poll or decider.seen.active:
            scaler.active = decider.seen.active
        if poll:
            scaler.poll_at = now + one.policy.keda.polling_s
            if decider.active_at == now:
                scaler.active_since = rfc3339(self._clock.now())
        if boundary:
            scaler.boundary_at = now + _HPA_S
        others = self._beside(one.scaled_object) if one.scaled_object else None
        desired = decision.desired
        if others is not None and not scaler.wanted.policy.keda.paused and desired >= 0:
            desired = max(desired, others[0])
        if target is None or desired in (-1, current):
            return
        try:
            await self._store.update(
                one.resource, {**target, "spec": {**target["spec"], "replicas": desired}}
            )
        except (ConflictError, NotFoundError):
            return  # someone else wrote; the next look decides on what is there then
        _log.info("%s %s/%s: %d -> %d", one.resource, one.namespace, one.name, current, desired)


def _place(one: Wanted) -> tuple[str, str, str, str]:
    """Return what a decider's memory is about."""
    return one.route, one.resource, one.namespace, one.name


def _conditions(
    scaler: _Scaler | None, problem: str, now: float, others: tuple[int, bool, str] | None
) -> list[Obj]:
    """Return the conditions of a ScaledObject; other triggers than those by requests count for Active."""
    if scaler is None or problem:
        return refusal(problem)
    active = scaler.active
    if others is not None and others[1]:
        active = True
    return conditions(
        scaler.wanted.policy.keda,
        scaler.decider.seen,
        active=active,
        cooling=scaler.decider.cooling(now),
        failed="intercepted requests cannot be counted; the node does not answer",
        ignored="; ".join(text for text in (scaler.wanted.ignored, others[2] if others else "") if text),
    )
