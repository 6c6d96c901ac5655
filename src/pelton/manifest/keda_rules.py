"""What the values of KEDA's resources have to fulfil, and what in them will not take effect.

Called by `manifest/keda` and, for advice, by `manifest/kinds`. Rules that need other objects (two with one
target) are `conflicts`, for whoever has the others; formulas are compiled where they are evaluated.
Source: contracts, autoscaling, sections 1.1 to 1.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pelton.manifest.fields import Problem, describe, render_path
from pelton.manifest.openfunction_rules import behavior_rules
from pelton.model.function import KedaTrigger
from pelton.model.keda import ScaledJobResource, ScaledObjectResource, TriggerAuthentication

__all__ = [
    "authentication_advice",
    "authentication_rules",
    "conflicts",
    "scaled_job_advice",
    "scaled_job_rules",
    "scaled_object_advice",
    "scaled_object_rules",
]

_RESOURCES = ("cpu", "memory")
_UNCACHED = (*_RESOURCES, "cron")
_KINDS = ("TriggerAuthentication", "ClusterTriggerAuthentication")
_METRIC_TYPES = ("AverageValue", "Value", "Utilization")
_PAUSED_REPLICAS = "autoscaling.keda.sh/paused-replicas"
_LONGEST_NAME = 63
_MAX_REPLICAS = 100


def scaled_object_rules(scaled: ScaledObjectResource) -> list[Problem]:
    """Return the rules that a ScaledObject breaks by itself."""
    return list(_scaled_object(scaled))


def _scaled_object(scaled: ScaledObjectResource) -> Iterator[Problem]:
    low, high = scaled.bounds
    if low > high:
        presumed = " (the default: set maxReplicaCount too)" if scaled.max_replicas is None else ""
        yield Problem(
            "spec.minReplicaCount",
            f"must not be above maxReplicaCount, found {low} and {high}{presumed}",
        )
    if scaled.idle_replicas is not None and scaled.idle_replicas >= low:
        yield Problem(
            "spec.idleReplicaCount",
            f"must be less than minReplicaCount, found {scaled.idle_replicas} and {low}",
        )
    if len(scaled.name) > _LONGEST_NAME:
        yield Problem("metadata.name", f"must have at most 63 characters, found {len(scaled.name)}")
    elif len(scaled.hpa_name) > _LONGEST_NAME:
        yield Problem(
            "metadata.name",
            f"is too long: {scaled.hpa_name} has {len(scaled.hpa_name)} characters, 63 are allowed; shorten "
            "it, or set spec.advanced.horizontalPodAutoscalerConfig.name",
        )
    paused = scaled.annotations.get(_PAUSED_REPLICAS)
    if paused is not None and not paused.isdigit():
        yield Problem(
            render_path(("metadata", "annotations", _PAUSED_REPLICAS)),
            f"must be a whole number, found {describe(paused)}",
        )
    yield from _triggers(scaled.triggers)
    for index, trigger in enumerate(scaled.triggers):
        path = f"spec.triggers[{index}]"
        if trigger.use_cached_metrics and trigger.type in _UNCACHED:
            yield Problem(f"{path}.useCachedMetrics", f"must not be set for the type {trigger.type}")
        if trigger.metric_type == "Utilization" and trigger.type not in _RESOURCES:
            yield Problem(f"{path}.metricType", f"must be AverageValue or Value for the type {trigger.type}")
        if trigger.type in _RESOURCES and trigger.metric_type not in ("Utilization", "AverageValue"):
            yield Problem(
                f"{path}.metricType", f"must be Utilization or AverageValue for the type {trigger.type}"
            )
        if trigger.type in _RESOURCES and "type" in trigger.metadata:
            yield Problem(f"{path}.metadata.type", "has been removed: write metricType beside type")
    only_resources = bool(scaled.triggers) and all(item.type in _RESOURCES for item in scaled.triggers)
    if only_resources and low < 1:
        yield Problem(
            "spec.minReplicaCount",
            "must be at least 1 where all triggers are cpu or memory: at zero there is neither",
        )
    hpa = scaled.advanced.horizontal_pod_autoscaler_config if scaled.advanced is not None else None
    if hpa is not None and hpa.behavior is not None:
        path = "spec.advanced.horizontalPodAutoscalerConfig.behavior"
        for name, direction in (("scaleUp", hpa.behavior.scale_up), ("scaleDown", hpa.behavior.scale_down)):
            if direction is not None:
                yield from behavior_rules(f"{path}.{name}", direction, strict=True)
    yield from _modifiers(scaled)
    fallback = scaled.fallback
    formula = _formula(scaled)
    if fallback is not None and only_resources and not formula:
        yield Problem("spec.fallback", "needs a trigger that is neither cpu nor memory")
    if fallback is not None and fallback.behavior == "scalingModifiers" and not formula:
        yield Problem(
            "spec.fallback.behavior", "scalingModifiers needs spec.advanced.scalingModifiers.formula"
        )


def _formula(scaled: ScaledObjectResource) -> str:
    modifiers = scaled.advanced.scaling_modifiers if scaled.advanced is not None else None
    return modifiers.formula if modifiers is not None else ""


def _modifiers(scaled: ScaledObjectResource) -> Iterator[Problem]:
    modifiers = scaled.advanced.scaling_modifiers if scaled.advanced is not None else None
    if modifiers is None:
        return
    path = "spec.advanced.scalingModifiers"
    if modifiers.formula:
        target = _number(modifiers.target)
        if target is None or target <= 0:
            yield Problem(
                f"{path}.target", f"must be a number greater than 0, found {describe(modifiers.target)}"
            )
        for index, trigger in enumerate(scaled.triggers):
            if not trigger.name and trigger.type not in _RESOURCES:
                yield Problem(f"spec.triggers[{index}].name", "required where there is a formula")
    elif modifiers.target:
        yield Problem(f"{path}.formula", "required where target is given")
    if modifiers.activation_target and _number(modifiers.activation_target) is None:
        yield Problem(
            f"{path}.activationTarget", f"must be a number, found {describe(modifiers.activation_target)}"
        )


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number - number == 0 else None  # neither NaN nor infinite


def _triggers(triggers: Sequence[KedaTrigger]) -> Iterator[Problem]:
    names: dict[str, int] = {}
    for index, trigger in enumerate(triggers):
        path = f"spec.triggers[{index}]"
        if trigger.name:
            first = names.setdefault(trigger.name, index)
            if first != index:
                yield Problem(
                    f"{path}.name", f"{describe(trigger.name)} is the name of triggers[{first}] too"
                )
        reference = trigger.authentication_ref
        if reference is not None and reference.kind and reference.kind not in _KINDS:
            yield Problem(
                f"{path}.authenticationRef.kind",
                f"must be {_KINDS[0]} or {_KINDS[1]}, found {describe(reference.kind)}",
            )
        if trigger.metric_type and trigger.metric_type not in _METRIC_TYPES:
            yield Problem(
                f"{path}.metricType",
                f"must be AverageValue, Value or Utilization, found {describe(trigger.metric_type)}",
            )


def scaled_object_advice(scaled: ScaledObjectResource) -> list[Problem]:
    """Return what in a ScaledObject has no effect."""
    advice = []
    stays = scaled.bounds[0] > 0 and scaled.idle_replicas is None
    cached = any(trigger.use_cached_metrics for trigger in scaled.triggers)
    if stays and scaled.polling_interval_s is not None and not cached:
        advice.append(
            Problem(
                "spec.pollingInterval",
                "has no effect: with minReplicaCount above 0 the HPA asks in its own time; "
                "set minReplicaCount 0, idleReplicaCount, or useCachedMetrics of a trigger",
            )
        )
    if stays and scaled.cooldown_period_s is not None:
        advice.append(
            Problem(
                "spec.cooldownPeriod",
                "has no effect: it is about the step to zero or idle; with minReplicaCount above 0 set "
                "advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.stabilizationWindowSeconds",
            )
        )
    return advice


def conflicts(scaled: ScaledObjectResource, others: Iterable[ScaledObjectResource]) -> list[Problem]:
    """Return what a ScaledObject cannot share with others of its namespace.

    Args:
        scaled: The one that is judged.
        others: All of the namespace; the one of the same name does not count.
    """
    problems = []
    mine = _target_of(scaled)
    for other in others:
        if other.name == scaled.name or other.namespace != scaled.namespace:
            continue
        if _target_of(other) == mine:
            problems.append(
                Problem(
                    "spec.scaleTargetRef",
                    f"{mine[1]} {mine[2]} is scaled by ScaledObject {other.name} already",
                )
            )
        if other.hpa_name == scaled.hpa_name:
            problems.append(
                Problem(
                    "spec.advanced.horizontalPodAutoscalerConfig.name",
                    f"{scaled.hpa_name} belongs to ScaledObject {other.name} already",
                )
            )
    return problems


def _target_of(scaled: ScaledObjectResource) -> tuple[str, str, str]:
    target = scaled.target
    group = (target.api_version or "apps/v1").rpartition("/")[0]
    return group, target.kind or "Deployment", target.name


# -------------------------------------------------------------------------------------------------- ScaledJob


def scaled_job_rules(job: ScaledJobResource) -> list[Problem]:
    """Return the rules that a ScaledJob breaks."""
    problems = list(_triggers(job.triggers))
    for index, trigger in enumerate(job.triggers):
        if trigger.metric_type:
            problems.append(
                Problem(
                    f"spec.triggers[{index}].metricType", "must not be set: jobs are counted, not averaged"
                )
            )
    if job.rollout_strategy not in ("", "immediate", "gradual", "default"):
        problems.append(
            Problem(
                "spec.rolloutStrategy",
                f"must be immediate or gradual, found {describe(job.rollout_strategy)}",
            )
        )
    return problems


def scaled_job_advice(job: ScaledJobResource) -> list[Problem]:
    """Return what in a ScaledJob has no effect, or not the one it seems to have."""
    advice = []
    if job.rollout_strategy:
        advice.append(Problem("spec.rolloutStrategy", "is an older spelling: write spec.rollout.strategy"))
    high = _MAX_REPLICAS if job.max_replicas is None else job.max_replicas
    if (job.min_replicas or 0) > high:
        advice.append(
            Problem("spec.minReplicaCount", f"counts as {high}: it is greater than maxReplicaCount")
        )
    for index, trigger in enumerate(job.triggers):
        if trigger.use_cached_metrics:
            advice.append(Problem(f"spec.triggers[{index}].useCachedMetrics", "has no effect on jobs"))
    strategy = job.scaling_strategy
    if strategy is not None and strategy.strategy == "custom":
        if _number(strategy.running_job_percentage) is None:
            advice.append(
                Problem(
                    "spec.scalingStrategy.customScalingRunningJobPercentage",
                    f'must be a number such as "0.5", found {describe(strategy.running_job_percentage)}; '
                    "the strategy default is used instead of custom",
                )
            )
    elif strategy is not None and (strategy.queue_length_deduction or strategy.running_job_percentage):
        advice.append(
            Problem("spec.scalingStrategy", "customScaling... fields count only with the strategy custom")
        )
    return advice


# -------------------------------------------------------------------------------------- TriggerAuthentication


def authentication_rules(authentication: TriggerAuthentication) -> list[Problem]:
    """Return the rules that a TriggerAuthentication of either scope breaks."""
    path = authentication.file_path
    if path and (path.startswith("/") or ".." in path.split("/")):
        return [Problem("spec.filePath", f'must be relative and without "..", found {describe(path)}')]
    return []


def authentication_advice(authentication: TriggerAuthentication) -> list[Problem]:
    """Return what in a TriggerAuthentication has no effect."""
    sources = (
        authentication.env,
        authentication.config_map_targets,
        authentication.secret_targets,
        authentication.vault,
        authentication.azure_key_vault,
        authentication.gcp_secret_manager,
        authentication.aws_secret_manager,
        authentication.service_account_tokens,
        authentication.oauth2,
    )
    if authentication.file_path and any(sources):
        return [Problem("spec.filePath", "replaces all other sources of this object")]
    if not authentication.file_path and not any(sources) and authentication.pod_identity is None:
        return [Problem("spec", "gives no parameter: name a source, such as secretTargetRef")]
    return []
