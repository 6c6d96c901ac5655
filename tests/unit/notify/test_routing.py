"""Where an alert goes: buckets, tenants, routers, silences, configs."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pelton.model.notification import LabelSelector
from pelton.model.notification_routing import (
    Config,
    NotificationManager,
    Router,
    RouterReceivers,
    Silence,
    TenantChannel,
)
from pelton.notify.routing import Owner, Routing, Target, config_for, owner

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GLOBAL = {"type": "global"}
MANAGER = NotificationManager(
    name="m",
    tenant_key="user",
    global_selector={"type": "global"},
    tenant_selector={"type": "tenant"},
    config_selector=LabelSelector(match_labels={"type": "default"}),
)
SHOP_ALERT = {"rule_level": "namespace", "namespace": "shop"}


def theirs(tenant):
    return {"type": "tenant", "user": tenant}


def target(name, labels, block="slack", selector=None):
    return Target(receiver=name, block=block, labels=labels, selector=selector)


TARGETS = (
    target("all", GLOBAL),
    target("shop", theirs("shop")),
    target("shop", theirs("shop"), block="webhook"),
    target("blog", theirs("blog")),
    target("lost", {}),
)


def router(receivers, **match):
    return Router(name="r", alert_selector=LabelSelector(match_labels=match), receivers=receivers)


def managed(policy="All"):
    return NotificationManager(
        name="m",
        tenant_key="user",
        global_selector={"type": "global"},
        tenant_selector={"type": "tenant"},
        route_policy=policy,
    )


def goes(routing, labels):
    verdict = routing.decide(labels, routing.active(NOW))
    return [f"{each.receiver}/{each.block}" for each in verdict.taken]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (GLOBAL, Owner("global")),
        (theirs("shop"), Owner("tenant", "shop")),
        ({"type": "tenant"}, Owner("nobody")),
        ({"type": "default"}, Owner("default")),
        ({}, Owner("nobody")),
    ],
)
def test_owner_is_decided_by_labels(labels, expected):
    assert owner(labels, MANAGER) == expected


def test_owner_without_a_manager_is_everybody():
    assert owner({}, None) == Owner("global")


def test_without_a_manager_every_receiver_gets_everything():
    assert goes(Routing(TARGETS), {}) == [
        "all/slack",
        "shop/slack",
        "shop/webhook",
        "blog/slack",
        "lost/slack",
    ]


def test_tenants_get_the_alerts_of_their_namespace_only():
    routing = Routing(TARGETS, manager=MANAGER)

    assert goes(routing, {"namespace": "shop"}) == ["all/slack"]
    assert goes(routing, SHOP_ALERT) == ["all/slack", "shop/slack", "shop/webhook"]


@pytest.mark.parametrize(
    ("receivers", "expected"),
    [
        (RouterReceivers(names=("blog",)), ["blog/slack"]),
        (RouterReceivers(regex="^sh"), ["shop/slack", "shop/webhook"]),
        (RouterReceivers(regex="^sh", type="webhook"), ["shop/webhook"]),
        (RouterReceivers(selector=LabelSelector(match_labels={"user": "blog"})), ["blog/slack"]),
        (RouterReceivers(channels=(TenantChannel(tenant="shop", types=("slack",)),)), ["shop/slack"]),
        (RouterReceivers(names=("lost",)), []),
    ],
)
def test_router_only_sends_where_routers_say(receivers, expected):
    routing = Routing(TARGETS, routers=[router(receivers, team="x")], manager=managed("RouterOnly"))

    assert goes(routing, {"team": "x"}) == expected
    assert goes(routing, {"team": "y"}) == []


def test_router_first_and_all_differ_where_a_router_matches():
    to_blog = router(RouterReceivers(names=("blog",)), team="x")
    first = Routing(TARGETS, routers=[to_blog], manager=managed("RouterFirst"))
    united = Routing(TARGETS, routers=[to_blog], manager=managed("All"))

    assert goes(first, {"team": "x"}) == ["blog/slack"]
    assert goes(first, {"team": "y"}) == ["all/slack"]
    assert goes(united, {"team": "x"}) == ["all/slack", "blog/slack"]


def test_a_disabled_router_does_not_count():
    off = Router(name="r", enabled=False, receivers=RouterReceivers(names=("blog",)))

    assert goes(Routing(TARGETS, routers=[off], manager=MANAGER), {}) == ["all/slack"]


def test_silences_of_everybody_keep_an_alert_from_all_and_those_of_a_tenant_from_theirs():
    matcher = LabelSelector(match_labels={"a": "b"})
    everybody = Silence(name="g", labels=GLOBAL, matcher=matcher)
    shops = Silence(name="s", labels=theirs("shop"), matcher=matcher)
    labels = {**SHOP_ALERT, "a": "b"}
    quiet = Routing(TARGETS, silences=[everybody], manager=MANAGER)
    partly = Routing(TARGETS, silences=[shops], manager=MANAGER)

    assert quiet.decide(labels, quiet.active(NOW)).silences == ("g",)
    assert goes(quiet, labels) == []
    assert goes(partly, labels) == ["all/slack"]
    reasons = {each.receiver: why for each, why in partly.decide(labels, partly.active(NOW)).refused}
    assert reasons == {
        "shop": "silenced by s",
        "blog": "the alert is not one of tenant blog",
        "lost": "no selector of the NotificationManager takes its labels",
    }


def test_a_silence_of_nobody_does_not_count():
    unowned = Silence(name="s", matcher=LabelSelector(match_labels={"a": "b"}))

    assert Routing(TARGETS, silences=[unowned], manager=MANAGER).active(NOW) == ()


def test_the_alert_selector_of_a_block_refuses():
    picky = target("all", GLOBAL, selector=LabelSelector(match_labels={"severity": "critical"}))

    verdict = Routing([picky]).decide({"severity": "info"})

    assert verdict.taken == ()
    assert verdict.refused == ((picky, "its alertSelector does not match"),)


def test_config_of_the_tenant_comes_before_default_ones_and_the_lowest_priority_wins():
    high = Config(name="high", labels={"type": "default", "priority": "1"})
    low = Config(name="low", labels={"type": "default", "priority": "20"})
    none = Config(name="a-none", labels={"type": "default", "priority": "?"})
    own = Config(name="own", labels={**theirs("shop"), "priority": "99"})
    configs = [none, low, own, high]
    nobodys = LabelSelector(match_labels={"x": "y"})

    assert config_for(GLOBAL, None, configs, MANAGER) == high
    assert config_for(theirs("shop"), None, configs, MANAGER) == own
    assert config_for(theirs("blog"), nobodys, configs, MANAGER) == high
    assert config_for(GLOBAL, nobodys, configs, MANAGER) is None
    assert config_for({}, None, configs, None) == high
