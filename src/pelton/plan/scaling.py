"""A Function's scaling: bounds, targets and windows out of scaleOptions and annotations.

Precedence: min/maxReplicas, then serving.annotations, then scaleOptions.knative (contracts, OpenFunction,
section 8.2); Knative annotations on the resource itself, which the original ignores, come last. Names and
ranges are those of `model/kpa_settings`. Called by `plan/function`; read by `controlplane/autoscaler`. Pure.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from pelton.model.desired import ScaledBy, Scaling
from pelton.model.function import (
    BehaviorRules,
    Function,
    HpaBehavior,
    KedaOptions,
    ScaledObject,
    ScaleOptions,
)
from pelton.model.kpa_settings import (
    ANNOTATIONS,
    DOMAIN,
    HPA_CLASS,
    KPA_CLASS,
    KPA_METRICS,
    OWN_DOMAIN,
    OWN_SETTINGS,
    RPS_UTILIZATION,
    Setting,
    Settings,
    check_bounds,
)
from pelton.model.scaling import Behavior, DirectionRules, HttpScaling, KedaPolicy, RateLimit
from pelton.plan.problem import Problem
from pelton.quantity import parse_quantity

__all__ = ["CONCURRENCY", "DOMAIN", "annotations_of", "handed_over", "plan_scaling"]

CONCURRENCY = "container-concurrency"
_LAG_SCALERS = frozenset({"kafka", "apache-kafka", "nats-jetstream", "stan"})
_HTTP_TARGET, _HTTP_COOLDOWN_S, _HTTP_POLLING_S = 100, 300, 15  # defaults of KEDA's HTTP add-on
_COOLDOWN_S, _POLLING_S = 300, 30  # defaults of a ScaledObject
_RPS_TARGET = 200.0
_CPU_TARGET = 80.0
_MIB = 1024.0 * 1024.0
_TABLE = {
    **ANNOTATIONS,
    CONCURRENCY: Setting(kind="whole", high=1000, say="a whole number from 0 to 1000"),
}


def annotations_of(function: Function) -> Settings:
    """Return the Knative annotations of a Function in their order of precedence."""
    serving = function.serving
    options = serving.scale_options if serving else None
    return Settings(
        ("spec.serving.annotations", serving.annotations if serving else {}),
        ("spec.serving.scaleOptions.knative", options.knative if options else {}),
        ("metadata.annotations", function.annotations),
        table=_TABLE,
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
    own = Settings(
        ("spec.serving.annotations", function.serving.annotations if function.serving else {}),
        ("metadata.annotations", function.annotations),
        table=OWN_SETTINGS,
        prefix=OWN_DOMAIN,
    )
    partial: list[tuple[str, str]] = []
    problems: list[Problem] = []
    options = (function.serving.scale_options if function.serving else None) or ScaleOptions()
    keda = options.keda or KedaOptions()
    concurrency = notes.whole(CONCURRENCY, 0) or serial
    values: dict[str, Any] = _windows(notes) | _bounds(options, notes)
    values |= _target(function, keda, notes, concurrency, partial)
    values |= _events(keda, problems, values.get("window_s", Scaling().window_s), partial)
    triggers = function.serving.triggers if function.serving else None
    if "keda" in values and (triggers is None or triggers.http is None):
        values["algorithm"] = "keda"
    values["spare_instances"] = own.whole("spare-instances", 0)
    values["hold_s"] = own.number("cooldown", 0.0)
    scaling = Scaling(**values)
    if 0 < scaling.max_replicas < scaling.min_replicas:
        problems.append(
            Problem(
                reason="InvalidScale",
                path="spec.serving.scaleOptions",
                message=f"the minimum of {scaling.min_replicas} instances exceeds the maximum of "
                f"{scaling.max_replicas}; raise maxReplicas or lower minReplicas",
            )
        )
    else:
        check_bounds(
            notes, low=scaling.min_replicas, high=scaling.max_replicas, activation=scaling.activation_scale
        )
    partial += [(path, "is not an annotation of Knative's autoscaler") for path, _ in notes.unknown()]
    refused = [
        Problem(reason="InvalidAnnotation", path=path, message=message)
        for path, message in (*notes.problems, *own.problems)
    ]
    return scaling, concurrency, refused + problems, partial


def handed_over(scaling: Scaling, by: ScaledBy) -> Scaling:
    """Return the scaling by another object; of the Function's own only what its events say stays.

    Events go on waking a function, so that none is left waiting; the object's bounds hold for them, too.
    """
    keda = by.policy.keda
    return Scaling(
        min_replicas=keda.min_replicas,
        max_replicas=keda.max_replicas,
        algorithm="keda-http",
        target=by.policy.concurrency_target or by.policy.rate_target,
        utilization=1.0,
        http=by.policy,
        owner=by.owner,
        lag_threshold=scaling.lag_threshold,
        activation_lag_threshold=scaling.activation_lag_threshold,
        cooldown_s=scaling.cooldown_s,
        keda=scaling.keda,
    )


def _bounds(options: ScaleOptions, notes: Settings) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, field, given in (
        ("min-scale", "min_replicas", options.min_replicas),
        ("max-scale", "max_replicas", options.max_replicas),
    ):
        value = notes.value(name)
        if given is not None:
            values[field] = given
        elif value is not None:
            values[field] = int(value)
    if "max_replicas" not in values and values.get("min_replicas", 0) > Scaling().max_replicas:
        values["max_replicas"] = values["min_replicas"]
    for name, field in (("initial-scale", "initial_scale"), ("activation-scale", "activation_scale")):
        value = notes.value(name)
        if value is not None:
            values[field] = int(value)
    return values


def _windows(notes: Settings) -> dict[str, Any]:
    read = {
        "window_s": notes.value("window"),
        "panic_window_percentage": notes.value("panic-window-percentage"),
        "panic_threshold_percentage": notes.value("panic-threshold-percentage"),
        "scale_down_delay_s": notes.value("scale-down-delay"),
        "retention_s": notes.value("scale-to-zero-pod-retention-period"),
        "target_burst_capacity": notes.value("target-burst-capacity"),
        "aggregation": notes.value("metric-aggregation-algorithm"),
    }
    return {name: value for name, value in read.items() if value is not None}


def _target(
    function: Function, keda: KedaOptions, notes: Settings, concurrency: int, partial: list[tuple[str, str]]
) -> dict[str, Any]:
    http = function.serving.triggers.http if function.serving and function.serving.triggers else None
    if http is not None and http.engine == "keda":
        add_on = keda.http_scaled_object
        pending = add_on.target_pending_requests if add_on else None
        cooldown = add_on.cooldown_period_s if add_on else None
        target = float(_HTTP_TARGET if pending is None else max(1, pending))
        policy = KedaPolicy(
            cooldown_s=float(_HTTP_COOLDOWN_S if cooldown is None else cooldown),
            polling_s=float(_HTTP_POLLING_S),
        )
        return {
            "algorithm": "keda-http",
            "target": target,
            "utilization": 1.0,
            "http": HttpScaling(concurrency_target=target, keda=policy),
        }
    if notes.text("class", KPA_CLASS) == HPA_CLASS:
        return _hpa_target(function, notes, concurrency, partial)
    values: dict[str, Any] = {}
    metric = notes.text("metric", "concurrency", *KPA_METRICS)
    wanted = notes.value("target")
    utilization = notes.value("target-utilization-percentage")
    if metric == "rps":
        values = {
            "metric": "rps",
            "target": _RPS_TARGET if wanted is None else float(wanted),
            "utilization": RPS_UTILIZATION,
        }
    elif wanted is not None:
        values["target"] = min(float(wanted), concurrency) if concurrency else float(wanted)
    elif concurrency:
        values["target"] = float(concurrency)
    if utilization is not None:
        values["utilization"] = float(utilization) / 100.0
    return values


def _hpa_target(
    function: Function, notes: Settings, concurrency: int, partial: list[tuple[str, str]]
) -> dict[str, Any]:
    """Return the target of the class hpa: percent of a processor request, MiB, or concurrency otherwise."""
    metric = notes.text("metric", "cpu")
    wanted = notes.value("target")
    values: dict[str, Any] = {"algorithm": "hpa", "metric": metric, "utilization": 1.0}
    if metric == "cpu":
        percent = float(wanted) if wanted is not None else _CPU_TARGET
        return values | {"target": float(-int(-percent // 1)), "request": _cpu_request(function)}
    if metric == "memory":
        if wanted is None:
            notes.refuse("metric", "memory needs the annotation target: MiB per instance")
        return values | {"target": float(wanted or 1.0) * _MIB}
    if metric not in KPA_METRICS:
        found = notes.find("metric")
        partial.append((found[1] if found else "metric", "there is no such metric here; concurrency counts"))
        values["metric"] = "concurrency"
    usual = _RPS_TARGET if metric == "rps" else float(concurrency or 100)
    return values | {"target": usual if wanted is None else float(wanted)}


def _cpu_request(function: Function) -> float:
    """Return the cores that the container asks for, one when it does not say."""
    template = (function.serving.template if function.serving else None) or {}
    for container in template.get("containers") or ():
        if isinstance(container, dict) and container.get("name") == "function":
            resources = container.get("resources") or {}
            for part in ("requests", "limits"):
                text = (resources.get(part) or {}).get("cpu")
                try:
                    cores = float(parse_quantity(str(text))) if text is not None else 0.0
                except ValueError:
                    cores = 0.0
                if cores > 0:
                    return cores
    return 1.0


def _events(
    keda: KedaOptions, problems: list[Problem], window_s: float, partial: list[tuple[str, str]]
) -> dict[str, Any]:
    """Read thresholds from the first trigger that counts waiting events; cooldown defaults to the window."""
    root = "spec.serving.scaleOptions.keda"
    values: dict[str, Any] = {"cooldown_s": window_s}
    if keda.scaled_object is not None:
        values |= _scaled_object(keda.scaled_object, f"{root}.scaledObject", partial)
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
                problems.append(
                    Problem(
                        reason="InvalidTrigger",
                        path=f"{path}.metadata.{key}",
                        message=f'"{text}" is not a number of events above 0',
                    )
                )
                continue
            values[field] = value
    return values


def _scaled_object(scaled: ScaledObject, path: str, partial: list[tuple[str, str]]) -> dict[str, Any]:
    """Return KEDA's pace; a fallback is not honoured, since counts come from the runtime and never fail."""
    advanced = scaled.advanced
    config = advanced.horizontal_pod_autoscaler_config if advanced else None
    if advanced is not None and advanced.restore_to_original_replica_count:
        partial.append(
            (f"{path}.advanced.restoreToOriginalReplicaCount", "a function that is deleted has no instances")
        )
    if scaled.fallback is not None:
        partial.append((f"{path}.fallback", "waiting events are counted here and can always be read"))
    cooldown = scaled.cooldown_period_s
    polling = scaled.polling_interval_s
    policy = KedaPolicy(
        cooldown_s=float(_COOLDOWN_S if cooldown is None else cooldown),
        polling_s=float(_POLLING_S if polling is None else max(1, polling)),
        behavior=_behavior(config.behavior if config else None),
    )
    return {"keda": policy, "cooldown_s": policy.cooldown_s}


def _behavior(given: HpaBehavior | None) -> Behavior | None:
    if given is None or (given.scale_up is None and given.scale_down is None):
        return None
    usual = Behavior()
    return Behavior(up=_rules(given.scale_up, usual.up), down=_rules(given.scale_down, usual.down))


def _rules(given: BehaviorRules | None, usual: DirectionRules) -> DirectionRules:
    if given is None:
        return usual
    window = given.stabilization_window_s
    return DirectionRules(
        window_s=usual.window_s if window is None else float(window),
        select=given.select_policy or usual.select,
        limits=tuple(RateLimit(kind=p.type, value=p.value, period_s=p.period_s) for p in given.policies)
        or usual.limits,
    )
