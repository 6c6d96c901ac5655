"""Azure's timer schedules: NCRONTAB with six fields (or five), and intervals `hh:mm:ss`.

Pure. Detection (`found.py`) turns a schedule into the platform's cron form, `values.py` asks for the next due
time. Differences from cron that matter: seconds come first, 0 is Sunday, `5/15` goes to the end of the field,
a range the wrong way round is swapped, and a day has to satisfy day-of-month *and* day-of-week.
Source: `faas-conventions` contract, section 3.1; NCrontab (field syntax).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

__all__ = ["Schedule", "ScheduleError", "parse"]

_NAMES: Final = (
    (),
    (),
    (),
    (),
    (
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ),
    ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"),
)
_FIELDS: Final = (
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day", 1, 31),
    ("month", 1, 12),
    ("weekday", 0, 6),
)
_INTERVAL: Final = re.compile(r"(?:(\d{1,4})\.)?(\d{1,2}):(\d{1,2}):(\d{1,2})")
_MOST_DAYS: Final = 366 * 41
"""29 February on one given weekday comes at least every 40 years."""


class ScheduleError(ValueError):
    """What was written is no schedule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a timer is due, in UTC.

    Attributes:
        fields: Six sorted tuples of allowed numbers: second, minute, hour, day (1-31), month (1-12), weekday
            (0 = Sunday); () for an interval.
        every_s: Seconds between two due times of an interval; 0 for a schedule with fields.
    """

    fields: tuple[tuple[int, ...], ...] = ()
    every_s: int = 0

    @property
    def both_days(self) -> bool:
        """Whether days of the month and weekdays are both restricted, which cron joins by "or"."""
        return bool(self.fields) and len(self.fields[3]) < 31 and len(self.fields[5]) < 7

    def cron(self) -> str:
        """Return it as the platform's cron drivers read it: six fields, or `@every <n>s`."""
        if self.every_s:
            return f"@every {self.every_s}s"
        shown = [_shown(field, low, high) for field, (_, low, high) in zip(self.fields, _FIELDS, strict=True)]
        return " ".join(shown)

    def includes_day(self, moment: datetime) -> bool:
        """Return whether it can be due on the moment's day."""
        if not self.fields:
            return True
        _, _, _, days, months, weekdays = self.fields
        return moment.day in days and moment.month in months and (moment.weekday() + 1) % 7 in weekdays

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first due time after a moment; None when there is none (30 February)."""
        if self.every_s:
            return moment + timedelta(seconds=self.every_s)
        seconds, minutes, hours = self.fields[:3]
        start = moment.replace(microsecond=0) + timedelta(seconds=1)
        day = start.replace(hour=0, minute=0, second=0)
        for _ in range(_MOST_DAYS):
            if self.includes_day(day):
                for hour in hours:
                    if day.date() == start.date() and hour < start.hour:
                        continue
                    for minute in minutes:
                        for second in seconds:
                            found = day.replace(hour=hour, minute=minute, second=second)
                            if found >= start:
                                return found
            day += timedelta(days=1)
        return None


def _shown(field: tuple[int, ...], low: int, high: int) -> str:
    if len(field) == high - low + 1:
        return "*"
    step = field[1] - field[0] if len(field) > 1 else 0
    if step > 1 and len(field) > 2 and field == tuple(range(low, high + 1, step)):
        return f"*/{step}"
    parts: list[str] = []
    start = previous = field[0]
    for number in (*field[1:], -1):
        if number == previous + 1:
            previous = number
            continue
        parts.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = number
    return ",".join(parts)


def parse(text: str) -> Schedule:
    """Read a schedule.

    Args:
        text: Six fields (five: second 0), or an interval `hh:mm:ss` or `d.hh:mm:ss`.

    Raises:
        ScheduleError: It is neither; the message says which part.
    """
    interval = _INTERVAL.fullmatch(text.strip())
    if interval:
        days, hours, minutes, seconds = (int(part or 0) for part in interval.groups())
        total = days * 86_400 + hours * 3600 + minutes * 60 + seconds
        if hours > 23 or minutes > 59 or seconds > 59 or not total:
            raise ScheduleError(f"{text!r} is not an interval: expected hh:mm:ss, more than zero")
        return Schedule(every_s=total)
    parts = text.split()
    if len(parts) == 5:
        parts.insert(0, "0")
    if len(parts) != 6:
        raise ScheduleError(
            f"{text!r} has {len(parts)} fields: expected six (second minute hour day month weekday)"
        )
    return Schedule(fields=tuple(_field(part, index, text) for index, part in enumerate(parts)))


def _field(text: str, index: int, whole: str) -> tuple[int, ...]:
    what, low, high = _FIELDS[index]
    found: set[int] = set()
    for item in text.split(","):
        try:
            found.update(_item(item, index, low, high))
        except ScheduleError as exc:
            raise ScheduleError(f"{whole!r}: {what} {item!r}: {exc}") from None
    return tuple(sorted(found))


def _item(item: str, index: int, low: int, high: int) -> range:
    span, slash, every = item.partition("/")
    if slash and not every.isdecimal():
        raise ScheduleError("the step is not a number")
    step = max(1, int(every)) if slash else 1
    if span == "*":
        return range(low, high + 1, step)
    first, dash, last = span.partition("-")
    start = _number(first, index, low, high)
    end = _number(last, index, low, high) if dash else high if slash else start
    if start > end:
        start, end = end, start
    return range(start, end + 1, step)


def _number(text: str, index: int, low: int, high: int) -> int:
    if text.isdecimal():
        number = int(text)
        if not low <= number <= high:
            raise ScheduleError(f"expected {low} to {high}")
        return number
    for position, name in enumerate(_NAMES[index]):
        if text and name.startswith(text.lower()):
            return position + low
    raise ScheduleError(f"expected {low} to {high}" + (" or a name" if _NAMES[index] else ""))
