"""Where finished traces go: OTLP or SkyWalking segments as JSON over HTTP, else one line each in the log.

Fed by `sdk/tracing.py` from any thread; `sdk/trace_sender.py` brings batches to the collector.
Source: OTLP 1.x (HTTP, JSON encoding); SkyWalking's trace data protocol 3 over HTTP (`/v3/segments`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pelton.sdk.trace_codec import Segment, Span
from pelton.sdk.trace_sender import Sender, pairs, timeout_s

__all__ = ["Exporter", "Settings", "endpoint_url", "otlp", "segments"]

_COMPONENT: Final = 5013
"""SkyWalking's id of OpenFunction."""
_KINDS: Final = {"server": 2, "client": 3, "producer": 4, "consumer": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Who is traced, and where to.

    Attributes:
        provider: `opentelemetry` or `skywalking`.
        oap_server: SkyWalking's server; an http:// or https:// address gets segments.
        exporter: OpenTelemetry's: endpoint, headers, compression, timeout, protocol.
        function, namespace: The function.
        tags: Tags of every entry span; func, instance and namespace are filled in.
    """

    provider: str
    oap_server: str = ""
    exporter: Mapping[str, str] = field(default_factory=dict)
    function: str = ""
    namespace: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


class Exporter:
    """Takes finished traces.

    Args:
        settings: Who and where to.
        logger: The function's.
    """

    def __init__(self, settings: Settings, logger: logging.Logger) -> None:
        self._settings = settings
        self._logger = logger
        url, encode = _destination(settings)
        exporter = settings.exporter
        self._sender: Sender[Segment] | None = None
        if url:
            self._sender = Sender(
                url,
                lambda batch: encode(batch, self),
                logger,
                headers=pairs(exporter.get("headers", "")),
                timeout_s=timeout_s(exporter.get("timeout", "")),
                gzip=exporter.get("compression", "").lower() == "gzip",
            )

    @property
    def sent(self) -> int:
        """Traces that a collector took."""
        return self._sender.sent if self._sender else 0

    @property
    def dropped(self) -> int:
        """Traces that were lost."""
        return self._sender.dropped if self._sender else 0

    @property
    def instance(self) -> str:
        """Name of the instance, which a template does not know yet when it loads the function."""
        return os.environ.get("POD_NAME") or "run"

    def tags(self) -> dict[str, str]:
        """Return the tags of every entry span."""
        settings = self._settings
        filled = {"func": settings.function, "instance": self.instance, "namespace": settings.namespace}
        return {**filled, **settings.tags}

    async def start(self) -> None:
        """Begin to send, in this loop."""
        if self._sender is not None:
            await self._sender.start()

    async def stop(self) -> None:
        """Send what is left, for two seconds at most."""
        if self._sender is not None:
            await self._sender.stop()

    def offer(self, trace: Segment) -> None:
        """Take a trace; from any thread, never waits, never raises."""
        if self._sender is None:
            self._logger.info("trace %s", json.dumps(_line(trace, self.tags()), separators=(",", ":")))
        else:
            self._sender.offer(trace)


def _destination(settings: Settings) -> tuple[str, Any]:
    """Return (URL, encoder); "" where spans go to the log."""
    if settings.provider.lower() == "skywalking":
        base = settings.oap_server.rstrip("/")
        return (f"{base}/v3/segments" if base.startswith(("http://", "https://")) else ""), segments
    endpoint = settings.exporter.get("endpoint", "").strip()
    if not endpoint or "grpc" in settings.exporter.get("protocol", "").lower():
        return "", otlp
    return endpoint_url(endpoint), otlp


def endpoint_url(endpoint: str) -> str:
    """Return where traces are posted: an endpoint without a path has OTLP's own."""
    if "://" not in endpoint:
        endpoint = f"http://{endpoint}"
    place = endpoint.partition("://")[2].partition("/")[2]
    return endpoint if place else f"{endpoint.rstrip('/')}/v1/traces"


# --- encodings ---


def otlp(traces: Sequence[Segment], exporter: Exporter) -> dict[str, Any]:
    """Return an ExportTraceServiceRequest in OTLP's JSON encoding."""
    tags = exporter.tags()
    resource = {
        "service.name": exporter._settings.function,
        "service.namespace": exporter._settings.namespace,
        "service.instance.id": exporter.instance,
        "telemetry.sdk.name": "pelton",
        "telemetry.sdk.language": "python",
    }
    spans = [_otlp_span(trace, span, tags) for trace in traces for span in trace.spans]
    scoped = {"scope": {"name": "pelton.openfunction"}, "spans": spans}
    return {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": [scoped]}]}


def _otlp_span(trace: Segment, span: Span, tags: Mapping[str, str]) -> dict[str, Any]:
    attributes = {**(tags if span.number == 0 else {}), **span.tags}
    found: dict[str, Any] = {
        "traceId": trace.trace_id,
        "spanId": span.span_id,
        "name": span.name,
        "kind": _KINDS[span.kind],
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(attributes),
        "status": {"code": 2, "message": span.error} if span.error else {},
    }
    if span.parent_id:
        found["parentSpanId"] = span.parent_id
    return found


def _attributes(items: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in items.items()]


def segments(traces: Sequence[Segment], exporter: Exporter) -> list[dict[str, Any]]:
    """Return SkyWalking's segments, one per trace."""
    tags = exporter.tags()
    return [
        {
            "traceId": trace.sky_trace_id,
            "traceSegmentId": trace.segment_id,
            "service": exporter._settings.function,
            "serviceInstance": exporter.instance,
            "spans": [_sky_span(trace, span, tags) for span in trace.spans],
        }
        for trace in traces
    ]


def _sky_span(trace: Segment, span: Span, tags: Mapping[str, str]) -> dict[str, Any]:
    entry = span.number == 0
    everything = {**(tags if entry else {}), **span.tags, **({"error": span.error} if span.error else {})}
    found: dict[str, Any] = {
        "operationName": span.name,
        "startTime": span.start_ns // 1_000_000,
        "endTime": span.end_ns // 1_000_000,
        "spanId": span.number,
        "parentSpanId": -1 if entry else 0,
        "spanType": "Entry" if entry else "Exit",
        "spanLayer": "FAAS",
        "componentId": _COMPONENT,
        "isError": bool(span.error),
        "peer": span.peer,
        "tags": [{"key": key, "value": value} for key, value in everything.items()],
        "logs": [],
    }
    caller = trace.caller
    if entry and caller is not None:
        found["refs"] = [
            {
                "refType": "CrossProcess",
                "traceId": caller.trace_id,
                "parentTraceSegmentId": caller.segment_id,
                "parentSpanId": caller.span_id,
                "parentService": caller.service,
                "parentServiceInstance": caller.instance,
                "parentEndpoint": caller.endpoint,
                "networkAddressUsedAtPeer": caller.address,
            }
        ]
    return found


def _line(trace: Segment, tags: Mapping[str, str]) -> dict[str, Any]:
    """Return what the log says about a trace."""
    entry, *exits = trace.spans
    found: dict[str, Any] = {
        "traceId": trace.sky_trace_id,
        "spanId": entry.span_id,
        "parentSpanId": entry.parent_id,
        "name": entry.name,
        "kind": entry.kind,
        "durationMs": _ms(entry),
        "tags": {**tags, **entry.tags},
    }
    if entry.error:
        found["error"] = entry.error
    if exits:
        found["outputs"] = [
            {"name": span.name, "spanId": span.span_id, "durationMs": _ms(span)}
            | ({"error": span.error} if span.error else {})
            for span in exits
        ]
    return found


def _ms(span: Span) -> float:
    return round((span.end_ns - span.start_ns) / 1e6, 3)
