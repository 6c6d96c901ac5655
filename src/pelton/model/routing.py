"""What routing is made of: conditions on requests, changes to them, shares of backends, endpoints, listeners.

The words are those of the Gateway API; `model/gateway_api` has the resources that are written with them,
`plan/routing` decides with them, `targets/local/gateway_config` renders them for Envoy. They are sent between
processes as they are, so every field is plain data. Nothing here decides.
Source: contracts, gateway-network, section 9.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pelton.model.interception import Intercept

__all__ = [
    "EXTERNAL",
    "INTERNAL",
    "Backend",
    "Certificate",
    "Cors",
    "Endpoint",
    "FieldMatch",
    "HeaderChanges",
    "Match",
    "Mirror",
    "PathChange",
    "PathMatch",
    "Port",
    "Redirect",
    "Rewrite",
    "RoutingState",
    "Rule",
    "StandaloneRoute",
    "Upstream",
]

EXTERNAL = "external"
"""Name of the port that everybody who can reach the gateway's address may use."""
INTERNAL = "internal"
"""Name of the port for clients on this machine; only it serves what is cluster-local."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathMatch:
    """A condition on the path: `Exact`, `PathPrefix` (whole path elements) or `RegularExpression`."""

    type: str = "PathPrefix"
    value: str = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldMatch:
    """A condition on a header or a query parameter: `Exact` or `RegularExpression` over the whole value."""

    name: str
    value: str
    type: str = "Exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Conditions that a request has to fulfil together.

    Attributes:
        path: On the path.
        headers: On headers, names in lower case, each once.
        query: On query parameters, each name once.
        method: E.g. `GET`; "" for any.
    """

    path: PathMatch = field(default_factory=PathMatch)
    headers: tuple[FieldMatch, ...] = ()
    query: tuple[FieldMatch, ...] = ()
    method: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderChanges:
    """Changes to headers: (name, value) to overwrite and to append, names to remove."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PathChange:
    """A new path: `ReplaceFullPath` puts `value` in its place, `ReplacePrefixMatch` where the prefix was."""

    type: str
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """An answer that sends the client elsewhere; "", None and 0 keep what the request has.

    Attributes:
        scheme: `http` or `https`.
        hostname: Host name without port.
        path: New path.
        port: 1 to 65535; 0 stands for the scheme's own port when a scheme is given, else the listener's.
        status: 301, 302, 303, 307 or 308.
    """

    scheme: str = ""
    hostname: str = ""
    path: PathChange | None = None
    port: int = 0
    status: int = 302


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """Changes to host and path before a request is passed on."""

    hostname: str = ""
    path: PathChange | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """Who may call from a browser's page of another origin.

    Attributes:
        origins: `scheme://host[:port]`, with `*` in front of the host at most, or `*`.
        methods, headers, exposed: Names; `*` for all.
        credentials: Whether cookies may be sent.
        max_age_s: Seconds a browser may keep the answer.
    """

    origins: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    credentials: bool = False
    max_age_s: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A share of a rule's requests.

    Attributes:
        key: Name of its cluster: `namespace/name` of a function, `namespace/name:revision`, or that of an
            Upstream.
        weight: Share; 0 for none.
        problem: Why requests of this share are answered with 500; "" when it can be reached.
        request_headers, response_headers: Changes for this share only.
    """

    key: str
    weight: int = 1
    problem: str = ""
    request_headers: HeaderChanges | None = None
    response_headers: HeaderChanges | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """A copy of requests to a backend whose answers nobody sees; `numerator` of `denominator` requests."""

    key: str
    numerator: int = 100
    denominator: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What happens to requests that fulfil one of the matches.

    Attributes:
        matches: Never empty.
        backends: Shares; empty with a redirect, and where nothing is left to send to (500).
        request_headers, response_headers, redirect, rewrite: None for nothing of the kind.
        mirrors: Copies.
        timeout_s: Limit of the whole exchange, 0 for none, None for the route's own limit.
        backend_timeout_s: Limit of one try, 0 for none, None for no limit of its own.
        name: Of the rule, when it has one.
        backend_header: Header of the request whose value names the backend; "" where `backends` are it.
        forwarded: Whether the request says for whom it is passed on: `x-forwarded-for` with the client alone,
            `x-forwarded-host` and `forwarded`.
    """

    matches: tuple[Match, ...] = (Match(),)
    backends: tuple[Backend, ...] = ()
    request_headers: HeaderChanges | None = None
    response_headers: HeaderChanges | None = None
    redirect: Redirect | None = None
    rewrite: Rewrite | None = None
    mirrors: tuple[Mirror, ...] = ()
    timeout_s: float | None = None
    backend_timeout_s: float | None = None
    name: str = ""
    backend_header: str = ""
    forwarded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StandaloneRoute:
    """A HTTPRoute that no Function made, with what its references turned out to be.

    Attributes:
        namespace, name: The HTTPRoute's.
        created: RFC 3339 time; older routes win where all else is equal.
        hosts: (port name, hosts it is served under there): the intersections with listeners; `*` for any.
        rules: In written order.
    """

    namespace: str
    name: str
    created: str = ""
    hosts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    rules: tuple[Rule, ...] = ()

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address of an upstream: IP address or, for an ExternalName Service, host name; TCP port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Something that is no function of this machine and answers requests.

    Attributes:
        key: Name of its cluster, e.g. `Service default/web:80`; no function can have it.
        endpoints: Ready ones, sorted; empty answers 503.
        h2c: Whether it speaks HTTP/2 without TLS.
        named: Whether the endpoints' hosts are names to be resolved.
        fallback: Unix socket that gets a request whose connection no endpoint takes; "" for none.
    """

    key: str
    endpoints: tuple[Endpoint, ...] = ()
    h2c: bool = False
    named: bool = False
    fallback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate with its key, for the host names (SNI) that it is shown to.

    Attributes:
        name: `namespace/name` of its Secret.
        hosts: Host names, `*.` in front at most; empty for clients that name none or another.
        chain, key: PEM. The key is never logged.
    """

    name: str
    hosts: tuple[str, ...]
    chain: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A TCP port that the gateway listens on, beside EXTERNAL and INTERNAL.

    Attributes:
        name: Unique, e.g. `https` or `port-9090`.
        port: 1 to 65535.
        certificates: Shown by SNI; empty means plain HTTP.
        functions: Whether functions are served here as on EXTERNAL, besides standalone routes.
        host: Address; "" for that of the gateway.
        dapr: Whether it is the HTTP port of an app of Dapr.
        table: Name of its route table, which several ports may share; "" for one of its own name.
        headers: (name, value) of headers that every request has here, whatever the client sent.
        token: What calls of other apps have to show as `dapr-api-token`; "" for nothing. Never logged.
    """

    name: str
    port: int
    certificates: tuple[Certificate, ...] = ()
    functions: bool = True
    host: str = ""
    dapr: bool = False
    table: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingState:
    """Everything that the gateway is told beside the routes of functions.

    Attributes:
        routes: Standalone routes, by key.
        upstreams: What they name and no function is, by key.
        ports: Further ports.
        https_port: Port that a redirect to https without one goes to; 0 for 443.
        intercepts: Requests that go through the interceptor.
    """

    routes: tuple[StandaloneRoute, ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    ports: tuple[Port, ...] = ()
    https_port: int = 0
    intercepts: tuple[Intercept, ...] = ()
