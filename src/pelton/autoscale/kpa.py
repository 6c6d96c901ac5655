"""How many instances the load asks for: Knative's pod autoscaler, with a stable and a panic window.

`controlplane/autoscaler.py` and `autoscale/simulate.py` fill the windows (`autoscale/window.py`) and ask.
Every call with `boundary` is upstream's decision, one per two seconds. Calls between boundaries may only
raise the number, and rate limits stay those of the last boundary (design decision 12). Pure: `now` is an
argument.

Source: Knative Serving, pkg/autoscaler/scaling/autoscaler.go, pkg/reconciler/autoscaling/kpa (contracts,
autoscaling sections 6.3 and 6.4).
"""

from __future__ import annotations

from collections import deque
from math import ceil, floor
from typing import Any

from pelton.autoscale.decision import Decision, Proposal, Step
from pelton.autoscale.window import SMALLEST
from pelton.model.scaling import KpaPolicy

__all__ = ["TICK_S", "Kpa", "ToZero", "activators", "burst_capacity", "mode", "sample_size"]

TICK_S = 2.0
"""Seconds between boundaries; also the length of a slot of the scale-down delay."""
_LEAST_ACTIVATORS = 2
_SAMPLE_FACTOR = 1.96**2 * 100 / 25
_SAMPLE_ALL = 3


def burst_capacity(*, ready: int, total: float, panic: float, wanted: float) -> int:
    """Return the excess burst capacity.

    Args:
        ready: Ready instances.
        total: Target per instance before utilization.
        panic: Average in the panic window.
        wanted: Target burst capacity; 0 means "never needed" and gives 0, -1 "without bound" and gives -1.
    """
    if wanted == 0:
        return 0
    if wanted < 0:
        return -1
    return floor(ready * total - wanted - panic)


def activators(*, ready: int, total: float, burst: float, capacity: float) -> int:
    """Return how many activators a revision gets.

    Args:
        ready: Ready instances.
        total: Target per instance before utilization.
        burst: Target burst capacity.
        capacity: Concurrency that one activator takes.
    """
    if burst == 0:
        return _LEAST_ACTIVATORS
    return max(_LEAST_ACTIVATORS, ceil((ready * total + max(burst, 0.0)) / capacity))


def mode(*, wanted: int, ebc: int, ready: int) -> str:
    """Return `Serve` when requests go straight to instances, `Proxy` when the activator is in their path.

    Args:
        wanted: Desired instances; -1 when unknown.
        ebc: Excess burst capacity.
        ready: Instances that could take requests.
    """
    return "Serve" if wanted > 0 and ebc >= 0 and ready > 0 else "Proxy"


def sample_size(pods: int) -> int:
    """Return how many of so many pods are asked for their statistics, so that the mean is good enough."""
    if pods <= _SAMPLE_ALL:
        return pods
    return ceil(pods * _SAMPLE_FACTOR / (pods + _SAMPLE_FACTOR - 1))


class Kpa:
    """The decider of one revision.

    Args:
        policy: Bounds and parameters; may be replaced at any time.
        now: Seconds on the caller's clock.
        ready: Instances ready at that moment. More than one starts in panic, so that a decider that has not
            seen the traffic yet takes none of them away.
    """

    __slots__ = ("_base", "_delayed", "_last", "_panic_most", "_panic_since", "policy")

    def __init__(self, policy: KpaPolicy, *, now: float, ready: int) -> None:
        self.policy = policy
        self._base = max(1, ready)  # instances that rate limits refer to
        self._last = -1  # the last number, before bounds
        self._panic_since: float | None = now if ready > 1 else None
        self._panic_most = ready
        self._delayed: deque[tuple[int, int]] = deque()  # (slot, number), numbers falling

    @property
    def panicking(self) -> bool:
        """Whether the decider is in panic mode."""
        return self._panic_since is not None

    def decide(
        self,
        *,
        now: float,
        stable: float | None,
        panic: float,
        ready: int,
        boundary: bool = True,
        floor_scale: int = 0,
        extra: int = 0,
    ) -> Decision:
        """Decide from the two averages.

        Args:
            now: Seconds on the caller's clock; never goes back.
            stable: Average of the stable window; None when there is no data, which keeps the number.
            panic: Average of the panic window.
            ready: Ready instances.
            boundary: Whether numbers may fall and rate limits move on.
            floor_scale: The initial scale while it has not been reached, else 0.
            extra: Instances that something else asked for; rate limits do not start from them.
        """
        policy = self.policy
        if stable is None:
            desired = self.bounded(self._last, floor_scale, []) if self._last >= 0 else -1
            return self._record(now, desired, self._last, ready, 0.0, (), (("no-data",),))
        if boundary:
            self._base = max(1, ready - extra)
        steps: list[Step] = []
        target = policy.target
        raw_stable, raw_panic = ceil(stable / target), ceil(panic / target)
        wanted = self._rated(now, stable, panic, raw_stable, raw_panic, ready, boundary, steps)
        if policy.reachable and policy.scale_down_delay_s > 0:
            kept = self._delay(now, wanted)
            if kept != wanted:
                steps.append(("delay", kept, policy.scale_down_delay_s))
                wanted = kept
        if not boundary and wanted < self._last:
            wanted = self._last
            steps.append(("boundary", wanted, TICK_S))
        self._last = wanted
        desired = self.bounded(wanted, floor_scale, steps)
        proposals = (
            Proposal(source="stable window", value=stable, target=target, wanted=raw_stable),
            Proposal(source="panic window", value=panic, target=target, wanted=raw_panic),
        )
        return self._record(now, desired, wanted, ready, panic, proposals, tuple(steps))

    def _record(
        self,
        now: float,
        desired: int,
        raw: int,
        ready: int,
        panic: float,
        proposals: tuple[Proposal, ...],
        steps: tuple[Step, ...],
    ) -> Decision:
        policy = self.policy
        return Decision(
            desired=desired,
            raw=raw,
            at=now,
            ready=ready,
            minimum=policy.min_scale if policy.reachable else 0,
            maximum=policy.max_scale,
            panic=self._panic_since is not None,
            ebc=burst_capacity(
                ready=ready, total=policy.total, panic=panic, wanted=policy.target_burst_capacity
            ),
            proposals=proposals,
            steps=steps,
        )

    def _rated(
        self,
        now: float,
        stable: float,
        panic: float,
        raw_stable: int,
        raw_panic: int,
        ready: int,
        boundary: bool,
        steps: list[Step],
    ) -> int:
        """Apply rate limits, the activation scale and panic mode."""
        policy, base = self.policy, self._base
        up = ceil(policy.max_scale_up_rate * base)
        # Between boundaries only growth counts, so the limit on shrinking must not ask for instances.
        down = floor(base / policy.max_scale_down_rate) if policy.reachable and boundary else 0
        by_stable = min(max(raw_stable, down), up)
        by_panic = min(max(raw_panic, down), up)
        activation = policy.activation_scale
        if activation > 1:
            if raw_stable > 0:
                by_stable = max(by_stable, activation)
            if raw_panic > 0:
                by_panic = max(by_panic, activation)

        if raw_panic / max(1, ready) >= policy.panic_threshold:
            self._panic_since = now
        elif boundary and self._panic_since is not None and self._panic_since + policy.window_s < now:
            self._panic_since, self._panic_most = None, 0

        unit = "requests/s" if policy.metric == "rps" else "concurrent"
        if self._panic_since is None:
            if 0.0 < stable <= SMALLEST:
                steps.append(("traffic", policy.window_s))
            else:
                steps.append(("stable", stable, unit, policy.window_s, policy.target))
            wanted, raw = by_stable, raw_stable
        else:
            steps.append(
                ("panic", panic, unit, policy.panic_window_s, policy.target, stable, policy.window_s)
            )
            wanted, raw = max(by_stable, by_panic), max(raw_stable, raw_panic)
        if wanted < raw:
            steps.append(("up-rate", wanted, policy.max_scale_up_rate, base))
        elif wanted > raw:
            if raw > 0 and wanted == activation:
                steps.append(("activation-scale", activation))
            else:
                steps.append(("down-rate", wanted, policy.max_scale_down_rate, base))
        if self._panic_since is not None:
            if wanted < self._panic_most:
                wanted = self._panic_most
                steps.append(("panic-hold", wanted))
            self._panic_most = wanted
        return wanted

    def _delay(self, now: float, wanted: int) -> int:
        """Return the most wanted over the last ceil(delay / TICK_S) slots."""
        slot = floor(floor(now) / TICK_S)
        oldest = slot - ceil(self.policy.scale_down_delay_s / TICK_S)
        kept = self._delayed
        while kept and kept[0][0] <= oldest:
            kept.popleft()
        while kept and kept[-1][1] <= wanted:
            kept.pop()
        kept.append((slot, wanted))
        return kept[0][1]

    def bounded(self, wanted: int, floor_scale: int, steps: list[Step]) -> int:
        """Return a number within the bounds, and note which of them mattered."""
        policy = self.policy
        low = policy.min_scale if policy.reachable else 0
        if policy.reachable and floor_scale > max(low, wanted):
            steps.append(("initial", floor_scale))
            wanted = floor_scale
        if wanted < low:
            steps.append(("minimum", low))
            wanted = low
        if 0 < policy.max_scale < wanted:
            steps.append(("maximum", policy.max_scale))
            wanted = policy.max_scale
        if wanted == 0 and not policy.scale_to_zero:
            steps.append(("scale-to-zero-off",))
            wanted = 1
        return wanted

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain data for JSON."""
        return {
            "base": self._base,
            "last": self._last,
            "panicSince": self._panic_since,
            "panicMost": self._panic_most,
            "delayed": [list(item) for item in self._delayed],
        }

    @classmethod
    def from_dict(cls, policy: KpaPolicy, state: dict[str, Any]) -> Kpa:
        """Return the decider that `to_dict` described."""
        made = cls(policy, now=0.0, ready=0)
        made._base, made._last = state["base"], state["last"]
        made._panic_since, made._panic_most = state["panicSince"], state["panicMost"]
        made._delayed = deque((slot, number) for slot, number in state["delayed"])
        return made


class ToZero:
    """When the last instance may go, once nothing is wanted.

    Upstream's phases of a revision: activating, active, inactive. On one machine the activator is always in
    path at zero, so the caller gives no grace period and a probe that has succeeded.

    Args:
        now: Seconds on the caller's clock.
        activating_limit_s: An activation that takes longer is given up; None for never.
    """

    __slots__ = ("_limit_s", "_phase", "_since")

    def __init__(self, *, now: float, activating_limit_s: float | None = None) -> None:
        self._phase, self._since, self._limit_s = "activating", now, activating_limit_s

    @property
    def phase(self) -> str:
        """`activating`, `active` or `inactive`."""
        return self._phase

    def wanted(self, *, now: float, ready: int, least: int = 1) -> None:
        """Say that instances are wanted; active once `least` are ready."""
        if self._phase == "inactive":
            self._phase, self._since = "activating", now
        if self._phase == "activating" and ready >= max(1, least):
            self._phase, self._since = "active", now

    def decide(
        self,
        policy: KpaPolicy,
        *,
        now: float,
        ready: int,
        probed: bool = True,
        proxy_since: float | None = None,
        active_hold: bool = True,
    ) -> tuple[int, str]:
        """Return (instances to have, code) when the decider wants none.

        Args:
            policy: Window, grace and retention.
            now: Seconds on the caller's clock.
            ready: Ready instances.
            probed: Whether the activator answered its probe; not needed with a burst capacity of -1.
            proxy_since: When the activator came into the path; None when unknown.
            active_hold: Whether an active revision has to be so for a whole stable window first.
        """
        if not policy.scale_to_zero:
            return 1, "scale-to-zero-off"
        if self._phase == "activating":
            if ready >= 1:
                self._phase, self._since = "active", now
            elif self._limit_s is not None and now - self._since >= self._limit_s:
                return 0, "TimedOut"
            else:
                # Without a limit nobody waits for the activation: what wanted it has left.
                return (0 if self._limit_s is None else 1), "activating"
        if self._phase == "active":
            if active_hold and now - self._since < policy.window_s:
                return 1, "active"
            self._phase, self._since = "inactive", now
            if policy.grace_s > 0 or policy.retention_s > 0:
                return 1, "inactive"
        if not probed and policy.target_burst_capacity != -1:
            return 1, "probing"
        retention_s = policy.retention_s if policy.reachable else 0.0
        inactive_s = now - self._since
        if inactive_s >= max(policy.grace_s, retention_s):
            return 0, "NoTraffic"
        if inactive_s < retention_s:
            return 1, "retention"
        left_s = policy.grace_s - (now - proxy_since) if proxy_since is not None else policy.grace_s
        return (0, "NoTraffic") if left_s <= 0 else (1, "grace")

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain data for JSON."""
        return {"phase": self._phase, "since": self._since, "limit": self._limit_s}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> ToZero:
        """Return what `to_dict` described."""
        made = cls(now=state["since"], activating_limit_s=state["limit"])
        made._phase = state["phase"]
        return made
