"""A trigger's parameters, read one by one, so that all problems are found in one go.

A parameter is looked for in the metadata, in what a TriggerAuthentication gave, and under `<name>FromEnv`,
which names a variable of the target; empty text is as good as none. Used by the readers beside this file.

Source: KEDA, pkg/scalers/scalersconfig/typed_config.go (contracts, autoscaling section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from pelton.errors import ScalerError
from pelton.model.scaler import ScalerTrigger
from pelton.quantity import parse_duration

__all__ = ["HTTP_TIMEOUT_S", "Parameters", "metric_name", "names_of_environment"]

HTTP_TIMEOUT_S = 3.0
"""Seconds that a request of a scaler may take unless its trigger says otherwise; KEDA's default."""
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_NAME = str.maketrans(dict.fromkeys("/.:%()", "-"))


def metric_name(text: str) -> str:
    """Return a metric's name as KEDA writes it: `/ . : % ( )` become `-`."""
    return text.translate(_NAME)


class Parameters:
    """What one trigger says.

    Args:
        trigger: With everything that other objects add to it.
    """

    def __init__(self, trigger: ScalerTrigger) -> None:
        self.trigger = trigger
        self.problems: list[str] = []

    def refuse(self, message: str) -> None:
        """Note what is wrong."""
        self.problems.append(message)

    def check(self) -> None:
        """Raise ScalerError with all problems, if there are any."""
        if self.problems:
            raise ScalerError(
                "; ".join(self.problems),
                where=f"trigger {self.trigger.name} ({self.trigger.type})",
                hint="correct the trigger's metadata or its authentication; docs/reference/scalers.md lists "
                "the keys",
            )

    def text(self, *names: str, default: str = "") -> str:
        """Return the first value that is there under one of the names, trimmed."""
        trigger = self.trigger
        for name in names:
            for source in (trigger.metadata, trigger.params):
                value = source.get(name, "").strip()
                if value:
                    return value
            variable = trigger.metadata.get(f"{name}FromEnv", "").strip()
            if variable:
                value = trigger.environment.get(variable, "").strip()
                if value:
                    return value
        return default

    def required(self, *names: str) -> str:
        """Return a value that has to be there."""
        value = self.text(*names)
        if not value:
            self.refuse(self._missing(names))
        return value

    def choice(self, name: str, default: str, *known: str) -> str:
        """Return one of some words."""
        value = self.text(name, default=default)
        if value not in known:
            self.refuse(f'{name} is "{value}"; it must be one of: {", ".join(known)}')
            return default
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a truth value."""
        value = self.text(name)
        if not value:
            return default
        if value not in _TRUE and value not in _FALSE:
            self.refuse(f'{name} is "{value}", not true or false')
        return value in _TRUE

    def whole(self, name: str, default: int, low: int) -> int:
        """Return a whole number of at least `low`."""
        value = self.text(name)
        if not value:
            return default
        try:
            number = int(value)
        except ValueError:
            number = low - 1
        if number < low:
            self.refuse(f'{name} is "{value}", not a whole number from {low} up')
            return default
        return number

    def number(self, name: str, default: float | None = None, *, above: float | None = None) -> float:
        """Return a number; one that is not there and has no default is a problem.

        Args:
            name: Of the parameter.
            default: None when it is required.
            above: What it has to be greater than; None for any finite number.
        """
        value = self.text(name)
        if not value:
            if default is None:
                self.refuse(self._missing((name,)))
                return 1.0
            return default
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not isfinite(number) or (above is not None and number <= above):
            bound = "" if above is None else f" greater than {above:g}"
            self.refuse(f'{name} is "{value}", not a number{bound}')
            return 1.0 if default is None else default
        return number

    def target(self, name: str, default: float | None = None) -> float:
        """Return a value per replica, > 0; nothing has to be given where a formula stands in for it."""
        if default is None and self.trigger.in_formula and not self.text(name):
            return 1.0
        return self.number(name, default, above=0.0)

    def items(self, *names: str) -> tuple[str, ...]:
        """Return the parts of a list that is separated by commas."""
        return tuple(part.strip() for part in self.text(*names).split(",") if part.strip())

    def mapping(self, name: str) -> dict[str, str]:
        """Return `k=v,k=v` as a mapping."""
        found: dict[str, str] = {}
        for part in self.items(name):
            key, sign, value = part.partition("=")
            if not sign or not key.strip():
                self.refuse(f'{name} has "{part}", which is not key=value')
                continue
            found[key.strip()] = value.strip()
        return found

    def seconds(self, name: str, default: float) -> float:
        """Return a duration in seconds: Go's form, or milliseconds as a bare number."""
        value = self.text(name)
        if not value:
            return default
        try:
            seconds = int(value) / 1000 if value.isdecimal() else parse_duration(value)
        except ValueError:
            seconds = 0.0
        if seconds <= 0:
            self.refuse(f'{name} is "{value}", not a duration such as 5s, or milliseconds')
            return default
        return seconds

    def _missing(self, names: tuple[str, ...]) -> str:
        """Say that a parameter is missing, and which variable is if it was to come from one."""
        for name in names:
            variable = self.trigger.metadata.get(f"{name}FromEnv", "").strip()
            if variable:
                return f"{name} is required, and the variable {variable} of the target is not set"
        return f"{' or '.join(names)} is required"


def names_of_environment(metadata: Mapping[str, str]) -> frozenset[str]:
    """Return the variables that a trigger's metadata refer to."""
    return frozenset(
        value.strip() for key, value in metadata.items() if key.endswith("FromEnv") and value.strip()
    )
