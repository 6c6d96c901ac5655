"""Lambda's Invoke API as clients (boto3, the `aws` command) call it: requests to calls, results to answers.

`doors.py` asks `is_invoke` first and then `read`, which says what a request wants: an answer now, an
invocation for later, or a refusal. Pure.
Source: `faas-conventions` contract, section 2.5. Decided where it is silent: the function answers to its own
name, `NAMESPACE.NAME` and `function`, with the qualifiers `$LATEST` and its version; an empty payload is
`{}`; a client context that cannot be read is the caller's fault (400); payloads for later have at most
256 KiB.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from pelton.compat.aws_lambda import eventstream
from pelton.compat.aws_lambda.calls import (
    JSON,
    PAYLOAD_LIMIT_BYTES,
    UNSET,
    LambdaCall,
    LambdaResult,
    decode,
    encode,
    error_payload,
)
from pelton.compat.aws_lambda.context import FunctionInfo
from pelton.model.invocation import Deferred, Headers, Invocation, Reply

__all__ = [
    "EVENT_LIMIT_BYTES",
    "Asked",
    "call_of_deferred",
    "deferred_of",
    "error",
    "is_invoke",
    "read",
    "read_any",
    "refusal",
    "reply",
    "stream_reply",
]

EVENT_LIMIT_BYTES: Final = 256 * 1024
"""Longest payload of an invocation for later."""

_PREFIXES: Final = (b"/2015-03-31/functions/", b"/2021-11-15/functions/")
_ENDINGS: Final = {b"15": "invocations", b"21": "response-streaming-invocations"}
_TYPES: Final = ("RequestResponse", "Event", "DryRun")
_CLIENT_CONTEXT_LIMIT: Final = 3583
_CHUNK_BYTES: Final = 256 * 1024


@dataclass(slots=True, kw_only=True)
class Asked:
    """What a request to the Invoke API wants.

    Attributes:
        kind: `RequestResponse`, `Event` or `DryRun`.
        call: The invocation.
        streaming: Whether the answer is an event stream.
    """

    kind: str
    call: LambdaCall
    streaming: bool = False


def is_invoke(invocation: Invocation) -> bool:
    """Tell whether a request is for the Invoke API."""
    target = invocation.target
    if not target.startswith(_PREFIXES) or invocation.event is not None:
        return False
    path = target.partition(b"?")[0]
    return path.rpartition(b"/")[2].decode("latin-1") == _ENDINGS[target[3:5]]


def read(invocation: Invocation, info: FunctionInfo, names: frozenset[str]) -> Asked | Reply:
    """Return what a request wants, or the error that it gets.

    Args:
        invocation: The request; `is_invoke` holds for it.
        info: Who the function is.
        names: Names that the function answers to.
    """
    wrong = _wrong_address(invocation, info, names)
    return wrong or read_any(invocation, streaming=invocation.target[3:5] == b"21")


def read_any(invocation: Invocation, *, streaming: bool = False) -> Asked | Reply:
    """As `read`, but whatever the request's address is; `streaming` says what that would."""
    kind = _header(invocation, b"x-amz-invocation-type") or "RequestResponse"
    if kind not in _TYPES or (streaming and kind == "Event"):
        return error(
            invocation.id,
            400,
            "InvalidParameterValueException",
            f"1 validation error detected: Value '{kind}' at 'invocationType' failed to satisfy constraint: "
            f"Member must satisfy enum value set: [{', '.join(_TYPES)}]",
        )
    if kind == "Event" and len(invocation.body) > EVENT_LIMIT_BYTES:
        return _too_large(invocation, EVENT_LIMIT_BYTES)
    if len(invocation.body) > PAYLOAD_LIMIT_BYTES:
        return _too_large(invocation, PAYLOAD_LIMIT_BYTES)
    event: Any = {}
    if invocation.body:
        try:
            event = decode(invocation.body)
        except (ValueError, RecursionError) as exc:
            return error(
                invocation.id,
                400,
                "InvalidRequestContentException",
                f"Could not parse request body into json: {exc}",
            )
    client_context = _header(invocation, b"x-amz-client-context")
    if client_context:
        decoded = _client_context(client_context)
        if decoded is None:
            return error(
                invocation.id,
                400,
                "InvalidRequestContentException",
                "Client context must be a valid Base64-encoded JSON object.",
            )
        client_context = decoded
    call = LambdaCall(
        request_id=invocation.id,
        deadline=invocation.deadline,
        body=invocation.body or b"{}",
        event=event,
        trace_id=_header(invocation, b"x-amzn-trace-id"),
        client_context=client_context,
        tenant=_header(invocation, b"x-amz-tenant-id"),
        wants_tail=_header(invocation, b"x-amz-log-type").lower() == "tail",
        wants_stream=streaming,
    )
    return Asked(kind=kind, call=call, streaming=streaming)


def _header(invocation: Invocation, name: bytes) -> str:
    found = invocation.header(name)
    return "" if found is None else found.decode("latin-1")


def _wrong_address(invocation: Invocation, info: FunctionInfo, names: frozenset[str]) -> Reply | None:
    """Return the error for a request that is not for this function."""
    path, _, query = invocation.target.decode("latin-1").partition("?")
    asked = unquote(path.split("/")[3])
    if invocation.method != "POST":
        refused = error(invocation.id, 405, "MethodNotAllowedException", "Invocations are posted.")
        refused.headers.append((b"allow", b"POST"))
        return refused
    parts = asked.split(":")
    if parts[0] == "arn":
        parts = parts[6:]
    elif len(parts) > 2 and parts[1] == "function":  # ACCOUNT:function:NAME
        parts = parts[2:]
    elif len(parts) > 1 and parts[0] == "function" and parts[1] in names:  # function:NAME
        parts = parts[1:]
    name = parts[0] if parts else ""
    qualifier = parts[1] if len(parts) > 1 else parse_qs(query).get("Qualifier", [""])[0]
    if name in names and len(parts) <= 2 and qualifier in {"", "$LATEST", info.version}:
        return None
    arn = f"{info.arn.rpartition(':')[0]}:{name}{':' if qualifier else ''}{qualifier}"
    return error(invocation.id, 404, "ResourceNotFoundException", f"Function not found: {arn}")


def _client_context(text: str) -> str | None:
    """Return a client context as JSON text; None when it is none."""
    if len(text) > _CLIENT_CONTEXT_LIMIT:
        return None
    try:
        found = base64.b64decode(text, validate=True).decode()
        return found if isinstance(json.loads(found), dict) else None
    except (binascii.Error, ValueError, RecursionError):
        return None


def _too_large(invocation: Invocation, limit: int) -> Reply:
    text = f"Request must be smaller than {limit} bytes for the InvokeFunction operation"
    return error(invocation.id, 413, "RequestTooLargeException", text)


# --- answers ---


def reply(invocation: Invocation, call: LambdaCall, result: LambdaResult, info: FunctionInfo) -> Reply:
    """Return the answer to an invocation that has ended."""
    result = _limited(call, result)
    headers = _headers(invocation.id, info, result.content_type)
    if result.error:
        headers.append((b"x-amz-function-error", b"Unhandled"))
    if call.wants_tail:
        headers.append((b"x-amz-log-result", base64.b64encode(result.log_tail)))
    if call.trace_id:
        headers.append((b"x-amzn-trace-id", call.trace_id.encode("latin-1")))
    return Reply(200, headers, result.payload)


def _limited(call: LambdaCall, result: LambdaResult) -> LambdaResult:
    """Return the result, or the error that it is too long; payload filled either way."""
    if result.value is not UNSET:
        result.payload = encode(result.value)
    length = len(result.payload)
    if length <= PAYLOAD_LIMIT_BYTES:
        return result
    text = f"Response payload size ({length} bytes) exceeded maximum allowed payload size"
    text = f"{text} ({PAYLOAD_LIMIT_BYTES} bytes)."
    return LambdaResult(
        payload=error_payload("Function.ResponseSizeTooLarge", text),
        error=True,
        error_type="Function.ResponseSizeTooLarge",
        error_message=text,
        log_tail=result.log_tail,
    )


def _headers(request_id: str, info: FunctionInfo, content_type: str) -> Headers:
    return [
        (b"content-type", content_type.encode("latin-1")),
        (b"x-amzn-requestid", request_id.encode("latin-1")),
        (b"x-amz-executed-version", info.version.encode("latin-1", "replace")),
    ]


def stream_reply(invocation: Invocation, call: LambdaCall, result: LambdaResult, info: FunctionInfo) -> Reply:
    """Return the answer to a streamed invocation: an event stream of pieces that ends with InvokeComplete."""
    headers = _headers(invocation.id, info, eventstream.MEDIA_TYPE)
    if result.stream is None:
        whole = result if result.error else _limited(call, result)
        return Reply(200, headers, _events(call, whole))
    return Reply(200, headers, _streamed(call, result))


def _events(call: LambdaCall, result: LambdaResult) -> bytes:
    """Return a whole result as an event stream."""
    if result.error:
        return _complete(call, result, (result.error_type, result.payload))
    data = result.payload
    pieces = [_piece(data[at : at + _CHUNK_BYTES]) for at in range(0, len(data), _CHUNK_BYTES)]
    return b"".join([*pieces, _complete(call, result, None)])


async def _streamed(call: LambdaCall, result: LambdaResult) -> AsyncIterator[bytes]:
    assert result.stream is not None  # noqa: S101 -- the caller looked
    failure: tuple[str, bytes] | None = None
    try:
        async for chunk in result.stream:
            if chunk:
                yield _piece(chunk)
    except Exception as exc:
        failure = type(exc).__name__, error_payload(type(exc).__name__, str(exc))
    if failure is None and result.stream_error is not None:
        failure = result.stream_error()
    yield _complete(call, result, failure)


def _piece(data: bytes) -> bytes:
    return eventstream.message(
        {
            ":event-type": "PayloadChunk",
            ":content-type": "application/octet-stream",
            ":message-type": "event",
        },
        data,
    )


def _complete(call: LambdaCall, result: LambdaResult, failure: tuple[str, bytes] | None) -> bytes:
    said: dict[str, str] = {}
    if failure is not None:
        said["ErrorCode"] = "Unhandled"
        said["ErrorDetails"] = failure[1].decode("utf-8", "replace")
    if call.wants_tail:
        said["LogResult"] = base64.b64encode(result.log_tail).decode()
    return eventstream.message(
        {":event-type": "InvokeComplete", ":content-type": JSON, ":message-type": "event"}, encode(said)
    )


def error(request_id: str, status: int, kind: str, message: str, *, fault: str = "User") -> Reply:
    """Return an error of the Invoke API itself."""
    headers = [
        (b"content-type", b"application/json"),
        (b"x-amzn-errortype", kind.encode()),
        (b"x-amzn-requestid", request_id.encode("latin-1")),
    ]
    return Reply(status, headers, encode({"Type": fault, "Message": message, "message": message}))


def refusal(status: int, text: str, invocation: Invocation, info: FunctionInfo) -> Reply:
    """Return the answer for 413 (payload too long), 503 (busy) or 504 (time limit passed)."""
    if status == 413:
        return _too_large(invocation, PAYLOAD_LIMIT_BYTES)
    if status == 503:
        busy = error(invocation.id, 429, "TooManyRequestsException", "Rate Exceeded.")
        busy.headers.append((b"retry-after", b"1"))
        return busy
    if status != 504:
        return error(invocation.id, 500, "ServiceException", text, fault="Service")
    message = f"RequestId: {invocation.id} Error: Task timed out after {info.timeout_s:.2f} seconds"
    payload = error_payload("Sandbox.Timedout", message)
    call = LambdaCall(request_id=invocation.id)
    result = LambdaResult(payload=payload, error=True, error_type="Sandbox.Timedout", error_message=message)
    if invocation.target[3:5] == b"21":
        return stream_reply(invocation, call, result, info)
    return reply(invocation, call, result, info)


# --- invocations for later ---


def deferred_of(call: LambdaCall) -> Deferred:
    """Return an invocation in the form in which the platform keeps it."""
    # Headers on the bus are no place for arbitrary text.
    client_context = base64.b64encode(call.client_context.encode()).decode()
    metadata = {
        "client-context": client_context,
        "trace-id": call.trace_id,
        "tenant-id": call.tenant,
    }
    return Deferred(
        id=call.request_id,
        data=call.payload,
        content_type=JSON,
        metadata={name: value for name, value in metadata.items() if value},
    )


def call_of_deferred(invocation: Invocation) -> LambdaCall:
    """Return the invocation that was kept as this event."""
    event = invocation.event
    assert event is not None  # noqa: S101 -- only called for events
    kept = {name.lower(): value for name, value in event.metadata.items()}
    return LambdaCall(
        request_id=str(event.attributes.get("id") or invocation.id),
        deadline=invocation.deadline,
        body=event.data,
        trace_id=kept.get("trace-id", ""),
        client_context=_client_context(kept.get("client-context", "")) or "",
        tenant=kept.get("tenant-id", ""),
    )
