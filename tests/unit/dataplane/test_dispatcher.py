import asyncio
import json
from dataclasses import replace

import pytest

from pelton.clock import SystemClock
from pelton.dataplane import retry
from pelton.dataplane.dispatcher import Dispatcher, to_event
from pelton.drivers.memory import MemoryBroker, MemoryBus
from pelton.errors import ComponentError, DeliveryError
from pelton.model.desired import Component, Desired, Scaling, Subscription, Workload
from pelton.ports import EventResult, Message

COMPONENT = Component(namespace="default", name="in", type="pubsub.jetstream")
SUBSCRIPTION = Subscription(
    namespace="default",
    function="fn",
    name="in",
    input_name="in",
    component=COMPONENT,
    topic="orders",
    max_attempts=3,
    backoff_s=0.01,
    max_backoff_s=0.05,
    max_in_flight=100,
)
OK = EventResult(outcome="ok")
ERROR = EventResult(outcome="error", reason="boom")


def desired(*subscriptions):
    workload = Workload(namespace="default", name="fn", revision="fn-1", bundle="/", request_timeout_s=7.0)
    return Desired(workload=workload, scaling=Scaling(), subscriptions=subscriptions or (SUBSCRIPTION,))


class Functions:
    """An invoker: `answer(data, attempt)` gives the outcome, or waits."""

    def __init__(self, answer=lambda _data, _attempt: OK):
        self.answer = answer
        self.calls = []
        self.timeouts = set()
        self.running = 0
        self.most = 0

    async def invoke(self, subscription, event, *, invocation_id, timeout_s):
        del subscription, invocation_id
        self.timeouts.add(timeout_s)
        self.calls.append((event.data.decode(), event.attempt))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            result = self.answer(event.data.decode(), event.attempt)
            return await result if asyncio.iscoroutine(result) else result
        finally:
            self.running -= 1


@pytest.fixture
async def bus():
    async with MemoryBus() as bus:
        yield bus


@pytest.fixture
async def start(bus):
    started = []

    async def begin(functions, *, subscriptions=(), bus_of=None, on_pending=None):
        async def same(_component):
            return bus

        dispatcher = Dispatcher(
            invoker=functions, ledger=bus, bus_of=bus_of or same, clock=SystemClock(), on_pending=on_pending
        )
        started.append(dispatcher)
        await dispatcher.start()
        await dispatcher.apply(desired(*subscriptions))
        return dispatcher

    yield begin
    for dispatcher in started:
        await dispatcher.stop(0.0)


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def counters(dispatcher):
    return dispatcher.stats()[SUBSCRIPTION.id]


def dead(bus):
    return [retry.letter(message) for message in bus.messages(retry.DEAD_TOPICS)]


async def publish(bus, *texts):
    for text in texts:
        await bus.publish(Message(topic="orders", data=text.encode()))


async def test_events_reach_the_function_once_and_are_acked(bus, start):
    functions = Functions()
    dispatcher = await start(functions)
    await publish(bus, *(str(number) for number in range(300)))
    await until(lambda: counters(dispatcher)["delivered"] == 300)

    assert [data for data, _ in functions.calls] == [str(number) for number in range(300)]
    assert functions.timeouts == {7.0}
    assert functions.most <= 100
    assert await bus.pending("orders", consumer=SUBSCRIPTION.id) == 0


async def test_failed_event_is_tried_again_until_it_succeeds(bus, start):
    functions = Functions(lambda _data, attempt: OK if attempt == 3 else ERROR)
    dispatcher = await start(functions)
    await publish(bus, "a")
    await until(lambda: counters(dispatcher)["delivered"] == 1)

    assert functions.calls == [("a", 1), ("a", 2), ("a", 3)]
    assert counters(dispatcher) | {"pending": 0, "due": 0, "in_flight": 0} == {
        "pending": 0,
        "due": 0,
        "in_flight": 0,
        "delivered": 1,
        "lanes": 0,
        "failed": 2,
        "retried": 2,
        "dead": 0,
        "trouble": "",
    }
    assert await bus.load_attempts(SUBSCRIPTION.id) == {}


async def test_poison_event_becomes_a_dead_letter_and_others_pass(bus, start):
    functions = Functions(lambda data, _attempt: ERROR if data == "poison" else OK)
    dispatcher = await start(functions)
    await publish(bus, "poison", "a", "b")
    await until(lambda: counters(dispatcher)["dead"] == 1 and counters(dispatcher)["in_flight"] == 0)

    (letter,) = dead(bus)
    assert (letter.topic, letter.data, letter.reason, letter.attempts) == ("orders", b"poison", "boom", 3)
    assert letter.subscription == SUBSCRIPTION.id
    assert functions.calls.index(("b", 1)) < functions.calls.index(("poison", 2))
    assert await bus.pending("orders", consumer=SUBSCRIPTION.id) == 0


async def test_drop_is_a_dead_letter_at_once(bus, start):
    functions = Functions(lambda _data, _attempt: EventResult(outcome="drop", reason="not for me"))
    await start(functions)
    await publish(bus, "a")
    await until(lambda: dead(bus))

    assert functions.calls == [("a", 1)]


async def test_busy_is_no_attempt(bus, start):
    answers = iter([EventResult(outcome="busy")] * 3 + [OK])
    functions = Functions(lambda _data, _attempt: next(answers))
    dispatcher = await start(functions)
    await publish(bus, "a")
    await until(lambda: counters(dispatcher)["delivered"] == 1)

    assert functions.calls == [("a", 1)] * 4
    assert counters(dispatcher)["failed"] == 0


async def test_attempts_survive_the_dispatcher(bus, start):
    first = Functions(lambda _data, _attempt: ERROR)
    dispatcher = await start(first, subscriptions=(replace(SUBSCRIPTION, backoff_s=3.0, max_backoff_s=3.0),))
    await publish(bus, "a")
    await until(lambda: counters(dispatcher)["failed"] == 1)
    await until(lambda: counters(dispatcher)["in_flight"] == 0)
    await dispatcher.stop(0.0)

    assert list((await bus.load_attempts(SUBSCRIPTION.id)).values()) == [1]


async def test_recorded_attempts_count(bus, start):
    await publish(bus, "a")
    await bus.put_attempts(SUBSCRIPTION.id, "memory:1", 2)
    functions = Functions(lambda _data, _attempt: ERROR)
    await start(functions)
    await until(lambda: dead(bus))

    assert functions.calls == [("a", 3)]
    assert dead(bus)[0].attempts == 3


async def test_death_while_holding_is_no_attempt_and_loses_nothing(bus, start):
    hang = asyncio.Event()
    functions = Functions(lambda _data, _attempt: hang.wait())
    dispatcher = await start(functions)
    await publish(bus, "a")
    await until(lambda: functions.running == 1)
    await dispatcher.stop(0.0)
    second = Functions()
    again = await start(second)
    await until(lambda: counters(again)["delivered"] == 1)

    assert second.calls == [("a", 1)]


async def test_stop_waits_for_what_runs(bus, start):
    release = asyncio.Event()

    async def slow():
        await release.wait()
        return OK

    functions = Functions(lambda _data, _attempt: slow())
    dispatcher = await start(functions)
    await publish(bus, "a")
    await until(lambda: functions.running == 1)
    stopping = asyncio.create_task(dispatcher.stop(5.0))
    await asyncio.sleep(0)
    release.set()
    await stopping

    assert await bus.pending("orders", consumer=SUBSCRIPTION.id) == 0


async def test_long_wait_moves_to_the_retry_stream_and_is_acked(bus, start):
    slow = replace(SUBSCRIPTION, backoff_s=30.0, max_backoff_s=30.0)
    dispatcher = await start(Functions(lambda _data, _attempt: ERROR), subscriptions=(slow,))
    await publish(bus, "a")
    await until(lambda: counters(dispatcher)["retried"] == 1 and counters(dispatcher)["in_flight"] == 0)

    (parked,) = bus.messages("pelton.retry.>")
    assert retry.unpark(parked).attempts == 1
    assert await bus.pending("orders", consumer=SUBSCRIPTION.id) == 0
    assert await bus.load_attempts(SUBSCRIPTION.id) == {}


async def test_parked_event_is_delivered_when_due_and_buried_in_the_end(bus, start):
    functions = Functions(lambda _data, _attempt: ERROR)
    tight = replace(SUBSCRIPTION, max_in_flight=1)  # half of the window is less than one: everything parks
    await start(functions, subscriptions=(tight,))
    await publish(bus, "a")
    await until(lambda: dead(bus))

    assert functions.calls == [("a", 1), ("a", 2), ("a", 3)]
    assert dead(bus)[0].data == b"a"


async def test_many_failures_do_not_stop_the_others(bus, start):
    functions = Functions(lambda data, _attempt: ERROR if data.startswith("p") else OK)
    narrow = replace(SUBSCRIPTION, max_in_flight=4, backoff_s=4.0, max_backoff_s=4.0)
    dispatcher = await start(functions, subscriptions=(narrow,))
    await publish(bus, *(f"p{number}" for number in range(20)), "good")
    await until(lambda: counters(dispatcher)["delivered"] == 1)

    assert len(bus.messages("pelton.retry.>")) >= 16


async def test_redriven_letter_is_handled_again(bus, start):
    broken = True
    functions = Functions(lambda _data, _attempt: ERROR if broken else OK)
    dispatcher = await start(functions)
    await publish(bus, "a")
    await until(lambda: dead(bus))
    broken = False
    await bus.publish(retry.redrive(bus.messages(retry.DEAD_TOPICS)[0], key="1"))
    await until(lambda: counters(dispatcher)["delivered"] == 1)

    assert functions.calls[-1] == ("a", 1)


async def test_broker_trouble_is_shown_and_overcome(bus, start):
    troubles = [ComponentError("no stream stores the subject orders")]

    async def bus_of(_component):
        if troubles:
            raise troubles[0]
        return bus

    functions = Functions()
    dispatcher = await start(functions, bus_of=bus_of)
    await until(lambda: "no stream" in counters(dispatcher)["trouble"])
    troubles.clear()
    await publish(bus, "a")
    await until(lambda: counters(dispatcher)["delivered"] == 1)

    assert counters(dispatcher)["trouble"] == ""


async def test_dead_letter_is_insisted_on_while_the_ledger_is_away(bus, start):
    refusals = [DeliveryError("away")]
    publish_really = bus.publish

    async def refuse_once(message):
        if message.topic.startswith("pelton.dead.") and refusals:
            raise refusals.pop()
        await publish_really(message)

    bus.publish = refuse_once
    await start(Functions(lambda _data, _attempt: EventResult(outcome="drop")))
    await publish(bus, "a")
    await until(lambda: dead(bus))

    assert await bus.pending("orders", consumer=SUBSCRIPTION.id) == 0


async def test_pending_is_reported_when_it_changes(bus, start):
    release = asyncio.Event()

    async def slow():
        await release.wait()
        return OK

    reports = []
    await publish(bus, *"abc")
    await start(
        Functions(lambda _data, _attempt: slow()),
        subscriptions=(replace(SUBSCRIPTION, max_in_flight=1),),
        on_pending=lambda *report: reports.append(report),
    )
    await until(lambda: ("default", "fn", 3) in reports)
    release.set()
    await until(lambda: reports[-1] == ("default", "fn", 0))


async def test_apply_keeps_unchanged_feeds_and_ends_removed_ones(bus, start):
    functions = Functions()
    other = replace(SUBSCRIPTION, topic="returns")
    dispatcher = await start(functions, subscriptions=(SUBSCRIPTION, other))
    await publish(bus, "a")
    await until(lambda: counters(dispatcher)["delivered"] == 1)
    await dispatcher.apply(desired(SUBSCRIPTION))

    assert list(dispatcher.stats()) == [SUBSCRIPTION.id]
    assert counters(dispatcher)["delivered"] == 1
    await dispatcher.sync([])
    assert dispatcher.stats() == {}


def test_envelope_is_unwrapped_for_the_function():
    text = b'{"id":"7","source":"s","type":"t","specversion":"1.0","datacontenttype":"application/json",'
    event = to_event(
        SUBSCRIPTION, Message(topic="orders", data=text + b'"data":{"a": 1}}'), key="S:1", attempt=2
    )

    assert (event.kind, event.topic, event.component, event.attempt) == ("topic", "orders", "in", 2)
    assert event.data == b'{"a": 1}'
    assert event.content_type == "application/json"
    assert event.attributes["id"] == "7"
    assert event.attributes["pubsubname"] == "in"


@pytest.mark.parametrize(
    ("data", "headers", "content_type"),
    [
        (b'{"a":1}', {}, "application/json"),
        (b"\x00", {}, "application/octet-stream"),
        (b"a,b", {"Content-Type": "text/csv"}, "text/csv"),
    ],
)
def test_raw_message_arrives_as_it_is(data, headers, content_type):
    event = to_event(SUBSCRIPTION, Message(topic="orders", data=data, headers=headers), key="S:1", attempt=1)

    assert event.data == data
    assert event.content_type == content_type
    assert event.attributes["id"] == "S:1"
    assert event.metadata["Topic"] == "orders"


def test_binding_event_has_no_attributes():
    event = to_event(replace(SUBSCRIPTION, topic=""), Message(topic="x", data=b""), key="S:1", attempt=1)

    assert (event.kind, event.topic, event.attributes) == ("binding", "", {})


class LaneDelivery:
    """A delivery of a broker that keeps an order."""

    def __init__(self, bus, number, lane, order_key, text):
        self._bus = bus
        self.key = f"t:{lane}:{number}"
        self.lane = lane
        self.order_key = order_key
        self.lost = False
        self.message = Message(topic="orders", data=text.encode())

    async def ack(self):
        self._bus.ended.append(self.message.data.decode())

    async def nak(self, delay_s):
        self._bus.given_back.append((self.message.data.decode(), delay_s))

    async def term(self):
        await self.ack()

    async def extend(self):
        pass


class LaneBus:
    """Delivers (lane, key, text) once."""

    def __init__(self, *records):
        self.ended: list[str] = []
        self.given_back: list[tuple[str, float]] = []
        self.options: dict[str, str] = {}
        self.deliveries = [
            LaneDelivery(self, number, lane, key, text) for number, (lane, key, text) in enumerate(records)
        ]

    async def subscribe(self, topic, *, consumer, max_in_flight, options):
        del topic, consumer, max_in_flight
        self.options = options
        yield self.deliveries
        await asyncio.Event().wait()

    async def pending(self, topic, *, consumer):
        del topic, consumer
        return len(self.deliveries) - len(self.ended)

    def trouble(self, topic, *, consumer):
        del topic, consumer
        return "the broker sleeps"

    def lanes(self, topic, *, consumer):
        del topic, consumer
        return len({delivery.lane for delivery in self.deliveries})


async def lanes_started(start, functions, bus, ordering="partition", **changes):
    async def lane_bus(_component):
        return bus

    subscription = replace(SUBSCRIPTION, ordering=ordering, **changes)
    return await start(functions, subscriptions=(subscription,), bus_of=lane_bus)


def record(number, lanes=2, key=""):
    return (str(number % lanes), key, str(number))


async def test_lane_waits_for_the_outcome_of_the_event_before_and_lanes_run_side_by_side(start):
    gates = {str(number): asyncio.Event() for number in range(6)}

    async def answer(data):
        await gates[data].wait()
        return OK

    functions = Functions(lambda data, _attempt: answer(data))
    lanes = LaneBus(*(record(number) for number in range(6)))
    dispatcher = await lanes_started(start, functions, lanes)
    await until(lambda: len(functions.calls) == 2)
    assert {data for data, _ in functions.calls} == {"0", "1"}
    assert counters(dispatcher)["in_flight"] >= 6

    gates["1"].set()
    await until(lambda: len(functions.calls) == 3)
    assert functions.calls[-1] == ("3", 1)
    for gate in gates.values():
        gate.set()
    await until(lambda: len(lanes.ended) == 6)
    assert [text for text in lanes.ended if int(text) % 2 == 0] == ["0", "2", "4"]
    await until(lambda: counters(dispatcher)["in_flight"] == 0)


async def test_retry_in_a_lane_keeps_the_order_and_a_poison_event_ends_as_a_dead_letter(bus, start):
    functions = Functions(lambda data, attempt: OK if data != "0" or attempt > 9 else ERROR)
    lanes = LaneBus(*(record(number, lanes=1) for number in range(3)))
    await lanes_started(start, functions, lanes)
    await until(lambda: len(lanes.ended) == 3)

    assert functions.calls == [("0", 1), ("0", 2), ("0", 3), ("1", 1), ("2", 1)]
    assert [letter.attempts for letter in dead(bus)] == [3]


async def test_long_wait_parks_and_the_lane_goes_on(start):
    functions = Functions(lambda data, attempt: OK if data != "0" or attempt > 1 else ERROR)
    lanes = LaneBus(*(record(number, lanes=1) for number in range(2)))
    await lanes_started(start, functions, lanes, backoff_s=60.0, max_backoff_s=60.0)
    await until(lambda: len(lanes.ended) == 2)

    assert functions.calls == [("0", 1), ("1", 1)]


@pytest.mark.parametrize(("ordering", "most"), [("partition", 1), ("key", 2), ("none", 4)])
async def test_ordering_says_what_an_event_waits_for(start, ordering, most):
    gate = asyncio.Event()

    async def answer():
        await gate.wait()
        return OK

    functions = Functions(lambda _data, _attempt: answer())
    lanes = LaneBus(*(("0", key, str(number)) for number, key in enumerate(("a", "a", "b", "b"))))
    await lanes_started(start, functions, lanes, ordering)
    await until(lambda: functions.running == most)
    gate.set()
    await until(lambda: len(lanes.ended) == 4)
    assert functions.most == most


async def test_event_of_a_lost_lane_is_given_up_unhandled(start):
    functions = Functions()
    lanes = LaneBus(record(0), record(1))
    lanes.deliveries[0].lost = True
    await lanes_started(start, functions, lanes)
    await until(lambda: lanes.ended == ["1"] and lanes.given_back == [("0", 0.0)])

    assert [data for data, _ in functions.calls] == ["1"]


async def test_stop_leaves_what_waits_in_a_lane_to_the_broker(start):
    gate = asyncio.Event()

    async def answer():
        await gate.wait()
        return OK

    functions = Functions(lambda _data, _attempt: answer())
    lanes = LaneBus(*(record(number, lanes=1) for number in range(3)))
    dispatcher = await lanes_started(start, functions, lanes)
    await until(lambda: functions.running == 1)
    stopping = asyncio.create_task(dispatcher.stop(5.0))
    await asyncio.sleep(0)
    gate.set()
    await stopping

    assert lanes.ended == ["0"]
    assert [text for text, _ in lanes.given_back] == ["1", "2"]


async def test_driver_tells_its_trouble_and_lanes_and_is_told_the_app(start):
    lanes = LaneBus(record(0), record(1))
    dispatcher = await lanes_started(start, Functions(), lanes)
    await until(lambda: counters(dispatcher)["lanes"] == 2)

    assert counters(dispatcher)["trouble"] == "the broker sleeps"
    assert lanes.options["consumerID"] == "fn-default"


async def test_event_that_only_claims_to_be_a_cloudevent_is_a_dead_letter_at_once(bus, start):
    await start(Functions())
    headers = {"ce_specversion": "1.0", "ce_id": "1"}
    await bus.publish(Message(topic="orders", data=b"x", headers=headers))
    await until(lambda: dead(bus))

    assert "lacks source, type" in dead(bus)[0].reason
    assert dead(bus)[0].headers == headers


async def test_event_too_large_for_the_ledger_leaves_a_letter_that_names_it(bus, start):
    real = bus.publish

    async def publish(message):
        if len(message.data) > 10 and message.topic != "orders":
            raise DeliveryError("too large", retriable=False)
        await real(message)

    await bus.publish(Message(topic="orders", data=b"x" * 100))
    bus.publish = publish
    await start(Functions(lambda _data, _attempt: EventResult(outcome="drop", reason="no")))
    await until(lambda: dead(bus))

    assert dead(bus)[0].data == b""
    assert "100 bytes are not kept here" in dead(bus)[0].reason


@pytest.mark.parametrize(
    ("size", "limit", "kept"), [(100, 200, b"x" * 100), (100, 50, b"")], ids=["headers", "headers and data"]
)
async def test_headers_too_large_for_the_ledger_do_not_stop_what_is_behind(bus, start, size, limit, kept):
    """JetStream takes 64 KiB of headers, Kafka as many as fit into a record."""
    real = bus.publish

    async def publish(message):
        if message.topic != "orders" and (
            any(len(text) > 1500 for text in message.headers.values()) or len(message.data) > limit
        ):
            raise DeliveryError("header size exceeds maximum allowed", retriable=False)
        await real(message)

    await bus.publish(Message(topic="orders", data=b"x" * size, headers={"large": "h" * 2000}))
    bus.publish = publish
    await start(Functions(lambda _data, _attempt: EventResult(outcome="drop", reason="no")))
    await until(lambda: dead(bus))

    (letter,) = dead(bus)
    assert (letter.data, letter.headers) == (kept, {})
    assert "headers" in letter.reason


# --- runs and batches -------------------------------------------------------------------------------------


class Batches(Functions):
    """An invoker that takes several at once and remembers how they came.

    `answer(text, attempt)` gives an outcome; "die" kills the worker with all that it holds.
    """

    def __init__(self, answer=lambda _data, _attempt: OK):
        super().__init__(answer)
        self.runs = []
        self.given = []
        self.batches = []

    async def invoke_run(self, subscription, *, more, done, timeout_s):
        del subscription
        self.timeouts.add(timeout_s)
        run: list[str] = []
        self.runs.append(run)

        def given():
            events = more(1000)
            if events:
                self.given.append([event.data.decode() for _, event in events])
            return events

        events = list(given())
        while events:
            await asyncio.sleep(0)
            _invocation_id, event = events.pop(0)
            run.append(event.data.decode())
            self.calls.append((event.data.decode(), event.attempt))
            result = self.answer(event.data.decode(), event.attempt)
            if result.outcome != "ok":
                return result
            done(1)
            events += given()
        return None

    async def invoke_many(self, subscription, events, *, settled, timeout_s):
        del subscription, timeout_s
        await asyncio.sleep(0)
        self.batches.append([event.data.decode() for _, event in events])
        why = ""
        for index, (_, event) in enumerate(events):
            result = self.answer(event.data.decode(), event.attempt)
            if result.outcome == "busy":
                why = "full"
            else:
                self.calls.append((event.data.decode(), event.attempt))
                settled([(index, result)])
        return why


async def test_lane_is_one_run_in_order(start):
    functions = Batches()
    lanes = LaneBus(*(record(number, lanes=1) for number in range(50)))
    dispatcher = await lanes_started(start, functions, lanes)
    await until(lambda: counters(dispatcher)["delivered"] == 50)

    assert [data for data, _ in functions.calls] == [str(number) for number in range(50)]
    assert len(functions.runs) == 1
    assert lanes.ended == [str(number) for number in range(50)]
    assert counters(dispatcher)["in_flight"] == 0


async def test_failure_in_a_run_is_tried_again_before_what_is_behind(start):
    functions = Batches(lambda data, attempt: ERROR if data == "5" and attempt < 3 else OK)
    lanes = LaneBus(*(record(number, lanes=1) for number in range(10)))
    dispatcher = await lanes_started(start, functions, lanes)
    await until(lambda: counters(dispatcher)["delivered"] == 10)

    assert [data for data, _ in functions.calls] == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "5",
        "5",
        "5",
        "6",
        "7",
        "8",
        "9",
    ]
    assert lanes.ended == [str(number) for number in range(10)]
    assert counters(dispatcher)["failed"] == 2


async def test_busy_run_begins_again_where_it_stopped(start):
    answers = {"3": [EventResult(outcome="busy"), EventResult(outcome="busy"), OK]}
    functions = Batches(lambda data, _attempt: answers[data].pop(0) if data in answers else OK)
    lanes = LaneBus(*(record(number, lanes=1) for number in range(6)))
    dispatcher = await lanes_started(start, functions, lanes)
    await until(lambda: counters(dispatcher)["delivered"] == 6)

    assert lanes.ended == [str(number) for number in range(6)]
    assert counters(dispatcher)["failed"] == 0
    assert len(functions.runs) == 3


async def test_after_a_death_the_events_that_were_with_the_worker_go_one_by_one(start):
    deaths: list[str] = []

    def answer(data, _attempt):
        if data == "6" and len(deaths) < 1:
            deaths.append(data)
            return EventResult(outcome="error", reason="died", died=True)
        return OK

    functions = Batches(answer)
    lanes = LaneBus(*(record(number, lanes=1) for number in range(20)))
    dispatcher = await lanes_started(start, functions, lanes)
    await until(lambda: counters(dispatcher)["delivered"] == 20)

    assert lanes.ended == [str(number) for number in range(20)]
    first = functions.given.index(["7"])
    held = [text for given in functions.given[:first] for text in given if int(text) > 6]
    alone = functions.given[first : first + len(held)]
    assert alone == [[text] for text in held]
    assert len(alone) > 1


async def test_event_that_is_no_cloudevent_though_it_says_so_ends_a_run_alone(start):
    functions = Batches()
    lanes = LaneBus(*(record(number, lanes=1) for number in range(4)))
    bad = lanes.deliveries[2]
    bad.message = Message(topic="orders", data=b"2", headers={"ce_specversion": "1.0"})
    dispatcher = await lanes_started(start, functions, lanes)
    await until(lambda: counters(dispatcher)["delivered"] == 3)

    assert [data for data, _ in functions.calls] == ["0", "1", "3"]
    assert counters(dispatcher)["dead"] == 1


async def test_events_without_order_travel_together_and_fail_alone(bus, start):
    functions = Batches(lambda data, attempt: ERROR if data == "1" and attempt == 1 else OK)
    dispatcher = await start(functions)
    await publish(bus, "0", "1", "2")
    await until(lambda: counters(dispatcher)["delivered"] == 3)

    assert sorted(functions.calls) == [("0", 1), ("1", 1), ("1", 2), ("2", 1)]
    assert await bus.pending("orders", consumer=SUBSCRIPTION.id) == 0
    assert await bus.load_attempts(SUBSCRIPTION.id) == {}


async def test_events_that_nobody_took_are_offered_again_together(bus, start):
    busy = [True, True]

    def answer(data, _attempt):
        if data == "1" and busy:
            busy.pop()
            return EventResult(outcome="busy")
        return OK

    functions = Batches(answer)
    dispatcher = await start(functions)
    await publish(bus, "0", "1", "2")
    await until(lambda: counters(dispatcher)["delivered"] == 3)

    assert functions.batches[-1] == ["1"]
    assert counters(dispatcher)["failed"] == 0


async def test_batch_size_limits_what_travels_together(bus, start):
    functions = Batches()
    dispatcher = await start(functions, subscriptions=(replace(SUBSCRIPTION, batch_size=2),))
    await publish(bus, *(str(number) for number in range(9)))
    await until(lambda: counters(dispatcher)["delivered"] == 9)

    assert max(map(len, functions.batches)) <= 2


async def test_broker_that_does_not_answer_keeps_no_other_function_unmeasured(bus, start):
    class Silent(MemoryBus):
        async def pending(self, topic, *, consumer):
            await asyncio.Event().wait()
            raise AssertionError

    told = []
    dispatcher = await start(
        Functions(lambda _data, _attempt: EventResult(outcome="busy")),
        bus_of=None,
        on_pending=lambda *report: told.append(report),
    )
    silent = Silent()

    async def bus_of(component):
        return silent if component.name == "silent" else bus

    dispatcher._bus_of = bus_of
    stuck = replace(
        SUBSCRIPTION, function="stuck", component=Component(namespace="default", name="silent", type="x")
    )
    await dispatcher.feed(("default", "stuck"), [stuck], timeout_s=1.0)
    await until(lambda: dispatcher.states()[stuck.id] == (False, ""))
    await publish(bus, "a")
    await until(lambda: ("default", "fn", 1) in told)


def batch_of(*texts, content_type="application/cloudevents-batch+json"):
    events = [{"specversion": "1.0", "id": text, "source": "/s", "type": "t", "data": text} for text in texts]
    return Message(topic="orders", data=json.dumps(events).encode(), headers={"Content-Type": content_type})


async def test_batch_of_cloudevents_is_its_events_and_is_finished_with_the_last(bus, start):
    functions = Functions(lambda data, attempt: ERROR if data == '"b"' and attempt < 3 else OK)
    dispatcher = await start(functions)
    await bus.publish(batch_of("a", "b", "c"))
    await until(lambda: counters(dispatcher)["delivered"] == 3)

    assert functions.calls == [('"a"', 1), ('"b"', 1), ('"b"', 2), ('"b"', 3), ('"c"', 1)]
    assert await bus.pending("orders", consumer=SUBSCRIPTION.id) == 0
    await until(lambda: counters(dispatcher)["in_flight"] == 0)


async def test_poison_event_of_a_batch_is_a_dead_letter_of_its_own(bus, start):
    functions = Functions(lambda data, _attempt: ERROR if data == '"b"' else OK)
    dispatcher = await start(functions)
    await bus.publish(batch_of("a", "b", "c"))
    await until(lambda: counters(dispatcher)["dead"] == 1 and counters(dispatcher)["delivered"] == 2)

    (letter,) = dead(bus)
    assert json.loads(letter.data)["id"] == "b"
    await until(lambda: counters(dispatcher)["in_flight"] == 0)
    assert await bus.pending("orders", consumer=SUBSCRIPTION.id) == 0


async def test_batch_in_a_lane_keeps_its_place(start):
    functions = Batches()
    lanes = LaneBus(*(record(number, lanes=1) for number in range(3)))
    lanes.deliveries[1].message = batch_of("x", "y")
    dispatcher = await lanes_started(start, functions, lanes)
    await until(lambda: counters(dispatcher)["delivered"] == 4)

    assert [data for data, _ in functions.calls] == ["0", '"x"', '"y"', "2"]
    assert len(lanes.ended) == 3


async def test_array_that_is_no_batch_is_one_event_and_an_empty_batch_none(bus, start):
    functions = Functions()
    dispatcher = await start(functions)
    await bus.publish(batch_of())
    await bus.publish(batch_of("a", content_type="application/json"))
    await bus.publish(Message(topic="orders", data=b"[1, 2]"))
    await until(lambda: counters(dispatcher)["delivered"] == 2)

    assert len(functions.calls) == 2
    await until(lambda: counters(dispatcher)["in_flight"] == 0)
    assert await bus.pending("orders", consumer=SUBSCRIPTION.id) == 0


async def test_failing_every_third_event_handles_all_and_failing_always_buries_all(bus, start):
    functions = Functions(lambda data, attempt: ERROR if int(data) % 3 == 0 and attempt == 1 else OK)
    dispatcher = await start(functions)
    await publish(bus, *(str(number) for number in range(90)))
    await until(lambda: counters(dispatcher)["delivered"] == 90)
    assert (counters(dispatcher)["failed"], counters(dispatcher)["dead"]) == (30, 0)
    assert len(functions.calls) == 120

    functions.answer = lambda _data, _attempt: ERROR
    await publish(bus, *(str(number) for number in range(90, 120)))
    await until(lambda: counters(dispatcher)["dead"] == 30 and counters(dispatcher)["in_flight"] == 0)
    assert sorted(int(letter.data) for letter in dead(bus)) == list(range(90, 120))
    assert {letter.attempts for letter in dead(bus)} == {3}
    assert await bus.pending("orders", consumer=SUBSCRIPTION.id) == 0


async def test_what_failed_waits_in_the_ledger_where_its_broker_ends_with_the_process(bus, start):
    async with MemoryBroker(COMPONENT, clock=SystemClock()) as broker:

        async def open_broker(_component):
            return broker

        functions = Functions(lambda _data, attempt: OK if attempt == 2 else ERROR)
        patient = replace(SUBSCRIPTION, backoff_s=0.2, max_backoff_s=0.2)
        dispatcher = await start(functions, subscriptions=[patient], bus_of=open_broker)
        await broker.publish(Message(topic="orders", data=b"a"))
        await until(lambda: counters(dispatcher)["retried"] == 1)
        (parked,) = [retry.unpark(message) for message in bus.messages("pelton.retry.>")]
        assert (parked.message.data, parked.attempts) == (b"a", 1)

        await until(lambda: counters(dispatcher)["delivered"] == 1)
    assert functions.calls == [("a", 1), ("a", 2)]
    assert await bus.load_attempts(SUBSCRIPTION.id) == {}
