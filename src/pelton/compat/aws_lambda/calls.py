"""What passes between everything that calls a Lambda function and everything that runs one.

The doors (`fronts.py`, `invoke_api.py`, `events.py`, put together in `doors.py`) make a LambdaCall and read a
LambdaResult; `handler.py` and `runtime_api.py` are two ways to get from one to the other. Also the JSON rules
of the Python runtime, which both sides keep. Pure.
Source: `faas-conventions` contract, sections 2.1, 2.4 and 2.5.
"""

from __future__ import annotations

import decimal
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "JSON",
    "PAYLOAD_LIMIT_BYTES",
    "UNSET",
    "Invoke",
    "LambdaCall",
    "LambdaResult",
    "decode",
    "encode",
    "error_payload",
    "failed",
    "is_simple",
]

JSON: Final = "application/json"
PAYLOAD_LIMIT_BYTES: Final = 6 * 1024 * 1024 + 100
"""Longest payload each way, except of a streamed answer."""


class _Unset:
    """Stands for "not given" where None is a value."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset()


@dataclass(slots=True, kw_only=True)
class LambdaCall:
    """One invocation as the Runtime API tells it.

    Attributes:
        request_id: A UUID, unless the caller gave another.
        deadline: CLOCK_MONOTONIC seconds at which it is given up; inf for none.
        body: Payload as it came; None while there is only `event`.
        event: The event as Python values; UNSET while there is only `body`.
        content_type: Media type of the payload; only exactly application/json is decoded.
        arn: ARN that was invoked; "" for the function's own.
        trace_id: Value of X-Amzn-Trace-Id; "" for none.
        client_context: JSON text; "" for none.
        identity: Cognito identity, JSON text; "" for none.
        tenant: Tenant id; "" for none.
        wants_tail: Whether the caller asked for the end of the log.
        wants_value: Whether the caller takes `LambdaResult.value` where `is_simple` holds for it.
        wants_stream: Whether the caller can take an answer piece by piece.
    """

    request_id: str
    deadline: float = float("inf")
    body: bytes | None = None
    event: Any = UNSET
    content_type: str = JSON
    arn: str = ""
    trace_id: str = ""
    client_context: str = ""
    identity: str = ""
    tenant: str = ""
    wants_tail: bool = False
    wants_value: bool = False
    wants_stream: bool = False

    @property
    def payload(self) -> bytes:
        """The payload as bytes, whichever way it was given."""
        if self.body is None:
            self.body = encode(None if self.event is UNSET else self.event)
        return self.body


@dataclass(slots=True, kw_only=True)
class LambdaResult:
    """What came of an invocation.

    Attributes:
        payload: The result or, with `error`, the error document; JSON unless `content_type` says otherwise.
        value: The result as Python values instead of `payload`; only when the call wanted it.
        content_type: Media type of the result.
        error: Whether the function failed.
        error_type: E.g. `ValueError`, `Runtime.ExitError`, `Sandbox.Timedout`; "" without error.
        error_message: What the error says.
        log_tail: End of the invocation's log, at most 4 KiB; b"" when it was not asked for.
        stream: The result piece by piece, instead of `payload`; only when the call wanted it.
        stream_error: Asked once `stream` has ended: (error type, error document) of a failure on the way, or
            None.
    """

    payload: bytes = b"null"
    value: Any = UNSET
    content_type: str = JSON
    error: bool = False
    error_type: str = ""
    error_message: str = ""
    log_tail: bytes = b""
    stream: AsyncIterator[bytes] | None = None
    stream_error: Callable[[], tuple[str, bytes] | None] | None = None


Invoke = Callable[[LambdaCall], LambdaResult | Awaitable[LambdaResult]]
"""Runs the function. Never raises for what the function does; raising means the platform's own fault."""


def failed(request_id: str, error_type: str, message: str, stack: list[str] | None = None) -> LambdaResult:
    """Return the result of an invocation that failed.

    Args:
        request_id: Of the invocation.
        error_type: E.g. `Runtime.MarshalError`, or the exception's class.
        message: What happened.
        stack: Lines of the traceback, outermost first; None for none.
    """
    return LambdaResult(
        payload=error_payload(error_type, message, request_id=request_id, stack=stack or []),
        error=True,
        error_type=error_type,
        error_message=message,
    )


def error_payload(
    error_type: str, message: str, *, request_id: str | None = None, stack: list[str] | None = None
) -> bytes:
    """Return the JSON document that stands for an error; `request_id` and `stack` only where given."""
    document: dict[str, Any] = {"errorMessage": message, "errorType": error_type}
    if request_id is not None:
        document["requestId"] = request_id
    if stack is not None:
        document["stackTrace"] = stack
    return encode(document)


# --- the runtime's JSON ---

_MARK: Final = os.urandom(12).hex()
"""Around numbers that `json` cannot write; random, so that no user's text can hold it."""


def _special(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        return float("nan") if value.is_nan() else f"{_MARK}{value}{_MARK}"
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_ascii = json.JSONEncoder(default=_special).encode
_unicode = json.JSONEncoder(default=_special, ensure_ascii=False).encode


def encode(value: Any, *, ascii_only: bool = False) -> bytes:
    """Return a value as JSON: a Decimal is a number with all its digits, NaN and infinities are allowed.

    Args:
        value: What to encode.
        ascii_only: Escape everything outside of ASCII, as runtimes before Python 3.12 do.

    Raises:
        TypeError, ValueError, RecursionError: It cannot be written as JSON.
    """
    text = _ascii(value) if ascii_only else _unicode(value)
    if _MARK in text:
        text = text.replace(f'"{_MARK}', "").replace(f'{_MARK}"', "")
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can carry
        return encode(value, ascii_only=True)


decode: Final = json.loads


def is_simple(value: Any) -> bool:
    """Tell whether a result has the form of a usual HTTP answer, which is the same before and after JSON.

    That is: text, or a mapping of text to text, whole numbers, truth values, None, lists of text, and one
    level of mappings of text to these. Saves the round trip through JSON on the path that counts.
    """
    kind = type(value)
    if kind is str:
        return True
    if kind is not dict:
        return False
    for name, item in value.items():
        if type(name) is not str:
            return False
        kind = type(item)
        if kind in _SCALARS:
            continue
        if kind is dict:
            for inner_name, inner in item.items():
                if type(inner_name) is not str or type(inner) not in _SCALARS:
                    return False
        elif kind is list:
            for inner in item:
                if type(inner) is not str:
                    return False
        else:
            return False
    return True


_SCALARS: Final = frozenset({str, int, bool, type(None)})
