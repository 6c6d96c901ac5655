"""Refusals of the Dapr API: status, code, body and details of each row of the protocol's table."""

import pytest

from pelton.compat.dapr import faults
from pelton.compat.dapr.faults import Code, Fault
from pelton.proto import dapr_status_pb2

KNOWN = {"one": object()}


@pytest.mark.parametrize(
    ("fault", "status", "code", "error_code", "reason"),
    [
        (
            faults.state_store_missing("s", {}),
            500,
            Code.FAILED_PRECONDITION,
            "ERR_STATE_STORE_NOT_CONFIGURED",
            "DAPR_STATE_NOT_CONFIGURED",
        ),
        (
            faults.state_store_missing("s", KNOWN),
            400,
            Code.INVALID_ARGUMENT,
            "ERR_STATE_STORE_NOT_FOUND",
            "DAPR_STATE_NOT_FOUND",
        ),
        (
            faults.illegal_key("s", "a||b", "can't contain '||'"),
            400,
            Code.INVALID_ARGUMENT,
            "ERR_MALFORMED_REQUEST",
            "DAPR_STATE_ILLEGAL_KEY",
        ),
        (
            faults.pubsub_missing("p", KNOWN),
            404,
            Code.INVALID_ARGUMENT,
            "ERR_PUBSUB_NOT_FOUND",
            "DAPR_PUBSUB_NOT_FOUND",
        ),
        (
            faults.pubsub_missing("p", {}),
            400,
            Code.FAILED_PRECONDITION,
            "ERR_PUBSUB_NOT_CONFIGURED",
            "DAPR_PUBSUB_NOT_CONFIGURED",
        ),
        (
            faults.pubsub_refused("DAPR_PUBSUB_NAME_EMPTY", "m", ""),
            404,
            Code.INVALID_ARGUMENT,
            "ERR_PUBSUB_EMPTY",
            "DAPR_PUBSUB_NAME_EMPTY",
        ),
        (
            faults.pubsub_refused("DAPR_PUBSUB_TOPIC_NAME_EMPTY", "m", "p"),
            404,
            Code.INVALID_ARGUMENT,
            "ERR_TOPIC_NAME_EMPTY",
            "DAPR_PUBSUB_TOPIC_NAME_EMPTY",
        ),
        (
            faults.pubsub_refused("DAPR_PUBSUB_METADATA_DESERIALIZATION", "m", "p"),
            400,
            Code.INVALID_ARGUMENT,
            "ERR_PUBSUB_REQUEST_METADATA",
            "DAPR_PUBSUB_METADATA_DESERIALIZATION",
        ),
        (
            faults.pubsub_refused("DAPR_PUBSUB_CLOUD_EVENT_CREATION", "m", "p"),
            500,
            Code.INVALID_ARGUMENT,
            "ERR_PUBSUB_CLOUD_EVENTS_SER",
            "DAPR_PUBSUB_CLOUD_EVENT_CREATION",
        ),
        (
            faults.pubsub_refused("DAPR_PUBSUB_UNMARSHAL_EVENTS", "m", "p"),
            400,
            Code.INVALID_ARGUMENT,
            "ERR_PUBSUB_EVENTS_SER",
            "DAPR_PUBSUB_UNMARSHAL_EVENTS",
        ),
        (
            faults.forbidden_topic("p", "t", "a"),
            403,
            Code.PERMISSION_DENIED,
            "ERR_PUBSUB_FORBIDDEN",
            "DAPR_PUBSUB_FORBIDDEN",
        ),
        (
            faults.store_missing("configuration", "c", {}),
            500,
            Code.FAILED_PRECONDITION,
            "ERR_CONFIGURATION_STORE_NOT_CONFIGURED",
            "",
        ),
        (
            faults.store_missing("configuration", "c", KNOWN),
            400,
            Code.INVALID_ARGUMENT,
            "ERR_CONFIGURATION_STORE_NOT_FOUND",
            "",
        ),
        (
            faults.store_missing("lock", "c", {}),
            500,
            Code.FAILED_PRECONDITION,
            "ERR_LOCK_STORE_NOT_CONFIGURED",
            "",
        ),
        (
            faults.store_missing("lock", "c", KNOWN),
            400,
            Code.INVALID_ARGUMENT,
            "ERR_LOCK_STORE_NOT_FOUND",
            "",
        ),
        (
            faults.store_missing("secretstores", "c", KNOWN),
            401,
            Code.INVALID_ARGUMENT,
            "ERR_SECRET_STORE_NOT_FOUND",
            "",
        ),
        (faults.malformed("m"), 400, Code.INVALID_ARGUMENT, "ERR_MALFORMED_REQUEST", ""),
    ],
    ids=lambda value: value.error_code if isinstance(value, Fault) else "",
)
def test_fault_is_the_one_of_the_table(fault, status, code, error_code, reason):
    assert (fault.status, fault.code, fault.error_code, fault.reason) == (status, code, error_code, reason)


def test_body_and_status_say_the_same():
    fault = faults.forbidden_topic("bus", "orders", "a")

    body = fault.body()
    status = dapr_status_pb2.Status.FromString(fault.details())

    info = dapr_status_pb2.ErrorInfo.FromString(status.details[0].value)
    about = dapr_status_pb2.ResourceInfo.FromString(status.details[1].value)
    assert body["errorCode"] == "ERR_PUBSUB_FORBIDDEN"
    assert [each["@type"] for each in body["details"]] == [each.type_url for each in status.details]
    assert (info.reason, info.domain) == (body["details"][0]["reason"], "dapr.io")
    assert (about.resource_type, about.resource_name) == ("pubsub", "bus")
    assert (status.code, status.message) == (7, body["message"])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (faults.state_store_missing("s", {}), "state store s is not configured"),
        (faults.state_store_missing("s", KNOWN), "state store s is not found"),
        (faults.pubsub_missing("p", {}), "pubsub p is not configured"),
        (faults.pubsub_missing("p", KNOWN), "pubsub p is not found"),
        (faults.store_missing("configuration", "c", {}), "configuration stores not configured"),
        (faults.store_missing("configuration", "c", KNOWN), "configuration store c not found"),
        (faults.store_missing("lock", "c", {}), "lock store is not configured"),
        (faults.store_missing("lock", "c", KNOWN), "lock store c not found"),
        (faults.store_missing("secretstores", "c", {}), "secret store is not configured"),
        (faults.store_missing("secretstores", "c", KNOWN), "failed finding secret store with key c"),
        (faults.forbidden_topic("p", "t", "a"), "topic t is not allowed for app id a"),
        (faults.not_published("p", "t", "away"), "error when publishing to topic t in pubsub p: away"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fault_says_the_sentence_that_clients_compare(fault, message):
    assert fault.message == message


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        (faults.state_store_missing("s", KNOWN), ["ErrorInfo"]),
        (faults.pubsub_missing("p", KNOWN), ["ErrorInfo"]),
        (faults.illegal_key("s", "a||b", "can't contain '||'"), ["ErrorInfo", "ResourceInfo", "BadRequest"]),
        (faults.forbidden_topic("p", "t", "a"), ["ErrorInfo", "ResourceInfo"]),
        (faults.not_published("p", "t", "away"), ["ErrorInfo", "ResourceInfo"]),
    ],
    ids=lambda value: value.error_code if isinstance(value, Fault) else "",
)
def test_details_are_the_same_in_both_protocols(fault, kinds):
    written = [each["@type"].rpartition(".")[2] for each in fault.body()["details"]]
    sent = dapr_status_pb2.Status.FromString(fault.details())

    assert written == kinds == [each.type_url.rpartition(".")[2] for each in sent.details]


def test_illegal_key_names_the_key_as_the_wrong_field():
    fault = faults.illegal_key("s", "a||b", "can't contain '||'")

    (_, about, bad) = fault.body()["details"]
    sent = dapr_status_pb2.Status.FromString(fault.details())
    violation = dapr_status_pb2.BadRequest.FromString(sent.details[2].value).field_violations[0]

    assert (about["resource_name"], about["description"]) == ("s", "")
    assert bad["field_violations"] == [{"field": "a||b", "description": fault.message}]
    assert (violation.field, violation.description) == ("a||b", fault.message)


def test_fault_without_a_reason_has_no_details():
    fault = faults.malformed("cannot be read")

    assert fault.details() == b""
    assert fault.body() == {"errorCode": "ERR_MALFORMED_REQUEST", "message": "cannot be read"}
