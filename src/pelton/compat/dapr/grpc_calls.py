"""What each RPC of the Dapr service does: reads the message, calls an operation, makes the answer.

`grpc_server.py` looks an RPC up in `UNARY` and `STREAMING`; what is in neither is not served, and `ABSENT`
has the words for it. Source: contracts, Dapr runtime, section 1.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from pelton.compat.dapr import faults, metadata
from pelton.compat.dapr.apps import RegisteredApp
from pelton.compat.dapr.blocks import Items
from pelton.compat.dapr.faults import Code, Fault
from pelton.compat.dapr.publishing import BulkEntry, Trace
from pelton.compat.dapr.runtime import DaprRuntime
from pelton.model.cloudevent import is_json_text
from pelton.model.state import StateChange, StateItem
from pelton.proto import dapr_common_pb2 as common
from pelton.proto import dapr_runtime_pb2 as pb

__all__ = ["ABSENT", "STREAMING", "UNARY", "Stream", "Unary", "trace_of"]

_CONCURRENCY: Final = {0: "", 1: "first-write", 2: "last-write"}
_QUEUED: Final = 16
"""Changes of settings that wait for a slow stream."""

Unary = Callable[[DaprRuntime, RegisteredApp, Any, Any], Awaitable[Any]]
"""(runtime, caller, request, ServicerContext) -> the answer; None stands for google.protobuf.Empty."""
Stream = Callable[[DaprRuntime, RegisteredApp, Any, Any], AsyncIterator[Any]]
"""The same for answers on a stream; where the client streams, too, the request is an iterator."""


async def _publish(runtime: DaprRuntime, caller: RegisteredApp, request: Any, context: Any) -> None:
    await runtime.topics.publish(
        caller.app,
        request.pubsub_name,
        request.topic,
        request.data,
        content_type=request.data_content_type,
        metadata=dict(request.metadata),
        trace=trace_of(context.invocation_metadata()),
    )


async def _publish_bulk(runtime: DaprRuntime, caller: RegisteredApp, request: Any, context: Any) -> Any:
    failed = await runtime.topics.publish_bulk(
        caller.app,
        request.pubsub_name,
        request.topic,
        [
            BulkEntry(
                entry_id=entry.entry_id,
                data=entry.event,
                content_type=entry.content_type,
                metadata=dict(entry.metadata),
            )
            for entry in request.entries
        ],
        metadata=dict(request.metadata),
        trace=trace_of(context.invocation_metadata()),
    )
    return pb.BulkPublishResponse(
        failedEntries=[
            pb.BulkPublishResponseFailedEntry(entry_id=entry_id, error=fault.message)
            for entry_id, fault in failed.items()
        ]
    )


async def _get_state(runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any) -> Any:
    (item,) = await runtime.states.get(caller.app, request.store_name, [request.key])
    return pb.GetStateResponse(data=item.data or b"", etag=item.etag, metadata=_expiry(item))


async def _get_bulk_state(runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any) -> Any:
    items = await runtime.states.get(caller.app, request.store_name, list(request.keys))
    return pb.GetBulkStateResponse(
        items=[
            pb.BulkStateItem(key=item.key, data=item.data or b"", etag=item.etag, metadata=_expiry(item))
            for item in items
        ]
    )


def _expiry(item: StateItem) -> dict[str, str]:
    return {"ttlExpireTime": item.expires} if item.expires else {}


async def _save_state(runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any) -> None:
    changes = [_change(item) for item in request.states]
    await runtime.states.save(caller.app, request.store_name, changes)


async def _delete_state(runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any) -> None:
    await runtime.states.delete(
        caller.app,
        request.store_name,
        [
            StateChange(
                key=request.key,
                delete=True,
                etag=request.etag.value,
                concurrency=_CONCURRENCY.get(request.options.concurrency, ""),
                metadata=dict(request.metadata),
            )
        ],
    )


async def _delete_bulk(runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any) -> None:
    changes = [_change(item, delete=True) for item in request.states]
    await runtime.states.delete(caller.app, request.store_name, changes)


async def _transact(runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any) -> None:
    changes = []
    for operation in request.operations:
        kind = operation.operationType.lower()
        if kind not in {"upsert", "delete"}:
            raise Fault(
                f"operation type {operation.operationType} not supported",
                code=Code.UNIMPLEMENTED,
                status=400,
                error_code="ERR_NOT_SUPPORTED_STATE_OPERATION",
            )
        changes.append(_change(operation.request, delete=kind == "delete"))
    await runtime.states.transact(caller.app, request.storeName, changes)


async def _query_state(runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any) -> Any:
    items, token = await runtime.states.query(caller.app, request.store_name, request.query)
    return pb.QueryStateResponse(
        results=[pb.QueryStateItem(key=item.key, data=item.data or b"", etag=item.etag) for item in items],
        token=token,
    )


async def _invoke_binding(runtime: DaprRuntime, caller: RegisteredApp, request: Any, context: Any) -> Any:
    delivered = await runtime.bindings.invoke(
        caller.app,
        request.name,
        request.operation,
        request.data,
        dict(request.metadata),
        trace_of(context.invocation_metadata()),
    )
    if not delivered.ok:
        # In the header, where clients look for it, and once more behind the status, where it was before.
        told = tuple((f"metadata.{key}".lower(), value) for key, value in _printable(delivered.metadata))
        await context.send_initial_metadata(told)
        context.set_trailing_metadata(told)
        raise Fault(
            f"error invoking output binding {request.name}: {delivered.error or 'it was refused'}",
            code=Code.INTERNAL,
            status=500,
            error_code="ERR_INVOKE_OUTPUT_BINDING",
        )
    return pb.InvokeBindingResponse(data=delivered.data, metadata=delivered.metadata)


async def _get_secret(runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any) -> Any:
    secret = await runtime.secrets.get(caller.app, request.store_name, request.key, dict(request.metadata))
    return pb.GetSecretResponse(data=secret)


async def _get_bulk_secret(runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any) -> Any:
    secrets = await runtime.secrets.get_all(caller.app, request.store_name, dict(request.metadata))
    return pb.GetBulkSecretResponse(
        data={name: pb.SecretResponse(secrets=secret) for name, secret in secrets.items()}
    )


async def _get_configuration(runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any) -> Any:
    items = await runtime.configurations.get(
        caller.app, request.store_name, list(request.keys), dict(request.metadata)
    )
    return pb.GetConfigurationResponse(items=_items(items))


async def _unsubscribe(runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any) -> Any:
    ok = runtime.configurations.unsubscribe(caller.app, request.store_name, request.id)
    message = "" if ok else f"subscription with id {request.id} does not exist"
    return pb.UnsubscribeConfigurationResponse(ok=ok, message=message)


async def _try_lock(runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any) -> Any:
    taken = await runtime.locks.try_lock(
        caller.app, request.store_name, request.resource_id, request.lock_owner, request.expiry_in_seconds
    )
    return pb.TryLockResponse(success=taken)


async def _unlock(runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any) -> Any:
    outcome = await runtime.locks.unlock(
        caller.app, request.store_name, request.resource_id, request.lock_owner
    )
    return pb.UnlockResponse(status=pb.UnlockResponse.Status.Value(outcome.value))


async def _get_metadata(runtime: DaprRuntime, caller: RegisteredApp, _request: Any, _context: Any) -> Any:
    return metadata.to_message(metadata.described(runtime, caller))


async def _set_metadata(_runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any) -> None:
    caller.extended[request.key] = request.value


async def _shutdown(runtime: DaprRuntime, caller: RegisteredApp, _request: Any, _context: Any) -> None:
    if runtime.shutdown is not None:
        runtime.shutdown(caller, False)


async def _invoke_service(runtime: DaprRuntime, caller: RegisteredApp, request: Any, context: Any) -> Any:
    if runtime.invocation is None:
        raise faults.not_here("Invocation of other apps")
    return await runtime.invocation.invoke_service(
        caller, request, context, timeout_s=context.time_remaining()
    )


async def _subscribe_configuration(
    runtime: DaprRuntime, caller: RegisteredApp, request: Any, _context: Any
) -> AsyncIterator[Any]:
    queue: asyncio.Queue[Items] = asyncio.Queue(_QUEUED)
    over = asyncio.Event()

    async def tell(_id: str, items: Items) -> None:
        await queue.put(items)

    subscription_id = await runtime.configurations.follow(
        caller.app, request.store_name, list(request.keys), dict(request.metadata), tell, over.set
    )
    ended = asyncio.create_task(over.wait())
    try:
        yield pb.SubscribeConfigurationResponse(id=subscription_id)
        while not ended.done():
            item = asyncio.create_task(queue.get())
            try:
                await asyncio.wait({item, ended}, return_when=asyncio.FIRST_COMPLETED)
                if item.done():
                    yield pb.SubscribeConfigurationResponse(id=subscription_id, items=_items(item.result()))
            finally:
                item.cancel()
    finally:
        ended.cancel()
        runtime.configurations.unfollow(caller.app, subscription_id)


async def _subscribe_topic(
    runtime: DaprRuntime, caller: RegisteredApp, requests: Any, _context: Any
) -> AsyncIterator[Any]:
    if runtime.streams is None:
        raise faults.not_here("Subscribing on a stream")
    answers = runtime.streams.subscribe(caller, requests)
    try:
        async for answer in answers:
            yield answer
    finally:
        close = getattr(answers, "aclose", None)
        if close is not None:
            await close()


# RPC -> group of calls that a Configuration can deny, operation.
UNARY: Final[Mapping[str, tuple[str, Unary]]] = {
    "InvokeService": ("invoke", _invoke_service),
    "GetState": ("state", _get_state),
    "GetBulkState": ("state", _get_bulk_state),
    "SaveState": ("state", _save_state),
    "QueryStateAlpha1": ("state", _query_state),
    "DeleteState": ("state", _delete_state),
    "DeleteBulkState": ("state", _delete_bulk),
    "ExecuteStateTransaction": ("state", _transact),
    "PublishEvent": ("publish", _publish),
    "BulkPublishEventAlpha1": ("publish", _publish_bulk),
    "BulkPublishEvent": ("publish", _publish_bulk),
    "InvokeBinding": ("bindings", _invoke_binding),
    "GetSecret": ("secrets", _get_secret),
    "GetBulkSecret": ("secrets", _get_bulk_secret),
    "GetConfigurationAlpha1": ("configuration", _get_configuration),
    "GetConfiguration": ("configuration", _get_configuration),
    "UnsubscribeConfigurationAlpha1": ("configuration", _unsubscribe),
    "UnsubscribeConfiguration": ("configuration", _unsubscribe),
    "TryLockAlpha1": ("lock", _try_lock),
    "UnlockAlpha1": ("unlock", _unlock),
    "GetMetadata": ("metadata", _get_metadata),
    "SetMetadata": ("metadata", _set_metadata),
    "Shutdown": ("shutdown", _shutdown),
}
STREAMING: Final[Mapping[str, tuple[str, Stream]]] = {
    "SubscribeConfigurationAlpha1": ("configuration", _subscribe_configuration),
    "SubscribeConfiguration": ("configuration", _subscribe_configuration),
    "SubscribeTopicEventsAlpha1": ("subscribe", _subscribe_topic),
}
# Part of an RPC's name -> what it belongs to, for RPCs that are not served.
ABSENT: Final = (
    ("Actor", "The block of actors"),
    ("Workflow", "The management of workflows"),
    ("Job", "The block of jobs"),
    ("Conver", "Conversation with language models"),
    ("crypt", "Cryptography"),
    ("Subtle", "Cryptography"),
)


def trace_of(given: Any) -> Trace | None:
    """Return the trace context in a call's metadata, None where there is none."""
    parent = state = ""
    binary = b""
    for key, value in given:
        if key == "traceparent":
            parent = value
        elif key == "tracestate":
            state = value
        elif key == "grpc-trace-bin":
            binary = value
    if not parent and binary:
        parent = _from_binary(binary)
    return Trace(parent=parent, state=state) if parent or state else None


def _from_binary(raw: bytes) -> str:
    """Read OpenCensus' binary form: version 0, then fields of 16, 8 and 1 bytes; "" for anything else."""
    if len(raw) != 29 or raw[0] or raw[1] or raw[18] != 1 or raw[27] != 2:
        return ""
    trace_id, span_id, flags = struct.unpack("2x16sx8sxB", raw)
    return f"00-{trace_id.hex()}-{span_id.hex()}-{flags:02x}"


def _change(item: Any, *, delete: bool = False) -> StateChange:
    given = dict(item.metadata)
    json = next((v for k, v in given.items() if k.lower() == "contenttype"), "").lower()
    is_json = json.partition(";")[0].strip() == "application/json"
    if is_json and not delete and not is_json_text(item.value):
        raise faults.malformed(f"the value of key {item.key} is no JSON, as its contentType says")
    return StateChange(
        key=item.key,
        delete=delete,
        data=item.value,
        json=is_json,
        etag=item.etag.value,
        concurrency=_CONCURRENCY.get(item.options.concurrency, ""),
        metadata=given,
    )


def _items(items: Items) -> dict[str, Any]:
    return {
        key: common.ConfigurationItem(value=item.value, version=item.version, metadata=dict(item.metadata))
        for key, item in items.items()
    }


def _printable(given: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what may stand in metadata: ASCII values under names of letters, digits, `-_.`."""
    return [
        (key, value)
        for key, value in given.items()
        if value.isascii() and value.isprintable() and key.replace("-", "").replace("_", "").isalnum()
    ]
