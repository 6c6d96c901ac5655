"""Carries calls out under Resiliency: the timeout of each attempt, the retries, the circuit breakers.

Whoever calls an app or a component asks `plan/resiliency` what holds for it and hands over how to make one
attempt. A breaker stands around each attempt, the timeout inside it, the retries around both; a refusal of a
breaker is not repeated. Knows no protocol: callers say what a failure is.
Source: contracts, Dapr runtime, section 8.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pelton import log
from pelton.clock import Clock
from pelton.errors import DeliveryError
from pelton.model.resiliency import BreakerPolicy, RetryPolicy
from pelton.plan.resiliency import Backoff, Breaker, Policy, repeats

__all__ = ["BreakerOpenError", "Calls", "Failure"]

T = TypeVar("T")
_log = log.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt counts as failed.

    Attributes:
        http: Status of an HTTP answer, or None.
        grpc: Number of a gRPC status, or None.
        final: Whether no policy may repeat it, such as a body that is used up.
    """

    http: int | None = None
    grpc: int | None = None
    final: bool = False


class BreakerOpenError(DeliveryError):
    """A circuit breaker refuses the call without trying it."""


@dataclass(slots=True, eq=False)
class _Kept:
    """A breaker and the policy that it was made from."""

    policy: BreakerPolicy
    breaker: Breaker
    said: str = "closed"


class Calls:
    """Makes calls under policies, and keeps the breakers of all targets.

    Args:
        clock: Times and waits.
        draw: Returns random numbers in [0, 1).
    """

    def __init__(self, clock: Clock, draw: Callable[[], float]) -> None:
        self._clock = clock
        self._draw = draw
        self._breakers: dict[str, OrderedDict[str, _Kept]] = {}

    async def run(
        self,
        policy: Policy,
        attempt: Callable[[], Awaitable[T]],
        *,
        target: str,
        endpoint: str = "",
        judge: Callable[[T], Failure | None] = lambda _result: None,
        failed: Callable[[Exception], Failure | None] = lambda _error: Failure(),
    ) -> T:
        """Call, and call again as long as the policy says so.

        Args:
            policy: What holds for the target.
            attempt: Makes one attempt; cancelled when it takes longer than the policy allows.
            target: Who is called, such as `app/default/b`; breakers of a target are kept together.
            endpoint: What of the target has a breaker of its own, such as its address.
            judge: Tells whether an answer is a failure; the last answer is returned nevertheless.
            failed: Tells whether an error is a failure, None where it says nothing about the target.

        Raises:
            BreakerOpenError: The target's breaker is open.
            TimeoutError: The last attempt took longer than the policy allows.
            Exception: What the last attempt raised.
        """
        kept = self._kept(policy, target, endpoint)
        if policy.retry is None:
            return (await self._once(policy, attempt, kept, target, judge, failed))[0]
        backoff, began = Backoff(policy.retry), self._clock.monotonic()
        while True:
            try:
                result, failure = await self._once(policy, attempt, kept, target, judge, failed)
                wait_s = self._wait_s(policy.retry, failure, backoff, began)
                if wait_s is None:
                    return result
            except BreakerOpenError:
                raise
            except Exception as error:
                failure = Failure() if isinstance(error, TimeoutError) else failed(error)
                wait_s = self._wait_s(policy.retry, failure, backoff, began)
                if wait_s is None:
                    raise
            await self._clock.sleep(wait_s)

    def _wait_s(
        self, retry: RetryPolicy, failure: Failure | None, backoff: Backoff, began: float
    ) -> float | None:
        """Return seconds until the next attempt, None where there is to be none."""
        if failure is None or failure.final or not repeats(retry, http=failure.http, grpc=failure.grpc):
            return None
        return backoff.next(self._clock.monotonic() - began, self._draw())

    def breakers(self) -> Mapping[str, str]:
        """Return the state of each breaker by `<target> <endpoint>`: `closed`, `open` or `half-open`."""
        now = self._clock.monotonic()
        return {
            f"{target} {endpoint}".strip(): kept.breaker.state(now)
            for target, endpoints in self._breakers.items()
            for endpoint, kept in endpoints.items()
        }

    def forget(self, target: str) -> None:
        """Drop the breakers of a target that is gone; safe to repeat."""
        self._breakers.pop(target, None)

    async def _once(
        self,
        policy: Policy,
        attempt: Callable[[], Awaitable[T]],
        kept: _Kept | None,
        target: str,
        judge: Callable[[T], Failure | None],
        failed: Callable[[Exception], Failure | None],
    ) -> tuple[T, Failure | None]:
        """Make one attempt and tell its breaker; returns the answer and why it counts as failed."""
        ticket = None
        if kept is not None:
            ticket = kept.breaker.admit(self._clock.monotonic())
            self._say(kept, target)
            if ticket is None:
                raise BreakerOpenError(
                    f"circuit breaker is {kept.said}", where=target, hint="It is tried again by itself."
                )
        ok: bool | None = None  # an attempt that is cancelled says nothing about the target
        try:
            async with asyncio.timeout(policy.timeout_s):
                result = await attempt()
            failure = judge(result)
            ok = failure is None
            return result, failure
        except TimeoutError:
            ok = False
            raise
        except Exception as error:
            ok = failed(error) is None
            raise
        finally:
            if kept is not None and ticket is not None:
                kept.breaker.report(ticket, ok=ok, now=self._clock.monotonic())
                self._say(kept, target)

    def _kept(self, policy: Policy, target: str, endpoint: str) -> _Kept | None:
        if policy.breaker is None:
            return None
        endpoints = self._breakers.setdefault(target, OrderedDict())
        kept = endpoints.get(endpoint)
        if kept is None or kept.policy != policy.breaker:
            kept = endpoints[endpoint] = _Kept(
                policy.breaker, Breaker(policy.breaker, self._clock.monotonic())
            )
        endpoints.move_to_end(endpoint)
        while len(endpoints) > policy.breakers:
            endpoints.popitem(last=False)
        return kept

    def _say(self, kept: _Kept, target: str) -> None:
        """Log a breaker's change of state once."""
        state = kept.breaker.state(self._clock.monotonic())
        if state != kept.said:
            kept.said = state
            (_log.warning if state == "open" else _log.info)("circuit breaker of %s is %s", target, state)
