"""Gathers the planner's facts about a Function from the store: the Components and Secrets it refers to.

`controlplane/reconciler` calls this before planning, and asks which Functions a changed object concerns.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pelton.controlplane.scaler_triggers import RESOURCES, Subject, cluster_namespace, getter, resolve
from pelton.errors import NotFoundError, PeltonError
from pelton.log import get
from pelton.manifest import dapr, openfunction_networking
from pelton.model.component import ComponentResource
from pelton.model.desired import Component
from pelton.model.function import Function, GatewayRef, KedaTrigger
from pelton.model.openfunction_gateway import OpenFunctionGateway
from pelton.plan.eventing import Facts, component_names, secret_names, stored_secret_names
from pelton.plan.scaling import read_triggers
from pelton.ports import SecretStore, Store

__all__ = ["COMPONENTS", "GATEWAYS", "SECRETS", "FactsReader"]

COMPONENTS = "components.dapr.io"
SECRETS = "secrets"
GATEWAYS = "gateways.networking.openfunction.io"

_CONTAINER: Final = "function"
_STORE_S: Final = 10.0

_log = get(__name__)

Reference = tuple[str, str, str]  # resource, namespace, name


class FactsReader:
    """Reads facts and remembers who needs what.

    Args:
        store: Where Components and Secrets are.
        given: Facts that hold for all Functions: types that can be used, environment variables.
        trigger_files: Directory of the files that a ClusterTriggerAuthentication names.
        secret_store: Makes the driver of a secret store; raises ComponentError. None where there are none.
    """

    def __init__(
        self,
        store: Store,
        given: Facts,
        *,
        trigger_files: Path = Path(),
        secret_store: Callable[[Component], SecretStore] | None = None,
    ) -> None:
        self._trigger_files = trigger_files
        self._secret_store = secret_store
        self._store = store
        self._given = given
        self._uses: dict[str, frozenset[Reference]] = {}
        self._users: dict[Reference, set[str]] = {}
        self._gateways: dict[GatewayRef, tuple[str, OpenFunctionGateway]] = {}

    async def read(self, function: Function) -> Facts:
        """Return the facts; what does not exist or cannot be read is missing from them."""
        namespace = function.namespace
        wanted = component_names(function)
        # Noted before reading: a Component that appears in between then finds its user.
        references = {(COMPONENTS, namespace, name) for name in wanted}
        gateway = _gateway_of(function)
        if gateway is not None:
            references.add((GATEWAYS, gateway.namespace, gateway.name))
        self._note(function.key, references)
        facts = replace(
            self._given,
            components=await self._components(namespace, wanted),
            gateway=await self._gateway(gateway),
        )
        secrets = secret_names(function, facts)
        if secrets:
            references |= {(SECRETS, namespace, name) for name in secrets}
            self._note(function.key, references)
            facts = replace(facts, secrets=await self._secrets(namespace, secrets))
        stored = stored_secret_names(function, facts)
        if stored:
            references |= {(COMPONENTS, namespace, store) for store, _ in stored}
            self._note(function.key, references)
            facts = replace(facts, stored=await self._stored(namespace, stored))
        return await self._scalers(function, facts, references)

    async def _scalers(self, function: Function, facts: Facts, references: set[Reference]) -> Facts:
        """Return the facts with the triggers of the Function's options that scalers read."""
        places = read_triggers(function)
        serving = function.serving
        options = serving.scale_options if serving is not None else None
        if not places or serving is None or options is None or options.keda is None:
            return facts
        resolved = await resolve(
            Subject(
                namespace=function.namespace,
                name=function.name,
                triggers=[_written(trigger) for trigger in options.keda.triggers],
                places=frozenset(places),
                pod_spec=serving.template,
                container=_CONTAINER,
                variables=serving.params,
            ),
            getter(self._store),
            cluster_namespace=cluster_namespace(self._given.variables),
            files=self._trigger_files,
        )
        used = {(RESOURCES[kind], namespace, name) for kind, namespace, name in resolved.used}
        self._note(function.key, references | used)
        problems = {
            name: f"{error.message}; {error.hint}" if error.hint else error.message
            for name, error in resolved.problems.items()
        }
        # cpu and memory are measured by the node.
        scalers = tuple(one for one in resolved.triggers if one.type not in ("cpu", "memory"))
        return replace(facts, scalers=scalers, scaler_problems=problems)

    def users(self, resource: str, namespace: str, name: str) -> frozenset[str]:
        """Return the keys of Functions that refer to an object, whether it exists or not."""
        return frozenset(self._users.get((resource, namespace, name), ()))

    def forget(self, key: str) -> None:
        """Drop what is remembered about a Function that is gone."""
        self._note(key, ())

    def _note(self, key: str, references: Iterable[Reference]) -> None:
        new = frozenset(references)
        old = self._uses.get(key, frozenset())
        if new:
            self._uses[key] = new
        else:
            self._uses.pop(key, None)
        for reference in new - old:
            self._users.setdefault(reference, set()).add(key)
        for reference in old - new:
            users = self._users[reference]
            users.discard(key)
            if not users:
                del self._users[reference]

    async def _gateway(self, wanted: GatewayRef | None) -> OpenFunctionGateway | None:
        if wanted is None:
            return None
        try:
            obj = await self._store.get(GATEWAYS, wanted.namespace, wanted.name)
            version = str(obj["metadata"].get("resourceVersion", ""))
            known = self._gateways.get(wanted)
            if known is None or known[0] != version:  # nearly all Functions refer to the same one
                found, _ = openfunction_networking.GATEWAY.decode(
                    openfunction_networking.GATEWAY.default(obj)
                )
                known = self._gateways[wanted] = (version, found)
        except PeltonError:
            self._gateways.pop(wanted, None)
            return None
        return known[1]

    async def _components(self, namespace: str, wanted: Iterable[str]) -> dict[str, ComponentResource]:
        found: dict[str, ComponentResource] = {}
        for name in sorted(wanted):
            try:
                obj = await self._store.get(COMPONENTS, namespace, name)
                found[name], _ = dapr.decode(dapr.default(obj))
            except PeltonError:
                continue  # absent, or written around the API's validation: both mean "no such component"
        return found

    async def _secrets(self, namespace: str, wanted: Iterable[str]) -> dict[tuple[str, str], str]:
        found: dict[tuple[str, str], str] = {}
        for name in sorted(wanted):
            try:
                obj = await self._store.get(SECRETS, namespace, name)
            except NotFoundError:
                continue
            for key, value in _values(obj).items():
                found[name, key] = value
        return found

    async def _stored(
        self, namespace: str, wanted: Iterable[tuple[str, str]]
    ) -> dict[tuple[str, str, str], str]:
        """Read secrets of stores that are Components; what cannot be had is left out and told of."""
        found: dict[tuple[str, str, str], str] = {}
        by_store: dict[str, list[str]] = {}
        for store, secret in sorted(wanted):
            by_store.setdefault(store, []).append(secret)
        components = await self._components(namespace, by_store)
        for store, secrets in by_store.items():
            resource = components.get(store)
            if resource is None or self._secret_store is None:
                continue
            metadata = {item.name: item.text for item in resource.spec.metadata}
            component = Component(namespace=namespace, name=store, type=resource.spec.type, metadata=metadata)
            try:
                driver = self._secret_store(component)
            except PeltonError as exc:
                _log.warning("secret store %s/%s: %s", namespace, store, exc)
                continue
            try:
                for secret in secrets:
                    try:
                        async with asyncio.timeout(_STORE_S):
                            entries = await driver.get(secret)
                    except (PeltonError, TimeoutError) as exc:
                        _log.warning("secret store %s/%s: %s", namespace, store, str(exc) or "no answer")
                        continue
                    for key, value in entries.items():
                        found[store, secret, key] = value
            finally:
                await driver.close()
        return found


def _written(trigger: KedaTrigger) -> dict[str, Any]:
    reference = trigger.authentication_ref
    return {
        "type": trigger.type,
        "name": trigger.name,
        "metadata": trigger.metadata,
        "metricType": trigger.metric_type,
        "authenticationRef": {"name": reference.name, "kind": reference.kind} if reference else None,
    }


def _gateway_of(function: Function) -> GatewayRef | None:
    triggers = function.serving.triggers if function.serving else None
    route = triggers.http.route if triggers and triggers.http else None
    return route.gateway if route is not None else None


def _values(secret: dict[str, Any]) -> dict[str, str]:
    """Return a Secret's entries as text: `data` is base64, `stringData` is plain and wins."""
    found: dict[str, str] = {}
    for key, value in (secret.get("data") or {}).items():
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError, TypeError):
            continue
    return found | {key: str(value) for key, value in (secret.get("stringData") or {}).items()}
