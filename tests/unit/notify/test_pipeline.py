"""From accepted alerts to settled notifications, on a bus in memory and a clock moved by hand."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest

from pelton.errors import DeliveryError, PayloadTooLargeError
from pelton.model.matching import Matcher
from pelton.model.notification import (
    ConsoleReceiver,
    Credential,
    EmailReceiver,
    LabelSelector,
    Receiver,
    SecretRef,
    SlackReceiver,
    WebhookReceiver,
)
from pelton.model.notification_routing import Config, EmailConfig, NotificationManager, Silence, SlackConfig
from pelton.notify.alert import FIRING, Alert
from pelton.notify.dead_letters import redriven
from pelton.notify.muting import KeptBack, Placed
from pelton.notify.pipeline import ALERTS_TOPIC, Options, Pipeline
from pelton.notify.retry import RetryPolicy
from pelton.notify.silences import PostedSilence, SilenceBook
from pelton.ports import Message, SendResult

OK = SendResult(ok=True)
BROKEN = SendResult(ok=False, detail="HTTP 500")
GONE = SendResult(ok=False, retriable=False, detail="HTTP 410 channel_is_archived")
OPTIONS = Options(policy=RetryPolicy(max_attempts=3, backoff_s=1.0, jitter=0.0))
OPS = "pelton.notifications.ops.webhook"
DEAD = "pelton.dead.notifications.ops"


def alert(name: str = "404 Request", **labels: str) -> Alert:
    return Alert(status=FIRING, labels={"alertname": name, **labels})


def webhook(name: str = "ops", **selector: str) -> Receiver:
    wanted = LabelSelector(match_labels=selector) if selector else None
    return Receiver(name=name, webhook=WebhookReceiver(url="http://x/", alert_selector=wanted))


def pipeline(bus, clock, options: Options = OPTIONS, **senders) -> Pipeline:
    return Pipeline(bus, senders, clock, options=options, randomness=lambda: 0.0)


async def test_accept_stores_the_alerts_before_it_returns(bus, clock):
    await pipeline(bus, clock).accept([alert("a"), alert("b")])

    (message,) = bus.stored(ALERTS_TOPIC)
    batch = json.loads(message.data)
    assert [item["labels"]["alertname"] for item in batch["alerts"]] == ["a", "b"]
    assert message.id == batch["id"]


async def test_accept_same_alerts_twice_are_two_batches(bus, clock):
    made = pipeline(bus, clock)

    await made.accept([alert()])
    await made.accept([alert()])

    assert len(bus.stored(ALERTS_TOPIC)) == 2


async def test_accept_bus_refuses_raises(bus, clock):
    bus.failures["publish"] = 1

    with pytest.raises(DeliveryError):
        await pipeline(bus, clock).accept([alert()])


async def test_accept_splits_what_one_message_cannot_hold(bus, clock):
    options = Options(batch_max_alerts=2)

    await pipeline(bus, clock, options).accept([alert(str(i)) for i in range(5)])

    sizes = [len(json.loads(message.data)["alerts"]) for message in bus.stored(ALERTS_TOPIC)]
    assert sizes == [2, 2, 1]


async def test_accept_one_alert_above_the_limit_stores_nothing(bus, clock):
    options = Options(batch_max_bytes=500)

    with pytest.raises(PayloadTooLargeError, match="500"):
        await pipeline(bus, clock, options).accept([alert(), alert(big="x" * 600)])

    assert bus.stored(ALERTS_TOPIC) == []


async def test_accept_fills_the_cluster_label_only_where_absent(bus, clock):
    await pipeline(bus, clock, Options(cluster="one")).accept([alert(), alert(cluster="two")])

    (message,) = bus.stored(ALERTS_TOPIC)
    found = [item["labels"]["cluster"] for item in json.loads(message.data)["alerts"]]
    assert found == ["one", "two"]


async def test_accept_takes_a_label_without_a_value_for_none(bus, clock):
    await pipeline(bus, clock).accept([alert(team=""), alert()])

    (message,) = bus.stored(ALERTS_TOPIC)
    first, second = json.loads(message.data)["alerts"]
    assert first["labels"] == {"alertname": "404 Request"}
    assert first["fingerprint"] == second["fingerprint"]


async def test_pipeline_sends_to_each_receiver_what_its_selector_wants(bus, clock, scripted):
    hook, screen = scripted(OK), scripted(OK)
    console = Receiver(name="screen", console=ConsoleReceiver())
    async with pipeline(bus, clock, webhook=hook, console=screen) as made:
        made.set_receivers([webhook(severity="page"), console])
        await made.accept([alert("a", severity="page"), alert("b", severity="low")])
        await clock.advance(0)

        ((settings, payload),) = hook.calls
        assert [item["labels"]["alertname"] for item in payload["alerts"]] == ["a"]
        assert settings["url"] == "http://x/"
        ((_, block),) = screen.calls
        assert block["text"].startswith("[FIRING:2] a, b")
        assert made.stats()["receivers"]["ops/webhook"]["sent"] == 1
    assert all(not queue.unfinished for queue in bus.queues.values())


async def test_pipeline_groups_by_the_configured_labels(bus, clock, scripted):
    hook = scripted(OK)
    async with pipeline(bus, clock, Options(group_labels=("pod",)), webhook=hook) as made:
        made.set_receivers([webhook()])
        await made.accept([alert(pod="a"), alert(pod="b"), alert(pod="a")])
        await clock.advance(0)

    assert [(p["groupLabels"], len(p["alerts"])) for _, p in hook.calls] == [
        ({"pod": "a"}, 2),
        ({"pod": "b"}, 1),
    ]


async def test_pipeline_waits_for_the_receivers_to_be_known(bus, clock, scripted):
    """After a restart the list of receivers comes later than what waits on the bus."""
    hook = scripted(OK)
    async with pipeline(bus, clock, webhook=hook) as made:
        await made.accept([alert()])
        await clock.advance(60)
        assert made.stats()["unmatched_alerts"] == 0

        made.set_receivers([webhook()])
        await clock.advance(0)

        assert len(hook.calls) == 1


async def test_pipeline_unwanted_alerts_are_counted_and_finished(bus, clock, scripted):
    async with pipeline(bus, clock, webhook=scripted(OK)) as made:
        made.set_receivers([webhook(severity="page")])
        await made.accept([alert(), alert(severity="page")])
        await clock.advance(0)

        assert made.stats()["unmatched_alerts"] == 1
        assert not bus.queue(ALERTS_TOPIC).unfinished


async def test_pipeline_ignores_disabled_blocks_and_those_without_a_sender(bus, clock, scripted):
    hook = scripted(OK)
    off = Receiver(name="off", webhook=WebhookReceiver(enabled=False, url="http://x/"))
    mail = Receiver(name="mail", undelivered={"sms": {"phoneNumbers": ["1"]}}, console=ConsoleReceiver())
    async with pipeline(bus, clock, webhook=hook) as made:
        made.set_receivers([off, mail])
        await made.accept([alert()])
        await clock.advance(0)

        assert hook.calls == []
        assert made.stats()["without_sender"] == ["mail/sms", "mail/console"]


async def test_sending_failure_is_repeated_after_doubling_waits(bus, clock, scripted):
    hook = scripted(BROKEN, BROKEN, OK)
    async with pipeline(bus, clock, webhook=hook) as made:
        made.set_receivers([webhook()])
        await made.accept([alert()])
        await clock.advance(10)

        start = hook.at[0]
        assert [at - start for at in hook.at] == pytest.approx([0, 1, 3], abs=0.01)
        assert len({settings["deliveryId"] for settings, _ in hook.calls}) == 1
        assert made.stats()["receivers"]["ops/webhook"]["failed_attempts"] == 2
        assert not bus.queue(OPS).unfinished


async def test_sending_last_failure_leaves_a_dead_letter(bus, clock, scripted):
    hook = scripted(BROKEN)
    async with pipeline(bus, clock, webhook=hook) as made:
        made.set_receivers([webhook()])
        await made.accept([alert()])
        await clock.advance(60)

        assert len(hook.calls) == 3
        (dead,) = bus.stored(DEAD)
        assert "3 attempts failed, the last with: HTTP 500" in dead.headers["Pelton-Reason"]
        assert dead.headers["Pelton-Topic"] == OPS
        assert dead.data == bus.stored(OPS)[0].data
        assert not bus.queue(OPS).unfinished


async def test_sending_refused_for_good_is_a_dead_letter_at_once(bus, clock, scripted):
    hook = scripted(GONE)
    async with pipeline(bus, clock, webhook=hook) as made:
        made.set_receivers([webhook()])
        await made.accept([alert()])
        await clock.advance(0)

        assert len(hook.calls) == 1
        (dead,) = bus.stored(DEAD)
        assert dead.headers["Pelton-Reason"] == "HTTP 410 channel_is_archived"


async def test_dead_letter_reason_fits_a_header_whatever_the_destination_answered(bus, clock, scripted):
    odd = SendResult(ok=False, retriable=False, detail="HTTP 400\r\nX: y \x00 é" + "x" * 5000)
    async with pipeline(bus, clock, webhook=scripted(odd)) as made:
        made.set_receivers([webhook()])
        await made.accept([alert()])
        await clock.advance(0)

    reason = bus.stored(DEAD)[0].headers["Pelton-Reason"]
    assert reason.startswith("HTTP 400 X: y ? ?xxx")
    assert len(reason) <= 1000


async def test_redriven_dead_letter_is_sent_again_and_dies_again_under_its_own_record(bus, clock, scripted):
    """The broker drops repeated ids: a second death within its window must not look like a repetition."""
    hook = scripted(GONE)
    async with pipeline(bus, clock, webhook=hook) as made:
        made.set_receivers([webhook()])
        await made.accept([alert()])
        await clock.advance(0)
        fresh = redriven(bus.stored(DEAD)[0], key="1")
        assert fresh is not None
        await bus.publish(fresh)
        await clock.advance(0)

        assert len(hook.calls) == 2
        assert len(bus.stored(DEAD)) == 2


def test_redriven_leaves_dead_letters_of_events_alone():
    letter = Message(topic="pelton.dead.default_shop-0123456789", data=b"", headers={"Pelton-Topic": "t"})

    assert redriven(letter, key="1") is None


async def test_sending_pause_holds_all_of_that_destination_and_counts_no_attempt(bus, clock, scripted):
    wait = SendResult(ok=False, retry_after_s=30.0, detail="HTTP 429")
    hook = scripted(wait, wait, wait, wait, OK)
    async with pipeline(bus, clock, webhook=hook) as made:
        made.set_receivers([webhook()])
        await made.accept([alert("a")])
        await clock.advance(1)
        await made.accept([alert("b")])
        await clock.advance(28)
        assert len(hook.calls) == 1

        await clock.advance(200)

        assert made.stats()["receivers"]["ops/webhook"]["sent"] == 2
        assert made.stats()["receivers"]["ops/webhook"]["failed_attempts"] == 0
        assert bus.stored(DEAD) == []


async def test_sending_slow_receiver_holds_up_nobody_else(bus, clock, scripted):
    slow, quick = scripted(OK), scripted(OK)
    slow.gate.clear()
    screen = Receiver(name="screen", console=ConsoleReceiver())
    async with pipeline(bus, clock, webhook=slow, console=quick) as made:
        made.set_receivers([webhook(), screen])
        for _ in range(20):
            await made.accept([alert()])
        await clock.advance(0)

        assert len(quick.calls) == 20
        assert len(slow.calls) == 8  # its concurrency: the rest waits
        slow.gate.set()
        await clock.advance(0)
        assert len(slow.calls) == 20


async def test_sending_what_waits_is_kept_from_redelivery(bus, clock, scripted):
    slow = scripted(OK)
    slow.gate.clear()
    async with pipeline(bus, clock, webhook=slow) as made:
        made.set_receivers([webhook()])
        for _ in range(12):
            await made.accept([alert()])
        await clock.advance(25)

        assert bus.queue(OPS).extended >= 2 * 12
        slow.gate.set()
        await clock.advance(0)


async def test_sending_slack_is_given_one_message_a_second(bus, clock, scripted):
    chat = scripted(OK)
    slack = Receiver(name="chat", slack=SlackReceiver(webhook=Credential(value="http://secret/")))
    async with pipeline(bus, clock, slack=chat) as made:
        made.set_receivers([slack])
        for _ in range(4):
            await made.accept([alert()])
        await clock.advance(10)

        start = chat.at[0]
        assert [at - start for at in chat.at] == pytest.approx([0, 1, 2, 3])


async def test_sending_sender_that_raises_counts_as_a_failed_attempt_without_its_text(bus, clock, scripted):
    hook = scripted(RuntimeError("http://secret/"), OK)
    async with pipeline(bus, clock, webhook=hook) as made:
        made.set_receivers([webhook()])
        await made.accept([alert()])
        await clock.advance(5)

        stats = made.stats()["receivers"]["ops/webhook"]
        assert stats["sent"] == 1
        assert stats["last_error"] == "The sender failed with RuntimeError."


async def test_sending_missing_secret_is_tried_again_until_it_exists(bus, clock, scripted):
    chat, secrets = scripted(OK), dict[str, str]()
    ref = SecretRef(name="slack", key="url", namespace="default")
    slack = Receiver(name="chat", slack=SlackReceiver(webhook=Credential(secret=ref)))
    made = Pipeline(
        bus,
        {"slack": chat},
        clock,
        options=OPTIONS,
        secret=lambda wanted: secrets.get(f"{wanted.namespace}/{wanted.name}/{wanted.key}"),
        randomness=lambda: 0.0,
    )
    async with made:
        made.set_receivers([slack])
        await made.accept([alert()])
        await clock.advance(0.5)
        error = made.stats()["receivers"]["chat/slack"]["last_error"]
        assert error == "Secret default/slack with key url does not exist."

        secrets["default/slack/url"] = "http://now/"
        made.set_receivers([slack])
        await clock.advance(5)

        assert [settings["webhook"] for settings, _ in chat.calls] == ["http://now/"]


async def test_sending_repaired_address_counts_for_what_waits(bus, clock, scripted):
    hook = scripted(BROKEN, OK)
    async with pipeline(bus, clock, webhook=hook) as made:
        made.set_receivers([webhook()])
        await made.accept([alert()])
        await clock.advance(0.5)
        made.set_receivers([Receiver(name="ops", webhook=WebhookReceiver(url="http://new/"))])
        await clock.advance(5)

        assert [settings["url"] for settings, _ in hook.calls] == ["http://x/", "http://new/"]


async def test_deleted_receiver_turns_what_waits_into_dead_letters_and_ends(bus, clock, scripted):
    async with pipeline(bus, clock, webhook=scripted(BROKEN)) as made:
        made.set_receivers([webhook()])
        await made.accept([alert()])
        await clock.advance(0.5)
        made.set_receivers([])
        await clock.advance(20)

        (dead,) = bus.stored(DEAD)
        assert dead.headers["Pelton-Reason"] == "The receiver was deleted."
        assert made.stats()["receivers"] == {}


async def test_deleted_receiver_that_comes_back_goes_on(bus, clock, scripted):
    hook = scripted(OK)
    async with pipeline(bus, clock, webhook=hook) as made:
        made.set_receivers([webhook()])
        made.set_receivers([])
        made.set_receivers([webhook()])
        await clock.advance(20)
        await made.accept([alert()])
        await clock.advance(0)

        assert len(hook.calls) == 1


@pytest.mark.parametrize("topic", [ALERTS_TOPIC, OPS])
async def test_undecodable_message_is_a_dead_letter(bus, clock, scripted, topic):
    async with pipeline(bus, clock, webhook=scripted(OK)) as made:
        made.set_receivers([webhook()])
        await bus.publish(Message(topic=topic, data=b"{"))
        await clock.advance(0)

    dead = bus.stored("pelton.dead.alerts.unreadable") + bus.stored(DEAD)
    assert [message.headers["Pelton-Topic"] for message in dead] == [topic]
    assert not bus.queue(topic).unfinished


@pytest.mark.parametrize("trouble", ["ack", "subscribe", OPS, DEAD])
@pytest.mark.parametrize("answer", [OK, BROKEN, GONE], ids=["accepted", "broken", "gone"])
async def test_bus_trouble_anywhere_loses_nothing(bus, clock, scripted, trouble, answer):
    bus.failures[trouble] = 3
    hook = scripted(answer)
    async with pipeline(bus, clock, webhook=hook) as made:
        made.set_receivers([webhook()])
        await made.accept([alert()])
        await clock.advance(120)

    assert hook.calls
    assert len(bus.stored(DEAD)) == (0 if answer is OK else 1)
    assert all(not queue.unfinished for topic, queue in bus.queues.items() if topic != DEAD)


@pytest.mark.parametrize("topic", [ALERTS_TOPIC, OPS])
async def test_lost_ack_does_not_notify_twice(bus, clock, scripted, topic):
    hook = scripted(OK)
    made = pipeline(bus, clock, webhook=hook)
    made.set_receivers([webhook()])
    bus.failures[f"ack {topic}"] = 1
    async with made:
        await made.accept([alert()])
        await clock.advance(30)

    assert len(hook.calls) == 1


async def test_crash_while_sending_sends_again_under_the_same_id(bus, clock, scripted):
    first, second = scripted(OK), scripted(OK)
    first.gate.clear()
    killed = pipeline(bus, clock, Options(close_grace_s=0.01), webhook=first)
    async with killed:
        killed.set_receivers([webhook()])
        await killed.accept([alert()])
        await clock.advance(0)
        assert len(first.calls) == 1
    bus.crash()

    async with pipeline(bus, clock, webhook=second) as made:
        made.set_receivers([webhook()])
        await clock.advance(5)

    assert [settings["deliveryId"] for settings, _ in second.calls] == [
        settings["deliveryId"] for settings, _ in first.calls
    ]


async def test_restart_keeps_the_number_of_attempts(bus, clock, scripted):
    hook = scripted(BROKEN)
    for _ in range(5):
        async with pipeline(bus, clock, webhook=hook) as made:
            made.set_receivers([webhook()])
            if not hook.calls:
                await made.accept([alert()])
            await clock.advance(0.8)
        bus.crash()
    await clock.advance(10)

    assert len(hook.calls) == 3
    assert len(bus.stored(DEAD)) == 1


async def test_close_lets_a_send_under_way_finish(bus, clock, scripted):
    hook = scripted(OK)
    hook.gate.clear()
    made = pipeline(bus, clock, webhook=hook)
    async with made:
        made.set_receivers([webhook()])
        await made.accept([alert()])
        await clock.advance(0)
        asyncio.get_running_loop().call_soon(hook.gate.set)

    assert not bus.queue(OPS).unfinished


async def test_close_gives_back_what_did_not_finish(bus, clock, scripted):
    hook = scripted(OK)
    hook.gate.clear()
    made = pipeline(bus, clock, Options(close_grace_s=0.01), webhook=hook)
    async with made:
        made.set_receivers([webhook()])
        for _ in range(20):
            await made.accept([alert()])
        await clock.advance(0)

    assert bus.queue(OPS).naks == [0.0] * 20


async def test_silenced_alerts_are_counted_and_go_nowhere(bus, clock, scripted):
    sender = scripted(OK, OK)
    async with pipeline(bus, clock, webhook=sender) as made:
        made.set_receivers(
            [webhook()],
            silences=[Silence(name="night", matcher=LabelSelector(match_labels={"team": "db"}))],
        )
        await made.accept([alert(team="db"), alert(team="web")])
        await clock.advance(0)

    assert [len(payload["alerts"]) for _, payload in sender.calls] == [1]
    assert made.stats()["silenced_alerts"] == 1
    assert made.stats()["unmatched_alerts"] == 0


async def test_manager_gives_cluster_and_groups(bus, clock, scripted):
    manager = NotificationManager(
        name="m", global_selector={"type": "global"}, cluster="east", group_labels=("team",)
    )
    ops = Receiver(name="ops", labels={"type": "global"}, webhook=WebhookReceiver(url="http://x/"))
    sender = scripted(OK, OK)
    async with pipeline(bus, clock, webhook=sender) as made:
        made.set_receivers([ops], manager=manager)
        await made.accept([alert(team="db"), alert(team="web")])
        await clock.advance(0)

    payloads = [payload for _, payload in sender.calls]
    assert sorted(payload["groupLabels"]["team"] for payload in payloads) == ["db", "web"]
    assert {payload["commonLabels"]["cluster"] for payload in payloads} == {"east"}


async def test_slack_channels_take_the_token_of_their_config(bus, clock, scripted):
    token = Credential(value="xoxb-1")
    config = Config(name="c", slack=SlackConfig(token=token, api_url="http://127.0.0.1:1/api"))
    ops = Receiver(name="ops", slack=SlackReceiver(channels=("#a",)))
    sender = scripted(OK, OK)
    async with pipeline(bus, clock, slack=sender) as made:
        made.set_receivers([ops], configs=[config])
        await made.accept([alert()])
        await clock.advance(0)

    settings, _ = sender.calls[0]
    assert {name: settings[name] for name in ("channels", "token", "apiBase")} == {
        "channels": ["#a"],
        "token": "xoxb-1",
        "apiBase": "http://127.0.0.1:1/api",
    }


async def test_posted_silences_keep_alerts_back(bus, clock, scripted, tmp_path):
    book = SilenceBook(tmp_path / "silences.json")
    now = clock.now()
    silence = PostedSilence(
        id="",
        matchers=(Matcher(name="team", value="db"),),
        starts_at=now,
        ends_at=now + timedelta(hours=1),
        updated_at=now,
        created_by="me",
        comment="why",
    )
    await book.put(silence, now=now, new_id="1")
    sender = scripted(OK)
    made = Pipeline(bus, {"webhook": sender}, clock, options=OPTIONS, book=book)
    async with made:
        made.set_receivers([webhook()])
        await made.accept([alert(team="db"), alert(team="web")])
        await clock.advance(0)
        assert made.stats()["silenced_alerts"] == 1

        await clock.advance(3600)
        await made.accept([alert(team="db")])
        await clock.advance(0)

    teams = [each["labels"]["team"] for _, payload in sender.calls for each in payload["alerts"]]
    assert teams == ["web", "db"]


async def test_placed_names_receivers_and_the_silences_that_hold_an_alert(bus, clock, scripted):
    night = Silence(name="night", matcher=LabelSelector(match_labels={"team": "db"}))
    made = pipeline(bus, clock, webhook=scripted(OK))
    made.set_receivers([webhook(), webhook("picky", severity="critical")], silences=[night])

    assert made.placing()(alert(team="db")) == Placed((("ops", {}),), KeptBack(silences=("night",)))
    assert made.receivers() == ["ops", "picky"]


async def test_mails_go_by_the_server_of_their_config_or_say_what_is_missing(bus, clock, scripted):
    sender = scripted(OK)
    receiver = Receiver(name="ops", email=EmailReceiver(to=("a@example.org",)))
    password = Credential(secret=SecretRef(name="mail", key="password"))
    server = EmailConfig(sender="p@example.org", host="mail", port=25, username="u", password=password)
    secrets = {"mail": "s3cret"}
    made = Pipeline(bus, {"email": sender}, clock, options=OPTIONS, secret=lambda ref: secrets.get(ref.name))
    async with made:
        made.set_receivers([receiver])
        await made.accept([alert()])
        await clock.advance(0)
        assert sender.calls == []
        assert "needs a server" in made.stats()["receivers"]["ops/email"]["last_error"]

        made.set_receivers([receiver], configs=[Config(name="c", email=server)])
        await clock.advance(10)

    settings, payload = sender.calls[0]
    assert (settings["host"], settings["port"], settings["password"]) == ("mail", 25, "s3cret")
    assert payload["subject"] == "[FIRING:1] 404 Request"
