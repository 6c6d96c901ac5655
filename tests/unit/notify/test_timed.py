"""Alerts that wait in groups: through the pipeline, over restarts and failures of the disk and the bus."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from pelton.model.matching import Matcher
from pelton.model.notification import LabelSelector, Receiver, WebhookReceiver
from pelton.model.notification_routing import NotificationManager, Router, RouterReceivers, Silence
from pelton.notify.alert import FIRING, RESOLVED, Alert
from pelton.notify.alert_table import AlertTable
from pelton.notify.group_store import GroupStore
from pelton.notify.pipeline import Options, Pipeline
from pelton.notify.retry import RetryPolicy
from pelton.notify.silences import PostedSilence, SilenceBook
from pelton.ports import SendResult

OK = SendResult(ok=True)
BROKEN = SendResult(ok=False, detail="HTTP 500")
OPS = "pelton.notifications.ops.webhook"
TIMES = {
    "pelton.dev/group-wait": "10s",
    "pelton.dev/group-interval": "60s",
    "pelton.dev/repeat-interval": "10m",
    "pelton.dev/group-by": "alertname",
}
INHIBIT = """
- source_matchers: ['alertname="Down"']
  target_matchers: ['severity=~"warning|info"']
  equal: [node]
"""


def alert(name="a", status=FIRING, **labels):
    return Alert(status=status, labels={"alertname": name, **labels})


def receiver(name="ops", annotations=TIMES, **selector):
    wanted = LabelSelector(match_labels=selector) if selector else None
    hook = WebhookReceiver(url="http://x/", alert_selector=wanted)
    return Receiver(name=name, annotations=dict(annotations), webhook=hook)


def told(bus, topic=OPS):
    """Return (reason, sorted (pod or name, status)) of every notification on the bus."""
    found = []
    for message in bus.stored(topic):
        body = json.loads(message.data)
        alerts = [
            (each["labels"].get("pod", each["labels"]["alertname"]), each["status"])
            for each in body["group"]["alerts"]
        ]
        found.append((body["reason"], sorted(alerts)))
    return found


async def until(condition):
    """Let threads and tasks go on until something holds."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)  # without a pause the loop keeps the interpreter from the threads


@pytest.fixture
def make(bus, clock, scripted):
    def made(**more):
        return Pipeline(bus, {"webhook": scripted(OK)}, clock, randomness=lambda: 0.0, **more)

    return made


async def test_alerts_of_a_group_go_together_after_its_wait(bus, clock, make):
    async with make() as pipeline:
        pipeline.set_receivers([receiver()])
        await pipeline.accept([alert(pod="1"), alert("b")])
        await clock.advance(5)
        await pipeline.accept([alert(pod="2")])
        await clock.advance(4)
        assert told(bus) == []

        await clock.advance(2)

        assert told(bus) == [("first", [("1", FIRING), ("2", FIRING)]), ("first", [("b", FIRING)])]
        first = json.loads(bus.stored(OPS)[0].data)
        assert first["group_key"] == 'ops/webhook:{alertname="a"}'
        assert first["group"]["group_labels"] == {"alertname": "a"}
        assert first["group"]["common_labels"] == {"alertname": "a"}


async def test_what_is_repeated_is_not_told_again_and_what_is_over_is(bus, clock, make):
    async with make() as pipeline:
        pipeline.set_receivers([receiver()])
        for _ in range(3):
            await pipeline.accept([alert(pod="1")])
            await clock.advance(65)
        await pipeline.accept([alert(pod="1", status=RESOLVED)])
        await clock.advance(65)

        assert told(bus) == [("first", [("1", FIRING)]), ("all resolved", [("1", RESOLVED)])]


async def test_what_an_alertmanager_grouped_does_not_wait_again(bus, clock, make):
    async with make() as pipeline:
        pipeline.set_receivers([receiver()])
        await pipeline.accept([replace(alert(pod="1"), upstream="{}:{}")])
        await clock.advance(0)

        assert told(bus) == [("", [("1", FIRING)])]


async def test_a_router_with_timers_takes_the_receivers_place(bus, clock, make):
    urgent = Router(
        name="urgent",
        annotations={"pelton.dev/group-wait": "1s"},
        alert_selector=LabelSelector(match_labels={"severity": "critical"}),
        receivers=RouterReceivers(names=("ops",)),
    )
    async with make() as pipeline:
        pipeline.set_receivers([receiver()], routers=[urgent])
        await pipeline.accept([alert(pod="1", severity="critical"), alert(pod="2")])
        await clock.advance(2)

        assert told(bus) == [("first", [("1", FIRING)])]
        body = json.loads(bus.stored(OPS)[0].data)
        assert body["group_key"] == 'ops/webhook@urgent:{alertname="a"}'


@pytest.mark.parametrize("annotations", [{}, TIMES])
async def test_what_a_posted_silence_kept_back_is_told_when_it_ends(bus, clock, make, tmp_path, annotations):
    book = SilenceBook(tmp_path / "silences.json")
    async with make(book=book) as pipeline:
        pipeline.set_receivers([receiver(annotations=annotations)])
        now = clock.now()
        silence = PostedSilence(
            id="",
            matchers=(Matcher(name="alertname", value="a"),),
            starts_at=now,
            ends_at=now + timedelta(seconds=100),
            updated_at=now,
            created_by="me",
            comment="",
        )
        await book.put(silence, now=now, new_id="1")
        await pipeline.accept([alert(pod="1"), alert("b")])
        await clock.advance(90)
        assert [alerts for _, alerts in told(bus)] == [[("b", FIRING)]]

        await clock.advance(50)

        assert [alerts for _, alerts in told(bus)][1:] == [[("1", FIRING)]]


async def test_what_was_over_when_its_silence_ended_is_not_told_of(bus, clock, make):
    night = Silence(name="night", matcher=LabelSelector(match_labels={"alertname": "a"}))
    async with make() as pipeline:
        pipeline.set_receivers([receiver(annotations={})], silences=[night])
        await pipeline.accept([alert(pod="1"), alert(pod="2")])
        await clock.advance(1)
        await pipeline.accept([alert(pod="1", status=RESOLVED)])
        await clock.advance(1)

        pipeline.set_receivers([receiver(annotations={})])
        await clock.advance(1)

        assert [alerts for _, alerts in told(bus)] == [[("2", FIRING)]]
        assert pipeline.stats()["groups"]["alerts"] == 1


@pytest.mark.parametrize("annotations", [{}, TIMES])
async def test_an_alert_keeps_others_of_its_node_back_while_it_fires(bus, clock, make, annotations):
    manager = NotificationManager(
        name="m", annotations={"pelton.dev/inhibit-rules": INHIBIT}, global_selector={"type": "global"}
    )
    hook = replace(receiver(annotations=annotations), labels={"type": "global"})
    async with make() as pipeline:
        pipeline.set_receivers([hook], manager=manager)
        await pipeline.accept([alert("Down", node="1"), alert("Slow", node="1", severity="warning")])
        await pipeline.accept([alert("Slow", node="2", severity="warning", pod="two")])
        await clock.advance(15)
        assert sorted(alerts[0][0] for _, alerts in told(bus)) == ["Down", "two"]

        await pipeline.accept([alert("Down", status=RESOLVED, node="1")])
        await clock.advance(61)

        flat = [each for _, alerts in told(bus)[2:] for each in alerts]
        assert ("Down", RESOLVED) in flat
        assert ("Slow", FIRING) in flat


async def test_a_restart_keeps_groups_times_and_what_was_told(bus, clock, make, tmp_path):
    path = tmp_path / "groups.db"
    async with make(store=GroupStore(path)) as pipeline:
        pipeline.set_receivers([receiver()])
        await pipeline.accept([alert(pod="1")])
        await until(lambda: pipeline.stats()["groups"]["alerts"] == 1)
        await until(lambda: not bus.queue("pelton.alerts").unfinished)
        await clock.advance(4)

    async with make(store=GroupStore(path)) as pipeline:
        pipeline.set_receivers([receiver()])
        await until(lambda: pipeline.stats()["groups"]["alerts"] == 1)
        await clock.advance(5)
        assert told(bus) == []
        await clock.advance(2)
        await until(lambda: told(bus))
        await until(lambda: bus.stored(OPS))

    table = AlertTable()
    async with make(store=GroupStore(path), table=table) as pipeline:
        pipeline.set_receivers([receiver()])
        await until(lambda: pipeline.stats()["groups"]["alerts"] == 1)
        known = table.firing(clock.now())
        await pipeline.accept([alert(pod="1")])
        await clock.advance(120)
        await until(lambda: pipeline.stats()["dispatched_batches"] == 1)
        await clock.advance(1)

    assert told(bus) == [("first", [("1", FIRING)])]
    assert [each.alert.labels["pod"] for each in known] == ["1"]


async def test_a_kill_between_deciding_and_publishing_tells_it_once(bus, clock, make, tmp_path):
    path = tmp_path / "groups.db"
    bus.failures[OPS] = 1000
    async with make(store=GroupStore(path)) as pipeline:
        pipeline.set_receivers([receiver()])
        await pipeline.accept([alert(pod="1")])
        await until(lambda: pipeline.stats()["groups"]["alerts"] == 1)
        await clock.advance(11)
        await until(lambda: pipeline.stats()["groups"]["trouble"] > 0)
    assert told(bus) == []

    bus.failures.clear()
    async with make(store=GroupStore(path)) as pipeline:
        pipeline.set_receivers([receiver()])
        await until(lambda: told(bus))
        await clock.advance(30)

    assert told(bus) == [("first", [("1", FIRING)])]


async def test_a_bus_that_comes_back_gets_what_was_decided_meanwhile(bus, clock, make):
    bus.failures[OPS] = 3
    async with make() as pipeline:
        pipeline.set_receivers([receiver()])
        await pipeline.accept([alert(pod="1")])
        await clock.advance(11)
        assert told(bus) == []

        await clock.advance(10)

        assert told(bus) == [("first", [("1", FIRING)])]


class BrokenStore(GroupStore):
    """Refuses so many writes."""

    failures = 1

    async def write(self, changes):
        if self.failures:
            self.failures -= 1
            raise OSError("no space left")
        await super().write(changes)


@pytest.mark.parametrize("failures", [1, 3])
async def test_a_disk_that_refuses_loses_and_repeats_nothing(bus, clock, make, failures):
    store = BrokenStore(None)
    store.failures = failures
    async with make(store=store) as pipeline:
        pipeline.set_receivers([receiver()])
        await pipeline.accept([alert(pod="1")])
        await clock.advance(30)

        assert told(bus) == [("first", [("1", FIRING)])]
        assert pipeline.stats()["trouble"] + pipeline.stats()["groups"]["trouble"] == failures


async def test_a_file_that_cannot_be_read_is_put_aside(bus, clock, make, tmp_path):
    path = tmp_path / "groups.db"
    path.write_bytes(b"no database" * 1000)
    async with make(store=GroupStore(path)) as pipeline:
        pipeline.set_receivers([receiver()])
        await pipeline.accept([alert(pod="1")])
        await until(lambda: pipeline.stats()["groups"]["alerts"] == 1)

    assert (tmp_path / "groups.unreadable").exists()


async def test_alerts_beyond_the_room_are_sent_as_they_come(bus, clock, make):
    async with make(options=Options(most_grouped=1)) as pipeline:
        pipeline.set_receivers([receiver()])
        await pipeline.accept([alert(pod="1"), alert(pod="2")])
        await clock.advance(1)

        assert told(bus) == [("", [("2", FIRING)])]
        assert pipeline.stats()["groups"]["overflowed"] == 1


async def test_timers_that_change_count_for_what_waits(bus, clock, make):
    async with make() as pipeline:
        pipeline.set_receivers([receiver()])
        await pipeline.accept([alert(pod="1")])
        await clock.advance(1)
        pipeline.set_receivers([receiver("dev", annotations={"pelton.dev/group-wait": "2s"})])
        await clock.advance(5)

        assert told(bus) == []
        assert told(bus, "pelton.notifications.dev.webhook") == [("first", [("1", FIRING)])]


async def test_a_large_group_is_told_in_parts(bus, clock, make):
    async with make() as pipeline:
        pipeline.set_receivers([receiver()])
        await pipeline.accept([alert(pod=str(number)) for number in range(2500)])
        await clock.advance(11)

        bodies = [json.loads(message.data) for message in bus.stored(OPS)]
        assert [len(body["group"]["alerts"]) for body in bodies] == [1000, 1000, 500]
        assert len({body["id"] for body in bodies}) == 3
        assert {body["group_key"] for body in bodies} == {'ops/webhook:{alertname="a"}'}


async def test_what_is_over_is_not_told_before_what_fired(bus, clock, scripted):
    sender = scripted(BROKEN, OK)
    times = TIMES | {"pelton.dev/group-wait": "1s", "pelton.dev/group-interval": "500ms"}
    options = Options(policy=RetryPolicy(backoff_s=4.0, jitter=0.0))
    async with Pipeline(bus, {"webhook": sender}, clock, options=options) as pipeline:
        pipeline.set_receivers([receiver(annotations=times)])
        await pipeline.accept([alert(pod="1")])
        await clock.advance(1.2)
        await pipeline.accept([alert(pod="1", status=RESOLVED)])
        await clock.advance(2)
        assert [reason for reason, _ in told(bus)] == [
            "first",
            "first",
            "all resolved",
        ]  # one is to be sent again
        assert len(sender.calls) == 1

        await clock.advance(3)

    statuses = [[each["status"] for each in payload["alerts"]] for _, payload in sender.calls]
    assert statuses == [[FIRING], [FIRING], [RESOLVED]]


async def test_what_is_held_is_told_after_a_restart_too(bus, clock, make, tmp_path):
    path = tmp_path / "groups.db"
    night = Silence(name="night", matcher=LabelSelector(match_labels={"alertname": "a"}))
    async with make(store=GroupStore(path)) as pipeline:
        pipeline.set_receivers([receiver(annotations={}), receiver("dev")], silences=[night])
        await pipeline.accept([alert(pod="1")])
        await until(lambda: not bus.queue("pelton.alerts").unfinished)
        await clock.advance(20)

    async with make(store=GroupStore(path)) as pipeline:
        pipeline.set_receivers([receiver(annotations={}), receiver("dev")], silences=[night])
        await until(lambda: pipeline.stats()["groups"]["alerts"] == 2)
        await clock.advance(20)
        assert told(bus) == []

        pipeline.set_receivers([receiver(annotations={}), receiver("dev")])
        await until(lambda: told(bus))

    assert told(bus) == [("first", [("1", FIRING)])]


async def test_objects_that_do_not_move_alerts_leave_groups_alone(bus, clock, make, monkeypatch):
    async with make() as pipeline:
        pipeline.set_receivers([receiver()])
        await pipeline.accept([alert(pod="1")])
        await clock.advance(1)
        moved: list[float] = []

        def rearrange(_, now):
            moved.append(now)
            return []

        monkeypatch.setattr(pipeline._timed.groups, "rearrange", rearrange)

        pipeline.set_receivers([receiver()], silences=[Silence(name="other")])
        await clock.advance(1)
        assert moved == []
        pipeline.set_receivers([receiver(), receiver("dev")])
        await clock.advance(1)

        assert len(moved) == 1


async def test_a_hundred_thousand_alerts_in_a_minute_are_all_told_once_and_nothing_stays(bus, clock, make):
    waits = {**TIMES, "pelton.dev/group-wait": "60s"}
    async with make() as pipeline:
        pipeline.set_receivers([receiver(annotations=waits)])
        for second in range(50):
            for part in range(20):
                first = second * 2000 + part * 100
                await pipeline.accept(
                    [alert(f"a{number % 100}", pod=str(number)) for number in range(first, first + 100)]
                )
            await clock.advance(1)
        assert told(bus) == []
        await clock.advance(60)

        pods = [int(pod) for _, alerts in told(bus) for pod, _ in alerts]
        assert sorted(pods) == list(range(100_000))
        assert pipeline.stats()["receivers"]["ops/webhook"]["sent"] == len(bus.stored(OPS))
        assert bus.queue(OPS).unfinished == {}


async def test_alerts_above_what_groups_may_hold_are_sent_as_they_come(bus, clock, make):
    async with make(options=Options(most_grouped=150)) as pipeline:
        pipeline.set_receivers([receiver()])
        for first in range(0, 400, 100):
            await pipeline.accept([alert(pod=str(number)) for number in range(first, first + 100)])
            await clock.advance(0)
        assert told(bus) != []
        await clock.advance(15)

        assert {int(pod) for _, alerts in told(bus) for pod, _ in alerts} == set(range(400))
