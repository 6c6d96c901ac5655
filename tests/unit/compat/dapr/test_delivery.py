"""Events on their way to an app: rules, raw payloads, expiry, dead letter topics, bulks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pelton import errors
from pelton.compat.dapr.channel import (
    ABSENT,
    DROP,
    RETRY,
    SUCCESS,
    UNREACHED,
    Answer,
    BindingAnswer,
    BindingEvent,
    TopicEvent,
)
from pelton.compat.dapr.delivery import AppInvoker, BindingRoute, TopicRoute
from pelton.compat.dapr.subscriptions import Bulk, Router, Rule, TopicSubscription
from pelton.drivers.memory import MemoryBus
from pelton.model.desired import Component, Subscription
from pelton.ports import EventResult, Message
from pelton.testing.clock import FakeClock

COMPONENT = Component(namespace="default", name="bus", type="pubsub.in-memory")
EVENT = {"specversion": "1.0", "id": "7", "source": "a", "type": "t", "topic": "orders", "pubsubname": "bus"}


def subscription(**changes: Any) -> Subscription:
    given: dict[str, Any] = {
        "namespace": "default", "function": "b", "name": "dapr.bus", "input_name": "bus",
        "component": COMPONENT, "topic": "orders", "max_attempts": 3,
    }  # fmt: skip
    return Subscription(**given | changes)


class Bed:
    """An invoker with one subscription; `sent` are the events that reached the app."""

    def __init__(self, *answers: Answer, topic: TopicSubscription | None = None, **changes: Any) -> None:
        self.bus = MemoryBus()
        self.clock = FakeClock()
        self.sent: list[TopicEvent] = []
        self.bulks: list[list[TopicEvent]] = []
        self._answers = list(answers) or [Answer(status=SUCCESS)]
        self.subscription = subscription(**changes)
        wanted = topic or TopicSubscription(pubsub="bus", topic="orders", rules=(Rule(path="/o"),))
        self.invoker = AppInvoker(bus_of=self._bus_of, clock=self.clock)
        self.route = TopicRoute(
            topic=wanted, router=Router(wanted), deliver=self._deliver, deliver_bulk=self._deliver_bulk
        )
        self.invoker.set_route(self.subscription.id, self.route)

    async def _bus_of(self, _component: Component) -> MemoryBus:
        return self.bus

    async def _deliver(self, event: TopicEvent, _timeout_s: float) -> Answer:
        self.sent.append(event)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    async def _deliver_bulk(self, events: list[TopicEvent], _timeout_s: float) -> list[Answer]:
        self.bulks.append(events)
        return [Answer(status=SUCCESS)] * len(events)

    async def give(self, data: bytes | dict[str, Any], attempt: int = 1, **headers: str) -> EventResult:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        message = Message(
            topic="orders", data=raw, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        event = self.invoker.event(self.subscription, message, key="s:1", attempt=attempt)
        return await self.invoker.invoke(self.subscription, event, invocation_id="i", timeout_s=5)


async def test_invoke_envelope_reaches_the_app_byte_for_byte() -> None:
    bed = Bed()
    raw = b'{"data": {"n": 12345678901234567890}, ' + json.dumps(EVENT)[1:].encode()

    assert (await bed.give(raw)).outcome == "ok"

    assert bed.sent[0].envelope == raw
    assert bed.sent[0].path == "/o"
    assert bed.sent[0].data == b'{"n": 12345678901234567890}'


async def test_invoke_event_of_another_publisher_gets_topic_and_pubsubname() -> None:
    bed = Bed()
    foreign = {key: value for key, value in EVENT.items() if key not in ("topic", "pubsubname")}

    await bed.give(foreign)

    envelope = json.loads(bed.sent[0].envelope)
    assert (envelope["topic"], envelope["pubsubname"]) == ("orders", "bus")


async def test_invoke_binary_mode_event_becomes_an_envelope() -> None:
    bed = Bed()

    await bed.give(
        b"\xff\x00", ce_id="9", ce_type="t", ce_source="s", ce_specversion="1.0", content_type="image/png"
    )

    envelope = json.loads(bed.sent[0].envelope)
    assert (envelope["id"], envelope["data_base64"], envelope["datacontenttype"]) == (
        "9",
        "/wA=",
        "image/png",
    )


async def test_invoke_raw_payload_is_wrapped_with_a_new_id() -> None:
    wanted = TopicSubscription(
        pubsub="bus", topic="orders", rules=(Rule(path="/o"),), metadata={"RawPayload": "true"}
    )
    bed = Bed(topic=wanted)

    await bed.give(b'{"plain": 1}')
    await bed.give(b'{"plain": 1}')

    first, second = (json.loads(event.envelope) for event in bed.sent)
    assert first["id"] != second["id"]
    assert first["data_base64"] == "eyJwbGFpbiI6IDF9"
    assert {key: first[key] for key in ("source", "type", "datacontenttype", "topic", "pubsubname")} == {
        "source": "Dapr",
        "type": "com.dapr.event.sent",
        "datacontenttype": "application/octet-stream",
        "topic": "orders",
        "pubsubname": "bus",
    }


@pytest.mark.parametrize("data", [b"not json", b'{"own": "json"}', b'{"specversion": "1.0", "id": ""}', b""])
async def test_invoke_what_is_no_event_is_a_dead_letter_and_the_app_is_not_asked(data: bytes) -> None:
    bed = Bed()

    result = await bed.give(data)

    assert (result.outcome, bed.sent) == ("drop", [])
    assert "rawPayload" in result.reason


@pytest.mark.parametrize(
    ("answer", "attempt", "outcome"),
    [
        (Answer(status=SUCCESS), 1, "ok"),
        (Answer(status=RETRY, reason="r"), 1, "error"),
        (Answer(status=RETRY, reason="r"), 3, "error"),
        (Answer(status=DROP, reason="r"), 1, "ok"),
        (Answer(status=ABSENT, reason="r"), 1, "drop"),
        (Answer(status=UNREACHED, reason="r"), 1, "busy"),
    ],
)
async def test_invoke_outcome_without_a_dead_letter_topic(answer: Answer, attempt: int, outcome: str) -> None:
    bed = Bed(answer)

    assert (await bed.give(EVENT, attempt)).outcome == outcome
    assert bed.route.counts.dropped == (1 if answer.status == DROP else 0)


DEAD = TopicSubscription(pubsub="bus", topic="orders", rules=(Rule(path="/o"),), dead_letter_topic="dead")


@pytest.mark.parametrize(
    ("answer", "attempt", "buried"),
    [
        (Answer(status=RETRY, reason="r"), 1, False),
        (Answer(status=RETRY, reason="r"), 3, True),
        (Answer(status=DROP, reason="r"), 1, True),
        (Answer(status=ABSENT, reason="r"), 1, True),
        (Answer(status=UNREACHED, reason="r"), 3, False),
        (Answer(status=SUCCESS), 3, False),
    ],
)
async def test_invoke_dead_letter_topic_gets_the_original_message(
    answer: Answer, attempt: int, buried: bool
) -> None:
    bed = Bed(answer, topic=DEAD)

    result = await bed.give(EVENT, attempt, own_header="1")

    assert bed.route.counts.dead_lettered == int(buried)
    letters = bed.bus.messages("dead")
    assert [(letter.data, letter.headers) for letter in letters] == (
        [(json.dumps(EVENT).encode(), {"own-header": "1"})] if buried else []
    )
    assert not buried or result.outcome == "ok"


async def test_invoke_dead_letter_keeps_the_key_of_a_record() -> None:
    bed = Bed(Answer(status=DROP, reason="r"), topic=DEAD)
    message = Message(topic="orders", data=json.dumps(EVENT).encode(), headers={"__key": "k"})
    event = bed.invoker.event(bed.subscription, message, key="s:1", attempt=1)

    await bed.invoker.invoke(bed.subscription, event, invocation_id="i", timeout_s=5)

    assert [letter.metadata for letter in bed.bus.messages("dead")] == [{"__key": "k"}]


async def test_event_of_jetstream_tells_its_subject() -> None:
    bed = Bed(component=Component(namespace="default", name="bus", type="pubsub.jetstream"))

    await bed.give(EVENT)

    assert bed.sent[0].metadata == {"Topic": "orders"}


async def test_invoke_dead_letter_topic_that_refuses_leaves_it_to_the_ledger() -> None:
    bed = Bed(Answer(status=DROP, reason="r"), topic=DEAD)

    async def refuse(message: Message) -> None:
        raise errors.DeliveryError(f"full, no room for {message.topic}")

    bed.bus.publish = refuse  # type: ignore[method-assign]

    result = await bed.give(EVENT)

    assert result.outcome == "error"
    assert "full" in result.reason


async def test_invoke_code_that_the_policy_does_not_retry_ends_at_once() -> None:
    bed = Bed(Answer(status=RETRY, reason="r", code="400"), topic=DEAD)
    bed.route.retriable = lambda code: code.startswith("5")

    assert (await bed.give(EVENT, 1)).outcome == "ok"
    assert bed.route.counts.dead_lettered == 1


async def test_invoke_event_that_meets_no_rule_is_dropped() -> None:
    ruled = TopicSubscription(
        pubsub="bus", topic="orders", rules=(Rule(match='event.type == "x"', path="/x"),)
    )
    bed = Bed(topic=ruled)

    assert (await bed.give(EVENT)).outcome == "ok"
    assert (bed.sent, bed.route.counts.dropped) == ([], 1)


async def test_invoke_rule_that_fails_is_an_attempt() -> None:
    ruled = TopicSubscription(
        pubsub="bus", topic="orders", rules=(Rule(match="event.data.n > 1", path="/x"),)
    )
    bed = Bed(topic=ruled)

    assert (await bed.give({**EVENT, "data": {"m": 1}})).outcome == "error"


async def test_invoke_expired_event_is_dropped_and_a_fresh_one_is_not() -> None:
    bed = Bed()

    past = await bed.give({**EVENT, "expiration": "2001-01-01T00:00:00Z"})
    future = await bed.give({**EVENT, "expiration": "2999-01-01T00:00:00Z"})

    assert [past.outcome, future.outcome] == ["ok", "ok"]
    assert (len(bed.sent), bed.route.counts.dropped) == (1, 1)


async def test_invoke_bulk_goes_when_it_is_full_and_when_its_time_is_up() -> None:
    bulk = TopicSubscription(
        pubsub="bus", topic="orders", rules=(Rule(path="/o"),), bulk=Bulk(max_messages=2, max_wait_s=0.02)
    )
    bed = Bed(topic=bulk)

    results = await asyncio.gather(*(bed.give({**EVENT, "id": str(number)}) for number in range(3)))

    assert [result.outcome for result in results] == ["ok"] * 3
    assert [[event.attributes["id"] for event in events] for events in bed.bulks] == [["0", "1"], ["2"]]


async def test_invoke_subscription_that_is_not_there_keeps_its_events_waiting() -> None:
    bed = Bed()
    bed.invoker.forget(bed.subscription.id)

    assert (await bed.give(EVENT)).outcome == "busy"


def binding_bed(answer: BindingAnswer, send: Callable[[str, bytes], Awaitable[None]]) -> AppInvoker:
    async def trigger(_event: BindingEvent, _timeout_s: float) -> BindingAnswer:
        return answer

    async def bus_of(_component: Component) -> MemoryBus:
        raise AssertionError

    invoker = AppInvoker(bus_of=bus_of, clock=FakeClock())
    route = BindingRoute(name="cron", route="/cron", trigger=trigger, send=send)
    invoker.set_route(subscription(topic="").id, route)
    return invoker


@pytest.mark.parametrize("parallel", [False, True])
async def test_invoke_binding_answer_goes_to_the_outputs_it_names(parallel: bool) -> None:
    sent: list[tuple[str, bytes]] = []

    async def send(name: str, data: bytes) -> None:
        if name == "bad":
            raise errors.DeliveryError("refused")
        sent.append((name, data))

    results = []
    for to in (("a", "b"), ("a", "bad", "b")):
        answer = BindingAnswer(answer=Answer(status=SUCCESS), data=b"x", to=to, parallel=parallel)
        invoker = binding_bed(answer, send)
        event = invoker.event(subscription(topic=""), Message(topic="", data=b"d"), key="k", attempt=1)
        results.append(await invoker.invoke(subscription(topic=""), event, invocation_id="i", timeout_s=5))

    assert [result.outcome for result in results] == ["ok", "error"]
    assert sent == [("a", b"x"), ("b", b"x"), ("a", b"x"), *([("b", b"x")] if parallel else [])]
