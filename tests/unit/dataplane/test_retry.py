from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.dataplane import retry
from pelton.model.desired import Component, Subscription
from pelton.ports import EventResult, Message

SUBSCRIPTION = Subscription(
    namespace="default",
    function="fn",
    name="in",
    input_name="in",
    component=Component(namespace="default", name="in", type="pubsub.jetstream"),
    topic="orders",
    max_attempts=5,
    backoff_s=1.0,
    max_backoff_s=60.0,
    max_in_flight=100,
)
ERROR = EventResult(outcome="error", reason="boom")
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=20)


def decide(result=ERROR, *, attempts=0, waiting=0, parked=False, subscription=SUBSCRIPTION):
    return retry.decide(result, subscription, attempts=attempts, waiting=waiting, parked=parked)


def test_backoff_doubles_up_to_its_bound():
    waits = [retry.backoff(attempts, first_s=0.5, max_s=60.0) for attempts in range(1, 10)]

    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


@given(st.integers(-5, 10_000), st.floats(0, 1e6), st.floats(0, 1e6))
def test_backoff_is_never_above_its_bound(attempts, first_s, max_s):
    assert 0 <= retry.backoff(attempts, first_s=first_s, max_s=max_s) <= max_s


def test_waits_grow_and_spread_as_the_subscription_says():
    grown = replace(SUBSCRIPTION, backoff_growth=1.5, backoff_spread=0.5, max_attempts=100)

    def delay_s(attempts, draw):
        result = EventResult(outcome="error")
        return retry.decide(result, grown, attempts=attempts, waiting=0, parked=False, draw=draw).delay_s

    assert [delay_s(attempts, 0.5) for attempts in range(4)] == [1.0, 1.5, 2.25, 3.375]
    assert (delay_s(1, 0.0), delay_s(1, 1.0)) == (0.75, 2.25)
    assert delay_s(50, 1.0) == 90.0


def test_success_is_acked():
    assert decide(EventResult(outcome="ok")).action == "ack"


def test_first_failure_waits_at_the_broker():
    assert decide() == retry.Decision(action="nak", attempts=1, delay_s=1.0, reason="boom")


def test_drop_is_buried_at_once():
    assert decide(EventResult(outcome="drop", reason="no")).action == "bury"


def test_last_attempt_is_buried_with_its_reason():
    assert decide(attempts=4) == retry.Decision(action="bury", attempts=5, reason="boom")


def test_wait_over_five_seconds_moves_to_the_retry_stream():
    assert [decide(attempts=attempts).action for attempts in range(5)] == [
        "nak",
        "nak",
        "nak",
        "park",
        "bury",
    ]


@pytest.mark.parametrize(("waiting", "expected"), [(0, "nak"), (49, "nak"), (50, "park"), (99, "park")])
def test_retries_fill_at_most_half_of_the_window(waiting, expected):
    assert decide(waiting=waiting).action == expected


def test_event_from_the_retry_stream_waits_there_again():
    assert decide(parked=True).action == "park"


def test_busy_delay_stays_small():
    assert [retry.busy_delay(times) for times in (1, 2, 3, 20)] == [0.05, 0.1, 0.2, 2.0]


@given(
    TEXT.filter(bool), st.binary(max_size=50), st.dictionaries(TEXT.filter(bool), TEXT), st.integers(0, 99)
)
def test_parked_message_comes_back_as_it_was(topic, data, headers, attempts):
    message = Message(topic=topic, data=data, headers=headers)
    parked = retry.park(message, "a.b.c", key="S:7", attempts=attempts, not_before=1234.5)

    found = retry.unpark(parked)
    assert found == retry.Parked(message=message, key="S:7", attempts=attempts, not_before=1234.5)


def test_park_gives_the_same_id_to_the_same_retry_only():
    message = Message(topic="t", data=b"")

    def id_of(key, attempts):
        return retry.park(message, "a.b.c", key=key, attempts=attempts, not_before=0.0).id

    assert id_of("S:7", 1) == id_of("S:7", 1)
    assert len({id_of("S:7", 1), id_of("S:7", 2), id_of("S:8", 1)}) == 3


def test_topics_of_different_subscriptions_differ():
    assert retry.retry_topic("a.b") != retry.retry_topic("a_b")
    assert retry.dead_topic("ns.fn.in.logs.>").count(".") == 2


def test_dead_letter_tells_what_happened():
    message = Message(topic="orders", data=b"x", headers={"Content-Type": "a/b", "Nats-Msg-Id": "1"})
    dead = retry.bury(message, "a.b.c", key="S:7", attempts=5, reason="line\nbreak", failed_at=12.5)

    assert dead.topic == retry.dead_topic("a.b.c")
    assert retry.letter(dead) == retry.Letter(
        subscription="a.b.c",
        topic="orders",
        reason="line break",
        attempts=5,
        failed_at=12.5,
        data=b"x",
        headers={"Content-Type": "a/b", "Nats-Msg-Id": "1"},
    )


def test_redriven_letter_is_a_fresh_event_of_its_subscription():
    message = Message(topic="orders", data=b"x", headers={"a": "b"})
    dead = retry.bury(message, "a.b.c", key="S:7", attempts=5, reason="boom", failed_at=12.5)

    fresh = retry.redrive(dead, key="1")
    found = retry.unpark(fresh)
    assert fresh.topic == retry.retry_topic("a.b.c")
    assert found.message == message
    assert (found.attempts, found.not_before) == (0, 0.0)
    assert found.key != "S:7"


@pytest.mark.parametrize("value", ["plain", " outer ", "two\r\nlines", "ä\x00", "", "50%"])
def test_header_values_of_any_broker_survive_parking(value):
    message = Message(topic="t", data=b"", headers={"odd name": value})

    parked = retry.park(message, "s", key="k", attempts=1, not_before=0.0)

    assert not any("\n" in text or "\r" in text for text in parked.headers.values())
    assert retry.unpark(parked).message.headers == {"odd name": value}


@pytest.mark.parametrize("step", ["park", "bury"])
def test_key_that_comes_again_with_other_data_is_another_event(step):
    """RabbitMQ numbers deliveries anew with each session, and the bus drops what it has seen an id of."""
    more = {"not_before": 0.0} if step == "park" else {"reason": "r", "failed_at": 0.0}

    def made(data):
        message = Message(topic="t", data=data)
        return getattr(retry, step)(message, "a.b.c", key="q:tag-1", attempts=1, **more).id

    assert made(b"one") == made(b"one")
    assert made(b"one") != made(b"two")
