"""How many instances concurrency asks for: Knative's pod autoscaler, with a stable and a panic window.

`controlplane/autoscaler.py` fills the windows (`autoscale/window.py`) and asks; the node acts on it.
Two deliberate differences (design decision 12): scaling up is considered at any time, while rate limits are
taken and scaling down happens at boundaries of TICK_S; and since the activator is always in path at zero, a
silent stable window ends at zero without grace period, panic hold or rate limit. Pure: `now` is an argument.

Source: Knative Serving, pkg/autoscaler/scaling/autoscaler.go (contracts, autoscaling sections 6.2 to 6.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

from pelton.model.desired import Scaling

__all__ = ["TICK_S", "Decision", "Kpa", "burst_capacity", "target_value"]

TICK_S = 2.0
"""Seconds between boundaries, on the caller's clock."""
_DEFAULT_BURST_CAPACITY = 211.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A scaling decision with everything it rests on.

    Attributes:
        desired: Instances wanted.
        mode: `stable` or `panic`.
        stable, panic: Average concurrent invocations in the two windows.
        target: Concurrent invocations per instance that scaling aims at, utilization included.
        ready: Instances ready when it was taken.
        minimum, maximum: Inclusive bounds; maximum 0 means none.
        window_s, panic_window_s: Lengths of the windows, seconds.
        pending: Events waiting at the broker.
        lag_desired: Instances that these events ask for.
        burst_capacity: Concurrency that ready instances could take on top, negative when short.
        causes: Codes in the order they took effect; `reason` spells them out.
        at: When, seconds on the caller's clock.
    """

    desired: int
    mode: str = "stable"
    stable: float = 0.0
    panic: float = 0.0
    target: float = 0.0
    ready: int = 0
    minimum: int = 0
    maximum: int = 0
    window_s: float = 0.0
    panic_window_s: float = 0.0
    pending: int = 0
    lag_desired: int = 0
    burst_capacity: float = 0.0
    causes: tuple[str, ...] = ()
    at: float = 0.0

    @property
    def reason(self) -> str:
        """One sentence that explains the number; made on demand, since ten decisions are taken a second."""
        return f"{self.desired} wanted: " + "; ".join(self._sentence(cause) for cause in self.causes)

    def _sentence(self, cause: str) -> str:
        per = f"at {self.target:g} per instance"
        match cause:
            case "stable":
                return f"{self.stable:g} concurrent on average over {self.window_s:g} s, {per}"
            case "panic":
                return (
                    f"panic, {self.panic:g} concurrent on average over {self.panic_window_s:g} s, {per} "
                    f"({self.stable:g} over {self.window_s:g} s)"
                )
            case "silent":
                return f"nothing ran or waited for {self.window_s:g} s"
            case "panic-hold":
                return "the most wanted in this panic is kept"
            case "up-rate":
                return f"growth limited for this {TICK_S:g} s step ({self.ready} ready)"
            case "down-rate":
                return f"shrinking limited for this {TICK_S:g} s step ({self.ready} ready)"
            case "activation":
                return "traffic asks for the activation scale at least"
            case "boundary":
                return f"kept until the next {TICK_S:g} s boundary"
            case "delay":
                return "the most wanted during the scale-down delay is kept"
            case "retention":
                return "the last instance is retained for a while after traffic"
            case "minimum":
                return f"not below the minimum of {self.minimum}"
            case "initial":
                return "the initial scale has not been reached yet"
            case "maximum":
                return f"not above the maximum of {self.maximum}"
            case "lag":
                return f"{self.pending} events are pending"
            case "cooldown":
                return "events were pending a moment ago"
            case _:
                return cause


def target_value(scaling: Scaling) -> float:
    """Return the concurrency per instance to aim at: target times utilization, at least 0.01."""
    return max(0.01, scaling.target * scaling.utilization)


def burst_capacity(
    *, ready: int, total_target: float, panic: float, wanted: float = _DEFAULT_BURST_CAPACITY
) -> float:
    """Return the excess burst capacity in concurrent invocations.

    Args:
        ready: Ready instances.
        total_target: Target per instance before utilization.
        panic: Average concurrency in the panic window.
        wanted: Target burst capacity; 0 means "never needed" and gives 0, -1 "without bound" and gives -1.
    """
    if wanted == 0:
        return 0.0
    if wanted == -1:
        return -1.0
    return float(floor(ready * total_target - wanted - panic))


class Kpa:
    """The decider of one function.

    Args:
        scaling: Bounds and parameters; may be replaced at any time.
        now: Seconds on the caller's clock.
        ready: Instances ready at that moment. More than one starts in panic, so that a decider that has not
            seen the traffic yet takes none of them away.
        initialised: Whether the initial scale was reached by an earlier decider of this function.
    """

    __slots__ = (
        "_base",
        "_desired",
        "_highest",
        "_panic_desired",
        "_panic_since",
        "_reached_initial",
        "_silent_since",
        "_slot",
        "scaling",
    )

    def __init__(self, scaling: Scaling, *, now: float, ready: int, initialised: bool = False) -> None:
        self.scaling = scaling
        self._slot: int | None = None  # the boundary that limits were taken at
        self._base = max(1, ready)  # instances ready at that boundary
        self._desired = 0
        self._panic_since: float | None = now if ready > 1 else None
        self._panic_desired = ready if ready > 1 else 0
        self._highest: dict[int, int] = {}  # slot -> most wanted in it, for the scale-down delay
        self._silent_since: float | None = None
        self._reached_initial = initialised or scaling.initial_scale <= 0

    @property
    def panicking(self) -> bool:
        """Whether the decider is in panic mode."""
        return self._panic_since is not None

    @property
    def initialised(self) -> bool:
        """Whether the initial scale was reached, so that it is no floor any more."""
        return self._reached_initial

    def decide(
        self,
        *,
        now: float,
        stable: float,
        panic: float,
        ready: int,
        silent: bool = False,
        reachable: bool = True,
        panic_window_s: float = 0.0,
    ) -> Decision:
        """Decide from the two averages.

        Args:
            now: Seconds on the caller's clock; never goes back.
            stable: Average concurrency of the stable window.
            panic: Average concurrency of the panic window.
            ready: Ready instances.
            silent: Whether the stable window saw nothing at all.
            reachable: False for a revision that no route leads to: no minimum, no limit on shrinking.
            panic_window_s: For the explanation only.
        """
        scaling = self.scaling
        slot = floor(now / TICK_S)
        boundary = slot != self._slot
        if boundary:
            self._slot, self._base = slot, max(1, ready)
        target = target_value(scaling)
        causes: list[str] = []
        if silent:
            self._panic_since, self._panic_desired = None, 0
            wanted, mode = 0, "stable"
            causes.append("silent")
        else:
            # Between boundaries only growth counts, so the limit on shrinking must not ask for instances.
            limit_down = boundary and reachable
            wanted = self._rated(now, ceil(stable / target), ceil(panic / target), ready, limit_down, causes)
            mode = "panic" if self.panicking else "stable"
        if reachable and scaling.scale_down_delay_s > 0:
            wanted = self._delayed(slot, wanted, causes)
        if not boundary and wanted < self._desired:
            wanted = self._desired
            causes.append("boundary")
        wanted = self._bounded(now, wanted, ready, silent, reachable, causes)
        self._desired = wanted
        return Decision(
            desired=wanted,
            mode=mode,
            stable=stable,
            panic=panic,
            target=target,
            ready=ready,
            minimum=scaling.min_replicas,
            maximum=scaling.max_replicas,
            window_s=scaling.window_s,
            panic_window_s=panic_window_s,
            burst_capacity=burst_capacity(ready=ready, total_target=scaling.target, panic=panic),
            causes=tuple(causes),
            at=now,
        )

    def _rated(
        self, now: float, raw_stable: int, raw_panic: int, ready: int, limit_down: bool, causes: list[str]
    ) -> int:
        """Apply rate limits and panic mode; limits hold for the whole step, whatever became ready since."""
        scaling = self.scaling
        up = ceil(scaling.max_scale_up_rate * self._base)
        down = floor(self._base / scaling.max_scale_down_rate) if limit_down else 0
        by_stable = min(max(raw_stable, down), up)
        by_panic = min(max(raw_panic, down), up)
        if scaling.activation_scale > 1:
            by_stable = max(by_stable, scaling.activation_scale) if raw_stable else by_stable
            by_panic = max(by_panic, scaling.activation_scale) if raw_panic else by_panic

        if raw_panic / max(1, ready) >= scaling.panic_threshold_percentage / 100.0:
            if self._panic_since is None:
                self._panic_desired = 0
            self._panic_since = now
        elif self._panic_since is not None and self._panic_since + scaling.window_s < now:
            self._panic_since, self._panic_desired = None, 0

        if self._panic_since is None:
            causes.append("stable")
            wanted, raw = by_stable, raw_stable
        else:
            causes.append("panic")
            wanted, raw = max(by_stable, by_panic), max(raw_stable, raw_panic)
        if wanted < raw:
            causes.append("up-rate")
        elif wanted > raw:
            causes.append("activation" if wanted == scaling.activation_scale else "down-rate")
        if self._panic_since is not None:
            if wanted < self._panic_desired:
                wanted = self._panic_desired
                causes.append("panic-hold")
            self._panic_desired = wanted
        return wanted

    def _delayed(self, slot: int, wanted: int, causes: list[str]) -> int:
        """Return the most wanted over the last ceil(delay / TICK_S) steps."""
        slots = ceil(self.scaling.scale_down_delay_s / TICK_S)
        highest = self._highest
        highest[slot] = max(wanted, highest.get(slot, 0))
        if len(highest) > slots or min(highest) <= slot - slots:
            self._highest = highest = {at: value for at, value in highest.items() if at > slot - slots}
        kept = max(highest.values())
        if kept > wanted:
            causes.append("delay")
        return kept

    def _bounded(
        self, now: float, wanted: int, ready: int, silent: bool, reachable: bool, causes: list[str]
    ) -> int:
        scaling = self.scaling
        if not silent:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        if (
            wanted == 0
            and ready > 0
            and reachable
            and self._silent_since is not None
            and now - self._silent_since < scaling.retention_s
        ):
            wanted = 1
            causes.append("retention")
        minimum = scaling.min_replicas if reachable else 0
        if wanted < minimum:
            wanted = minimum
            causes.append("minimum")
        if not self._reached_initial and reachable:
            self._reached_initial = ready >= scaling.initial_scale
            if not self._reached_initial and wanted < scaling.initial_scale:
                wanted = scaling.initial_scale
                causes.append("initial")
        if 0 < scaling.max_replicas < wanted:
            wanted = scaling.max_replicas
            causes.append("maximum")
        return wanted
