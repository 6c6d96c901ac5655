"""Where finished traces go: OTLP or SkyWalking segments as JSON over HTTP, else one line each in the log.

Fed by `sdk/tracing.py` from any thread; a task of the worker's loop sends batches with nothing but asyncio's
streams. It never holds up an invocation: the queue is bounded, a batch is tried once, what is lost is counted
and told. Nothing runs while nothing is queued.
Source: OTLP 1.x (HTTP, JSON encoding); SkyWalking's trace data protocol 3 over HTTP (`/v3/segments`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pelton.sdk.trace_codec import Segment, Span

__all__ = ["QUEUE_LIMIT", "Exporter", "Settings", "otlp", "segments"]

QUEUE_LIMIT: Final = 2048
"""Traces that wait to be sent; more are dropped and counted."""
_BATCH: Final = 256
_DELAY_S: Final = 1.0
_TIMEOUT_S: Final = 10.0
_LAST_S: Final = 2.0
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

    Attributes:
        sent, dropped: Traces that a collector took, and that were lost.
    """

    def __init__(self, settings: Settings, logger: logging.Logger) -> None:
        self._settings = settings
        self._logger = logger
        self._url, self._encode = _destination(settings)
        self._headers = _pairs(settings.exporter.get("headers", ""))
        self._timeout_s = _timeout(settings.exporter.get("timeout", ""))
        self._gzip = settings.exporter.get("compression", "").lower() == "gzip"
        self._queue: deque[Segment] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waking = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._trouble = ""
        self.sent = 0
        self.dropped = 0

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
        self._loop = asyncio.get_running_loop()
        if self._queue:
            self._wake()

    async def stop(self) -> None:
        """Send what is left, for two seconds at most."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            async with asyncio.timeout(_LAST_S):
                if self._task is not None:
                    await self._task
                await self._drain()
        except TimeoutError:
            self._lose(len(self._queue), "the instance ended")
        self._loop = None

    def offer(self, trace: Segment) -> None:
        """Take a trace; from any thread, never waits, never raises."""
        if not self._url:
            self._logger.info("trace %s", json.dumps(_line(trace, self.tags()), separators=(",", ":")))
            return
        if len(self._queue) >= QUEUE_LIMIT:
            self.dropped += 1
            return
        self._queue.append(trace)
        if not self._waking and self._loop is not None:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:  # the loop has ended, and the process with it
                self.dropped += 1

    def _wake(self) -> None:
        self._waking = True
        if self._loop is not None and self._timer is None:
            self._timer = self._loop.call_later(_DELAY_S, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._task = asyncio.ensure_future(self._drain())
        self._task.add_done_callback(self._done)

    def _done(self, _task: asyncio.Task[None]) -> None:
        self._task = None
        self._waking = False
        if self._queue:
            self._wake()

    async def _drain(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
            try:
                body = json.dumps(self._encode(batch, self), separators=(",", ":")).encode()
                async with asyncio.timeout(self._timeout_s):
                    await self._post(body)
            except (OSError, ValueError, TimeoutError, EOFError, asyncio.IncompleteReadError) as exc:
                self._lose(len(batch), f"{type(exc).__name__}: {exc}".rstrip(": "))
            except asyncio.CancelledError:
                self._lose(len(batch), "the instance ended")
                raise
            else:
                self.sent += len(batch)
                if self._trouble:
                    self._trouble = ""
                    self._logger.warning("traces are sent again; %d were lost so far", self.dropped)

    def _lose(self, count: int, why: str) -> None:
        self.dropped += count
        if count and why != self._trouble:
            self._trouble = why
            self._logger.warning(
                "%d traces were lost (%d so far): %s: %s", count, self.dropped, self._url, why
            )

    async def _post(self, body: bytes) -> None:
        from urllib.parse import urlsplit

        url = urlsplit(self._url)
        secure = url.scheme == "https"
        host, port = url.hostname or "", url.port or (443 if secure else 80)
        headers = {
            "Host": url.netloc.rpartition("@")[2],
            "Content-Type": "application/json",
            "Connection": "close",
            **self._headers,
        }
        if self._gzip:
            import zlib

            packer = zlib.compressobj(wbits=31)
            body = packer.compress(body) + packer.flush()
            headers["Content-Encoding"] = "gzip"
        headers["Content-Length"] = str(len(body))
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        reader, writer = await asyncio.open_connection(host, port, ssl=True if secure else None)
        try:
            writer.write(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
            await writer.drain()
            status = await reader.readline()
        finally:
            writer.close()
        words = status.split(None, 2)
        if len(words) < 2 or not words[1].isdigit() or not 200 <= int(words[1]) < 300:
            raise ValueError(f"the collector answered {status.decode('latin-1').strip() or 'nothing'}")


def _destination(settings: Settings) -> tuple[str, Any]:
    """Return (URL, encoder); "" where spans go to the log."""
    if settings.provider.lower() == "skywalking":
        base = settings.oap_server.rstrip("/")
        return (f"{base}/v3/segments" if base.startswith(("http://", "https://")) else ""), segments
    endpoint = settings.exporter.get("endpoint", "").strip()
    if not endpoint or "grpc" in settings.exporter.get("protocol", "").lower():
        return "", otlp
    if "://" not in endpoint:
        endpoint = f"http://{endpoint}"
    place = endpoint.partition("://")[2].partition("/")[2]
    return (endpoint if place else f"{endpoint.rstrip('/')}/v1/traces"), otlp


def _pairs(text: str) -> dict[str, str]:
    """Read `name=value,name=value`; what could break a header out of its line is left out."""
    from urllib.parse import unquote

    found = {}
    for part in text.split(","):
        name, separator, value = part.partition("=")
        value = unquote(value.strip())
        if separator and name.strip().replace("-", "").replace("_", "").isalnum() and value.isprintable():
            found[name.strip()] = value
    return found


def _timeout(text: str) -> float:
    """Read `10s`, `500ms`, or milliseconds as OpenTelemetry's variables have them."""
    text = text.strip().lower()
    for suffix, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("", 0.001)):
        number = text.removesuffix(suffix) if suffix else text
        if text.endswith(suffix) and number.replace(".", "", 1).isdigit():
            return max(0.001, float(number) * factor)
    return _TIMEOUT_S


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
