"""What a Function was last built and served as, kept in the store: its revisions and what is live.

A failed change and a restart together still leave what served; a rollback and a rollout find what a revision
needs. One object per Function under a resource name that no API serves, since it holds resolved secrets.
Written by `controlplane/building.py` and `controlplane/serving.py` after each success.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from pelton.errors import ConflictError, NotFoundError
from pelton.model.build import BuildResult
from pelton.model.desired import Desired
from pelton.ports import Store

__all__ = ["RESOURCE", "KeptRevision", "Record", "Revisions"]

RESOURCE = "revisions.pelton.dev"
_ALONE = "alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRevision:
    """A revision that served, or could.

    Attributes:
        desired: What it needs, by itself.
        serving: Name of its Serving.
        builder: Name of its Builder, which may be gone.
        content: Hash of what was built; "" without a build.
        build: The build's record, see `BuildResult.to_refs`.
        written: What the user wrote, see `plan/history.written`.
    """

    desired: Desired
    serving: str = ""
    builder: str = ""
    content: str = ""
    build: dict[str, str] = field(default_factory=dict)
    written: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that is remembered of a Function.

    Attributes:
        live: What the target was told last; None for nothing.
        latest: The newest revision that was applied; "" for none.
        stable: The revision that last got all that it was meant to get; "" for none.
        revisions: Kept revisions, the oldest first.
        content: Hash of what was built last; "" for nothing.
        build: That build's record.
        builder: Name of its Builder.
    """

    live: Desired | None = None
    latest: str = ""
    stable: str = ""
    revisions: tuple[KeptRevision, ...] = ()
    content: str = ""
    build: dict[str, str] = field(default_factory=dict)
    builder: str = ""

    def names(self) -> list[str]:
        """Return the names of kept revisions, the oldest first."""
        return [kept.desired.revision for kept in self.revisions]

    def find(self, revision: str) -> KeptRevision | None:
        """Return a kept revision by its name."""
        return next((kept for kept in self.revisions if kept.desired.revision == revision), None)

    def with_build(self, content: str, result: BuildResult, builder: str) -> Record:
        """Return the record after a build."""
        return replace(self, content=content, build=result.to_refs(), builder=builder)

    def paths(self) -> set[str]:
        """Return the directories that it needs: bundles and environments."""
        needed: set[str] = set()
        for record in (self.build, *(kept.build for kept in self.revisions)):
            result = BuildResult.from_refs(record)
            if result is not None:
                needed |= {result.bundle, result.environment}
        live = (self.live, *self.live.others) if self.live is not None else ()
        for one in (*live, *(kept.desired for kept in self.revisions)):
            needed |= {one.workload.bundle, one.workload.environment}
        return needed - {""}


class Revisions:
    """The records of all Functions.

    Args:
        store: Where Functions are kept too.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], Record] = {}

    async def all(self) -> dict[tuple[str, str], Record | None]:
        """Return (namespace, name) -> record, also of Functions that are gone; None for unreadable ones."""
        items, _ = await self._store.list(RESOURCE)
        keys = [(item["metadata"]["namespace"], item["metadata"]["name"]) for item in items]
        return {key: _read(item) for key, item in zip(keys, items, strict=True)}

    async def load(self, namespace: str, name: str) -> Record | None:
        """Return the record; None when there is none or an older version of Pelton wrote it differently."""
        key = (namespace, name)
        if key not in self._known:
            try:
                obj = await self._store.get(RESOURCE, namespace, name)
            except NotFoundError:
                return None
            record = _read(obj)
            if record is None:
                return None
            self._known[key] = record
        return self._known[key]

    async def save(self, namespace: str, name: str, record: Record) -> None:
        """Keep a record; writes nothing when it is kept already."""
        if self._known.get((namespace, name)) == record:
            return
        obj: dict[str, Any] = {
            "apiVersion": "pelton.dev/v1",
            "kind": "Revision",
            "metadata": {"namespace": namespace, "name": name},
            "spec": _spec(record),
        }
        try:
            # Without a resourceVersion the write wins over any other: only the reconciler writes these.
            await self._store.update(RESOURCE, obj)
        except NotFoundError:
            await self._store.create(RESOURCE, obj)
        self._known[namespace, name] = record

    async def forget(self, namespace: str, name: str) -> None:
        """Drop the record; idempotent."""
        self._known.pop((namespace, name), None)
        try:
            await self._store.delete(RESOURCE, namespace, name)
        except (NotFoundError, ConflictError):
            return


def _spec(record: Record) -> dict[str, Any]:
    """Return what is stored: what is live is nearly always the newest revision, which is there anyway."""
    latest = record.find(record.latest)
    alone = latest is not None and record.live == latest.desired
    spec: dict[str, Any] = msgspec.to_builtins(replace(record, live=None) if alone else record)
    return {**spec, _ALONE: True} if alone else spec


def _read(obj: dict[str, Any]) -> Record | None:
    try:
        record = msgspec.convert(obj["spec"], Record)
        if not obj["spec"].get(_ALONE):
            return record
        latest = record.find(record.latest)
        return replace(record, live=latest.desired) if latest is not None else None
    except (KeyError, AttributeError, msgspec.ValidationError):
        return None
