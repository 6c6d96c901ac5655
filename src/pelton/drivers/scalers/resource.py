"""Scalers `cpu` and `memory` where nobody measures: a workload that this machine does not run.

Implements `ports.Scaler`. For Functions the node measures (`controlplane/autoscaler.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from pelton.autoscale.scalers.resource import ResourceScaling
from pelton.clock import Clock
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading

__all__ = ["ResourceScaler"]


class ResourceScaler:
    """Says that there is nothing to read.

    Args:
        settings: Of the trigger.
        clock: Unused.
        where: For messages.
    """

    def __init__(self, settings: ResourceScaling, *, clock: Clock, where: str) -> None:
        del clock
        self._settings = settings
        self._where = where

    async def read(self) -> Sequence[ScalerReading]:
        """Raise ScalerError always."""
        raise ScalerError(
            f"nothing measures the {self._settings.resource} of this workload on this machine",
            where=self._where,
            hint="use a trigger of another type here; in a cluster the metrics server gives it",
        )

    async def close(self) -> None:
        """Do nothing."""
