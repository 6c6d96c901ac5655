"""Receivers tried out at once, and the API by which that is asked for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from pelton.cli.runtime_alerts import AlertObjects
from pelton.clock import SystemClock
from pelton.notify.trial import specimen
from pelton.notify.verify import redacted, verify_routes
from pelton.ports import SendResult

API = "notification.kubesphere.io/v2beta2"


def obj(kind: str, name: str, spec: dict[str, Any], **labels: str) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": spec}


def secret_ref(name: str) -> dict[str, Any]:
    return {"valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}}


WEBHOOK = obj(
    "Receiver",
    "hook",
    {"webhook": {"url": "http://x.example/secret-path", "httpConfig": {"bearerToken": secret_ref("hook")}}},
    user="ann",
    type="tenant",
)
SLACK = obj("Receiver", "chat", {"slack": {"channels": ["#a"]}}, type="global")
TOKEN = obj("Config", "token", {"slack": {"slackTokenSecret": secret_ref("slack")}}, type="default")
MANAGER = obj(
    "NotificationManager",
    "m",
    {
        "receivers": {
            "tenantKey": "user",
            "globalReceiverSelector": {"matchLabels": {"type": "global"}},
            "tenantReceiverSelector": {"matchLabels": {"type": "tenant"}},
        }
    },
)
SECRETS = [["default", "hook", "k", "t0ken-of-hook"], ["default", "slack", "k", "xoxb-1"]]
ALERT = {"alerts": [{"status": "firing", "labels": {"alertname": "404"}}]}


class Recorder:
    def __init__(self, result: SendResult) -> None:
        self.result = result
        self.calls: list[tuple[Any, Any]] = []

    async def send(self, settings, payload):
        self.calls.append((settings, payload))
        return self.result


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(SendResult(ok=True, detail="HTTP 200"))


@pytest.fixture
async def http(recorder):
    objects = AlertObjects({"slack": recorder, "webhook": recorder})
    objects.take({"items": [WEBHOOK, SLACK, TOKEN, MANAGER], "secrets": SECRETS})
    app = Starlette(
        routes=verify_routes(
            try_out=objects.try_out,
            stored=lambda: objects.items,
            tenant_of=objects.tenant_of,
            clock=SystemClock(),
        )
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://notify", trust_env=False
    ) as client:
        yield client


def test_specimen_says_that_it_is_a_test():
    made = specimen(datetime(2026, 1, 2, tzinfo=UTC))

    assert (made.labels["alertname"], made.starts_at) == ("Test", "2026-01-02T00:00:00Z")


async def test_verify_sends_a_test_alert(http, recorder):
    answer = await http.post("/api/v2/verify", json={"receiver": SLACK})

    assert answer.json() == {"Status": 200, "Message": "Verify successfully"}
    ((settings, payload),) = recorder.calls
    assert (settings["channels"], settings["token"]) == (["#a"], "xoxb-1")
    assert "This is a test of the receiver" in payload["text"]


async def test_notifications_sends_the_alerts_of_the_body(http, recorder):
    posted = obj("Receiver", "posted", {"webhook": {"url": "http://y.example/"}})
    answer = await http.post("/api/v2/notifications", json={"receiver": posted, "alert": ALERT})

    assert answer.json() == {"Status": 200, "Message": "Send alerts successfully"}
    ((settings, payload),) = recorder.calls
    assert settings["url"] == "http://y.example/"
    assert payload["alerts"][0]["labels"]["alertname"] == "404"


async def test_posted_config_is_taken_whatever_its_labels(http, recorder):
    config = obj("Config", "own", {"slack": {"slackTokenSecret": {"value": "xoxb-own"}}})
    await http.post("/api/v2/verify", json={"receiver": SLACK, "config": config})

    assert recorder.calls[0][0]["token"] == "xoxb-own"


async def test_secret_goes_to_no_address_that_somebody_posted(http, recorder):
    evil = obj("Receiver", "hook", {"webhook": {**WEBHOOK["spec"]["webhook"], "url": "http://evil.example/"}})

    answer = await http.post("/api/v2/verify", json={"receiver": evil})

    assert (answer.status_code, recorder.calls) == (400, [])
    assert "Secret hook with key k does not exist." in answer.json()["Message"]


async def test_stored_receiver_has_its_secrets(http, recorder):
    answer = await http.post("/api/v2/verify", json={"receiver": WEBHOOK})

    assert answer.status_code == 200
    assert recorder.calls[0][0]["httpConfig"]["bearerToken"] == "t0ken-of-hook"


async def test_failure_is_told_with_the_answer(http, recorder):
    recorder.result = SendResult(ok=False, detail="HTTP 200 error invalid_auth")

    answer = await http.post("/api/v2/verify", json={"receiver": SLACK})

    assert (answer.status_code, answer.json()["Message"]) == (400, "slack: HTTP 200 error invalid_auth")


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"receiver": "x"},
        {"receiver": {"spec": {}}},
        {"receiver": {"metadata": {"name": "x"}, "spec": {"slack": {"channels": 5}}}},
        {"receiver": {"metadata": {"name": "x"}, "spec": {"webhook": {}}}},
        {"receiver": SLACK, "config": {"metadata": {"name": "c"}, "spec": {"slack": {}}}},
        {"receiver": SLACK, "alert": {"alerts": []}},
        {"receiver": SLACK, "alert": {"alerts": 5}},
        {"receiver": SLACK, "alert": ALERT, "config": "x"},
        {"receiver": SLACK, "alert": ALERT, "config": []},
        {"receiver": {**SLACK, "metadata": []}, "alert": ALERT},
        {
            "receiver": obj("Receiver", "off", {"slack": {"channels": ["#a"], "enabled": False}}),
            "alert": ALERT,
        },
    ],
)
async def test_what_cannot_be_read_is_refused(http, recorder, body):
    answer = await http.post("/api/v2/notifications", json=body)

    assert (answer.status_code, recorder.calls) == (400, [])
    for wrong, status in ((b"{", 400), (b'{"receiver": "\xff"}', 400), (b" " * 1_100_000, 413)):
        assert (await http.post("/api/v2/verify", content=wrong)).status_code == status


async def test_objects_are_listed_by_tenant_type_and_name_without_secrets(http):
    listed = {
        query: [each["metadata"]["name"] for each in (await http.get(f"/receivers{query}")).json()]
        for query in ("", "?tenant=ann", "?tenant=", "?type=slack", "?name=hook", "?type=email")
    }

    assert listed == {
        "": ["hook", "chat"],
        "?tenant=ann": ["hook"],
        "?tenant=": ["chat"],
        "?type=slack": ["chat"],
        "?name=hook": ["hook"],
        "?type=email": [],
    }
    assert "secret-path" not in (await http.get("/receivers")).text
    assert [each["metadata"]["name"] for each in (await http.get("/configs?type=slack")).json()] == ["token"]


def test_redacted_hides_literals_and_addresses_and_keeps_references():
    spec = {
        "slack": {"webhook": "https://h/T/B"},
        "email": {"authPassword": {"value": "p"}},
        "x": secret_ref("s"),
    }

    assert redacted({"spec": spec, "metadata": {"annotations": {"last": "p"}}}) == {
        "spec": {
            "slack": {"webhook": "***"},
            "email": {"authPassword": {"value": "***"}},
            "x": secret_ref("s"),
        },
        "metadata": {},
    }


async def test_pages_of_the_original_without_a_meaning_here_answer(http):
    assert (await http.post("/-/reload")).status_code == 200
    assert (await http.get("/metrics")).status_code == 200
