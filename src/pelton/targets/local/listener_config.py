"""Listeners rendered as Envoy's messages: ports, TLS by SNI, the access log, Envoy's own answers in words.

Pure, as `gateway_config.py`, whose encoding it uses; `gateway.py` calls it. Certificates are not in listeners
but in secrets of their own (SDS), so that a new one closes no connection.
Source: contract sheet gateway-network, sections 5 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from pelton.model.routing import EXTERNAL, Certificate
from pelton.proto import xds_pb2 as xds
from pelton.targets.local.gateway_config import (
    INSTANCE_HEADER,
    MAX_HEADER_KB,
    MAX_HEADERS,
    REASON_HEADER,
    ads,
    duration,
    encoded,
    header_options,
    packed,
)

__all__ = [
    "ACCESS_LOG_FIELDS",
    "COLLECTOR",
    "FLAGS",
    "Listener",
    "TraceExport",
    "listener",
    "secret",
    "secret_name",
]

COLLECTOR: Final = "trace-collector"
"""Cluster of the bootstrap through which spans leave."""

ACCESS_LOG_FIELDS: Final[Mapping[str, str]] = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%REQ(:PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "detail": "%RESPONSE_CODE_DETAILS%",
    "reason": f"%RESP({REASON_HEADER.upper()})%",
    "route": "%ROUTE_NAME%",
    "function": "%UPSTREAM_CLUSTER%",
    "revision": "%METADATA(UPSTREAM_HOST:pelton:revision)%",
    "instance": "%METADATA(UPSTREAM_HOST:pelton:instance)%",
    "found": f"%RESP({INSTANCE_HEADER.upper()})%",
    "start": "%METADATA(UPSTREAM_HOST:pelton:start)%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "duration_ms": "%DURATION%",
    "request_ms": "%REQUEST_DURATION%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    "received_bytes": "%BYTES_RECEIVED%",
    "sent_bytes": "%BYTES_SENT%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "server_name": "%REQUESTED_SERVER_NAME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
}
"""Field -> Envoy's operator; what is not known is null. `start` is `cold` for what the activator took."""

FLAGS: Final[Mapping[str, tuple[int, str]]] = {
    "UC": (502, "the function's instance ended before it answered"),
    "UR": (502, "the function's instance reset the request before it answered"),
    "UF": (503, "no connection to the function could be made"),
    "UH": (503, "there is no endpoint for the function"),
    "UO": (503, "too many requests wait in the gateway for the function"),
    "URX": (503, "every try to reach the function failed"),
    "NC": (0, "the route names a backend that does not exist"),
    "UT": (504, "the function did not answer in time"),
    "UMSDR": (504, "the exchange took longer than its limit"),
    "UPE": (502, "the function's answer is not valid HTTP"),
    "DPE": (0, "the request is not valid HTTP"),
    "SI": (0, "nothing was sent for too long"),
    "OM": (0, "the gateway is overloaded"),
}
"""Envoy's response flag -> (status of its own answer, 0 to leave it; the reason in words)."""

_NO_ANSWER: Final = ("UC", "UR", "UF", "UH", "UO", "URX", "NC", "UT", "UMSDR", "UPE")
"""Those of a request that was passed on and did not get its answer."""
_CALLEE: Final = "dapr-callee-app-id"
"""Header that only calls between apps of Dapr have behind the gateway: the app that is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceExport:
    """Where the gateway's spans go, and which requests have one.

    Attributes:
        url: Where OTLP is posted; Envoy reaches it through the cluster COLLECTOR.
        headers: Further headers of those requests.
        percent: Share of the requests without a `traceparent` that begin a trace, 0 to 100. One that has a
            `traceparent` goes by its flag.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    percent: float = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A port of the gateway.

    Attributes:
        host: Address to bind, numeric.
        port: TCP port, 1 to 65535.
        name: Unique among the listeners.
        access_log: File that gets one JSON object per request; "" for none.
        only_failures: Leave requests out that were answered with less than 400 and without a fault.
        routes: Name of the route table.
        certificates: Shown by SNI; empty means plain HTTP.
        traces: Where spans go; None for nowhere, then a `traceparent` passes through as it is.
        reuse_port: Let each Envoy thread have its own socket. Off by default: with it a second platform on
            the same port would silently share the traffic instead of failing.
        dapr: Whether it is the HTTP port of an app of Dapr: a call of another app that fails is answered as
            Dapr does.
        headers: (name, value) of headers that every request has before its route is chosen.
        token: What calls of other apps have to show as `dapr-api-token`; "" for nothing. Never logged.
    """

    host: str
    port: int
    name: str = "gateway"
    access_log: str = ""
    only_failures: bool = False
    routes: str = EXTERNAL
    certificates: tuple[Certificate, ...] = ()
    traces: TraceExport | None = None
    reuse_port: bool = False
    dapr: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    token: str = field(default="", repr=False)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ip_address(self.host).is_loopback


def listener(wanted: Listener) -> bytes:
    """Return the Listener with its HTTP connection manager; routes come by name over the same stream."""
    filters = [
        xds.Filter(
            name="envoy.filters.network.http_connection_manager",
            typed_config=packed(_connection_manager(wanted)),
        )
    ]
    message = xds.Listener(
        name=wanted.name,
        address=xds.Address(socket_address=xds.SocketAddress(address=wanted.host, port_value=wanted.port)),
        enable_reuse_port=BoolValue(value=wanted.reuse_port),
    )
    if not wanted.certificates:
        message.filter_chains.append(xds.FilterChain(filters=filters))
        return encoded(message)
    message.listener_filters.append(
        xds.ListenerFilter(
            name="envoy.filters.listener.tls_inspector", typed_config=packed(xds.TlsInspector())
        )
    )
    groups: dict[tuple[str, ...], list[Certificate]] = {}
    for certificate in wanted.certificates:
        groups.setdefault(certificate.hosts, []).append(certificate)
    for hosts in sorted(groups):
        chain = xds.FilterChain(
            name=",".join(hosts) or "any",
            filters=filters,
            transport_socket=xds.TransportSocket(
                name="envoy.transport_sockets.tls", typed_config=packed(_tls(groups[hosts]))
            ),
        )
        if hosts:
            chain.filter_chain_match.server_names.extend(hosts)
            message.filter_chains.append(chain)
        else:
            message.default_filter_chain.CopyFrom(chain)
    return encoded(message)


def _tls(certificates: list[Certificate]) -> xds.DownstreamTlsContext:
    return xds.DownstreamTlsContext(
        common_tls_context=xds.CommonTlsContext(
            tls_params=xds.TlsParameters(tls_minimum_protocol_version=3),
            alpn_protocols=["h2", "http/1.1"],
            tls_certificate_sds_secret_configs=[
                xds.SdsSecretConfig(name=secret_name(one), sds_config=ads())
                for one in sorted(certificates, key=lambda one: one.name)
            ],
        )
    )


def secret_name(certificate: Certificate) -> str:
    """Return the name under which Envoy asks for a certificate."""
    return f"Secret {certificate.name}"


def secret(certificate: Certificate) -> bytes:
    """Return the Secret with chain and key."""
    return encoded(
        xds.Secret(
            name=secret_name(certificate),
            tls_certificate=xds.TlsCertificate(
                certificate_chain=xds.DataSource(inline_bytes=certificate.chain.encode()),
                private_key=xds.DataSource(inline_bytes=certificate.key.encode()),
            ),
        )
    )


def _connection_manager(wanted: Listener) -> xds.HttpConnectionManager:
    """User code sees requests as they were sent: path, host and request id are kept."""
    manager = xds.HttpConnectionManager(
        stat_prefix="gateway",
        rds=xds.Rds(config_source=ads(), route_config_name=wanted.routes),
        http_filters=[
            *([_token_check(wanted.token)] if wanted.token else []),
            xds.HttpFilter(
                name="envoy.filters.http.router",
                # dynamic_stats would count per status code and cluster, into statistics that are not kept.
                typed_config=packed(
                    xds.Router(dynamic_stats=BoolValue(value=False), suppress_envoy_headers=True)
                ),
            ),
        ],
        http_protocol_options=xds.Http1ProtocolOptions(
            accept_http_10=True, default_host_for_http_10="localhost"
        ),
        http2_protocol_options=xds.Http2ProtocolOptions(max_concurrent_streams=UInt32Value(value=256)),
        use_remote_address=BoolValue(value=True),
        # Envoy would write the machine's first interface where the client is on loopback; see _FORWARDED_FOR.
        skip_xff_append=True,
        # Long polls and server-sent events may be silent for long; deadlines are the worker's.
        stream_idle_timeout=duration(0.0),
        request_headers_timeout=duration(10.0),
        upgrade_configs=[xds.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        max_request_headers_kb=UInt32Value(value=MAX_HEADER_KB),
        common_http_protocol_options=xds.CommonHttpProtocolOptions(
            max_headers_count=UInt32Value(value=MAX_HEADERS)
        ),
        normalize_path=BoolValue(value=False),
        merge_slashes=False,
        path_with_escaped_slashes_action=1,
        server_header_transformation=2,
        preserve_external_request_id=True,
        request_id_extension=xds.RequestIDExtension(
            # By default Envoy writes its trace decision into the id: a client's own UUID would be changed.
            typed_config=packed(
                xds.UuidRequestIdConfig(
                    pack_trace_reason=BoolValue(value=False),
                    use_request_id_for_trace_sampling=BoolValue(value=False),
                )
            )
        ),
        local_reply_config=_local_replies(dapr=wanted.dapr),
    )
    # An internal caller may steer retries and timeouts with x-envoy-* headers. No list at all means "all
    # private addresses", so the list holds the one address that cannot call.
    manager.internal_address_config.cidr_ranges.append(
        xds.CidrRange(address_prefix="255.255.255.255", prefix_len=UInt32Value(value=32))
    )
    if wanted.headers:
        early = xds.EarlyHeaderMutation(
            mutations=[xds.HeaderMutation(append=one) for one in header_options(dict(wanted.headers))]
        )
        manager.early_header_mutation_extensions.add(
            name="envoy.http.early_header_mutation.header_mutation", typed_config=packed(early)
        )
    if wanted.access_log:
        manager.access_log.append(_access_log(wanted))
    if wanted.traces is not None:
        manager.tracing.CopyFrom(_tracing(wanted.traces))
    return manager


def _tracing(export: TraceExport) -> xds.HttpConnectionManager.Tracing:
    """A span per request that is traced; its `traceparent` is what the function sees."""
    config = xds.OpenTelemetryConfig(
        service_name="pelton-gateway",
        http_service=xds.HttpService(
            http_uri=xds.HttpUri(uri=export.url, cluster=COLLECTOR, timeout=duration(10.0)),
            request_headers_to_add=header_options(export.headers),
        ),
    )
    return xds.HttpConnectionManager.Tracing(
        client_sampling=xds.Percent(value=100.0),
        random_sampling=xds.Percent(value=export.percent),
        overall_sampling=xds.Percent(value=100.0),
        provider=xds.TracingProvider(name="envoy.tracers.opentelemetry", typed_config=packed(config)),
    )


def _access_log(wanted: Listener) -> xds.AccessLog:
    fields = Struct()
    fields.update(dict(ACCESS_LOG_FIELDS))
    file = xds.FileAccessLog(
        path=wanted.access_log, log_format=xds.SubstitutionFormatString(json_format=fields)
    )
    log = xds.AccessLog(name="envoy.access_loggers.file", typed_config=packed(file))
    if wanted.only_failures:
        bad = xds.ComparisonFilter(
            op=1, value=xds.RuntimeUInt32(default_value=400, runtime_key="pelton.access_log.status")
        )
        log.filter.or_filter.filters.extend(
            [
                xds.AccessLogFilter(status_code_filter=xds.AccessLogFilter.StatusCodeFilter(comparison=bad)),
                xds.AccessLogFilter(response_flag_filter=xds.ResponseFlagFilter()),
            ]
        )
    return log


def _local_replies(*, dapr: bool) -> xds.LocalReplyConfig:
    """Envoy's own answers in Pelton's statuses and words: a dead worker is 502, nobody there 503."""
    mappers = [_bad_token(), *(_failed_call(flag, FLAGS[flag][1]) for flag in _NO_ANSWER)] if dapr else []
    for flag, (status, text) in FLAGS.items():
        added = {REASON_HEADER: text, **({"retry-after": "1"} if status == 503 else {})}
        mapper = xds.ResponseMapper(
            filter=_flagged(flag),
            body=xds.DataSource(inline_string=f"{text}\n"),
            headers_to_add=header_options(added),
        )
        if status:
            mapper.status_code.CopyFrom(UInt32Value(value=status))
        mappers.append(mapper)
    return xds.LocalReplyConfig(mappers=mappers)


def _failed_call(flag: str, text: str) -> xds.ResponseMapper:
    """A call of an app of Dapr that did not reach it, or got no answer: Dapr's status and error object."""
    body = Struct()
    body.update(
        {
            "errorCode": "ERR_DIRECT_INVOKE",
            "message": f"fail to invoke, id: %REQ({_CALLEE.upper()})%, err: {text}",
        }
    )
    is_call = xds.AccessLogFilter(
        header_filter=xds.AccessLogFilter.HeaderFilter(
            header=xds.HeaderMatcher(name=_CALLEE, present_match=True)
        )
    )
    return xds.ResponseMapper(
        filter=xds.AccessLogFilter(
            and_filter=xds.AccessLogFilter.AndFilter(filters=[is_call, _flagged(flag)])
        ),
        status_code=UInt32Value(value=500),
        body_format_override=xds.SubstitutionFormatString(json_format=body, content_type="application/json"),
        headers_to_add=header_options({REASON_HEADER: text}),
    )


def _token_check(token: str) -> xds.HttpFilter:
    """Let calls of other apps pass with the token only; everything else is for the runtime to judge.

    So are requests with an origin, whose refusal a browser has to be able to read.
    """

    def has(name: str, *, value: str = "", pattern: str = "", no: bool = False) -> xds.RbacPermission:
        wanted = xds.HeaderMatcher(name=name, invert_match=no)
        if pattern:
            wanted.string_match.safe_regex.regex = pattern
        elif value:
            wanted.string_match.exact = value
        else:
            wanted.present_match = True
        return xds.RbacPermission(header=wanted)

    no_call = xds.RbacPermission.Set(
        rules=[has(":path", pattern=r"/v1\.0/invoke/.*", no=True), has("dapr-app-id", no=True)]
    )
    policy = xds.RbacPolicy(
        permissions=[
            has("dapr-api-token", value=token),
            has("origin"),
            xds.RbacPermission(and_rules=no_call),
        ],
        principals=[xds.RbacPrincipal(any=True)],
    )
    return xds.HttpFilter(
        name="envoy.filters.http.rbac",
        typed_config=packed(xds.Rbac(rules=xds.RbacRules(policies={"token": policy}))),
    )


def _bad_token() -> xds.ResponseMapper:
    """The answer to a call without the token, in Dapr's words; Envoy itself says 403 for nothing else."""
    refused = xds.ComparisonFilter(
        value=xds.RuntimeUInt32(default_value=403, runtime_key="pelton.dapr.status")
    )
    return xds.ResponseMapper(
        filter=xds.AccessLogFilter(
            status_code_filter=xds.AccessLogFilter.StatusCodeFilter(comparison=refused)
        ),
        status_code=UInt32Value(value=401),
        body=xds.DataSource(inline_string="invalid api token"),
        headers_to_add=header_options({REASON_HEADER: "the call does not show the token of its app"}),
    )


def _flagged(flag: str) -> xds.AccessLogFilter:
    return xds.AccessLogFilter(response_flag_filter=xds.ResponseFlagFilter(flags=[flag]))
