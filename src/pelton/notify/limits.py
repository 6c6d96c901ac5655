"""How hard destinations may be driven: the providers' limits, and when the next message may go.

Pure but for its memory of past sends; `notify/settings.py` chooses a Limit per receiver, `notify/sending.py`
asks a Turnstile before each message. Source: contracts, log and notification, sections 4.2 and 8.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["DEFAULT_LIMITS", "Limit", "Rate", "Turnstile"]


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `messages` within any `seconds`."""

    messages: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How hard a destination may be driven.

    Attributes:
        rates: All of them hold; none = any number.
        concurrency: Sends at once, >= 1.
        digest_after_s: How long a notification may wait for its turn before all that wait become one digest;
            None = they wait however long it takes, each its own message.
    """

    rates: tuple[Rate, ...] = ()
    concurrency: int = 8
    digest_after_s: float | None = None


DEFAULT_LIMITS: Mapping[str, Limit] = {
    "slack": Limit(rates=(Rate(1, 1.0),), concurrency=1, digest_after_s=10.0),
    "email": Limit(concurrency=2),
    "dingtalk chatbot": Limit(rates=(Rate(20, 60.0),), concurrency=1, digest_after_s=10.0),
    "dingtalk": Limit(rates=(Rate(25, 1.0),), concurrency=1, digest_after_s=10.0),
    "wechat chatbot": Limit(rates=(Rate(20, 60.0),), concurrency=1, digest_after_s=10.0),
    "wechat": Limit(concurrency=1, digest_after_s=10.0),
    "feishu chatbot": Limit(rates=(Rate(100, 60.0), Rate(5, 1.0)), concurrency=1, digest_after_s=10.0),
    "feishu": Limit(concurrency=1, digest_after_s=10.0),
    "console": Limit(concurrency=1),
}
"""Block, or block and `chatbot` where it has one -> limit. Others have `Limit()`. Machines read what webhooks
get, so it is never merged."""


class Turnstile:
    """Counts what went through within each rate's window.

    Args:
        rates: All of them hold.
    """

    def __init__(self, rates: tuple[Rate, ...]) -> None:
        self.rates = rates
        self._passed: tuple[deque[float], ...] = tuple(deque() for _ in rates)

    def wait_s(self, now: float) -> float:
        """Return seconds until one more may pass; 0 = it may now."""
        return max(
            (
                passed[0] + rate.seconds - now
                for rate, passed in zip(self.rates, self._passed, strict=True)
                if len(passed) >= rate.messages and passed[0] + rate.seconds > now
            ),
            default=0.0,
        )

    def give_back(self) -> None:
        """Forget the one that passed last: it was not sent."""
        for passed in self._passed:
            if passed:
                passed.pop()

    def passed(self, now: float) -> None:
        """Note that one passed."""
        for rate, passed in zip(self.rates, self._passed, strict=True):
            passed.append(now)
            if len(passed) > rate.messages:
                passed.popleft()
