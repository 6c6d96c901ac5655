"""The Dapr service over gRPC: a thin shell over `runtime.py`, for one app or for all.

Finds the app that calls and has `grpc_calls.py` answer; a Fault becomes a status with details. RPCs of blocks
that are not served say so; services that are not Dapr's go to `Invocation.proxy`.
`cli/` opens it with the caller's `Identify`. Source: contracts, Dapr runtime, section 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio

from pelton import log
from pelton.compat.dapr import faults
from pelton.compat.dapr.apps import Identify, RegisteredApp
from pelton.compat.dapr.faults import Code, Fault
from pelton.compat.dapr.grpc_calls import ABSENT, STREAMING, UNARY, Stream, Unary
from pelton.compat.dapr.runtime import DaprRuntime
from pelton.proto import dapr_runtime_pb2 as pb
from pelton.proto.dapr_pool import message_class

__all__ = ["TOKEN", "GrpcServer"]

TOKEN: Final = "dapr-api-token"  # noqa: S105 -- the name of a header
"""Metadata key and header with which apps show their token."""

_SERVICE: Final = "/dapr.proto.runtime.v1.Dapr/"
_WORKFLOWS: Final = "/TaskHubSidecarService/"
"""The service that workers and clients of workflows call."""
_CODES: Final = {code: next(c for c in grpc.StatusCode if c.value[0] == int(code)) for code in Code}
_MOST_CALLS: Final = 5000
"""Calls and streams under way at one port; further ones are RESOURCE_EXHAUSTED."""
_GRACE_S: Final = 2.0
_log = log.get(__name__)


class GrpcServer:
    """A port that speaks gRPC; an async context manager.

    Args:
        runtime: What answers.
        identify: Which app calls.
        address: `host:port` (port 0 for a free one) or `unix:<path>`.
        body_limit_bytes: Largest message either way.

    Attributes:
        port: TCP port once it is entered; 0 for a unix socket.
    """

    def __init__(
        self,
        runtime: DaprRuntime,
        identify: Identify,
        address: str = "127.0.0.1:0",
        *,
        body_limit_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        self._runtime = runtime
        self._identify = identify
        self._address = address
        self._limit = body_limit_bytes
        self._server: Any = None
        self.port = 0

    async def __aenter__(self) -> GrpcServer:
        server = grpc.aio.server(
            maximum_concurrent_rpcs=_MOST_CALLS,
            options=(
                ("grpc.max_receive_message_length", self._limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a port that is taken is an error, not shared
                # Streams rest for hours; clients ping to keep them.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
                ("grpc.http2.max_ping_strikes", 0),
            ),
        )
        server.add_generic_rpc_handlers((_Handlers(self._runtime, self._identify),))
        try:
            self.port = server.add_insecure_port(self._address)
        except RuntimeError as exc:
            raise OSError(f"cannot listen at {self._address}") from exc
        await server.start()
        self._server = server
        return self

    async def __aexit__(self, *_exc: object) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(_GRACE_S)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]  # grpc has no types
    """Finds what answers a call."""

    def __init__(self, runtime: DaprRuntime, identify: Identify) -> None:
        self._runtime = runtime
        self._identify = identify
        self._inputs = {
            method.name: message_class(method.input_type.full_name)
            for method in pb.DESCRIPTOR.services_by_name["Dapr"].methods
        }
        self._cached: dict[tuple[str, str], tuple[RegisteredApp, Any, Any]] = {}

    def service(self, details: Any) -> Any:
        """Return the handler of a call."""
        given = details.invocation_metadata
        token = ""
        for key, value in given:
            if key == TOKEN:
                token = value
        caller = self._identify(token)
        if caller is None:
            return _refusing(
                Fault(
                    "authentication error: api token mismatch" if token else "missing api token",
                    code=Code.UNAUTHENTICATED,
                    status=401,
                    error_code="ERR_INVALID_API_TOKEN",
                    reason="DAPR_INVALID_API_TOKEN",
                )
            )
        method: str = details.method
        if method.startswith(_WORKFLOWS):
            return _refusing(faults.not_here("The engine of workflows"))
        if not method.startswith(_SERVICE):
            if self._runtime.invocation is None:
                return None
            return self._runtime.invocation.proxy(caller, method, dict(given))
        name = method.removeprefix(_SERVICE)
        known = self._cached.get((caller.app.key, name))
        if known is None or known[0] is not caller or known[1] is not caller.app.configuration:
            handler = self._handler(caller, name)
            known = self._cached[caller.app.key, name] = (caller, caller.app.configuration, handler)
            if len(self._cached) > 10_000:
                self._cached.clear()
        return known[2]

    def _handler(self, caller: RegisteredApp, name: str) -> Any:
        if name not in self._inputs:
            return None
        unary, streaming = UNARY.get(name), STREAMING.get(name)
        if unary is None and streaming is None:
            what = next((text for part, text in ABSENT if part in name), name)
            return _refusing(faults.not_here(what))
        group = unary[0] if unary is not None else streaming[0] if streaming is not None else ""
        version = "v1.0-alpha1" if name.endswith("Alpha1") else "v1.0"
        if not caller.app.configuration.serves(group, "grpc", version):
            return _refusing(
                Fault(
                    f"{name} is denied by Configuration {caller.app.configuration.name}",
                    code=Code.UNIMPLEMENTED,
                    status=404,
                    error_code="ERR_API_DENIED",
                )
            )
        read = self._inputs[name].FromString
        if unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                _answering(self._runtime, caller, name, unary[1]),
                request_deserializer=read,
                response_serializer=_written,
            )
        if streaming is None:
            return None
        make = (
            grpc.stream_stream_rpc_method_handler
            if name == "SubscribeTopicEventsAlpha1"
            else grpc.unary_stream_rpc_method_handler
        )
        return make(
            _streaming(self._runtime, caller, name, streaming[1]),
            request_deserializer=read,
            response_serializer=_written,
        )


def _answering(runtime: DaprRuntime, caller: RegisteredApp, name: str, operation: Unary) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        try:
            return await operation(runtime, caller, request, context)
        except Fault as fault:
            await _abort(context, fault)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as exc:
            _log.exception("%s of app %s", name, caller.app.key)
            await context.abort(grpc.StatusCode.INTERNAL, f"{name}: {type(exc).__name__}")

    return answer


def _streaming(runtime: DaprRuntime, caller: RegisteredApp, name: str, operation: Stream) -> Any:
    async def answer(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for item in operation(runtime, caller, request, context):
                yield item
        except Fault as fault:
            await _abort(context, fault)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as exc:
            _log.exception("%s of app %s", name, caller.app.key)
            await context.abort(grpc.StatusCode.INTERNAL, f"{name}: {type(exc).__name__}")

    return answer


def _refusing(fault: Fault) -> Any:
    """Return a handler that refuses a call of any shape before it is read."""

    async def refuse(_requests: Any, context: Any) -> None:
        await _abort(context, fault)

    return grpc.stream_stream_rpc_method_handler(refuse)


async def _abort(context: Any, fault: Fault) -> None:
    details = fault.details()
    if details:
        before = tuple(context.trailing_metadata() or ())
        context.set_trailing_metadata((*before, ("grpc-status-details-bin", details)))
    await context.abort(_CODES[fault.code], fault.message)


def _written(message: Any) -> bytes:
    """Serialize; None stands for google.protobuf.Empty, which has no bytes."""
    if message is None:
        return b""
    raw: bytes = message.SerializeToString()
    return raw
