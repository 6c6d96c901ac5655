"""What follows from a destination's answer: done, another attempt, a pause, or a dead letter.

Pure: age and randomness come in as arguments. Called by `notify/sending.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from pelton.ports import SendResult

__all__ = ["Dead", "Done", "Next", "Pause", "Retry", "RetryPolicy", "decide"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long a notification is tried.

    The defaults try for 511 s (1 + 2 + ... + 256) less jitter: a destination that restarts or is deployed
    comes back within that; what is down for longer is better seen as dead letters than as a growing queue.

    Attributes:
        max_attempts: Answers of the destination before the dead letter, >= 1. A pause it asked for is not
            counted.
        backoff_s: Seconds before the second attempt; doubles per attempt.
        max_backoff_s: Upper bound of that wait, seconds.
        jitter: Fraction of a wait that is random, 0 <= j <= 1.
        max_pause_s: Upper bound of a wait that the destination asks for, seconds.
        max_age_s: Seconds after which a destination's wish to pause turns into a dead letter.
    """

    max_attempts: int = 10
    backoff_s: float = 1.0
    max_backoff_s: float = 300.0
    jitter: float = 0.5
    max_pause_s: float = 3600.0
    max_age_s: float = 86400.0


@dataclass(frozen=True, slots=True)
class Done:
    """Accepted by the destination."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after `delay_s` seconds; this attempt counts."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """The destination asked everyone to wait `delay_s` seconds; no attempt."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Dead:
    """Give up; `reason` is one line without secrets."""

    reason: str


Next = Done | Retry | Pause | Dead
"""What to do with a notification."""


def decide(result: SendResult, *, attempt: int, age_s: float, policy: RetryPolicy, randomness: float) -> Next:
    """Decide what follows from an answer.

    Args:
        result: The destination's answer.
        attempt: Its number, 1 for the first.
        age_s: Seconds since the notification was enqueued.
        policy: Limits.
        randomness: 0 <= r < 1, fresh for each call.

    Returns:
        Done, Retry, Pause or Dead.
    """
    if result.ok:
        return Done()
    if not result.retriable:
        return Dead(result.detail or "The destination refused it.")
    if result.retry_after_s is not None:
        if age_s > policy.max_age_s:
            return Dead(f"The destination kept asking to wait for {age_s:.0f} s: {result.detail}")
        # Never under the first backoff: "Retry-After: 0" would make a busy loop that no count of attempts
        # ends.
        return Pause(min(max(result.retry_after_s, policy.backoff_s), policy.max_pause_s))
    if attempt >= policy.max_attempts:
        return Dead(f"{attempt} attempts failed, the last with: {result.detail}")
    # The exponent is bounded because 2.0 ** 1024 overflows where a user sets thousands of attempts.
    wait = min(policy.backoff_s * 2.0 ** min(attempt - 1, 60), policy.max_backoff_s)
    return Retry(wait * (1.0 - policy.jitter * randomness))
