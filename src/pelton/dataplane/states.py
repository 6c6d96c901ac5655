"""State stores of functions: names resolved, keys prefixed, one driver per component.

Called by `invoker.py` through the runtime process, which hands the drivers in. Two functions whose component
is the same share a driver; their keys differ by prefix unless the component says otherwise.
Source: `dapr-runtime` contract, section 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pelton import errors
from pelton.dataplane import state_query
from pelton.model.desired import Component, Desired, StateBinding
from pelton.model.state import StateAnswer, StateCall, StateItem
from pelton.ports import StateStore

__all__ = ["QUERY_LIMIT", "States"]

QUERY_LIMIT = 10_000
"""Most values that a query looks at, where the store cannot query by itself."""
_SEPARATOR = "||"

_Key = tuple[str, str, str, tuple[tuple[str, str], ...]]


class States:
    """All functions' state stores.

    Args:
        store_of: Makes the driver of a component; raises ComponentError. Kept per component.
    """

    def __init__(self, *, store_of: Callable[[Component], StateStore]) -> None:
        self._store_of = store_of
        # Function -> revision -> name -> store; "" is the primary's, which any revision not listed has.
        self._bindings: dict[tuple[str, str], dict[str, dict[str, StateBinding]]] = {}
        self._stores: dict[_Key, StateStore] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def apply(self, desired: Desired) -> None:
        """Make a function's stores these; close what nobody uses any more."""
        where = (desired.workload.namespace, desired.workload.name)
        revisions = {
            revision: {binding.name: binding for binding in one.states}
            for revision, one in (("", desired), *((other.revision, other) for other in desired.others))
        }
        if any(revisions.values()):
            self._bindings[where] = revisions
        else:
            self._bindings.pop(where, None)
        self._close_unused()

    def remove(self, namespace: str, name: str) -> None:
        """Forget a function's stores; what they keep stays where it is. Idempotent."""
        self._bindings.pop((namespace, name), None)
        self._close_unused()

    async def perform(self, namespace: str, name: str, call: StateCall, revision: str = "") -> StateAnswer:
        """Carry out one call.

        Raises:
            ConflictError: An etag or a first write did not fit.
            ComponentError: No such store, a key that cannot be, or a store that cannot be used.
        """
        binding = self._resolve(namespace, name, call.store, revision)
        store = self._store(binding.component)
        if call.operation == "get":
            found = await store.get([_effective(binding, key) for key in call.keys])
            return StateAnswer(items=[_bare(binding, item) for item in found])
        if call.operation == "write":
            for change in call.changes:
                change.key = _effective(binding, change.key)
                change.ttl_s()
            try:
                await _write(store, call)
            except errors.ConflictError as exc:
                shown = exc.message.replace(repr(binding.prefix)[:-1], "'") if binding.prefix else exc.message
                raise errors.ConflictError(shown, hint=exc.hint) from exc
            return StateAnswer()
        if call.operation == "query":
            candidates = await store.scan(binding.prefix, limit=QUERY_LIMIT + 1)
            if len(candidates) > QUERY_LIMIT:
                raise errors.ComponentError(
                    f"state {binding.name!r} has more than {QUERY_LIMIT} values, too many for a query",
                    hint="Read by key, or use a store that can query.",
                )
            found, token = state_query.run([_bare(binding, item) for item in candidates], call.query)
            return StateAnswer(items=found, token=token)
        raise errors.ProtocolError(f"unknown operation {call.operation!r} on state")

    async def close(self) -> None:
        """Close all stores."""
        self._bindings.clear()
        self._close_unused()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _resolve(self, namespace: str, name: str, wanted: str, revision: str) -> StateBinding:
        revisions = self._bindings.get((namespace, name), {})
        bindings = revisions[revision] if revision in revisions else revisions.get("", {})
        if wanted in bindings:
            return bindings[wanted]
        if not wanted and bindings:
            return next(iter(bindings.values()))
        known = ", ".join(bindings) or "none"
        raise errors.ComponentError(
            f"no state is named {wanted!r}; there are: {known}" if wanted else "this function has no state",
            where=f"Function {namespace}/{name}",
            hint="Add it under spec.serving.states; the status of the Function says what a store lacks.",
        )

    def _store(self, component: Component) -> StateStore:
        key = _key(component)
        store = self._stores.get(key)
        if store is None:
            store = self._stores[key] = self._store_of(component)
        return store

    def _close_unused(self) -> None:
        used = {
            _key(binding.component)
            for revisions in self._bindings.values()
            for bindings in revisions.values()
            for binding in bindings.values()
        }
        for key in [key for key in self._stores if key not in used]:
            task = asyncio.create_task(self._stores.pop(key).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _key(component: Component) -> _Key:
    settings = tuple(sorted(component.metadata.items()))
    return component.namespace, component.name, component.type, settings


async def _write(store: StateStore, call: StateCall) -> None:
    if call.atomic or len(call.changes) == 1:
        await store.write(call.changes)
        return
    # Saving several is not atomic in Dapr: every one is tried, and the first failure is told.
    failure: errors.PeltonError | None = None
    for change in call.changes:
        try:
            await store.write([change])
        except errors.PeltonError as exc:
            failure = failure or exc
    if failure is not None:
        raise failure


def _effective(binding: StateBinding, key: str) -> str:
    if not key:
        raise errors.ComponentError("a state's key is empty", hint="Every value needs a key.")
    if _SEPARATOR in key:
        raise errors.ComponentError(
            f"key {key!r} contains {_SEPARATOR}", hint=f"{_SEPARATOR} separates the prefix; use another text."
        )
    return binding.prefix + key


def _bare(binding: StateBinding, item: StateItem) -> StateItem:
    item.key = item.key.removeprefix(binding.prefix)
    return item
