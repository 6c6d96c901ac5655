"""Scaler `metrics-api`: a number from any HTTP endpoint. Implements `ports.Scaler`.

Asked for all endpoints of a Service, it asks every address that the URL's host name stands for, which is what
a headless Service's name gives. See `autoscale/scalers/metrics_api.py`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from pelton.autoscale.scalers.metrics_api import MetricsApiScaling, aggregate, extract, measure
from pelton.clock import Clock
from pelton.drivers.scalers.http import HttpSource
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading

__all__ = ["MetricsApiScaler"]

_OK = 200


class MetricsApiScaler:
    """One endpoint, or all of a Service.

    Args:
        settings: Of the trigger.
        clock: Time.
        where: For messages.
    """

    def __init__(self, settings: MetricsApiScaling, *, clock: Clock, where: str) -> None:
        self._settings = settings
        self._where = where
        self._source = HttpSource(settings.login, clock=clock, where=where)

    async def read(self) -> Sequence[ScalerReading]:
        """Return the number; see `ports.Scaler`. Endpoints that fail are left out unless all do."""
        if not self._settings.endpoints:
            return [measure(self._settings, await self._one(""))]
        addresses = await self._addresses()
        results = await asyncio.gather(*(self._one(one) for one in addresses), return_exceptions=True)
        numbers = [one for one in results if isinstance(one, float)]
        if not numbers:
            raise next(one for one in results if isinstance(one, BaseException))
        return [measure(self._settings, aggregate(self._settings, numbers))]

    async def close(self) -> None:
        """Close the connections."""
        await self._source.close()

    async def _one(self, address: str) -> float:
        answer = await self._source.get(self._settings.url, address=address)
        if answer.status_code != _OK:
            raise self._source.refused(self._settings.url, answer)
        return extract(self._settings, answer.text)

    async def _addresses(self) -> list[str]:
        host = urlsplit(self._settings.url).hostname or ""
        try:
            async with asyncio.timeout(self._settings.login.timeout_s):
                found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError) as error:
            raise ScalerError(
                f"the name {host} leads to no address", where=self._where, hint="check url of the trigger"
            ) from error
        return sorted({str(one[4][0]) for one in found})
