"""Scales workloads by triggers that scalers read, as ScaledObjects say.

`cli/control_plane` runs one. Every half second it asks the runtime for what was read last,
`autoscale/keda.py` decides, and the number goes into the target's `spec.replicas`, where its controller finds
it. Of a Function only the rules and triggers are handed on, by `of`: the node decides by them. What an object
sees is told in its status; changes are recorded for `pelton why scale`. ScaledObjects that follow requests
are those of `controlplane/http_scaling.py`, which asks by `beside` what their other triggers want.
Source: contracts, autoscaling, sections 1.1 and 2.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from pelton.autoscale.decision import Decision
from pelton.autoscale.hpa import Reading
from pelton.autoscale.keda import COMPOSITE, Keda
from pelton.autoscale.scalers.joined import joined, names_of, policy_of
from pelton.autoscale.scalers.table import read_settings
from pelton.clock import Clock, rfc3339
from pelton.controlplane.decisions import DecisionLog, target_key
from pelton.controlplane.events import Recorder
from pelton.controlplane.http_scaling import SCALED_OBJECTS
from pelton.controlplane.scaled_objects import (
    FUNCTIONS,
    NOT_FOLLOWED,
    follows_requests,
    key_of,
    other_triggers,
    refused,
    resource_of,
)
from pelton.controlplane.scaled_status import conditions, refusal, remembered, write_status
from pelton.controlplane.scaler_triggers import Resolved, Subject, cluster_namespace, getter, resolve
from pelton.errors import ConflictError, NotFoundError, PeltonError
from pelton.log import get
from pelton.model.desired import ScaledBy
from pelton.model.scaler import ScalerReading
from pelton.model.scaling import KedaPolicy
from pelton.ports import Store

__all__ = ["FINALIZER", "Rounds", "TriggerTargets"]

FINALIZER: Final = "finalizer.keda.sh"
_CONTAINER: Final = "function"
_TICK_S: Final = 0.5
_IDLE_S: Final = 2.0
_HPA_S: Final = 15.0
_LOOK_AGAIN_S: Final = 10.0
"""How often Secrets and the like that triggers refer to are looked at again."""

_log = get(__name__)

Obj = dict[str, Any]
Rounds = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""(kind of owners, owner -> triggers (None: as before)) -> owner -> its last round, None before it."""


@dataclass(slots=True)
class _Scaled:
    """One ScaledObject, what is known of its triggers, and its decider."""

    obj: Obj
    policy: KedaPolicy
    resource: str
    resolved: Resolved
    seen_as: tuple[Any, ...]
    looked_at: float
    keda: Keda
    known: bool = False  # whether the runtime has its triggers
    number: int = 0  # of the last round that was decided by
    values: dict[str, Reading | None] = field(default_factory=dict)
    readings: dict[str, list[ScalerReading] | None] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)  # name of what is decided by -> its metric
    poll_at: float = 0.0
    boundary_at: float = 0.0
    active: bool | None = None
    active_since: str = ""  # RFC 3339 time of the last activity
    beside: bool = False  # whether another trigger follows requests, so that nothing is written here
    asked: int = 0  # replicas wanted last, where nothing is written
    missing: bool = False  # whether there is no such target
    original: int | None = None  # the target's number before the first decision

    @property
    def key(self) -> str:
        """`namespace/name` of the object."""
        return key_of(self.obj)

    @property
    def target(self) -> str:
        """`namespace/name` of what is scaled."""
        return f"{self.obj['metadata']['namespace']}/{self.obj['spec']['scaleTargetRef']['name']}"

    @property
    def owner(self) -> str:
        """Under which name the runtime reads its triggers."""
        return f"Function {self.target}" if self.resource == FUNCTIONS else f"ScaledObject {self.key}"


class TriggerTargets:
    """Works until cancelled.

    Args:
        store: Where objects are.
        rounds: Has triggers read, and returns what was read.
        clock: Time.
        decisions: Keeps changes of numbers; None for nobody.
        functions: Returns the Functions whose own options have triggers that are read, by `namespace/name`.
        changed: Called with namespace and name of a Function whose rules are others than before.
        variables: The platform's environment.
        files: Directory of the files that a ClusterTriggerAuthentication names.
    """

    def __init__(
        self,
        *,
        store: Store,
        rounds: Rounds,
        clock: Clock,
        decisions: DecisionLog | None = None,
        functions: Callable[[], Sequence[str]] = tuple,
        changed: Callable[[str, str], None] = lambda _namespace, _name: None,
        variables: Mapping[str, str] | None = None,
        files: Path = Path(),
    ) -> None:
        self._store = store
        self._rounds = rounds
        self._clock = clock
        self._decisions = decisions
        self._changed = changed
        self._by_options = functions
        self._failing: dict[str, str] = {}  # such a Function -> what could not be read last
        self._cluster_namespace = cluster_namespace(variables or {})
        self._files = files
        self._recorder = Recorder(store, clock)
        self._scaled: dict[str, _Scaled] = {}
        self._problems: dict[str, str] = {}
        self._functions: dict[str, ScaledBy] = {}
        self._away = False
        self._told = True  # whether the runtime may read something

    def of(self, key: str) -> ScaledBy | None:
        """Return what scales a Function instead of its own options, by `namespace/name`; None for nothing."""
        return self._functions.get(key)

    def beside(self, key: str) -> tuple[int, bool, str] | None:
        """Return what other triggers of a ScaledObject want that follows requests; None without any.

        Returns:
            Replicas, whether a trigger is active, and what could not be read, "" for nothing.
        """
        one = self._scaled.get(key)
        if one is None or not one.beside:
            return None
        problems = one.resolved.sentences
        return one.asked, bool(one.active), "; ".join([*one.errors.values(), *problems])

    async def run(self) -> None:
        """Look, decide, write; again and again."""
        while True:
            busy = True
            try:
                busy = await self.tick()
            except PeltonError as error:
                _log.warning("triggers are looked at again: %s", error)
            except Exception:
                _log.exception("triggers are looked at again")
            await self._clock.sleep(_TICK_S if busy else _IDLE_S)

    async def begin(self) -> None:
        """Look once before Functions are planned; what fails is left to `run`, and nobody has to wait."""
        try:
            await self.look()
        except Exception:
            _log.exception("triggers are looked at again")

    async def tick(self) -> bool:
        """Look once at everything; returns whether there is anything to scale."""
        objects = await self.look()
        answers = await self._ask()
        now = self._clock.monotonic()
        for one in self._scaled.values():
            answer = None if answers is None else answers.get(one.owner)
            one.known = answer is not None
            fresh = answer is not None and answer["number"] != one.number
            if fresh and answer is not None:
                self._take(one, answer)
            await self._decide(one, now, fresh=fresh)
            if not one.beside:
                await self._tell(one, now)
        await self._tell_functions(answers or {})
        for key, problem in self._problems.items():
            if key in objects:
                said = refusal(problem)
                await write_status(self._store, self._clock, SCALED_OBJECTS, objects[key], said)
        return bool(self._scaled or self._failing)

    async def _tell_functions(self, answers: Mapping[str, Any]) -> None:
        """Note on Functions when triggers of their own options begin to fail; there is no object for them."""
        failing: dict[str, str] = {}
        for key in self._by_options():
            answer = answers.get(f"Function {key}")
            if answer is None:
                failing |= {key: self._failing[key]} if key in self._failing else {}
            elif answer["errors"]:
                failing[key] = "; ".join(answer["errors"].values())
        for key in failing:
            if failing[key] != self._failing.get(key):
                function = await self._get(FUNCTIONS, *key.split("/", 1))
                if function is not None:
                    await self._recorder.record(function, "KEDAScalerFailed", failing[key])
        self._failing = failing

    # -- what there is ---------------------------------------------------------------------------------------

    async def look(self) -> dict[str, Obj]:
        """Find the objects and what they refer to, and say it of Functions; returns them by their keys."""
        listed, _ = await self._store.list(SCALED_OBJECTS)
        for obj in listed:
            if obj["metadata"].get("deletionTimestamp"):
                await self._restore(obj)
        present = [obj for obj in listed if not obj["metadata"].get("deletionTimestamp")]
        objects = {key_of(obj): obj for obj in present if not follows_requests(obj)}
        beside = {key_of(obj): obj for obj in present if other_triggers(obj)}
        conflicting = refused(present)
        problems = {key: why for key, why in conflicting.items() if key in objects}
        known, self._scaled = self._scaled, {}
        for key, obj in objects.items():
            if key in problems:
                continue
            try:
                self._scaled[key] = await self._prepare(obj, known.get(key))
            except _RefusedError as error:
                problems[key] = str(error)
        for key, obj in beside.items():
            try:
                if key not in conflicting:
                    self._scaled[key] = await self._prepare(_without_requests(obj), known.get(key))
                    self._scaled[key].beside = True
            except _RefusedError:
                continue  # told of by whoever follows the requests
        self._problems = problems
        by = {
            one.target: ScaledBy(
                owner=f"ScaledObject {one.key}",
                triggered=one.policy,
                scalers=tuple(t for t in one.resolved.triggers if t.type not in ("cpu", "memory")),
            )
            for one in self._scaled.values()
            if one.resource == FUNCTIONS
        }
        before, self._functions = self._functions, by
        for key in {*before, *by}:
            if before.get(key) != by.get(key):
                namespace, _, name = key.partition("/")
                self._changed(namespace, name)
        return objects

    async def _prepare(self, obj: Obj, known: _Scaled | None) -> _Scaled:
        """Return what is known of an object, looked up again where it changed or some time has passed."""
        metadata, spec = obj["metadata"], obj["spec"]
        notes = {key: text for key, text in (metadata.get("annotations") or {}).items() if ".keda.sh/" in key}
        seen_as = (metadata.get("uid"), spec, notes)
        now = self._clock.monotonic()
        again_s = _TICK_S if known is not None and known.missing else _LOOK_AGAIN_S
        if known is not None and known.seen_as == seen_as and now - known.looked_at < again_s:
            known.obj = obj
            return known
        resource = resource_of(spec["scaleTargetRef"])
        if resource is None:
            raise _RefusedError(NOT_FOLLOWED)
        policy, problems = policy_of(spec, notes)
        if problems:
            raise _RefusedError("; ".join(f"spec.{path}: {message}" for path, message in problems))
        target = await self._get(resource, metadata["namespace"], spec["scaleTargetRef"]["name"])
        resolved = await self._resolve(obj, resource, target)
        if known is None or known.seen_as[0] != seen_as[0]:
            made = _Scaled(obj, policy, resource, resolved, seen_as, now, Keda(policy, now=now))
            made.missing = target is None
            created, active_at = remembered(obj, self._clock)
            made.keda.resume(created=created, active_at=active_at)
            await self._recorder.record(obj, "KEDAScalersStarted", "Started scalers watch")
            return made
        if known.resolved.triggers != resolved.triggers or known.policy != policy:
            known.known, known.number = False, 0
            known.keda.adopt(policy)
        known.obj, known.policy, known.resource, known.resolved = obj, policy, resource, resolved
        known.seen_as, known.looked_at, known.missing = seen_as, now, target is None
        return known

    async def _resolve(self, obj: Obj, resource: str, target: Obj | None) -> Resolved:
        metadata, spec = obj["metadata"], obj["spec"]
        reference = spec["scaleTargetRef"]
        inner = (target or {}).get("spec") or {}
        pod_spec, container = (inner.get("template") or {}).get("spec"), ""
        serving = (inner.get("serving") or {}) if resource == FUNCTIONS else {}
        if resource == FUNCTIONS:
            pod_spec, container = serving.get("template"), _CONTAINER
        modifiers = (spec.get("advanced") or {}).get("scalingModifiers") or {}
        return await resolve(
            Subject(
                namespace=metadata["namespace"],
                name=metadata["name"],
                triggers=spec["triggers"],
                pod_spec=pod_spec,
                container=reference.get("envSourceContainerName") or container,
                variables=serving.get("params") or {},
                in_formula=bool(modifiers.get("formula")),
            ),
            getter(self._store),
            cluster_namespace=self._cluster_namespace,
            files=self._files,
        )

    async def _get(self, resource: str, namespace: str, name: str) -> Obj | None:
        try:
            return await self._store.get(resource, namespace, name)
        except NotFoundError:
            return None

    # -- one look --------------------------------------------------------------------------------------------

    async def _ask(self) -> dict[str, Any] | None:
        """Return the last round of every owner; None while the runtime does not answer."""
        owners: dict[str, Any] = {f"Function {key}": None for key in self._by_options()}
        for one in self._scaled.values():
            owners[one.owner] = None
            if one.resource != FUNCTIONS and not one.known:
                owners[one.owner] = {
                    "triggers": [msgspec.to_builtins(trigger) for trigger in one.resolved.triggers],
                    "polling_s": one.policy.polling_s,
                    "cached": all(t.get("useCachedMetrics") for t in one.obj["spec"]["triggers"]),
                }
        if not owners and not self._told:
            return {}  # nothing is read, and the runtime knows
        try:
            answers = await self._rounds("ScaledObject", owners)
        except PeltonError as error:
            if not self._away:
                _log.warning("triggers cannot be read: %s", error)
            self._away = True
            return None
        self._away = False
        self._told = bool(owners)
        return answers

    def _take(self, one: _Scaled, answer: Mapping[str, Any]) -> None:
        """Take a round of readings."""
        one.number = answer["number"]
        one.readings = msgspec.convert(answer["readings"], dict[str, list[ScalerReading] | None])
        one.errors = dict(answer["errors"])
        policy, one.values = joined(one.policy, one.readings)
        one.keda.adopt(policy)

    async def _decide(self, one: _Scaled, now: float, *, fresh: bool) -> None:
        """Decide and write; for a Function only what its triggers say is noted."""
        if one.resource == FUNCTIONS:
            if fresh:
                one.active = any(
                    metric.active for metrics in one.readings.values() for metric in metrics or ()
                )
                if one.active:
                    one.active_since = rfc3339(self._clock.now())
            return
        failed = any(value is None for value in one.values.values())
        if one.beside:
            self._ask_for(one, now, fresh=fresh, failed=failed)
            return
        held = one.policy.paused or one.policy.paused_replicas is not None
        if not held and (one.number == 0 or (failed and not fresh)):
            return  # nothing was read yet; failures count by the rounds of reading, not by these looks
        target = await self._get(one.resource, *one.target.split("/", 1))
        if target is None:
            return
        replicas = target["spec"].get("replicas")
        current = 1 if replicas is None else int(replicas)
        if one.original is None:
            one.original = (one.obj.get("status") or {}).get("originalReplicaCount", current)
        ready = (target.get("status") or {}).get("readyReplicas")
        poll, boundary = now >= one.poll_at, now >= one.boundary_at
        decision = one.keda.decide(
            now=now,
            values=one.values,
            current=current,
            ready=None if ready is None else int(ready),
            poll=poll,
            boundary=boundary,
            chain=True,
        )
        if poll:
            one.poll_at = now + one.policy.polling_s
        if boundary:
            one.boundary_at = now + _HPA_S
        self._note_activity(one, now, fresh=fresh)
        if decision.desired not in (-1, current):
            await self._write(one, target, current, decision)

    def _ask_for(self, one: _Scaled, now: float, *, fresh: bool, failed: bool) -> None:
        """Decide by what was asked for last; whoever follows the requests writes."""
        if one.number == 0 or (failed and not fresh):
            return
        poll, boundary = now >= one.poll_at, now >= one.boundary_at
        decision = one.keda.decide(
            now=now, values=one.values, current=one.asked, poll=poll, boundary=boundary, chain=True
        )
        if poll:
            one.poll_at = now + one.policy.polling_s
        if boundary:
            one.boundary_at = now + _HPA_S
        if decision.desired >= 0:
            one.asked = decision.desired
        self._note_activity(one, now, fresh=fresh)

    def _note_activity(self, one: _Scaled, now: float, *, fresh: bool) -> None:
        """Keep what the last decision saw, as the status tells it."""
        if fresh or one.active is None:
            one.active = one.keda.seen.active
        if fresh and one.keda.active_at == now:
            one.active_since = rfc3339(self._clock.now())

    async def _write(self, one: _Scaled, target: Obj, current: int, decision: Decision) -> None:
        try:
            await self._store.update(
                one.resource, {**target, "spec": {**target["spec"], "replicas": decision.desired}}
            )
        except (ConflictError, NotFoundError):
            return  # someone else wrote; the next look decides on what is there then
        kind = target.get("kind") or "Deployment"
        _log.info("%s %s: %d -> %d (%s)", kind, one.target, current, decision.desired, decision.reason)
        if self._decisions is not None:
            seen = {"replicas": current, "triggersActive": int(one.keda.seen.active)}
            self._decisions.note(target_key(kind, one.target), decision, seen)
        if current == 0 and decision.desired > 0:
            text = f"Scaled {kind} {one.target} from 0 to {decision.desired}: {decision.reason}"
            await self._recorder.record(one.obj, "KEDAScaleTargetActivated", text)
        elif current > 0 and decision.desired == 0:
            text = f"Deactivated {kind} {one.target} from {current} to 0"
            await self._recorder.record(one.obj, "KEDAScaleTargetDeactivated", text)

    # -- what it shows ---------------------------------------------------------------------------------------

    async def _tell(self, one: _Scaled, now: float) -> None:
        problems = one.resolved.sentences
        said = conditions(
            one.policy,
            one.keda.seen,
            active=one.active,
            cooling=one.resource != FUNCTIONS and one.keda.cooling(now),
            failed="; ".join([*one.errors.values(), *problems]) or "a trigger could not be read",
            ignored="; ".join([*one.errors.values(), *problems]),
        )
        if one.missing:
            kind = one.obj["spec"]["scaleTargetRef"].get("kind") or "Deployment"
            said[0] = refusal(f"there is no {kind} {one.target}")[0]
        elif problems and (one.resource == FUNCTIONS or one.number == 0):
            said[0] = refusal("; ".join(problems))[0]
        elif one.resource == FUNCTIONS and one.errors:
            partial = "Unknown" if one.active else "False"
            said[0] |= {
                "status": partial,
                "reason": "PartialTriggerError" if one.active else "TriggerError",
                "message": "; ".join(one.errors.values()),
            }
        before = (one.obj.get("status") or {}).get("conditions") or ()
        was: Obj = next((c for c in before if c.get("type") == "Ready"), {})
        if said[0]["status"] != "True" and was.get("message") != said[0]["message"] and one.errors:
            await self._recorder.record(one.obj, "KEDAScalerFailed", said[0]["message"])
        await write_status(self._store, self._clock, SCALED_OBJECTS, one.obj, said, await self._further(one))

    async def _further(self, one: _Scaled) -> dict[str, Any]:
        """Return the fields of the status beside the conditions."""
        obj, spec = one.obj, one.obj["spec"]
        status = obj.get("status") or {}
        reference = spec["scaleTargetRef"]
        function = one.resource == FUNCTIONS
        version = reference.get("apiVersion") or ("core.openfunction.io/v1beta2" if function else "apps/v1")
        kind = reference.get("kind") or "Deployment"
        group, _, number = version.rpartition("/")
        names = names_of(spec["triggers"])
        metrics = {
            f"s{names.index(name)}-{metric.metric}": metric
            for name, read in one.readings.items()
            for metric in read or ()
        }
        for name, read in one.readings.items():
            for metric in read or ():
                key = name if len(read or ()) == 1 else f"{name}/{metric.metric}"
                one.named[key] = f"s{names.index(name)}-{metric.metric}"
        health = {
            one.named.get(name) or _metric_of(one, name): {
                "numberOfFailures": count,
                "status": "Failing" if count else "Happy",
            }
            for name, count in one.keda.failures.items()
        }
        authentications = sorted(
            {
                t["authenticationRef"].get("kind") or "TriggerAuthentication"
                for t in spec["triggers"]
                if t.get("authenticationRef")
            }
        )
        original = one.original if one.original is not None else status.get("originalReplicaCount")
        if original is not None and (spec.get("advanced") or {}).get("restoreToOriginalReplicaCount"):
            await self._hold(obj)
        return {
            "scaleTargetKind": f"{version}.{kind}",
            "scaleTargetGVKR": {
                "group": group,
                "version": number,
                "kind": kind,
                "resource": one.resource.partition(".")[0],
            },
            "originalReplicaCount": original,
            "lastActiveTime": one.active_since or status.get("lastActiveTime"),
            "externalMetricNames": sorted(metrics) or status.get("externalMetricNames"),
            "resourceMetricNames": [t["type"] for t in spec["triggers"] if t["type"] in ("cpu", "memory")]
            or None,
            "compositeScalerName": COMPOSITE if one.policy.modifiers is not None else None,
            "health": health or None,
            "triggersActivity": {name: {"isActive": metric.active} for name, metric in metrics.items()}
            or None,
            "pausedReplicaCount": one.policy.paused_replicas,
            "hpaName": _hpa_name(obj),
            "triggersTypes": ",".join(dict.fromkeys(t["type"] for t in spec["triggers"])),
            "authenticationsTypes": ",".join(authentications) or None,
        }

    # -- the original number ---------------------------------------------------------------------------------

    async def _hold(self, obj: Obj) -> None:
        """Keep an object that is deleted until the target's number has been put back."""
        finalizers = obj["metadata"].get("finalizers") or []
        if FINALIZER in finalizers:
            return
        metadata = {**obj["metadata"], "finalizers": [*finalizers, FINALIZER]}
        try:
            stored = await self._store.update(SCALED_OBJECTS, {**obj, "metadata": metadata})
        except (ConflictError, NotFoundError):
            return  # the next look finds it
        obj["metadata"] = stored["metadata"]

    async def _restore(self, obj: Obj) -> None:
        """Put the target's number back, and let the object go."""
        finalizers = obj["metadata"].get("finalizers") or []
        if FINALIZER not in finalizers:
            return
        reference = obj["spec"]["scaleTargetRef"]
        resource = resource_of(reference)
        original = (obj.get("status") or {}).get("originalReplicaCount")
        try:
            target = None
            if resource is not None and resource != FUNCTIONS and original is not None:
                target = await self._get(resource, obj["metadata"]["namespace"], reference["name"])
            if target is not None and resource is not None and original is not None:
                await self._store.update(
                    resource, {**target, "spec": {**target["spec"], "replicas": int(original)}}
                )
                _log.info(
                    "%s %s: back to %s", reference.get("kind") or "Deployment", reference["name"], original
                )
            kept = [one for one in finalizers if one != FINALIZER]
            await self._store.update(
                SCALED_OBJECTS, {**obj, "metadata": {**obj["metadata"], "finalizers": kept}}
            )
        except (ConflictError, NotFoundError):
            return  # the next look finds it


def _without_requests(obj: Obj) -> Obj:
    """Return a ScaledObject with the triggers alone that scalers read; their names say where they stood."""
    triggers = obj["spec"]["triggers"]
    names = names_of(triggers)
    kept = [{**triggers[place], "name": names[place]} for place in other_triggers(obj)]
    return {**obj, "spec": {**obj["spec"], "triggers": kept}}


class _RefusedError(Exception):
    """An object cannot be followed; says why."""


def _metric_of(one: _Scaled, name: str) -> str:
    """Return the metric of a trigger that was never read; its own name where only the other side knows it."""
    trigger = next((found for found in one.resolved.triggers if found.name == name), None)
    metric = getattr(read_settings(trigger), "metric", "") if trigger is not None else ""
    return f"s{trigger.index}-{metric}" if trigger is not None and metric else name


def _hpa_name(obj: Obj) -> str:
    config = (obj["spec"].get("advanced") or {}).get("horizontalPodAutoscalerConfig") or {}
    return config.get("name") or f"keda-hpa-{obj['metadata']['name']}"
