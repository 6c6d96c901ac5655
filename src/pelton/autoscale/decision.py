"""The record of a scaling decision: every number it rests on, and what was done to it, step by step.

Made by all deciders of `autoscale/`; `controlplane/autoscaler` keeps the ones that changed something, and
`pelton why scale` (`cli/why_scale.py`) prints them. Steps are codes with numbers; sentences are made when
somebody asks, since ten decisions are taken a second. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["SENTENCES", "Decision", "Proposal", "sentence"]

SENTENCES: dict[str, str] = {
    # How the number came about.
    "stable": "{0:g} {1} on average over {2:g} s, at {3:g} per instance",
    "panic": "panic, {0:g} {1} on average over {2:g} s, at {3:g} per instance ({4:g} over {5:g} s)",
    "traffic": "something ran or waited within {0:g} s, too short to be measured",
    "woken": "a request or event found no instance and started one",
    "no-data": "nothing was measured, so the number stays",
    "metric": "{0} is {1:g}, which at {2:g} per replica asks for {3:d}",
    "within-tolerance": "{0} is {1:g}, within the tolerance of the target for {2:d} replicas",
    "metrics-failed": "no metric could be read, so the number stays",
    "metrics-failed-down": "{0:d} of {1:d} metrics could not be read, so nothing is taken away",
    "fallback": "{0} failed {1:d} times in a row; {2:d} replicas are assumed",
    "formula": "the formula gives {0:g}",
    "no-load": "nothing asks for an instance",
    "idle": "nothing runs and nothing waits",
    # What was done to it.
    "up-rate": "growth limited to {0:d} by the rate of {1:g} ({2:d} ready)",
    "down-rate": "shrinking limited to {0:d} by the rate of {1:g} ({2:d} ready)",
    "activation-scale": "traffic asks for the activation scale of {0:d} at least",
    "panic-hold": "{0:d}, the most wanted in this panic, is kept",
    "delay": "{0:d}, the most wanted during the scale-down delay of {1:g} s, is kept",
    "boundary": "{0:d} is kept until the next boundary of {1:g} s",
    "stabilized-up": "growth waits: {0:d} is the least asked for within {1:g} s",
    "stabilized-down": "shrinking waits: {0:d} is the most asked for within {1:g} s",
    "double": "growth limited to {0:d}: twice the present number, at least 4",
    "policy-up": "growth limited to {0:d} by the scaleUp policies",
    "policy-down": "shrinking limited to {0:d} by the scaleDown policies",
    "above-maximum": "{0:d} replicas are more than the maximum",
    "below-minimum": "{0:d} replicas are fewer than the minimum",
    "minimum": "not below the minimum of {0:d}",
    "maximum": "not above the maximum of {0:d}",
    "initial": "the initial scale of {0:d} has not been reached yet",
    "scale-to-zero-off": "scaling to zero is switched off",
    "retention": "the last instance is kept for {0:g} s after traffic",
    "scaling-disabled": "scaling is off at zero replicas",
    # KEDA's own steps.
    "activate": "{0} is active",
    "force-activation": "activation is forced by an annotation",
    "cooldown": "nothing is active; the cooldown of {0:g} s ends in {1:g} s",
    "cooled": "nothing was active for the cooldown of {0:g} s",
    "to-minimum": "nothing is active and there are fewer than the minimum",
    "trigger-error": "a trigger could not be read, so the number stays",
    "fallback-hold": "a trigger could not be read; the fallback will answer",
    "paused": "scaling is paused",
    "paused-replicas": "scaling is paused at {0:d} replicas",
    "paused-in": "scaling in is paused",
    "paused-out": "scaling out is paused",
    # ScaledJob's.
    "jobs": "{0:d} wait, which asks for {1:d} jobs; {2:d} run; {3:d} more by the strategy {4}, at most {5:d}",
    "jobs-wait": "jobs are started at the next look, in {0:g} s",
    # Who decided, when it is not the Function itself.
    "owner": "as {0} says, not the Function's own options",
    # Pelton's own options.
    "spare": "{0:d} spare instances on top",
    "hold": "{0:d}, wanted within the cooldown of {1:g} s, is kept",
}
"""Code -> sentence; the numbers of a step fill it in order."""

Step = tuple[Any, ...]
"""A code of SENTENCES, then its numbers."""


def sentence(step: Step) -> str:
    """Return a step in words."""
    return SENTENCES[step[0]].format(*step[1:])


@dataclass(slots=True, kw_only=True)
class Proposal:
    """What one measured value asks for.

    Attributes:
        source: Window or metric.
        value: What was measured; None when it could not be.
        target: Per instance.
        wanted: Instances; None when there is no proposal.
    """

    source: str
    value: float | None
    target: float
    wanted: int | None


@dataclass(slots=True, kw_only=True)
class Decision:
    """A scaling decision with everything it rests on.

    Attributes:
        desired: Instances wanted, within the bounds; -1 while nothing was measured yet.
        raw: The algorithm's number before bounds.
        algorithm: `kpa`, `hpa`, `keda` or `keda-http`.
        at: When, seconds on the caller's clock.
        ready: Instances that it was taken with.
        minimum, maximum: Inclusive bounds; maximum 0 means none.
        panic: Whether the KPA is in panic mode.
        ebc: Excess burst capacity, for the KPA; negative when ready instances are short of it.
        proposals: What each value asks for.
        steps: What led to the number, in order.
    """

    desired: int
    raw: int = 0
    algorithm: str = "kpa"
    at: float = 0.0
    ready: int = 0
    minimum: int = 0
    maximum: int = 0
    panic: bool = False
    ebc: int | None = None
    proposals: tuple[Proposal, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def causes(self) -> tuple[str, ...]:
        """Codes of the steps, in order."""
        return tuple(step[0] for step in self.steps)

    @property
    def reason(self) -> str:
        """The number and its steps in one sentence."""
        return f"{self.desired} wanted: " + "; ".join([sentence(step) for step in self.steps])

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data for JSON."""
        return {
            "desired": self.desired,
            "raw": self.raw,
            "algorithm": self.algorithm,
            "ready": self.ready,
            "minimum": self.minimum,
            "maximum": self.maximum or None,
            "panic": self.panic,
            "excessBurstCapacity": self.ebc,
            "proposals": [
                {"source": p.source, "value": p.value, "target": p.target, "wanted": p.wanted}
                for p in self.proposals
            ],
            "steps": [{"code": step[0], "text": sentence(step)} for step in self.steps],
            "reason": self.reason,
        }
