"""Resiliency as Dapr writes it: both ways without loss, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from pelton.errors import InvalidError
from pelton.manifest.dapr_resiliency import RESILIENCY
from pelton.manifest.kinds import admit
from pelton.model.resiliency import RetryPolicy, code_ranges


def resiliency(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Resiliency",
        "metadata": {"name": "myresiliency"},
        "spec": spec,
    }


FULL = resiliency(
    policies={
        "timeouts": {"general": "5s", "important": "1m0s"},
        "retries": {
            "pubsubRetry": {"policy": "constant", "duration": "5s", "maxInterval": "1m0s", "maxRetries": 10},
            "some": {
                "policy": "exponential",
                "maxInterval": "15s",
                "maxRetries": -1,
                "matching": {"httpStatusCodes": "429,500-599", "gRPCStatusCodes": "1,13-14"},
            },
        },
        "circuitBreakers": {
            "simpleCB": {
                "maxRequests": 1,
                "interval": "8s",
                "timeout": "45s",
                "trip": "consecutiveFailures > 8",
            }
        },
    },
    targets={
        "apps": {"appB": {"timeout": "general", "retry": "some", "circuitBreaker": "simpleCB"}},
        "actors": {
            "myActor": {
                "timeout": "general",
                "circuitBreaker": "simpleCB",
                "circuitBreakerScope": "both",
                "circuitBreakerCacheSize": 5000,
            }
        },
        "components": {"statestore": {"outbound": {"timeout": "general", "retry": "some"}}},
    },
) | {"scopes": ["app1", "app2"]}


def problems(**spec: Any) -> dict[str, str]:
    with pytest.raises(InvalidError) as caught:
        admit(resiliency(**spec))
    return dict(caught.value.causes)


def test_it_is_read_and_written_without_loss() -> None:
    found = RESILIENCY.decode(FULL)[0]
    assert found.retries["some"] == RetryPolicy(
        policy="exponential", max_interval_s=15, http_codes="429,500-599", grpc_codes="1,13-14"
    )
    assert found.scopes == ("app1", "app2")
    assert RESILIENCY.decode(RESILIENCY.encode(found))[0] == found


def test_it_is_admitted() -> None:
    assert admit(FULL).warnings == ("spec.targets.actors.myActor: has no effect here: there are no actors",)


def test_a_policy_that_is_missing_is_named() -> None:
    found = problems(
        policies={"retries": {"important": {}}},
        targets={
            "apps": {"a": {"retry": "importent"}},
            "components": {"c": {"inbound": {"timeout": "t"}}},
        },
    )
    assert "did you mean important?" in found["spec.targets.apps.a.retry"]
    assert "there is no policy" in found["spec.targets.components.c.inbound.timeout"]


def test_a_condition_must_compile() -> None:
    found = problems(
        policies={"circuitBreakers": {"cb": {"trip": "failures > 5"}, "n": {"trip": "requests"}}}
    )
    assert "consecutiveFailures" in found["spec.policies.circuitBreakers.cb.trip"]
    assert "bool" in found["spec.policies.circuitBreakers.n.trip"]


def test_codes_must_be_codes() -> None:
    found = problems(policies={"retries": {"r": {"matching": {"httpStatusCodes": "5xx"}}}})
    assert "neither a code nor a range" in found["spec.policies.retries.r.matching.httpStatusCodes"]


def test_values_have_bounds() -> None:
    found = problems(policies={"timeouts": {"t": "-1s"}, "retries": {"r": {"policy": "linear"}}})
    assert set(found) == {"spec.policies.timeouts.t", "spec.policies.retries.r.policy"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ()), ("404", ((404, 404),)), ("429, 500-599,", ((429, 429), (500, 599)))],
)
def test_ranges_of_codes(text: str, expected: tuple[tuple[int, int], ...]) -> None:
    assert code_ranges(text) == expected


@pytest.mark.parametrize("text", ["a", "5-", "-5", "599-500", "1-2-3"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"range|code"):
        code_ranges(text)
