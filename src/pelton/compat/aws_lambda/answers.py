"""What all HTTP answers of Lambda functions share: status, headers, bodies, and the prelude of streams.

Used by `fronts.py`. Pure.
Source: `faas-conventions` contract, sections 2.1 and 2.6. Decided where it is silent: a status is 200 to 599,
headers that frame a message are the server's to write, and numbers and truth values are allowed in headers.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from pelton.compat.aws_lambda.calls import decode
from pelton.model.invocation import Headers, Reply

__all__ = [
    "FRAMING",
    "STREAM_TYPE",
    "MalformedError",
    "add_headers",
    "decoded",
    "decoded_body",
    "header_bytes",
    "header_name",
    "read_prelude",
    "split_prelude",
    "status_of",
    "strict",
    "utf8",
]

STREAM_TYPE: Final = "application/vnd.awslambda.http-integration-response"
"""Media type of an answer whose status and headers come before the body, as a JSON prelude."""

_SEPARATOR: Final = bytes(8)
_PRELUDE_LIMIT_BYTES: Final = 1024 * 1024
FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection"})
"""Headers that the server writes itself."""
_is_token: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch


class MalformedError(Exception):
    """The function's result is no answer."""


def decoded(payload: bytes) -> Any:
    """Return a result's payload as Python values; raises MalformedError."""
    try:
        return decode(payload)
    except (ValueError, RecursionError) as exc:
        raise MalformedError(f"no JSON: {exc}") from exc


def strict(value: Any, *, multi: Any = None, single: bool = True) -> Reply:
    """Return the answer of the fronts that take only their own form.

    Args:
        value: The result.
        multi: Headers with several values each, or None.
        single: Whether `headers` counts.
    """
    if not isinstance(value, dict) or "statusCode" not in value:
        raise MalformedError("it has no statusCode")
    reply = Reply(status_of(value["statusCode"]))
    listed: dict[bytes, list[bytes]] = {}
    if multi:
        if not isinstance(multi, Mapping):
            raise MalformedError("multiValueHeaders is no object")
        for name, values in multi.items():
            items = values if isinstance(values, list) else [values]
            listed.setdefault(header_name(name), []).extend(header_bytes(item) for item in items)
    headers: Headers = []
    if single and value.get("headers"):
        add_headers(headers, value["headers"])
    reply.headers = [(name, text) for name, text in headers if text not in listed.get(name, ())]
    reply.headers += [
        (name, text) for name, values in listed.items() if name not in FRAMING for text in values
    ]
    body = value.get("body")
    if body is not None:
        if not isinstance(body, str):
            raise MalformedError(f"its body is of type {type(body).__name__}, not text")
        reply.body = decoded_body(body) if value.get("isBase64Encoded") else utf8(body)
    return reply


def status_of(value: Any) -> int:
    """Return a statusCode as a number; raises MalformedError."""
    if type(value) is int:
        status = value
    elif (isinstance(value, str) and value.isascii() and value.isdecimal()) or (
        isinstance(value, float) and value.is_integer()
    ):
        status = int(value)
    else:
        raise MalformedError(f"statusCode is {value!r}")
    if not 200 <= status <= 599:  # 1xx is not for functions to send
        raise MalformedError(f"statusCode is {value!r}")
    return status


def add_headers(headers: Headers, given: Any) -> None:
    """Add `headers` of a result to an answer's, but for what the server writes; raises MalformedError."""
    if not isinstance(given, Mapping):
        raise MalformedError("headers is no object")
    for name, value in given.items():
        wire = header_name(name)
        if value is not None and wire not in FRAMING:
            headers.append((wire, header_bytes(value)))


def header_name(name: Any) -> bytes:
    """Return a header's name as it is sent; raises MalformedError for what is no token (RFC 9110 5.6.2)."""
    if not isinstance(name, str) or not _is_token(name):
        raise MalformedError(f"{name!r} is no name of a header")
    return name.lower().encode()


def header_bytes(value: Any) -> bytes:
    """Return a header's value as it is sent; raises MalformedError."""
    if type(value) is str:
        text = value
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int | float):
        text = str(value)
    else:
        raise MalformedError(f"a header is of type {type(value).__name__}")
    if "\n" in text or "\r" in text or "\0" in text:
        raise MalformedError("a header holds a line end")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def utf8(text: str) -> bytes:
    """Return a body as UTF-8; what cannot be encoded becomes a question mark."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def decoded_body(text: str) -> bytes:
    """Return a base64 body; raises MalformedError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise MalformedError(f"its body is not base64: {exc}") from exc


def split_prelude(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Split an answer into its prelude and its body.

    Args:
        data: JSON of {statusCode, headers, cookies}, eight NUL bytes, body.

    Raises:
        ValueError: There is no prelude, or it is no JSON object.
    """
    head, found, body = data.partition(_SEPARATOR)
    if not found:
        raise ValueError("there are no eight NUL bytes behind a prelude")
    prelude = decode(head)
    if not isinstance(prelude, dict):
        raise ValueError("the prelude is no JSON object")  # noqa: TRY004 -- the message is wrong, not its caller
    return {"statusCode": 200, **prelude}, body


async def read_prelude(stream: AsyncIterator[bytes]) -> tuple[dict[str, Any], AsyncIterator[bytes]]:
    """Read the prelude off a stream; returns it and the body that follows.

    Raises:
        ValueError: As `split_prelude`, or there is none within 1 MiB.
    """
    head = b""
    async for chunk in stream:
        head += chunk
        if _SEPARATOR in head:
            break
        if len(head) > _PRELUDE_LIMIT_BYTES:
            raise ValueError("there is no prelude within 1 MiB")
    prelude, first = split_prelude(head)

    async def rest() -> AsyncIterator[bytes]:
        if first:
            yield first
        async for chunk in stream:
            yield chunk

    return prelude, rest()
