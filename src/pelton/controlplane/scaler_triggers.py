"""Triggers with everything that other objects add to them: authentications, Secrets, ConfigMaps, environment.

`resolve` fetches the objects and hands them to `autoscale/scalers`, which says what they mean. Called by
`controlplane/facts.py` and `controlplane/trigger_targets.py` with the store, by `cli/scaler.py` with files.
Source: contracts, autoscaling section 1.4.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pelton.autoscale.scalers.authentication import parameters_of
from pelton.autoscale.scalers.environment import container_variables, referred
from pelton.autoscale.scalers.joined import names_of
from pelton.autoscale.scalers.table import read_settings
from pelton.errors import NotFoundError, PeltonError, ScalerError
from pelton.manifest.keda import CLUSTER_TRIGGER_AUTHENTICATION, TRIGGER_AUTHENTICATION
from pelton.model.keda import TriggerAuthentication
from pelton.model.scaler import ScalerTrigger
from pelton.plan.gateways import NAMESPACE
from pelton.ports import Store

__all__ = [
    "RESOURCES",
    "Getter",
    "Resolved",
    "Subject",
    "cluster_namespace",
    "getter",
    "resolve",
    "values_of",
]

Getter = Callable[[str, str, str], Awaitable[dict[str, Any] | None]]
"""(kind, namespace, name) -> the object; None where there is none."""

Obj = dict[str, Any]

RESOURCES: Final[Mapping[str, str]] = {
    "ClusterTriggerAuthentication": "clustertriggerauthentications.keda.sh",
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "TriggerAuthentication": "triggerauthentications.keda.sh",
}
"""Kind -> resource of what triggers refer to."""

_CLUSTER: Final = "ClusterTriggerAuthentication"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whose triggers they are.

    Attributes:
        namespace, name: Of the object that has them; an external scaler is told both.
        triggers: As written.
        places: Of the triggers that count; None for all.
        pod_spec: Of what is scaled, for its environment; None when there is none.
        container: Whose environment; "" for the first one's.
        variables: Further variables, which those of the container overwrite.
        in_formula: Whether a formula takes the place of targets.
    """

    namespace: str
    name: str
    triggers: Sequence[Mapping[str, Any]]
    places: frozenset[int] | None = None
    pod_spec: Any = None
    container: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    in_formula: bool = False


@dataclass(slots=True)
class Resolved:
    """What `resolve` made.

    Attributes:
        triggers: Those that can be read.
        problems: Trigger name -> why it cannot.
        used: (kind, namespace, name) of every object that was looked for.
    """

    triggers: list[ScalerTrigger] = field(default_factory=list)
    problems: dict[str, ScalerError] = field(default_factory=dict)
    used: set[tuple[str, str, str]] = field(default_factory=set)

    @property
    def sentences(self) -> list[str]:
        """The problems, one line each."""
        return [
            f"{error.where}: {error.message}" + (f"; {error.hint}" if error.hint else "")
            for error in self.problems.values()
        ]


async def resolve(subject: Subject, get: Getter, *, cluster_namespace: str, files: Path) -> Resolved:
    """Return the triggers of an object; resources (cpu, memory) are among them.

    Args:
        subject: Whose.
        get: Where objects are.
        cluster_namespace: Where a ClusterTriggerAuthentication takes Secrets and ConfigMaps from.
        files: Directory below which its `filePath` lies.
    """
    return await _Resolving(subject, get, cluster_namespace, files).run()


class _Resolving:
    """One call of `resolve`: what was fetched, and what came of it."""

    def __init__(self, subject: Subject, get: Getter, cluster_namespace: str, files: Path) -> None:
        self._subject = subject
        self._get = get
        self._cluster_namespace = cluster_namespace
        self._files = files
        self._made = Resolved()
        self._objects: dict[tuple[str, str, str], Mapping[str, str] | None] = {}

    async def run(self) -> Resolved:
        subject, made = self._subject, self._made
        for container in _containers(subject.pod_spec):
            for kind, name in referred(subject.pod_spec, container.get("name", "")):
                await self._fetch_entries(kind, subject.namespace, name)
        names = names_of(subject.triggers)
        for index, (written, name) in enumerate(zip(subject.triggers, names, strict=True)):
            if subject.places is not None and index not in subject.places:
                continue
            try:
                trigger = await self._trigger(written, index, name)
                read_settings(trigger)
            except PeltonError as error:
                where = error.where or f"trigger {name} ({written.get('type')})"
                made.problems[name] = ScalerError(error.message, where=where, hint=error.hint)
            else:
                made.triggers.append(trigger)
        return made

    async def _trigger(self, written: Mapping[str, Any], index: int, name: str) -> ScalerTrigger:
        subject = self._subject
        reference = written.get("authenticationRef") or {}
        resource = written.get("type") in ("cpu", "memory")
        return ScalerTrigger(
            name=name,
            index=index,
            type=str(written.get("type", "")),
            metadata={key: str(text) for key, text in (written.get("metadata") or {}).items()},
            params=await self._parameters(reference) if reference.get("name") else {},
            environment=self._variables(""),
            metric_type=written.get("metricType") or ("Utilization" if resource else "AverageValue"),
            namespace=subject.namespace,
            scaled_object=subject.name,
            in_formula=subject.in_formula,
        )

    async def _parameters(self, reference: Mapping[str, Any]) -> dict[str, str]:
        """Return what an authentication gives."""
        clustered = reference.get("kind") == _CLUSTER
        kind = _CLUSTER if clustered else "TriggerAuthentication"
        place = "" if clustered else self._subject.namespace
        found = await self._fetch(kind, place, str(reference.get("name") or ""))
        if found is None:
            raise ScalerError(f"there is no {kind} {reference.get('name')}", hint="apply it as well")
        verbs = CLUSTER_TRIGGER_AUTHENTICATION if clustered else TRIGGER_AUTHENTICATION
        authentication = verbs.decode(found)[0]
        where = self._cluster_namespace if clustered else self._subject.namespace
        for kind, name in _sources(authentication):
            await self._fetch_entries(kind, where, name)
        return parameters_of(
            authentication,
            entries=self._entries(where),
            variables=self._variables,
            file=lambda path: _file(self._files, path, clustered=clustered),
        )

    def _variables(self, container: str) -> dict[str, str]:
        subject = self._subject
        own = container_variables(
            subject.pod_spec, self._entries(subject.namespace), container or subject.container
        )
        return {**subject.variables, **own}

    def _entries(self, namespace: str) -> Callable[[str, str], Mapping[str, str] | None]:
        return lambda kind, name: self._objects.get((kind, namespace, name))

    async def _fetch(self, kind: str, namespace: str, name: str) -> Obj | None:
        self._made.used.add((kind, namespace, name))
        return await self._get(kind, namespace, name)

    async def _fetch_entries(self, kind: str, namespace: str, name: str) -> None:
        if (kind, namespace, name) not in self._objects:
            found = await self._fetch(kind, namespace, name)
            self._objects[kind, namespace, name] = None if found is None else values_of(found)


def getter(store: Store) -> Getter:
    """Return a way to the objects of a store."""

    async def get(kind: str, namespace: str, name: str) -> Obj | None:
        try:
            return await store.get(RESOURCES[kind], namespace, name)
        except NotFoundError:
            return None

    return get


def cluster_namespace(variables: Mapping[str, str]) -> str:
    """Return where ClusterTriggerAuthentications take Secrets and ConfigMaps from."""
    return variables.get("KEDA_CLUSTER_OBJECT_NAMESPACE") or NAMESPACE


def values_of(obj: Obj) -> dict[str, str]:
    """Return the entries of a Secret or ConfigMap as text; those that are none are left out."""
    if obj.get("kind") == "ConfigMap":
        return {key: str(value) for key, value in (obj.get("data") or {}).items()}
    found: dict[str, str] = {}
    for key, value in (obj.get("data") or {}).items():
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError, TypeError):
            continue
    return found | {key: str(value) for key, value in (obj.get("stringData") or {}).items()}


def _containers(pod_spec: Any) -> list[dict[str, Any]]:
    listed = (pod_spec.get("containers") or ()) if isinstance(pod_spec, dict) else ()
    return [one for one in listed if isinstance(one, dict)]


def _sources(authentication: TriggerAuthentication) -> list[tuple[str, str]]:
    found = [("ConfigMap", one.name) for one in authentication.config_map_targets]
    found += [("Secret", one.name) for one in authentication.secret_targets]
    client = ((authentication.oauth2 or {}).get("clientSecret") or {}).get("valueFrom") or {}
    if name := (client.get("secretKeyRef") or {}).get("name"):
        found.append(("Secret", str(name)))
    return found


def _file(root: Path, path: str, *, clustered: bool) -> str:
    """Return the text of a file of parameters; admission has seen that the path leads nowhere else."""
    if not clustered:
        raise ScalerError(
            "spec.filePath is for ClusterTriggerAuthentications alone", hint="use secretTargetRef here"
        )
    place = (root / path).resolve()
    if not place.is_relative_to(root.resolve()):
        raise ScalerError(f"{path} leads out of {root}", hint="keep the file below that directory")
    try:
        return place.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ScalerError(
            f"{place} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}",
            hint="write the parameters there, as a JSON map of texts",
        ) from error
