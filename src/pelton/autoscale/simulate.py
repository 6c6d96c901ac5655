"""A trace through the same deciders that run on the platform: one sample, one decision.

`cli/simulate.py` reads files and prints; `Simulation` records each sample, then decides at its time, with the
ready instances that it names, else with those that the sample before it asked for. `Totals` adds up what that
costs. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor
from typing import Any

from pelton.autoscale.decision import Decision
from pelton.autoscale.hpa import Hpa, Reading
from pelton.autoscale.http import CONCURRENCY, RATE, HttpScaler
from pelton.autoscale.keda import Keda
from pelton.autoscale.keep import Keeper
from pelton.autoscale.kpa import Kpa
from pelton.autoscale.policy import PolicyFile
from pelton.autoscale.window import Buckets
from pelton.model.scaling import KpaPolicy

__all__ = ["Sample", "SampleError", "Simulation", "Totals"]


class SampleError(ValueError):
    """A sample lacks what the policy measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One line of a trace.

    Attributes:
        t: Seconds, >= 0.
        values: Metric name -> value over all instances, a Reading of pods, or None for a failed read.
        ready: Ready instances; None for those that were asked for last.
    """

    t: float
    values: Mapping[str, float | Reading | None]
    ready: int | None = None


class _KpaRun:
    """The KPA with its two windows, filled as upstream fills them."""

    def __init__(self, policy: KpaPolicy) -> None:
        self.policy = policy
        self.stable = Buckets(policy.window_s)
        self.panic = Buckets(policy.panic_window_s)
        self.kpa: Kpa | None = None
        self.weighted = policy.aggregation == "weighted-exponential"

    def step(self, t: float, value: float, ready: int, extra: int) -> Decision:
        second = floor(t)
        self.stable.record(second, value)
        self.panic.record(second, value)
        if self.kpa is None:
            self.kpa = Kpa(self.policy, now=t, ready=ready)
        stable, panic = self.stable, self.panic
        return self.kpa.decide(
            now=t,
            stable=stable.weighted(second) if self.weighted else stable.average(second),
            panic=panic.weighted(second) if self.weighted else panic.average(second),
            ready=ready,
            extra=extra,
        )


class Simulation:
    """A policy that goes through a trace.

    Args:
        policy: Without problems.
    """

    def __init__(self, policy: PolicyFile) -> None:
        self.policy = policy
        self.ready = policy.initial
        self._kpa = _KpaRun(policy.kpa)
        self._hpa: Hpa | None = None
        self._keda: Keda | None = None
        self._http: HttpScaler | None = None
        self._keeper = Keeper(spare=policy.spare, cooldown_s=policy.cooldown_s)
        self._extra = 0  # instances that the keeper added to what the algorithm asked for

    def step(self, sample: Sample) -> Decision:
        """Record a sample and decide.

        Raises:
            SampleError: The sample has no value that the policy measures.
        """
        ready = self.ready if sample.ready is None else sample.ready
        decision = getattr(self, _STEPS[self.policy.algorithm])(sample, ready)
        kept = self._keeper.apply(decision)
        self._extra = kept.desired - decision.desired
        self.ready = kept.desired
        return kept

    def _step_kpa(self, sample: Sample, ready: int) -> Decision:
        value = _plain(sample, self.policy.kpa.metric)
        return self._kpa.step(sample.t, value, ready, self._extra)

    def _step_hpa(self, sample: Sample, ready: int) -> Decision:
        if self._hpa is None:
            self._hpa = Hpa(self.policy.hpa)
        names = {metric.name: (metric.name,) for metric in self.policy.hpa.metrics}
        found = _found(sample, names)
        readings = {
            name: value if value is None or isinstance(value, Reading) else Reading(value=value)
            for name, value in found.items()
        }
        return self._hpa.decide(now=sample.t, readings=readings, current=max(0, ready - self._extra))

    def _step_keda(self, sample: Sample, ready: int) -> Decision:
        if self._keda is None:
            self._keda = Keda(self.policy.keda, now=sample.t)
        names = {trigger.name: (trigger.name, *trigger.aliases) for trigger in self.policy.keda.triggers}
        return self._keda.decide(
            now=sample.t, values=_found(sample, names), current=max(0, ready - self._extra)
        )

    def _step_http(self, sample: Sample, ready: int) -> Decision:
        if self._http is None:
            self._http = HttpScaler(self.policy.http, now=sample.t)
        if self.policy.http.rate_target:
            self._http.record(now=sample.t, requests=_plain(sample, RATE))
        if self.policy.http.concurrency_target:
            self._http.record(now=sample.t, concurrency=_plain(sample, CONCURRENCY))
        return self._http.decide(now=sample.t, current=max(0, ready - self._extra))

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain data for JSON."""
        run = self._kpa
        return {
            "ready": self.ready,
            "extra": self._extra,
            "stable": run.stable.to_dict(),
            "panic": run.panic.to_dict(),
            "kpa": run.kpa.to_dict() if run.kpa else None,
            "hpa": self._hpa.to_dict() if self._hpa else None,
            "keda": self._keda.to_dict() if self._keda else None,
            "http": self._http.to_dict() if self._http else None,
            "keeper": self._keeper.to_dict(),
        }

    @classmethod
    def from_dict(cls, policy: PolicyFile, state: dict[str, Any]) -> Simulation:
        """Return the simulation that `to_dict` described."""
        made = cls(policy)
        made.ready, made._extra = state["ready"], state["extra"]
        made._kpa.stable, made._kpa.panic = (
            Buckets.from_dict(state["stable"]),
            Buckets.from_dict(state["panic"]),
        )
        if state["kpa"]:
            made._kpa.kpa = Kpa.from_dict(policy.kpa, state["kpa"])
        if state["hpa"]:
            made._hpa = Hpa.from_dict(policy.hpa, state["hpa"])
        if state["keda"]:
            made._keda = Keda.from_dict(policy.keda, state["keda"])
        if state["http"]:
            made._http = HttpScaler.from_dict(policy.http, state["http"])
        made._keeper.restore(state["keeper"])
        return made


_STEPS = {"kpa": "_step_kpa", "hpa": "_step_hpa", "keda": "_step_keda", "keda-http": "_step_http"}


def _plain(sample: Sample, name: str) -> float:
    value = sample.values.get(name)
    if value is None or isinstance(value, Reading):
        raise SampleError(f'"{name}" is required: a number over all instances')
    return value


def _found(sample: Sample, names: Mapping[str, tuple[str, ...]]) -> dict[str, float | Reading | None]:
    """Return name -> value for those that the sample has under one of their names.

    Raises:
        SampleError: It has none of them.
    """
    values = sample.values
    found: dict[str, float | Reading | None] = {}
    for name, spellings in names.items():
        for spelling in spellings:
            if spelling in values:
                found[name] = values[spelling]
                break
    if not found:
        raise SampleError(f'"metrics" has none of: {", ".join(names)}')
    return found


@dataclass(slots=True)
class Totals:
    """What a trace cost, with every line's number standing until the next line.

    Attributes:
        lines: Lines so far.
        start, end: Times of the first and the last line, seconds.
        instance_s: Instances times seconds.
        most: Most instances wanted at once.
        changes: Lines whose number differs from the one before.
        cold_starts: Lines that found no ready instance and asked for one.
        short_s: Seconds in which the load was more than ready instances are meant to take.
        excess_s: That excess times seconds, in units of the metric.
    """

    lines: int = 0
    start: float = 0.0
    end: float = 0.0
    instance_s: float = 0.0
    most: int = 0
    changes: int = 0
    cold_starts: int = 0
    short_s: float = 0.0
    excess_s: float = 0.0
    _desired: int = field(default=0, repr=False)
    _excess: float = field(default=0.0, repr=False)

    def add(self, decision: Decision, load: float, per_instance: float) -> bool:
        """Add a line; True when its number differs from the one before.

        Args:
            decision: What was decided.
            load: The measured load over all instances.
            per_instance: What an instance is meant to take of it; 0 when that cannot be said.
        """
        if self.lines:
            seconds = decision.at - self.end
            self.instance_s += self._desired * seconds
            self.excess_s += self._excess * seconds
            self.short_s += seconds if self._excess > 0 else 0.0
        else:
            self.start = decision.at
        changed = self.lines == 0 or decision.desired != self._desired
        self.changes += changed and self.lines > 0
        self.cold_starts += decision.ready == 0 and decision.desired > 0
        self.lines += 1
        self.end = decision.at
        self.most = max(self.most, decision.desired)
        self._desired = decision.desired
        self._excess = max(0.0, load - decision.ready * per_instance) if per_instance else 0.0
        return changed
