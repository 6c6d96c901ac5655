from typing import Any

from pelton.cli.trace_hops import Facts, hops

ACTIVATE: dict[str, Any] = {
    "name": "activate shop/cart",
    "start_ns": 0,
    "end_ns": 9_000_000,
    "tags": {
        "service.instance.id": "cart-1-abcde",
        "faas.coldstart": "true",
        "pelton.waited_ms": "7.5",
        "pelton.fork_ms": "1.2",
        "pelton.ready_ms": "7.1",
    },
}
INVOKE: dict[str, Any] = {
    "name": "invoke shop/cart",
    "start_ns": 0,
    "end_ns": 2_000_000,
    "tags": {
        "service.instance.id": "cart-1-abcde",
        "faas.coldstart": "true",
        "pelton.start": "fork",
        "pelton.load_ms": "3.25",
        "pelton.waited_ms": "0.5",
        "pelton.function_ms": "1.25",
        "http.response.status_code": "201",
    },
}


def facts(**more):
    fields = {
        "host": "cart.shop.localhost",
        "address": "127.0.0.1",
        "port": 8080,
        "listener": (7, "envoy"),
        "parts": {7: "envoy"},
        "timings": {"connect": 0.1, "first_byte": 10.0, "total": 11.0},
        "sockets": {"cart-1-abcde": ("/run/w/x.http", (9, "python"))},
        **more,
    }
    return Facts(**fields)


def by_name(found):
    return {hop.name: hop for hop in found}


def test_cold_request_shows_every_hop_in_order_with_its_time():
    found = hops(facts(spans=[ACTIVATE, INVOKE]))

    assert [hop.name for hop in found] == [
        "name", "listener", "gateway", "priority", "socket", "instance", "function",
    ]  # fmt: skip
    hop = by_name(found)
    assert hop["listener"].says == "127.0.0.1:8080 is held by envoy, pid 7, this platform's envoy"
    assert hop["gateway"].ms == 10.0 - 7.5 - 1.25
    assert (hop["priority"].says[:12], hop["priority"].ms) == ("1, the activ", 7.5)
    assert "held by python, pid 9" in hop["socket"].says
    assert hop["instance"].says == (
        "cart-1-abcde: cold; forked in 1.2 ms; code and imports took 3.25 ms; ready after 7.1 ms"
    )
    assert hop["function"].says.startswith("shop/cart answered 201")
    assert hop["function"].ms == 1.25


def test_warm_request_meets_no_activator():
    hop = by_name(hops(facts(spans=[{**INVOKE, "tags": {**INVOKE["tags"], "faas.coldstart": "false"}}])))

    assert hop["priority"].says.startswith("0, an instance that was ready")
    assert hop["instance"].says == "cart-1-abcde: warm"


def test_first_request_straight_to_an_instance_that_was_started_ahead_is_warm():
    hop = by_name(hops(facts(spans=[INVOKE])))

    assert hop["instance"].says == "cart-1-abcde: warm"


def test_instance_from_a_template_has_its_imports_behind_it():
    tags = {**INVOKE["tags"], "pelton.start": "template"}

    hop = by_name(hops(facts(spans=[ACTIVATE, {**INVOKE, "tags": tags}])))

    assert "forked from its template" in hop["instance"].says


def test_route_names_the_rule_that_won_and_why_others_lost():
    routing = {
        "winner": "Function shop/cart by host",
        "others": [{"name": "HTTPRoute shop/old", "why": "its path is longer"}],
        "split": [{"name": "shop/cart", "weight": 3}, {"name": "shop/cart:1", "weight": 1}],
    }

    hop = by_name(hops(facts(routing=routing)))

    assert hop["route"].says == "Function shop/cart by host"
    assert hop["route"].details == ("not HTTPRoute shop/old: its path is longer",)
    assert hop["split"].says == "75 % shop/cart, 25 % shop/cart:1"


def test_request_that_no_rule_fits_says_so():
    hop = by_name(hops(facts(routing={"winner": None, "others": []})))

    assert hop["route"].says == "no rule fits under cart.shop.localhost"
    assert hop["priority"].says.startswith("unknown")


def test_stranger_on_the_port_is_named():
    hop = by_name(hops(facts(listener=(70, "nginx"))))

    assert hop["listener"].says.endswith("held by nginx, pid 70, no part of this platform")
    assert by_name(hops(facts(listener=None)))["listener"].says == "nobody listens on 127.0.0.1:8080"
    assert "only root can see" in by_name(hops(facts(listener=(0, ""))))["listener"].says


def test_failed_wake_is_told_where_it_happened():
    failed = {**ACTIVATE, "tags": {}, "error": "the worker ended while it started"}

    hop = by_name(hops(facts(spans=[failed])))

    assert hop["priority"].says.endswith("no instance was ready; the worker ended while it started")
    assert "function" not in hop


def test_hop_of_a_trigger_says_which_conditions_held():
    span = {"name": "trigger default/ship", "start_ns": 0, "end_ns": 1_000_000}
    held = {**span, "tags": {"pelton.holds": "paid && packed"}}
    none = {**span, "tags": {"pelton.holds": "none"}}

    says = [hop.says for hop in hops(facts(spans=[held, none])) if hop.name == "trigger"]

    assert says == ["default/ship; holds: paid && packed", "default/ship; no condition holds"]


def test_what_an_event_caused_is_told_without_a_gateway():
    found = hops(facts(gateway=False, spans=[ACTIVATE, INVOKE]))

    assert [hop.name for hop in found] == ["name", "listener", "activate", "function"]
