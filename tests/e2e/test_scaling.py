"""Scaling on a real platform: changes explain themselves, and the activator has its place in the path."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise

import pytest

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

DOMAIN = "autoscaling.knative.dev/"
SLOW = """
import time

def main(request):
    time.sleep(float(request.args.get("s", "0")))
    return request.headers.get("connection", "none")
"""
BUILD = {"FUNC_TYPE": "http"}


def knative(**notes):
    return {"knative": {DOMAIN + key.replace("_", "-"): value for key, value in notes.items()}}


def why(platform, name, *more):
    return json.loads(platform.cli("why", "scale", name, "-o", "json", *more).out)


def test_every_change_of_a_load_is_explained_now_and_later(platform):
    platform.apply("busy", SLOW, env=BUILD, scale=knative(window="6s", target="1", container_concurrency="1"))
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(platform.request, "busy", "/?s=0.7") for _ in range(6)]
    assert [answer.result().status_code for answer in answers] == [200] * 6
    busy = datetime.now(UTC)
    platform.until_at_zero("busy")
    platform.until("the way to zero is recorded", lambda: why(platform, "busy")["inEffect"]["to"] == 0)

    changes = why(platform, "busy")["changes"]
    numbers = [change["from"] for change in changes] + [changes[-1]["to"]]
    assert numbers[0] == numbers[-1] == 0
    assert max(numbers) == 3
    assert all(before["to"] == after["from"] for before, after in pairwise(changes))
    assert all(change["decision"]["steps"] for change in changes)
    top = next(change["decision"] for change in changes if change["to"] == 3)
    assert "at 0.7 per instance" in top["reason"]
    assert [proposal["source"] for proposal in top["proposals"]] == ["stable window", "panic window"]

    platform.stop()
    assert why(platform, "busy", "--at", busy.isoformat())["inEffect"]["to"] == 3
    words = platform.cli("why", "scale", "busy", "--at", "0s").out
    assert "wanted               0" in words


def test_burst_capacity_keeps_the_activator_in_the_path_of_ready_instances(shared):
    shared.apply("straight", SLOW, env=BUILD)
    shared.apply("burst", SLOW, env=BUILD, scale=knative(window="60s", target_burst_capacity="-1"))
    for name in ("straight", "burst"):
        shared.request(name)
        shared.until("ready", lambda name=name: shared.function(name)["workers"][0]["state"] == "ready")

    # The activator asks for an answer on a connection of its own.
    shared.until("past the activator", lambda: shared.request("straight").text != "close")
    time.sleep(0.3)  # longer than a tick: the activator does not leave
    assert [shared.request("burst").text for _ in range(3)] == ["close"] * 3
    assert why(shared, "burst")["now"]["excessBurstCapacity"] == -1
    with ThreadPoolExecutor(8) as pool:
        assert {r.status_code for r in pool.map(lambda _: shared.request("burst"), range(40))} == {200}


def test_burst_waits_for_instances_with_a_hard_limit_instead_of_being_refused(shared):
    notes = {"window": "6s", "container_concurrency": "1", "target_burst_capacity": "-1"}
    shared.apply("narrow", SLOW, env=BUILD, scale=knative(**notes))
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: shared.request("narrow", "/?s=0.1").status_code, range(40)))

    assert answers == [200] * 40
    changes = why(shared, "narrow")["changes"]
    assert max(change["to"] for change in changes) == 3


def test_class_hpa_scales_on_load_and_keeps_one(shared):
    hpa = {
        DOMAIN + "class": "hpa.autoscaling.knative.dev",
        DOMAIN + "metric": "concurrency",
        DOMAIN + "target": "1",
    }
    shared.apply("kept", SLOW, env=BUILD, scale={"knative": {**hpa, DOMAIN + "window": "6s"}})

    shared.until("one instance", lambda: len(shared.function("kept")["workers"]) == 1)
    now = why(shared, "kept")["now"]
    assert (now["algorithm"], now["minimum"]) == ("hpa", 1)


def test_annotation_out_of_range_is_refused_with_its_range(shared):
    refused = shared.apply("wrong", SLOW, env=BUILD, scale=knative(window="5s"), expect=None)

    assert refused.code != 0
    assert "whole seconds from 6s to 1h" in refused.text
    assert "nothing is known about its scaling" in shared.cli("why", "scale", "wrong", code=None).err
