"""`context.state` of OpenFunction: what a function keeps between its calls.

Made per invocation by `sdk/context.py`; calls travel as `model/state.StateCall` to the runtime process, which
owns the drivers. In coroutine functions every method returns something to await.
Source: `openfunction` contract, section 10.3 (the Node framework's model with Python's names).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from pelton.errors import ComponentError, DeliveryError
from pelton.model.state import StateAnswer, StateCall, StateChange, StateItem

__all__ = ["State"]

_T = TypeVar("_T")


class State:
    """The function's state stores. Values are whatever JSON can hold, or bytes.

    Where `db` is not given, the first state of the manifest is meant.

    Args:
        names: Names of the states, in order.
        call: Uses a store and waits for its answer; set by the platform.
        call_async: The same for coroutine functions.

    Raises (every method):
        ConflictError: An etag or a first write did not fit what is stored.
        ComponentError: There is no such state, or its store cannot do what was asked.
        DeliveryError: The platform did not answer.
    """

    __slots__ = ("_call", "_call_async", "_names")

    def __init__(
        self,
        names: Iterable[str] = (),
        call: Callable[[StateCall], StateAnswer] | None = None,
        call_async: Callable[[StateCall], Awaitable[StateAnswer]] | None = None,
    ) -> None:
        self._names = tuple(names)
        self._call = call
        self._call_async = call_async

    def save(self, data: Any, db: str | None = None) -> Any:
        """Save one value or several; several are tried each on its own.

        Args:
            data: `{"key": ..., "value": ...}` or a list of those. Each may have `etag`, `metadata` (e.g.
                `{"ttlInSeconds": "60"}`) and `options` (`{"concurrency": "first-write"}`).
            db: Name of the state.
        """
        items = [data] if isinstance(data, Mapping) else list(data)
        return self._use(StateCall(operation="write", changes=[_change(item) for item in items]), db, _none)

    def get(self, data: Any, db: str | None = None) -> Any:
        """Return the value of a key, None when there is none.

        Args:
            data: The key, or `{"key": ...}`.
            db: Name of the state.
        """
        return self._use(StateCall(operation="get", keys=[_key(data)]), db, _first)

    def get_bulk(self, data: Any, db: str | None = None) -> Any:
        """Return `{"key", "data", "etag"}` per key in the order of the keys; data is None where none is.

        Args:
            data: The keys, or `{"keys": [...]}`.
            db: Name of the state.
        """
        keys = data.get("keys") if isinstance(data, Mapping) else data
        if isinstance(keys, str) or not isinstance(keys, Iterable):
            raise TypeError("get_bulk takes a list of keys, or {'keys': [...]}")
        return self._use(StateCall(operation="get", keys=[_key(key) for key in keys]), db, _all)

    def delete(self, data: Any, db: str | None = None) -> Any:
        """Delete a key; one that does not exist is no error.

        Args:
            data: The key, or `{"key": ...}` with `etag` and `options` as for `save`.
            db: Name of the state.
        """
        item = {"key": data} if isinstance(data, str) else data
        change = _change(item, delete=True)
        return self._use(StateCall(operation="write", changes=[change]), db, _none)

    def transaction(self, data: Any, db: str | None = None) -> Any:
        """Carry out several changes, all or none.

        Args:
            data: A list of `{"operation": "upsert" | "delete", "request": {"key": ..., "value": ...}}`, or
                `{"operations": [...], "metadata": {...}}`.
            db: Name of the state.
        """
        shared: Mapping[str, Any] = {}
        if isinstance(data, Mapping):
            data, shared = data.get("operations") or [], data.get("metadata") or {}
        changes = [_operation(item, shared) for item in data]
        return self._use(StateCall(operation="write", changes=changes, atomic=True), db, _none)

    def query(self, data: Any, db: str | None = None) -> Any:
        """Return `{"results": [{"key", "data", "etag"}], "token"}`; token "" means that was all.

        Args:
            data: Dapr's query: `filter`, `sort`, `page`; or `{"query": {...}}`.
            db: Name of the state.
        """
        if not isinstance(data, Mapping):
            raise TypeError("query takes an object with filter, sort and page")
        inner = data.get("query", data)
        return self._use(StateCall(operation="query", query=dict(inner)), db, _results)

    getBulk = get_bulk

    def _use(self, call: StateCall, db: str | None, finish: Callable[[StateAnswer], _T]) -> Any:
        call.store = self._named(db)
        if self._call_async is not None:
            return self._awaited(call, finish)
        if self._call is None:
            raise DeliveryError("this context belongs to no platform")
        return finish(self._call(call))

    async def _awaited(self, call: StateCall, finish: Callable[[StateAnswer], _T]) -> _T:
        if self._call_async is None:
            raise DeliveryError("this context belongs to no platform")
        return finish(await self._call_async(call))

    def _named(self, db: str | None) -> str:
        if not self._names:
            raise ComponentError("this function has no state", hint="Add one under spec.serving.states.")
        if db and db not in self._names:
            raise ComponentError(f"no state is named {db!r}; there are: {', '.join(self._names)}")
        return db or self._names[0]


def _key(data: Any) -> str:
    key = data.get("key") if isinstance(data, Mapping) and len(data) == 1 else data
    if not isinstance(key, str):
        raise TypeError(f"a key is text, or {{'key': text}} and nothing else; this is {data!r}")
    return key


def _change(item: Any, *, delete: bool = False, shared: Mapping[str, Any] | None = None) -> StateChange:
    if not isinstance(item, Mapping) or not isinstance(item.get("key"), str):
        raise TypeError(f"a value to save is {{'key': text, 'value': ...}}; this is {item!r}")
    if not delete and "value" not in item:
        raise TypeError(f"key {item['key']!r} comes without a value")
    value = item.get("value")
    raw = isinstance(value, bytes | bytearray | memoryview)
    data = b"" if delete else bytes(value) if raw else json.dumps(value).encode()  # type: ignore[arg-type]
    etag = item.get("etag")
    if isinstance(etag, Mapping):
        etag = etag.get("value")
    metadata = {**(shared or {}), **(item.get("metadata") or {})}
    return StateChange(
        key=item["key"],
        delete=delete,
        data=data,
        json=not raw,
        etag=str(etag or ""),
        concurrency=str((item.get("options") or {}).get("concurrency") or ""),
        metadata={str(name): str(each) for name, each in metadata.items()},
    )


def _operation(item: Any, shared: Mapping[str, Any]) -> StateChange:
    kind = item.get("operation") if isinstance(item, Mapping) else None
    if kind not in {"upsert", "delete"}:
        raise TypeError(
            f"an operation is {{'operation': 'upsert' or 'delete', 'request': ...}}; this is {item!r}"
        )
    return _change(item.get("request"), delete=kind == "delete", shared=shared)


def _value(item: StateItem) -> Any:
    return json.loads(item.data) if item.json and item.data is not None else item.data


def _none(_answer: StateAnswer) -> None:
    return None


def _first(answer: StateAnswer) -> Any:
    return _value(answer.items[0])


def _all(answer: StateAnswer) -> list[dict[str, Any]]:
    return [{"key": item.key, "data": _value(item), "etag": item.etag} for item in answer.items]


def _results(answer: StateAnswer) -> dict[str, Any]:
    return {"results": _all(answer), "token": answer.token}
