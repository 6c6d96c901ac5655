"""Built-in kinds through the API: defaults, rules, tables, and what they refuse."""

import base64

import pytest

from pelton.testing.asgi_client import AsgiClient
from pelton.testing.memory_store import MemoryStore
from tests.contract import api

HERE = "/api/v1/namespaces/default"
MERGE = {"content-type": "application/merge-patch+json"}
TABLE = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
PATHS = {
    "ConfigMap": f"{HERE}/configmaps",
    "Secret": f"{HERE}/secrets",
    "ServiceAccount": f"{HERE}/serviceaccounts",
    "Service": f"{HERE}/services",
    "Event": f"{HERE}/events",
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/default/leases",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
}
VERSIONS = {"Lease": "coordination.k8s.io/v1", "EndpointSlice": "discovery.k8s.io/v1"}


@pytest.fixture
async def client():
    async with MemoryStore() as store:
        yield AsgiClient(await api.application(store), headers={"authorization": "Bearer t"})


def made(kind, name="x", **fields):
    return {
        "apiVersion": VERSIONS.get(kind, "v1"),
        "kind": kind,
        "metadata": {"name": name},
        **fields,
    }


async def create(client, kind, name="x", **fields):
    return await client.request("POST", PATHS[kind], made(kind, name, **fields))


def causes(answer):
    assert answer.status == 422, answer.body
    return {(cause["field"], cause["reason"]) for cause in answer.json()["details"]["causes"]}


async def test_config_map_keeps_text_and_counts_its_entries(client):
    created = await create(client, "ConfigMap", data={"a": "1", "b": "2"})
    table = (await client.request("GET", PATHS["ConfigMap"], headers=TABLE)).json()

    assert created.status == 201
    assert created.json()["data"] == {"a": "1", "b": "2"}
    assert "generation" not in created.json()["metadata"]
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert table["rows"][0]["cells"][:2] == ["x", 2]


async def test_secret_turns_text_into_base64_and_has_a_type(client):
    created = (await create(client, "Secret", data={"a": "eA=="}, stringData={"a": "new", "b": "y"})).json()

    assert "stringData" not in created
    assert {key: base64.b64decode(value) for key, value in created["data"].items()} == {
        "a": b"new",
        "b": b"y",
    }
    assert created["type"] == "Opaque"


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("ConfigMap", {"data": {"a b": "1"}}, {("data[a b]", "FieldValueInvalid")}),
        ("ConfigMap", {"data": {"..": "1"}}, {("data[..]", "FieldValueInvalid")}),
        ("ConfigMap", {"data": {"a": "1"}, "binaryData": {"a": "eA=="}}, {("data[a]", "FieldValueInvalid")}),
        ("ConfigMap", {"data": {"a": "x" * (1 << 20 | 1)}}, {("data", "FieldValueTooLong")}),
        ("ConfigMap", {"binaryData": {"a": "not base64"}}, {("binaryData.a", "FieldValueInvalid")}),
        ("Secret", {"data": {"a": "!"}}, {("data.a", "FieldValueInvalid")}),
        (
            "Secret",
            {"type": "kubernetes.io/tls", "data": {"tls.crt": ""}},
            {("data[tls.key]", "FieldValueRequired")},
        ),
        (
            "Secret",
            {"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "no"}},
            {("data[.dockerconfigjson]", "FieldValueInvalid")},
        ),
        (
            "Service",
            {"spec": {"type": "ExternalName"}},
            {("spec.externalName", "FieldValueRequired")},
        ),
        (
            "Service",
            {"spec": {"type": "Odd", "ports": [{"port": 0, "targetPort": "web"}]}},
            {("spec.type", "FieldValueNotSupported"), ("spec.ports[0].port", "FieldValueInvalid")},
        ),
        (
            "Service",
            {"spec": {"ports": [{"port": 1}, {"port": 2, "name": "b", "protocol": "X"}]}},
            {
                ("spec.ports[0].name", "FieldValueRequired"),
                ("spec.ports[1].protocol", "FieldValueNotSupported"),
            },
        ),
        (
            "Service",
            {"spec": {"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}},
            {("spec.ports[1]", "FieldValueDuplicate")},
        ),
        ("Service", {"spec": {"ports": [{"name": "a"}]}}, {("spec.ports[0].port", "FieldValueRequired")}),
        ("EndpointSlice", {"endpoints": []}, {("addressType", "FieldValueRequired")}),
        (
            "EndpointSlice",
            {"addressType": "IPv4", "endpoints": [{"addresses": ["::1", "1.2.3.4"]}, {"addresses": []}]},
            {
                ("endpoints[0].addresses[0]", "FieldValueInvalid"),
                ("endpoints[1].addresses", "FieldValueRequired"),
            },
        ),
        (
            "Lease",
            {"spec": {"leaseDurationSeconds": 0}},
            {("spec.leaseDurationSeconds", "FieldValueInvalid")},
        ),
        ("Lease", {"spec": {"renewTime": "yesterday"}}, {("spec.renewTime", "FieldValueInvalid")}),
        (
            "Event",
            {"involvedObject": {"namespace": "other"}},
            {("involvedObject.namespace", "FieldValueInvalid")},
        ),
    ],
)
async def test_broken_rule_is_told_with_field_and_reason(client, kind, fields, expected):
    answer = await create(client, kind, **fields)

    assert causes(answer) == expected
    assert f"{kind}" in answer.json()["message"]
    assert "is invalid: " in answer.json()["message"]


@pytest.mark.parametrize(
    ("kind", "fields", "path"),
    [
        ("ConfigMap", {"data": {"a": 1}}, "data.a: expected string, not number"),
        ("Secret", {"stringData": ["a"]}, "stringData: expected object, not array"),
        (
            "Service",
            {"spec": {"ports": [{"port": "80"}]}},
            "spec.ports[0].port: expected integer, not string",
        ),
        ("Lease", {"spec": {"leaseTransitions": True}}, "expected integer, not boolean"),
    ],
)
async def test_value_of_the_wrong_type_cannot_be_read(client, kind, fields, path):
    answer = await create(client, kind, **fields)

    assert (answer.status, answer.json()["reason"]) == (400, "BadRequest")
    assert path in answer.json()["message"]
    assert f"cannot be handled as a {kind}" in answer.json()["message"]


@pytest.mark.parametrize("kind", ["ConfigMap", "Secret"])
async def test_immutable_data_cannot_change_nor_become_mutable(client, kind):
    await create(client, kind, data={"a": "eA=="}, immutable=True)
    one = f"{PATHS[kind]}/x"

    data = await client.request("PATCH", one, {"data": {"a": "eQ=="}}, headers=MERGE)
    back = await client.request("PATCH", one, {"immutable": None}, headers=MERGE)
    label = await client.request("PATCH", one, {"metadata": {"labels": {"l": "v"}}}, headers=MERGE)

    assert causes(data) == {("data", "FieldValueForbidden")}
    assert causes(back) == {("immutable", "FieldValueForbidden")}
    assert label.status == 200


async def test_secret_type_cannot_change(client):
    await create(client, "Secret")

    answer = await client.request("PATCH", f"{PATHS['Secret']}/x", {"type": "other"}, headers=MERGE)

    assert causes(answer) == {("type", "FieldValueInvalid")}


async def test_secrets_can_be_selected_by_type(client):
    await create(client, "Secret", "a")
    await create(client, "Secret", "b", type="mine")

    listed = (await client.request("GET", f"{PATHS['Secret']}?fieldSelector=type%3Dmine")).json()

    assert [item["metadata"]["name"] for item in listed["items"]] == ["b"]


async def test_service_gets_the_usual_defaults(client):
    spec = (await create(client, "Service", spec={"ports": [{"port": 80}]})).json()["spec"]

    assert spec["type"] == "ClusterIP"
    assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert (spec["clusterIP"], spec["sessionAffinity"]) == ("None", "None")


async def test_external_name_has_no_address(client):
    created = await create(client, "Service", spec={"type": "ExternalName", "externalName": "db.example.com"})

    assert created.status == 201
    assert "clusterIP" not in created.json()["spec"]


async def test_lease_times_have_six_digits(client):
    times = {"renewTime": "2026-01-02T03:04:05Z", "acquireTime": "2026-01-02T03:04:05.1234567+01:00"}
    spec = (await create(client, "Lease", spec={"holderIdentity": "a", **times})).json()["spec"]

    assert spec["renewTime"] == "2026-01-02T03:04:05.000000Z"
    assert spec["acquireTime"] == "2026-01-02T03:04:05.123456+01:00"


async def test_events_of_both_groups_are_the_same_objects(client):
    about = {"kind": "Function", "name": "f", "namespace": "default", "uid": "u"}
    await create(client, "Event", "old", involvedObject=about, reason="R", message="said", type="Normal")
    new = "/apis/events.k8s.io/v1/namespaces/default/events"
    created = await client.request(
        "POST",
        new,
        {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": "new"},
            "eventTime": "2026-01-02T03:04:05Z",
            "reportingController": "c",
            "reportingInstance": "i",
            "action": "a",
            "reason": "R",
            "type": "Warning",
            "note": "noted",
            "regarding": about,
        },
    )

    core = (await client.request("GET", f"{PATHS['Event']}/new")).json()
    both = (await client.request("GET", f"{new}?fieldSelector=regarding.name%3Df")).json()
    picked = await client.request(
        "GET", f"{PATHS['Event']}?fieldSelector=involvedObject.uid%3Du,type%3DWarning"
    )

    assert created.status == 201
    assert (core["apiVersion"], core["message"], core["involvedObject"]) == ("v1", "noted", about)
    assert core["eventTime"] == "2026-01-02T03:04:05.000000Z"
    assert {(item["apiVersion"], item["note"]) for item in both["items"]} == {
        ("events.k8s.io/v1", "said"),
        ("events.k8s.io/v1", "noted"),
    }
    assert [item["metadata"]["name"] for item in picked.json()["items"]] == ["new"]


async def test_new_event_says_what_it_lacks(client):
    answer = await client.request(
        "POST",
        "/apis/events.k8s.io/v1/namespaces/default/events",
        {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "note": "x" * 1025},
    )

    assert causes(answer) == {
        *((field, "FieldValueRequired") for field in ("eventTime", "reportingController", "action")),
        *((field, "FieldValueRequired") for field in ("reportingInstance", "reason")),
        ("type", "FieldValueNotSupported"),
        ("note", "FieldValueTooLong"),
    }


@pytest.mark.parametrize(
    ("validation", "status"), [("Strict", 400), ("Warn", 201), ("", 201), ("Ignore", 201), ("Odd", 400)]
)
async def test_unknown_field_is_refused_warned_of_or_dropped(client, validation, status):
    query = f"?fieldValidation={validation}" if validation else ""
    answer = await client.request(
        "POST", PATHS["ConfigMap"] + query, made("ConfigMap", data={"a": "1"}, dtaa={"b": "2"})
    )

    assert answer.status == status
    if status == 201:
        assert "dtaa" not in answer.json()
        assert answer.all("warning") == (
            [] if validation == "Ignore" else ['299 - "unknown field \\"dtaa\\""']
        )
    if validation == "Strict":
        assert 'strict decoding error: unknown field "dtaa"' in answer.json()["message"]
