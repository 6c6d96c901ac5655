"""How many instances a function has that runs as jobs: those that take events, and the ones to start.

`controlplane/autoscaler.py` hands such functions on to this. Arithmetic is in `autoscale/jobs.py`; jobs are
added here and never taken away, for each ends by itself.
"""

from __future__ import annotations

from typing import Final

from pelton.autoscale.decision import Decision, Proposal
from pelton.autoscale.jobs import Jobs, QueueReading, bounds, queue_reading
from pelton.autoscale.scalers.joined import Readings
from pelton.model.desired import Scaling
from pelton.model.scaling import JobScaling

__all__ = ["JobLoop"]

_EVENTS: Final = "events"


class JobLoop:
    """Decisions for all functions that run as jobs."""

    def __init__(self) -> None:
        self._deciders: dict[str, Jobs] = {}
        self._last: dict[str, Decision] = {}

    def decide(
        self,
        key: str,
        scaling: Scaling,
        rules: JobScaling,
        *,
        now: float,
        pending: int,
        triggers: Readings | None,
        ready: int,
        jobs: tuple[int, int],
    ) -> Decision:
        """Take one look and decide; arguments are those of `Autoscaler.observe`."""
        decider = self._deciders.get(key)
        if decider is None:
            decider = self._deciders[key] = Jobs(rules.policy, rules.polling_s)
        decider.policy, decider.polling_s = rules.policy, rules.polling_s
        unfinished, taking = jobs
        readings = [
            QueueReading(
                queue_length=float(pending),
                target=scaling.lag_threshold,
                active=pending > scaling.activation_lag_threshold,
            )
        ]
        readings += [queue_reading(metrics) for metrics in (triggers or {}).values() if metrics]
        more, steps = decider.decide(
            now=now, readings=readings, running=unfinished, pending=max(0, taking - ready)
        )
        low, most = bounds(rules.policy)
        decision = self._last[key] = Decision(
            desired=taking + more,
            raw=taking + more,
            algorithm="keda-jobs",
            at=now,
            ready=ready,
            minimum=low,
            maximum=low + most,
            proposals=(
                Proposal(source=_EVENTS, value=float(pending), target=scaling.lag_threshold, wanted=None),
            ),
            steps=steps,
        )
        return decision

    def decision(self, key: str) -> Decision | None:
        """Return the last decision on a function; None when it was forgotten or never looked at."""
        return self._last.get(key)

    def forget(self, key: str) -> None:
        """Drop what is remembered of a function."""
        self._deciders.pop(key, None)
        self._last.pop(key, None)
