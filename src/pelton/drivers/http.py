"""HTTP output: the component `bindings.http`.

Implements `ports.Binding` with httpx; one client, and so one pool of kept connections, per component.
Source: `dapr-components` contract, section 4 (`bindings.http`).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from typing import Final

import httpx

from pelton import errors
from pelton.certificates import client_context
from pelton.log import get
from pelton.model.desired import Component
from pelton.model.invocation import Delivered
from pelton.quantity import parse_bytes, parse_duration

__all__ = ["HttpBinding"]

_METHODS: Final = {
    "create": "POST",
    "post": "POST",
    "get": "GET",
    "head": "HEAD",
    "put": "PUT",
    "patch": "PATCH",
    "delete": "DELETE",
    "options": "OPTIONS",
    "trace": "TRACE",
}
_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_TRACE: Final = ("traceparent", "tracestate", "baggage")
"""Metadata that are headers although they begin with a small letter: the trace goes on."""
_JSON: Final = "application/json; charset=utf-8"
_TIMEOUT_S: Final = 30.0
_CONNECTIONS: Final = 100
_KNOWN: Final = frozenset(
    (
        *("url", "responsetimeout", "maxresponsebodysize", "mtlsrootca", "mtlsclientcert", "mtlsclientkey"),
        *("mtlsrenegotiation", "securitytoken", "securitytokenheader", "errorifnot2xx", "direction"),
    )
)

_log = get(__name__)


class HttpBinding:
    """One destination.

    Args:
        component: Its metadata; `url` is required.

    Raises:
        ComponentError: The metadata cannot be used.
    """

    def __init__(self, component: Component) -> None:
        settings = {key.lower(): value for key, value in component.metadata.items()}
        self._where = f"Component {component.namespace}/{component.name}"
        for key in settings.keys() - _KNOWN:
            _log.warning("%s: unknown metadata %s is ignored", self._where, key)
        self._url = settings.get("url", "").strip().rstrip("/")
        if not _is_url(self._url):
            raise errors.ComponentError(
                "metadata url must be an http:// or https:// address",
                where=self._where,
                hint="Set spec.metadata item url.",
            )
        try:
            self._timeout_s = _duration(settings.get("responsetimeout", "")) or _TIMEOUT_S
            self._max_body = parse_bytes(settings.get("maxresponsebodysize") or "100Mi")
        except ValueError as exc:
            raise errors.ComponentError(str(exc), where=self._where) from exc
        self._error_if_not_2xx = _true(settings.get("errorifnot2xx", "true"))
        self._own_headers = {}
        if settings.get("securitytoken") and settings.get("securitytokenheader"):
            self._own_headers[settings["securitytokenheader"]] = settings["securitytoken"]
        if settings.get("mtlsrenegotiation", "RenegotiateNever").lower() != "renegotiatenever":
            _log.warning("%s: MTLSRenegotiation has no effect: TLS 1.3 knows none", self._where)
        self._settings = settings
        self._client: httpx.AsyncClient | None = None

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> Delivered:
        """Send one request and return the answer; its metadata are `statusCode`, `status` and all headers.

        An answer that is not 2xx comes with `ok` False, unless errorIfNot2XX is off.

        Args:
            operation: One of create (same as post), get, head, post, put, patch, delete, options, trace.
            data: Request body; not sent with methods that have none.
            metadata: `path` is appended to the URL, `errorIfNot2XX` overrides the component's, keys that
                begin with a capital letter become headers, as does the trace context.

        Raises:
            DeliveryError: Not reached, no answer in time, or an answer that is too large.
            ComponentError: The operation is unknown.
        """
        method = _METHODS.get(operation.lower())
        if method is None:
            raise errors.ComponentError(
                f"bindings.http has no operation {operation!r}",
                where=self._where,
                hint=f"Use one of {', '.join(_METHODS)}.",
            )
        headers = {"Content-Type": _JSON, "Accept": _JSON, **self._own_headers}
        if method in _BODILESS:
            del headers["Content-Type"]
        for key, value in metadata.items():
            if key[:1].isupper() or key in _TRACE:
                for known in [name for name in headers if name.lower() == key.lower()]:
                    del headers[known]
                headers[key] = value
        given = {key.lower(): value for key, value in metadata.items() if not key[:1].isupper()}
        strict = _true(given["errorifnot2xx"]) if "errorifnot2xx" in given else self._error_if_not_2xx
        url = self._joined(given.get("path", ""))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._send(method, url, b"" if method in _BODILESS else data, headers, strict)
        except TimeoutError as exc:
            raise errors.DeliveryError(
                f"no answer within {self._timeout_s:g} s", where=self._where, hint="Raise responseTimeout."
            ) from exc
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as exc:
            # What is wrong is in the path or a header, either of which may hold a secret.
            raise errors.DeliveryError(
                f"the request cannot be sent: {type(exc).__name__}",
                where=self._where,
                hint="Look at `path` and the headers among its metadata, and at securityToken.",
                retriable=False,
            ) from None
        except httpx.HTTPError as exc:
            # The URL may hold a secret (chat webhooks do), so only the kind of the failure is told.
            raise errors.DeliveryError(
                f"the destination was not reached: {type(exc).__name__}", where=self._where
            ) from exc

    async def close(self) -> None:
        """Close the kept connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _send(
        self, method: str, url: str, data: bytes, headers: dict[str, str], strict: bool
    ) -> Delivered:
        async with self._pool().stream(method, url, content=data, headers=headers) as response:
            chunks, size = [], 0
            async for chunk in response.aiter_bytes():
                size += len(chunk)
                if size > self._max_body:
                    raise errors.DeliveryError(
                        f"the answer exceeds {self._max_body} bytes",
                        where=self._where,
                        retriable=False,
                        hint="Raise maxResponseBodySize.",
                    )
                chunks.append(chunk)
        found: dict[str, list[str]] = {}
        for key, value in response.headers.multi_items():
            found.setdefault("-".join(part.capitalize() for part in key.split("-")), []).append(value)
        answer = {key: ", ".join(values) for key, values in found.items()}
        code = response.status_code
        answer["statusCode"] = str(code)
        answer["status"] = f"{code} {response.reason_phrase}".strip()
        body = b"".join(chunks)
        if strict and not 200 <= code < 300:
            excerpt = body[:200].decode(errors="replace").strip()
            reason = f"{self._where}: the destination answered {answer['status']}"
            return Delivered(
                ok=False, data=body, metadata=answer, error=f"{reason}: {excerpt}" if excerpt else reason
            )
        return Delivered(ok=True, data=body, metadata=answer)

    def _pool(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=None,  # noqa: S113 -- `invoke` bounds the whole exchange
                limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=20),
                verify=self._tls(),
                trust_env=False,
                follow_redirects=False,
            )
        return self._client

    def _tls(self) -> ssl.SSLContext:
        root = self._settings.get("mtlsrootca", "")
        certificate = self._settings.get("mtlsclientcert", "")
        key = self._settings.get("mtlsclientkey", "")
        return client_context(where=self._where, ca=root, cert=certificate, key=key)

    def _joined(self, path: str) -> str:
        return f"{self._url}/{path.lstrip('/')}" if path else self._url


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
        return url.scheme in {"http", "https"} and bool(url.host) and (url.port or 1) < 65536
    except httpx.InvalidURL:
        return False


def _true(text: str) -> bool:
    return text.strip().lower() in {"true", "1", "t", "y", "yes", "on"}


def _duration(text: str) -> float:
    """Read a duration in Go's notation or plain seconds; 0 for none."""
    text = text.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    return parse_duration(text) if text else 0.0
