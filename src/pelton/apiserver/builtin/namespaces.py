"""Namespaces: the row, what makes sure that they exist, and what empties those that are deleted.

Objects can only be created in a namespace that exists; `default` always does. Called by `cli/`, which
ensures them at the start and runs the `Terminator`, and by `builtin/table.py`.

Source: contracts operator-webhook.md 6.1 and 7; behaviour of Kubernetes' namespace lifecycle.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from pelton.apiserver import rules
from pelton.apiserver.calls import internal
from pelton.apiserver.pipeline import Writer
from pelton.apiserver.registry import ALL_VERBS, Cause, Checked, Registry, Row
from pelton.apiserver.rules import Obj, metadata_of
from pelton.apiserver.status import StatusError
from pelton.apiserver.store import ChangedError, Entry, ObjectStore, decode
from pelton.apiserver.watch import Change
from pelton.clock import Clock, rfc3339
from pelton.errors import NotFoundError, PeltonError
from pelton.manifest.kinds import Column

__all__ = ["ALWAYS", "ROW", "Terminator", "ensure"]

ALWAYS = ("default",)
"""Namespaces that are made again when they are missing."""

_NAME_LABEL = "kubernetes.io/metadata.name"
_USER = "system:serviceaccount:kube-system:namespace-controller"
_AGAIN_S = 1.0
_CHUNK = 50  # objects deleted between two turns of the loop


class _Checks:
    def default(self, obj: Obj, /) -> Obj:
        """Add the label of its name, the finalizer of its contents and the phase."""
        metadata = metadata_of(obj)
        name = metadata.get("name")
        if not isinstance(name, str):
            return obj
        labels = metadata.get("labels")
        labels = {**labels, _NAME_LABEL: name} if isinstance(labels, dict) else {_NAME_LABEL: name}
        return {
            **obj,
            "metadata": {**metadata, "labels": labels},
            "spec": {"finalizers": ["kubernetes"]},
            "status": obj.get("status") or {"phase": "Active"},
        }

    def check(self, obj: Obj, old: Obj | None, /, *, subresource: str) -> Checked:
        """Refuse names that could not be part of a host name."""
        name = str(metadata_of(obj).get("name", ""))
        if len(name) <= 63 and "." not in name:
            return Checked(obj=obj)
        message = f'Invalid value: "{name}": must be a DNS label: no dots, at most 63 characters'
        return Checked(obj=obj, causes=[Cause(field="metadata.name", message=message)])

    def prune(self, obj: Obj, /) -> tuple[Obj, Sequence[str]]:
        """Drop nothing here: `check` does."""
        return obj, ()

    def read(self, obj: Obj, /) -> Obj:
        """Return it as it is."""
        return obj


def _terminating(obj: Obj) -> Obj:
    """Return what a DELETE makes of a namespace: it stays until it is empty.

    Raises:
        StatusError: 403, it is one of those that are always there.
    """
    name = metadata_of(obj).get("name", "")
    if name in ALWAYS:
        message = f'namespaces "{name}" is forbidden: this namespace may not be deleted'
        raise StatusError(403, "Forbidden", message)
    return {**obj, "status": {**(obj.get("status") or {}), "phase": "Terminating"}}


ROW = Row(
    group="",
    version="v1",
    kind="Namespace",
    plural="namespaces",
    singular="namespace",
    short_names=("ns",),
    namespaced=False,
    generation=False,
    builtin=True,
    columns=(
        Column("Status", "string", ".status.phase"),
        Column("Age", "date", ".metadata.creationTimestamp"),
    ),
    checks=_Checks(),
    verbs=tuple(verb for verb in ALL_VERBS if verb != "deletecollection"),
    selectable={"status.phase": ".status.phase"},
    deleted=_terminating,
)


async def ensure(store: ObjectStore, names: Iterable[str]) -> None:
    """Create the namespaces that do not exist."""
    for name in names:
        try:
            store.entry(ROW.key, "", name)
        except NotFoundError:
            obj: Obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            await store.create(ROW.key, ROW.checks.default(obj), keep_status=True)


class Terminator:
    """Empties namespaces that are being deleted, and removes them when nothing is left in them.

    Args:
        store: Where objects are.
        registry: Which kinds there are.
        writer: Deletes them, one by one.
        clock: Time.
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
        self._some = asyncio.Event()
        self._ending = {
            entry.name for entry in store.entries(ROW.key) if rules.being_deleted(decode(entry.raw))
        }
        if self._ending:
            self._some.set()
        store.on_change(self._on_change)

    def _on_change(self, resource: str, change: Change) -> None:
        if resource == ROW.key:
            if change.type != "DELETED" and b'"deletionTimestamp"' in change.raw:
                self._ending.add(change.name)
                self._some.set()
            elif change.type == "DELETED":
                self._ending.discard(change.name)
        elif change.namespace in self._ending:
            self._some.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            try:
                await self.settle()
            except PeltonError as error:
                self._log.warning("a namespace is emptied again: %s", error)
                await self._clock.sleep(_AGAIN_S)
                self._some.set()

    async def settle(self) -> None:
        """Delete what is in the namespaces that are ending, and those that are empty."""
        for name in sorted(self._ending):
            await self._empty(name)
            left = self._left(name)
            try:
                entry = self._store.entry(ROW.key, "", name)
                obj = decode(entry.raw)
                if left:
                    self._tell(entry, obj, left)
                elif not rules.finalizers(obj):
                    self._store.discard(ROW.key, entry, obj)
            except (NotFoundError, ChangedError):
                self._some.set()

    async def _empty(self, namespace: str) -> None:
        for key, row in self._registry.stored().items():
            if not row.namespaced or "delete" not in row.verbs:
                continue
            for number, entry in enumerate(self._store.entries(key, namespace)):
                call = internal(row, namespace, entry.name, user=_USER)
                try:
                    await self._writer.delete(call, {"propagationPolicy": "Background"})
                except NotFoundError:
                    continue
                if number % _CHUNK == _CHUNK - 1:
                    await asyncio.sleep(0)

    def _left(self, namespace: str) -> dict[str, int]:
        """Return resource -> how many objects of it are still there."""
        counts = {key: len(self._store.entries(key, namespace)) for key in self._store.resources()}
        return {key: count for key, count in counts.items() if count}

    def _tell(self, entry: Entry, obj: Obj, left: dict[str, int]) -> None:
        listed = ", ".join(f"{key} has {count} resource instances" for key, count in sorted(left.items()))
        message = f"Some resources are remaining: {listed}"
        condition = {
            "type": "NamespaceContentRemaining",
            "status": "True",
            "reason": "SomeResourcesRemain",
            "message": message,
        }
        status = obj.get("status") or {}
        if any(seen.get("message") == message for seen in status.get("conditions") or ()):
            return
        condition["lastTransitionTime"] = rfc3339(self._clock.now())
        self._store.swap(ROW.key, entry, {**obj, "status": {**status, "conditions": [condition]}})
