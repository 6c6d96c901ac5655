"""`pelton scaler check`: reads every trigger of manifests once and says what it would do. Runs no platform.

Objects that triggers refer to come from the same files, then from the platform of this home if one runs.
Values, targets and activity are those that scaling goes by: `autoscale/scalers`, `cli/scalers.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pelton.autoscale.jobs import combine, job_policy, queue_reading, to_create
from pelton.autoscale.keda import Keda
from pelton.autoscale.scalers.joined import Readings, joined, names_of, policy_of
from pelton.cli.client import Client
from pelton.cli.home import Home
from pelton.cli.objects import complain, read_documents
from pelton.cli.printing import print_columns
from pelton.cli.scalers import make_scaler
from pelton.clock import SystemClock
from pelton.controlplane.scaler_triggers import Subject, cluster_namespace, resolve
from pelton.errors import NotFoundError, NotRunningError, PeltonError, UsageError
from pelton.manifest import kinds
from pelton.model.scaler import ScalerReading, ScalerTrigger
from pelton.plan.aliases import Aliases

__all__ = ["check"]

_DEADLINE_S: Final = 30.0
_ROUNDS: Final = 64
_PERIOD_S: Final = 15.0
_FUNCTION_MAX: Final = 10
_CONTAINER: Final = "function"
_SCALED: Final = ("ScaledObject", "ScaledJob", "Function")
_TARGETS: Final = ("Deployment", "StatefulSet", "Function")

Obj = dict[str, Any]


@dataclass(slots=True)
class _Result:
    """What was found out about one object."""

    subject: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    replicas: int | None = None
    jobs: bool = False
    errors: list[PeltonError] = field(default_factory=list)


def check(home: Home, files: Sequence[str], *, namespace: str, auth_root: str, output: str) -> int:
    """Print value, target, activity and replicas of every trigger in manifests.

    Args:
        home: Whose platform is asked for what the files lack.
        files: Manifests, directories, or `-`.
        namespace: Of objects that name none.
        auth_root: Directory of files that a ClusterTriggerAuthentication names; "" for the home's.
        output: `table` or `json`.

    Returns:
        0 when every trigger was read; 1 else.
    """
    documents, errors = read_documents(files)
    objects: list[Obj] = []
    failed: list[PeltonError] = list(errors)
    for document in documents:
        data = document.data
        try:
            if data.get("kind") in (*_SCALED, "TriggerAuthentication", "ClusterTriggerAuthentication"):
                data = kinds.admit(data, where=document.where).obj
        except PeltonError as error:
            failed.append(error)
            continue
        metadata = {"namespace": namespace, **(data.get("metadata") or {})}
        objects.append({**data, "metadata": metadata})
    scaled = [one for one in objects if one.get("kind") in _SCALED and _triggers(one)]
    if not scaled and not failed:
        raise UsageError(
            f"no triggers in {', '.join(files)}",
            hint="name a ScaledObject, a ScaledJob, or a Function with scaleOptions.keda.triggers",
        )
    root = Path(auth_root) if auth_root else home.trigger_files
    results = asyncio.run(_all(home, scaled, objects, root))
    if output == "json":
        print(json.dumps([_plain(one) for one in results], indent=2))
    else:
        _show(results)
    failed += [problem for one in results for problem in one.errors]
    for problem in failed:
        complain(problem)
    return 1 if failed else 0


def _triggers(obj: Mapping[str, Any]) -> list[dict[str, Any]]:
    spec = obj.get("spec") or {}
    if obj.get("kind") == "Function":
        spec = ((spec.get("serving") or {}).get("scaleOptions") or {}).get("keda") or {}
    return list(spec.get("triggers") or ())


async def _all(home: Home, scaled: list[Obj], objects: list[Obj], root: Path) -> list[_Result]:
    known = {
        (str(one.get("kind")), str(one["metadata"]["namespace"]), str(one["metadata"].get("name"))): one
        for one in objects
    }
    client: Client | None = None
    with suppress(NotRunningError):
        client = Client(home)

    async def get(kind: str, namespace: str, name: str) -> Obj | None:
        found = known.get((kind, namespace, name))
        if found is None and not namespace:  # an object of the cluster, in a file
            found = next((one for (k, _, n), one in known.items() if (k, n) == (kind, name)), None)
        if found is None and client is not None:
            found = await asyncio.to_thread(_ask, client, kind, namespace, name)
        return found

    try:
        return [await _one(obj, get, root, _aliases(home)) for obj in scaled]
    finally:
        if client is not None:
            client.__exit__(None, None, None)


def _ask(client: Client, kind: str, namespace: str, name: str) -> Obj | None:
    try:
        return client.get(client.resource(kind), namespace, name)
    except NotFoundError:
        return None


async def _one(obj: Obj, get: Any, root: Path, aliases: Aliases) -> _Result:
    kind, metadata, spec = str(obj["kind"]), obj["metadata"], obj.get("spec") or {}
    namespace, name = str(metadata["namespace"]), str(metadata.get("name"))
    result = _Result(subject=f"{kind} {namespace}/{name}", jobs=_job_spec(obj) is not None)
    pod_spec, container, variables = await _environment(obj, get)
    formula = bool(((spec.get("advanced") or {}).get("scalingModifiers") or {}).get("formula"))
    resolved = await resolve(
        Subject(
            namespace=namespace,
            name=name,
            triggers=_triggers(obj),
            pod_spec=pod_spec,
            container=container,
            variables=variables,
            in_formula=formula,
        ),
        get,
        cluster_namespace=cluster_namespace(os.environ),
        files=root,
    )
    found = await asyncio.gather(*(_read(trigger, aliases) for trigger in resolved.triggers))
    readings: dict[str, Sequence[ScalerReading] | None] = dict.fromkeys(resolved.problems)
    problems: dict[str, PeltonError] = dict(resolved.problems)
    for trigger, (read, error) in zip(resolved.triggers, found, strict=True):
        readings[trigger.name] = read
        if error is not None:
            problems[trigger.name] = error
    for written, trigger_name in zip(_triggers(obj), names_of(_triggers(obj)), strict=True):
        result.rows += _rows(str(written.get("type")), trigger_name, readings[trigger_name])
        if trigger_name in problems:
            result.errors.append(problems[trigger_name])
    result.replicas = _replicas(obj, readings)
    return result


async def _environment(obj: Obj, get: Any) -> tuple[Any, str, Mapping[str, str]]:
    """Return the pod spec of what an object scales, whose environment counts, and further variables."""
    spec = obj.get("spec") or {}
    serving = spec.get("serving") or {}
    if obj["kind"] == "Function":
        return serving.get("template"), _CONTAINER, serving.get("params") or {}
    if obj["kind"] == "ScaledJob":
        template = (spec.get("jobTargetRef") or {}).get("template") or {}
        return template.get("spec"), spec.get("envSourceContainerName") or "", {}
    target = spec.get("scaleTargetRef") or {}
    kind = target.get("kind") or "Deployment"
    found = None
    if kind in _TARGETS:
        found = await get(kind, obj["metadata"]["namespace"], str(target.get("name")))
    if found is None:
        return None, "", {}
    inner = found.get("spec") or {}
    if kind == "Function":
        serving = inner.get("serving") or {}
        container = target.get("envSourceContainerName") or _CONTAINER
        return serving.get("template"), container, serving.get("params") or {}
    return (inner.get("template") or {}).get("spec"), target.get("envSourceContainerName") or "", {}


def _aliases(home: Home) -> Aliases:
    """Return the aliases of the platform that runs, else those of the home."""
    with suppress(NotRunningError):
        return Aliases(home.endpoints().aliases)
    try:
        return Aliases.parse(home.aliases_file.read_text(), where=str(home.aliases_file))
    except OSError:
        return Aliases()


async def _read(
    trigger: ScalerTrigger, aliases: Aliases
) -> tuple[Sequence[ScalerReading] | None, PeltonError | None]:
    try:
        scaler = make_scaler(trigger, SystemClock(), aliases)
    except PeltonError as error:
        return None, error
    try:
        async with asyncio.timeout(_DEADLINE_S):
            return await scaler.read(), None
    except PeltonError as error:
        return None, error
    except TimeoutError:
        message = f"no answer within {_DEADLINE_S:g} s"
        return None, PeltonError(message, where=f"trigger {trigger.name} ({trigger.type})")
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await scaler.close()


def _rows(kind: str, name: str, readings: Sequence[ScalerReading] | None) -> list[dict[str, Any]]:
    if not readings:
        return [
            {"trigger": name, "type": kind, "metric": None, "value": None, "target": None, "active": None}
        ]
    return [
        {
            "trigger": name,
            "type": kind,
            "metric": one.metric,
            "value": one.value,
            "target": one.target,
            "active": one.active,
        }
        for one in readings
    ]


def _job_spec(obj: Obj) -> dict[str, Any] | None:
    """Return the spec of a ScaledJob, or what stands for it in a Function; None when no jobs are started."""
    spec = obj.get("spec") or {}
    if obj["kind"] == "ScaledJob":
        return dict(spec)
    if obj["kind"] != "Function":
        return None
    serving = spec.get("serving") or {}
    options = serving.get("scaleOptions") or {}
    job = (options.get("keda") or {}).get("scaledJob")
    if job is None and serving.get("workloadType") != "Job":
        return None
    return {
        **(job or {}),
        "minReplicaCount": options.get("minReplicas") or 0,
        "maxReplicaCount": options.get("maxReplicas") or _FUNCTION_MAX,
    }


def _replicas(obj: Obj, readings: Readings) -> int | None:
    """Return what the first look would lead to from zero; None when nothing can be said."""
    if all(one is None for one in readings.values()):
        return None
    spec = obj.get("spec") or {}
    job = _job_spec(obj)
    if job is not None:
        jobs = job_policy(job, percent=obj["kind"] == "Function")
        queues = [queue_reading(metrics) for metrics in readings.values() if metrics]
        return to_create(jobs, combine(queues, jobs), running=0, pending=0)
    if obj["kind"] == "Function":
        options = (spec.get("serving") or {}).get("scaleOptions") or {}
        spec = {
            "triggers": _triggers(obj),
            "minReplicaCount": options.get("minReplicas") or 0,
            "maxReplicaCount": options.get("maxReplicas") or _FUNCTION_MAX,
        }
    policy, problems = policy_of(spec, obj["metadata"].get("annotations") or {})
    if problems:
        return None
    made, values = joined(policy, readings)
    # As many as are asked for when the rate limits of the HPA have been waited for.
    keda, now, current = Keda(made, now=0.0), 0.0, policy.min_replicas
    for _ in range(_ROUNDS):
        now += _PERIOD_S
        decided = keda.decide(now=now, values=values, current=current, chain=True).desired
        if decided <= current:
            return decided
        current = decided
    return current


def _plain(one: _Result) -> dict[str, Any]:
    return {
        "object": one.subject,
        "replicas": one.replicas,
        "triggers": one.rows,
        "errors": [str(error) for error in one.errors],
    }


def _show(results: list[_Result]) -> None:
    for place, one in enumerate(results):
        if place:
            print()
        print(one.subject)
        print_columns(
            ("TRIGGER", "TYPE", "METRIC", "VALUE", "TARGET", "ACTIVE"),
            [
                (
                    row["trigger"],
                    row["type"],
                    row["metric"] or "-",
                    "-" if row["value"] is None else f"{row['value']:g}",
                    "-" if row["target"] is None else f"{row['target']:g}",
                    {True: "yes", False: "no", None: "could not be read"}[row["active"]],
                )
                for row in one.rows
            ],
        )
        what = "jobs to start now" if one.jobs else "replicas"
        print(f"{what}: {'unknown' if one.replicas is None else one.replicas}")
