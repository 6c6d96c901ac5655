"""One destination under its provider's limits: digests, follow-ups, parts, and what a restart keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.model.notification import (
    Chatbot,
    ConfigMapKey,
    Credential,
    Receiver,
    SecretRef,
    SlackReceiver,
    WebhookReceiver,
    WeComReceiver,
)
from pelton.model.notification_routing import Config, NotificationManager, SlackConfig
from pelton.notify.alert import FIRING, RESOLVED, Alert
from pelton.notify.dead_letters import PROGRESS, redriven
from pelton.notify.pipeline import Options, Pipeline
from pelton.notify.records import Records, read_history
from pelton.notify.retry import RetryPolicy
from pelton.ports import SendResult
from tests.unit.notify.conftest import HandClock, MemoryBus, ScriptedSender

OK = SendResult(ok=True, detail="HTTP 200")
BUSY = SendResult(ok=False, detail="HTTP 500")
REFUSED = SendResult(ok=False, retriable=False, refused=True, detail="HTTP 200 error invalid_auth")
OPTIONS = Options(policy=RetryPolicy(max_attempts=3, backoff_s=1.0, jitter=0.0))
BOT = Receiver(
    name="team", wechat=WeComReceiver(chatbot=Chatbot(webhook=Credential(value="https://bot.example/x")))
)
BOT_TOPIC = "pelton.notifications.team.wechat"
CHANNELS = Receiver(name="ops", slack=SlackReceiver(channels=("#a",)))
TOKEN = Config(name="slack", slack=SlackConfig(token=Credential(value="xoxb-1")))


def alert(number: int = 0, status: str = FIRING, **annotations: str) -> Alert:
    return Alert(status=status, labels={"alertname": "404", "n": str(number)}, annotations=annotations)


def limited(seconds: float) -> SendResult:
    return SendResult(ok=False, retry_after_s=seconds, detail="HTTP 429")


def pipeline(bus, clock, options=OPTIONS, **more) -> Pipeline:
    senders: dict[str, Any] = {
        name: more.pop(name) for name in ("wechat", "slack", "webhook") if name in more
    }
    return Pipeline(bus, senders, clock, options=options, randomness=lambda: 0.0, **more)


def texts(sender) -> list[str]:
    return [payload["text"] for _, payload in sender.calls]


# --- limits and digests ---


async def test_burst_within_the_limit_goes_out_at_once_and_the_rest_as_one_digest(bus, clock, scripted):
    sender = scripted(OK)
    async with pipeline(bus, clock, wechat=sender) as made:
        made.set_receivers([BOT])
        for number in range(50):
            await made.accept([alert(number)])
        await clock.advance(1)
        assert len(sender.calls) == 20

        await clock.advance(60)
        stats = made.stats()["receivers"]["team/wechat"]

    assert len(sender.calls) == 21
    assert texts(sender)[-1] == (
        "[DIGEST] 30 notifications in one, since this receiver takes 20 per 60 s: "
        "30 alerts, 30 firing, 0 resolved\n- 30 x 404 (30 firing, 0 resolved)"
    )
    assert (stats["sent"], stats["digests"], stats["digested"]) == (50, 1, 30)
    assert bus.queue(BOT_TOPIC).unfinished == {}


async def test_digest_that_fails_gives_each_notification_its_own_attempt(bus, clock, scripted):
    sender = scripted(*[OK] * 20, BUSY, OK)
    async with pipeline(bus, clock, wechat=sender) as made:
        made.set_receivers([BOT])
        for number in range(25):
            await made.accept([alert(number)])
        await clock.advance(200)
        stats = made.stats()["receivers"]["team/wechat"]

    assert (stats["sent"], stats["failed_attempts"], stats["dead"]) == (25, 5, 0)
    assert bus.queue(BOT_TOPIC).unfinished == {}


async def test_pause_that_a_chat_asks_for_is_waited_for_and_what_came_meanwhile_is_one_digest(
    bus, clock, scripted
):
    sender = scripted(limited(30.0), OK)
    async with pipeline(bus, clock, wechat=sender) as made:
        made.set_receivers([BOT])
        await made.accept([alert(0)])
        await clock.advance(1)
        for number in range(1, 4):
            await made.accept([alert(number)])
        await clock.advance(28)
        assert len(sender.calls) == 1

        await clock.advance(3)

    assert len(sender.calls) == 2
    assert texts(sender)[1].startswith("[DIGEST] 4 notifications in one")
    assert bus.queue(BOT_TOPIC).unfinished == {}


async def test_webhook_is_never_sent_a_digest(bus, clock, scripted):
    hook = Receiver(name="ops", webhook=WebhookReceiver(url="http://x/"))
    sender = scripted(limited(30.0), OK)
    async with pipeline(bus, clock, webhook=sender) as made:
        made.set_receivers([hook])
        for number in range(3):
            await made.accept([alert(number)])
        await clock.advance(60)

    bodies = [payload for _, payload in sender.calls if "alerts" in payload]
    assert len(bodies) == len(sender.calls)
    assert {body["alerts"][0]["labels"]["n"] for body in bodies} == {"0", "1", "2"}


async def test_receiver_deleted_while_it_waits_for_its_turn_leaves_dead_letters(bus, clock, scripted):
    sender = scripted(OK)
    async with pipeline(bus, clock, wechat=sender) as made:
        made.set_receivers([BOT])
        for number in range(22):
            await made.accept([alert(number)])
        await clock.advance(1)
        made.set_receivers([])
        await clock.advance(2)

    assert len(bus.stored("pelton.dead.notifications.team")) == 2


async def test_closing_gives_back_what_waits_for_its_turn(bus, clock, scripted):
    sender = scripted(OK)
    async with pipeline(bus, clock, wechat=sender) as made:
        made.set_receivers([BOT])
        for number in range(22):
            await made.accept([alert(number)])
        await clock.advance(1)

    assert len(bus.queue(BOT_TOPIC).unfinished) == 2
    assert bus.queue(BOT_TOPIC).naks == [0.0, 0.0]


# --- parts ---


def long_alerts(count: int) -> list[Alert]:
    return [alert(number, message="x" * 700) for number in range(count)]


async def test_notification_above_the_size_goes_out_in_parts_each_counted(bus, clock, scripted):
    sender = scripted(OK)
    async with pipeline(bus, clock, wechat=sender) as made:
        made.set_receivers([BOT])
        await made.accept(long_alerts(5))
        await clock.advance(1)

    assert [text.count("xxx") > 0 for text in texts(sender)] == [True] * 3
    assert all(len(text.encode()) < 2048 for text in texts(sender))
    ids = [settings["deliveryId"] for settings, _ in sender.calls]
    assert len(set(ids)) == 3


async def test_part_that_failed_is_tried_again_without_those_before_it_even_after_a_crash(
    bus, clock, scripted
):
    first = scripted(OK, BUSY)
    async with pipeline(bus, clock, wechat=first) as made:
        made.set_receivers([BOT])
        await made.accept(long_alerts(5))
        await clock.advance(0)
    copy = bus.stored(BOT_TOPIC)[-1]
    assert json.loads(copy.headers[PROGRESS]) == {"sent": 2, "done": []}

    second = scripted(OK)
    bus.crash()
    async with pipeline(bus, clock, wechat=second) as made:
        made.set_receivers([BOT])
        await clock.advance(10)

    assert "n=0" not in "".join(texts(second))
    assert all(f"n={number}" in "".join(texts(second)) for number in (2, 3, 4))


async def test_parts_of_a_destination_that_have_it_are_left_out_next_time(bus, clock, scripted):
    sender = scripted(SendResult(ok=False, detail="#b: down", done=("#a",)), OK)
    async with pipeline(bus, clock, slack=sender) as made:
        made.set_receivers([replace(CHANNELS, slack=SlackReceiver(channels=("#a", "#b")))], configs=[TOKEN])
        await made.accept([alert()])
        await clock.advance(5)

    assert [settings["done"] for settings, _ in sender.calls] == [[], ["#a"]]


async def test_redriven_dead_letter_goes_on_where_it_stopped(bus, clock, scripted):
    sender = scripted(SendResult(ok=False, retriable=False, detail="#b: gone", done=("#a",)), OK)
    async with pipeline(bus, clock, slack=sender) as made:
        made.set_receivers([replace(CHANNELS, slack=SlackReceiver(channels=("#a", "#b")))], configs=[TOKEN])
        await made.accept([alert()])
        await clock.advance(1)
        (letter,) = bus.stored("pelton.dead.notifications.ops")
        again = redriven(letter, key="1")
        assert again is not None
        await bus.publish(again)
        await clock.advance(1)

    assert [settings["done"] for settings, _ in sender.calls] == [[], ["#a"]]


# --- follow-ups ---


@pytest.fixture
async def records(tmp_path, clock):
    async with Records(tmp_path / "n.db", clock) as made:
        yield made


def posted(ts: str) -> SendResult:
    return SendResult(ok=True, done=("#a",), receipts={"#a": {"channel": "C1", "ts": ts}})


async def settle(clock, records) -> None:
    """Let the records' thread and the pipeline take turns."""
    for _ in range(20):
        await clock.advance(0.2)
        await records.posts("nobody", "slack", ["none"])


async def test_resolve_changes_the_first_message_and_answers_below_it(bus, clock, scripted, records):
    sender = scripted(posted("1.1"), SendResult(ok=True, done=("#a",)))
    async with pipeline(bus, clock, slack=sender, records=records) as made:
        made.set_receivers([CHANNELS], configs=[TOKEN])
        await made.accept([alert(1), alert(2)])
        await settle(clock, records)
        await made.accept([alert(1, RESOLVED)])
        await settle(clock, records)
        stats = made.stats()["receivers"]["ops/slack"]

    first, second = [payload for _, payload in sender.calls]
    assert "posts" not in first
    assert second["posts"] == {"#a": {"channel": "C1", "ts": "1.1"}}
    assert second["followUp"] == "thread"
    assert second["text"].startswith("[RESOLVED:1] 404")
    assert second["current"]["text"].startswith("[FIRING:1, RESOLVED:1] 404")
    assert stats["followed"] == 1


async def test_message_is_found_again_after_a_restart(bus, clock, scripted, tmp_path):
    sender = scripted(posted("1.1"), SendResult(ok=True, done=("#a",)))
    for status in (FIRING, RESOLVED):
        async with (
            Records(tmp_path / "n.db", clock) as records,
            pipeline(bus, clock, slack=sender, records=records) as made,
        ):
            made.set_receivers([CHANNELS], configs=[TOKEN])
            await made.accept([alert(1, status)])
            await settle(clock, records)

    assert [payload.get("posts") for _, payload in sender.calls] == [
        None,
        {"#a": {"channel": "C1", "ts": "1.1"}},
    ]


async def test_alert_that_fires_anew_after_its_end_is_a_message_of_its_own(bus, clock, scripted, records):
    sender = scripted(posted("1.1"), SendResult(ok=True, done=("#a",)), posted("2.2"))
    async with pipeline(bus, clock, slack=sender, records=records) as made:
        made.set_receivers([CHANNELS], configs=[TOKEN])
        for status in (FIRING, RESOLVED, FIRING):
            await made.accept([alert(1, status)])
            await settle(clock, records)

    assert ["posts" in payload for _, payload in sender.calls] == [False, True, False]


@pytest.mark.parametrize(("follow_up", "followed"), [("message", False), ("update", True)])
async def test_receiver_says_whether_messages_are_followed_up(
    bus, clock, scripted, records, follow_up, followed
):
    sender = scripted(posted("1.1"), SendResult(ok=True, done=("#a",)))
    receiver = replace(CHANNELS, slack=SlackReceiver(channels=("#a",), follow_up=follow_up))
    async with pipeline(bus, clock, slack=sender, records=records) as made:
        made.set_receivers([receiver], configs=[TOKEN])
        for _ in range(2):
            await made.accept([alert(1)])
            await settle(clock, records)

    assert ("posts" in sender.calls[1][1]) == followed


# --- what is visible ---


async def test_wrong_secret_is_a_dead_letter_at_once_a_problem_and_in_the_history(
    bus, clock, scripted, tmp_path
):
    sender = scripted(REFUSED)
    path = tmp_path / "n.db"
    async with (
        Records(path, clock) as records,
        pipeline(bus, clock, slack=sender, records=records) as made,
    ):
        made.set_receivers([CHANNELS], configs=[TOKEN])
        await made.accept([alert()])
        await settle(clock, records)
        problems = made.problems()

    assert len(sender.calls) == 1
    assert problems == {("ops", "slack"): ("CredentialsRefused", "HTTP 200 error invalid_auth")}
    assert [(each.outcome, each.detail) for each in read_history(path)] == [
        ("dead", "HTTP 200 error invalid_auth")
    ]
    assert len(bus.stored("pelton.dead.notifications.ops")) == 1


async def test_problem_is_over_with_the_next_success(bus, clock, scripted):
    sender = scripted(BUSY, OK)
    hook = Receiver(name="ops", webhook=WebhookReceiver(url="http://x/"))
    async with pipeline(bus, clock, webhook=sender) as made:
        made.set_receivers([hook])
        await made.accept([alert()])
        await clock.advance(0)
        assert made.problems() == {("ops", "webhook"): ("NotAccepted", "HTTP 500")}

        await clock.advance(5)
        assert made.problems() == {("ops", "webhook"): ("", "")}


async def test_template_of_a_config_map_is_used_and_a_missing_one_is_a_problem(bus, clock, scripted):
    sender = scripted(OK)
    texts_ = {"a.tmpl": '{{ define "mine" }}{{ len .Alerts }} alerts{{ end }}'}
    source = ConfigMapKey(name="t", namespace="ns")
    receiver = Receiver(
        name="team",
        wechat=replace(BOT.wechat or WeComReceiver(), template="mine", template_source=source),
    )
    known: dict[tuple[str, str], dict[str, str]] = {}
    async with pipeline(
        bus, clock, wechat=sender, config_map=lambda ref: known.get((ref.namespace, ref.name))
    ) as made:
        made.set_receivers([receiver])
        assert made.problems()["team", "wechat"] == (
            "TemplateFault",
            "ConfigMap ns/t does not exist. There is no template 'mine'.",
        )
        await made.accept([alert()])
        await clock.advance(0)
        known["ns", "t"] = texts_
        made.set_receivers([receiver])
        await made.accept([alert()])
        await clock.advance(1)

    assert "could not be used: there is no template 'mine'" in texts(sender)[0]
    assert texts(sender)[1] == "1 alerts"
    assert made.problems()["team", "wechat"] == ("", "")


async def test_options_of_the_manager_name_templates_and_limits(bus, clock, scripted):
    sender = scripted(OK)
    manager = NotificationManager(
        name="nm",
        tenant_key="user",
        global_selector={"type": "global"},
        options={
            "global": {"template": "{{ len .Alerts }} by the manager"},
            "wechat": {"messageMaxSize": 300},
        },
    )
    async with pipeline(bus, clock, wechat=sender) as made:
        made.set_receivers([replace(BOT, labels={"type": "global"})], manager=manager)
        await made.accept([alert()])
        await clock.advance(0)

    assert texts(sender) == ["1 by the manager"]


async def test_secret_of_the_bot_that_does_not_exist_is_waited_for_without_a_turn(bus, clock, scripted):
    sender = scripted(OK)
    ref = Credential(secret=SecretRef(name="bot", key="url"))
    receiver = Receiver(name="team", wechat=WeComReceiver(chatbot=Chatbot(webhook=ref)))
    async with pipeline(bus, clock, wechat=sender) as made:
        made.set_receivers([receiver])
        await made.accept([alert()])
        await clock.advance(1)

        assert sender.calls == []
        assert made.problems()["team", "wechat"] == (
            "NotConfigured",
            "Secret bot with key url does not exist.",
        )


async def test_thousands_that_wait_are_one_digest(bus, clock, scripted):
    sender = scripted(OK)
    async with pipeline(bus, clock, wechat=sender) as made:
        made.set_receivers([BOT])
        for number in range(2000):
            await made.accept([alert(number)])
        for _ in range(8):
            await clock.advance(10)
        stats = made.stats()["receivers"]["team/wechat"]

    assert len(sender.calls) == 21
    assert texts(sender)[-1].startswith("[DIGEST] 1980 notifications in one")
    assert (stats["sent"], stats["digests"]) == (2000, 1)
    assert bus.queue(BOT_TOPIC).unfinished == {}


ANSWERS = st.lists(
    st.sampled_from(
        [OK, BUSY, REFUSED, limited(2.0), limited(40.0), SendResult(ok=False, detail="x", done=("chatbot",))]
    ),
    max_size=40,
)


@settings(max_examples=10, deadline=None)
@given(answers=ANSWERS, bursts=st.lists(st.integers(1, 30), min_size=1, max_size=4), crash=st.booleans())
async def test_whatever_a_chat_answers_each_notification_arrives_or_is_a_dead_letter(answers, bursts, crash):
    clock = HandClock()
    bus = MemoryBus(clock)
    sender = ScriptedSender(*answers, OK)
    async with pipeline(bus, clock, wechat=sender) as made:
        made.set_receivers([BOT])
        for burst in bursts:
            for number in range(burst):
                await made.accept([alert(number)])
            await clock.advance(7)
        lived = made.stats()["receivers"]["team/wechat"]
    if crash:
        bus.crash()
    async with pipeline(bus, clock, wechat=ScriptedSender(OK)) as made:
        made.set_receivers([BOT])
        for _ in range(8):
            await clock.advance(60)
        after = made.stats()["receivers"]["team/wechat"]

    dead = len(bus.stored("pelton.dead.notifications.team"))
    assert bus.queue(BOT_TOPIC).unfinished == {}
    assert lived["sent"] + after["sent"] + dead == sum(bursts)
