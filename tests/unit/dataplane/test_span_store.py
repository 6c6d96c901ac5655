import logging

from pelton.dataplane.span_store import SpanStore, otlp
from pelton.model.span import SpanRecord


def span(trace, number=0, service="shop/cart", **more):
    fields = {"parent_id": "", "name": "work", "kind": "server", "end_ns": number + 5, **more}
    return SpanRecord(
        trace_id=trace * 32, span_id=f"{number:016x}", service=service, start_ns=number, **fields
    )


def store(**limits):
    return SpanStore(logger=logging.getLogger("test"), **limits)


def test_trace_returns_its_spans_by_start():
    spans = store()

    spans.add([span("a", 3), span("b", 1), span("a", 2)])

    assert [found.start_ns for found in spans.trace("a" * 32)] == [2, 3]
    assert spans.trace("c" * 32) == []


def test_oldest_trace_goes_when_there_are_too_many():
    spans = store(traces=2)

    spans.add([span("a"), span("b"), span("c")])

    assert spans.trace("a" * 32) == []
    assert spans.trace("c" * 32) != []


def test_spans_are_bounded_whatever_trace_they_belong_to():
    spans = store(spans=10)

    spans.add(span("a", number) for number in range(50))
    spans.add([span("b")])

    assert spans.counters()["kept"] <= 10
    assert spans.trace("b" * 32) != []


def test_otlp_has_a_resource_per_service_and_hexadecimal_ids():
    document = otlp(
        [
            span("a", 1, kind="consumer", parent_id="9" * 16, tags={"k": "v"}, error="no"),
            span("a", 2, service="activator", kind="internal"),
        ]
    )

    function, activator = document["resourceSpans"]
    names = {item["key"]: item["value"]["stringValue"] for item in function["resource"]["attributes"]}
    assert names["service.name"] == "cart"
    assert names["service.namespace"] == "shop"
    (sent,) = function["scopeSpans"][0]["spans"]
    assert sent["traceId"] == "a" * 32
    assert sent["parentSpanId"] == "9" * 16
    assert sent["kind"] == 5
    assert sent["startTimeUnixNano"] == "1"
    assert sent["attributes"] == [{"key": "k", "value": {"stringValue": "v"}}]
    assert sent["status"] == {"code": 2, "message": "no"}
    assert {"key": "service.name", "value": {"stringValue": "pelton-activator"}} in activator["resource"][
        "attributes"
    ]
    assert "parentSpanId" not in activator["scopeSpans"][0]["spans"][0]
