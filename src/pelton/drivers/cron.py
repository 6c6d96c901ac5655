"""The clock as a source of events: `bindings.cron` (contracts, Dapr components, section 4).

Implements `ports.Bus` for one schedule: each due time is one delivery. There is no catch-up for times that
passed while nobody listened. An event that was given back is delivered again while the process lives.
"""

from __future__ import annotations

import asyncio
import heapq
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from croniter import croniter

from pelton.clock import Clock, rfc3339
from pelton.errors import ComponentError, DeliveryError
from pelton.ports import Delivery, Message
from pelton.quantity import parse_duration

__all__ = ["CronBus", "next_time"]

_ZONE: Final = re.compile(r"(?:CRON_)?TZ=(\S+)\s+")
_EVERY: Final = re.compile(r"@every\s+(\S+)$")
_PENDING_LIMIT: Final = 1000
"""Unfinished events of one schedule; beyond that new ones are dropped and counted."""


def next_time(schedule: str, after: datetime) -> datetime:
    """Return the first due time after a moment (UTC).

    Args:
        schedule: `@every 10s`, `@hourly` and kin, five fields, or six with seconds first; fields are in UTC
            unless `TZ=Europe/Berlin` or `CRON_TZ=...` comes before them.
        after: The moment.

    Raises:
        ComponentError: It is not a schedule.
    """
    text = schedule.strip()
    every = _EVERY.match(text)
    if every:
        try:
            seconds = parse_duration(every[1])
        except ValueError as exc:
            raise _not_a_schedule(schedule, str(exc)) from exc
        if seconds < 1:
            raise _not_a_schedule(schedule, "the interval is shorter than one second")
        return after + timedelta(seconds=seconds)
    zone = _ZONE.match(text)
    try:
        begin = after.astimezone(ZoneInfo(zone[1])) if zone else after
        fields = text[zone.end() :] if zone else text
        found: datetime = croniter(fields, begin, second_at_beginning=True).get_next(datetime)
    except (ValueError, KeyError, TypeError) as exc:
        raise _not_a_schedule(schedule, str(exc)) from exc
    return found.astimezone(UTC)


def _not_a_schedule(schedule: str, why: str) -> ComponentError:
    return ComponentError(
        f"{schedule!r} is not a schedule: {why}",
        hint="for example `@every 10s`, `*/5 * * * *`, or with seconds first `30 */5 * * * *`",
    )


class _Tick:
    """One due time, held by the subscriber; see `ports.Delivery`."""

    def __init__(self, bus: CronBus, moment: datetime) -> None:
        self._bus = bus
        self.moment = moment
        self.key = f"cron:{int(moment.timestamp())}"
        headers = {"readTimeUTC": rfc3339(moment), "timeZone": "UTC"}
        self.message = Message(topic="", data=b"", headers=headers)

    async def ack(self) -> None:
        """Finish it."""
        self._bus._finish(self)

    async def nak(self, delay_s: float) -> None:
        """Give it back for `delay_s` seconds."""
        self._bus._again(self, delay_s)

    async def term(self) -> None:
        """Finish it without success."""
        self._bus._finish(self)

    async def extend(self) -> None:
        """Do nothing: a schedule does not redeliver by itself."""


class CronBus:
    """One schedule.

    Args:
        metadata: The component's; `schedule` is required, keys in any case.
        clock: Time.
        where: For messages.
    """

    def __init__(self, metadata: Mapping[str, str], *, clock: Clock, where: str = "") -> None:
        self._schedule = {key.lower(): value for key, value in metadata.items()}.get("schedule", "")
        if not self._schedule:
            raise ComponentError("metadata `schedule` is required", where=where, hint="e.g. `@every 10s`")
        self._clock = clock
        self._where = where
        self._due: list[tuple[float, int, _Tick]] = []
        self._order = 0
        self._open: dict[str, _Tick] = {}
        self._changed = asyncio.Event()
        self.dropped = 0
        next_time(self._schedule, clock.now())

    async def publish(self, message: Message) -> None:
        """Refuse: nothing can be published to a clock."""
        raise DeliveryError("a schedule takes no events", retriable=False, where=self._where)

    async def pending(self, topic: str, *, consumer: str) -> int:
        """Return due times that are not finished."""
        return len(self._open)

    async def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate over due times, each alone; see `ports.Bus`."""
        moment = next_time(self._schedule, self._clock.now())
        while True:
            now = self._clock.now()
            if now >= moment:
                self._offer(_Tick(self, moment))
                moment = next_time(self._schedule, max(now, moment))
            ready = self._take()
            if ready:
                yield ready
                continue
            waits = [(moment - now).total_seconds()]
            if self._due:
                waits.append(self._due[0][0] - self._clock.monotonic())
            self._changed.clear()
            first = (self._changed.wait(), self._clock.sleep(max(0.0, min(waits))))
            either = [asyncio.ensure_future(each) for each in first]
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in either:
                    each.cancel()

    def _offer(self, tick: _Tick) -> None:
        if len(self._open) >= _PENDING_LIMIT:
            self.dropped += 1
            return
        self._open[tick.key] = tick
        self._again(tick, 0.0)

    def _again(self, tick: _Tick, delay_s: float) -> None:
        self._order += 1
        heapq.heappush(self._due, (self._clock.monotonic() + delay_s, self._order, tick))
        self._changed.set()

    def _take(self) -> list[Delivery]:
        now, taken = self._clock.monotonic(), list[Delivery]()
        while self._due and self._due[0][0] <= now:
            taken.append(heapq.heappop(self._due)[2])
        return taken

    def _finish(self, tick: _Tick) -> None:
        self._open.pop(tick.key, None)
