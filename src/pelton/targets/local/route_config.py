"""Routes rendered as Envoy's messages: one table per port, kept up to date entry by entry.

`plan/routing` says which entries there are and in which order; this file writes them and remembers the bytes
of what did not change, because a table is sent whole for each change and most of it is always the same.
`gateway.py` calls it. Field meanings: contract sheet gateway-network, sections 2, 5 and 9.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from pelton.errors import GatewayError
from pelton.model.desired import Route
from pelton.model.routing import (
    Backend,
    FieldMatch,
    HeaderChanges,
    Match,
    PathChange,
    PathMatch,
    Redirect,
    Rule,
)
from pelton.plan.routing import ANY, Entry, Request, covers, host_rank, mismatch, order_of, takes_all
from pelton.proto import xds_pb2 as xds
from pelton.targets.local.gateway_config import (
    FUNCTION_HEADER,
    LISTENER_HEADER,
    NOBODY,
    OVERFLOW_HEADER,
    PORT_HEADER,
    REASON_HEADER,
    duration,
    encoded,
    header_options,
    packed,
)

__all__ = ["RouteTable", "check_route", "render_entry"]

# The worker's own 504 says which limit was passed; Envoy's is the net for a worker that is stuck.
_TIMEOUT_MARGIN_S: Final = 2.0
_NOBODY_TIMEOUT_S: Final = 10.0
_USUAL_TIMEOUT_S: Final = 300.0
# Dead sockets refuse at once, so a try costs about a millisecond; several workers may have died together.
_RETRIES: Final = 3
_MILLION: Final = 1_000_000
_MISSING: Final = "no such backend"
"""Name of a cluster that never exists: what is sent there is answered with 500."""

_HOST = re.compile(r"(?:\*\.)?(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_STATUSES: Final = {301: 0, 302: 1, 303: 2, 307: 3, 308: 4}


def check_route(route: Route) -> None:
    """Refuse a route that Envoy would refuse, or that would reach further than its function.

    Raises:
        GatewayError: Naming the field; one bad route would make Envoy reject the table of all functions.
    """
    where = f"Route {route.key}"
    for field, value in (("namespace", route.namespace), ("name", route.name)):
        if not _NAME.fullmatch(value):
            raise GatewayError(f"{field} {value!r} is not a DNS name", where=where)
    for host in route.hosts:
        if not _HOST.fullmatch(host) or len(host) > 253:
            raise GatewayError(
                f"host {host!r} is not a host name in lower case without port",
                where=where,
                hint="Write it as name.namespace.localhost, with *. in front at most.",
            )
    if len(set(route.hosts)) != len(route.hosts):
        raise GatewayError("a host is listed twice", where=where)
    if route.path and not _PATH.fullmatch(route.path):
        raise GatewayError(
            f"path {route.path!r} is not a prefix of whole path elements",
            where=where,
            hint="Write it as /namespace/name, without a slash at the end, `.`, `..` or percent signs.",
        )
    for front in route.fronts:
        try:
            re.compile(front)
        except re.error as exc:
            raise GatewayError(f"front {front!r} is no regular expression: {exc}", where=where) from None
    if route.timeout_s < 0:
        raise GatewayError(f"timeout of {route.timeout_s} s is negative", where=where)


class RouteTable:
    """The routes of one port.

    Args:
        name: Of the port; the table's name in Envoy.
        listed: Whether the activator may tell the caller which functions exist (LISTENER_HEADER).
    """

    def __init__(self, name: str, *, listed: bool) -> None:
        self.name = name
        self._head = encoded(_head(name))
        self._nobody = encoded(_nobody_route(name, listed=listed))
        self._by_owner: dict[str, tuple[Entry, ...]] = {}
        self._by_host: dict[str, list[tuple[tuple[object, ...], Entry]]] = {}
        self._wide: set[str] = set()
        self._entry_bytes: dict[int, tuple[float, bytes]] = {}
        self._host_bytes: dict[str, bytes] = {}

    def set(self, owner: str, entries: Sequence[Entry]) -> bool:
        """Replace what one route adds; returns whether anything changed."""
        before = self._by_owner.get(owner, ())
        if before == tuple(entries):
            return False
        for entry in before:
            self._take_out(entry)
        if entries:
            self._by_owner[owner] = tuple(entries)
        else:
            self._by_owner.pop(owner, None)
        for entry in entries:
            insort(self._by_host.setdefault(entry.host, []), (order_of(entry), entry), key=lambda one: one[0])
            if entry.host.startswith("*"):
                self._wide.add(entry.host)
        touched = (*before, *entries)
        # Paths of functions under any host follow nobody else's entries, so they concern no other host.
        self._forget({entry.host for entry in touched if entry.host != ANY or entry.way == "host"})
        if any(entry.host == ANY for entry in touched):
            self._host_bytes.pop(ANY, None)
        return True

    def _take_out(self, entry: Entry) -> None:
        listed = self._by_host[entry.host]
        del listed[bisect_left(listed, order_of(entry), key=lambda one: one[0])]
        self._entry_bytes.pop(id(entry), None)
        if not listed:
            del self._by_host[entry.host]
            self._wide.discard(entry.host)

    def _forget(self, hosts: Iterable[str]) -> None:
        for host in hosts:
            self._host_bytes.pop(host, None)
            if host != ANY:
                # Who shared a virtual host with the other hosts of its route may do so no longer, or again.
                for _, entry in self._by_host.get(host, ()):
                    for each in self._by_owner.get(entry.owner, ()):
                        if each.host != ANY:
                            self._host_bytes.pop(each.host, None)
            if host.startswith("*") and host != ANY:
                for other in [one for one in self._host_bytes if covers(host, one)]:
                    del self._host_bytes[other]
            elif host == ANY:
                # What is for every host follows the entries of hosts that leave something over.
                for other, listed in self._by_host.items():
                    if not takes_all(listed[0][1]):
                        self._host_bytes.pop(other, None)

    @property
    def owners(self) -> Mapping[str, tuple[Entry, ...]]:
        """Owner -> its entries."""
        return self._by_owner

    def entries(self) -> list[Entry]:
        """Return all entries, in no order."""
        return [entry for listed in self._by_owner.values() for entry in listed]

    def ordered(self, host: str) -> list[Entry]:
        """Return what is tried for one of the table's hosts, in order; as `plan/routing.virtual_hosts`."""
        own = [entry for _, entry in self._by_host.get(host, ())]
        if not own or (len(own) > 1 or not takes_all(own[0])):
            more = [
                pair
                for wide in self._wide
                if wide != host and covers(wide, host)
                for pair in self._by_host[wide]
                if pair[1].way == "host"
            ]
            if more:
                own = [
                    entry
                    for _, entry in sorted([*self._by_host.get(host, ()), *more], key=lambda one: one[0])
                ]
        for place, entry in enumerate(own):
            if takes_all(entry):
                return own[: place + 1]
        return own

    def decide(self, request: Request) -> Entry | None:
        """Return the entry that answers a request; None: nobody does."""
        host = request.host
        if host not in self._by_host:
            host = min((one for one in self._wide if covers(one, host)), key=host_rank, default=ANY)
        return next((one for one in self.ordered(host) if not mismatch(one.match, request)), None)

    def encode(self) -> bytes:
        """Return the RouteConfiguration; the same routes give the same bytes, in whatever order they came."""
        parts: list[bytes] = []
        for host in [*sorted(host for host in self._by_host if host != ANY), ANY]:
            known = self._host_bytes.get(host)
            if known is None:
                known = self._host_bytes[host] = self._virtual_host(host)
            parts.append(known)
        return b"".join([self._head, *parts])

    def _virtual_host(self, host: str) -> bytes:
        """Return one virtual host as the field of a RouteConfiguration that holds it.

        A virtual host costs Envoy ten times what a further name of one costs: all hosts that do no more than
        lead to the same function are one, in the place of the first.
        """
        listed = self.ordered(host)
        domains = self._same(listed[0]) if len(listed) == 1 and host != ANY else [host]
        if domains and domains[0] != host:
            return b""
        usual = listed[0].timeout_s if listed and host != ANY else _USUAL_TIMEOUT_S
        # The usual retry policy stands here once: Envoy's cost of a new table is mostly that of its policies.
        head = xds.VirtualHost(
            name="any" if host == ANY else host, domains=domains, retry_policy=_retry_policy(usual)
        )
        parts = [encoded(head)]
        for entry in listed:
            known = self._entry_bytes.get(id(entry))
            if known is None or known[0] != usual:
                message = xds.VirtualHost(routes=[render_entry(entry, inherited_s=usual)])
                known = self._entry_bytes[id(entry)] = usual, encoded(message)
            parts.append(known[1])
        if not listed or not takes_all(listed[-1]):
            parts.append(encoded(xds.VirtualHost(routes=[xds.Route.FromString(self._nobody)])))
        return _length_delimited(2, b"".join(parts))

    def _same(self, one: Entry) -> list[str]:
        """Return the hosts that have nothing but an entry like this one, sorted; this one's is among them."""
        if not takes_all(one) or len(self._by_host[one.host]) > 1:
            return [one.host]
        return sorted(
            each.host
            for each in self._by_owner[one.owner]
            if each.host != ANY
            and takes_all(each)
            and each.rule == one.rule
            and each.timeout_s == one.timeout_s
            and len(self._by_host[each.host]) == 1
        )


def _head(name: str) -> xds.RouteConfiguration:
    return xds.RouteConfiguration(
        name=name,
        # A cluster may be named before it is warm; refusing the whole table for that would hit everyone.
        validate_clusters=BoolValue(value=False),
        ignore_port_in_host_matching=True,
        # The table speaks first, then the route: what a client claims is gone before a route adds its own.
        most_specific_header_mutations_wins=True,
        request_headers_to_remove=_NEVER_FROM_CLIENT,
        # The cluster's name is what the activator asks for; said once here, not once per route.
        request_headers_to_add=[_FORWARDED_FOR, *header_options({FUNCTION_HEADER: "%UPSTREAM_CLUSTER%"})],
    )


def render_entry(entry: Entry, *, inherited_s: float = _USUAL_TIMEOUT_S) -> xds.Route:
    """Return one route.

    Args:
        entry: What `plan/routing` made.
        inherited_s: Limit of a try that the virtual host's retry policy has, seconds.
    """
    rule = entry.rule
    route = xds.Route(name=entry.name, match=_match(entry.match))
    _change_response(route, rule.response_headers)
    if rule.redirect is not None:
        route.redirect.CopyFrom(_redirect(rule.redirect, entry.match.path))
        return route
    backends = [one for one in rule.backends if one.weight > 0]
    if not rule.backend_header and not any(not one.problem for one in backends):
        reason = "; ".join(dict.fromkeys(one.problem for one in backends if one.problem))
        reason = reason or "the rule has no backend"
        body = xds.DataSource(inline_string=f"{reason}\n")
        route.direct_response.CopyFrom(xds.DirectResponseAction(status=500, body=body))
        route.response_headers_to_add.extend(header_options({REASON_HEADER: reason.replace("%", "%%")}))
        return route
    _change_request(route, rule.request_headers)
    if rule.forwarded:
        route.request_headers_to_add.extend(_FORWARDED)
    if not any(entry.kind == "Function" or not one.key.startswith("Service ") for one in backends):
        route.request_headers_to_remove.append(FUNCTION_HEADER)  # nobody there reads it
    route.route.CopyFrom(_forward(entry, rule, backends, inherited_s))
    return route


def _match(match: Match) -> xds.RouteMatch:
    path = match.path
    found = xds.RouteMatch()
    if path.type == "Exact":
        found.path = path.value
    elif path.type == "RegularExpression":
        found.safe_regex.regex = path.value
    elif path.value.rstrip("/"):
        found.path_separated_prefix = path.value.rstrip("/")
    else:
        found.prefix = "/"
    if match.method:
        found.headers.append(
            xds.HeaderMatcher(name=":method", string_match=xds.StringMatcher(exact=match.method))
        )
    found.headers.extend(xds.HeaderMatcher(name=one.name, string_match=_text(one)) for one in match.headers)
    found.query_parameters.extend(
        xds.QueryParameterMatcher(name=one.name, string_match=_text(one)) for one in match.query
    )
    return found


def _text(wanted: FieldMatch) -> xds.StringMatcher:
    if wanted.type == "RegularExpression":
        return xds.StringMatcher(safe_regex=xds.RegexMatcher(regex=wanted.value))
    return xds.StringMatcher(exact=wanted.value)


def _forward(entry: Entry, rule: Rule, backends: Sequence[Backend], inherited_s: float) -> xds.RouteAction:
    action = xds.RouteAction(timeout=duration(rule.timeout_s or 0.0))
    limit = entry.timeout_s + _TIMEOUT_MARGIN_S if entry.timeout_s else 0.0
    if rule.backend_timeout_s is not None:
        action.retry_policy.CopyFrom(_retry_policy_of(rule.backend_timeout_s))
    elif entry.timeout_s != inherited_s:
        action.retry_policy.CopyFrom(_retry_policy_of(limit))
    if rule.backend_header:
        action.cluster_header = rule.backend_header
    elif len(backends) == 1 and not (backends[0].request_headers or backends[0].response_headers):
        action.cluster = backends[0].key
    else:
        for one in backends:
            share = action.weighted_clusters.clusters.add(
                name=one.key if not one.problem else _MISSING, weight=UInt32Value(value=one.weight)
            )
            _change_request(share, one.request_headers)
            _change_response(share, one.response_headers)
        if any(one.problem for one in backends):
            action.cluster_not_found_response_code = 2
    for mirror in rule.mirrors:
        share = round(mirror.numerator / mirror.denominator * _MILLION)
        action.request_mirror_policies.append(
            xds.RequestMirrorPolicy(
                cluster=mirror.key,
                runtime_fraction=xds.RuntimeFractionalPercent(
                    default_value=xds.FractionalPercent(numerator=share, denominator=2)
                ),
            )
        )
    if rule.rewrite is not None:
        if rule.rewrite.hostname:
            action.host_rewrite_literal = rule.rewrite.hostname
        if rule.rewrite.path is not None:
            prefix, pattern, text = _new_path(rule.rewrite.path, entry.match.path)
            if pattern:
                action.regex_rewrite.pattern.regex = pattern
                action.regex_rewrite.substitution = text
            else:
                action.prefix_rewrite = prefix
    return action


def _new_path(change: PathChange, match: PathMatch) -> tuple[str, str, str]:
    """Return (prefix to put in the old one's place, "", ""), or ("", expression, substitution).

    A plain exchange of prefixes would turn /a/x into //x where the new prefix is /, and /x into /newx where
    the old one is.
    """
    if change.type == "ReplaceFullPath":
        return "", "^/.*$", change.value or "/"
    old, new = match.value.rstrip("/"), change.value.rstrip("/")
    if not new:
        return "", f"^{re.escape(old)}/?", "/"
    if not old:
        return "", "^/", f"{new}/"
    return new, "", ""


def _redirect(redirect: Redirect, match: PathMatch) -> xds.RedirectAction:
    action = xds.RedirectAction(response_code=_STATUSES[redirect.status], host_redirect=redirect.hostname)
    if redirect.scheme == "https":
        action.https_redirect = True
    elif redirect.scheme:
        action.scheme_redirect = redirect.scheme
    if redirect.port:
        action.port_redirect = redirect.port
    if redirect.path is not None and redirect.path.type == "ReplaceFullPath":
        action.path_redirect = redirect.path.value or "/"
    elif redirect.path is not None:
        prefix, pattern, text = _new_path(redirect.path, match)
        if pattern:
            action.regex_rewrite.pattern.regex = pattern
            action.regex_rewrite.substitution = text
        else:
            action.prefix_rewrite = prefix
    return action


_Changed = xds.Route | xds.WeightedCluster.ClusterWeight


def _change_request(target: _Changed, changes: HeaderChanges | None) -> None:
    if changes is not None:
        target.request_headers_to_add.extend(_options(changes))
        target.request_headers_to_remove.extend(name.lower() for name in changes.remove)


def _change_response(target: _Changed, changes: HeaderChanges | None) -> None:
    if changes is not None:
        target.response_headers_to_add.extend(_options(changes))
        target.response_headers_to_remove.extend(name.lower() for name in changes.remove)


def _options(changes: HeaderChanges) -> list[xds.HeaderValueOption]:
    """Return changes as Envoy's options; a percent sign would begin one of its operators."""
    return [
        xds.HeaderValueOption(
            header=xds.HeaderValue(key=name, value=value.replace("%", "%%")), append_action=action
        )
        for pairs, action in ((changes.set, 2), (changes.add, 0))
        for name, value in pairs
    ]


_FORWARDED_FOR: Final = xds.HeaderValueOption(
    header=xds.HeaderValue(key="x-forwarded-for", value="%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
    append_action=0,
)
"""Appends the address that really connected: the last element is the one to trust."""

_CLIENT: Final = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
_FORWARDED: Final = header_options(
    {
        "x-forwarded-for": _CLIENT,
        "x-forwarded-host": "%REQ(:AUTHORITY)%",
        "forwarded": f"for={_CLIENT};by=127.0.0.1;host=%REQ(:AUTHORITY)%",
    }
)

_NEVER_FROM_CLIENT: Final = (
    FUNCTION_HEADER,
    LISTENER_HEADER,
    PORT_HEADER,
    "x-forwarded-prefix",  # at the edge it would be a claim about a proxy that is not there
    "x-envoy-external-address",  # Envoy's own word to other Envoys; x-forwarded-for says it to everyone
    "x-envoy-internal",
)


def _nobody_route(port: str, *, listed: bool) -> xds.Route:
    return xds.Route(
        name=NOBODY,
        match=xds.RouteMatch(prefix="/"),
        route=xds.RouteAction(
            cluster=NOBODY, timeout=duration(0.0), retry_policy=_retry_policy(_NOBODY_TIMEOUT_S)
        ),
        request_headers_to_add=header_options(
            {LISTENER_HEADER: "loopback" if listed else "public", PORT_HEADER: port}
        ),
    )


def _retry_policy(timeout_s: float) -> xds.RetryPolicy:
    """Return the policy for a limit that the function itself keeps, with a margin for its own answer."""
    return _retry_policy_of(timeout_s + _TIMEOUT_MARGIN_S if timeout_s else 0.0)


@lru_cache(maxsize=256)
def _retry_policy_of(limit_s: float) -> xds.RetryPolicy:
    """Repeat a request only when no upstream has seen it, and give each try a limit.

    The limit is that of the try, not of the route: it ends once the answer's headers have gone out, and a
    stream may then last. `retry_on` does not name timeouts, so a try that ran out of time is not repeated.
    """
    return xds.RetryPolicy(
        retry_on="connect-failure,refused-stream,reset-before-request,retriable-headers",
        num_retries=UInt32Value(value=_RETRIES),
        per_try_timeout=duration(limit_s) if limit_s else None,
        retry_priority=xds.RetryPolicy.RetryPriority(
            name="envoy.retry_priorities.previous_priorities",
            typed_config=packed(xds.PreviousPrioritiesConfig(update_frequency=1)),
        ),
        # A full instance says so before it has begun; the activator then queues the request for all of them.
        retriable_headers=[xds.HeaderMatcher(name=OVERFLOW_HEADER, present_match=True)],
        retry_back_off=xds.RetryPolicy.RetryBackOff(
            base_interval=duration(0.001), max_interval=duration(0.005)
        ),
    )


def _length_delimited(field: int, payload: bytes) -> bytes:
    """Return one embedded-message field (number below 16) around bytes that are already encoded."""
    length, prefix = len(payload), bytearray([field << 3 | 2])
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + payload
