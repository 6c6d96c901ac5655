"""Keeps the runtime's resources of Dapr up to date, with the Secrets that they refer to.

Run by `cli/control_plane.py`; the runtime process has no access to the store, so all are sent to it as a
whole whenever one of them, or one of those Secrets, changes.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from pelton.apiserver.store import ObjectStore, decode
from pelton.apiserver.watch import Change
from pelton.clock import Clock
from pelton.errors import NotFoundError
from pelton.log import get

__all__ = ["DaprFeed", "SecretEntries"]

_KINDS: Final = tuple(
    f"{plural}.dapr.io"
    for plural in ("components", "subscriptions", "configurations", "httpendpoints", "resiliencies")
)
_SECRETS: Final = "secrets"
_AGAIN_S: Final = 1.0
_log = get(__name__)

SecretEntries = list[tuple[str, str, dict[str, str]]]
"""(namespace, name, key -> text) of every Secret that a resource refers to and that exists."""


class DaprFeed:
    """Pushes resources and their secrets.

    Args:
        store: Where they are.
        push: Takes all of them; raises when the runtime cannot be reached.
        clock: For waiting after a failure.
    """

    def __init__(
        self,
        store: ObjectStore,
        push: Callable[[list[dict[str, Any]], SecretEntries], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._store = store
        self._push = push
        self._clock = clock
        self._used: set[tuple[str, str]] = set()
        self._changed = asyncio.Event()
        self._changed.set()
        store.on_change(self._on_change)

    def _on_change(self, resource: str, change: Change) -> None:
        if resource in _KINDS or (resource == _SECRETS and (change.namespace, change.name) in self._used):
            self._changed.set()

    async def run(self) -> None:
        """Push until cancelled: at the start, and after every change."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.push()
            except Exception as exc:
                _log.warning("resources of Dapr are pushed again: %s", exc)
                await self._clock.sleep(_AGAIN_S)
                self._changed.set()

    async def push(self) -> None:
        """Send the present state once."""
        items = [item for kind in _KINDS for item in (await self._store.list(kind))[0]]
        self._used = {
            (str(item["metadata"].get("namespace", "")), name)
            for item in items
            for name in _references(item.get("spec"))
        }
        found: SecretEntries = []
        for namespace, name in sorted(self._used):
            entries = self._entries(namespace, name)
            if entries is not None:
                found.append((namespace, name, entries))
        await self._push(items, found)

    def _entries(self, namespace: str, name: str) -> dict[str, str] | None:
        try:
            secret = decode(self._store.entry(_SECRETS, namespace, name).raw)
        except NotFoundError:
            return None
        found: dict[str, str] = {}
        for key, value in (secret.get("data") or {}).items():
            try:
                found[key] = base64.b64decode(value, validate=True).decode()
            except ValueError:
                continue  # no text: no component could take it
        return found


def _references(value: Any) -> Iterator[str]:
    """Yield the name of every secretKeyRef below a value."""
    if isinstance(value, dict):
        reference = value.get("secretKeyRef")
        if isinstance(reference, dict) and reference.get("name"):
            yield str(reference["name"])
        for entry in value.values():
            yield from _references(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _references(entry)
