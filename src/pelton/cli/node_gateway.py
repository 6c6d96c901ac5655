"""The node's side of the gateway: its ports by the settings, and what others ask of it over node.sock.

`cli/node` owns one and hands it routes of functions and endpoints; `controlplane/routes` sends the rest (op
`routes`), `cli/why_route` and `cli/trace` ask for reasons (op `explain`), the activator for the way of a
request that Envoy has no route for yet.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from pelton.cli.home import Settings
from pelton.cli.node_dapr import AppWays
from pelton.cli.node_interceptor import Interception
from pelton.dataplane import wire
from pelton.model.routing import EXTERNAL, INTERNAL, RoutingState
from pelton.plan.routing import Entry, Request
from pelton.sdk.trace_sender import pairs
from pelton.targets.local.gateway import Gateway, Listener
from pelton.targets.local.listener_config import TraceExport

__all__ = ["HTTPS", "Way", "explain", "find_way", "make_gateway", "take_routes"]

HTTPS: Final = "https"
_LINE: Final = re.compile(rb"([A-Z]+) ([^ ]+) HTTP/1\.1\r\n")


def make_gateway(settings: Settings, h2c_activator: Callable[[str], str]) -> Gateway:
    """Return the gateway with its three ports: external, internal, and https where it was asked for."""
    run = Path(settings.run)
    log = settings.access_log if settings.access_log_of != "off" else ""
    failures = settings.access_log_of == "failures"
    traces = (
        TraceExport(
            url=settings.otlp_url, headers=pairs(settings.otlp_headers), percent=settings.trace_percent
        )
        if settings.otlp_url
        else None
    )
    external = Listener(
        host=_numeric(settings.gateway_host),
        port=settings.gateway_port,
        access_log=log,
        only_failures=failures,
        traces=traces,
    )
    listeners = [external]
    if settings.internal_port:
        listeners.append(
            Listener(
                host="127.0.0.1",
                port=settings.internal_port,
                name=INTERNAL,
                routes=INTERNAL,
                access_log=log,
                only_failures=failures,
                traces=traces,
            )
        )
    if settings.https_port:
        listeners.append(
            Listener(
                host=_numeric(settings.https_host),
                port=settings.https_port,
                name=HTTPS,
                routes=HTTPS,
                access_log=log,
                only_failures=failures,
                traces=traces,
            )
        )
    return Gateway(
        xds_socket=str(run / "xds.sock"),
        activator_socket=str(run / "activator.sock"),
        listeners=listeners,
        admin_socket=str(run / "admin.sock"),
        h2c_activator=h2c_activator,
    )


def _numeric(host: str) -> str:
    """Return the address of a host name, for Envoy, which binds addresses only."""
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


async def take_routes(
    gateway: Gateway, interception: Interception, ways: AppWays, body: dict[str, Any]
) -> dict[str, Any]:
    """Take everything that is no route of a function; returns what Envoy refused, and whether it is there.

    Raises:
        GatewayError: Envoy did not answer in time.
    """
    state = await interception.take(msgspec.convert(body["state"], RoutingState))
    refused = await gateway.set_state(ways.extend(state))
    return {"refused": refused, "connected": gateway.connected}


async def explain(gateway: Gateway, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
    """Say which route answers `{host, path, method, headers[, port]}`, and why no other one does.

    Returns:
        `winner` (name or None), `split` [{name, weight}], `host`, `port`, `rule` (the winner in full), and
        `others` [{name, kind, route, host, why}] in the order of precedence.
    """
    request = Request(
        host=str(body["host"]).lower().rstrip("."),
        path=str(body.get("path") or "/"),
        method=str(body.get("method") or "GET").upper(),
        headers={str(name).lower(): str(value) for name, value in (body.get("headers") or {}).items()},
    )
    port = str(body.get("port") or EXTERNAL)
    found = gateway.explain(request, port)
    winner = found.winner
    return {
        "port": port,
        "ports": [{"name": one.routes, "host": one.host, "port": one.port} for one in gateway.ports],
        "host": found.host,
        "winner": _titled(winner) if winner else None,
        "rule": msgspec.to_builtins(winner) if winner else None,
        "split": [
            {"name": one.key or one.problem, "weight": one.weight}
            for one in (winner.rule.backends if winner else ())
        ],
        "others": [
            {
                "name": _titled(one.entry),
                "kind": one.entry.kind,
                "route": one.entry.route,
                "host": one.entry.host,
                "why": one.why,
            }
            for one in found.others
        ],
    }


def _titled(entry: Entry) -> str:
    """Return an entry in words: whose it is, which rule, under which host, with which conditions."""
    match = entry.match
    conditions = [f"{match.path.type} {match.path.value}"]
    conditions += [f"method {match.method}"] if match.method else []
    conditions += [f"header {one.name}" for one in match.headers]
    conditions += [f"query parameter {one.name}" for one in match.query]
    way = "" if entry.way == "host" else f" ({entry.way})"
    rule = f" rule {entry.position[0]}" if entry.kind == "HTTPRoute" or entry.position != (0, 0) else ""
    return f"{entry.owner}{rule}{way}: host {entry.host}, {', '.join(conditions)}"


class Finder(Protocol):
    """Knows all routes."""

    def find(self, request: Request, port: str = ...) -> Entry | None:
        """Return the route that answers a request."""
        ...


@dataclass(frozen=True, slots=True)
class Way:
    """Where a request goes: the function's key, and the head that its instance is to see."""

    key: str
    head: bytes


def find_way(gateway: Finder, head: bytes) -> Way | None:
    """Return the way of a request that Envoy had no route for, when it is that of a function.

    A route is known here milliseconds before Envoy has it; requests in between need not be refused. Rules
    that do more than choose a function are left to Envoy.
    """
    line = _LINE.match(head)
    if line is None:
        return None
    headers = {
        name.strip().lower().decode("latin-1"): value.strip().decode("latin-1")
        for name, _, value in (each.partition(b":") for each in head[line.end() : -4].split(b"\r\n"))
    }
    host = headers.get("host", "").lower()
    if not host.endswith("]"):
        host = host.rpartition(":")[0] or host if ":" in host else host
    path = line[2].decode("latin-1")
    request = Request(host=host, path=path, method=line[1].decode(), headers=headers)
    entry = gateway.find(request, headers.get("x-pelton-port") or EXTERNAL)
    if entry is None or entry.kind != "Function" or entry.way not in ("host", "path"):
        return None
    backends, rule = entry.rule.backends, entry.rule
    if len(backends) != 1 or rule.redirect or rule.response_headers or rule.mirrors:
        return None
    key = backends[0].key
    told = f"x-pelton-function: {key}\r\n".encode()
    if entry.way == "host":
        if rule.rewrite or rule.request_headers:
            return None
        return Way(key, head[:-2] + told + b"\r\n")
    prefix = entry.match.path.value
    rest = path[len(prefix) :]
    rest = rest if rest.startswith("/") else f"/{rest}"
    first = f"{request.method} {rest} HTTP/1.1\r\n".encode("latin-1")
    told += f"x-forwarded-prefix: {prefix}\r\n".encode()
    return Way(key, first + head[line.end() : -2] + told + b"\r\n")


def listens_beyond(settings: Settings) -> bool:
    """Tell whether the external port can be reached from other machines."""
    try:
        return not ipaddress.ip_address(settings.gateway_host).is_loopback
    except ValueError:
        return settings.gateway_host != "localhost"
