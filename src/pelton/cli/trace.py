"""`pelton trace URL`: makes one request and explains its way, hop by hop, with the time spent at each.

The request carries a `traceparent` whose sampled flag is set, by which activator and worker report what they
did (`dataplane/traces.py`); the node is asked for that and for the routing decision. `cli/trace_hops.py` puts
it all into words.
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import json
import secrets
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from pelton.cli.home import Home
from pelton.cli.sockets import holder_of_port, holder_of_socket
from pelton.cli.trace_hops import Facts, hops
from pelton.cli.why_route import bare_host, header, port_name, split_url
from pelton.dataplane import wire
from pelton.dataplane.event_traces import CAUSES
from pelton.errors import NotRunningError, PeltonError

__all__ = ["trace"]

_SPANS_WITHIN_S: Final = 1.0
_FOLLOWED_S: Final = 5.0
_ASK_S: Final = 5.0


def trace(
    home: Home,
    url: str,
    *,
    method: str = "",
    headers: Sequence[str] = (),
    data: str | None = None,
    timeout_s: float = 60.0,
    output: str = "table",
) -> int:
    """Make one request and print its hops; returns 0 when it was answered, whatever the status.

    Args:
        home: Of the running platform.
        url: What to ask; a path alone goes to the gateway.
        method: GET, or POST with data, unless given.
        headers: `Name: value`.
        data: Body.
        timeout_s: For the whole request.
        output: `table` or `json`.

    Raises:
        UsageError: The URL or a header cannot be used.
        NotRunningError: No platform runs here.
        PeltonError: Nobody answered.
    """
    endpoints = home.endpoints()
    parts = _with_port(split_url(url, endpoints.gateway), endpoints.gateway)
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    sent = {
        "traceparent": f"00-{trace_id}-{span_id}-01",
        "tracestate": "pelton=hops",
        "x-request-id": f"trace-{trace_id[:16]}",
        **dict(header(each) for each in headers),
    }
    method = method.upper() or ("POST" if data is not None else "GET")
    asked = _Asked(parts, timeout_s)
    asked.send(method, sent, data.encode() if data is not None else None)
    answers = asyncio.run(_ask_platform(home, (trace_id, span_id), parts, method, sent))
    instances = {
        instance["id"]: instance
        for function in answers["status"]["node"].get("functions", ())
        for instance in function["instances"]
    }
    facts = Facts(
        host=parts.hostname or "",
        address=asked.address,
        port=asked.port,
        listener=asked.listener,
        parts={part["pid"]: part["name"] for part in answers["status"]["parts"]},
        tls=asked.tls,
        timings=asked.timings,
        status=asked.status,
        gateway=not _at_alerts(home, parts),
        routing=answers["routing"],
        spans=answers["spans"],
        sockets={
            name: (instance["socket"], holder_of_socket(instance["socket"]))
            for name, instance in instances.items()
        },
    )
    found = [asdict(hop) for hop in hops(facts)]
    report = {
        "trace_id": trace_id,
        "method": method,
        "url": url,
        "status": asked.status,
        "bytes": asked.size,
        "timings_ms": {name: round(value, 3) for name, value in asked.timings.items()},
        "hops": found,
        "spans": answers["spans"],
    }
    if output == "json":
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    return 0


class _Asked:
    """One request over a connection of its own, each step timed."""

    def __init__(self, parts: SplitResult, timeout_s: float) -> None:
        self._parts = parts
        self._deadline = time.monotonic() + timeout_s
        self.timings: dict[str, float] = {}
        self.tls = ""
        self.status = self.size = 0
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        began = time.perf_counter()
        self.address = _resolve(parts.hostname or "", self.port)
        self.timings["resolve"] = (time.perf_counter() - began) * 1e3
        self.listener = holder_of_port(self.address, self.port) if _here(self.address) else None

    def send(self, method: str, headers: Mapping[str, str], body: bytes | None) -> None:
        """Raises PeltonError when there is no answer."""
        where = f"{self.address}:{self.port}"
        try:
            began = time.perf_counter()
            sock = socket.create_connection((self.address, self.port), timeout=self._left())
            connected = time.perf_counter()
            self.timings["connect"] = (connected - began) * 1e3
            if self._parts.scheme == "https":
                sock = self._secure(sock)
                self.timings["tls"] = (time.perf_counter() - connected) * 1e3
            connection = http.client.HTTPConnection(self._parts.hostname or "", self.port)
            connection.sock = sock
            target = (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")
            sent = time.perf_counter()
            sock.settimeout(self._left())
            connection.request(method, target, body=body, headers={"host": self._parts.netloc, **headers})
            answer = connection.getresponse()
            self.timings["first_byte"] = (time.perf_counter() - sent) * 1e3
            while chunk := answer.read(65536):
                self.size += len(chunk)
                sock.settimeout(self._left())
            self.timings["total"] = (time.perf_counter() - began) * 1e3
            self.status = answer.status
            connection.close()
        except TimeoutError as exc:
            raise PeltonError(
                "no answer in time",
                where=where,
                hint="--timeout gives it longer; pelton logs NAME shows more",
            ) from exc
        except (OSError, http.client.HTTPException) as exc:
            reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
            raise PeltonError(
                f"the request failed: {reason}", where=where, hint="pelton status shows what runs"
            ) from exc

    def _left(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def _secure(self, sock: socket.socket) -> ssl.SSLSocket:
        """Speak TLS without trusting anybody: what is shown here is looked at, not relied on."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        secured = context.wrap_socket(sock, server_hostname=self._parts.hostname)
        der = secured.getpeercert(binary_form=True)
        self.tls = f"{secured.version()}, SNI {self._parts.hostname}" + (
            f"; {_certificate(der)}" if der else ""
        )
        return secured


def _certificate(der: bytes) -> str:
    from cryptography import x509

    found = x509.load_der_x509_certificate(der)
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        shown = ", ".join(str(name.value) for name in names)
    except x509.ExtensionNotFound:
        shown = found.subject.rfc4514_string()
    until = found.not_valid_after_utc
    return f"certificate {found.serial_number:x} for {shown}, until {until:%Y-%m-%d %H:%M} UTC"


def _with_port(parts: SplitResult, gateway: str) -> SplitResult:
    """Names of functions are known without the port that this platform's gateway has."""
    if parts.port is None and parts.scheme == "http" and (parts.hostname or "").endswith("localhost"):
        return parts._replace(netloc=f"{parts.hostname}:{urlsplit(gateway).port}")
    return parts


def _resolve(host: str, port: int) -> str:
    if host == "localhost" or host.endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as exc:
        raise PeltonError(
            f"{host} has no address: {exc.strerror}",
            where="name",
            hint="ask 127.0.0.1 and give the name by -H 'Host: NAME', or write it into /etc/hosts",
        ) from exc


def _here(address: str) -> bool:
    """Tell whether an address is this machine's, as far as that is seen without asking the network."""
    if ipaddress.ip_address(address).is_loopback:
        return True
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


async def _ask_platform(
    home: Home, trace: tuple[str, str], parts: SplitResult, method: str, headers: Mapping[str, str]
) -> dict[str, Any]:
    """Return `status`, `spans` and `routing`; spans come a moment after the answer and are waited for."""
    run = home.run_directory()
    try:
        node = await wire.connect(str(run / "node.sock"), name="node")
    except OSError as exc:
        raise NotRunningError(
            f"the node does not answer: {exc.strerror}", hint="pelton status says what runs"
        ) from exc
    try:
        spans = await _spans(node, *trace)
        asked = {
            "host": bare_host(headers["host"]) if "host" in headers else parts.hostname,
            "path": (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            "method": method,
            "headers": dict(headers),
            "port": port_name(parts, home.endpoints()),
        }
        routing = None if _at_alerts(home, parts) else await node.call("explain", asked, timeout=_ASK_S)
    finally:
        await node.close()
    up = await wire.connect(str(run / "up.sock"), name="up")
    try:
        status = await up.call("status", {}, timeout=10)
    finally:
        await up.close()
    return {"spans": spans, "routing": routing, "status": status}


def _at_alerts(home: Home, parts: SplitResult) -> bool:
    """Tell whether a URL is the address for alerts, where events are posted as well: no route leads there."""
    own = urlsplit(home.endpoints().notify)
    return (parts.port, parts.scheme) == (own.port, own.scheme)


async def _spans(node: wire.Peer, trace_id: str, root: str) -> list[dict[str, Any]]:
    """Wait until what led from this command's span to the function's is known; each hop reports by itself.

    Events that were published on the way are followed to whoever takes them, for some seconds.
    """
    deadline = time.monotonic() + _SPANS_WITHIN_S
    followed = time.monotonic() + _FOLLOWED_S
    while True:
        spans: list[dict[str, Any]] = await node.call("trace", {"trace_id": trace_id}, timeout=_ASK_S)
        known = {root, *(span["span_id"] for span in spans)}
        parents = {span.get("parent_id", "") for span in spans if span["name"].startswith("invoke ")}
        now = time.monotonic()
        if (parents and parents <= known) or now > deadline:
            published = {_topic(span) for span in spans if span["kind"] == "producer"}
            taken = {_topic(span) for span in spans if span["kind"] == "consumer"}
            # Behind EventSources and Triggers it is known who gets the event next.
            published |= {name for span in spans for name in _tag(span, CAUSES).split()}
            taken |= {_tag(span, "pelton.subscription") for span in spans}
            if published <= taken or now > followed:
                return spans
        await asyncio.sleep(0.02)


def _topic(span: Mapping[str, Any]) -> str:
    return _tag(span, "messaging.destination.name")


def _tag(span: Mapping[str, Any], name: str) -> str:
    return str((span.get("tags") or {}).get(name, ""))


def _print(report: Mapping[str, Any]) -> None:
    total = report["timings_ms"].get("total", 0.0)
    print(f"{report['method']} {report['url']}")
    print(f"{report['status']}, {report['bytes']} bytes in {total:.1f} ms, trace {report['trace_id']}\n")
    print(f"{'HOP':<10}{'MS':>9}  WHAT")
    for hop in report["hops"]:
        ms = "" if hop["ms"] is None else f"{hop['ms']:.2f}"
        print(f"{hop['name']:<10}{ms:>9}  {hop['says']}")
        for line in hop["details"]:
            print(f"{'':<21}{line}")
