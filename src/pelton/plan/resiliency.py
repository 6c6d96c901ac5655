"""What holds for a call under Resiliency: its policies, its next interval, whether a breaker lets it pass.

Pure: moments and random numbers come in as arguments. `compat/dapr/resiliency` carries calls out by these.
Does not know what a call is. Source: contracts, Dapr runtime, section 8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pelton.errors import CelCostError, CelEvaluateError
from pelton.model.resiliency import (
    BREAKER_COUNTS,
    BreakerPolicy,
    Resiliency,
    ResiliencyTarget,
    RetryPolicy,
    code_ranges,
)

if TYPE_CHECKING:
    from pelton.cel import Program

__all__ = [
    "NO_POLICY",
    "SERVICE_RETRIES",
    "Backoff",
    "Breaker",
    "Policies",
    "Policy",
    "Ticket",
    "Waits",
    "repeats",
    "waits",
]

SERVICE_RETRIES: Final = "DaprBuiltInServiceRetries"
"""Policy for calls between apps whose transport fails."""
_BUILT_IN: Final = {
    SERVICE_RETRIES: RetryPolicy(duration_s=1.0, max_retries=3),
    "DaprBuiltInInitializationRetries": RetryPolicy(
        policy="exponential", duration_s=0.5, max_interval_s=1.0, max_retries=3
    ),
}
_FEWEST_BUILT_IN: Final = 3
_FIRST_INTERVAL_S: Final = {"constant": 5.0, "exponential": 0.5}
_GROWTH: Final = 1.5
_SPREAD: Final = 0.5
_LONGEST_S: Final = 15 * 60.0
_SHORTEST_S: Final = 0.01
_ENDLESS: Final = 1_000_000_000
_APP_BREAKERS: Final = 100
_REFUSING_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What holds for the calls to one target.

    Attributes:
        timeout_s: Longest time of one attempt, seconds; None = no limit.
        retry: How a failed attempt is repeated; None = not at all.
        breaker: When attempts are refused; None = never.
        breaker_name: Its name among the policies.
        breakers: Most breakers kept for the target.
    """

    timeout_s: float | None = None
    retry: RetryPolicy | None = None
    breaker: BreakerPolicy | None = None
    breaker_name: str = ""
    breakers: int = _APP_BREAKERS


NO_POLICY: Final = Policy()
"""One attempt without limit."""


class Policies:
    """The policies of all Resiliency objects that hold for an app.

    Args:
        resources: Objects of the app's namespace; where two say something of one name, the later one counts.
        app_id: The app whose calls these are.
    """

    def __init__(self, resources: Iterable[Resiliency], app_id: str) -> None:
        self._timeouts: dict[str, float] = {}
        self._retries: dict[str, RetryPolicy] = {}
        self._breakers: dict[str, BreakerPolicy] = {}
        self._apps: dict[str, ResiliencyTarget] = {}
        self._components: dict[tuple[str, str], ResiliencyTarget] = {}
        for resource in resources:
            if resource.scopes and app_id not in resource.scopes:
                continue
            self._timeouts |= resource.timeouts
            self._retries |= resource.retries
            self._breakers |= resource.breakers
            self._apps |= resource.apps
            for name, component in resource.components.items():
                for direction in ("inbound", "outbound"):
                    target = getattr(component, direction)
                    if target is not None:
                        self._components[name, direction] = target

    def app(self, app_id: str) -> Policy:
        """Return what holds for calls to an app."""
        return self._of(self._apps.get(app_id), ("App",))

    def component(self, name: str, kind: str, direction: str) -> Policy:
        """Return what holds for a component.

        Args:
            name: The component's.
            kind: `Statestore`, `Pubsub`, `Binding`, `Secretstore`, `Configuration`, `Lock`, ...
            direction: `inbound` or `outbound`.
        """
        side = direction.capitalize()
        types = (f"{kind}Component{side}", f"Component{side}", "Component")
        return self._of(self._components.get((name, direction)), types)

    def built_in(self, name: str) -> RetryPolicy:
        """Return one of Dapr's own retry policies; an object may define it anew, with 3 retries or more."""
        own = self._retries.get(name)
        if own is None:
            return _BUILT_IN[name]
        if 0 <= own.max_retries < _FEWEST_BUILT_IN:
            return replace(own, max_retries=_FEWEST_BUILT_IN)
        return own

    def _of(self, target: ResiliencyTarget | None, types: tuple[str, ...]) -> Policy:
        if target is None:
            target = ResiliencyTarget(
                timeout=_first(self._timeouts, types, "TimeoutPolicy"),
                retry=_first(self._retries, types, "RetryPolicy"),
                breaker=_first(self._breakers, types, "CircuitBreakerPolicy"),
            )
        return Policy(
            timeout_s=self._timeouts.get(target.timeout) or None,
            retry=self._retries.get(target.retry),
            breaker=self._breakers.get(target.breaker),
            breaker_name=target.breaker,
            breakers=target.cache_size or _APP_BREAKERS,
        )


def _first(known: Iterable[str], types: tuple[str, ...], ending: str) -> str:
    """Return the most specific default policy that is defined, or ""."""
    names = (f"Default{each}{ending}" for each in types)
    return next((name for name in names if name in known), "")


def repeats(retry: RetryPolicy, *, http: int | None = None, grpc: int | None = None) -> bool:
    """Tell whether a policy repeats a failure.

    Args:
        retry: The policy.
        http: Status of the failed answer; None where the failure is none of HTTP.
        grpc: The same for gRPC.

    Returns:
        True where the policy says nothing about codes of that protocol.
    """
    for text, code in ((retry.http_codes, http), (retry.grpc_codes, grpc)):
        if text and code is not None:
            return any(low <= code <= high for low, high in code_ranges(text))
    return True


class Backoff:
    """The intervals between the attempts of one call.

    Args:
        retry: The policy.
    """

    def __init__(self, retry: RetryPolicy) -> None:
        self._retry = retry
        self._left = retry.max_retries
        first = retry.duration_s
        self._interval_s = _FIRST_INTERVAL_S[retry.policy] if first is None else first

    def next(self, elapsed_s: float, draw: float) -> float | None:
        """Return seconds to wait before the next attempt, or None when there is to be none.

        Args:
            elapsed_s: Since the first attempt began, seconds; `exponential` gives up after 15 minutes.
            draw: Random number in [0, 1), which spreads the intervals of `exponential` by half.
        """
        if self._left == 0:
            return None
        self._left -= 1
        if self._retry.policy == "constant":
            return self._interval_s
        wait_s = self._interval_s * (1 - _SPREAD + 2 * _SPREAD * draw)
        self._interval_s = min(self._interval_s * _GROWTH, self._retry.max_interval_s)
        return wait_s if elapsed_s + wait_s <= _LONGEST_S else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """A retry policy for who keeps no more of an event than how often it failed.

    Attributes:
        attempts: Most of them, the first one included.
        first_s: Wait before the second one, seconds.
        longest_s: Bound of all waits, seconds.
        growth: What each further wait is multiplied by.
        spread: Share by which a wait is shorter or longer at random.
    """

    attempts: int
    first_s: float
    longest_s: float
    growth: float = 1.0
    spread: float = 0.0


def waits(retry: RetryPolicy) -> Waits:
    """Return a policy as numbers; the 15 minutes of `exponential` are those attempts whose waits fit in.

    Example: 0.5 s first, 60 s at most: 0.5, 0.75, 1.125, ... 43.2, 60, 60, ...; 25 attempts.
    """
    attempts = _ENDLESS if retry.max_retries < 0 else retry.max_retries + 1
    first_s = _FIRST_INTERVAL_S[retry.policy] if retry.duration_s is None else retry.duration_s
    if retry.policy == "constant":
        return Waits(attempts=attempts, first_s=first_s, longest_s=first_s)
    longest_s = max(first_s, retry.max_interval_s)
    fitting, wait_s, elapsed_s = 1, first_s, first_s
    while fitting < attempts and elapsed_s <= _LONGEST_S:
        fitting += 1
        # A wait of nothing counts as a hundredth of a second, so that there is an end.
        wait_s = min(max(wait_s * _GROWTH, _SHORTEST_S), max(longest_s, _SHORTEST_S))
        elapsed_s += wait_s
    return Waits(attempts=fitting, first_s=first_s, longest_s=longest_s, growth=_GROWTH, spread=_SPREAD)


@dataclass(frozen=True, slots=True)
class Ticket:
    """Leave to make one attempt; its outcome counts only in the period that gave it."""

    period: int


class Breaker:
    """A circuit breaker: lets attempts pass (`closed`), refuses them (`open`), or lets few try (`half-open`).

    Args:
        policy: What it goes by.
        now: Moment, seconds of a monotonic clock.
    """

    def __init__(self, policy: BreakerPolicy, now: float) -> None:
        self._policy = policy
        self._trip = _condition(policy.trip)
        self._trials = max(policy.max_requests, 1)
        self._state = "closed"
        self._period = 0
        self._ends: float | None = None
        self._begin("closed", now)

    def state(self, now: float) -> str:
        """Return `closed`, `open` or `half-open`."""
        if self._ends is not None and now >= self._ends:
            self._begin("half-open" if self._state == "open" else self._state, now)
        return self._state

    def admit(self, now: float) -> Ticket | None:
        """Return leave for an attempt, or None where it is refused."""
        state = self.state(now)
        if state == "open" or (state == "half-open" and self._counts["requests"] >= self._trials):
            return None
        self._counts["requests"] += 1
        return Ticket(self._period)

    def report(self, ticket: Ticket, *, ok: bool | None, now: float) -> None:
        """Count an outcome, None for an attempt that was given up; those of earlier periods do not count."""
        state = self.state(now)
        if ticket.period != self._period:
            return
        if ok is None:
            self._counts["requests"] -= 1
            return
        good, bad = ("Successes", "Failures") if ok else ("Failures", "Successes")
        self._counts[f"total{good}"] += 1
        self._counts[f"consecutive{good}"] += 1
        self._counts[f"consecutive{bad}"] = 0
        if state == "half-open":
            if not ok:
                self._begin("open", now)
            elif self._counts["consecutiveSuccesses"] >= self._trials:
                self._begin("closed", now)
        elif not ok and _holds(self._trip, self._counts):
            self._begin("open", now)

    def _begin(self, state: str, now: float) -> None:
        self._state = state
        self._period += 1
        self._counts = dict.fromkeys(BREAKER_COUNTS, 0)
        lasts_s = {
            "closed": self._policy.interval_s,
            "open": self._policy.timeout_s or _REFUSING_S,
            "half-open": 0.0,
        }[state]
        self._ends = now + lasts_s if lasts_s > 0 else None


def _condition(expression: str) -> Program:
    from pelton.cel import BOOL, INT, compile_cel  # imported for the few breakers that have a condition

    return compile_cel(expression, dict.fromkeys(BREAKER_COUNTS, INT), result=BOOL)


def _holds(trip: Program, counts: dict[str, int]) -> bool:
    """Evaluate a condition; one that fails, such as by dividing by zero, does not trip."""
    try:
        return trip.evaluate(counts) is True
    except (CelEvaluateError, CelCostError):
        return False
