"""What a reference to a Service means: a function of this machine, or addresses that its slices list.

Takes Services and EndpointSlices as their JSON; `plan/attachment` asks. Pure.
Source: contracts, gateway-network, sections 7 and 9 (ports, appProtocol, missing endpoints).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pelton.model.routing import Endpoint, Upstream

__all__ = ["Found", "Services", "is_function"]

_H2C = frozenset({"kubernetes.io/h2c", "h2c", "http2", "grpc"})
_SLICE_SERVICE = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A function's cluster, or why there is nothing (`reason` in CamelCase, `problem` a sentence)."""

    key: str = ""
    reason: str = ""
    problem: str = ""


def is_function(service: Mapping[str, Any]) -> bool:
    """Tell whether a Service is the one that the platform keeps for a Function."""
    owners = (service.get("metadata") or {}).get("ownerReferences") or ()
    return any(owner.get("kind") == "Function" for owner in owners if isinstance(owner, Mapping))


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Services by `namespace/name`, their slices, and the keys of functions."""

    services: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    slices: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    functions: frozenset[str] = frozenset()

    @staticmethod
    def read(
        services: Iterable[Mapping[str, Any]],
        slices: Iterable[Mapping[str, Any]],
        functions: Iterable[str],
    ) -> Services:
        """Return them from the objects of the store."""
        by_service: dict[str, list[Mapping[str, Any]]] = {}
        for one in slices:
            metadata = one["metadata"]
            name = (metadata.get("labels") or {}).get(_SLICE_SERVICE)
            if name:
                by_service.setdefault(f"{metadata.get('namespace', '')}/{name}", []).append(one)
        return Services(
            services={
                f"{one['metadata'].get('namespace', '')}/{one['metadata']['name']}": one for one in services
            },
            slices=by_service,
            functions=frozenset(functions),
        )

    def find(self, namespace: str, name: str, port: int | None) -> Upstream | Found:
        """Return what a reference to a Service and its port reaches."""
        key = f"{namespace}/{name}"
        service = self.services.get(key)
        if key in self.functions and (service is None or is_function(service)):
            return Found(key=key)
        if service is None:
            return Found(reason="BackendNotFound", problem=f"there is no Service {key}")
        spec = service.get("spec") or {}
        ports = [one for one in spec.get("ports") or () if isinstance(one, Mapping)]
        chosen = next((one for one in ports if one.get("port") == port), None)
        if spec.get("type") == "ExternalName":
            number = port or 80
            host = str(spec.get("externalName") or "").rstrip(".").lower()
            return Upstream(
                key=f"Service {key}:{number}",
                endpoints=(Endpoint(host=host, port=number),) if host else (),
                h2c=_speaks_h2c(chosen or {}),
                named=True,
            )
        if chosen is None:
            return Found(reason="BackendNotFound", problem=f"Service {key} has no port {port}")
        protocol = str(chosen.get("appProtocol") or "")
        transport = chosen.get("protocol") or "TCP"
        if protocol == "kubernetes.io/wss" or transport != "TCP":
            spoken = protocol or transport
            return Found(
                reason="UnsupportedProtocol", problem=f"port {port} of Service {key} speaks {spoken}"
            )
        return Upstream(
            key=f"Service {key}:{port}",
            endpoints=self._endpoints(key, chosen),
            h2c=_speaks_h2c(chosen),
        )

    def _endpoints(self, key: str, port: Mapping[str, Any]) -> tuple[Endpoint, ...]:
        found: set[tuple[str, int]] = set()
        for one in self.slices.get(key, ()):
            if one.get("addressType") not in (None, "IPv4", "IPv6"):
                continue
            numbers = [
                int(each["port"])
                for each in one.get("ports") or ()
                if each.get("port") and (each.get("name") or "") == (port.get("name") or "")
            ]
            for endpoint in one.get("endpoints") or ():
                conditions = endpoint.get("conditions") or {}
                if conditions.get("ready") is False or conditions.get("serving") is False:
                    continue
                found.update(
                    (str(host), number) for host in endpoint.get("addresses") or () for number in numbers
                )
        return tuple(Endpoint(host=host, port=number) for host, number in sorted(found))


def _speaks_h2c(port: Mapping[str, Any]) -> bool:
    return str(port.get("appProtocol") or port.get("name") or "") in _H2C
