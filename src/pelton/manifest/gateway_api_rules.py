"""What the values of HTTPRoutes and Gateways have to fulfil; every broken rule is reported.

Called by `manifest/gateway_api`, and for the rules inside a Function by `manifest/openfunction_rules`. What
depends on other objects (references, hostnames of listeners) is `plan/attachment`'s.
Source: contracts, gateway-network, section 9.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pelton.manifest.fields import Problem, describe
from pelton.model.gateway_api import (
    BackendRef,
    Filter,
    GatewayListener,
    GatewayResource,
    HttpRouteResource,
    HttpRouteRule,
)
from pelton.model.routing import FieldMatch, HeaderChanges, Match, PathChange, PathMatch, Redirect

__all__ = ["gateway_rules", "regex_problem", "route_rules", "rule_problems"]

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_PATH_TYPES = ("Exact", "PathPrefix", "RegularExpression")
_VALUE_TYPES = ("Exact", "RegularExpression")
_STATUSES = (301, 302, 303, 307, 308)
_PATH = re.compile(r"/(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})*")
_NOT_IN_PATH = ("//", "/./", "/../", "%2f", "%2F", "#")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")
# What Python understands and Envoy's RE2 does not: looking around, references back, atomic and possessive.
_NOT_RE2 = re.compile(r"\(\?(?:[=!>]|<[=!]|P=|\()|\\[1-9]|[*+?}]\+")
_FILTER_FIELDS = {
    "RequestHeaderModifier": "request_headers",
    "ResponseHeaderModifier": "response_headers",
    "RequestRedirect": "redirect",
    "URLRewrite": "rewrite",
    "RequestMirror": "mirror",
    "CORS": "cors",
    "ExtensionRef": "extension",
    "ExternalAuth": "external_auth",
}
_JSON = {
    "request_headers": "requestHeaderModifier",
    "response_headers": "responseHeaderModifier",
    "redirect": "requestRedirect",
    "rewrite": "urlRewrite",
    "mirror": "requestMirror",
    "cors": "cors",
    "extension": "extensionRef",
    "external_auth": "externalAuth",
}


def route_rules(route: HttpRouteResource) -> list[Problem]:
    """Return the broken rules of a HTTPRoute."""
    problems: list[Problem] = []
    seen: set[tuple[str, str, str, str, str, int | None]] = set()
    for index, ref in enumerate(route.parents):
        key = (ref.group, ref.kind, ref.namespace, ref.name, ref.section, ref.port)
        if key in seen:
            problems.append(Problem(f"spec.parentRefs[{index}]", "names the same parent again"))
        seen.add(key)
        if ref.port is not None and not 1 <= ref.port <= 65535:
            problems.append(
                Problem(f"spec.parentRefs[{index}].port", f"must be from 1 to 65535, found {ref.port}")
            )
    for index, host in enumerate(route.hostnames):
        problems += _host(f"spec.hostnames[{index}]", host)
    for index, rule in enumerate(route.rules):
        problems += rule_problems(rule, f"spec.rules[{index}]")
    total = sum(len(rule.matches) for rule in route.rules)
    if total > 128:
        problems.append(Problem("spec.rules", f"may have at most 128 matches in all, found {total}"))
    names = [rule.name for rule in route.rules if rule.name]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(Problem("spec.rules", f'the name "{name}" is given to more than one rule'))
    return problems


def _host(path: str, host: str) -> Iterator[Problem]:
    if re.fullmatch(r"[0-9.]+", host):
        yield Problem(path, f"must be a host name, not the address {describe(host)}")


def rule_problems(rule: HttpRouteRule, path: str) -> Iterator[Problem]:
    """Yield the broken rules of one HTTPRoute rule at a field path."""
    for index, match in enumerate(rule.matches):
        yield from _match(match, f"{path}.matches[{index}]")
    yield from _filters(rule.filters, f"{path}.filters", rule)
    for index, backend in enumerate(rule.backends):
        here = f"{path}.backendRefs[{index}]"
        yield from _backend(backend, here)
        yield from _filters(backend.filters, f"{here}.filters", rule)
    if any(item.type == "RequestRedirect" for item in rule.filters) and rule.backends:
        yield Problem(f"{path}.backendRefs", "must be absent where a filter redirects")
    if rule.timeouts is not None:
        whole, one = rule.timeouts.request_s, rule.timeouts.backend_request_s
        for name, seconds in (("request", whole), ("backendRequest", one)):
            if seconds is not None and seconds < 0:
                yield Problem(f"{path}.timeouts.{name}", "must not be negative")
        if whole and one is not None and one > whole:
            yield Problem(f"{path}.timeouts.backendRequest", "must not be longer than timeouts.request")


def _match(match: Match, path: str) -> Iterator[Problem]:
    found: PathMatch | None = match.path  # None where it could not be read
    kind, value = (found.type, found.value) if found is not None else ("", "")
    yield from _one_of(f"{path}.path.type", kind, _PATH_TYPES)
    if len(value) > 1024:
        yield Problem(f"{path}.path.value", f"must have at most 1024 characters, found {len(value)}")
    elif kind == "RegularExpression":
        if complaint := regex_problem(value):
            yield Problem(f"{path}.path.value", complaint)
    elif kind in _PATH_TYPES:
        yield from _plain_path(f"{path}.path.value", value)
    if match.method:
        yield from _one_of(f"{path}.method", match.method, METHODS)
    for name, fields in (("headers", match.headers), ("queryParams", match.query)):
        yield from _fields(fields, f"{path}.{name}", fold=name == "headers")


def _plain_path(path: str, value: str) -> Iterator[Problem]:
    if not _PATH.fullmatch(value):
        yield Problem(
            path, f"must be a path that begins with a slash, without query, found {describe(value)}"
        )
        return
    found = [part for part in _NOT_IN_PATH if part in value]
    if found or value.endswith(("/..", "/.")):
        yield Problem(
            path, f'must not contain "{found[0] if found else value.rpartition("/")[2]}": '
            "no request has such a path once it is normalised"
        )  # fmt: skip


def _fields(fields: Iterable[FieldMatch], path: str, *, fold: bool) -> Iterator[Problem]:
    for index, item in enumerate(fields):
        here = f"{path}[{index}]"
        yield from _one_of(f"{here}.type", item.type, _VALUE_TYPES)
        if not _TOKEN.fullmatch(item.name) or len(item.name) > 256:
            what = "header" if fold else "query parameter"
            yield Problem(f"{here}.name", f"must be the name of a {what}, found {describe(item.name)}")
        if item.type == "RegularExpression" and (complaint := regex_problem(item.value)):
            yield Problem(f"{here}.value", complaint)
        if not item.value:
            yield Problem(f"{here}.value", "must not be empty")


def regex_problem(pattern: str) -> str:
    """Return what is wrong with a regular expression in RE2's syntax, or ""."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"is no regular expression: {error}"
    if found := _NOT_RE2.search(pattern):
        return f'has "{found[0]}", which RE2 does not know; look-around and references back are not served'
    return ""


def _filters(filters: tuple[Filter, ...], path: str, rule: HttpRouteRule) -> Iterator[Problem]:
    types = [item.type for item in filters]
    for index, item in enumerate(filters):
        here = f"{path}[{index}]"
        yield from _one_of(f"{here}.type", item.type, _FILTER_FIELDS)
        wanted = _FILTER_FIELDS.get(item.type)
        if wanted is None:
            continue
        for attr, name in _JSON.items():
            given = getattr(item, attr) is not None
            if given and attr != wanted:
                yield Problem(f"{here}.{name}", f"must not be given with the type {item.type}")
            if not given and attr == wanted:
                yield Problem(f"{here}.{name}", f"required for the type {item.type}")
        if item.type not in ("RequestMirror", "ExtensionRef") and item.type in types[:index]:
            yield Problem(f"{here}.type", f"the type {item.type} may be there only once")
        yield from _filter(item, here, rule)
    if "RequestRedirect" in types and "URLRewrite" in types:
        yield Problem(path, "RequestRedirect and URLRewrite exclude each other")


def _filter(item: Filter, path: str, rule: HttpRouteRule) -> Iterator[Problem]:
    for name, changes in (
        ("requestHeaderModifier", item.request_headers),
        ("responseHeaderModifier", item.response_headers),
    ):
        if changes is not None:
            yield from _changes(changes, f"{path}.{name}")
    if item.redirect is not None:
        yield from _redirect(item.redirect, f"{path}.requestRedirect", rule)
    if item.rewrite is not None:
        yield from _new_path(item.rewrite.path, f"{path}.urlRewrite.path", rule)
    if item.mirror is not None:
        mirror, here = item.mirror, f"{path}.requestMirror"
        yield from _backend(mirror.backend, f"{here}.backendRef")
        if mirror.percent is not None and mirror.numerator is not None:
            yield Problem(here, "only one of percent and fraction")
        if mirror.percent is not None and not 0 <= mirror.percent <= 100:
            yield Problem(f"{here}.percent", f"must be from 0 to 100, found {mirror.percent}")
        if mirror.numerator is not None:
            whole = mirror.denominator if mirror.denominator is not None else 0
            if whole < 1 or not 0 <= mirror.numerator <= whole:
                yield Problem(f"{here}.fraction", "numerator must be from 0 to denominator, which is above 0")


def _changes(changes: HeaderChanges, path: str) -> Iterator[Problem]:
    names: list[str] = []
    for part, pairs in (("set", changes.set), ("add", changes.add)):
        for index, (name, _) in enumerate(pairs):
            names.append(name.lower())
            if not _TOKEN.fullmatch(name):
                yield Problem(
                    f"{path}.{part}[{index}].name", f"must be a header's name, found {describe(name)}"
                )
    for index, name in enumerate(changes.remove):
        names.append(name.lower())
        if not _TOKEN.fullmatch(name):
            yield Problem(f"{path}.remove[{index}]", f"must be a header's name, found {describe(name)}")
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem(path, f'the header "{name}" is changed in more than one way')


def _redirect(redirect: Redirect, path: str, rule: HttpRouteRule) -> Iterator[Problem]:
    if redirect.scheme:
        yield from _one_of(f"{path}.scheme", redirect.scheme, ("http", "https"))
    if redirect.status not in _STATUSES:
        listed = ", ".join(str(status) for status in _STATUSES[:-1])
        yield Problem(
            f"{path}.statusCode",
            f"must be {listed} or {_STATUSES[-1]}, found {describe(redirect.status)}",
        )
    if redirect.port and not 1 <= redirect.port <= 65535:
        yield Problem(f"{path}.port", f"must be from 1 to 65535, found {redirect.port}")
    yield from _new_path(redirect.path, f"{path}.path", rule)


def _new_path(change: PathChange | None, path: str, rule: HttpRouteRule) -> Iterator[Problem]:
    if change is None:
        return
    if change.type == "ReplacePrefixMatch" and (
        len(rule.matches) > 1 or any(match.path.type != "PathPrefix" for match in rule.matches)
    ):
        yield Problem(path, "ReplacePrefixMatch needs a rule with exactly one match, of the type PathPrefix")
    if len(change.value) > 1024:
        yield Problem(path, f"must have at most 1024 characters, found {len(change.value)}")
    elif change.value and not _PATH.fullmatch(change.value):
        yield Problem(path, f"must be a path that begins with a slash, found {describe(change.value)}")


def _backend(backend: BackendRef, path: str) -> Iterator[Problem]:
    if backend.port is not None and not 1 <= backend.port <= 65535:
        yield Problem(f"{path}.port", f"must be from 1 to 65535, found {backend.port}")
    if backend.port is None and backend.kind == "Service" and not backend.group:
        yield Problem(f"{path}.port", "required for a Service")
    if backend.weight is not None and not 0 <= backend.weight <= 1_000_000:
        yield Problem(f"{path}.weight", f"must be from 0 to 1000000, found {backend.weight}")


def _one_of(path: str, value: str, known: Iterable[str]) -> Iterator[Problem]:
    known = tuple(known)
    if value not in known:
        yield Problem(path, f"must be {', '.join(known[:-1])} or {known[-1]}, found {describe(value)}")


def gateway_rules(gateway: GatewayResource) -> list[Problem]:
    """Return the broken rules of a Gateway."""
    problems = [] if gateway.listeners else [Problem("spec.listeners", "at least one is required")]
    return problems + list(listener_rules(gateway.listeners, "spec.listeners"))


def listener_rules(listeners: tuple[GatewayListener, ...], path: str) -> Iterator[Problem]:
    """Yield the broken rules of listeners at a field path."""
    names: set[str] = set()
    doors: set[tuple[int, str, str]] = set()
    for index, listener in enumerate(listeners):
        here = f"{path}[{index}]"
        if listener.name in names:
            yield Problem(f"{here}.name", f'"{listener.name}" is another listener\'s name')
        names.add(listener.name)
        port = listener.port or 0
        if not 1 <= port <= 65535:
            yield Problem(f"{here}.port", f"must be from 1 to 65535, found {listener.port}")
        door = (port, listener.protocol, listener.hostname)
        if door in doors:
            yield Problem(here, "has the port, protocol and hostname of another listener")
        doors.add(door)
        if listener.tls_mode and listener.tls_mode not in ("Terminate", "Passthrough"):
            yield Problem(
                f"{here}.tls.mode", f"must be Terminate or Passthrough, found {describe(listener.tls_mode)}"
            )
        if listener.protocol in ("HTTP", "TCP", "UDP") and (listener.tls_mode or listener.certificates):
            yield Problem(f"{here}.tls", f"must be absent for the protocol {listener.protocol}")
        if listener.protocol == "HTTPS" and listener.tls_mode == "Passthrough":
            yield Problem(f"{here}.tls.mode", "must be Terminate for the protocol HTTPS")
        terminates = listener.protocol in ("HTTPS", "TLS") and listener.tls_mode in ("", "Terminate")
        if terminates and not listener.certificates:
            yield Problem(f"{here}.tls.certificateRefs", "required where TLS is terminated")
        if listener.routes_from not in ("Same", "All", "Selector", "None"):
            yield Problem(
                f"{here}.allowedRoutes.namespaces.from",
                f"must be Same, All, Selector or None, found {describe(listener.routes_from)}",
            )
        if listener.routes_from == "Selector" and listener.selector is None:
            yield Problem(f"{here}.allowedRoutes.namespaces.selector", "required with from: Selector")
