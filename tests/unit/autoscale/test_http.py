"""Rules of the HTTP add-on: counting, deciding, and which route a request counts for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pelton.autoscale.http import Counts, HttpRule, HttpScaler, RoutingTable
from pelton.model.scaling import HttpScaling, KedaPolicy


def table(*rules: Any) -> RoutingTable:
    return RoutingTable(
        HttpRule(namespace="d", name=name, host=host, prefix=prefix, **more)
        for name, host, prefix, more in rules
    )


def found(routes: RoutingTable, host: str, path: str = "/", **headers: str) -> str | None:
    rule = routes.find(host, path, {name: [value] for name, value in headers.items()})
    return rule.name if rule else None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("foo.bar.example.com", "bar"),
        ("foo.baz.example.com", "example"),
        ("a.b.c.example.com:8080", "example"),
        ("EXAMPLE.com", "all"),
        ("bar.other.com", "all"),
        ("exact.example.com", "exact"),
        ("[::1]:80", "all"),
    ],
)
def test_row_hosts_from_exact_to_catch_all(host, expected):
    routes = table(
        ("example", "*.example.com", "/", {}),
        ("bar", "*.bar.example.com", "/", {}),
        ("all", "*", "/", {}),
        ("exact", "exact.example.com", "/", {}),
    )

    assert found(routes, host) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/", "root"), ("/api", "api"), ("/api/", "api"), ("/api/v1/x", "v1"), ("/apis", "root")],
)
def test_longest_prefix_on_whole_segments_counts(path, expected):
    routes = table(("root", "h", "/", {}), ("api", "h", "/api", {}), ("v1", "h", "api/v1/", {}))

    assert found(routes, "h", path) == expected


def test_headers_that_do_not_match_end_the_host_step_without_shorter_prefixes():
    routes = table(
        ("strict", "h.x", "/api", {"headers": (("env", "a"),)}),
        ("short", "h.x", "/", {}),
        ("all", "*", "/", {}),
    )

    assert found(routes, "h.x", "/api/1", env="a") == "strict"
    assert found(routes, "h.x", "/api/1", env="b") == "all"
    assert found(routes, "h.x", "/other") == "short"


def test_entries_of_a_prefix_go_by_headers_values_age_and_name():
    routes = table(
        ("old", "h", "/", {"created": 1.0}),
        ("new", "h", "/", {"created": 2.0}),
        ("any", "h", "/", {"headers": (("env", None),)}),
        ("value", "h", "/", {"headers": (("env", "a"),), "created": 9.0}),
        ("two", "h", "/", {"headers": (("env", None), ("user", None))}),
    )

    assert found(routes, "h", env="a", user="u") == "two"
    assert found(routes, "h", env="a") == "value"
    assert found(routes, "h", env="b") == "any"
    assert found(routes, "h") == "old"
    same = table(("a", "h", "/", {}), ("b", "h", "/", {}))
    assert found(same, "h") == "b"


def test_no_rule_is_found_without_a_catch_all():
    assert found(table(("a", "h", "/", {})), "other") is None


def test_counts_join_pods_and_survive_restarts():
    counts = Counts()

    assert counts.take({"a": (2.0, 100.0), "b": (1.0, 50.0)}) == (3.0, 0.0)  # first sight: no rate
    assert counts.take({"a": (4.0, 110.0), "b": None}) == (5.0, 10.0)  # b keeps its concurrency
    assert counts.take({"a": (0.0, 7.0), "b": (0.0, 55.0)}) == (0.0, 12.0)  # a began anew
    assert counts.take({"b": (1.0, 56.0)}) == (1.0, 1.0)  # a is gone


def test_concurrency_scales_like_a_trigger():
    scaler = HttpScaler(HttpScaling(concurrency_target=10.0, keda=KedaPolicy(cooldown_s=30.0)), now=0.0)
    scaler.record(now=0.0, concurrency=25.0)
    first = scaler.decide(now=0.0, current=0)
    second = scaler.decide(now=15.0, current=1)
    scaler.record(now=20.0, concurrency=0.0)

    assert (first.desired, second.desired, first.algorithm) == (1, 3, "keda-http")
    assert scaler.decide(now=45.0, current=3).desired == 3
    assert scaler.decide(now=46.0, current=3).desired == 0


@pytest.mark.parametrize(("whole", "value", "replicas"), [(True, 2.0, 2), (False, 1.125, 1)])
def test_rate_is_averaged_over_its_ring_and_rounded_up_for_the_scaled_object(whole, value, replicas):
    policy = HttpScaling(rate_target=1.05, rate_window_s=10.0, whole_rate=whole)
    scaler = HttpScaler(policy, now=0.0)
    for second, count in ((0, 2), (1, 1), (2, 0), (3, 1.5)):
        scaler.record(now=float(second), requests=float(count))
    decision = scaler.decide(now=3.0, current=1)

    assert (decision.proposals[0].value, decision.desired) == (value, replicas)


def test_restored_state_decides_the_same():
    policy = HttpScaling(rate_target=5.0, concurrency_target=3.0)
    scaler = HttpScaler(policy, now=0.0)
    for second in range(20):
        scaler.record(now=float(second), requests=second, concurrency=second / 2)
        copy = HttpScaler.from_dict(policy, json.loads(json.dumps(scaler.to_dict())))

        assert copy.decide(now=second + 0.5, current=2) == scaler.decide(now=second + 0.5, current=2)


def test_both_metrics_count_where_both_are_asked_for():
    policy = HttpScaling(rate_target=1.0, concurrency_target=10.0, whole_rate=False)
    scaler = HttpScaler(replace(policy, keda=KedaPolicy(max_replicas=50)), now=0.0)
    scaler.record(now=0.0, requests=3.0, concurrency=80.0)

    assert scaler.decide(now=0.0, current=4).desired == 8
