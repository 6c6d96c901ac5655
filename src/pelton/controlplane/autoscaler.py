"""The autoscaling loop's memory: turns load-page readings and queue lengths into decisions per function.

The node calls `observe` every 100 ms for each function that has instances or work, and `forget` for one
at zero with nothing waiting, so an idle function costs nothing. Arithmetic is in `autoscale/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pelton.autoscale.kpa import Decision, Kpa
from pelton.autoscale.lag import Lag, combine
from pelton.autoscale.window import Window, panic_window_s
from pelton.clock import Clock
from pelton.model.desired import Scaling
from pelton.model.snapshot import LoadReading

__all__ = ["OBSERVE_EVERY_S", "Autoscaler"]

OBSERVE_EVERY_S = 0.1
"""Seconds between two observations of an active function."""
_STALLED_S = 1.0
"""A longer pause between observations says nothing about what waited in between; one bucket."""


@dataclass(slots=True)
class _State:
    scaling: Scaling
    stable: Window
    panic: Window
    kpa: Kpa
    lag: Lag
    at: float
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)  # instance id -> (busy_ns, total)
    decision: Decision = field(default_factory=lambda: Decision(desired=0))


class Autoscaler:
    """Decisions for many functions.

    Args:
        clock: Source of monotonic time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._states: dict[str, _State] = {}
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
    ) -> Decision:
        """Take one look at a function and decide.

        Args:
            key: `namespace/name`; a new revision keeps its function's history.
            scaling: Current bounds and parameters.
            readings: Instance id -> reading of its load page; an instance may be missing.
            queued: Requests waiting in the activator.
            pending: Events waiting at the broker.
            ready: Ready instances.
        """
        now = self._clock.monotonic()
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = _new_state(
                scaling, now=now, ready=ready, initialised=key in self._initialised
            )
            # What ran before this moment was not watched: only what runs now counts.
            busy_s = sum(reading.in_flight for reading in readings.values()) * OBSERVE_EVERY_S
            began = 0
        else:
            if scaling is not state.scaling and scaling != state.scaling:
                _rescale(state, scaling, now=now, ready=ready)
            busy_s, began = _progress(state.seen, readings)
        state.seen = {name: (reading.busy_ns, reading.total) for name, reading in readings.items()}
        waiting = queued + sum(reading.queued for reading in readings.values())
        running = sum(reading.in_flight for reading in readings.values())
        _record(state, now=now, busy_s=busy_s, waiting=waiting, active=bool(began or running or waiting))
        decision = self._decide(state, now=now, pending=pending, ready=ready)
        if scaling.initial_scale > 0 and state.kpa.initialised:
            self._initialised.add(key)
        return decision

    def _decide(self, state: _State, *, now: float, pending: int, ready: int) -> Decision:
        http = state.kpa.decide(
            now=now,
            stable=state.stable.average(now),
            panic=state.panic.average(now),
            ready=ready,
            silent=state.stable.silent(now),
            panic_window_s=state.panic.seconds,
        )
        lag_desired, cause = state.lag.decide(now=now, pending=pending)
        state.decision = combine(http, pending=pending, lag_desired=lag_desired, cause=cause)
        return state.decision

    def decision(self, key: str) -> Decision | None:
        """Return the last decision on a function; None when it was forgotten or never observed."""
        state = self._states.get(key)
        return state.decision if state else None

    def move(self, keys: Mapping[str, str]) -> None:
        """Let histories follow their revisions to other keys: old key -> new key; all move at once."""
        moved = {new: self._states.pop(old) for old, new in keys.items() if old in self._states}
        self._states.update(moved)

    def forget(self, key: str) -> None:
        """Drop a function's history: it is at zero with nothing waiting, or it is gone."""
        self._states.pop(key, None)


def _new_state(scaling: Scaling, *, now: float, ready: int, initialised: bool) -> _State:
    stable, panic = _windows(scaling, now=now, ready=ready)
    return _State(
        scaling=scaling,
        stable=stable,
        panic=panic,
        kpa=Kpa(scaling, now=now, ready=ready, initialised=initialised),
        lag=Lag(scaling),
        at=now - OBSERVE_EVERY_S,
    )


def _windows(scaling: Scaling, *, now: float, ready: int) -> tuple[Window, Window]:
    """Return a stable and a panic window; instances that exist get a full window before silence ends them."""
    windows = (
        Window(max(1, int(scaling.window_s))),
        Window(panic_window_s(scaling.window_s, scaling.panic_window_percentage)),
    )
    if ready:
        for window in windows:
            window.touch(now)
    return windows


def _rescale(state: _State, scaling: Scaling, *, now: float, ready: int) -> None:
    """Take new parameters; history is kept unless the windows' lengths changed."""
    stable, panic = _windows(scaling, now=now, ready=ready)
    if (stable.seconds, panic.seconds) != (state.stable.seconds, state.panic.seconds):
        state.stable, state.panic = stable, panic
    state.scaling = state.kpa.scaling = state.lag.scaling = scaling


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
