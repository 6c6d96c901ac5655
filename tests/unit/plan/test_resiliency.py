"""Policies of a call, intervals between attempts, circuit breakers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.model.resiliency import (
    BreakerPolicy,
    ComponentTarget,
    Resiliency,
    ResiliencyTarget,
    RetryPolicy,
)
from pelton.plan.resiliency import (
    NO_POLICY,
    SERVICE_RETRIES,
    Backoff,
    Breaker,
    Policies,
    Waits,
    repeats,
    waits,
)

THRICE = RetryPolicy(max_retries=3)
FAST = RetryPolicy(duration_s=0.1)


def policies(*, app_id: str = "caller", scopes: tuple[str, ...] = (), **values: object) -> Policies:
    return Policies([Resiliency(name="r", scopes=scopes, **values)], app_id)  # type: ignore[arg-type]  # parts of the spec


class TestPolicies:
    def test_a_named_target_has_its_policies_only(self) -> None:
        found = policies(
            timeouts={"short": 2.0, "DefaultAppTimeoutPolicy": 9.0},
            retries={"thrice": THRICE, "DefaultAppRetryPolicy": FAST},
            apps={"callee": ResiliencyTarget(retry="thrice")},
        ).app("callee")
        assert (found.timeout_s, found.retry, found.breaker) == (None, THRICE, None)

    def test_other_targets_have_the_most_specific_default(self) -> None:
        found = policies(
            retries={
                "DefaultComponentRetryPolicy": THRICE,
                "DefaultStatestoreComponentOutboundRetryPolicy": FAST,
            },
            timeouts={"DefaultComponentOutboundTimeoutPolicy": 4.0, "DefaultComponentTimeoutPolicy": 5.0},
        )
        outbound = found.component("store", "Statestore", "outbound")
        inbound = found.component("pubsub", "Pubsub", "inbound")
        assert (outbound.retry, outbound.timeout_s) == (FAST, 4.0)
        assert (inbound.retry, inbound.timeout_s) == (THRICE, 5.0)

    def test_directions_of_a_component_are_apart(self) -> None:
        found = policies(
            timeouts={"in": 1.0, "out": 2.0},
            components={
                "c": ComponentTarget(
                    inbound=ResiliencyTarget(timeout="in"), outbound=ResiliencyTarget(timeout="out")
                )
            },
        )
        assert found.component("c", "Pubsub", "inbound").timeout_s == 1.0
        assert found.component("c", "Pubsub", "outbound").timeout_s == 2.0

    def test_without_policies_there_is_one_attempt(self) -> None:
        assert policies().app("callee") == NO_POLICY

    def test_an_object_holds_within_its_scopes(self) -> None:
        timeouts = {"DefaultAppTimeoutPolicy": 1.0}
        assert policies(scopes=("other",), timeouts=timeouts).app("callee") == NO_POLICY
        assert policies(scopes=("caller",), timeouts=timeouts).app("callee").timeout_s == 1.0

    @pytest.mark.parametrize(("wanted", "used"), [(1, 3), (3, 3), (7, 7), (-1, -1), (0, 3)])
    def test_a_built_in_policy_has_three_retries_at_least(self, wanted: int, used: int) -> None:
        found = policies(retries={SERVICE_RETRIES: RetryPolicy(duration_s=0.2, max_retries=wanted)})
        assert found.built_in(SERVICE_RETRIES) == RetryPolicy(duration_s=0.2, max_retries=used)

    def test_the_built_in_policy_is_three_times_a_second(self) -> None:
        retry = policies().built_in(SERVICE_RETRIES)
        backoff = Backoff(retry)
        assert [backoff.next(0, 0.5) for _ in range(4)] == [1.0, 1.0, 1.0, None]


class TestRepeats:
    @pytest.mark.parametrize(
        ("codes", "status", "expected"),
        [
            ("", 404, True),
            ("500-599", 503, True),
            ("500-599", 499, False),
            ("429,500-599", 429, True),
            ("429, 503 ", 503, True),
            ("404", 405, False),
        ],
    )
    def test_codes_and_ranges(self, codes: str, status: int, expected: bool) -> None:
        assert repeats(RetryPolicy(http_codes=codes), http=status) is expected
        assert repeats(RetryPolicy(grpc_codes=codes), grpc=status) is expected

    def test_a_failure_without_a_code_is_repeated(self) -> None:
        assert repeats(RetryPolicy(http_codes="500", grpc_codes="14"))

    def test_codes_of_the_other_protocol_say_nothing(self) -> None:
        assert repeats(RetryPolicy(http_codes="500"), grpc=5)


class TestBackoff:
    def test_constant_has_five_seconds_and_no_limit(self) -> None:
        backoff = Backoff(RetryPolicy())
        assert {backoff.next(elapsed, 0.0) for elapsed in range(0, 10_000, 5)} == {5.0}

    def test_exponential_grows_by_half_up_to_the_longest(self) -> None:
        backoff = Backoff(RetryPolicy(policy="exponential", max_interval_s=2.0))
        assert [backoff.next(0, 0.5) for _ in range(6)] == [0.5, 0.75, 1.125, 1.6875, 2.0, 2.0]

    def test_exponential_gives_up_after_fifteen_minutes(self) -> None:
        assert Backoff(RetryPolicy(policy="exponential")).next(899.9, 0.5) is None

    @pytest.mark.parametrize(
        ("policy", "expected"),
        [
            (RetryPolicy(), Waits(attempts=1_000_000_000, first_s=5.0, longest_s=5.0)),
            (RetryPolicy(duration_s=1.0, max_retries=3), Waits(attempts=4, first_s=1.0, longest_s=1.0)),
            (
                RetryPolicy(policy="exponential"),
                Waits(attempts=25, first_s=0.5, longest_s=60.0, growth=1.5, spread=0.5),
            ),
            (
                RetryPolicy(policy="exponential", max_interval_s=2.0, max_retries=2),
                Waits(attempts=3, first_s=0.5, longest_s=2.0, growth=1.5, spread=0.5),
            ),
            (
                RetryPolicy(policy="exponential", duration_s=1000.0),
                Waits(attempts=1, first_s=1000.0, longest_s=1000.0, growth=1.5, spread=0.5),
            ),
        ],
    )
    def test_waits_say_the_same_in_numbers(self, policy: RetryPolicy, expected: Waits) -> None:
        assert waits(policy) == expected

    @given(st.floats(0.1, 1000), st.floats(1, 100), st.integers(-1, 1000))
    def test_waits_of_exponential_allow_as_many_attempts_as_backoff_in_the_middle(
        self, first_s: float, factor: float, retries: int
    ) -> None:
        policy = RetryPolicy(
            policy="exponential",
            duration_s=first_s,
            max_interval_s=first_s * factor,
            max_retries=retries,
        )
        backoff, elapsed_s, attempts = Backoff(policy), 0.0, 1
        while (wait_s := backoff.next(elapsed_s, 0.5)) is not None:
            elapsed_s += wait_s
            attempts += 1
        assert waits(policy).attempts == attempts

    @given(st.floats(0, 1, exclude_max=True), st.integers(0, 30))
    def test_exponential_is_spread_by_half(self, draw: float, attempts: int) -> None:
        spread, middle = (
            Backoff(RetryPolicy(policy="exponential")),
            Backoff(RetryPolicy(policy="exponential")),
        )
        for _ in range(attempts):
            one, other = spread.next(0, draw), middle.next(0, 0.5)
            assert one is not None and other is not None
            assert 0.5 * other <= one <= 1.5 * other

    @given(st.integers(0, 20))
    def test_there_are_as_many_retries_as_asked_for(self, limit: int) -> None:
        backoff = Backoff(RetryPolicy(max_retries=limit))
        waits = [backoff.next(0, 0.0) for _ in range(limit + 2)]
        assert waits == [5.0] * limit + [None, None]


class TestBreaker:
    def fail(self, breaker: Breaker, times: int, now: float) -> None:
        for _ in range(times):
            ticket = breaker.admit(now)
            assert ticket is not None
            breaker.report(ticket, ok=False, now=now)

    def test_more_than_five_failures_in_a_row_open_it_for_a_minute(self) -> None:
        breaker = Breaker(BreakerPolicy(), 0.0)
        self.fail(breaker, 5, 0.0)
        assert breaker.state(0.0) == "closed"
        self.fail(breaker, 1, 1.0)
        assert (breaker.state(60.9), breaker.admit(60.9)) == ("open", None)
        assert breaker.state(61.0) == "half-open"

    def test_a_success_begins_the_row_anew(self) -> None:
        breaker = Breaker(BreakerPolicy(), 0.0)
        for _ in range(5):
            self.fail(breaker, 5, 0.0)
            ticket = breaker.admit(0.0)
            assert ticket is not None
            breaker.report(ticket, ok=True, now=0.0)
        assert breaker.state(0.0) == "closed"

    def test_few_try_whether_the_other_side_is_back(self) -> None:
        breaker = Breaker(BreakerPolicy(max_requests=2, timeout_s=1.0, trip="consecutiveFailures > 0"), 0.0)
        self.fail(breaker, 1, 0.0)
        first, second, third = (breaker.admit(1.0) for _ in range(3))
        assert first is not None and second is not None and third is None
        breaker.report(first, ok=True, now=1.1)
        assert breaker.state(1.1) == "half-open"
        breaker.report(second, ok=True, now=1.2)
        assert breaker.state(1.2) == "closed"

    def test_one_failure_of_those_opens_it_again(self) -> None:
        breaker = Breaker(BreakerPolicy(timeout_s=1.0, trip="consecutiveFailures > 0"), 0.0)
        self.fail(breaker, 1, 0.0)
        self.fail(breaker, 1, 1.0)
        assert (breaker.state(1.9), breaker.state(2.0)) == ("open", "half-open")

    def test_an_outcome_of_an_earlier_period_changes_nothing(self) -> None:
        breaker = Breaker(BreakerPolicy(timeout_s=1.0, trip="totalFailures > 0"), 0.0)
        late, first = breaker.admit(0.0), breaker.admit(0.0)
        assert late is not None and first is not None
        breaker.report(first, ok=False, now=0.0)
        breaker.report(late, ok=True, now=1.0)
        assert breaker.state(1.0) == "half-open"

    def test_an_attempt_that_was_given_up_leaves_its_place(self) -> None:
        breaker = Breaker(BreakerPolicy(timeout_s=1.0, trip="totalFailures > 0"), 0.0)
        self.fail(breaker, 1, 0.0)
        ticket = breaker.admit(1.0)
        assert ticket is not None and breaker.admit(1.0) is None
        breaker.report(ticket, ok=None, now=1.0)
        assert breaker.admit(1.0) is not None

    def test_counts_are_cleared_after_the_interval(self) -> None:
        breaker = Breaker(BreakerPolicy(interval_s=10.0, trip="totalFailures >= 2"), 0.0)
        self.fail(breaker, 1, 0.0)
        self.fail(breaker, 1, 10.0)
        assert breaker.state(10.0) == "closed"
        self.fail(breaker, 1, 11.0)
        assert breaker.state(11.0) == "open"

    def test_a_condition_that_cannot_be_computed_does_not_trip(self) -> None:
        breaker = Breaker(BreakerPolicy(trip="totalFailures / totalSuccesses > 1"), 0.0)
        self.fail(breaker, 3, 0.0)
        assert breaker.state(0.0) == "closed"

    @given(st.lists(st.tuples(st.booleans(), st.floats(0, 5))))
    def test_it_never_stays_shut_for_ever(self, steps: list[tuple[bool, float]]) -> None:
        breaker, now = Breaker(BreakerPolicy(timeout_s=1.0, trip="consecutiveFailures > 1"), 0.0), 0.0
        for ok, pause in steps:
            now += pause
            ticket = breaker.admit(now)
            if ticket is not None:
                breaker.report(ticket, ok=ok, now=now)
        now += 1.0
        for _ in range(2):
            if breaker.state(now) != "closed":
                assert breaker.admit(now) is not None
                break
