"""Fields that one machine accepts and cannot honour, with their paths: nothing is ignored silently.

The list becomes the condition LocalTarget=Partial. Scaling and eventing add their own entries. Called by
`plan/function`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pelton.model.function import FUNCTION_CONTAINER, Build, Function, Serving, Tracing
from pelton.plan.limits import unhonoured_resources

__all__ = ["environment_of", "only_openfunctions", "unhonoured"]

_CONTAINER_KEPT = frozenset({"name", "image", "imagePullPolicy", "env", "resources"})

Entry = tuple[str, str]


def unhonoured(function: Function) -> list[Entry]:
    """Return (field path, sentence) for each such field, in the order of the manifest."""
    entries: list[Entry] = []
    if function.workload_runtime.lower() == "wasmedge":
        entries.append(("spec.workloadRuntime", "the source runs as a Python function, not as WebAssembly"))
    if function.image_credentials:
        entries.append(("spec.imageCredentials", "no image is pushed or pulled"))
    if function.build is not None:
        entries.extend(_build(function.build))
    if function.serving is not None:
        entries.extend(_serving(function.serving))
    return entries


def only_openfunctions(serving: Serving, convention: str) -> list[Entry]:
    """Return the fields that reach a function through OpenFunction's context, which others are not handed."""
    if convention == "openfunction":
        return []
    title = f"functions of the convention {convention} are handed no OpenFunction context"
    return [
        (f"spec.serving.{field}", title)
        for field, given in (
            ("states", serving.states),
            ("hooks", serving.hooks and (serving.hooks.pre or serving.hooks.post)),
            ("tracing", serving.tracing is not None and serving.tracing.enabled),
        )
        if given
    ]


OWN_BUILDER = "pelton"
"""What `init` and `deploy` write into spec.build.builder, which the contract requires."""


def _build(build: Build) -> Iterator[Entry]:
    source = build.source
    if source is not None:
        if source.revision:
            yield "spec.build.srcRepo.revision", "the directory is taken as it is"
        if source.credentials:
            yield "spec.build.srcRepo.credentials", "a local directory needs none"
    for field, given in (
        ("builder", "" if build.builder == OWN_BUILDER else build.builder),
        ("builderCredentials", build.builder_credentials),
        ("dockerfile", build.dockerfile),
        ("shipwright", build.shipwright),
    ):
        if given:
            yield f"spec.build.{field}", "source is built by the built-in Python builder"


def _serving(serving: Serving) -> Iterator[Entry]:
    triggers = serving.triggers
    if triggers is not None and triggers.inputs:
        yield "spec.serving.triggers.inputs", "extra data sources are not served yet"
    if serving.template:
        yield from _template(serving.template)
    if serving.tracing is not None and serving.tracing.enabled:
        yield from _tracing(serving.tracing)
    if serving.workload_type not in ("", "Deployment", "Job"):
        yield "spec.serving.workloadType", "instances run as long-lived workers"
    elif serving.workload_type == "Job" and (triggers is None or triggers.http or not triggers.dapr):
        yield "spec.serving.workloadType", "jobs need events to work off, and no http trigger: instances stay"


def _tracing(tracing: Tracing) -> Iterator[Entry]:
    path = "spec.serving.tracing.provider"
    provider = tracing.provider
    if provider is None:
        return
    if provider.name == "skywalking" and not provider.oap_server.startswith(("http://", "https://")):
        yield f"{path}.oapServer", "spans are written to the log; an http:// address gets them as JSON"
    exporter = provider.exporter
    if exporter is not None and "grpc" in exporter.protocol.lower():
        yield f"{path}.exporter.protocol", "spans are written to the log; OTLP is spoken over HTTP, as JSON"


def _template(template: Mapping[str, Any]) -> Iterator[Entry]:
    path = "spec.serving.template"
    for key in template:
        if key != "containers":
            yield f"{path}.{key}", "pod settings do not apply to a worker process"
    for index, container in enumerate(_objects(template.get("containers"))):
        here = f"{path}.containers[{index}]"
        if container.get("name") != FUNCTION_CONTAINER:
            yield here, "only the function itself runs"
            continue
        for key in container:
            if key not in _CONTAINER_KEPT:
                yield f"{here}.{key}", "container settings do not apply to a worker process"
        yield from unhonoured_resources(f"{here}.resources", container.get("resources"))
        for number, item in enumerate(_objects(container.get("env"))):
            if "valueFrom" in item:
                yield f"{here}.env[{number}].valueFrom", "only plain values are set"


def _objects(value: Any) -> list[dict[str, Any]]:
    """Return a list's objects; a PodSpec is kept as written, so it may hold anything."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def environment_of(template: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the plain environment variables of the template's function container, name -> value."""
    found: dict[str, str] = {}
    for container in _objects((template or {}).get("containers")):
        if container.get("name") == FUNCTION_CONTAINER:
            for item in _objects(container.get("env")):
                if "valueFrom" not in item and item.get("name"):
                    found[str(item["name"])] = str(item.get("value", ""))
    return found
