"""Calls under policies: what is repeated, when it is given up, what a breaker refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pelton.compat.dapr.resiliency import BreakerOpenError, Calls, Failure
from pelton.model.resiliency import BreakerPolicy, RetryPolicy
from pelton.plan.resiliency import NO_POLICY, Policy
from pelton.testing.clock import FakeClock

TARGET = "app/default/b"
SHAKY = BreakerPolicy(timeout_s=10.0, trip="consecutiveFailures > 1")


class Answers:
    """An app that gives these answers one after the other, the last one for ever."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self) -> int:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


def judge(status: int) -> Failure | None:
    return Failure(http=status) if status >= 400 else None


async def outcome(
    calls: Calls, clock: FakeClock, policy: Policy, attempt: Callable[[], Awaitable[int]]
) -> int | Exception:
    """Call, moving time on as long as somebody waits."""
    task = asyncio.create_task(calls.run(policy, attempt, target=TARGET, judge=judge))
    while not task.done():
        await clock.advance(1.0)
    return task.exception() or task.result()  # type: ignore[return-value]  # no BaseException is raised here


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def calls(clock: FakeClock) -> Calls:
    return Calls(clock, lambda: 0.5)


def retrying(**values: object) -> Policy:
    return Policy(retry=RetryPolicy(duration_s=1.0, **values))  # type: ignore[arg-type]  # fields of the policy


async def test_without_a_policy_there_is_one_attempt(calls: Calls, clock: FakeClock) -> None:
    app = Answers(500)
    assert await outcome(calls, clock, NO_POLICY, app) == 500
    assert app.asked == 1


async def test_a_failure_is_repeated_until_it_succeeds(calls: Calls, clock: FakeClock) -> None:
    app = Answers(500, ConnectionError("gone"), 200)
    assert await outcome(calls, clock, retrying(), app) == 200
    assert app.asked == 3


async def test_the_last_answer_is_returned_when_retries_are_used_up(calls: Calls, clock: FakeClock) -> None:
    app = Answers(500, 502, 503, 504)
    assert await outcome(calls, clock, retrying(max_retries=2), app) == 503


async def test_the_last_error_is_raised(calls: Calls, clock: FakeClock) -> None:
    found = await outcome(calls, clock, retrying(max_retries=1), Answers(ValueError("1"), ValueError("2")))
    assert str(found) == "2"


async def test_codes_that_do_not_match_are_not_repeated(calls: Calls, clock: FakeClock) -> None:
    app = Answers(404, 200)
    assert await outcome(calls, clock, retrying(http_codes="500-599"), app) == 404


async def test_what_is_final_is_not_repeated(calls: Calls) -> None:
    app = Answers(500, 200)
    found = await calls.run(
        retrying(), app, target=TARGET, judge=lambda status: Failure(http=status, final=True)
    )
    assert (found, app.asked) == (500, 1)


async def test_each_attempt_has_its_time(calls: Calls, clock: FakeClock) -> None:
    asked = 0

    async def hang() -> int:
        nonlocal asked
        asked += 1
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # never

    policy = Policy(timeout_s=0.001, retry=RetryPolicy(duration_s=1.0, max_retries=2))
    task = asyncio.create_task(calls.run(policy, hang, target=TARGET))
    while not task.done():
        await asyncio.wait([task], timeout=0.005)
        await clock.advance(1.0)
    with pytest.raises(TimeoutError):
        task.result()
    assert asked == 3


async def test_an_open_breaker_refuses_and_is_not_retried(calls: Calls, clock: FakeClock) -> None:
    app = Answers(500)
    policy = Policy(retry=RetryPolicy(duration_s=1.0), breaker=SHAKY, breaker_name="shaky")
    assert isinstance(await outcome(calls, clock, policy, app), BreakerOpenError)
    assert app.asked == 2
    assert calls.breakers() == {TARGET: "open"}


async def test_the_breaker_closes_when_the_other_side_is_back(calls: Calls, clock: FakeClock) -> None:
    policy = Policy(breaker=SHAKY)
    for _ in range(2):
        await outcome(calls, clock, policy, Answers(500))
    app = Answers(200)
    assert isinstance(await outcome(calls, clock, policy, app), BreakerOpenError)
    await clock.advance(10.0)
    assert await outcome(calls, clock, policy, app) == 200
    assert calls.breakers() == {TARGET: "closed"}


async def test_a_cancelled_trial_leaves_its_place(calls: Calls, clock: FakeClock) -> None:
    policy = Policy(breaker=SHAKY)
    for _ in range(2):
        await outcome(calls, clock, policy, Answers(500))
    await clock.advance(10.0)
    begun = asyncio.Event()

    async def hang() -> int:
        begun.set()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # never

    trial = asyncio.create_task(calls.run(policy, hang, target=TARGET))
    await begun.wait()
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert await outcome(calls, clock, policy, Answers(200)) == 200


async def test_endpoints_have_breakers_of_their_own_up_to_a_number(calls: Calls) -> None:
    policy = Policy(breaker=SHAKY, breakers=2)
    for endpoint in ("a", "b", "c"):
        await calls.run(policy, Answers(200), target=TARGET, endpoint=endpoint)
    assert list(calls.breakers()) == [f"{TARGET} b", f"{TARGET} c"]
    calls.forget(TARGET)
    assert calls.breakers() == {}
