"""Rules of the status."""

from __future__ import annotations

from typing import Any

from pelton.model.desired import Desired, Route, Scaling, Workload
from pelton.plan.conditions import Phase, function_status

RUNNING = Phase(state="Running", ref="serving-a", last_successful="serving-a", revision="hello-1")
BUILT = Phase(state="Succeeded", content="abc")


def live(revision: str = "hello-1", *hosts: str, **changes: Any) -> Desired:
    return Desired(
        workload=Workload(namespace="default", name="hello", revision=revision, bundle="/b"),
        scaling=changes.pop("scaling", Scaling()),
        route=Route(
            namespace="default",
            name="hello",
            hosts=hosts or ("hello.default.localhost",),
            path="/default/hello",
        ),
        **changes,
    )


def status(previous: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return function_status(
        previous or {},
        **{
            "generation": 3,
            "build": BUILT,
            "serving": RUNNING,
            "live": live(),
            "digest": "sha256:x",
            "partial": (),
            "gateway": "http://127.0.0.1:8080",
            "now": "2026-01-01T00:00:00Z",
            "latest": "hello-1",
            **changes,
        },
    )


def condition(made: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(each for each in made["conditions"] if each["type"] == kind)


def test_status_of_a_running_function():
    assert status() == {
        "observedGeneration": 3,
        "build": {"state": "Succeeded", "reason": "Succeeded", "resourceHash": "abc"},
        "serving": {
            "state": "Running",
            "reason": "Running",
            "resourceRef": "serving-a",
            "lastSuccessfulResourceRef": "serving-a",
            "revision": "hello-1",
            "service": "hello",
        },
        "addresses": [
            {"type": "External", "value": "http://hello.default.localhost:8080/"},
            {"type": "Internal", "value": "http://127.0.0.1:8080/default/hello/"},
        ],
        "route": {"hosts": ["hello.default.localhost"], "paths": [{"type": "PathPrefix", "value": "/"}]},
        "traffic": [{"revisionName": "hello-1", "percent": 100, "latestRevision": True}],
        "revision": {"imageDigest": "sha256:x"},
        "sources": [{"name": "default", "bundle": {"digest": "sha256:x"}}],
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Running",
                "message": "",
                "observedGeneration": 3,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            },
            {
                "type": "LocalTarget",
                "status": "True",
                "reason": "Complete",
                "message": "",
                "observedGeneration": 3,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            },
        ],
    }


def test_same_input_later_gives_the_same_status():
    first = status()

    assert status(first, now="2027-01-01T00:00:00Z") == first


def test_transition_time_moves_only_when_the_status_does():
    first = status()
    broken = status(first, serving=Phase(state="Failed", message="no"), now="2027-01-01T00:00:00Z")

    assert condition(broken, "Ready")["lastTransitionTime"] == "2027-01-01T00:00:00Z"
    assert condition(broken, "LocalTarget")["lastTransitionTime"] == "2026-01-01T00:00:00Z"


def test_conditions_of_others_are_kept():
    other = {"type": "Audited", "status": "True"}

    assert status({"conditions": [other]})["conditions"][-1] == other


def test_unhonoured_fields_make_the_local_target_partial():
    made = condition(status(partial=(("spec.imageCredentials", "not used"),)), "LocalTarget")

    assert (made["status"], made["reason"]) == ("False", "Partial")
    assert made["message"] == "spec.imageCredentials: not used"


def test_failure_shows_the_last_20_lines_and_who_keeps_serving():
    made = status(build=Phase(state="Failed", message="no pip", log_tail=tuple(map(str, range(25)))))

    assert made["build"]["message"].splitlines() == ["no pip", *map(str, range(5, 25))]
    assert condition(made, "Ready")["message"] == "no pip (revision hello-1 keeps serving)"


def test_progress_is_unknown():
    made = condition(status(serving=Phase(state="Starting"), live=None), "Ready")

    assert (made["status"], made["reason"]) == ("Unknown", "Starting")


def test_addresses_leave_out_port_80_and_wildcards_and_name_a_reachable_host():
    made = status(gateway="http://0.0.0.0:80", live=live("hello-1", "*.example.org", "a.example.org"))

    assert [each["value"] for each in made["addresses"]] == [
        "http://a.example.org/",
        "http://127.0.0.1/default/hello/",
    ]


def test_nothing_is_addressed_while_nothing_serves():
    assert "addresses" not in status(live=None)
    assert "addresses" not in status(gateway="")


def test_status_names_the_object_that_scales_until_it_is_gone():
    made = status(live=live(scaling=Scaling(owner="HTTPScaledObject default/web")))

    said = condition(made, "ScaledByObject")
    assert (said["status"], said["reason"]) == ("True", "HTTPScaledObject")
    assert said["message"].startswith("HTTPScaledObject default/web decides")
    after = status(made, live=live())
    assert not [one for one in after["conditions"] if one["type"] == "ScaledByObject"]
