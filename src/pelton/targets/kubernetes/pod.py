"""The pod of a function: its template merged with image, port, environment, labels and annotations.

Called by `targets/kubernetes/workload`, which wraps pods in a Deployment, StatefulSet, Job or Knative
Service. The function's context comes from `plan/context`. Pure.

Source: contracts, OpenFunction, sections 2.3 and 8.1. Decided where these are silent: of two variables of
one name the later value counts, as in a pod, and stands at the first place, since a list of a server-side
apply must not name one twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pelton.errors import RenderError
from pelton.manifest.fields import copy_json, describe
from pelton.model.function import FUNCTION_CONTAINER, Function, Serving
from pelton.plan.context import DEFAULT_PORT, Around, context_v1beta2, function_context, to_text
from pelton.plan.eventing import Link
from pelton.targets.kubernetes.identity import Identity
from pelton.targets.kubernetes.notes import Notes

__all__ = [
    "FUNCTION_PORT",
    "Links",
    "Pod",
    "app_port",
    "contexts",
    "env_list",
    "function_pod",
    "pod_identity",
]

FUNCTION_PORT = "function-port"

_TEMPLATE = "spec.serving.template"
_WASM_VARIANT = "module.wasm.image/variant"
_WASM_RUNTIME_CLASS = "openfunction-crun"
# Knative sets these itself and refuses a revision that names them.
_KNATIVE_RESERVED = frozenset({"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Components that a function refers to: name as it is written -> link, by what refers to them."""

    triggers: Mapping[str, Link]
    inputs: Mapping[str, Link]
    outputs: Mapping[str, Link]
    states: Mapping[str, Link]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What all workloads of a revision are made from.

    Attributes:
        labels, annotations: Of the pods.
        spec: PodSpec.
        port: Port of the function's container.
    """

    labels: dict[str, str]
    annotations: dict[str, str]
    spec: dict[str, Any]
    port: int

    def template(self) -> dict[str, Any]:
        """Return it as a PodTemplateSpec."""
        return {
            "metadata": {"labels": dict(self.labels), "annotations": dict(self.annotations)},
            "spec": copy_json(self.spec),
        }


def app_port(serving: Serving) -> int:
    """Return the port of the function's container: that of the HTTP trigger, else 8080."""
    http = serving.triggers.http if serving.triggers else None
    return (http.port if http else None) or DEFAULT_PORT


def contexts(function: Function, links: Links, surroundings: Around) -> dict[str, str]:
    """Return both function contexts: variable -> JSON."""
    merged = function_context(
        function, links.triggers, links.inputs, links.outputs, links.states, surroundings
    )
    plain = context_v1beta2(function, links.triggers, links.inputs, links.outputs, links.states, surroundings)
    return {"FUNC_CONTEXT": to_text(merged), "FUNC_CONTEXT_V1BETA2": to_text(plain)}


def pod_identity(namespace: str) -> list[dict[str, Any]]:
    """Return the variables by which a process knows its pod."""
    return [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
        {"name": "POD_NAMESPACE", "value": namespace},
    ]


def env_list(variables: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return environment variables with each name once: the first place, the last value."""
    found: dict[str, dict[str, Any]] = {}
    for variable in variables:
        found[str(variable.get("name"))] = dict(variable)
    return list(found.values())


def function_pod(
    function: Function,
    identity: Identity,
    surroundings: Around,
    *,
    image: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    variables: Mapping[str, str],
    proxied: bool,
    knative: bool,
    notes: Notes,
) -> Pod:
    """Return the pod of a function.

    Args:
        function: With defaults filled in, and with serving.
        identity: Of the revision.
        surroundings: Hooks and tracing; tracing by SkyWalking has variables of its own.
        image: To run.
        labels: Of the pods, complete.
        annotations: Of the pods, complete.
        variables: Both contexts, see `contexts`.
        proxied: Whether Dapr is a proxy with a sidecar of its own, rather than a sidecar here.
        knative: Whether Knative runs it: its port has no name of ours, some variables are its own.
        notes: Takes what was left out.

    Raises:
        RenderError: The template is not a PodSpec.
    """
    serving = function.serving or Serving()
    spec: dict[str, Any] = copy_json(serving.template or {})
    containers = _containers(spec)
    container = next((each for each in containers if each.get("name") == FUNCTION_CONTAINER), None)
    if container is None:
        container = {"name": FUNCTION_CONTAINER, "imagePullPolicy": "IfNotPresent"}
        containers.append(container)
    spec["containers"] = containers
    container["image"] = image
    port = app_port(serving)
    ports = _ports(container, port, knative=knative, h2c=_speaks_h2c(function), notes=notes)
    env = env_list(
        [
            *(container.get("env") or ()),
            {"name": "APP_PROTOCOL", "value": annotations["dapr.io/app-protocol"]},
            *(_skywalking(function, surroundings) if not _is_keda_http(serving) else ()),
            *_plain(variables),
            *_plain(serving.params),
            *pod_identity(identity.namespace),
            *_plain(dict.fromkeys(("DAPR_HOST", "DAPR_SIDECAR_IP"), identity.dapr_host) if proxied else {}),
        ]
    )
    if knative:
        env = _without_reserved(env, notes)
    for key, value in (("ports", ports), ("env", env)):  # behind what the user wrote
        container.pop(key, None)
        container[key] = value
    _pull_secrets(spec, function)
    if _is_wasm(function) and spec.get("runtimeClassName") is None:
        spec["runtimeClassName"] = _WASM_RUNTIME_CLASS
    return Pod(labels=dict(labels), annotations=dict(annotations), spec=spec, port=port)


def _containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    containers = spec.get("containers")
    if containers is None:
        return []
    if not isinstance(containers, list):
        raise RenderError(f"{_TEMPLATE}.containers: must be a list, found {describe(containers)}")
    for index, container in enumerate(containers):
        path = f"{_TEMPLATE}.containers[{index}]"
        if not isinstance(container, dict):
            raise RenderError(f"{path}: must be an object, found {describe(container)}")
        for key in ("env", "ports"):
            items = container.get(key)
            if items is not None and not (
                isinstance(items, list) and all(isinstance(item, dict) for item in items)
            ):
                raise RenderError(f"{path}.{key}: must be a list of objects")
    return containers


def _plain(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _without_reserved(env: list[dict[str, Any]], notes: Notes) -> list[dict[str, Any]]:
    for variable in env:
        if variable["name"] in _KNATIVE_RESERVED:
            sentence = f"{variable['name']} is left out: Knative sets it and refuses another"
            notes.add("spec.serving", sentence)
    return [variable for variable in env if variable["name"] not in _KNATIVE_RESERVED]


def _ports(
    container: Mapping[str, Any], port: int, *, knative: bool, h2c: bool, notes: Notes
) -> list[dict[str, Any]]:
    """Return the container's ports with the function's among them; Knative takes one and names it itself."""
    written = [dict(item) for item in container.get("ports") or ()]
    if knative:
        others = [item for item in written if item.get("containerPort") != port]
        if others:
            notes.add(
                f"{_TEMPLATE}.containers", "Knative takes one port: other ports of the function are left out"
            )
        return [{"containerPort": port, **({"name": "h2c"} if h2c else {})}]
    if any(item.get("containerPort") == port for item in written):
        return written
    return [*written, {"name": FUNCTION_PORT, "containerPort": port, "protocol": "TCP"}]


def _speaks_h2c(function: Function) -> bool:
    serving = function.serving or Serving()
    notes = {**function.annotations, **serving.annotations}
    return notes.get("pelton.dev/protocol", "").strip().lower() in {"h2c", "grpc"}


def _is_keda_http(serving: Serving) -> bool:
    http = serving.triggers.http if serving.triggers else None
    return http is not None and http.engine == "keda"


def _is_wasm(function: Function) -> bool:
    serving = function.serving or Serving()
    return _WASM_VARIANT in function.annotations or _WASM_VARIANT in serving.annotations


def _skywalking(function: Function, surroundings: Around) -> list[dict[str, Any]]:
    provider = surroundings.tracing.provider if surroundings.tracing is not None else None
    if provider is None or provider.name != "skywalking":
        return []
    values = {
        "SW_AGENT_COLLECTOR_BACKEND_SERVICES": provider.oap_server,
        "SW_AGENT_NAME": function.name,
        "SW_AGENT_NAMESPACE": function.namespace,
        "SW_AGENT_KEEP_TRACING": "true",
    }
    return _plain(values)


def _pull_secrets(spec: dict[str, Any], function: Function) -> None:
    if not function.image_credentials:
        return
    secrets = list(spec.get("imagePullSecrets") or ())
    if {"name": function.image_credentials} not in secrets:
        secrets.append({"name": function.image_credentials})
    spec["imagePullSecrets"] = secrets
