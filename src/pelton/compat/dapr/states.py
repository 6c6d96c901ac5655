"""State stores: get, save, delete, in bulk and in transactions, by keys that carry the app's prefix.

Called by both servers. Concurrency, etags and time-to-live are the driver's business (`model/state.py`); here
are the names of keys, what is one write and what is several, and what a failure is called.
Source: contracts, Dapr runtime, section 4, and Dapr HTTP, section 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import msgspec

from pelton.compat.dapr import faults
from pelton.compat.dapr.apps import App
from pelton.compat.dapr.components import Components
from pelton.compat.dapr.faults import Code, Fault
from pelton.compat.dapr.guard import Guard
from pelton.errors import ComponentError, ConflictError, MalformedEtagError
from pelton.model.cloudevent import UNREADABLE
from pelton.model.desired import Component
from pelton.model.state import StateChange, StateItem
from pelton.ports import StateStore

__all__ = ["Query", "States", "key_prefix"]

Query = Callable[[Sequence[StateItem], Mapping[str, Any]], tuple[list[StateItem], str]]
"""Runs a query document over items: those it asks for, and the token of the next page ("" = none)."""

T = TypeVar("T")

_SEPARATOR: Final = "||"
_PARALLEL: Final = 16
_QUERY_LIMIT: Final = 10_000
_UNSERVED: Final = ("primaryencryptionkey", "outboxpublishpubsub")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Store:
    """An open store as one app sees it."""

    name: str
    prefix: str
    port: StateStore


class States:
    """State for all apps.

    Args:
        components: Whose stores.
        guard: Runs the calls.
        query: Runs queries for stores that cannot.
    """

    def __init__(self, components: Components, guard: Guard, query: Query) -> None:
        self._components = components
        self._guard = guard
        self._query = query
        self._stores: dict[tuple[str, str], _Store] = {}
        self._generation = components.generation

    async def get(self, app: App, store: str, keys: Sequence[str]) -> list[StateItem]:
        """Return an item per key in their order, keys as the app knows them; without data where none is.

        Raises:
            Fault: No such store, a key that cannot be, or a store that cannot be read.
        """
        found = await self._open(app, store, "ERR_STATE_GET")
        effective = [_effective(found, key) for key in keys]
        items = await self._run(
            app,
            store,
            lambda: found.port.get(effective),
            "ERR_STATE_GET",
            f"fail to get {', '.join(keys)} from state store {store}",
            found.prefix,
        )
        for item, key in zip(items, keys, strict=True):
            item.key = key
        return items

    async def save(self, app: App, store: str, changes: Sequence[StateChange]) -> None:
        """Carry out changes, each by itself: all are tried, the first failure is told.

        Raises:
            Fault: ABORTED (409) for an etag that does not fit, else as in `get`.
        """
        what = f"failed saving state in state store {store}"
        await self._each(app, store, changes, "ERR_STATE_SAVE", lambda _key: what)

    async def delete(self, app: App, store: str, changes: Sequence[StateChange]) -> None:
        """Delete, each key by itself; as `save`."""
        await self._each(
            app, store, changes, "ERR_STATE_DELETE", lambda key: f"failed deleting state with key {key}"
        )

    async def transact(self, app: App, store: str, changes: Sequence[StateChange]) -> None:
        """Carry out all changes in order, or none.

        Raises:
            Fault: As in `save`.
        """
        found = await self._open(app, store, "ERR_STATE_TRANSACTION")
        if not changes:
            return
        effective = [replace(change, key=_effective(found, change.key)) for change in changes]
        await self._write(
            app, found, effective, "ERR_STATE_TRANSACTION", "error while executing state transaction"
        )

    async def query(self, app: App, store: str, text: str | bytes) -> tuple[list[StateItem], str]:
        """Return what a query document asks for among the app's own keys, and the next page's token.

        Raises:
            Fault: The document is none, or there are too many values for a query.
        """
        found = await self._open(app, store, "ERR_STATE_QUERY")
        try:
            document = msgspec.json.decode(text, type=dict[str, Any]) if text else {}
        except UNREADABLE as exc:
            raise faults.malformed(f"the query is no JSON object: {exc}") from exc
        items = await self._run(
            app,
            store,
            lambda: found.port.scan(found.prefix, limit=_QUERY_LIMIT + 1),
            "ERR_STATE_QUERY",
            f"failed query in state store {store}",
        )
        if len(items) > _QUERY_LIMIT:
            raise faults.state_failed(
                "ERR_STATE_QUERY",
                f"state store {store} has more than {_QUERY_LIMIT} values, too many to query",
            )
        for item in items:
            item.key = item.key.removeprefix(found.prefix)
        try:
            return self._query(items, document)
        except ComponentError as exc:
            raise faults.malformed(exc.message) from exc

    # -- inside ----------------------------------------------------------------------------------------------

    async def _open(self, app: App, name: str, error_code: str) -> _Store:
        if self._generation != self._components.generation:
            self._generation = self._components.generation
            self._stores.clear()
        known = self._stores.get((app.key, name))
        if known is not None:
            return known
        resource = self._components.find(app, name)
        if resource is None or resource.spec.category != "state":
            raise faults.state_store_missing(name, self._components.of(app, "state"))

        async def attempt() -> _Store:
            port: StateStore = await self._components.need("state", app, name)
            component = await self._components.component(app, name)
            if component is None:
                raise ComponentError(f"component {name} has just gone")
            _refuse_unserved(component)
            return _Store(name=name, prefix=key_prefix(component, app), port=port)

        found = await self._run(app, name, attempt, error_code, f"state store {name} cannot be used")
        if self._generation == self._components.generation:
            self._stores[app.key, name] = found
        return found

    async def _each(
        self,
        app: App,
        name: str,
        changes: Sequence[StateChange],
        error_code: str,
        what: Callable[[str], str],
    ) -> None:
        store = await self._open(app, name, error_code)
        effective = [
            (what(change.key), replace(change, key=_effective(store, change.key))) for change in changes
        ]
        if len(effective) == 1:
            words, change = effective[0]
            await self._write(app, store, [change], error_code, words)
            return
        if len({change.key for _, change in effective}) < len(effective):
            outcomes = [  # one key twice: their order counts
                await self._outcome(app, store, change, error_code, words) for words, change in effective
            ]
        else:
            room = asyncio.Semaphore(_PARALLEL)

            async def one(words: str, change: StateChange) -> Fault | None:
                async with room:
                    return await self._outcome(app, store, change, error_code, words)

            outcomes = list(await asyncio.gather(*(one(words, change) for words, change in effective)))
        failure = next((fault for fault in outcomes if fault is not None), None)
        if failure is not None:
            raise failure

    async def _outcome(
        self, app: App, store: _Store, change: StateChange, error_code: str, what: str
    ) -> Fault | None:
        try:
            await self._write(app, store, [change], error_code, what)
        except Fault as fault:
            return fault
        return None

    async def _write(
        self, app: App, store: _Store, changes: list[StateChange], error_code: str, what: str
    ) -> None:
        for change in changes:
            try:
                change.ttl_s()
            except ComponentError as exc:
                raise faults.malformed(_bare(exc.message, store.prefix)) from exc
        try:
            await self._run(
                app, store.name, lambda: store.port.write(changes), error_code, what, store.prefix
            )
        except MalformedEtagError as exc:
            raise Fault(
                f"{what}: invalid etag value: {_bare(exc.message, store.prefix)}",
                code=Code.INVALID_ARGUMENT,
                status=400,
                error_code=error_code,
            ) from exc
        except ConflictError as exc:
            raise Fault(
                f"{what}: possible etag mismatch. error from state store: {_bare(exc.message, store.prefix)}",
                code=Code.ABORTED,
                status=409,
                error_code=error_code,
            ) from exc

    async def _run(
        self,
        app: App,
        name: str,
        attempt: Callable[[], Awaitable[T]],
        error_code: str,
        what: str,
        prefix: str = "",
    ) -> T:
        return await self._guard.run(
            app,
            name,
            "Statestore",
            attempt,
            lambda why: faults.state_failed(error_code, f"{what}: {_bare(why, prefix)}"),
        )


def key_prefix(component: Component, app: App, *, namespaced: bool = True) -> str:
    """Return what stands before an app's keys in a store, `||` included; "" for nothing.

    Args:
        component: The store or lock; its `keyPrefix` is appid (default), name, namespace, none, or a text.
        app: Whose keys.
        namespaced: Whether `namespace` stands for the app and its namespace; for locks it is a text.

    Raises:
        Fault: The prefix has the separator in it.
    """
    given = next((v for k, v in component.metadata.items() if k.lower() == "keyprefix"), "").strip()
    known = {
        "": app.app_id,
        "appid": app.app_id,
        "name": component.name,
        "none": "",
    }
    if namespaced:
        known["namespace"] = f"{app.namespace}.{app.app_id}"
    text = known.get(given.lower(), given)
    if _SEPARATOR in text:
        raise faults.illegal_key(component.name, text, f"can't contain '{_SEPARATOR}'")
    return text + _SEPARATOR if text else ""


def _effective(store: _Store, key: str) -> str:
    if not key:
        raise faults.malformed("key is empty")
    if _SEPARATOR in key:
        raise faults.illegal_key(store.name, key, f"can't contain '{_SEPARATOR}'")
    return store.prefix + key


def _bare(message: str, prefix: str) -> str:
    """Take the prefix out of a driver's sentence: apps know their keys without it."""
    return message.replace(prefix, "") if prefix else message


def _refuse_unserved(component: Component) -> None:
    """Refuse settings whose silent loss would store secrets in the open or lose events."""
    found = next((key for key in component.metadata if key.lower() in _UNSERVED), "")
    if found:
        raise ComponentError(
            f"metadata `{found}` is not served",
            where=f"Component {component.namespace}/{component.name}",
            hint="Use a component without it.",
        )
