"""Spans and the headers that carry them: W3C Trace Context, W3C Baggage, SkyWalking's `sw8`. Pure.

Used by `sdk/tracing.py` and `sdk/trace_export.py`.
Source: W3C Trace Context 1; SkyWalking's cross-process propagation headers, version 3.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = [
    "Context",
    "Segment",
    "Skywalking",
    "Span",
    "decode_sw8",
    "encode_baggage",
    "encode_correlation",
    "encode_sw8",
    "parse_traceparent",
]

_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """W3C trace context: trace id (32 hex digits), span id (16 hex digits), whether it is recorded."""

    trace_id: str
    span_id: str
    sampled: bool = True

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_traceparent(text: str) -> Context | None:
    """Return a `traceparent`'s content, None when it is none (then a trace begins anew)."""
    found = _PARENT.fullmatch(text.strip().lower())
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    if not found[2].strip("0") or not found[3].strip("0"):
        return None
    return Context(trace_id=found[2], span_id=found[3], sampled=bool(int(found[4], 16) & 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Skywalking:
    """SkyWalking's `sw8` header: who called, and where in which trace."""

    trace_id: str
    segment_id: str
    span_id: int
    service: str
    instance: str
    endpoint: str
    address: str
    sampled: bool = True


def encode_sw8(header: Skywalking) -> str:
    """Return the header's text: eight fields, text in base64, joined by `-`."""
    texts = (header.service, header.instance, header.endpoint, header.address)
    ids = (_encode(header.trace_id), _encode(header.segment_id), str(header.span_id))
    return "-".join(["1" if header.sampled else "0", *ids, *(_encode(text) for text in texts)])


def decode_sw8(text: str) -> Skywalking | None:
    """Return a header's content, None when it is none."""
    parts = text.strip().split("-")
    if len(parts) != 8 or parts[0] not in {"0", "1"} or not parts[3].isdecimal():
        return None
    try:
        trace, segment, *texts = (_decode(part) for part in (*parts[1:3], *parts[4:]))
    except ValueError:
        return None
    if not trace or not segment:
        return None
    return Skywalking(
        trace_id=trace,
        segment_id=segment,
        span_id=int(parts[3]),
        service=texts[0],
        instance=texts[1],
        endpoint=texts[2],
        address=texts[3],
        sampled=parts[0] == "1",
    )


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decode(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise ValueError(text) from exc


def encode_baggage(items: Mapping[str, str]) -> str:
    """Return W3C's `baggage` header for name -> value."""
    from urllib.parse import quote

    return ",".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in items.items())


def encode_correlation(items: Mapping[str, str]) -> str:
    """Return SkyWalking's `sw8-correlation` header for name -> value."""
    return ",".join(f"{_encode(k)}:{_encode(v)}" for k, v in items.items())


@dataclass(slots=True, kw_only=True)
class Span:
    """One piece of work.

    Attributes:
        name: Operation.
        kind: `server`, `consumer` (entries), `client` or `producer` (exits).
        span_id: 16 hex digits.
        parent_id: The same of its parent, "" for none.
        number: Position in its segment, 0 for the entry.
        start_ns, end_ns: Nanoseconds since the epoch; end 0 while it goes on.
        peer: What an exit talks to.
        tags: Name -> value.
        error: Why it failed, "" when it did not.
    """

    name: str
    kind: str
    span_id: str
    parent_id: str = ""
    number: int = 0
    start_ns: int = 0
    end_ns: int = 0
    peer: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(slots=True, kw_only=True)
class Segment:
    """What one invocation left behind.

    Attributes:
        trace_id: 32 hex digits.
        sky_trace_id, segment_id: SkyWalking's names for the trace and for this part of it.
        caller: SkyWalking's reference to who called, or None.
        spans: The entry, then one per output.
    """

    trace_id: str
    sky_trace_id: str = ""
    segment_id: str = ""
    caller: Skywalking | None = None
    spans: list[Span] = field(default_factory=list)
