"""How many jobs to start: the strategies of KEDA's ScaledJob.

`combine` joins the triggers, `to_create` decides from the joined numbers and the jobs that exist, `Jobs` says
when. Running the jobs is not done here: for Functions the node does (`controlplane/autoscaler.py`), for
ScaledJobs somebody else (`controlplane/scaled_jobs.py`). Pure.

Source: KEDA, pkg/scaling/executor/scale_jobs.go (contracts, autoscaling section 1.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Any

from pelton.autoscale.decision import Step
from pelton.autoscale.keda import stored
from pelton.model.scaler import ScalerReading
from pelton.model.scaling import JobPolicy

__all__ = [
    "Demand",
    "Jobs",
    "QueueReading",
    "bounds",
    "combine",
    "effective_max",
    "job_policy",
    "queue_reading",
    "to_create",
]

_DEFAULT_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReading:
    """What one trigger says: the queue's length, the target per job, and whether it is active."""

    queue_length: float
    target: float
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """All triggers joined: jobs worth of queue, jobs at most by the targets, and whether any is active."""

    queue_length: int
    max_scale: int
    active: bool


def queue_reading(metrics: Sequence[ScalerReading]) -> QueueReading:
    """Return what one trigger says: the sum of its first metric, and the mean target of all.

    Args:
        metrics: As read, one at least.
    """
    first = metrics[0].metric
    return QueueReading(
        queue_length=sum(stored(one.value) for one in metrics if one.metric == first),
        target=sum(one.target for one in metrics) / len(metrics),
        active=any(one.active for one in metrics),
    )


def job_policy(spec: Mapping[str, Any], *, percent: bool = False) -> JobPolicy:
    """Return the numbers of a ScaledJob's spec, which has been admitted.

    Args:
        spec: As written.
        percent: Whether the share of running jobs is OpenFunction's `50%`, not KEDA's `0.5`.
    """
    strategy = spec.get("scalingStrategy") or {}
    most = spec.get("maxReplicaCount")
    return JobPolicy(
        min_replicas=int(spec.get("minReplicaCount") or 0),
        max_replicas=None if most is None else int(most),
        strategy=strategy.get("strategy") or "default",
        deduction=int(strategy.get("customScalingQueueLengthDeduction") or 0),
        running_share=_share(str(strategy.get("customScalingRunningJobPercentage") or ""), percent=percent),
        calculation=strategy.get("multipleScalersCalculation") or "max",
    )


def _share(text: str, *, percent: bool) -> float | None:
    """Return a fraction of 1; None when the text is none."""
    try:
        number = float(text.strip().removesuffix("%") if percent else text)
    except ValueError:
        return None
    if not isfinite(number):
        return None
    return number / 100 if percent else number


def bounds(policy: JobPolicy) -> tuple[int, int]:
    """Return (minimum, jobs above it at most); a minimum above the maximum becomes the maximum."""
    most = _DEFAULT_MAX if policy.max_replicas is None else policy.max_replicas
    low = min(policy.min_replicas, most)
    return low, _DEFAULT_MAX if policy.max_replicas is None else most - low


def combine(readings: Sequence[QueueReading], policy: JobPolicy) -> Demand:
    """Join the active triggers by the policy's calculation.

    Args:
        readings: One per trigger, in order.
        policy: Bounds and calculation.
    """
    low, most = bounds(policy)
    active = [
        (
            reading.queue_length,
            min(reading.queue_length / reading.target if reading.target else 0.0, float(most)),
        )
        for reading in readings
        if reading.active
    ]
    if not active:
        return Demand(queue_length=0, max_scale=0, active=low > 0)
    if policy.calculation == "min":
        queue, scale = min(active, key=lambda item: item[0])
    elif policy.calculation in ("avg", "sum"):
        queue, scale = sum(item[0] for item in active), sum(item[1] for item in active)
        if policy.calculation == "avg":
            queue, scale = queue / len(active), scale / len(active)
    else:
        queue, scale = max(active, key=lambda item: item[0])
    return Demand(queue_length=ceil(queue), max_scale=ceil(min(scale, float(most))), active=True)


def effective_max(policy: JobPolicy, *, max_scale: int, running: int, pending: int, most: int) -> int:
    """Return how many jobs the strategy lets start, possibly negative.

    Args:
        policy: The strategy and its settings.
        max_scale: Jobs that the queue asks for in total.
        running: Unfinished jobs above the minimum.
        pending: Unfinished jobs whose pods do not run yet.
        most: Jobs above the minimum at most.
    """
    if policy.strategy == "accurate":
        return most - running if max_scale + running - pending > most else max_scale - pending
    if policy.strategy == "eager":
        return min(most - running - pending, max_scale)
    if policy.strategy == "custom" and policy.running_share is not None:
        return min(max_scale - policy.deduction - int(running * policy.running_share), most)
    return max_scale - running


def to_create(policy: JobPolicy, demand: Demand, *, running: int, pending: int) -> int:
    """Return how many jobs to start now.

    Args:
        policy: Bounds and strategy.
        demand: From `combine`.
        running: Unfinished jobs, pending ones included.
        pending: Those whose pods do not run yet.
    """
    low, most = bounds(policy)
    if running < low:
        return low - running if demand.active else 0
    room = effective_max(
        policy, max_scale=demand.max_scale, running=running - low, pending=pending, most=most
    )
    wanted = most if policy.strategy == "eager" else demand.queue_length
    return min(wanted, max(0, room)) if demand.active else 0


class Jobs:
    """Decides when jobs are started, as KEDA does at each look; a look is due at once while none runs.

    Args:
        policy: Bounds and strategy; may be replaced.
        polling_s: Seconds between two looks; may be replaced.
    """

    __slots__ = ("_due_at", "policy", "polling_s")

    def __init__(self, policy: JobPolicy, polling_s: float) -> None:
        self.policy, self.polling_s = policy, polling_s
        self._due_at = float("-inf")

    def decide(
        self, *, now: float, readings: Sequence[QueueReading], running: int, pending: int
    ) -> tuple[int, tuple[Step, ...]]:
        """Return how many jobs to start now, and why.

        Args:
            now: Seconds on the caller's clock.
            readings: One per trigger, in order.
            running: Unfinished jobs, pending ones included.
            pending: Those that do not run yet.
        """
        low, most = bounds(self.policy)
        demand = combine(readings, self.policy)
        urgent = demand.active and running <= low and pending == 0
        if now < self._due_at and not urgent:
            return 0, (("jobs-wait", round(self._due_at - now, 3)),)
        self._due_at = now + self.polling_s
        made = to_create(self.policy, demand, running=running, pending=pending)
        if not demand.active:
            return 0, (("no-load",),)
        name = self.policy.strategy
        if name == "custom" and self.policy.running_share is None:
            name = "default"
        return made, (("jobs", demand.queue_length, demand.max_scale, running, made, name, low + most),)
