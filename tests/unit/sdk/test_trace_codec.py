import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.sdk.trace_codec import (
    Context,
    Skywalking,
    decode_sw8,
    encode_baggage,
    encode_correlation,
    encode_sw8,
    parse_traceparent,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f" 00-{TRACE.upper()}-{SPAN}-03 ", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
    ],
)
def test_traceparent_is_read(text, sampled):
    assert parse_traceparent(text) == Context(trace_id=TRACE, span_id=SPAN, sampled=sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE[:-1]}x-{SPAN}-01",
        "garbage",
    ],
)
def test_traceparent_that_is_none_begins_a_new_trace(text):
    assert parse_traceparent(text) is None


def test_traceparent_is_written():
    assert str(Context(trace_id=TRACE, span_id=SPAN)) == f"00-{TRACE}-{SPAN}-01"
    assert str(Context(trace_id=TRACE, span_id=SPAN, sampled=False)) == f"00-{TRACE}-{SPAN}-00"


def test_sw8_of_the_protocols_own_form_is_read():
    """Eight fields: sample, trace, segment, span number, service, instance, endpoint, address."""
    text = (
        "1-VFJBQ0VJRA==-U0VHTUVOVElE-3-UEFSRU5UX1NFUlZJQ0U=-UEFSRU5UX0lOU1RBTkNF-L2FwcA==-"
        "MTI3LjAuMC4xOjgwODA="
    )

    found = decode_sw8(text)

    assert found == Skywalking(
        trace_id="TRACEID",
        segment_id="SEGMENTID",
        span_id=3,
        service="PARENT_SERVICE",
        instance="PARENT_INSTANCE",
        endpoint="/app",
        address="127.0.0.1:8080",
    )
    assert found is not None
    assert encode_sw8(found) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1-a-b",
        "2-YQ==-YQ==-0-YQ==-YQ==-YQ==-YQ==",
        "1-?-YQ==-0-a-a-a-a",
        "1--YQ==-0----",
        "1-YQ==-YQ==-x----",
    ],
)
def test_sw8_that_is_none_is_left_out(text):
    assert decode_sw8(text) is None


@given(st.lists(st.text(), min_size=4, max_size=4), st.integers(0, 10**6), st.booleans())
def test_property_sw8_comes_back_as_it_went(texts, number, sampled):
    service, instance, endpoint, address = texts
    header = Skywalking(
        trace_id="t",
        segment_id="s",
        span_id=number,
        service=service,
        instance=instance,
        endpoint=endpoint,
        address=address,
        sampled=sampled,
    )

    assert decode_sw8(encode_sw8(header)) == header


def test_baggage_and_correlation_escape_what_separates():
    items = {"tenant": "a,b=c", "user id": "ä"}

    assert encode_baggage(items) == "tenant=a%2Cb%3Dc,user%20id=%C3%A4"
    assert encode_correlation({"k": "v", "a": ""}) == "aw==:dg==,YQ==:"
