"""How many: Knative's annotations, KEDA's ScaledObject and ScaledJob, and the objects of its HTTP add-on.

Called by `targets/kubernetes/render`. Precedence of Knative's bounds is that of `plan/scaling`, so that one
manifest scales alike on both targets. Pure.

Source: contracts, OpenFunction, section 8.2, and autoscaling, sections 1, 5.1, 5.2 and 6.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

from pelton.errors import RenderError
from pelton.manifest.openfunction_fields import SERVING
from pelton.model.function import (
    FUNCTION_CONTAINER,
    Function,
    KedaOptions,
    KedaTrigger,
    ScaleOptions,
    Serving,
)
from pelton.plan.scaling import CONCURRENCY, DOMAIN, annotations_of
from pelton.targets.kubernetes.cluster import Cluster
from pelton.targets.kubernetes.identity import Identity, metadata
from pelton.targets.kubernetes.notes import Notes

__all__ = ["concurrency", "http_scalers", "knative_annotations", "scaled_job", "scaled_object"]

_KEDA = "spec.serving.scaleOptions.keda"
_TARGET_PENDING_REQUESTS, _COOLDOWN_S = 100, 300  # defaults of scaleOptions.keda.httpScaledObject


# ---------------------------------------------------------------------------------------------------- knative


def knative_annotations(function: Function) -> dict[str, str]:
    """Return the annotations of a revision template that say how it scales.

    From the weakest to the strongest: those of the Function's metadata, scaleOptions.knative,
    serving.annotations, minReplicas and maxReplicas. A stronger layer takes both spellings of a name
    (`min-scale`, `minScale`) from a weaker one; bounds are written in both.
    """
    serving = function.serving or Serving()
    options = serving.scale_options or ScaleOptions()
    found: dict[str, str] = {}
    for layer in (function.annotations, options.knative, serving.annotations):
        scaling = {key: value for key, value in layer.items() if key.startswith(DOMAIN)}
        stronger = {_kebab(key) for key in scaling}
        found = {key: value for key, value in found.items() if _kebab(key) not in stronger} | scaling
    for camel, bound in (("minScale", options.min_replicas), ("maxScale", options.max_replicas)):
        if bound is not None:
            for name in (camel, _kebab(camel)):
                found[f"{DOMAIN}{name}"] = str(bound)
    return found


def _kebab(name: str) -> str:
    return re.sub(r"[A-Z]", lambda letter: f"-{letter[0].lower()}", name)


def concurrency(function: Function) -> int | None:
    """Return the hard limit of requests in one instance, from its annotation; None where none is said.

    Raises:
        RenderError: The annotation is no whole number from 0 to 1000.
    """
    notes = annotations_of(function)
    found = notes.value(CONCURRENCY)
    if notes.problems:
        path, message = notes.problems[0]
        raise RenderError(f"{path}: {message}")
    return None if found is None else int(found)


# ------------------------------------------------------------------------------------------------------- keda


def scaled_object(
    function: Function, identity: Identity, kind: str, target: str, notes: Notes
) -> dict[str, Any]:
    """Return the ScaledObject of a Deployment or StatefulSet.

    Args:
        function: With KEDA triggers.
        identity: Of the revision.
        kind: Of what is scaled.
        target: Its name.
        notes: Takes what KEDA has no form for.
    """
    serving = function.serving or Serving()
    keda = _keda(serving)
    written = _written(serving).get("scaledObject") or {}
    spec = {
        "scaleTargetRef": {
            "apiVersion": "apps/v1",
            "kind": kind,
            "name": target,
            "envSourceContainerName": FUNCTION_CONTAINER,
        },
        **_bounds(serving, notes),
        **written,
        "triggers": [_trigger(trigger) for trigger in keda.triggers],
    }
    return _scaler("keda.sh/v1alpha1", "ScaledObject", identity, spec)


def scaled_job(
    function: Function, identity: Identity, job_spec: Mapping[str, Any], notes: Notes
) -> dict[str, Any]:
    """Return the ScaledJob of a function that runs as Jobs.

    Args:
        function: With KEDA triggers.
        identity: Of the revision.
        job_spec: Of each Job.
        notes: Takes what KEDA refuses for Jobs.
    """
    serving = function.serving or Serving()
    keda = _keda(serving)
    written = _written(serving)
    job = dict(written.get("scaledJob") or {})
    job.pop("restartPolicy", None)  # a field of the Job's pods, see `workload.job_spec`
    if "scalingStrategy" in job:
        job["scalingStrategy"] = _scaling_strategy(job["scalingStrategy"])
    if keda.scaled_object is not None:
        scaled = written.get("scaledObject") or {}
        job = {key: scaled[key] for key in ("pollingInterval",) if key in scaled}
        for key in sorted(set(scaled) - {"pollingInterval"}):
            notes.add(
                f"{_KEDA}.scaledObject.{key}", "a Job is scaled by a ScaledJob, which has no such field"
            )
    triggers = []
    for index, trigger in enumerate(keda.triggers):
        made = _trigger(trigger)
        if made.pop("metricType", None):
            notes.add(f"{_KEDA}.triggers[{index}].metricType", "KEDA refuses it for a ScaledJob: left out")
        triggers.append(made)
    spec = {
        "jobTargetRef": dict(job_spec),
        "envSourceContainerName": FUNCTION_CONTAINER,
        **_bounds(serving, notes),
        **job,
        "triggers": triggers,
    }
    return _scaler("keda.sh/v1alpha1", "ScaledJob", identity, spec)


def _scaling_strategy(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the strategy in KEDA's form: OpenFunction asks for a percentage where KEDA reads a fraction."""
    name = "customScalingRunningJobPercentage"
    found = dict(written)
    if name in found:
        with suppress(ArithmeticError):
            percent = Decimal(str(found[name]).removesuffix("%").strip())
            found[name] = f"{percent / 100:f}"
    return found


def _keda(serving: Serving) -> KedaOptions:
    return (serving.scale_options.keda if serving.scale_options else None) or KedaOptions()


def _written(serving: Serving) -> dict[str, Any]:
    """Return scaleOptions.keda as a manifest has it: its fields have KEDA's own names and shapes."""
    options = SERVING.encode(serving).get("scaleOptions") or {}
    return options.get("keda") or {}


def _bounds(serving: Serving, notes: Notes) -> dict[str, int]:
    options = serving.scale_options or ScaleOptions()
    highest = options.max_replicas
    if highest == 0:
        notes.add(
            "spec.serving.scaleOptions.maxReplicas", "0 means no bound, which KEDA has not: its own is 100"
        )
        highest = None
    found = {"minReplicaCount": options.min_replicas, "maxReplicaCount": highest}
    return {key: value for key, value in found.items() if value is not None}


def _trigger(trigger: KedaTrigger) -> dict[str, Any]:
    reference = trigger.authentication_ref
    found: dict[str, Any] = {"type": trigger.type, "metadata": dict(trigger.metadata)}
    if trigger.name:
        found["name"] = trigger.name
    if reference is not None:
        found["authenticationRef"] = {"name": reference.name} | (
            {"kind": reference.kind} if reference.kind else {}
        )
    if trigger.metric_type:
        found["metricType"] = trigger.metric_type
    if trigger.use_cached_metrics is not None:
        found["useCachedMetrics"] = trigger.use_cached_metrics
    return found


def _scaler(api_version: str, kind: str, identity: Identity, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": metadata(identity.part("scaler"), identity.namespace, identity.labels),
        "spec": spec,
    }


# ---------------------------------------------------------------------------------------------- HTTP add-on


def http_scalers(
    function: Function,
    identity: Identity,
    cluster: Cluster,
    *,
    deployment: str,
    service: str,
    hosts: tuple[str, ...],
    notes: Notes,
) -> list[dict[str, Any]]:
    """Return what scales a function by its HTTP requests, for the add-on's version that the cluster has.

    Args:
        function: With scaleOptions.keda.
        identity: Of the revision.
        cluster: For the version of http.keda.sh.
        deployment: Name of what is scaled.
        service: Name of the Service in front of it, port 80.
        hosts: Host names of the function's route.
        notes: Takes what the add-on has no field for.
    """
    serving = function.serving or Serving()
    target, cooldown_s = _http_settings(_keda(serving), notes)
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment}
    prefixes = _path_prefixes(serving, notes)
    if cluster.http_add_on == "v1alpha1":
        bounds = _bounds(serving, notes)
        replicas = {
            short: bounds[name]
            for short, name in (("min", "minReplicaCount"), ("max", "maxReplicaCount"))
            if name in bounds
        }
        spec = {
            "hosts": list(hosts),
            **({"pathPrefixes": prefixes} if prefixes else {}),
            "scaleTargetRef": {**reference, "service": service, "port": 80},
            **({"replicas": replicas} if replicas else {}),
            "targetPendingRequests": target,
            "scaledownPeriod": cooldown_s,
        }
        return [_scaler("http.keda.sh/v1alpha1", "HTTPScaledObject", identity, spec)]
    if target < 1:
        notes.add(f"{_KEDA}.httpScaledObject.targetPendingRequests", "an InterceptorRoute takes 1 at least")
    rule: dict[str, Any] = {"hosts": list(hosts)}
    if prefixes:
        rule["paths"] = [{"value": prefix} for prefix in prefixes]
    spec = {
        "target": {"service": service, "port": 80},
        "rules": [rule],
        "scalingMetric": {"concurrency": {"targetValue": max(1, target)}},
    }
    route = _scaler("http.keda.sh/v1beta1", "InterceptorRoute", identity, spec)
    scale = {
        "scaleTargetRef": {**reference, "envSourceContainerName": FUNCTION_CONTAINER},
        **_bounds(serving, notes),
        "pollingInterval": 15,
        "cooldownPeriod": cooldown_s,
        "triggers": [_push_trigger(cluster, route["metadata"]["name"])],
    }
    return [route, _scaler("keda.sh/v1alpha1", "ScaledObject", identity, scale)]


def _http_settings(keda: KedaOptions, notes: Notes) -> tuple[int, int]:
    """Return pending requests per instance and seconds before zero; notes what is not about requests."""
    for index, trigger in enumerate(keda.triggers):
        notes.add(f"{_KEDA}.triggers[{index}]", f"{trigger.type}: HTTP functions scale by requests only")
    for name, given in (("scaledObject", keda.scaled_object), ("scaledJob", keda.scaled_job)):
        if given is not None:
            notes.add(f"{_KEDA}.{name}", "HTTP functions scale by requests: write httpScaledObject")
    options = keda.http_scaled_object
    pending = options.target_pending_requests if options is not None else None
    cooldown_s = options.cooldown_period_s if options is not None else None
    return (
        _TARGET_PENDING_REQUESTS if pending is None else pending,
        _COOLDOWN_S if cooldown_s is None else cooldown_s,
    )


def _push_trigger(cluster: Cluster, route: str) -> dict[str, Any]:
    """Return the trigger by which the add-on's scaler wakes and counts what an InterceptorRoute names."""
    address = f"keda-add-ons-http-external-scaler.{cluster.http_add_on_namespace}:9090"
    return {"type": "external-push", "metadata": {"scalerAddress": address, "interceptorRoute": route}}


def _path_prefixes(serving: Serving, notes: Notes) -> list[str]:
    """Return the paths of a route's rules, each once; the add-on knows prefixes only."""
    http = serving.triggers.http if serving.triggers else None
    found: dict[str, None] = {}
    for rule in http.route.rules if http is not None and http.route is not None else ():
        for match in rule.get("matches") or ():
            path = match.get("path") if isinstance(match, dict) else None
            said = path if isinstance(path, dict) else {}
            value = str(said.get("value") or "/")
            if said.get("type") == "RegularExpression":
                sentence = f'"{value}": KEDA\'s HTTP add-on knows prefixes only, and gets all paths'
                notes.add("spec.serving.triggers.http.route.rules", sentence)
                value = "/"
            found[value] = None
    return list(found)
