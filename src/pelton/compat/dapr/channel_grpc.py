"""The app channel over gRPC: AppCallback, its alpha form, and the health service.

Implements `AppChannel` of `channel.py`; codes become HTTP statuses by `grpc_codes.py`. Whoever registers
the app makes it; calls to services of its own go past it, over its `connection`.
Source: contracts, Dapr runtime, AppCallback and sections 3, 5 and 6.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from pelton.compat.dapr.channel import (
    DROP,
    RETRY,
    SUCCESS,
    TRACE,
    UNREACHED,
    Answer,
    AppUnreachableError,
    BindingAnswer,
    BindingEvent,
    TopicEvent,
    trace_of,
)
from pelton.compat.dapr.grpc_codes import http_status, status_json
from pelton.compat.dapr.subscriptions import Rule, TopicSubscription, bulk_of
from pelton.errors import ProtocolError
from pelton.model.invocation import Headers, Invocation, Reply
from pelton.proto import dapr_common_pb2 as common
from pelton.proto import dapr_runtime_pb2 as runtime
from pelton.proto.dapr_pool import message_class

__all__ = ["CALLBACK", "CHANNEL_OPTIONS", "GrpcChannel", "decoded", "topic_request"]

CALLBACK: Final = "/dapr.proto.runtime.v1.AppCallback/"
_ALPHA: Final = "/dapr.proto.runtime.v1.AppCallbackAlpha/"
_HEALTH: Final = "/dapr.proto.runtime.v1.AppCallbackHealthCheck/HealthCheck"
_ASK_S: Final = 5.0
_INVOKE_S: Final = 60.0
_IN_ENVELOPE: Final = frozenset(
    {"id", "source", "datacontenttype", "type", "specversion", "data", "data_base64"}
)
_EMPTY: Any = message_class("google.protobuf.Empty")
_STATUS: Final = {0: SUCCESS, 2: DROP}
_UNIMPLEMENTED: Final = grpc.StatusCode.UNIMPLEMENTED
_NOTHING: Final = grpc.aio.Metadata()

CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


class GrpcChannel:
    """One address of an app that speaks gRPC without TLS.

    Args:
        address: (host, port), or the path of a unix socket.
        token: Sent as `dapr-api-token`; "" sends none.
        ask_s: Seconds that the app has to say what it wants.
        limit_bytes: Largest message either way; 0 for no limit.
    """

    def __init__(
        self,
        address: tuple[str, int] | str,
        *,
        token: str = "",
        ask_s: float = _ASK_S,
        limit_bytes: int = 0,
    ) -> None:
        target = f"unix:{address}" if isinstance(address, str) else f"{_host(address[0])}:{address[1]}"
        options = [*CHANNEL_OPTIONS, ("grpc.default_authority", "localhost")]
        if limit_bytes:
            options += [("grpc.max_receive_message_length", limit_bytes)]
        self.connection = grpc.aio.insecure_channel(target, options=options)
        self._always: tuple[tuple[str, str], ...] = (("dapr-api-token", token),) if token else ()
        self._ask_s = ask_s
        self._calls: dict[str, Any] = {}
        self._bulk = f"{CALLBACK}OnBulkTopicEvent"

    async def subscriptions(self) -> tuple[list[TopicSubscription], list[str]]:
        """Ask ListTopicSubscriptions; an app without it wants nothing."""
        try:
            answer = await self._call(
                f"{CALLBACK}ListTopicSubscriptions",
                _EMPTY(),
                runtime.ListTopicSubscriptionsResponse.FromString,
                timeout_s=self._ask_s,
                wait=True,
            )
        except grpc.aio.AioRpcError as exc:
            if exc.code() is _UNIMPLEMENTED:
                return [], []
            if exc.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise AppUnreachableError(_told(exc)) from exc
            raise ProtocolError(f"ListTopicSubscriptions answered {_told(exc)}") from exc
        found: list[TopicSubscription] = []
        faults: list[str] = []
        for index, item in enumerate(answer.subscriptions):
            if not item.pubsub_name or not item.topic:
                faults.append(f"subscription {index}: names no pubsub_name or no topic")
                continue
            found.append(_subscription(item))
        return found, faults

    async def deliver(self, event: TopicEvent, *, timeout_s: float) -> Answer:
        """Call OnTopicEvent."""
        request = topic_request(event)
        try:
            answer = await self._call(
                f"{CALLBACK}OnTopicEvent",
                request,
                runtime.TopicEventResponse.FromString,
                timeout_s=timeout_s,
                metadata=_metadata(event.metadata) + _traced(event.attributes),
            )
        except grpc.aio.AioRpcError as exc:
            return _failed(exc)
        return _answer(answer.status)

    async def deliver_bulk(self, events: Sequence[TopicEvent], *, timeout_s: float) -> list[Answer]:
        """Call OnBulkTopicEvent, of older apps OnBulkTopicEventAlpha1."""
        first = events[0]
        request = runtime.TopicEventBulkRequest(
            id=str(first.attributes.get("id", "")),
            topic=first.topic,
            pubsub_name=first.pubsub,
            type="com.dapr.event.sent.bulk",
            path=first.path,
            entries=[_bulk_entry(event) for event in events],
        )
        for method in dict.fromkeys((self._bulk, f"{_ALPHA}OnBulkTopicEventAlpha1")):
            try:
                answer = await self._call(
                    method, request, runtime.TopicEventBulkResponse.FromString, timeout_s=timeout_s
                )
            except grpc.aio.AioRpcError as exc:
                if exc.code() is _UNIMPLEMENTED:
                    continue
                return [_failed(exc)] * len(events)
            self._bulk = method
            given = {item.entry_id: item.status for item in answer.statuses}
            return [
                _answer(given[event.entry_id])
                if event.entry_id in given
                else Answer(status=RETRY, reason="the app answered nothing for this event")
                for event in events
            ]
        return [_failed_unimplemented("the app takes no bulks")] * len(events)

    async def takes_binding(self, name: str, route: str) -> bool:
        """Look the name up in ListInputBindings."""
        del route
        try:
            answer = await self._call(
                f"{CALLBACK}ListInputBindings",
                _EMPTY(),
                runtime.ListInputBindingsResponse.FromString,
                timeout_s=self._ask_s,
                wait=True,
            )
        except grpc.aio.AioRpcError as exc:
            if exc.code() is _UNIMPLEMENTED:
                return False
            raise AppUnreachableError(_told(exc)) from exc
        return name in answer.bindings

    async def trigger(self, event: BindingEvent, *, timeout_s: float) -> BindingAnswer:
        """Call OnBindingEvent."""
        request = runtime.BindingEventRequest(name=event.name, data=event.data, metadata=dict(event.metadata))
        try:
            answer = await self._call(
                f"{CALLBACK}OnBindingEvent",
                request,
                runtime.BindingEventResponse.FromString,
                timeout_s=timeout_s,
                metadata=_metadata(event.metadata),
            )
        except grpc.aio.AioRpcError as exc:
            if exc.code() is _UNIMPLEMENTED:
                return BindingAnswer(answer=Answer(status=RETRY, reason=_told(exc), code=exc.code().name))
            return BindingAnswer(answer=_failed(exc))
        return BindingAnswer(
            answer=Answer(status=SUCCESS),
            data=answer.data,
            to=tuple(answer.to),
            parallel=answer.concurrency == runtime.BindingEventResponse.PARALLEL,
        )

    async def invoke(self, invocation: Invocation) -> Reply:
        """Call OnInvoke; its error becomes the HTTP status of its code, with the status as JSON."""
        split = urlsplit(invocation.target.decode("latin-1"))
        body = invocation.body
        if invocation.stream is not None:
            body = b"".join([chunk async for chunk in invocation.stream])
        request = common.InvokeRequest(
            method=split.path.lstrip("/"),
            content_type=(invocation.header(b"content-type") or b"").decode("latin-1"),
            http_extension=common.HTTPExtension(
                verb=common.HTTPExtension.Verb.Value(invocation.method)
                if invocation.method in common.HTTPExtension.Verb.keys()  # noqa: SIM118 -- an enum wrapper, no mapping
                else common.HTTPExtension.NONE,
                querystring=split.query,
            ),
        )
        request.data.value = body
        remaining_s = invocation.deadline - asyncio.get_running_loop().time()
        call = self._multi(f"{CALLBACK}OnInvoke")(
            request,
            metadata=self._always + _headers(invocation.headers),
            timeout=min(_INVOKE_S, max(0.0, remaining_s)),
        )
        try:
            answer = decoded(await call, common.InvokeResponse.FromString)
        except grpc.aio.AioRpcError as exc:
            if exc.code() is grpc.StatusCode.UNAVAILABLE:
                raise AppUnreachableError(_told(exc), untouched=_never_connected(exc)) from exc
            code = exc.code().value[0]
            return Reply(
                status=http_status(code),
                headers=[(b"content-type", b"application/json")],
                body=status_json(code, exc.details() or "", exc.trailing_metadata()),
            )
        finally:
            call.cancel()
        headers: Headers = [
            (name.encode(), value.encode() if isinstance(value, str) else base64.b64encode(value))
            for name, value in [*(await call.initial_metadata()), *(await call.trailing_metadata())]
            if not name.startswith("grpc-") and name != "content-type"
        ]
        headers.append((b"content-type", (answer.content_type or "application/json").encode()))
        return Reply(status=200, headers=headers, body=answer.data.value)

    async def is_healthy(self, path: str, *, timeout_s: float) -> bool:
        """Call HealthCheck; an app without that service is healthy when it answers at all."""
        del path
        try:
            await self._call(_HEALTH, _EMPTY(), runtime.HealthCheckResponse.FromString, timeout_s=timeout_s)
        except grpc.aio.AioRpcError as exc:
            return exc.code() is _UNIMPLEMENTED
        return True

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what every call has on top of its own."""
        return self._always

    async def close(self) -> None:
        """Close the connection; running calls fail."""
        await self.connection.close()

    def _multi(self, method: str) -> Any:
        call = self._calls.get(method)
        if call is None:
            call = self._calls[method] = self.connection.unary_unary(method, request_serializer=_encode)
        return call

    async def _call(
        self,
        method: str,
        request: Any,
        decode: Callable[[bytes], Any],
        *,
        timeout_s: float,
        metadata: tuple[tuple[str, str | bytes], ...] = (),
        wait: bool = False,
    ) -> Any:
        answer = await self._multi(method)(
            request,
            metadata=self._always + metadata,
            timeout=timeout_s or None,
            wait_for_ready=wait,
        )
        return decoded(answer, decode)


def decoded(answer: bytes, decode: Callable[[bytes], Any]) -> Any:
    """Return what an app answered as a message.

    grpc itself would log a traceback of its own and go on with None.

    Raises:
        grpc.aio.AioRpcError: INTERNAL for bytes that are no such message.
    """
    try:
        return decode(answer)
    except DecodeError as exc:
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.INTERNAL, _NOTHING, _NOTHING, f"the app's answer cannot be read: {exc}"
        ) from exc


def _encode(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded


def _host(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _subscription(item: runtime.TopicSubscription) -> TopicSubscription:
    rules = [Rule(match=rule.match, path=rule.path) for rule in item.routes.rules]
    if item.routes.default or not rules:
        rules.append(Rule(path=item.routes.default))
    return TopicSubscription(
        pubsub=item.pubsub_name,
        topic=item.topic,
        rules=tuple(rules),
        metadata=dict(item.metadata),
        dead_letter_topic=item.dead_letter_topic,
        bulk=bulk_of(
            enabled=item.bulk_subscribe.enabled,
            max_messages=item.bulk_subscribe.max_messages_count,
            max_wait_ms=item.bulk_subscribe.max_await_duration_ms,
        ),
    )


def topic_request(event: TopicEvent) -> runtime.TopicEventRequest:
    """Return an event as OnTopicEvent and streams have it."""
    attributes = event.attributes
    request = runtime.TopicEventRequest(
        id=str(attributes.get("id", "")),
        source=str(attributes.get("source", "")),
        type=str(attributes.get("type", "")),
        spec_version=str(attributes.get("specversion", "")),
        data_content_type=str(attributes.get("datacontenttype", "")),
        data=event.data,
        topic=event.topic,
        pubsub_name=event.pubsub,
        path=event.path,
    )
    request.extensions.update(_extensions(attributes))
    return request


def _extensions(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, (str, bool, int, float, type(None), dict, list)) else str(value)
        for name, value in attributes.items()
        if name not in _IN_ENVELOPE
    }


def _bulk_entry(event: TopicEvent) -> runtime.TopicEventBulkRequestEntry:
    attributes = event.attributes
    content_type = str(attributes.get("datacontenttype", ""))
    entry = runtime.TopicEventBulkRequestEntry(
        entry_id=event.entry_id, content_type=content_type, metadata=dict(event.metadata)
    )
    cloud_event = entry.cloud_event
    cloud_event.id = str(attributes.get("id", ""))
    cloud_event.source = str(attributes.get("source", ""))
    cloud_event.type = str(attributes.get("type", ""))
    cloud_event.spec_version = str(attributes.get("specversion", ""))
    cloud_event.data_content_type = content_type
    cloud_event.data = event.data
    cloud_event.extensions.update(_extensions(attributes))
    return entry


def _answer(status: int) -> Answer:
    judged = _STATUS.get(status, RETRY)
    if judged == SUCCESS:
        return Answer(status=SUCCESS)
    names = runtime.TopicEventResponse.TopicEventResponseStatus
    name = names.Name(status) if status in names.values() else status
    return Answer(status=judged, reason=f"the app answered {name}")


def _failed(exc: grpc.aio.AioRpcError) -> Answer:
    code = exc.code()
    if code is _UNIMPLEMENTED:
        return _failed_unimplemented(_told(exc))
    if code is grpc.StatusCode.UNAVAILABLE and _never_connected(exc):
        return Answer(status=UNREACHED, reason=_told(exc))
    return Answer(status=RETRY, reason=_told(exc), code=code.name)


def _failed_unimplemented(reason: str) -> Answer:
    """Return what an app without the method makes of an event: it is done with, as with Dapr."""
    return Answer(status=SUCCESS, reason=reason, code=_UNIMPLEMENTED.name)


def _never_connected(exc: grpc.aio.AioRpcError) -> bool:
    """Tell whether no connection was made, so that the app made no attempt."""
    text = f"{exc.details()} {exc.debug_error_string()}"
    return "failed to connect" in text.lower() or "connect failed" in text.lower()


def _told(exc: grpc.aio.AioRpcError) -> str:
    return f"{exc.code().name}: {' '.join((exc.details() or 'no details').split())[:300]}"


def _metadata(metadata: Mapping[str, str]) -> tuple[tuple[str, str | bytes], ...]:
    """Return broker metadata as gRPC has it: lower-case keys, printable ASCII values."""
    found: list[tuple[str, str | bytes]] = []
    for name, value in metadata.items():
        key = name.lower()
        if not key or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in key):
            continue
        if key.startswith("grpc-") or key in ("te", "content-type", "content-length", *TRACE):
            continue
        if key.endswith("-bin"):
            found.append((key, value.encode()))
        elif value.isascii() and value.isprintable():
            found.append((key, value))
    return tuple(found)


def _traced(attributes: Mapping[str, Any]) -> tuple[tuple[str, str | bytes], ...]:
    return tuple(trace_of(attributes).items())


def _headers(headers: Headers) -> tuple[tuple[str, str | bytes], ...]:
    """Return HTTP headers as metadata; names that gRPC keeps for itself get a prefix, `-bin` is base64."""
    found: list[tuple[str, str | bytes]] = []
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name in _HOP_BY_HOP or name.startswith(":") or not value.isascii() or not value.isprintable():
            continue
        if name == "dapr-api-token":
            continue
        if name.endswith("-bin"):
            raw = _binary(value) if not name.startswith("grpc-") else b""
            if raw:
                found.append((name, raw))
            continue
        if name in _RESERVED or name.startswith("grpc-"):
            name = f"dapr-{name}"
        found.append((name, value))
    return tuple(found)


def _binary(text: str) -> bytes:
    """Return what a header has in base64, which gRPC writes without padding; b"" for what is none."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return b""


_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "content-length", "te"}
)
_RESERVED: Final = frozenset({"content-type", "user-agent", "host", "accept-encoding", "trailer"})
