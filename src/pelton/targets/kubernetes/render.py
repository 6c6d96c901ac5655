"""A Function as the objects of a cluster: entry of this folder, called by `cli/render.py`.

Puts together what the files beside it write: the build, Components, the workload with its Services, scalers
and routes, in an order in which they can be applied. Reads nothing and asks no cluster: `Cluster` and
`plan/eventing.Facts` say what is around. The mapping is in docs/reference/kubernetes.md. Pure.

Source: contracts, OpenFunction, sections 6 to 8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pelton.errors import RenderError
from pelton.manifest.openfunction_fields import SERVING
from pelton.model.function import Function, KedaOptions, Serving
from pelton.model.openfunction_gateway import OpenFunctionGateway
from pelton.plan import history, names, traffic
from pelton.plan.context import Around, around
from pelton.plan.eventing import Facts
from pelton.plan.function import REQUEST_TIMEOUT
from pelton.plan.scaling import DOMAIN
from pelton.quantity import parse_seconds
from pelton.targets.kubernetes import components as dapr
from pelton.targets.kubernetes import pod as pods
from pelton.targets.kubernetes import routing, scaling, workload
from pelton.targets.kubernetes.build import build_objects
from pelton.targets.kubernetes.cluster import DEFAULT_GATEWAY, Cluster, read_plugins
from pelton.targets.kubernetes.identity import (
    FUNCTION_LABEL,
    MANAGED_LABEL,
    SERVING_LABEL,
    VERSION_LABEL,
    Identity,
    label_value,
)
from pelton.targets.kubernetes.notes import Notes
from pelton.targets.kubernetes.pod import Links, Pod

__all__ = ["PARTS", "Rendered", "render_function"]

PARTS = ("build", "serving", "route")
"""Parts of a Function; a pipeline applies one, waits (for the image, for pods), and applies the next."""

_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_ENABLE_DAPR = "openfunction.io/enable-dapr"
_DAPR_MODE = "openfunction.io/dapr-service-mode"
_PLUGINS = "plugins"
_PREFIX = "pelton.dev/"
# Notes of Pelton's own that are about this machine only, or that a render carries out itself.
_SILENT = frozenset(
    {
        REQUEST_TIMEOUT,
        "pelton.dev/convention",
        "pelton.dev/fields-of-v1beta1",
        "pelton.dev/protocol",
        "pelton.dev/source-digest",
    }
)
_PLATFORM_LABELS = frozenset({MANAGED_LABEL, SERVING_LABEL, FUNCTION_LABEL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """What a Function becomes.

    Attributes:
        objects: In an order in which they can be applied.
        notes: (field path, sentence) for what is left out, or written differently than one might expect.
    """

    objects: tuple[dict[str, Any], ...]
    notes: tuple[tuple[str, str], ...]


def render_function(
    function: Function,
    facts: Facts,
    cluster: Cluster,
    *,
    digest: str = "",
    parts: tuple[str, ...] = PARTS,
) -> Rendered:
    """Write a Function as objects.

    Args:
        function: With defaults filled in and a namespace.
        facts: Standalone Components beside it.
        cluster: Settings of the cluster.
        digest: `sha256:<hex>` of the image that its last build made; "" when unknown.
        parts: Which of PARTS to write.

    Raises:
        RenderError: Its name, template, annotations or settings have no form in a cluster.
    """
    notes = Notes()
    _check_names(function, notes)
    made: list[dict[str, Any]] = []
    if "build" in parts:
        made += build_objects(function, notes)
    if function.serving is not None and ("serving" in parts or "route" in parts):
        serves = _serving(function, function.serving, facts, cluster, digest, notes)
        made += [obj for obj in serves if ("route" if _is_route(obj) else "serving") in parts]
    return Rendered(objects=tuple(sorted(made, key=_rank)), notes=tuple(notes.entries))


def _is_route(obj: Mapping[str, Any]) -> bool:
    """Tell whether an object leads requests to a function, rather than being what they are led to."""
    leads = obj["kind"] == "Service" and obj["spec"].get("type") == "ExternalName"
    return leads or obj["kind"] in ("HTTPRoute", "ReferenceGrant")


# What others refer to comes first: Components and Services, then what runs, then what scales and routes.
_ORDER = (
    "ReferenceGrant",
    "Component",
    "v1/Service",
    "Build",
    "BuildRun",
    "serving.knative.dev/v1/Service",
    "Deployment",
    "StatefulSet",
    "Job",
    "InterceptorRoute",
    "HTTPScaledObject",
    "ScaledObject",
    "ScaledJob",
    "HTTPRoute",
)


def _rank(obj: Mapping[str, Any]) -> int:
    kind = obj["kind"]
    return _ORDER.index(f"{obj['apiVersion']}/{kind}" if kind == "Service" else kind)


def _check_names(function: Function, notes: Notes) -> None:
    if not (_DNS_LABEL.fullmatch(function.name) and len(function.name) <= 63):
        raise RenderError(
            f'the name "{function.name}" cannot be that of a Service, which the Function needs in a cluster',
            hint="use at most 63 lower-case letters, digits and -, with a letter first",
        )
    asked = function.annotations | (function.serving.annotations if function.serving else {})
    for name in sorted(asked):
        if name.startswith(_PREFIX) and name not in _SILENT:
            notes.add(f"annotations[{name}]", "read by `pelton up` only")


def _serving(
    function: Function, serving: Serving, facts: Facts, cluster: Cluster, digest: str, notes: Notes
) -> list[dict[str, Any]]:
    http = serving.triggers.http if serving.triggers else None
    dapr_triggers = serving.triggers.dapr if serving.triggers else ()
    gateway = routing.gateway_of(function, cluster, notes) if http is not None else DEFAULT_GATEWAY
    found = dapr.find_links(function, facts, notes)
    image = history.image(function.image, digest)
    identity = _identity(function, serving, cluster, found, gateway, image)
    found = dapr.rename(found, function, identity)
    proxied = _has_dapr(function, serving) and _dapr_mode(function, notes) == "standalone"
    if proxied and len(identity.app_id) > 58:
        notes.add(
            "metadata.name", f'Dapr cannot make the Service "{identity.app_id}-dapr": it is longer than 63'
        )
    knative = http is not None and http.engine != "keda"
    surroundings = _around(function, serving, cluster)
    variables = pods.contexts(function, found, surroundings)
    pod = pods.function_pod(
        function,
        identity,
        surroundings,
        image=image,
        labels=_labels(serving, identity, knative=knative, notes=notes),
        annotations=_annotations(function, serving, identity, knative=knative, notes=notes),
        variables=variables,
        proxied=proxied,
        knative=knative,
        notes=notes,
    )
    made = dapr.components(function, identity, notes)
    events = proxied and bool(dapr_triggers)
    if events:
        made.append(workload.events_service(identity, pod))
    if proxied:
        made.append(workload.dapr_proxy(identity, pod, variables, cluster))
    if http is None:
        return made + _async(function, serving, identity, pod, events=events, notes=notes)
    return made + _http(function, serving, identity, pod, gateway, cluster, events=events, notes=notes)


def _http(
    function: Function,
    serving: Serving,
    identity: Identity,
    pod: Pod,
    gateway: OpenFunctionGateway,
    cluster: Cluster,
    *,
    events: bool,
    notes: Notes,
) -> list[dict[str, Any]]:
    """Return workload, scaler and routes of a function with an HTTP trigger."""
    http = serving.triggers.http if serving.triggers else None
    timeout_s = _request_timeout(function)
    hosts = routing.hostnames(function, identity, gateway, notes)
    if serving.workload_type not in ("", "Deployment"):
        notes.add("spec.serving.workloadType", "a function with an HTTP trigger has no choice of it")
    if http is not None and http.engine == "keda":
        made, backend = _keda_http(function, serving, identity, pod, cluster, hosts, notes)
    else:
        made, backend = _knative(function, serving, identity, pod, timeout_s, notes)
    if events:
        notes.add(
            "spec.serving.triggers",
            f'Service "{identity.function}" leads events to the instances, so requests of other pods have to '
            "go through the gateway",
        )
    else:
        made.append(routing.internal_service(identity, gateway))
    made.append(routing.http_route(function, identity, gateway, hosts, backend, request_timeout_s=timeout_s))
    return made


def _knative(
    function: Function, serving: Serving, identity: Identity, pod: Pod, timeout_s: float | None, notes: Notes
) -> tuple[list[dict[str, Any]], routing.Backend]:
    """Return Knative's Service, and where a route leads: to the revision, under the host name it expects."""
    keda = serving.scale_options.keda if serving.scale_options else None
    if keda is not None and keda != KedaOptions():
        notes.add("spec.serving.scaleOptions.keda", "Knative scales it, by scaleOptions.knative")
    made = workload.knative_service(
        function,
        identity,
        pod,
        concurrency=scaling.concurrency(function),
        request_timeout_s=timeout_s,
        notes=notes,
    )
    revision = workload.revision_name(identity)
    return [made], routing.Backend(service=revision, port=80, host=identity.inside(revision))


def _keda_http(
    function: Function,
    serving: Serving,
    identity: Identity,
    pod: Pod,
    cluster: Cluster,
    hosts: tuple[str, ...],
    notes: Notes,
) -> tuple[list[dict[str, Any]], routing.Backend]:
    """Return Deployment, Service and scaler, and where a route leads: to the interceptor, if it scales."""
    options = serving.scale_options
    if options is not None and options.knative:
        notes.add("spec.serving.scaleOptions.knative", "KEDA scales it, by scaleOptions.keda")
    deployment = workload.workload(function, identity, pod, "Deployment", event_service=False, notes=notes)
    service = workload.http_service(identity, pod)
    service_name = service["metadata"]["name"]
    made = [deployment, service]
    if options is None or options.keda is None:
        return made, routing.Backend(service=service_name, port=80)
    made += scaling.http_scalers(
        function,
        identity,
        cluster,
        deployment=deployment["metadata"]["name"],
        service=service_name,
        hosts=hosts,
        notes=notes,
    )
    if cluster.http_add_on_namespace != identity.namespace:
        made.append(routing.reference_grant(identity, cluster))
    return made, routing.Backend.interceptor(cluster, identity.namespace)


def _async(
    function: Function, serving: Serving, identity: Identity, pod: Pod, *, events: bool, notes: Notes
) -> list[dict[str, Any]]:
    """Return workload and scaler of a function that only events drive."""
    options = serving.scale_options
    keda = options.keda if options is not None else None
    if options is not None and options.knative:
        notes.add("spec.serving.scaleOptions.knative", "KEDA scales it, by scaleOptions.keda")
    kind = workload.workload_type(serving, notes)
    if keda is None or not keda.triggers:
        if options is not None:
            notes.add(
                "spec.serving.scaleOptions",
                "nothing scales it without scaleOptions.keda.triggers, not even to zero",
            )
        return [workload.workload(function, identity, pod, kind, event_service=events, notes=notes)]
    if kind == "Job":
        return [scaling.scaled_job(function, identity, workload.job_spec(serving, pod, notes), notes)]
    runs = workload.workload(function, identity, pod, kind, event_service=events, notes=notes)
    return [runs, scaling.scaled_object(function, identity, kind, runs["metadata"]["name"], notes)]


# ---------------------------------------------------------------------------------------------------- details


def _identity(
    function: Function,
    serving: Serving,
    cluster: Cluster,
    found: Links,
    gateway: OpenFunctionGateway,
    image: str,
) -> Identity:
    """Name the revision by all that its objects are made of."""
    types = {
        f"{part}/{name}": link.type
        for part, links in (
            ("triggers", found.triggers),
            ("inputs", found.inputs),
            ("outputs", found.outputs),
            ("states", found.states),
        )
        for name, link in links.items()
    }
    content = [
        function.namespace,
        function.name,
        function.version,
        function.annotations,
        # As written, not as modelled: a field that a later version adds must not rename what is there.
        SERVING.encode(serving),
        image,
        function.image_credentials,
        types,
        SERVING.encode(Serving(hooks=cluster.hooks, tracing=cluster.tracing)),
        [cluster.proxy_image, gateway.cluster_domain],
    ]
    return Identity(
        namespace=function.namespace,
        function=function.name,
        version=function.version,
        digest=names.content_hash(content),
        app_id=serving.annotations.get("dapr.io/app-id") or names.app_id(function.namespace, function.name),
        cluster_domain=gateway.cluster_domain,
    )


def _has_dapr(function: Function, serving: Serving) -> bool:
    asked, path = traffic.annotation(function, _ENABLE_DAPR)
    if path:
        return asked.lower() != "false"
    triggers = serving.triggers
    inputs = triggers is not None and bool(triggers.dapr or triggers.inputs)
    return inputs or bool(serving.outputs or serving.states)


def _dapr_mode(function: Function, notes: Notes) -> str:
    mode, path = traffic.annotation(function, _DAPR_MODE)
    if mode not in ("", "standalone", "sidecar"):
        notes.add(path, f'"{mode}" is taken to be standalone, not sidecar')
    return "sidecar" if mode == "sidecar" else "standalone"


def _around(function: Function, serving: Serving, cluster: Cluster) -> Around:
    plugins = None
    if _PLUGINS in function.annotations:
        plugins = read_plugins(function.annotations[_PLUGINS], f"metadata.annotations[{_PLUGINS}]")
    return around(serving, hooks=cluster.hooks, tracing=cluster.tracing, plugins=plugins)


def _labels(serving: Serving, identity: Identity, *, knative: bool, notes: Notes) -> dict[str, str]:
    own = {**identity.labels, VERSION_LABEL: label_value(identity.version)}
    if knative:
        own.pop(MANAGED_LABEL)
    return notes.merged("spec.serving.labels", serving.labels, own, kept=_PLATFORM_LABELS)


def _annotations(
    function: Function, serving: Serving, identity: Identity, *, knative: bool, notes: Notes
) -> dict[str, str]:
    """Return the annotations of the function's pods; the user's win, except over Dapr's mode."""
    port = pods.app_port(serving)
    found = {
        "dapr.io/app-id": identity.app_id,
        "dapr.io/log-as-json": "true",
        "dapr.io/app-protocol": "grpc",
        "dapr.io/app-port": str(port),
    }
    if knative:
        found["dapr.io/metrics-port"] = "19090"
    found |= serving.annotations
    if knative:
        found = {name: value for name, value in found.items() if not name.startswith(DOMAIN)}
        found |= scaling.knative_annotations(function)
    sidecar = _has_dapr(function, serving) and _dapr_mode(function, notes) == "sidecar"
    asked = serving.annotations.get("dapr.io/enabled")
    if asked is not None and asked != str(sidecar).lower():
        notes.add(
            "spec.serving.annotations[dapr.io/enabled]",
            f"{_ENABLE_DAPR} and {_DAPR_MODE} decide",
        )
    found["dapr.io/enabled"] = "true" if sidecar else "false"
    return found


def _request_timeout(function: Function) -> float | None:
    """Return seconds per request from the annotation; None where nothing says it."""
    text, path = traffic.annotation(function, REQUEST_TIMEOUT)
    if not path:
        return None
    try:
        return parse_seconds(text)
    except ValueError:
        raise RenderError(f'{path}: "{text}" is not a duration such as "30s", or "0" for none') from None
