"""Pelton's own two options, on top of whichever algorithm decides: spare instances, and one cooldown.

`spare` instances more than the load asks for are kept while anything is asked for. `cooldown_s` is one time
that covers every step down, N to 1 and 1 to 0 alike: a number stays until it has not been asked for that
long. Called by `controlplane/autoscaler.py` and `autoscale/simulate.py` after the algorithm. Pure: `now` is
an argument.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pelton.autoscale.decision import Decision, Step
from pelton.autoscale.hpa import Extremes

__all__ = ["Keeper"]


class Keeper:
    """Applies both options to one function's decisions.

    Args:
        spare: Instances on top, >= 0.
        cooldown_s: Seconds, 0 for none.
    """

    __slots__ = ("_asked", "cooldown_s", "spare")

    def __init__(self, *, spare: int = 0, cooldown_s: float = 0.0) -> None:
        self.spare, self.cooldown_s = spare, cooldown_s
        self._asked = Extremes()

    def apply(self, decision: Decision) -> Decision:
        """Return the decision with both options applied, never above its maximum."""
        wanted = decision.desired
        if (not self.spare and not self.cooldown_s) or wanted < 0:
            return decision
        steps: list[Step] = []
        if self.spare and wanted > 0:
            wanted += self.spare
            steps.append(("spare", self.spare))
        if self.cooldown_s:
            kept = self._asked.largest(decision.at, self.cooldown_s, wanted)
            self._asked.record(decision.at, wanted)
            if kept > wanted:
                steps.append(("hold", kept, self.cooldown_s))
                wanted = kept
        if 0 < decision.maximum < wanted:
            wanted = max(decision.desired, decision.maximum)
            steps.append(("maximum", decision.maximum))
        return replace(decision, desired=wanted, steps=(*decision.steps, *steps)) if steps else decision

    def remember(self, now: float, number: int) -> None:
        """Note a number that was asked for before this keeper was there."""
        self._asked.record(now, number)

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain data for JSON."""
        return {"asked": self._asked.to_list()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the state that `to_dict` described."""
        self._asked = Extremes(state["asked"])
