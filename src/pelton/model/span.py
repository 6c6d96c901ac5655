"""Spans as the platform's processes exchange them: one piece of work of one trace.

Made by `dataplane/traces.py` (workers), `dataplane/activator.py` and `dataplane/dispatcher.py`, kept by
`dataplane/span_store.py`, which exports them and answers `pelton trace`. Source: W3C Trace Context 1,
OpenTelemetry's trace data model.
"""

from __future__ import annotations

import msgspec

__all__ = ["SpanRecord"]


class SpanRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A finished piece of work.

    Attributes:
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        parent_id: The span that caused it, "" for none.
        name: What was done, e.g. `invoke default/hello`.
        kind: `server`, `client`, `producer`, `consumer` or `internal`.
        service: Who did it: `activator`, `runtime`, or a function's `namespace/name`.
        start_ns, end_ns: Nanoseconds since the epoch.
        tags: Name -> value; numbers as text.
        error: Why it failed, "" when it did not.
    """

    trace_id: str
    span_id: str
    parent_id: str = ""
    name: str
    kind: str
    service: str
    start_ns: int
    end_ns: int
    tags: dict[str, str] = {}
    error: str = ""
