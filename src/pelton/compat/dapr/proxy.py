"""Passes calls of an app's own gRPC services on, of all four kinds, byte for byte.

A unary call is a stream of one message, so that one handler does for all. Called by `invocation.py`, which
finds the target. Source: contracts, Dapr runtime, section 6 (proxying).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc
import grpc.aio

from pelton.compat.dapr.channel import AppUnreachableError
from pelton.compat.dapr.channel_grpc import GrpcChannel
from pelton.compat.dapr.faults import Fault
from pelton.compat.dapr.replicas import Replicas

__all__ = ["handler_for", "passable"]

Metadata = tuple[tuple[str, str | bytes], ...]


def handler_for(method: str, reach: Callable[[], Awaitable[Replicas]], added: Callable[[], Metadata]) -> Any:
    """Return a handler that passes one method on.

    Args:
        method: `/package.Service/Method`.
        reach: Returns the instances to call; raises Fault.
        added: Metadata that the app gets on top of the caller's, without what it replaces.
    """

    async def pass_on(
        requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bytes]:
        try:
            instances = await reach()
            async with instances.leased() as channel:
                if not isinstance(channel, GrpcChannel):
                    raise AppUnreachableError("the app does not speak gRPC")
                given = passable(context.invocation_metadata() or (), without=[name for name, _ in added()])
                call: Any = channel.connection.stream_stream(method)(
                    requests,
                    metadata=(*channel.metadata(), *given, *added()),
                    timeout=context.time_remaining(),
                )
                try:
                    await context.send_initial_metadata(passable(await call.initial_metadata() or ()))
                    async for response in call:
                        yield response
                    context.set_trailing_metadata(passable(await call.trailing_metadata() or ()))
                    code = await call.code()
                    if code is not grpc.StatusCode.OK:
                        await context.abort(
                            code, await call.details() or "", passable(await call.trailing_metadata() or ())
                        )
                finally:
                    call.cancel()
        except grpc.aio.AioRpcError as exc:
            await context.abort(exc.code(), exc.details() or "", passable(exc.trailing_metadata() or ()))
        except Fault as fault:
            codes = {code.value[0]: code for code in grpc.StatusCode}
            await context.abort(codes[int(fault.code)], fault.message)
        except AppUnreachableError as exc:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(exc))

    return grpc.stream_stream_rpc_method_handler(pass_on)


def passable(pairs: Iterable[Any], *, without: Iterable[str] = ()) -> Metadata:
    """Return metadata as it may be passed on: gRPC's own, the runtime's token and some others left out."""
    left_out = {"content-type", "user-agent", "te", "dapr-api-token", *without}
    kept: list[tuple[str, str | bytes]] = []
    for name, value in pairs:
        key = str(name).lower()
        if key.startswith(("grpc-", ":")) or key in left_out:
            continue
        if key.endswith("-bin") or (isinstance(value, str) and value.isascii() and value.isprintable()):
            kept.append((key, value))
    return tuple(kept)
