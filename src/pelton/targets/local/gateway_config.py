"""Routes and endpoints rendered as Envoy's messages: what the gateway believes, as bytes.

Pure: the same input gives the same bytes, so that a version can be a hash of them and a restarted control
plane finds that Envoy already has what it wants. `envoy.py` calls this and hands the results to `xds.py`;
messages are those of `pelton.proto.xds_pb2`. Field meanings and measurements: contract sheet gateway-network,
sections 2 to 6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from pelton.errors import GatewayError
from pelton.model.desired import Route
from pelton.proto import xds_pb2 as xds

__all__ = [
    "CLUSTER",
    "ENDPOINTS",
    "FUNCTION_HEADER",
    "LISTENER",
    "LISTENER_HEADER",
    "NOBODY",
    "ROUTES",
    "ROUTE_TABLE",
    "Listener",
    "check_route",
    "check_sockets",
    "claims",
    "cluster",
    "endpoints",
    "listener",
    "route_key",
    "route_table",
]

_TYPES: Final = "type.googleapis.com/"
_EXTENSIONS: Final = f"{_TYPES}envoy.extensions."
CLUSTER: Final = f"{_TYPES}envoy.config.cluster.v3.Cluster"
ENDPOINTS: Final = f"{_TYPES}envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER: Final = f"{_TYPES}envoy.config.listener.v3.Listener"
ROUTES: Final = f"{_TYPES}envoy.config.route.v3.RouteConfiguration"

TYPE_URL: Final[Mapping[type[Message], str]] = {
    xds.FileAccessLog: f"{_EXTENSIONS}access_loggers.file.v3.FileAccessLog",
    xds.HttpConnectionManager: (
        f"{_EXTENSIONS}filters.network.http_connection_manager.v3.HttpConnectionManager"
    ),
    xds.LeastRequest: f"{_EXTENSIONS}load_balancing_policies.least_request.v3.LeastRequest",
    xds.PreviousPrioritiesConfig: (
        f"{_EXTENSIONS}retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
    ),
    xds.Router: f"{_EXTENSIONS}filters.http.router.v3.Router",
    xds.UpstreamHttpOptions: f"{_EXTENSIONS}upstreams.http.v3.HttpProtocolOptions",
    xds.UuidRequestIdConfig: f"{_EXTENSIONS}request_id.uuid.v3.UuidRequestIdConfig",
}
"""Own message -> name under which Envoy knows it; only for messages that travel inside an Any."""

ROUTE_TABLE: Final = "functions"
"""Name of the one route table."""

NOBODY: Final = "-"
"""Cluster, and value of FUNCTION_HEADER, for requests that no route claims. No function can have this key."""

FUNCTION_HEADER: Final = "x-pelton-function"
"""Tells the activator whose request it got: `namespace/name` or NOBODY. Set on every request."""

LISTENER_HEADER: Final = "x-pelton-listener"
"""Sent with NOBODY only: `loopback` when every listener is bound to a loopback address, else `public`."""

# Above what the activator admits: its bounded queues decide, with Retry-After, not Envoy's breakers of 1024.
_BREAKER: Final = 100_000
_MAX_HEADERS: Final = 200
_MAX_HEADER_KB: Final = 64
# The worker's own 504 says which limit was passed; Envoy's is the net for a worker that is stuck.
_TIMEOUT_MARGIN_S: Final = 2.0
_NOBODY_TIMEOUT_S: Final = 10.0
_USUAL_TIMEOUT_S: Final = 300.0
# Dead sockets refuse at once, so a try costs about a millisecond; several workers may have died together.
_RETRIES: Final = 3
_MAX_SOCKET_BYTES: Final = 107

_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")

_ACCESS_LOG_FIELDS: Final[Mapping[str, str]] = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%REQ(:PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "detail": "%RESPONSE_CODE_DETAILS%",
    "function": "%UPSTREAM_CLUSTER%",
    "upstream": "%UPSTREAM_HOST%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "duration_ms": "%DURATION%",
    "received_bytes": "%BYTES_RECEIVED%",
    "sent_bytes": "%BYTES_SENT%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "request_id": "%REQ(X-REQUEST-ID)%",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A port of the gateway.

    Attributes:
        host: Address to bind, numeric.
        port: TCP port, 1 to 65535.
        name: Unique among the listeners.
        access_log: File that gets one JSON object per request; "" for none.
        reuse_port: Let each Envoy thread have its own socket. Off by default: with it a second platform on
            the same port would silently share the traffic instead of failing.
    """

    host: str
    port: int
    name: str = "gateway"
    access_log: str = ""
    reuse_port: bool = False

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ip_address(self.host).is_loopback


def route_key(route: Route) -> str:
    """Return `namespace/name`, the name of the function's cluster."""
    return f"{route.namespace}/{route.name}"


def check_route(route: Route) -> None:
    """Refuse a route that Envoy would refuse, or that would reach further than its function.

    Raises:
        GatewayError: Naming the field; one bad route would make Envoy reject the table of all functions.
    """
    where = f"Route {route_key(route)}"
    for field, value in (("namespace", route.namespace), ("name", route.name)):
        if not _NAME.fullmatch(value):
            raise GatewayError(f"{field} {value!r} is not a DNS name", where=where)
    for host in route.hosts:
        if not _HOST.fullmatch(host) or len(host) > 253:
            raise GatewayError(
                f"host {host!r} is not a host name in lower case without port",
                where=where,
                hint="Write it as name.namespace.localhost; wildcards are not served.",
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


def check_sockets(key: str, sockets: Iterable[str]) -> None:
    """Refuse socket paths that Envoy cannot connect to (over 107 bytes, not absolute).

    Raises:
        GatewayError: Naming the path.
    """
    for path in sockets:
        if not path.startswith("/") or len(path.encode()) > _MAX_SOCKET_BYTES:
            raise GatewayError(
                f"socket path {path!r} is not absolute or longer than {_MAX_SOCKET_BYTES} bytes",
                where=f"endpoints of {key}",
                hint="Put the run directory on a shorter path.",
            )


def claims(route: Route) -> list[str]:
    """Return what only one route may have: its hosts, its path (which starts with `/`), and its fronts."""
    return [*route.hosts, *([route.path] if route.path else []), *route.fronts]


def cluster(key: str, *, h2c: bool = False) -> bytes:
    """Return the Cluster of one function; constant but for this, so endpoint changes never rebuild it.

    Args:
        key: `namespace/name`, or NOBODY.
        h2c: Whether its endpoints speak HTTP/2 without TLS instead of HTTP/1.1.
    """
    breaker = UInt32Value(value=_BREAKER)
    message = xds.Cluster(
        name=key,
        type=3,
        eds_cluster_config=xds.Cluster.EdsClusterConfig(eds_config=_ads()),
        connect_timeout=_seconds(1.0),
        circuit_breakers=xds.CircuitBreakers(
            thresholds=[
                xds.CircuitBreakers.Thresholds(
                    max_connections=breaker,
                    max_pending_requests=breaker,
                    max_requests=breaker,
                    max_retries=breaker,
                )
            ]
        ),
        load_balancing_policy=xds.LoadBalancingPolicy(
            policies=[
                xds.LoadBalancingPolicy.Policy(
                    typed_extension_config=xds.TypedExtensionConfig(
                        name="envoy.load_balancing_policies.least_request",
                        # The default compares two hosts picked at random, which may both be busy.
                        typed_config=_any(xds.LeastRequest(selection_method=1)),
                    )
                )
            ]
        ),
    )
    # Presence counts: an absent threshold means 50 %, at which Envoy would also try the dead.
    message.common_lb_config.healthy_panic_threshold.SetInParent()
    options = xds.UpstreamHttpOptions(
        common_http_protocol_options=xds.CommonHttpProtocolOptions(
            # Every function has its own pool to the activator; idle ones must not stay for the default hour.
            idle_timeout=_seconds(60.0),
            max_headers_count=UInt32Value(value=_MAX_HEADERS),
            max_response_headers_kb=UInt32Value(value=_MAX_HEADER_KB),
        ),
    )
    spoken = options.explicit_http_config
    (spoken.http2_protocol_options if h2c else spoken.http_protocol_options).SetInParent()
    message.typed_extension_protocol_options[
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    ].CopyFrom(_any(options))
    return _bytes(message)


def endpoints(key: str, sockets: Sequence[str], activator: str) -> bytes:
    """Return the endpoints of one function.

    Args:
        key: `namespace/name`, or NOBODY.
        sockets: Worker sockets, priority 0; may be empty.
        activator: The activator's socket, always there as priority 1: takes over for an empty or dead one.
    """
    levels = ((0, tuple(sorted(sockets))), (1, (activator,)))
    return _bytes(
        xds.ClusterLoadAssignment(
            cluster_name=key,
            endpoints=[
                xds.LocalityLbEndpoints(
                    priority=priority,
                    lb_endpoints=[
                        xds.LbEndpoint(endpoint=xds.Endpoint(address=xds.Address(pipe=xds.Pipe(path=path))))
                        for path in paths
                    ],
                )
                for priority, paths in levels
            ],
        )
    )


def route_table(routes: Iterable[Route], *, listed: bool) -> bytes:
    """Return the RouteConfiguration of all functions.

    One virtual host per function with hosts; a last one for any other host that tries the path prefixes,
    longest first, and hands what is left to the activator. The parts of each function are cached as bytes and
    joined here, because a table is rendered anew for each change and most of it is always the same.

    Args:
        routes: All routes, each accepted by `check_route`, no claim twice.
        listed: Whether the activator may tell the caller which functions exist (LISTENER_HEADER).
    """
    ordered = sorted(routes, key=lambda route: (-len(route.path), route.path, route_key(route)))
    head = xds.RouteConfiguration(
        name=ROUTE_TABLE,
        # A cluster may be named before it is warm; refusing the whole table for that would hit everyone.
        validate_clusters=BoolValue(value=False),
        ignore_port_in_host_matching=True,
        # The table speaks first, then the route: what a client claims is gone before a route adds its own.
        most_specific_header_mutations_wins=True,
        request_headers_to_remove=_NEVER_FROM_CLIENT,
        request_headers_to_add=[_FORWARDED_FOR],
    )
    # The usual retry policy stands here once: Envoy's cost of a new table is mostly that of its policies.
    anyone = [
        _bytes(xds.VirtualHost(name="any", domains=["*"], retry_policy=_retry_policy(_USUAL_TIMEOUT_S)))
    ]
    anyone += [_front_routes(route) for route in ordered if route.fronts]
    anyone += [_path_route(route) for route in ordered if route.path]
    anyone.append(_bytes(xds.VirtualHost(routes=[_nobody_route(listed=listed)])))
    hosts = [_virtual_host(route) for route in ordered if route.hosts]
    return b"".join([_bytes(head), *hosts, _length_delimited(2, b"".join(anyone))])


def listener(wanted: Listener) -> bytes:
    """Return the Listener with its HTTP connection manager; routes come by name over the same stream."""
    return _bytes(
        xds.Listener(
            name=wanted.name,
            address=xds.Address(
                socket_address=xds.SocketAddress(address=wanted.host, port_value=wanted.port)
            ),
            filter_chains=[
                xds.FilterChain(
                    filters=[
                        xds.Filter(
                            name="envoy.filters.network.http_connection_manager",
                            typed_config=_any(_connection_manager(wanted)),
                        )
                    ]
                )
            ],
            enable_reuse_port=BoolValue(value=wanted.reuse_port),
        )
    )


def _connection_manager(wanted: Listener) -> xds.HttpConnectionManager:
    """User code sees requests as they were sent: path, host and request id are kept."""
    manager = xds.HttpConnectionManager(
        stat_prefix="gateway",
        rds=xds.Rds(config_source=_ads(), route_config_name=ROUTE_TABLE),
        http_filters=[
            xds.HttpFilter(
                name="envoy.filters.http.router",
                # dynamic_stats would count per status code and cluster, into statistics that are not kept.
                typed_config=_any(
                    xds.Router(dynamic_stats=BoolValue(value=False), suppress_envoy_headers=True)
                ),
            )
        ],
        http_protocol_options=xds.Http1ProtocolOptions(
            accept_http_10=True, default_host_for_http_10="localhost"
        ),
        http2_protocol_options=xds.Http2ProtocolOptions(max_concurrent_streams=UInt32Value(value=256)),
        use_remote_address=BoolValue(value=True),
        # Envoy would write the machine's first interface where the client is on loopback; see _FORWARDED_FOR.
        skip_xff_append=True,
        # Long polls and server-sent events may be silent for long; deadlines are the worker's.
        stream_idle_timeout=_seconds(0.0),
        request_headers_timeout=_seconds(10.0),
        upgrade_configs=[xds.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        max_request_headers_kb=UInt32Value(value=_MAX_HEADER_KB),
        common_http_protocol_options=xds.CommonHttpProtocolOptions(
            max_headers_count=UInt32Value(value=_MAX_HEADERS)
        ),
        normalize_path=BoolValue(value=False),
        merge_slashes=False,
        path_with_escaped_slashes_action=1,
        server_header_transformation=2,
        preserve_external_request_id=True,
        request_id_extension=xds.RequestIDExtension(
            # By default Envoy writes its trace decision into the id: a client's own UUID would be changed.
            typed_config=_any(
                xds.UuidRequestIdConfig(
                    pack_trace_reason=BoolValue(value=False),
                    use_request_id_for_trace_sampling=BoolValue(value=False),
                )
            )
        ),
        local_reply_config=_local_replies(),
    )
    # An internal caller may steer retries and timeouts with x-envoy-* headers. No list at all means "all
    # private addresses", so the list holds the one address that cannot call.
    manager.internal_address_config.cidr_ranges.append(
        xds.CidrRange(address_prefix="255.255.255.255", prefix_len=UInt32Value(value=32))
    )
    if wanted.access_log:
        fields = Struct()
        fields.update(dict(_ACCESS_LOG_FIELDS))
        log = xds.FileAccessLog(
            path=wanted.access_log, log_format=xds.SubstitutionFormatString(json_format=fields)
        )
        manager.access_log.append(xds.AccessLog(name="envoy.access_loggers.file", typed_config=_any(log)))
    return manager


def _local_replies() -> xds.LocalReplyConfig:
    """Envoy's own answers in Pelton's statuses: a dead worker is 502, nobody there 503 with Retry-After."""

    def mapper(flags: list[str], status: int, text: str, headers: Mapping[str, str]) -> xds.ResponseMapper:
        return xds.ResponseMapper(
            filter=xds.AccessLogFilter(response_flag_filter=xds.ResponseFlagFilter(flags=flags)),
            status_code=UInt32Value(value=status),
            body=xds.DataSource(inline_string=text),
            headers_to_add=_headers(headers),
        )

    return xds.LocalReplyConfig(
        mappers=[
            mapper(["UC", "UR"], 502, "the function's instance ended before it answered\n", {}),
            mapper(
                ["UF", "UH", "UO", "URX", "NC"],
                503,
                "the function cannot be reached right now\n",
                {"retry-after": "1"},
            ),
            mapper(["UT"], 504, "the function did not answer in time\n", {}),
        ]
    )


@lru_cache(maxsize=16_384)
def _virtual_host(route: Route) -> bytes:
    """The virtual host of one function, as the field of a RouteConfiguration that holds it."""
    key = route_key(route)
    host = xds.VirtualHost(
        name=key,
        domains=route.hosts,
        routes=[
            xds.Route(
                name=key,
                match=xds.RouteMatch(prefix="/"),
                route=_action(key, route.timeout_s),
                request_headers_to_add=_headers({FUNCTION_HEADER: key}),
            )
        ],
    )
    return _bytes(xds.RouteConfiguration(virtual_hosts=[host]))


@lru_cache(maxsize=16_384)
def _path_route(route: Route) -> bytes:
    """The path route of one function, as the field of a VirtualHost that holds it."""
    key = route_key(route)
    action = _action(key, route.timeout_s, inherited_timeout_s=_USUAL_TIMEOUT_S)
    # A plain prefix rewrite to "/" would turn /ns/name/x into //x.
    action.regex_rewrite.pattern.regex = f"^{re.escape(route.path)}/?"
    action.regex_rewrite.substitution = "/"
    return _bytes(
        xds.VirtualHost(
            routes=[
                xds.Route(
                    name=f"{key}{route.path}",
                    match=xds.RouteMatch(path_separated_prefix=route.path),
                    route=action,
                    request_headers_to_add=_headers({FUNCTION_HEADER: key, "x-forwarded-prefix": route.path}),
                )
            ]
        )
    )


@lru_cache(maxsize=4_096)
def _front_routes(route: Route) -> bytes:
    """The routes of a function's fronts, as fields of a VirtualHost; user code sees the path as it came."""
    key = route_key(route)
    return _bytes(
        xds.VirtualHost(
            routes=[
                xds.Route(
                    name=f"{key} front {number}",
                    match=xds.RouteMatch(safe_regex=xds.RegexMatcher(regex=front)),
                    route=_action(key, route.timeout_s, inherited_timeout_s=_USUAL_TIMEOUT_S),
                    request_headers_to_add=_headers({FUNCTION_HEADER: key}),
                )
                for number, front in enumerate(route.fronts)
            ]
        )
    )


_FORWARDED_FOR: Final = xds.HeaderValueOption(
    header=xds.HeaderValue(key="x-forwarded-for", value="%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
    append_action=0,
)
"""Appends the address that really connected: the last element is the one to trust."""

_NEVER_FROM_CLIENT: Final = (
    FUNCTION_HEADER,
    LISTENER_HEADER,
    "x-forwarded-prefix",  # at the edge it would be a claim about a proxy that is not there
    "x-envoy-external-address",  # Envoy's own word to other Envoys; x-forwarded-for says it to everyone
    "x-envoy-internal",
)


def _nobody_route(*, listed: bool) -> xds.Route:
    return xds.Route(
        name=NOBODY,
        match=xds.RouteMatch(prefix="/"),
        route=_action(NOBODY, _NOBODY_TIMEOUT_S),
        request_headers_to_add=_headers(
            {FUNCTION_HEADER: NOBODY, LISTENER_HEADER: "loopback" if listed else "public"}
        ),
    )


def _action(key: str, timeout_s: float, *, inherited_timeout_s: float = -1.0) -> xds.RouteAction:
    """Forward to a cluster, with a retry policy of its own unless the virtual host's has the same limit."""
    return xds.RouteAction(
        cluster=key,
        timeout=_seconds(0.0),
        retry_policy=None if timeout_s == inherited_timeout_s else _retry_policy(timeout_s),
    )


def _retry_policy(timeout_s: float) -> xds.RetryPolicy:
    """Repeat a request only when no upstream has seen it, and give each try a limit.

    The limit is that of the try, not of the route: it ends once the answer's headers have gone out, and a
    stream may then last. `retry_on` does not name timeouts, so a try that ran out of time is not repeated.
    """
    return xds.RetryPolicy(
        retry_on="connect-failure,refused-stream,reset-before-request",
        num_retries=UInt32Value(value=_RETRIES),
        per_try_timeout=_seconds(timeout_s + _TIMEOUT_MARGIN_S) if timeout_s else None,
        retry_priority=xds.RetryPolicy.RetryPriority(
            name="envoy.retry_priorities.previous_priorities",
            typed_config=_any(xds.PreviousPrioritiesConfig(update_frequency=1)),
        ),
        retry_back_off=xds.RetryPolicy.RetryBackOff(
            base_interval=_seconds(0.001), max_interval=_seconds(0.005)
        ),
    )


def _headers(values: Mapping[str, str]) -> list[xds.HeaderValueOption]:
    return [
        xds.HeaderValueOption(header=xds.HeaderValue(key=key, value=value), append_action=2)
        for key, value in values.items()
    ]


def _ads() -> xds.ConfigSource:
    return xds.ConfigSource(ads=xds.AggregatedConfigSource(), resource_api_version=2)


def _any(message: Message) -> Any:
    return Any(type_url=TYPE_URL[type(message)], value=_bytes(message))


def _seconds(seconds: float) -> Duration:
    whole, rest = divmod(round(seconds * 1_000_000_000), 1_000_000_000)
    return Duration(seconds=whole, nanos=rest)


def _bytes(message: Message) -> bytes:
    encoded: bytes = message.SerializeToString(deterministic=True)
    return encoded


def _length_delimited(field: int, payload: bytes) -> bytes:
    """Return one embedded-message field (number below 16) around bytes that are already encoded."""
    length, prefix = len(payload), bytearray([field << 3 | 2])
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + payload
