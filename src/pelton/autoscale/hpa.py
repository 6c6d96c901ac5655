"""How many replicas metrics ask for: the HorizontalPodAutoscaler, with and without `behavior`.

`autoscale/keda.py` uses it for 1 to N, `controlplane/autoscaler.py` for the class hpa,
`autoscale/simulate.py` for traces. Every call with `boundary` is upstream's decision, one per 15 seconds;
calls between boundaries may only raise the number (design decision 12). Pure: `now` is an argument.

Source: kubernetes, pkg/controller/podautoscaler/{horizontal,replica_calculator}.go (contracts, autoscaling
section 3). "Newer than" and "within" a window are strict, as the contract words them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Any

from pelton.autoscale.decision import Decision, Proposal, Step
from pelton.model.scaling import DirectionRules, HpaPolicy, MetricTarget

__all__ = ["TICK_S", "Hpa", "Reading", "propose"]

TICK_S = 15.0
"""Seconds between boundaries."""
_TOLERANCE = 0.1
_MOST = 2**31 - 1
_DUST = 9  # decimals: 1.1 / 0.1 is 11.000000000000002 in floating point, and asks for 11 replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A metric as it was read.

    Attributes:
        value: External and Object: the metric's value. Else the mean over pods that have one (percent of the
            request for Utilization).
        pods: For Pods and Resource metrics: one value per ready pod, None where it is missing; empty when
            only the mean is known.
        unready: Pods that are not ready, which count as 0 when scaling up.
        active: For a trigger of KEDA: whether it is, as its scaler says; None to compare with its activation.
    """

    value: float = 0.0
    pods: tuple[float | None, ...] = ()
    unready: int = 0
    active: bool | None = None


class Extremes:
    """The largest of the numbers recorded within a window; negate for the smallest."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[Sequence[float]] = ()) -> None:
        self._items: deque[tuple[float, int]] = deque((float(at), int(number)) for at, number in items)

    def record(self, now: float, number: int) -> None:
        """Add a number."""
        items = self._items
        while items and items[-1][1] <= number:
            items.pop()
        items.append((now, number))

    def largest(self, now: float, window_s: float, number: int) -> int:
        """Return the largest of `number` and those newer than the window."""
        items = self._items
        while items and items[0][0] <= now - window_s:
            items.popleft()
        return max(number, items[0][1]) if items else number

    def to_list(self) -> list[list[float]]:
        """Return the state as plain data for JSON."""
        return [[at, number] for at, number in self._items]


class Changes:
    """Replicas added or removed, by time; sums over a period take a binary search."""

    __slots__ = ("_sums", "_times")

    def __init__(self, items: Iterable[Sequence[float]] = ()) -> None:
        self._times: list[float] = []
        self._sums: list[int] = [0]  # before each change, and after the last
        for at, change in items:
            self.record(float(at), int(change))

    def record(self, now: float, change: int) -> None:
        """Add a change."""
        self._times.append(now)
        self._sums.append(self._sums[-1] + change)

    def within(self, now: float, period_s: float) -> int:
        """Return the sum of the changes newer than a period."""
        return self._sums[-1] - self._sums[bisect_right(self._times, now - period_s)]

    def forget(self, now: float, period_s: float) -> None:
        """Drop changes that no period reaches any more."""
        if self._times and self._times[0] <= now - 2 * period_s:
            gone = bisect_right(self._times, now - period_s)
            del self._times[:gone], self._sums[:gone]

    def to_list(self) -> list[list[float]]:
        """Return the state as plain data for JSON."""
        sums = self._sums
        return [[at, sums[i + 1] - sums[i]] for i, at in enumerate(self._times)]


def propose(
    metric: MetricTarget,
    reading: Reading,
    *,
    current: int,
    ready: int,
    tolerance: tuple[float, float] = (_TOLERANCE, _TOLERANCE),
) -> int:
    """Return the replicas that one metric asks for; `current` when it is within tolerance.

    Args:
        metric: What it is and its target.
        reading: What was read.
        current: Present replicas.
        ready: Ready pods.
        tolerance: Relative distance that is ignored (up, down).
    """
    up, down = tolerance

    def near(ratio: float) -> bool:
        return 1.0 - down <= ratio <= 1.0 + up

    if metric.kind in ("External", "Object"):
        if metric.target_type == "Value":
            ratio = reading.value / metric.target
            if current == 0:
                return _up(ratio)
            return current if near(ratio) else _up(ratio * ready)
        ratio = reading.value / (metric.target * current) if current else inf
        return current if near(ratio) else _up(reading.value / metric.target)
    return _by_pods(metric, reading, current=current, ready=ready, near=near)


def _up(number: float) -> int:
    return min(ceil(round(number, _DUST)), _MOST)


def _by_pods(metric: MetricTarget, reading: Reading, *, current: int, ready: int, near: Any) -> int:
    """Return the proposal of a metric that is read per pod."""
    known = [value for value in reading.pods if value is not None]
    missing = len(reading.pods) - len(known)
    whole = metric.target_type == "Utilization"
    mean = sum(known) / len(known) if known else reading.value
    ratio = _ratio(mean, metric.target, whole)
    with_unready = reading.unready > 0 and ratio > 1.0
    if not with_unready and not missing:
        return current if near(ratio) else _up(ratio * (len(known) or ready))
    values = known or [mean] * ready
    if missing and ratio < 1.0:
        values = values + [max(100.0, metric.target) if whole else metric.target] * missing
    elif missing and ratio > 1.0:
        values = values + [0.0] * missing
    if with_unready:
        values = values + [0.0] * reading.unready
    again = _ratio(sum(values) / len(values), metric.target, whole)
    if near(again) or (ratio < 1.0 < again) or (again < 1.0 < ratio):
        return current
    wanted = _up(again * len(values))
    contradicts = (again < 1.0 and wanted > current) or (again > 1.0 and wanted < current)
    return current if contradicts else wanted


def _ratio(mean: float, target: float, whole: bool) -> float:
    return (int(mean) if whole else mean) / target


class Hpa:
    """The decider of one target.

    Args:
        policy: Bounds, metrics and behaviour; may be replaced at any time.
    """

    __slots__ = ("_added", "_base", "_high", "_low", "_removed", "policy")

    def __init__(self, policy: HpaPolicy) -> None:
        self.policy = policy
        self._base = 0  # replicas at the last boundary, for the limit without behaviour
        self._high = Extremes()
        self._low = Extremes()  # numbers negated
        self._added = Changes()
        self._removed = Changes()

    def decide(
        self,
        *,
        now: float,
        readings: Mapping[str, Reading | None],
        current: int,
        ready: int | None = None,
        boundary: bool = True,
    ) -> Decision:
        """Decide from the metrics.

        Args:
            now: Seconds on the caller's clock; never goes back.
            readings: Metric name -> reading; None or absent when it could not be read.
            current: Present replicas.
            ready: Ready pods; None for all of them.
            boundary: Whether numbers may fall and the limit without behaviour moves on.
        """
        policy = self.policy
        if boundary or not self._base:
            self._base = current
        if current == 0 and policy.min_replicas != 0:
            return self._made(now, 0, 0, current, (("scaling-disabled",),))
        if current > policy.max_replicas:
            step: Step = ("above-maximum", current)
            return self._rescaled(now, self._made(now, policy.max_replicas, current, current, (step,)))
        if current < policy.min_replicas:
            step = ("below-minimum", current)
            return self._rescaled(now, self._made(now, policy.min_replicas, current, current, (step,)))
        proposals, failed, steps = self._propose(readings, current, current if ready is None else ready)
        wanted = max((p.wanted for p in proposals if p.wanted is not None), default=0)
        if failed == len(policy.metrics):
            return self._made(now, current, current, current, (("metrics-failed",),), proposals)
        if failed and wanted < current:
            steps.append(("metrics-failed-down", failed, len(policy.metrics)))
            return self._made(now, current, wanted, current, tuple(steps), proposals)
        desired = self._normalized(now, wanted, current, steps)
        if not boundary and desired < current:
            desired = current
            steps.append(("boundary", desired, TICK_S))
        decision = self._made(now, desired, wanted, current, tuple(steps), proposals)
        return self._rescaled(now, decision)

    def _propose(
        self, readings: Mapping[str, Reading | None], current: int, ready: int
    ) -> tuple[tuple[Proposal, ...], int, list[Step]]:
        behavior = self.policy.behavior
        tolerance = (behavior.up.tolerance, behavior.down.tolerance) if behavior else (_TOLERANCE, _TOLERANCE)
        proposals: list[Proposal] = []
        best: Proposal | None = None
        failed = 0
        for metric in self.policy.metrics:
            reading = readings.get(metric.name)
            if reading is None:
                failed += 1
                proposals.append(Proposal(source=metric.name, value=None, target=metric.target, wanted=None))
                continue
            wanted = propose(metric, reading, current=current, ready=ready, tolerance=tolerance)
            proposal = Proposal(
                source=metric.name, value=_shown(reading), target=metric.target, wanted=wanted
            )
            proposals.append(proposal)
            if best is None or wanted > (best.wanted or 0):
                best = proposal
        steps: list[Step] = []
        if best is not None and best.value is not None:
            if best.wanted == current:
                steps.append(("within-tolerance", best.source, best.value, current))
            else:
                steps.append(("metric", best.source, best.value, best.target, best.wanted))
        return tuple(proposals), failed, steps

    def _normalized(self, now: float, wanted: int, current: int, steps: list[Step]) -> int:
        policy = self.policy
        if policy.behavior is None:
            desired = self._high.largest(now, policy.stabilization_s, wanted)
            if desired != wanted:
                steps.append(("stabilized-down", desired, policy.stabilization_s))
            self._high.record(now, wanted)
            limit = max(2 * self._base, 4)
            if desired > limit and limit < policy.max_replicas:
                desired = limit
                steps.append(("double", limit))
            return self._bounded(desired, steps)
        up, down = policy.behavior.up, policy.behavior.down
        least = -self._low.largest(now, up.window_s, -wanted)
        most = self._high.largest(now, down.window_s, wanted)
        self._low.record(now, -wanted)
        self._high.record(now, wanted)
        desired = current
        desired = max(desired, least)
        desired = min(desired, most)
        if desired < wanted:
            steps.append(("stabilized-up", least, up.window_s))
        elif desired > wanted:
            steps.append(("stabilized-down", most, down.window_s))
        if desired > current:
            limit = max(current, self._limit_up(now, up, current))
            if desired > limit:
                desired = limit
                steps.append(("policy-up", limit))
        elif desired < current:
            limit = min(current, self._limit_down(now, down, current))
            if desired < limit:
                desired = limit
                steps.append(("policy-down", limit))
        return self._bounded(desired, steps)

    def _bounded(self, desired: int, steps: list[Step]) -> int:
        policy = self.policy
        if desired > policy.max_replicas:
            steps.append(("maximum", policy.max_replicas))
            return policy.max_replicas
        if desired < policy.min_replicas:
            steps.append(("minimum", policy.min_replicas))
            return policy.min_replicas
        return desired

    def _start_of(self, now: float, period_s: float, current: int) -> int:
        """Return the replicas that there were at the start of a period."""
        return current - self._added.within(now, period_s) + self._removed.within(now, period_s)

    def _limit_up(self, now: float, rules: DirectionRules, current: int) -> int:
        if rules.select == "Disabled":
            return current
        limits = []
        for limit in rules.limits:
            start = self._start_of(now, limit.period_s, current)
            limits.append(
                start + limit.value if limit.kind == "Pods" else ceil(start * (1 + limit.value / 100.0))
            )
        return max(limits) if rules.select == "Max" else min(limits)

    def _limit_down(self, now: float, rules: DirectionRules, current: int) -> int:
        if rules.select == "Disabled":
            return current
        limits = []
        for limit in rules.limits:
            start = self._start_of(now, limit.period_s, current)
            limits.append(
                start - limit.value if limit.kind == "Pods" else int(start * (1 - limit.value / 100.0))
            )
        return min(limits) if rules.select == "Max" else max(limits)

    def _rescaled(self, now: float, decision: Decision) -> Decision:
        """Remember a change for as long as a policy looks back."""
        self.changed(now=now, before=decision.ready, after=decision.desired)
        return decision

    def changed(self, *, now: float, before: int, after: int) -> None:
        """Note that replicas changed, which rate limits count.

        Args:
            now: Seconds on the caller's clock.
            before: Replicas before the change.
            after: Replicas after it.
        """
        behavior = self.policy.behavior
        if behavior is None or before == after:
            return
        limits = (*behavior.up.limits, *behavior.down.limits)
        longest = max((limit.period_s for limit in limits), default=0)
        changes = self._added if after > before else self._removed
        changes.record(now, abs(after - before))
        for each in (self._added, self._removed):
            each.forget(now, longest)

    def _made(
        self,
        now: float,
        desired: int,
        raw: int,
        current: int,
        steps: tuple[Step, ...],
        proposals: tuple[Proposal, ...] = (),
    ) -> Decision:
        return Decision(
            desired=desired,
            raw=raw,
            algorithm="hpa",
            at=now,
            ready=current,
            minimum=self.policy.min_replicas,
            maximum=self.policy.max_replicas,
            proposals=proposals,
            steps=steps,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain data for JSON."""
        return {
            "base": self._base,
            "high": self._high.to_list(),
            "low": self._low.to_list(),
            "added": self._added.to_list(),
            "removed": self._removed.to_list(),
        }

    @classmethod
    def from_dict(cls, policy: HpaPolicy, state: dict[str, Any]) -> Hpa:
        """Return the decider that `to_dict` described."""
        made = cls(policy)
        made._base = state["base"]
        made._high, made._low = Extremes(state["high"]), Extremes(state["low"])
        made._added, made._removed = Changes(state["added"]), Changes(state["removed"])
        return made


def _shown(reading: Reading) -> float:
    known = [value for value in reading.pods if value is not None]
    return sum(known) / len(known) if known else reading.value
