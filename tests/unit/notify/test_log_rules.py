"""Rules on logs at work: records from a bus in memory, over restarts, failures and changes of the rule."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from pelton.errors import ComponentError, DeliveryError
from pelton.model.component import ComponentSpec
from pelton.model.desired import Component
from pelton.model.log_rule import LogRule, LogSource
from pelton.notify.alert import FIRING, RESOLVED
from pelton.notify.log_rules import LogRules
from pelton.notify.rule_store import RuleStore
from pelton.ports import Message

TOPIC = "logs.shop.*"
RULE = LogRule(
    name="errors",
    namespace="shop",
    source=LogSource(namespace="shop"),
    match='text.contains("ERROR")',
    group_by={"pod": "record.pod"},
    window_s=60.0,
    threshold=2,
    resolve_after_s=100.0,
)


class Taken:
    """A pipeline that takes alerts, or refuses so often."""

    def __init__(self):
        self.alerts = []
        self.refusals = 0

    async def accept(self, alerts):
        if self.refusals:
            self.refusals -= 1
            raise DeliveryError("the broker is away")
        self.alerts += alerts

    @property
    def told(self):
        return [(alert.status, alert.labels["pod"]) for alert in self.alerts]


@pytest.fixture
def taken():
    return Taken()


@pytest.fixture
def running(bus, clock, taken):
    @asynccontextmanager
    async def made(*rules, store=None, bus_of=None, component=None):
        async def default(_):
            return bus

        watching = LogRules(
            bus=bus,
            bus_of=bus_of or default,
            accept=taken.accept,
            store=store or RuleStore(None),
            clock=clock,
        )
        async with watching:
            watching.set_rules([(rule, component) for rule in rules])
            await clock.advance(0)
            yield watching

    return made


async def write(bus, *pods, text="ERROR", topic=TOPIC):
    for pod in pods:
        data = json.dumps({"log": text, "pod": pod}).encode()
        await bus.publish(Message(topic=topic, data=data))


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


async def test_records_become_alerts_that_end_when_it_is_quiet(bus, clock, taken, running):
    async with running(RULE) as watching:
        await write(bus, "a", "a", "b")
        await write(bus, "b", text="fine")
        await clock.advance(1)
        assert taken.told == [(FIRING, "a")]

        await clock.advance(101)

        assert taken.told == [(FIRING, "a"), (RESOLVED, "a")]
        stats = watching.stats()["shop/errors"]
        assert (stats["records"], stats["matched"], stats["fired"], stats["groups"]) == (4, 3, 1, 0)
    assert bus.queue(TOPIC).unfinished == {}


async def test_a_restart_goes_on_counting_and_still_ends_alerts(bus, clock, taken, running, tmp_path):
    path = tmp_path / "rules.db"
    async with running(RULE, store=RuleStore(path)) as watching:
        await write(bus, "a", "b", "b")
        await until(lambda: len(taken.told) == 1)
        await until(lambda: not bus.queue(TOPIC).unfinished)
        assert watching.stats()["shop/errors"]["firing"] == 1

    async with running(RULE, store=RuleStore(path)) as watching:
        await until(lambda: "shop/errors" in watching.stats())
        await write(bus, "a")
        await until(lambda: len(taken.told) == 2)
        await clock.advance(102)
        await until(lambda: len(taken.told) == 4)

    assert taken.told[:2] == [(FIRING, "b"), (FIRING, "a")]
    assert sorted(taken.told[2:]) == [(RESOLVED, "a"), (RESOLVED, "b")]


async def test_what_was_counted_but_not_acknowledged_is_not_counted_again(bus, clock, taken, running):
    bus.failures["ack"] = 1
    async with running(RULE):
        await write(bus, "a")
        await clock.advance(2)
        bus.crash()
        await clock.advance(2)
        assert taken.told == []

        await write(bus, "a")
        await clock.advance(1)

        assert taken.told == [(FIRING, "a")]


async def test_an_alert_that_the_pipeline_did_not_take_is_told_later(bus, clock, taken, running):
    taken.refusals = 3
    async with running(RULE):
        await write(bus, "a", "a")
        await clock.advance(2)
        assert taken.told == []

        await clock.advance(5)

        assert taken.told == [(FIRING, "a")]
    assert bus.queue(TOPIC).unfinished == {}


async def test_an_alert_that_was_kept_before_a_kill_is_told_at_the_next_start(bus, clock, taken, running):
    store = RuleStore(None)
    taken.refusals = 1000
    async with running(RULE, store=store):
        await write(bus, "a", "a")
        await clock.advance(2)
        kept, _ = await store.untold()
        assert [alert.labels["pod"] for alert in kept] == ["a"]
        store._database, database = None, store._database  # the store outlives its user, as a file would

    store._database = database
    taken.refusals = 0
    async with running(RULE, store=store):
        await clock.advance(1)

    assert taken.told == [(FIRING, "a")]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ((), [(FIRING, "a"), (RESOLVED, "a")]),
        ((replace(RULE, match='text.contains("FATAL")'),), [(FIRING, "a"), (RESOLVED, "a")]),
        ((replace(RULE, resolve_after_s=50.0),), [(FIRING, "a")]),
        ((RULE,), [(FIRING, "a")]),
    ],
)
async def test_alerts_of_a_rule_that_is_gone_or_another_now_are_over(
    bus, clock, taken, running, changed, told
):
    async with running(RULE) as watching:
        await write(bus, "a", "a")
        await clock.advance(1)

        watching.set_rules([(rule, None) for rule in changed])
        await clock.advance(1)

        assert taken.told == told


async def test_a_rule_that_went_while_nobody_ran_ends_its_alerts(bus, clock, taken, running, tmp_path):
    path = tmp_path / "rules.db"
    async with running(RULE, store=RuleStore(path)):
        await write(bus, "a", "a")
        await until(lambda: taken.told == [(FIRING, "a")])
        await until(lambda: not bus.queue(TOPIC).unfinished)

    async with running(store=RuleStore(path)):
        await until(lambda: len(taken.told) == 2)

    assert taken.told == [(FIRING, "a"), (RESOLVED, "a")]


async def test_a_broker_that_is_away_is_waited_for_and_said_so(bus, clock, taken, running):
    there = False

    async def bus_of(component):
        if not there:
            raise ComponentError("no broker at kafka:9092")
        assert component.type == "pubsub.kafka"
        return bus

    component = Component(namespace="shop", name="x", type="pubsub.kafka")
    source = LogSource(topic="logs", component=ComponentSpec(type="pubsub.kafka"))
    async with running(replace(RULE, source=source), bus_of=bus_of, component=component) as watching:
        await clock.advance(3)
        stats = watching.stats()["shop/errors"]
        assert "no broker at kafka:9092" in stats["reading"]
        assert stats["trouble"] >= 3

        there = True
        await write(bus, "a", "a", topic="logs")
        await clock.advance(3)

        assert taken.told == [(FIRING, "a")]
        assert watching.stats()["shop/errors"]["reading"] == ""


class BrokenStore(RuleStore):
    """Refuses so many writes."""

    failures = 2

    async def write(self, *words, **more):
        if self.failures:
            self.failures -= 1
            raise OSError("no space left")
        await super().write(*words, **more)


async def test_a_disk_that_refuses_counts_nothing_twice(bus, clock, taken, running):
    async with running(RULE, store=BrokenStore(None)):
        await write(bus, "a")
        await clock.advance(5)
        assert taken.told == []
        await write(bus, "a")
        await clock.advance(1)

    assert taken.told == [(FIRING, "a")]


async def test_a_file_that_cannot_be_read_is_put_aside(bus, clock, taken, running, tmp_path):
    path = tmp_path / "rules.db"
    path.write_bytes(b"no database" * 1000)
    async with running(RULE, store=RuleStore(path)):
        await write(bus, "a", "a")
        await until(lambda: taken.told == [(FIRING, "a")])

    assert (tmp_path / "rules.unreadable").exists()


async def test_alerts_of_rules_that_fire_at_once_are_all_told(bus, clock, taken, running):
    """What one rule keeps while the pipeline takes another's is not forgotten with it."""
    other = replace(RULE, name="others", source=LogSource(topic="other"))
    gate = asyncio.Event()
    accept = taken.accept

    async def slowly(alerts):
        await gate.wait()
        await accept(alerts)

    taken.accept = slowly
    async with running(RULE, other):
        await write(bus, "a", "a")
        await clock.advance(0)
        await write(bus, "b", "b", topic="other")
        await clock.advance(0)
        gate.set()
        await clock.advance(2)

    assert sorted(taken.told) == [(FIRING, "a"), (FIRING, "b")]


async def test_alerts_of_a_rule_that_waits_for_a_secret_stay(bus, clock, taken, running):
    async with running(RULE) as watching:
        await write(bus, "a", "a")
        await clock.advance(1)

        watching.set_rules([], waiting=["shop/errors"])
        await clock.advance(1)
        assert taken.told == [(FIRING, "a")]
        assert watching.states() == []
        watching.set_rules([(RULE, None)])
        await clock.advance(101)

    assert taken.told == [(FIRING, "a"), (RESOLVED, "a")]


async def test_a_rule_whose_expression_never_works_says_so(bus, clock, taken, running):
    async with running(replace(RULE, match="record.no_such_field == 1")) as watching:
        await write(bus, "a", "b")
        await clock.advance(1)

        ((namespace, name, reason, sentence, firing),) = watching.states()

    assert (namespace, name, reason, firing) == ("shop", "errors", "ExpressionFails", 0)
    assert "no_such_field" in sentence
