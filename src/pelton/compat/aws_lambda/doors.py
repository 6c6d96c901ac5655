"""All ways into a Lambda function as one LoadedFunction: HTTP front, Invoke API, events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pelton.compat.aws_lambda.calls import Invoke
from pelton.compat.aws_lambda.context import FunctionInfo
from pelton.errors import FunctionLoadError
from pelton.model.invocation import LoadedFunction, LoadRequest

__all__ = ["serve"]


def serve(
    request: LoadRequest,
    info: FunctionInfo,
    invoke: Invoke,
    *,
    sync: bool,
    signature: str = "handler",
    start: Callable[[], Awaitable[None]] | None = None,
    stop: Callable[[], Awaitable[None]] | None = None,
) -> LoadedFunction:
    """Return a function that is called by its HTTP front, the Invoke API and events.

    Args:
        request: What is loaded.
        info: Who it is.
        invoke: Runs it; returns a LambdaResult when `sync`, else an awaitable of one.
        sync: As in LoadedFunction.
        signature: As in LoadedFunction.
        start: As in LoadedFunction.
        stop: As in LoadedFunction.
    """
    del info, invoke, sync, signature, start, stop
    raise FunctionLoadError("this convention cannot be loaded yet", where=request.source)
