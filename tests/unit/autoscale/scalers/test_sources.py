"""Where parameters come from, and the policy made of them (contract: autoscaling, sections 1.4 and 2)."""

from __future__ import annotations

from typing import Any

import pytest

from pelton.autoscale.keda import Keda
from pelton.autoscale.scalers.authentication import parameters_of
from pelton.autoscale.scalers.environment import container_variables, referred
from pelton.autoscale.scalers.joined import joined, names_of, policy_of
from pelton.errors import ScalerError
from pelton.model.keda import EnvTarget, KeyTarget, TriggerAuthentication
from pelton.model.scaler import ScalerReading

OBJECTS = {("ConfigMap", "c"): {"a": "1", "b": "2"}, ("Secret", "s"): {"b": "3", "p": "secret"}}


def entries(kind, name):
    return OBJECTS.get((kind, name))


def parameters(authentication, **more):
    return parameters_of(
        authentication,
        entries=entries,
        variables=lambda container: {"V": f"from {container or 'first'}"},
        file=more.get("file", lambda _path: "{}"),
    )


def test_later_sources_overwrite_earlier_ones_and_missing_ones_are_empty():
    made = parameters(
        TriggerAuthentication(
            name="t",
            env=(EnvTarget(parameter="x", name="V"), EnvTarget(parameter="y", name="none", container="c")),
            config_map_targets=(KeyTarget(parameter="x", name="c", key="a"),),
            secret_targets=(
                KeyTarget(parameter="p", name="s", key="p"),
                KeyTarget(parameter="q", name="gone", key="p"),
            ),
        )
    )

    assert made == {"x": "1", "y": "", "p": "secret", "q": ""}


def test_file_replaces_all_other_sources():
    authentication = TriggerAuthentication(
        name="t", file_path="a.json", secret_targets=(KeyTarget(parameter="p", name="s", key="p"),)
    )

    assert parameters(authentication, file=lambda path: f'{{"path": "{path}"}}') == {"path": "a.json"}
    with pytest.raises(ScalerError, match="no JSON map"):
        parameters(authentication, file=lambda _path: "[1]")


def test_oauth2_client_gives_its_parameters():
    made = parameters(
        TriggerAuthentication(
            name="t",
            oauth2={
                "clientId": "i",
                "tokenUrl": "http://t",
                "scopes": ["a", "b"],
                "clientSecret": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
            },
        )
    )

    assert made["clientSecret"] == "secret"
    assert (made["clientID"], made["scopes"]) == ("i", "a,b")


def test_sources_of_a_cloud_are_refused_by_name():
    with pytest.raises(ScalerError, match="hashiCorpVault"):
        parameters(TriggerAuthentication(name="t", vault={"address": "x"}))


POD = {
    "containers": [
        {
            "name": "one",
            "envFrom": [{"configMapRef": {"name": "c"}, "prefix": "P_"}, {"secretRef": {"name": "s"}}],
            "env": [
                {"name": "b", "value": "$(P_a)-$(unknown)-$$(P_a)"},
                {"name": "key", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
                {"name": "field", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
        },
        {"name": "two", "env": [{"name": "z", "value": "2"}]},
    ]
}


def test_environment_of_a_container():
    assert container_variables(POD, entries) == {
        "P_a": "1",
        "P_b": "2",
        "b": "1-$(unknown)-$(P_a)",
        "p": "secret",
        "key": "secret",
    }
    assert container_variables(POD, entries, "two") == {"z": "2"}
    assert container_variables(None, entries) == {}
    assert referred(POD) == {("ConfigMap", "c"), ("Secret", "s")}


SPEC: dict[str, Any] = {
    "minReplicaCount": 0,
    "maxReplicaCount": 5,
    "triggers": [
        {"type": "external", "metadata": {"scalerAddress": "x:1"}},
        {"type": "redis", "name": "jobs", "metadata": {}, "metricType": "Value"},
    ],
}


def reading(value, target=10.0, active=True, metric="m"):
    return ScalerReading(metric=metric, value=value, target=target, active=active)


def test_policy_takes_its_targets_from_what_is_read():
    policy, problems = policy_of(SPEC, {"autoscaling.keda.sh/paused-scale-in": "true", "other": "x"})
    made, values = joined(
        policy, {"s0-external": [reading(3, 1.5, metric="a"), reading(4, 2.5, metric="b")], "jobs": None}
    )

    assert not problems
    assert policy.paused_in
    assert names_of(SPEC["triggers"]) == ("s0-external", "jobs")
    assert [(one.name, one.type, one.target) for one in made.triggers] == [
        ("s0-external/a", "external", 1.5),
        ("s0-external/b", "external", 2.5),
        ("jobs", "redis", 1.0),
    ]
    assert values["jobs"] is None
    first = values["s0-external/a"]
    assert first is not None
    assert first.value == 3


def test_activity_is_what_the_scaler_says_not_the_value():
    policy, _ = policy_of(SPEC, {})
    inactive, values = joined(
        policy, {"s0-external": [reading(30, active=False)], "jobs": [reading(0, active=False)]}
    )
    keda = Keda(inactive, now=0.0)

    assert keda.decide(now=1.0, values=values, current=0).desired == 0

    active, values = joined(policy, {"s0-external": [reading(30)], "jobs": [reading(0, active=False)]})
    keda.adopt(active)
    assert keda.decide(now=2.0, values=values, current=0, chain=True).desired == 3
