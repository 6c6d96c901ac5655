"""Scalers `cpu` and `memory`: read where the replicas run, not from a server; no activation of their own.

Pure. Source: KEDA, pkg/scalers/cpu_memory_scaler.go (contracts, autoscaling section 4.8).
"""

from __future__ import annotations

from dataclasses import dataclass

from pelton.autoscale.scalers.parameters import Parameters
from pelton.quantity import parse_quantity

__all__ = ["ResourceScaling", "read_resource"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceScaling:
    """Settings: which resource of which container ("" for all), and percent or amount per replica."""

    resource: str
    metric_type: str
    target: float
    container: str = ""


def read_resource(found: Parameters) -> ResourceScaling:
    """Read a trigger's metadata; problems are left in `found`."""
    trigger = found.trigger
    if trigger.metadata.get("type"):
        found.refuse("metadata type has been removed: write metricType beside type")
    if trigger.metric_type not in ("Utilization", "AverageValue"):
        found.refuse(f"metricType must be Utilization or AverageValue for {trigger.type}")
    text = found.required("value")
    target = 1.0
    if text:
        try:
            target = float(parse_quantity(text))
        except ValueError:
            target = 0.0
        if target <= 0:
            found.refuse(f'value is "{text}", not a quantity greater than 0')
            target = 1.0
    return ResourceScaling(
        resource=trigger.type,
        metric_type=trigger.metric_type,
        target=target,
        container=found.text("containerName"),
    )
