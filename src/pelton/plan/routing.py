"""Which rule a request meets: all routes of one port in one order, and the reasons for it.

`entries_of` turns the route of a function or a standalone one into entries; `virtual_hosts` orders them per
host; `decide` and `explain` answer for one request what Envoy, which gets the same order
(`targets/local/gateway_config`), would do; `pelton why route` prints the explanation. Pure.
Source: contracts, gateway-network, section 9 (hostnames first, then the precedence of matches).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from urllib.parse import parse_qsl

from pelton.model.desired import Route
from pelton.model.routing import (
    EXTERNAL,
    INTERNAL,
    Backend,
    FieldMatch,
    HeaderChanges,
    Match,
    PathChange,
    PathMatch,
    Redirect,
    Rewrite,
    Rule,
    StandaloneRoute,
)

__all__ = [
    "ANY",
    "TAG_HEADER",
    "Conflict",
    "Considered",
    "Entry",
    "Explanation",
    "Request",
    "claims",
    "conflicts",
    "covers",
    "decide",
    "entries_of",
    "explain",
    "host_rank",
    "intersection",
    "mismatch",
    "order_of",
    "takes_all",
    "virtual_hosts",
]

ANY = "*"
"""The host of routes that are served under every name."""
TAG_HEADER = "knative-serving-tag"
_TYPES = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}
_UNCONDITIONAL = Match()
_BY_HOST, _BY_PATH, _FRONT = "host", "path", "front"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One match of one rule under one host: what becomes one route in Envoy.

    Attributes:
        kind: `Function` or `HTTPRoute`.
        route: `namespace/name` of its route.
        host: Host name, `*.` in front for all below it, or ANY.
        match: Conditions.
        rule: What happens then.
        created: RFC 3339 time of the route, "" sorts first.
        position: (rule, match) in the route.
        way: How a function is reached: `host`, `path` (its prefix on any other host), `front` or
            `tag <name>`.
        timeout_s: Limit of one try, seconds, 0 for none; unless the rule has its own.
    """

    kind: str
    route: str
    host: str
    match: Match
    rule: Rule
    created: str = ""
    position: tuple[int, int] = (0, 0)
    way: str = _BY_HOST
    timeout_s: float = 300.0

    @property
    def owner(self) -> str:
        """`Kind namespace/name`."""
        return f"{self.kind} {self.route}"

    @property
    def name(self) -> str:
        """Unique in its port: the route's name in Envoy and in the access log."""
        rule, match = self.position
        return f"{self.owner} {self.way} {rule}.{match} {self.host}"


# ------------------------------------------------------------------------------------------------- precedence


def host_rank(host: str) -> tuple[int, int]:
    """Return the rank of a host: most characters without wildcard first, then most characters."""
    bare = host.removeprefix("*.").removeprefix("*")
    exact = 0 if host.startswith("*") else len(bare)
    return (-exact, -len(host))


def order_of(entry: Entry) -> tuple[object, ...]:
    """Return the precedence of an entry; smaller wins. A total order: no two entries of a port are equal."""
    match = entry.match
    return (
        host_rank(entry.host),
        _TYPES.get(match.path.type, 3),
        -len(match.path.value),
        not match.method,
        -len(match.headers),
        -len(match.query),
        entry.created,
        entry.route,
        entry.kind,
        entry.position,
        entry.way,
        entry.host,
        match.path.value,
    )


_CRITERIA: tuple[tuple[str, int], ...] = (
    ("host", 0),
    ("path type", 1),
    ("path length", 2),
    ("method", 3),
    ("headers", 4),
    ("query parameters", 5),
    ("age", 6),
    ("name", 7),
    ("kind", 8),
    ("position", 9),
)


def takes_all(entry: Entry) -> bool:
    """Tell whether an entry takes every request for its host, so that nothing behind it is reached."""
    return entry.match.path.value == "/" and entry.match == _UNCONDITIONAL


def covers(pattern: str, host: str) -> bool:
    """Tell whether a host pattern covers a host name (or a narrower pattern); `*.a` does not cover `a`."""
    if pattern in (ANY, host):
        return True
    return pattern.startswith("*.") and host.removeprefix("*").endswith(pattern[1:]) and host != pattern[2:]


def intersection(one: str, other: str) -> str | None:
    """Return the narrower of two host patterns that overlap, or None; ANY is wider than everything."""
    if covers(one, other):
        return other
    return one if covers(other, one) else None


# ---------------------------------------------------------------------------------------------------- entries


@lru_cache(maxsize=16_384)
def entries_of(route: Route | StandaloneRoute, port: str, https_port: int = 0) -> tuple[Entry, ...]:
    """Return what one route adds to a port.

    Args:
        route: Of a function, or standalone.
        port: EXTERNAL, INTERNAL or the name of a further port.
        https_port: Where https is served, for functions that are for https only; 0 for its usual port.
    """
    if isinstance(route, StandaloneRoute):
        rules = _with_https_port(route.rules, https_port)
        hosts = dict(route.hosts).get(port, ())
        return tuple(
            Entry(
                kind="HTTPRoute",
                route=route.key,
                host=host,
                match=match,
                rule=rule,
                created=route.created,
                position=(number, place),
            )
            for host in hosts
            for number, rule in enumerate(rules)
            for place, match in enumerate(rule.matches)
        )
    return _function_entries(route, port, https_port)


def _function_entries(route: Route, port: str, https_port: int) -> tuple[Entry, ...]:
    inside = port == INTERNAL
    if route.internal and not inside:
        return ()
    hosts = (*route.hosts, *route.internal_hosts) if inside else route.hosts
    rules = _with_https_port(_with_backends(route), https_port)
    found: list[Entry] = []
    if route.https_only and port == EXTERNAL:
        sent = Rule(redirect=Redirect(scheme="https", port=https_port, status=301))
        tagged_hosts = (f"{tag}-{host}" for tag, _ in route.tags for host in hosts)
        return tuple(_entry(route, host, Match(), sent) for host in (*hosts, *tagged_hosts))
    for host in hosts:
        found += _hosted(route, host, rules)
        for tag, key in route.tags:
            tagged = tuple(replace(rule, backends=(Backend(key=key),)) for rule in rules)
            if not host.startswith("*"):
                found += [
                    _entry(route, f"{tag}-{host}", match, rule, (number, place), f"tag {tag}")
                    for number, rule in enumerate(tagged)
                    for place, match in enumerate(rule.matches)
                ]
    if route.path:
        found += _by_path(route)
    everything = _shares(route)
    for number, front in enumerate(route.fronts):
        match = Match(path=PathMatch(type="RegularExpression", value=front))
        found.append(_entry(route, ANY, match, Rule(backends=everything), (number, 0), _FRONT))
    return tuple(found)


def _entry(
    route: Route,
    host: str,
    match: Match,
    rule: Rule,
    position: tuple[int, int] = (0, 0),
    way: str = _BY_HOST,
) -> Entry:
    return Entry(
        kind="Function",
        route=route.key,
        host=host,
        match=match,
        rule=rule,
        created=route.created,
        position=position,
        way=way,
        timeout_s=route.timeout_s,
    )


def _shares(route: Route) -> tuple[Backend, ...]:
    return tuple(Backend(key=key, weight=weight) for key, weight in route.split) or (Backend(key=route.key),)


def _with_https_port(rules: Sequence[Rule], https_port: int) -> tuple[Rule, ...]:
    """Let redirects to https that name no port go where https is served on this machine."""
    return tuple(
        replace(rule, redirect=replace(rule.redirect, port=https_port))
        if https_port and rule.redirect and rule.redirect.scheme == "https" and not rule.redirect.port
        else rule
        for rule in rules
    )


def _with_backends(route: Route) -> tuple[Rule, ...]:
    shares = _shares(route)
    if not route.rules:
        return (Rule(backends=shares),)
    return tuple(rule if rule.redirect else replace(rule, backends=shares) for rule in route.rules)


def _hosted(route: Route, host: str, rules: Sequence[Rule]) -> list[Entry]:
    found = []
    for number, rule in enumerate(rules):
        for place, match in enumerate(rule.matches):
            found.append(_entry(route, host, match, rule, (number, place)))
            if rule.redirect is None:
                found += [
                    _entry(route, host, _tagged(match, tag), replace(rule, backends=(Backend(key=key),)),
                           (number, place), f"tag {tag}")
                    for tag, key in route.tags
                ]  # fmt: skip
    return found


def _by_path(route: Route) -> list[Entry]:
    """Return the entries for `/namespace/name` on any host: the prefix goes, a header tells of it."""
    rule = Rule(
        backends=_shares(route),
        rewrite=Rewrite(path=PathChange(type="ReplacePrefixMatch", value="/")),
        request_headers=HeaderChanges(set=(("x-forwarded-prefix", route.path),)),
    )
    match = Match(path=PathMatch(value=route.path))
    return [
        _entry(route, ANY, match, rule, way=_BY_PATH),
        *(
            _entry(
                route, ANY, _tagged(match, tag), replace(rule, backends=(Backend(key=key),)), way=f"tag {tag}"
            )
            for tag, key in route.tags
        ),
    ]


def _tagged(match: Match, tag: str) -> Match:
    others = tuple(header for header in match.headers if header.name != TAG_HEADER)
    return replace(match, headers=(*others, FieldMatch(name=TAG_HEADER, value=tag)))


# ---------------------------------------------------------------------------------------------- virtual hosts


def virtual_hosts(entries: Iterable[Entry]) -> dict[str, tuple[Entry, ...]]:
    """Return host -> entries in the order in which they are tried, ANY included; hosts in any order.

    The entries of a wider host follow those of a narrower one, as the precedence of hosts wants it, except
    that paths of functions belong to hosts that nobody else claims. What comes after an entry that takes
    every request is left out.
    """
    by_host: dict[str, list[Entry]] = {}
    for entry in entries:
        by_host.setdefault(entry.host, []).append(entry)
    wide = [host for host in by_host if host.startswith("*")]
    found: dict[str, tuple[Entry, ...]] = {}
    for host, own in by_host.items():
        if len(own) == 1 and takes_all(own[0]):
            found[host] = (own[0],)
            continue
        more = [
            entry
            for other in wide
            if other != host and covers(other, host)
            for entry in by_host[other]
            if entry.way == _BY_HOST
        ]
        found[host] = _cut(sorted([*own, *more], key=order_of))
    return found


def _cut(ordered: list[Entry]) -> tuple[Entry, ...]:
    for place, entry in enumerate(ordered):
        if takes_all(entry):
            return tuple(ordered[: place + 1])
    return tuple(ordered)


# -------------------------------------------------------------------------------------------------- conflicts


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Two routes that want the same requests: `winner` gets them, `loser` never; both `Kind ns/name`."""

    winner: str
    loser: str
    host: str
    match: Match


def claims(entry: Entry) -> tuple[str, Match]:
    """Return what only one route of a port may have: a host with conditions on the request."""
    match = entry.match
    return entry.host, replace(
        match,
        headers=tuple(sorted(match.headers, key=_field_key)),
        query=tuple(sorted(match.query, key=_field_key)),
    )


def _field_key(item: FieldMatch) -> tuple[str, str, str]:
    return item.name, item.type, item.value


def conflicts(entries: Iterable[Entry]) -> tuple[Conflict, ...]:
    """Return who shadows whom, by winner, loser and host; each pair of routes once per host."""
    holders: dict[tuple[str, Match], list[Entry]] = {}
    for entry in entries:
        holders.setdefault(claims(entry), []).append(entry)
    found: dict[tuple[str, str, str], Conflict] = {}
    for (host, match), rivals in holders.items():
        first, *others = sorted(rivals, key=order_of)
        for other in others:
            if other.owner != first.owner:
                key = (first.owner, other.owner, host)
                found.setdefault(key, Conflict(winner=first.owner, loser=other.owner, host=host, match=match))
    return tuple(found[key] for key in sorted(found))


# ------------------------------------------------------------------------------------------------ one request


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as far as routing looks at it.

    Attributes:
        host: Without port, lower case.
        path: With query.
        method: In upper case.
        headers: Name in lower case -> value, several joined by commas.
    """

    host: str
    path: str = "/"
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Considered:
    """An entry that did not win, and why."""

    entry: Entry
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What happens to a request: the entry that won (None: nobody answers), and all others."""

    host: str
    winner: Entry | None
    others: tuple[Considered, ...]


def mismatch(match: Match, request: Request) -> str:
    """Return why a request does not fulfil conditions, or ""."""
    path, _, query = request.path.partition("?")
    kind, wanted = match.path.type, match.path.value
    if kind == "Exact" and path != wanted:
        return f"the path is not exactly {wanted}"
    if kind == "RegularExpression" and not re.fullmatch(wanted, path):
        return f"the path does not match the expression {wanted}"
    if kind == "PathPrefix" and not _has_prefix(path, wanted):
        return f"the path is not {wanted} or below it"
    if match.method and request.method != match.method:
        return f"the method is {request.method}, not {match.method}"
    for header in match.headers:
        if complaint := _field_mismatch(header, request.headers.get(header.name), "header"):
            return complaint
    values = dict(reversed(parse_qsl(query, keep_blank_values=True))) if match.query else {}
    for parameter in match.query:
        if complaint := _field_mismatch(parameter, values.get(parameter.name), "query parameter"):
            return complaint
    return ""


def _has_prefix(path: str, prefix: str) -> bool:
    bare = prefix.rstrip("/")
    return path == bare or path.startswith(f"{bare}/")


def _field_mismatch(wanted: FieldMatch, value: str | None, what: str) -> str:
    if value is None:
        return f"the {what} {wanted.name} is missing"
    if wanted.type == "RegularExpression":
        if not re.fullmatch(wanted.value, value):
            return f"the {what} {wanted.name} is {value}, which does not match {wanted.value}"
    elif value != wanted.value:
        return f"the {what} {wanted.name} is {value}, not {wanted.value}"
    return ""


def host_of(hosts: Iterable[str], host: str) -> str:
    """Return the host among those of a port under which a request is looked up; ANY when no other fits."""
    return min((one for one in hosts if covers(one, host)), key=host_rank, default=ANY)


def decide(hosts: Mapping[str, Sequence[Entry]], request: Request) -> Entry | None:
    """Return the entry that answers a request; None: nobody does.

    Args:
        hosts: What `virtual_hosts` returned.
        request: The request.
    """
    for entry in hosts.get(host_of(hosts, request.host), ()):
        if not mismatch(entry.match, request):
            return entry
    return None


def explain(entries: Sequence[Entry], request: Request) -> Explanation:
    """Return who answers a request, and for each other entry of the port why it does not."""
    hosts = virtual_hosts(entries)
    host = host_of(hosts, request.host)
    winner = decide(hosts, request)
    others = [
        Considered(entry=entry, why=_why_not(entry, winner, request, host))
        for entry in sorted(entries, key=order_of)
        if entry != winner
    ]
    return Explanation(host=host, winner=winner, others=tuple(others))


def _why_not(entry: Entry, winner: Entry | None, request: Request, host: str) -> str:
    if not covers(entry.host, request.host):
        return f"the host {request.host} is not {entry.host}"
    if complaint := mismatch(entry.match, request):
        return complaint
    if winner is None or (entry.host == ANY != host and entry.way != _BY_HOST):
        return f"paths of functions are for hosts that no route names, and {host} is named by one"
    return _lost(entry, winner)


def _lost(entry: Entry, winner: Entry) -> str:
    """Say by which criterion one matching entry comes behind another."""
    ours, theirs = order_of(entry), order_of(winner)
    decided = next((name for name, place in _CRITERIA if ours[place] != theirs[place]), "position")
    said = {
        "host": f"its host {entry.host} is less specific than {winner.host}",
        "path type": f"a path of the type {winner.match.path.type} goes before {entry.match.path.type}",
        "path length": f"its path {entry.match.path.value} is shorter than {winner.match.path.value}",
        "method": "the winner asks for the method, this does not",
        "headers": f"it asks for {len(entry.match.headers)} headers, the winner for "
        f"{len(winner.match.headers)}",
        "query parameters": f"it asks for {len(entry.match.query)} query parameters, the winner for "
        f"{len(winner.match.query)}",
        "age": f"it is younger ({entry.created or 'unknown'}) than the winner "
        f"({winner.created or 'unknown'})",
        "name": f"{entry.route} comes after {winner.route} in the alphabet",
        "kind": f"{entry.kind} comes after {winner.kind}",
        "position": "it stands behind the winner in the same route",
    }
    return said[decided]
