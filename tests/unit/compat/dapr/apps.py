"""Apps for tests, over HTTP and over gRPC: each answers what the test says and keeps what it got."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from pelton.proto import dapr_common_pb2 as common
from pelton.proto import dapr_runtime_pb2 as runtime
from pelton.proto.dapr_pool import message_class

Answered = tuple[int, object]


class HttpApp:
    """Listens on a free port; `answers`: "METHOD /path" -> (status, body), or a function of the request."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> HttpApp:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {
                    k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, target, _ = lines[0].split(" ")
                self.got.append((f"{method} {target}", headers, body))
                answer = self.answers.get(f"{method} {target.partition('?')[0]}", (404, b""))
                if callable(answer):
                    answer = answer(headers, body)
                    if isinstance(answer, Awaitable):
                        answer = await answer
                status, out = answer
                if status is None:
                    writer.close()
                    return
                raw = out if isinstance(out, bytes) else json.dumps(out).encode()
                kind = "application/json" if not isinstance(out, bytes) else "text/plain"
                head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(raw)}\r\n\r\n"
                writer.write(head.encode() + raw)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


_REQUESTS = {
    "OnTopicEvent": (runtime.TopicEventRequest, runtime.TopicEventResponse),
    "OnBulkTopicEvent": (runtime.TopicEventBulkRequest, runtime.TopicEventBulkResponse),
    "OnBulkTopicEventAlpha1": (runtime.TopicEventBulkRequest, runtime.TopicEventBulkResponse),
    "ListTopicSubscriptions": (
        message_class("google.protobuf.Empty"),
        runtime.ListTopicSubscriptionsResponse,
    ),
    "ListInputBindings": (message_class("google.protobuf.Empty"), runtime.ListInputBindingsResponse),
    "OnBindingEvent": (runtime.BindingEventRequest, runtime.BindingEventResponse),
    "OnInvoke": (common.InvokeRequest, common.InvokeResponse),
    "HealthCheck": (message_class("google.protobuf.Empty"), runtime.HealthCheckResponse),
}


class GrpcApp:
    """Listens on a free port; `answers`: name of a method -> a message, its bytes, a code, or a function."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.got: list[tuple[str, dict[str, Any], Any]] = []

    async def __aenter__(self) -> GrpcApp:
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self.address = ("127.0.0.1", self._server.add_insecure_port("127.0.0.1:0"))
        await self._server.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._server.stop(0)


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    def __init__(self, app: GrpcApp) -> None:
        self._app = app

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        name = details.method.rpartition("/")[2]
        if name not in self._app.answers:
            return None
        request_type: Any = _REQUESTS[name][0]
        metadata = dict(details.invocation_metadata)

        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            self._app.got.append((name, metadata, request))
            found = self._app.answers[name]
            if callable(found) and not hasattr(found, "SerializeToString"):
                found = found(request)
                if isinstance(found, Awaitable):
                    found = await found
            if isinstance(found, grpc.StatusCode):
                await context.abort(found, "the app says no")
            return found

        decode: Callable[[bytes], Any] = request_type.FromString
        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=decode,
            response_serializer=lambda message: (
                message if isinstance(message, bytes) else message.SerializeToString()
            ),
        )
