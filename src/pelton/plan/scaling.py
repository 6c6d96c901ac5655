"""A Function's scaling: bounds, targets and windows out of scaleOptions and annotations.

Precedence: min/maxReplicas, then serving.annotations, then scaleOptions.knative (contracts, OpenFunction,
section 8.2); Knative annotations on the resource itself, which the original ignores, come last. Names and
ranges are those of `model/kpa_settings`. Called by `plan/function`; read by `controlplane/autoscaler`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

from pelton.model.desired import ScaledBy, Scaling
from pelton.model.function import (
    BehaviorRules,
    Function,
    HpaBehavior,
    KedaOptions,
    KedaTrigger,
    ScaledObject,
    ScaleOptions,
    ScalingStrategy,
    Serving,
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
from pelton.model.scaler import trigger_name
from pelton.model.scaling import (
    Behavior,
    DirectionRules,
    FallbackPolicy,
    HttpScaling,
    JobPolicy,
    JobScaling,
    KedaPolicy,
    RateLimit,
    TriggerTarget,
)
from pelton.plan.problem import Problem
from pelton.quantity import parse_quantity

__all__ = [
    "CONCURRENCY",
    "DOMAIN",
    "annotations_of",
    "handed_over",
    "job_share",
    "plan_scaling",
    "read_triggers",
    "runs_as_jobs",
    "scaler_notes",
]

CONCURRENCY = "container-concurrency"
_LAG_SCALERS = frozenset({"kafka", "apache-kafka", "nats-jetstream", "stan"})
_KAFKA_SCALERS = frozenset({"kafka", "apache-kafka"})
_RESOURCES = ("cpu", "memory")
_KEDA = "spec.serving.scaleOptions.keda"
_MOST = 2**31 - 1
_JOB_PACE_S = 2.0
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
    read = read_triggers(function)
    values |= _events(keda, problems, values.get("window_s", Scaling().window_s), partial, read)
    triggers = function.serving.triggers if function.serving else None
    if read:
        values |= _triggered(function, keda, read, values)
    if ("keda" in values or read) and (triggers is None or triggers.http is None):
        values["algorithm"] = "keda"
    if runs_as_jobs(function):
        values["jobs"] = _jobs(function, keda, values)
        values["algorithm"] = "keda"
    elif keda.scaled_job is not None:
        partial.append(
            (f"{_KEDA}.scaledJob", "needs events to work off, and no http trigger: instances stay")
        )
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
    Where triggers are read, so do requests.
    """
    if by.triggered is not None and by.policy is None:
        policy = by.triggered
        return replace(
            scaling,
            min_replicas=policy.min_replicas,
            max_replicas=policy.max_replicas,
            owner=by.owner,
            triggered=policy,
            own_pace=False,
        )
    if by.policy is None:
        return scaling
    keda = by.policy.keda
    return Scaling(
        min_replicas=keda.min_replicas,
        max_replicas=keda.max_replicas,
        algorithm="keda-http",
        target=by.policy.concurrency_target or by.policy.rate_target,
        utilization=1.0,
        http=by.policy,
        triggered=by.triggered,
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
        return values | {"target": float(-int(-percent // 1)), "request": _request(function, "cpu") or 1.0}
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


def _request(function: Function, resource: str) -> float:
    """Return how much of a resource the container asks for, or is limited to; 0 when it does not say."""
    template = (function.serving.template if function.serving else None) or {}
    for container in template.get("containers") or ():
        if isinstance(container, dict) and container.get("name") == "function":
            resources = container.get("resources") or {}
            for part in ("requests", "limits"):
                text = (resources.get(part) or {}).get(resource)
                try:
                    amount = float(parse_quantity(str(text))) if text is not None else 0.0
                except ValueError:
                    amount = 0.0
                if amount > 0:
                    return amount
    return 0.0


def read_triggers(function: Function) -> tuple[int, ...]:
    """Return the places of the triggers that scalers have to read, in order.

    The others count the events that wait for the function itself, which its subscriptions tell as they come:
    triggers by a broker's lag, unless they name a topic of Kafka that none of its subscriptions has.
    """
    serving = function.serving
    options = serving.scale_options if serving else None
    triggers = options.keda.triggers if options is not None and options.keda is not None else ()
    dapr = serving.triggers.dapr if serving is not None and serving.triggers is not None else ()
    topics = _topics(serving) if serving is not None else frozenset()
    found = []
    for index, trigger in enumerate(triggers):
        own = bool(dapr) and trigger.type in _LAG_SCALERS
        asked = {part.strip() for part in trigger.metadata.get("topic", "").split(",") if part.strip()}
        if own and trigger.type in _KAFKA_SCALERS and topics and asked:
            own = bool(asked & topics)
        if not own:
            found.append(index)
    return tuple(found)


def _topics(serving: Serving) -> frozenset[str]:
    """Return the topics of Kafka that a Function is subscribed to, as far as it says them itself."""
    found: set[str] = set()
    for trigger in serving.triggers.dapr if serving.triggers is not None else ():
        component = serving.component(trigger.name)
        kind = trigger.type or (component.type if component is not None else "")
        if kind == "pubsub.kafka" and trigger.topic:
            found.add(trigger.topic)
        elif kind == "bindings.kafka" and component is not None:
            listed = next((one.text for one in component.metadata if one.name.lower() == "topics"), "")
            found |= {part.strip() for part in listed.split(",") if part.strip()}
    return frozenset(found)


def runs_as_jobs(function: Function) -> bool:
    """Return whether instances are jobs: it says so, is driven by events, and answers no requests."""
    serving = function.serving
    if serving is None or serving.triggers is None or serving.triggers.http is not None:
        return False
    keda = serving.scale_options.keda if serving.scale_options is not None else None
    asked = serving.workload_type == "Job" or (keda is not None and keda.scaled_job is not None)
    return asked and bool(serving.triggers.dapr)


def job_share(scaling: Scaling) -> str:
    """Return how many events a job takes, as the option of the workload; "" where instances are no jobs."""
    return str(scaling.jobs.share) if scaling.jobs is not None else ""


def _jobs(function: Function, keda: KedaOptions, values: Mapping[str, Any]) -> JobScaling:
    """Return how jobs are started. One takes as many events as the lag threshold says."""
    given = keda.scaled_job
    strategy = (given.scaling_strategy if given is not None else None) or ScalingStrategy()
    polling_s = given.polling_interval_s if given is not None else None
    usual = JobScaling(policy=JobPolicy(), share=1, polling_s=_POLLING_S)
    succeeded = given.successful_jobs_history_limit if given is not None else None
    failed = given.failed_jobs_history_limit if given is not None else None
    percent = strategy.running_job_percentage.strip().removesuffix("%").strip()
    return JobScaling(
        policy=JobPolicy(
            min_replicas=values.get("min_replicas", 0),
            max_replicas=values.get("max_replicas", Scaling().max_replicas),
            strategy=strategy.strategy or "default",
            deduction=strategy.queue_length_deduction or 0,
            running_share=float(percent) / 100 if percent.replace(".", "", 1).isdecimal() else None,
            calculation=strategy.multiple_scalers_calculation or "max",
        ),
        share=max(1, int(values.get("lag_threshold", Scaling().lag_threshold))),
        # Without a ScaledJob's settings waiting events are counted here and need not be waited for.
        polling_s=_JOB_PACE_S
        if given is None
        else float(_POLLING_S if polling_s is None else max(1, polling_s)),
        kept_succeeded=usual.kept_succeeded if succeeded is None else succeeded,
        kept_failed=usual.kept_failed if failed is None else failed,
    )


def scaler_notes(function: Function, problems: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (path, sentence) for each trigger that cannot be read."""
    options = function.serving.scale_options if function.serving else None
    triggers = options.keda.triggers if options is not None and options.keda is not None else ()
    return [
        (f"{_KEDA}.triggers[{index}]", problems[name])
        for index, trigger in enumerate(triggers)
        if (name := trigger_name(index, trigger.type, trigger.name)) in problems
    ]


def _triggered(
    function: Function, keda: KedaOptions, read: tuple[int, ...], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return how the triggers that scalers read scale a Function; targets are known when they are read."""
    kinds = {keda.triggers[index].type for index in read}
    requests: dict[str, float] = {}
    if "cpu" in kinds:
        requests["request"] = _request(function, "cpu") or 1.0
    if "memory" in kinds:
        requests["memory_request"] = _request(function, "memory")
    paced = values.get("keda")
    policy = paced if isinstance(paced, KedaPolicy) else KedaPolicy(cooldown_s=values["cooldown_s"])
    given = keda.scaled_object.fallback if keda.scaled_object is not None else None
    targets = []
    for index in read:
        trigger = keda.triggers[index]
        resource = trigger.type in _RESOURCES
        targets.append(
            TriggerTarget(
                name=trigger_name(index, trigger.type, trigger.name),
                type=trigger.type,
                target=_resource_target(trigger) if resource else 1.0,
                metric_type=trigger.metric_type or ("Utilization" if resource else "AverageValue"),
            )
        )
    return {
        **requests,
        "triggered": replace(
            policy,
            triggers=tuple(targets),
            min_replicas=values.get("min_replicas", 0),
            max_replicas=values.get("max_replicas", Scaling().max_replicas) or _MOST,
            fallback=FallbackPolicy(failure_threshold=given.failure_threshold, replicas=given.replicas)
            if given is not None
            else None,
        ),
        "own_pace": paced is None,
    }


def _resource_target(trigger: KedaTrigger) -> float:
    """Return the target of a cpu or memory trigger; wrong ones are told when the trigger is made."""
    try:
        return float(parse_quantity(trigger.metadata.get("value", "").strip())) or 1.0
    except ValueError:
        return 1.0


def _events(
    keda: KedaOptions,
    problems: list[Problem],
    window_s: float,
    partial: list[tuple[str, str]],
    read: tuple[int, ...],
) -> dict[str, Any]:
    """Read thresholds from the first trigger that counts waiting events; cooldown defaults to the window."""
    root = _KEDA
    values: dict[str, Any] = {"cooldown_s": window_s}
    if keda.scaled_object is not None:
        values |= _scaled_object(keda.scaled_object, f"{root}.scaledObject", partial, read=bool(read))
    found = False
    for index, trigger in enumerate(keda.triggers):
        path = f"{root}.triggers[{index}]"
        if index in read:
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


def _scaled_object(
    scaled: ScaledObject, path: str, partial: list[tuple[str, str]], *, read: bool
) -> dict[str, Any]:
    """Return KEDA's pace; a fallback needs triggers that are read: counts of the runtime never fail."""
    advanced = scaled.advanced
    config = advanced.horizontal_pod_autoscaler_config if advanced else None
    if advanced is not None and advanced.restore_to_original_replica_count:
        partial.append(
            (f"{path}.advanced.restoreToOriginalReplicaCount", "a function that is deleted has no instances")
        )
    if scaled.fallback is not None and not read:
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
