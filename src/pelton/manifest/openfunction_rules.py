"""What a Function's values have to fulfil, in the order of the contract; every broken rule is reported.

Called by `manifest/openfunction_core`. Source: contracts, OpenFunction, section 4.2, and the schema bounds of
2.3. The original stops at the first broken rule; a user who mends a manifest wants them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from pelton.manifest.dapr import check_env_ref
from pelton.manifest.fields import Problem, describe, render_path
from pelton.manifest.gateway_api_rules import rule_problems
from pelton.model.component import ComponentSpec
from pelton.model.function import (
    BehaviorRules,
    Build,
    Function,
    HttpRoute,
    HttpScaledObject,
    ScaledJob,
    ScaledObject,
    ScaleOptions,
    Serving,
)
from pelton.quantity import format_duration

__all__ = ["behavior_rules", "build_rules", "function_rules", "serving_rules"]

_STRATEGY_KINDS = ("BuildStrategy", "ClusterBuildStrategy")
_ENGINES = ("knative", "keda")
_FILTERS = ("RequestHeaderModifier", "RequestMirror", "RequestRedirect", "ExtensionRef")
_PERCENTAGE = re.compile(r"([0-9.]+)[ ]*%")


def function_rules(function: Function) -> Iterator[Problem]:
    """Yield a problem for each rule that a Function breaks, in contract order."""
    if not function.image:
        yield Problem(
            "spec.image", 'required, for example "registry/name:tag"; it is not pulled where source is built'
        )
    if function.build is not None:
        if function.image_credentials == "":
            yield Problem("spec.imageCredentials.name", "required when spec.imageCredentials is given")
        yield from build_rules(function.build, "spec.build")
    if function.serving is not None:
        yield from serving_rules(function.serving, "spec.serving")
    if function.build is None and function.serving is None:
        yield Problem("spec.serving", "required when there is no spec.build")


def _negative(path: str, number: int | None) -> Iterator[Problem]:
    if number is not None and number < 0:
        yield Problem(path, f"must not be negative, found {number}")


def _within(path: str, number: int | None, low: int, high: int) -> Iterator[Problem]:
    if number is not None and not low <= number <= high:
        bounds = f"at least {low}" if high == 2**31 - 1 else f"from {low} to {high}"
        yield Problem(path, f"must be {bounds}, found {number}")


def _negative_time(path: str, seconds: float | None) -> Iterator[Problem]:
    if seconds is not None and seconds < 0:
        yield Problem(path, f"must not be negative, found {format_duration(seconds)}")


def _one_of(path: str, value: str, known: Iterable[str]) -> Iterator[Problem]:
    known = tuple(known)
    if value and value not in known:
        yield Problem(path, f"must be {', '.join(known[:-1])} or {known[-1]}, found {describe(value)}")


def build_rules(build: Build, path: str) -> Iterator[Problem]:
    """Yield a problem for each rule that a build breaks.

    Args:
        build: Of a Function or a Builder.
        path: Where it stands, e.g. `spec.build`.
    """
    if not build.builder and not build.dockerfile:
        yield Problem(f"{path}.builder", f"required unless {path}.dockerfile is set")
    if build.source is None:
        yield Problem(f"{path}.srcRepo", "required")
    elif not build.source.url and build.source.bundle_image is None:
        yield Problem(f"{path}.srcRepo", "one of url and bundleContainer is required")
    shipwright = build.shipwright
    yield from _negative_time(f"{path}.timeout", build.timeout_s)
    yield from _negative_time(f"{path}.builderMaxAge", build.builder_max_age_s)
    if shipwright is not None:
        yield from _negative_time(f"{path}.shipwright.timeout", shipwright.timeout_s)
    yield from _negative(f"{path}.successfulBuildsHistoryLimit", build.successful_builds_history_limit)
    yield from _negative(f"{path}.failedBuildsHistoryLimit", build.failed_builds_history_limit)
    if shipwright is not None and shipwright.strategy is not None:
        yield from _one_of(f"{path}.shipwright.strategy.kind", shipwright.strategy.kind, _STRATEGY_KINDS)


def serving_rules(serving: Serving, path: str) -> Iterator[Problem]:
    """Yield a problem for each rule that a serving breaks.

    Args:
        serving: Of a Function or a Serving.
        path: Where it stands, e.g. `spec.serving`.
    """
    if serving.scale_options is not None:
        yield from _scale_options(serving.scale_options, f"{path}.scaleOptions")
    http = serving.triggers.http if serving.triggers is not None else None
    if http is not None:
        yield from _one_of(f"{path}.triggers.http.engine", http.engine, _ENGINES)
        if http.route is not None:
            yield from _route(http.route, f"{path}.triggers.http.route")
    for place, components in (
        ("bindings", serving.bindings),
        ("pubsub", serving.pubsub),
        ("states", serving.states),
    ):
        for name, component in components.items():
            if component is not None:
                tail: tuple[str, ...] = ("spec",) if place == "states" else ()
                yield from _component((*path.split("."), place, name, *tail), component)


def _component(path: tuple[str, ...], component: ComponentSpec) -> Iterator[Problem]:
    for index, item in enumerate(component.metadata):
        if item.env_ref:
            yield from check_env_ref(item, render_path((*path, "metadata", index)))


def _scale_options(options: ScaleOptions, path: str) -> Iterator[Problem]:
    low, high = options.bounds
    yield from _negative(f"{path}.minReplicas", low)
    yield from _negative(f"{path}.maxReplicas", high)
    if low > high >= 0:
        presumed = " (the presumed value: set maxReplicas too)" if options.max_replicas is None else ""
        yield Problem(
            f"{path}.minReplicas", f"must not be greater than maxReplicas, found {low} and {high}{presumed}"
        )
    keda = options.keda
    if keda is None:
        return
    given = [
        name
        for name, part in (
            ("scaledJob", keda.scaled_job),
            ("scaledObject", keda.scaled_object),
            ("httpScaledObject", keda.http_scaled_object),
        )
        if part is not None
    ]
    if len(given) > 1:
        yield Problem(
            f"{path}.keda",
            f"at most one of scaledJob, scaledObject and httpScaledObject, found {' and '.join(given)}",
        )
    if keda.http_scaled_object is not None:
        yield from _http_scaled_object(keda.http_scaled_object, f"{path}.keda.httpScaledObject")
    if keda.scaled_object is not None:
        yield from _scaled_object(keda.scaled_object, f"{path}.keda.scaledObject")
    if keda.scaled_job is not None:
        yield from _scaled_job(keda.scaled_job, f"{path}.keda.scaledJob")


def _http_scaled_object(scaled: HttpScaledObject, path: str) -> Iterator[Problem]:
    yield from _negative(f"{path}.targetPendingRequests", scaled.target_pending_requests)
    yield from _negative(f"{path}.cooldownPeriod", scaled.cooldown_period_s)


def _scaled_object(scaled: ScaledObject, path: str) -> Iterator[Problem]:
    yield from _negative(f"{path}.pollingInterval", scaled.polling_interval_s)
    yield from _negative(f"{path}.cooldownPeriod", scaled.cooldown_period_s)
    hpa = scaled.advanced.horizontal_pod_autoscaler_config if scaled.advanced is not None else None
    if hpa is not None and hpa.behavior is not None:
        behavior = f"{path}.advanced.horizontalPodAutoscalerConfig.behavior"
        for name, direction in (("scaleUp", hpa.behavior.scale_up), ("scaleDown", hpa.behavior.scale_down)):
            if direction is not None:
                yield from behavior_rules(f"{behavior}.{name}", direction)
    if scaled.fallback is not None:
        yield from _within(
            f"{path}.fallback.failureThreshold", scaled.fallback.failure_threshold, 1, 2**31 - 1
        )
        yield from _negative(f"{path}.fallback.replicas", scaled.fallback.replicas)


def behavior_rules(path: str, direction: BehaviorRules, *, strict: bool = False) -> Iterator[Problem]:
    """Yield a problem for each rule that one direction of an HPA's behaviour breaks.

    Args:
        path: Where it stands.
        direction: The rules of scaling up or down.
        strict: Whether the HPA's own bounds hold, which OpenFunction leaves to it.
    """
    window = direction.stabilization_window_s
    if window is not None and not 0 <= window <= 3600:
        yield Problem(f"{path}.stabilizationWindowSeconds", f"must be from 0 to 3600, found {window}")
    yield from _one_of(f"{path}.selectPolicy", direction.select_policy, ("Max", "Min", "Disabled"))
    for index, policy in enumerate(direction.policies):
        yield from _one_of(f"{path}.policies[{index}].type", policy.type, ("Pods", "Percent"))
        if strict:
            yield from _within(f"{path}.policies[{index}].value", policy.value, 1, 2**31 - 1)
            yield from _within(f"{path}.policies[{index}].periodSeconds", policy.period_s, 1, 1800)
        else:
            yield from _negative(f"{path}.policies[{index}].periodSeconds", policy.period_s)


def _scaled_job(job: ScaledJob, path: str) -> Iterator[Problem]:
    yield from _one_of(f"{path}.restartPolicy", job.restart_policy, ("Always", "OnFailure", "Never"))
    yield from _negative(f"{path}.pollingInterval", job.polling_interval_s)
    yield from _negative(f"{path}.successfulJobsHistoryLimit", job.successful_jobs_history_limit)
    yield from _negative(f"{path}.failedJobsHistoryLimit", job.failed_jobs_history_limit)
    strategy = job.scaling_strategy
    if strategy is None:
        return
    path = f"{path}.scalingStrategy"
    yield from _one_of(f"{path}.strategy", strategy.strategy, ("default", "custom", "accurate"))
    deduction, percentage = strategy.queue_length_deduction, strategy.running_job_percentage
    custom = strategy.strategy == "custom"
    if custom and deduction is None:
        yield Problem(f"{path}.customScalingQueueLengthDeduction", "required for the strategy custom")
    yield from _negative(f"{path}.customScalingQueueLengthDeduction", deduction)
    if custom and not percentage:
        yield Problem(f"{path}.customScalingRunningJobPercentage", "required for the strategy custom")
    elif percentage and not _PERCENTAGE.fullmatch(percentage):
        yield Problem(
            f"{path}.customScalingRunningJobPercentage",
            f'must be a percentage such as "50%", found {describe(percentage)}',
        )


def _route(route: HttpRoute, place: str) -> Iterator[Problem]:
    """Check what the schema of HTTPRoute rules of v1alpha2 bounds, then what every route has to fulfil.

    Backends are not looked at: whatever they say, the function is the backend.
    """
    for index, rule in enumerate(route.rules):
        path = f"{place}.rules[{index}]"
        found = list(_older_rule(rule, path))
        said = {problem.path for problem in found}
        if index < len(route.parsed):
            bare = replace(route.parsed[index], backends=())
            found += [problem for problem in rule_problems(bare, path) if problem.path not in said]
        yield from found


def _older_rule(rule: dict[str, Any], path: str) -> Iterator[Problem]:
    matches = rule.get("matches")
    if isinstance(matches, list) and len(matches) > 8:
        yield Problem(f"{path}.matches", f"must have at most 8 entries, found {len(matches)}")
    for number, item in enumerate(_objects(rule.get("filters"))):
        kind = item.get("type")
        yield from _one_of(f"{path}.filters[{number}].type", kind if isinstance(kind, str) else "", _FILTERS)
        redirect = item.get("requestRedirect")
        status = redirect.get("statusCode", 302) if isinstance(redirect, dict) else 302
        if status not in (301, 302):
            yield Problem(
                f"{path}.filters[{number}].requestRedirect.statusCode",
                f"must be 301 or 302, found {describe(status)}",
            )


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
