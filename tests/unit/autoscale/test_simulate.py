"""Rules of going through a trace."""

from __future__ import annotations

import json

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
        if copy is not run:
            assert copy.step(load(now, value, ready)) == decision


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(POLICIES)), st.floats(0.0, 300.0))
def test_property_constant_load_does_not_flap(name, value):
    run = start(name)
    numbers = [run.step(load(float(tick), value)).desired for tick in range(600)]

    assert len(set(numbers[500:])) == 1
