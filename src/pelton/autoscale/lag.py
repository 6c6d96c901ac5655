"""How many instances waiting events ask for, and how that joins with what concurrency asks for.

Two phases as in KEDA: activation (0 to 1, when more events wait than the activation threshold) and scaling
(1 to N, one instance per `lag_threshold` events). Counts are pushed by the runtime, not polled. A count
that falls is followed only after STEADY_S, the role that the HPA's stabilization plays there.
`controlplane/autoscaler.py` calls this and `autoscale/kpa.py`. Pure: `now` is an argument.

Source: KEDA, pkg/scaling/executor (contracts, autoscaling section 2).
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from math import ceil

from pelton.autoscale.kpa import Decision
from pelton.model.desired import Scaling

__all__ = ["STEADY_S", "Lag", "combine", "wanted_for"]

STEADY_S = 15.0
"""Seconds during which the highest number asked for is kept, unless the cooldown is shorter."""


def wanted_for(pending: int, scaling: Scaling) -> int:
    """Return instances for so many waiting events, within the bounds; 0 when they do not activate.

    Args:
        pending: Events that the consumer has not finished, >= 0.
        scaling: Bounds and thresholds.
    """
    if pending <= scaling.activation_lag_threshold:
        return 0
    wanted = max(1, scaling.min_replicas, ceil(pending / scaling.lag_threshold))
    return min(wanted, scaling.max_replicas) if scaling.max_replicas > 0 else wanted


class Lag:
    """The event side of one function's scaling.

    Args:
        scaling: Bounds and thresholds; may be replaced at any time.
    """

    __slots__ = ("_active_at", "_recent", "scaling")

    def __init__(self, scaling: Scaling) -> None:
        self.scaling = scaling
        self._active_at: float | None = None
        # (until, wanted), wanted falling: the head is the highest that still counts.
        self._recent: deque[tuple[float, int]] = deque()

    def decide(self, *, now: float, pending: int) -> tuple[int, str]:
        """Return instances wanted and the code of the cause: `lag`, `cooldown`, "" when events ask for none.

        Args:
            now: Seconds on the caller's clock; never goes back.
            pending: Events waiting, >= 0.
        """
        scaling = self.scaling
        wanted = wanted_for(pending, scaling)
        recent = self._recent
        while recent and recent[0][0] <= now:
            recent.popleft()
        while recent and recent[-1][1] <= wanted:
            recent.pop()
        if wanted:
            self._active_at = now
            recent.append((now + min(STEADY_S, scaling.cooldown_s), wanted))
        highest = recent[0][1] if recent else 0
        if highest:
            highest = min(highest, scaling.max_replicas) if scaling.max_replicas > 0 else highest
            return highest, "lag" if wanted >= highest else "cooldown"
        if self._active_at is not None and now - self._active_at < scaling.cooldown_s:
            return max(1, scaling.min_replicas), "cooldown"
        return 0, ""


def combine(http: Decision, *, pending: int, lag_desired: int, cause: str) -> Decision:
    """Join what concurrency and waiting events ask for: the larger counts."""
    if lag_desired == 0 and pending == 0:
        return http
    causes = http.causes
    if lag_desired > http.desired:
        causes = (cause, "maximum") if 0 < http.maximum == lag_desired and cause == "lag" else (cause,)
    return replace(
        http, desired=max(http.desired, lag_desired), pending=pending, lag_desired=lag_desired, causes=causes
    )
