"""Requests that wake what is behind a Service, as planned.

What `plan/interception` decides from InterceptorRoutes and HTTPScaledObjects, and `dataplane/interceptor`
carries out. Plain data, sent between processes as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Answer", "Fixed", "Intercept", "InterceptRule", "InterceptTarget"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InterceptRule:
    """A condition on requests.

    Attributes:
        host: Exact, `*.x.y`, or `*`.
        prefix: Path prefix on whole segments.
        headers: (name in lower case, value; None for any value), all of which have to match.
    """

    host: str = "*"
    prefix: str = "/"
    headers: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InterceptTarget:
    """Where requests go: a function of this machine, or the ready endpoints of another Service.

    Attributes:
        service: `namespace/name` of the Service.
        function: `namespace/name` of the function behind it; "" for another Service.
        endpoints: (address, port) of the ready ones of another Service; empty while there are none.
        problem: Why it cannot be reached at all; "".
    """

    service: str
    function: str = ""
    endpoints: tuple[tuple[str, int], ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer that needs no instance.

    Attributes:
        status: 100 to 599.
        body: Text.
        files: Entries of a ConfigMap, name -> text; None where `body` counts.
        key: Entry to take; "" = by the request's path.
        missing: The ConfigMap or its entry is not there: answered 500.
        headers: (name, value).
    """

    status: int
    body: str = ""
    files: dict[str, str] | None = None
    key: str = ""
    missing: bool = False
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """Requests with an answer of their own, `always` or only while the target has no ready instance."""

    rules: tuple[InterceptRule, ...]
    answer: Answer
    always: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Intercept:
    """One InterceptorRoute or HTTPScaledObject.

    Attributes:
        namespace, name: Its own; together the key of its counts.
        created: Creation, RFC 3339; of two rules alike the older one counts.
        rules: Never empty.
        target: Where requests go.
        fallback: Where they go when no instance came in time; None for nowhere.
        placeholder: Answer while there is no instance; None to wait.
        fixed: Answers without the target, in order.
        readiness_s: Wait for an instance, 0 for no limit; None for the platform's.
        request_s: Whole request, 0 or None for no limit.
        response_header_s: Until the answer's head, 0 for none; None for the platform's.
        max_pending: Requests that may wait; None for any number.
        overflow_placeholder: Whether the others get the placeholder instead of 503.
    """

    namespace: str
    name: str
    created: str = ""
    rules: tuple[InterceptRule, ...] = (InterceptRule(),)
    target: InterceptTarget
    fallback: InterceptTarget | None = None
    placeholder: Answer | None = None
    fixed: tuple[Fixed, ...] = field(default=())
    readiness_s: float | None = None
    request_s: float | None = None
    response_header_s: float | None = None
    max_pending: int | None = None
    overflow_placeholder: bool = False

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"
