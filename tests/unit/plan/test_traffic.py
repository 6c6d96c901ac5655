"""Rules of who gets how much of the traffic."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.model.desired import Component as DaprComponent
from pelton.model.desired import Desired, Route, Scaling, Subscription, Workload
from pelton.model.function import Function, Serving
from pelton.plan.traffic import (
    LATEST,
    TRAFFIC,
    Layout,
    TrafficTarget,
    arrange,
    internal,
    layout,
    missing,
    read,
    shares,
    traffic_status,
)


def function(text: str, *, on_serving: bool = False, **changes: Any) -> Function:
    notes = {TRAFFIC: text}
    if on_serving:
        return Function(name="f", namespace="ns", serving=Serving(annotations=notes), **changes)
    return Function(name="f", namespace="ns", annotations=notes, **changes)


def revision(name: str, **changes: Any) -> Desired:
    options = changes.pop("options", {})
    timeout_s = changes.pop("timeout_s", 300.0)
    return Desired(
        workload=Workload(
            namespace="ns", name="f", revision=name, bundle="/b", options=options, request_timeout_s=timeout_s
        ),
        scaling=Scaling(),
        **changes,
    )


ROUTE = Route(namespace="ns", name="f", hosts=("f.ns.localhost",), path="/ns/f")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"percent": 100}]', [TrafficTarget(percent=100)]),
        (
            "- revision: latest\n  percent: 10\n- revisionName: f-1\n  percent: 90\n  tag: old",
            [TrafficTarget(percent=10), TrafficTarget(revision="f-1", percent=90, tag="old")],
        ),
        (
            "[{latestRevision: true, percent: 100}, {revision: f-1, tag: t}]",
            [TrafficTarget(percent=100), TrafficTarget(revision="f-1", tag="t")],
        ),
        (
            "[{latestRevision: false, revision: f-1, percent: 100}]",
            [TrafficTarget(revision="f-1", percent=100)],
        ),
    ],
)
def test_read_understands_knatives_entries(text, expected):
    assert read(function(text)) == (tuple(expected), [])


def test_read_prefers_the_annotation_of_serving():
    both = replace(function("[{percent: 100, tag: a}]", on_serving=True), annotations={TRAFFIC: "nonsense"})

    assert read(both)[1] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "neither YAML nor JSON"),
        ("a: &x [*x]", "must be a list"),
        ("- !!python/object:os.system {}", "neither YAML nor JSON"),
        ("[]", "must be a list of 1 to 20"),
        (json.dumps([{"percent": 5}] * 21), "must be a list of 1 to 20"),
        ("[1]", "entry 0 is no mapping"),
        ("[{percent: 100, weight: 3}]", 'unknown field "weight"'),
        ("[{percent: 101}]", "percent is a whole number"),
        ("[{percent: -1}]", "percent is a whole number"),
        ("[{percent: true}]", "percent is a whole number"),
        ("[{percent: 99.5}]", "percent is a whole number"),
        ("[{percent: '100'}]", "percent is a whole number"),
        ("[{percent: 50}]", "add up to 50"),
        ("[{percent: 60}, {revision: a, percent: 60}]", "add up to 120"),
        ("[{percent: 100, tag: A}]", "a tag has"),
        ("[{percent: 100, tag: a}, {revision: b, tag: a}]", 'the tag "a" is there more than once'),
        ("[{revision: a, latestRevision: true, percent: 100}]", "names a revision and asks for the latest"),
        ("[{latestRevision: false, percent: 100}]", "names no revision"),
        ("[{latestRevision: 1, percent: 100}]", "latestRevision is true or false"),
        ("[{revision: [a], percent: 100}]", "revision is the name of one"),
    ],
)
def test_read_refuses_with_the_path(text, says):
    _, problems = read(function(text))

    assert any(says in problem.message for problem in problems), problems
    assert {(one.reason, one.path) for one in problems} == {
        ("InvalidAnnotation", f"metadata.annotations[{TRAFFIC}]")
    }


def test_missing_names_the_revisions_that_are_not_kept():
    targets = (TrafficTarget(revision="f-1", percent=50), TrafficTarget(revision="f-9", percent=50))

    problems = missing(function("x"), targets, ["f-1", "f-2"])

    assert [problem.reason for problem in problems] == ["RevisionMissing"]
    assert '"f-9"' in problems[0].message
    assert "f-1, f-2" in problems[0].message


@pytest.mark.parametrize(
    ("targets", "rollout", "expected"),
    [
        ([], {}, Layout(primary="new", split=(("new", 100),))),
        (
            [TrafficTarget(percent=10), TrafficTarget(revision="old", percent=90)],
            {},
            Layout(primary="old", split=(("old", 90), ("new", 10))),
        ),
        (
            [TrafficTarget(revision="old", percent=50), TrafficTarget(percent=50)],
            {},
            Layout(primary="new", split=(("new", 50), ("old", 50))),
        ),
        (
            [TrafficTarget(revision="old", percent=100), TrafficTarget(tag="next")],
            {},
            Layout(primary="old", split=(("old", 100),), tags=(("next", "new"),)),
        ),
        ([], {"stable": "old", "weight": 10}, Layout(primary="old", split=(("old", 90), ("new", 10)))),
        ([], {"stable": "old", "weight": 90}, Layout(primary="old", split=(("new", 90), ("old", 10)))),
        ([], {"stable": "old", "weight": 0}, Layout(primary="old", split=(("old", 100),))),
        (
            [TrafficTarget(percent=30), TrafficTarget(revision="other", percent=70)],
            {"stable": "old", "weight": 50},
            Layout(primary="other", split=(("other", 70), ("new", 15), ("old", 15))),
        ),
    ],
)
def test_layout(targets, rollout, expected):
    assert layout("new", targets, **rollout) == expected


@st.composite
def divided(draw):
    names = draw(st.lists(st.sampled_from([LATEST, "a", "b", "c"]), min_size=1, max_size=6))
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(names) - 1, max_size=len(names) - 1)))
    parts = [high - low for low, high in zip([0, *cuts], [*cuts, 100], strict=True)]
    return [TrafficTarget(revision=name, percent=part) for name, part in zip(names, parts, strict=True)]


@given(divided(), st.integers(0, 100), st.booleans())
def test_property_weights_are_positive_and_add_up_to_100(targets, weight, rolling):
    decided = layout("new", targets, stable="old" if rolling else "", weight=weight)

    assert sum(share for _, share in decided.split) == 100
    assert all(share > 0 for _, share in decided.split)
    assert len(dict(decided.split)) == len(decided.split)
    assert decided.live[0] == decided.primary


@given(divided(), st.integers(0, 99))
def test_property_a_larger_weight_never_takes_traffic_from_the_new_revision(targets, weight):
    before, after = (
        dict(layout("new", targets, stable="old", weight=each).split) for each in (weight, weight + 1)
    )

    assert after.get("new", 0) >= before.get("new", 0)
    assert {name: before[name] for name in before if name not in ("new", "old")} == {
        name: after[name] for name in after if name not in ("new", "old")
    }


def test_arrange_of_one_revision_routes_as_ever():
    latest = revision("new", route=ROUTE)

    assert arrange(layout("new"), latest, {}) == latest


def test_arrange_puts_the_primary_first_and_events_to_it_alone():
    events = Subscription(
        namespace="ns",
        function="f",
        name="t",
        input_name="t",
        component=DaprComponent(namespace="ns", name="bus", type="pubsub.jetstream"),
    )
    latest = revision("new", route=ROUTE, subscriptions=(events,), partial=(("a", "b"),))
    old = revision("old", route=replace(ROUTE, hosts=("elsewhere",)), subscriptions=(events,))

    arranged = arrange(layout("new", stable="old", weight=10), latest, {"old": old})

    assert (arranged.revision, arranged.subscriptions, arranged.partial) == ("old", (events,), (("a", "b"),))
    assert [(one.revision, one.subscriptions, one.route) for one in arranged.others] == [("new", (), None)]
    assert arranged.route == replace(ROUTE, split=(("ns/f:old", 90), ("ns/f:new", 10)))


def test_arrange_gives_a_lone_revision_with_a_tag_its_key():
    arranged = arrange(layout("new", [TrafficTarget(percent=100, tag="x")]), revision("new", route=ROUTE), {})

    assert arranged.route == replace(ROUTE, split=(("ns/f:new", 100),), tags=(("x", "ns/f:new"),))


def test_arrange_keeps_http2_and_time_limits_per_revision():
    latest = revision("new", route=ROUTE, options={"protocol": "h2c"}, timeout_s=10.0)
    old = revision("old", timeout_s=20.0)

    arranged = arrange(layout("new", stable="old", weight=10), latest, {"old": old})

    assert arranged.route is not None
    assert (arranged.route.h2c, arranged.route.h2c_keys, arranged.route.timeout_s) == (
        False,
        ("ns/f:new",),
        20.0,
    )
    endless = arrange(layout("new", stable="old"), latest, {"old": revision("old", timeout_s=0.0)})
    assert endless.route is not None
    assert endless.route.timeout_s == 0.0


def test_arrange_of_a_function_without_http_has_no_route():
    assert arrange(layout("new"), revision("new"), {}).route is None


def test_status_lists_shares_then_tags():
    targets = [TrafficTarget(percent=20, tag="next"), TrafficTarget(revision="old", percent=80)]
    live = arrange(layout("new", targets), revision("new", route=ROUTE), {"old": revision("old")})

    assert shares(live) == (("old", 80), ("new", 20))
    assert traffic_status(live, latest="new") == [
        {"revisionName": "old", "percent": 80, "latestRevision": False},
        {"revisionName": "new", "percent": 20, "latestRevision": True},
        {
            "revisionName": "new",
            "percent": 0,
            "latestRevision": True,
            "tag": "next",
            "host": "next-f.ns.localhost",
        },
    ]
    assert traffic_status(revision("new"), latest="new") == []


@pytest.mark.parametrize(
    ("labels", "serving", "expected"),
    [
        ({}, {}, False),
        ({"networking.knative.dev/visibility": "cluster-local"}, {}, True),
        ({}, {"networking.knative.dev/visibility": "cluster-local"}, True),
        ({"networking.knative.dev/visibility": "public"}, {}, False),
    ],
)
def test_internal_by_knatives_label(labels, serving, expected):
    assert internal(Function(name="f", labels=labels, serving=Serving(labels=serving))) is expected
