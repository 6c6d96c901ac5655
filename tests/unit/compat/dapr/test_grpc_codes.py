"""A gRPC status as proto JSON."""

import json

import pytest

from pelton.compat.dapr.faults import forbidden_topic
from pelton.compat.dapr.grpc_codes import grpc_code, http_status, status_json
from pelton.proto import dapr_status_pb2


def written(trailers):
    return json.loads(status_json(7, "no", trailers))


def test_status_without_details_has_no_such_member():
    assert written([("other", "x")]) == {"code": 7, "message": "no"}


def test_details_are_messages_by_their_type():
    fault = forbidden_topic("bus", "t", "a")

    (info, about) = written([("grpc-status-details-bin", fault.details())])["details"]

    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["domain"]) == (fault.reason, "dapr.io")
    assert (about["resourceType"], about["resourceName"]) == ("pubsub", "bus")


def test_detail_of_an_unknown_type_keeps_its_bytes():
    status = dapr_status_pb2.Status()
    status.details.add(type_url="type.googleapis.com/own.Thing", value=b"x")

    found = written([("grpc-status-details-bin", status.SerializeToString())])

    assert found["details"] == [{"@type": "type.googleapis.com/own.Thing", "value": "eA=="}]


@pytest.mark.parametrize("raw", [b"\xff\xff", "\xff"])
def test_details_that_are_garbage_are_left_out(raw):
    assert written([("grpc-status-details-bin", raw)]) == {"code": 7, "message": "no"}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (0, 200), (1, 408), (2, 500), (3, 400), (4, 504), (5, 404), (6, 409), (7, 403), (8, 429), (9, 400),
        (10, 409), (11, 400), (12, 501), (13, 500), (14, 503), (15, 500), (16, 401),
    ],
)  # fmt: skip
def test_each_code_has_the_status_of_the_table(code, status):
    assert http_status(code) == status


@pytest.mark.parametrize(
    ("status", "code"), [(200, 0), (302, 0), (404, 5), (418, 3), (429, 8), (500, 2), (502, 2), (503, 14)]
)
def test_each_status_has_a_code(status, code):
    assert grpc_code(status) == code
