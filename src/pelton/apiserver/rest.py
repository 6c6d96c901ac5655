"""The Kubernetes-shaped API as an ASGI application: paths, who may, what describes it, errors as `Status`.

`create_app` is called by `service.py`. The verbs on resources are in `verbs.py`, the way of a write in
`pipeline.py`, discovery in `discovery.py`.

Source: contracts operator-webhook.md section 6.
"""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pelton.apiserver import authorization, discovery, forms, openapi
from pelton.apiserver.authorization import Asked
from pelton.apiserver.calls import Call, User
from pelton.apiserver.pipeline import Writer
from pelton.apiserver.registry import Registry, Row
from pelton.apiserver.status import RefusedError, status_of
from pelton.apiserver.store import ObjectStore
from pelton.apiserver.tokens import Authenticate
from pelton.apiserver.verbs import READS, Verbs, json_bytes, verb_of
from pelton.clock import Clock, SystemClock
from pelton.errors import NotFoundError, PeltonError

__all__ = ["create_app"]

METRICS = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of `/metrics`: the text form that every Prometheus reads."""

Obj = dict[str, Any]


def create_app(
    store: ObjectStore,
    registry: Registry,
    writer: Writer,
    *,
    authenticate: Authenticate,
    version: str,
    log: logging.Logger,
    clock: Clock | None = None,
    metrics: Callable[[], Awaitable[bytes]] | None = None,
) -> Starlette:
    """Return the application.

    Args:
        store: Where objects are; opened and closed by the caller.
        registry: What is served; may change at any time.
        writer: Writes to the store.
        authenticate: Bearer token -> user, None when it is not valid; asked at every request.
        version: Version of Pelton, shown by `/version`.
        log: For failures that are nobody's fault but ours; tokens and bodies never go there.
        clock: For ages in tables and times in managedFields; the machine's when None.
        metrics: Returns the text of `/metrics`; without it there is none.

    Returns:
        An application whose `state.stopping` (asyncio.Event) ends all watches when it is set.
    """
    stopping = asyncio.Event()
    clock = clock or SystemClock()
    verbs = Verbs(store, writer, clock, stopping)
    api = _Api(registry, verbs, authenticate, version, log, metrics)
    app = Starlette(routes=[Route("/{path:path}", endpoint=api)])
    app.state.stopping = stopping
    return app


class _Api:
    def __init__(
        self,
        registry: Registry,
        verbs: Verbs,
        authenticate: Authenticate,
        version: str,
        log: logging.Logger,
        metrics: Callable[[], Awaitable[bytes]] | None,
    ) -> None:
        self._registry = registry
        self._verbs = verbs
        self._authenticate = authenticate
        self._version = version
        self._log = log
        self._metrics = metrics
        self._documents: dict[str, bytes] = {}
        self._documents_of = -1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            answer = await self._answer(request)
        except ClientDisconnect:
            return
        except PeltonError as error:
            answer = _failure(error)
        except Exception:
            self._log.exception("request failed method=%s path=%s", request.method, request.url.path)
            answer = _failure(
                PeltonError("the API server failed on this request", hint="Its log has the reason.")
            )
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> ASGIApp:
        parts = [part for part in request.url.path.split("/") if part]
        if parts[:1] in (["healthz"], ["livez"], ["readyz"]):
            return PlainTextResponse("ok")
        if parts == ["version"]:
            return _json(_version(self._version))
        user = self._authorize(request)
        if parts == ["metrics"] and self._metrics is not None and request.method in READS:
            return Response(await self._metrics(), media_type=METRICS)
        if parts[:1] == ["api"] and parts[1:2] == ["v1"] and len(parts) > 2:
            return await self._on_resource(request, user, "", "v1", parts[2:])
        if parts[:1] == ["apis"] and len(parts) > 3:
            return await self._on_resource(request, user, parts[1], parts[2], parts[3:])
        if request.method not in READS:
            raise RefusedError(f"{request.method} is not served on {request.url.path}", status=405)
        document = self._document(parts, request.headers.get("accept", ""))
        if document is None:
            raise NotFoundError(f"the server does not serve {request.url.path}")
        return document

    def _authorize(self, request: Request) -> User:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        user = self._authenticate(given.strip()) if scheme.lower() == "bearer" and given else None
        if user is None:
            raise RefusedError(
                "no valid bearer token", status=401, hint="Use the kubeconfig that the platform wrote."
            )
        return user

    def _document(self, parts: list[str], accept: str) -> Response | None:
        """Answer what describes the API itself; None when there is no such document."""
        merged = any(
            (a.get("g"), a.get("v"), a.get("as")) == ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList")
            for a in forms.accepts(accept)
        )
        served = self._registry.rows()
        match parts:
            case []:
                return _json({"paths": ["/api", "/apis", "/healthz", "/openapi/v3", "/version"]})
            case ["api" | "apis"] if merged:
                document = discovery.aggregated(served, core=parts == ["api"])
                return _json(document, media=discovery.AGGREGATED)
            case ["api"]:
                return _json({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
            case ["apis"]:
                return _json(discovery.group_list(served))
            case ["api", version]:
                return _json(discovery.resource_list(served, "", version))
            case ["apis", group]:
                return _json(discovery.group_of(served, group))
            case ["apis", group, version]:
                return _json(discovery.resource_list(served, group, version))
            case ["openapi", "v2"] if "proto" in accept:
                return Response(openapi.v2(version=self._version[:20]), media_type=openapi.V2)
            case ["openapi", "v3"]:
                return _json(openapi.index(served))
            case ["openapi", "v3", *rest]:
                return self._openapi("/".join(rest))
        return None

    def _openapi(self, path: str) -> Response | None:
        if self._documents_of != self._registry.revision:
            self._documents, self._documents_of = {}, self._registry.revision
        body = self._documents.get(path)
        if body is None:
            found = openapi.document(self._registry.rows(), path, version=self._version)
            if found is None:
                return None
            body = self._documents[path] = forms.encode(found)
        return json_bytes(body)

    async def _on_resource(
        self, request: Request, user: User, group: str, version: str, rest: list[str]
    ) -> ASGIApp:
        call = self._locate(request, user, group, version, rest)
        try:
            authorization.check(
                user,
                Asked(
                    verb=verb_of(call) or request.method.lower(),
                    group=call.row.group,
                    resource=call.row.plural,
                    subresource=call.subresource,
                    namespace=call.namespace,
                    namespaced=call.row.namespaced,
                    name=call.name,
                ),
            )
            return await self._verbs.answer(call)
        except PeltonError as error:
            return _failure(error, call)

    def _locate(self, request: Request, user: User, group: str, version: str, rest: list[str]) -> Call:
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and not self._of_namespace(rest):
            namespace, rest = rest[1], rest[2:]
        row = self._registry.find(group, version, rest[0])
        wrong_scope = row is not None and bool(namespace) and not row.namespaced
        if row is None or wrong_scope or len(rest) > 3 or not _has(row, rest[2:]):
            raise NotFoundError("the server could not find the requested resource")
        name = rest[1] if len(rest) > 1 else ""
        if row.namespaced and name and not namespace:
            raise NotFoundError("the server could not find the requested resource")
        return Call(request, row, namespace, name, rest[2] if len(rest) > 2 else "", user)

    def _of_namespace(self, rest: list[str]) -> bool:
        """Tell whether `namespaces/x/y` is a subresource of a namespace and not a resource in it."""
        row = self._registry.find("", "v1", "namespaces")
        return len(rest) == 3 and row is not None and _has(row, rest[2:])


def _has(row: Row, subresource: list[str]) -> bool:
    match subresource:
        case []:
            return True
        case ["status"]:
            return row.status
        case ["scale"]:
            return row.scale is not None
        case [name]:
            return any(sub.name == name for sub in row.subresources)
    return False


def _failure(error: PeltonError, call: Call | None = None) -> Response:
    group, kind = (call.row.group, call.row.plural) if call else ("", "")
    status = status_of(error, name=call.name if call else "", group=group, kind=kind)
    response = json_bytes(forms.encode(status), status=status["code"])
    if status["code"] == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _json(document: Obj | None, media: str = "application/json") -> Response:
    if document is None:
        raise NotFoundError("the server could not find the requested resource")
    return Response(forms.encode(document), media_type=media)


def _version(version: str) -> Obj:
    """Return `/version`; clients read the Kubernetes version whose API behaviour this follows."""
    return {
        "major": "1",
        "minor": "36",
        "gitVersion": f"v1.36.0+pelton-{version}",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": f"linux/{'amd64' if platform.machine() == 'x86_64' else 'arm64'}",
    }
