"""What a scaler is made of and what it reads: plain data, sent between processes as it is.

`autoscale/scalers` reads a `ScalerTrigger` into settings and turns raw numbers into `ScalerReading`s; drivers
fetch the raw numbers; `controlplane/scaler_triggers` fills in what other objects say. Source:
contracts, autoscaling, sections 1.4, 2 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["ScalerReading", "ScalerTrigger", "trigger_name"]


def trigger_name(index: int, kind: str, name: str) -> str:
    """Return what a trigger is called: as written, else `s<index>-<type>`."""
    return name or f"s{index}-{kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerTrigger:
    """A trigger with all that its scaler needs; nothing has to be looked up any more.

    Attributes:
        name: Unique in its object; the same as in the policy.
        index: Its place among the triggers, from 0.
        type: Scaler type, e.g. `kafka`.
        metadata: As written.
        params: Parameter -> value, from a TriggerAuthentication. Secret: never logged.
        environment: Variables of the target's container. May be secret.
        metric_type: `AverageValue`, `Value` or `Utilization`.
        namespace, scaled_object: The object's; an external scaler is told both.
        in_formula: Whether a formula takes the place of its target.
    """

    name: str
    type: str
    index: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict, repr=False)
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    metric_type: str = "AverageValue"
    namespace: str = "default"
    scaled_object: str = ""
    in_formula: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerReading:
    """One metric of a trigger as read now.

    Attributes:
        metric: Its name, without the `s<index>-` that KEDA puts before it.
        value: What was read; for an HPA, the sum over all replicas.
        target: Value per replica (in all for `Value`), > 0.
        active: Whether the target has to run at all.
    """

    metric: str
    value: float
    target: float
    active: bool
