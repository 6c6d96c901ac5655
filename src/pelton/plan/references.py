"""What the references and filters of route rules mean: rules as written become rules with backends.

`plan/attachment` resolves HTTPRoutes with `Resolver`, `plan/function` the rules inside a Function with
`resolve_rules`. A reference that leads nowhere keeps its share, which is answered with 500. Pure.
Source: contracts, gateway-network, section 9.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pelton.model.gateway_api import BackendRef, Filter, HttpRouteRule, ReferenceGrant
from pelton.model.routing import (
    Backend,
    FieldMatch,
    HeaderChanges,
    Match,
    Mirror,
    PathMatch,
    Redirect,
    Rewrite,
    Rule,
    Upstream,
)
from pelton.plan.upstreams import Services

__all__ = ["GROUP", "Condition", "Resolver", "granted", "resolve_rules"]

GROUP = "gateway.networking.k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition without times."""

    type: str
    status: bool
    reason: str
    message: str = ""

    def written(self, generation: int) -> dict[str, Any]:
        """Return it as JSON; the time of transition is added where it is stored."""
        return {
            "type": self.type,
            "status": "True" if self.status else "False",
            "reason": self.reason,
            "message": self.message,
            "observedGeneration": generation,
        }


def granted(
    grants: Iterable[ReferenceGrant], source: tuple[str, str, str], target: tuple[str, str, str, str]
) -> bool:
    """Tell whether (group, kind, namespace) may refer to (group, kind, namespace, name)."""
    group, kind, namespace, name = target
    return any(
        grant.namespace == namespace
        and any((one.group, one.kind, one.namespace) == source for one in grant.sources)
        and any((one.group, one.kind) == (group, kind) and one.name in ("", name) for one in grant.targets)
        for grant in grants
    )


class Resolver:
    """Turns rules as written into rules with backends; remembers the first fault of each sort.

    Args:
        namespace: Of the route.
        services: What references can reach.
        grants: What may be reached in other namespaces.
        upstreams: Takes what is found that is no function, by key.

    Attributes:
        unsupported: Path of the first rule that cannot be served, and why; "" for none.
    """

    def __init__(
        self,
        namespace: str,
        services: Services,
        grants: Sequence[ReferenceGrant],
        upstreams: dict[str, Upstream],
    ) -> None:
        self._namespace = namespace
        self._services = services
        self._grants = grants
        self._upstreams = upstreams
        self._reason = self._message = ""
        self.unsupported = ""

    def resolved(self) -> Condition:
        """Return the condition on references."""
        return Condition(
            type="ResolvedRefs",
            status=not self._reason,
            reason=self._reason or "ResolvedRefs",
            message=self._message,
        )

    def rules(self, written: Sequence[HttpRouteRule]) -> list[Rule]:
        """Return the rules that can be served."""
        found = []
        for index, rule in enumerate(written):
            complaint = _unsupported(rule)
            if complaint:
                self.unsupported = self.unsupported or f"spec.rules[{index}]: {complaint}"
            else:
                found.append(self._rule(rule))
        return found

    def _rule(self, rule: HttpRouteRule) -> Rule:
        backends = []
        for ref in rule.backends:
            key, problem = self._backend(ref)
            changes = _changes(ref.filters)
            backends.append(
                Backend(
                    key=key,
                    weight=1 if ref.weight is None else ref.weight,
                    problem=problem,
                    request_headers=changes.get("RequestHeaderModifier"),
                    response_headers=changes.get("ResponseHeaderModifier"),
                )
            )
        mirrors = []
        for item in rule.filters:
            if item.mirror is not None:
                key, problem = self._backend(item.mirror.backend)
                if not problem:
                    mirrors.append(_mirror(item, key))
        return _plain_rule(rule, tuple(backends), tuple(mirrors))

    def _backend(self, ref: BackendRef) -> tuple[str, str]:
        """Return (cluster, problem) of a reference."""
        namespace = ref.namespace or self._namespace
        if ref.group or ref.kind != "Service":
            return self._fault("InvalidKind", f"{ref.kind} {ref.name} is no Service")
        if namespace != self._namespace and not granted(
            self._grants,
            (GROUP, "HTTPRoute", self._namespace),
            ("", "Service", namespace, ref.name),
        ):
            message = (
                f"no ReferenceGrant in {namespace} lets HTTPRoutes of {self._namespace} use its Services"
            )
            return self._fault("RefNotPermitted", message)
        found = self._services.find(namespace, ref.name, ref.port)
        if isinstance(found, Upstream):
            self._upstreams[found.key] = found
            return found.key, ""
        if found.problem:
            return self._fault(found.reason, found.problem)
        return found.key, ""

    def _fault(self, reason: str, message: str) -> tuple[str, str]:
        if not self._reason:
            self._reason, self._message = reason, message
        return "", f"{reason}: {message}"


def _unsupported(rule: HttpRouteRule) -> str:
    filters = [*rule.filters, *(item for backend in rule.backends for item in backend.filters)]
    for item in filters:
        if item.type in ("ExtensionRef", "ExternalAuth", "CORS"):
            return f"the filter {item.type} is not served"
    for backend in rule.backends:
        for item in backend.filters:
            if item.type not in ("RequestHeaderModifier", "ResponseHeaderModifier"):
                return f"the filter {item.type} is not served on a backend"
    return ""


def _changes(filters: Iterable[Filter]) -> dict[str, HeaderChanges]:
    return {
        item.type: changes
        for item in filters
        if (changes := item.request_headers or item.response_headers) is not None
    }


def _mirror(item: Filter, key: str) -> Mirror:
    mirror = item.mirror
    if mirror is None or (mirror.percent is None and mirror.numerator is None):
        return Mirror(key=key)
    if mirror.percent is not None:
        return Mirror(key=key, numerator=mirror.percent)
    return Mirror(key=key, numerator=mirror.numerator or 0, denominator=mirror.denominator or 100)


def _plain_rule(rule: HttpRouteRule, backends: tuple[Backend, ...], mirrors: tuple[Mirror, ...]) -> Rule:
    changes = _changes(rule.filters)
    redirect: Redirect | None = next((one.redirect for one in rule.filters if one.redirect), None)
    rewrite: Rewrite | None = next((one.rewrite for one in rule.filters if one.rewrite), None)
    asked = changes.get("RequestHeaderModifier")
    if asked is not None:
        asked, host = _host_change(asked)
        if host and (rewrite is None or not rewrite.hostname):
            rewrite = replace(rewrite or Rewrite(), hostname=host)
    limits = rule.timeouts
    return Rule(
        name=rule.name,
        matches=tuple(_folded(match) for match in rule.matches) or (Match(),),
        backends=backends,
        request_headers=asked,
        response_headers=changes.get("ResponseHeaderModifier"),
        redirect=redirect,
        rewrite=rewrite,
        mirrors=mirrors,
        timeout_s=limits.request_s if limits else None,
        backend_timeout_s=limits.backend_request_s if limits else None,
    )


def _host_change(changes: HeaderChanges) -> tuple[HeaderChanges | None, str]:
    """Take a change of Host out: it means another host, not a second value of the header."""
    pairs = [*changes.set, *changes.add]
    host = next((value for name, value in pairs if name.lower() in ("host", ":authority")), "")
    kept = replace(
        changes,
        set=tuple(pair for pair in changes.set if pair[0].lower() not in ("host", ":authority")),
        add=tuple(pair for pair in changes.add if pair[0].lower() not in ("host", ":authority")),
    )
    return (kept if kept != HeaderChanges() else None), host


def _folded(match: Match) -> Match:
    """Header names in lower case, of equal ones the first; a prefix without its last slash."""
    headers: dict[str, FieldMatch] = {}
    for header in match.headers:
        headers.setdefault(header.name.lower(), replace(header, name=header.name.lower()))
    query: dict[str, FieldMatch] = {}
    for item in match.query:
        query.setdefault(item.name, item)
    path = match.path
    if path.type == "PathPrefix":
        path = PathMatch(value=path.value.rstrip("/") or "/")
    return replace(match, path=path, headers=tuple(headers.values()), query=tuple(query.values()))


def resolve_rules(written: Sequence[HttpRouteRule]) -> tuple[tuple[Rule, ...], list[tuple[int, str]]]:
    """Return the rules inside a Function, whose backends are the function itself, and what is not served.

    The second part has (index of the rule, sentence) for each rule that is left out.
    """
    found, left_out = [], []
    for index, rule in enumerate(written):
        complaint = _unsupported(replace(rule, backends=()))
        if complaint:
            left_out.append((index, complaint))
            continue
        mirrored = any(item.mirror for item in rule.filters)
        if mirrored:
            left_out.append((index, "its RequestMirror is left out: write an HTTPRoute for that"))
        found.append(_plain_rule(rule, (), ()))
    return tuple(found), left_out
