"""Function of core.openfunction.io/v1beta2: decode, default, validate, convert, encode.

Called through `manifest/kinds` by the API server and the CLI; the planner and the reconciler use `decode`.
The fields are in `manifest/openfunction_fields`, the rules in `manifest/openfunction_rules`. `default` works
on the JSON form, because the API server stores that. Source: contracts, OpenFunction, sections 2 to 4.
"""

from __future__ import annotations

from typing import Any

from pelton.manifest import openfunction_v1beta1
from pelton.manifest.fields import Problem
from pelton.manifest.openfunction_advice import MOVED
from pelton.manifest.openfunction_fields import FUNCTION_SPEC
from pelton.manifest.openfunction_rules import function_rules
from pelton.manifest.verbs import TableVerbs
from pelton.model.function import Function

__all__ = [
    "API_VERSION",
    "FUNCTION",
    "KIND",
    "convert",
    "decode",
    "default",
    "encode",
    "read",
    "rules",
    "validate",
]

API_VERSION = "core.openfunction.io/v1beta2"
KIND = "Function"

_DEFAULT_PORT = 8080
_DEFAULT_GATEWAY = "openfunction"  # both the name and the namespace of the Gateway that OpenFunction installs
_WASM_VARIANT = "module.wasm.image/variant"


def _default(filled: dict[str, Any]) -> None:
    """Fill in the schema's defaults, then carry out the webhook's steps 1 to 5, as an API server would."""
    spec = filled.get("spec")
    if type(spec) is not dict:
        return
    if spec.get("workloadRuntime") in (None, ""):
        spec["workloadRuntime"] = "OCIContainer"
    if spec.get("version") in (None, ""):
        spec["version"] = "latest"
    serving = spec.get("serving")
    if type(serving) is dict:
        _default_triggers(serving)
    _default_wasm(filled, spec)


def _default_triggers(serving: dict[str, Any]) -> None:
    if serving.get("triggers") is None:
        serving["triggers"] = {}
    triggers = serving["triggers"]
    if type(triggers) is not dict:
        return
    if not triggers.get("dapr") and triggers.get("http") is None:
        triggers["http"] = {}
    http = triggers.get("http")
    if type(http) is not dict:
        return
    port = http.get("port")
    if port is None or (port == 0 and type(port) is int and not triggers.get("dapr")):
        http["port"] = _DEFAULT_PORT  # beside a dapr trigger an explicit 0 stays, as in the original
    if http.get("route") is None:
        http["route"] = {}
    route = http["route"]
    if type(route) is not dict:
        return
    _default_rules(route.get("rules"))
    if route.get("gatewayRef") is None:
        route["gatewayRef"] = {"name": _DEFAULT_GATEWAY, "namespace": _DEFAULT_GATEWAY}


def _default_rules(rules: Any) -> None:
    """Fill in what the schema of HTTPRoute rules fills in."""
    for rule in _objects(rules):
        if rule.get("matches") is None:
            rule["matches"] = [{}]
        for match in _objects(rule["matches"]):
            if match.get("path") is None:
                match["path"] = {}
            if type(match["path"]) is dict:
                match["path"].setdefault("type", "PathPrefix")
                match["path"].setdefault("value", "/")
            for kind in ("headers", "queryParams"):
                for item in _objects(match.get(kind)):
                    item.setdefault("type", "Exact")
        for item in _objects(rule.get("filters")):
            if type(item.get("requestRedirect")) is dict:
                item["requestRedirect"].setdefault("statusCode", 302)


def _objects(value: Any) -> list[dict[str, Any]]:
    """Return the entries of a list that can be filled in; what has another type is reported by `read`."""
    return [item for item in value if type(item) is dict] if type(value) is list else []


def _default_wasm(filled: dict[str, Any], spec: dict[str, Any]) -> None:
    """Carry out step 5: a WasmEdge function gets its variant, its build strategy and its runtime class."""
    metadata = filled.get("metadata")
    annotations = metadata.get("annotations") if type(metadata) is dict else None
    if type(annotations) is not dict or _WASM_VARIANT not in annotations:
        if str(spec["workloadRuntime"]).lower() != "wasmedge" or type(metadata) is not dict:
            return
        if annotations is None:
            annotations = metadata["annotations"] = {}
        if type(annotations) is not dict:
            return
        annotations[_WASM_VARIANT] = "compat-smart"
    build, serving = spec.get("build"), spec.get("serving")
    if type(build) is dict:
        if build.get("shipwright") is None:
            build["shipwright"] = {}
        if type(build["shipwright"]) is dict and build["shipwright"].get("strategy") is None:
            build["shipwright"]["strategy"] = {"name": "wasmedge", "kind": "ClusterBuildStrategy"}
    if type(serving) is dict:
        if serving.get("annotations") is None:
            serving["annotations"] = {}
        if type(serving["annotations"]) is dict:
            serving["annotations"].setdefault(_WASM_VARIANT, "compat-smart")
        template = serving.get("template")
        if type(template) is dict and template.get("runtimeClassName") is None:
            template["runtimeClassName"] = "openfunction-crun"


def _rules(function: Function) -> list[Problem]:
    return list(function_rules(function))


FUNCTION: TableVerbs[Function] = TableVerbs(
    API_VERSION,
    KIND,
    FUNCTION_SPEC,
    default=_default,
    rules=_rules,
    older=(openfunction_v1beta1.FUNCTION,),
    moved=MOVED,
)
"""The verbs of Function; each of them is a function of this module as well."""

read = FUNCTION.read
decode = FUNCTION.decode
default = FUNCTION.default
rules = FUNCTION.rules
validate = FUNCTION.validate
convert = FUNCTION.convert
encode = FUNCTION.encode
