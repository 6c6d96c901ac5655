"""What the history webhook is told, and what becomes of it when it does not listen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pelton.model.notification import (
    ConsoleReceiver,
    Credential,
    HttpConfig,
    Receiver,
    SecretRef,
    WebhookReceiver,
)
from pelton.model.notification_routing import NotificationManager
from pelton.notify.alert import FIRING, Alert
from pelton.notify.pipeline import Options, Pipeline
from pelton.notify.retry import RetryPolicy
from pelton.ports import SendResult

OK = SendResult(ok=True)
BUSY = SendResult(ok=False, detail="HTTP 500")
GONE = SendResult(ok=False, retriable=False, detail="HTTP 404")
HISTORY = "http://history.example/"
OPS = Receiver(
    name="ops", webhook=WebhookReceiver(url="http://ops.example/in?key=secret"), labels={"type": "g"}
)
PRINT = Receiver(name="print", console=ConsoleReceiver(), labels={"type": "g"})


def manager(url: str = HISTORY) -> NotificationManager:
    history = WebhookReceiver(url=url) if url else None
    return NotificationManager(name="m", tenant_key="user", global_selector={"type": "g"}, history=history)


class ByAddress:
    """Answers `HISTORY` by a script, everything else with success."""

    def __init__(self, *results: SendResult) -> None:
        self.results = list(results)
        self.told: list[Any] = []
        self.at: list[float] = []
        self.others = 0

    async def send(self, settings, payload):
        if settings.get("url") != HISTORY:
            self.others += 1
            return OK
        self.told.append(payload)
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]


def pipeline(bus, clock, sender) -> Pipeline:
    options = Options(policy=RetryPolicy(max_attempts=3, jitter=0.0))
    return Pipeline(bus, {"webhook": sender, "console": sender}, clock, options=options)


def alert(name: str) -> Alert:
    return Alert(status=FIRING, labels={"alertname": name}, annotations={"message": "m"})


async def test_each_alert_is_told_once_with_all_receivers_that_got_it(bus, clock):
    sender = ByAddress(OK)
    async with pipeline(bus, clock, sender) as made:
        made.set_receivers([OPS, PRINT], manager=manager())
        await made.accept([alert("404")])
        await clock.advance(5)

    alerts = [item for body in sender.told for item in body["alerts"]]
    receivers: dict[str, Any] = {}
    for item in alerts:
        receivers |= item["receiver"]
    assert receivers == {"ops": {"webhook": ["ops.example"]}, "print": {"console": ["console"]}}
    assert {item["labels"]["alertname"] for item in alerts} == {"404"}
    assert set(alerts[0]) == {
        "id", "status", "labels", "annotations", "startsAt", "endsAt", "notificationTime", "receiver",
    }  # fmt: skip
    assert alerts[0]["id"].isdecimal()


async def test_history_is_tried_four_times_five_seconds_apart_then_a_dead_letter(bus, clock):
    sender = ByAddress(BUSY)
    async with pipeline(bus, clock, sender) as made:
        made.set_receivers([PRINT], manager=manager())
        await made.accept([alert("404")])
        await clock.advance(14.9)
        assert len(sender.told) == 3

        await clock.advance(1)
        assert made.stats()["history"] == {"posted": 0, "dead": 1}

    assert len(sender.told) == 4
    (letter,) = bus.stored("pelton.dead.notifications.history")
    assert letter.headers["Pelton-Reason"] == "HTTP 500"


async def test_history_that_comes_back_is_told(bus, clock):
    sender = ByAddress(BUSY, BUSY, OK)
    async with pipeline(bus, clock, sender) as made:
        made.set_receivers([PRINT], manager=manager())
        await made.accept([alert("404")])
        await clock.advance(11)

        assert made.stats()["history"] == {"posted": 1, "dead": 0}


async def test_history_that_refuses_is_not_asked_again(bus, clock):
    sender = ByAddress(GONE)
    async with pipeline(bus, clock, sender) as made:
        made.set_receivers([PRINT], manager=manager())
        await made.accept([alert("404")])
        await clock.advance(60)

    assert len(sender.told) == 1


@pytest.mark.parametrize("chief", [None, manager("")])
async def test_without_a_history_nothing_is_kept(bus, clock, chief):
    sender = ByAddress(OK)
    async with pipeline(bus, clock, sender) as made:
        made.set_receivers([PRINT], manager=chief)
        await made.accept([alert("404")])
        await clock.advance(1)

    assert sender.told == []
    assert bus.stored("pelton.notification-history") == []


async def test_history_waits_for_its_secret_and_is_not_told_without(bus, clock):
    sender = ByAddress(OK)
    token = Credential(secret=SecretRef(name="s", key="k"))
    history = WebhookReceiver(url=HISTORY, http=HttpConfig(bearer_token=token))
    secrets: dict[str, str] = {}
    options = Options(policy=RetryPolicy(max_attempts=3, jitter=0.0))
    made = Pipeline(
        bus,
        {"webhook": sender, "console": sender},
        clock,
        options=options,
        secret=lambda ref: secrets.get(ref.name),
    )
    chief = replace(manager(), history=history)
    async with made:
        made.set_receivers([PRINT], manager=chief)
        await made.accept([alert("404")])
        await clock.advance(6)
        assert sender.told == []

        secrets["s"] = "t"
        made.set_receivers([PRINT], manager=chief)
        await clock.advance(6)

    assert len(sender.told) == 1
