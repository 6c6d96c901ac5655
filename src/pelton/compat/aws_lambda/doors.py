"""All ways into a Lambda function as one LoadedFunction: HTTP front, Invoke API, events.

Each way is a pair: an invocation becomes a LambdaCall (or is refused), a LambdaResult becomes a Reply. What
runs in between is handed in by `handler.py` (sync) and `runtime_api.py` (async). Requests for the front, by
far the most, take the shortest path.
Source: `faas-conventions` contract, sections 1d, 2.5 and 2.6. Decided where it is silent: a request that is a
CloudEvent is an EventBridge event, unless the option `cloudevents` is `http`; where nothing can keep an
invocation for later, one of type Event is carried out before it is answered.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final

from pelton.clock import SystemClock, rfc3339
from pelton.compat.aws_lambda import events, invoke_api
from pelton.compat.aws_lambda.calls import (
    PAYLOAD_LIMIT_BYTES,
    UNSET,
    Invoke,
    LambdaCall,
    LambdaResult,
    decode,
    encode,
)
from pelton.compat.aws_lambda.context import FunctionInfo
from pelton.compat.aws_lambda.front_v2 import Direct, Version2
from pelton.compat.aws_lambda.fronts import front_of
from pelton.errors import ProtocolError
from pelton.model.convention import DEFERRED
from pelton.model.invocation import Invocation, LoadedFunction, LoadRequest, Output, Reply
from pelton.sdk import trigger as triggers

__all__ = ["serve"]

_LOCAL: Final = "run"
"""Revision of functions under `pelton run`."""
_INVOKE: Final = (b"/2015-03-31/functions/", b"/2021-11-15/functions/")
_Way = tuple[LambdaCall, Callable[[LambdaResult], Reply]]


def serve(
    request: LoadRequest,
    info: FunctionInfo,
    invoke: Invoke,
    *,
    sync: bool,
    signature: str = "handler",
    start: Callable[[], Awaitable[None]] | None = None,
    stop: Callable[[], Awaitable[None]] | None = None,
    probe: Callable[[], Awaitable[None]] | None = None,
    direct: Direct | None = None,
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
        probe: As in LoadedFunction.
        direct: The same function, called without a LambdaCall; None where that is not possible.

    Raises:
        FunctionLoadError: An option has a value that is not known.
    """
    doors = _Doors(request, info, invoke)
    if sync and direct is not None and isinstance(doors.front, Version2):
        call: Callable[[Invocation], Any] = partial(doors.call_direct, doors.front, direct)
    else:
        call = doors.call_sync if sync else doors.call_async
    return LoadedFunction(
        call=call,
        sync=sync,
        signature=signature,
        target=info.handler,
        start=start,
        stop=stop,
        probe=probe,
        refuse=doors.refuse,
        aside=doors.aside,
        body_limit_bytes=PAYLOAD_LIMIT_BYTES,
    )


class _Doors:
    def __init__(self, request: LoadRequest, info: FunctionInfo, invoke: Invoke) -> None:
        options = request.options
        self._info = info
        self._invoke: Callable[[LambdaCall], Any] = invoke
        self.front = front_of(options.get("http-event") or "function-url", info)
        self._source = events.check_source(options.get("event-source", ""))
        self._reports = options.get("function-response-types", "ReportBatchItemFailures") != "none"
        self._cloudevents = options.get("cloudevents", "") != "http"
        self._names = frozenset(
            {info.name, request.name, f"{request.namespace}.{request.name}", "function"} - {""}
        )
        self._defer = request.defer
        self._is_local = request.revision == _LOCAL
        self._send = request.send_async
        self._destinations = options.get("on-success", ""), options.get("on-failure", "")
        attempts = options.get("max-attempts", "")
        self._attempts = int(attempts) if attempts.isdecimal() else DEFERRED["lambda"][0]

    # --- calling ------------------------------------------------------------------------------------------

    def call_direct(self, front: Version2, direct: Direct, invocation: Invocation) -> Reply:
        """Call a handler of this process by the shortest way there is."""
        if invocation.event is None and invocation.method == "GET" and invocation.target[1:3] != b"20":
            return front.serve(invocation, direct)
        return self.call_sync(invocation) if self._is_special(invocation) else front.serve(invocation, direct)

    def call_sync(self, invocation: Invocation) -> Reply:
        """Call a function that runs where it is called."""
        front = self.front
        if front is not None and not self._is_special(invocation):
            call = front.call(invocation)
            return call if isinstance(call, Reply) else front.reply(self._invoke(call))
        way = self._enter(invocation)
        if isinstance(way, Reply):
            return way
        result: LambdaResult = self._invoke(way[0])
        return way[1](result)

    async def call_async(self, invocation: Invocation) -> Reply:
        """Call a function that runs elsewhere."""
        front = self.front
        if front is not None and not self._is_special(invocation):
            call = front.call(invocation)
            if isinstance(call, Reply):
                return call
            result: LambdaResult = await self._invoke(call)
            return front.reply(result) if result.stream is None else await front.stream_reply(result)
        way = self._enter(invocation)
        if isinstance(way, Reply):
            return way
        return way[1](await self._invoke(way[0]))

    def _is_special(self, invocation: Invocation) -> bool:
        """Tell cheaply whether an invocation is anything but a request for the front."""
        if invocation.event is not None or invocation.target.startswith(_INVOKE):
            return invocation.event is not None or invoke_api.is_invoke(invocation)
        return self._cloudevents and invocation.method == "POST" and _is_cloudevent(invocation)

    def _enter(self, invocation: Invocation) -> _Way | Reply:
        if invocation.event is None:
            if invoke_api.is_invoke(invocation):
                return self._enter_api(invocation)
            if not (self._cloudevents and _is_cloudevent(invocation)):
                return self._enter_raw(invocation)
        return self._enter_event(invocation)

    def refuse(self, status: int, text: str, invocation: Invocation) -> Reply:
        """See LoadedFunction."""
        if self.front is None or invoke_api.is_invoke(invocation):
            return invoke_api.refusal(status, text, invocation, self._info)
        return self.front.refusal(status)

    # --- Invoke API ---------------------------------------------------------------------------------------

    def _enter_api(self, invocation: Invocation) -> _Way | Reply:
        asked = invoke_api.read(invocation, self._info, self._names)
        return asked if isinstance(asked, Reply) else self._answered(invocation, asked)

    def _enter_raw(self, invocation: Invocation) -> _Way | Reply:
        asked = invoke_api.read_any(invocation)
        return asked if isinstance(asked, Reply) else self._answered(invocation, asked)

    def _answered(self, invocation: Invocation, asked: invoke_api.Asked) -> _Way | Reply:
        call = asked.call
        if asked.kind == "DryRun":
            return self._accepted(invocation, 204)
        if asked.kind == "Event":
            return call, lambda result: self._accepted(invocation, 202)
        make = invoke_api.stream_reply if asked.streaming else invoke_api.reply
        return call, lambda result: make(invocation, call, result, self._info)

    def aside(self, invocation: Invocation) -> Awaitable[Reply] | None:
        """See LoadedFunction: what is only to be accepted does not wait for what runs."""
        if not invocation.target.startswith(_INVOKE) or not invoke_api.is_invoke(invocation):
            return None
        kind = invocation.header(b"x-amz-invocation-type")
        if kind == b"DryRun" or (kind == b"Event" and self._defer is not None):
            return self._accept(invocation)
        return None

    async def _accept(self, invocation: Invocation) -> Reply:
        asked = invoke_api.read(invocation, self._info, self._names)
        if isinstance(asked, Reply):
            return asked
        if asked.kind == "DryRun" or self._defer is None:
            return self._accepted(invocation, 204)
        stored = await self._defer(invoke_api.deferred_of(asked.call))
        if stored.ok:
            return self._accepted(invocation, 202)
        text = f"The invocation could not be stored: {stored.error}"
        return invoke_api.error(invocation.id, 500, "ServiceException", text, fault="Service")

    def _accepted(self, invocation: Invocation, status: int) -> Reply:
        return Reply(status, [(b"x-amzn-requestid", invocation.id.encode("latin-1"))])

    # --- events -------------------------------------------------------------------------------------------

    def _enter_event(self, invocation: Invocation) -> _Way | Reply:
        try:
            trigger = triggers.of(invocation)
        except ProtocolError as exc:
            return Reply(400, [(b"content-type", b"text/plain; charset=utf-8")], f"{exc.message}\n".encode())
        if trigger.kind == "deferred":
            call = invoke_api.call_of_deferred(invocation)
            return call, lambda result: self._end_of_deferred(call, trigger.attempt, result)
        delivered = invocation.event
        kind = "" if delivered is None else delivered.component_type
        source = events.source_of(trigger, kind, self._source)
        trace = trigger.headers.get("X-Amzn-Trace-Id") or trigger.headers.get("x-amzn-trace-id") or ""
        call = LambdaCall(
            request_id=invocation.id,
            deadline=invocation.deadline,
            event=events.event_of(trigger, source, self._info),
            trace_id=trace,
        )
        return call, lambda result: self._end_of_event(trigger, source, result)

    def _end_of_event(self, trigger: triggers.Trigger, source: str, result: LambdaResult) -> Reply:
        if result.error:
            return _attempt_failed(result)
        if not self._reports or source not in events.PARTIAL:
            return Reply(200)
        try:
            value = decode(result.payload) if result.value is UNSET else result.value
        except (ValueError, RecursionError):
            reason = "the result is no JSON, so that the whole batch failed"
        else:
            reason = events.batch_failure(trigger, source, value)
        return Reply(500, error=reason) if reason else Reply(200)

    def _end_of_deferred(self, call: LambdaCall, attempt: int, result: LambdaResult) -> Reply:
        """Report an asynchronous invocation to its destination, if this was the last word on it."""
        reply = _attempt_failed(result) if result.error else Reply(200)
        if self._is_local and not result.error:  # under `pelton run --event`, where somebody looks at it
            reply.body = result.payload if result.value is UNSET else encode(result.value)
        destination = self._destinations[result.error]
        if destination and (not result.error or attempt >= self._attempts):
            payload = result.payload if result.value is UNSET else encode(result.value)
            record = events.destination_record(
                self._info,
                request_id=call.request_id,
                time=rfc3339(SystemClock().now(), fraction=True),
                attempts=attempt,
                request=call.payload,
                response=payload,
                error=result.error,
            )
            # An event has no use for a body: the worker runs it to its end before it reports the outcome.
            reply.body = self._report(Output(name=destination, data=encode(record)))
        return reply

    async def _report(self, output: Output) -> AsyncIterator[bytes]:
        sent = await self._send(output)
        if not sent.ok:
            sys.stderr.write(f"the destination {output.name!r} did not take the record: {sent.error}\n")
        nothing: list[bytes] = []
        for chunk in nothing:
            yield chunk


def _attempt_failed(result: LambdaResult) -> Reply:
    return Reply(
        500,
        [(b"content-type", b"application/json")],
        result.payload,
        error=f"{result.error_type}: {result.error_message}"[:500],
    )


def _is_cloudevent(invocation: Invocation) -> bool:
    for name, value in invocation.headers:
        if name == b"ce-specversion" or (
            name == b"content-type" and value[:29].lower().startswith(b"application/cloudevents+json")
        ):
            return True
    return False
