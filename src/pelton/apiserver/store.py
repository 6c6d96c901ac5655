"""Objects with optimistic concurrency: the `Store` port on one machine.

Memory is the read model (each object as its JSON bytes; callers get fresh dictionaries, so nobody can
change what is stored), the journal is what survives. A write runs without an await from reading the old
object to telling the watchers, so writers need no lock. `rules.py` decides what a write does, `journal.py`
makes it durable, `watch.py` keeps recent changes. `rest.py` and the control plane call this.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import uuid
from bisect import bisect_left, insort
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from pelton.apiserver import rules
from pelton.apiserver.journal import Journal, SqliteJournal
from pelton.apiserver.rules import Obj
from pelton.apiserver.watch import Change, ChangeLog, GoneError
from pelton.clock import Clock
from pelton.errors import AlreadyExistsError, ConflictError, InvalidError, NotFoundError
from pelton.ports import WatchEvent

__all__ = ["ChangedError", "Entry", "GoneError", "ObjectStore", "SqliteStore", "decode", "name_suffix"]

_VOLATILE = frozenset({"pods"})  # what is a view of something else, and not kept
_RESERVED = 1000  # versions for volatile writes, noted at once
_KEEP_S = 80.0
"""Changes are remembered for at least so long (contracts, operator-webhook 6.3: 75 s)."""
_QUIET_BYTES = 512 * 1024
"""What the log of a resource may hold of older changes."""
_CHUNK = 200  # objects decoded between two turns of the loop: about 1 ms
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"  # no vowels and no look-alikes, as in Kubernetes
_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()


class _Labels(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Labelled(msgspec.Struct):
    metadata: _Labels
    apiVersion: str = ""


_labelled = msgspec.json.Decoder(_Labelled)


class ChangedError(ConflictError):
    """The stored object is no longer the one that the write was computed from: compute it again."""

    code = "PEL-API-008"


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored object: where it is, its resourceVersion, its JSON, its labels, the apiVersion of the JSON.

    Labels are never to be changed.
    """

    namespace: str
    name: str
    version: int
    raw: bytes
    labels: Mapping[str, str]
    api_version: str = ""


def name_suffix() -> str:
    """Return what is appended to metadata.generateName."""
    return "".join(secrets.choice(_SUFFIX) for _ in range(5))


def decode(raw: bytes) -> Obj:
    """Return a fresh dictionary for an entry's JSON."""
    result: Obj = _decoder.decode(raw)
    return result


class _Table:
    """All objects of one resource; `keys` stays sorted so that lists need no sorting."""

    __slots__ = ("entries", "expiring", "keys", "log")

    def __init__(self, log: ChangeLog) -> None:
        self.expiring = False
        self.entries: dict[tuple[str, str], Entry] = {}
        self.keys: list[tuple[str, str]] = []
        self.log = log

    def put(self, entry: Entry) -> None:
        key = (entry.namespace, entry.name)
        if key not in self.entries:
            insort(self.keys, key)
        self.entries[key] = entry

    def remove(self, key: tuple[str, str]) -> None:
        del self.entries[key]
        del self.keys[bisect_left(self.keys, key)]

    def select(self, namespace: str | None) -> Iterator[Entry]:
        if namespace is None:
            for key in self.keys:
                yield self.entries[key]
            return
        at = bisect_left(self.keys, (namespace, ""))
        while at < len(self.keys) and self.keys[at][0] == namespace:
            yield self.entries[self.keys[at]]
            at += 1


class ObjectStore:
    """The `Store` port over any journal. An async context manager; leaving it ends all watches.

    Args:
        journal: Opened on entering.
        clock: For creation and deletion times.
        history: Most changes kept per resource for watches that resume.
    """

    def __init__(self, journal: Journal, *, clock: Clock, history: int = 10_000) -> None:
        self._journal = journal
        self._clock = clock
        self._history = history
        self._tables: dict[str, _Table] = {}
        self._version = 0
        self._opened_at = 0
        self._closed = False
        self._reserved = 0
        self._listeners: list[Callable[[str, Change], None]] = []

    async def __aenter__(self) -> Self:
        self._version = self._opened_at = self._journal.open()
        for resource, namespace, name, version, raw in self._journal.load():
            seen = _labelled.decode(raw)
            # Appended unsorted and sorted once below: n inserts into a sorted list would be slower.
            table = self._table(resource)
            labels = seen.metadata.labels or {}
            table.entries[namespace, name] = Entry(namespace, name, version, raw, labels, seen.apiVersion)
        for table in self._tables.values():
            table.keys = sorted(table.entries)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        for table in self._tables.values():
            table.log.close()
        self._journal.close()

    # -- reading ---------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The resourceVersion of the last write."""
        return self._version

    def entry(self, resource: str, namespace: str, name: str) -> Entry:
        """Return one stored entry; raises NotFoundError."""
        found = self._table(resource).entries.get((namespace, name))
        if found is None:
            raise NotFoundError(f'{resource} "{name}" not found', where=_where(resource, namespace, name))
        return found

    def entries(self, resource: str, namespace: str | None = None) -> list[Entry]:
        """Return entries sorted by namespace and name; None means all namespaces."""
        return list(self._table(resource).select(namespace))

    def on_change(self, listener: Callable[[str, Change], None]) -> None:
        """Call `listener(resource, change)` inside every write; it must be quick and must not fail."""
        self._listeners.append(listener)

    def resources(self) -> list[str]:
        """Return the resources of which there was ever an object."""
        return list(self._tables)

    def log(self, resource: str) -> ChangeLog:
        """Return the recent changes of a resource."""
        return self._table(resource).log

    def counts(self) -> dict[str, int]:
        """Return how many objects there are of each resource that has any."""
        return {resource: len(table.keys) for resource, table in self._tables.items() if table.keys}

    def namespaces(self) -> set[str]:
        """Return the namespaces that hold an object."""
        return {key[0] for table in self._tables.values() for key in table.keys if key[0]}

    async def get(self, resource: str, namespace: str, name: str) -> Obj:
        """Return one object as the caller's own copy. Raises NotFoundError."""
        return decode(self.entry(resource, namespace, name).raw)

    async def list(self, resource: str, namespace: str | None = None) -> tuple[list[Obj], int]:
        """Return objects sorted by namespace and name, and the resourceVersion of the listing.

        A consistent snapshot; the loop gets its turn between chunks.
        """
        version, entries = self._version, self.entries(resource, namespace)
        items: list[Obj] = []
        for start in range(0, len(entries), _CHUNK):
            if start:
                await asyncio.sleep(0)
            items += _decode_chunk(entries[start : start + _CHUNK])
        return items, version

    async def watch(
        self, resource: str, namespace: str | None = None, *, since: int | None = None
    ) -> AsyncIterator[WatchEvent]:
        """Iterate over changes after `since`; None starts with ADDED for all that exists.

        Ends when the store is closed.

        Raises:
            GoneError: `since` is older than the history, or the caller fell behind it: list again.
        """
        table = self._table(resource)
        if since is None:
            since = self._version
            for entry in self.entries(resource, namespace):
                yield WatchEvent(type="ADDED", object=decode(entry.raw), resource_version=entry.version)
        while True:
            for change in table.log.after(since, current=self._version):
                since = change.version
                if namespace is None or change.namespace == namespace:
                    yield WatchEvent(
                        type=change.type, object=decode(change.raw), resource_version=change.version
                    )
            if table.log.closed:
                return
            await table.log.wait(since)

    # -- writing ---------------------------------------------------------------------------------------------

    async def create(
        self, resource: str, obj: Obj, *, dry_run: bool = False, keep_status: bool = False
    ) -> Obj:
        """Store a new object; fills uid, resourceVersion, generation 1, creationTimestamp.

        Server-set metadata of `obj` is ignored, and so is its status unless `keep_status`.
        metadata.generateName is honoured.

        Raises:
            AlreadyExistsError: An object of that name exists.
            InvalidError: Bad metadata.
        """
        namespace, name = rules.locate(obj)
        where = _where(resource, namespace, name)
        for _ in range(8):  # a generated name may be taken: 27^5 names make eight misses in a row impossible
            new = rules.created(
                obj,
                uid=str(uuid.uuid4()),
                now=self._clock.now(),
                suffix=name_suffix(),
                where=where,
                keep_status=keep_status,
            )
            namespace, name = rules.locate(new)
            if (namespace, name) not in self._table(resource).entries:
                return self._write(resource, None, new, dry_run)
            if rules.metadata_of(obj).get("name"):
                break
        raise AlreadyExistsError(
            f'{resource} "{name}" already exists', where=_where(resource, namespace, name)
        )

    async def update(self, resource: str, obj: Obj, *, subresource: str = "", dry_run: bool = False) -> Obj:
        """Replace an object, or its status when `subresource` is "status".

        A change of nothing writes nothing and keeps the resourceVersion. Removing the last finalizer of an
        object that is being deleted removes it; the object is returned as it last was.

        Raises:
            NotFoundError: No such object.
            ConflictError: resourceVersion or uid are given and stale.
            InvalidError: Bad metadata, or a finalizer added to an object that is being deleted.
        """
        namespace, name = rules.locate(obj)
        where = _where(resource, namespace, name)
        entry = self.entry(resource, namespace, name)
        old = decode(entry.raw)
        if subresource == "status":
            new = rules.with_status(old, obj, where=where)
        elif not subresource:
            new = rules.replaced(old, obj, where=where)
        else:
            raise NotFoundError(f'{resource} has no subresource "{subresource}"', where=where)
        if rules.being_deleted(new) and not rules.finalizers(new):
            return self._remove(resource, entry, new, dry_run)
        return old if rules.same(new, old) else self._write(resource, entry, new, dry_run)

    async def delete(self, resource: str, namespace: str, name: str, *, dry_run: bool = False) -> Obj:
        """Delete, or mark with deletionTimestamp while finalizers remain. Raises NotFoundError.

        Returns:
            The last state of the object; it carries deletionTimestamp when it still exists.
        """
        entry = self.entry(resource, namespace, name)
        old = decode(entry.raw)
        if not rules.finalizers(old):
            return self._remove(resource, entry, old, dry_run)
        new = rules.marked_for_deletion(old, now=self._clock.now())
        return old if rules.same(new, old) else self._write(resource, entry, new, dry_run)

    def insert(self, resource: str, obj: Obj) -> Obj:
        """Store an object that is complete but for its resourceVersion; raises AlreadyExistsError.

        The lowest layer of writing, as are `swap` and `discard`: no rule is applied here.
        """
        namespace, name = rules.locate(obj)
        if (namespace, name) in self._table(resource).entries:
            where = _where(resource, namespace, name)
            raise AlreadyExistsError(f'{resource} "{name}" already exists', where=where)
        return self._write(resource, None, obj, dry_run=False)

    def swap(self, resource: str, entry: Entry, obj: Obj) -> Obj:
        """Store `obj` in place of `entry`; raises ChangedError when another write came in between."""
        self._unchanged(resource, entry)
        return self._write(resource, entry, obj, dry_run=False)

    def discard(self, resource: str, entry: Entry, last: Obj) -> Obj:
        """Remove an entry; watchers see `last`. Raises ChangedError when another write came in between."""
        self._unchanged(resource, entry)
        return self._remove(resource, entry, last, dry_run=False)

    def _unchanged(self, resource: str, entry: Entry) -> None:
        if self._table(resource).entries.get((entry.namespace, entry.name)) is not entry:
            raise ChangedError(
                "the object changed while the write was under way",
                where=_where(resource, entry.namespace, entry.name),
                hint="Read it again, and repeat the change.",
            )

    def _write(self, resource: str, old: Entry | None, new: Obj, dry_run: bool) -> Obj:
        version = self._version + 1
        namespace, name = rules.locate(new)
        if dry_run:
            return new
        new["metadata"]["resourceVersion"] = str(version)
        raw = _encode(new, _where(resource, namespace, name))
        if resource in _VOLATILE:
            self._reserve(version)
        else:
            self._journal.put(resource, namespace, name, version, raw)
        labels = dict(new["metadata"].get("labels") or {})
        entry = Entry(namespace, name, version, raw, labels, str(new.get("apiVersion", "")))
        table = self._table(resource)
        table.put(entry)
        self._committed(table, "MODIFIED" if old else "ADDED", entry, old)
        return new

    def _remove(self, resource: str, entry: Entry, last: Obj, dry_run: bool) -> Obj:
        if dry_run:
            return last
        version = self._version + 1
        last["metadata"]["resourceVersion"] = str(version)
        raw = _encode(last, _where(resource, entry.namespace, entry.name))
        if resource in _VOLATILE:
            self._reserve(version)
        else:
            self._journal.remove(resource, entry.namespace, entry.name, version)
        table = self._table(resource)
        table.remove((entry.namespace, entry.name))
        gone = Entry(entry.namespace, entry.name, version, raw, entry.labels, str(last.get("apiVersion", "")))
        self._committed(table, "DELETED", gone, entry)
        return last

    def _reserve(self, version: int) -> None:
        """Make sure that no version is handed out twice, though this write is not stored."""
        if version > self._reserved:
            self._journal.reserve(version + _RESERVED)
            self._reserved = version + _RESERVED

    def _committed(self, table: _Table, kind: str, entry: Entry, old: Entry | None) -> None:
        self._version = entry.version
        change = Change(
            kind,
            entry.version,
            entry.namespace,
            entry.name,
            entry.raw,
            entry.labels,
            old.labels if old else None,
            entry.api_version,
            old.raw if old else None,
        )
        table.log.append(change)
        if table.log.size_bytes > _QUIET_BYTES and not table.expiring:
            table.expiring = True
            asyncio.get_running_loop().call_later(_KEEP_S, self._expire, table, entry.version)
        for listener in self._listeners:
            listener(table.log.resource, change)

    def _expire(self, table: _Table, version: int) -> None:
        """Let go of changes that are old enough by now; younger ones have a turn of their own."""
        table.expiring = False
        table.log.forget(version, down_to_bytes=_QUIET_BYTES)
        if table.log.size_bytes > _QUIET_BYTES and not self._closed:
            table.expiring = True
            asyncio.get_running_loop().call_later(_KEEP_S, self._expire, table, self._version)

    def _table(self, resource: str) -> _Table:
        table = self._tables.get(resource)
        if table is None:
            table = _Table(ChangeLog(resource, self._opened_at, limit=self._history))
            table.log.closed = self._closed
            self._tables[resource] = table
        return table


class SqliteStore(ObjectStore):
    """The store in one SQLite file (WAL, mode 0600, opened by one process at a time).

    Every write that returned survives `kill -9` at any point. Writes run on the event loop: about 0.1 ms
    each with `process`, one fsync each with `power`.

    Args:
        path: The file; made when absent.
        durability: `process` or `power` (survives power loss).
        clock: For creation and deletion times.
        history: Most changes kept per resource for watches that resume.
    """

    def __init__(
        self, path: str | Path, *, durability: str = "process", clock: Clock, history: int = 10_000
    ) -> None:
        super().__init__(SqliteJournal(Path(path), durability=durability), clock=clock, history=history)


def _decode_chunk(entries: Sequence[Entry]) -> list[Obj]:
    """Decode without the cycle collector, which would run dozens of times over what is only growing.

    JSON has no cycles to find; a list of 10,000 takes half the time this way.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        return [_decoder.decode(entry.raw) for entry in entries]
    finally:
        if enabled:
            gc.enable()


def _encode(obj: Obj, where: str) -> bytes:
    try:
        return _encoder.encode(obj)
    except (TypeError, OverflowError, RecursionError, UnicodeEncodeError) as error:
        raise InvalidError(f"the object cannot be written as JSON: {error}", where=where) from error


def _where(resource: str, namespace: str, name: str) -> str:
    return f"{resource}/{namespace}/{name}" if namespace else f"{resource}/{name}"
