"""The Kubernetes-shaped API as an ASGI application: paths, verbs, who may, and errors as `Status` objects.

`create_app` is called by `cli/`, which brings the store, the table of kinds and the admission
(`pelton.manifest`). Each verb is one method here; forms of objects are in `forms.py`, long answers in
`stream.py`, patches in `patch.py` and `apply.py`, discovery in `discovery.py`. A write runs without an
await between reading the stored object and storing the new one, so patches need no retry.

Source: contracts operator-webhook.md section 6.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import platform
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pelton.apiserver import apply, bodies, discovery, forms, patch, selectors
from pelton.apiserver.calls import NAMESPACES, Call, namespace_object
from pelton.apiserver.discovery import Resource, key_of
from pelton.apiserver.status import RefusedError, status_of, success
from pelton.apiserver.store import Entry, ObjectStore, decode
from pelton.apiserver.stream import Pages, Watch, WatchStream, list_chunks
from pelton.apiserver.watch import GoneError
from pelton.clock import Clock, SystemClock
from pelton.errors import ConflictError, NotFoundError, PeltonError, ProtocolError

__all__ = ["ADMIN", "VIEW", "Admit", "Admitted", "create_app"]

ADMIN = "admin"
"""Role that may do everything."""

METRICS = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of `/metrics`: the text form that every Prometheus reads."""

VIEW = "view"
"""Role that may read."""

Obj = dict[str, Any]

_PATCHES = (
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/apply-patch+yaml",
)
_READS = ("GET", "HEAD")
_INLINE = 200  # lists up to this size are sent in one piece


class Admitted(Protocol):
    """A checked object with its defaults, and sentences for the user; `pelton.manifest.kinds` returns it."""

    @property
    def obj(self) -> Obj:
        """The object to store."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """One sentence each, may be empty."""
        ...


class Admit(Protocol):
    """Checks an object before it is stored; raises InvalidError, ManifestError, UnservedVersionError."""

    def __call__(self, obj: Obj, /) -> Admitted:
        """Return the object to store; `obj` is not changed."""
        ...


def create_app(
    store: ObjectStore,
    resources: Sequence[Resource],
    admit: Admit,
    *,
    tokens: Mapping[str, str],
    version: str,
    log: logging.Logger,
    clock: Clock | None = None,
    metrics: Callable[[], Awaitable[bytes]] | None = None,
) -> Starlette:
    """Return the application.

    Args:
        store: Where objects are; opened and closed by the caller.
        resources: Kinds to serve.
        admit: Called on every object before it is stored, except for status writes.
        tokens: Bearer token -> role (`admin` or `view`); read at every request, so it may change.
        version: Version of Pelton, shown by `/version`.
        log: For failures that are nobody's fault but ours; tokens and bodies never go there.
        clock: For ages in tables and times in managedFields; the machine's when None.
        metrics: Returns the text of `/metrics`; without it there is none.

    Returns:
        An application whose `state.stopping` (asyncio.Event) ends all watches when it is set.
    """
    stopping = asyncio.Event()
    api = _Api(store, resources, admit, tokens, version, log, clock or SystemClock(), stopping, metrics)
    app = Starlette(routes=[Route("/{path:path}", endpoint=api)])
    app.state.stopping = stopping
    return app


class _Api:
    def __init__(
        self,
        store: ObjectStore,
        resources: Sequence[Resource],
        admit: Admit,
        tokens: Mapping[str, str],
        version: str,
        log: logging.Logger,
        clock: Clock,
        stopping: asyncio.Event,
        metrics: Callable[[], Awaitable[bytes]] | None,
    ) -> None:
        self._store = store
        self._resources = tuple(resources)
        self._by_path = {(r.group, r.version, r.plural): r for r in self._resources}
        self._admit = admit
        self._tokens = tokens
        self._version = version
        self._log = log
        self._clock = clock
        self._stopping = stopping
        self._metrics = metrics
        self._pages = Pages()

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
        self._authorize(request)
        if parts == ["metrics"] and self._metrics is not None and request.method in _READS:
            return Response(await self._metrics(), media_type=METRICS)
        if parts[:1] == ["api"] and parts[1:2] == ["v1"] and len(parts) > 2:
            return await self._on_resource(request, "", "v1", parts[2:])
        if parts[:1] == ["apis"] and len(parts) > 3:
            return await self._on_resource(request, parts[1], parts[2], parts[3:])
        if request.method not in _READS:
            raise _not_allowed(request)
        document = self._document(parts, request.headers.get("accept", ""))
        if document is None:
            raise NotFoundError(f"the server does not serve {request.url.path}")
        return document

    def _authorize(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        role = ""
        # Every token is compared, in constant time each, so that the time taken tells nothing.
        for token, has in self._tokens.items():
            if hmac.compare_digest(token.encode(), given.strip().encode()):
                role = has
        if scheme.lower() != "bearer" or not given or not role:
            raise RefusedError(
                "no valid bearer token", status=401, hint="Use the kubeconfig that the platform wrote."
            )
        if role != ADMIN and not (role == VIEW and request.method in _READS):
            raise RefusedError(
                f"role {role!r} may not {request.method}", status=403, hint="Use the admin token."
            )

    def _document(self, parts: list[str], accept: str) -> Response | None:
        """Answer what describes the API itself; None when there is no such document."""
        merged = any(
            (a.get("g"), a.get("v"), a.get("as")) == ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList")
            for a in forms.accepts(accept)
        )
        served = self._resources
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
                return Response(
                    discovery.openapi_v2(version=self._version[:20]), media_type=discovery.OPENAPI_V2
                )
            case ["openapi", "v3"]:
                return _json(discovery.openapi_index(served))
            case ["openapi", "v3", *rest]:
                return _json(discovery.openapi(served, "/".join(rest), version=self._version))
        return None

    # -- one resource --------------------------------------------------------------------------------------

    async def _on_resource(self, request: Request, group: str, version: str, rest: list[str]) -> ASGIApp:
        call = self._locate(request, group, version, rest)
        try:
            if call.resource is NAMESPACES:
                return self._namespaces(call)
            return await self._verb(call)
        except PeltonError as error:
            return _failure(error, call)

    def _locate(self, request: Request, group: str, version: str, rest: list[str]) -> Call:
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        if (group, rest[0]) == ("", "namespaces"):
            resource: Resource | None = NAMESPACES
        else:
            resource = self._by_path.get((group, version, rest[0]))
        wrong_scope = resource is not None and bool(namespace) and not resource.namespaced
        if resource is None or wrong_scope or len(rest) > 3 or rest[2:] not in ([], ["status"]):
            raise NotFoundError("the server could not find the requested resource")
        if len(rest) > 2 and not resource.status and resource is not NAMESPACES:
            raise NotFoundError(f"{key_of(resource)} has no status subresource")
        name = rest[1] if len(rest) > 1 else ""
        if resource.namespaced and name and not namespace:
            raise NotFoundError("the server could not find the requested resource")
        return Call(request, resource, namespace, name, rest[2] if len(rest) > 2 else "")

    async def _verb(self, call: Call) -> ASGIApp:
        method = call.request.method
        if not call.name:
            if method in _READS:
                return self._watch(call) if call.flag("watch") else self._list(call)
            if method == "POST":
                return await self._create(call)
            if method == "DELETE":
                return await self._delete_collection(call)
        elif method in _READS:
            form = self._form(call)
            return _bytes(form.one(self._entry(call).raw))
        elif method == "PUT":
            return await self._replace(call)
        elif method == "PATCH":
            return await self._patch(call)
        elif method == "DELETE" and not call.subresource:
            return await self._delete(call)
        raise _not_allowed(call.request)

    def _entry(self, call: Call) -> Entry:
        return self._store.entry(call.key, call.namespace, call.name)

    def _form(self, call: Call) -> forms.Form:
        accept = call.request.headers.get("accept", "")
        return forms.choose(accept, call.resource, now=self._clock.now(), include=call.query("includeObject"))

    def _list(self, call: Call) -> Response:
        selector = selectors.parse(call.query("labelSelector"), call.query("fieldSelector"))
        form, limit = self._form(call), call.number("limit")
        token = call.query("continue")
        asked = "\n".join(
            [call.key, call.namespace, call.query("labelSelector"), call.query("fieldSelector")]
        )
        key, offset, version = "", 0, self._store.version
        entries: Sequence[Entry]
        if token:
            key, entries, version, offset = self._pages.resume(asked, token)
        else:
            exact = call.query("resourceVersionMatch") == "Exact"
            if exact and call.number("resourceVersion") != version:
                raise GoneError("only the current resource version can be listed")
            entries = self._store.entries(call.key, call.scope)
            if not selector.everything:
                entries = [e for e in entries if selector.matches(e.namespace, e.name, e.labels)]
        metadata: dict[str, str | int] = {"resourceVersion": str(version)}
        page = entries[offset : offset + limit] if limit else entries[offset:]
        left = len(entries) - offset - len(page)
        if left:
            key = key or self._pages.begin(asked, entries, version)
            metadata |= {"continue": f"{key}.{offset + len(page)}", "remainingItemCount": left}
        elif key:
            self._pages.end(key)
        if len(page) <= _INLINE:
            body = form.head(metadata) + b",".join(form.item(entry.raw) for entry in page) + forms.TAIL
            return _bytes(body)
        return StreamingResponse(list_chunks(form, page, metadata), media_type="application/json")

    def _watch(self, call: Call) -> ASGIApp:
        initial = call.query("sendInitialEvents").lower()
        since: int | None = call.number("resourceVersion") or None
        bookmarks = call.flag("allowWatchBookmarks")
        if initial == "true":
            if call.query("resourceVersionMatch") != "NotOlderThan":
                raise ProtocolError("sendInitialEvents needs resourceVersionMatch=NotOlderThan")
            since = None
        elif initial == "false" and since is None:
            since = self._store.version
        watch = Watch(
            resource=call.key,
            api_version=call.api_version,
            kind=call.resource.kind,
            namespace=call.scope,
            selector=selectors.parse(call.query("labelSelector"), call.query("fieldSelector")),
            since=since,
            bookmarks=bookmarks,
            mark_initial=bookmarks and initial == "true",
            # As long as Kubernetes: spread, so that clients do not all come back at once.
            timeout_s=call.number("timeoutSeconds") or 1800 + secrets.randbelow(1801),
        )
        self._form(call)  # refuses what is not served before the stream begins
        return WatchStream(self._store, watch, lambda: self._form(call), self._stopping)

    async def _create(self, call: Call) -> Response:
        if call.resource.namespaced and not call.namespace:
            raise ProtocolError(
                "the path names no namespace",
                hint="Create in /namespaces/<namespace>/" + call.resource.plural,
            )
        obj = self._checked(call, await self._object(call))
        created = await self._store.create(call.key, obj, dry_run=call.dry_run)
        return self._written(call, created, status=201)

    async def _replace(self, call: Call) -> Response:
        obj = await self._object(call)
        if not call.subresource:
            self._entry(call)  # a missing object is told before what may be wrong with the new one
            obj = self._checked(call, obj)
        return await self._update(call, obj)

    async def _patch(self, call: Call) -> Response:
        media = bodies.content_type(call.request)
        if media not in _PATCHES:
            raise RefusedError(
                f"patch type {media!r} is not served", status=415, hint="Use one of " + ", ".join(_PATCHES)
            )
        given = bodies.parse(await bodies.read(call.request), media)
        if media == "application/apply-patch+yaml":
            return await self._apply(call, given)
        old = decode(self._entry(call).raw)
        if media == "application/json-patch+json":
            new = patch.json_patch(old, given)
        elif isinstance(given, dict):
            new = patch.merge_patch(old, given)
        else:
            raise ProtocolError("a merge patch is a mapping")
        new = self._identified(call, new)
        return await self._update(call, new if call.subresource else self._checked(call, new))

    async def _apply(self, call: Call, given: Any) -> Response:
        manager = call.query("fieldManager")
        if not manager or len(manager) > 128:
            raise ProtocolError("a server-side apply names its fieldManager, at most 128 characters")
        config = self._identified(call, given)
        if config.get("metadata", {}).get("managedFields"):
            raise ProtocolError("metadata.managedFields must be nil in a server-side apply")
        config.pop("status" if not call.subresource else "spec", None)
        try:
            old: Obj | None = decode(self._entry(call).raw)
        except NotFoundError:
            if call.subresource:
                raise
            old = None
        metadata = {"namespace": call.namespace} if call.namespace else {}
        start = {"apiVersion": call.api_version, "kind": call.resource.kind}
        new = apply.server_side_apply(
            old or {**start, "metadata": {"name": call.name, **metadata}},
            config,
            manager=manager,
            force=call.flag("force"),
            subresource=call.subresource,
            now=self._clock.now(),
            where=call.where,
        )
        given_version = config.get("metadata", {}).get("resourceVersion")
        if given_version:
            new["metadata"]["resourceVersion"] = given_version
        if call.subresource:
            return await self._update(call, new)
        new = self._checked(call, new)
        if old is not None:
            return await self._update(call, new)
        created = await self._store.create(call.key, new, dry_run=call.dry_run)
        return self._written(call, created, status=201)

    async def _delete(self, call: Call) -> Response:
        entry = self._entry(call)
        options = await self._options(call)
        _check_preconditions(options.get("preconditions"), decode(entry.raw), call)
        dry_run = call.dry_run or options.get("dryRun") == ["All"]
        gone = await self._store.delete(call.key, call.namespace, call.name, dry_run=dry_run)
        if gone["metadata"].get("finalizers"):
            return self._written(call, gone)
        uid = gone["metadata"]["uid"]
        group, plural = call.resource.group, call.resource.plural
        return _json(success(name=call.name, group=group, kind=plural, uid=uid))

    async def _delete_collection(self, call: Call) -> Response:
        if call.resource.namespaced and not call.namespace:
            raise RefusedError(
                "a collection is deleted in one namespace at a time",
                status=405,
                hint="Use /namespaces/<namespace>/" + call.resource.plural,
            )
        options = await self._options(call)
        dry_run = call.dry_run or options.get("dryRun") == ["All"]
        selector = selectors.parse(call.query("labelSelector"), call.query("fieldSelector"))
        gone = []
        for number, entry in enumerate(self._store.entries(call.key, call.scope)):
            if not selector.matches(entry.namespace, entry.name, entry.labels):
                continue
            try:
                obj = await self._store.delete(call.key, entry.namespace, entry.name, dry_run=dry_run)
            except NotFoundError:
                continue  # deleted by someone else while this one gave way below
            gone.append(forms.encode(obj))
            if number % 50 == 49:
                await asyncio.sleep(0)
        form = self._form(call)
        head = form.head({"resourceVersion": str(self._store.version)})
        return _bytes(head + b",".join(form.item(raw) for raw in gone) + forms.TAIL)

    # -- shared by the verbs -------------------------------------------------------------------------------

    async def _object(self, call: Call) -> Obj:
        return self._identified(
            call, bodies.parse(await bodies.read(call.request), bodies.content_type(call.request))
        )

    async def _options(self, call: Call) -> Obj:
        """Return the DeleteOptions of the body, {} when there is none."""
        body = await bodies.read(call.request)
        given = bodies.parse(body, bodies.content_type(call.request)) if body.strip() else {}
        if not isinstance(given, dict):
            raise ProtocolError("the body of a DELETE is a DeleteOptions object")
        return given

    def _identified(self, call: Call, given: Any) -> Obj:
        """Return a copy that carries the namespace of the path; raises ProtocolError where they disagree."""
        if not isinstance(given, dict) or not isinstance(given.get("metadata", {}), dict):
            raise ProtocolError("the body is not a Kubernetes object with a metadata mapping")
        for field, expected in (("apiVersion", call.api_version), ("kind", call.resource.kind)):
            if given.get(field) != expected:
                raise ProtocolError(
                    f"the object has {field} {given.get(field)!r}, this path serves {expected!r}"
                )
        metadata = dict(given.get("metadata", {}))
        for field, expected in (("namespace", call.namespace), ("name", call.name)):
            if expected and metadata.setdefault(field, expected) != expected:
                raise ProtocolError(
                    f"metadata.{field} {metadata[field]!r} is not the {field} of the path, {expected!r}"
                )
        if not call.resource.namespaced:
            metadata.pop("namespace", None)
        return {**given, "metadata": metadata}

    def _checked(self, call: Call, obj: Obj) -> Obj:
        admitted = self._admit(obj)
        call.warnings = tuple(admitted.warnings)
        return admitted.obj

    async def _update(self, call: Call, obj: Obj) -> Response:
        updated = await self._store.update(call.key, obj, subresource=call.subresource, dry_run=call.dry_run)
        return self._written(call, updated)

    def _written(self, call: Call, obj: Obj, *, status: int = 200) -> Response:
        response = _bytes(self._form(call).one(forms.encode(obj)), status=status)
        for warning in call.warnings:
            text = " ".join(warning.split()).replace("\\", "\\\\").replace('"', '\\"')
            response.headers.append("Warning", f'299 - "{text.encode("ascii", "replace").decode()}"')
        return response

    def _namespaces(self, call: Call) -> Response:
        if call.request.method not in _READS or call.subresource or call.flag("watch"):
            raise RefusedError(
                "namespaces can be read only",
                status=405,
                hint="A namespace exists as soon as an object is created in it; nothing needs to be done.",
            )
        names = sorted({"default", *self._store.namespaces()})
        selector = selectors.parse(call.query("labelSelector"), call.query("fieldSelector"))
        form = self._form(call)
        if call.name:
            if call.name not in names:
                raise NotFoundError(f'namespaces "{call.name}" not found')
            return _bytes(form.one(namespace_object(call.name)))
        rows = [
            form.item(namespace_object(name))
            for name in names
            if selector.matches("", name, {"kubernetes.io/metadata.name": name})
        ]
        head = form.head({"resourceVersion": str(self._store.version)})
        return _bytes(head + b",".join(rows) + forms.TAIL)


def _check_preconditions(given: object, stored: Obj, call: Call) -> None:
    if not isinstance(given, dict):
        return
    for key in ("uid", "resourceVersion"):
        if given.get(key) and given[key] != stored["metadata"].get(key):
            raise ConflictError(
                f"precondition failed: {key} {given[key]} is not {stored['metadata'].get(key)}",
                where=call.where,
            )


def _not_allowed(request: Request) -> RefusedError:
    return RefusedError(f"{request.method} is not served on {request.url.path}", status=405)


def _failure(error: PeltonError, call: Call | None = None) -> Response:
    group, kind = (call.resource.group, call.resource.plural) if call else ("", "")
    status = status_of(error, name=call.name if call else "", group=group, kind=kind)
    response = _bytes(forms.encode(status), status=status["code"])
    if status["code"] == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _json(document: Obj | None, media: str = "application/json") -> Response:
    if document is None:
        raise NotFoundError("the server could not find the requested resource")
    return Response(forms.encode(document), media_type=media)


def _bytes(body: bytes, status: int = 200) -> Response:
    return Response(body, status_code=status, media_type="application/json")


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
