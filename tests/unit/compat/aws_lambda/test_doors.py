"""The ways into a function: Invoke API, invocations for later, events, what the worker refuses."""

import asyncio
import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.compat.aws_lambda import doors, eventstream
from pelton.compat.aws_lambda.calls import LambdaResult, error_payload
from pelton.compat.aws_lambda.context import info_of
from pelton.model.invocation import Delivered, Invocation, LoadRequest

INVOKE = b"/2015-03-31/functions/%b/invocations"
STREAM = b"/2021-11-15/functions/f/response-streaming-invocations"


def invoke(function, request_of, body=b"{}", name=b"f", target=INVOKE, **headers):
    sent = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    return function.call(request_of(target % name if b"%b" in target else target, "POST", body, sent))


def headers_of(reply):
    return dict(reply.headers)


# --- Invoke API ---


@pytest.mark.parametrize(
    "name",
    [
        b"f",
        b"function",
        b"default.f",
        b"f:$LATEST",
        b"f:%24LATEST",
        b"arn:aws:lambda:us-east-1:012345678912:function:f",
        b"arn%3Aaws%3Alambda%3Aus-east-1%3A1%3Afunction%3Af%3A%24LATEST",
        b"012345678912:function:f",
        b"function:f",
    ],
)
def test_function_answers_to_all_its_names(hello, request_of, name):
    target = b"/2015-03-31/functions/" + name + b"/invocations"

    reply = hello("return event").call(request_of(target, "POST", b'{"a": 1}'))

    assert (reply.status, reply.body) == (200, b'{"a": 1}')
    assert headers_of(reply)[b"x-amz-executed-version"] == b"$LATEST"
    assert headers_of(reply)[b"x-amzn-requestid"] == b"i-1"
    assert b"x-amz-function-error" not in headers_of(reply)


@pytest.mark.parametrize("path", [b"other/invocations", b"f:7/invocations", b"f/invocations?Qualifier=prod"])
def test_other_names_and_qualifiers_are_not_found(hello, request_of, path):
    reply = hello("return 1").call(request_of(b"/2015-03-31/functions/" + path, "POST"))

    assert reply.status == 404
    assert headers_of(reply)[b"x-amzn-errortype"] == b"ResourceNotFoundException"
    assert json.loads(reply.body)["Message"].startswith("Function not found: arn:aws:lambda:us-east-1:")


@pytest.mark.parametrize(
    ("body", "headers", "status", "kind"),
    [
        (b"{", {}, 400, b"InvalidRequestContentException"),
        (b"\xff", {}, 400, b"InvalidRequestContentException"),
        (b"[" * 100_000, {}, 400, b"InvalidRequestContentException"),
        (b"{}", {"x_amz_invocation_type": "Later"}, 400, b"InvalidParameterValueException"),
        (b"{}", {"x_amz_client_context": "!!"}, 400, b"InvalidRequestContentException"),
        (b"{}", {"x_amz_client_context": "W10="}, 400, b"InvalidRequestContentException"),
        (b"{}", {"x_amz_client_context": "e30=" * 1000}, 400, b"InvalidRequestContentException"),
        (b"1" * 6291557, {}, 413, b"RequestTooLargeException"),
    ],
)
def test_bad_requests_are_the_callers_fault(hello, request_of, body, headers, status, kind):
    reply = invoke(hello("return 1"), request_of, body, **headers)

    assert (reply.status, headers_of(reply)[b"x-amzn-errortype"]) == (status, kind)


def test_empty_payload_is_an_empty_object(hello, request_of):
    assert invoke(hello("return event"), request_of, b"").body == b"{}"


def test_other_methods_are_not_allowed(hello, request_of):
    assert hello("return 1").call(request_of(INVOKE % b"f")).status == 405


def test_other_paths_of_the_api_are_the_functions_own(hello, request_of):
    function = hello("return event['rawPath']")

    assert function.call(request_of(b"/2015-03-31/functions/f")).body == b'"/2015-03-31/functions/f"'
    assert function.call(request_of(b"/2015-03-31/functions/")).body == b'"/2015-03-31/functions/"'


def test_tail_is_the_end_of_the_log_with_the_platforms_lines(hello, request_of):
    function = hello("print('x' * 5000)\nlogging.warning('last')\nsys.stderr.write('err\\n')\nreturn 1")

    reply = invoke(function, request_of, x_amz_log_type="Tail")
    log = base64.b64decode(headers_of(reply)[b"x-amz-log-result"])
    again = invoke(function, request_of)

    assert len(log) == 4096 and log.startswith(b"xxxx")
    assert b"\ti-1\tlast\nerr\nEND RequestId: i-1\nREPORT RequestId: i-1\tDuration: " in log
    assert b"x-amz-log-result" not in headers_of(again)


def test_too_long_result_is_an_error_of_the_function(hello, request_of):
    reply = invoke(hello("return 'x' * 6291600"), request_of)

    assert headers_of(reply)[b"x-amz-function-error"] == b"Unhandled"
    assert json.loads(reply.body)["errorType"] == "Function.ResponseSizeTooLarge"


def test_dry_run_calls_nothing(hello, request_of):
    function = hello("raise SystemError")

    assert invoke(function, request_of, x_amz_invocation_type="DryRun").status == 204


def test_streamed_invocation_is_an_event_stream(hello, request_of):
    reply = invoke(hello("return 'x' * 300000"), request_of, target=STREAM, x_amz_log_type="Tail")
    found = eventstream.parse(reply.body)

    assert headers_of(reply)[b"content-type"] == b"application/vnd.amazon.eventstream"
    assert [item[0][":event-type"] for item in found] == ["PayloadChunk", "PayloadChunk", "InvokeComplete"]
    assert b"".join(item[1] for item in found[:2]) == json.dumps("x" * 300000).encode()
    assert list(json.loads(found[2][1])) == ["LogResult"]


def test_failure_of_a_streamed_invocation_is_in_its_last_event(hello, request_of):
    reply = invoke(hello("raise ValueError('no')"), request_of, target=STREAM)
    (found,) = eventstream.parse(reply.body)
    said = json.loads(found[1])

    assert said["ErrorCode"] == "Unhandled"
    assert json.loads(said["ErrorDetails"])["errorMessage"] == "no"


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.text(min_size=1, max_size=9), st.text(max_size=9), max_size=3), st.binary()
        )
    )
)
def test_event_stream_round_trip(messages):
    data = b"".join(eventstream.message(headers, payload) for headers, payload in messages)

    assert eventstream.parse(data) == messages
    if data:
        for at in (0, len(data) // 2, len(data) - 1):
            with pytest.raises(ValueError, match=r"checksum|cut off|header"):
                eventstream.parse(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])


def test_front_none_takes_the_body_as_the_event(hello, request_of):
    function = hello("return {'statusCode': 400, 'event': event}", http_event="none")

    reply = function.call(request_of(b"/any", "POST", b'{"a": 1}'))
    failed = function.call(request_of(b"/any", "POST", b"{"))

    assert (reply.status, json.loads(reply.body)) == (200, {"statusCode": 400, "event": {"a": 1}})
    assert failed.status == 400
    assert function.refuse(504, "", request_of()).status == 200


# --- for later ---


async def test_event_is_stored_and_comes_back(hello, platform, request_of, event_of):
    function = hello(
        "return [event, context.aws_request_id, context.client_context.custom, context.tenant_id]"
    )
    sent = base64.b64encode(b'{"custom": {"a": "\\n"}}')
    headers = [
        (b"x-amz-invocation-type", b"Event"),
        (b"x-amz-client-context", sent),
        (b"x-amz-tenant-id", b"t"),
        (b"x-amzn-trace-id", b"Root=1"),
    ]

    reply = await function.aside(request_of(INVOKE % b"f", "POST", b'{"n": 1}', headers))
    (stored,) = platform.deferred

    assert (reply.status, reply.body) == (202, b"")
    assert (stored.id, stored.data) == ("i-1", b'{"n": 1}')
    assert all(text.isascii() and text.isprintable() for text in stored.metadata.values())
    back = event_of("deferred", stored.data, "", metadata=stored.metadata, id=stored.id)
    assert function.call(back).status == 200


async def test_event_that_cannot_be_stored_is_the_services_fault(hello, platform, request_of):
    platform.answer = Delivered(ok=False, error="no bus")
    headers = [(b"x-amz-invocation-type", b"Event")]

    reply = await hello("return 1").aside(request_of(INVOKE % b"f", "POST", b"{}", headers))

    assert (reply.status, headers_of(reply)[b"x-amzn-errortype"]) == (500, b"ServiceException")
    assert "no bus" in json.loads(reply.body)["Message"]


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"1" * 262145, 413)])
async def test_bad_event_is_not_stored(hello, platform, request_of, body, status):
    headers = [(b"x-amz-invocation-type", b"Event")]

    reply = await hello("return 1").aside(request_of(INVOKE % b"f", "POST", body, headers))

    assert reply.status == status
    assert platform.deferred == []


def test_only_what_needs_no_code_is_answered_aside(hello, request_of):
    function = hello("return 1")

    assert function.aside(request_of(INVOKE % b"f", "POST")) is None
    assert function.aside(request_of()) is None


def test_event_that_nothing_can_keep_is_carried_out_before_its_answer(hello, platform, request_of, capsys):
    platform.defer = None
    function = hello("print('done')\nraise ValueError")

    reply = invoke(function, request_of, x_amz_invocation_type="Event")

    assert (
        function.aside(request_of(INVOKE % b"f", "POST", b"{}", [(b"x-amz-invocation-type", b"Event")]))
        is None
    )
    assert (reply.status, reply.body) == (202, b"")
    assert capsys.readouterr().out == "done\n"


@pytest.mark.parametrize(
    ("body", "attempt", "destination", "condition"),
    [
        ("return {'a': 1}", 1, "good", "Success"),
        ("return {'a': 1}", 3, "good", "Success"),
        ("raise ValueError('x')", 1, "", ""),
        ("raise ValueError('x')", 2, "", ""),
        ("raise ValueError('x')", 3, "bad", "RetriesExhausted"),
    ],
)
async def test_destination_gets_the_record_of_the_last_attempt(
    hello, platform, event_of, body, attempt, destination, condition
):
    function = hello(body, on_success="good", on_failure="bad")

    reply = function.call(event_of("deferred", b'{"n": 1}', "", attempt=attempt, id="d-1"))
    if not isinstance(reply.body, bytes):
        assert [chunk async for chunk in reply.body] == []

    assert (reply.status == 200) == (condition == "Success")
    assert [output.name for output in platform.outputs] == ([destination] if destination else [])
    for output in platform.outputs:
        record = json.loads(output.data)
        assert record["requestContext"]["condition"] == condition
        assert record["requestContext"]["approximateInvokeCount"] == attempt
        assert record["requestPayload"] == {"n": 1}


# --- events ---


def test_record_reaches_the_handler_as_a_kafka_record(hello, event_of, capsys):
    function = hello("print(event['eventSource'], list(event['records']))")

    assert function.call(event_of()).status == 200
    assert capsys.readouterr().out == "aws:kafka ['orders-0']\n"


def test_failed_handler_and_reported_record_are_attempts(hello, event_of):
    reported = (
        "[[r]] = event['records'].values()\n"
        "return {'batchItemFailures': [{'itemIdentifier': {'partition': 'orders-0', 'offset': r['offset']}}]}"
    )

    failed = hello("raise ValueError('no')").call(event_of())
    named = hello(reported).call(event_of())
    ignored = hello(reported, function_response_types="none").call(event_of())
    no_json = hello("return b'no'").call(event_of())

    assert (failed.status, failed.error, failed.retry) == (500, "ValueError: no", True)
    assert (named.status, named.error) == (500, "the function reported the record in batchItemFailures")
    assert ignored.status == 200
    assert (no_json.status, no_json.error) == (500, "the result is no JSON, so that the whole batch failed")


def test_request_that_is_a_cloudevent_is_an_eventbridge_event(hello, request_of):
    headers = [
        (b"ce-specversion", b"1.0"),
        (b"ce-id", b"e-1"),
        (b"ce-type", b"order.made"),
        (b"ce-source", b"/shop"),
    ]
    code = "assert event['detail-type'] == 'order.made' and event['detail'] == {'n': 1}, event"

    taken = hello(code).call(request_of(b"/", "POST", b'{"n": 1}', headers))
    broken = hello(code).call(request_of(b"/", "POST", b'{"n": 2}', headers))
    no_id = hello(code).call(
        request_of(b"/", "POST", b"{}", [item for item in headers if item[0] != b"ce-id"])
    )
    front = hello("return event['version']", cloudevents="http").call(
        request_of(b"/", "POST", b"{}", headers)
    )

    assert taken.status == 200
    assert (broken.status, json.loads(broken.body)["errorType"]) == (500, "AssertionError")
    assert no_id.status == 400
    assert front.body == b'"2.0"'


# --- what the worker refuses ---


def test_refusals_are_in_the_words_of_the_door(hello, request_of):
    function = hello("return 1")
    api = request_of(INVOKE % b"f", "POST")

    late = function.refuse(504, "", api)
    streamed = function.refuse(504, "", request_of(STREAM, "POST"))

    assert headers_of(late)[b"x-amz-function-error"] == b"Unhandled"
    assert json.loads(late.body) == {
        "errorMessage": "RequestId: i-1 Error: Task timed out after 3.00 seconds",
        "errorType": "Sandbox.Timedout",
    }
    assert json.loads(eventstream.parse(streamed.body)[0][1])["ErrorCode"] == "Unhandled"
    assert (function.refuse(503, "", api).status, function.refuse(413, "", api).status) == (429, 413)
    assert function.refuse(413, "", request_of()).status == 413
    assert function.body_limit_bytes == 6291556


# --- functions that run elsewhere ---


@pytest.fixture
def elsewhere(request_of):
    """Return an async function that ends as told."""

    def make(result):
        async def run(call):
            await asyncio.sleep(0)
            assert call.payload
            return result

        def never(_output):
            raise AssertionError

        request = LoadRequest(
            source="", target="f", signature="", context={}, send=never, send_async=never, name="f"
        )
        return doors.serve(request, info_of(request, {}), run, sync=False, signature="runtime")

    return make


async def pieces(*items, error=False):
    for item in items:
        yield item
    if error:
        raise ConnectionError("gone")


async def test_async_function_is_reached_by_the_same_doors(elsewhere, request_of, event_of):
    function = elsewhere(LambdaResult(payload=b'{"statusCode": 201, "body": "x"}'))

    assert (await function.call(request_of())).status == 201
    assert (await function.call(request_of(INVOKE % b"f", "POST"))).status == 200
    assert (await function.call(event_of())).status == 200


async def test_streamed_result_reaches_front_and_invoke_api(elsewhere, request_of):
    stream = LambdaResult(stream=pieces(b"a", b"b"), content_type="text/plain")
    front = await elsewhere(stream).call(request_of())
    assert [chunk async for chunk in front.body] == [b"a", b"b"]

    failed = LambdaResult(
        stream=pieces(b"a", b""),
        stream_error=lambda: ("Function.Bad", error_payload("Function.Bad", "midway")),
    )
    api = await elsewhere(failed).call(request_of(STREAM, "POST"))
    found = eventstream.parse(b"".join([chunk async for chunk in api.body]))
    assert [item[0][":event-type"] for item in found] == ["PayloadChunk", "InvokeComplete"]
    assert "midway" in json.loads(found[1][1])["ErrorDetails"]

    gone = await elsewhere(LambdaResult(stream=pieces(b"a", error=True))).call(request_of(STREAM, "POST"))
    found = eventstream.parse(b"".join([chunk async for chunk in gone.body]))
    assert "ConnectionError" in json.loads(found[1][1])["ErrorDetails"]


def test_handler_keeps_running_after_any_of_these(hello, request_of):
    """One process, all doors: nothing of one invocation is left for the next."""
    function = hello(
        "if event.get('rawPath') == '/bad':\n    raise ValueError\nreturn {'statusCode': 200, 'body': 'ok'}"
    )

    statuses = [
        function.call(Invocation("i", method, target, [], body)).status
        for method, target, body in (
            ("GET", b"/bad", b""),
            ("POST", INVOKE % b"f", b"{"),
            ("POST", INVOKE % b"f", b"{}"),
            ("GET", b"/", b""),
        )
    ]

    assert statuses == [502, 400, 200, 200]
