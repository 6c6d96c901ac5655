"""The verbs on resources: get, list, watch, create, replace, patch, apply, delete, delete a collection.

`rest.py` hands over a `Call` whose user is known. Reads take stored bytes and convert only where the stored
version is not the one asked for; writes go through `pipeline.py`; patches are in `patch.py` and `managed.py`,
forms of objects in `forms.py`, long answers in `stream.py`.

Source: contracts operator-webhook.md 6.1 to 6.4.
"""

from __future__ import annotations

import asyncio
import gzip
import secrets
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp

from pelton.apiserver import bodies, forms, managed, patch, selectors
from pelton.apiserver.calls import Call, within_budget
from pelton.apiserver.pipeline import Writer
from pelton.apiserver.registry import Row
from pelton.apiserver.scale import SCALE_ROW, scale_of, scaled
from pelton.apiserver.status import RefusedError, StatusError, success, unknown_fields
from pelton.apiserver.store import Entry, ObjectStore
from pelton.apiserver.strategic import strategic_merge
from pelton.apiserver.stream import Pages, Watch, WatchStream, list_chunks
from pelton.apiserver.watch import GoneError
from pelton.clock import Clock
from pelton.errors import NotFoundError, ProtocolError

__all__ = ["READS", "Verbs", "json_bytes", "not_allowed", "verb_of"]

Obj = dict[str, Any]

READS = ("GET", "HEAD")
"""Methods that change nothing."""

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_JSON = "application/json-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_PATCHES = (_MERGE, _JSON, _APPLY)
_ZIP_FROM = 128 * 1024  # bytes; smaller answers go as they are, as Kubernetes does it
_ZIP_LEVEL = 1
_INLINE = 200  # lists up to this size are sent in one piece


class Verbs:
    """Answers requests on resources.

    Args:
        store: Where objects are.
        writer: Writes them.
        clock: For ages in tables and times in managedFields.
        stopping: Ends all watches when it is set.
    """

    def __init__(self, store: ObjectStore, writer: Writer, clock: Clock, stopping: asyncio.Event) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._stopping = stopping
        self._pages = Pages()

    async def answer(self, call: Call) -> ASGIApp:
        """Answer one request; raises PeltonError."""
        method = call.request.method
        if call.row.deprecation:
            call.warn([call.row.deprecation])
        for sub in call.row.subresources:
            if sub.name == call.subresource:
                verb = "create" if method == "POST" else verb_of(call)
                if verb not in sub.verbs:
                    raise not_allowed(call)
                return await sub.answer(call)
        wanted = verb_of(call)
        if wanted not in call.row.verbs or (call.subresource and method == "DELETE"):
            raise not_allowed(call)
        if call.subresource == "scale":
            return await self._scale(call)
        match wanted:
            case "watch":
                return self._watch(call)
            case "list":
                return self._with_warnings(call, await self._list(call))
            case "get":
                raw = (await self._raws(call.row, [self._entry(call)]))[0]
                return self._with_warnings(call, json_bytes(self._form(call).one(raw)))
            case "create":
                return await self._create(call)
            case "update":
                return await self._replace(call)
            case "patch":
                return await self._patch(call)
            case "delete":
                return await self._delete(call)
            case _:
                return await self._delete_collection(call)

    # -- reading ---------------------------------------------------------------------------------------------

    def _entry(self, call: Call) -> Entry:
        try:
            return self._store.entry(call.key, call.namespace, call.name)
        except NotFoundError as error:
            raise NotFoundError(f'{call.row.name} "{call.name}" not found', where=error.where) from error

    def _form(self, call: Call) -> forms.Form:
        accept = call.request.headers.get("accept", "")
        return forms.choose(accept, call.row, now=self._clock.now(), include=call.query("includeObject"))

    def _selector(self, call: Call) -> selectors.Selector:
        return selectors.parse(call.query("labelSelector"), call.query("fieldSelector"), call.row.selectable)

    async def _raws(self, row: Row, entries: Sequence[Entry]) -> list[bytes]:
        return await self._shown(row, [(entry.api_version, entry.raw) for entry in entries])

    async def _shown(self, row: Row, raws: Sequence[tuple[str, bytes]]) -> list[bytes]:
        """Return the JSON of stored objects in the version of `row`; only what differs is decoded."""
        result = [raw for _, raw in raws]
        other = [at for at, (version, _) in enumerate(raws) if not self._writer.as_stored(row, version)]
        if other:
            objects = await self._writer.shown(row, [raws[at] for at in other])
            for at, obj in zip(other, objects, strict=True):
                result[at] = forms.encode(obj)
        return result

    async def _list(self, call: Call) -> Response:
        selector = self._selector(call)
        form, limit = self._form(call), call.number("limit")
        token = call.query("continue")
        asked = "\n".join(
            [call.row.name, call.namespace, call.query("labelSelector"), call.query("fieldSelector")]
        )
        key, offset, version = "", 0, self._store.version
        entries: Sequence[Entry]
        if token:
            key, entries, version, offset = self._pages.resume(asked, token)
        else:
            self._check_list_version(call, version)
            entries = self._store.entries(call.key, call.scope)
            if not selector.everything:
                entries = [e for e in entries if selector.matches(e.namespace, e.name, e.labels, e.raw)]
        metadata: dict[str, str | int] = {"resourceVersion": str(version)}
        page = entries[offset : offset + limit] if limit else entries[offset:]
        left = len(entries) - offset - len(page)
        if left:
            key = key or self._pages.begin(asked, entries, version)
            metadata |= {"continue": f"{key}.{offset + len(page)}", "remainingItemCount": left}
        elif key:
            self._pages.end(key)
        raws = await self._raws(call.row, page)
        if len(page) <= _INLINE:
            body = form.head(metadata) + b",".join(map(form.item, raws)) + forms.TAIL
            return zipped(call, body) if len(body) >= _ZIP_FROM else json_bytes(body)
        pieces = list_chunks(form, raws, metadata)
        if not _takes_gzip(call):
            return StreamingResponse(pieces, media_type="application/json")
        headers = {"content-encoding": "gzip", "vary": "accept-encoding"}
        return StreamingResponse(_zip_pieces(pieces), media_type="application/json", headers=headers)

    def _check_list_version(self, call: Call, version: int) -> None:
        """Refuse lists of a past or a future that this store cannot show."""
        match, asked = call.query("resourceVersionMatch"), call.number("resourceVersion")
        if match not in ("", "Exact", "NotOlderThan"):
            raise ProtocolError(f"resourceVersionMatch={match} is neither Exact nor NotOlderThan")
        if match and not call.query("resourceVersion"):
            raise ProtocolError("resourceVersionMatch needs a resourceVersion")
        if match == "Exact" and not asked:
            raise ProtocolError("resourceVersionMatch=Exact is not served for resourceVersion 0")
        if match == "Exact" and asked < version:
            raise GoneError("only the current resource version can be listed")
        if asked > version:
            # As Kubernetes: it waits a moment for a version that may come, then answers this.
            cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            raise StatusError(
                504,
                "Timeout",
                f"Too large resource version: {asked}, current: {version}",
                details={"causes": [cause], "retryAfterSeconds": 1},
            )

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
            api_version=call.row.api_version,
            kind=call.row.kind,
            namespace=call.scope,
            selector=self._watched(call),
            since=since,
            bookmarks=bookmarks,
            mark_initial=bookmarks and initial == "true",
            # As long as Kubernetes: spread, so that clients do not all come back at once.
            timeout_s=call.number("timeoutSeconds") or 1800 + secrets.randbelow(1801),
            shown=lambda raws: self._shown(call.row, raws),
        )
        self._form(call)  # refuses what is not served before the stream begins
        return WatchStream(self._store, watch, lambda: self._form(call), self._stopping)

    def _watched(self, call: Call) -> selectors.Selector:
        """Return the selector of a watch; a name in the path is one more field."""
        fields = call.query("fieldSelector")
        if call.name:
            fields = ",".join(filter(None, [fields, f"metadata.name={call.name}"]))
        return selectors.parse(call.query("labelSelector"), fields, call.row.selectable)

    # -- writing ---------------------------------------------------------------------------------------------

    async def _create(self, call: Call) -> Response:
        if call.row.namespaced and not call.namespace:
            raise ProtocolError(
                "the path names no namespace",
                hint="Create in /namespaces/<namespace>/" + call.row.plural,
            )
        obj = await self._object(call)
        if call.row.answer is not None:
            return self._written(call, await call.row.answer(call, obj), status=201)
        return self._written(call, await self._writer.create(call, obj), status=201)

    async def _replace(self, call: Call) -> Response:
        obj = await self._object(call)
        self._entry(call)  # a missing object is told before what may be wrong with the new one
        return self._written(call, await self._writer.update(call, lambda old: obj))

    async def _patch(self, call: Call) -> Response:
        media = bodies.content_type(call.request)
        served = (*_PATCHES, _STRATEGIC) if call.row.builtin else _PATCHES
        if media not in served:
            raise RefusedError(
                f"patch type {media!r} is not served", status=415, hint="Use one of " + ", ".join(served)
            )
        given = bodies.parse(await bodies.read(call.request), media)
        if media == _APPLY:
            return await self._apply(call, given)
        if media != _JSON and not isinstance(given, dict):
            raise ProtocolError("a merge patch is a mapping")

        def patched(old: Obj) -> Obj:
            if media == _JSON:
                new = patch.json_patch(old, given)
            elif media == _STRATEGIC:
                new = strategic_merge(call.row.schema or {}, old, given)
            else:
                new = patch.merge_patch(old, given)
            return self._identified(call, new)

        self._entry(call)
        return self._written(call, await self._writer.update(call, patched))

    async def _apply(self, call: Call, given: Any) -> Response:
        if not call.query("fieldManager"):
            raise ProtocolError("a server-side apply names its fieldManager")
        manager = call.field_manager
        config = self._identified(call, given)
        if config.get("metadata", {}).get("managedFields"):
            raise ProtocolError("metadata.managedFields must be nil in a server-side apply")

        def applied(old: Obj | None) -> Obj:
            new = managed.applied(
                call.row,
                old,
                config,
                manager=manager,
                force=call.flag("force"),
                subresource=call.subresource,
                now=self._clock.now(),
                where=call.where,
            )
            if version := config.get("metadata", {}).get("resourceVersion"):
                new = {**new, "metadata": {**new["metadata"], "resourceVersion": version}}
            return new

        try:
            self._entry(call)
        except NotFoundError:
            if call.subresource:
                raise
            created = await self._writer.create(call, applied(None), tracked=True)
            return self._written(call, created, status=201)
        return self._written(call, await self._writer.update(call, applied, tracked=True))

    async def _scale(self, call: Call) -> Response:
        """Answer get, update and patch of the scale subresource."""
        entry = self._entry(call)
        method = call.request.method
        if method in READS:
            (obj,) = await self._writer.shown(call.row, [(entry.api_version, entry.raw)])
            return self._shown_scale(call, obj)
        media = bodies.content_type(call.request)
        given = bodies.parse(await bodies.read(call.request), media)

        def changed(old: Obj) -> Obj:
            wanted = given
            if method == "PATCH":
                now = scale_of(call.row, old)
                wanted = patch.json_patch(now, given) if media == _JSON else patch.merge_patch(now, given)
            return scaled(call.row, old, wanted)

        if method == "PATCH" and media not in (_JSON, _MERGE, _STRATEGIC):
            raise RefusedError(f"patch type {media!r} is not served for a Scale", status=415)
        return self._shown_scale(call, await self._writer.update(call, changed))

    def _shown_scale(self, call: Call, obj: Obj) -> Response:
        form = forms.choose(call.request.headers.get("accept", ""), SCALE_ROW, now=self._clock.now())
        shown = forms.encode(scale_of(call.row, obj))
        return self._with_warnings(call, json_bytes(form.one(shown)))

    async def _delete(self, call: Call) -> Response:
        self._entry(call)
        obj, gone = await self._writer.delete(call, await self._options(call))
        if not gone:
            return self._written(call, obj)
        uid = obj["metadata"]["uid"]
        status = success(name=call.name, group=call.row.group, kind=call.row.plural, uid=uid)
        return self._with_warnings(call, json_bytes(forms.encode(status)))

    async def _delete_collection(self, call: Call) -> Response:
        if call.row.namespaced and not call.namespace:
            raise RefusedError(
                "a collection is deleted in one namespace at a time",
                status=405,
                hint="Use /namespaces/<namespace>/" + call.row.plural,
            )
        options = await self._options(call)
        selector = self._selector(call)
        gone = []
        for number, entry in enumerate(self._store.entries(call.key, call.scope)):
            if not selector.matches(entry.namespace, entry.name, entry.labels, entry.raw):
                continue
            one = Call(call.request, call.row, entry.namespace, entry.name, "", call.user, call.warnings)
            try:
                obj, _ = await self._writer.delete(one, options)
            except NotFoundError:
                continue  # deleted by someone else while this one gave way below
            gone.append(forms.encode(obj))
            if number % 50 == 49:
                await asyncio.sleep(0)
        form = self._form(call)
        head = form.head({"resourceVersion": str(self._store.version)})
        return self._with_warnings(call, json_bytes(head + b",".join(map(form.item, gone)) + forms.TAIL))

    # -- shared by the verbs ---------------------------------------------------------------------------------

    async def _object(self, call: Call) -> Obj:
        body, media = await bodies.read(call.request), bodies.content_type(call.request)
        given = self._identified(call, bodies.parse(body, media))
        # Looked for only when asked: it costs a second decoding, and by default would only give a warning.
        if call.query("fieldValidation") in ("Strict", "Warn") and (twice := bodies.duplicates(body, media)):
            unknown_fields(call.field_validation, twice, call.warn)
        return given

    async def _options(self, call: Call) -> Obj:
        """Return the DeleteOptions of the body and the query; {} when there are none."""
        body = await bodies.read(call.request)
        given = bodies.parse(body, bodies.content_type(call.request)) if body.strip() else {}
        if not isinstance(given, dict):
            raise ProtocolError("the body of a DELETE is a DeleteOptions object")
        if given.get("dryRun") == ["All"]:
            call.dry_run_asked = True
        options = {**given}
        if policy := call.query("propagationPolicy"):
            options["propagationPolicy"] = policy
        if options.get("propagationPolicy") not in (None, "", "Background", "Foreground", "Orphan"):
            raise ProtocolError(
                f"propagationPolicy={options['propagationPolicy']} is not known",
                hint="Use Background, Foreground or Orphan.",
            )
        return options

    def _identified(self, call: Call, given: Any) -> Obj:
        """Return a copy that carries the namespace of the path; raises ProtocolError where they disagree."""
        if not isinstance(given, dict) or not isinstance(given.get("metadata", {}), dict):
            raise ProtocolError("the body is not a Kubernetes object with a metadata mapping")
        if call.row.builtin:  # the path says it for those that leave it out
            given = {"apiVersion": call.row.api_version, "kind": call.row.kind, **given}
        for field, expected in (("apiVersion", call.row.api_version), ("kind", call.row.kind)):
            if given.get(field) != expected:
                raise ProtocolError(
                    f"the object has {field} {given.get(field)!r}, this path serves {expected!r}"
                )
        metadata = dict(given.get("metadata", {}))
        for field, expected in (("namespace", call.namespace), ("name", call.name)):
            if expected and (metadata.get(field) or expected) != expected:
                raise ProtocolError(
                    f"metadata.{field} {metadata[field]!r} is not the {field} of the path, {expected!r}"
                )
            if expected:
                metadata[field] = expected
        if not call.row.namespaced:
            metadata.pop("namespace", None)
        return {**given, "metadata": metadata}

    def _written(self, call: Call, obj: Obj, *, status: int = 200) -> Response:
        return self._with_warnings(call, json_bytes(self._form(call).one(forms.encode(obj)), status=status))

    def _with_warnings(self, call: Call, response: Response) -> Response:
        for warning in within_budget(call.warnings):
            text = " ".join(warning.split()).replace("\\", "\\\\").replace('"', '\\"')
            response.headers.append("Warning", f'299 - "{text.encode("ascii", "replace").decode()}"')
        return response


def zipped(call: Call, body: bytes) -> Response:
    """Return a JSON answer, compressed when the client takes that."""
    if not _takes_gzip(call):
        return json_bytes(body)
    response = json_bytes(gzip.compress(body, _ZIP_LEVEL))
    response.headers["content-encoding"] = "gzip"
    response.headers["vary"] = "accept-encoding"
    return response


def _takes_gzip(call: Call) -> bool:
    offers = call.request.headers.get("accept-encoding", "").replace(" ", "").lower().split(",")
    return any(offer.partition(";")[0] == "gzip" and not offer.endswith(";q=0") for offer in offers)


async def _zip_pieces(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    packer = zlib.compressobj(_ZIP_LEVEL, wbits=31)
    async for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def verb_of(call: Call) -> str:
    """Return Kubernetes' word for what a request does, "" for none."""
    method = call.request.method
    if method in READS:
        return "watch" if call.flag("watch") else "get" if call.name else "list"
    if not call.name:
        return {"POST": "create", "DELETE": "deletecollection"}.get(method, "")
    return {"PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(method, "")


def not_allowed(call: Call) -> RefusedError:
    """Return the error for a method that a path has not."""
    return RefusedError(f"{call.request.method} is not served on {call.request.url.path}", status=405)


def json_bytes(body: bytes, status: int = 200) -> Response:
    """Return a JSON answer."""
    return Response(body, status_code=status, media_type="application/json")
