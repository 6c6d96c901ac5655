"""Rules of ScaledJob; the numbered rows are those of the contract (autoscaling, sections 1.3 and 7)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.autoscale.jobs import (
    Demand,
    Jobs,
    QueueReading,
    bounds,
    combine,
    effective_max,
    job_policy,
    queue_reading,
    to_create,
)
from pelton.model.scaler import ScalerReading
from pelton.model.scaling import JobPolicy

FOUR = [
    QueueReading(queue_length=queue, target=target, active=active)
    for queue, target, active in ((20, 1, True), (10, 2, True), (5, 3, True), (7, 4, False))
]


@pytest.mark.parametrize(
    ("calculation", "most", "queue", "scale"),
    [
        ("max", 100, 20, 20),
        ("min", 100, 5, 2),
        ("avg", 100, 12, 9),
        ("sum", 100, 35, 27),
        ("sum", 25, 35, 25),
    ],
)
def test_row_triggers_join(calculation, most, queue, scale):
    demand = combine(FOUR, JobPolicy(max_replicas=most, calculation=calculation))

    assert demand == Demand(queue_length=queue, max_scale=scale, active=True)


@pytest.mark.parametrize(
    ("policy", "numbers", "expected"),
    [
        (JobPolicy(), (3, 2, 0, 100), 1),
        (JobPolicy(strategy="accurate"), (20, 15, 10, 20), 5),
        (JobPolicy(strategy="accurate"), (5, 3, 2, 20), 3),
        (JobPolicy(strategy="eager"), (4, 7, 0, 10), 3),
        (JobPolicy(strategy="custom", deduction=1, running_share=0.5), (10, 4, 0, 100), 7),
        (JobPolicy(strategy="custom", deduction=0, running_share=0.3), (10, 5, 0, 100), 9),
        (JobPolicy(strategy="custom"), (10, 4, 0, 100), 6),  # unreadable percentage: as default
    ],
)
def test_row_strategies(policy, numbers, expected):
    max_scale, running, pending, most = numbers

    got = effective_max(policy, max_scale=max_scale, running=running, pending=pending, most=most)
    assert got == expected


def test_minimum_comes_first_and_counts_apart():
    policy = JobPolicy(min_replicas=3, max_replicas=10)
    idle = combine([], policy)

    assert bounds(policy) == (3, 7)
    assert bounds(JobPolicy(min_replicas=20, max_replicas=10)) == (10, 0)
    assert bounds(JobPolicy()) == (0, 100)
    assert to_create(policy, idle, running=1, pending=0) == 2
    assert to_create(policy, idle, running=3, pending=0) == 0
    busy = combine([QueueReading(queue_length=50, target=10, active=True)], policy)
    assert to_create(policy, busy, running=4, pending=0) == 4


def test_target_of_zero_asks_for_none_and_inactive_creates_none():
    demand = combine([QueueReading(queue_length=5, target=0, active=True)], JobPolicy())

    assert demand.max_scale == 0
    assert to_create(JobPolicy(), replace(demand, max_scale=5, active=False), running=0, pending=0) == 0


def test_eager_fills_up_to_the_maximum():
    demand = Demand(queue_length=1, max_scale=4, active=True)

    assert to_create(JobPolicy(strategy="eager", max_replicas=10), demand, running=7, pending=0) == 3


@given(
    st.sampled_from(["default", "custom", "accurate", "eager"]),
    st.integers(0, 20),
    st.integers(1, 60),
    st.integers(0, 500),
    st.integers(0, 80),
    st.integers(0, 80),
)
def test_property_jobs_stay_within_the_maximum(strategy, low, most, queue, running, pending):
    policy = JobPolicy(min_replicas=low, max_replicas=most, strategy=strategy, running_share=0.0)
    demand = combine([QueueReading(queue_length=queue, target=1, active=queue > 0)], policy)
    made = to_create(policy, demand, running=running, pending=min(pending, running))

    assert made >= 0
    if strategy == "default":
        assert running + made <= max(running, most)


# ------------------------------------------------------------------------------------------- specs and looks


@pytest.mark.parametrize(
    ("text", "percent", "share"),
    [("0.5", False, 0.5), ("50%", False, None), ("50%", True, 0.5), ("", False, None), ("many", False, None)],
)
def test_policy_of_a_spec(text, percent, share):
    spec = {
        "minReplicaCount": 1,
        "maxReplicaCount": 7,
        "scalingStrategy": {"strategy": "custom", "customScalingRunningJobPercentage": text},
    }

    made = job_policy(spec, percent=percent)

    assert (made.min_replicas, made.max_replicas, made.strategy, made.running_share) == (
        1,
        7,
        "custom",
        share,
    )
    assert job_policy({}) == JobPolicy()


def test_trigger_of_several_metrics_counts_its_first_by_the_mean_target():
    values = (("a", 4.0, 2.0), ("b", 90.0, 4.0), ("a", 5.0, 6.0))
    metrics = [ScalerReading(metric=m, value=v, target=t, active=m == "b") for m, v, t in values]

    assert queue_reading(metrics) == QueueReading(queue_length=9.0, target=4.0, active=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3.0])
def test_value_that_is_no_length_counts_as_none(value):
    reading = queue_reading([ScalerReading(metric="m", value=value, target=1.0, active=True)])

    assert combine([reading], JobPolicy()).queue_length == 0


def look(jobs, *, now, queue, running, pending=0):
    reading = QueueReading(queue_length=queue, target=10, active=queue > 0)
    return jobs.decide(now=now, readings=[reading], running=running, pending=pending)[0]


def test_looks_are_as_far_apart_as_the_interval_unless_nothing_runs():
    jobs = Jobs(JobPolicy(max_replicas=5), polling_s=30.0)

    assert look(jobs, now=0.0, queue=25, running=0) == 3
    assert look(jobs, now=10.0, queue=45, running=3) == 0
    assert look(jobs, now=31.0, queue=45, running=3) == 2
    assert look(jobs, now=40.0, queue=5, running=0) == 1
    assert look(jobs, now=41.0, queue=0, running=0) == 0


@given(
    queue=st.integers(0, 500),
    running=st.integers(0, 30),
    most=st.integers(1, 20),
    strategy=st.sampled_from(["default", "accurate", "eager", "custom"]),
)
def test_there_are_never_more_jobs_than_the_maximum_by_a_look_of_default_and_eager(
    queue, running, most, strategy
):
    jobs = Jobs(JobPolicy(max_replicas=most, strategy=strategy, running_share=0.5), polling_s=30.0)

    made = look(jobs, now=0.0, queue=queue, running=running)

    assert 0 <= made <= most
    if strategy in ("default", "eager"):
        assert made == 0 or running + made <= most
