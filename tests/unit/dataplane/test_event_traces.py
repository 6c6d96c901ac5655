import pytest

from pelton.dataplane.event_traces import EventTraces
from pelton.model.desired import Component, OutputBinding, Subscription
from pelton.model.invocation import Event, Output
from pelton.sdk.trace_codec import parse_traceparent

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01"
BUS = Component(namespace="shop", name="bus", type="pubsub.jetstream")
ORDERS = Subscription(
    namespace="shop", function="cart", name="bus", input_name="bus", component=BUS, topic="orders"
)


def event(**attributes):
    return Event(
        kind="topic",
        component="bus",
        component_type="pubsub.jetstream",
        topic="orders",
        data=b"",
        content_type="",
        attributes=attributes,
        attempt=3,
    )


@pytest.fixture
def spans():
    return []


def test_delivery_goes_on_with_the_events_trace_and_becomes_its_parent(spans):
    handled = event(traceparent=SAMPLED)

    hop = EventTraces(spans.append, exported=True, draw=lambda: 0.0).delivery(ORDERS, handled)
    assert hop is not None
    hop.end("it failed")

    (span,) = spans
    seen = parse_traceparent(handled.attributes["traceparent"])
    assert seen is not None
    assert (seen.trace_id, seen.span_id) == (TRACE, span.span_id)
    assert span.parent_id == "b7ad6b7169203331"
    assert span.error == "it failed"
    assert span.tags["pelton.attempt"] == "3"
    assert span.tags["pelton.function"] == "shop/cart"


def test_delivery_that_no_collector_hears_of_leaves_the_event_as_it_is(spans):
    handled = event(traceparent=SAMPLED)

    assert EventTraces(spans.append, draw=lambda: 0.0).delivery(ORDERS, handled) is not None
    assert handled.attributes["traceparent"] == SAMPLED


@pytest.mark.parametrize(("drawn", "traced"), [(9.9, True), (10.0, False)])
def test_share_of_events_without_a_trace_begins_one(spans, drawn, traced):
    hop = EventTraces(spans.append, percent=10.0, draw=lambda: drawn).delivery(ORDERS, event())

    assert (hop is not None) is traced


def test_event_whose_sender_wants_no_record_begins_none(spans):
    refused = event(traceparent=SAMPLED[:-1] + "0")

    assert EventTraces(spans.append, percent=100.0, draw=lambda: 0.0).delivery(ORDERS, refused) is None


def test_output_of_a_traced_invocation_is_a_producer(spans):
    target = OutputBinding(name="next", component=BUS, topic="bills")
    traces = EventTraces(spans.append, percent=100.0, draw=lambda: 0.0)

    assert traces.output("shop", "cart", target, Output(name="next", data=b"")) is None
    hop = traces.output("shop", "cart", target, Output(name="next", data=b"", traceparent=SAMPLED))
    assert hop is not None
    hop.end()

    (span,) = spans
    assert span.kind == "producer"
    assert span.trace_id == TRACE
    assert span.tags["messaging.destination.name"] == "bills"
