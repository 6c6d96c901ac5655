"""Long answers: lists sent in chunks, pages of one snapshot, and the watch stream.

`rest.py` builds them; they read entries and change logs of `store.py` and show them in a form of `forms.py`.
Source: contracts operator-webhook.md 6.3.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from pelton.apiserver.forms import TAIL, Form, encode
from pelton.apiserver.selectors import Selector
from pelton.apiserver.status import status_of
from pelton.apiserver.store import Entry, ObjectStore
from pelton.apiserver.watch import Change, ChangeLog, GoneError
from pelton.errors import PeltonError

__all__ = ["Pages", "Watch", "WatchStream", "list_chunks"]

_CHUNK = 200  # items rendered between two turns of the loop
_BOOKMARK_S = 60.0
_SPACING_S = 0.0002  # per watcher of a resource: between two sends to one, so that bursts go out together
_MOST_SPACING_S = 0.02
_ENDED = {"k8s.io/initial-events-end": "true"}


async def list_chunks(
    form: Form, raws: Sequence[bytes], metadata: dict[str, str | int]
) -> AsyncIterator[bytes]:
    """Yield the JSON of a list in pieces, giving the loop its turn between them."""
    start = form.head(metadata)
    for first in range(0, len(raws), _CHUNK):
        chunk = b",".join(form.item(raw) for raw in raws[first : first + _CHUNK])
        yield start + chunk
        start = b","
        await asyncio.sleep(0)
    yield TAIL if raws else start + TAIL


class Pages:
    """Snapshots of lists that clients read page by page.

    A snapshot holds references to stored bytes, so it costs eight bytes an object; the oldest makes room.

    Args:
        keep: Most snapshots kept.
    """

    def __init__(self, keep: int = 32) -> None:
        self._keep = keep
        self._snapshots: OrderedDict[str, tuple[str, Sequence[Entry], int]] = OrderedDict()

    def begin(self, scope: str, entries: Sequence[Entry], version: int) -> str:
        """Keep a snapshot and return its key; `scope` says which request it answers."""
        key = secrets.token_urlsafe(12)
        self._snapshots[key] = (scope, entries, version)
        while len(self._snapshots) > self._keep:
            self._snapshots.popitem(last=False)
        return key

    def resume(self, scope: str, token: str) -> tuple[str, Sequence[Entry], int, int]:
        """Return (key, entries, resourceVersion, offset) of a continue token; raises GoneError."""
        key, _, offset = token.rpartition(".")
        found = self._snapshots.get(key)
        if found is None or found[0] != scope or not (offset.isascii() and offset.isdigit()):
            raise GoneError(
                "the continue token is too old, or belongs to another list",
                hint="List again from the beginning.",
            )
        self._snapshots.move_to_end(key)
        return key, found[1], found[2], int(offset)

    def end(self, key: str) -> None:
        """Forget a snapshot that was read to its end."""
        self._snapshots.pop(key, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a watch request asks for.

    Attributes:
        resource: `<plural>.<group>`.
        api_version, kind: For bookmarks.
        namespace: None for all.
        selector: Which objects.
        since: Events strictly after it; None starts with what exists.
        bookmarks: Whether the client takes BOOKMARK events.
        mark_initial: Whether the end of the initial events is marked by a bookmark.
        timeout_s: When the server ends the stream, seconds.
        shown: Stored (apiVersion, JSON) -> JSON in the version that the client asked for.
    """

    resource: str
    api_version: str
    kind: str
    namespace: str | None
    selector: Selector
    since: int | None
    bookmarks: bool
    mark_initial: bool
    timeout_s: float
    shown: Callable[[Sequence[tuple[str, bytes]]], Awaitable[Sequence[bytes]]]


class WatchStream:
    """ASGI answer that sends changes as lines of JSON, until someone ends it.

    That is the client leaving, the watch's time being up, or the server stopping.

    Args:
        store: Read from; a GoneError at once is raised here, a later one is sent as an ERROR event.
        watch: What is asked for.
        form: Returns how objects are shown; asked per batch, so that ages in tables are right.
        stopping: Set when the server goes down.
    """

    def __init__(
        self, store: ObjectStore, watch: Watch, form: Callable[[], Form], stopping: asyncio.Event
    ) -> None:
        self._store = store
        self._watch = watch
        self._form = form
        self._stopping = stopping
        self._log: ChangeLog = store.log(watch.resource)
        if watch.since is not None:
            self._log.after(watch.since, current=store.version)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream; cancelling ends it at once."""
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        pump = asyncio.create_task(self._pump(send))
        gone = asyncio.create_task(_disconnect(receive))
        stop = asyncio.create_task(self._stopping.wait())
        tasks: list[asyncio.Task[object]] = [pump, gone, stop]
        self._log.watchers += 1
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            left = gone.done()
        finally:
            self._log.watchers -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not left:
            if not pump.cancelled() and (error := pump.exception()):
                raise error
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._watch.timeout_s
        bookmark = loop.time() + _BOOKMARK_S
        # Sent before the first event, so that clients see the headers of a quiet watch.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        try:
            at = await self._initial(send) if self._watch.since is None else self._watch.since
        except PeltonError as error:
            await self._send(send, [_line("ERROR", encode(status_of(error)))])
            return
        while True:
            current = self._store.version
            try:
                changes = self._log.after(at, current=current)
                for first in range(0, len(changes), _CHUNK):  # so that a slow client holds little at a time
                    await self._send(send, await self._lines(changes[first : first + _CHUNK]))
            except PeltonError as error:
                await self._send(send, [_line("ERROR", encode(status_of(error)))])
                return
            at = current
            if self._log.closed or loop.time() >= deadline:
                return
            if loop.time() >= bookmark:
                bookmark = loop.time() + _BOOKMARK_S
                if self._watch.bookmarks:
                    await self._send(send, [self._bookmark(at)])
            # The first change goes out at once; what follows within this time goes out together. One watcher
            # sees no difference, and a hundred are woken far less often.
            spacing = min(_MOST_SPACING_S, self._log.watchers * _SPACING_S)
            if changes and spacing > _SPACING_S:
                await asyncio.sleep(spacing)
            try:
                async with asyncio.timeout(min(deadline, bookmark) - loop.time()):
                    await self._log.wait(at)
            except TimeoutError:
                continue

    async def _initial(self, send: Send) -> int:
        version, watch = self._store.version, self._watch
        entries = self._store.entries(watch.resource, watch.namespace)
        form = self._form()
        for first in range(0, len(entries), _CHUNK):
            chosen = [
                (entry.api_version, entry.raw)
                for entry in entries[first : first + _CHUNK]
                if watch.selector.matches(entry.namespace, entry.name, entry.labels, entry.raw)
            ]
            raws = await watch.shown(chosen)
            await self._send(send, [_line("ADDED", form.event(raw)) for raw in raws])
            await asyncio.sleep(0)
        if watch.mark_initial:
            await self._send(send, [self._bookmark(version, annotations=_ENDED)])
        return version

    async def _lines(self, changes: Sequence[Change]) -> list[bytes]:
        seen = [(kind, change) for change in changes if (kind := self._seen_as(change))]
        if not seen:
            return []
        raws = await self._watch.shown([(change.api_version, change.raw) for _, change in seen])
        form = self._form()
        return [_line(kind, form.event(raw)) for (kind, _), raw in zip(seen, raws, strict=True)]

    def _seen_as(self, change: Change) -> str:
        """Return the event type for this watch, "" for none: labels may move objects in and out of view."""
        if self._watch.namespace is not None and change.namespace != self._watch.namespace:
            return ""
        selector = self._watch.selector
        if selector.everything:
            return change.type
        place = (change.namespace, change.name)
        seen = change.type != "DELETED" and selector.matches(*place, change.labels, change.raw)
        before, previous = change.previous_labels, change.previous
        was_seen = before is not None and previous is not None and selector.matches(*place, before, previous)
        if seen:
            return "MODIFIED" if was_seen else "ADDED"
        return "DELETED" if was_seen else ""

    def _bookmark(self, version: int, annotations: dict[str, str] | None = None) -> bytes:
        metadata: dict[str, object] = {"resourceVersion": str(version), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        obj = {"kind": self._watch.kind, "apiVersion": self._watch.api_version, "metadata": metadata}
        return _line("BOOKMARK", encode(obj))

    @staticmethod
    async def _send(send: Send, lines: Sequence[bytes]) -> None:
        if lines:
            await send({"type": "http.response.body", "body": b"".join(lines), "more_body": True})


def _line(kind: str, obj: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), obj)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
