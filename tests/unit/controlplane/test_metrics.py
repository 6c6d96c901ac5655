import os
import re

from pelton.controlplane.metrics import Facts, Usage, render, usage_of

FUNCTION = {
    "namespace": "shop",
    "name": "cart",
    "instances": [
        {"id": "a", "pid": 11, "state": "ready", "in_flight": 2},
        {"id": "b", "pid": 12, "state": "draining", "in_flight": 1},
    ],
    "desired": 1,
    "invocations": 40,
    "busy_seconds": 1.5,
    "instance_seconds": 9.25,
    "cold_starts": 3,
}
SUBSCRIPTION = {
    "id": "shop.cart.orders",
    "namespace": "shop",
    "function": "cart",
    "topic": 'or"ders',
    "pending": 7,
    "due": 7,
    "in_flight": 1,
    "delivered": 5,
    "failed": 2,
    "retried": 2,
    "dead": 1,
    "trouble": "",
}
NOTIFICATIONS = {
    "accepted_alerts": 4,
    "unmatched_alerts": 1,
    "notifications": 2,
    "dead_batches": 0,
    "groups": {"flushes": 5, "overflowed": 0, "trouble": 1, "groups": 3, "alerts": 9},
    "receivers": {
        "ops/slack": {
            "sent": 2,
            "failed_attempts": 1,
            "dead": 0,
            "held": 1,
            "pauses": 3,
            "digested": 4,
            "template_faults": 5,
            "ready": False,
            "last_error": "x",
        }
    },
}
LOG_RULES = {
    "shop/errors": {
        "records": 9,
        "matched": 4,
        "failed": 1,
        "crowded": 0,
        "fired": 2,
        "trouble": 0,
        "firing": 1,
    }
}


def values(facts):
    """Return sample -> value, comments left out."""
    lines = [line for line in render(facts).decode().splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_render_tells_what_node_runtime_gateway_and_kernel_said():
    found = values(
        Facts(
            parts=({"name": "node", "pid": 5, "state": "running", "restarts": 2},),
            node={"functions": [FUNCTION], "activator": {"overflowed": 1, "abandoned": 0}},
            runtime={"subscriptions": [SUBSCRIPTION], "notifications": NOTIFICATIONS, "logRules": LOG_RULES},
            gateway={
                "cluster.shop/cart.upstream_rq_total": 50,
                "cluster.shop/cart:cart-1.upstream_rq_active": 2,
                "cluster.-.upstream_rq_total": 9,
                "cluster.xds.upstream_rq_total": 1,
            },
            objects={"functions.core.openfunction.io": 1},
            usage={5: Usage(cpu_s=2.5, resident_bytes=4096), 11: Usage(resident_bytes=100)},
            version="1",
        )
    )

    of = 'function="cart",namespace="shop"'
    assert found[f'pelton_function_instances{{{of},state="ready"}}'] == 1
    assert found[f'pelton_function_instances{{{of},state="draining"}}'] == 1
    assert found[f"pelton_function_invocations_in_flight{{{of}}}"] == 3
    assert found[f"pelton_function_invocations_total{{{of}}}"] == 40
    assert found[f"pelton_function_busy_seconds_total{{{of}}}"] == 1.5
    assert found[f"pelton_function_cold_starts_total{{{of}}}"] == 3
    assert found[f"pelton_function_resident_memory_bytes{{{of}}}"] == 100
    assert found[f'pelton_gateway_requests_total{{{of},revision=""}}'] == 50
    assert found[f'pelton_gateway_requests_in_flight{{{of},revision="cart-1"}}'] == 2
    assert (
        found[f'pelton_events_dead_letters_total{{{of},subscription="shop.cart.orders",topic="or\\"ders"}}']
        == 1
    )
    assert found["pelton_alerts_accepted_total"] == 4
    assert found["pelton_alert_groups_told_total"] == 5
    assert found["pelton_alert_groups_alerts"] == 9
    assert found['pelton_log_rule_matched_total{namespace="shop",rule="errors"}'] == 4
    assert found['pelton_log_rule_firing{namespace="shop",rule="errors"}'] == 1
    assert found['pelton_receiver_sent_total{block="slack",receiver="ops"}'] == 2
    assert found['pelton_receiver_digested_total{block="slack",receiver="ops"}'] == 4
    assert found['pelton_receiver_ready{block="slack",receiver="ops"}'] == 0
    assert found['pelton_part_restarts_total{part="node"}'] == 2
    assert found['pelton_part_cpu_seconds_total{part="node"}'] == 2.5
    assert found['pelton_objects{resource="functions.core.openfunction.io"}'] == 1
    assert not [name for name in found if "xds" in name]


def test_render_of_a_platform_whose_parts_are_away_is_legal_text():
    text = render(Facts(version="1")).decode()

    assert 'pelton_info{version="1"} 1.0' in text
    assert all(
        re.match(r"# (HELP|TYPE) |pelton_[a-z_]+({.*})? [0-9.e+-]+$", line) for line in text.splitlines()
    )


def test_usage_of_this_process_is_positive_and_of_no_process_none():
    used = usage_of(os.getpid())

    assert used is not None
    assert used.cpu_s > 0
    assert used.resident_bytes > 1_000_000
    assert usage_of(2**22 + 1) is None


def test_triggers_are_told_by_owner_and_metric():
    metric = {"metric": "jobs", "value": 12.0, "target": 5.0}
    trigger = {
        "owner": "ScaledObject default/work",
        "trigger": "s0-redis",
        "type": "redis",
        "metrics": [metric],
        "active": True,
        "failures": 3,
        "error": "",
    }

    found = values(Facts(runtime={"triggers": [trigger]}))

    labels = 'owner="ScaledObject default/work",trigger="s0-redis",type="redis"'
    matching = {name: value for name, value in found.items() if name.startswith("pelton_trigger")}
    assert sorted(matching.values()) == [1.0, 3.0, 5.0, 12.0]
    assert found[f"pelton_trigger_active{{{labels}}}"] == 1.0
    assert found[f"pelton_trigger_failed_readings_total{{{labels}}}"] == 3.0
    assert found[f'pelton_trigger_value{{metric="jobs",{labels}}}'] == 12.0
