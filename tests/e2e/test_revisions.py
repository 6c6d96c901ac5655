"""Revisions on a whole platform: shares, tags, canary steps, rollback, deaths in the middle of a rollout."""

import json
import os
import re
import signal
import threading
from collections import Counter
from urllib.parse import urlsplit

import httpx
import pytest

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

CODE = """
def main(request):
    return "{answer}"
"""
REQUESTS = 1000
# Binomial with n = 1000: five standard deviations, so that one run in a million fails by chance.
SPREAD = 5 * (REQUESTS * 0.1 * 0.9) ** 0.5


def code(answer):
    return CODE.format(answer=answer)


def revisions(platform, name):
    return json.loads(platform.cli("revisions", name, "-o", "json").out)


def answers(platform, name, number, **more):
    """Count what a function answers, over one connection."""
    found: Counter[str] = Counter()
    with httpx.Client(base_url=platform.endpoints["gateway"], trust_env=False, timeout=30) as client:
        for _ in range(number):
            response = client.get(f"/default/{name}/", **more)
            found[response.text if response.status_code == 200 else str(response.status_code)] += 1
    return found


def by_host(platform, host):
    port = urlsplit(platform.endpoints["gateway"]).port
    return platform.request("none", headers={"host": f"{host}:{port}"}).text


def rollout(platform, name):
    line = platform.cli("rollout", "status", name, code=None).out
    return re.sub(r"^function \S+: ", "", line).split(",")[0].strip()


class Caller:
    """Sends requests all the time and keeps what came back."""

    def __init__(self, platform, name):
        self.platform = platform
        self.name = name
        self.found: Counter[str] = Counter()
        self.seen: set[str] = set()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        with httpx.Client(base_url=self.platform.endpoints["gateway"], trust_env=False, timeout=30) as client:
            while not self.ended.is_set():
                response = client.get(f"/default/{self.name}/")
                answer = response.text if response.status_code == 200 else str(response.status_code)
                self.found[answer] += 1
                self.seen.add(answer)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join(30)


def test_traffic_is_shared_by_percentage_and_tags_reach_one_revision(shared):
    shared.apply("split", code("old"))
    (first,) = revisions(shared, "split")
    shared.apply(
        "split",
        code("new"),
        annotations={
            "pelton.dev/traffic": json.dumps(
                [
                    {"revision": first["revision"], "percent": 90, "tag": "stable"},
                    {"revision": "latest", "percent": 10, "tag": "next"},
                ]
            )
        },
    )
    listed = revisions(shared, "split")

    assert [(one["percent"], one["tags"], one["latest"], one["state"]) for one in listed] == [
        (10, ["next"], True, "Serving"),
        (90, ["stable"], False, "Serving"),
    ]
    found = answers(shared, "split", REQUESTS)
    assert set(found) == {"old", "new"}
    assert abs(found["new"] - REQUESTS * 0.1) < SPREAD
    for tag, answer in (("stable", "old"), ("next", "new")):
        assert answers(shared, "split", 20, headers={"Knative-Serving-Tag": tag}) == {answer: 20}
        assert by_host(shared, f"{tag}-split.default.localhost") == answer


def test_steps_change_the_shares_without_a_failed_request_and_rollback_goes_back(shared):
    shared.apply("canary", code("one"))
    with Caller(shared, "canary") as caller:
        shared.apply("canary", code("two"), annotations={"pelton.dev/rollout": "30% pause, 60% 1s, 100%"})
        assert rollout(shared, "canary") == "Paused"
        shared.until("both answer", lambda: {"one", "two"} <= set(caller.found))
        shared.cli("rollout", "resume", "canary")
        shared.cli("rollout", "status", "canary", "-w")
        assert rollout(shared, "canary") == "Completed"
        caller.found.clear()
        shared.until("requests after it", lambda: sum(caller.found.values()) > 50)
        assert set(caller.found) == {"two"}
        shared.cli("rollback", "canary")
        caller.found.clear()
        shared.until("requests after that", lambda: sum(caller.found.values()) > 50)
        assert set(caller.found) == {"one"}
        assert caller.seen == {"one", "two"}
        assert [one["state"] for one in revisions(shared, "canary")] == ["Serving", "Kept"]
    builders = json.loads(shared.cli("get", "builders", "-o", "json").out)["items"]
    own = [one for one in builders if one["metadata"]["labels"]["openfunction.io/function"] == "canary"]
    assert [one["status"]["state"] for one in own] == ["Succeeded"]


def test_a_revision_that_does_not_load_gets_no_traffic(shared):
    shared.apply("sound", code("sound"))
    shared.apply(
        "sound", "raise ValueError('on purpose')", annotations={"pelton.dev/rollout": "50% pause"}, expect=1
    )

    assert answers(shared, "sound", 50) == {"sound": 50}
    assert rollout(shared, "sound") == "nothing is rolled out"


def test_aborted_rollout_gives_the_traffic_back(shared):
    shared.apply("careful", code("one"))
    shared.apply("careful", code("two"), annotations={"pelton.dev/rollout": "50% pause"})
    shared.cli("rollout", "abort", "careful")

    assert answers(shared, "careful", 50) == {"one": 50}
    assert rollout(shared, "careful") == "Aborted"


def test_rollout_survives_the_deaths_of_node_and_of_up(platform):
    platform.apply("tough", code("one"))
    platform.apply("tough", code("two"), annotations={"pelton.dev/rollout": "50% pause, 70% pause"})
    shares = [(one["percent"], one["latest"]) for one in revisions(platform, "tough")]
    assert shares == [(50, True), (50, False)]
    assert set(answers(platform, "tough", 60)) == {"one", "two"}
    os.kill(platform.part("node")["pid"], signal.SIGKILL)
    platform.until("both answer", lambda: set(answers(platform, "tough", 60)) == {"one", "two"})
    platform.until("the node is back", lambda: len(platform.function("tough")["revisions"]) == 2)
    platform.kill()
    platform.start()
    platform.until("both answer again", lambda: set(answers(platform, "tough", 60)) == {"one", "two"})

    assert [(one["percent"], one["latest"]) for one in revisions(platform, "tough")] == shares
    platform.cli("rollout", "resume", "tough")
    platform.cli("rollout", "resume", "tough")
    assert rollout(platform, "tough") == "Completed"
    assert answers(platform, "tough", 50) == {"two": 50}
