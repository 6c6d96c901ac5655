"""http functions: a light request, or a real `flask.Request` inside its contexts; any Flask response value.

An event that reaches such a function is the POST request that would have carried it (`sdk/event.as_request`).
Also here, since every signature needs it: what an exception means (`said`) and `errorhandler`'s functions.
Called by `compat/gcf/__init__.py`.
Source: `faas-conventions` contract, section 4; Flask's rules for error handlers.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from pelton.compat.gcf import logs
from pelton.errors import FunctionLoadError
from pelton.model.invocation import Invocation, Reply
from pelton.sdk.event import as_request
from pelton.sdk.flask_app import FlaskApp
from pelton.sdk.request import Headers, HTTPError, Request
from pelton.sdk.response import http_error_reply, to_reply

__all__ = ["CRASH", "call", "guard", "handler_of", "said"]

CRASH: Final = (b"x-google-status", b"crash")


class _Request(Request):
    """The light request; its execution id is made when its headers are looked at."""

    @property
    def headers(self) -> Headers:
        found: Headers | None = self.__dict__.get("_headers")
        if found is None:
            logs.ensure_id(self._invocation.headers)
            found = self.__dict__["_headers"] = Headers(self._invocation.headers)
        return found


def call(
    function: Callable[[Any], Any],
    app: FlaskApp | None,
    *,
    is_async: bool,
    none_body: bytes | None,
    guarded: bool,
) -> Callable[[Invocation], Any]:
    """Return how to call an http function.

    Args:
        function: Takes a request.
        app: The Flask application around it, for code that uses Flask.
        is_async: Whether it is a coroutine function.
        none_body: Body that stands for None; None to treat it as Flask does (TypeError).
        guarded: Whether the function may return a Reply (see `guard`).
    """
    if app is not None:
        return (_flask_async if is_async else _flask_sync)(function, app, none_body)
    answer = to_reply if none_body is None and not guarded else _lenient(none_body)
    return (_light_async if is_async else _light_sync)(function, answer)


def _lenient(none_body: bytes | None) -> Callable[[Any], Reply]:
    def answer(value: Any) -> Reply:
        if type(value) is Reply:
            return value
        return to_reply(none_body if value is None else value)

    return answer


def _light_sync(
    function: Callable[[Any], Any], answer: Callable[[Any], Reply]
) -> Callable[[Invocation], Reply]:
    def call(invocation: Invocation) -> Reply:
        if invocation.event is not None:
            invocation = as_request(invocation)
        try:
            return answer(function(_Request(invocation)))
        except Exception as exc:
            reply = said(exc)
            if reply is None:
                raise
            return reply

    return call


def _light_async(
    function: Callable[[Any], Any], answer: Callable[[Any], Reply]
) -> Callable[[Invocation], Any]:
    async def call(invocation: Invocation) -> Reply:
        if invocation.event is not None:
            invocation = as_request(invocation)
        try:
            return answer(await function(_Request(invocation)))
        except Exception as exc:
            reply = said(exc)
            if reply is None:
                raise
            return reply

    return call


def _flask_sync(
    function: Callable[[Any], Any], app: FlaskApp, none_body: bytes | None
) -> Callable[[Invocation], Reply]:
    def call(invocation: Invocation) -> Reply:
        if invocation.event is not None:
            invocation = as_request(invocation)
        logs.ensure_id(invocation.headers)
        try:
            return app.call(invocation, function, none_body)
        except Exception as exc:
            reply = said(exc)
            if reply is None:
                raise
            return reply

    return call


def _flask_async(
    function: Callable[[Any], Any], app: FlaskApp, none_body: bytes | None
) -> Callable[[Invocation], Any]:
    async def call(invocation: Invocation) -> Reply:
        if invocation.event is not None:
            invocation = as_request(invocation)
        logs.ensure_id(invocation.headers)
        try:
            return await app.call_async(invocation, function, none_body)
        except Exception as exc:
            reply = said(exc)
            if reply is None:
                raise
            return reply

    return call


def said(exc: Exception) -> Reply | None:
    """Return the HTTP error that user code raised on purpose; None for everything else, which is a crash."""
    reply = http_error_reply(exc)
    if reply is not None and reply.status == 500:
        reply.headers.append(CRASH)
    return reply


# --- errorhandler ---


def handler_of(
    handlers: Sequence[tuple[Any, Callable[[Any], Any]]], source: str
) -> Callable[[Exception], Callable[[], Any] | None]:
    """Return what finds the handler of an exception, by Flask's rules, ready to be called.

    A handler for the exception's class or the nearest of its bases, those for its own HTTP status first; else
    a handler for status 500, which gets an error whose `original_exception` is the exception.

    Raises:
        FunctionLoadError: A handler is registered for what is neither a status nor an exception class.
    """
    by_status: dict[int, Callable[[Any], Any]] = {}
    by_class: dict[type, Callable[[Any], Any]] = {}
    for key, handler in handlers:
        if isinstance(key, int):
            by_status[key] = handler
        elif isinstance(key, type) and issubclass(key, Exception):
            by_class[key] = handler
        else:
            raise FunctionLoadError(
                f"errorhandler({key!r}): that is neither a status nor an exception class", where=source
            )

    def find(exc: Exception) -> Callable[[], Any] | None:
        status = _status_of(exc)
        handler = by_status.get(status) if status else None
        if handler is None:
            handler = next((by_class[kind] for kind in type(exc).__mro__ if kind in by_class), None)
        if handler is not None:
            return functools.partial(handler, exc)
        if status:
            return None
        wrapped = _internal_error(exc)
        handler = by_status.get(500) or next(
            (by_class[kind] for kind in type(wrapped).__mro__ if kind in by_class), None
        )
        return None if handler is None else functools.partial(handler, wrapped)

    return find


def _status_of(exc: Exception) -> int:
    """Return the status of an exception that is an HTTP answer, 0 for all others."""
    if isinstance(exc, HTTPError):
        return exc.status
    code = getattr(exc, "code", None)
    return code if isinstance(code, int) and hasattr(exc, "get_response") else 0


def _internal_error(exc: Exception) -> Exception:
    """Return the 500 that stands for a crash: Werkzeug's where user code uses that, else ours."""
    werkzeug = sys.modules.get("werkzeug.exceptions")
    if werkzeug is not None:
        made: Exception = werkzeug.InternalServerError(original_exception=exc)
        return made
    error = HTTPError(500, "Internal Server Error")
    error.original_exception = exc  # type: ignore[attr-defined]  # the name that Werkzeug's has
    return error


def guard(
    function: Callable[..., Any],
    find: Callable[[Exception], Callable[[], Any] | None],
    app: FlaskApp | None,
    *,
    is_async: bool,
) -> Callable[..., Any]:
    """Return a function that answers its exceptions by `errorhandler`'s functions, as a Reply."""

    def handled(exc: Exception) -> Reply:
        handler = find(exc)
        if handler is None:
            raise exc
        value = handler()
        return to_reply(value if app is None else app.app.make_response(value))

    if is_async:

        async def guarded_async(*arguments: Any) -> Any:
            try:
                return await function(*arguments)
            except Exception as exc:
                return handled(exc)

        return guarded_async

    def guarded(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as exc:
            return handled(exc)

    return guarded
