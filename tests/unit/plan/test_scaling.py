"""Rules of scaling options and their precedence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pelton.model.component import ComponentSpec
from pelton.model.desired import ScaledBy, Scaling
from pelton.model.function import (
    BehaviorRules,
    DaprTrigger,
    Fallback,
    Function,
    HpaBehavior,
    HpaConfig,
    HttpScaledObject,
    HttpTrigger,
    KedaOptions,
    KedaTrigger,
    ScaleAdvanced,
    ScaledJob,
    ScaledObject,
    ScaleOptions,
    ScalePolicy,
    ScalingStrategy,
    Serving,
    Triggers,
)
from pelton.model.scaling import (
    Behavior,
    DirectionRules,
    HttpScaling,
    JobPolicy,
    JobScaling,
    KedaPolicy,
    RateLimit,
    TriggerTarget,
)
from pelton.plan.scaling import handed_over, job_share, plan_scaling, read_triggers, runs_as_jobs

DOMAIN = "autoscaling.knative.dev/"

EVENTS = (DaprTrigger(name="in", topic="a"),)


def scaling(
    notes: dict[str, str] | None = None,
    *,
    own: dict[str, str] | None = None,
    engine: str = "",
    dapr: tuple[DaprTrigger, ...] = (),
    **options: Any,
):
    function = Function(
        name="f",
        namespace="d",
        annotations={DOMAIN + key: value for key, value in (own or {}).items()},
        serving=Serving(
            triggers=Triggers(http=HttpTrigger(port=8080, engine=engine), dapr=dapr),
            annotations={DOMAIN + key: value for key, value in (notes or {}).items()},
            scale_options=ScaleOptions(**options) if options else None,
        ),
    )
    return plan_scaling(function)


def test_defaults():
    made, concurrency, problems, partial = scaling()

    assert made == Scaling(min_replicas=0, max_replicas=10, initial_scale=0, cooldown_s=60.0)
    assert (concurrency, problems, partial) == (0, [], [])


@pytest.mark.parametrize(
    ("key", "text", "field", "expected"),
    [
        ("window", "6s", "window_s", 6.0),
        ("window", "1h", "window_s", 3600.0),
        ("panic-window-percentage", "20", "panic_window_percentage", 20.0),
        ("panicThresholdPercentage", "150.0", "panic_threshold_percentage", 150.0),
        ("target", "10", "target", 10.0),
        ("target-utilization-percentage", "80", "utilization", 0.8),
        ("scale-down-delay", "15m", "scale_down_delay_s", 900.0),
        ("scale-to-zero-pod-retention-period", "1m5s", "retention_s", 65.0),
        ("min-scale", "2", "min_replicas", 2),
        ("maxScale", "0", "max_replicas", 0),
        ("initial-scale", "1", "initial_scale", 1),
        ("activation-scale", "3", "activation_scale", 3),
        ("target-burst-capacity", "-1", "target_burst_capacity", -1.0),
        ("metric-aggregation-algorithm", "weighted-exponential", "aggregation", "weighted-exponential"),
    ],
)
def test_annotation_is_honoured(key, text, field, expected):
    made, _, problems, _ = scaling({key: text})

    assert problems == []
    assert getattr(made, field) == expected


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("window", "5s"),
        ("window", "61m"),
        ("window", "6.5s"),
        ("window", "60"),
        ("panic-window-percentage", "0"),
        ("panic-threshold-percentage", "109"),
        ("target", "0"),
        ("target", "nan"),
        ("target-utilization-percentage", "101"),
        ("scale-down-delay", "1500ms"),
        ("scale-to-zero-pod-retention-period", "-1s"),
        ("min-scale", "-1"),
        ("max-scale", "many"),
        ("initial-scale", "1.5"),
        ("activation-scale", "1"),
        ("container-concurrency", "1001"),
        ("activation-scale", "11"),
        ("target-burst-capacity", "-2"),
        ("metric", "cpu"),
        ("class", "own.example.com"),
        ("metric-aggregation-algorithm", "median"),
    ],
)
def test_value_out_of_range_is_a_problem_that_names_the_annotation(key, text):
    _, _, (problem,), _ = scaling({key: text})

    assert problem.reason == "InvalidAnnotation"
    assert problem.path == f"spec.serving.annotations[{DOMAIN}{key}]"
    assert text in problem.message


def test_precedence_is_replicas_then_annotations_then_knative_then_the_resource():
    made, *_ = scaling(
        {"min-scale": "2", "window": "20s"},
        own={"window": "40s", "target": "9"},
        min_replicas=1,
        knative={f"{DOMAIN}window": "30s", f"{DOMAIN}scale-down-delay": "5s"},
    )

    assert (made.min_replicas, made.window_s, made.scale_down_delay_s, made.target) == (1, 20.0, 5.0, 9.0)


def test_minimum_above_the_maximum_is_a_problem():
    _, _, (problem,), _ = scaling({"min-scale": "5", "max-scale": "3"})

    assert problem.reason == "InvalidScale"


def test_minimum_above_the_presumed_maximum_raises_it():
    made, _, problems, _ = scaling({"min-scale": "20"})

    assert problems == []
    assert made.max_replicas == 20


@pytest.mark.parametrize(
    ("notes", "target", "limit"),
    [
        ({"container-concurrency": "5"}, 5.0, 5),
        ({"container-concurrency": "5", "target": "50"}, 5.0, 5),
        ({"container-concurrency": "5", "target": "2"}, 2.0, 5),
        ({"container-concurrency": "0"}, 100.0, 0),
    ],
)
def test_target_follows_the_hard_limit(notes, target, limit):
    made, concurrency, *_ = scaling(notes)

    assert (made.target, concurrency) == (target, limit)


def test_http_add_on_sets_target_and_cooldown():
    made, *_ = scaling(
        engine="keda",
        keda=KedaOptions(
            http_scaled_object=HttpScaledObject(target_pending_requests=20, cooldown_period_s=90)
        ),
    )

    assert (made.algorithm, made.target, made.utilization) == ("keda-http", 20.0, 1.0)
    assert made.http is not None
    assert (made.http.concurrency_target, made.http.keda.cooldown_s) == (20.0, 90.0)


def test_lag_comes_from_the_first_trigger_that_counts_events():
    made, _, problems, partial = scaling(
        dapr=EVENTS,
        keda=KedaOptions(
            triggers=(
                KedaTrigger(type="cron"),
                KedaTrigger(type="kafka", metadata={"lagThreshold": "20", "activationLagThreshold": "3"}),
                KedaTrigger(type="stan", metadata={"lagThreshold": "50"}),
            ),
            scaled_object=ScaledObject(polling_interval_s=15, cooldown_period_s=30),
        ),
    )

    assert problems == []
    assert (made.lag_threshold, made.activation_lag_threshold, made.cooldown_s) == (20.0, 3.0, 30.0)
    assert partial == []
    assert made.triggered is not None
    assert [(one.name, one.type) for one in made.triggered.triggers] == [("s0-cron", "cron")]
    assert (made.triggered.cooldown_s, made.triggered.polling_s, made.own_pace) == (30.0, 15.0, False)


KAFKA = ComponentSpec(type="pubsub.kafka", version="v1")


@pytest.mark.parametrize(
    ("dapr", "metadata", "read"),
    [
        ((), {}, True),
        ((DaprTrigger(name="in", topic="a"),), {}, False),
        ((DaprTrigger(name="in", topic="a"),), {"topic": "a"}, False),
        ((DaprTrigger(name="in", topic="a"),), {"topic": "other"}, True),
        ((DaprTrigger(name="elsewhere", topic="a"),), {"topic": "other"}, False),
    ],
)
def test_lag_of_what_the_function_takes_is_counted_and_not_read(dapr, metadata, read):
    function = Function(
        name="f",
        namespace="d",
        serving=Serving(
            triggers=Triggers(dapr=dapr),
            pubsub={"in": KAFKA},
            scale_options=ScaleOptions(
                keda=KedaOptions(triggers=(KedaTrigger(type="kafka", metadata=metadata),))
            ),
        ),
    )

    assert read_triggers(function) == ((0,) if read else ())
    assert (plan_scaling(function)[0].triggered is not None) is read


def test_triggers_keep_the_functions_bounds_and_fallback():
    made, *_ = scaling(
        min_replicas=1,
        max_replicas=4,
        keda=KedaOptions(
            triggers=(KedaTrigger(type="prometheus"), KedaTrigger(type="cpu", metadata={"value": "60"})),
            scaled_object=ScaledObject(fallback=Fallback(failure_threshold=3, replicas=2)),
        ),
    )

    policy = made.triggered
    assert policy is not None
    assert policy.fallback is not None
    assert (policy.min_replicas, policy.max_replicas, policy.fallback.replicas) == (1, 4, 2)
    assert [(one.type, one.target, one.metric_type) for one in policy.triggers] == [
        ("prometheus", 1.0, "AverageValue"),
        ("cpu", 60.0, "Utilization"),
    ]
    assert (made.goes_by_usage, made.request) == (True, 1.0)


def test_cooldown_follows_the_window_unless_it_is_given():
    assert scaling({"window": "6s"})[0].cooldown_s == 6.0


@pytest.mark.parametrize("text", ["0", "-1", "many", "inf"])
def test_bad_lag_threshold_is_a_problem(text):
    _, _, (problem,), _ = scaling(
        dapr=EVENTS, keda=KedaOptions(triggers=(KedaTrigger(type="kafka", metadata={"lagThreshold": text}),))
    )

    assert problem.path == "spec.serving.scaleOptions.keda.triggers[0].metadata.lagThreshold"


def test_unhonoured_options_are_listed():
    *_, partial = scaling(
        {"class": "hpa.autoscaling.knative.dev", "metric": "queue-depth", "what": "1"},
        keda=KedaOptions(
            scaled_job=ScaledJob(),
            scaled_object=ScaledObject(
                fallback=Fallback(failure_threshold=1, replicas=1),
                advanced=ScaleAdvanced(restore_to_original_replica_count=True),
            ),
        ),
    )

    assert [path for path, _ in partial] == [
        f"spec.serving.annotations[{DOMAIN}metric]",
        "spec.serving.scaleOptions.keda.scaledObject.advanced.restoreToOriginalReplicaCount",
        "spec.serving.scaleOptions.keda.scaledObject.fallback",
        "spec.serving.scaleOptions.keda.scaledJob",
        f"spec.serving.annotations[{DOMAIN}what]",
    ]


def test_requests_per_second_have_their_own_defaults():
    made, _, problems, partial = scaling({"metric": "rps"})

    assert (problems, partial) == ([], [])
    assert (made.metric, made.target, made.utilization) == ("rps", 200.0, 0.7)
    assert scaling({"metric": "rps", "target": "50"})[0].target == 50.0


@pytest.mark.parametrize(
    ("notes", "metric", "target"),
    [
        ({}, "cpu", 80.0),
        ({"target": "55.5"}, "cpu", 56.0),
        ({"metric": "memory", "target": "64"}, "memory", 64 * 2**20),
        ({"metric": "concurrency", "container-concurrency": "4"}, "concurrency", 4.0),
        ({"metric": "rps", "target": "30"}, "rps", 30.0),
    ],
)
def test_class_hpa_takes_the_hpas_metrics(notes, metric, target):
    made, _, problems, _ = scaling({"class": "hpa.autoscaling.knative.dev", **notes})

    assert problems == []
    assert (made.algorithm, made.metric, made.target, made.floor) == ("hpa", metric, target, 1)


def test_class_hpa_on_memory_needs_a_target():
    _, _, (problem,), _ = scaling({"class": "hpa.autoscaling.knative.dev", "metric": "memory"})

    assert "target" in problem.message


def test_cpu_request_is_the_containers():
    function = Function(
        name="f",
        annotations={f"{DOMAIN}class": "hpa.autoscaling.knative.dev"},
        serving=Serving(
            triggers=Triggers(http=HttpTrigger(port=8080)),
            template={"containers": [{"name": "function", "resources": {"requests": {"cpu": "250m"}}}]},
        ),
    )

    assert plan_scaling(function)[0].request == 0.25


def test_scaled_object_brings_its_pace_and_behavior():
    made, _, problems, partial = scaling(
        keda=KedaOptions(
            scaled_object=ScaledObject(
                polling_interval_s=5,
                advanced=ScaleAdvanced(
                    horizontal_pod_autoscaler_config=HpaConfig(
                        behavior=HpaBehavior(
                            scale_down=BehaviorRules(
                                stabilization_window_s=0,
                                policies=(ScalePolicy(type="Pods", value=1, period_s=30),),
                            )
                        )
                    )
                ),
            )
        )
    )

    assert (problems, partial) == ([], [])
    assert made.keda is not None and made.keda.behavior is not None
    assert (made.keda.polling_s, made.keda.cooldown_s, made.cooldown_s) == (5.0, 300.0, 300.0)
    assert made.keda.behavior.down == DirectionRules(
        window_s=0.0, limits=(RateLimit(kind="Pods", value=1, period_s=30),)
    )
    assert made.keda.behavior.up == Behavior().up


def test_scaled_object_without_requests_scales_by_events_alone():
    options = ScaleOptions(keda=KedaOptions(scaled_object=ScaledObject()))
    events = Function(name="f", serving=Serving(scale_options=options, triggers=Triggers()))

    assert plan_scaling(events)[0].algorithm == "keda"
    assert scaling(keda=options.keda)[0].algorithm == "kpa"


def test_own_options_are_read_and_checked():
    function = Function(
        name="f",
        annotations={"pelton.dev/cooldown": "5m"},
        serving=Serving(
            triggers=Triggers(http=HttpTrigger(port=8080)), annotations={"pelton.dev/spare-instances": "2"}
        ),
    )
    made, *_ = plan_scaling(function)
    assert (made.spare_instances, made.hold_s) == (2, 300.0)

    wrong = Function(name="f", annotations={"pelton.dev/spare-instances": "-1"}, serving=Serving())
    (problem,) = plan_scaling(wrong)[2]
    assert problem.path == "metadata.annotations[pelton.dev/spare-instances]"
    assert "a whole number from 0 to 1000" in problem.message


def test_an_object_takes_the_place_of_all_but_what_events_need():
    own = Scaling(
        min_replicas=5,
        max_replicas=9,
        target=3.0,
        spare_instances=2,
        hold_s=60.0,
        scale_down_delay_s=30.0,
        lag_threshold=7.0,
    )
    policy = HttpScaling(concurrency_target=20.0, keda=KedaPolicy(min_replicas=1, max_replicas=4))

    made = handed_over(own, ScaledBy(owner="HTTPScaledObject n/web", policy=policy))

    assert (made.min_replicas, made.max_replicas, made.algorithm) == (1, 4, "keda-http")
    assert (made.http, made.owner, made.lag_threshold) == (policy, "HTTPScaledObject n/web", 7.0)
    assert (made.spare_instances, made.hold_s, made.scale_down_delay_s) == (0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("keda", "floor", "asleep"),
    [
        ({"min_replicas": 2}, 2, False),
        ({"min_replicas": 3, "idle_replicas": 1}, 1, False),
        ({"paused_replicas": 4}, 4, False),
        ({"paused_replicas": 0, "min_replicas": 2}, 0, True),
        ({"paused": True, "min_replicas": 2}, 0, True),
        ({"paused_out": True}, 0, True),
        ({"force_active": True}, 1, False),
        ({"force_active": True, "paused_out": True}, 0, True),
    ],
)
def test_floor_under_an_object(keda, floor, asleep):
    made = handed_over(Scaling(), ScaledBy(owner="x", policy=HttpScaling(keda=KedaPolicy(**keda))))

    assert (made.floor, made.is_asleep) == (floor, asleep)


@pytest.mark.parametrize(
    ("kind", "job", "http", "runs"),
    [
        ("Job", None, False, True),
        ("", ScaledJob(), False, True),
        ("", None, False, False),
        ("Job", None, True, False),
    ],
)
def test_function_runs_as_jobs(kind, job, http, runs):
    triggers = Triggers(http=HttpTrigger(port=8080) if http else None, dapr=EVENTS)
    function = Function(
        name="f",
        namespace="d",
        serving=Serving(
            triggers=triggers,
            workload_type=kind,
            scale_options=ScaleOptions(max_replicas=4, keda=KedaOptions(scaled_job=job)),
        ),
    )

    assert runs_as_jobs(function) is runs
    assert (plan_scaling(function)[0].jobs is not None) is runs


def test_settings_of_jobs():
    strategy = ScalingStrategy(strategy="custom", queue_length_deduction=2, running_job_percentage="50%")
    job = ScaledJob(polling_interval_s=5, failed_jobs_history_limit=0, scaling_strategy=strategy)
    trigger = KedaTrigger(type="kafka", metadata={"lagThreshold": "7"})
    function = Function(
        name="f",
        namespace="d",
        serving=Serving(
            triggers=Triggers(dapr=EVENTS),
            scale_options=ScaleOptions(
                min_replicas=1, max_replicas=4, keda=KedaOptions(scaled_job=job, triggers=(trigger,))
            ),
        ),
    )

    scaling = plan_scaling(function)[0]

    assert scaling.jobs == JobScaling(
        policy=JobPolicy(min_replicas=1, max_replicas=4, strategy="custom", deduction=2, running_share=0.5),
        share=7,
        polling_s=5.0,
        kept_failed=0,
    )
    assert job_share(scaling) == "7"


def test_scaled_object_by_requests_and_by_triggers_gives_both():
    by = ScaledBy(
        owner="ScaledObject d/s",
        policy=HttpScaling(concurrency_target=5.0, keda=KedaPolicy(max_replicas=7)),
        triggered=KedaPolicy(triggers=(TriggerTarget(name="s1-cron"),), max_replicas=7),
    )

    both = handed_over(scaling()[0], by)
    alone = handed_over(scaling()[0], replace(by, policy=None))

    assert (both.algorithm, both.target, both.max_replicas) == ("keda-http", 5.0, 7)
    assert both.triggered is by.triggered
    assert both.triggered is alone.triggered
    assert (alone.algorithm, alone.max_replicas, alone.owner) == ("kpa", 7, "ScaledObject d/s")
