"""Triggers in the forms of Lambda's event sources, and what batch results and destinations mean."""

import base64
import hashlib
import json

import pytest

from pelton.compat.aws_lambda.events import (
    SOURCES,
    batch_failure,
    check_source,
    destination_record,
    event_of,
    source_of,
)
from pelton.errors import FunctionLoadError
from pelton.sdk.trigger import Trigger

TIME = "2026-04-09T12:34:56.7Z"


@pytest.fixture
def record():
    def make(**more):
        defaults = {
            "kind": "record",
            "id": "m-1",
            "time": TIME,
            "source": "bus",
            "topic": "orders",
            "partition": 3,
            "offset": 7,
            "timestamp_ms": 1775738096700,
            "key": b"k",
            "headers": {"h": "v"},
            "data": b'{"a": 1}',
            "attributes": {"type": "t", "source": "/s", "subject": "sub"},
        }
        return Trigger(**{**defaults, **more})

    return make


@pytest.mark.parametrize(
    ("kind", "component", "wanted", "source"),
    [
        ("timer", "bindings.cron", "sqs", "eventbridge"),
        ("deferred", "pubsub.jetstream", "sqs", "raw"),
        ("http", "", "", "raw"),
        ("record", "pubsub.jetstream", "", "kafka"),
        ("record", "pubsub.kafka", "", "kafka"),
        ("record", "bindings.kafka", "", "kafka"),
        ("record", "bindings.rabbitmq", "", "sqs"),
        ("record", "bindings.redis", "", "sqs"),
        ("record", "pubsub.jetstream", "kinesis", "kinesis"),
        ("cloudevent", "", "", "eventbridge"),
        ("cloudevent", "pubsub.jetstream", "sns", "sns"),
        ("binding", "bindings.aws.s3", "", "eventbridge"),
        ("binding", "bindings.aws.s3", "s3", "s3"),
    ],
)
def test_source_follows_from_what_called_unless_it_is_said(record, kind, component, wanted, source):
    assert source_of(record(kind=kind), component, wanted) == source


def test_unknown_source_is_refused_with_the_known_ones():
    with pytest.raises(FunctionLoadError) as caught:
        check_source("pigeon")

    assert all(name in caught.value.hint for name in SOURCES)
    assert check_source("") == ""


def test_sqs_event(record, info):
    found = event_of(record(attempt=2), "sqs", info())["Records"][0]

    assert found.pop("receiptHandle")
    assert found == {
        "messageId": "m-1",
        "body": '{"a": 1}',
        "attributes": {
            "ApproximateReceiveCount": "2",
            "SentTimestamp": "1775738096700",
            "SenderId": "bus",
            "ApproximateFirstReceiveTimestamp": "1775738096700",
        },
        "messageAttributes": {
            "h": {
                "stringValue": "v",
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": "String",
            }
        },
        "md5OfBody": hashlib.md5(b'{"a": 1}').hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-west-1:012345678912:orders",
        "awsRegion": "eu-west-1",
    }


def test_fifo_message_has_its_group_and_place(record, info):
    found = event_of(record(headers={"X-Amzn-Trace-Id": "Root=1"}), "sqs-fifo", info())["Records"][0]

    assert found["eventSourceARN"].endswith(":orders.fifo")
    assert found["attributes"]["MessageGroupId"] == "k"
    assert found["attributes"]["MessageDeduplicationId"] == "m-1"
    assert found["attributes"]["SequenceNumber"] == "000177573809670000000000000000000007"
    assert found["attributes"]["AWSTraceHeader"] == "Root=1"


def test_sns_event(record, info):
    found = event_of(record(), "sns", info())["Records"][0]

    assert (found["EventSource"], found["EventVersion"]) == ("aws:sns", "1.0")
    assert found["Sns"]["Message"] == '{"a": 1}'
    assert found["Sns"]["Subject"] == "sub"
    assert found["Sns"]["TopicArn"] == "arn:aws:sns:eu-west-1:012345678912:orders"
    assert found["Sns"]["Timestamp"] == "2026-04-09T12:34:56.700Z"
    assert found["Sns"]["MessageAttributes"] == {"h": {"Type": "String", "Value": "v"}}


def test_s3_event_is_made_of_what_the_message_says(record, info):
    data = {"bucket": "b", "key": "a b/é.txt", "size": 5, "eTag": "e"}

    said = event_of(record(data=json.dumps(data).encode()), "s3", info())["Records"][0]
    bare = event_of(record(data=b"\xff"), "s3", info())["Records"][0]

    assert said["s3"]["bucket"]["arn"] == "arn:aws:s3:::b"
    assert said["s3"]["object"]["key"] == "a+b/%C3%A9.txt"
    assert (said["s3"]["object"]["size"], said["s3"]["object"]["eTag"]) == (5, "e")
    assert (bare["s3"]["bucket"]["name"], bare["s3"]["object"]["key"]) == ("orders", "sub")
    assert (bare["s3"]["object"]["size"], bare["eventTime"]) == (1, "2026-04-09T12:34:56.700Z")


def test_s3_notification_stays_as_it_is(record, info):
    data = {"EventName": "s3:ObjectCreated:Put", "Records": [{"s3": {}}]}

    assert event_of(record(data=json.dumps(data).encode()), "s3", info()) == data


def test_timer_is_a_scheduled_event(record, info):
    timer = record(kind="timer", source="clock", data=b"", attributes={})

    assert event_of(timer, "eventbridge", info()) == {
        "version": "0",
        "id": "m-1",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "012345678912",
        "time": "2026-04-09T12:34:56Z",
        "region": "eu-west-1",
        "resources": ["arn:aws:events:eu-west-1:012345678912:rule/clock"],
        "detail": {},
    }


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"[1]", {"data": [1]}),
        (b"text", {"data": "text"}),
        (b"\xff", {"data": "/w=="}),
        (b"null", {"data": None}),
        (b"", {}),
    ],
)
def test_cloudevent_is_an_eventbridge_event_with_an_object_as_detail(record, info, data, detail):
    found = event_of(record(kind="cloudevent", data=data), "eventbridge", info())

    assert (found["detail-type"], found["source"], found["resources"]) == ("t", "/s", ["sub"])
    assert found["detail"] == detail


def test_kafka_event(record, info):
    found = event_of(record(), "kafka", info())

    assert found["eventSource"] == "aws:kafka"
    assert found["eventSourceArn"].startswith("arn:aws:kafka:eu-west-1:012345678912:cluster/bus/")
    assert found["bootstrapServers"] == "bus:9092"
    assert found["records"] == {
        "orders-3": [
            {
                "topic": "orders",
                "partition": 3,
                "offset": 7,
                "timestamp": 1775738096700,
                "timestampType": "CREATE_TIME",
                "key": "aw==",
                "value": base64.b64encode(b'{"a": 1}').decode(),
                "headers": [{"h": [118]}],
            }
        ]
    }
    own = event_of(record(key=None), "self-managed-kafka", info())
    assert own["eventSource"] == "SelfManagedKafka" and "eventSourceArn" not in own
    assert "key" not in own["records"]["orders-3"][0]


def test_kinesis_event(record, info):
    found = event_of(record(), "kinesis", info())["Records"][0]

    assert found["eventID"] == f"shardId-000000000003:{found['kinesis']['sequenceNumber']}"
    assert found["kinesis"]["partitionKey"] == "k"
    assert base64.b64decode(found["kinesis"]["data"]) == b'{"a": 1}'
    assert found["kinesis"]["approximateArrivalTimestamp"] == 1775738096.7


@pytest.mark.parametrize(("data", "event"), [(b"[1]", [1]), (b"null", None), (b"", None), (b"a", "a")])
def test_raw_event_is_the_payload(record, info, data, event):
    assert event_of(record(data=data), "raw", info()) == event


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_every_form_is_json(record, info, source):
    for trigger in (record(), record(kind="timer", topic="", source="", data=b"\xff", key=None, headers={})):
        json.dumps(event_of(trigger, source, info()), allow_nan=False)


# --- batch results ---


def failures(*identifiers):
    return {"batchItemFailures": [{"itemIdentifier": item} for item in identifiers]}


@pytest.mark.parametrize(
    "value",
    [None, {}, "ok", [], {"batchItemFailures": []}, {"batchItemFailures": None}, {"statusCode": 500}],
)
def test_no_failures_mean_success(record, value):
    assert batch_failure(record(), "sqs", value) == ""


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("sqs", failures("m-1")),
        ("kinesis", failures("000177573809670000000000000000000007")),
        ("kafka", failures({"partition": "orders-3", "offset": 7})),
        ("self-managed-kafka", failures({"partition": 3, "offset": 7})),
    ],
)
def test_reported_record_has_failed(record, source, value):
    assert batch_failure(record(), source, value) == "the function reported the record in batchItemFailures"


@pytest.mark.parametrize(
    "value",
    [
        failures("other"),
        failures("m-1", "other"),
        failures(""),
        failures(None),
        failures(7),
        failures(["m-1"]),
        {"batchItemFailures": "m-1"},
        {"batchItemFailures": ["m-1"]},
        {"batchItemFailures": [{}]},
    ],
)
def test_bad_report_fails_the_whole_batch(record, value):
    assert "the whole batch failed" in batch_failure(record(), "sqs", value)
    assert batch_failure(record(), "sns", value) == ""


# --- destinations ---


@pytest.mark.parametrize(
    ("error", "expired", "condition"),
    [(False, False, "Success"), (True, False, "RetriesExhausted"), (False, True, "EventAgeExceeded")],
)
def test_destination_record(info, error, expired, condition):
    found = destination_record(
        info(),
        request_id="i-1",
        time=TIME,
        attempts=3,
        request=b'{"a": 1}',
        response=b'{"errorType": "E"}' if error else b"no json",
        error=error,
        expired=expired,
    )

    assert found == {
        "version": "1.0",
        "timestamp": "2026-04-09T12:34:56.700Z",
        "requestContext": {
            "requestId": "i-1",
            "functionArn": "arn:aws:lambda:eu-west-1:012345678912:function:f:$LATEST",
            "condition": condition,
            "approximateInvokeCount": 3,
        },
        "requestPayload": {"a": 1},
        "responseContext": {
            "statusCode": 200,
            "executedVersion": "$LATEST",
            **({"functionError": "Unhandled"} if error else {}),
        },
        "responsePayload": {"errorType": "E"} if error else "no json",
    }
