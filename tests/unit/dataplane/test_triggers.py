"""Relays, conditions and deliveries, with a bus in memory that outlives the process under test."""

import asyncio
import uuid
from dataclasses import replace
from itertools import pairwise

import pytest

from pelton.clock import SystemClock
from pelton.dataplane import retry
from pelton.dataplane.event_traces import NO_TRACES, EventTraces
from pelton.dataplane.triggers import EventFramework, read_event
from pelton.drivers.memory import MemoryBus
from pelton.errors import DeliveryError
from pelton.manifest.openfunction_events import EVENT_SOURCE, TRIGGER
from pelton.model import cloudevent
from pelton.model.event_framework import EventPlan
from pelton.model.invocation import Delivered
from pelton.model.span import SpanRecord
from pelton.plan.event_framework import plan_source, plan_trigger
from pelton.plan.event_world import World
from pelton.ports import Message

FIRST_PAUSE_S = 0.01


class Sinks:
    """Destinations by URL; `answers` gives the status or raises, 200 by default."""

    def __init__(self):
        self.got = []
        self.answers = {}

    def binding_of(self, component):
        return _Binding(self, component.metadata["url"])

    def bodies(self, url):
        return [data for to, data, _ in self.got if to == url]


class _Binding:
    def __init__(self, sinks, url):
        self.sinks, self.url = sinks, url

    async def invoke(self, operation, data, metadata):
        assert operation == "post"
        answer = self.sinks.answers.get(self.url, 200)
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        if answer != 200:
            return Delivered(
                ok=False, metadata={"statusCode": str(answer)}, error=f"{answer} from {self.url}"
            )
        self.sinks.got.append((self.url, data, dict(metadata)))
        return Delivered(ok=True, metadata={"statusCode": "200"})

    async def close(self):
        return None


class Bus(MemoryBus):
    """Refuses to publish what `refuse` tells it to."""

    refuse = staticmethod(lambda message: False)

    async def publish(self, message):
        if self.refuse(message):
            raise DeliveryError("the bus is down")
        await super().publish(message)


@pytest.fixture
async def bus():
    async with Bus() as bus:
        yield bus


@pytest.fixture
def sinks():
    return Sinks()


@pytest.fixture
async def start(bus, sinks):
    running = []

    async def begin(plan, traces=NO_TRACES):
        async def bus_of(_component):
            return bus

        framework = EventFramework(
            ledger=bus,
            registers=bus,
            bus_of=bus_of,
            binding_of=sinks.binding_of,
            clock=SystemClock(),
            new_id=lambda: uuid.uuid4().hex,
            traces=traces,
        )
        running.append(framework)
        await framework.start()
        await framework.apply(plan)
        return framework

    yield begin
    for framework in running:
        await framework.stop(0.0)


async def until(condition, seconds=5):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def impatient(destination, attempts):
    """Return the destination with few attempts and short pauses."""
    queue = replace(
        destination.subscription, max_attempts=attempts, backoff_s=FIRST_PAUSE_S, max_backoff_s=FIRST_PAUSE_S
    )
    return replace(destination, subscription=queue)


def trigger(*subscribers, attempts=3, uid="u", **spec):
    obj = {
        "apiVersion": TRIGGER.api_version,
        "kind": "Trigger",
        "metadata": {"name": "t", "namespace": "default"},
        "spec": {
            "eventBus": "default",
            "inputs": {name: {"eventSource": "src", "event": name} for name in ("a", "b")},
            "subscribers": [
                {key: {"uri": value} if key.lower().endswith("sink") else value for key, value in one.items()}
                for one in subscribers
            ],
            **spec,
        },
    }
    planned, fault = plan_trigger(TRIGGER.decode(TRIGGER.default(obj))[0], World(), uid=uid, created=0.0)
    assert planned is not None, fault
    return replace(
        planned,
        subscribers=tuple(
            replace(
                one,
                destinations=tuple(impatient(each, attempts) for each in one.destinations),
                dead_letters=tuple(impatient(each, attempts) for each in one.dead_letters),
            )
            for one in planned.subscribers
        ),
    )


def plan_of(*triggers, relays=()):
    return EventPlan(triggers=triggers, relays=tuple(relays))


def source(**spec):
    obj = {
        "apiVersion": EVENT_SOURCE.api_version,
        "kind": "EventSource",
        "metadata": {"name": "src", "namespace": "default"},
        "spec": spec,
    }
    made, fault = plan_source(EVENT_SOURCE.decode(EVENT_SOURCE.default(obj))[0], World(), created=0.0)
    assert fault is None, fault
    return made


async def event(bus, name, text, **fields):
    await bus.publish(Message(topic=f"default-src-{name}", data=text.encode(), **fields))


def dead(bus):
    return [retry.letter(message) for message in bus.messages(retry.DEAD_TOPICS)]


# --- conditions and deliveries ------------------------------------------------------------------------------


async def test_current_event_goes_to_whom_its_condition_holds_for(bus, sinks, start):
    await start(
        plan_of(
            trigger(
                {"condition": "a", "sink": "http://a"},
                {"condition": "a && b", "sink": "http://both", "topic": "both"},
                {"condition": "!a", "sink": "http://never"},
            )
        )
    )
    await event(bus, "a", "one")
    await until(lambda: sinks.bodies("http://a") == [b"one"])
    await event(bus, "b", "two")
    await until(lambda: sinks.bodies("http://both") == [b"two"] and bus.messages("both"))

    await until(lambda: sinks.bodies("http://a") == [b"one", b"two"])
    (published,) = bus.messages("both")
    assert cloudevent.from_json(published.data).data == b"two"
    assert sinks.bodies("http://never") == []


async def test_subscribers_of_one_condition_get_the_event_each(bus, sinks, start):
    """Upstream keys them by condition, and the last one's sink is that of all."""
    await start(
        plan_of(
            trigger(
                {"condition": "a", "sink": "http://one", "topic": "out"},
                {"condition": "a", "sink": "http://two", "topic": "out"},
                {"condition": "a", "sink": "http://two"},
            )
        )
    )
    await event(bus, "a", "x")
    await until(lambda: len(sinks.got) == 3 and len(bus.messages("out")) == 2)

    assert sorted(url for url, _, _ in sinks.got) == ["http://one", "http://two", "http://two"]


async def test_sink_that_is_down_keeps_no_other_waiting(bus, sinks, start):
    """Upstream's handler ends over a failing send."""
    sinks.answers["http://down"] = DeliveryError("not reached")
    framework = await start(
        plan_of(trigger({"condition": "a", "sink": "http://down"}, {"condition": "a", "sink": "http://up"}))
    )
    for number in range(5):
        await event(bus, "a", str(number))
    await until(lambda: len(sinks.bodies("http://up")) == 5)
    await until(lambda: len(dead(bus)) == 5)

    letter = dead(bus)[0]
    assert (letter.attempts, letter.reason) == (3, "not reached [PEL-EVENT-001]")
    assert letter.subscription.startswith("default.Trigger/t.sink/")
    counters = [one for one in framework.stats().values() if one["dead"]]
    assert [(one["function"], one["dead"]) for one in counters] == [("Trigger/t", 5)]


@pytest.mark.parametrize(("status", "attempts"), [(500, 3), (503, 3), (404, 3), (429, 3), (400, 1), (422, 1)])
async def test_answer_decides_whether_another_attempt_is_worth_it(bus, sinks, start, status, attempts):
    sinks.answers["http://down"] = status
    await start(plan_of(trigger({"condition": "a", "sink": "http://down"})))
    await event(bus, "a", "x")
    await until(lambda: dead(bus))

    assert dead(bus)[0].attempts == attempts


async def test_sink_that_recovers_gets_the_event_once(bus, sinks, start):
    answers = iter([500, DeliveryError("not reached"), 200, 200])
    sinks.answers["http://shaky"] = lambda: next(answers)
    await start(plan_of(trigger({"condition": "a", "sink": "http://shaky"})))
    await event(bus, "a", "x")
    await until(lambda: sinks.bodies("http://shaky") == [b"x"])

    assert dead(bus) == []


async def test_dead_letters_go_to_sink_and_topic_and_say_why(bus, sinks, start):
    """Upstream never sends them."""
    sinks.answers["http://down"] = 500
    await start(
        plan_of(
            trigger(
                {
                    "condition": "a",
                    "sink": "http://down",
                    "deadLetterSink": "http://dead",
                    "deadLetterTopic": "dead",
                }
            )
        )
    )
    await event(bus, "a", "lost")
    await until(lambda: sinks.bodies("http://dead") == [b"lost"] and bus.messages("dead"))

    assert dead(bus) == []
    (_, _, headers) = sinks.got[0]
    assert headers["Ce-Deadattempts"] == "3"
    assert "500" in headers["Ce-Deadreason"]
    attributes = cloudevent.from_json(bus.messages("dead")[0].data).extensions
    assert attributes["deadfrom"].startswith("default.Trigger/t.sink/")


async def test_dead_letter_is_redriven_to_the_one_destination_that_failed(bus, sinks, start):
    sinks.answers["http://down"] = 500
    await start(
        plan_of(trigger({"condition": "a", "sink": "http://down"}, {"condition": "a", "sink": "http://up"}))
    )
    await event(bus, "a", "x")
    await until(lambda: dead(bus) and sinks.bodies("http://up"))
    sinks.answers.clear()
    (letter,) = bus.messages(retry.DEAD_TOPICS)
    await bus.publish(retry.redrive(letter, key="1"))
    await until(lambda: sinks.bodies("http://down") == [b"x"])

    assert sinks.bodies("http://up") == [b"x"]


async def test_dead_letter_sink_that_fails_too_leaves_a_dead_letter(bus, sinks, start):
    sinks.answers |= {"http://down": 500, "http://dead": 500}
    await start(plan_of(trigger({"condition": "a", "sink": "http://down", "deadLetterSink": "http://dead"})))
    await event(bus, "a", "lost")
    await until(lambda: dead(bus))

    (letter,) = dead(bus)
    assert letter.subscription.startswith("default.Trigger/t.dead-sink/")
    assert letter.data == b"lost"


async def test_events_from_before_the_trigger_are_passed_over(bus, sinks, start):
    planned = replace(trigger({"condition": "a", "sink": "http://a"}), since=1000.0)
    framework = await start(plan_of(planned))
    await event(bus, "a", "old", at=999.9)
    await event(bus, "a", "new", at=1000.0)
    await until(lambda: sinks.bodies("http://a") == [b"new"])

    found = await framework.explain("default", "t")
    assert (found["events"], found["passedOver"]) == (1, 1)


async def test_windows_are_reckoned_by_the_times_of_events(bus, sinks, start):
    await start(plan_of(trigger({"condition": "a && b", "sink": "http://both"}, window="10s")))
    await event(bus, "a", "a1", at=1000.0)
    await until(lambda: "trigger.default.t" in bus._registers)
    await event(bus, "b", "b1", at=1009.9)
    await until(lambda: sinks.bodies("http://both") == [b"b1"])
    await event(bus, "b", "b2", at=1011.0)
    await until(lambda: b"1011" in bus._registers["trigger.default.t"][0])
    await event(bus, "a", "a2", headers={"__timestamp": "1012000"})
    await until(lambda: sinks.bodies("http://both") == [b"b1", b"a2"])


async def test_event_of_the_future_keeps_its_input_true_no_longer_than_the_window(bus, sinks, start):
    """Kafka's time is its producer's."""
    framework = await start(plan_of(trigger({"condition": "a", "sink": "http://a"}, window="10s")))
    await event(bus, "a", "x", headers={"__timestamp": "99999999999999"})
    await until(lambda: sinks.bodies("http://a") == [b"x"])

    found = await framework.explain("default", "t")
    assert found["inputs"][0]["last"] <= found["now"]


# --- the process dies ---------------------------------------------------------------------------------------


async def test_state_survives_the_process(bus, sinks, start):
    plan = plan_of(trigger({"condition": "a && b", "sink": "http://both"}))
    framework = await start(plan)
    await event(bus, "a", "first")
    await until(lambda: "trigger.default.t" in bus._registers)
    await framework.stop(0.0)

    await start(plan)
    await event(bus, "b", "second")
    await until(lambda: sinks.bodies("http://both") == [b"second"])


async def test_death_between_state_and_queue_fires_none_the_less(bus, sinks, start):
    """The event is not acknowledged: it comes again, and meets the state that it left."""
    plan = plan_of(trigger({"condition": "a && b", "sink": "http://both", "topic": "both"}))
    framework = await start(plan)
    await event(bus, "a", "first", at=1000.0)
    await until(lambda: "trigger.default.t" in bus._registers)
    bus.refuse = lambda message: message.topic.startswith("pelton.retry.")
    await event(bus, "b", "second", at=1001.0)
    await until(lambda: b"1001" in bus._registers["trigger.default.t"][0])
    await framework.stop(0.0)
    bus.refuse = lambda message: False

    await start(plan)
    await until(lambda: sinks.bodies("http://both") == [b"second"] and bus.messages("both"))
    assert len(bus.messages("both")) == 1


async def test_death_between_queue_and_acknowledgement_fires_once(bus, sinks, start):
    """What is queued has an id: the event that comes again is not queued twice."""
    plan = plan_of(
        trigger({"condition": "a", "sink": "http://one"}, {"condition": "a", "sink": "http://two"})
    )
    blocked = [True]
    bus.refuse = lambda message: (
        blocked[0]
        and message.topic.startswith("pelton.retry.")
        and "Trigger" in message.topic
        and bool(bus.messages("pelton.retry.>"))
    )
    framework = await start(plan)
    await event(bus, "a", "x", at=1000.0)
    await until(lambda: sinks.got)
    await framework.stop(0.0)
    blocked[0] = False

    await start(plan)
    await until(lambda: len(sinks.got) == 2)
    await asyncio.sleep(0.05)
    assert sorted(url for url, _, _ in sinks.got) == ["http://one", "http://two"]


async def test_queue_is_worked_through_by_the_next_process(bus, sinks, start):
    sinks.answers["http://down"] = DeliveryError("not reached")
    plan = plan_of(trigger({"condition": "a", "sink": "http://down"}, attempts=1000))
    framework = await start(plan)
    await event(bus, "a", "x")
    await until(lambda: any(one["failed"] for one in framework.stats().values()))
    await framework.stop(0.0)
    sinks.answers.clear()

    await start(plan)
    await until(lambda: sinks.bodies("http://down") == [b"x"])


async def test_state_goes_with_the_trigger_but_not_when_it_only_rests(bus, sinks, start):
    planned = trigger({"condition": "a", "sink": "http://a"})
    framework = await start(plan_of(planned))
    await event(bus, "a", "x")
    await until(lambda: sinks.got)
    await framework.apply(EventPlan(resting=("Trigger/default/t",)))
    assert "trigger.default.t" in bus._registers
    await framework.apply(plan_of(planned))
    await framework.apply(EventPlan())

    assert "trigger.default.t" not in bus._registers
    assert framework.states() == {}


async def test_what_waits_for_a_deleted_trigger_goes_with_it_and_is_told(bus, sinks, start, caplog):
    sinks.answers["http://down"] = DeliveryError("not reached")
    planned = trigger({"condition": "a", "sink": "http://down"}, attempts=1000)
    framework = await start(plan_of(planned))
    await event(bus, "a", "x")
    await until(lambda: any(one["failed"] for one in framework.stats().values()))
    await framework.apply(EventPlan(resting=("Trigger/default/t",)))
    assert bus.messages("pelton.retry.>")
    await framework.apply(plan_of(planned))
    await framework.apply(EventPlan())

    assert bus.messages("pelton.retry.>") == []
    assert "Trigger/default/t was deleted: 1 events that waited" in caplog.text


async def test_destination_that_was_edited_away_still_gets_what_waits_for_it(bus, sinks, start, caplog):
    sinks.answers["http://down"] = DeliveryError("not reached")
    framework = await start(plan_of(trigger({"condition": "a", "sink": "http://down"}, attempts=1000)))
    await event(bus, "a", "x")
    await until(lambda: any(one["failed"] for one in framework.stats().values()))
    (former,) = framework._destinations
    edited = plan_of(trigger({"condition": "a", "sink": "http://new"}, attempts=1000))
    await framework.apply(edited)
    await event(bus, "a", "y")
    await until(lambda: sinks.bodies("http://new") == [b"y"])
    sinks.answers.clear()

    await until(lambda: sinks.bodies("http://down") == [b"x"])
    assert "sink http://down still gets the 1 events that wait for it" in caplog.text
    async with asyncio.timeout(30):
        while await bus.pending(retry.retry_topic(former), consumer=former):
            await asyncio.sleep(0.005)
    caplog.clear()
    await framework.apply(edited)
    assert len(framework._destinations) == 1
    assert caplog.text == ""


async def test_destination_that_was_edited_away_gets_what_waits_from_the_next_process_too(
    bus, sinks, start, caplog
):
    sinks.answers["http://down"] = DeliveryError("not reached")
    framework = await start(plan_of(trigger({"condition": "a", "sink": "http://down"}, attempts=1000)))
    await event(bus, "a", "x")
    await until(lambda: any(one["failed"] for one in framework.stats().values()))
    await framework.apply(EventPlan(resting=("Trigger/default/t",)))
    edited = plan_of(trigger({"condition": "a", "sink": "http://new"}, attempts=1000))
    await framework.apply(edited)
    await framework.stop(0.0)

    framework = await start(edited)
    caplog.clear()
    await framework.apply(edited)
    assert "still gets" not in caplog.text  # told once
    sinks.answers.clear()
    await until(lambda: sinks.bodies("http://down") == [b"x"])


async def test_what_waits_goes_with_a_trigger_that_was_deleted_while_no_process_ran(
    bus, sinks, start, caplog
):
    sinks.answers["http://down"] = DeliveryError("not reached")
    framework = await start(plan_of(trigger({"condition": "a", "sink": "http://down"}, attempts=1000)))
    await event(bus, "a", "x")
    await until(lambda: any(one["failed"] for one in framework.stats().values()))
    await framework.stop(0.0)
    assert bus.messages("pelton.retry.>")

    await start(EventPlan())
    assert bus.messages("pelton.retry.>") == []
    assert "Trigger/default/t was deleted: 1 events that waited" in caplog.text


async def test_note_of_destinations_that_another_version_wrote_stops_nothing(bus, sinks, start, caplog):
    await bus.write_register("event-destinations", b"?", revision=0)
    await start(plan_of(trigger({"condition": "a", "sink": "http://a"})))
    await event(bus, "a", "x")
    await until(lambda: sinks.bodies("http://a") == [b"x"])

    assert "is not known any more" in caplog.text


async def test_new_trigger_of_the_same_name_begins_without_state(bus, sinks, start):
    framework = await start(plan_of(trigger({"condition": "a && b", "sink": "http://both"}, uid="old")))
    await event(bus, "a", "x", at=1000.0)
    await until(lambda: "trigger.default.t" in bus._registers)
    await framework.apply(plan_of(trigger({"condition": "a && b", "sink": "http://both"}, uid="new")))
    await event(bus, "b", "y", at=1001.0)
    await until(lambda: b'"new"' in bus._registers["trigger.default.t"][0])

    assert sinks.got == []


# --- sources ------------------------------------------------------------------------------------------------


async def test_source_brings_bytes_to_bus_and_sink(bus, sinks, start):
    await start(
        plan_of(relays=source(eventBus="default", sink={"uri": "http://sink"}, nats={"e": {"subject": "in"}}))
    )
    sent = [b'{"a": 1}', b"plain \xc3\xa9\n", b"\x00\xff", b"", b'{"broken', b"[1,2"]
    for data in sent:
        await bus.publish(Message(topic="in", data=data, headers={"some": "header"}))
    await until(lambda: len(sinks.got) == len(sent))

    relayed = [cloudevent.from_json(one.data) for one in bus.messages("default-src-e")]
    assert sorted(one.data for one in relayed) == sorted(sent)
    assert sorted(sinks.bodies("http://sink")) == sorted(sent)
    assert {one.source for one in relayed} == {"default/src"}
    assert {one.extensions["topic"] for one in relayed} == {"default-src-e"}
    assert len({one.id for one in relayed}) == len(sent)
    types = {one.data: one.content_type for one in relayed}
    assert types == {
        b'{"a": 1}': "application/json",
        b"plain \xc3\xa9\n": "text/plain",
        b"\x00\xff": "application/octet-stream",
        b"": "",
        b'{"broken': "text/plain",
        b"[1,2": "text/plain",
    }


async def test_cloudevent_stays_the_event_that_it_is(bus, sinks, start):
    await start(
        plan_of(
            trigger(
                {"condition": "e", "sink": "http://sink"}, inputs={"e": {"eventSource": "src", "event": "e"}}
            ),
            relays=source(eventBus="default", nats={"e": {"subject": "in"}}),
        )
    )
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {
        "ce-id": "1",
        "ce-source": "/shop",
        "ce-type": "order",
        "ce-specversion": "1.0",
        "ce-team": "x%20y",
        "ce-traceparent": trace,
        "content-type": "application/xml",
    }
    await bus.publish(Message(topic="in", data=b"<a/>", headers=headers))
    await until(lambda: sinks.got)

    ((_, data, got),) = sinks.got
    assert data == b"<a/>"
    assert got["Content-Type"] == "application/xml"
    assert got["Traceparent"] == got["Ce-Traceparent"] == trace
    assert {name: got[name] for name in ("Ce-Id", "Ce-Source", "Ce-Type", "Ce-Team")} == {
        "Ce-Id": "1",
        "Ce-Source": "/shop",
        "Ce-Type": "order",
        "Ce-Team": "x%20y",
    }


@pytest.mark.parametrize("kind", ["mqtt", "rabbitmq"])
async def test_key_that_comes_again_does_not_make_an_event_an_old_one(bus, sinks, start, kind):
    """MQTT and RabbitMQ number messages anew with each session, and the bus remembers ids."""
    settings = {
        "mqtt": {"url": "tcp://m", "topic": "t"},
        "rabbitmq": {"host": "amqp://r", "queueName": "q"},
    }[kind]
    framework = await start(
        plan_of(relays=source(eventBus="default", sink={"uri": "http://sink"}, **{kind: {"e": settings}}))
    )
    (relay,) = framework._relays.values()
    for _ in range(2):
        got = read_event(relay.subscription, Message(topic="", data=b"on"), key="client:1-0a", attempt=1)
        result = await framework.invoke(relay.subscription, got, invocation_id="i", timeout_s=1.0)
        assert result.outcome == "ok"
    await until(lambda: len(sinks.got) == 2)

    relayed = [cloudevent.from_json(one.data) for one in bus.messages("default-src-e")]
    assert len({one.id for one in relayed}) == 2


@pytest.mark.parametrize(
    ("data", "content_type"), [(b"text", "text/plain"), (b"{}", "application/json"), (b"", "")]
)
async def test_cloudevent_without_media_type_keeps_its_bytes(bus, sinks, start, data, content_type):
    """In the JSON format, which the bus gets, no media type would mean JSON."""
    await start(
        plan_of(
            trigger(
                {"condition": "e", "sink": "http://sink"}, inputs={"e": {"eventSource": "src", "event": "e"}}
            ),
            relays=source(eventBus="default", nats={"e": {"subject": "in"}}),
        )
    )
    headers = {"ce-id": "1", "ce-source": "/shop", "ce-type": "order", "ce-specversion": "1.0"}
    await bus.publish(Message(topic="in", data=data, headers=headers))
    await until(lambda: sinks.got)

    ((_, got, sent),) = sinks.got
    assert (got, sent.get("Content-Type", "")) == (data, content_type)


AS_JSON = {"content-type": "application/json"}
AS_EVENT = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "s", "ce_type": "t"}
ENVELOPE = b'{"specversion":"1.0","id":"1","source":"s","type":"t"%s}'


@pytest.mark.parametrize(
    ("headers", "sent", "arrives", "content_type"),
    [
        ({}, b"[1, 2]", b"[1, 2]", "application/json"),
        ({}, b"null", b"null", "text/plain"),
        ({}, b"42", b"42", "text/plain"),
        ({}, b"", b"", ""),
        ({"__tombstone": "true"}, b"", b"", ""),
        ({}, b"\xff\x00", b"\xff\x00", "application/octet-stream"),
        (AS_JSON, b"null", b"null", "application/json"),
        (AS_JSON, b'"text"', b'"text"', "application/json"),
        (AS_JSON, b"12345678901234567890123", b"12345678901234567890123", "application/json"),
        ({**AS_EVENT, **AS_JSON}, b"no JSON", b"no JSON", "application/json"),
        ({**AS_EVENT, **AS_JSON}, b"null", b"null", "application/json"),
        (AS_EVENT, b"text", b"text", "text/plain"),
        ({}, ENVELOPE % b',"data_base64":"dGV4dA=="', b"text", "text/plain"),
        ({}, ENVELOPE % b',"data_base64":"/w=="', b"\xff", "application/octet-stream"),
        ({}, ENVELOPE % b',"data":null', b"", ""),
        ({}, b'"' * (3 << 20), b'"' * (3 << 20), "text/plain"),
        ({}, b"\xff" * (5 << 20), b"\xff" * (5 << 20), "application/octet-stream"),
    ],
)
async def test_payload_is_the_same_behind_source_bus_and_trigger(
    bus, sinks, start, headers, sent, arrives, content_type
):
    sinks.answers["http://down"] = 400
    planned = trigger(
        {"condition": "a", "sink": "http://a", "topic": "out"},
        {"condition": "a", "sink": "http://down", "deadLetterSink": "http://dead"},
    )
    await start(plan_of(planned, relays=source(eventBus="default", nats={"a": {"subject": "in"}})))
    await bus.publish(Message(topic="in", data=sent, headers=headers))
    await until(lambda: len(sinks.got) == 2 and bus.messages("out"))

    published = cloudevent.from_json(bus.messages("out")[0].data)
    assert published.data == arrives
    assert sorted((url, data) for url, data, _ in sinks.got) == [
        ("http://a", arrives),
        ("http://dead", arrives),
    ]
    assert [given.get("Content-Type", "") for _, _, given in sinks.got] == [content_type] * 2


async def test_event_that_nobody_foresaw_is_a_dead_letter_and_stops_no_other(bus, sinks, start):
    sinks.answers["http://down"] = RuntimeError("odd")
    await start(plan_of(trigger({"condition": "a", "sink": "http://down"})))
    await event(bus, "a", "x")
    await until(lambda: dead(bus))

    assert (dead(bus)[0].attempts, dead(bus)[0].reason) == (3, "RuntimeError: odd")


async def test_message_that_says_it_is_an_event_and_is_none_is_a_dead_letter(bus, sinks, start):
    await start(plan_of(relays=source(eventBus="default", nats={"e": {"subject": "in"}})))
    await bus.publish(Message(topic="in", data=b"x", headers={"ce-id": "1"}))
    await until(lambda: dead(bus))

    assert "lacks" in dead(bus)[0].reason


async def test_bus_that_is_down_is_no_attempt_and_shows(bus, sinks, start):
    framework = await start(plan_of(relays=source(eventBus="default", nats={"e": {"subject": "in"}})))
    bus.refuse = lambda message: message.topic == "default-src-e"
    await bus.publish(Message(topic="in", data=b"x"))
    await until(lambda: framework.states()["EventSource/default/src"]["trouble"])
    state = framework.states()["EventSource/default/src"]
    bus.refuse = lambda message: False
    await until(lambda: bus.messages("default-src-e"))

    assert state == {"ready": False, "trouble": "the bus is down [PEL-EVENT-001]"}
    assert dead(bus) == []


async def test_source_is_ready_when_its_brokers_have_answered(bus, sinks, start):
    framework = await start(plan_of(relays=source(eventBus="default", nats={"e": {"subject": "in"}})))

    await until(lambda: framework.states() == {"EventSource/default/src": {"ready": True, "trouble": ""}})


async def test_order_of_a_source_is_kept_on_the_bus_when_there_is_one_at_a_time(bus, sinks, start):
    await start(plan_of(relays=source(eventBus="default", nats={"e": {"subject": "in"}})))
    for number in range(20):
        await bus.publish(Message(topic="in", data=str(number).encode()))
        await until(lambda number=number: len(bus.messages("default-src-e")) == number + 1)

    numbers = [int(cloudevent.from_json(one.data).data) for one in bus.messages("default-src-e")]
    assert all(left < right for left, right in pairwise(numbers))


# --- looking at it ------------------------------------------------------------------------------------------


async def test_explain_says_what_would_fire(bus, sinks, start):
    framework = await start(
        plan_of(
            trigger({"condition": "a && b", "sink": "http://both"}, {"condition": "a && !b", "topic": "out"})
        )
    )
    assert await framework.explain("default", "other") is None
    before = await framework.explain("default", "t")
    await event(bus, "a", "x")
    await until(lambda: bus.messages("out"))

    after = await framework.explain("default", "t")
    assert [(one["name"], one["true"]) for one in before["inputs"]] == [("a", False), ("b", False)]
    assert [(one["holds"], one["firesOn"]) for one in before["subscribers"]] == [(False, []), (False, ["a"])]
    assert [(one["name"], one["true"]) for one in after["inputs"]] == [("a", True), ("b", False)]
    assert [(one["holds"], one["firesOn"], one["fired"]) for one in after["subscribers"]] == [
        (False, ["b"], 0),
        (True, ["a"], 1),
    ]


@pytest.mark.parametrize("exported", [False, True])
async def test_trace_goes_from_source_to_sink_and_says_which_conditions_held(bus, sinks, start, exported):
    spans: list[SpanRecord] = []
    traces = EventTraces(spans.append, exported=exported, draw=lambda: 0.0)
    planned = trigger(
        {"condition": "a", "sink": "http://one"}, {"condition": "a && b", "sink": "http://both"}
    )
    await start(plan_of(planned, relays=source(eventBus="default", nats={"a": {"subject": "in"}})), traces)
    refusals = iter([True])
    bus.refuse = lambda message: message.topic == "default-src-a" and next(refusals, False)
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"Traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    await bus.publish(Message(topic="in", data=b"x", headers=headers))
    await until(lambda: len(spans) == 3)
    spans.sort(key=lambda span: span.start_ns)

    assert [one.name for one in spans] == [
        "relay default/src/a",
        "trigger default/t",
        "deliver sink http://one",
    ]
    assert {one.trace_id for one in spans} == {trace_id}
    assert spans[1].tags["pelton.holds"] == "a"
    causes = [one.tags.get("pelton.causes", "") for one in spans]
    assert causes == [spans[1].tags["pelton.subscription"], spans[2].tags["pelton.subscription"], ""]
    parents = [spans[0].span_id, spans[1].span_id] if exported else ["b7ad6b7169203331"] * 2
    assert [one.parent_id for one in spans] == ["b7ad6b7169203331", *parents]
    ((_, _, sent),) = sinks.got
    assert sent["Traceparent"].split("-")[1] == trace_id


def test_reader_takes_the_time_from_broker_or_headers():
    (relay,) = source(eventBus="default", nats={"e": {"subject": "in"}})

    def at(**fields):
        message = Message(topic="in", data=b"x", **fields)
        return read_event(relay.subscription, message, key="k", attempt=1).metadata.get("Pelton-At")

    assert at() is None
    assert at(at=1.5) == "1.5"
    assert at(headers={"__timestamp": "1500"}) == "1.5"
    assert at(headers={"__timestamp": "soon"}) is None
    assert at(headers={"Pelton-At": "1"}) is None
