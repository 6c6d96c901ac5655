"""Clusters and endpoints rendered as Envoy's messages, and the encoding that all of its messages share.

Pure: the same input gives the same bytes, so that a version can be a hash of them and a restarted control
plane finds that Envoy already has what it wants. Beside it, `route_config.py` renders routes and
`listener_config.py` listeners; `gateway.py` calls all three and hands the results to `xds.py`. Messages are
those of `pelton.proto.xds_pb2`. Field meanings: contract sheet gateway-network, sections 2 to 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import UInt32Value

from pelton.errors import GatewayError
from pelton.model.routing import Upstream
from pelton.proto import xds_pb2 as xds

__all__ = [
    "CLUSTER",
    "ENDPOINTS",
    "FUNCTION_HEADER",
    "INSTANCE_HEADER",
    "LISTENER",
    "LISTENER_HEADER",
    "MAX_HEADERS",
    "MAX_HEADER_KB",
    "NOBODY",
    "OVERFLOW_HEADER",
    "PORT_HEADER",
    "REASON_HEADER",
    "ROUTES",
    "SECRET",
    "ads",
    "check_sockets",
    "cluster",
    "duration",
    "encoded",
    "endpoints",
    "header_options",
    "packed",
    "upstream_cluster",
    "upstream_endpoints",
]

_TYPES: Final = "type.googleapis.com/"
_EXTENSIONS: Final = f"{_TYPES}envoy.extensions."
CLUSTER: Final = f"{_TYPES}envoy.config.cluster.v3.Cluster"
ENDPOINTS: Final = f"{_TYPES}envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER: Final = f"{_TYPES}envoy.config.listener.v3.Listener"
ROUTES: Final = f"{_TYPES}envoy.config.route.v3.RouteConfiguration"
SECRET: Final = f"{_EXTENSIONS}transport_sockets.tls.v3.Secret"

TYPE_URL: Final[Mapping[type[Message], str]] = {
    xds.DownstreamTlsContext: f"{_EXTENSIONS}transport_sockets.tls.v3.DownstreamTlsContext",
    xds.EarlyHeaderMutation: f"{_EXTENSIONS}http.early_header_mutation.header_mutation.v3.HeaderMutation",
    xds.FileAccessLog: f"{_EXTENSIONS}access_loggers.file.v3.FileAccessLog",
    xds.HttpConnectionManager: (
        f"{_EXTENSIONS}filters.network.http_connection_manager.v3.HttpConnectionManager"
    ),
    xds.LeastRequest: f"{_EXTENSIONS}load_balancing_policies.least_request.v3.LeastRequest",
    xds.OpenTelemetryConfig: f"{_TYPES}envoy.config.trace.v3.OpenTelemetryConfig",
    xds.PreviousPrioritiesConfig: (
        f"{_EXTENSIONS}retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
    ),
    xds.Rbac: f"{_EXTENSIONS}filters.http.rbac.v3.RBAC",
    xds.Router: f"{_EXTENSIONS}filters.http.router.v3.Router",
    xds.TlsInspector: f"{_EXTENSIONS}filters.listener.tls_inspector.v3.TlsInspector",
    xds.UpstreamHttpOptions: f"{_EXTENSIONS}upstreams.http.v3.HttpProtocolOptions",
    xds.UuidRequestIdConfig: f"{_EXTENSIONS}request_id.uuid.v3.UuidRequestIdConfig",
}
"""Own message -> name under which Envoy knows it; only for messages that travel inside an Any."""

NOBODY: Final = "-"
"""Cluster, and value of FUNCTION_HEADER, for requests that no route claims. No function can have this key."""

FUNCTION_HEADER: Final = "x-pelton-function"
"""Tells the activator whose request it got: the cluster's name. Set on every request."""

LISTENER_HEADER: Final = "x-pelton-listener"
"""Sent with NOBODY only: `loopback` when every listener is bound to a loopback address, else `public`."""

PORT_HEADER: Final = "x-pelton-port"
"""Sent with NOBODY only: the port whose routes had nothing for the request."""

REASON_HEADER: Final = "x-pelton-reason"
"""On answers that the platform gives in a function's place: why."""

INSTANCE_HEADER: Final = "x-pelton-instance"
"""On answers to requests that came through the activator: which instance it found."""

OVERFLOW_HEADER: Final = "x-pelton-overflow"
"""On an instance's refusal of a request that it has not begun: the activator is to queue it."""

MAX_HEADERS: Final = 200
MAX_HEADER_KB: Final = 64
# Above what the activator admits: its bounded queues decide, with Retry-After, not Envoy's breakers of 1024.
_BREAKER: Final = 100_000
_MAX_SOCKET_BYTES: Final = 107
_METADATA: Final = "pelton"


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


def cluster(key: str, *, h2c: bool = False) -> bytes:
    """Return the Cluster of one function; constant but for this, so endpoint changes never rebuild it.

    Args:
        key: `namespace/name`, that of a revision, or NOBODY.
        h2c: Whether its endpoints speak HTTP/2 without TLS instead of HTTP/1.1.
    """
    return encoded(_cluster(key, h2c=h2c))


def _cluster(key: str, *, h2c: bool) -> xds.Cluster:
    breaker = UInt32Value(value=_BREAKER)
    message = xds.Cluster(
        name=key,
        type=3,
        eds_cluster_config=xds.Cluster.EdsClusterConfig(eds_config=ads()),
        connect_timeout=duration(1.0),
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
                        typed_config=packed(xds.LeastRequest(selection_method=1)),
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
            idle_timeout=duration(60.0),
            max_headers_count=UInt32Value(value=MAX_HEADERS),
            max_response_headers_kb=UInt32Value(value=MAX_HEADER_KB),
        ),
    )
    spoken = options.explicit_http_config
    (spoken.http2_protocol_options if h2c else spoken.http_protocol_options).SetInParent()
    message.typed_extension_protocol_options[
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    ].CopyFrom(packed(options))
    return message


def endpoints(
    key: str, sockets: Sequence[str], activator: str, instances: Mapping[str, str] | None = None
) -> bytes:
    """Return the endpoints of one function.

    Args:
        key: `namespace/name`, that of a revision, or NOBODY.
        sockets: Worker sockets, priority 0; may be empty.
        activator: The activator's socket, always there as priority 1: takes over for an empty or dead one.
        instances: Socket -> instance, for the access log; may lack some.
    """
    named = instances or {}
    workers = [_endpoint(path, "warm", named.get(path, "")) for path in sorted(sockets)]
    return encoded(
        xds.ClusterLoadAssignment(
            cluster_name=key,
            endpoints=[
                xds.LocalityLbEndpoints(priority=0, lb_endpoints=workers),
                xds.LocalityLbEndpoints(priority=1, lb_endpoints=[_endpoint(activator, "cold", "")]),
            ],
        )
    )


def _endpoint(path: str, start: str, instance: str) -> xds.LbEndpoint:
    found = xds.LbEndpoint(endpoint=xds.Endpoint(address=xds.Address(pipe=xds.Pipe(path=path))))
    known = found.metadata.filter_metadata[_METADATA]
    known.fields["start"].string_value = start
    if instance:
        known.fields["instance"].string_value = instance
        known.fields["revision"].string_value = instance.rpartition("-")[0]
    return found


def upstream_cluster(upstream: Upstream) -> bytes:
    """Return the Cluster of something that is no function; a name is resolved by Envoy, again and again."""
    message = _cluster(upstream.key, h2c=upstream.h2c)
    message.connect_timeout.CopyFrom(duration(5.0))
    if upstream.named:
        message.type = 1
        message.ClearField("eds_cluster_config")
        message.dns_lookup_family = 3
        message.load_assignment.CopyFrom(_assignment(upstream))
    return encoded(message)


def upstream_endpoints(upstream: Upstream) -> bytes:
    """Return the endpoints of something that is no function; none answers 503."""
    return encoded(_assignment(upstream))


def _assignment(upstream: Upstream) -> xds.ClusterLoadAssignment:
    found = xds.ClusterLoadAssignment(
        cluster_name=upstream.key,
        endpoints=[
            xds.LocalityLbEndpoints(
                lb_endpoints=[
                    xds.LbEndpoint(
                        endpoint=xds.Endpoint(
                            address=xds.Address(
                                socket_address=xds.SocketAddress(address=one.host, port_value=one.port)
                            )
                        )
                    )
                    for one in upstream.endpoints
                ]
            )
        ],
    )
    if upstream.fallback:
        last = xds.Endpoint(address=xds.Address(pipe=xds.Pipe(path=upstream.fallback)))
        found.endpoints.add(priority=1, lb_endpoints=[xds.LbEndpoint(endpoint=last)])
    return found


def header_options(values: Mapping[str, str]) -> list[xds.HeaderValueOption]:
    """Return headers to overwrite, or to add where they are missing."""
    return [
        xds.HeaderValueOption(header=xds.HeaderValue(key=key, value=value), append_action=2)
        for key, value in values.items()
    ]


def ads() -> xds.ConfigSource:
    """Return the source of whatever comes over the stream."""
    return xds.ConfigSource(ads=xds.AggregatedConfigSource(), resource_api_version=2)


def packed(message: Message) -> Any:
    """Return a message inside an Any, under the name that Envoy knows."""
    return Any(type_url=TYPE_URL[type(message)], value=encoded(message))


def duration(seconds: float) -> Duration:
    """Return seconds as Envoy's Duration."""
    whole, rest = divmod(round(seconds * 1_000_000_000), 1_000_000_000)
    return Duration(seconds=whole, nanos=rest)


def encoded(message: Message) -> bytes:
    """Return the bytes of a message, the same for the same content."""
    result: bytes = message.SerializeToString(deterministic=True)
    return result
