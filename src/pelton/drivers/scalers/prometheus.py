"""Scaler `prometheus`: an instant query. Implements `ports.Scaler`; see `autoscale/scalers/prometheus.py`."""

from __future__ import annotations

from collections.abc import Sequence

from pelton.autoscale.scalers.prometheus import PrometheusScaling, measure
from pelton.clock import Clock, rfc3339
from pelton.drivers.scalers.http import HttpSource
from pelton.model.scaler import ScalerReading

__all__ = ["PrometheusScaler"]


class PrometheusScaler:
    """A query of one server.

    Args:
        settings: Of the trigger.
        clock: Time that the query is asked for.
        where: For messages.
    """

    def __init__(self, settings: PrometheusScaling, *, clock: Clock, where: str) -> None:
        self._settings = settings
        self._clock = clock
        self._source = HttpSource(settings.login, clock=clock, where=where)

    async def read(self) -> Sequence[ScalerReading]:
        """Return the query's value; see `ports.Scaler`."""
        parameters = {**self._settings.parameters, "time": rfc3339(self._clock.now())}
        answer = await self._source.json(f"{self._settings.url}/api/v1/query", parameters)
        return [measure(self._settings, answer)]

    async def close(self) -> None:
        """Close the connections."""
        await self._source.close()
