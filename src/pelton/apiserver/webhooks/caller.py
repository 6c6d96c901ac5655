"""Calls webhooks over HTTPS: connections, certificates, deadlines, and where a Service leads.

`admission.py` and `apiserver/conversion.py` post their reviews with this; it knows nothing of what is in
them. One pool of connections per clientConfig, so a changed caBundle makes a new one. Source: contracts
operator-webhook.md 1.2.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import msgspec

from pelton.apiserver.rules import Obj
from pelton.apiserver.store import ObjectStore, decode
from pelton.errors import NotFoundError, PeltonError

# Imported with the first call: it costs 6 MB and a tenth of a second, and most platforms have no webhook.
if TYPE_CHECKING:
    import httpx

__all__ = ["CallError", "Caller"]

_SERVICES = "services"
_SLICES = "endpointslices.discovery.k8s.io"
_SERVICE_LABEL = "kubernetes.io/service-name"
_MAX_ANSWER = 8 * 1024 * 1024  # bytes: a patched object of the largest size, twice over
_LONGEST_S = 30.0  # seconds between two bytes; the deadline of the whole call is the webhook's own
_CLIENTS = 64  # pools kept; the least recently used one is closed


class CallError(PeltonError):
    """A webhook was not reached, or its answer cannot be used."""

    code = "PEL-API-010"
    http_status = 500


class Caller:
    """Posts JSON to webhooks. An async context manager; leaving it closes all connections.

    Args:
        store: Where Services and EndpointSlices are.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._clients: OrderedDict[str, httpx.AsyncClient] = OrderedDict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    async def post(self, config: Mapping[str, Any], body: Obj, *, timeout_s: float) -> Any:
        """Send a review and return the JSON of the answer.

        Args:
            config: A clientConfig that passed `client_config.check`.
            body: The review.
            timeout_s: Seconds for the whole call, at most.

        Raises:
            CallError: With the reason; the peer may have received the review all the same.
        """
        import httpx

        url = _shown_url(config, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._post(config, url, msgspec.json.encode(body))
        except TimeoutError as error:
            raise CallError(f'Post "{url}": context deadline exceeded') from error
        except httpx.HTTPError as error:
            raise CallError(f'Post "{url}": {_reason(error)}') from error

    async def _post(self, config: Mapping[str, Any], url: str, content: bytes) -> Any:
        import httpx

        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "pelton-apiserver",
        }
        extensions: dict[str, Any] = {}
        target = url
        service = config.get("service")
        if service:
            host, port = self._resolve(service)
            parts = urlsplit(url)
            name = f"{service['name']}.{service['namespace']}.svc"
            extensions["sni_hostname"] = name
            headers["Host"] = f"{name}:{service.get('port') or 443}"
            target = f"https://{f'[{host}]' if ':' in host else host}:{port}{parts.path}?{parts.query}"
        client = await self._client(config)
        request = client.build_request(
            "POST", target, content=content, headers=headers, extensions=extensions
        )
        try:
            answer = await client.send(request, stream=True)
        except httpx.RemoteProtocolError:
            # The server closed an idle connection while the review was under way: it may be sent again, since
            # reviews are idempotent and no byte of an answer has come.
            request = client.build_request(
                "POST", target, content=content, headers=headers, extensions=extensions
            )
            answer = await client.send(request, stream=True)
        try:
            text = await _read(answer, url)
        finally:
            await answer.aclose()
        if answer.status_code != 200:
            told = text[:200].decode(errors="replace").strip()
            raise CallError(f'Post "{url}": the server answered {answer.status_code} ({told})')
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise CallError(f'Post "{url}": the answer is not JSON: {error}') from error

    async def _client(self, config: Mapping[str, Any]) -> httpx.AsyncClient:
        bundle = str(config.get("caBundle") or "")
        service = config.get("service") or {}
        # The name is part of the key: a pooled connection was verified for one name only.
        key = "\n".join((bundle, str(service.get("namespace", "")), str(service.get("name", ""))))
        client = self._clients.get(key)
        if client is None:
            import httpx

            client = httpx.AsyncClient(
                verify=_context(bundle), trust_env=False, timeout=_LONGEST_S, follow_redirects=False
            )
            self._clients[key] = client
            if len(self._clients) > _CLIENTS:
                _, oldest = self._clients.popitem(last=False)
                await oldest.aclose()
        self._clients.move_to_end(key)
        return client

    # -- services --------------------------------------------------------------------------------------------

    def _resolve(self, service: Mapping[str, Any]) -> tuple[str, int]:
        """Return an address and a port of a Service; raises CallError."""
        namespace, name, wanted = service["namespace"], service["name"], int(service.get("port") or 443)
        try:
            found = decode(self._store.entry(_SERVICES, namespace, name).raw)
        except NotFoundError as error:
            raise CallError(
                f'service "{name}" not found in namespace "{namespace}"',
                hint="Create the Service with an EndpointSlice that leads to the webhook, or write a url.",
            ) from error
        spec = found.get("spec") or {}
        if spec.get("type") == "ExternalName":
            return str(spec.get("externalName")), wanted
        port = next((each for each in spec.get("ports") or () if each.get("port") == wanted), None)
        if port is None:
            raise CallError(f'no service port {wanted} found for service "{name}"')
        for entry in self._store.entries(_SLICES, namespace):
            if entry.labels.get(_SERVICE_LABEL) != name:
                continue
            place = _endpoint(decode(entry.raw), port)
            if place is not None:
                return place
        raise CallError(
            f'no endpoints available for service "{name}"',
            hint=f"Add an EndpointSlice with the label {_SERVICE_LABEL}: {name}.",
        )


def _endpoint(entry: Obj, port: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return the first ready address of an EndpointSlice and the port that a Service's port leads to."""
    target = port.get("targetPort", port.get("port"))
    ports = entry.get("ports") or ()
    number = next((p.get("port") for p in ports if (p.get("name") or "") == (port.get("name") or "")), None)
    if number is None and isinstance(target, str):
        number = next((p.get("port") for p in ports if p.get("name") == target), None)
    if number is None and isinstance(target, int):
        number = target
    for endpoint in entry.get("endpoints") or ():
        ready = (endpoint.get("conditions") or {}).get("ready")
        if ready is not False and endpoint.get("addresses") and number:
            return str(endpoint["addresses"][0]), int(number)
    return None


def _shown_url(config: Mapping[str, Any], timeout_s: float) -> str:
    """Return the URL as messages show it, with the timeout that is sent along."""
    service = config.get("service")
    if service:
        host = f"{service['name']}.{service['namespace']}.svc:{service.get('port') or 443}"
        path = "/" + str(service.get("path") or "").lstrip("/")
        base = f"https://{host}{path}"
    else:
        base = str(config["url"])
    return f"{base}?timeout={math.ceil(timeout_s)}s"


def _context(bundle: str) -> ssl.SSLContext:
    if bundle:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # A bundle may hold the server's own certificate, as that of a self-signed webhook does.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(cadata=base64.b64decode(bundle).decode("ascii"))
        except (ssl.SSLError, binascii.Error, UnicodeDecodeError) as error:
            raise CallError(f"unable to load root certificates: {error}") from error
    else:
        context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _read(answer: httpx.Response, url: str) -> bytes:
    parts, size = [], 0
    async for part in answer.aiter_bytes():
        size += len(part)
        if size > _MAX_ANSWER:
            raise CallError(f'Post "{url}": the answer is larger than {_MAX_ANSWER} bytes')
        parts.append(part)
    return b"".join(parts)


def _reason(error: httpx.HTTPError) -> str:
    """Return what went wrong in words that Kubernetes' users know."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"tls: failed to verify certificate: x509: {cause.verify_message}"
        if isinstance(cause, ConnectionRefusedError):
            return "connect: connection refused"
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
