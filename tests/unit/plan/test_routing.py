"""Precedence of routes: the contract's order, hosts, tags, conflicts, explanations."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.model.desired import Route
from pelton.model.routing import (
    EXTERNAL,
    INTERNAL,
    Backend,
    FieldMatch,
    Match,
    PathMatch,
    Rule,
    StandaloneRoute,
)
from pelton.plan.routing import (
    Entry,
    Request,
    conflicts,
    covers,
    decide,
    entries_of,
    explain,
    intersection,
    order_of,
    virtual_hosts,
)


def function(name: str = "hello", **changes: object) -> Route:
    values: dict[str, object] = {
        "namespace": "default",
        "name": name,
        "hosts": (f"{name}.default.localhost",),
        "path": f"/default/{name}",
    }
    return Route(**(values | changes))  # type: ignore[arg-type]


def http_route(
    name: str, *rules: Rule, hosts: tuple[str, ...] = ("*",), created: str = ""
) -> StandaloneRoute:
    return StandaloneRoute(
        namespace="default", name=name, created=created, hosts=((EXTERNAL, hosts),), rules=rules
    )


def rule(backend: str, *matches: Match) -> Rule:
    return Rule(matches=matches or (Match(),), backends=(Backend(key=backend),))


def prefix(value: str, **more: object) -> Match:
    return Match(path=PathMatch(value=value), **more)  # type: ignore[arg-type]


def exact(value: str) -> Match:
    return Match(path=PathMatch(type="Exact", value=value))


def regex(value: str) -> Match:
    return Match(path=PathMatch(type="RegularExpression", value=value))


def header(name: str, value: str, kind: str = "Exact") -> FieldMatch:
    return FieldMatch(name=name, value=value, type=kind)


def answer(routes: Sequence[Route | StandaloneRoute], request: Request, port: str = EXTERNAL) -> str | None:
    entries = [entry for one in routes for entry in entries_of(one, port)]
    found = decide(virtual_hosts(entries), request)
    return found.rule.backends[0].key if found else None


# -- hosts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "host", "wanted"),
    [
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "notexample.com", False),
        ("example.com", "example.com", True),
        ("*", "anything", True),
        ("*.example.com", "*.b.example.com", True),
        ("*.b.example.com", "*.example.com", False),
    ],
)
def test_covers_takes_one_or_more_labels_and_never_the_apex(pattern, host, wanted):
    assert covers(pattern, host) is wanted


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("*.example.com", "foo.example.com", "foo.example.com"),
        ("foo.example.com", "*.example.com", "foo.example.com"),
        ("*", "foo.example.com", "foo.example.com"),
        ("*.example.com", "example.com", None),
        ("*.example.com", "*.org", None),
        ("*.example.com", "*.a.example.com", "*.a.example.com"),
    ],
)
def test_intersection_is_the_narrower_pattern(one, other, common):
    assert intersection(one, other) == common


def test_narrower_host_goes_first_and_the_wider_answers_what_it_leaves():
    routes = [
        http_route("wide", rule("wide"), hosts=("*.example.com",)),
        http_route("wider", rule("wider"), hosts=("*",)),
        http_route("narrow", rule("narrow", prefix("/v1")), hosts=("api.example.com",)),
        http_route("middle", rule("middle"), hosts=("*.b.example.com",)),
    ]

    found = [
        answer(routes, Request(host=host, path=path))
        for host, path in (
            ("api.example.com", "/v1/x"),
            ("api.example.com", "/v2"),
            ("a.b.example.com", "/v1"),
            ("example.com", "/"),
        )
    ]

    assert found == ["narrow", "wide", "middle", "wider"]


# -- precedence ----------------------------------------------------------------------------------------------


def test_precedence_follows_theorder_of_of_the_contract():
    routes = [
        http_route(
            "all",
            rule("catch-all"),
            rule("longer", prefix("/a/b")),
            rule("shorter", prefix("/a")),
            rule("exact", exact("/a/b")),
            rule("method", prefix("/m", method="POST")),
            rule("no-method", prefix("/m", headers=(header("x", "1"), header("y", "2")))),
            rule("two-headers", prefix("/h", headers=(header("x", "1"), header("y", "2")))),
            rule("one-header", prefix("/h", headers=(header("x", "1"),))),
            rule("query", prefix("/q", query=(header("k", "v"),))),
            rule("no-query", prefix("/q")),
        )
    ]
    both = {"x": "1", "y": "2"}

    found = [
        answer(routes, request)
        for request in (
            Request(host="h", path="/a/b"),
            Request(host="h", path="/a/b/c"),
            Request(host="h", path="/a/x"),
            Request(host="h", path="/ab"),
            Request(host="h", path="/m", method="POST", headers=both),
            Request(host="h", path="/m", method="GET", headers=both),
            Request(host="h", path="/h", headers=both),
            Request(host="h", path="/h", headers={"x": "1"}),
            Request(host="h", path="/q?k=v&k=w"),
            Request(host="h", path="/q?k=w&k=v"),
        )
    ]

    assert found == [
        "exact",
        "longer",
        "shorter",
        "catch-all",
        "method",
        "no-method",
        "two-headers",
        "one-header",
        "query",
        "no-query",
    ]


def test_equal_matches_go_to_the_older_route_then_by_name_then_to_the_first_rule():
    young = http_route("a", rule("young"), created="2026-02-01T00:00:00Z")
    old = http_route("b", rule("old"), created="2026-01-01T00:00:00Z")
    same = http_route("c", rule("same"), created="2026-01-01T00:00:00Z")
    twice = http_route("d", rule("first"), rule("second"))

    assert answer([young, same, old], Request(host="h")) == "old"
    assert answer([young, same], Request(host="h")) == "same"
    assert answer([twice], Request(host="h")) == "first"


_PATHS = st.sampled_from(["/", "/a", "/a/b", "/b"])
_FIELDS = st.lists(
    st.builds(
        FieldMatch,
        name=st.sampled_from(["x", "y"]),
        value=st.sampled_from(["1", "2"]),
        type=st.sampled_from(["Exact", "RegularExpression"]),
    ),
    max_size=2,
    unique_by=lambda item: item.name,
).map(tuple)
_MATCHES = st.builds(
    Match,
    path=st.builds(
        PathMatch, type=st.sampled_from(["Exact", "PathPrefix", "RegularExpression"]), value=_PATHS
    ),
    headers=_FIELDS,
    query=_FIELDS,
    method=st.sampled_from(["", "GET", "POST"]),
)
_ROUTES = st.lists(
    st.builds(
        lambda name, created, hosts, matches: http_route(
            name, *(rule(name, match) for match in matches), hosts=hosts, created=created
        ),
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from(["", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"]),
        st.lists(st.sampled_from(["*", "*.com", "a.com", "b.a.com"]), min_size=1, unique=True).map(tuple),
        st.lists(_MATCHES, min_size=1, max_size=3),
    ),
    max_size=4,
    unique_by=lambda one: one.name,
)
_REQUESTS = st.builds(
    Request,
    host=st.sampled_from(["a.com", "b.a.com", "c.com", "org"]),
    path=st.sampled_from(["/", "/a", "/a/b/c", "/b?x=1&y=2", "/ab"]),
    method=st.sampled_from(["GET", "POST", "PUT"]),
    headers=st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"])),
)


def _entries(routes: list[StandaloneRoute]) -> list[Entry]:
    return [entry for one in routes for entry in entries_of(one, EXTERNAL)]


@given(_ROUTES)
def test_precedence_is_a_totalorder_of(routes):
    ordered = sorted(_entries(routes), key=order_of)

    assert all(order_of(one) < order_of(other) for one, other in pairwise(ordered))


@given(_ROUTES, st.randoms(use_true_random=False))
def test_virtual_hosts_do_not_depend_on_insertionorder_of(routes, chance: random.Random):
    entries = _entries(routes)
    shuffled = list(entries)
    chance.shuffle(shuffled)

    assert virtual_hosts(entries) == virtual_hosts(shuffled)


@given(_ROUTES, _REQUESTS)
def test_decision_is_the_smallest_matching_entry_and_explanation_agrees(routes, request):
    entries = _entries(routes)

    found = explain(entries, request)

    matching = [one for one in found.others if "the host" not in one.why[:8]]
    assert found.winner == decide(virtual_hosts(entries), request)
    assert len(found.others) == len(entries) - (found.winner is not None)
    assert all(one.why for one in matching)
    if found.winner is not None:
        assert all(
            order_of(found.winner) < order_of(one.entry)
            for one in found.others
            if one.why.startswith(("its ", "it ", "a path", "the winner"))
        )


# -- functions -----------------------------------------------------------------------------------------------


def test_function_answers_on_its_host_and_under_its_path_on_other_hosts():
    routes = [function(), function("other", path="/default/hello/deep")]

    found = [
        answer(routes, Request(host=host, path=path))
        for host, path in (
            ("hello.default.localhost", "/anything"),
            ("localhost", "/default/hello"),
            ("localhost", "/default/hello/x"),
            ("localhost", "/default/hello/deep/x"),
            ("localhost", "/default/hellox"),
        )
    ]

    assert found == ["default/hello", "default/hello", "default/hello", "default/other", None]


def test_paths_of_functions_are_not_served_under_hosts_that_a_route_names():
    routes: list[Route | StandaloneRoute] = [
        function(),
        http_route("api", rule("api", prefix("/v1")), hosts=("api.example.com",)),
    ]

    assert answer(routes, Request(host="api.example.com", path="/default/hello")) is None


def test_rules_of_a_function_keep_their_matches_and_go_to_its_revisions():
    split = (("default/hello:r2", 90), ("default/hello:r1", 10))
    only = function(rules=(rule("ignored", prefix("/api", method="GET")),), split=split, path="")
    hosts = virtual_hosts(entries_of(only, EXTERNAL))
    (entry,) = hosts["hello.default.localhost"]

    assert [(one.key, one.weight) for one in entry.rule.backends] == list(split)
    assert answer([only], Request(host="hello.default.localhost", path="/api/x", method="POST")) is None


def test_tag_chooses_its_revision_by_header_and_by_host():
    tagged = function(tags=(("beta", "default/hello:r2"),))
    by_tag = {"knative-serving-tag": "beta"}

    found = [
        answer([tagged], request)
        for request in (
            Request(host="hello.default.localhost"),
            Request(host="hello.default.localhost", headers=by_tag),
            Request(host="hello.default.localhost", headers={"knative-serving-tag": "other"}),
            Request(host="beta-hello.default.localhost"),
            Request(host="any", path="/default/hello/x", headers=by_tag),
        )
    ]

    newer = "default/hello:r2"
    assert found == ["default/hello", newer, "default/hello", newer, newer]


def test_internal_function_is_served_on_the_internal_port_only():
    inside = function(internal=True, internal_hosts=("hello.default.svc.cluster.local",))
    public = function("public", internal_hosts=("public.default.svc.cluster.local",))

    def asks(host: str, port: str) -> str | None:
        return answer([inside, public], Request(host=host), port)

    assert entries_of(inside, EXTERNAL) == ()
    assert asks("hello.default.localhost", INTERNAL) == "default/hello"
    assert asks("hello.default.svc.cluster.local", INTERNAL) == "default/hello"
    assert asks("public.default.svc.cluster.local", INTERNAL) == "default/public"
    assert asks("public.default.svc.cluster.local", EXTERNAL) is None


def test_function_for_https_only_redirects_on_the_plain_port():
    (entry,) = entries_of(function(https_only=True, path=""), EXTERNAL, 8443)

    assert entry.rule.redirect is not None
    assert (entry.rule.redirect.scheme, entry.rule.redirect.port, entry.rule.redirect.status) == (
        "https",
        8443,
        301,
    )
    assert entries_of(function(https_only=True, path=""), "https", 8443)[0].rule.redirect is None


# -- conflicts and reasons -----------------------------------------------------------------------------------


def test_conflict_names_both_routes_once_per_host():
    old = http_route("old", rule("old", prefix("/a"), prefix("/b")), hosts=("a.com",), created="1")
    new = http_route("new", rule("new", prefix("/b"), prefix("/a")), hosts=("a.com", "b.com"), created="2")

    (found,) = conflicts([*entries_of(old, EXTERNAL), *entries_of(new, EXTERNAL)])

    assert (found.winner, found.loser, found.host) == (
        "HTTPRoute default/old",
        "HTTPRoute default/new",
        "a.com",
    )


def test_conflict_with_a_function_is_found_whateverorder_of_headers_are_written_in():
    one = http_route(
        "one", rule("x", prefix("/", headers=(header("a", "1"), header("b", "2")))), hosts=("h",)
    )
    other = function(
        hosts=("h",), rules=(rule("", prefix("/", headers=(header("b", "2"), header("a", "1")))),), path=""
    )

    (found,) = conflicts([*entries_of(one, EXTERNAL), *entries_of(other, EXTERNAL)])

    assert {found.winner, found.loser} == {"HTTPRoute default/one", "Function default/hello"}


def test_explanation_gives_each_loser_its_reason():
    routes = [
        http_route("winner", rule("w", prefix("/a/b", method="GET")), created="1"),
        http_route("shorter", rule("s", prefix("/a"))),
        http_route("method", rule("m", prefix("/a/b", method="POST"))),
        http_route("header", rule("h", prefix("/a/b", headers=(header("x", "1"),)))),
        http_route("younger", rule("y", prefix("/a/b", method="GET")), created="2"),
        http_route("host", rule("o"), hosts=("b.com",)),
        http_route("query", rule("q", prefix("/a", query=(header("k", "v"),)))),
        http_route("regex", rule("r", regex("/c.*"))),
    ]

    found = explain(_entries(routes), Request(host="a.com", path="/a/b?k=w"))

    assert found.winner is not None
    assert found.winner.route == "default/winner"
    assert {one.entry.route.removeprefix("default/"): one.why for one in found.others} == {
        "shorter": "its path /a is shorter than /a/b",
        "method": "the method is GET, not POST",
        "header": "the header x is missing",
        "younger": "it is younger (2) than the winner (1)",
        "host": "the host a.com is not b.com",
        "query": "the query parameter k is w, not v",
        "regex": "the path does not match the expression /c.*",
    }


def test_entry_names_are_unique_in_a_port():
    tagged = function(tags=(("beta", "default/hello:r2"), ("old", "default/hello:r1")), fronts=("/a", "/b"))
    names = [entry.name for entry in entries_of(tagged, EXTERNAL)]

    assert len(set(names)) == len(names)


def test_entries_of_equal_routes_are_made_once():
    assert entries_of(function(), EXTERNAL) is entries_of(replace(function(), timeout_s=300.0), EXTERNAL)
