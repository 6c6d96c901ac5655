"""From a ScaledObject's spec to a policy, and from what scalers read to the values that it decides by.

Targets are known when a trigger has been read: an external scaler names its own. So a policy is made with
stand-ins, and `joined` puts the targets in. Called by `controlplane/trigger_targets`,
`controlplane/autoscaler` and `cli/scaler`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pelton.autoscale.hpa import Reading
from pelton.autoscale.policy import read_policy
from pelton.model.desired import Scaling
from pelton.model.scaler import ScalerReading, trigger_name
from pelton.model.scaling import KedaPolicy, TriggerTarget

__all__ = ["Readings", "active_in", "asks", "joined", "names_of", "policy_of"]

Readings = Mapping[str, Sequence[ScalerReading] | None]
"""Trigger name -> its metrics; None where it could not be read."""

_RESOURCES = ("cpu", "memory")


def names_of(triggers: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return a name per trigger as written: its own, else `s<index>-<type>`."""
    return tuple(
        trigger_name(index, str(one.get("type") or ""), str(one.get("name") or ""))
        for index, one in enumerate(triggers)
    )


def policy_of(
    spec: Mapping[str, Any], annotations: Mapping[str, str]
) -> tuple[KedaPolicy, tuple[tuple[str, str], ...]]:
    """Return the policy of a ScaledObject's spec, and (path, message) of what is wrong with it.

    Args:
        spec: As stored.
        annotations: The object's; only KEDA's count.
    """
    triggers = [one for one in spec.get("triggers") or () if isinstance(one, dict)]
    formula = bool(((spec.get("advanced") or {}).get("scalingModifiers") or {}).get("formula"))
    made = []
    for trigger, name in zip(triggers, names_of(triggers), strict=True):
        if trigger.get("type") in _RESOURCES:
            made.append({**trigger, "name": name})
            continue
        kind = {"metricType": trigger["metricType"]} if trigger.get("metricType") else {}
        made.append({"type": "external", "name": name, "metadata": {"value": "1"}, **kind})
    notes = {key: text for key, text in annotations.items() if key.startswith("autoscaling.keda.sh/")}
    whole = {**spec, "triggers": made}
    if not formula and (spec.get("advanced") or {}).get("scalingModifiers"):
        whole["advanced"] = {key: one for key, one in spec["advanced"].items() if key != "scalingModifiers"}
    read = read_policy({"algorithm": "keda", "annotations": notes, "spec": whole})
    types = {name: str(one.get("type", "")) for name, one in zip(names_of(triggers), triggers, strict=True)}
    policy = replace(
        read.keda,
        triggers=tuple(replace(one, type=types.get(one.name, one.type)) for one in read.keda.triggers),
    )
    return policy, tuple(read.problems)


def joined(policy: KedaPolicy, readings: Readings) -> tuple[KedaPolicy, dict[str, Reading | None]]:
    """Return the policy with the targets that were read, and the values to decide by.

    A trigger of several metrics becomes several, named `<trigger>/<metric>`; one that failed stays as it is.

    Args:
        policy: With stand-ins.
        readings: What is not in it was not asked yet, and has no value.
    """
    triggers: list[TriggerTarget] = []
    values: dict[str, Reading | None] = {}
    for trigger in policy.triggers:
        metrics = readings.get(trigger.name)
        if not metrics:
            triggers.append(trigger)
            if not trigger.is_resource:
                values[trigger.name] = None
            continue
        for metric in metrics:
            name = trigger.name if len(metrics) == 1 else f"{trigger.name}/{metric.metric}"
            triggers.append(replace(trigger, name=name, target=metric.target))
            values[name] = Reading(value=metric.value, active=metric.active)
    return replace(policy, triggers=tuple(triggers)), values


def active_in(readings: Readings) -> int:
    """Return how many triggers are active."""
    return sum(any(one.active for one in metrics or ()) for metrics in readings.values())


def asks(scaling: Scaling, readings: Readings | None) -> bool:
    """Return whether what scalers read may ask for an instance of a function that has none."""
    policy = scaling.triggered
    if policy is None or readings is None:
        return False
    if policy.modifiers is not None:
        return True  # only the formula knows
    failed = policy.fallback is not None and any(
        not readings.get(trigger.name) for trigger in policy.triggers if not trigger.is_resource
    )
    return failed or active_in(readings) > 0
