"""Which workload is scaled by which intercepted requests, and by whose rules.

Reads HTTPScaledObjects, ScaledObjects and InterceptorRoutes as they are stored into policies of `autoscale/`.
`controlplane/http_scaling` calls it at each look and carries the answer out; ScaledObjects that have other
triggers alone are those of `controlplane/trigger_targets`. Pure. Source: contracts, autoscaling, sections
1.1, 1.2, 5.1 and 5.2.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pelton.autoscale.policy import read_policy
from pelton.manifest.keda import SCALED_OBJECT
from pelton.manifest.keda_http import INTERCEPTOR_ROUTE
from pelton.manifest.keda_rules import conflicts
from pelton.model.keda import ScaledObjectResource
from pelton.model.keda_http import InterceptorRoute
from pelton.model.scaling import HttpScaling, KedaPolicy

__all__ = [
    "FUNCTIONS",
    "NOT_FOLLOWED",
    "SKIP",
    "Found",
    "Wanted",
    "find",
    "follows_requests",
    "key_of",
    "other_triggers",
    "paused",
    "refused",
    "resource_of",
    "route_metrics",
    "target_of",
]

FUNCTIONS: Final = "functions.core.openfunction.io"
FUNCTION_VERSION: Final = "core.openfunction.io/v1beta2"
SKIP: Final = "httpscaledobject.keda.sh/skip-scaledobject-creation"
RESOURCES: Final = {
    ("apps", "Deployment"): "deployments.apps",
    ("apps", "StatefulSet"): "statefulsets.apps",
    ("core.openfunction.io", "Function"): FUNCTIONS,
}
_KEYS: Final = {"interceptorRoute": "InterceptorRoute", "httpScaledObject": "HTTPScaledObject"}
NOT_FOLLOWED: Final = "not followed on this machine, where Deployments, StatefulSets and Functions are scaled"

Obj = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is scaled, by which counts and rules.

    Attributes:
        owner: Kind, namespace and name of the object that says so, e.g. `HTTPScaledObject default/web`.
        scaled_object: `namespace/name` of the ScaledObject that shows how it stands; "" for none.
        route: `namespace/name` under which requests are counted.
        resource, namespace, name: Of what is scaled.
        policy: Targets, bounds and pace.
        ignored: Why a part of the ScaledObject does not count; "".
    """

    owner: str
    scaled_object: str = ""
    route: str
    resource: str
    namespace: str
    name: str
    policy: HttpScaling
    ignored: str = ""


@dataclass(slots=True)
class Found:
    """What `find` found.

    Attributes:
        wanted: Owner -> what it scales.
        problems: `namespace/name` of each ScaledObject that is not followed -> why.
    """

    wanted: dict[str, Wanted] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def find(
    http: Iterable[Obj], scaled: Collection[Obj], routes: Iterable[Obj], functions: Collection[str]
) -> Found:
    """Return what scales what.

    Args:
        http: HTTPScaledObjects.
        scaled: ScaledObjects, those that HTTPScaledObjects own among them.
        routes: InterceptorRoutes.
        functions: `namespace/name` of HTTPScaledObjects whose target is a Function, though they do not say
            its kind.
    """
    followed = {key_of(obj) for obj in scaled if follows_requests(obj)}
    found = Found(problems={key: why for key, why in refused(scaled).items() if key in followed})
    own: dict[str, HttpScaling] = {}
    stored = {key_of(obj): obj for obj in scaled}
    shown = set()
    for obj in http:
        key, metadata = key_of(obj), obj["metadata"]
        policy = read_policy({"algorithm": "keda-http", "spec": obj["spec"]}).http
        own[key] = policy
        notes = metadata.get("annotations") or {}
        if notes.get(SKIP) == "true":
            continue  # its user's own ScaledObject decides
        made = stored.get(key)
        if made is None or _chosen(made)[1:] != ("HTTPScaledObject", metadata["name"]):
            made = None
        mine = key if made is not None else ""
        shown.add(mine)
        if mine in found.problems:
            continue
        both = {**((made or {}).get("metadata", {}).get("annotations") or {}), **notes}
        _add(
            found,
            owner=f"HTTPScaledObject {key}",
            scaled_object=mine,
            route=key,
            target=target_of(obj, function=key in functions),
            namespace=metadata["namespace"],
            policy=replace(policy, keda=paused(both, policy.keda)),
        )
    known = {key_of(obj): obj for obj in routes}
    for obj in scaled:
        key = key_of(obj)
        if key in shown or key in found.problems or not follows_requests(obj):
            continue
        problem = _by_its_own(found, obj, own, known)
        if problem:
            found.problems[key] = problem
    return found


def _by_its_own(found: Found, obj: Obj, own: Mapping[str, HttpScaling], routes: Mapping[str, Obj]) -> str:
    """Add what a user's ScaledObject scales; returns why it does not."""
    namespace, key = obj["metadata"]["namespace"], key_of(obj)
    triggers = obj["spec"].get("triggers") or []
    index, kind, name = _chosen(obj)
    trigger = triggers[index]
    route = f"{namespace}/{name}"
    metrics = own.get(route) if kind == "HTTPScaledObject" else None
    if kind == "InterceptorRoute" and route in routes:
        metrics = route_metrics(INTERCEPTOR_ROUTE.decode(routes[route])[0])
    if metrics is None:
        return f"spec.triggers[{index}].metadata: there is no {kind} {route}"
    variable = str(trigger.get("name") or "")
    stand_in = {"type": "external-push", "metadata": {"value": "1"}} | (
        {"name": variable} if variable else {}
    )
    read = read_policy(
        {
            "algorithm": "keda",
            "annotations": _notes(obj),
            "spec": {**obj["spec"], "triggers": [stand_in]},
        }
    )
    if read.problems:
        return "; ".join(f"{path}: {message}" for path, message in read.problems)
    followed = other_triggers(obj)
    others = [
        f"spec.triggers[{place}] ({each.get('type')}) is not followed: the formula has requests in it"
        for place, each in enumerate(triggers)
        if place != index and place not in followed
    ]
    added = _add(
        found,
        owner=f"ScaledObject {key}",
        scaled_object=key,
        route=route,
        target=obj["spec"]["scaleTargetRef"],
        namespace=namespace,
        policy=replace(metrics, variable=variable, keda=read.keda),
        ignored="; ".join(others),
    )
    return "" if added else NOT_FOLLOWED


def _notes(obj: Obj) -> dict[str, str]:
    """Return the annotations that concern scaling by KEDA."""
    notes = obj["metadata"].get("annotations") or {}
    return {name: text for name, text in notes.items() if name.startswith("autoscaling.keda.sh/")}


def _add(found: Found, *, target: Mapping[str, Any], owner: str, **values: Any) -> bool:
    resource = resource_of(target)
    if resource is None:
        return False
    found.wanted[owner] = Wanted(owner=owner, resource=resource, name=target["name"], **values)
    return True


def target_of(obj: Obj, *, function: bool = False) -> dict[str, str]:
    """Return the scaleTargetRef of the ScaledObject that an HTTPScaledObject stands for.

    Args:
        obj: The HTTPScaledObject.
        function: Whether a target without a kind is a Function.
    """
    target = obj["spec"]["scaleTargetRef"]
    name = target.get("name") or target.get("deployment") or target["service"]
    kind = target.get("kind") or ("Function" if function else "Deployment")
    return {"name": name, "apiVersion": target.get("apiVersion") or _version(kind), "kind": kind}


def _version(kind: str) -> str:
    return FUNCTION_VERSION if kind == "Function" else "apps/v1"


def key_of(obj: Obj) -> str:
    """Return `namespace/name`."""
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"


def refused(stored: Collection[Obj]) -> dict[str, str]:
    """Return ScaledObjects that cannot be followed beside older ones: `namespace/name` -> why."""
    refused: dict[str, str] = {}
    accepted: list[ScaledObjectResource] = []
    for obj in sorted(stored, key=lambda one: (one["metadata"].get("creationTimestamp", ""), key_of(one))):
        model = SCALED_OBJECT.decode(obj)[0]
        problems = conflicts(model, accepted)
        if problems:
            refused[key_of(obj)] = "; ".join(f"{path}: {message}" for path, message in problems)
        else:
            accepted.append(model)
    return refused


def _chosen(obj: Obj) -> tuple[int, str, str]:
    """Return (index, kind, name): the first trigger that follows requests, and whose; name "" for none."""
    for index, trigger in enumerate(obj["spec"].get("triggers") or ()):
        if trigger.get("type") != "external-push":
            continue
        metadata = trigger.get("metadata") or {}
        for key, kind in _KEYS.items():
            if metadata.get(key):
                return index, kind, str(metadata[key])
    return 0, "", ""


def follows_requests(obj: Obj) -> bool:
    """Return whether a ScaledObject goes by intercepted requests; else scalers read its triggers."""
    return bool(_chosen(obj)[2])


def other_triggers(obj: Obj) -> tuple[int, ...]:
    """Return the places of the triggers that scalers read beside the one that follows requests.

    There are none where a formula joins them: it cannot be split.
    """
    spec = obj["spec"]
    triggers = spec.get("triggers") or []
    formula = ((spec.get("advanced") or {}).get("scalingModifiers") or {}).get("formula")
    index, _, name = _chosen(obj)
    if not name or formula:
        return ()
    return tuple(place for place in range(len(triggers)) if place != index)


def resource_of(target: Mapping[str, Any]) -> str | None:
    """Return the resource of a scaleTargetRef; None when such a thing cannot be scaled here."""
    kind = target.get("kind") or "Deployment"
    return RESOURCES.get(((target.get("apiVersion") or _version(kind)).rpartition("/")[0], kind))


def route_metrics(route: InterceptorRoute) -> HttpScaling:
    """Return the targets of an InterceptorRoute."""
    metric = route.metric
    concurrency = metric.concurrency if metric is not None else None
    rate = metric.rate if metric is not None else None
    return HttpScaling(
        concurrency_target=float(concurrency.target) if concurrency is not None else 0.0,
        rate_target=float(rate.target) if rate is not None else 0.0,
        rate_window_s=rate.window_s if rate is not None else 60.0,
        granularity_s=rate.granularity_s if rate is not None else 1.0,
        whole_rate=False,
    )


def paused(notes: Mapping[str, str], policy: KedaPolicy) -> KedaPolicy:
    """Return the policy with what the annotations of a pause say."""
    replicas = notes.get("autoscaling.keda.sh/paused-replicas")
    return replace(
        policy,
        paused=_flag(notes, "paused"),
        paused_replicas=int(replicas) if replicas is not None and replicas.isdigit() else None,
        paused_in=_flag(notes, "paused-scale-in"),
        paused_out=_flag(notes, "paused-scale-out"),
        force_active=_flag(notes, "force-activation"),
    )


def _flag(notes: Mapping[str, str], name: str) -> bool:
    """Return a truth value; a text that is none means true."""
    return notes.get(f"autoscaling.keda.sh/{name}", "false").lower() not in ("false", "0", "f")
