"""Rules of Builder and Serving objects."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.manifest import kinds
from pelton.model.build import BuildResult
from pelton.plan.history import (
    FUNCTION_SPEC,
    Child,
    as_written,
    builder_object,
    builder_status,
    expired,
    image,
    pruned_builders,
    pruned_revisions,
    serving_object,
    serving_status,
    written,
)

FUNCTION: dict[str, Any] = {
    "apiVersion": "core.openfunction.io/v1beta2",
    "kind": "Function",
    "metadata": {
        "name": "f",
        "namespace": "ns",
        "uid": "u",
        "generation": 3,
        "resourceVersion": "17",
        "annotations": {
            "a": "b",
            "pelton.dev/rollout": "10% 5m",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
        },
    },
    "spec": {
        "version": "v1",
        "image": "local/f:1",
        "imageCredentials": {"name": "push"},
        "build": {"builder": "pelton", "srcRepo": {"url": "file:///f"}, "env": {"FUNC_NAME": "f"}},
        "serving": {"triggers": {"http": {"port": 8080}}, "params": {"A": "1"}},
    },
}
OWNER = {
    "apiVersion": "core.openfunction.io/v1beta2",
    "kind": "Function",
    "name": "f",
    "uid": "u",
    "controller": True,
    "blockOwnerDeletion": True,
}


def admitted(obj: dict[str, Any]) -> dict[str, Any]:
    """Name it, as the store does, and let the API's own rules look at it."""
    named = {**obj, "metadata": {**obj["metadata"], "name": obj["metadata"]["generateName"] + "abcde"}}
    return kinds.admit(named).obj


def test_builder_is_an_admissible_copy_of_the_build():
    made = builder_object(FUNCTION, content="c")

    assert admitted(made)["spec"] == made["spec"]
    assert made["spec"] == {
        **FUNCTION["spec"]["build"],
        "image": "local/f:1",
        "imageCredentials": {"name": "push"},
    }
    assert made["metadata"] == {
        "namespace": "ns",
        "generateName": "builder-",
        "labels": {"openfunction.io/function": "f"},
        "annotations": {"pelton.dev/content": "c", "pelton.dev/function-version": "17"},
        "ownerReferences": [OWNER],
    }


def test_serving_is_an_admissible_copy_of_the_serving_with_the_functions_annotations():
    made = serving_object(FUNCTION, revision="f-1", digest="sha256:x")

    assert admitted(made)["spec"] == made["spec"]
    assert made["spec"] == {
        **FUNCTION["spec"]["serving"],
        "version": "v1",
        "image": "local/f:1@sha256:x",
        "imageCredentials": {"name": "push"},
    }
    notes = made["metadata"]["annotations"]
    assert json.loads(notes.pop(FUNCTION_SPEC)) == FUNCTION["spec"]
    assert notes == {"a": "b", "pelton.dev/revision": "f-1", "pelton.dev/function-version": "17"}


def test_a_huge_spec_is_not_copied_into_an_annotation():
    spec = {**FUNCTION["spec"], "serving": {"params": {"A": "x" * 200_000}}}

    assert (
        FUNCTION_SPEC
        not in serving_object({**FUNCTION, "spec": spec}, revision="r", digest="")["metadata"]["annotations"]
    )


def test_what_was_written_comes_back():
    changed = {**FUNCTION, "metadata": {**FUNCTION["metadata"], "annotations": {}}, "spec": {}}

    assert as_written(changed, written(FUNCTION)) == {
        **FUNCTION,
        "metadata": {**FUNCTION["metadata"], "labels": {}},
    }


@pytest.mark.parametrize(
    ("name", "digest", "expected"),
    [
        ("r/f", "sha256:a", "r/f@sha256:a"),
        ("r/f:v1", "sha256:a", "r/f:v1@sha256:a"),
        ("r/f@sha256:b", "sha256:a", "r/f@sha256:a"),
        ("r/f@sha256:b", "", "r/f@sha256:b"),
        ("", "sha256:a", ""),
    ],
)
def test_image_gets_the_digest(name, digest, expected):
    assert image(name, digest) == expected


def test_statuses_say_what_the_contract_names():
    result = BuildResult(bundle="/b", digest="sha256:a", size_bytes=7)

    assert builder_status("Succeeded", duration_s=12.9, result=result) == {
        "phase": "Build",
        "state": "Succeeded",
        "reason": "Succeeded",
        "buildDuration": "12s",
        "resourceRef": {
            "pelton.dev/bundle": "/b",
            "pelton.dev/digest": "sha256:a",
            "pelton.dev/source": "main.py",
        },
        "output": {"digest": "sha256:a", "size": 7},
        "sources": [{"name": "default", "bundle": {"digest": "sha256:a"}}],
    }
    assert serving_status("Running", service="f") == {
        "phase": "Serving",
        "state": "Running",
        "reason": "Running",
        "url": "f",
    }


def child(name: str, state: str = "Succeeded", **changes: Any) -> Child:
    return Child(name=name, state=state, created=f"2026-01-01T00:00:0{name[-1]}Z", **changes)


def test_pruning_keeps_the_newest_of_each_kind_and_what_is_unfinished():
    builders = [
        child("b1"),
        child("b2", "Failed"),
        child("b3"),
        child("b4", "Canceled"),
        child("b5", "Building"),
        child("b6", ""),
    ]

    assert pruned_builders(builders, successful=1, failed=1) == ["b2", "b1"]
    assert pruned_builders(builders, successful=0, failed=0) == ["b4", "b3", "b2", "b1"]
    assert pruned_builders(builders, successful=0, failed=0, keep=["b3"]) == ["b4", "b2", "b1"]


def test_expired_are_completed_and_older_than_they_may_be():
    now = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    builders = [
        child("b1", max_age_s=30.0),
        child("b2", max_age_s=300.0),
        child("b3"),
        child("b4", "Building", max_age_s=1.0),
    ]

    assert expired(builders, now=now) == ["b1"]


names = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(names, names, st.integers(0, 9))
def test_property_pruning_revisions_keeps_those_in_use_and_the_newest(kept, used, limit):
    gone = pruned_revisions(kept, in_use=used, limit=limit)
    left = [name for name in kept if name not in gone]

    assert not set(gone) & set(used)
    spare = [name for name in left if name not in used]
    assert len(spare) <= limit
    assert spare == [name for name in kept if name not in used][len(gone) :]
