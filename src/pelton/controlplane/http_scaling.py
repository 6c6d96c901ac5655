"""Scales workloads by the requests that are intercepted for them, as HTTPScaledObjects and ScaledObjects say.

`cli/control_plane` runs one. Every half second it asks the node for the counts, `autoscale/http` decides, and
the number goes into the target's `spec.replicas`, where its controller finds it. Functions scale themselves.
Source: contracts, autoscaling, sections 2, 5.1, 5.2 and 5.6.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pelton.autoscale.http import Counts, HttpScaler
from pelton.autoscale.policy import read_policy
from pelton.clock import Clock, rfc3339
from pelton.errors import AlreadyExistsError, ConflictError, NotFoundError, PeltonError
from pelton.log import get
from pelton.manifest.keda import SCALED_OBJECT
from pelton.manifest.keda_http import INTERCEPTOR_ROUTE
from pelton.manifest.keda_rules import conflicts
from pelton.model.keda import ScaledObjectResource
from pelton.model.keda_http import InterceptorRoute
from pelton.model.scaling import HttpScaling, KedaPolicy
from pelton.ports import Store

__all__ = ["HttpTargets"]

INTERCEPTOR_ROUTES: Final = "interceptorroutes.http.keda.sh"
HTTP_SCALED_OBJECTS: Final = "httpscaledobjects.http.keda.sh"
SCALED_OBJECTS: Final = "scaledobjects.keda.sh"
_TICK_S: Final = 0.5
_IDLE_S: Final = 2.0
_HPA_S: Final = 15.0
_RESOURCES: Final = {
    ("apps/v1", "Deployment"): "deployments.apps",
    ("apps/v1", "StatefulSet"): "statefulsets.apps",
}
_NOT_FOLLOWED: Final = (
    "not followed on this machine: requests of InterceptorRoutes and HTTPScaledObjects scale Deployments and "
    "StatefulSets; triggers of a Function stand in its scaleOptions.keda"
)
_SKIP: Final = "httpscaledobject.keda.sh/skip-scaledobject-creation"
_ORPHAN: Final = "httpscaledobject.keda.sh/orphan-scaledobject"

_log = get(__name__)

Obj = dict[str, Any]
Report = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What is scaled, by which counts and rules."""

    route: str
    resource: str
    namespace: str
    name: str
    policy: HttpScaling


@dataclass(slots=True)
class _Scaler:
    """A decider and when it may take replicas away."""

    wanted: _Wanted
    decider: HttpScaler
    counts: Counts = field(default_factory=Counts)
    poll_at: float = 0.0
    boundary_at: float = 0.0


class HttpTargets:
    """Works until cancelled.

    Args:
        store: Where objects are.
        counts: Returns route -> {Concurrency, RequestCount}; raises PeltonError while the node is away.
        clock: Time.
    """

    def __init__(self, *, store: Store, counts: Callable[[], Awaitable[Report]], clock: Clock) -> None:
        self._store = store
        self._counts = counts
        self._clock = clock
        self._scalers: dict[str, _Scaler] = {}

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

    async def tick(self) -> bool:
        """Look once at everything; returns whether there is anything to scale."""
        wanted = await self._wanted()
        self._scalers = {key: one for key, one in self._scalers.items() if wanted.get(key) == one.wanted}
        if not wanted:
            return False
        reports = await self._counts()
        now = self._clock.monotonic()
        for key, one in wanted.items():
            scaler = self._scalers.get(key)
            if scaler is None:
                scaler = self._scalers[key] = _Scaler(one, HttpScaler(one.policy, now=now))
            await self._scale(scaler, reports.get(one.route), now)
        return True

    async def _wanted(self) -> dict[str, _Wanted]:
        found: dict[str, _Wanted] = {}
        for obj in await self._list(HTTP_SCALED_OBJECTS):
            await self._own(obj)
            metadata, target = obj["metadata"], obj["spec"]["scaleTargetRef"]
            policy = read_policy({"algorithm": "keda-http", "spec": obj["spec"]}).http
            policy = replace(policy, keda=_held(metadata.get("annotations") or {}, policy.keda))
            key = f"{metadata['namespace']}/{metadata['name']}"
            name = target.get("name") or target.get("deployment") or target["service"]
            self._add(found, f"HTTPScaledObject {key}", key, target, metadata["namespace"], name, policy)
        stored = await self._list(SCALED_OBJECTS)
        refused = _refused(stored)
        scaled = [SCALED_OBJECT.decode(obj)[0] for obj in stored if _key(obj) not in refused]
        asked = [(one, name) for one in scaled if (name := _route_of(one))]
        routes = {
            f"{one.namespace}/{one.name}": one
            for one in (INTERCEPTOR_ROUTE.decode(obj)[0] for obj in await self._list(INTERCEPTOR_ROUTES))
            if asked
        }
        for one, name in asked:
            route = routes.get(f"{one.namespace}/{name}")
            if route is None:
                continue
            target = {"apiVersion": one.target.api_version, "kind": one.target.kind}
            key, policy = f"{one.namespace}/{name}", _policy(one, route)
            owner = f"ScaledObject {one.namespace}/{one.name}"
            self._add(found, owner, key, target, one.namespace, one.target.name, policy)
        for obj in stored:
            served = any(f"{kind} {_key(obj)}" in found for kind in ("ScaledObject", "HTTPScaledObject"))
            await self._tell(obj, refused.get(_key(obj), ""), served=served)
        return found

    async def _tell(self, obj: Obj, problem: str, *, served: bool) -> None:
        """Say on a ScaledObject whether it is followed here, and if not, why."""
        message = problem or ("" if served else _NOT_FOLLOWED)
        ready = served and not problem
        reason = "ScaledObjectReady" if ready else "ScaledObjectCheckFailed"
        said = {"type": "Ready", "status": "True" if ready else "False", "reason": reason, "message": message}
        status = obj.get("status") or {}
        before: Obj = next((one for one in status.get("conditions") or () if one.get("type") == "Ready"), {})
        if all(before.get(key) == value for key, value in said.items()):
            return
        turned = before.get("status") != said["status"]
        at = rfc3339(self._clock.now()) if turned else before.get("lastTransitionTime", "")
        others = [one for one in status.get("conditions") or () if one.get("type") != "Ready"]
        status = {**status, "conditions": [{**said, "lastTransitionTime": at}, *others]}
        try:
            await self._store.update(SCALED_OBJECTS, {**obj, "status": status}, subresource="status")
        except (ConflictError, NotFoundError):
            return  # the next look finds it

    async def _list(self, resource: str) -> list[Obj]:
        return [
            obj
            for obj in (await self._store.list(resource))[0]
            if not obj["metadata"].get("deletionTimestamp")
        ]

    def _add(
        self,
        found: dict[str, _Wanted],
        owner: str,
        route: str,
        target: Mapping[str, Any],
        namespace: str,
        name: str,
        policy: HttpScaling,
    ) -> None:
        kind = (target.get("apiVersion") or "apps/v1", target.get("kind") or "Deployment")
        resource = _RESOURCES.get(kind)
        if resource is not None:
            found[owner] = _Wanted(
                route=route, resource=resource, namespace=namespace, name=name, policy=policy
            )

    async def _own(self, obj: Obj) -> None:
        """Keep the ScaledObject that an HTTPScaledObject stands for; one of its user's is left alone."""
        metadata, spec = obj["metadata"], obj["spec"]
        notes = metadata.get("annotations") or {}
        if notes.get(_SKIP) == "true":
            return
        target, replicas = spec["scaleTargetRef"], spec.get("replicas") or {}
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
                "scaleTargetRef": {
                    "name": target.get("name") or target.get("deployment") or target["service"],
                    "apiVersion": target.get("apiVersion") or "apps/v1",
                    "kind": target.get("kind") or "Deployment",
                },
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

    async def _scale(self, scaler: _Scaler, report: Mapping[str, int] | None, now: float) -> None:
        one = scaler.wanted
        pair = None if report is None else (float(report["Concurrency"]), float(report["RequestCount"]))
        concurrency, requests = scaler.counts.take({"node": pair})
        scaler.decider.record(now=now, concurrency=concurrency, requests=requests)
        try:
            target = await self._store.get(one.resource, one.namespace, one.name)
        except NotFoundError:
            return
        current = target["spec"].get("replicas")
        current = 1 if current is None else int(current)
        poll, boundary = now >= scaler.poll_at, now >= scaler.boundary_at
        decision = scaler.decider.decide(now=now, current=current, poll=poll, boundary=boundary, chain=True)
        if poll:
            scaler.poll_at = now + one.policy.keda.polling_s
        if boundary:
            scaler.boundary_at = now + _HPA_S
        if decision.desired in (-1, current):
            return
        try:
            await self._store.update(
                one.resource, {**target, "spec": {**target["spec"], "replicas": decision.desired}}
            )
        except (ConflictError, NotFoundError):
            return  # someone else wrote; the next look decides on what is there then
        _log.info("%s %s/%s: %d -> %d", one.resource, one.namespace, one.name, current, decision.desired)


def _key(obj: Obj) -> str:
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"


def _refused(stored: list[Obj]) -> dict[str, str]:
    """Return ScaledObjects that cannot be followed beside older ones: `namespace/name` -> why."""
    refused: dict[str, str] = {}
    accepted: list[ScaledObjectResource] = []
    for obj in sorted(stored, key=lambda one: (one["metadata"].get("creationTimestamp", ""), _key(one))):
        model = SCALED_OBJECT.decode(obj)[0]
        problems = conflicts(model, accepted)
        if problems:
            refused[_key(obj)] = "; ".join(f"{path}: {message}" for path, message in problems)
        else:
            accepted.append(model)
    return refused


def _route_of(scaled: ScaledObjectResource) -> str:
    """Return the InterceptorRoute whose requests a ScaledObject follows, or ""."""
    return next(
        (
            trigger.metadata["interceptorRoute"]
            for trigger in scaled.triggers
            if trigger.type == "external-push" and trigger.metadata.get("interceptorRoute")
        ),
        "",
    )


def _policy(scaled: ScaledObjectResource, route: InterceptorRoute) -> HttpScaling:
    metric, (low, high) = route.metric, scaled.bounds
    concurrency = metric.concurrency if metric is not None else None
    rate = metric.rate if metric is not None else None
    notes = scaled.annotations
    return HttpScaling(
        concurrency_target=float(concurrency.target) if concurrency is not None else 0.0,
        rate_target=float(rate.target) if rate is not None else 0.0,
        rate_window_s=rate.window_s if rate is not None else 60.0,
        granularity_s=rate.granularity_s if rate is not None else 1.0,
        whole_rate=False,
        keda=_held(
            notes,
            KedaPolicy(
                min_replicas=low,
                max_replicas=high,
                idle_replicas=scaled.idle_replicas,
                cooldown_s=300.0 if scaled.cooldown_period_s is None else float(scaled.cooldown_period_s),
                initial_cooldown_s=float(scaled.initial_cooldown_period_s or 0),
                polling_s=float(scaled.polling_interval_s or 30),
            ),
        ),
    )


def _held(notes: Mapping[str, str], policy: KedaPolicy) -> KedaPolicy:
    """Return the policy with what the annotations of a pause say."""
    replicas = notes.get("autoscaling.keda.sh/paused-replicas")
    return replace(
        policy,
        paused=notes.get("autoscaling.keda.sh/paused", "false").lower() != "false",
        paused_replicas=int(replicas) if replicas is not None and replicas.isdigit() else None,
        paused_in=notes.get("autoscaling.keda.sh/paused-scale-in", "false").lower() != "false",
        paused_out=notes.get("autoscaling.keda.sh/paused-scale-out", "false").lower() != "false",
        force_active=notes.get("autoscaling.keda.sh/force-activation", "false").lower() != "false",
    )
