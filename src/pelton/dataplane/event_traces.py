"""The runtime's part of a trace: an event's delivery to a function, and an output's way to its destination.

A trace goes on when the event or the invocation has a `traceparent` whose sampled flag is set; for events
without one, a share of them begins one. Used by `dataplane/dispatcher.py`, `dataplane/triggers.py` and
`dataplane/outputs.py`; spans go to the node.
Source: W3C Trace Context 1, CloudEvents' distributed tracing extension.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from pelton.dataplane.traces import new_span_id, sampled
from pelton.model.desired import OutputBinding, Subscription
from pelton.model.invocation import Event, Output
from pelton.model.span import SpanRecord
from pelton.sdk.trace_codec import Context

__all__ = ["CAUSES", "HOLDS", "NO_TRACES", "EventTraces", "Hop"]

SERVICE: Final = "runtime"

CAUSES: Final = "pelton.causes"
"""Tag: ids of the subscriptions that get the event next, with blanks between."""

HOLDS: Final = "pelton.holds"
"""Tag: the conditions of a Trigger that held, or `none`."""


class Hop:
    """A piece of the runtime's work that is being traced.

    Attributes:
        context: Its own; what it causes names it as parent.
    """

    def __init__(
        self,
        emit: Callable[[SpanRecord], None],
        context: Context,
        parent_id: str,
        *,
        name: str,
        kind: str,
        tags: dict[str, str],
    ) -> None:
        self.context = context
        self._emit = emit
        self._parent_id = parent_id
        self._name = name
        self._kind = kind
        self._tags = tags
        self._start_ns, self._at = time.time_ns(), time.monotonic_ns()

    def end(self, error: str = "", **tags: str) -> None:
        """Report it."""
        self._emit(
            SpanRecord(
                trace_id=self.context.trace_id,
                span_id=self.context.span_id,
                parent_id=self._parent_id,
                name=self._name,
                kind=self._kind,
                service=SERVICE,
                start_ns=self._start_ns,
                end_ns=self._start_ns + time.monotonic_ns() - self._at,
                tags={**self._tags, **tags},
                error=error,
            )
        )


class EventTraces:
    """Begins hops.

    Args:
        emit: Takes finished spans.
        exported: Whether spans reach a collector: only then do events and outputs name them as parents.
        percent: Share of the events without a trace that begin one, 0 to 100.
        draw: Returns a number from 0 up to but not including 100; decides about such an event.

    Attributes:
        begins: Whether events without a trace may begin one: else `delivery` need not be asked about an event
            without attributes.
    """

    def __init__(
        self,
        emit: Callable[[SpanRecord], None],
        *,
        exported: bool = False,
        percent: float = 0.0,
        draw: Callable[[], float],
    ) -> None:
        self.exported = exported
        self.begins = percent > 0
        self._emit = emit
        self._percent = percent
        self._draw = draw

    def delivery(self, subscription: Subscription, event: Event, *, name: str = "") -> Hop | None:
        """Return the hop of one attempt, None for an event that is not traced.

        Args:
            subscription: Whose attempt.
            event: What is delivered; its `traceparent` becomes the hop's where a collector hears of it.
            name: What is done, such as `trigger default/ship`; by default the delivery.
        """
        if not self._percent and "traceparent" not in event.attributes:
            return None
        given = str(event.attributes.get("traceparent", ""))
        parent = sampled(given)
        if parent is None and (given or not self._percent or self._draw() >= self._percent):
            return None
        trace_id = parent.trace_id if parent is not None else os.urandom(16).hex()
        hop = Hop(
            self._emit,
            Context(trace_id=trace_id, span_id=new_span_id()),
            parent.span_id if parent is not None else "",
            name=name or f"deliver {subscription.id}",
            kind="consumer",
            tags={
                "messaging.system": event.component_type,
                "messaging.destination.name": event.topic or event.component,
                "pelton.function": f"{subscription.namespace}/{subscription.function}",
                "pelton.subscription": subscription.id,
                "pelton.attempt": str(event.attempt),
            },
        )
        if self.exported:
            event.attributes["traceparent"] = str(hop.context)
        return hop

    def begin(self, traceparent: str, *, name: str, kind: str, tags: dict[str, str]) -> Hop | None:
        """Return the hop of a call whose `traceparent` asks for a trace, else None.

        Args:
            traceparent: Of the call; "" for none.
            name: Such as `publish orders`.
            kind: `producer`, `consumer`, `client` or `server`.
            tags: OpenTelemetry's names.
        """
        parent = sampled(traceparent) if traceparent else None
        if parent is None:
            return None
        own = Context(trace_id=parent.trace_id, span_id=new_span_id())
        return Hop(self._emit, own, parent.span_id, name=name, kind=kind, tags=tags)

    def output(self, namespace: str, name: str, target: OutputBinding, output: Output) -> Hop | None:
        """Return the hop of an output of a traced invocation, else None."""
        parent = sampled(output.traceparent) if output.traceparent else None
        if parent is None:
            return None
        return Hop(
            self._emit,
            Context(trace_id=parent.trace_id, span_id=new_span_id()),
            parent.span_id,
            name=f"output {target.name}",
            kind="client" if target.component.type.startswith("bindings.") else "producer",
            tags={
                "messaging.system": target.component.type,
                "messaging.destination.name": target.topic or target.component.name,
                "pelton.function": f"{namespace}/{name}",
            },
        )


NO_TRACES: Final = EventTraces(lambda span: None, draw=lambda: 100.0)
"""Traces nothing that does not ask for it, and tells nobody."""
