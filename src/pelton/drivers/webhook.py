"""POSTs notifications as JSON to any HTTP address. Implements ports.Sender.

Wired in `cli/`, called by `notify/sending.py`. Addresses and credentials are never logged, and no text of an
exception or answer leaves here without them being replaced. Source: contracts/log-notification.md 4.3, 8,
9.1, 10.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from pelton.clock import Clock
from pelton.outgoing import LOCAL, exchange, judge, keep_quiet, secrets_in, timeout_of, userinfo_of
from pelton.ports import SendResult

__all__ = ["WebhookSender", "service_url"]

_CLIENTS = 32


def service_url(service: Mapping[str, Any]) -> str:
    """Return the in-cluster address of `{namespace, name, path, port, scheme}`."""
    port = f":{service['port']}" if service.get("port") else ""
    path = str(service.get("path") or "").lstrip("/")
    return f"{service.get('scheme') or 'http'}://{service['name']}.{service['namespace']}.svc{port}/{path}"


class WebhookSender:
    """POSTs the payload as `application/json`, or the text `raw` where it has that; 2xx is success.

    Redirects are not followed. Settings: `{url}` or `{service}`, and `httpConfig {basicAuth {username,
    password}, bearerToken, proxyUrl, tlsConfig {rootCA, clientCertificate {cert, key}, serverName,
    insecureSkipVerify}}` with PEM texts; a bearer token wins over basic authentication. `deliveryId` goes out
    as header `Idempotency-Key`, since a notification may arrive twice.

    Args:
        clock: Time, for Retry-After given as a date.
        timeout_s: Seconds for one call, answer included.
        locate: Turns a `service` into a URL; the place Pelton runs on decides.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        timeout_s: float = 5.0,
        locate: Callable[[Mapping[str, Any]], str] = service_url,
    ) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._locate = locate
        self._clients: OrderedDict[str, httpx.AsyncClient] = OrderedDict()
        self._open = False

    async def __aenter__(self) -> Self:
        """Get ready; clients are made when first needed, one per way of connecting."""
        keep_quiet()
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        self._open = False
        while self._clients:
            _, client = self._clients.popitem()
            await client.aclose()

    async def send(self, settings: Mapping[str, Any], payload: Mapping[str, Any]) -> SendResult:
        """Send once; never raises for what the destination does. Cancelling may leave it received."""
        if not self._open:
            raise RuntimeError("WebhookSender is used outside `async with`.")
        config = settings.get("httpConfig") or {}
        try:
            url = str(settings.get("url") or self._locate(settings["service"]))
        except (KeyError, TypeError):
            return SendResult(ok=False, retriable=False, detail="Neither a url nor a service is set.")
        try:
            client = self._client_for(config)
        except (ssl.SSLError, ValueError, httpx.InvalidURL, OSError) as error:
            reason = f"The TLS or proxy settings cannot be used: {type(error).__name__}."
            return SendResult(ok=False, retriable=False, detail=reason)
        headers = {"content-type": "application/json; charset=utf-8"}
        if delivery := settings.get("deliveryId"):
            headers["idempotency-key"] = str(delivery)
        auth: httpx.Auth | None = None
        if bearer := config.get("bearerToken"):
            headers["authorization"] = f"Bearer {bearer}"
        elif basic := config.get("basicAuth"):
            auth = httpx.BasicAuth(str(basic.get("username", "")), str(basic.get("password", "")))
        name = (config.get("tlsConfig") or {}).get("serverName")
        request: dict[str, Any] = {
            "content": payload["raw"] if "raw" in payload else msgspec.json.encode(payload),
            "headers": headers,
            "auth": auth,
            "extensions": {"sni_hostname": name} if name else None,
        }
        answer = await exchange(
            client, "POST", url, timeout_s=timeout_of(settings, self._timeout_s), clock=self._clock, **request
        )
        return judge(answer.without(_secrets_of(url, config)))

    def _client_for(self, config: Mapping[str, Any]) -> httpx.AsyncClient:
        tls, proxy = config.get("tlsConfig") or {}, str(config.get("proxyUrl") or "")
        material = {key: value for key, value in tls.items() if key != "serverName"}
        # A digest, so that key material is not kept a second time.
        key = hashlib.sha256(msgspec.json.encode([material, proxy], order="sorted")).hexdigest()
        client = self._clients.get(key)
        if client is None:
            client = httpx.AsyncClient(
                timeout=self._timeout_s,
                verify=_tls_context(tls) if material else True,
                proxy=proxy or None,
                mounts=None if proxy else dict(LOCAL),
            )
            self._clients[key] = client
            if len(self._clients) > _CLIENTS:
                # Not closed here: a send may be using it. Its idle connections end with it.
                self._clients.popitem(last=False)
        self._clients.move_to_end(key)
        return client


def _tls_context(tls: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=tls.get("rootCA") or None)
    if tls.get("insecureSkipVerify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    pair = tls.get("clientCertificate") or {}
    if pair.get("cert") and pair.get("key"):
        # The ssl module reads certificates from files only; this one is 0600 and gone at once.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(f"{pair['cert']}\n{pair['key']}\n")
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _secrets_of(url: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the URL, its telling parts and the credentials: an error page may quote any of them."""
    basic = config.get("basicAuth") or {}
    password = str(basic.get("password") or "")
    # As it travels, too: an answer that shows what it got shows this.
    pair = base64.b64encode(f"{basic.get('username', '')}:{password}".encode()).decode() if password else ""
    proxy = userinfo_of(str(config.get("proxyUrl") or ""))
    return *secrets_in(url), str(config.get("bearerToken") or ""), pair, password, *proxy
