"""What served last, kept in the store: a failed change and a restart together still leave the old revision.

One object per Function under a resource name that no API serves, since it holds resolved secrets. Written by
`controlplane/reconciler` after each successful apply, read when the target has forgotten.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pelton.errors import ConflictError, NotFoundError
from pelton.model.desired import Desired
from pelton.ports import Store

__all__ = ["RESOURCE", "Revisions"]

RESOURCE = "revisions.pelton.dev"


class Revisions:
    """The last Desired that was applied, per Function.

    Args:
        store: Where Functions are kept too.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], Desired] = {}

    async def keys(self) -> list[tuple[str, str]]:
        """Return (namespace, name) of all that is recorded, also of Functions that are gone."""
        items, _ = await self._store.list(RESOURCE)
        return [(item["metadata"]["namespace"], item["metadata"]["name"]) for item in items]

    async def load(self, namespace: str, name: str) -> Desired | None:
        """Return the record; None when there is none or an older version of Pelton wrote it differently."""
        key = (namespace, name)
        if key not in self._known:
            try:
                obj = await self._store.get(RESOURCE, namespace, name)
                self._known[key] = msgspec.convert(obj["spec"], Desired)
            except (NotFoundError, KeyError, msgspec.ValidationError):
                return None
        return self._known[key]

    async def save(self, desired: Desired) -> None:
        """Record what is served now; writes nothing when that is recorded already."""
        namespace, name = desired.workload.namespace, desired.workload.name
        if self._known.get((namespace, name)) == desired:
            return
        obj: dict[str, Any] = {
            "apiVersion": "pelton.dev/v1",
            "kind": "Revision",
            "metadata": {"namespace": namespace, "name": name},
            "spec": msgspec.to_builtins(desired),
        }
        try:
            # Without a resourceVersion the write wins over any other: only the reconciler writes these.
            await self._store.update(RESOURCE, obj)
        except NotFoundError:
            await self._store.create(RESOURCE, obj)
        self._known[namespace, name] = desired

    async def forget(self, namespace: str, name: str) -> None:
        """Drop the record; idempotent."""
        self._known.pop((namespace, name), None)
        try:
            await self._store.delete(RESOURCE, namespace, name)
        except (NotFoundError, ConflictError):
            return
