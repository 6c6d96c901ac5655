import pytest

from pelton.dataplane.traces import LIMIT, Traces, sampled
from pelton.model.invocation import Event, Invocation, Reply
from pelton.sdk.trace_codec import parse_traceparent

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{PARENT}-01".encode()


@pytest.fixture
def spans():
    return []


@pytest.fixture
def traces(spans):
    return Traces(
        service="shop/cart",
        tags={"pelton.revision": "cart-1"},
        first_tags={"pelton.start": "fork"},
        emit=spans.append,
    )


def context_of(text):
    found = parse_traceparent(text)
    assert found is not None
    return found


def begun(traces, name="one", **more):
    invocation = Invocation(name, "GET", b"/a?secret=1", [], **more)
    entry = traces.enter(HEADER)
    traces.begin(invocation, entry)
    return invocation, entry.context


@pytest.mark.parametrize("flags", ["00", "02", "zz"])
def test_enter_ignores_a_caller_that_does_not_want_a_record(traces, flags):
    assert traces.enter(f"00-{TRACE}-{PARENT}-{flags}".encode()) is None
    assert not traces.open


def test_sampled_takes_further_flags_along():
    assert sampled(f"00-{TRACE}-{PARENT}-03") is not None


def test_end_reports_one_span_with_the_times_of_its_parts(traces, spans):
    invocation, context = begun(traces)

    reply = traces.call(lambda _: Reply(status=201), invocation)
    traces.end(invocation)
    traces.end(invocation)

    (span,) = spans
    assert reply.status == 201
    assert (span.trace_id, span.parent_id) == (TRACE, PARENT)
    assert span.span_id == context.span_id
    assert span.tags["http.response.status_code"] == "201"
    assert span.tags["url.path"] == "/a"
    assert span.tags["faas.coldstart"] == "true"
    assert span.tags["pelton.start"] == "fork"
    assert float(span.tags["pelton.function_ms"]) >= 0
    assert span.start_ns <= span.end_ns
    assert span.error == ""
    assert not traces.open


def test_second_span_of_an_instance_is_warm(traces, spans):
    for name in ("one", "two"):
        invocation, _ = begun(traces, name)
        traces.end(invocation, status=200)

    assert [span.tags["faas.coldstart"] for span in spans] == ["true", "false"]
    assert "pelton.start" not in spans[1].tags


def test_exception_passes_through_and_the_span_says_what_the_caller_got(traces, spans):
    invocation, _ = begun(traces)

    with pytest.raises(ZeroDivisionError):
        traces.call(lambda _: 1 / 0, invocation)
    traces.end(invocation, status=500)

    assert spans[0].error == "status 500"
    assert "pelton.function_ms" in spans[0].tags


async def test_async_code_is_timed_as_well(traces, spans):
    invocation, _ = begun(traces)

    async def call(_invocation):
        return Reply(status=204)

    assert (await traces.wait(call, invocation)).status == 204
    traces.end(invocation)
    assert spans[0].tags["http.response.status_code"] == "204"


async def test_code_that_answers_by_itself_has_the_status_it_gave(traces, spans):
    invocation, _ = begun(traces)

    async def serve(served, _run):
        traces.answered(served, 202)

    await traces.attend(serve, invocation, None)
    traces.end(invocation)
    assert spans[0].tags["http.response.status_code"] == "202"


def test_event_is_traced_by_its_attribute_and_its_outputs_carry_its_span(traces, spans):
    event = Event(
        kind="topic",
        component="bus",
        component_type="pubsub.jetstream",
        topic="orders",
        data=b"",
        content_type="",
        attributes={"traceparent": HEADER.decode()},
        attempt=2,
    )
    invocation = Invocation("e", "POST", b"/", [], event=event)

    traces.begin_event(invocation, event)
    carried = traces.traceparent(invocation)
    traces.end(invocation, error="no luck")

    (span,) = spans
    assert context_of(carried).span_id == span.span_id
    assert event.attributes["traceparent"] == HEADER.decode()
    assert span.kind == "consumer"
    assert span.tags["messaging.destination.name"] == "orders"
    assert span.tags["pelton.attempt"] == "2"
    assert span.error == "no luck"


def test_call_of_an_untraced_invocation_is_the_call_itself(traces, spans):
    begun(traces)
    other = Invocation("other", "GET", b"/", [])

    assert traces.call(lambda invocation: invocation.id, other) == "other"
    assert traces.traceparent(other) == ""
    assert traces.traceparent(None) == ""


def test_invocations_that_never_end_are_bounded(traces):
    for number in range(LIMIT + 5):
        begun(traces, f"i{number}")

    assert len(traces.open) == LIMIT
    assert "i0" not in traces.open
