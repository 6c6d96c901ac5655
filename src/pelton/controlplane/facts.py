"""Gathers the planner's facts about a Function from the store: the Components and Secrets it refers to.

`controlplane/reconciler` calls this before planning, and asks which Functions a changed object concerns.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pelton.errors import NotFoundError, PeltonError
from pelton.manifest import dapr, openfunction_networking
from pelton.model.component import ComponentResource
from pelton.model.function import Function, GatewayRef
from pelton.model.openfunction_gateway import OpenFunctionGateway
from pelton.plan.eventing import Facts, component_names, secret_names
from pelton.ports import Store

__all__ = ["COMPONENTS", "GATEWAYS", "SECRETS", "FactsReader"]

COMPONENTS = "components.dapr.io"
SECRETS = "secrets"
GATEWAYS = "gateways.networking.openfunction.io"

Reference = tuple[str, str, str]  # resource, namespace, name


class FactsReader:
    """Reads facts and remembers who needs what.

    Args:
        store: Where Components and Secrets are.
        given: Facts that hold for all Functions: types that can be used, environment variables.
    """

    def __init__(self, store: Store, given: Facts) -> None:
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
            self._note(function.key, references | {(SECRETS, namespace, name) for name in secrets})
            facts = replace(facts, secrets=await self._secrets(namespace, secrets))
        return facts

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
