"""Numbers as Kubernetes writes them: Go durations (`1m30s`) and resource quantities (`512Mi`, `250m`).

Used by `manifest/` when it reads and writes fields, and by whoever meets such text at run time (annotations).
Pure; imports nothing of Pelton. Source of the grammars: Go's time package, Kubernetes' resource quantities.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

__all__ = ["format_duration", "parse_bytes", "parse_duration", "parse_quantity", "parse_seconds"]

_UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, the one Go prints
    "μs": 1_000,  # U+03BC, the Greek letter that some keyboards give
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?([a-zµμ]+)")
_MAX_NS = 2**63 - 1  # Go keeps a duration in a signed 64-bit count of nanoseconds

_QUANTITY = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))([eE][+-]?[0-9]+|[KMGTPE]i|[numkMGTPE]?)")
_SUFFIX = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}


def parse_duration(text: str) -> float:
    """Read a Go duration.

    Args:
        text: One or more numbers with a unit, e.g. `1h30m`, `1.5s`, `-300ms`; a bare `0` too.

    Returns:
        Seconds, negative when the text has a minus sign.

    Raises:
        ValueError: The text is no duration or does not fit Go's range (about 292 years).
    """
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0.0
    total = 0
    position = 0
    while position < len(rest):
        match = _PART.match(rest, position)
        if match is None or not (match[1] or match[2]) or match[3] not in _UNIT_NS:
            raise ValueError(_not_a_duration(text))
        unit = _UNIT_NS[match[3]]
        total += int(match[1] or 0) * unit
        if match[2]:
            total += int(match[2]) * unit // 10 ** len(match[2])
        position = match.end()
    if position == 0 or total > _MAX_NS:
        raise ValueError(_not_a_duration(text))
    return (-total if text[0] == "-" else total) / 1e9


def _not_a_duration(text: str) -> str:
    return f'"{text}" is not a duration: write numbers with units, such as "30s", "5m0s" or "1h"'


def format_duration(seconds: float) -> str:
    """Write seconds as Go prints a duration: 90 -> `1m30s`, 0.0015 -> `1.5ms`, 0 -> `0s`.

    Nanoseconds are exact up to about 100 days, since a float has 53 bits.
    """
    total = round(seconds * 1e9)
    if total == 0:
        return "0s"
    sign = "-" if total < 0 else ""
    total = abs(total)
    if total < _UNIT_NS["s"]:
        unit = next(name for name in ("ms", "µs", "ns") if total >= _UNIT_NS[name])
        return f"{sign}{_decimal(total, _UNIT_NS[unit])}{unit}"
    minutes, below = divmod(total, _UNIT_NS["m"])
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(below, _UNIT_NS['s'])}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else f"{sign}{text}"


def _decimal(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    if not part:
        return str(whole)
    digits = str(part).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}"


def parse_seconds(text: str) -> float:
    """Read a duration that annotations hold: plain seconds (`30`, `1.5`), or a Go duration; not negative.

    Raises:
        ValueError: It is neither.
    """
    plain = text.isascii() and text.replace(".", "", 1).isdecimal()
    seconds = float(text) if plain else parse_duration(text)
    if seconds < 0:
        raise ValueError(f'"{text}" is negative')
    return seconds


def parse_quantity(text: str) -> Decimal:
    """Read a Kubernetes quantity exactly: `512Mi` -> 536870912, `250m` -> 0.25, `1e3` -> 1000.

    Raises:
        ValueError: The text is no quantity.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(
            f'"{text}" is not a quantity: write a number with a suffix, such as "512Mi" or "250m"'
        )
    number, suffix = match.groups()
    if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei":
        return Decimal(f"{number}{suffix}")
    return Decimal(number) * _SUFFIX[suffix]


def parse_bytes(text: str) -> int:
    """Read a quantity of memory or storage as whole bytes, rounded up as Kubernetes does.

    Raises:
        ValueError: The text is no quantity.
    """
    return int(parse_quantity(text).to_integral_value(rounding=ROUND_CEILING))
