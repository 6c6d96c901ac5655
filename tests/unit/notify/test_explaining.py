"""Why an alert goes where it goes, and when."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pelton.model.matching import parse_matcher
from pelton.model.notification import LabelSelector, Receiver, WebhookReceiver
from pelton.model.notification_routing import NotificationManager, Router, RouterReceivers, Silence
from pelton.model.notification_timing import Timing
from pelton.notify.alert import FIRING, RESOLVED, Alert
from pelton.notify.explaining import repeat_at
from pelton.notify.groups import Sent
from pelton.notify.pipeline import Pipeline

TIMES = {
    "pelton.dev/group-wait": "10s",
    "pelton.dev/group-interval": "60s",
    "pelton.dev/group-by": "alertname",
}


def alert(name="a", status=FIRING, **labels):
    return Alert(status=status, labels={"alertname": name, **labels})


def receiver(name="ops", annotations=TIMES, **selector):
    wanted = LabelSelector(match_labels=selector) if selector else None
    hook = WebhookReceiver(url="http://x/", alert_selector=wanted)
    return Receiver(name=name, annotations=dict(annotations), labels={"type": "global"}, webhook=hook)


@pytest.fixture
def pipeline(bus, clock, scripted):
    return Pipeline(bus, {"webhook": scripted()}, clock, randomness=lambda: 0.0)


def asked(pipeline, text="alertname=a"):
    return pipeline.explain([parse_matcher(text)])


def moment(clock, text):
    return (datetime.fromisoformat(text) - clock.now().astimezone(UTC)).total_seconds()


async def test_a_group_says_its_timers_and_the_next_look(pipeline, clock):
    async with pipeline:
        pipeline.set_receivers([receiver(), receiver("db", team="db")])
        await pipeline.accept([alert(pod="1")])
        await clock.advance(1)

        (found,) = asked(pipeline)

        (target,) = found["targets"]
        assert (found["known"], found["status"], found["endAssumed"]) == (True, FIRING, True)
        assert (target["receiver"], target["block"], target["router"]) == ("ops", "webhook", "")
        assert target["group"]["key"] == 'ops/webhook:{alertname="a"}'
        assert (target["group"]["told"], target["next"]) == (False, "told at the next look")
        assert moment(clock, target["nextAt"]) == pytest.approx(9)
        assert found["refused"] == [
            {"receiver": "db", "block": "webhook", "why": "its alertSelector does not match"}
        ]


async def test_after_it_was_told_the_next_is_the_repetition(pipeline, clock):
    async with pipeline:
        pipeline.set_receivers([receiver()])
        await pipeline.accept([alert()])
        await clock.advance(12)

        (target,) = asked(pipeline)[0]["targets"]

        assert target["group"]["told"] is True
        assert moment(clock, target["group"]["lastTold"]) == pytest.approx(-2)
        # 4 h after it was told, at the first look beyond that.
        assert moment(clock, target["nextAt"]) == pytest.approx(4 * 3600 + 60 - 2)


async def test_what_is_over_is_told_to_be_over(pipeline, clock):
    async with pipeline:
        pipeline.set_receivers([receiver()])
        await pipeline.accept([alert()])
        await clock.advance(12)
        await pipeline.accept([alert(status=RESOLVED)])
        await clock.advance(1)

        (found,) = asked(pipeline)

        assert (found["status"], found["targets"][0]["next"]) == (
            RESOLVED,
            "told to be over at the next look",
        )


@pytest.mark.parametrize(
    ("annotations", "words"), [({}, "held; sent once"), (TIMES, "told at the first look at which nothing")]
)
async def test_what_keeps_it_back_is_named(pipeline, clock, annotations, words):
    night = Silence(
        name="night", labels={"type": "global"}, matcher=LabelSelector(match_labels={"alertname": "a"})
    )
    async with pipeline:
        pipeline.set_receivers([receiver(annotations=annotations)], silences=[night])
        await pipeline.accept([alert()])
        await clock.advance(1)

        (target,) = asked(pipeline)[0]["targets"]

        assert target["keptBack"] == {"silences": ["night"], "posted": [], "inhibitedBy": ""}
        assert target["next"].startswith(words)


async def test_an_inhibitor_is_named_with_its_labels(pipeline, clock):
    rules = "- {source_matchers: [alertname=Down], target_matchers: [alertname=a]}"
    manager = NotificationManager(
        name="m", annotations={"pelton.dev/inhibit-rules": rules}, global_selector={"type": "global"}
    )
    async with pipeline:
        pipeline.set_receivers([receiver()], manager=manager)
        await pipeline.accept([alert(), alert("Down", node="1")])
        await clock.advance(1)

        (found,) = asked(pipeline)

        name = found["targets"][0]["keptBack"]["inhibitedBy"]
        assert found["inhibitors"][name]["alertname"] == "Down"


async def test_a_router_is_named_when_its_timers_count(pipeline, clock):
    urgent = Router(
        name="urgent",
        annotations={"pelton.dev/group-wait": "1s"},
        alert_selector=LabelSelector(match_labels={"alertname": "a"}),
        receivers=RouterReceivers(names=("ops",)),
    )
    async with pipeline:
        pipeline.set_receivers([receiver()], routers=[urgent])

        (found,) = asked(pipeline)

        assert found["known"] is False
        assert found["targets"][0]["router"] == "urgent"
        assert found["targets"][0]["group"]["timing"]["group_wait_s"] == 1.0
        assert found["targets"][0]["next"] == "would begin a group, which is told of after its wait"


async def test_without_timers_it_is_sent_as_it_comes(pipeline, clock):
    async with pipeline:
        pipeline.set_receivers([receiver(annotations={})])
        await pipeline.accept([alert()])
        await clock.advance(1)

        (target,) = asked(pipeline)[0]["targets"]

        assert target["next"].startswith("sent as it comes")
        assert asked(pipeline, "alertname=~b.*") == []


@pytest.mark.parametrize(
    ("last", "next_flush", "repeat", "expected"),
    [(0, 60, 100, 120), (0, 60, 30, 60), (0, 60, 120, 180), (0, 60, 60, 120), (0, 300, 100, 300)],
)
def test_a_repetition_is_at_the_first_look_after_its_time(last, next_flush, repeat, expected):
    timing = Timing(group_interval_s=60, repeat_interval_s=repeat)

    assert repeat_at(next_flush, Sent(last, frozenset(), frozenset(), 1e9), timing) == expected
