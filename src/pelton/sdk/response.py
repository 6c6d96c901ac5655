"""From what a function returns to a Reply, by Flask's rules.

Called by `compat/gcf/` and `compat/openfunction.py`. The common cases (str, bytes, dict) come first since
this is on the hot path of every request.
Source: Flask 3, `make_response` and its JSON provider.
"""

from __future__ import annotations

import asyncio
import dataclasses
import decimal
import json
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import date
from http import HTTPStatus
from typing import Any, Final

from pelton.model.invocation import Headers, Reply
from pelton.sdk.request import HTTPError

__all__ = ["Response", "http_error_reply", "to_reply"]

_HTML: Final = (b"content-type", b"text/html; charset=utf-8")
_JSON: Final = (b"content-type", b"application/json")


def _plain(value: Any) -> Any:
    """Render what JSON does not know the way Flask's provider does."""
    if isinstance(value, date):
        # HTTP date, GMT; dates without a time count as midnight. strftime would follow the locale.
        import email.utils

        moment = value.timetuple() if not hasattr(value, "utctimetuple") else value.utctimetuple()
        days = email.utils.formatdate(_timegm(moment), usegmt=True)
        return days
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "__html__"):
        return str(value.__html__())
    raise TypeError(f"the function returned a {type(value).__name__}, which is not JSON serializable")


def _timegm(moment: Any) -> int:
    import calendar

    return calendar.timegm(moment)


# Sorted and compact, as Flask answers outside debug mode, so that bodies compare equal.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_plain).encode


class Response:
    """An answer with status and headers, for functions that do not use Flask.

    Args:
        body: str, bytes, or an iterable of them (streamed).
        status: HTTP status.
        headers: Name -> value.
        content_type: Media type; default `text/html; charset=utf-8`.
    """

    def __init__(
        self,
        body: Any = b"",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        content_type: str = "text/html; charset=utf-8",
    ) -> None:
        self.body = body
        self.status = status
        self.headers = dict(headers or {})
        self.content_type = content_type


def to_reply(value: Any) -> Reply:
    """Turn a function's return value into a Reply.

    Raises:
        TypeError: None, a number, or anything else that is no answer.
    """
    kind = type(value)
    if kind is str:
        return Reply(200, [_HTML], value.encode())
    if kind is dict or kind is list:
        return Reply(200, [_JSON], _encode(value).encode() + b"\n")
    if kind is bytes:
        return Reply(200, [_HTML], value)
    if isinstance(value, tuple):
        return _from_tuple(value)
    return _from_object(value)


def _from_tuple(value: tuple[Any, ...]) -> Reply:
    status: Any = None
    headers: Any = None
    if len(value) == 3:
        body, status, headers = value
    elif len(value) == 2:
        body, second = value
        if isinstance(second, (Mapping, list, tuple)) or hasattr(second, "items"):
            headers = second
        else:
            status = second
    else:
        raise TypeError(
            f"the function returned a tuple of {len(value)}; expected (body, status), (body, headers) "
            "or (body, status, headers)"
        )
    reply = to_reply(body)
    if status is not None:
        reply.status = _status(status)
    if headers is not None:
        added = _headers(headers)
        names = {name for name, _ in added}
        reply.headers = [pair for pair in reply.headers if pair[0] not in names] + added
    return reply


def _from_object(value: Any) -> Reply:
    if value is None:
        raise TypeError("the function returned None; return a string, dict, list, tuple or response")
    if isinstance(value, str):
        return Reply(200, [_HTML], value.encode())
    if isinstance(value, (bytes, bytearray)):
        return Reply(200, [_HTML], bytes(value))
    if isinstance(value, (dict, list)):
        return Reply(200, [_JSON], _encode(value).encode() + b"\n")
    if isinstance(value, Response):
        reply = to_reply(value.body)
        reply.status = _status(value.status)
        reply.headers = [(b"content-type", value.content_type.encode("latin-1"))] + [
            pair for pair in _headers(value.headers) if pair[0] != b"content-type"
        ]
        return reply
    if hasattr(value, "iter_encoded") and hasattr(value, "status_code"):
        return _from_werkzeug(value)
    if hasattr(value, "__aiter__"):
        return Reply(200, [_HTML], _chunks(value))
    if isinstance(value, Iterator):
        return Reply(200, [_HTML], _threaded_chunks(value, value))
    raise TypeError(
        f"the function returned a {type(value).__name__}; return a string, dict, list, tuple, response "
        "or generator"
    )


def _from_werkzeug(response: Any) -> Reply:
    headers = [
        (name.lower().encode("latin-1"), str(content).encode("latin-1"))
        for name, content in response.headers.items()
    ]
    if response.is_streamed:
        return Reply(response.status_code, headers, _threaded_chunks(iter(response.iter_encoded()), response))
    try:
        return Reply(response.status_code, headers, response.get_data())
    finally:
        response.close()


def _status(status: Any) -> int:
    """Accept 404, "404 NOT FOUND" and HTTPStatus.NOT_FOUND."""
    if isinstance(status, HTTPStatus):
        return status.value
    if isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 999:
        return status
    if isinstance(status, str):
        code = status.partition(" ")[0]
        if code.isdigit() and len(code) == 3:
            return int(code)
    raise TypeError(f"the function returned status {status!r}; expected 100 to 999")


def _headers(headers: Any) -> Headers:
    pairs: Iterable[tuple[Any, Any]] = headers.items() if hasattr(headers, "items") else headers
    found: Headers = []
    for name, value in pairs:
        for one in value if isinstance(value, (list, tuple)) else (value,):
            text = str(one)
            if "\r" in text or "\n" in text or "\r" in str(name) or "\n" in str(name):
                raise ValueError(f"header {name!r} contains a line break")
            found.append((str(name).lower().encode("latin-1"), text.encode("latin-1", "replace")))
    return found


def _as_bytes(chunk: Any) -> bytes:
    if isinstance(chunk, str):
        return chunk.encode()
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return bytes(chunk)
    raise TypeError(f"the function's generator yielded a {type(chunk).__name__}; yield str or bytes")


async def _chunks(source: Any) -> AsyncIterator[bytes]:
    try:
        async for chunk in source:
            yield _as_bytes(chunk)
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


async def _threaded_chunks(source: Iterator[Any], owner: Any) -> AsyncIterator[bytes]:
    """Step a plain generator on a thread, since it may block; `owner.close` runs however the stream ends."""
    end = object()
    try:
        while (chunk := await asyncio.to_thread(next, source, end)) is not end:
            yield _as_bytes(chunk)
    finally:
        close = getattr(owner, "close", None)
        if close is not None:
            close()


def http_error_reply(exc: BaseException) -> Reply | None:
    """Return the answer that a raised HTTP error stands for (ours, or Werkzeug's `abort`), else None."""
    if isinstance(exc, HTTPError):
        return Reply(exc.status, [(b"content-type", b"text/plain; charset=utf-8")], exc.message.encode())
    if (
        isinstance(getattr(exc, "code", None), int)
        and hasattr(exc, "get_response")
        and hasattr(exc, "get_body")
    ):
        return _from_werkzeug(exc.get_response())
    return None
