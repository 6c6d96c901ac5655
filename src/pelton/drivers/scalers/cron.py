"""Scaler `cron`: reads the clock. Implements `ports.Scaler`; see `autoscale/scalers/cron.py`."""

from __future__ import annotations

from collections.abc import Sequence

from pelton.autoscale.scalers.cron import CronScaling, measure
from pelton.clock import Clock
from pelton.model.scaler import ScalerReading

__all__ = ["CronScaler"]


class CronScaler:
    """A window of time.

    Args:
        settings: Of the trigger.
        clock: Time.
        where: Unused: nothing can fail but the settings.
    """

    def __init__(self, settings: CronScaling, *, clock: Clock, where: str) -> None:
        del where
        self._settings = settings
        self._clock = clock

    async def read(self) -> Sequence[ScalerReading]:
        """Return whether the window is open; see `ports.Scaler`."""
        return [measure(self._settings, self._clock.now())]

    async def close(self) -> None:
        """Do nothing."""
