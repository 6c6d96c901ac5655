"""What annotations make of a Function that is an app of Dapr."""

from __future__ import annotations

from typing import Any

import pytest

from pelton.model.dapr_app import DaprPorts
from pelton.model.function import Function
from pelton.plan.dapr_app import app_env, dapr_app
from pelton.plan.problem import Problem

PORTS = DaprPorts(http=1, grpc=2, inner=3, token="secret")


def function(**annotations: str) -> Function:
    notes = {f"dapr.io/{name.replace('_', '-')}": value for name, value in annotations.items()}
    return Function(name="web", namespace="default", version="v1", image="i", annotations=notes)


def planned(convention: str = "process", ports: DaprPorts | None = PORTS, **annotations: str) -> Any:
    problems: list[Problem] = []
    return dapr_app(function(**annotations), ports, convention=convention, problems=problems), problems


def test_dapr_app_is_one_where_it_is_enabled_and_served() -> None:
    assert planned(enabled="true")[0].app_id == "web"
    assert planned(enabled="false")[0] is None
    assert planned()[0] is None
    assert planned(ports=None, enabled="true")[0] is None


def test_dapr_app_reads_what_the_injector_reads() -> None:
    app, problems = planned(
        enabled="true", app_id="shop", app_protocol="grpc", app_max_concurrency="4", config="strict",
        enable_app_health_check="true", app_health_check_path="/up", app_health_probe_interval="3",
        app_health_probe_timeout="200", app_health_threshold="5", max_body_size="16Mi",
    )  # fmt: skip

    assert problems == []
    assert (app.app_id, app.protocol, app.max_concurrency, app.configuration) == ("shop", "grpc", 4, "strict")
    assert (app.health_path, app.health_interval_s, app.health_timeout_s, app.health_threshold) == (
        "/up", 3.0, 0.2, 5,
    )  # fmt: skip
    assert app.body_limit_bytes == 16 * 1024 * 1024


@pytest.mark.parametrize(("convention", "asked"), [("process", True), ("asgi", True), ("gcf", False)])
def test_dapr_app_only_programs_are_asked_what_they_want(convention: str, asked: bool) -> None:
    assert planned(convention, enabled="true")[0].asked is asked


@pytest.mark.parametrize(
    "wrong",
    [
        {"app_protocol": "smtp"},
        {"app_max_concurrency": "many"},
        {"app_health_threshold": "0"},
        {"max_body_size": "big"},
        {"enable_app_health_check": "perhaps"},
    ],
)
def test_dapr_app_annotation_that_makes_no_sense_is_a_problem_with_its_place(wrong: dict[str, Any]) -> None:
    _, problems = planned(**{"enabled": "true", **wrong})

    [name] = wrong
    assert [each.path for each in problems] == [f"metadata.annotations[dapr.io/{name.replace('_', '-')}]"]


def test_app_env_names_the_ports_and_hides_nothing_that_an_sdk_reads() -> None:
    env = app_env(planned(enabled="true")[0])

    assert env == {
        "APP_ID": "web",
        "APP_PROTOCOL": "http",
        "DAPR_HTTP_PORT": "1",
        "DAPR_GRPC_PORT": "2",
        "DAPR_API_TOKEN": "secret",
    }
    assert "secret" not in repr(PORTS)
