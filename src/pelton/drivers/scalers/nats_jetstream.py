"""Scaler `nats-jetstream`: pages of the server's monitoring port. Implements `ports.Scaler`.

In a cluster the consumer's leader is asked, which is found once and remembered while it leads. What the pages
mean is in `autoscale/scalers/nats_jetstream.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from pelton.autoscale.scalers.http_login import HttpLogin
from pelton.autoscale.scalers.nats_jetstream import (
    NatsJetStreamScaling,
    cluster_size,
    find_consumer,
    measure,
    neighbours,
)
from pelton.clock import Clock
from pelton.drivers.scalers.http import HttpSource
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading

__all__ = ["NatsJetStreamScaler"]


class NatsJetStreamScaler:
    """A consumer of one server or cluster.

    Args:
        settings: Of the trigger.
        clock: Time.
        where: For messages.
    """

    def __init__(self, settings: NatsJetStreamScaling, *, clock: Clock, where: str) -> None:
        self._settings = settings
        self._where = where
        self._source = HttpSource(HttpLogin(), clock=clock, where=where)
        self._leader = ""  # URL

    async def read(self) -> Sequence[ScalerReading]:
        """Return what the consumer has not finished; see `ports.Scaler`."""
        first = self._leader or self._settings.url
        try:
            waiting = await self._ask(first)
        except ScalerError:
            if not self._leader:
                raise
            self._leader = ""  # it may have moved
            waiting = await self._ask(self._settings.url)
        return [measure(self._settings, waiting)]

    async def close(self) -> None:
        """Close the connections."""
        await self._source.close()

    async def _ask(self, url: str) -> int:
        page = await self._page(url)
        if cluster_size(page) <= 1:
            return find_consumer(self._settings, page).waiting
        known = await self._source.json(f"{url}/varz")
        answer = await self._led_by(url, page, known)
        if answer is not None:
            return answer
        last: ScalerError | None = None
        for neighbour in neighbours(self._settings, known):
            try:
                other = await self._source.json(f"{neighbour}/varz")
                answer = await self._led_by(neighbour, await self._page(neighbour), other)
            except ScalerError as error:
                last = error
                continue
            if answer is not None:
                return answer
        raise last or ScalerError(
            f"no server leads the consumer {self._settings.consumer} of stream {self._settings.stream}",
            where=self._where,
            hint="wait until the cluster has chosen a leader, or check stream and consumer",
        )

    async def _led_by(self, url: str, page: Any, known: Any) -> int | None:
        """Return the count when this server leads the consumer, None when another one does."""
        try:
            consumer = find_consumer(self._settings, page)
        except ScalerError:
            return None
        if not consumer.leader or consumer.leader != known.get("server_name"):
            return None
        self._leader = url
        return consumer.waiting

    async def _page(self, url: str) -> Any:
        return await self._source.json(f"{url}{self._settings.path}{quote(self._settings.account, safe='')}")
