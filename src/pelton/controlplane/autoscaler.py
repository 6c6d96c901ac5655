"""The autoscaling loop's memory: turns load-page readings and queue lengths into decisions per function.

The node calls `observe` every 100 ms for each function that has instances or work, and `forget` for one at
zero with nothing waiting, so an idle function costs nothing. Arithmetic is in `autoscale/`: for requests the
KPA, the HPA or KEDA's HTTP add-on, for waiting events and for triggers that scalers read KEDA; the largest
number counts. What may only happen at the original's boundaries (2 s, 15 s, the polling interval) is told by
the slots that are kept here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import floor
from typing import Any

from pelton.autoscale.decision import Decision
from pelton.autoscale.hpa import TICK_S as HPA_TICK_S
from pelton.autoscale.hpa import Hpa, Reading
from pelton.autoscale.http import HttpScaler
from pelton.autoscale.keda import Keda
from pelton.autoscale.keep import Keeper
from pelton.autoscale.kpa import TICK_S, Kpa, ToZero
from pelton.autoscale.scalers.joined import Readings, joined
from pelton.autoscale.window import Window
from pelton.clock import Clock
from pelton.controlplane.job_scaling import JobLoop
from pelton.model.desired import Scaling
from pelton.model.kpa_settings import panic_window_s
from pelton.model.scaling import (
    Behavior,
    DirectionRules,
    HpaPolicy,
    KedaPolicy,
    KpaPolicy,
    MetricTarget,
    RateLimit,
    TriggerTarget,
)
from pelton.model.snapshot import LoadReading

__all__ = ["OBSERVE_EVERY_S", "Autoscaler", "Usage", "event_policy", "kpa_policy", "trigger_policy"]

OBSERVE_EVERY_S = 0.1
"""Seconds between two observations of an active function."""
STEADY_S = 15.0
"""Seconds that a falling number of events is not followed, unless the cooldown is shorter."""
_STALLED_S = 1.0
"""A longer pause between observations says nothing about what waited in between; one bucket."""
_NO_BOUND = 2**31 - 1
_EVENTS = "events"
_LEAST_ACTIVE = 0.001
"""What KEDA still sees, with its three decimals, of requests too short to be caught in flight."""

Usage = Mapping[str, tuple[float, float]]
"""Instance id -> (processor seconds used so far, bytes of memory)."""


def kpa_policy(scaling: Scaling) -> KpaPolicy:
    """Return a function's scaling in the KPA's terms; the activator is always in path at zero: no grace."""
    return KpaPolicy(
        min_scale=_resting(scaling),
        max_scale=scaling.max_replicas,
        initial_scale=scaling.initial_scale,
        activation_scale=scaling.activation_scale,
        metric=scaling.metric,
        total=scaling.target,
        utilization=scaling.utilization,
        window_s=max(1, int(scaling.window_s)),
        panic_window_s=panic_window_s(scaling.window_s, scaling.panic_window_percentage),
        panic_threshold=scaling.panic_threshold_percentage / 100.0,
        max_scale_up_rate=scaling.max_scale_up_rate,
        max_scale_down_rate=scaling.max_scale_down_rate,
        scale_down_delay_s=scaling.scale_down_delay_s,
        retention_s=scaling.retention_s,
        grace_s=0.0,
        target_burst_capacity=scaling.target_burst_capacity,
        aggregation=scaling.aggregation,
    )


def event_policy(scaling: Scaling) -> KedaPolicy:
    """Return how waiting events scale a function.

    Without a ScaledObject's settings counts are followed at once upwards and after STEADY_S downwards: events
    are counted here, not polled from far away, so that neither the HPA's limits nor its tolerance are needed.
    """
    trigger = TriggerTarget(
        name=_EVENTS,
        type=_EVENTS,
        target=scaling.lag_threshold,
        activation=scaling.activation_lag_threshold,
    )
    bounds: dict[str, Any] = {
        "triggers": (trigger,),
        "min_replicas": scaling.min_replicas,
        "idle_replicas": scaling.idle_replicas,
        "max_replicas": scaling.max_replicas or _NO_BOUND,
        "cooldown_s": scaling.cooldown_s,
    }
    if scaling.keda is not None:
        return replace(scaling.keda, **bounds)
    free = (RateLimit(kind="Pods", value=_NO_BOUND, period_s=1),)
    steady_s = min(STEADY_S, scaling.cooldown_s)
    return KedaPolicy(
        **bounds,
        polling_s=TICK_S,
        behavior=Behavior(
            up=DirectionRules(window_s=0.0, limits=free, tolerance=0.0),
            down=DirectionRules(window_s=steady_s, limits=free, tolerance=0.0),
        ),
    )


def trigger_policy(scaling: Scaling) -> KedaPolicy:
    """Return how triggers that scalers read scale a function; at Pelton's pace when nobody wrote another."""
    policy = scaling.triggered
    if policy is None:
        raise ValueError("no triggers are read")
    if not scaling.own_pace:
        return policy
    pace = event_policy(replace(scaling, keda=None))
    return replace(policy, behavior=pace.behavior)


def hpa_policy(scaling: Scaling) -> HpaPolicy:
    """Return the HPA that Knative makes for the class hpa: one metric, the window for both directions."""
    usual = Behavior()
    kinds = {"cpu": ("Resource", "Utilization"), "memory": ("Resource", "AverageValue")}
    kind, target_type = kinds.get(scaling.metric, ("Pods", "AverageValue"))
    return HpaPolicy(
        min_replicas=max(1, scaling.min_replicas),
        max_replicas=scaling.max_replicas or _NO_BOUND,
        metrics=(
            MetricTarget(name=scaling.metric, kind=kind, target_type=target_type, target=scaling.target),
        ),
        behavior=Behavior(
            up=replace(usual.up, window_s=scaling.window_s),
            down=replace(usual.down, window_s=scaling.window_s),
        ),
    )


def _resting(scaling: Scaling) -> int:
    """Return how many instances there are while nothing asks for one."""
    return scaling.min_replicas if scaling.idle_replicas is None else scaling.idle_replicas


@dataclass(slots=True)
class _State:
    scaling: Scaling
    stable: Window
    panic: Window
    at: float
    to_zero: ToZero
    keeper: Keeper
    kpa: Kpa | None = None
    hpa: Hpa | None = None
    http: HttpScaler | None = None
    events: Keda | None = None
    triggers: Keda | None = None
    by_triggers: Decision | None = None  # what triggers asked for last
    heard: Readings | None = None  # the round that `joined` comes from
    joined: dict[str, Reading | None] | None = None
    waiting: int = 0  # requests that waited at the last look
    by_requests: int = 0  # what requests asked for last
    by_events: int = 0
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)  # instance id -> (busy_ns, total)
    slots: dict[str, int] = field(default_factory=dict)  # period -> its number, to tell boundaries
    used: tuple[float, dict[str, tuple[float, float]]] = (0.0, {})
    cpu: dict[str, float] = field(default_factory=dict)  # instance id -> percent of the request
    decision: Decision = field(default_factory=lambda: Decision(desired=0))

    def boundary(self, now: float, period: str, period_s: float) -> bool:
        """Return whether a period began since it was asked last; the first time is a boundary."""
        slot = floor(now / period_s)
        if self.slots.get(period) == slot:
            return False
        self.slots[period] = slot
        return True


class Autoscaler:
    """Decisions for many functions.

    Args:
        clock: Source of monotonic time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._states: dict[str, _State] = {}
        self._jobs = JobLoop()
        self._initialised: set[str] = set()  # outlives `forget`: a wake from zero is no first start

    def __len__(self) -> int:
        """Return how many functions are remembered."""
        return len(self._states)

    def observe(
        self,
        key: str,
        scaling: Scaling,
        readings: Mapping[str, LoadReading],
        *,
        queued: int,
        pending: int,
        ready: int,
        usage: Usage | None = None,
        triggers: Readings | None = None,
        jobs: tuple[int, int] = (0, 0),
    ) -> Decision:
        """Take one look at a function and decide.

        Args:
            key: `namespace/name`; a new revision keeps its function's history.
            scaling: Current bounds and parameters.
            readings: Instance id -> reading of its load page; an instance may be missing.
            queued: Requests waiting in the activator.
            pending: Events waiting at the broker.
            ready: Ready instances.
            usage: What instances used of processor and memory; needed where the HPA goes by these.
            triggers: What scalers read last, one object per round; None for nothing yet.
            jobs: Instances that have not ended, those on their way out included, and those of them that will
                take events; where the function runs as jobs.
        """
        now = self._clock.monotonic()
        if scaling.jobs is not None:
            return self._jobs.decide(
                key,
                scaling,
                scaling.jobs,
                now=now,
                pending=pending,
                triggers=triggers,
                ready=ready,
                jobs=jobs,
            )
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = _new_state(scaling, now=now, ready=ready)
            # What ran before this moment was not watched: only what runs now counts.
            busy_s = sum(reading.in_flight for reading in readings.values()) * OBSERVE_EVERY_S
            began = 0
        else:
            if scaling is not state.scaling and scaling != state.scaling:
                _rescale(state, scaling, now=now, ready=ready)
            busy_s, began = _progress(state.seen, readings)
        arrived = _take_load(state, now, readings, queued=queued, busy_s=busy_s, began=began)
        first = key not in self._initialised and scaling.initial_scale > 0
        if first and ready >= scaling.initial_scale:
            self._initialised.add(key)
            first = False
        http = self._requests(state, now, ready, arrived, usage, scaling.initial_scale if first else 0)
        events = None if scaling.is_paused else self._events(state, now, pending)
        read = self._triggers(state, now, triggers, usage, ready)
        decision = read if scaling.is_paused and read else _joined(_joined(http, events), read)
        state.by_requests, state.by_events = http.desired, events.desired if events else 0
        if scaling.owner:
            decision = replace(decision, steps=(*decision.steps, ("owner", scaling.owner)))
        state.decision = state.keeper.apply(decision)
        return state.decision

    def _requests(
        self, state: _State, now: float, ready: int, arrived: int, usage: Usage | None, initial: int
    ) -> Decision:
        """Return what requests ask for."""
        scaling = state.scaling
        if scaling.algorithm == "keda":
            return Decision(
                desired=max(_resting(scaling), initial),
                algorithm="keda",
                at=now,
                ready=ready,
                minimum=scaling.min_replicas,
                maximum=scaling.max_replicas,
                steps=(("no-load",),),
            )
        if state.http is not None:
            state.http.record(
                now=now,
                concurrency=max(state.panic.average(now), _LEAST_ACTIVE)
                if not state.panic.silent(now)
                else 0.0,
                requests=float(arrived),
            )
            return state.http.decide(
                now=now,
                current=state.by_requests,
                poll=state.boundary(now, "polling", state.http.policy.keda.polling_s),
                boundary=state.boundary(now, "hpa", HPA_TICK_S),
                chain=True,
            )
        if state.hpa is not None:
            return self._by_hpa(state, state.hpa, now, ready, usage)
        assert state.kpa is not None  # noqa: S101 -- one of the three is always there
        weighted = state.scaling.aggregation == "weighted-exponential"
        decision = state.kpa.decide(
            now=now,
            stable=state.stable.average(now, weighted=weighted),
            panic=state.panic.average(now, weighted=weighted),
            ready=ready,
            boundary=state.boundary(now, "kpa", TICK_S),
            floor_scale=initial,
            extra=max(0, state.decision.desired - state.by_requests),
        )
        if decision.desired > 0:
            state.to_zero.wanted(now=now, ready=ready)
        elif ready > 0:
            kept, code = state.to_zero.decide(state.kpa.policy, now=now, ready=ready, active_hold=False)
            if kept:
                retained = ("retention", state.scaling.retention_s)
                steps = (*decision.steps, retained if code in ("inactive", "retention") else (code,))
                decision = replace(decision, desired=kept, steps=steps)
        low = scaling.min_replicas
        if scaling.idle_replicas is not None and decision.desired < low and not state.stable.silent(now):
            decision = replace(decision, desired=low, steps=(*decision.steps, ("minimum", low)))
        return decision

    def _by_hpa(self, state: _State, hpa: Hpa, now: float, ready: int, usage: Usage | None) -> Decision:
        boundary = state.boundary(now, "hpa", HPA_TICK_S)
        metric = state.scaling.metric
        reading: Reading | None
        if metric == "cpu":
            if boundary and usage is not None:
                _measure(state, now, usage)
            reading = Reading(pods=tuple(state.cpu.values())) if state.cpu else None
        elif metric == "memory":
            used = [size for _, size in (usage or {}).values()]
            reading = Reading(pods=tuple(used)) if used else None
        else:
            reading = Reading(value=state.stable.average(now) / max(1, ready))
        current = max(1, state.by_requests)
        return hpa.decide(
            now=now, readings={metric: reading}, current=current, ready=ready or current, boundary=boundary
        )

    def _events(self, state: _State, now: float, pending: int) -> Decision | None:
        """Return what waiting events ask for; None when there are none and were none."""
        if state.events is None or not (pending or state.by_events):
            return None
        own = state.scaling.keda is not None
        return state.events.decide(
            now=now,
            values={_EVENTS: float(pending)},
            current=state.by_events,
            poll=state.boundary(now, "events", state.events.policy.polling_s),
            boundary=state.boundary(now, "events-hpa", HPA_TICK_S if own else TICK_S),
            chain=True,
        )

    def _triggers(
        self, state: _State, now: float, readings: Readings | None, usage: Usage | None, ready: int
    ) -> Decision | None:
        """Return what the triggers ask for that scalers read; None when there are none."""
        policy, keda = state.scaling.triggered, state.triggers
        if policy is None or keda is None:
            return None
        fresh = readings is not state.heard or state.joined is None
        if fresh or state.joined is None:
            state.heard = readings
            policy, values = joined(trigger_policy(state.scaling), readings or {})
            state.joined = values
            keda.adopt(policy)
        policy, values = keda.policy, dict(state.joined)
        resources = [one for one in policy.triggers if one.is_resource]
        if resources:
            cpu = usage is not None and any(one.type == "cpu" for one in resources)
            if cpu and usage is not None and state.boundary(now, "triggers-cpu", HPA_TICK_S):
                _measure(state, now, usage)
            values |= {one.name: _resource(state, one, usage) for one in resources}
        last, paused = state.by_triggers, state.scaling.is_paused
        current = state.decision.desired if paused or last is None else last.desired
        read = [values.get(one.name) for one in policy.triggers if not one.is_resource]
        if readings is None and read and not paused:  # nothing was asked yet, so nothing failed
            state.by_triggers = keda.hold(now=now, current=current)
            return state.by_triggers
        if None in read and not fresh and last is not None:
            return last  # failures count by the rounds of reading, not by these looks
        own = state.scaling.own_pace
        state.by_triggers = keda.decide(
            now=now,
            values=values,
            current=current,
            ready=ready or None,
            poll=state.boundary(now, "triggers", policy.polling_s),
            boundary=state.boundary(now, "triggers-hpa", TICK_S if own else HPA_TICK_S),
            chain=True,
        )
        return state.by_triggers

    def decision(self, key: str) -> Decision | None:
        """Return the last decision on a function; None when it was forgotten or never observed."""
        state = self._states.get(key)
        return state.decision if state else self._jobs.decision(key)

    def move(self, keys: Mapping[str, str]) -> None:
        """Let histories follow their revisions to other keys: old key -> new key; all move at once."""
        moved = {new: self._states.pop(old) for old, new in keys.items() if old in self._states}
        self._states.update(moved)

    def forget(self, key: str) -> None:
        """Drop a function's history: it is at zero with nothing waiting, or it is gone."""
        self._states.pop(key, None)
        self._jobs.forget(key)


def _joined(http: Decision, events: Decision | None) -> Decision:
    """Return the larger of the two, with the proposals of both."""
    if events is None:
        return http
    more = events.desired > http.desired
    alone = http.algorithm == "keda" and events.desired == http.desired  # then events have more to say
    winner = events if more or alone else http
    return replace(
        winner,
        desired=winner.desired,
        raw=winner.raw,
        minimum=http.minimum,
        maximum=http.maximum,
        panic=http.panic,
        ebc=http.ebc,
        ready=http.ready,
        proposals=(*http.proposals, *events.proposals),
    )


def _new_state(scaling: Scaling, *, now: float, ready: int) -> _State:
    stable, panic = _windows(scaling, now=now, ready=ready)
    state = _State(
        scaling=scaling,
        stable=stable,
        panic=panic,
        at=now - OBSERVE_EVERY_S,
        to_zero=ToZero(now=now),
        keeper=Keeper(spare=scaling.spare_instances, cooldown_s=scaling.hold_s),
        events=Keda(event_policy(scaling), now=now),
        by_requests=ready,
    )
    if scaling.triggered is not None:
        state.triggers = Keda(trigger_policy(scaling), now=now)
        if ready:  # what is found running was wanted until now
            state.triggers.resume(created=now, active_at=now)
        state.decision = Decision(desired=ready)
    if ready:
        state.keeper.remember(now, ready)
    _choose(state, now=now, ready=ready)
    return state


def _choose(state: _State, *, now: float, ready: int) -> None:
    """Make the decider that the parameters ask for, unless there is one of that sort."""
    scaling = state.scaling
    if scaling.http is not None:
        policy = replace(
            scaling.http,
            keda=replace(
                scaling.http.keda,
                min_replicas=scaling.min_replicas,
                max_replicas=scaling.max_replicas or _NO_BOUND,
            ),
        )
        state.kpa = state.hpa = None
        if state.http is None:
            state.http = HttpScaler(policy, now=now)
        else:
            state.http.adopt(policy)
    elif scaling.algorithm == "keda":
        state.kpa = state.hpa = state.http = None
    elif scaling.algorithm == "hpa":
        state.kpa = state.http = None
        state.hpa = state.hpa or Hpa(hpa_policy(scaling))
        state.hpa.policy = hpa_policy(scaling)
    else:
        state.hpa = state.http = None
        state.kpa = state.kpa or Kpa(kpa_policy(scaling), now=now, ready=ready)
        state.kpa.policy = kpa_policy(scaling)


def _windows(scaling: Scaling, *, now: float, ready: int) -> tuple[Window, Window]:
    """Return a stable and a panic window; instances that exist get a full window before silence ends them.

    For the HTTP add-on the short one is a single bucket: it looks at what is in flight now.
    """
    short = 1 if scaling.http else panic_window_s(scaling.window_s, scaling.panic_window_percentage)
    windows = Window(max(1, int(scaling.window_s))), Window(short)
    if ready:
        for window in windows:
            window.touch(now)
    return windows


def _rescale(state: _State, scaling: Scaling, *, now: float, ready: int) -> None:
    """Take new parameters; history is kept unless the windows' lengths or the metric changed."""
    stable, panic = _windows(scaling, now=now, ready=ready)
    lengths = (stable.seconds, panic.seconds), (state.stable.seconds, state.panic.seconds)
    if lengths[0] != lengths[1] or scaling.metric != state.scaling.metric:
        state.stable, state.panic = stable, panic
    state.scaling = scaling
    state.keeper.spare, state.keeper.cooldown_s = scaling.spare_instances, scaling.hold_s
    if state.events is not None:
        state.events.adopt(event_policy(scaling))
    state.joined = None
    if scaling.triggered is None:
        state.triggers = state.by_triggers = None
    elif state.triggers is None:
        state.triggers = Keda(trigger_policy(scaling), now=now)
    _choose(state, now=now, ready=ready)


def _take_load(
    state: _State,
    now: float,
    readings: Mapping[str, LoadReading],
    *,
    queued: int,
    busy_s: float,
    began: int,
) -> int:
    """Write what was seen of requests into the windows; returns how many have arrived."""
    state.seen = {name: (reading.busy_ns, reading.total) for name, reading in readings.items()}
    waiting = queued + sum(reading.queued for reading in readings.values())
    running = sum(reading.in_flight for reading in readings.values())
    active = bool(began or running or waiting)
    # Requests that wait have arrived, too; those that gave up are not seen.
    arrived = max(0, began + waiting - state.waiting)
    state.waiting = waiting
    if state.scaling.metric == "rps":
        state.at = now
        for window in (state.stable, state.panic):
            window.count(now, arrived, active=active)
    else:
        _record(state, now=now, busy_s=busy_s, waiting=waiting, active=active)
    return arrived


def _progress(seen: Mapping[str, tuple[int, int]], readings: Mapping[str, LoadReading]) -> tuple[float, int]:
    """Return (busy seconds, invocations begun) since the last look; a new instance counts from its start."""
    busy_ns = began = 0
    for name, reading in readings.items():
        before_busy, before_total = seen.get(name, (0, 0))
        if reading.busy_ns < before_busy or reading.total < before_total:
            before_busy = before_total = 0  # another process took the name over
        busy_ns += reading.busy_ns - before_busy
        began += reading.total - before_total
    return busy_ns / 1e9, began


def _measure(state: _State, now: float, usage: Usage) -> None:
    """Turn processor time since the last boundary into percent of the request, per instance."""
    then, before = state.used
    state.used = (now, dict(usage))
    seconds = now - then
    if not before or seconds <= 0:
        return
    state.cpu = {
        name: 100.0 * max(0.0, cpu_s - before[name][0]) / seconds / state.scaling.request
        for name, (cpu_s, _) in usage.items()
        if name in before
    }


def _resource(state: _State, trigger: TriggerTarget, usage: Usage | None) -> Reading | None:
    """Return what instances use of a resource, in the unit of the target; None while nobody knows."""
    if trigger.type == "cpu":
        if not state.cpu:
            return None
        cores = state.scaling.request / 100.0
        share = 1.0 if trigger.metric_type == "Utilization" else cores
        return Reading(pods=tuple(percent * share for percent in state.cpu.values()))
    used = [float(size) for _, size in (usage or {}).values()]
    if not used:
        return None
    request = state.scaling.memory_request
    if trigger.metric_type == "Utilization":
        return Reading(pods=tuple(100.0 * size / request for size in used)) if request else None
    return Reading(pods=tuple(used))


def _record(state: _State, *, now: float, busy_s: float, waiting: int, active: bool) -> None:
    """Write one interval into both windows.

    The queue is a gauge: it stands for the whole interval, unless the pause was long; then for its last part.
    """
    start, state.at = state.at, now
    if now <= start:
        return
    gauge_from = start if now - start <= _STALLED_S else now - OBSERVE_EVERY_S
    for window in (state.stable, state.panic):
        if gauge_from > start and busy_s > 0.0:
            share = busy_s * (gauge_from - start) / (now - start)
            window.add(start, gauge_from, share, active=True)
        rest = busy_s * (now - gauge_from) / (now - start) + waiting * (now - gauge_from)
        window.add(gauge_from, now, rest, active=active)
