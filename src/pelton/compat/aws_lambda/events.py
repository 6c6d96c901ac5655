"""Events in the forms of Lambda's event sources, and what results of event handlers mean.

`event_of` turns what called a function (`sdk/trigger.py`) into SQS, SNS, S3, EventBridge, Kafka or Kinesis
events of one record; `batch_failure` reads `batchItemFailures`; `destination_record` is what an asynchronous
invocation's destination gets. Used by `doors.py`. Pure.
Source: `faas-conventions` contract, sections 2.5 and 2.6. Decided where it is silent: which source stands for
which trigger (`source_of`); data that is no text becomes base64 in SQS, SNS and EventBridge; a result that is
no object reports no failures.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote_plus

from pelton.compat.aws_lambda.context import FunctionInfo
from pelton.errors import FunctionLoadError
from pelton.sdk.trigger import Trigger

__all__ = [
    "PARTIAL",
    "SOURCES",
    "batch_failure",
    "check_source",
    "destination_record",
    "event_of",
    "source_of",
]

PARTIAL: Final = frozenset({"sqs", "sqs-fifo", "kafka", "self-managed-kafka", "kinesis"})
"""Sources whose handlers may report failures of single records."""
_RAW: Final = "raw"
_STREAMS: Final = ("kafka", "jetstream", "pulsar", "eventhubs", "kinesis")


def source_of(trigger: Trigger, component_type: str, wanted: str = "") -> str:
    """Return the event source whose form a trigger gets, one of `SOURCES`.

    Timers become EventBridge's scheduled events and deferred calls stay as they are. The rest is what the
    option `event-source` says; without it messages of Kafka, JetStream and other logs become Kafka records,
    messages of queues SQS records, and CloudEvents and other bindings EventBridge events.

    Args:
        trigger: What called the function.
        component_type: Type of the component that delivered it, e.g. `pubsub.jetstream`; "" for requests.
        wanted: The option `event-source`; "" for none.
    """
    if trigger.kind == "timer":
        return "eventbridge"
    if trigger.kind in {"deferred", "http"}:
        return _RAW
    if wanted:
        return wanted
    if trigger.kind != "record":
        return "eventbridge"
    return "kafka" if component_type.endswith(_STREAMS) or component_type.startswith("pubsub.") else "sqs"


def check_source(wanted: str) -> str:
    """Return the option `event-source`; raises FunctionLoadError for one that is not known."""
    if wanted and wanted not in SOURCES:
        raise FunctionLoadError(
            f"there is no event source {wanted!r}",
            hint=f"pelton.dev/event-source is one of: {', '.join(SOURCES)}.",
        )
    return wanted


def event_of(trigger: Trigger, source: str, info: FunctionInfo) -> Any:
    """Return a trigger as an event.

    Args:
        trigger: What called the function.
        source: One of `SOURCES`.
        info: Who the function is.
    """
    return SOURCES[source](trigger, info)


# --- forms ---


def _sqs(trigger: Trigger, info: FunctionInfo, *, fifo: bool = False) -> dict[str, Any]:
    body, _ = _text(trigger.data)
    queue = trigger.topic or trigger.source or "pelton"
    sent = str(_stamp_ms(trigger))
    attributes = {
        "ApproximateReceiveCount": str(trigger.attempt),
        "SentTimestamp": sent,
        "SenderId": trigger.source or "pelton",
        "ApproximateFirstReceiveTimestamp": sent,
    }
    trace = trigger.headers.get("X-Amzn-Trace-Id") or trigger.headers.get("x-amzn-trace-id")
    if trace:
        attributes["AWSTraceHeader"] = trace
    if fifo:
        group = (trigger.key or b"").decode("utf-8", "replace") or queue
        attributes["MessageGroupId"] = group
        attributes["MessageDeduplicationId"] = trigger.id
        attributes["SequenceNumber"] = _sequence(trigger)
    record = {
        "messageId": trigger.id,
        "receiptHandle": base64.b64encode(f"{queue}/{trigger.id}".encode()).decode(),
        "body": body,
        "attributes": attributes,
        "messageAttributes": {
            name: {
                "stringValue": value,
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": "String",
            }
            for name, value in trigger.headers.items()
        },
        "md5OfBody": _md5(body.encode("utf-8", "replace")),
        "eventSource": "aws:sqs",
        "eventSourceARN": f"{_arn('sqs', info)}:{queue}{'.fifo' if fifo else ''}",
        "awsRegion": info.region,
    }
    return {"Records": [record]}


def _sqs_fifo(trigger: Trigger, info: FunctionInfo) -> dict[str, Any]:
    return _sqs(trigger, info, fifo=True)


def _sns(trigger: Trigger, info: FunctionInfo) -> dict[str, Any]:
    message, _ = _text(trigger.data)
    topic = f"{_arn('sns', info)}:{trigger.topic or trigger.source or 'pelton'}"
    place = f"https://sns.{info.region}.amazonaws.com"
    subscription = f"{topic}:00000000-0000-0000-0000-000000000000"
    subject = trigger.attributes.get("subject")
    record = {
        "EventSource": "aws:sns",
        "EventVersion": "1.0",
        "EventSubscriptionArn": subscription,
        "Sns": {
            "Type": "Notification",
            "MessageId": trigger.id,
            "TopicArn": topic,
            "Subject": str(subject) if subject else None,
            "Message": message,
            "Timestamp": _millis(trigger.time),
            "SignatureVersion": "1",
            "Signature": "",
            "SigningCertUrl": f"{place}/SimpleNotificationService.pem",
            "UnsubscribeUrl": f"{place}/?Action=Unsubscribe&SubscriptionArn={subscription}",
            "MessageAttributes": {
                name: {"Type": "String", "Value": value} for name, value in trigger.headers.items()
            },
        },
    }
    return {"Records": [record]}


def _s3(trigger: Trigger, info: FunctionInfo) -> Any:
    """Return an S3 notification; data that is one already (MinIO sends such) stays as it is."""
    data = _json(trigger.data)
    if isinstance(data, dict) and isinstance(data.get("Records"), list):
        return data
    said: Mapping[str, Any] = data if isinstance(data, dict) else {}
    bucket = str(said.get("bucket") or trigger.headers.get("bucket") or trigger.topic or trigger.source)
    key = str(
        said.get("key") or trigger.headers.get("key") or trigger.attributes.get("subject") or trigger.id
    )
    size = said.get("size")
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": info.region,
        "eventTime": _millis(trigger.time),
        "eventName": str(said.get("eventName") or "ObjectCreated:Put"),
        "userIdentity": {"principalId": f"AWS:{info.account}"},
        "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {"x-amz-request-id": trigger.id, "x-amz-id-2": trigger.id},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": trigger.source or "pelton",
            "bucket": {
                "name": bucket,
                "ownerIdentity": {"principalId": info.account},
                "arn": f"arn:aws:s3:::{bucket}",
            },
            "object": {
                "key": quote_plus(key, safe="/"),
                "size": size if isinstance(size, int) else len(trigger.data),
                "eTag": str(said.get("eTag") or _md5(trigger.data)),
                "versionId": str(said.get("versionId") or "1"),
                "sequencer": f"{_stamp_ms(trigger):016X}",
            },
        },
    }
    return {"Records": [record]}


def _eventbridge(trigger: Trigger, info: FunctionInfo) -> dict[str, Any]:
    attributes = trigger.attributes
    if trigger.kind == "timer":
        kind, source = "Scheduled Event", "aws.events"
        resources = [f"{_arn('events', info)}:rule/{trigger.source or 'pelton'}"]
        detail: Any = {}
    else:
        kind = str(attributes.get("type") or "pelton")
        source = str(attributes.get("source") or trigger.source or "pelton")
        subject = attributes.get("subject")
        resources = [str(subject)] if subject else []
        detail = _json(trigger.data)
        if detail is None and trigger.data != b"null":
            detail = _text(trigger.data)[0] if trigger.data else {}
        if not isinstance(detail, dict):  # EventBridge knows only objects there
            detail = {"data": detail}
    return {
        "version": "0",
        "id": trigger.id,
        "detail-type": kind,
        "source": source,
        "account": info.account,
        "time": _seconds(trigger.time),
        "region": info.region,
        "resources": resources,
        "detail": detail,
    }


def _kafka(trigger: Trigger, info: FunctionInfo) -> dict[str, Any]:
    return {
        "eventSource": "aws:kafka",
        "eventSourceArn": f"{_arn('kafka', info)}:cluster/{trigger.source or 'pelton'}/"
        "00000000-0000-0000-0000-000000000000-1",
        **_kafka_records(trigger),
    }


def _self_managed_kafka(trigger: Trigger, info: FunctionInfo) -> dict[str, Any]:
    del info
    return {"eventSource": "SelfManagedKafka", **_kafka_records(trigger)}


def _kafka_records(trigger: Trigger) -> dict[str, Any]:
    record: dict[str, Any] = {
        "topic": trigger.topic,
        "partition": trigger.partition,
        "offset": trigger.offset,
        "timestamp": _stamp_ms(trigger),
        "timestampType": "CREATE_TIME",
    }
    if trigger.key is not None:
        record["key"] = base64.b64encode(trigger.key).decode()
    record["value"] = base64.b64encode(trigger.data).decode()
    record["headers"] = [{name: list(value.encode())} for name, value in trigger.headers.items()]
    return {
        "bootstrapServers": f"{trigger.source or 'pelton'}:9092",
        "records": {f"{trigger.topic}-{trigger.partition}": [record]},
    }


def _kinesis(trigger: Trigger, info: FunctionInfo) -> dict[str, Any]:
    shard = f"shardId-{trigger.partition:012d}"
    sequence = _sequence(trigger)
    record = {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": (trigger.key or trigger.id.encode()).decode("utf-8", "replace"),
            "sequenceNumber": sequence,
            "data": base64.b64encode(trigger.data).decode(),
            "approximateArrivalTimestamp": _stamp_ms(trigger) / 1000,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"{shard}:{sequence}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": f"arn:aws:iam::{info.account}:role/pelton",
        "awsRegion": info.region,
        "eventSourceARN": f"{_arn('kinesis', info)}:stream/{trigger.topic or trigger.source or 'pelton'}",
    }
    return {"Records": [record]}


def _raw(trigger: Trigger, info: FunctionInfo) -> Any:
    del info
    found = _json(trigger.data)
    return _text(trigger.data)[0] if found is None and trigger.data not in {b"", b"null"} else found


SOURCES: Final[Mapping[str, Callable[[Trigger, FunctionInfo], Any]]] = {
    "sqs": _sqs,
    "sqs-fifo": _sqs_fifo,
    "sns": _sns,
    "s3": _s3,
    "eventbridge": _eventbridge,
    "kafka": _kafka,
    "self-managed-kafka": _self_managed_kafka,
    "kinesis": _kinesis,
    _RAW: _raw,
}
"""Values of the option `event-source` and the forms that they stand for."""


def _md5(data: bytes) -> str:
    import hashlib  # OpenSSL, which most functions never need

    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _stamp_ms(trigger: Trigger) -> int:
    """Return when it happened, epoch milliseconds; requests say it only as text."""
    if trigger.timestamp_ms:
        return trigger.timestamp_ms
    try:
        return int(datetime.fromisoformat(trigger.time).timestamp() * 1000)
    except ValueError:
        return 0


def _arn(service: str, info: FunctionInfo) -> str:
    return f"arn:aws:{service}:{info.region}:{info.account}"


def _sequence(trigger: Trigger) -> str:
    return f"{_stamp_ms(trigger):016d}{trigger.offset:020d}"


def _text(data: bytes) -> tuple[str, bool]:
    """Return data as text, and whether it is base64 because it is no UTF-8."""
    try:
        return data.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(data).decode(), True


def _json(data: bytes) -> Any:
    try:
        return json.loads(data) if data else None
    except (ValueError, RecursionError):
        return None


def _millis(time: str) -> str:
    """Return an RFC 3339 time in UTC with three digits of the second's fraction."""
    head, _, fraction = time.removesuffix("Z").partition(".")
    if not time.endswith("Z"):
        return time
    return f"{head}.{(fraction + '000')[:3]}Z"


def _seconds(time: str) -> str:
    """Return an RFC 3339 time without the second's fraction."""
    if time.endswith("Z"):
        return time.partition(".")[0].removesuffix("Z") + "Z"
    return time


# --- results ---


def batch_failure(trigger: Trigger, source: str, value: Any) -> str:
    """Return why a batch of one record failed by its result's `batchItemFailures`; "" when it did not.

    Args:
        trigger: What called the function.
        source: The form that it was handed over in, one of `SOURCES`.
        value: The function's result.
    """
    if source not in PARTIAL or not isinstance(value, Mapping):
        return ""
    failures = value.get("batchItemFailures")
    if not failures:
        return ""
    if not isinstance(failures, list):
        return "batchItemFailures is no list, so that the whole batch failed"
    known = _identifiers(trigger, source)
    for item in failures:
        identifier = item.get("itemIdentifier") if isinstance(item, Mapping) else None
        if not identifier:
            return "batchItemFailures has an item without an itemIdentifier, so that the whole batch failed"
        if _as_known(identifier) not in known:
            return (
                f"batchItemFailures names {identifier!r}, which was not in the batch: the whole batch failed"
            )
    return "the function reported the record in batchItemFailures"


def _identifiers(trigger: Trigger, source: str) -> set[Any]:
    if source.endswith("kafka"):
        places = f"{trigger.topic}-{trigger.partition}", str(trigger.partition)
        return {(place, trigger.offset) for place in places}
    return {_sequence(trigger) if source == "kinesis" else trigger.id}


def _as_known(identifier: Any) -> Any:
    if isinstance(identifier, Mapping):
        return str(identifier.get("partition")), identifier.get("offset")
    return identifier if isinstance(identifier, str) else None


def destination_record(
    info: FunctionInfo,
    *,
    request_id: str,
    time: str,
    attempts: int,
    request: bytes,
    response: bytes,
    error: bool,
    expired: bool = False,
) -> dict[str, Any]:
    """Return what the destination of an asynchronous invocation gets when that has ended.

    Args:
        info: Who the function is.
        request_id: Of the invocation.
        time: Now, RFC 3339 in UTC.
        attempts: How often it was tried.
        request: Its payload.
        response: The last attempt's result or error document.
        error: Whether the last attempt failed.
        expired: Whether it became too old instead of having failed too often.
    """
    failed = "EventAgeExceeded" if expired else "RetriesExhausted"
    context: dict[str, Any] = {"statusCode": 200, "executedVersion": info.version}
    if error:
        context["functionError"] = "Unhandled"
    return {
        "version": "1.0",
        "timestamp": _millis(time),
        "requestContext": {
            "requestId": request_id,
            "functionArn": f"{info.arn}:{info.version}",
            "condition": failed if error or expired else "Success",
            "approximateInvokeCount": attempts,
        },
        "requestPayload": _payload(request),
        "responseContext": context,
        "responsePayload": _payload(response),
    }


def _payload(data: bytes) -> Any:
    found = _json(data)
    return _text(data)[0] if found is None and data not in {b"", b"null"} else found
