"""Rules of `pelton revisions`, `rollback` and `rollout`: what is listed, chosen, written and asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pelton.cli import rollback
from pelton.cli.rollback import restored, revisions_of
from pelton.cli.rollout import action_text
from pelton.errors import NotFoundError, PeltonError, UsageError
from pelton.plan.history import FUNCTION_LABEL, FUNCTION_SPEC, FUNCTION_VERSION, REVISION
from pelton.plan.rollout import Rollout, Step

STEPS = (Step(weight=10, pause_s=60.0), Step(weight=100, pause_s=0.0))


def function(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "f",
            "namespace": "ns",
            "uid": "u",
            "annotations": {
                "team": "a",
                "pelton.dev/rollout": "10% 5m",
                "pelton.dev/source-digest": "new",
                "pelton.dev/body-limit": "1Mi",
                "autoscaling.knative.dev/window": "6s",
            },
        },
        "spec": {"image": "new"},
        "status": status,
    }


def serving(
    name: str,
    revision: str,
    *,
    state: str = "Running",
    at: int = 0,
    version: int | None = None,
    uid: str = "u",
    notes=None,
):
    return {
        "metadata": {
            "name": name,
            "labels": {FUNCTION_LABEL: "f"},
            "creationTimestamp": f"2026-01-01T00:00:{at:02}Z",
            "annotations": {
                REVISION: revision,
                FUNCTION_VERSION: str(at if version is None else version),
                **(notes or {}),
            },
            "ownerReferences": [{"kind": "Function", "name": "f", "uid": uid}],
        },
        "status": {"state": state},
    }


def test_revisions_are_listed_newest_first_with_their_shares():
    listed = revisions_of(
        function(
            serving={"revision": "f-3"},
            traffic=[
                {"revisionName": "f-2", "percent": 90},
                {"revisionName": "f-3", "percent": 10},
                {"revisionName": "f-1", "percent": 0, "tag": "old"},
            ],
        ),
        [
            serving("s1", "f-1", at=1),
            serving("s3", "f-3", at=3),
            serving("s0", "f-2", at=0),
            serving("s2", "f-2", at=2),
            serving("x", "f-9", at=9, uid="of another of that name"),
        ],
    )

    assert [(one.name, one.percent, one.tags, one.latest, one.state) for one in listed] == [
        ("f-3", 10, (), True, "Serving"),
        ("f-2", 90, (), False, "Serving"),
        ("f-1", 0, ("old",), False, "Tagged"),
    ]
    assert listed[1].serving["metadata"]["name"] == "s2"


def test_revisions_of_one_second_are_listed_in_the_order_of_their_function():
    made = [serving("a", "f-2", at=1, version=10), serving("b", "f-1", at=1, version=9)]

    assert [one.name for one in revisions_of(function(), made)] == ["f-2", "f-1"]
    assert [one.name for one in revisions_of(function(), made[::-1])] == ["f-2", "f-1"]


@pytest.mark.parametrize(
    ("last_successful", "wanted", "chosen"),
    [("s3", "", "f-2"), ("s1", "", "f-1"), ("s3", "f-1", "f-1"), ("s3", "f-0", "f-0")],
)
def test_rollback_chooses_what_serves_else_the_one_before_else_what_is_asked_for(
    last_successful, wanted, chosen
):
    shown = function(serving={"revision": "f-3", "lastSuccessfulResourceRef": last_successful})
    listed = revisions_of(
        shown,
        [
            serving("s0", "f-0", at=0, state="Canceled"),
            serving("s1", "f-1", at=1),
            serving("s2", "f-2", at=2),
            serving("s3", "f-3", at=3),
        ],
    )

    assert rollback._choose(shown, listed, wanted).name == chosen


def test_rollback_to_what_is_not_kept_lists_what_is():
    shown = function(serving={"revision": "f-2"})
    listed = revisions_of(shown, [serving("s1", "f-1", at=1), serving("s2", "f-2", at=2)])

    with pytest.raises(NotFoundError) as caught:
        rollback._choose(shown, listed, "f-9")
    assert "f-2, f-1" in caught.value.hint
    with pytest.raises(NotFoundError, match="no earlier revision"):
        rollback._choose(shown, listed[:1], "")


def test_restored_function_has_the_spec_and_the_annotations_of_the_revision():
    kept = serving(
        "s1",
        "f-1",
        notes={
            FUNCTION_SPEC: json.dumps({"image": "old"}),
            "team": "b",
            "pelton.dev/source-digest": "old",
            "autoscaling.knative.dev/target": "5",
        },
    )
    (chosen,) = revisions_of(function(), [kept])

    made = restored(function(), chosen)

    assert made["spec"] == {"image": "old"}
    assert made["metadata"]["annotations"] == {
        "team": "a",
        "pelton.dev/rollout": "10% 5m",
        "pelton.dev/source-digest": "old",
        "autoscaling.knative.dev/target": "5",
        "pelton.dev/rolled-back-to": "f-1",
    }


def test_serving_without_a_spec_cannot_be_gone_back_to():
    (chosen,) = revisions_of(function(), [serving("s1", "f-1")])

    with pytest.raises(PeltonError, match="does not say what the spec"):
        restored(function(), chosen)


def rollout(state: str) -> Rollout:
    return Rollout(state=state, revision="f-2", stable="f-1", step=0, steps=STEPS, since="t")


@pytest.mark.parametrize(
    ("state", "verb", "text"),
    [
        ("Progressing", "pause", "pause f-2 0"),
        ("Paused", "resume", "resume f-2 0"),
        ("Progressing", "abort", "abort f-2"),
        ("Paused", "abort", "abort f-2"),
        ("Aborted", "restart", "restart f-2 t"),
    ],
)
def test_what_is_asked_names_revision_and_step(state, verb, text):
    assert action_text(rollout(state), verb, where="") == text


@pytest.mark.parametrize(
    ("state", "verb"),
    [("Paused", "pause"), ("Progressing", "resume"), ("Completed", "abort"), ("Paused", "restart")],
)
def test_what_does_not_apply_is_refused(state, verb):
    with pytest.raises(UsageError, match=f"is {state}; {verb} is for"):
        action_text(rollout(state), verb, where="")
    with pytest.raises(UsageError, match="nothing is rolled out"):
        action_text(None, verb, where="")
