"""Moments as Go's templates see them: methods of `time.Time`, and layouts written as an example.

Used by `texttemplate/go_functions.py` and by `notify/template_data.py`. Source: Go's package time, whose
layouts spell out Monday, 2 January 2006, 15:04:05.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import ClassVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pelton.texttemplate.fault import TemplateFault

__all__ = ["GoTime"]

_LAYOUT = re.compile(
    r"January|Jan|Monday|Mon|MST|2006|-07:00:00|-070000|-07:00|-0700|-07|Z07:00|Z0700|Z07|"
    r"[.,](?:0+|9+)(?!\d)|__2|002|01|02|03|04|05|06|15|PM|pm|_2|1|2|3|4|5"
)
_ZERO = datetime(1, 1, 1, tzinfo=UTC)


class GoTime:
    """A moment with the methods that templates call.

    Args:
        moment: With a zone.
        nanosecond: Fraction below the microsecond included, 0 <= n < 10**9.
    """

    GO: ClassVar[dict[str, str]] = {
        "Format": "format",
        "Unix": "unix",
        "UTC": "utc",
        "Local": "local",
        "IsZero": "is_zero",
        "Year": "year",
        "Month": "month",
        "Day": "day",
        "Hour": "hour",
        "Minute": "minute",
        "Second": "second",
        "Weekday": "weekday",
        "Before": "before",
        "After": "after",
        "Equal": "equal",
        "String": "__str__",
    }

    def __init__(self, moment: datetime, nanosecond: int | None = None) -> None:
        self.moment = moment
        self.nanosecond = moment.microsecond * 1000 if nanosecond is None else nanosecond

    @staticmethod
    def parse(text: str) -> GoTime:
        """Read RFC 3339; what is none is the zero time."""
        fraction = re.search(r"\.(\d+)", text)
        plain = text.replace(fraction[0], "", 1) if fraction else text
        try:
            moment = datetime.fromisoformat(plain)
        except ValueError:
            return GoTime(_ZERO)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        nanosecond = int(fraction[1][:9].ljust(9, "0")) if fraction else 0
        return GoTime(moment.replace(microsecond=nanosecond // 1000), nanosecond)

    def format(self, layout: str) -> str:
        """Write it as the layout does with Go's example moment."""
        return _LAYOUT.sub(lambda found: self._part(found[0]), layout)

    def unix(self) -> int:
        """Seconds since 1970."""
        return int((self.moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() // 1)

    def utc(self) -> GoTime:
        """The same moment in UTC."""
        return GoTime(self.moment.astimezone(UTC), self.nanosecond)

    def local(self) -> GoTime:
        """The same moment in the machine's zone, or as it is where that zone has no such year."""
        try:
            return GoTime(self.moment.astimezone(), self.nanosecond)
        except (OverflowError, ValueError):
            return self

    def within(self, zone: str) -> GoTime:
        """The same moment in a named zone."""
        try:
            return GoTime(self.moment.astimezone(ZoneInfo(zone)), self.nanosecond)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise TemplateFault(f"there is no time zone {zone[:60]!r}") from None
        except OverflowError:
            return self

    def is_zero(self) -> bool:
        """Whether it is Go's "no time"."""
        return self.moment == _ZERO

    def year(self) -> int:
        """The year."""
        return self.moment.year

    def month(self) -> str:
        """The month's name."""
        return f"{self.moment:%B}"

    def day(self) -> int:
        """The day of the month."""
        return self.moment.day

    def hour(self) -> int:
        """The hour."""
        return self.moment.hour

    def minute(self) -> int:
        """The minute."""
        return self.moment.minute

    def second(self) -> int:
        """The second."""
        return self.moment.second

    def weekday(self) -> str:
        """The weekday's name."""
        return f"{self.moment:%A}"

    def before(self, other: GoTime) -> bool:
        """Whether it is earlier."""
        return self.moment < other.moment

    def after(self, other: GoTime) -> bool:
        """Whether it is later."""
        return self.moment > other.moment

    def equal(self, other: GoTime) -> bool:
        """Whether it is the same moment."""
        return self.moment == other.moment

    def __str__(self) -> str:
        return self.format("2006-01-02 15:04:05.999999999 -0700 MST")

    def _part(self, token: str) -> str:
        moment = self.moment
        hour12 = (moment.hour % 12) or 12
        plain = {
            "January": f"{moment:%B}", "Jan": f"{moment:%b}", "Monday": f"{moment:%A}", "Mon": f"{moment:%a}",
            "2006": f"{moment.year:04}", "06": f"{moment.year % 100:02}", "01": f"{moment.month:02}",
            "1": str(moment.month), "02": f"{moment.day:02}", "2": str(moment.day), "_2": f"{moment.day:2}",
            "002": f"{moment:%j}", "__2": f"{int(f'{moment:%j}'):3}", "15": f"{moment.hour:02}",
            "03": f"{hour12:02}", "3": str(hour12), "04": f"{moment.minute:02}", "4": str(moment.minute),
            "05": f"{moment.second:02}", "5": str(moment.second), "PM": "AM" if moment.hour < 12 else "PM",
            "pm": "am" if moment.hour < 12 else "pm", "MST": moment.tzname() or "UTC",
        }  # fmt: skip
        if token in plain:
            return plain[token]
        if token[0] in ".,":
            digits = f"{self.nanosecond:09}"[: len(token) - 1]
            if token[1] == "9":
                digits = digits.rstrip("0")
            return token[0] + digits if digits else ""
        offset = moment.utcoffset() or timedelta()
        if token[0] == "Z" and not offset:
            return "Z"
        seconds = int(abs(offset).total_seconds())
        colon = ":" if ":" in token else ""
        text = f"{'-' if offset < timedelta() else '+'}{seconds // 3600:02}"
        if len(token) > 3:
            text += f"{colon}{seconds // 60 % 60:02}"
        return text + (f"{colon}{seconds % 60:02}" if len(token) in (7, 9) and token[0] == "-" else "")
