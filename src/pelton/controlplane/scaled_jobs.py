"""Creates Jobs as ScaledJobs say: so many per look at their triggers as the strategy lets start.

`cli/control_plane` runs one. Jobs are objects of batch/v1 that somebody else runs, as Deployments are; what
is decided here is how many there are, which are deleted when the ScaledJob changes, and which ended ones are
kept. Triggers are read by the runtime, `autoscale/jobs.py` decides once per round. Jobs of Functions are
instances and not made here. Source: contracts, autoscaling section 1.3.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from pelton.autoscale.jobs import combine, job_policy, queue_reading, to_create
from pelton.clock import Clock, rfc3339
from pelton.controlplane.events import Recorder
from pelton.controlplane.scaled_objects import key_of
from pelton.controlplane.scaled_status import condition, write_status
from pelton.controlplane.scaler_triggers import Resolved, Subject, cluster_namespace, getter, resolve
from pelton.controlplane.trigger_targets import Rounds
from pelton.errors import AlreadyExistsError, NotFoundError, PeltonError
from pelton.log import get
from pelton.model.scaler import ScalerReading
from pelton.model.scaling import JobPolicy
from pelton.ports import Store

__all__ = ["GENERATION", "LABEL", "SCALED_JOBS", "ScaledJobs", "is_pending"]

SCALED_JOBS: Final = "scaledjobs.keda.sh"
JOBS: Final = "jobs.batch"
PODS: Final = "pods"
LABEL: Final = "scaledjob.keda.sh/name"
GENERATION: Final = "scaledjob.keda.sh/generation"
_EXCLUDED: Final = "scaledjob.keda.sh/job-excluded-labels"
_PAUSED: Final = "autoscaling.keda.sh/paused"
_TICK_S: Final = 0.5
_IDLE_S: Final = 2.0
_LOOK_AGAIN_S: Final = 10.0
_POLLING_S: Final = 30.0
_KEPT: Final = 100

_log = get(__name__)

Obj = dict[str, Any]


@dataclass(slots=True)
class _Scaled:
    """One ScaledJob and what is known of its triggers."""

    obj: Obj
    policy: JobPolicy
    resolved: Resolved
    seen_as: tuple[Any, ...]
    looked_at: float
    known: bool = False
    number: int = 0
    readings: dict[str, list[ScalerReading] | None] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    active: bool | None = None
    active_since: str = ""

    @property
    def owner(self) -> str:
        """Under which name the runtime reads its triggers."""
        return f"ScaledJob {key_of(self.obj)}"

    @property
    def paused(self) -> bool:
        """Whether its annotation stops it."""
        text = (self.obj["metadata"].get("annotations") or {}).get(_PAUSED, "false")
        return str(text).lower() not in ("false", "0", "f")


class ScaledJobs:
    """Works until cancelled.

    Args:
        store: Where objects are.
        rounds: Has triggers read, and returns what was read.
        clock: Time.
        suffix: Returns five random letters for the name of a Job.
        variables: The platform's environment.
        files: Directory of the files that a ClusterTriggerAuthentication names.
    """

    def __init__(
        self,
        *,
        store: Store,
        rounds: Rounds,
        clock: Clock,
        suffix: Callable[[], str],
        variables: Mapping[str, str] | None = None,
        files: Path = Path(),
    ) -> None:
        self._store = store
        self._rounds = rounds
        self._clock = clock
        self._suffix = suffix
        self._cluster_namespace = cluster_namespace(variables or {})
        self._files = files
        self._recorder = Recorder(store, clock)
        self._scaled: dict[str, _Scaled] = {}
        self._told = False

    async def run(self) -> None:
        """Look, decide, create; again and again."""
        while True:
            busy = True
            try:
                busy = await self.tick()
            except PeltonError as error:
                _log.warning("ScaledJobs are looked at again: %s", error)
            except Exception:
                _log.exception("ScaledJobs are looked at again")
            await self._clock.sleep(_TICK_S if busy else _IDLE_S)

    async def tick(self) -> bool:
        """Look once at everything; returns whether there is anything to do."""
        listed, _ = await self._store.list(SCALED_JOBS)
        present = [obj for obj in listed if not obj["metadata"].get("deletionTimestamp")]
        known, self._scaled = self._scaled, {}
        for obj in present:
            self._scaled[key_of(obj)] = await self._prepare(obj, known.get(key_of(obj)))
        if not self._scaled and not self._told:
            return False
        answers = await self._ask()
        for one in self._scaled.values():
            answer = answers.get(one.owner)
            one.known = answer is not None
            jobs = await self._jobs(one.obj)
            jobs = await self._roll_out(one, jobs)
            await self._prune(one, jobs)
            if answer is not None and answer["number"] != one.number:
                self._take(one, answer)
                if not one.paused:
                    await self._start(one, jobs)
            await self._tell(one)
        return bool(self._scaled)

    # -- what there is ---------------------------------------------------------------------------------------

    async def _prepare(self, obj: Obj, known: _Scaled | None) -> _Scaled:
        metadata, spec = obj["metadata"], obj["spec"]
        seen_as = (metadata.get("uid"), spec)
        now = self._clock.monotonic()
        if known is not None and known.seen_as == seen_as and now - known.looked_at < _LOOK_AGAIN_S:
            known.obj = obj
            return known
        resolved = await resolve(
            Subject(
                namespace=metadata["namespace"],
                name=metadata["name"],
                triggers=spec["triggers"],
                pod_spec=((spec.get("jobTargetRef") or {}).get("template") or {}).get("spec"),
                container=spec.get("envSourceContainerName") or "",
            ),
            getter(self._store),
            cluster_namespace=self._cluster_namespace,
            files=self._files,
        )
        made = _Scaled(obj, job_policy(spec), resolved, seen_as, now)
        if known is not None and known.seen_as[0] == seen_as[0]:
            made.active, made.active_since = known.active, known.active_since
            if known.resolved.triggers == resolved.triggers:
                made.known, made.number = known.known, known.number
                made.readings, made.errors = known.readings, known.errors
        return made

    async def _jobs(self, obj: Obj) -> list[Obj]:
        metadata = obj["metadata"]
        listed, _ = await self._store.list(JOBS, metadata["namespace"])
        return [
            job
            for job in listed
            if (job["metadata"].get("labels") or {}).get(LABEL) == metadata["name"]
            and not job["metadata"].get("deletionTimestamp")
        ]

    async def _ask(self) -> dict[str, Any]:
        owners: dict[str, Any] = {}
        for one in self._scaled.values():
            owners[one.owner] = None
            if not one.known:
                interval = one.obj["spec"].get("pollingInterval")
                owners[one.owner] = {
                    "triggers": [msgspec.to_builtins(trigger) for trigger in one.resolved.triggers],
                    "polling_s": max(1.0, float(_POLLING_S if interval is None else interval)),
                    "cached": True,  # there is no HPA that asks in between
                    "listen": False,  # jobs are created at polls alone
                }
        answers = await self._rounds("ScaledJob", owners)
        self._told = bool(owners)
        return answers

    def _take(self, one: _Scaled, answer: Mapping[str, Any]) -> None:
        one.number = answer["number"]
        one.readings = msgspec.convert(answer["readings"], dict[str, list[ScalerReading] | None])
        one.errors = dict(answer["errors"])

    # -- jobs ------------------------------------------------------------------------------------------------

    async def _start(self, one: _Scaled, jobs: Sequence[Obj]) -> None:
        """Create as many Jobs as this round lets start."""
        demand = combine([queue_reading(metrics) for metrics in one.readings.values() if metrics], one.policy)
        one.active = demand.active
        if demand.active:
            one.active_since = rfc3339(self._clock.now())
        unfinished = [job for job in jobs if not _ended(job)]
        wanted = (one.obj["spec"].get("scalingStrategy") or {}).get("pendingPodConditions") or ()
        pods = (await self._store.list(PODS, one.obj["metadata"]["namespace"]))[0] if unfinished else []
        pending = sum(is_pending(job, pods, wanted) for job in unfinished)
        count = to_create(one.policy, demand, running=len(unfinished), pending=pending)
        for _ in range(count):
            await self._create(one.obj)
        if count:
            _log.info("%s: %d jobs created, %d ran, %d pending", one.owner, count, len(unfinished), pending)
            await self._recorder.record(one.obj, "KEDAJobsCreated", f"Created {count} jobs")

    async def _create(self, obj: Obj) -> None:
        metadata, spec = obj["metadata"], copy.deepcopy(obj["spec"]["jobTargetRef"])
        excluded = [one.strip() for one in (metadata.get("annotations") or {}).get(_EXCLUDED, "").split(",")]
        labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key not in excluded}
        template = spec.setdefault("template", {})
        pod = template.setdefault("spec", {})
        pod["restartPolicy"] = pod.get("restartPolicy") or "OnFailure"
        template["metadata"] = {
            **(template.get("metadata") or {}),
            "labels": {**((template.get("metadata") or {}).get("labels") or {}), LABEL: metadata["name"]},
        }
        name = f"{metadata['name']}-{self._suffix()}"
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": name,
                "namespace": metadata["namespace"],
                "labels": {
                    **labels,
                    "app.kubernetes.io/name": metadata["name"],
                    "app.kubernetes.io/version": "main",
                    "app.kubernetes.io/part-of": metadata["name"],
                    "app.kubernetes.io/managed-by": "keda-operator",
                    LABEL: metadata["name"],
                },
                "annotations": {GENERATION: str(metadata.get("generation", 1))},
                "ownerReferences": [
                    {
                        "apiVersion": obj["apiVersion"],
                        "kind": obj["kind"],
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": spec,
        }
        try:
            await self._store.create(JOBS, job)
        except AlreadyExistsError:
            return  # the same letters twice: the next round finds one job less
        except PeltonError as error:
            await self._recorder.record(obj, "KEDAJobCreateFailed", error.message)
            raise

    async def _roll_out(self, one: _Scaled, jobs: list[Obj]) -> list[Obj]:
        """Delete jobs of an older generation, unless they may end; returns those that stay."""
        spec = one.obj["spec"]
        strategy = (spec.get("rollout") or {}).get("strategy") or spec.get("rolloutStrategy")
        generation = str(one.obj["metadata"].get("generation", 1))
        kept = []
        for job in jobs:
            made_by = (job["metadata"].get("annotations") or {}).get(GENERATION, generation)
            if strategy == "gradual" or made_by == generation:
                kept.append(job)
            else:
                await self._delete(job)
        return kept

    async def _prune(self, one: _Scaled, jobs: Sequence[Obj]) -> None:
        """Delete the oldest ended jobs beyond the limits."""
        spec = one.obj["spec"]
        for kind, name in (
            ("Complete", "successfulJobsHistoryLimit"),
            ("Failed", "failedJobsHistoryLimit"),
        ):
            limit = spec.get(name)
            ended = sorted((job for job in jobs if _ended(job) == kind), key=_ended_at)
            for job in ended[: max(0, len(ended) - (_KEPT if limit is None else int(limit)))]:
                await self._delete(job)

    async def _delete(self, job: Obj) -> None:
        try:
            await self._store.delete(JOBS, job["metadata"]["namespace"], job["metadata"]["name"])
        except NotFoundError:
            return  # somebody was faster

    # -- what it shows ---------------------------------------------------------------------------------------

    async def _tell(self, one: _Scaled) -> None:
        problems = one.resolved.sentences
        ready = condition("Ready", "True", "ScaledJobReady", "")
        if problems:
            ready = condition("Ready", "False", "ScaledJobCheckFailed", "; ".join(problems))
        elif one.errors:
            reason = "PartialTriggerError" if one.active else "TriggerError"
            status = "Unknown" if one.active else "False"
            ready = condition("Ready", status, reason, "; ".join(one.errors.values()))
        active = condition("Active", "False", "ScalerNotActive", "no trigger is active")
        if one.active is None:
            active = condition("Active", "Unknown", "ScalerNotActive", "not looked at yet")
        elif one.active:
            active = condition("Active", "True", "ScalerActive", "a trigger is active")
        paused = condition("Paused", "False", "ScaledJobUnpaused", "")
        if one.paused:
            paused = condition("Paused", "True", "ScaledJobPaused", f"by annotation {_PAUSED}")
        triggers = one.obj["spec"]["triggers"]
        authentications = sorted(
            {
                trigger["authenticationRef"].get("kind") or "TriggerAuthentication"
                for trigger in triggers
                if trigger.get("authenticationRef")
            }
        )
        activity = {
            metric.metric: {"isActive": metric.active}
            for metrics in one.readings.values()
            for metric in metrics or ()
        }
        further = {
            "lastActiveTime": one.active_since or (one.obj.get("status") or {}).get("lastActiveTime"),
            "triggersActivity": activity or None,
            "triggersTypes": ",".join(dict.fromkeys(trigger["type"] for trigger in triggers)),
            "authenticationsTypes": ",".join(authentications) or None,
        }
        said = [ready, active, paused]
        await write_status(self._store, self._clock, SCALED_JOBS, one.obj, said, further)


def _ended(job: Obj) -> str:
    """Return `Complete` or `Failed`; "" for a job that has not ended."""
    for one in (job.get("status") or {}).get("conditions") or ():
        if one.get("type") in ("Complete", "Failed") and one.get("status") == "True":
            return str(one["type"])
    return ""


def _ended_at(job: Obj) -> str:
    status = job.get("status") or {}
    times = [
        one.get("lastTransitionTime") or ""
        for one in status.get("conditions") or ()
        if one.get("type") in ("Complete", "Failed")
    ]
    return str(status.get("completionTime") or max(times, default=""))


def is_pending(job: Obj, pods: Sequence[Obj], conditions: Sequence[str]) -> bool:
    """Return whether an unfinished job does not run yet.

    Args:
        job: The job.
        pods: Of its namespace.
        conditions: Of a pod that make a job count as running; none means that a pod runs or has succeeded.
    """
    metadata = job["metadata"]
    own = [
        pod
        for pod in pods
        if any(one.get("uid") == metadata.get("uid") for one in pod["metadata"].get("ownerReferences") or ())
        or metadata["name"]
        in (
            (pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name"),
            (pod["metadata"].get("labels") or {}).get("job-name"),
        )
    ]
    if not conditions:
        return not any((pod.get("status") or {}).get("phase") in ("Running", "Succeeded") for pod in own)

    def met(pod: Obj) -> bool:
        listed = (pod.get("status") or {}).get("conditions") or ()
        true = {one.get("type") for one in listed if one.get("status") == "True"}
        return all(name in true for name in conditions)

    return not any(met(pod) for pod in own)
