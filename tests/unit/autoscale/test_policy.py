"""Rules of policy files: what is read, and what is refused with its range."""

from __future__ import annotations

from typing import Any

import pytest

from pelton.autoscale.policy import read_policy
from pelton.model.scaling import DirectionRules, KpaPolicy, MetricTarget, RateLimit

DOMAIN = "autoscaling.knative.dev/"
HPA: dict[str, Any] = {
    "maxReplicas": 10,
    "metrics": [
        {
            "type": "External",
            "external": {"metric": {"name": "lag"}, "target": {"type": "AverageValue", "averageValue": "10"}},
        }
    ],
}
KEDA: dict[str, Any] = {"triggers": [{"type": "kafka", "name": "lag", "metadata": {"lagThreshold": "20"}}]}


def kpa(notes: dict[str, Any] | None = None, **more: Any):
    annotations = {DOMAIN + key: value for key, value in (notes or {}).items()}
    return read_policy({"algorithm": "kpa", "annotations": annotations, **more})


def problems(data: Any) -> dict[str, str]:
    return dict(read_policy(data).problems)


def test_empty_policy_has_the_defaults_of_config_autoscaler():
    read = read_policy({"algorithm": "kpa"})

    assert read.problems == []
    assert read.kpa == KpaPolicy()
    assert (read.kpa.target, read.initial) == (70.0, 1)


def test_annotations_win_over_the_config_and_aliases_are_read():
    read = kpa(
        {"minScale": 2, "target": "10", "window": "30s", "panic-threshold-percentage": "150.0"},
        config={"stable-window": "100s", "target-burst-capacity": "-1", "max-scale": "9"},
        containerConcurrency=5,
    )

    assert read.problems == []
    assert (read.kpa.min_scale, read.kpa.max_scale, read.kpa.total) == (2, 9, 5.0)
    assert (read.kpa.window_s, read.kpa.panic_window_s, read.kpa.panic_threshold) == (30, 3, 1.5)
    assert read.kpa.target_burst_capacity == -1


@pytest.mark.parametrize(
    ("notes", "more", "total", "target"),
    [
        ({}, {"containerConcurrency": 5}, 5, 3.5),
        ({"target": "50"}, {"containerConcurrency": 5}, 5, 3.5),
        ({"target": "2"}, {"containerConcurrency": 5}, 2, 1.4),
        ({"metric": "rps"}, {}, 200, 140),
        ({"metric": "rps", "target": "50", "target-utilization-percentage": "80"}, {}, 50, 40),
        ({}, {"config": {"container-concurrency-target-percentage": "0.5"}}, 100, 50),
        ({"target": 1234567.25}, {}, 1234567.25, 864197.075),
        ({"metric": "rps"}, {"config": {"requests-per-second-target-default": 10}}, 10, 7),
    ],
)
def test_target_comes_from_annotation_limit_and_config(notes, more, total, target):
    read = kpa(notes, **more)

    assert read.problems == []
    assert (read.kpa.total, read.kpa.target) == (total, pytest.approx(target))


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ({"window": "5s"}, "whole seconds from 6s to 1h"),
        ({"window": "6500ms"}, "whole seconds from 6s to 1h"),
        ({"target": "0.001"}, "0.01 or more"),
        ({"target": "nan"}, "0.01 or more"),
        ({"target-utilization-percentage": "0"}, "1 to 100"),
        ({"target-burst-capacity": "-2"}, "or -1"),
        ({"panic-window-percentage": "101"}, "1 to 100"),
        ({"panic-threshold-percentage": "109"}, "110 to 1000"),
        ({"scale-down-delay": "61m"}, "0s to 1h"),
        ({"scale-to-zero-pod-retention-period": "-1s"}, "0s to 1h"),
        ({"min-scale": "-1"}, "0 or more"),
        ({"max-scale": "1_0"}, "0 or more"),
        ({"min-scale": "3", "max-scale": "2"}, "below min-scale 3"),
        ({"initial-scale": "0"}, "allow-zero-initial-scale"),
        ({"activation-scale": "1"}, "2 or more"),
        ({"activation-scale": "5", "max-scale": "4"}, "max-scale 4"),
        ({"activation-scale": "2", "min-scale": "3"}, "min-scale 3"),
        ({"metric": "cpu"}, "concurrency or rps"),
        ({"metric-aggregation-algorithm": "quadratic"}, "weighted-exponential"),
        ({"class": "hpa.autoscaling.knative.dev"}, "algorithm: hpa"),
        ({"class": "own.example.com"}, "kpa.autoscaling.knative.dev or"),
        ({"minscale": "1"}, "is not an annotation of the KPA"),
    ],
)
def test_annotation_that_the_kpa_does_not_accept_is_refused_with_its_range(notes, said):
    (message,) = {problem for path, problem in kpa(notes).problems if DOMAIN in path}

    assert said in message


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"max-scale-up-rate": "1"}, "above 1"),
        ({"max-scale-down-rate": "0.5"}, "above 1"),
        ({"scale-to-zero-grace-period": "0s"}, "above 0s"),
        ({"container-concurrency-target-percentage": "101"}, "up to 100"),
        ({"activator-capacity": "0.5"}, "1 or more"),
        ({"initial-scale": "0"}, "allow-zero-initial-scale"),
        ({"max-scale-limit": "10"}, "within 1 to 10"),
        ({"panic-window-percentage": "1"}, "within 1.66667 to 100"),
        ({"enable-scale-to-zero": "maybe"}, "true or false"),
        ({"stable-windows": "60s"}, "is not a key of config-autoscaler"),
    ],
)
def test_config_that_the_autoscaler_does_not_accept_is_refused(config, said):
    (message,) = dict(kpa(config=config).problems).values()

    assert said in message


def test_zero_initial_scale_and_a_limit_are_accepted_where_the_config_says_so():
    read = kpa(
        {"initial-scale": "0", "max-scale": "5"},
        config={"allow-zero-initial-scale": "true", "max-scale": "8", "max-scale-limit": "8"},
    )

    assert (read.problems, read.initial) == ([], 0)
    over = kpa({"max-scale": "9"}, config={"max-scale": "8", "max-scale-limit": "8"})
    assert "within 1 to 8" in over.problems[0][1]


def test_own_options_are_read_for_every_algorithm():
    notes = {"pelton.dev/spare-instances": "2", "pelton.dev/cooldown": "5m"}
    read = read_policy({"algorithm": "hpa", "annotations": notes, "spec": HPA})

    assert (read.problems, read.spare, read.cooldown_s) == ([], 2, 300.0)
    wrong = problems({"algorithm": "kpa", "annotations": {"pelton.dev/spare-instances": "-1"}})
    assert wrong == {"annotations[pelton.dev/spare-instances]": '"-1" is not a whole number from 0 to 1000'}


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (None, "algorithm"),
        ([], ""),
        ({"algorithm": "vpa"}, "algorithm"),
        ({"algorithm": "hpa"}, "spec"),
        ({"algorithm": "kpa", "spec": {}}, "spec"),
        ({"algorithm": "kpa", "containerConcurrency": 1001}, "containerConcurrency"),
        ({"algorithm": "kpa", "annotations": {"other/key": "1"}}, "annotations[other/key]"),
        ({"algorithm": "kpa", "annotations": {f"{DOMAIN}target": [1]}}, f"annotations[{DOMAIN}target]"),
    ],
)
def test_file_that_is_no_policy_is_refused(data, path):
    assert path in problems(data)


def test_hpa_metrics_of_all_kinds_are_read():
    def resource(kind: str, key: str, target: dict[str, Any]) -> dict[str, Any]:
        return {"type": kind, key: {"name": "cpu", "container": "c", "target": target}}

    spec = {
        **HPA,
        "metrics": [
            *HPA["metrics"],
            resource("Resource", "resource", {"type": "Utilization", "averageUtilization": 60}),
            resource("ContainerResource", "containerResource", {"averageValue": "500m"}),
            {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"averageValue": 5}}},
            {
                "type": "Object",
                "object": {"metric": {"name": "o"}, "target": {"type": "Value", "value": "2k"}},
            },
        ],
    }
    read = read_policy({"algorithm": "hpa", "spec": spec})

    assert read.problems == []
    assert read.hpa.metrics == (
        MetricTarget(name="lag", target=10.0),
        MetricTarget(name="cpu", kind="Resource", target_type="Utilization", target=60.0),
        MetricTarget(name="cpu", kind="ContainerResource", target=0.5),
        MetricTarget(name="rps", kind="Pods", target=5.0),
        MetricTarget(name="o", kind="Object", target_type="Value", target=2000.0),
    )


def test_hpa_defaults_are_one_replica_and_eighty_percent_of_cpu():
    read = read_policy({"algorithm": "hpa", "spec": {"maxReplicas": 3}})

    assert (read.hpa.min_replicas, read.hpa.behavior) == (1, None)
    assert read.hpa.metrics == (
        MetricTarget(name="cpu", kind="Resource", target_type="Utilization", target=80.0),
    )


def test_hpa_behavior_fills_in_what_is_missing():
    spec = {
        **HPA,
        "behavior": {
            "scaleDown": {
                "stabilizationWindowSeconds": 60,
                "policies": [{"type": "Pods", "value": 5, "periodSeconds": 60}],
                "tolerance": 0.05,
            }
        },
    }
    behavior = read_policy({"algorithm": "hpa", "spec": spec}).hpa.behavior

    assert behavior is not None
    assert behavior.down == DirectionRules(
        window_s=60.0, limits=(RateLimit(kind="Pods", value=5, period_s=60),), tolerance=0.05
    )
    assert [(limit.kind, limit.value) for limit in behavior.up.limits] == [("Pods", 4), ("Percent", 100)]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"maxReplicas": None}, "spec.maxReplicas"),
        ({"maxReplicas": 0}, "spec.maxReplicas"),
        ({"minReplicas": 11}, "spec.maxReplicas"),
        ({"minReplicas": 0, "metrics": None}, "spec.minReplicas"),
        ({"metrics": [{"type": "Pod"}]}, "spec.metrics[0].type"),
        ({"metrics": [{"type": "Pods", "pods": {}}]}, "spec.metrics[0].pods.metric.name"),
        (
            {"behavior": {"scaleUp": {"stabilizationWindowSeconds": 3601}}},
            "spec.behavior.scaleUp.stabilizationWindowSeconds",
        ),
        ({"behavior": {"scaleUp": {"selectPolicy": "Most"}}}, "spec.behavior.scaleUp.selectPolicy"),
        (
            {"behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}]}}},
            "spec.behavior.scaleUp.policies[0].periodSeconds",
        ),
        (
            {"behavior": {"scaleUp": {"policies": [{"type": "Pods"}]}}},
            "spec.behavior.scaleUp.policies[0].value",
        ),
        ({"target": 5}, "spec.target"),
    ],
)
def test_hpa_spec_out_of_range_is_refused_by_its_path(changes, path):
    assert path in problems({"algorithm": "hpa", "spec": {**HPA, **changes}})


def test_scaled_object_is_read_with_names_and_thresholds():
    spec = {
        "minReplicaCount": 2,
        "idleReplicaCount": 0,
        "cooldownPeriod": 60,
        "fallback": {"failureThreshold": 3, "replicas": 4, "behavior": "currentReplicas"},
        "advanced": {
            "horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": {"selectPolicy": "Disabled"}}}
        },
        "triggers": [
            {"type": "kafka", "metadata": {"lagThreshold": "20", "activationLagThreshold": "3"}},
            {"type": "rabbitmq", "name": "jobs", "metadata": {"mode": "QueueLength", "value": "5"}},
            {"type": "cron", "metadata": {"desiredReplicas": "3"}},
            {"type": "prometheus", "metadata": {"threshold": "0.5"}},
            {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "60"}},
        ],
    }
    read = read_policy({"algorithm": "keda", "spec": spec})

    assert read.problems == []
    assert [(t.name, t.target, t.activation) for t in read.keda.triggers] == [
        ("kafka", 20.0, 3.0),
        ("jobs", 5.0, 0.0),
        ("cron", 1.0, 0.0),
        ("prometheus", 0.5, 0.0),
        ("cpu", 60.0, 0.0),
    ]
    assert "s1-jobs" in read.keda.triggers[1].aliases
    assert (read.keda.min_replicas, read.keda.idle_replicas, read.initial) == (2, 0, 2)
    assert read.keda.behavior is not None and read.keda.behavior.up.select == "Disabled"


def test_pause_annotations_of_keda_are_read():
    notes = {"autoscaling.keda.sh/paused-replicas": "4", "autoscaling.keda.sh/paused-scale-in": "yes"}
    read = read_policy({"algorithm": "keda", "annotations": notes, "spec": KEDA})

    assert (read.keda.paused_replicas, read.keda.paused_in, read.keda.paused) == (4, True, False)
    for text in ("-1", "²", "many"):
        bad = {"autoscaling.keda.sh/paused-replicas": text}
        assert problems({"algorithm": "keda", "annotations": bad, "spec": KEDA})


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"triggers": []}, "spec.triggers"),
        ({"minReplicaCount": 101}, "spec.minReplicaCount"),
        ({"minReplicaCount": 1, "idleReplicaCount": 1}, "spec.idleReplicaCount"),
        ({"pollingInterval": 0}, "spec.pollingInterval"),
        ({"cooldownPeriod": -1}, "spec.cooldownPeriod"),
        ({"triggers": [*KEDA["triggers"], *KEDA["triggers"]]}, "spec.triggers[1].name"),
        ({"triggers": [{"type": "prometheus", "metadata": {}}]}, "spec.triggers[0].metadata.threshold"),
        ({"triggers": [{"type": "cpu", "metadata": {"value": "50"}}]}, "spec.minReplicaCount"),
        ({"triggers": [{**KEDA["triggers"][0], "metricType": "Utilization"}]}, "spec.triggers[0].metricType"),
        ({"fallback": {"replicas": 1}}, "spec.fallback.failureThreshold"),
        (
            {"fallback": {"failureThreshold": 1, "replicas": 1, "behavior": "scalingModifiers"}},
            "spec.fallback.behavior",
        ),
        (
            {"advanced": {"scalingModifiers": {"formula": "lag +", "target": "5"}}},
            "spec.advanced.scalingModifiers.formula",
        ),
        ({"advanced": {"scalingModifiers": {"formula": "lag"}}}, "spec.advanced.scalingModifiers.target"),
        (
            {
                "advanced": {"scalingModifiers": {"formula": "lag", "target": "1.5"}},
                "fallback": {"failureThreshold": 1, "replicas": 1},
            },
            "spec.advanced.scalingModifiers.target",
        ),
        ({"minReplicas": 1}, "spec.minReplicas"),
    ],
)
def test_scaled_object_that_admission_refuses_is_refused_by_its_path(changes, path):
    assert path in problems({"algorithm": "keda", "spec": {**KEDA, **changes}})


@pytest.mark.parametrize(
    ("spec", "concurrency", "rate"),
    [
        ({}, 100.0, 0.0),
        ({"targetPendingRequests": 7}, 7.0, 0.0),
        ({"scalingMetric": {"concurrency": {"targetValue": 3}}}, 3.0, 0.0),
        (
            {"scalingMetric": {"requestRate": {"targetValue": 9, "window": "2m", "granularity": "5s"}}},
            0.0,
            9.0,
        ),
    ],
)
def test_http_scaled_object_is_read(spec, concurrency, rate):
    read = read_policy({"algorithm": "keda-http", "spec": {"hosts": ["h"], **spec}})

    assert read.problems == []
    assert (read.http.concurrency_target, read.http.rate_target) == (concurrency, rate)
    assert (read.http.keda.max_replicas, read.http.keda.cooldown_s) == (100, 300.0)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"scalingMetric": {"concurrency": {}, "requestRate": {}}}, "spec.scalingMetric.requestRate"),
        ({"replicas": {"min": 5, "max": 2}}, "spec.replicas.min"),
        ({"scalingMetric": {"requestRate": {"window": "often"}}}, "spec.scalingMetric.requestRate.window"),
        (
            {"scalingMetric": {"requestRate": {"granularity": "2m"}}},
            "spec.scalingMetric.requestRate.granularity",
        ),
        (
            {"scalingMetric": {"requestRate": {"granularity": "1us"}}},
            "spec.scalingMetric.requestRate.granularity",
        ),
        ({"scaledownPeriod": -1}, "spec.scaledownPeriod"),
        ({"host": "h"}, "spec.host"),
    ],
)
def test_http_scaled_object_out_of_range_is_refused(spec, path):
    assert path in problems({"algorithm": "keda-http", "spec": spec})
