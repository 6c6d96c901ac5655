"""Rules of the pod autoscaler; the numbered rows are those of the contract (autoscaling, section 7)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.autoscale.decision import SENTENCES, sentence
from pelton.autoscale.kpa import TICK_S, Kpa, ToZero, activators, burst_capacity, mode, sample_size
from pelton.autoscale.window import Buckets
from pelton.model.scaling import KpaPolicy


def row(target: float, **changes: float | bool) -> KpaPolicy:
    """Parameters of the contract's rows: rates 10, target/total 0.75, panic threshold 2, no bounds."""
    base = KpaPolicy(total=target / 0.75, utilization=0.75, max_scale_up_rate=10.0, max_scale_down_rate=10.0)
    return replace(base, **changes)  # type: ignore[arg-type]  # floats stand for ints in these rows


def decide(policy: KpaPolicy, *, ready: int, stable: float, panic: float, now: float = 0.0):
    return Kpa(policy, now=now, ready=0).decide(now=now, stable=stable, panic=panic, ready=ready)


def test_row_target_10_load_50_gives_5():
    assert decide(row(10), ready=1, stable=50, panic=50).desired == 5


def test_row_panic_load_100_panics_and_gives_10():
    decision = decide(row(10), ready=1, stable=50, panic=100)

    assert (decision.panic, decision.desired) == (True, 10)


@pytest.mark.parametrize(
    ("ready", "total", "panic", "wanted", "expected"),
    [(1, 10 / 0.75, 50, -1, -1), (1, 10 / 0.75, 50, 0, 0), (5, 1 / 0.75, 30, 100, -124)],
)
def test_row_burst_capacity(ready, total, panic, wanted, expected):
    assert burst_capacity(ready=ready, total=total, panic=panic, wanted=wanted) == expected


def test_row_growth_rate_limits_growth():
    decision = decide(row(1, max_scale_up_rate=1.1), ready=2, stable=3.1, panic=3.1)

    assert decision.desired == 3
    assert "up-rate" in decision.causes


def test_row_shrink_rate_limits_shrinking_while_reachable():
    policy = row(1, max_scale_down_rate=1.1)

    assert decide(policy, ready=100, stable=1, panic=1).desired == 90
    assert decide(replace(policy, reachable=False), ready=100, stable=1, panic=1).desired == 1


def test_row_scale_down_delay_of_five_minutes():
    kpa = Kpa(row(10, scale_down_delay_s=300.0), now=0.0, ready=0)

    assert kpa.decide(now=2.0, stable=40, panic=40, ready=1).desired == 4
    assert kpa.decide(now=300.0, stable=0, panic=0, ready=4).desired == 4
    assert kpa.decide(now=302.0, stable=0, panic=0, ready=4).desired == 0


@pytest.mark.parametrize(("pods", "sample"), [(1, 1), (2, 2), (5, 4), (10, 7), (100, 14), (1000, 16)])
def test_row_sample_sizes(pods, sample):
    assert sample_size(pods) == sample


@pytest.mark.parametrize(
    ("ready", "burst", "expected"), [(1, 0, 2), (1, 211, 4), (3, -1, 3), (10, 200, 12), (0, 0, 2)]
)
def test_activators_carry_ready_instances_and_the_burst(ready, burst, expected):
    assert activators(ready=ready, total=100, burst=burst, capacity=100) == expected


@pytest.mark.parametrize(
    ("wanted", "ebc", "ready", "expected"),
    [(1, 0, 1, "Serve"), (1, -1, 1, "Proxy"), (0, 5, 1, "Proxy"), (1, 5, 0, "Proxy"), (-1, 0, 0, "Proxy")],
)
def test_activator_is_in_path_unless_ready_instances_have_room(wanted, ebc, ready, expected):
    assert mode(wanted=wanted, ebc=ebc, ready=ready) == expected


def test_target_is_total_times_utilization_and_never_zero():
    assert KpaPolicy(total=100.0, utilization=0.7).target == 70.0
    assert KpaPolicy(total=0.001, utilization=0.7).target == 0.01


def test_new_decider_with_several_ready_starts_in_panic_and_keeps_them():
    kpa = Kpa(row(10), now=0.0, ready=4)

    decision = kpa.decide(now=0.0, stable=1, panic=1, ready=4)
    assert (decision.panic, decision.desired) == (True, 4)
    assert kpa.decide(now=62.0, stable=1, panic=1, ready=4).desired == 1


def test_panic_never_lowers_and_ends_a_stable_window_after_it_was_last_needed():
    kpa = Kpa(row(10), now=0.0, ready=1)

    assert kpa.decide(now=0.0, stable=10, panic=100, ready=1).desired == 10
    assert kpa.decide(now=2.0, stable=10, panic=20, ready=10).desired == 10
    assert kpa.panicking
    assert kpa.decide(now=60.0, stable=10, panic=20, ready=10).desired == 10
    ended = kpa.decide(now=62.0, stable=10, panic=20, ready=10)
    assert (ended.panic, ended.desired) == (False, 1)


def test_panic_clock_restarts_while_over_the_threshold():
    kpa = Kpa(row(10), now=0.0, ready=1)
    kpa.decide(now=0.0, stable=100, panic=100, ready=1)
    kpa.decide(now=40.0, stable=100, panic=100, ready=1)

    assert kpa.decide(now=70.0, stable=10, panic=10, ready=10).panic


def test_no_data_keeps_the_number_and_is_minus_one_before_the_first():
    kpa = Kpa(row(10), now=0.0, ready=0)

    assert kpa.decide(now=0.0, stable=None, panic=0, ready=0).desired == -1
    kpa.decide(now=2.0, stable=40, panic=40, ready=1)
    kept = kpa.decide(now=4.0, stable=None, panic=0, ready=4)
    assert (kept.desired, kept.causes) == (4, ("no-data",))


def test_growth_is_taken_at_any_time_and_shrinking_waits_for_the_boundary():
    kpa = Kpa(row(10), now=0.0, ready=0)

    assert kpa.decide(now=0.0, stable=10, panic=10, ready=1).desired == 1
    assert kpa.decide(now=0.1, stable=20, panic=15, ready=2, boundary=False).desired == 2
    kept = kpa.decide(now=0.2, stable=10, panic=10, ready=2, boundary=False)
    assert (kept.desired, kept.causes[-1]) == (2, "boundary")
    assert kpa.decide(now=2.0, stable=10, panic=10, ready=2).desired == 1


def test_growth_limit_of_a_step_does_not_compound_between_boundaries():
    kpa = Kpa(row(1, max_scale_up_rate=2.0, panic_threshold=10.0), now=0.0, ready=0)

    assert kpa.decide(now=0.0, stable=100, panic=1, ready=1).desired == 2
    assert kpa.decide(now=1.0, stable=100, panic=1, ready=2, boundary=False).desired == 2
    assert kpa.decide(now=2.0, stable=100, panic=1, ready=2).desired == 4


def test_bounds_hold_whatever_is_measured_and_raw_is_the_number_before_them():
    policy = row(10, min_scale=2, max_scale=3)

    above, below = decide(policy, ready=1, stable=90, panic=90), decide(policy, ready=3, stable=0, panic=0)
    assert (above.desired, above.raw) == (3, 9)
    assert (below.desired, below.raw) == (2, 0)
    assert decide(replace(policy, reachable=False), ready=1, stable=0, panic=0).desired == 0


def test_initial_scale_is_a_floor_while_it_is_given():
    kpa = Kpa(row(10), now=0.0, ready=0)

    assert kpa.decide(now=0.0, stable=0, panic=0, ready=0, floor_scale=3).desired == 3
    assert kpa.decide(now=2.0, stable=0, panic=0, ready=3).desired == 0


def test_scaling_to_zero_can_be_switched_off():
    decision = decide(row(10, scale_to_zero=False), ready=1, stable=0, panic=0)

    assert (decision.desired, decision.raw) == (1, 0)


def test_activation_scale_is_the_least_that_traffic_asks_for():
    policy = row(10, activation_scale=3)

    assert decide(policy, ready=0, stable=1, panic=1).desired == 3
    assert decide(policy, ready=0, stable=55, panic=55).desired == 6
    assert decide(policy, ready=3, stable=0, panic=0).desired == 0


@pytest.mark.parametrize(
    ("stable", "panic", "ready", "expected"),
    [
        (35.0, 35.0, 1, "1 wanted: 35 concurrent on average over 60 s, at 70 per instance"),
        (
            140.0,
            700.0,
            1,
            "10 wanted: panic, 700 concurrent on average over 6 s, at 70 per instance (140 over 60 s)",
        ),
    ],
)
def test_reason_names_the_numbers(stable, panic, ready, expected):
    assert decide(KpaPolicy(), ready=ready, stable=stable, panic=panic).reason == expected


# --- the way to zero


def test_active_revision_is_held_for_a_window_then_for_the_grace_period():
    policy = KpaPolicy()
    to_zero = ToZero(now=0.0)
    to_zero.wanted(now=0.0, ready=1)

    assert to_zero.decide(policy, now=59.0, ready=1) == (1, "active")
    assert to_zero.decide(policy, now=60.0, ready=1) == (1, "inactive")
    assert to_zero.decide(policy, now=89.0, ready=1, probed=False) == (1, "probing")
    assert to_zero.decide(policy, now=89.0, ready=1) == (1, "grace")
    assert to_zero.decide(policy, now=90.0, ready=1) == (0, "NoTraffic")


def test_time_in_proxy_mode_counts_for_the_grace_period_but_not_for_retention():
    policy = KpaPolicy(retention_s=20.0)
    to_zero = ToZero(now=0.0)
    to_zero.wanted(now=0.0, ready=1)
    to_zero.decide(policy, now=60.0, ready=1)

    assert to_zero.decide(policy, now=61.0, ready=1, proxy_since=10.0) == (1, "retention")
    assert to_zero.decide(policy, now=81.0, ready=1, proxy_since=10.0) == (0, "NoTraffic")
    assert to_zero.decide(replace(policy, reachable=False), now=61.0, ready=1, proxy_since=10.0)[0] == 0


def test_activation_that_never_succeeds_is_given_up():
    to_zero = ToZero(now=0.0, activating_limit_s=630.0)

    assert to_zero.decide(KpaPolicy(), now=629.0, ready=0) == (1, "activating")
    assert to_zero.decide(KpaPolicy(), now=630.0, ready=0) == (0, "TimedOut")


def test_scaling_to_zero_that_is_off_keeps_one():
    assert ToZero(now=0.0).decide(KpaPolicy(scale_to_zero=False), now=0.0, ready=1)[0] == 1


def test_way_to_zero_goes_on_from_its_state():
    policy = KpaPolicy()
    to_zero = ToZero(now=0.0)
    to_zero.wanted(now=0.0, ready=1)
    to_zero.decide(policy, now=60.0, ready=1)
    restored = ToZero.from_dict(json.loads(json.dumps(to_zero.to_dict())))

    assert restored.phase == "inactive"
    assert restored.decide(policy, now=90.0, ready=1) == to_zero.decide(policy, now=90.0, ready=1)


# --- properties: a simulated function whose instances become ready at once

loads = st.lists(
    st.tuples(st.integers(1, 40), st.one_of(st.just(0.0), st.floats(0.01, 800.0))), min_size=1, max_size=8
)
policies = st.builds(
    KpaPolicy,
    min_scale=st.integers(0, 3),
    max_scale=st.one_of(st.just(0), st.integers(3, 20)),
    total=st.floats(1, 100),
    window_s=st.integers(6, 30),
    panic_window_s=st.integers(1, 6),
    scale_down_delay_s=st.sampled_from([0.0, 10.0]),
    max_scale_up_rate=st.sampled_from([1.5, 10.0, 1000.0]),
    activation_scale=st.sampled_from([1, 3]),
)


class Run:
    """The windows and the decider, one sample a second and a look every half of it."""

    def __init__(self, policy: KpaPolicy, now: float = 1000.0) -> None:
        self.policy, self.now, self.ready = policy, now, 0
        self.stable, self.panic = Buckets(policy.window_s), Buckets(policy.panic_window_s)
        self.kpa = Kpa(policy, now=now, ready=0)

    def second(self, level: float):
        self.stable.record(int(self.now), level)
        self.panic.record(int(self.now), level)
        decision = self.kpa.decide(
            now=self.now,
            stable=self.stable.average(int(self.now)),
            panic=self.panic.average(int(self.now)),
            ready=self.ready,
            boundary=int(self.now) % 2 == 0,
        )
        self.now += 1.0
        self.ready = decision.desired
        return decision

    def copy(self) -> Run:
        state = json.loads(
            json.dumps(
                [self.stable.to_dict(), self.panic.to_dict(), self.kpa.to_dict(), self.now, self.ready]
            )
        )
        other = Run(self.policy)
        other.stable, other.panic = Buckets.from_dict(state[0]), Buckets.from_dict(state[1])
        other.kpa = Kpa.from_dict(self.policy, state[2])
        other.now, other.ready = state[3], state[4]
        return other


def levels(load):
    return [level for seconds, level in load for _ in range(seconds)]


@settings(deadline=None, max_examples=60)
@given(policies, loads)
def test_property_desired_never_leaves_its_bounds(policy, load):
    run = Run(policy)
    for level in levels(load):
        decision = run.second(level)

        assert policy.min_scale <= decision.desired
        assert policy.max_scale == 0 or decision.desired <= policy.max_scale


@settings(deadline=None, max_examples=60)
@given(policies, loads)
def test_property_silence_leads_to_the_minimum(policy, load):
    run = Run(policy)
    for level in levels(load):
        run.second(level)
    # Panic ends a stable window after its last need; then the number halves every boundary, or every delay.
    silence = int(2 * policy.window_s + policy.panic_window_s + 15 * (policy.scale_down_delay_s + TICK_S))

    assert [run.second(0.0) for _ in range(silence)][-1].desired == policy.min_scale


@settings(deadline=None, max_examples=60)
@given(policies, st.floats(0.01, 500.0))
def test_property_constant_load_settles_and_stays(policy, level):
    run = Run(policy)
    decisions = [run.second(level) for _ in range(policy.window_s * 3 + 40)]
    settled = decisions[len(decisions) * 2 // 3 :]

    assert len({decision.desired for decision in settled}) == 1
    assert settled[-1].desired >= 1


@settings(deadline=None, max_examples=60)
@given(
    policies, st.floats(0, 500), st.floats(0, 500), st.floats(0, 500), st.floats(0, 500), st.integers(0, 20)
)
def test_property_more_load_never_wants_fewer(policy, stable, panic, more_stable, more_panic, ready):
    low = decide(policy, ready=ready, stable=stable, panic=panic)
    high = decide(policy, ready=ready, stable=stable + more_stable, panic=panic + more_panic)

    assert low.desired <= high.desired


@settings(deadline=None, max_examples=40)
@given(policies, loads)
def test_property_lower_numbers_only_appear_at_boundaries(policy, load):
    run, before = Run(policy), 0
    for level in levels(load):
        boundary = int(run.now) % 2 == 0
        decision = run.second(level)

        assert decision.desired >= before or boundary
        before = decision.desired


@settings(deadline=None, max_examples=40)
@given(policies, loads, st.integers(0, 60))
def test_property_state_restored_in_the_middle_decides_the_same(policy, load, at):
    run = Run(policy)
    copy = run
    for index, level in enumerate(levels(load)):
        if index == at:
            copy = run.copy()
        expected = run.second(level)
        if copy is not run:
            assert copy.second(level) == expected


def test_every_sentence_can_be_said():
    # Numbers stand for each placeholder: a format that does not fit would only fail when somebody asks.
    for code, text in SENTENCES.items():
        count = text.count("{")
        words = [f"{{{index}}}" in text for index in range(6)]
        said = sentence((code, *("word" if words[index] else index for index in range(count))))

        assert "{" not in said
