"""Garbage collection: objects go with their owners, or are released from them.

Keeps an index of who owns whom from the store's changes and works through what changed, one object at a
time. Deletions and releases go through the pipeline, as any client's. Run by `cli/`.

Source: contracts operator-webhook.md 6.4; behaviour of Kubernetes' garbage collector.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from pelton.apiserver import rules
from pelton.apiserver.calls import Call, internal
from pelton.apiserver.pipeline import Writer
from pelton.apiserver.registry import Registry, Row
from pelton.apiserver.rules import Obj
from pelton.apiserver.store import ObjectStore
from pelton.apiserver.watch import Change
from pelton.clock import Clock
from pelton.errors import NotFoundError, PeltonError

__all__ = ["Collector"]

_USER = "system:serviceaccount:kube-system:generic-garbage-collector"
_AGAIN_S = 1.0

Place = tuple[str, str, str]  # resource, namespace, name


class _Owner(msgspec.Struct):
    uid: str = ""
    apiVersion: str = ""
    kind: str = ""
    name: str = ""
    blockOwnerDeletion: bool | None = None


class _Metadata(msgspec.Struct):
    uid: str = ""
    ownerReferences: list[_Owner] | None = None
    finalizers: list[str] | None = None
    deletionTimestamp: str | None = None


class _Object(msgspec.Struct):
    metadata: _Metadata


_decoder = msgspec.json.Decoder(_Object)


@dataclass(slots=True)
class _Node:
    """One object: its uid, where it is, its owners (uid -> reference), and what its deletion waits for."""

    uid: str
    place: Place
    owners: dict[str, _Owner]
    foreground: bool
    orphan: bool


class Collector:
    """Deletes objects whose owners are gone.

    Args:
        store: Where objects are.
        registry: Which kinds are served; what it does not know is left alone.
        writer: Deletes and releases.
        clock: For waiting after a failure.
        log: For failures; they are tried again.
    """

    def __init__(
        self, store: ObjectStore, registry: Registry, writer: Writer, clock: Clock, log: logging.Logger
    ) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer
        self._clock = clock
        self._log = log
        self._nodes: dict[str, _Node] = {}
        self._dependents: dict[str, set[str]] = {}
        self._dirty: dict[str, None] = {}  # uids to look at, in order, each once
        self._some = asyncio.Event()
        for resource in store.resources():
            for entry in store.entries(resource):
                self._put((resource, entry.namespace, entry.name), entry.raw)
        store.on_change(self._on_change)

    async def run(self) -> None:
        """Collect until cancelled."""
        while True:
            await self._some.wait()
            failed = await self.settle()
            if failed:
                await self._clock.sleep(_AGAIN_S)
                for uid in failed:
                    self._mark(uid)

    async def settle(self) -> list[str]:
        """Work through everything that changed; returns the uids of what failed."""
        failed = []
        while self._dirty:
            uid = next(iter(self._dirty))
            del self._dirty[uid]
            try:
                await self._look_at(uid)
            except NotFoundError:
                continue
            except PeltonError as error:
                self._log.warning("garbage collection tries again: %s", error)
                failed.append(uid)
        self._some.clear()
        return failed

    # -- the index -----------------------------------------------------------------------------------------

    def _on_change(self, resource: str, change: Change) -> None:
        place = (resource, change.namespace, change.name)
        if change.type == "DELETED":
            self._take(_decoder.decode(change.raw).metadata.uid)
        else:
            self._put(place, change.raw)

    def _put(self, place: Place, raw: bytes) -> None:
        metadata = _decoder.decode(raw).metadata
        marks = (metadata.finalizers or ()) if metadata.deletionTimestamp else ()
        owners = {owner.uid: owner for owner in metadata.ownerReferences or ()}
        node = _Node(metadata.uid, place, owners, rules.FOREGROUND in marks, rules.ORPHAN in marks)
        old = self._nodes.get(metadata.uid)
        self._nodes[metadata.uid] = node
        before = old.owners.keys() if old else set()
        for uid in owners.keys() - before:
            self._dependents.setdefault(uid, set()).add(metadata.uid)
        for uid in before - owners.keys():
            self._release(uid, metadata.uid)
        if owners or node.foreground or node.orphan:
            self._mark(metadata.uid)

    def _take(self, uid: str) -> None:
        node = self._nodes.pop(uid, None)
        for dependent in self._dependents.get(uid, ()):
            self._mark(dependent)
        for owner in node.owners if node else ():
            self._release(owner, uid)
            self._mark(owner)  # it may have waited for this one

    def _release(self, owner: str, dependent: str) -> None:
        held = self._dependents.get(owner)
        if held is not None:
            held.discard(dependent)
            if not held:
                del self._dependents[owner]

    def _mark(self, uid: str) -> None:
        self._dirty[uid] = None
        self._some.set()

    # -- what becomes of an object -------------------------------------------------------------------------

    async def _look_at(self, uid: str) -> None:
        node = self._nodes.get(uid)
        if node is None:
            return
        if node.orphan:
            for dependent in list(self._held_by(uid)):
                await self._drop_owners(dependent, {uid})
            await self._drop_finalizer(node, rules.ORPHAN)
            return
        if node.foreground:
            await self._delete_dependents(uid)
            if not any(self._blocks(dependent, uid) for dependent in self._held_by(uid)):
                await self._drop_finalizer(node, rules.FOREGROUND)
        elif node.owners:
            await self._check_owners(node)

    async def _check_owners(self, node: _Node) -> None:
        """Delete an object when none of its owners is left; forget those that are gone."""
        gone = {uid for uid, owner in node.owners.items() if self._is_gone(node, owner)}
        waiting = [uid for uid in node.owners.keys() - gone if self._waits(uid)]
        if gone and gone == node.owners.keys():
            await self._delete(node, "Background")
        elif gone:
            await self._drop_owners(node, gone)
        elif waiting and len(waiting) == len(node.owners):
            await self._delete(node, "Foreground" if self._dependents.get(node.uid) else "Background")

    async def _delete_dependents(self, uid: str) -> None:
        for dependent in list(self._held_by(uid)):
            left = [o for o in dependent.owners.values() if o.uid != uid and not self._is_gone(dependent, o)]
            if left:
                await self._drop_owners(dependent, {uid})
            else:
                own = self._dependents.get(dependent.uid)
                await self._delete(dependent, "Foreground" if own else "Background")

    def _held_by(self, uid: str) -> Iterator[_Node]:
        for dependent in sorted(self._dependents.get(uid, ())):
            if dependent in self._nodes:
                yield self._nodes[dependent]

    def _blocks(self, dependent: _Node, owner: str) -> bool:
        found = dependent.owners.get(owner)
        return found is not None and bool(found.blockOwnerDeletion)

    def _waits(self, uid: str) -> bool:
        node = self._nodes.get(uid)
        return node is not None and node.foreground

    def _is_gone(self, node: _Node, owner: _Owner) -> bool:
        """Tell whether an owner certainly does not exist; an owner of a kind not served is unknown."""
        found = self._nodes.get(owner.uid)
        if found is not None:
            return bool(found.place[1]) and found.place[1] != node.place[1]  # of another namespace
        group, slash, version = owner.apiVersion.rpartition("/")
        return self._registry.by_kind(group if slash else "", version, owner.kind) is not None

    # -- acting --------------------------------------------------------------------------------------------

    def _call(self, node: _Node, method: str) -> Call | None:
        resource, namespace, name = node.place
        row: Row | None = self._registry.stored().get(resource)
        if row is None or "delete" not in row.verbs:
            return None
        return internal(row, namespace, name, user=_USER, method=method)

    async def _delete(self, node: _Node, propagation: str) -> None:
        call = self._call(node, "DELETE")
        if call is not None:
            await self._writer.delete(
                call, {"propagationPolicy": propagation, "preconditions": {"uid": node.uid}}
            )

    async def _drop_owners(self, node: _Node, owners: set[str]) -> None:
        def without(old: Obj) -> Obj:
            left = [o for o in old["metadata"].get("ownerReferences") or [] if o.get("uid") not in owners]
            return _with_metadata(old, "ownerReferences", left)

        call = self._call(node, "PUT")
        if call is not None:
            await self._writer.update(call, without)

    async def _drop_finalizer(self, node: _Node, mark: str) -> None:
        def without(old: Obj) -> Obj:
            return _with_metadata(old, "finalizers", [m for m in rules.finalizers(old) if m != mark])

        call = self._call(node, "PUT")
        if call is not None:
            await self._writer.update(call, without)


def _with_metadata(obj: Obj, key: str, value: list[object]) -> Obj:
    metadata = {**obj["metadata"], key: value}
    if not value:
        del metadata[key]
    return {**obj, "metadata": metadata}
