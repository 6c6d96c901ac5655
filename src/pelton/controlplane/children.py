"""The Builders and Servings of Functions: stored, counted, and seen when somebody changes or deletes them.

`controlplane/building.py` and `controlplane/serving.py` write through this; `controlplane/reconciler.py`
hands in what watches see. An index by Function answers who has which without reading the store.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pelton.errors import ConflictError, NotFoundError
from pelton.plan.history import CONTENT, FUNCTION_VERSION, REVISION, Child
from pelton.ports import Store, WatchEvent
from pelton.quantity import parse_duration

__all__ = ["BUILDERS", "SERVINGS", "Children"]

BUILDERS = "builders.core.openfunction.io"
SERVINGS = "servings.core.openfunction.io"
_TRIES = 3


class Children:
    """An index of both kinds.

    Args:
        store: Where they are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], dict[str, Child]] = {}  # (resource, function key) -> name -> child
        # (resource, namespace, name) -> (function key, resourceVersion)
        self._owners: dict[tuple[str, str, str], tuple[str, int]] = {}
        self._loaded = False

    async def load(self) -> None:
        """Read all of them, once; afterwards `see` and the writes here keep the index."""
        if self._loaded:
            return
        for resource in (BUILDERS, SERVINGS):
            for obj in (await self._store.list(resource))[0]:
                self._note(resource, obj)
        self._loaded = True

    def see(self, resource: str, event: WatchEvent) -> tuple[str, Child | None]:
        """Take in what a watch saw.

        Returns:
            The key of the Function concerned, "" for none, and the child; None when it was deleted.
        """
        metadata = event.object["metadata"]
        place = (resource, metadata.get("namespace", ""), metadata["name"])
        if event.type == "DELETED":
            return self._drop(*place), None
        return self._note(resource, event.object)

    def of(self, resource: str, key: str) -> list[Child]:
        """Return a Function's children, the oldest first."""
        return sorted(self._known.get((resource, key), {}).values(), key=lambda child: child.order)

    def find(self, resource: str, key: str, name: str) -> Child | None:
        """Return a child by its name; None when it is gone."""
        return self._known.get((resource, key), {}).get(name)

    def keys(self, resource: str) -> list[str]:
        """Return the keys of Functions that have children."""
        return [key for kind, key in self._known if kind == resource]

    async def create(self, resource: str, obj: dict[str, Any]) -> Child:
        """Store a new one with its status, under a generated name."""
        stored = await self._store.create(resource, obj, keep_status=True)
        child = self._note(resource, stored)[1]
        assert child is not None  # noqa: S101 -- it was made with an owner
        return child

    async def set_status(self, resource: str, namespace: str, name: str, status: dict[str, Any]) -> None:
        """Write a status; one that was deleted meanwhile has none."""
        try:
            stored = await self._store.update(
                resource,
                {"metadata": {"namespace": namespace, "name": name}, "status": status},
                subresource="status",
            )
        except NotFoundError:
            self._drop(resource, namespace, name)
            return
        self._note(resource, stored)

    async def cancel(self, namespace: str, name: str) -> None:
        """Ask a Builder to end, as whoever supersedes it does."""
        for _ in range(_TRIES):
            try:
                obj = await self._store.get(BUILDERS, namespace, name)
                obj["spec"] = {**(obj.get("spec") or {}), "state": "Cancelled"}
                self._note(BUILDERS, await self._store.update(BUILDERS, obj))
            except ConflictError:
                continue
            except NotFoundError:
                self._drop(BUILDERS, namespace, name)
            return

    async def delete(self, resource: str, namespace: str, names: Iterable[str]) -> None:
        """Delete some; idempotent."""
        for name in names:
            try:
                await self._store.delete(resource, namespace, name)
            except (NotFoundError, ConflictError):
                pass
            self._drop(resource, namespace, name)

    def _drop(self, resource: str, namespace: str, name: str) -> str:
        key, _ = self._owners.pop((resource, namespace, name), ("", 0))
        children = self._known.get((resource, key), {})
        children.pop(name, None)
        if not children:
            self._known.pop((resource, key), None)
        return key

    def _note(self, resource: str, obj: dict[str, Any]) -> tuple[str, Child | None]:
        metadata = obj["metadata"]
        owner = next(
            (
                each.get("name")
                for each in metadata.get("ownerReferences") or ()
                if each.get("kind") == "Function" and each.get("controller")
            ),
            None,
        )
        if not owner:
            return "", None  # somebody's own: nobody here made it, nobody here acts on it
        key = f"{metadata.get('namespace', '')}/{owner}"
        child = _child(obj)
        place, version = (
            (resource, metadata.get("namespace", ""), child.name),
            int(metadata["resourceVersion"]),
        )
        if (
            self._owners.get(place, ("", 0))[1] <= version
        ):  # a watch tells what was written here some time ago
            self._known.setdefault((resource, key), {})[child.name] = child
            self._owners[place] = (key, version)
        return key, child


def _child(obj: dict[str, Any]) -> Child:
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    notes = metadata.get("annotations") or {}
    version = str(notes.get(FUNCTION_VERSION, ""))
    return Child(
        name=metadata["name"],
        state=str(status.get("state", "")),
        created=str(metadata.get("creationTimestamp", "")),
        function_version=int(version) if version.isdecimal() else 0,
        revision=str(notes.get(REVISION, "")),
        content=str(notes.get(CONTENT, "")),
        cancelled=spec.get("state") == "Cancelled",
        max_age_s=_seconds(spec.get("builderMaxAge")),
    )


def _seconds(text: Any) -> float:
    try:
        return parse_duration(text) if isinstance(text, str) and text else 0.0
    except ValueError:
        return 0.0
