"""Keeps the runtime's objects of alerts up to date, with the Secrets and ConfigMaps that they refer to.

Run by `cli/control_plane.py`; the runtime process has no access to the store, so all Receivers, Configs,
Routers, Silences and NotificationManagers are sent to it as a whole whenever one of them or one of those
Secrets and ConfigMaps changes.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from pelton.apiserver.store import ObjectStore, decode
from pelton.apiserver.watch import Change
from pelton.clock import Clock
from pelton.errors import NotFoundError
from pelton.log import get

__all__ = ["RECEIVERS", "ConfigMaps", "ReceiverFeed", "Secrets", "manager_of", "secret_namespace"]

RECEIVERS = "receivers.notification.kubesphere.io"
"""The store's name of receivers."""

_KINDS = (
    RECEIVERS,
    *(
        f"{plural}.notification.kubesphere.io"
        for plural in ("configs", "notificationmanagers", "routers", "silences")
    ),
    "logrules.pelton.dev",
)

DEFAULT_NAMESPACE = "default"
"""Where a Secret is that is named without a namespace, unless the NotificationManager says otherwise."""

Secrets = list[tuple[str, str, str, str]]
"""(namespace, name, key, text) of every entry that a receiver refers to and that exists."""

ConfigMaps = list[tuple[str, str, dict[str, str]]]
"""(namespace, name, entries) of every ConfigMap that is referred to and exists."""

_SECRETS = "secrets"
_CONFIG_MAPS = "configmaps"
_AGAIN_S = 1.0
_log = get(__name__)


class ReceiverFeed:
    """Pushes receivers and their secrets.

    Args:
        store: Where they are.
        push: Takes all these objects, the secrets and the ConfigMaps; raises when the runtime cannot be
            reached.
        clock: For waiting after a failure.
    """

    def __init__(
        self,
        store: ObjectStore,
        push: Callable[[list[dict[str, Any]], Secrets, ConfigMaps], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._store = store
        self._push = push
        self._clock = clock
        self._used: set[tuple[str, str, str]] = set()
        self._told: Any = None
        self._changed = asyncio.Event()
        self._changed.set()
        store.on_change(self._on_change)

    def _on_change(self, resource: str, change: Change) -> None:
        if resource in _KINDS or (resource, change.namespace, change.name) in self._used:
            self._changed.set()

    async def run(self) -> None:
        """Push until cancelled: at the start, and after every change."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.push()
            except Exception as exc:
                _log.warning("receivers are pushed again: %s", exc)
                await self._clock.sleep(_AGAIN_S)
                self._changed.set()

    async def push(self) -> None:
        """Send the present state, unless it was sent last: a status that is written changes nothing."""
        items = [item for kind in _KINDS for item in (await self._store.list(kind))[0]]
        default = secret_namespace(items)
        references = {
            each
            for item in items
            # What a LogRule names is in its own namespace; the others have none.
            for each in _references(item.get("spec"), item["metadata"].get("namespace") or default)
        }
        texts = {each for item in items for each in _texts(item, default)}
        self._used = {(_SECRETS, namespace, name) for namespace, name, _ in references}
        self._used |= {(_CONFIG_MAPS, namespace, name) for namespace, name in texts}
        found: Secrets = []
        for namespace, name, key in sorted(references):
            text = self._text(namespace, name, key)
            if text is not None:
                found.append((namespace, name, key, text))
        maps = [
            (namespace, name, entries)
            for namespace, name in sorted(texts)
            if (entries := self._entries(namespace, name)) is not None
        ]
        told = ([_said(item) for item in items], found, maps)
        if told != self._told:
            await self._push(items, found, maps)
            self._told = told

    def _text(self, namespace: str, name: str, key: str) -> str | None:
        try:
            secret = decode(self._store.entry(_SECRETS, namespace, name).raw)
            return base64.b64decode((secret.get("data") or {})[key], validate=True).decode()
        except (NotFoundError, KeyError, ValueError):
            return None  # the pipeline says which one is missing, per receiver

    def _entries(self, namespace: str, name: str) -> dict[str, str] | None:
        try:
            found = decode(self._store.entry(_CONFIG_MAPS, namespace, name).raw)
        except NotFoundError:
            return None
        return {str(key): str(text) for key, text in (found.get("data") or {}).items()}


def _said(item: dict[str, Any]) -> tuple[Any, ...]:
    """Return what of an object counts: everything but its status and what each write changes."""
    metadata = item["metadata"]
    return (
        item.get("kind"),
        metadata.get("uid", metadata["name"]),
        metadata.get("labels"),
        metadata.get("annotations"),
        item.get("spec"),
    )


def secret_namespace(items: list[dict[str, Any]]) -> str:
    """Return where a Secret is that is named without a namespace, by the manager that counts."""
    manager = manager_of(items)
    spec = (manager or {}).get("spec") or {}
    return str(spec.get("defaultSecretNamespace") or DEFAULT_NAMESPACE)


def manager_of(items: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the NotificationManager that counts, the oldest one, or None; their names break a tie."""
    managers = [item for item in items if item.get("kind") == "NotificationManager"]
    return min(
        managers,
        key=lambda item: (item["metadata"].get("creationTimestamp", ""), item["metadata"]["name"]),
        default=None,
    )


def _references(value: Any, default: str) -> Iterator[tuple[str, str, str]]:
    """Yield (namespace, name, key) of every secretKeyRef below a value."""
    if isinstance(value, dict):
        reference = value.get("secretKeyRef")
        if isinstance(reference, dict):
            namespace = str(reference.get("namespace") or default)
            name = str(reference.get("name", ""))
            yield namespace, name, str(reference.get("key") or name)
        for entry in value.values():
            yield from _references(entry, default)
    elif isinstance(value, list):
        for entry in value:
            yield from _references(entry, default)


def _texts(item: dict[str, Any], default: str) -> Iterator[tuple[str, str]]:
    """Yield (namespace, name) of every ConfigMap with templates or words that an object refers to."""
    spec = item.get("spec") or {}
    if item.get("kind") == "Receiver":
        references = [block.get("tmplText") for block in spec.values() if isinstance(block, dict)]
    else:
        template = spec.get("template") or {} if item.get("kind") == "NotificationManager" else {}
        references = [template.get("text"), *(template.get("languagePack") or ())]
    for reference in references:
        if isinstance(reference, dict):
            yield str(reference.get("namespace") or default), str(reference.get("name", ""))
