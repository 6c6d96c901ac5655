"""`pelton render`: what manifests become on this machine or in a cluster, printed and not applied.

Reads and admits manifests as `pelton apply` does; needs no platform. For a cluster, Functions go through
`targets/kubernetes/render.py` and everything else is handed on; for this machine, `plan/function.py` plans
them with secrets left out.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pelton.builders.build import foresee
from pelton.cli.home import Home
from pelton.cli.objects import complain, read_documents, resolve_source
from pelton.cli.tables import (
    CONVENTIONS,
    OUTPUT_TYPES,
    STATES,
    TRIGGER_TYPES,
    resolve_convention,
)
from pelton.errors import ManifestError, PeltonError, SourceError, UsageError
from pelton.manifest import dapr, kinds, openfunction_core, openfunction_networking, text
from pelton.model.component import ComponentResource, ComponentSpec
from pelton.model.desired import Desired
from pelton.model.function import Function, GatewayRef
from pelton.model.openfunction_gateway import OpenFunctionGateway
from pelton.plan.eventing import Facts, component_names
from pelton.plan.function import Plan, asked_convention, plan
from pelton.targets.kubernetes import routing
from pelton.targets.kubernetes.cluster import CONFIG_MAP, DEFAULT_GATEWAY, Cluster, read_config_map
from pelton.targets.kubernetes.events import GROUP, event_notes
from pelton.targets.kubernetes.notes import Notes
from pelton.targets.kubernetes.render import PARTS, render_function

__all__ = ["ClusterOptions", "TARGETS", "kubernetes_objects", "read_inputs", "render"]

TARGETS: Final = ("local", "kubernetes")
_FUNCTIONS: Final = "core.openfunction.io"
_NETWORKING: Final = "networking.openfunction.io"
_SECRET_NAME: Final = re.compile(
    r"pass(word|wd|phrase)|secret|token|credential|api-?_?key|access-?_?key|private-?_?key|client-?_?key"
    r"|connection-?_?string|sas-?_?key",
    re.IGNORECASE,
)
_HIDDEN: Final = "(hidden)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What flags say about a cluster; "" leaves what the files say, or OpenFunction's own settings.

    Attributes:
        gateway: `namespace/name` of the Gateway API's Gateway that routes attach to.
        domain: Of external host names.
        cluster_domain: Of host names inside the cluster.
        http_add_on: Version of http.keda.sh.
        http_add_on_namespace: Where KEDA's HTTP add-on is.
    """

    gateway: str = ""
    domain: str = ""
    cluster_domain: str = ""
    http_add_on: str = ""
    http_add_on_namespace: str = ""


@dataclass(slots=True)
class Inputs:
    """What the manifests hold.

    Attributes:
        functions: (Function, digest of its image or "") in written order.
        components: Standalone ones, by (namespace, name).
        gateways: (object, decoded) of networking.openfunction.io.
        config: Attributes of Cluster, from the ConfigMap.
        others: Objects that are the same on every target, as written or admitted.
        warnings: For the user.
        errors: Of documents that could not be used.
    """

    functions: list[tuple[Function, str]] = field(default_factory=list)
    components: dict[tuple[str, str], ComponentResource] = field(default_factory=dict)
    gateways: list[tuple[dict[str, Any], OpenFunctionGateway]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    others: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[PeltonError] = field(default_factory=list)


def render(
    files: Sequence[str],
    *,
    target: str,
    namespace: str,
    output: str,
    only: str,
    options: ClusterOptions,
) -> int:
    """Print what manifests become; notes and warnings go to standard error.

    Args:
        files: Manifests, directories, or `-`.
        target: One of TARGETS.
        namespace: Of objects that name none.
        output: `yaml` or `json`.
        only: One of PARTS; "" for all.
        options: About the cluster.

    Returns:
        0 when all of it could be written; 1 else.
    """
    documents, errors = read_documents(files)
    inputs = read_inputs(documents, namespace=namespace, local=target == "local")
    inputs.errors[:0] = errors
    if not documents and not errors:
        raise UsageError(f"no objects in {', '.join(files)}", hint="manifests end in .yaml, .yml or .json")
    if target == "local":
        objects = asyncio.run(_local_objects(inputs))
    else:
        objects = kubernetes_objects(inputs, options, parts=(only,) if only else PARTS)
    for line in inputs.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for error in inputs.errors:
        complain(error)
    if output == "json":
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2))
    else:
        sys.stdout.write(text.write(objects))
    return 1 if inputs.errors else 0


# ---------------------------------------------------------------------------------------------------- reading


def read_inputs(documents: Iterable[text.Document], *, namespace: str, local: bool) -> Inputs:
    """Admit documents and sort them by what a render does with them.

    Args:
        documents: As parsed.
        namespace: Of objects that name none.
        local: Whether sources have to be directories of this machine.
    """
    inputs = Inputs()
    for document in documents:
        try:
            _read(document, inputs, namespace=namespace, local=local)
        except PeltonError as error:
            inputs.errors.append(error)
    return inputs


def _read(document: text.Document, inputs: Inputs, *, namespace: str, local: bool) -> None:
    data = document.data
    group, kind = str(data.get("apiVersion")).rpartition("/")[0], data.get("kind")
    if group == "" and kind == "ConfigMap" and data.get("metadata", {}).get("name") == CONFIG_MAP:
        inputs.config |= read_config_map(data)
        return
    try:
        admitted = kinds.admit(data, where=document.where)
    except ManifestError:
        if group.endswith("openfunction.io"):
            raise  # its own kinds have to be right; what is not known of others, a cluster may know
        inputs.others.append(data)
        return
    inputs.warnings += admitted.warnings
    obj = _placed(admitted.obj, namespace) if admitted.kind.namespaced else admitted.obj
    if admitted.kind.group == _NETWORKING:
        inputs.gateways.append((obj, openfunction_networking.GATEWAY.decode(obj)[0]))
    elif admitted.kind.kind == "Function":
        if local:
            resolve_source(obj, document)
        function, _ = openfunction_core.decode(obj)
        status = data.get("status")
        revision = status.get("revision") if isinstance(status, dict) else None
        digest = revision.get("imageDigest") if isinstance(revision, dict) else None
        inputs.functions.append((function, str(digest or "")))
    elif admitted.kind.group == _FUNCTIONS:
        inputs.warnings.append(
            f"{document.where('kind')}: {admitted.kind.kind} is left out: its Function becomes the same"
        )
    else:
        if admitted.kind.kind == "Component":
            component, _ = dapr.decode(obj)
            inputs.components[component.namespace, component.name] = component
        inputs.others.append(obj)


def _placed(obj: dict[str, Any], namespace: str) -> dict[str, Any]:
    metadata = {**obj.get("metadata", {})}
    metadata["namespace"] = metadata.get("namespace") or namespace
    return {**obj, "metadata": metadata}


def _components_of(inputs: Inputs, namespace: str) -> dict[str, ComponentResource]:
    return {name: found for (place, name), found in inputs.components.items() if place == namespace}


# ------------------------------------------------------------------------------------------------- kubernetes


def kubernetes_objects(
    inputs: Inputs, options: ClusterOptions, *, parts: tuple[str, ...] = PARTS
) -> list[dict[str, Any]]:
    """Return everything to apply, each object once; notes are added to the inputs' warnings.

    What is handed on comes first, in written order; then what Gateways and Functions become.
    """
    cluster = _cluster(inputs, options)
    objects = list(inputs.others)
    for obj in inputs.others:
        if str(obj.get("apiVersion", "")).startswith(f"{GROUP}/"):
            subject = f"{obj['kind']} {obj['metadata'].get('namespace', '')}/{obj['metadata']['name']}"
            _warn(inputs, subject.replace(" /", " "), event_notes(obj))
    for obj, gateway in inputs.gateways:
        notes = Notes()
        objects += routing.gateway_objects(obj, gateway, notes)
        _warn(inputs, f"Gateway {gateway.namespace}/{gateway.name}", notes.entries)
    for function, digest in inputs.functions:
        facts = Facts(components=_components_of(inputs, function.namespace))
        try:
            made = render_function(function, facts, cluster, digest=digest, parts=parts)
        except PeltonError as error:
            error.where = error.where or f"Function {function.key}"
            inputs.errors.append(error)
            continue
        objects += made.objects
        _warn(inputs, f"Function {function.key}", made.notes)
    return _unique(objects)


def _warn(inputs: Inputs, subject: str, notes: Iterable[tuple[str, str]]) -> None:
    inputs.warnings += [f"{subject}: {path}: {sentence}" for path, sentence in notes]


def _unique(objects: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop repetitions: functions of one namespace share a ReferenceGrant."""
    found: list[dict[str, Any]] = []
    for obj in objects:
        if obj not in found:
            found.append(obj)
    return found


def _cluster(inputs: Inputs, options: ClusterOptions) -> Cluster:
    """Join what files and flags say; flags win."""
    known = [DEFAULT_GATEWAY, *(gateway for _, gateway in inputs.gateways)]
    changes: dict[str, Any] = {
        name: value
        for name, value in (("domain", options.domain), ("cluster_domain", options.cluster_domain))
        if value
    }
    if options.gateway:
        namespace, slash, name = options.gateway.partition("/")
        if not (namespace and slash and name):
            raise UsageError(
                f"--gateway {options.gateway!r} is not NAMESPACE/NAME", hint="e.g. projectcontour/contour"
            )
        changes["reference"] = GatewayRef(namespace=namespace, name=name)
    add_on = {
        name: value
        for name, value in (
            ("http_add_on", options.http_add_on),
            ("http_add_on_namespace", options.http_add_on_namespace),
        )
        if value
    }
    changed = [replace(gateway, **changes) for gateway in known]
    settings = {**inputs.config, **add_on}
    return Cluster(gateways={(each.namespace, each.name): each for each in changed}, **settings)


# ----------------------------------------------------------------------------------------------- this machine


async def _local_objects(inputs: Inputs) -> list[dict[str, Any]]:
    """Return a Plan per Function: its parts as `plan/` words them, secrets and source left where they are."""
    objects = []
    for function, _ in inputs.functions:
        facts = _local_facts(function, _components_of(inputs, function.namespace))
        planned = plan(function, facts)
        if planned.build is not None and not planned.problems:
            try:
                built = await foresee(
                    planned.build,
                    convention=asked_convention(function),
                    conventions={name: resolve_convention(name) for name in CONVENTIONS},
                    bundles_dir=Home().bundles,
                    environments_dir=Home().environments,
                )
            except SourceError as error:
                error.where = error.where or f"Function {function.key}"
                inputs.errors.append(error)
            else:
                planned = plan(function, facts, built)
        for problem in planned.problems:
            inputs.errors.append(ManifestError(str(problem), where=f"Function {function.key}"))
        objects.append(_plan_object(function, planned))
    return objects


def _local_facts(function: Function, components: Mapping[str, ComponentResource]) -> Facts:
    """Return facts in which every secret is there and says where it comes from, instead of its value."""
    serving = function.serving
    specs: list[ComponentSpec | None] = []
    if serving is not None:
        specs += [*serving.bindings.values(), *serving.pubsub.values(), *serving.states.values()]
    specs += [components[name].spec for name in component_names(function) if name in components]
    secrets: dict[tuple[str, str], str] = {}
    variables: dict[str, str] = {}
    for item in (item for spec in specs if spec is not None for item in spec.metadata):
        reference = item.secret_key_ref
        if reference is not None:
            key = reference.key or reference.name
            secrets[reference.name, key] = f"(Secret {reference.name}, key {key})"
        if item.env_ref:
            variables[item.env_ref] = f"(environment variable {item.env_ref})"
    return Facts(
        components=components,
        secrets=secrets,
        variables=variables,
        trigger_types=TRIGGER_TYPES,
        output_types=OUTPUT_TYPES,
        state_types=frozenset(STATES),
    )


def _plan_object(function: Function, planned: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {
        "apiVersion": "pelton.dev/v1alpha1",
        "kind": "Plan",
        "metadata": {"name": function.name, "namespace": function.namespace},
    }
    if planned.build is not None:
        found["build"] = dataclasses.asdict(planned.build)
    if planned.desired is not None:
        found |= _desired(planned.desired)
    found["partial"] = [{"path": path, "message": message} for path, message in planned.partial]
    found["problems"] = [
        {"path": each.path, "reason": each.reason, "message": each.message} for each in planned.problems
    ]
    return {key: _hidden(value) for key, value in found.items()}


def _desired(desired: Desired) -> dict[str, Any]:
    parts = {
        "workload": desired.workload,
        "route": desired.route,
        "scaler": desired.scaling,
        "subscriptions": desired.subscriptions,
        "outputs": desired.outputs,
        "states": desired.states,
    }
    found = {name: _plain(part) for name, part in parts.items()}
    # The same as `context`, as text in which nothing could be hidden.
    found["workload"]["env"].pop("FUNC_CONTEXT", None)
    return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | frozenset | set):
        return [_plain(item) for item in value]
    return value


def _hidden(value: Any) -> Any:
    """Hide text under names that secrets have; where a secret comes from is no secret."""
    if isinstance(value, Mapping):
        return {
            key: _HIDDEN
            if isinstance(item, str)
            and item
            and _SECRET_NAME.search(key)
            and not item.startswith(("(Secret ", "(environment "))
            else _hidden(item)
            for key, item in value.items()
        }
    return [_hidden(item) for item in value] if isinstance(value, list) else value
