"""A Function's scaling: bounds, targets and windows out of scaleOptions and annotations.

Precedence: min/maxReplicas, then serving.annotations, then scaleOptions.knative (contracts, OpenFunction,
section 8.2); Knative annotations on the resource itself, which the original ignores, come last. Ranges of
values: contracts, autoscaling, section 6.1. Called by `plan/function`; read by `autoscale/`. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import TypeVar

from pelton.model.desired import Scaling
from pelton.model.function import Function, KedaOptions, ScaleOptions
from pelton.plan.problem import Problem
from pelton.quantity import parse_duration

__all__ = ["CONCURRENCY", "DOMAIN", "Annotations", "plan_scaling"]

DOMAIN = "autoscaling.knative.dev/"
CONCURRENCY = "container-concurrency"
_LAG_SCALERS = frozenset({"kafka", "apache-kafka", "nats-jetstream", "stan"})
# Accepted and without effect here: name -> what happens instead.
_UNHONOURED = {
    "metric-aggregation-algorithm": "averages are linear",
    "target-burst-capacity": "the activator joins only when no instance is ready",
}
_HTTP_TARGET, _HTTP_COOLDOWN_S = 100, 300  # defaults of KEDA's HTTP add-on

T = TypeVar("T", int, float)


class Annotations:
    """Knative's annotations of one Function, read with range checks; remembers problems and what was read.

    Args:
        layers: (field path of the mapping, mapping), highest precedence first.
    """

    def __init__(self, *layers: tuple[str, Mapping[str, str]]) -> None:
        self._layers = layers
        self.problems: list[Problem] = []

    def find(self, name: str) -> tuple[str, str] | None:
        """Return (text, field path) of an annotation by its kebab-case name or camelCase alias, or None."""
        head, *tail = name.split("-")
        alias = head + "".join(part.capitalize() for part in tail)
        for path, mapping in self._layers:
            for key in (f"{DOMAIN}{name}", f"{DOMAIN}{alias}"):
                if key in mapping:
                    return mapping[key].strip(), f"{path}[{key}]"
        return None

    def _read(self, name: str, read: Callable[[str], T], low: T, high: T, say: str) -> T | None:
        found = self.find(name)
        if found is None:
            return None
        text, path = found
        try:
            value = read(text)
        except ValueError:
            value = None
        if value is None or not isfinite(value) or not low <= value <= high:
            self.problems.append(
                Problem(reason="InvalidAnnotation", path=path, message=f'"{text}" is not {say}')
            )
            return None
        return value

    def integer(self, name: str, low: int, high: int, say: str) -> int | None:
        """Return a whole number within [low, high]; None when absent or wrong (then it is a problem)."""
        return self._read(name, int, low, high, say)

    def number(self, name: str, low: float, high: float, say: str) -> float | None:
        """Return a number within [low, high]; None as in `integer`."""
        return self._read(name, float, low, high, say)

    def seconds(self, name: str, low: float, high: float, say: str, *, whole: bool) -> float | None:
        """Return a duration in seconds within [low, high]; None as in `integer`."""

        def read(text: str) -> float:
            value = parse_duration(text)
            if whole and value != int(value):
                raise ValueError(text)
            return value

        return self._read(name, read, low, high, say)


def annotations_of(function: Function) -> Annotations:
    """Return the Knative annotations of a Function in their order of precedence."""
    serving = function.serving
    options = serving.scale_options if serving else None
    return Annotations(
        ("spec.serving.annotations", serving.annotations if serving else {}),
        ("spec.serving.scaleOptions.knative", options.knative if options else {}),
        ("metadata.annotations", function.annotations),
    )


def plan_scaling(
    function: Function, *, serial: int = 0
) -> tuple[Scaling, int, list[Problem], list[tuple[str, str]]]:
    """Return scaling, the hard concurrency limit per instance (0 = none), problems, and unhonoured fields.

    Args:
        function: With defaults filled in.
        serial: How many invocations its convention takes at once unless the Function says; 0 for any number.
    """
    notes = annotations_of(function)
    partial: list[tuple[str, str]] = []
    options = (function.serving.scale_options if function.serving else None) or ScaleOptions()
    keda = options.keda or KedaOptions()
    concurrency = notes.integer(CONCURRENCY, 0, 1000, "a whole number from 0 to 1000") or serial
    values = _windows(notes) | _bounds(options, notes)
    values |= _target(function, keda, notes, concurrency, values.get("window_s", Scaling().window_s))
    values |= _lag(keda, notes, values.get("window_s", Scaling().window_s), partial)
    _unhonoured(notes, partial)
    scaling = Scaling(**values)  # type: ignore[arg-type]  # whole numbers are read as int by `_bounds`
    if 0 < scaling.max_replicas < scaling.min_replicas:
        notes.problems.append(
            Problem(
                reason="InvalidScale",
                path="spec.serving.scaleOptions",
                message=f"the minimum of {scaling.min_replicas} instances exceeds the maximum of "
                f"{scaling.max_replicas}; raise maxReplicas or lower minReplicas",
            )
        )
    return scaling, concurrency, notes.problems, partial


def _bounds(options: ScaleOptions, notes: Annotations) -> dict[str, float]:
    whole = "a whole number, 0 or more"
    values: dict[str, float] = {}
    for name, field, given in (
        ("min-scale", "min_replicas", options.min_replicas),
        ("max-scale", "max_replicas", options.max_replicas),
    ):
        value = notes.integer(name, 0, 2**31 - 1, whole)
        if given is not None:
            values[field] = given
        elif value is not None:
            values[field] = value
    if "max_replicas" not in values and values.get("min_replicas", 0) > Scaling().max_replicas:
        values["max_replicas"] = values["min_replicas"]
    initial = notes.integer("initial-scale", 0, 2**31 - 1, whole)
    activation = notes.integer("activation-scale", 2, 2**31 - 1, "a whole number, 2 or more")
    if initial is not None:
        values["initial_scale"] = initial
    if activation is not None:
        values["activation_scale"] = activation
    return values


def _windows(notes: Annotations) -> dict[str, float]:
    hour = "up to 1h"
    read = {
        "window_s": notes.seconds("window", 6, 3600, f"whole seconds from 6s {hour}", whole=True),
        "panic_window_percentage": notes.number(
            "panic-window-percentage", 1, 100, "a percentage from 1 to 100"
        ),
        "panic_threshold_percentage": notes.number(
            "panic-threshold-percentage", 110, 1000, "a percentage from 110 to 1000"
        ),
        "scale_down_delay_s": notes.seconds(
            "scale-down-delay", 0, 3600, f"whole seconds from 0s {hour}", whole=True
        ),
        "retention_s": notes.seconds(
            "scale-to-zero-pod-retention-period", 0, 3600, f"a duration from 0s {hour}", whole=False
        ),
    }
    return {name: value for name, value in read.items() if value is not None}


def _target(
    function: Function, keda: KedaOptions, notes: Annotations, concurrency: int, window_s: float
) -> dict[str, float]:
    http = function.serving.triggers.http if function.serving and function.serving.triggers else None
    if http is not None and http.engine == "keda":
        add_on = keda.http_scaled_object
        pending = add_on.target_pending_requests if add_on else None
        cooldown = add_on.cooldown_period_s if add_on else None
        target = float(_HTTP_TARGET if pending is None else pending)
        # The add-on's cooldown runs from the last request; the silent window is a part of it.
        rest = (_HTTP_COOLDOWN_S if cooldown is None else cooldown) - window_s
        values = {"target": max(target, 0.01), "utilization": 1.0}
        return values | ({"retention_s": max(0.0, rest)} if add_on else {})
    values = {}
    wanted = notes.number("target", 0.01, 1e9, "a number of concurrent requests, 0.01 or more")
    utilization = notes.number("target-utilization-percentage", 1, 100, "a percentage from 1 to 100")
    if wanted is not None:
        values["target"] = min(wanted, concurrency) if concurrency else wanted
    elif concurrency:
        values["target"] = float(concurrency)
    if utilization is not None:
        values["utilization"] = utilization / 100.0
    return values


def _lag(
    keda: KedaOptions, notes: Annotations, window_s: float, partial: list[tuple[str, str]]
) -> dict[str, float]:
    """Read thresholds from the first trigger that counts waiting events; cooldown defaults to the window."""
    root = "spec.serving.scaleOptions.keda"
    values = {"cooldown_s": window_s}
    scaled = keda.scaled_object
    if scaled is not None:
        if scaled.cooldown_period_s is not None:
            values["cooldown_s"] = float(scaled.cooldown_period_s)
        for field, given in (("advanced", scaled.advanced), ("fallback", scaled.fallback)):
            if given is not None:
                partial.append((f"{root}.scaledObject.{field}", "scaling here has its own steadying rules"))
    if keda.scaled_job is not None:
        partial.append((f"{root}.scaledJob", "instances run as long-lived workers, not as jobs"))
    found = False
    for index, trigger in enumerate(keda.triggers):
        path = f"{root}.triggers[{index}]"
        if trigger.type not in _LAG_SCALERS:
            partial.append(
                (path, f"the {trigger.type} scaler is not available; load and waiting events count")
            )
            continue
        if found:
            continue
        found = True
        for key, field in (
            ("lagThreshold", "lag_threshold"),
            ("activationLagThreshold", "activation_lag_threshold"),
        ):
            text = trigger.metadata.get(key, "").strip()
            if not text:
                continue
            try:
                value = float(text)
            except ValueError:
                value = -1.0
            if not isfinite(value) or value < 0 or (value == 0 and field == "lag_threshold"):
                notes.problems.append(
                    Problem(
                        reason="InvalidTrigger",
                        path=f"{path}.metadata.{key}",
                        message=f'"{text}" is not a number of events above 0',
                    )
                )
                continue
            values[field] = value
    return values


def _unhonoured(notes: Annotations, partial: list[tuple[str, str]]) -> None:
    for name, instead in _UNHONOURED.items():
        found = notes.find(name)
        if found is not None:
            partial.append((found[1], instead))
    metric = notes.find("metric")
    if metric is not None and metric[0] != "concurrency":
        partial.append((metric[1], "scaling follows concurrency"))
    chosen = notes.find("class")
    if chosen is not None and chosen[0] != f"kpa.{DOMAIN.rstrip('/')}":
        partial.append((chosen[1], "scaling follows concurrency and waiting events"))
