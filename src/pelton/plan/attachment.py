"""What becomes of HTTPRoutes, Gateways and classes: where they attach, what their references are, conditions.

`attach` takes everything that the store knows and returns the routing state for the gateway and the statuses
of the objects, without times, which whoever stores them adds. Which rule then meets which
request is `plan/routing`'s. Pure: certificates come in parsed.
Source: contracts, gateway-network, section 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeVar

from pelton.model.gateway_api import (
    GatewayClass,
    GatewayListener,
    GatewayResource,
    HttpRouteResource,
    ParentRef,
    ReferenceGrant,
)
from pelton.model.routing import (
    EXTERNAL,
    INTERNAL,
    Certificate,
    Port,
    RoutingState,
    StandaloneRoute,
    Upstream,
)
from pelton.plan.references import GROUP, Condition, Resolver, granted
from pelton.plan.routing import ANY, intersection
from pelton.plan.upstreams import Services

__all__ = ["CLASS", "CONTROLLER", "HTTPS", "Attached", "Condition", "Pair", "Seen", "Sources", "attach"]

CONTROLLER: Final = "pelton.dev/gateway-controller"
CLASS: Final = "pelton"
"""The class that is there without a GatewayClass object."""
HTTPS: Final = "https"
"""Name of the port that `pelton up --tls` opens: what listeners call 443."""
_ROUTE_KIND: Final = {"group": GROUP, "kind": "HTTPRoute"}

M = TypeVar("M")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen(Generic[M]):
    """An object of the store: what it says, and what the store says about it."""

    resource: M
    generation: int = 1
    created: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate as parsed: PEM of chain and key, or `problem` in a sentence."""

    chain: str = ""
    key: str = field(default="", repr=False)
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Everything that attachment depends on.

    Attributes:
        classes, gateways, routes, grants: As in the store.
        services: Services, their endpoints, and the functions of this machine.
        certificates: `namespace/name` of a Secret -> what is in it.
        namespaces: Name -> labels.
        https_port: Port of `pelton up --tls`; 0 while it was not asked for.
        internal: (gateway key, listener name) that are served on the internal port.
        open_to_functions: Keys of Gateways whose ports serve functions, too.
        refused: Port name -> why Envoy does not listen there.
    """

    classes: Sequence[Seen[GatewayClass]] = ()
    gateways: Sequence[Seen[GatewayResource]] = ()
    routes: Sequence[Seen[HttpRouteResource]] = ()
    grants: Sequence[ReferenceGrant] = ()
    services: Services = field(default_factory=Services)
    certificates: Mapping[str, Pair] = field(default_factory=dict)
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    https_port: int = 0
    internal: frozenset[tuple[str, str]] = frozenset()
    open_to_functions: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """The outcome.

    Attributes:
        state: For the gateway.
        classes, gateways, routes: Name or `namespace/name` -> status without times; only for objects that are
            this controller's business.
        parts: `namespace/name` of a HTTPRoute -> names of the ports that it is served on.
    """

    state: RoutingState
    classes: Mapping[str, dict[str, Any]]
    gateways: Mapping[str, dict[str, Any]]
    routes: Mapping[str, dict[str, Any]]
    parts: Mapping[str, tuple[str, ...]]


@dataclass(slots=True)
class _Door:
    """A listener and where it is served; `port` "" when it is not."""

    gateway: Seen[GatewayResource]
    listener: GatewayListener
    port: str
    conditions: list[Condition]
    certificates: list[Certificate]
    attached: int = 0


def attach(sources: Sources) -> Attached:
    """Decide everything anew; the order of the objects does not matter."""
    ours = {CLASS} | {
        seen.resource.name for seen in sources.classes if seen.resource.controller == CONTROLLER
    }
    doors: dict[str, list[_Door]] = {}
    for seen in sorted(sources.gateways, key=_age):
        gateway = seen.resource
        if gateway.class_name in ours:
            key = f"{gateway.namespace}/{gateway.name}"
            doors[key] = [_door(seen, listener, sources) for listener in gateway.listeners]
    _settle_ports(doors, sources)
    standalone, statuses, parts, upstreams = [], {}, {}, {}
    present = {f"{seen.resource.namespace}/{seen.resource.name}" for seen in sources.gateways}
    for seen_route in sorted(sources.routes, key=_age):
        route = seen_route.resource
        key = f"{route.namespace}/{route.name}"
        decided = _Route(seen_route, doors, present, sources)
        if decided.status["parents"]:
            statuses[key] = decided.status
        parts[key] = tuple(port for port, _ in decided.hosts)
        upstreams.update(decided.upstreams)
        if decided.hosts and decided.rules:
            standalone.append(
                StandaloneRoute(
                    namespace=route.namespace,
                    name=route.name,
                    created=seen_route.created,
                    hosts=decided.hosts,
                    rules=decided.rules,
                )
            )
    state = RoutingState(
        routes=tuple(sorted(standalone, key=lambda one: one.key)),
        upstreams=tuple(upstreams[key] for key in sorted(upstreams)),
        ports=_ports(doors, sources.open_to_functions),
        https_port=sources.https_port,
    )
    return Attached(
        state=state,
        classes={
            seen.resource.name: {
                "conditions": [
                    Condition(type="Accepted", status=True, reason="Accepted").written(seen.generation)
                ]
            }
            for seen in sources.classes
            if seen.resource.controller == CONTROLLER
        },
        gateways={key: _gateway_status(listed) for key, listed in doors.items() if listed},
        routes=statuses,
        parts=parts,
    )


def _age(seen: Seen[Any]) -> tuple[str, str, str]:
    return seen.created, seen.resource.namespace, seen.resource.name


# -------------------------------------------------------------------------------------------------- listeners


def _door(seen: Seen[GatewayResource], listener: GatewayListener, sources: Sources) -> _Door:
    gateway = seen.resource
    key = f"{gateway.namespace}/{gateway.name}"
    door = _Door(seen, listener, "", [], [])
    say = door.conditions.append
    if listener.protocol not in ("HTTP", "HTTPS"):
        message = f"the protocol {listener.protocol} is not served; HTTP and HTTPS are"
        say(Condition(type="Accepted", status=False, reason="UnsupportedProtocol", message=message))
        return door
    secure = listener.protocol == "HTTPS"
    if (key, listener.name) in sources.internal:
        door.port = INTERNAL
    elif secure:
        door.port = HTTPS if listener.port == 443 else f"port-{listener.port}"
    else:
        door.port = EXTERNAL if listener.port == 80 else f"port-{listener.port}"
    if door.port == HTTPS and not sources.https_port:
        message = (
            "port 443 is served where `pelton up --tls HOST:PORT` says; start it so, or use another port"
        )
        say(Condition(type="Accepted", status=False, reason="PortUnavailable", message=message))
        door.port = ""
        return door
    say(Condition(type="Accepted", status=True, reason="Accepted"))
    kinds = [one for one in listener.kinds if (one.group, one.kind) != (GROUP, "HTTPRoute")]
    if kinds:
        message = f"routes of the kind {kinds[0].kind} are not served"
        say(Condition(type="ResolvedRefs", status=False, reason="InvalidRouteKinds", message=message))
    elif secure:
        _take_certificates(door, sources)
    else:
        say(Condition(type="ResolvedRefs", status=True, reason="ResolvedRefs"))
    return door


def _take_certificates(door: _Door, sources: Sources) -> None:
    gateway, listener = door.gateway.resource, door.listener
    reason = message = ""
    for ref in listener.certificates:
        namespace = ref.namespace or gateway.namespace
        key = f"{namespace}/{ref.name}"
        if ref.kind != "Secret" or ref.group:
            reason, message = "InvalidCertificateRef", f"{ref.kind} {ref.name} is no Secret"
        elif namespace != gateway.namespace and not granted(
            sources.grants, (GROUP, "Gateway", gateway.namespace), ("", "Secret", namespace, ref.name)
        ):
            reason = "RefNotPermitted"
            message = (
                f"no ReferenceGrant in {namespace} lets Gateways of {gateway.namespace} use Secret {key}"
            )
        else:
            pair = sources.certificates.get(key) or Pair(problem="there is no such Secret")
            if pair.problem:
                reason, message = "InvalidCertificateRef", f"Secret {key}: {pair.problem}"
            else:
                hosts = (listener.hostname,) if listener.hostname else ()
                door.certificates.append(Certificate(name=key, hosts=hosts, chain=pair.chain, key=pair.key))
    if not door.certificates:
        door.port = ""
    door.conditions.append(
        Condition(type="ResolvedRefs", status=not reason, reason=reason or "ResolvedRefs", message=message)
    )


def _settle_ports(doors: Mapping[str, list[_Door]], sources: Sources) -> None:
    """Find conflicts between listeners, the older Gateway first, and say which are programmed."""
    protocols: dict[str, str] = {}
    for door in (door for listed in doors.values() for door in listed):
        protocol = protocols.setdefault(door.port, door.listener.protocol) if door.port else ""
        if protocol and protocol != door.listener.protocol:
            door.port = ""
            message = f"port {door.listener.port} already serves {protocol}"
            door.conditions.append(
                Condition(type="Conflicted", status=True, reason="ProtocolConflict", message=message)
            )
        elif door.conditions[0].status:
            door.conditions.append(Condition(type="Conflicted", status=False, reason="NoConflicts"))
        refused = sources.refused.get(door.port, "")
        programmed = bool(door.port) and not refused
        door.conditions.append(
            Condition(
                type="Programmed",
                status=programmed,
                reason="Programmed" if programmed else "Invalid",
                message=refused,
            )
        )


def _ports(doors: Mapping[str, list[_Door]], open_to_functions: frozenset[str]) -> tuple[Port, ...]:
    found: dict[str, Port] = {}
    for key, listed in doors.items():
        for door in listed:
            if door.port in ("", EXTERNAL, INTERNAL):
                continue
            port = found.get(door.port) or Port(
                name=door.port,
                port=0 if door.port == HTTPS else door.listener.port,
                functions=door.port == HTTPS,
            )
            if key in open_to_functions:
                port = replace(port, functions=True)
            held = {(one.name, one.hosts) for one in port.certificates}
            new = [one for one in door.certificates if (one.name, one.hosts) not in held]
            found[door.port] = replace(port, certificates=(*port.certificates, *new))
    return tuple(found[name] for name in sorted(found))


def _gateway_status(doors: list[_Door]) -> dict[str, Any]:
    seen = doors[0].gateway
    working = [door for door in doors if door.port]
    bad = len(working) < len(doors)
    accepted = Condition(
        type="Accepted",
        status=bool(working),
        reason="ListenersNotValid" if bad else "Accepted",
        message="some listeners are not served; their conditions say why" if bad else "",
    )
    programmed = all(_is(door, "Programmed") for door in working) and bool(working)
    return {
        "conditions": [
            accepted.written(seen.generation),
            Condition(
                type="Programmed",
                status=programmed,
                reason="Programmed" if programmed else "Invalid",
                message="" if programmed else "no listener works, or Envoy refused one",
            ).written(seen.generation),
        ],
        "listeners": [
            {
                "name": door.listener.name,
                "supportedKinds": [_ROUTE_KIND] if door.listener.protocol in ("HTTP", "HTTPS") else [],
                "attachedRoutes": door.attached,
                "conditions": [one.written(seen.generation) for one in door.conditions],
            }
            for door in doors
        ],
    }


def _is(door: _Door, kind: str) -> bool:
    return any(one.type == kind and one.status for one in door.conditions)


# ----------------------------------------------------------------------------------------------------- routes


class _Route:
    """One HTTPRoute: its rules with what its references are, the hosts it is served under, its status."""

    def __init__(
        self,
        seen: Seen[HttpRouteResource],
        doors: Mapping[str, list[_Door]],
        present: set[str],
        sources: Sources,
    ) -> None:
        self._seen = seen
        self._sources = sources
        self.upstreams: dict[str, Upstream] = {}
        route = seen.resource
        resolver = Resolver(route.namespace, sources.services, sources.grants, self.upstreams)
        self.rules = tuple(resolver.rules(route.rules))
        hosts: dict[str, dict[str, None]] = {}
        parents = []
        for ref in route.parents:
            conditions = self._parent(ref, doors, present, hosts, resolver)
            if conditions is not None:
                parents.append(
                    {
                        "parentRef": _reference(ref),
                        "controllerName": CONTROLLER,
                        "conditions": [one.written(seen.generation) for one in conditions],
                    }
                )
        self.hosts = tuple((port, tuple(sorted(hosts[port]))) for port in sorted(hosts))
        self.status: dict[str, Any] = {"parents": parents}

    def _parent(
        self,
        ref: ParentRef,
        doors: Mapping[str, list[_Door]],
        present: set[str],
        hosts: dict[str, dict[str, None]],
        resolver: Resolver,
    ) -> list[Condition] | None:
        """Return the conditions for one parent; None when it is none of ours."""
        route = self._seen.resource
        key = f"{ref.namespace or route.namespace}/{ref.name}"
        if (ref.group, ref.kind) != (GROUP, "Gateway") or (key in present and key not in doors):
            return None
        refs = resolver.resolved()
        listed = doors.get(key)
        if listed is None:
            return [_refused("NoMatchingParent", f"there is no Gateway {key}"), refs]
        named = [
            door
            for door in listed
            if ref.section in ("", door.listener.name) and ref.port in (None, door.listener.port)
        ]
        if not named:
            wanted = f'the name "{ref.section}"' if ref.section else f"port {ref.port}"
            return [_refused("NoMatchingParent", f"Gateway {key} has no listener with {wanted}"), refs]
        allowed = [door for door in named if self._allowed(door)]
        if not allowed:
            message = f"no listener of Gateway {key} takes HTTPRoutes of namespace {route.namespace}"
            return [_refused("NotAllowedByListeners", message), refs]
        met = [(door, self._met(door)) for door in allowed]
        if not any(common for _, common in met):
            message = f"no hostname of the route is one of a listener of Gateway {key}"
            return [_refused("NoMatchingListenerHostname", message), refs]
        if not self.rules:
            return [_refused("UnsupportedValue", resolver.unsupported), refs]
        for door, common in met:
            if common:
                door.attached += 1
                if door.port:
                    hosts.setdefault(door.port, {}).update(dict.fromkeys(common))
        conditions = [Condition(type="Accepted", status=True, reason="Accepted"), refs]
        if resolver.unsupported:
            conditions.append(
                Condition(
                    type="PartiallyInvalid",
                    status=True,
                    reason="UnsupportedValue",
                    message=f"Dropped Rule: {resolver.unsupported}",
                )
            )
        return conditions

    def _allowed(self, door: _Door) -> bool:
        route, listener = self._seen.resource, door.listener
        if listener.kinds and not any(
            (one.group, one.kind) == (GROUP, "HTTPRoute") for one in listener.kinds
        ):
            return False
        if listener.routes_from == "Same":
            return route.namespace == door.gateway.resource.namespace
        if listener.routes_from == "Selector":
            labels = {
                "kubernetes.io/metadata.name": route.namespace,
                **self._sources.namespaces.get(route.namespace, {}),
            }
            return _selects(listener.selector or {}, labels)
        return listener.routes_from == "All"

    def _met(self, door: _Door) -> list[str]:
        own = self._seen.resource.hostnames or (ANY,)
        wanted = door.listener.hostname or ANY
        return [common for host in own if (common := intersection(wanted, host)) is not None]


def _refused(reason: str, message: str) -> Condition:
    return Condition(type="Accepted", status=False, reason=reason, message=message)


def _reference(ref: ParentRef) -> dict[str, Any]:
    written: dict[str, Any] = {"group": ref.group, "kind": ref.kind, "name": ref.name}
    if ref.namespace:
        written["namespace"] = ref.namespace
    if ref.section:
        written["sectionName"] = ref.section
    if ref.port is not None:
        written["port"] = ref.port
    return written


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector as written selects labels; what it cannot say selects nothing."""
    wanted = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for expression in selector.get("matchExpressions") or ():
        key, operator = expression.get("key"), expression.get("operator")
        values = expression.get("values") or ()
        there = key in labels
        holds = {
            "In": there and labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": there,
            "DoesNotExist": not there,
        }.get(operator, False)
        if not holds:
            return False
    return True
