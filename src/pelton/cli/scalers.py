"""A scaler of a trigger: metadata read, driver found. Used by `cli/runtime.py` and `cli/scaler.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from pelton.autoscale.scalers.kafka import KafkaScaling
from pelton.autoscale.scalers.rabbitmq import RabbitMqScaling
from pelton.autoscale.scalers.table import read_settings
from pelton.cli.tables import resolve_scaler
from pelton.clock import Clock
from pelton.errors import PeltonError
from pelton.model.scaler import ScalerReading, ScalerTrigger
from pelton.plan.aliases import NO_ALIASES, Aliases
from pelton.ports import Scaler

__all__ = ["TriggerScaler", "make_scaler"]


class TriggerScaler:
    """The scaler of one trigger, whose errors always say which trigger it is.

    Attributes:
        activity: Iterates over what the other side tells by itself; None where it only answers.

    Args:
        scaler: What reads.
        where: The trigger.
    """

    def __init__(self, scaler: Scaler, where: str) -> None:
        self._scaler = scaler
        self._where = where
        self.activity: Callable[[], AsyncIterator[bool]] | None = getattr(scaler, "activity", None)

    async def read(self) -> Sequence[ScalerReading]:
        """Return the trigger's metrics; see `ports.Scaler`."""
        try:
            return await self._scaler.read()
        except PeltonError as error:
            error.where = error.where or self._where
            raise

    async def close(self) -> None:
        """Release connections."""
        await self._scaler.close()


def make_scaler(trigger: ScalerTrigger, clock: Clock, aliases: Aliases = NO_ALIASES) -> TriggerScaler:
    """Return the scaler of a trigger, not connected yet; `aliases` are applied to its addresses.

    Raises:
        ScalerError: The trigger's metadata cannot be used.
        ComponentError: The library that its driver needs is not installed.
    """
    settings = read_settings(
        replace(
            trigger,
            metadata=aliases.metadata(trigger.metadata)[0],
            params=aliases.metadata(trigger.params)[0],
        )
    )
    kind = trigger.type
    if isinstance(settings, RabbitMqScaling) and settings.http:
        kind = "rabbitmq+http"
    where = f"trigger {trigger.name} ({trigger.type})"
    made = TriggerScaler(resolve_scaler(kind)(settings, clock=clock, where=where), where)
    # Only external-push is asked to tell; which topics of a group count is known by its offsets alone.
    if trigger.type == "external" or (isinstance(settings, KafkaScaling) and not settings.topics):
        made.activity = None
    return made
