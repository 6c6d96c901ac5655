"""Protobuf bodies, written here by hand as typed clients write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.apiserver import protobuf
from pelton.errors import ProtocolError


def decode(data):
    return protobuf.decode(data)


def varint(number):
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*result, number])


def part(number, value):
    """Return one field: a number, text or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def body(api_version, kind, *parts):
    return (
        b"k8s\x00"
        + part(1, part(1, api_version) + part(2, kind))
        + part(2, b"".join(parts))
        + part(3, "")
        + part(4, "")
    )


META = part(1, part(1, "x") + part(2, "") + part(8, b"") + part(11, part(1, "l") + part(2, "v")))


def test_config_map_with_its_metadata():
    data = (
        part(2, part(1, "a") + part(2, "1"))
        + part(2, part(1, "b"))
        + part(3, part(1, "c") + part(2, b"\x00"))
    )

    assert decode(body("v1", "ConfigMap", META, data, part(4, 0))) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "x", "labels": {"l": "v"}},
        "data": {"a": "1", "b": ""},
        "binaryData": {"c": "AA=="},
        "immutable": False,
    }


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (part(1, 0) + part(2, 8080) + part(3, ""), {"targetPort": 8080}),
        (part(1, 1) + part(2, 0) + part(3, "web"), {"targetPort": "web"}),
        (part(1, 0) + part(2, 0) + part(3, ""), {}),
    ],
)
def test_service_with_ports_by_number_and_by_name(target, expected):
    port = part(1, "http") + part(3, 80) + part(4, target) + part(5, 0)
    spec = part(1, port) + part(4, "ClusterIP") + part(12, 0)

    assert decode(body("v1", "Service", META, part(2, spec)))["spec"] == {
        "ports": [{"name": "http", "port": 80, **expected}],
        "type": "ClusterIP",
    }


def test_lease_with_times_and_zeros_that_were_sent():
    spec = part(1, "me") + part(4, part(1, 1_767_323_045) + part(2, 123_456_789)) + part(5, 0)

    assert decode(body("coordination.k8s.io/v1", "Lease", META, part(2, spec)))["spec"] == {
        "holderIdentity": "me",
        "renewTime": "2026-01-02T03:04:05.123456Z",
        "leaseTransitions": 0,
    }


def test_delete_options_have_no_group_of_their_own():
    options = part(1, 0) + part(2, part(1, "u")) + part(4, "Foreground")

    assert decode(body("apps/v1", "DeleteOptions", options)) == {
        "apiVersion": "apps/v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u"},
        "propagationPolicy": "Foreground",
    }


def test_unknown_fields_are_skipped_and_unknown_kinds_are_none():
    assert decode(body("v1", "ConfigMap", part(99, "?"), part(98, 5)))["kind"] == "ConfigMap"
    assert decode(body("apps/v1", "Deployment", META)) is None


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{}",
        b"k8s\x00\x0a\xff",
        b"k8s\x00" + b"\xff" * 20,
        body("v1", "ConfigMap", b"\x0b"),
        body("v1", "ConfigMap", part(2, 5)),
        body("v1", "ConfigMap", part(2, part(1, b"\xff"))),
    ],
)
def test_damaged_body_is_refused(damaged):
    with pytest.raises(ProtocolError):
        decode(damaged)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    try:
        decode(b"k8s\x00" + part(1, part(1, "v1") + part(2, "Service")) + part(2, data))
    except ProtocolError:
        pass


def test_webhook_configuration_has_its_rule_without_a_name():
    rule = part(1, "CREATE") + part(2, part(1, "") + part(2, "v1") + part(3, "pods") + part(4, "*"))
    config = part(1, part(1, "ns") + part(2, "svc") + part(3, "/x") + part(4, 0)) + part(2, b"pem")
    hook = part(1, "a.b.c") + part(2, config) + part(3, rule) + part(5, b"") + part(7, 5) + part(8, "v1")

    (decoded,) = decode(
        body("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", META, part(2, hook))
    )["webhooks"]

    assert decoded == {
        "name": "a.b.c",
        "clientConfig": {
            "service": {"namespace": "ns", "name": "svc", "path": "/x", "port": 0},
            "caBundle": "cGVt",
        },
        "rules": [
            {
                "operations": ["CREATE"],
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "resources": ["pods"],
                "scope": "*",
            }
        ],
        "namespaceSelector": {},
        "timeoutSeconds": 5,
        "admissionReviewVersions": ["v1"],
    }
