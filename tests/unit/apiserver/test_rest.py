"""Verbs, statuses and bodies; lists, tables and watches are in test_stream.py."""

import json

import pytest

from pelton.apiserver.registry import Checked
from pelton.errors import InvalidError
from pelton.manifest import kinds
from pelton.testing.asgi_client import AsgiClient
from pelton.testing.memory_store import MemoryStore
from tests.contract import api
from tests.contract.store import FUNCTIONS, function

ALL = "/apis/core.openfunction.io/v1beta2/functions"
HERE = "/apis/core.openfunction.io/v1beta2/namespaces/default/functions"
ONE = f"{HERE}/hello"
MERGE = {"content-type": "application/merge-patch+json"}
JSON_PATCH = {"content-type": "application/json-patch+json"}
APPLY = {"content-type": "application/apply-patch+yaml"}


def admit(obj, /):
    """Stand in for the manifest: refuses spec.bad, warns of spec.odd, fails on spec.broken."""
    spec = obj.get("spec") or {}
    if "bad" in spec:
        raise InvalidError("Function hello has 1 problem", causes=(("spec.bad", "is bad"),))
    if "broken" in spec:
        raise RuntimeError("s3cret-admin in a message")
    return Checked(obj=obj, warnings=('spec.odd: "odd"\nis unknown ü',) if "odd" in spec else ())


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


@pytest.fixture
async def app(store):
    tokens = api.users(s3cret_admin="admin", s3cret_view="view", s3cret_other="nobody")
    return await api.application(store, rows=api.own_rows(admit), authenticate=tokens)


@pytest.fixture
def client(app):
    return AsgiClient(app, headers={"authorization": "Bearer s3cret-admin"})


def refusal(answer):
    body = answer.json()
    assert (body["kind"], body["apiVersion"], body["status"]) == ("Status", "v1", "Failure")
    assert body["code"] == answer.status
    return answer.status, body["reason"]


# -- who may -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer wrong",
        "Basic s3cret-admin",
        "s3cret-admin",
        "Bearer \xff",
    ],
)
async def test_request_without_a_valid_token_is_unauthorized(app, header):
    client = AsgiClient(app, headers={"authorization": header} if header else {})

    answer = await client.request("GET", ALL)

    assert refusal(answer) == (401, "Unauthorized")
    assert answer.all("www-authenticate") == ["Bearer"]
    assert b"s3cret" not in answer.body


async def test_token_with_an_unknown_role_may_nothing(app):
    client = AsgiClient(app, headers={"authorization": "Bearer s3cret-other"})

    assert refusal(await client.request("GET", ALL)) == (403, "Forbidden")


async def test_view_token_reads_and_does_not_write(app, store):
    await store.create(FUNCTIONS, function())
    client = AsgiClient(app, headers={"authorization": "Bearer s3cret-view"})

    assert (await client.request("GET", ONE)).status == 200
    for method, path in (("POST", HERE), ("PUT", ONE), ("PATCH", ONE), ("DELETE", ONE), ("DELETE", HERE)):
        assert refusal(await client.request(method, path, function())) == (403, "Forbidden")
    assert len((await store.list(FUNCTIONS))[0]) == 1


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/version", "/readyz/ping"])
async def test_health_and_version_need_no_token(app, path):
    assert (await AsgiClient(app).request("GET", path)).status == 200


async def test_failure_of_ours_is_a_status_and_the_log_has_no_token(client, caplog):
    answer = await client.request("POST", f"{HERE}?token=s3cret-admin", function(spec={"broken": 1}))

    assert refusal(answer) == (500, "InternalError")
    assert b"s3cret" not in answer.body
    lines = [record.getMessage() for record in caplog.records if record.name == "test"]
    assert lines == [f"request failed method=POST path={HERE}"]


# -- create, read, replace ---------------------------------------------------------------------------------


async def test_create_answers_201_and_the_object_can_be_read(client):
    created = await client.request("POST", HERE, function())
    read = await client.request("GET", ONE)

    assert created.status == 201
    assert read.json() == created.json()
    assert read.all("content-type") == ["application/json"]


async def test_create_takes_the_namespace_of_the_path(client):
    obj = function()
    del obj["metadata"]["namespace"]

    assert (await client.request("POST", HERE, obj)).json()["metadata"]["namespace"] == "default"


async def test_create_twice_already_exists(client):
    await client.request("POST", HERE, function())

    answer = await client.request("POST", HERE, function())

    assert refusal(answer) == (409, "AlreadyExists")


async def test_create_from_yaml_keeps_dates_as_text(client):
    body = b"""
apiVersion: core.openfunction.io/v1beta2
kind: Function
metadata: {name: hello, annotations: {day: 2026-01-02}}
spec: {image: x, at: 2026-01-02T03:04:05Z}
"""
    answer = await client.request("POST", HERE, body, headers={"content-type": "application/yaml"})

    assert answer.status == 201
    assert answer.json()["spec"]["at"] == "2026-01-02T03:04:05Z"
    assert answer.json()["metadata"]["annotations"] == {"day": "2026-01-02"}


async def test_cluster_scoped_object_has_no_namespace(client):
    path = "/apis/notification.kubesphere.io/v2beta2/receivers"
    obj = {
        "apiVersion": "notification.kubesphere.io/v2beta2",
        "kind": "Receiver",
        "metadata": {"name": "r", "namespace": "x"},
        "spec": {},
    }

    created = await client.request("POST", path, obj)

    assert created.status == 201
    assert "namespace" not in created.json()["metadata"]
    assert (await client.request("GET", f"{path}/r")).status == 200
    assert refusal(await client.request("GET", path.replace("v2beta2/", "v2beta2/namespaces/x/")))[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"apiVersion": "core.openfunction.io/v1beta2", "kind": "Function", "metadata": []}',
        b'{"a": NaN}',
        b'{"a": "\xff"}',
        b"[" * 100_000,
        json.dumps(function(namespace="other")).encode(),
        json.dumps({**function(), "kind": "Builder"}).encode(),
        json.dumps({**function(), "apiVersion": "core.openfunction.io/v1beta1"}).encode(),
        json.dumps({"metadata": {"name": "hello"}}).encode(),
    ],
)
async def test_body_that_is_not_the_object_of_this_path_is_a_bad_request(client, body):
    assert refusal(await client.request("POST", HERE, body)) == (400, "BadRequest")


@pytest.mark.parametrize(
    "body",
    [
        b"a: [",
        b"a: 1\n---\nb: 2\n",
        b"1: a",
        b"a: !!binary aGk=",
        b"a: !!python/object:os.system {}",
        b"\xff\xfe\xfd",
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"\n".join(b"%c: &%c [%s]" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 107)),
        b"a: " + b"[" * 300 + b"]" * 300,
    ],
)
async def test_yaml_that_is_no_json_or_explodes_is_a_bad_request(client, body):
    answer = await client.request("POST", HERE, body, headers={"content-type": "application/yaml"})

    assert refusal(answer) == (400, "BadRequest")


@pytest.mark.parametrize("media", ["application/cbor", "text/plain"])
async def test_media_type_that_is_not_served_is_unsupported(client, media):
    answer = await client.request("POST", HERE, function(), headers={"content-type": media})

    assert refusal(answer) == (415, "UnsupportedMediaType")


@pytest.mark.parametrize("announced", [True, False])
async def test_body_over_three_mebibytes_is_too_large(client, announced):
    pieces = [b" " * (1 << 20)] * 3 + [b" "]
    headers = {"content-length": str(sum(map(len, pieces)))} if announced else {}

    answer = await client.request("POST", HERE, pieces, headers=headers)

    assert refusal(answer) == (413, "RequestEntityTooLarge")


async def test_body_of_three_mebibytes_is_read(client):
    text = json.dumps(function()).encode()

    answer = await client.request("POST", HERE, text + b" " * ((3 << 20) - len(text)))

    assert answer.status == 201


async def test_invalid_object_lists_its_causes(client):
    answer = await client.request("POST", HERE, function(spec={"bad": 1}))

    assert refusal(answer) == (422, "Invalid")
    details = answer.json()["details"]
    assert details["causes"] == [{"reason": "FieldValueInvalid", "message": "is bad", "field": "spec.bad"}]
    assert "spec.bad: is bad" in answer.json()["message"]
    assert (details["group"], details["kind"]) == ("core.openfunction.io", "functions")


async def test_warnings_are_headers_in_ascii_on_one_line(client):
    answer = await client.request("POST", HERE, function(spec={"odd": 1}))

    assert answer.all("warning") == ['299 - "spec.odd: \\"odd\\" is unknown ?"']


async def test_missing_object_is_not_found_with_its_name(client):
    for method in ("GET", "PUT", "DELETE"):
        answer = await client.request(method, ONE, function())
        assert refusal(answer) == (404, "NotFound")
        assert answer.json()["details"]["name"] == "hello"
        assert answer.json()["message"] == 'functions.core.openfunction.io "hello" not found'


@pytest.mark.parametrize(
    "path",
    [
        "/apis/core.openfunction.io/v1alpha2/functions",
        "/apis/core.openfunction.io/v1beta2/unknowns",
        "/apis/nobody/v1/functions",
        "/api/v1/nodes",
        "/apis/core.openfunction.io/v1beta2/functions/hello",
        f"{ONE}/scale",
        f"{ONE}/status/more",
        "/apis/dapr.io/v1alpha1/namespaces/default/components/c/status",
        "/nowhere",
        "/apis/nobody",
        "/openapi/v2",
    ],
)
async def test_path_that_is_not_served_is_not_found(client, path):
    assert refusal(await client.request("GET", path)) == (404, "NotFound")


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", HERE), ("POST", ONE), ("DELETE", f"{ONE}/status"), ("POST", "/apis"), ("DELETE", ALL)],
)
async def test_verb_that_a_path_has_not_is_not_allowed(client, method, path):
    assert refusal(await client.request(method, path, function())) == (405, "MethodNotAllowed")


async def test_replace_with_a_stale_version_conflicts(client):
    first = (await client.request("POST", HERE, function())).json()
    second = await client.request("PUT", ONE, {**first, "spec": {"image": "y"}})

    third = await client.request("PUT", ONE, {**first, "spec": {"image": "z"}})

    assert second.status == 200
    assert second.json()["metadata"]["generation"] == 2
    assert refusal(third) == (409, "Conflict")


async def test_replace_under_another_name_is_a_bad_request(client):
    await client.request("POST", HERE, function())

    assert refusal(await client.request("PUT", ONE, function("other"))) == (400, "BadRequest")


async def test_status_is_written_only_through_its_subresource(client):
    first = (await client.request("POST", HERE, {**function(), "status": {"a": 0}})).json()
    put = await client.request("PUT", f"{ONE}/status", {**first, "spec": {}, "status": {"a": 1}})
    patched = await client.request(
        "PATCH", f"{ONE}/status", {"status": {"b": 2}, "spec": {"image": "no"}}, headers=MERGE
    )
    main = await client.request("PATCH", ONE, {"status": {"a": 9}}, headers=MERGE)

    assert "status" not in first
    assert put.json()["spec"] == {"image": "x"}
    assert patched.json()["status"] == main.json()["status"] == {"a": 1, "b": 2}
    assert (await client.request("GET", f"{ONE}/status")).json() == main.json()
    assert main.json()["metadata"]["generation"] == 1


# -- patches -----------------------------------------------------------------------------------------------


async def test_merge_patch_merges_and_null_removes(client):
    await client.request("POST", HERE, function(spec={"a": {"b": 1, "c": 2}}, labels={"x": "y"}))

    answer = await client.request(
        "PATCH",
        ONE,
        {"spec": {"a": {"b": None, "d": [3]}}, "metadata": {"labels": {"z": "q"}}},
        headers=MERGE,
    )

    assert answer.json()["spec"] == {"a": {"c": 2, "d": [3]}}
    assert answer.json()["metadata"]["labels"] == {"x": "y", "z": "q"}


async def test_patch_that_names_a_stale_version_conflicts(client):
    await client.request("POST", HERE, function())
    patch = {"metadata": {"resourceVersion": "77"}, "spec": {"image": "y"}}

    assert refusal(await client.request("PATCH", ONE, patch, headers=MERGE)) == (409, "Conflict")


async def test_patched_object_is_admitted(client):
    await client.request("POST", HERE, function())

    answer = await client.request("PATCH", ONE, {"spec": {"bad": 1}}, headers=MERGE)

    assert refusal(answer) == (422, "Invalid")


@pytest.mark.parametrize("patch", [{"metadata": {"name": "b"}}, {"kind": "Other"}, {"metadata": None}])
async def test_patch_cannot_change_what_an_object_is(client, patch):
    await client.request("POST", HERE, function())

    answer = await client.request("PATCH", ONE, patch, headers=MERGE)

    assert answer.status in (200, 400)
    assert (await client.request("GET", ONE)).json()["metadata"]["name"] == "hello"


async def test_json_patch_applies_all_or_nothing(client):
    await client.request("POST", HERE, function(spec={"l": [1, 2]}))
    good = b'[{"op":"test","path":"/spec/l/0","value":1},{"op":"add","path":"/spec/l/-","value":3}]'
    bad = b'[{"op":"remove","path":"/spec/l"},{"op":"test","path":"/spec/l/0","value":9}]'

    applied = await client.request("PATCH", ONE, good, headers=JSON_PATCH)
    refused = await client.request("PATCH", ONE, bad, headers=JSON_PATCH)

    assert applied.json()["spec"] == {"l": [1, 2, 3]}
    assert refusal(refused) == (422, "Invalid")
    assert (await client.request("GET", ONE)).json()["spec"] == {"l": [1, 2, 3]}


@pytest.mark.parametrize("media", ["application/strategic-merge-patch+json", "application/json", ""])
async def test_other_patch_types_are_unsupported(client, media):
    await client.request("POST", HERE, function())

    answer = await client.request("PATCH", ONE, {}, headers={"content-type": media})

    assert refusal(answer) == (415, "UnsupportedMediaType")


async def test_server_side_apply_creates_then_merges_and_removes_what_is_left_out(client):
    path = f"{ONE}?fieldManager=me"
    created = await client.request("PATCH", path, function(spec={"a": 1, "b": {"c": 2}}), headers=APPLY)
    await client.request("PATCH", ONE, {"spec": {"other": 1}}, headers=MERGE)
    again = await client.request("PATCH", path, function(spec={"a": 1}), headers=APPLY)
    repeated = await client.request("PATCH", path, function(spec={"a": 1}), headers=APPLY)

    assert (created.status, again.status) == (201, 200)
    assert again.json()["spec"] == {"a": 1, "other": 1}
    assert repeated.json() == again.json()


async def test_server_side_apply_of_anothers_field_conflicts_unless_forced(client):
    await client.request("PATCH", f"{ONE}?fieldManager=me", function(spec={"a": 1}), headers=APPLY)

    refused = await client.request("PATCH", f"{ONE}?fieldManager=you", function(spec={"a": 2}), headers=APPLY)
    forced = await client.request(
        "PATCH", f"{ONE}?fieldManager=you&force=true", function(spec={"a": 2}), headers=APPLY
    )

    assert refusal(refused) == (409, "Conflict")
    assert refused.json()["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "me"', "field": ".spec.a"}
    ]
    assert forced.json()["spec"] == {"a": 2}


async def test_server_side_apply_needs_a_manager(client):
    assert refusal(await client.request("PATCH", ONE, function(), headers=APPLY)) == (400, "BadRequest")


# -- delete ------------------------------------------------------------------------------------------------


async def test_delete_answers_success_with_the_uid(client):
    uid = (await client.request("POST", HERE, function())).json()["metadata"]["uid"]

    answer = await client.request("DELETE", ONE, {"propagationPolicy": "Background"})

    assert answer.status == 200
    assert answer.json()["status"] == "Success"
    assert answer.json()["details"]["uid"] == uid
    assert (await client.request("GET", ONE)).status == 404


async def test_delete_with_finalizers_answers_the_marked_object(client):
    await client.request("POST", HERE, function(finalizers=["a.b/c"]))

    answer = await client.request("DELETE", ONE)
    freed = await client.request("PATCH", ONE, {"metadata": {"finalizers": None}}, headers=MERGE)

    assert answer.json()["metadata"]["deletionTimestamp"]
    assert freed.status == 200
    assert (await client.request("GET", ONE)).status == 404


@pytest.mark.parametrize("precondition", [{"uid": "other"}, {"resourceVersion": "77"}])
async def test_delete_with_failed_precondition_conflicts(client, precondition):
    await client.request("POST", HERE, function())

    answer = await client.request("DELETE", ONE, {"preconditions": precondition})

    assert refusal(answer) == (409, "Conflict")
    assert (await client.request("GET", ONE)).status == 200


async def test_delete_collection_takes_what_the_selector_picks(client):
    for name, label in (("a", "x"), ("b", "y"), ("c", "x")):
        await client.request("POST", HERE, function(name, labels={"l": label}))

    answer = await client.request("DELETE", f"{HERE}?labelSelector=l%3Dx")

    assert [item["metadata"]["name"] for item in answer.json()["items"]] == ["a", "c"]
    left = (await client.request("GET", HERE)).json()["items"]
    assert [item["metadata"]["name"] for item in left] == ["b"]


# -- dry run, namespaces, discovery ------------------------------------------------------------------------


async def test_dry_run_answers_and_stores_nothing(client, store):
    created = await client.request("POST", f"{HERE}?dryRun=All", function())
    await store.create(FUNCTIONS, function("kept"))
    for method, body in (("PUT", function("kept", spec={})), ("DELETE", b""), ("PATCH", {"spec": None})):
        answer = await client.request(method, f"{HERE}/kept?dryRun=All", body, headers=MERGE)
        assert answer.status == 200

    assert created.status == 201
    assert created.json()["metadata"]["uid"]
    assert [o["metadata"]["generation"] for o in (await store.list(FUNCTIONS))[0]] == [1]
    assert refusal(await client.request("POST", f"{HERE}?dryRun=Some", function()))[0] == 400


async def test_object_in_a_namespace_that_does_not_exist_is_not_found(client):
    path = "/apis/core.openfunction.io/v1beta2/namespaces/none/functions"

    answer = await client.request("POST", path, function(namespace="none"))

    assert refusal(answer) == (404, "NotFound")
    assert answer.json()["message"] == 'namespaces "none" not found'


async def test_namespace_is_created_and_shown(client):
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}

    created = await client.request("POST", "/api/v1/namespaces", body)
    listed = await client.request("GET", "/api/v1/namespaces")

    assert created.status == 201
    assert [item["metadata"]["name"] for item in listed.json()["items"]] == ["default", "shop"]
    shop = (await client.request("GET", "/api/v1/namespaces/shop")).json()
    assert shop["metadata"]["labels"] == {"kubernetes.io/metadata.name": "shop"}
    assert shop["status"] == {"phase": "Active"}


async def test_discovery_names_groups_resources_and_short_names(client):
    groups = (await client.request("GET", "/apis")).json()["groups"]
    listed = (await client.request("GET", "/apis/core.openfunction.io/v1beta2")).json()["resources"]
    merged = await client.request(
        "GET",
        "/apis",
        headers={"accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"},
    )

    assert {group["name"] for group in groups} >= {kind.group for kind in kinds.KINDS}
    assert {entry["name"] for entry in listed} >= {"functions", "functions/status"}
    assert "as=APIGroupDiscoveryList" in merged.all("content-type")[0]
    functions = next(
        resource
        for group in merged.json()["items"]
        for version in group["versions"]
        for resource in version["resources"]
        if resource["resource"] == "functions"
    )
    assert functions["shortNames"] == ["fn"]
    assert [sub["subresource"] for sub in functions["subresources"]] == ["status", "scale"]


async def test_every_served_group_has_an_openapi_document(client):
    paths = (await client.request("GET", "/openapi/v3")).json()["paths"]

    for entry in paths.values():
        document = (await client.request("GET", entry["serverRelativeURL"])).json()
        assert document["openapi"].startswith("3.")
    assert "apis/core.openfunction.io/v1beta2" in paths


async def test_version_is_understood_by_clients(client):
    version = (await client.request("GET", "/version")).json()

    assert version["gitVersion"].startswith(f"v{version['major']}.{version['minor']}.")
    assert version["gitVersion"].endswith("+pelton-1.2.3")


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"finalizers": ["plain"]}, "metadata.finalizers"),
        ({"labels": {"a b": "x"}}, "metadata.labels"),
        ({"labels": {"-/x": "x"}}, "metadata.labels"),
        ({"annotations": {"x" * 64: "y"}}, "metadata.annotations"),
        (
            {"ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n"}]},
            "metadata.ownerReferences[0].uid",
        ),
        (
            {
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "K", "name": n, "uid": n, "controller": True} for n in "ab"
                ]
            },
            "metadata.ownerReferences",
        ),
    ],
)
async def test_metadata_that_kubernetes_refuses_is_refused(client, metadata, field):
    answer = await client.request("POST", HERE, function(**metadata))

    assert refusal(answer) == (422, "Invalid")
    assert [cause["field"] for cause in answer.json()["details"]["causes"]] == [field]


async def test_metadata_that_kubernetes_takes_is_taken(client):
    metadata = {
        "finalizers": ["foregroundDeletion", "a.b/C_d"],
        "labels": {"a.b-c/D_e.f": "x", "x": ""},
        "annotations": {"Some.Where/X": "y", "kopf.zalando.org/last-handled-configuration": "{}"},
    }

    assert (await client.request("POST", HERE, function(**metadata))).status == 201


async def test_namespace_with_a_dot_is_refused(client):
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a.b"}}

    assert refusal(await client.request("POST", "/api/v1/namespaces", body)) == (422, "Invalid")


async def test_openapi_describes_fields_and_merge_keys(client):
    core = (await client.request("GET", "/openapi/v3/api/v1")).json()

    service = core["components"]["schemas"]["v1.Service"]
    assert service["x-kubernetes-group-version-kind"] == [{"group": "", "version": "v1", "kind": "Service"}]
    ports = service["properties"]["spec"]["properties"]["ports"]
    assert ports["x-kubernetes-patch-merge-key"] == "port"
    assert ports["items"]["properties"]["protocol"]["default"] == "TCP"
    one = core["paths"]["/api/v1/namespaces/{namespace}/services/{name}"]
    assert set(one) == {"get", "put", "patch", "delete"}
    assert "fieldValidation" in [parameter["name"] for parameter in one["patch"]["parameters"]]
    assert set(core["paths"]["/api/v1/namespaces/{namespace}/pods"]) == {"get"}


async def test_watch_of_one_object_by_its_path(client, store):
    await store.create(FUNCTIONS, function("other"))
    await store.create(FUNCTIONS, function())
    async with client.lines(f"{ONE}?watch=1") as lines:
        assert (await anext(lines))["object"]["metadata"]["name"] == "hello"
