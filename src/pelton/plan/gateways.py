"""OpenFunction's Gateways and those of the Gateway API under them, seen as one; and what is there by default.

On a cluster OpenFunction writes its listeners into a Gateway of the Gateway API, or makes one. Here both
stay as they are written, and `merge` puts the listeners together; `controlplane/routes` attaches to the
outcome and splits the statuses again. Pure.
Source: contracts, OpenFunction, section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pelton.model.gateway_api import GatewayResource
from pelton.model.openfunction_gateway import INTERNAL_LISTENER, OpenFunctionGateway
from pelton.plan.attachment import CLASS, CONTROLLER, Seen

__all__ = ["DEFAULTS", "DEFAULT_GATEWAY", "NAMESPACE", "Merged", "merge"]

NAMESPACE: Final = "openfunction"
_GROUP: Final = "gateway.networking.k8s.io"

DEFAULT_GATEWAY: Final = OpenFunctionGateway(name="openfunction", namespace=NAMESPACE, domain="localhost")
"""What functions are named by while there is no Gateway object: names under localhost need no resolver."""

DEFAULTS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    (
        f"gatewayclasses.{_GROUP}",
        {
            "apiVersion": f"{_GROUP}/v1",
            "kind": "GatewayClass",
            "metadata": {"name": CLASS},
            "spec": {"controllerName": CONTROLLER, "description": "The gateway of this machine"},
        },
    ),
    (
        f"gateways.{_GROUP}",
        {
            "apiVersion": f"{_GROUP}/v1",
            "kind": "Gateway",
            "metadata": {"name": "pelton", "namespace": NAMESPACE},
            "spec": {
                "gatewayClassName": CLASS,
                "listeners": [
                    {
                        "name": "http",
                        "port": 80,
                        "protocol": "HTTP",
                        "allowedRoutes": {"namespaces": {"from": "All"}},
                    }
                ],
            },
        },
    ),
    (
        "gateways.networking.openfunction.io",
        {
            "apiVersion": "networking.openfunction.io/v1alpha1",
            "kind": "Gateway",
            "metadata": {"name": "openfunction", "namespace": NAMESPACE},
            "spec": {
                "domain": "localhost",
                "gatewayRef": {"name": "pelton", "namespace": NAMESPACE},
                "gatewaySpec": {"listeners": [{"name": "ofn-http-external", "port": 80, "protocol": "HTTP"}]},
            },
        },
    ),
)
"""Resource -> object that is made where it is missing when the platform starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Gateways with all their listeners.

    Attributes:
        gateways: For `plan/attachment`.
        stored: Keys of those that are objects themselves.
        owners: Key -> key of an OpenFunction Gateway -> names of its listeners there.
        internal: (key, listener) that are for clients inside.
        open_to_functions: Keys whose ports serve functions, too.
    """

    gateways: Sequence[Seen[GatewayResource]]
    stored: frozenset[str]
    owners: Mapping[str, Mapping[str, frozenset[str]]]
    internal: frozenset[tuple[str, str]]
    open_to_functions: frozenset[str]


def merge(gateways: Iterable[Seen[GatewayResource]], ours: Iterable[OpenFunctionGateway]) -> Merged:
    """Put the listeners of OpenFunction's Gateways to those that they name; one that is not there is made."""
    found = {f"{one.resource.namespace}/{one.resource.name}": one for one in gateways}
    stored = frozenset(found)
    owners: dict[str, dict[str, frozenset[str]]] = {}
    internal: set[tuple[str, str]] = set()
    for one in sorted(ours, key=lambda one: (one.namespace, one.name)):
        if one.reference is not None:
            namespace, name, class_name = one.reference.namespace, one.reference.name, CLASS
        elif one.definition is not None:
            namespace, name = one.definition.namespace, one.definition.name or one.name
            class_name = one.definition.class_name
        else:
            continue
        key = f"{namespace}/{name}"
        seen = found.get(key) or Seen(
            resource=GatewayResource(name=name, namespace=namespace, class_name=class_name or CLASS)
        )
        held = {listener.name for listener in seen.resource.listeners}
        new = tuple(listener for listener in one.listeners if listener.name not in held)
        listeners = (*seen.resource.listeners, *new)
        found[key] = replace(seen, resource=replace(seen.resource, listeners=listeners))
        owners.setdefault(key, {})[f"{one.namespace}/{one.name}"] = frozenset(
            listener.name for listener in one.listeners
        )
        internal.update((key, each.name) for each in one.listeners if each.name == INTERNAL_LISTENER)
    return Merged(
        gateways=tuple(found.values()),
        stored=stored,
        owners=owners,
        internal=frozenset(internal),
        open_to_functions=frozenset(owners),
    )
