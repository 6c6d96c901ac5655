"""Settings of Knative's autoscaler: names, ranges and how they join into a policy. One table for all readers.

`plan/scaling` reads a Function's annotations with it, `autoscale/policy` those of a policy file. Reading
collects problems, each with the accepted range, instead of raising.

Source: contracts, autoscaling section 6.1 and 6.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import floor, isfinite

from pelton.model.scaling import MIN_TARGET, KpaPolicy
from pelton.quantity import parse_duration

__all__ = [
    "ANNOTATIONS",
    "CONFIG",
    "DOMAIN",
    "HPA_CLASS",
    "KPA_CLASS",
    "KPA_METRICS",
    "OWN_DOMAIN",
    "OWN_SETTINGS",
    "Setting",
    "Settings",
    "check_bounds",
    "kpa_policy",
    "panic_window_s",
    "read_config",
]

DOMAIN = "autoscaling.knative.dev/"
OWN_DOMAIN = "pelton.dev/"
KPA_CLASS = "kpa.autoscaling.knative.dev"
HPA_CLASS = "hpa.autoscaling.knative.dev"
_HOUR_S = 3600.0
_MOST = 2**31 - 1
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a text is read.

    Attributes:
        kind: `whole`, `number`, `seconds`, `whole-seconds`, `flag` or `text`.
        low, high: Inclusive bounds of whole numbers, numbers and seconds.
        also: A value outside the bounds that is accepted as well.
        above: Whether `low` itself is refused.
        choices: For `text`: what is accepted; empty for anything.
        say: The range in words.
    """

    kind: str
    say: str
    low: float = 0.0
    high: float = float(_MOST)
    also: float | None = None
    above: bool = False
    choices: tuple[str, ...] = ()

    def read(self, text: str) -> float | bool | str:
        """Return the value.

        Raises:
            ValueError: The text is not of that kind, or out of range.
        """
        if self.kind == "text":
            if self.choices and text not in self.choices:
                raise ValueError(text)
            return text
        if self.kind == "flag":
            return _flag(text)
        value = _numeric(self.kind, text)
        if value == self.also:
            return value
        low = value > self.low if self.above else value >= self.low
        if not (isfinite(value) and low and value <= self.high):
            raise ValueError(text)
        return value


def _flag(text: str) -> bool:
    lowered = text.lower()
    if lowered not in ("true", "false"):
        raise ValueError(text)
    return lowered == "true"


def _numeric(kind: str, text: str) -> float:
    if kind in ("seconds", "whole-seconds"):
        value = parse_duration(text)
        if kind == "whole-seconds" and value != int(value):
            raise ValueError(text)
        return value
    pattern = _WHOLE if kind == "whole" else _NUMBER
    if not pattern.fullmatch(text):
        raise ValueError(text)
    return int(text) if kind == "whole" else float(text)


_WINDOW = Setting(kind="whole-seconds", low=6, high=_HOUR_S, say="whole seconds from 6s to 1h")
_UP_TO_HOUR = Setting(kind="seconds", high=_HOUR_S, say="a duration from 0s to 1h")
_DELAY = Setting(kind="whole-seconds", high=_HOUR_S, say="whole seconds from 0s to 1h")
_COUNT = Setting(kind="whole", say="a whole number, 0 or more")
_BURST = Setting(kind="number", also=-1.0, high=1e9, say="a number, 0 or more, or -1 for no bound")
_RATE = Setting(kind="number", low=1.0, above=True, high=1e9, say="a number above 1")
_TARGET = Setting(kind="number", low=MIN_TARGET, high=1e9, say="a number, 0.01 or more")

ANNOTATIONS: Mapping[str, Setting] = {
    "class": Setting(kind="text", choices=(KPA_CLASS, HPA_CLASS), say=f"{KPA_CLASS} or {HPA_CLASS}"),
    "metric": Setting(kind="text", say="concurrency or rps"),
    "metric-aggregation-algorithm": Setting(
        kind="text", choices=("linear", "weighted-exponential"), say="linear or weighted-exponential"
    ),
    "target": _TARGET,
    "target-utilization-percentage": Setting(
        kind="number", low=1, high=100, say="a percentage from 1 to 100"
    ),
    "target-burst-capacity": _BURST,
    "window": _WINDOW,
    "panic-window-percentage": Setting(kind="number", low=1, high=100, say="a percentage from 1 to 100"),
    "panic-threshold-percentage": Setting(
        kind="number", low=110, high=1000, say="a percentage from 110 to 1000"
    ),
    "scale-down-delay": _DELAY,
    "scale-to-zero-pod-retention-period": _UP_TO_HOUR,
    "min-scale": _COUNT,
    "max-scale": _COUNT,
    "initial-scale": _COUNT,
    "activation-scale": Setting(kind="whole", low=2, say="a whole number, 2 or more"),
}
"""Annotations below DOMAIN, by kebab-case name; `minScale` and the like are aliases."""

CONFIG: Mapping[str, Setting] = {
    "pod-autoscaler-class": ANNOTATIONS["class"],
    "container-concurrency-target-default": _TARGET,
    "container-concurrency-target-percentage": Setting(
        kind="number",
        low=0,
        above=True,
        high=100,
        say="a percentage up to 100, or a fraction up to 1, above 0",
    ),
    "requests-per-second-target-default": _TARGET,
    "target-burst-capacity": _BURST,
    "stable-window": _WINDOW,
    "panic-window-percentage": Setting(
        kind="number", low=0, above=True, high=100, say="a percentage up to 100 that gives 1s of the window"
    ),
    "panic-threshold-percentage": Setting(kind="number", low=0, above=True, high=1e9, say="a number above 0"),
    "max-scale-up-rate": _RATE,
    "max-scale-down-rate": _RATE,
    "enable-scale-to-zero": Setting(kind="flag", say="true or false"),
    "scale-to-zero-grace-period": Setting(
        kind="seconds", low=0, above=True, high=1e9, say="a duration above 0s"
    ),
    "scale-to-zero-pod-retention-period": Setting(kind="seconds", high=1e9, say="a duration, 0s or more"),
    "scale-down-delay": Setting(kind="whole-seconds", high=1e9, say="whole seconds, 0s or more"),
    "initial-scale": _COUNT,
    "allow-zero-initial-scale": Setting(kind="flag", say="true or false"),
    "min-scale": _COUNT,
    "max-scale": _COUNT,
    "max-scale-limit": _COUNT,
    "activator-capacity": Setting(kind="number", low=1, high=1e9, say="a number, 1 or more"),
}
"""Keys of the ConfigMap config-autoscaler."""


OWN_SETTINGS: Mapping[str, Setting] = {
    "spare-instances": Setting(kind="whole", high=1000, say="a whole number from 0 to 1000"),
    "cooldown": Setting(kind="seconds", high=86400, say="a duration from 0s to 24h"),
}
"""Pelton's own annotations on scaling, below OWN_DOMAIN."""


def alias(name: str) -> str:
    """Return the camelCase spelling of an annotation's name."""
    head, *tail = name.split("-")
    return head + "".join(part.capitalize() for part in tail)


class Settings:
    """Annotations in layers, read with range checks; remembers problems and where each came from.

    Args:
        layers: (field path of the mapping, mapping), highest precedence first.
        table: Name -> Setting.
        prefix: What stands before each name in the mappings.
    """

    def __init__(
        self,
        *layers: tuple[str, Mapping[str, str]],
        table: Mapping[str, Setting] = ANNOTATIONS,
        prefix: str = DOMAIN,
    ) -> None:
        self._layers = layers
        self._table = table
        self._prefix = prefix
        self.problems: list[tuple[str, str]] = []

    def find(self, name: str) -> tuple[str, str] | None:
        """Return (text, field path) of a setting by its kebab-case name or camelCase alias, or None."""
        for path, mapping in self._layers:
            for key in (f"{self._prefix}{name}", f"{self._prefix}{alias(name)}"):
                if key in mapping:
                    return mapping[key].strip(), f"{path}[{key}]"
        return None

    def value(self, name: str, *, setting: Setting | None = None) -> float | bool | str | None:
        """Return a value; None when absent or wrong, and then it is a problem."""
        found = self.find(name)
        if found is None:
            return None
        text, path = found
        setting = setting or self._table[name]
        try:
            return setting.read(text)
        except ValueError:
            self.problems.append((path, f'"{text}" is not {setting.say}'))
            return None

    def number(self, name: str, default: float, *, setting: Setting | None = None) -> float:
        """Return a number, or the default when it is absent or wrong."""
        value = self.value(name, setting=setting)
        return default if value is None else float(value)

    def whole(self, name: str, default: int) -> int:
        """Return a whole number, or the default when it is absent or wrong."""
        return int(self.number(name, default))

    def text(self, name: str, default: str, *choices: str) -> str:
        """Return a text, or the default when it is absent or none of the choices."""
        setting = Setting(kind="text", choices=choices, say=" or ".join(choices)) if choices else None
        value = self.value(name, setting=setting)
        return default if value is None else str(value)

    def refuse(self, name: str, message: str) -> None:
        """Note a problem of a setting that is there."""
        found = self.find(name)
        self.problems.append((found[1] if found else f"{self._prefix}{name}", message))

    def unknown(self) -> Iterator[tuple[str, str]]:
        """Yield (field path, name) of keys below the prefix that are not in the table."""
        known = {spelling for name in self._table for spelling in (name, alias(name))}
        for path, mapping in self._layers:
            for key in mapping:
                name = key.removeprefix(self._prefix)
                if key.startswith(self._prefix) and name not in known:
                    yield f"{path}[{key}]", name


def panic_window_s(window_s: float, percentage: float) -> int:
    """Return the panic window in whole seconds, at least 1, halves rounded up.

    Args:
        window_s: Stable window, seconds.
        percentage: Panic window as percent of it.
    """
    return max(1, floor(window_s * percentage / 100.0 + 0.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What config-autoscaler says: defaults of annotations, and what has no annotation."""

    concurrency_target: float = 100.0
    concurrency_utilization: float = 0.7
    rps_target: float = 200.0
    allow_zero_initial: bool = False
    max_scale_limit: int = 0
    panic_window_percentage: float = 10.0
    autoscaler_class: str = KPA_CLASS
    policy: KpaPolicy = field(default_factory=KpaPolicy)


RPS_UTILIZATION = 0.7
KPA_METRICS = ("concurrency", "rps")


def read_config(settings: Settings) -> Defaults:
    """Read config-autoscaler; problems stay with `settings`, whose table is CONFIG."""
    base = KpaPolicy()
    share = settings.number("container-concurrency-target-percentage", 70.0)
    share = share / 100.0 if share > 1.0 else share
    window_s = settings.number("stable-window", base.window_s)
    panic_percentage = settings.number("panic-window-percentage", 10.0)
    allow_zero = settings.value("allow-zero-initial-scale") is True
    initial = settings.whole("initial-scale", 1)
    low, high = settings.whole("min-scale", 0), settings.whole("max-scale", 0)
    limit = settings.whole("max-scale-limit", 0)
    target = settings.number("container-concurrency-target-default", 100.0)
    if window_s * panic_percentage / 100.0 < 1.0:
        least = 100.0 / window_s
        settings.refuse("panic-window-percentage", f"{panic_percentage:g} is not within {least:g} to 100")
    if initial == 0 and not allow_zero:
        settings.refuse("initial-scale", "0 is only accepted with allow-zero-initial-scale: true")
    if 0 < high < low:
        settings.refuse("max-scale", f"{high} is below min-scale {low}")
    if limit and not 0 < high <= limit:
        settings.refuse("max-scale", f"{high} is not within 1 to {limit}, the max-scale-limit")
    if target * share < MIN_TARGET:
        settings.refuse("container-concurrency-target-percentage", "gives a target below 0.01")
    policy = KpaPolicy(
        min_scale=low,
        max_scale=high,
        initial_scale=initial,
        window_s=int(window_s),
        panic_threshold=settings.number("panic-threshold-percentage", 200.0) / 100.0,
        max_scale_up_rate=settings.number("max-scale-up-rate", base.max_scale_up_rate),
        max_scale_down_rate=settings.number("max-scale-down-rate", base.max_scale_down_rate),
        scale_down_delay_s=settings.number("scale-down-delay", 0.0),
        retention_s=settings.number("scale-to-zero-pod-retention-period", 0.0),
        grace_s=settings.number("scale-to-zero-grace-period", base.grace_s),
        target_burst_capacity=settings.number("target-burst-capacity", base.target_burst_capacity),
        activator_capacity=settings.number("activator-capacity", base.activator_capacity),
        scale_to_zero=settings.value("enable-scale-to-zero") is not False,
    )
    return Defaults(
        concurrency_target=target,
        concurrency_utilization=share,
        rps_target=settings.number("requests-per-second-target-default", 200.0),
        allow_zero_initial=allow_zero,
        max_scale_limit=limit,
        panic_window_percentage=panic_percentage,
        autoscaler_class=settings.text("pod-autoscaler-class", KPA_CLASS),
        policy=policy,
    )


def kpa_policy(settings: Settings, defaults: Defaults, *, container_concurrency: int = 0) -> KpaPolicy:
    """Join annotations with the defaults; problems stay with `settings`, whose table is ANNOTATIONS.

    Args:
        settings: The revision's annotations.
        defaults: From `read_config`.
        container_concurrency: Hard limit per instance; 0 for none.
    """
    base = defaults.policy
    metric = settings.text("metric", "concurrency", *KPA_METRICS)
    total, utilization = _target(settings, defaults, metric, container_concurrency)
    window_s = settings.number("window", base.window_s)
    low, high = settings.whole("min-scale", base.min_scale), settings.whole("max-scale", base.max_scale)
    initial = settings.whole("initial-scale", base.initial_scale)
    activation = settings.whole("activation-scale", 1)
    check_bounds(settings, low=low, high=high, activation=activation, limit=defaults.max_scale_limit)
    if settings.find("initial-scale") and initial == 0 and not defaults.allow_zero_initial:
        settings.refuse("initial-scale", "0 is only accepted with allow-zero-initial-scale: true")
    percentage = settings.number("panic-window-percentage", defaults.panic_window_percentage)
    return KpaPolicy(
        min_scale=low,
        max_scale=high,
        initial_scale=initial,
        activation_scale=activation,
        metric=metric,
        total=total,
        utilization=utilization,
        window_s=int(window_s),
        panic_window_s=panic_window_s(window_s, percentage),
        panic_threshold=settings.number("panic-threshold-percentage", base.panic_threshold * 100.0) / 100.0,
        max_scale_up_rate=base.max_scale_up_rate,
        max_scale_down_rate=base.max_scale_down_rate,
        scale_down_delay_s=settings.number("scale-down-delay", base.scale_down_delay_s),
        retention_s=settings.number("scale-to-zero-pod-retention-period", base.retention_s),
        grace_s=base.grace_s,
        target_burst_capacity=settings.number("target-burst-capacity", base.target_burst_capacity),
        activator_capacity=base.activator_capacity,
        scale_to_zero=base.scale_to_zero,
        aggregation=settings.text("metric-aggregation-algorithm", "linear"),
    )


def check_bounds(settings: Settings, *, low: int, high: int, activation: int, limit: int = 0) -> None:
    """Note the problems that bounds have with each other."""
    if 0 < high < low:
        settings.refuse("max-scale", f"{high} is below min-scale {low}")
    if limit and settings.find("max-scale") and not 0 < high <= limit:
        settings.refuse("max-scale", f"{high} is not within 1 to {limit}, the max-scale-limit")
    if activation > 1 and (activation < low or 0 < high < activation):
        settings.refuse(
            "activation-scale", f"{activation} is not within min-scale {low} and max-scale {high}"
        )


def _target(
    settings: Settings, defaults: Defaults, metric: str, container_concurrency: int
) -> tuple[float, float]:
    """Return (total, utilization)."""
    wanted = settings.value("target")
    if metric == "rps":
        total, utilization = defaults.rps_target, RPS_UTILIZATION
        total = total if wanted is None else float(wanted)
    else:
        total = float(container_concurrency or defaults.concurrency_target)
        utilization = defaults.concurrency_utilization
        if wanted is not None:
            total = min(float(wanted), container_concurrency) if container_concurrency else float(wanted)
    percentage = settings.value("target-utilization-percentage")
    return total, utilization if percentage is None else float(percentage) / 100.0
