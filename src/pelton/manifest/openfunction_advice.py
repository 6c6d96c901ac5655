"""What a Function says that has no effect, or not the one it seems to have, each with the field to use.

`manifest/kinds` shows these as warnings of `pelton apply` and of the API; the object is accepted as it is.
`MOVED` does the same for fields of v1beta1 that are written into v1beta2. Source: contracts, OpenFunction,
sections 2 to 8 and 11: what is marked as a quirk there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pelton.manifest.component_types import metadata_advice
from pelton.manifest.fields import Problem, describe, either, nearest, render_path
from pelton.model.function import Build, Function, HttpTrigger, ScaleOptions, Serving

__all__ = ["MOVED", "function_advice"]

MOVED: Mapping[str, str] = {
    "spec.port": "spec.serving.triggers.http.port",
    "spec.route": "spec.serving.triggers.http.route",
    "spec.build.params": "spec.build.shipwright.params",
    "spec.serving.runtime": "spec.serving.triggers.http or spec.serving.triggers.dapr",
    "spec.serving.inputs": "spec.serving.triggers.dapr",
    "spec.serving.outputs.*.name": "the field dapr: {name: ...} around it",
    "spec.serving.outputs.*.component": "dapr.name",
    "spec.serving.outputs.*.params": "dapr.metadata",
    "spec.serving.outputs.*.topic": "dapr.topic",
    "spec.serving.outputs.*.operation": "dapr.operation",
    "spec.serving.triggers.inputs.*.name": "the field dapr: {name: ...} around it",
    "spec.serving.states.*.type": "the field spec: {type: ...} around it",
    "spec.serving.states.*.version": "the field spec: {type: ...} around it",
    "spec.serving.states.*.metadata": "the field spec: {type: ...} around it",
    "spec.serving.scaleOptions.keda.scaledObject.minReplicaCount": "spec.serving.scaleOptions.minReplicas",
    "spec.serving.scaleOptions.keda.scaledObject.maxReplicaCount": "spec.serving.scaleOptions.maxReplicas",
    "spec.serving.scaleOptions.keda.scaledObject.workloadType": "spec.serving.workloadType",
    "spec.serving.scaleOptions.keda.scaledObject.triggers": "spec.serving.scaleOptions.keda.triggers",
    "spec.serving.scaleOptions.keda.scaledJob.maxReplicaCount": "spec.serving.scaleOptions.maxReplicas",
    "spec.serving.scaleOptions.keda.triggers.*.targetKind": "scaledObject or scaledJob beside triggers",
}
"""Field of v1beta1, `*` for a position or a name -> what v1beta2 has for it."""

_OWN_BUILDER = "pelton"  # what `pelton init` and `pelton deploy` write
_KNATIVE = "autoscaling.knative.dev/"
_SPELLINGS = {"minScale": "min-scale", "maxScale": "max-scale"}
_SCALE = "spec.serving.scaleOptions"


def function_advice(function: Function) -> list[Problem]:
    """Return what in a Function is worth a warning, in the order of the manifest."""
    return list(_function(function))


def _function(function: Function) -> Iterator[Problem]:
    yield from _annotations(function.annotations, ("metadata", "annotations"))
    hooks = function.serving.hooks if function.serving is not None else None
    tracing = function.serving.tracing if function.serving is not None else None
    for key, field, given in (
        ("plugins", "spec.serving.hooks", hooks),
        ("plugins.tracing", "spec.serving.tracing", tracing),
    ):
        if key in function.annotations:
            use = f"{field} counts" if given is not None else f"write {field}"
            yield Problem(
                render_path(("metadata", "annotations", key)), f"is not read, only v1beta1 has it: {use}"
            )
    runtime = function.workload_runtime
    if runtime.lower() not in ("ocicontainer", "wasmedge"):
        yield Problem(
            "spec.workloadRuntime",
            f"counts as OCIContainer, found {describe(runtime)}: write OCIContainer or WasmEdge",
        )
    if function.build is not None:
        yield from _build(function.build)
    if function.serving is not None:
        yield from _serving(function.serving)


def _annotations(annotations: Mapping[str, str], path: tuple[str, ...]) -> Iterator[Problem]:
    if "dapr.io/enabled" in annotations:
        yield Problem(
            render_path((*path, "dapr.io/enabled")),
            "makes it an app of Dapr on one machine; on a cluster it has no effect: there "
            'openfunction.io/enable-dapr: "false" turns Dapr off, and openfunction.io/dapr-service-mode: '
            "sidecar asks for a sidecar",
        )
    mode = annotations.get("openfunction.io/dapr-service-mode")
    if mode is not None and mode not in ("standalone", "sidecar"):
        yield Problem(
            render_path((*path, "openfunction.io/dapr-service-mode")),
            f"counts as standalone; known are standalone and sidecar, found {describe(mode)}",
        )
    switch = annotations.get("openfunction.io/enable-dapr")
    if switch is not None and switch not in ("true", "false"):
        yield Problem(
            render_path((*path, "openfunction.io/enable-dapr")),
            f'counts as "true": everything but "false" does, found {describe(switch)}',
        )


def _build(build: Build) -> Iterator[Problem]:
    path = "spec.build"
    for name, value in build.env.items() if build.builder != _OWN_BUILDER else ():
        found = [
            what
            for what, there in (("#", "#" in value), ("=", "=" in value), ("blanks", " " in value))
            if there
        ]
        if found:
            yield Problem(
                render_path(("spec", "build", "env", name)),
                f"holds {' and '.join(found)}: fine here and in what pelton render writes, OpenFunction's "
                "own build cuts such values: write spec.build.shipwright.params for it",
            )
    source = build.source
    if source is not None and source.url and source.bundle_image:
        yield Problem(f"{path}.srcRepo.url", "has no effect: bundleContainer wins")
    if build.shipwright is not None and build.shipwright.timeout_s is not None:
        yield Problem(f"{path}.shipwright.timeout", "has no effect: write spec.build.timeout")


def _serving(serving: Serving) -> Iterator[Problem]:
    for field in ("bindings", "pubsub", "states"):
        for name, spec in getattr(serving, field).items():
            if spec is not None:
                yield from metadata_advice(spec, render_path(("spec", "serving", field, name)))
    triggers = serving.triggers
    http = triggers.http if triggers is not None else None
    dapr = triggers.dapr if triggers is not None else ()
    for index, trigger in enumerate(dapr):
        path = f"spec.serving.triggers.dapr[{index}]"
        yield from _component(serving, trigger.name, f"{path}.name")
        yield from _topic(serving, trigger, path)
    for index, extra in enumerate(triggers.inputs if triggers is not None else ()):
        kind = extra.type or _type_of(serving, extra.name)
        if kind.startswith(("bindings.", "pubsub.")):
            yield Problem(
                f"spec.serving.triggers.inputs[{index}].dapr",
                f"calls nothing, though {kind} could: write it into spec.serving.triggers.dapr",
            )
    names: set[str] = set()
    for index, output in enumerate(serving.outputs):
        path = f"spec.serving.outputs[{index}].dapr"
        yield from _component(serving, output.name, f"{path}.name")
        yield from _topic(serving, output, path)
        name = output.output_name or output.name
        if name in names:
            yield Problem(
                f"{path}.outputName", f"{describe(name)} is the name of another output too, which it hides"
            )
        names.add(name)
    yield from _annotations(serving.annotations, ("spec", "serving", "annotations"))
    yield from _scaling(serving, http)
    yield from _template(serving.template)
    if serving.hooks is not None and serving.hooks.policy not in ("", "Append", "Override"):
        yield Problem(
            "spec.serving.hooks.policy",
            f"counts as Append; known are Append and Override, found {describe(serving.hooks.policy)}",
        )
    provider = serving.tracing.provider if serving.tracing is not None else None
    if provider is not None and provider.name.lower() not in ("skywalking", "opentelemetry"):
        yield Problem(
            "spec.serving.tracing.provider.name",
            f"is not known: write skywalking or opentelemetry, found {describe(provider.name)}",
        )


def _type_of(serving: Serving, name: str) -> str:
    component = serving.component(name)
    return component.type if component is not None else ""


def _component(serving: Serving, name: str, path: str) -> Iterator[Problem]:
    """Look for a component that is referred to; where none is declared inline, Components are meant."""
    declared = [*serving.bindings, *serving.pubsub, *serving.states]
    if name and declared and name not in declared:
        close = nearest(name, declared)
        yield Problem(
            path,
            f"{describe(name)} is none of the components of this Function ({either(declared)}): "
            + (f"did you mean {close}? Else " if close else "")
            + "a Component of that name has to be in the namespace",
        )


def _topic(serving: Serving, reference: Any, path: str) -> Iterator[Problem]:
    kind = reference.type or _type_of(serving, reference.name)
    if kind.startswith("pubsub.") and not reference.topic:
        yield Problem(f"{path}.topic", f"is missing: {kind} needs one")


# ---------------------------------------------------------------------------------------------------- scaling


def _scaling(serving: Serving, http: HttpTrigger | None) -> Iterator[Problem]:
    keda_engine = http is not None and http.engine == "keda"
    options = serving.scale_options
    if keda_engine:
        yield from _keda_engine(http, options)
    if options is None:
        return
    for key in serving.annotations:
        if key.startswith(_KNATIVE) and (bound := _bound(key, options)):
            yield Problem(
                render_path(("spec", "serving", "annotations", key)), f"has no effect: {bound} wins"
            )
    if options.knative:
        yield from _knative(serving, options, used=http is not None and not keda_engine)
    keda = options.keda
    if keda is None:
        return
    if http is not None and not keda_engine:
        for name, given in (
            ("triggers", keda.triggers),
            ("scaledObject", keda.scaled_object),
            ("scaledJob", keda.scaled_job),
            ("httpScaledObject", keda.http_scaled_object),
        ):
            if given:
                use = (
                    "set triggers.http.engine keda"
                    if name == "httpScaledObject"
                    else "use minReplicas, maxReplicas, knative"
                )
                yield Problem(
                    f"{_SCALE}.keda.{name}",
                    f"has no effect on an HTTP function with the engine knative: {use}",
                )
        return
    if http is None:
        if keda.http_scaled_object is not None:
            yield Problem(
                f"{_SCALE}.keda.httpScaledObject", "has no effect without an HTTP trigger: write scaledObject"
            )
        if not keda.triggers:
            yield Problem(
                f"{_SCALE}.keda.triggers", "not given: without triggers nothing is scaled, to zero neither"
            )
        if keda.scaled_job is not None and serving.workload_type != "Job":
            yield Problem("spec.serving.workloadType", "write Job: scaleOptions.keda.scaledJob starts jobs")
        if keda.scaled_object is not None and serving.workload_type == "Job":
            yield Problem(
                f"{_SCALE}.keda.scaledObject",
                "cannot scale a Job: write scaledJob, or workloadType Deployment",
            )


def _keda_engine(http: HttpTrigger | None, options: ScaleOptions | None) -> Iterator[Problem]:
    route = http.route if http is not None else None
    if route is None or not route.hostnames:
        yield Problem(
            "spec.serving.triggers.http.route.hostnames",
            "not given: on Kubernetes the engine keda takes requests for these hosts only, without a default",
        )
    if options is None or options.keda is None or options.keda.http_scaled_object is None:
        yield Problem(
            f"{_SCALE}.keda.httpScaledObject",
            "not given: 100 requests per instance and a cooldown of 300 s count; OpenFunction needs it",
        )


def _knative(serving: Serving, options: ScaleOptions, *, used: bool) -> Iterator[Problem]:
    if not used:
        yield Problem(
            f"{_SCALE}.knative",
            "has no effect: only HTTP functions with the engine knative follow it; use minReplicas, "
            "maxReplicas and keda",
        )
        return
    for key in options.knative:
        path = render_path((*_SCALE.split("."), "knative", key))
        if bound := _bound(key, options):
            yield Problem(path, f"has no effect: {bound} wins")
        elif key in serving.annotations:
            yield Problem(path, "has no effect: the same key in spec.serving.annotations wins")


def _bound(key: str, options: ScaleOptions) -> str:
    """Return the field that wins over an annotation of Knative's, with its value, or ""."""
    name = key.removeprefix(_KNATIVE)
    field, value = {
        "min-scale": ("minReplicas", options.min_replicas),
        "max-scale": ("maxReplicas", options.max_replicas),
    }.get(_SPELLINGS.get(name, name), ("", None))
    return f"{_SCALE}.{field} ({value})" if value is not None else ""


def _template(template: Mapping[str, Any] | None) -> Iterator[Problem]:
    containers = (template or {}).get("containers")
    for index, container in enumerate(containers if isinstance(containers, list) else ()):
        if isinstance(container, dict) and container.get("name") == "function" and container.get("image"):
            yield Problem(
                f"spec.serving.template.containers[{index}].image", "has no effect: spec.image is what runs"
            )
    if isinstance(containers, list) and containers:
        named = [item.get("name") for item in containers if isinstance(item, dict)]
        if "function" not in named:
            yield Problem(
                "spec.serving.template.containers",
                "none is called function: one is added for the user's code, and these run beside it",
            )
