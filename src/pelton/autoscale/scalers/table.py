"""Scaler type -> who reads its metadata. Drivers for the types are in `cli/tables.py`. Pure.

Source: contracts, autoscaling section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pelton.autoscale.scalers.cron import read_cron
from pelton.autoscale.scalers.external import read_external
from pelton.autoscale.scalers.kafka import read_kafka
from pelton.autoscale.scalers.metrics_api import read_metrics_api
from pelton.autoscale.scalers.nats_jetstream import read_nats_jetstream
from pelton.autoscale.scalers.parameters import Parameters
from pelton.autoscale.scalers.postgresql import read_postgresql
from pelton.autoscale.scalers.prometheus import read_prometheus
from pelton.autoscale.scalers.rabbitmq import read_rabbitmq
from pelton.autoscale.scalers.redis import read_redis
from pelton.autoscale.scalers.resource import read_resource
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerTrigger

__all__ = ["READERS", "read_settings"]

READERS: Final[Mapping[str, Callable[[Parameters], Any]]] = {
    "apache-kafka": read_kafka,
    "cpu": read_resource,
    "cron": read_cron,
    "external": read_external,
    "external-push": read_external,
    "kafka": read_kafka,
    "memory": read_resource,
    "metrics-api": read_metrics_api,
    "nats-jetstream": read_nats_jetstream,
    "postgresql": read_postgresql,
    "prometheus": read_prometheus,
    "rabbitmq": read_rabbitmq,
    "redis": read_redis,
    "redis-cluster": read_redis,
    "redis-cluster-streams": read_redis,
    "redis-sentinel": read_redis,
    "redis-sentinel-streams": read_redis,
    "redis-streams": read_redis,
}
"""Type -> function that reads a trigger's parameters into settings."""


def read_settings(trigger: ScalerTrigger) -> Any:
    """Return the settings of a trigger, of the class of its type.

    Raises:
        ScalerError: The type is unknown, or its metadata have problems; all of them are named.
    """
    reader = READERS.get(trigger.type)
    if reader is None:
        raise ScalerError(
            f'there is no scaler "{trigger.type}"',
            where=f"trigger {trigger.name}",
            hint=f"there are: {', '.join(READERS)}",
        )
    found = Parameters(trigger)
    if trigger.metric_type == "Utilization" and reader is not read_resource:
        found.refuse("metricType Utilization is for cpu and memory alone")
    settings = reader(found)
    found.check()
    return settings
