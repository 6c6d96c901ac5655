"""Rules of going through a trace."""

from __future__ import annotations

import json
from math import ceil, floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.autoscale.policy import read_policy
from pelton.autoscale.simulate import Sample, SampleError, Simulation, Totals

DOMAIN = "autoscaling.knative.dev/"
KEDA = {
    "triggers": [{"type": "kafka", "name": "lag"}, {"type": "cron", "name": "night"}],
    "cooldownPeriod": 60,
}
HPA = {
    "maxReplicas": 50,
    "metrics": [
        {"type": "External", "external": {"metric": {"name": "lag"}, "target": {"averageValue": "10"}}}
    ],
}
POLICIES = {
    "kpa": {"algorithm": "kpa", "annotations": {f"{DOMAIN}target": "10", f"{DOMAIN}scale-down-delay": "10s"}},
    "weighted": {
        "algorithm": "kpa",
        "annotations": {
            f"{DOMAIN}metric-aggregation-algorithm": "weighted-exponential",
            "pelton.dev/cooldown": "20s",
        },
    },
    "hpa": {"algorithm": "hpa", "spec": {**HPA, "behavior": {"scaleUp": {"stabilizationWindowSeconds": 30}}}},
    "keda": {"algorithm": "keda", "spec": KEDA},
    "keda-http": {"algorithm": "keda-http", "spec": {"scalingMetric": {"concurrency": {"targetValue": 10}}}},
    "rate": {"algorithm": "keda-http", "spec": {"scalingMetric": {"requestRate": {"targetValue": 10}}}},
}


def start(name_or_data) -> Simulation:
    policy = read_policy(POLICIES[name_or_data] if isinstance(name_or_data, str) else name_or_data)
    assert policy.problems == []
    return Simulation(policy)


def load(t: float, value: float, ready: int | None = None) -> Sample:
    return Sample(t=t, values=dict.fromkeys(("concurrency", "rps", "lag"), value), ready=ready)


def test_first_line_uses_the_initial_scale_and_later_ones_what_was_desired():
    run = start({"algorithm": "kpa", "annotations": {f"{DOMAIN}initial-scale": "3"}})
    first = run.step(load(0.0, 0.0))

    assert (first.ready, first.panic, first.desired) == (3, True, 3)
    assert run.step(load(2.0, 0.0, ready=1)).ready == 1
    assert run.step(load(4.0, 0.0)).ready == 3


def test_autoscaler_is_created_with_the_first_lines_ready_count():
    assert start("kpa").step(load(0.0, 1.0, ready=5)).panic
    assert not start("kpa").step(load(0.0, 1.0, ready=1)).panic


def test_lines_of_one_second_add_up_and_missing_seconds_are_zero():
    run = start("kpa")
    run.step(load(10.0, 20.0))
    both = run.step(load(10.5, 20.0))
    later = run.step(load(13.0, 40.0))

    assert both.proposals[0].value == 40.0
    assert later.proposals[0].value == 20.0


def test_burst_capacity_is_that_of_the_defaults():
    decision = start({"algorithm": "kpa"}).step(load(0.0, 5.0))

    assert decision.ebc == 100 - 211 - 5


def test_desired_is_within_bounds_and_raw_is_not():
    run = start({"algorithm": "kpa", "annotations": {f"{DOMAIN}max-scale": "2", f"{DOMAIN}target": "1"}})
    decision = run.step(load(0.0, 50.0))

    assert (decision.desired, decision.raw) == (2, 72)


def test_keda_activates_and_then_the_hpa_decides():
    run = start("keda")

    def step(t: float, lag: float) -> int:
        return run.step(Sample(t=t, values={"lag": lag, "night": 0.0})).desired

    assert [step(t, 95.0) for t in (0.0, 15.0, 30.0, 45.0)] == [1, 4, 8, 10]
    assert [step(t, 0.0) for t in (60.0, 105.0, 105.5)] == [10, 10, 0]


@pytest.mark.parametrize(
    ("policy", "values", "message"),
    [
        ("kpa", {"rps": 5.0}, '"concurrency" is required'),
        ("kpa", {"concurrency": None}, '"concurrency" is required'),
        ("hpa", {"other": 5.0}, '"metrics" has none of: lag'),
        ("keda", {"concurrency": 5.0}, '"metrics" has none of: lag, night'),
        ("rate", {"concurrency": 5.0}, '"rps" is required'),
    ],
)
def test_sample_without_what_the_policy_measures_is_refused(policy, values, message):
    with pytest.raises(SampleError, match=message):
        start(policy).step(Sample(t=0.0, values=values))


def test_failed_read_holds():
    run = start("hpa")
    run.step(Sample(t=0.0, values={"lag": 40.0}, ready=3))
    decision = run.step(Sample(t=15.0, values={"lag": None}, ready=3))

    assert (decision.desired, decision.causes) == (3, ("metrics-failed",))


def test_spare_instances_and_cooldown_work_on_top():
    run = start(
        {"algorithm": "kpa", "annotations": {"pelton.dev/spare-instances": "2", "pelton.dev/cooldown": "5m"}}
    )

    assert run.step(load(0.0, 400.0)).desired == 8
    held = [run.step(load(float(t), 0.0)).desired for t in range(2, 400, 2)]
    assert held[:149] == [8] * 149
    # One cooldown: the panic of the start ended long ago, so nothing in between is waited for again.
    assert held[-1] == 0


def test_totals_add_up_what_a_trace_costs():
    run, totals = start({"algorithm": "kpa", "annotations": {f"{DOMAIN}target": "10"}}), Totals()
    changed = [
        totals.add(run.step(load(t, value, ready)), value, 10.0)
        for t, value, ready in ((0.0, 0.0, 0), (2.0, 30.0, 0), (4.0, 30.0, 3), (8.0, 30.0, 3))
    ]

    assert (totals.lines, totals.cold_starts, totals.start, totals.end) == (4, 1, 0.0, 8.0)
    assert changed[0] and changed[1]
    assert (totals.short_s, totals.excess_s) == (2.0, 60.0)
    assert totals.instance_s > 0


steps = st.lists(
    st.tuples(st.floats(0.0, 40.0), st.floats(0, 500), st.one_of(st.none(), st.integers(0, 30))), max_size=40
)


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(POLICIES)), steps, st.integers(0, 20))
def test_property_state_restored_in_the_middle_decides_the_same(name, trace, at):
    run = start(name)
    copy, now = run, 0.0
    for index, (gap, value, ready) in enumerate(trace):
        now += gap
        if index == at:
            copy = Simulation.from_dict(run.policy, json.loads(json.dumps(run.to_dict())))
        decision = run.step(load(now, value, ready))
        assert json.loads(json.dumps(decision.to_dict()))["reason"] == decision.reason
        if copy is not run:
            assert copy.step(load(now, value, ready)) == decision


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(POLICIES)), st.floats(0.0, 300.0))
def test_property_constant_load_does_not_flap(name, value):
    run = start(name)
    numbers = [run.step(load(float(tick), value)).desired for tick in range(600)]

    assert len(set(numbers[500:])) == 1


# --- the plain reading of the contract, without rings, running sums or deques


def plainly(
    trace, *, window: int, panic_s: int, target: float, total: float, burst: float, up: float, delay: int
):
    """Yield (desired, panic, ebc) of sections 6.2 and 6.3, summing over all seconds every time."""
    seconds: dict[int, float] = {}
    desired_at: list[tuple[int, int]] = []
    since, most, last, first, ready = None, 0, None, 0, 1
    for t, value, told in trace:
        second = floor(t)
        if last is None or second - last > window:
            seconds, first = {}, second
        seconds[second] = seconds.get(second, 0.0) + value
        averages = []
        for size in (window, panic_s):
            start = second - size + 1
            known = sum(v for s, v in seconds.items() if s >= start)
            # The short ring restarts on its own after it was silent.
            begin = max(s for s in seconds if all(s - p > size for p in seconds if p < s))
            averages.append(round(known / min(second - max(first, begin) + 1, size), 6))
        ready = ready if told is None else told
        if last is None and ready > 1:
            since, most = t, ready
        r = max(1, ready)
        raws = [ceil(average / target) for average in averages]
        limited = [min(max(raw, floor(r / 2)), ceil(up * r)) for raw in raws]
        if raws[1] / r >= 2.0:
            since = t
        elif since is not None and since + window < t:
            since, most = None, 0
        wanted = limited[0]
        if since is not None:
            wanted = most = max(most, *limited)
        if delay:
            slot = second // 2
            desired_at.append((slot, wanted))
            wanted = max(n for s, n in desired_at if s > slot - ceil(delay / 2))
        yield wanted, since is not None, floor(ready * total - burst - averages[1])
        last, ready = second, wanted


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.3, 1.0, 2.0, 2.0, 7.5, 40.0, 100.0]),
            st.one_of(st.just(0.0), st.integers(0, 400), st.floats(0, 90)),
            st.one_of(st.none(), st.none(), st.integers(0, 12)),
        ),
        max_size=60,
    ),
    st.sampled_from([6, 20, 60]),
    st.sampled_from([0, 10]),
    st.sampled_from(["1.5", "1000"]),
)
def test_property_equals_the_plain_reading_of_the_contract(gaps, window, delay, up):
    run = start(
        {
            "algorithm": "kpa",
            "annotations": {
                f"{DOMAIN}window": f"{window}s",
                f"{DOMAIN}target": "10",
                f"{DOMAIN}target-burst-capacity": "20",
                f"{DOMAIN}scale-down-delay": f"{delay}s",
            },
            "config": {"max-scale-up-rate": up},
        }
    )
    trace, now = [], 50.0
    for gap, value, ready in gaps:
        now += gap
        trace.append((now, float(value), ready))
    expected = plainly(
        trace,
        window=window,
        panic_s=max(1, floor(window / 10 + 0.5)),
        target=run.policy.kpa.target,
        total=10.0,
        burst=20.0,
        up=float(up),
        delay=delay,
    )
    for (t, value, ready), (wanted, panic, ebc) in zip(trace, expected, strict=True):
        decision = run.step(load(t, value, ready))

        assert (decision.desired, decision.raw, decision.panic, decision.ebc) == (wanted, wanted, panic, ebc)
