"""What a worker says about invocations whose caller wants them traced: one span each, with its parts' times.

A caller asks by a `traceparent` whose sampled flag is set: a header of a request, an attribute of an event.
The others cost one look at an empty table. Called by `dataplane/http.py` (a head came in) and
`dataplane/worker.py` (user code begins and ends); spans leave over the control socket to the node.
Source: W3C Trace Context 1, sections 3.2 and 3.4.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pelton.model.invocation import Event, Invocation, Reply
from pelton.model.span import SpanRecord
from pelton.sdk.trace_codec import Context, parse_traceparent

__all__ = ["LIMIT", "NO_TRACES", "Traces", "new_span_id", "sampled"]

LIMIT: Final = 1_000
"""Traced invocations open at once; of more, the oldest are not reported."""

_monotonic_ns = time.monotonic_ns


def new_span_id() -> str:
    """Return 16 hex digits that no other span has."""
    return os.urandom(8).hex()


def sampled(traceparent: str) -> Context | None:
    """Return the context of a `traceparent` that asks to be recorded, else None."""
    context = parse_traceparent(traceparent)
    return context if context is not None and context.sampled else None


class _Open:
    """A traced invocation that goes on."""

    __slots__ = ("began_ns", "context", "parent_id", "received_ns", "returned_ns", "status")

    def __init__(self, context: Context, parent_id: str, received_ns: int) -> None:
        self.context = context
        self.parent_id = parent_id
        self.received_ns = received_ns
        self.began_ns = 0
        self.returned_ns = 0
        self.status = 0


class Traces:
    """The traced invocations of one worker.

    Args:
        service: `namespace/name` of the function.
        tags: Tags of every span, e.g. instance and revision.
        first_tags: Tags of the first span, which tell how the instance began.
        emit: Takes a finished span; called on the loop's thread.

    Attributes:
        open: Invocation id -> what is known; empty, and so false, while nothing is traced.
    """

    def __init__(
        self,
        *,
        service: str,
        tags: dict[str, str],
        first_tags: dict[str, str],
        emit: Callable[[SpanRecord], None],
    ) -> None:
        self.open: dict[str, _Open] = {}
        self._service = service
        self._tags = tags
        self._first_tags = first_tags
        self._emit = emit
        # Spans carry wall-clock times, taken from the monotonic clock so that a clock that steps bends none.
        self._epoch_ns = time.time_ns() - _monotonic_ns()

    def enter(self, traceparent: bytes) -> _Open | None:
        """Return an entry for `begin` when the caller wants a trace.

        User code sees the caller's header as it is: spans that it makes itself may go to a collector that
        never gets ours.
        """
        parent = sampled(traceparent.decode("latin-1"))
        if parent is None:
            return None
        context = Context(trace_id=parent.trace_id, span_id=new_span_id())
        return _Open(context, parent.span_id, _monotonic_ns())

    def begin(self, invocation: Invocation, entry: _Open) -> None:
        """Note an invocation that came in with such a header."""
        while len(self.open) >= LIMIT:
            del self.open[next(iter(self.open))]
        self.open[invocation.id] = entry

    def begin_event(self, invocation: Invocation, event: Event) -> None:
        """Note an event that asks to be traced."""
        entry = self.enter(str(event.attributes.get("traceparent", "")).encode("latin-1", "replace"))
        if entry is not None:
            self.begin(invocation, entry)

    def traceparent(self, invocation: Invocation | None) -> str:
        """Return what an output of an invocation carries, "" when it is not traced."""
        entry = self.open.get(invocation.id) if invocation is not None else None
        return str(entry.context) if entry is not None else ""

    # --- around user code -----------------------------------------------------------------------------------

    def call(self, call: Callable[[Invocation], Any], invocation: Invocation) -> Any:
        """Call sync user code; on the loop or on a thread."""
        entry = self.open.get(invocation.id)
        if entry is None:
            return call(invocation)
        entry.began_ns = _monotonic_ns()
        try:
            reply = call(invocation)
        finally:
            entry.returned_ns = _monotonic_ns()
        entry.status = reply.status if isinstance(reply, Reply) else 200
        return reply

    async def wait(self, call: Callable[[Invocation], Awaitable[Any]], invocation: Invocation) -> Any:
        """Await async user code."""
        entry = self.open.get(invocation.id)
        if entry is None:
            return await call(invocation)
        entry.began_ns = _monotonic_ns()
        try:
            reply = await call(invocation)
        finally:
            entry.returned_ns = _monotonic_ns()
        entry.status = reply.status if isinstance(reply, Reply) else 200
        return reply

    async def attend(
        self, serve: Callable[[Invocation, Any], Awaitable[None]], invocation: Invocation, run: Any
    ) -> None:
        """Await async user code that answers by itself."""
        entry = self.open.get(invocation.id)
        if entry is None:
            await serve(invocation, run)
            return
        entry.began_ns = _monotonic_ns()
        try:
            await serve(invocation, run)
        finally:
            entry.returned_ns = _monotonic_ns()

    def answered(self, invocation: Invocation, status: int) -> None:
        """Note the status of an answer that user code gives by itself."""
        entry = self.open.get(invocation.id)
        if entry is not None:
            entry.status = status

    def end(self, invocation: Invocation, *, status: int = 0, error: str = "") -> None:
        """Report an invocation that has its outcome; nothing for one that is not traced.

        Args:
            invocation: Whose.
            status: HTTP status, 0 to take what user code returned.
            error: One line, "" when all went well.
        """
        entry = self.open.pop(invocation.id, None)
        if entry is None:
            return
        now = _monotonic_ns()
        event = invocation.event
        tags = {**self._tags, **self._first_tags, "pelton.invocation": invocation.id}
        tags["faas.coldstart"] = "true" if self._first_tags else "false"
        self._first_tags = {}
        status = status or entry.status
        if event is None:
            tags["faas.trigger"] = "http"
            tags["http.request.method"] = invocation.method
            tags["url.path"] = invocation.target.partition(b"?")[0].decode("latin-1")
            if status:
                tags["http.response.status_code"] = str(status)
        else:
            tags["faas.trigger"] = "timer" if event.component_type == "bindings.cron" else "pubsub"
            tags["messaging.destination.name"] = event.topic or event.component
            tags["pelton.attempt"] = str(event.attempt)
        began = entry.began_ns or now
        tags["pelton.waited_ms"] = _ms(began - entry.received_ns)
        if entry.began_ns:
            tags["pelton.function_ms"] = _ms((entry.returned_ns or now) - entry.began_ns)
        self._emit(
            SpanRecord(
                trace_id=entry.context.trace_id,
                span_id=entry.context.span_id,
                parent_id=entry.parent_id,
                name=f"invoke {self._service}",
                kind="server" if event is None else "consumer",
                service=self._service,
                start_ns=self._epoch_ns + entry.received_ns,
                end_ns=self._epoch_ns + now,
                tags=tags,
                error=error or (f"status {status}" if status >= 500 else ""),
            )
        )


NO_TRACES: Final = Traces(service="", tags={}, first_tags={}, emit=lambda span: None)
"""Stands where nobody would take spans; nothing is ever open in it."""


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.3f}"
