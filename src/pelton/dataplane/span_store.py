"""The spans of this machine's traces: kept for `pelton trace`, handed on to a collector where one is named.

The node owns one. Workers, activator and runtime add what they finished; nothing waits for it. Memory is
bounded: the oldest trace goes when there are too many traces or spans.
Source: OTLP 1.x (HTTP, JSON encoding).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pelton.model.span import SpanRecord
from pelton.sdk.trace_sender import Sender

__all__ = ["SpanStore", "otlp"]

TRACES: Final = 1_000
SPANS: Final = 20_000
_KINDS: Final = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}


class SpanStore:
    """Keeps the last traces; an async context manager, which sends what is left on leaving.

    Args:
        url: Where OTLP goes; "" for nowhere.
        headers: Further headers of those requests.
        logger: Told when spans are lost on the way.
        traces, spans: Most of each that are kept.
    """

    def __init__(
        self,
        *,
        url: str = "",
        headers: Mapping[str, str] | None = None,
        logger: logging.Logger,
        traces: int = TRACES,
        spans: int = SPANS,
    ) -> None:
        self._most = (traces, spans)
        self._traces: OrderedDict[str, list[SpanRecord]] = OrderedDict()
        self._count = 0
        self._sender: Sender[SpanRecord] | None = None
        if url:
            self._sender = Sender(url, otlp, logger, headers=headers)

    async def __aenter__(self) -> SpanStore:
        """Begin to send."""
        if self._sender is not None:
            await self._sender.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Send what is left, for two seconds at most."""
        if self._sender is not None:
            await self._sender.stop()

    def add(self, spans: Iterable[SpanRecord]) -> None:
        """Keep finished spans and queue them for the collector."""
        for span in spans:
            found = self._traces.setdefault(span.trace_id, [])
            found.append(span)
            self._count += 1
            if self._sender is not None:
                self._sender.offer(span)
            while len(self._traces) > self._most[0] or self._count > self._most[1]:
                _, oldest = self._traces.popitem(last=False)
                self._count -= len(oldest)

    def trace(self, trace_id: str) -> list[SpanRecord]:
        """Return what is known of a trace, by start; empty when it is not known, or no more."""
        return sorted(self._traces.get(trace_id, ()), key=lambda span: span.start_ns)

    def counters(self) -> dict[str, int]:
        """Return spans kept, and spans that the collector took and that were lost."""
        sender = self._sender
        return {
            "kept": self._count,
            "exported": sender.sent if sender else 0,
            "dropped": sender.dropped if sender else 0,
        }


def otlp(spans: Sequence[SpanRecord]) -> dict[str, Any]:
    """Return an ExportTraceServiceRequest in OTLP's JSON encoding, a resource per service."""
    services: dict[str, list[SpanRecord]] = {}
    for span in spans:
        services.setdefault(span.service, []).append(span)
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(_resource(service))},
                "scopeSpans": [{"scope": {"name": "pelton"}, "spans": [_span(span) for span in found]}],
            }
            for service, found in services.items()
        ]
    }


def _resource(service: str) -> dict[str, str]:
    namespace, slash, name = service.rpartition("/")
    found = {"service.name": name if slash else f"pelton-{name}", "telemetry.sdk.name": "pelton"}
    return {**found, "service.namespace": namespace} if slash else found


def _span(span: SpanRecord) -> dict[str, Any]:
    found: dict[str, Any] = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "name": span.name,
        "kind": _KINDS[span.kind],
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(span.tags),
        "status": {"code": 2, "message": span.error} if span.error else {},
    }
    if span.parent_id:
        found["parentSpanId"] = span.parent_id
    return found


def _attributes(items: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in items.items()]
