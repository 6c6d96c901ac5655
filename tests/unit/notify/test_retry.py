"""What follows from an answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pelton.notify.retry import Dead, Done, Pause, Retry, RetryPolicy, decide
from pelton.ports import SendResult

POLICY = RetryPolicy(max_attempts=3, backoff_s=1.0, max_backoff_s=10.0, max_pause_s=60.0, max_age_s=100.0)


def after(result: SendResult, *, attempt: int = 1, age_s: float = 0.0, randomness: float = 0.0):
    return decide(result, attempt=attempt, age_s=age_s, policy=POLICY, randomness=randomness)


def test_decide_accepted_is_done():
    assert after(SendResult(ok=True)) == Done()


def test_decide_refused_for_good_is_dead_at_once_with_the_reason():
    assert after(SendResult(ok=False, retriable=False, detail="HTTP 404")) == Dead("HTTP 404")


def test_decide_failure_backs_off_and_doubles():
    failed = SendResult(ok=False)

    assert after(failed, attempt=1) == Retry(1.0)
    assert after(failed, attempt=2) == Retry(2.0)


def test_decide_last_attempt_is_dead_with_number_and_reason():
    step = after(SendResult(ok=False, detail="HTTP 500"), attempt=3)

    assert step == Dead("3 attempts failed, the last with: HTTP 500")


def test_decide_pause_is_as_long_as_asked_and_does_not_end_by_attempts():
    assert after(SendResult(ok=False, retry_after_s=7.0), attempt=99) == Pause(7.0)


def test_decide_pause_is_bounded_on_both_sides():
    assert after(SendResult(ok=False, retry_after_s=1e9)) == Pause(60.0)
    assert after(SendResult(ok=False, retry_after_s=0.0)) == Pause(1.0)


def test_decide_pause_ends_with_age():
    step = after(SendResult(ok=False, retry_after_s=7.0, detail="HTTP 429"), age_s=101.0)

    assert isinstance(step, Dead)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0, 1), st.integers(1, 10_000))
def test_decide_backoff_stays_within_bounds_for_any_attempt(attempt, randomness, jitter, max_attempts):
    policy = RetryPolicy(max_attempts=max_attempts, backoff_s=0.5, max_backoff_s=30.0, jitter=jitter)

    step = decide(SendResult(ok=False), attempt=attempt, age_s=0, policy=policy, randomness=randomness)

    if attempt >= max_attempts:
        assert isinstance(step, Dead)
    else:
        assert isinstance(step, Retry)
        full = min(0.5 * 2.0 ** min(attempt - 1, 60), 30.0)
        assert full * (1 - jitter) <= step.delay_s <= full
