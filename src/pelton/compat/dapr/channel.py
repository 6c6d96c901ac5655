"""What the runtime says to an app and what the app answers, whatever the protocol between them.

`channel_http.py` and `channel_grpc.py` implement `AppChannel`; `delivery.py` uses it. How
answers are judged is decided here, so that both protocols are judged alike. No I/O.
Source: contracts, Dapr runtime, sections 3 (answers), 5 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pelton.compat.dapr.subscriptions import TopicSubscription
from pelton.model.invocation import Invocation, Reply

__all__ = [
    "ABSENT",
    "DROP",
    "RETRY",
    "SUCCESS",
    "TRACE",
    "UNREACHED",
    "Answer",
    "AppChannel",
    "AppUnreachableError",
    "BindingAnswer",
    "BindingEvent",
    "TopicEvent",
    "judge_status",
    "trace_of",
]

SUCCESS: Final = "success"
RETRY: Final = "retry"
DROP: Final = "drop"
"""The app does not want it."""
ABSENT: Final = "absent"
"""The app has no such route."""
UNREACHED: Final = "unreached"
"""Nothing of the app was reached, so that it made no attempt."""
TRACE: Final = ("traceparent", "tracestate", "baggage")
"""Headers of a trace context. Source: W3C Trace Context 1, W3C Baggage."""


class AppUnreachableError(Exception):
    """No connection to the app could be made, or it broke before an answer came.

    Attributes:
        untouched: Whether the app cannot have seen the call, so that another try is harmless.
    """

    def __init__(self, text: str, *, untouched: bool = False) -> None:
        super().__init__(text)
        self.untouched = untouched


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicEvent:
    """An event for a route of an app.

    Attributes:
        pubsub, topic: Where it comes from.
        path: The route, "" for an app that gave none.
        envelope: The CloudEvent in the JSON format.
        attributes: Its attributes, extensions among them.
        data: Its payload, decoded.
        metadata: What the broker says about the message; may be empty.
        entry_id: Its id within a bulk.
    """

    pubsub: str
    topic: str
    path: str
    envelope: bytes
    attributes: Mapping[str, Any]
    data: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)
    entry_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of an event.

    Attributes:
        status: SUCCESS, RETRY, DROP, ABSENT or UNREACHED.
        reason: One line for logs and dead letters; for SUCCESS it says why that is surprising, else "".
        code: HTTP status or name of the gRPC code, for retries that look at it; "" for none.
    """

    status: str
    reason: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingEvent:
    """Something that an input binding brought: its name, the app's route for it, payload and metadata."""

    name: str
    route: str
    data: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingAnswer:
    """What the app did with it.

    Attributes:
        answer: As for a topic's event.
        data: What it returns.
        to: Output bindings that get `data`.
        parallel: Whether they get it side by side.
    """

    answer: Answer
    data: bytes = b""
    to: tuple[str, ...] = ()
    parallel: bool = False


class AppChannel(Protocol):
    """The way to one app. Calls may run side by side; cancelling one tells the app that nobody waits."""

    async def subscriptions(self) -> tuple[list[TopicSubscription], list[str]]:
        """Ask which topics it wants; returns them and a sentence about each that cannot be used.

        Raises:
            AppUnreachableError: It could not be asked.
            ProtocolError: It answered something that cannot be understood.
        """
        ...

    async def deliver(self, event: TopicEvent, *, timeout_s: float) -> Answer:
        """Hand over one event; never raises for what the app does. `timeout_s` 0 means no limit."""
        ...

    async def deliver_bulk(self, events: Sequence[TopicEvent], *, timeout_s: float) -> list[Answer]:
        """Hand over events of one topic and path in one call; returns an answer for each, in their order."""
        ...

    async def takes_binding(self, name: str, route: str) -> bool:
        """Ask whether it wants events of an input binding.

        Raises:
            AppUnreachableError: It could not be asked.
        """
        ...

    async def trigger(self, event: BindingEvent, *, timeout_s: float) -> BindingAnswer:
        """Hand over what a binding brought; never raises for what the app does."""
        ...

    async def invoke(self, invocation: Invocation) -> Reply:
        """Call a method of it: the target is its path with the query, the body may stream both ways.

        Raises:
            AppUnreachableError: It was not reached, or gave no answer.
        """
        ...

    async def is_healthy(self, path: str, *, timeout_s: float) -> bool:
        """Probe it once, at `path` where it speaks HTTP."""
        ...

    async def close(self) -> None:
        """Release the connections; safe to repeat."""
        ...


def trace_of(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return the trace context of an event by header; what its publisher wrote there instead is left out."""
    texts = {name: str(attributes.get(name) or "") for name in TRACE}
    return {name: text for name, text in texts.items() if text and text.isascii() and text.isprintable()}


def judge_status(text: object) -> str:
    """Return what the `status` of an answer means; what nobody knows is RETRY."""
    if text in (None, "", "SUCCESS"):
        return SUCCESS
    return DROP if text == "DROP" else RETRY
