"""Addresses outside that apps invoke like apps: an HTTPEndpoint by its name, or a URL as it is.

`invocation.py` asks for the target of a name and calls it as it calls an app. One client is kept per app and
endpoint, made anew when the endpoint or a secret of it changes. httpx is imported with the first call.
Source: contracts, Dapr runtime, section 6 (target forms), and Dapr components, section 1 (HTTPEndpoint).
"""

from __future__ import annotations

import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pelton.compat.dapr.apps import App
from pelton.compat.dapr.channel import AppUnreachableError
from pelton.compat.dapr.components import Components
from pelton.errors import ComponentError
from pelton.model.component import ComponentResource, ComponentSpec, MetadataItem
from pelton.model.dapr import HttpEndpoint
from pelton.model.invocation import Headers, Invocation, Reply

if TYPE_CHECKING:
    import httpx

__all__ = ["Endpoints", "Outside"]

_MOST_URLS: Final = 100
"""Clients kept for URLs, which callers make up."""
_ANSWER_S: Final = 300.0
_CONNECT_S: Final = 10.0
_TLS_ITEMS: Final = ("root_ca", "certificate", "private_key")
_KEPT_HERE: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"host",
        b"dapr-api-token",
        b"dapr-app-id",
        b"dapr-caller-app-id",
        b"dapr-caller-namespace",
        b"dapr-callee-app-id",
        b"destination-app-id",
    }
)
"""Headers that belong to one connection, or to calls between apps."""


class Outside:
    """The way to one address; has of `replicas.Replicas` what calls over HTTP need."""

    def __init__(self, base_url: str, headers: Mapping[str, str], context: ssl.SSLContext | None) -> None:
        self._base = base_url.rstrip("/")
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._own = {name.lower().encode() for name in headers}
        self._context = context
        self._client: httpx.AsyncClient | None = None

    async def invoke(self, invocation: Invocation) -> Reply:
        """Send a request and return the answer, its body as a stream.

        Raises:
            AppUnreachableError: There was no answer.
        """
        import httpx

        client = self._client
        if client is None:
            client = self._client = httpx.AsyncClient(
                verify=self._context if self._context is not None else True,
                timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
            )
        given: list[tuple[bytes, bytes]] = [
            (name, value)
            for name, value in invocation.headers
            if name not in _KEPT_HERE and name not in self._own and name != b"content-length"
        ]
        content: Any = invocation.stream if invocation.stream is not None else invocation.body
        try:
            request = httpx.Request(
                invocation.method,
                self._base + invocation.target.decode("latin-1"),
                headers=[*given, *self._headers],
                content=content or None,
            )
            response = await client.send(request, stream=True)
        except httpx.ConnectError as exc:
            raise AppUnreachableError(f"{self._base} cannot be reached: {exc}", untouched=True) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise AppUnreachableError(f"{self._base}: {str(exc) or type(exc).__name__}") from exc
        headers: Headers = [
            (name.lower(), value) for name, value in response.headers.raw if name.lower() not in _KEPT_HERE
        ]
        return Reply(status=response.status_code, headers=headers, body=_chunks(response))

    @contextlib.asynccontextmanager
    async def leased(self) -> AsyncIterator[Outside]:
        """Give itself: there is nothing to wait for."""
        yield self

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class Endpoints:
    """Finds addresses outside for all apps; used from one event loop.

    Args:
        components: Resolve secrets and variables.
        known: HTTPEndpoints by (namespace, name), as they are now.
    """

    def __init__(self, components: Components, known: Mapping[tuple[str, str], HttpEndpoint]) -> None:
        self._components = components
        self.known = known
        self._clients: dict[tuple[str, str, str], tuple[HttpEndpoint, int, Outside]] = {}
        self._urls: dict[str, Outside] = {}

    async def channel(self, app: App, target: str) -> Outside | None:
        """Return the way to an endpoint or URL, None where `target` is neither.

        Raises:
            ComponentError: A secret or a certificate of the endpoint cannot be used.
        """
        if target.lower().startswith(("http:/", "https:/")):
            return await self._url(target)
        endpoint = self.known.get((app.namespace, target)) or self.known.get(("", target))
        if endpoint is None or (endpoint.scopes and app.app_id not in endpoint.scopes):
            return None
        key = (app.key, endpoint.namespace, endpoint.name)
        found = self._clients.get(key)
        if found is not None and found[0] is endpoint and found[1] == self._components.generation:
            return found[2]
        made = await self._open(app, endpoint)
        if found is not None:
            await found[2].close()
        self._clients[key] = (endpoint, self._components.generation, made)
        return made

    async def close(self) -> None:
        """Close all connections."""
        left = [*(found for _, _, found in self._clients.values()), *self._urls.values()]
        self._clients.clear()
        self._urls.clear()
        for each in left:
            await each.close()

    async def _url(self, target: str) -> Outside:
        scheme, _, rest = target.partition(":")
        base = f"{scheme.lower()}://{rest.lstrip('/')}".rstrip("/")  # clients join two slashes into one
        found = self._urls.pop(base, None) or Outside(base, {}, None)
        self._urls[base] = found
        if len(self._urls) > _MOST_URLS:
            await self._urls.pop(next(iter(self._urls))).close()
        return found

    async def _open(self, app: App, endpoint: HttpEndpoint) -> Outside:
        headers = await self._components.settings(app, _as_component(endpoint, endpoint.headers))
        tls = endpoint.tls
        if tls is None:
            return Outside(endpoint.base_url, headers, None)
        items = tuple(
            MetadataItem(name=name, value=part.value or None, secret_key_ref=part.secret_key_ref)
            for name in _TLS_ITEMS
            if (part := getattr(tls, name)) is not None
        )
        found = await self._components.settings(app, _as_component(endpoint, items))
        where = f"HTTPEndpoint {endpoint.namespace or app.namespace}/{endpoint.name}"
        return Outside(endpoint.base_url, headers, _context(found, where))


def _as_component(endpoint: HttpEndpoint, items: tuple[MetadataItem, ...]) -> ComponentResource:
    return ComponentResource(
        name=endpoint.name,
        namespace=endpoint.namespace,
        spec=ComponentSpec(type="httpendpoint", metadata=items),
        secret_store=endpoint.secret_store,
    )


def _context(found: Mapping[str, str], where: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=found.get("root_ca") or None)
        if found.get("certificate"):
            # ssl loads a chain from a file only; it is gone before anything is sent.
            with tempfile.TemporaryDirectory() as folder:
                pair = Path(folder) / "pair.pem"
                pair.touch(0o600)
                pair.write_text(found["certificate"] + "\n" + found.get("private_key", ""))
                context.load_cert_chain(pair)
    except (ssl.SSLError, OSError, ValueError) as exc:
        raise ComponentError(f"clientTLS cannot be used: {exc}", where=where) from exc
    return context


async def _chunks(response: Any) -> AsyncIterator[bytes]:
    """Yield a body as it came; closing ends the connection's part in it."""
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    finally:
        await response.aclose()
