"""Resiliency of dapr.io/v1alpha1: how often, how long and when no longer a call is tried.

`manifest/dapr_resiliency` makes these, `plan/resiliency` finds what holds for a call. Pure.
Source: contracts, Dapr components, section 1, and Dapr runtime, section 8.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "BREAKER_COUNTS",
    "BreakerPolicy",
    "ComponentTarget",
    "Resiliency",
    "ResiliencyTarget",
    "RetryPolicy",
    "code_ranges",
]

BREAKER_COUNTS = (
    "requests",
    "totalSuccesses",
    "totalFailures",
    "consecutiveSuccesses",
    "consecutiveFailures",
)
"""Variables of a circuit breaker's condition, whole numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How a failed call is repeated.

    Attributes:
        policy: `constant` or `exponential`.
        duration_s: Seconds between attempts of `constant`, and first interval of `exponential`; None = 5 s
            for `constant`, 0.5 s for `exponential`.
        max_interval_s: Longest interval of `exponential`, seconds.
        max_retries: Further attempts after the first; -1 = no limit.
        http_codes: Codes and ranges such as `429,500-599` that are repeated; "" = all failures.
        grpc_codes: The same for gRPC.
    """

    policy: str = "constant"
    duration_s: float | None = None
    max_interval_s: float = 60.0
    max_retries: int = -1
    http_codes: str = ""
    grpc_codes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When calls are refused without being tried.

    Attributes:
        max_requests: Calls that may try whether the other side is back.
        interval_s: Seconds after which counts are cleared while calls pass; 0 = never.
        timeout_s: Seconds for which calls are refused.
        trip: CEL condition over the counts.
    """

    max_requests: int = 1
    interval_s: float = 0.0
    timeout_s: float = 60.0
    trip: str = "consecutiveFailures > 5"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResiliencyTarget:
    """Names of the policies of one target; "" where there is none.

    Attributes:
        timeout, retry, breaker: Names in the policies.
        cache_size: Most circuit breakers kept for it; None for the default (100 for an app, 5000 for a type
            of actor).
        scope: What shares a circuit breaker: `id`, `type` or `both`; of actors only.
    """

    timeout: str = ""
    retry: str = ""
    breaker: str = ""
    cache_size: int | None = None
    scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentTarget:
    """Policies of a component, for what comes in from it and what goes out to it."""

    inbound: ResiliencyTarget | None = None
    outbound: ResiliencyTarget | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resiliency:
    """A Resiliency object.

    Attributes:
        name, namespace, labels, annotations: The resource's.
        timeouts: Name -> seconds.
        retries, breakers: Name -> policy.
        apps: App id -> target.
        actors: Type of actor -> target.
        components: Name of the component -> targets.
        scopes: App ids that it holds for; empty = all.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    timeouts: dict[str, float] = field(default_factory=dict)
    retries: dict[str, RetryPolicy] = field(default_factory=dict)
    breakers: dict[str, BreakerPolicy] = field(default_factory=dict)
    apps: dict[str, ResiliencyTarget] = field(default_factory=dict)
    actors: dict[str, ResiliencyTarget] = field(default_factory=dict)
    components: dict[str, ComponentTarget] = field(default_factory=dict)
    scopes: tuple[str, ...] = ()


def code_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """Read `429,500-599`.

    Returns:
        First and last code of each range, inclusive; () for empty text.

    Raises:
        ValueError: With what is wrong.
    """
    found = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        low, dash, high = (piece.strip() for piece in part.partition("-"))
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise ValueError(f'"{part}" is neither a code nor a range such as 500-599')
        first, last = int(low), int(high or low)
        if last < first:
            raise ValueError(f"the range {part} ends before it begins")
        found.append((first, last))
    return tuple(found)
