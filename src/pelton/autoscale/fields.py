"""A mapping of a policy file, read field by field, so that all problems are found in one go.

Used by `autoscale/policy.py` alone. Quantities and durations are those of Kubernetes and Go. Pure.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from pelton.quantity import parse_duration, parse_quantity

__all__ = ["Fields"]

_MOST = 2**31 - 1


class Fields:
    """One mapping; wrong fields become problems.

    Args:
        data: Parsed YAML; None for an absent mapping.
        path: Where it is, "" for the top.
        problems: Takes (path, message).
    """

    def __init__(self, data: Any, path: str, problems: list[tuple[str, str]]) -> None:
        self.path, self.problems = path, problems
        if data is not None and not isinstance(data, dict):
            problems.append((path, "must be a mapping"))
            data = {}
        self.data: dict[Any, Any] = data or {}

    def at(self, name: str) -> str:
        """Return the path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def refuse(self, name: str, message: str) -> None:
        """Note what is wrong with a field."""
        self.problems.append((self.at(name), message))

    def only(self, *known: str) -> None:
        """Refuse fields that are not known."""
        for key in self.data:
            if key not in known:
                self.refuse(str(key), f"is not known; there are: {', '.join(known)}")

    def sub(self, name: str) -> Fields:
        """Return a mapping inside; an empty one when it is absent."""
        return Fields(self.data.get(name), self.at(name), self.problems)

    def has(self, name: str) -> bool:
        """Return whether a field is there and not null."""
        return self.data.get(name) is not None

    def items(self, name: str) -> list[Fields]:
        """Return the mappings of a list; none when it is absent."""
        value = self.data.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.refuse(name, "must be a list")
            return []
        return [Fields(item, f"{self.at(name)}[{index}]", self.problems) for index, item in enumerate(value)]

    def whole(self, name: str, default: int, low: int, high: int = _MOST) -> int:
        """Return a whole number within [low, high], or the default when it is absent or wrong."""
        value = self.data.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            upper = f" to {high}" if high != _MOST else " or more"
            self.refuse(name, f"{value!r} is not a whole number from {low}{upper}")
            return default
        return value

    def text(self, name: str, default: str, *choices: str) -> str:
        """Return a text, one of the choices if there are any, or the default when it is absent or wrong."""
        value = self.data.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or (choices and value not in choices):
            self.refuse(name, f"{value!r} is not {' or '.join(choices) or 'a text'}")
            return default
        return value

    def quantity(self, name: str) -> float | None:
        """Return a positive quantity, or None when it is absent or wrong."""
        value = self.data.get(name)
        if value is None:
            return None
        number = _quantity(value)
        if number is None or number <= 0:
            self.refuse(name, f"{value!r} is not a quantity above 0")
            return None
        return number

    def number(self, name: str, default: float, low: float) -> float:
        """Return a quantity of at least `low`, or the default when it is absent or wrong."""
        value = self.data.get(name)
        if value is None:
            return default
        number = _quantity(value)
        if number is None or number < low:
            self.refuse(name, f"{value!r} is not a number, {low:g} or more")
            return default
        return number

    def seconds(self, name: str, default: float) -> float:
        """Return a duration above 0 in seconds, or the default when it is absent or wrong."""
        value = self.data.get(name)
        if value is None:
            return default
        try:
            number = parse_duration(str(value))
        except ValueError:
            number = 0.0
        if number <= 0:
            self.refuse(name, f"{value!r} is not a duration above 0s, such as 1m or 30s")
            return default
        return number


def _quantity(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if isfinite(value) else None
    try:
        return float(parse_quantity(str(value).strip()))
    except ValueError:
        return None
