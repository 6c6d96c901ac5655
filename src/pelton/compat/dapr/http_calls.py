"""What each path of the Dapr HTTP API does: reads the request, calls an operation, returns the answer.

`http_server.py` looks a call up in `CALLS` by block and method. JSON values travel as they were written,
never through Python numbers. Source: contracts, Dapr HTTP, sections 2 to 4.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import msgspec

from pelton import log
from pelton.compat.dapr import faults, metadata
from pelton.compat.dapr.apps import RegisteredApp
from pelton.compat.dapr.blocks import Items
from pelton.compat.dapr.channel import AppUnreachableError
from pelton.compat.dapr.faults import Code, Fault
from pelton.compat.dapr.publishing import BulkEntry, Trace
from pelton.compat.dapr.runtime import DaprRuntime
from pelton.model.cloudevent import UNREADABLE, is_json, is_json_text
from pelton.model.invocation import Invocation
from pelton.model.state import StateChange, StateItem

__all__ = ["ABSENT", "CALLS", "Answer", "Call", "Request"]

_TELL_S: Final = 10.0
_log = log.get(__name__)
_LAST: Final = frozenset({"", "first-write", "last-write"})
_UNLOCKED: Final = {"SUCCESS": 0, "LOCK_DOES_NOT_EXIST": 1, "LOCK_BELONGS_TO_OTHERS": 2}


@dataclass(slots=True, kw_only=True)
class Request:
    """One request, read as far as all calls need it.

    Attributes:
        method: HTTP method.
        version: First part of the path, such as `v1.0`.
        path: What follows the block, split and decoded.
        query: (name, value) pairs in their order.
        headers: Lower-case name -> value.
        body: All of it; empty where the call reads none.
    """

    method: str
    version: str
    path: list[str]
    query: list[tuple[str, str]]
    headers: Mapping[bytes, bytes]
    body: bytes

    def metadata(self) -> dict[str, str]:
        """Return what the query says as `metadata.<key>`."""
        if not self.query:
            return {}
        return {name[9:]: value for name, value in self.query if name.startswith("metadata.")}

    def asked(self, name: str) -> str:
        """Return a value of the query, "" for none."""
        return next((value for key, value in self.query if key == name), "")

    def header(self, name: bytes) -> str:
        """Return a header, "" for none."""
        return self.headers.get(name, b"").decode("latin-1")

    def trace(self) -> Trace | None:
        """Return the trace context, None for none."""
        parent = self.headers.get(b"traceparent")
        state = self.headers.get(b"tracestate")
        if parent is None and state is None:
            return None
        return Trace(parent=(parent or b"").decode("latin-1"), state=(state or b"").decode("latin-1"))


@dataclass(slots=True, kw_only=True)
class Answer:
    """A whole answer; without a body it is 204 unless it says otherwise."""

    status: int = 204
    body: bytes = b""
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What answers a block's requests of one method.

    Attributes:
        group: Group of calls that a Configuration can allow or deny.
        answer: Answers.
        reads: Whether it reads the body.
    """

    group: str
    answer: Callable[[DaprRuntime, RegisteredApp, Request], Awaitable[Answer]]
    reads: bool = True


# ---- bodies ------------------------------------------------------------------------------------------------


class _Options(msgspec.Struct):
    concurrency: str = ""
    consistency: str = ""


class _Item(msgspec.Struct):
    key: str = ""
    value: msgspec.Raw = msgspec.Raw(b"null")
    etag: str | None = None
    metadata: dict[str, str] | None = None
    options: _Options | None = None


class _Operation(msgspec.Struct):
    operation: str = ""
    request: _Item = msgspec.field(default_factory=_Item)


class _Transaction(msgspec.Struct):
    operations: list[_Operation] = []
    metadata: dict[str, str] | None = None


class _Bulk(msgspec.Struct):
    keys: list[str] = []
    metadata: dict[str, str] | None = None
    parallelism: int = 0


class _Entry(msgspec.Struct, rename="camel"):
    entry_id: str = ""
    event: msgspec.Raw = msgspec.Raw(b"null")
    content_type: str = ""
    metadata: dict[str, str] | None = None


class _Invoked(msgspec.Struct):
    operation: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")
    metadata: dict[str, Any] | None = None


class _Lock(msgspec.Struct, rename="camel"):
    resource_id: str = ""
    lock_owner: str = ""
    expiry_in_seconds: int = 0


_items = msgspec.json.Decoder(list[_Item])
_transaction = msgspec.json.Decoder(_Transaction)
_bulk = msgspec.json.Decoder(_Bulk)
_entries = msgspec.json.Decoder(list[_Entry])
_invoked = msgspec.json.Decoder(_Invoked)
_lock = msgspec.json.Decoder(_Lock)


def _decoded(decoder: Any, body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except UNREADABLE as exc:
        raise faults.malformed(f"failed deserializing HTTP body: {exc}") from exc


def _json(value: Any, *, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> Answer:
    return Answer(status=status, body=msgspec.json.encode(value), headers=list(headers))


def _parts(request: Request, count: int, what: str) -> list[str]:
    """Return the parts of the path, refusing a path that has another number of them."""
    if len(request.path) != count:
        raise Fault(
            f"the path of {what} has {count} parts behind it, not {len(request.path)}",
            code=Code.NOT_FOUND,
            status=404,
            error_code="ERR_NOT_FOUND",
        )
    return request.path


# ---- state -------------------------------------------------------------------------------------------------


async def _get_state(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    if len(request.path) < 2:
        _parts(request, 2, "state")
    # Over HTTP a key may have slashes in it.
    key = "/".join(request.path[1:])
    (item,) = await runtime.states.get(caller.app, request.path[0], [key])
    if item.data is None:
        return Answer()
    headers = [("etag", item.etag), ("metadata.ttlexpiretime", item.expires)]
    return Answer(status=200, body=item.data, headers=[each for each in headers if each[1]])


async def _post_state(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    if len(request.path) == 2 and request.path[1] == "bulk":
        return await _get_bulk(runtime, caller, request)
    if len(request.path) == 2 and request.path[1] == "transaction":
        return await _transact(runtime, caller, request)
    if len(request.path) == 2 and request.path[1] == "query":
        return await _query(runtime, caller, request)
    (store,) = _parts(request, 1, "state")
    items: list[_Item] = _decoded(_items, request.body)
    extra = request.metadata()
    await runtime.states.save(caller.app, store, [_change(item, extra) for item in items])
    return Answer()


async def _get_bulk(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    asked: _Bulk = _decoded(_bulk, request.body)
    found = await runtime.states.get(caller.app, request.path[0], asked.keys)
    return _json([_written(item) for item in found])


async def _transact(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    asked: _Transaction = _decoded(_transaction, request.body)
    extra = request.metadata()
    changes = []
    for operation in asked.operations:
        if operation.operation not in {"upsert", "delete"}:
            raise Fault(
                f"operation type {operation.operation} not supported",
                code=Code.UNIMPLEMENTED,
                status=400,
                error_code="ERR_NOT_SUPPORTED_STATE_OPERATION",
            )
        changes.append(_change(operation.request, extra, delete=operation.operation == "delete"))
    await runtime.states.transact(caller.app, request.path[0], changes)
    return Answer()


async def _query(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    found, token = await runtime.states.query(caller.app, request.path[0], request.body)
    answer: dict[str, Any] = {"results": [_written(item) for item in found]}
    return _json(answer | ({"token": token} if token else {}))


async def _delete_state(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    if len(request.path) < 2:
        _parts(request, 2, "state")
    change = StateChange(
        key="/".join(request.path[1:]),
        delete=True,
        etag=request.header(b"if-match"),
        concurrency=_concurrency(request.asked("concurrency")),
        metadata=request.metadata(),
    )
    await runtime.states.delete(caller.app, request.path[0], [change])
    return Answer()


def _change(item: _Item, extra: dict[str, str], *, delete: bool = False) -> StateChange:
    return StateChange(
        key=item.key,
        delete=delete,
        data=bytes(item.value),
        json=True,
        etag=item.etag or "",
        concurrency=_concurrency(item.options.concurrency if item.options else ""),
        metadata={**(item.metadata or {}), **extra},
    )


def _concurrency(text: str) -> str:
    if text not in _LAST:
        raise faults.malformed(f"concurrency {text!r} is neither first-write nor last-write")
    return text


def _written(item: StateItem) -> dict[str, Any]:
    """Return an item of a bulk: JSON as it is, other bytes as text, else in base64."""
    written: dict[str, Any] = {"key": item.key}
    if item.data is not None:
        written["data"] = _as_json(item.data)
        written["etag"] = item.etag
    if item.expires:
        written["metadata"] = {"ttlExpireTime": item.expires}
    return written


def _as_json(data: bytes) -> Any:
    if is_json_text(data):
        return msgspec.Raw(data)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()


# ---- topics ------------------------------------------------------------------------------------------------


async def _publish(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    path = request.path
    if path and path[0] == "bulk" and len(path) > 2:
        return await _publish_bulk(runtime, caller, request)
    await runtime.topics.publish(
        caller.app,
        path[0] if path else "",
        "/".join(path[1:]),
        request.body,
        content_type=request.header(b"content-type"),
        metadata=request.metadata(),
        trace=request.trace(),
    )
    return Answer()


async def _publish_bulk(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    pubsub, topic = request.path[1], "/".join(request.path[2:])
    try:
        read: list[_Entry] = _entries.decode(request.body)
        entries = [
            BulkEntry(
                entry_id=entry.entry_id,
                data=_event(entry),
                content_type=entry.content_type,
                metadata=entry.metadata or {},
            )
            for entry in read
        ]
    except (*UNREADABLE, binascii.Error) as exc:
        raise faults.pubsub_refused(
            "DAPR_PUBSUB_UNMARSHAL_EVENTS",
            f"error when unmarshaling the request for topic {topic} pubsub {pubsub}: {exc}",
            pubsub,
            metadata={"error": str(exc)},
        ) from exc
    failed = await runtime.topics.publish_bulk(
        caller.app, pubsub, topic, entries, metadata=request.metadata(), trace=request.trace()
    )
    if not failed:
        return Answer()
    return _json(
        {
            "failedEntries": [
                {"entryId": entry_id, "error": fault.message} for entry_id, fault in failed.items()
            ],
            "errorCode": "ERR_PUBSUB_PUBLISH_MESSAGE",
        },
        status=500,
    )


def _event(entry: _Entry) -> bytes:
    raw = bytes(entry.event)
    media = entry.content_type.partition(";")[0].strip().lower()
    if is_json(media):
        return raw
    text = msgspec.json.decode(raw, type=str)
    if media in {"application/octet-stream", "application/cloudevents+protobuf"}:
        return base64.b64decode(text, validate=True)
    return text.encode()


# ---- bindings, secrets, configuration, locks ---------------------------------------------------------------


async def _binding(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    (name,) = _parts(request, 1, "bindings")
    asked: _Invoked = _decoded(_invoked, request.body)
    given = {key: _text(value) for key, value in (asked.metadata or {}).items()}
    data = bytes(asked.data)
    delivered = await runtime.bindings.invoke(
        caller.app,
        name,
        asked.operation,
        b"" if data == b"null" else data,
        {**given, **request.metadata()},
        request.trace(),
    )
    headers = [(f"metadata.{key}", value) for key, value in delivered.metadata.items()]
    if not delivered.ok:
        fault = Fault(
            f"error invoking output binding {name}: {delivered.error or 'it was refused'}",
            code=Code.INTERNAL,
            status=500,
            error_code="ERR_INVOKE_OUTPUT_BINDING",
        )
        return _json(fault.body(), status=500, headers=headers)
    if not delivered.data:
        return Answer(headers=headers)
    return Answer(status=200, body=delivered.data, headers=headers)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


async def _secret(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    store, name = _parts(request, 2, "secrets")
    if name == "bulk":
        return _json(await runtime.secrets.get_all(caller.app, store, request.metadata()))
    return _json(await runtime.secrets.get(caller.app, store, name, request.metadata()))


async def _configuration(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    keys = [value for name, value in request.query if name == "key"]
    if len(request.path) == 3 and request.path[2] == "unsubscribe":
        if runtime.configurations.unsubscribe(caller.app, request.path[0], request.path[1]):
            return _json({"ok": True})
        return _json(
            {"ok": False, "message": f"subscription with id {request.path[1]} does not exist"}, status=500
        )
    if len(request.path) == 2 and request.path[1] == "subscribe":
        return await _follow(runtime, caller, request.path[0], keys, request.metadata())
    (store,) = _parts(request, 1, "configuration")
    items = await runtime.configurations.get(caller.app, store, keys, request.metadata())
    return _json(_settings(items)) if items else Answer()


async def _follow(
    runtime: DaprRuntime, caller: RegisteredApp, store: str, keys: list[str], given: dict[str, str]
) -> Answer:
    if caller.channel is None or caller.app.speaks_grpc:
        raise Fault(
            "app channel is not initialized: subscribing over HTTP needs an app that is called over HTTP",
            code=Code.INTERNAL,
            status=500,
            error_code="ERR_APP_CHANNEL_NIL",
        )

    async def tell(subscription_id: str, items: Items) -> None:
        for key, value in _settings(items).items():
            body = msgspec.json.encode({"id": subscription_id, "items": {key: value}})
            await _tell_app(caller, f"/configuration/{quote(store)}/{quote(key, safe='')}", body)

    subscription_id = await runtime.configurations.follow(caller.app, store, keys, given, tell)
    return _json({"id": subscription_id})


async def _tell_app(caller: RegisteredApp, path: str, body: bytes) -> None:
    """Post to the app, once; an app that does not take it hears of the next change."""
    if caller.channel is None:
        return
    call = Invocation(
        id=uuid.uuid4().hex,
        method="POST",
        target=path.encode(),
        headers=[(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        body=body,
    )
    try:
        async with asyncio.timeout(_TELL_S):
            reply = await caller.channel.invoke(call)
    except (AppUnreachableError, TimeoutError) as exc:
        _log.warning("app %s was not told of a change at %s: %s", caller.app.key, path, exc)
        return
    if not 200 <= reply.status < 300:
        _log.warning("app %s answered %d to a change at %s", caller.app.key, reply.status, path)


def _settings(items: Items) -> dict[str, dict[str, Any]]:
    return {
        key: {
            "value": item.value,
            **({"version": item.version} if item.version else {}),
            **({"metadata": dict(item.metadata)} if item.metadata else {}),
        }
        for key, item in items.items()
    }


async def _try_lock(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    (store,) = _parts(request, 1, "lock")
    asked: _Lock = _decoded(_lock, request.body)
    taken = await runtime.locks.try_lock(
        caller.app, store, asked.resource_id, asked.lock_owner, asked.expiry_in_seconds
    )
    return _json({"success": taken})


async def _unlock(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    (store,) = _parts(request, 1, "unlock")
    asked: _Lock = _decoded(_lock, request.body)
    outcome = await runtime.locks.unlock(caller.app, store, asked.resource_id, asked.lock_owner)
    return _json({"status": _UNLOCKED.get(outcome.value, 3)})


# ---- the runtime itself ------------------------------------------------------------------------------------


async def _health(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    if request.path == ["outbound"]:
        if runtime.outbound_ready:
            return Answer()
        raise _unready("dapr outbound is not ready", "ERR_OUTBOUND_HEALTH_NOT_READY")
    _parts(request, 0, "healthz")
    asked = request.asked("appid")
    if asked and asked != caller.app.app_id:
        raise _unready("dapr app-id does not match", "ERR_HEALTH_APPID_NOT_MATCH")
    if not runtime.outbound_ready or not caller.ready:
        raise _unready("dapr is not ready", "ERR_HEALTH_NOT_READY")
    return Answer()


def _unready(message: str, error_code: str) -> Fault:
    return Fault(message, code=Code.INTERNAL, status=500, error_code=error_code)


async def _metadata(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    _parts(request, 0, "metadata")
    return _json(metadata.described(runtime, caller))


async def _set_metadata(_runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    (key,) = _parts(request, 1, "metadata")
    caller.extended[key] = request.body.decode("utf-8", "replace")
    return Answer()


async def _shutdown(runtime: DaprRuntime, caller: RegisteredApp, request: Request) -> Answer:
    _parts(request, 0, "shutdown")
    if runtime.shutdown is not None:
        runtime.shutdown(caller, request.header(b"dapr-force-shutdown").lower() == "true")
    return Answer()


def _both(block: str, call: Call) -> dict[tuple[str, str], Call]:
    return {(block, "POST"): call, (block, "PUT"): call}


CALLS: Final[Mapping[tuple[str, str], Call]] = {
    ("state", "GET"): Call(group="state", answer=_get_state, reads=False),
    ("state", "DELETE"): Call(group="state", answer=_delete_state, reads=False),
    **_both("state", Call(group="state", answer=_post_state)),
    **_both("publish", Call(group="publish", answer=_publish)),
    **_both("bindings", Call(group="bindings", answer=_binding)),
    ("secrets", "GET"): Call(group="secrets", answer=_secret, reads=False),
    ("configuration", "GET"): Call(group="configuration", answer=_configuration, reads=False),
    ("lock", "POST"): Call(group="lock", answer=_try_lock),
    ("unlock", "POST"): Call(group="unlock", answer=_unlock),
    ("healthz", "GET"): Call(group="healthz", answer=_health, reads=False),
    ("metadata", "GET"): Call(group="metadata", answer=_metadata, reads=False),
    ("metadata", "PUT"): Call(group="metadata", answer=_set_metadata),
    ("shutdown", "POST"): Call(group="shutdown", answer=_shutdown, reads=False),
}
"""(block, method) -> what answers."""


def _no_actors() -> Fault:
    return Fault(
        "The block of actors is not served by this runtime",
        code=Code.UNIMPLEMENTED,
        status=400,
        error_code="ERR_ACTOR_NO_PLACEMENT",
    )


ABSENT: Final[Mapping[str, Callable[[], Fault]]] = {
    "actors": _no_actors,
    "jobs": lambda: faults.not_here("The block of jobs"),
    "workflows": lambda: faults.not_here("The management of workflows"),
    "crypto": lambda: faults.not_here("Cryptography"),
    "subtlecrypto": lambda: faults.not_here("Cryptography"),
    "conversation": lambda: faults.not_here("Conversation with language models"),
}
"""Blocks that are not served -> makes what they answer."""
