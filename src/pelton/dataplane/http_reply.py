"""Reply to HTTP/1.1 bytes: status line, headers that cannot be forged, framing by RFC 9112.

Called by `dataplane/http.py`. Pure but for one bounded cache of header lines: a function answers with the
same few headers again and again, and looking a line up is both its formatting and its validation.
"""

from __future__ import annotations

import re
from typing import Any, Final

from pelton.model.invocation import Invocation, Reply

__all__ = [
    "CHUNKED",
    "LENGTH",
    "NOTHING",
    "UNTIL_CLOSE",
    "ReplyError",
    "plain_reply",
    "render",
    "render_plain",
    "render_stream_head",
]

_PHRASES: Final = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No Content",
    206: "Partial Content",
    301: "Moved Permanently",
    302: "Found",
    303: "See Other",
    304: "Not Modified",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}
_STATUS_LINES: Final = {
    status: b"HTTP/1.1 %d %s\r\n" % (status, _PHRASES.get(status, "").encode()) for status in range(200, 600)
}
_BODILESS: Final = frozenset({204, 304})
_FRAMING: Final = frozenset(
    {b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade"}
)
"""Headers that say how the message is framed; the worker writes them, not the function."""

NOTHING, CHUNKED, LENGTH, UNTIL_CLOSE = range(4)
"""How a streamed body is framed."""

_PLAIN: Final = Invocation("", "GET", b"/", [])
_LENGTH_LINES: Final = [b"content-length: %d\r\n\r\n" % size for size in range(1024)]
_CACHED_LINES: Final = 1024
_lines: dict[Any, bytes] = {}
_name_matches = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_value_forbids = re.compile(rb"[\r\n\x00]").search
_number_matches = re.compile(rb"[0-9]{1,18}").fullmatch


class ReplyError(ValueError):
    """A Reply that cannot be sent as HTTP: says which part and why."""


def render_plain(reply: Reply) -> bytes:
    """Return a whole answer to an HTTP/1.1 request other than HEAD on a connection that stays open.

    Raises:
        ReplyError: As in `render`.
    """
    body = reply.body
    status = reply.status
    if type(body) is not bytes or status in _BODILESS:
        return b"".join(render(reply, _PLAIN, closing=False))
    lines = _lines
    try:  # as _head does, without the call
        parts = [_STATUS_LINES[status]]
        for header in reply.headers:
            parts.append(lines.get(header) or _line(header))  # noqa: PERF401 -- a comprehension makes a frame
    except (KeyError, TypeError):
        parts = _head(reply)
    size = len(body)
    parts.append(_LENGTH_LINES[size] if size < 1024 else b"content-length: %d\r\n\r\n" % size)
    parts.append(body)
    return b"".join(parts)


def render(reply: Reply, invocation: Invocation, *, closing: bool) -> list[bytes]:
    """Return the parts of a whole answer; the last part is the body.

    Args:
        reply: Its body is bytes.
        invocation: What it answers; decides about HEAD and HTTP/1.0.
        closing: Whether the connection ends with it.

    Raises:
        ReplyError: Unusable status, headers or body.
    """
    body = reply.body
    if type(body) is not bytes:
        raise ReplyError(f"the body is {type(body).__name__}, not bytes")
    parts = _head(reply)
    status = reply.status
    if closing:
        parts.append(b"connection: close\r\n")
    elif invocation.http_version == "1.0":
        parts.append(b"connection: keep-alive\r\n")
    if status in _BODILESS or invocation.method == "HEAD":
        length = _given_length(reply)
        if status == 204 or (length is None and status == 304):
            parts.append(b"\r\n")
        else:
            parts.append(b"content-length: %d\r\n\r\n" % (len(body) if length is None else length))
        parts.append(b"")
    else:
        parts.append(b"content-length: %d\r\n\r\n" % len(body))
        parts.append(body)
    return parts


def render_stream_head(reply: Reply, invocation: Invocation, *, closing: bool) -> tuple[bytes, int, int]:
    """Return the head of a streamed answer, how its body is framed, and its length where that is announced.

    Raises:
        ReplyError: Unusable status or headers.
    """
    parts = _head(reply)
    length = _given_length(reply)
    old = invocation.http_version == "1.0"
    if reply.status in _BODILESS or invocation.method == "HEAD":
        framing = NOTHING
    elif length is not None:
        framing = LENGTH
    else:
        framing = UNTIL_CLOSE if old else CHUNKED
    if length is not None and reply.status != 204:
        parts.append(b"content-length: %d\r\n" % length)
    elif framing == CHUNKED:
        parts.append(b"transfer-encoding: chunked\r\n")
    if closing or framing == UNTIL_CLOSE:
        parts.append(b"connection: close\r\n")
    elif old:
        parts.append(b"connection: keep-alive\r\n")
    parts.append(b"\r\n")
    return b"".join(parts), framing, length or 0


def plain_reply(status: int, text: str, invocation_id: str = "") -> Reply:
    """Return an error answer: one line of text that says what happened and to which invocation."""
    suffix = f" (invocation {invocation_id})" if invocation_id else ""
    reply = Reply(
        status=status,
        headers=[(b"content-type", b"text/plain; charset=utf-8")],
        body=f"{text}{suffix}\n".encode("utf-8", "backslashreplace"),
    )
    if status == 503:
        reply.headers.append((b"retry-after", b"1"))
    return reply


def _head(reply: Reply) -> list[bytes]:
    lines = _lines
    try:
        parts = [_STATUS_LINES[reply.status]]
        for header in reply.headers:
            parts.append(lines.get(header) or _line(header))  # noqa: PERF401 -- a comprehension makes a frame
    except KeyError:
        raise ReplyError(f"the status {reply.status!r} is not a number from 200 to 599") from None
    except TypeError as error:
        raise ReplyError(f"status or headers have the wrong type: {error}") from None
    return parts


def _line(header: Any) -> bytes:
    """Check and format one header line; b"" for those that the worker writes itself."""
    try:
        name, value = header
    except (TypeError, ValueError):
        raise ReplyError(f"a header is {header!r}, not a pair of name and value") from None
    if type(name) is not bytes or type(value) is not bytes:
        raise ReplyError(f"the header {name!r} is not a pair of bytes")
    name = name.lower()
    if not _name_matches(name):
        raise ReplyError(f"the header name {name!r} contains a forbidden character")
    if _value_forbids(value):
        raise ReplyError(f"the value of header {name.decode()!r} contains a line break or NUL")
    line = b"" if name in _FRAMING else b"%s: %s\r\n" % (name, value)
    if line and len(line) <= 256:
        if len(_lines) >= _CACHED_LINES:
            _lines.clear()
        _lines[header] = line
    return line


def _given_length(reply: Reply) -> int | None:
    """Return the content-length that the function set, or None."""
    found = None
    for name, value in reply.headers:
        if name.lower() == b"content-length":
            if not _number_matches(value) or found not in (None, int(value)):
                raise ReplyError(f"the content-length {value!r} is not one number")
            found = int(value)
    return found
