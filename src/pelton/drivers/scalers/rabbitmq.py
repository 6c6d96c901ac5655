"""Scaler `rabbitmq` over the management API. Implements `ports.Scaler`; over AMQP see `drivers/rabbitmq.py`.

What the numbers mean is in `autoscale/scalers/rabbitmq.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote, urlsplit, urlunsplit

from pelton.autoscale.scalers.http_login import HttpLogin
from pelton.autoscale.scalers.rabbitmq import RabbitMqScaling, combine, measure, read_queue
from pelton.clock import Clock
from pelton.drivers.scalers.http import HttpSource
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading

__all__ = ["RabbitMqManagementScaler"]

_MISSING = 404


class RabbitMqManagementScaler:
    """One queue, or all that a pattern matches.

    Args:
        settings: Of the trigger.
        clock: Time.
        where: For messages.
    """

    def __init__(self, settings: RabbitMqScaling, *, clock: Clock, where: str) -> None:
        self._settings = settings
        self._where = where
        parts = urlsplit(settings.url)
        basic = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        if settings.oauth:
            basic = None
        self._url = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "", "", ""))
        self._source = HttpSource(
            HttpLogin(
                basic=basic,
                verify=settings.verify,
                ca=settings.ca,
                certificate=settings.certificate,
                key=settings.key,
                timeout_s=settings.timeout_s,
                oauth=settings.oauth,
            ),
            clock=clock,
            where=where,
        )

    async def read(self) -> Sequence[ScalerReading]:
        """Return the mode's value; see `ports.Scaler`."""
        settings = self._settings
        url = f"{self._url}{settings.path}"
        if settings.pattern:
            page = await self._source.json(url)
            items = page.get("items") or [] if isinstance(page, dict) else page
            if isinstance(page, dict) and int(page.get("page_count") or 1) > 1:
                raise ScalerError(
                    f"{page.get('filtered_count') or 'more'} queues match, more than {settings.page_size}",
                    where=self._where,
                    hint="raise pageSize, or narrow queueName",
                )
            queues = [read_queue(settings, item) for item in items]
            return [measure(settings, combine(settings, queues))]
        answer = await self._source.get(url)
        if answer.status_code == _MISSING:
            raise ScalerError(
                f"there is no queue {settings.queue} in the virtual host {settings.vhost}",
                where=self._where,
                hint="check queueName and vhostName",
            )
        if not answer.is_success:
            raise self._source.refused(url, answer)
        return [measure(settings, read_queue(settings, answer.json()))]

    async def close(self) -> None:
        """Close the connections."""
        await self._source.close()
