"""Subscriptions in all forms, and the rule that an event meets (contract, section 3)."""

from __future__ import annotations

import pytest

from pelton.compat.dapr.subscriptions import Bulk, Router, Rule, TopicSubscription, from_json, merged
from pelton.errors import CelCompileError, CelEvaluateError, ProtocolError


def test_from_json_v1_form_becomes_one_rule_without_match() -> None:
    found, faults = from_json([{"pubsubname": "bus", "topic": "orders", "route": "/orders"}])

    assert faults == []
    assert found == [TopicSubscription(pubsub="bus", topic="orders", rules=(Rule(path="/orders"),))]


def test_from_json_v2_form_keeps_order_and_default_wins_over_route() -> None:
    item = {
        "pubsubname": "bus",
        "topic": "orders",
        "route": "/old",
        "routes": {"rules": [{"match": 'event.type == "a"', "path": "/a"}], "default": "/rest"},
        "deadLetterTopic": "dead",
        "metadata": {"rawPayload": True, "n": 3},
        "bulkSubscribe": {"enabled": True, "maxMessagesCount": 7, "maxAwaitDurationMs": 40},
    }

    found, _ = from_json([item])

    assert found == [
        TopicSubscription(
            pubsub="bus",
            topic="orders",
            rules=(Rule(match='event.type == "a"', path="/a"), Rule(path="/rest")),
            metadata={"rawPayload": "true", "n": "3"},
            dead_letter_topic="dead",
            bulk=Bulk(max_messages=7, max_wait_s=0.04),
        )
    ]
    assert found[0].raw


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ({"pubsubname": "bus", "topic": "t"}, "bus/t has no route"),
        ({"topic": "t", "route": "/t"}, "names no pubsubname or no topic"),
        ("t", "is no object"),
        ({"pubsubname": "bus", "topic": "t", "routes": [1]}, "its routes are no object"),
        (
            {"pubsubname": "bus", "topic": "t", "routes": {"rules": 5}},
            "the rules of its routes are no array",
        ),
    ],
)
def test_from_json_entry_that_cannot_be_used_is_left_out_and_told(item: object, fault: str) -> None:
    found, faults = from_json([item, {"pubsubname": "bus", "topic": "ok", "route": "ok"}])

    assert [each.topic for each in found] == ["ok"]
    assert faults == [f"subscription 0: {fault}"]


def test_from_json_null_is_nothing_and_an_object_is_refused() -> None:
    assert from_json(None) == ([], [])
    with pytest.raises(ProtocolError):
        from_json({"pubsubname": "bus"})


def test_bulk_defaults_are_a_hundred_messages_or_a_second() -> None:
    found, _ = from_json(
        [
            {
                "pubsubname": "b",
                "topic": "t",
                "route": "r",
                "bulkSubscribe": {"enabled": True, "maxMessagesCount": 0},
            }
        ]
    )

    assert found[0].bulk == Bulk(max_messages=100, max_wait_s=1.0)


def test_merged_first_source_of_a_topic_counts() -> None:
    own = TopicSubscription(pubsub="bus", topic="t", rules=(Rule(path="/own"),))
    other = TopicSubscription(pubsub="bus", topic="t", rules=(Rule(path="/declared"),))
    third = TopicSubscription(pubsub="bus", topic="u")

    assert merged([own], [other, third]) == [own, third]


def router(*rules: Rule) -> Router:
    return Router(TopicSubscription(pubsub="bus", topic="t", rules=rules))


@pytest.mark.parametrize(
    ("event", "path"),
    [
        ({"type": "x", "data": {"n": 1}}, "/x"),
        ({"type": "y", "data": {"n": 4}}, "/many"),
        ({"type": "y", "data": {"n": 4.5}}, "/many"),
        ({"type": "y", "data": {"n": 3}}, None),
    ],
)
def test_router_takes_the_first_rule_that_is_met(event: dict[str, object], path: str | None) -> None:
    rules = router(Rule(match='event.type == "x"', path="/x"), Rule(match="event.data.n > 3", path="/many"))

    assert rules.needs_event
    assert rules.path(event) == path


def test_router_rule_without_match_always_wins() -> None:
    rules = router(Rule(path="/first"), Rule(match="true", path="/never"))

    assert rules.path({}) == "/first"


def test_router_key_that_is_missing_raises() -> None:
    with pytest.raises(CelEvaluateError):
        router(Rule(match="event.data.n > 3", path="/p")).path({"type": "x"})


def test_router_result_that_is_no_boolean_raises() -> None:
    with pytest.raises(CelEvaluateError, match="no boolean"):
        router(Rule(match="event.type", path="/p")).path({"type": "x"})


def test_router_expression_that_is_no_cel_names_subscription_and_rule() -> None:
    with pytest.raises(CelCompileError, match=r"event\.\(.*bus/t"):
        router(Rule(match="event.(", path="/p"))
