"""Function, Builder and Serving of core.openfunction.io/v1beta1: fields, and conversion to v1beta2 and back.

`FUNCTION`, `BUILDER` and `SERVING` go to the kinds' verbs; `manifest/versions` makes the conversions below
lossless. Where the original drops or crashes its evident intent is done: an output whose component is
declared elsewhere stays, triggers stay without `scaleOptions.keda`, `build.timeout` is taken over. The status
is the same in both versions. Source: contracts, OpenFunction, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pelton.errors import ManifestError
from pelton.manifest import openfunction_fields as v1beta2
from pelton.manifest import scale_fields
from pelton.manifest.dapr import COMPONENT_SPEC
from pelton.manifest.fields import (
    Field,
    Integer,
    Items,
    Mapped,
    Problem,
    Reading,
    Record,
    Text,
    render_path,
)
from pelton.manifest.text import load, write
from pelton.manifest.versions import Older

__all__ = ["BUILDER", "FUNCTION", "SERVING"]

Obj = dict[str, Any]

_VERSION = "v1beta1"
_API_VERSION = "core.openfunction.io/v1beta1"
_STORAGE = "core.openfunction.io/v1beta2"
_PLUGINS = "plugins"
_TRACING = "plugins.tracing"

_TEXT = Text()
_STRINGS = Mapped(_TEXT)

# ----------------------------------------------------------------------------------------------------- fields


def _variant(record: Record, *added: Field, without: tuple[str, ...] = ()) -> Record:
    """Return a v1beta2 record with other fields, read into a dictionary."""
    return Record(dict, (*(row for row in record.table if row.json not in without), *added))


_COUNT = Integer()
_KEDA = Record(
    dict,
    (
        Field(
            "scaledObject",
            "scaledObject",
            _variant(
                scale_fields.SCALED_OBJECT,
                Field("workloadType", "workloadType", _TEXT, doc="Deployment (the default) or StatefulSet."),
                Field(
                    "minReplicaCount",
                    "minReplicaCount",
                    _COUNT,
                    doc="Fewest instances; wins over minReplicas.",
                ),
                Field(
                    "maxReplicaCount", "maxReplicaCount", _COUNT, doc="Most instances; wins over maxReplicas."
                ),
                without=("fallback",),
            ),
            doc="Scale a Deployment or StatefulSet.",
        ),
        Field(
            "scaledJob",
            "scaledJob",
            _variant(
                scale_fields.SCALED_JOB,
                Field("maxReplicaCount", "maxReplicaCount", _COUNT, doc="Most jobs; wins over maxReplicas."),
            ),
            doc="Start a job per piece of work.",
        ),
    ),
)
_IO = Record(
    dict,
    (
        Field("name", "name", _TEXT, required=True, doc="Name the function knows it by."),
        Field(
            "component",
            "component",
            _TEXT,
            required=True,
            doc="Component: a key of bindings or pubsub, or a Component of the namespace.",
        ),
        Field("topic", "topic", _TEXT, doc="Topic, for pub/sub."),
        Field("params", "params", _STRINGS, doc="Metadata of each request, for outputs."),
        Field("operation", "operation", _TEXT, doc="Operation of the binding, for outputs."),
    ),
)
_SERVING = _variant(
    v1beta2.SERVING,
    Field(
        "runtime",
        "runtime",
        Text(choices=("knative", "async")),
        required=True,
        doc="What calls the function: HTTP (knative) or its inputs (async).",
    ),
    Field(
        "scaleOptions",
        "scaleOptions",
        _variant(
            scale_fields.SCALE_OPTIONS,
            Field("keda", "keda", _KEDA, doc="Scaling by KEDA, with serving.triggers."),
            without=("keda",),
        ),
        doc="How many instances run.",
    ),
    Field("states", "states", Mapped(COMPONENT_SPEC), doc="State stores of this function."),
    Field("inputs", "inputs", Items(_IO), doc="What calls an async function."),
    Field("outputs", "outputs", Items(_IO), doc="Where the function may send to."),
    Field(
        "triggers",
        "triggers",
        Items(
            _variant(
                scale_fields.KEDA_TRIGGER,
                Field(
                    "targetKind",
                    "targetKind",
                    Text(choices=("object", "job")),
                    doc="Not used: scaleOptions.keda decides what is scaled.",
                ),
            )
        ),
        doc="What the number of instances follows.",
    ),
    without=("triggers", "outputs", "states", "scaleOptions", "hooks", "tracing", "workloadType"),
)
_BUILD = _variant(
    v1beta2.BUILD,
    Field(
        "shipwright",
        "shipwright",
        _variant(v1beta2.SHIPWRIGHT, without=("params",)),
        doc="Settings for builds by Shipwright.",
    ),
    Field("params", "params", _STRINGS, doc="Parameters of the strategy."),
    without=("shipwright",),
)
_PORT = Field("port", "port", _COUNT, doc="Port of the user's container; default 8080.")
_FUNCTION_SPEC = _variant(
    v1beta2.FUNCTION_SPEC,
    _PORT,
    Field("route", "route", v1beta2.ROUTE, doc="How requests reach it."),
    Field("build", "build", _BUILD, doc="How source becomes the image; without it nothing is built."),
    Field("serving", "serving", _SERVING, doc="How it runs; without it nothing is served."),
    without=("build", "serving"),
)
_BUILDER_SPEC = _variant(_BUILD, *v1beta2.BUILDER_FIELDS)
_SERVING_SPEC = _variant(_SERVING, *v1beta2.SERVING_FIELDS, _PORT)

# --------------------------------------------------------------------------------------------------------- up


def _function_up(obj: Obj) -> Obj:
    spec = obj["spec"]
    written = _picked(spec, "workloadRuntime", "version", "image", "imageCredentials")
    if spec.get("build") is not None:
        written["build"] = _build_up(spec["build"])
    if spec.get("serving") is not None:
        written["serving"] = _serving_up(spec["serving"], spec, obj)
    return {**obj, "apiVersion": _STORAGE, "spec": written}


def _builder_up(obj: Obj) -> Obj:
    own = _picked(obj["spec"], "image", "imageCredentials", "state")
    return {**obj, "apiVersion": _STORAGE, "spec": {**own, **_build_up(obj["spec"])}}


def _serving_kind_up(obj: Obj) -> Obj:
    own = _picked(obj["spec"], "version", "image", "imageCredentials")
    return {**obj, "apiVersion": _STORAGE, "spec": {**own, **_serving_up(obj["spec"], obj["spec"], obj)}}


def _picked(fields: Obj, *names: str) -> Obj:
    return {name: fields[name] for name in names if fields.get(name) is not None}


def _build_up(build: Obj) -> Obj:
    written = _picked(build, "builder", "builderCredentials", "env", "srcRepo", "dockerfile", "shipwright")
    if build.get("params"):
        params = [{"name": name, "value": value} for name, value in build["params"].items()]
        written["shipwright"] = {**written.get("shipwright", {}), "params": params}
    limits = ("timeout", "successfulBuildsHistoryLimit", "failedBuildsHistoryLimit", "builderMaxAge")
    return {**written, **_picked(build, *limits)}


def _serving_up(serving: Obj, around: Obj, obj: Obj) -> Obj:
    """Convert a serving.

    Args:
        serving: With `runtime`.
        around: Where `port` and `route` are.
        obj: The whole object, for its annotations.
    """
    triggers: Obj = {}
    if serving["runtime"] == "knative":
        triggers["http"] = _picked(around, "port", "route")
    elif serving.get("inputs"):
        triggers["dapr"] = [_input_up(item, serving) for item in serving["inputs"]]
    written: Obj = {"triggers": triggers}
    if serving.get("outputs"):
        written["outputs"] = [{"dapr": _output_up(item, serving)} for item in serving["outputs"]]
    written |= _picked(serving, "bindings", "pubsub")
    if serving.get("states") is not None:
        written["states"] = {name: {"spec": spec} for name, spec in serving["states"].items()}
    options, workload_type = _scaling_up(serving)
    if options is not None:
        written["scaleOptions"] = options
    written |= _picked(serving, "params", "labels", "annotations", "template", "timeout")
    hooks, tracing = _hooks_up(obj), _annotation(obj, _TRACING)
    if hooks is not None:
        written["hooks"] = hooks
    if tracing is not None:
        written["tracing"] = tracing
    return {**written, "workloadType": workload_type} if workload_type else written


def _type_of(component: str, serving: Obj) -> Obj:
    """Return {type} of a component that is declared inline: in bindings, then in pubsub; else nothing."""
    for place in ("bindings", "pubsub"):
        found = (serving.get(place) or {}).get(component)
        if found is not None:
            return {"type": found["type"]}
    return {}


def _input_up(item: Obj, serving: Obj) -> Obj:
    kind = _type_of(item["component"], serving)
    return {"name": item["component"], **kind, **_picked(item, "topic"), "inputName": item["name"]}


def _output_up(item: Obj, serving: Obj) -> Obj:
    written = {"name": item["component"], **_type_of(item["component"], serving)}
    written |= _picked(item, "topic", "operation")
    if item.get("params"):
        written["metadata"] = item["params"]
    return {**written, "outputName": item["name"]}


def _scaling_up(serving: Obj) -> tuple[Obj | None, str]:
    """Return scaleOptions, None when there are none, and the workload type."""
    given = serving.get("scaleOptions")
    options = _picked(given or {}, "minReplicas", "maxReplicas", "knative")
    keda_given = (given or {}).get("keda") or {}
    keda: Obj = {}
    workload_type = ""
    if keda_given.get("scaledObject") is not None:
        scaled = dict(keda_given["scaledObject"])
        workload_type = scaled.pop("workloadType", None) or "Deployment"
        options |= _bounds(scaled, ("minReplicaCount", "minReplicas"), ("maxReplicaCount", "maxReplicas"))
        keda["scaledObject"] = scaled
    if keda_given.get("scaledJob") is not None:
        scaled = dict(keda_given["scaledJob"])
        workload_type = "Job"
        options |= _bounds(scaled, ("maxReplicaCount", "maxReplicas"))
        keda["scaledJob"] = scaled
    if serving.get("triggers"):
        keda["triggers"] = [
            {key: value for key, value in trigger.items() if key != "targetKind"}
            for trigger in serving["triggers"]
        ]
    if keda or (given or {}).get("keda") is not None:
        options["keda"] = keda
    return (options if given is not None or options else None), workload_type


def _bounds(scaled: Obj, *names: tuple[str, str]) -> Obj:
    """Take replica counts off a KEDA block: v1beta2 has them in scaleOptions."""
    return {new: count for old, new in names if (count := scaled.pop(old, None)) is not None}


_IN_ANNOTATIONS = {
    _PLUGINS: Record(dict, tuple(Field(name, name, Items(_TEXT)) for name in ("order", "pre", "post"))),
    _TRACING: v1beta2.TRACING,
}
"""What v1beta2 has in serving.hooks and serving.tracing, as YAML in annotations of these names."""


def _annotation(obj: Obj, key: str) -> Obj | None:
    """Return the object that an annotation holds; None when there is none, or one that cannot be read."""
    value, problems = _read_annotation(obj, key)
    return value if isinstance(value, dict) and not problems else None


def _read_annotation(obj: Obj, key: str) -> tuple[Any, list[Problem]]:
    text = (obj["metadata"].get("annotations") or {}).get(key)
    if text is None:
        return None, []
    path = ("metadata", "annotations", key)
    try:
        value = load(text)
    except ManifestError as error:
        return None, [Problem(render_path(path), f"{error.where}: {error.message}".removeprefix(": "))]
    reading = Reading()
    if value is not None:
        _IN_ANNOTATIONS[key].decode(value, path, reading)
    return value, reading.problems


def _annotation_problems(obj: Obj) -> list[Problem]:
    """Check the annotations that conversion reads; types are right."""
    return [problem for key in _IN_ANNOTATIONS for problem in _read_annotation(obj, key)[1]]


def _hooks_up(obj: Obj) -> Obj | None:
    plugins = _annotation(obj, _PLUGINS)
    if plugins is None:
        return None
    order = plugins.get("order") or []
    lists = {
        "pre": order if plugins.get("pre") is None else plugins["pre"],
        "post": order[::-1] if plugins.get("post") is None else plugins["post"],
    }
    return {**{name: items for name, items in lists.items() if items}, "policy": "Override"}


# ------------------------------------------------------------------------------------------------------- down


def _function_down(obj: Obj) -> Obj:
    spec = obj["spec"]
    written = _picked(spec, "workloadRuntime", "version", "image", "imageCredentials")
    serving = spec.get("serving")
    if serving is not None:
        written |= _picked((serving.get("triggers") or {}).get("http") or {}, "port", "route")
    if spec.get("build") is not None:
        written["build"] = _build_down(spec["build"])
    if serving is not None:
        written["serving"] = _serving_down(serving)
    return _annotated({**obj, "apiVersion": _API_VERSION, "spec": written}, serving)


def _builder_down(obj: Obj) -> Obj:
    own = _picked(obj["spec"], "image", "imageCredentials", "state")
    return {**obj, "apiVersion": _API_VERSION, "spec": {**own, **_build_down(obj["spec"])}}


def _serving_kind_down(obj: Obj) -> Obj:
    spec = obj["spec"]
    own = _picked(spec, "version", "image", "imageCredentials")
    own |= _picked((spec.get("triggers") or {}).get("http") or {}, "port")
    written = {**own, **_serving_down(spec)}
    return _annotated({**obj, "apiVersion": _API_VERSION, "spec": written}, spec)


def _build_down(build: Obj) -> Obj:
    written = _picked(build, "builder", "builderCredentials", "env", "srcRepo", "dockerfile")
    shipwright = dict(build.get("shipwright") or {})
    params = shipwright.pop("params", None) or []
    if shipwright or (build.get("shipwright") is not None and not params):
        written["shipwright"] = shipwright
    plain = {item["name"]: item["value"] for item in params if item.get("value") is not None}
    if plain:
        written["params"] = plain
    limits = ("timeout", "successfulBuildsHistoryLimit", "failedBuildsHistoryLimit", "builderMaxAge")
    return {**written, **_picked(build, *limits)}


def _serving_down(serving: Obj) -> Obj:
    triggers = serving.get("triggers") or {}
    dapr = triggers.get("dapr") or []
    runtime = "async" if dapr and triggers.get("http") is None else "knative"
    written: Obj = {"runtime": runtime}
    if runtime == "async":
        written["inputs"] = [
            {
                "name": item.get("inputName") or item["name"],
                "component": item["name"],
                **_picked(item, "topic"),
            }
            for item in dapr
        ]
    outputs = [item["dapr"] for item in serving.get("outputs") or [] if item.get("dapr") is not None]
    if outputs:
        written["outputs"] = [_output_down(item) for item in outputs]
    written |= _picked(serving, "bindings", "pubsub")
    if serving.get("states") is not None:
        specs = {name: (state or {}).get("spec") for name, state in serving["states"].items()}
        written["states"] = {name: spec for name, spec in specs.items() if spec is not None}
    written |= _scaling_down(serving)
    return {**written, **_picked(serving, "params", "labels", "annotations", "template", "timeout")}


def _output_down(item: Obj) -> Obj:
    written = {"name": item.get("outputName") or item["name"], "component": item["name"]}
    written |= _picked(item, "topic", "operation")
    return {**written, "params": item["metadata"]} if item.get("metadata") else written


def _scaling_down(serving: Obj) -> Obj:
    """Return scaleOptions and triggers, as far as there are any."""
    given = serving.get("scaleOptions")
    if given is None:
        return {}
    options = _picked(given, "minReplicas", "maxReplicas", "knative")
    written: Obj = {"scaleOptions": options}
    keda = given.get("keda")
    if keda is None:
        return written
    options["keda"] = {}
    workload_type = serving.get("workloadType")
    if keda.get("scaledObject") is not None:
        scaled = {key: value for key, value in keda["scaledObject"].items() if key != "fallback"}
        if workload_type in ("Deployment", "StatefulSet"):
            scaled = {"workloadType": workload_type, **scaled}
        options["keda"]["scaledObject"] = scaled
    if keda.get("scaledJob") is not None:
        options["keda"]["scaledJob"] = keda["scaledJob"]
    if keda.get("triggers"):
        written["triggers"] = keda["triggers"]
    return written


def _annotated(obj: Obj, serving: Obj | None) -> Obj:
    """Write hooks and tracing into annotations, unless what is there says the same already."""
    found = {
        _PLUGINS: _picked((serving or {}).get("hooks") or {}, "pre", "post"),
        _TRACING: (serving or {}).get("tracing"),
    }
    for key, value in found.items():
        if value and not _says(obj, key, value):
            obj["metadata"].setdefault("annotations", {})[key] = write([value])
    return obj


def _says(obj: Obj, key: str, value: Obj) -> bool:
    present = _hooks_up(obj) if key == _PLUGINS else _annotation(obj, key)
    return present is not None and {k: v for k, v in present.items() if k != "policy"} == value


# ----------------------------------------------------------------------------------------------------- losses


def _function_losses(obj: Obj) -> list[Problem]:
    spec = obj["spec"]
    return list(_serving_losses(spec["serving"], "spec.serving", spec)) if spec.get("serving") else []


def _serving_kind_losses(obj: Obj) -> list[Problem]:
    return list(_serving_losses(obj["spec"], "spec", obj["spec"]))


def _serving_losses(serving: Obj, path: str, around: Obj) -> Iterator[Problem]:
    inputs = serving.get("inputs") or []
    if serving["runtime"] == "knative" and inputs:
        yield Problem(
            f"{path}.inputs", "not used: a knative function is called by HTTP; runtime async takes inputs"
        )
    if serving["runtime"] == "async":
        if not inputs:
            yield Problem(
                f"{path}.inputs",
                "an async function without inputs becomes an HTTP function: give it inputs or say knative",
            )
        for name in ("port", "route"):
            if around.get(name) is not None:
                yield Problem(f"spec.{name}", "not used: an async function serves no HTTP")
        for index, item in enumerate(inputs):
            for name in ("params", "operation"):
                if item.get(name):
                    yield Problem(f"{path}.inputs[{index}].{name}", "not used: only outputs have it")
    for index, trigger in enumerate(serving.get("triggers") or []):
        if trigger.get("targetKind"):
            yield Problem(
                f"{path}.triggers[{index}].targetKind",
                "not used: scaleOptions.keda.scaledObject or scaledJob decides what is scaled",
            )
    options = serving.get("scaleOptions") or {}
    keda = options.get("keda") or {}
    for block, old, new in (
        ("scaledObject", "minReplicaCount", "minReplicas"),
        ("scaledObject", "maxReplicaCount", "maxReplicas"),
        ("scaledJob", "maxReplicaCount", "maxReplicas"),
    ):
        count = (keda.get(block) or {}).get(old)
        if count is not None and options.get(new) not in (None, count):
            yield Problem(f"{path}.scaleOptions.{new}", f"not used: keda.{block}.{old} ({count}) wins")


FUNCTION = Older(
    version=_VERSION,
    spec=_FUNCTION_SPEC,
    up=_function_up,
    down=_function_down,
    problems=_annotation_problems,
    losses=_function_losses,
)
BUILDER = Older(version=_VERSION, spec=_BUILDER_SPEC, up=_builder_up, down=_builder_down)
SERVING = Older(
    version=_VERSION,
    spec=_SERVING_SPEC,
    up=_serving_kind_up,
    down=_serving_kind_down,
    problems=_annotation_problems,
    losses=_serving_kind_losses,
)
