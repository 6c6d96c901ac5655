"""What a traced function continues, hands on and leaves behind."""

import json
import logging

import pytest

from pelton.model.invocation import Delivered
from pelton.sdk import trace_codec
from pelton.sdk.trace_codec import Skywalking, encode_sw8

HEAD = "from functions_framework.context.user_context import UserContext\n"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
OUTPUTS = {
    "topic": {"componentName": "bus", "componentType": "pubsub.jetstream", "topic": "results"},
    "http": {"componentName": "hook", "componentType": "bindings.http"},
    "queue": {"componentName": "k", "componentType": "bindings.kafka"},
    "other": {"componentName": "r", "componentType": "bindings.redis"},
}
SEND_ALL = HEAD + (
    "def f(context: UserContext):\n"
    "    for name in ('topic', 'http', 'queue', 'other'):\n"
    "        context.send(name, {'n': 1})\n"
    "    return 'ok'\n"
)
SW8 = encode_sw8(
    Skywalking(
        trace_id="T", segment_id="P", span_id=1, service="g", instance="i", endpoint="e", address="bus"
    )
)


def parse_traceparent(text):
    found = trace_codec.parse_traceparent(text)
    assert found is not None
    return found


def decode_sw8(text):
    found = trace_codec.decode_sw8(text)
    assert found is not None
    return found


def context(provider="opentelemetry", **more):
    tracing = {"enabled": True, "provider": {"name": provider}, "tags": {"layer": "faas"}, **more}
    triggers = {"dapr": [{"name": "bus", "type": "pubsub.jetstream", "topic": "orders", "inputName": "in"}]}
    return {"name": "f", "outputs": OUTPUTS, "tracing": tracing, "triggers": triggers}


@pytest.fixture
def lines(monkeypatch):
    """The traces that went to the log."""
    found = []

    class Handler(logging.Handler):
        def emit(self, record):
            text = record.getMessage()
            if text.startswith("trace "):
                found.append(json.loads(text.removeprefix("trace ")))

    logger = logging.getLogger("function.f")
    handler = Handler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)


def test_trace_is_continued_and_handed_on_to_every_output(load, request_of, platform, lines):
    function = load(SEND_ALL, context=context(baggage={"tenant": "a"}))

    headers = [(b"traceparent", PARENT.encode()), (b"tracestate", b"v=1"), (b"baggage", b"k=v")]
    assert function.call(request_of(b"/x?y", headers=headers)).body == b"ok"

    topic, http, queue, other = platform.outputs
    parents = [
        parse_traceparent(text)
        for text in (
            topic.metadata["cloudevent.traceparent"],
            http.metadata["Traceparent"],
            queue.metadata["traceparent"],
            other.metadata["traceparent"],
        )
    ]
    assert {parent.trace_id for parent in parents} == {TRACE}
    assert len({parent.span_id for parent in parents} | {SPAN}) == 5
    assert topic.metadata["cloudevent.tracestate"] == "v=1"
    assert http.metadata["Baggage"] == "k=v,tenant=a"
    assert {output.data for output in platform.outputs} == {b'{"n": 1}'}
    (line,) = lines
    assert (line["traceId"], line["parentSpanId"], line["kind"]) == (TRACE, SPAN, "server")
    assert {"func": "f", "namespace": "default", "layer": "faas", "url.path": "/x"}.items() <= line[
        "tags"
    ].items()
    assert line["tags"]["instance"]
    assert [item["spanId"] for item in line["outputs"]] == [parent.span_id for parent in parents]


def test_trace_of_an_event_comes_from_its_attributes(load, event_of, platform, lines):
    function = load(SEND_ALL, context=context())

    function.call(event_of(traceparent=PARENT))

    assert parse_traceparent(platform.outputs[0].metadata["cloudevent.traceparent"]).trace_id == TRACE
    assert (lines[0]["traceId"], lines[0]["kind"]) == (TRACE, "consumer")


def test_trace_begins_anew_where_none_came(load, request_of, platform, lines):
    function = load(SEND_ALL, context=context())

    for _ in range(2):
        function.call(request_of(headers=[(b"traceparent", b"garbage")]))

    assert len({line["traceId"] for line in lines}) == 2
    assert {line["parentSpanId"] for line in lines} == {""}


def test_trace_that_is_not_sampled_is_handed_on_and_not_exported(load, request_of, platform, lines):
    function = load(SEND_ALL, context=context())

    function.call(request_of(headers=[(b"traceparent", f"00-{TRACE}-{SPAN}-00".encode())]))

    assert platform.outputs[0].metadata["cloudevent.traceparent"].endswith("-00")
    assert lines == []


def test_skywalking_wraps_for_topics_and_queues_and_hands_its_header_on(load, request_of, platform, lines):
    function = load(SEND_ALL, context=context("skywalking", baggage={"k": "v"}))

    function.call(request_of(headers=[(b"sw8", SW8.encode())]))

    topic, http, queue, other = platform.outputs
    for output in (topic, queue):
        event = json.loads(output.data)
        assert (event["type"], event["source"]) == ("io.openfunction.function.default.f", "default/f")
        assert event["data"]["userData"] == "eyJuIjogMX0="
        header = decode_sw8(event["data"]["metadata"]["sw8"])
        assert (header.trace_id, header.service, header.endpoint) == ("T", "f", "f")
        assert event["data"]["metadata"]["sw8-correlation"] == "aw==:dg=="
        assert output.content_type == "application/json"
    assert (http.data, other.data) == (b'{"n": 1}', b'{"n": 1}')
    assert decode_sw8(http.metadata["Sw8"]).span_id == 2
    assert lines[0]["traceId"] == "T"


@pytest.mark.parametrize("where", ["tracing", "output"])
def test_raw_data_turns_wrapping_off(load, request_of, platform, where):
    given = context("skywalking", **({"rawData": True} if where == "tracing" else {}))
    if where == "output":
        given["outputs"] = {k: v | {"metadata": {"rawData": "true"}} for k, v in OUTPUTS.items()}

    load(SEND_ALL, context=given).call(request_of())

    assert {output.data for output in platform.outputs} == {b'{"n": 1}'}


@pytest.mark.parametrize("kind", ["topic", "binding"])
def test_wrapped_payload_reaches_the_function_as_it_was_sent(
    load, event_of, request_of, platform, lines, kind
):
    sender = load(SEND_ALL, context=context("skywalking"))
    sender.call(request_of())
    sent = platform.outputs[0].data
    platform.outputs.clear()
    source = SEND_ALL.replace(
        "    return",
        "    got = context.get_topic_event() or context.get_binding_request()\n"
        "    assert got.data == b'{\"n\": 1}', got.data\n    return",
    )

    reply = load(source, context=context("skywalking")).call(event_of(kind, sent))

    assert reply.status == 200
    assert lines[1]["traceId"] == lines[0]["traceId"]
    if kind == "topic":
        assert json.loads(platform.outputs[0].data)["subject"] == "in"


def test_untraced_function_gets_what_traced_ones_sent_without_the_wrapping(
    load, event_of, request_of, platform
):
    load(SEND_ALL, context=context("skywalking")).call(request_of())
    source = HEAD + (
        "def f(context: UserContext):\n"
        "    assert context.get_topic_event().Data() == b'{\"n\": 1}'\n"
        "    assert context._trace is None\n"
    )

    assert load(source).call(event_of(data=platform.outputs[0].data)).status == 200


def test_payload_is_unwrapped_once(load, event_of, request_of, platform):
    """A function may send a CloudEvent of its own; the receiver gets that one."""
    own = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {"n": 1}}
    source = HEAD + f"def f(context: UserContext):\n    context.send('topic', {own!r})\n"
    load(source, context=context("skywalking")).call(request_of())
    reader = HEAD + (
        "import json\n"
        "def f(context: UserContext):\n"
        "    assert json.loads(context.get_topic_event().data)['id'] == '1'\n"
    )

    reply = load(reader, context=context("skywalking")).call(event_of(data=platform.outputs[0].data))

    assert reply.status == 200


def test_failures_of_function_and_outputs_are_in_the_trace(load, request_of, platform, lines):
    platform.answer = Delivered(ok=False, error="stream is full")
    source = (
        HEAD + "def f(context: UserContext):\n    context.send('http', 'x')\n    raise ValueError('no')\n"
    )
    function = load(source, context=context())

    with pytest.raises(ValueError, match="no"):
        function.call(request_of())

    assert lines[0]["error"] == "no"
    assert lines[0]["outputs"][0]["error"] == "stream is full"


async def test_coroutine_functions_are_traced_alike(load, request_of, platform, lines):
    source = HEAD + "async def f(context: UserContext):\n    await context.send_async('topic', 'x')\n"

    await load(source, context=context()).call(request_of(headers=[(b"traceparent", PARENT.encode())]))

    assert parse_traceparent(platform.outputs[0].metadata["cloudevent.traceparent"]).trace_id == TRACE
    assert lines[0]["traceId"] == TRACE


def test_hooks_may_send_within_the_trace_and_are_not_part_of_its_time(load, request_of, platform, lines):
    source = HEAD + (
        "class Audit:\n"
        "    name = 'audit'\n"
        "    def exec_pre_hook(self, context, plugins):\n"
        "        context.send('http', 'before')\n"
        "    def exec_post_hook(self, context, plugins):\n"
        "        context.send('http', 'after')\n"
        "def f(context: UserContext):\n    return 'ok'\n"
    )
    hooks = {"preHooks": ["audit"], "postHooks": ["audit"]}

    load(source, context=context() | hooks).call(request_of(headers=[(b"traceparent", PARENT.encode())]))

    assert [parse_traceparent(o.metadata["Traceparent"]).trace_id for o in platform.outputs] == [TRACE, TRACE]
    assert len(lines[0]["outputs"]) == 2


@pytest.mark.parametrize("tracing", [{}, {"enabled": False, "provider": {"name": "skywalking"}}], ids=str)
def test_tracing_that_is_off_leaves_outputs_alone(load, request_of, platform, lines, tracing):
    function = load(SEND_ALL, context=context() | {"tracing": tracing})

    function.call(request_of(headers=[(b"traceparent", PARENT.encode()), (b"sw8", SW8.encode())]))

    assert function.start is None
    assert [output.metadata for output in platform.outputs] == [{}, {}, {}, {}]
    assert lines == []
