"""Traces of OpenFunction functions: continued from what called, handed on to outputs, then exported.

Imported by `compat/openfunction.py` for functions whose context switches tracing on; the others pay nothing.
One Trace per invocation: an entry span for the function, an exit span per output. Export is in
`sdk/trace_export.py`, headers are in `sdk/trace_codec.py`.
Source: `openfunction` contract, sections 8.3 and 10.2.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pelton.clock import SystemClock, rfc3339
from pelton.model.invocation import Event, Invocation, Output
from pelton.sdk import inner_event
from pelton.sdk.context import Component
from pelton.sdk.trace_codec import (
    Context,
    Segment,
    Skywalking,
    Span,
    decode_sw8,
    encode_baggage,
    encode_correlation,
    encode_sw8,
    parse_traceparent,
)
from pelton.sdk.trace_export import Exporter, Settings

__all__ = [
    "Context",
    "Skywalking",
    "Span",
    "Trace",
    "Tracer",
    "decode_sw8",
    "encode_sw8",
    "parse_traceparent",
]

SKYWALKING: Final = "skywalking"
_CARRIED: Final = ("traceparent", "tracestate", "baggage", "sw8", "sw8-correlation")
_ATTRIBUTES: Final = frozenset({"traceparent", "tracestate"})
"""What a topic's envelope carries as attributes; the rest travels inside a wrapped payload only."""
_TRUE: Final = frozenset({"true", "1", "yes", "on"})


class Trace:
    """The trace of one invocation.

    Attributes:
        segment: What is exported.
        sampled: Whether it is exported at all; who calls decides.
    """

    __slots__ = ("_carried", "_subject", "_tracer", "sampled", "segment")

    def __init__(self, tracer: Tracer, invocation: Invocation) -> None:
        self._tracer = tracer
        event = invocation.event
        self._carried = carried = _carried(invocation)
        parent = parse_traceparent(carried.get("traceparent", ""))
        caller = decode_sw8(carried.get("sw8", "")) if tracer.skywalking else None
        self.sampled = all(known is None or known.sampled for known in (parent, caller))
        self._subject = tracer.inputs.get(event.component, event.component) if event is not None else ""
        entry = Span(
            name=tracer.function,
            kind="consumer" if event is not None and event.kind == "topic" else "server",
            span_id=os.urandom(8).hex(),
            parent_id=parent.span_id if parent is not None else "",
            start_ns=time.time_ns(),
            tags=_tags_of(invocation, event),
        )
        trace_id = parent.trace_id if parent is not None else os.urandom(16).hex()
        self.segment = Segment(
            trace_id=trace_id,
            sky_trace_id=caller.trace_id if caller is not None else trace_id,
            segment_id=os.urandom(16).hex() if tracer.skywalking else "",
            caller=caller,
            spans=[entry],
        )

    def enter(self) -> None:
        """Note that the function itself begins now."""
        self.segment.spans[0].start_ns = time.time_ns()

    def leave(self, error: str = "") -> None:
        """Note that the function itself has ended."""
        self.segment.spans[0].end_ns = time.time_ns()
        self.segment.spans[0].error = error

    def sending(self, output: Output, component: Component) -> Span:
        """Begin an output's span and put the trace into the output."""
        entry = self.segment.spans[0]
        component_name, component_type = component.component_name, component.component_type
        is_topic = component_type.startswith("pubsub.")
        span = Span(
            name=f"{output.name} {'publish' if is_topic else 'invoke'}",
            kind="producer" if is_topic or inner_event.is_wrapped_output(component_type) else "client",
            span_id=os.urandom(8).hex(),
            parent_id=entry.span_id,
            number=len(self.segment.spans),
            start_ns=time.time_ns(),
            peer=component_name,
            tags={"component": component_name, "component_type": component_type},
        )
        self.segment.spans.append(span)
        headers = self._tracer.headers(self, span, self._carried)
        raw = next((v for k, v in component.metadata.items() if k.lower() == "rawdata"), "")
        wraps = self._tracer.wraps and raw.lower() not in _TRUE
        if wraps and inner_event.is_wrapped_output(component_type):
            output.data = self._tracer.wrapped(output.data, self._subject, headers)
            output.content_type = "application/json"
        for name, value in headers.items():
            if is_topic:
                if name in _ATTRIBUTES:
                    output.metadata.setdefault(f"cloudevent.{name}", value)
            else:
                # bindings.http makes headers of names that begin with a capital letter.
                key = name.capitalize() if component_type == "bindings.http" else name
                output.metadata.setdefault(key, value)
        return span

    def sent(self, span: Span, error: str = "") -> None:
        """End an output's span."""
        span.end_ns = time.time_ns()
        span.error = error

    def close(self) -> None:
        """Hand the spans over to be exported; never waits and never raises."""
        now = time.time_ns()
        for span in self.segment.spans:
            span.end_ns = span.end_ns or now
        if self.sampled:
            self._tracer.exporter.offer(self.segment)


def _carried(invocation: Invocation) -> dict[str, str]:
    """Return the trace headers that an invocation came with, lower-case name -> value."""
    found: dict[str, str] = {}
    event = invocation.event
    if event is None:
        for name, value in invocation.headers:
            if name in _NAMES:
                found.setdefault(name.decode(), value.decode("latin-1"))
        return found
    for source in (event.metadata, event.attributes):
        for key, each in source.items():
            lower = key.lower()
            if lower in _CARRIED and each:
                found[lower] = str(each)
    return found


_NAMES: Final = frozenset(name.encode() for name in _CARRIED)


def _tags_of(invocation: Invocation, event: Event | None) -> dict[str, str]:
    if event is None:
        path = invocation.target.partition(b"?")[0].decode("latin-1")
        return {"http.request.method": invocation.method, "url.path": path}
    found = {"component": event.component, "component_type": event.component_type}
    if event.topic:
        found["messaging.destination.name"] = event.topic
    return found


# --- one per function ---


class Tracer:
    """Traces a function's invocations.

    Args:
        tracing: The context's `tracing` object, enabled.
        function, namespace: Whose invocations.
        inputs: Component name -> name of the input that it stands for.
        logger: Takes spans that cannot be exported, one line each.

    Attributes:
        skywalking: Whether SkyWalking's headers and wrapping are in use.
        wraps: Whether what goes to topics and queues is wrapped.
        exporter: Takes what is finished.
    """

    def __init__(
        self,
        tracing: Mapping[str, Any],
        *,
        function: str,
        namespace: str,
        inputs: Mapping[str, str],
        logger: logging.Logger,
    ) -> None:
        provider = tracing.get("provider") or {}
        self.function = function
        self.inputs = inputs
        self.skywalking = str(provider.get("name") or "").lower() == SKYWALKING
        self.wraps = self.skywalking and str(tracing.get("rawData") or "").lower() not in _TRUE
        self._namespace = namespace
        self._baggage = {str(k): str(v) for k, v in (tracing.get("baggage") or {}).items()}
        self.exporter = Exporter(
            Settings(
                provider=str(provider.get("name") or ""),
                oap_server=str(provider.get("oapServer") or ""),
                exporter={str(k): str(v) for k, v in (provider.get("exporter") or {}).items()},
                function=function,
                namespace=namespace,
                tags={str(k): str(v) for k, v in (tracing.get("tags") or {}).items()},
            ),
            logger,
        )

    def begin(self, invocation: Invocation) -> Trace:
        """Begin the trace of an invocation, whose event is unwrapped already."""
        return Trace(self, invocation)

    def headers(self, trace: Trace, span: Span, carried: Mapping[str, str]) -> dict[str, str]:
        """Return what an output carries on, lower-case name -> value."""
        segment = trace.segment
        context = Context(trace_id=segment.trace_id, span_id=span.span_id, sampled=trace.sampled)
        found = {"traceparent": str(context)}
        if carried.get("tracestate"):
            found["tracestate"] = carried["tracestate"]
        baggage = [part for part in (carried.get("baggage", ""), encode_baggage(self._baggage)) if part]
        if baggage:
            found["baggage"] = ",".join(baggage)
        if self.skywalking:
            header = Skywalking(
                trace_id=segment.sky_trace_id,
                segment_id=segment.segment_id,
                span_id=span.number,
                service=self.function,
                instance=self.exporter.instance,
                endpoint=segment.spans[0].name,
                address=span.peer,
                sampled=trace.sampled,
            )
            found["sw8"] = encode_sw8(header)
            given = [
                part
                for part in (carried.get("sw8-correlation", ""), encode_correlation(self._baggage))
                if part
            ]
            if given:
                found["sw8-correlation"] = ",".join(given)
        return found

    def wrapped(self, data: bytes, subject: str, headers: Mapping[str, str]) -> bytes:
        """Return a payload in OpenFunction's inner event."""
        noise = os.urandom(16).hex()
        return inner_event.wrap(
            data,
            id=f"{noise[:8]}-{noise[8:12]}-4{noise[13:16]}-a{noise[17:20]}-{noise[20:]}",
            namespace=self._namespace,
            function=self.function,
            subject=subject,
            time=rfc3339(SystemClock().now(), fraction=True),
            metadata=headers,
        )


def input_names(triggers: Iterable[Any]) -> dict[str, str]:
    """Return component name -> input name of a context's triggers."""
    return {trigger.name: trigger.input_name or trigger.name for trigger in triggers}
