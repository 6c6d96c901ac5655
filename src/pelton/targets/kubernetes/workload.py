"""Workloads of a revision: Knative Service, Deployment, StatefulSet or Job, their Services, the Dapr proxy.

Called by `targets/kubernetes/render` with the pod that `targets/kubernetes/pod` made. Scalers are in
`targets/kubernetes/scaling`. Pure.

Source: contracts, OpenFunction, sections 6 (Service of the proxy), 8.1 and 8.2. Decided where these are
silent: serving.timeout becomes the progress deadline; a Job that a ScaledJob makes is not made itself too.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from pelton.model.function import Function, ScaleOptions, Serving
from pelton.plan import traffic
from pelton.quantity import format_duration
from pelton.targets.kubernetes.cluster import Cluster
from pelton.targets.kubernetes.identity import MANAGED_LABEL, PROXY_LABEL, SERVING_LABEL, Identity, metadata
from pelton.targets.kubernetes.notes import Notes
from pelton.targets.kubernetes.pod import FUNCTION_PORT, Pod, env_list, pod_identity

__all__ = [
    "dapr_proxy",
    "events_service",
    "http_service",
    "job_spec",
    "knative_service",
    "revision_name",
    "workload",
    "workload_type",
]

_TIMEOUT = "spec.serving.timeout"
_OF_THE_FUNCTION = ("autoscaling.knative.dev/", "serving.knative.dev/", "module.wasm.image/")
_KNATIVE_LONGEST_S = 600  # config-defaults: max-revision-timeout-seconds


def workload_type(serving: Serving, notes: Notes) -> str:
    """Return Deployment, StatefulSet or Job; a scaledJob means Job, whatever is written."""
    keda = serving.scale_options.keda if serving.scale_options else None
    if keda is not None and keda.scaled_job is not None:
        if serving.workload_type not in ("", "Job"):
            notes.add("spec.serving.workloadType", "scaleOptions.keda.scaledJob makes it a Job")
        return "Job"
    if serving.workload_type in ("StatefulSet", "Job"):
        return serving.workload_type
    if serving.workload_type not in ("", "Deployment"):
        notes.add("spec.serving.workloadType", f'"{serving.workload_type}" is none: a Deployment is written')
    return "Deployment"


def workload(
    function: Function,
    identity: Identity,
    pod: Pod,
    kind: str,
    *,
    event_service: bool,
    notes: Notes,
) -> dict[str, Any]:
    """Return a Deployment, StatefulSet or Job.

    Args:
        function: With defaults filled in, and with serving.
        identity: Of the revision.
        pod: What it runs.
        kind: One of these three.
        event_service: Whether `events_service` is there, for a StatefulSet's `serviceName`.
        notes: Takes what was left out.
    """
    serving = function.serving or Serving()
    name = identity.workload(kind.lower())
    meta = metadata(name, identity.namespace, pod.labels)
    if kind == "Job":
        if serving.timeout_s:
            notes.add(_TIMEOUT, "a Job has no limit for becoming ready")
        spec = job_spec(serving, pod, notes)
        return {"apiVersion": "batch/v1", "kind": kind, "metadata": meta, "spec": spec}
    spec = {
        "replicas": _replicas(serving, notes),
        "selector": {"matchLabels": identity.selector},
        "template": pod.template(),
    }
    if kind == "StatefulSet":
        spec = {"serviceName": identity.function if event_service else "", **spec}
        if serving.timeout_s:
            notes.add(_TIMEOUT, "a StatefulSet has no limit for becoming ready")
    elif serving.timeout_s:
        spec["progressDeadlineSeconds"] = ceil(serving.timeout_s)
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": spec}


def _replicas(serving: Serving, notes: Notes) -> int:
    """Return the first number of replicas: minReplicas if there is a scaler and it is above 0, else 1."""
    options = serving.scale_options or ScaleOptions()
    least = options.min_replicas or 0
    if options.keda is None:
        if least > 1:
            notes.add(
                "spec.serving.scaleOptions.minReplicas",
                "without scaleOptions.keda nothing scales, and there is one replica",
            )
        return 1
    return max(1, least)


def job_spec(serving: Serving, pod: Pod, notes: Notes) -> dict[str, Any]:
    """Return a JobSpec; its pods are started again on failure unless the scaledJob says otherwise."""
    keda = serving.scale_options.keda if serving.scale_options else None
    job = keda.scaled_job if keda is not None else None
    policy = (job.restart_policy if job is not None else "") or "OnFailure"
    if policy == "Always":
        notes.add(
            "spec.serving.scaleOptions.keda.scaledJob.restartPolicy",
            "a Job knows no Always: OnFailure is written",
        )
        policy = "OnFailure"
    template = pod.template()
    template["spec"]["restartPolicy"] = policy
    return {"template": template}


# ---------------------------------------------------------------------------------------------------- knative


def revision_name(identity: Identity) -> str:
    """Return the name of the Knative revision: `<service>-<version without dots>`."""
    return f"{identity.part('ksvc')}-{identity.short_version}"


def knative_service(
    function: Function,
    identity: Identity,
    pod: Pod,
    *,
    concurrency: int | None,
    request_timeout_s: float | None,
    notes: Notes,
) -> dict[str, Any]:
    """Return a Knative Service.

    Args:
        function: With defaults filled in, and with serving.
        identity: Of the revision.
        pod: What it runs; its annotations have those of scaling.
        concurrency: Hard limit per instance; None where nothing says it.
        request_timeout_s: Seconds per request; None where nothing says it, 0 for none.
        notes: Takes what was left out.
    """
    serving = function.serving or Serving()
    annotations = dict(pod.annotations)
    if serving.timeout_s:
        annotations.setdefault("serving.knative.dev/progress-deadline", format_duration(serving.timeout_s))
    spec: dict[str, Any] = {}
    if concurrency is not None:
        spec["containerConcurrency"] = concurrency
    if request_timeout_s is not None:
        seconds = ceil(request_timeout_s) or _KNATIVE_LONGEST_S
        if request_timeout_s == 0 or seconds > _KNATIVE_LONGEST_S:
            notes.add(
                "pelton.dev/request-timeout",
                f"Knative admits {_KNATIVE_LONGEST_S} s at most, unless max-revision-timeout-seconds in "
                "config-defaults is raised",
            )
        spec["timeoutSeconds"] = seconds
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": metadata(
            identity.part("ksvc"),
            identity.namespace,
            {name: value for name, value in identity.labels.items() if name != MANAGED_LABEL}
            | ({traffic.VISIBILITY: "cluster-local"} if traffic.internal(function) else {}),
        ),
        "spec": {
            "template": {
                "metadata": {
                    "name": revision_name(identity),
                    "labels": dict(pod.labels),
                    "annotations": annotations,
                },
                "spec": {**spec, **pod.spec},
            }
        },
    }


# --------------------------------------------------------------------------------------------------- services


def http_service(identity: Identity, pod: Pod) -> dict[str, Any]:
    """Return the Service in front of a function that KEDA's HTTP add-on scales: port 80 to its port."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(identity.workload("service"), identity.namespace, pod.labels),
        "spec": {
            "selector": identity.selector,
            "ports": [{"name": "http", "port": 80, "targetPort": pod.port, "protocol": "TCP"}],
        },
    }


def events_service(identity: Identity, pod: Pod) -> dict[str, Any]:
    """Return the Service by which the Dapr proxy finds a function: `<function>`, headless for gRPC."""
    headless = pod.annotations.get("dapr.io/app-protocol") != "http"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(identity.function, identity.namespace, identity.labels),
        "spec": {
            **({"clusterIP": "None"} if headless else {}),
            "selector": identity.selector,
            "ports": [{"name": "http", "port": pod.port, "targetPort": pod.port, "protocol": "TCP"}],
        },
    }


def dapr_proxy(
    identity: Identity, pod: Pod, variables: Mapping[str, str], cluster: Cluster
) -> dict[str, Any]:
    """Return the Deployment of the Dapr proxy, which has the sidecar that the function has not.

    Args:
        identity: Of the revision.
        pod: The function's: the proxy has its Dapr annotations and its port.
        variables: Both contexts.
        cluster: For the image.
    """
    labels = {**identity.labels, PROXY_LABEL: identity.serving}
    pod_labels = {name: value for name, value in labels.items() if name != SERVING_LABEL}
    annotations = {
        name: value for name, value in pod.annotations.items() if not name.startswith(_OF_THE_FUNCTION)
    }
    annotations |= {"dapr.io/sidecar-listen-addresses": "[::],0.0.0.0", "dapr.io/enabled": "true"}
    env = [
        {"name": "APP_PROTOCOL", "value": annotations["dapr.io/app-protocol"]},
        *({"name": name, "value": value} for name, value in variables.items()),
        *pod_identity(identity.namespace),
    ]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(identity.workload("proxy-deployment"), identity.namespace, labels),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {PROXY_LABEL: identity.serving}},
            "template": {
                "metadata": {"labels": pod_labels, "annotations": annotations},
                "spec": {
                    "containers": [
                        {
                            "name": "dapr-proxy",
                            "image": cluster.proxy_image,
                            "imagePullPolicy": "IfNotPresent",
                            "ports": [
                                {
                                    "name": FUNCTION_PORT,
                                    "containerPort": pod.port,
                                    "protocol": "TCP",
                                }
                            ],
                            "env": env_list(env),
                        }
                    ]
                },
            },
        },
    }
