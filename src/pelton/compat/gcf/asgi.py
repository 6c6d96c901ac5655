"""http functions in the framework's ASGI mode: they take a `starlette.requests.Request`.

Meant by the decorators of `functions_framework.aio`, or by FUNCTION_USE_ASGI. Starlette is the function's
own, imported here only after the worker entered its environment; `sdk/asgi.py` runs the application that is
made here. Called by `compat/gcf/__init__.py`.
Source: `faas-conventions` contract, section 4.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pelton.compat.gcf import logs
from pelton.errors import FunctionLoadError
from pelton.sdk.asgi import ASGIApp

__all__ = ["application"]

_THREADS: Final = 32


def application(function: Callable[[Any], Any], *, is_async: bool, source: str) -> ASGIApp:
    """Return the ASGI application around one function.

    Args:
        function: Takes the request.
        is_async: Whether it is a coroutine function; others run on threads.
        source: Its file, for errors.

    Raises:
        FunctionLoadError: The environment has no Starlette.
    """
    try:
        from starlette.exceptions import HTTPException
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse
    except ImportError:
        raise FunctionLoadError(
            "a function in ASGI mode takes a Starlette request, and its environment has no starlette",
            where=source,
            hint="Add starlette, or functions-framework, to requirements.txt.",
        ) from None
    run = function if is_async else _on_thread(function)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        logs.ensure_id(scope["headers"])
        scope["path_params"] = {"path": scope["path"].lstrip("/")}
        try:
            response = _response(await run(Request(scope, receive)))
        except HTTPException as exc:
            response = PlainTextResponse(str(exc.detail), exc.status_code, exc.headers)
        await response(scope, receive, send)

    return app


def _on_thread(function: Callable[[Any], Any]) -> Callable[[Any], Awaitable[Any]]:
    threads: Any = None

    async def run(request: Any) -> Any:
        nonlocal threads
        if threads is None:
            from concurrent.futures import ThreadPoolExecutor  # few functions need it

            threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="function")
        call = functools.partial(contextvars.copy_context().run, function, request)
        return await asyncio.get_running_loop().run_in_executor(threads, call)

    return run


def _response(value: Any) -> Any:
    """Return a Starlette response for what a function returned, by the framework's rules."""
    from starlette.responses import JSONResponse, PlainTextResponse, Response

    status = 200
    if type(value) is tuple and len(value) == 2:
        value, status = value
    if isinstance(value, dict | list):
        return JSONResponse(value, status_code=status)
    if isinstance(value, str | bytes):
        return Response(value, status_code=status)
    if value is None:
        return PlainTextResponse("No response returned", status_code=500)
    if not callable(value):
        raise TypeError(
            f"the function returned a {type(value).__name__}; return a string, dict, list, "
            "(content, status) or Starlette response"
        )
    return value
