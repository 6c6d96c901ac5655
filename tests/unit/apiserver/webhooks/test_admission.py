"""Admission webhooks against a real HTTPS server: what they see, their order, what each failure means."""

import asyncio
from typing import Any

import pytest

from pelton.apiserver.builtin import namespaces
from pelton.testing.asgi_client import AsgiClient
from pelton.testing.memory_store import MemoryStore
from tests.contract import api
from tests.hook_server import HookServer, allowed, patching, respond

MAPS = "/api/v1/namespaces/default/configmaps"
HOOKS = "/apis/admissionregistration.k8s.io/v1"
MERGE = {"content-type": "application/merge-patch+json"}


@pytest.fixture
async def hooks(tmp_path):
    async with HookServer(tmp_path / "pki", "hook.default.svc") as server:
        yield server


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


@pytest.fixture
async def client(store):
    async with api.service(store, rows=[]) as service:
        yield AsgiClient(service.app, headers={"authorization": "Bearer t"})


def config_map(name="a", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def hook(client_config, name="check.example.com", **more):
    rule = {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}
    return {
        "name": name,
        "clientConfig": client_config,
        "rules": [rule],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        **more,
    }


async def configure(client, kind, *webhooks, name="hooks"):
    plural = f"{kind.lower()}webhookconfigurations"
    body = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": list(webhooks),
    }
    answer = await client.request("POST", f"{HOOKS}/{plural}", body)
    assert answer.status == 201, answer.json()


def message(answer):
    body = answer.json()
    assert body["kind"] == "Status", body
    return answer.status, body.get("reason", ""), body["message"]


# -- what a webhook sees -----------------------------------------------------------------------------------


async def test_webhook_sees_the_whole_request(client, hooks):
    hooks.paths["/v"] = allowed
    await configure(client, "Validating", hook(hooks.client("/v")))

    created = await client.request("POST", f"{MAPS}?dryRun=All&fieldManager=me", config_map(k="v"))

    assert created.status == 201
    ((path, query, review),) = hooks.seen
    request = review["request"]
    assert (path, query) == ("/v", "timeout=10s")
    assert (review["apiVersion"], review["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert request["kind"] == {"group": "", "version": "v1", "kind": "ConfigMap"}
    assert request["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert request["requestKind"] == request["kind"]
    assert request["requestResource"] == request["resource"]
    assert (request["operation"], request["namespace"], request["name"]) == ("CREATE", "default", "a")
    assert request["dryRun"] is True
    assert request["oldObject"] is None
    assert request["object"]["data"] == {"k": "v"}
    assert request["object"]["metadata"]["uid"]
    assert request["userInfo"]["username"] == "t"
    assert "system:authenticated" in request["userInfo"]["groups"]
    assert request["options"] == {
        "apiVersion": "meta.k8s.io/v1",
        "kind": "CreateOptions",
        "dryRun": ["All"],
        "fieldManager": "me",
    }


async def test_each_operation_brings_the_objects_that_it_has(client, hooks):
    hooks.paths["/v"] = allowed
    await configure(client, "Validating", hook(hooks.client("/v")))

    await client.request("POST", MAPS, config_map(k="1"))
    await client.request("PATCH", f"{MAPS}/a", {"data": {"k": "2"}}, headers=MERGE)
    await client.request("DELETE", f"{MAPS}/a")

    seen = [
        (
            r["request"]["operation"],
            (r["request"]["object"] or {}).get("data"),
            (r["request"]["oldObject"] or {}).get("data"),
        )
        for _, _, r in hooks.seen
    ]
    assert seen == [
        ("CREATE", {"k": "1"}, None),
        ("UPDATE", {"k": "2"}, {"k": "1"}),
        ("DELETE", None, {"k": "2"}),
    ]
    assert [r["request"]["options"]["kind"] for _, _, r in hooks.seen] == [
        "CreateOptions",
        "UpdateOptions",
        "DeleteOptions",
    ]


async def test_service_leads_through_its_endpoints(client, hooks):
    hooks.paths["/v/x"] = allowed
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "hook"},
        "spec": {"ports": [{"name": "https", "port": 443, "targetPort": 9443}]},
    }
    assert (await client.request("POST", "/api/v1/namespaces/default/services", service)).status == 201
    entry = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["127.0.0.9"], "conditions": {"ready": False}},
            {"addresses": ["127.0.0.1"]},
        ],
        "ports": [{"name": "https", "port": hooks.port}],
    }
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    assert (await client.request("POST", slices, entry)).status == 201
    target = {"service": {"namespace": "default", "name": "hook", "path": "/v/x"}, "caBundle": hooks.bundle}
    await configure(client, "Validating", hook(target))

    created = await client.request("POST", MAPS, config_map())

    assert created.status == 201, created.json()
    assert "Host: hook.default.svc:443" in hooks.heads[0]


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ([], 'service "hook" not found in namespace "default"'),
        ([{"ports": [{"port": 80}]}], 'no service port 443 found for service "hook"'),
        ([{"ports": [{"port": 443}]}], 'no endpoints available for service "hook"'),
    ],
)
async def test_service_that_leads_nowhere_is_told(client, objects, reason):
    for spec in objects:
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"}, "spec": spec}
        assert (await client.request("POST", "/api/v1/namespaces/default/services", service)).status == 201
    await configure(client, "Validating", hook({"service": {"namespace": "default", "name": "hook"}}))

    status, _, text = message(await client.request("POST", MAPS, config_map()))

    assert status == 500
    assert reason in text


# -- mutating ----------------------------------------------------------------------------------------------


def put(key, value):
    """Return a webhook that sets a key of the data."""
    return lambda review: patching(review, {"op": "add", "path": f"/data/{key}", "value": value})


async def test_mutating_webhooks_run_in_order_of_names_and_lists(client, hooks):
    hooks.paths |= {"/1": put("k", "1"), "/2": put("k", "2"), "/3": put("k", "3")}
    await configure(
        client,
        "Mutating",
        hook(hooks.client("/2"), "b.example.com"),
        hook(hooks.client("/3"), "a.example.com"),
        name="second",
    )
    await configure(client, "Mutating", hook(hooks.client("/1"), "z.example.com"), name="first")

    created = await client.request("POST", MAPS, config_map(k="0"))

    assert [path for path, _, _ in hooks.seen] == ["/1", "/2", "/3"]
    assert [r["request"]["object"]["data"]["k"] for _, _, r in hooks.seen] == ["0", "1", "2"]
    assert created.json()["data"] == {"k": "3"}


async def test_webhook_is_asked_again_when_a_later_one_changed_the_object(client, hooks):
    hooks.paths |= {"/a": allowed, "/b": put("k", "1"), "/c": allowed}
    await configure(
        client,
        "Mutating",
        hook(hooks.client("/a"), "a.example.com", reinvocationPolicy="IfNeeded"),
        hook(hooks.client("/b"), "b.example.com", reinvocationPolicy="IfNeeded"),
        hook(hooks.client("/c"), "c.example.com"),
    )

    await client.request("POST", MAPS, config_map(k="0"))

    assert [path for path, _, _ in hooks.seen] == ["/a", "/b", "/c", "/a"]


async def test_validating_webhooks_see_the_final_object(client, hooks):
    hooks.paths |= {"/m": put("k", "1"), "/v": allowed}
    await configure(client, "Validating", hook(hooks.client("/v")))
    await configure(client, "Mutating", hook(hooks.client("/m")))

    await client.request("POST", MAPS, config_map(k="0"))

    assert hooks.seen[1][2]["request"]["object"]["data"] == {"k": "1"}


# -- denials and warnings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"message": "no"}, (400, "", 'admission webhook "check.example.com" denied the request: no')),
        (
            {"code": 403, "reason": "Forbidden", "message": "no"},
            (403, "Forbidden", 'admission webhook "check.example.com" denied the request: no'),
        ),
        (
            {"code": 200, "reason": "Expired"},
            (400, "Expired", 'admission webhook "check.example.com" denied the request: Expired'),
        ),
        (
            None,
            (
                400,
                "BadRequest",
                'admission webhook "check.example.com" denied the request without explanation',
            ),
        ),
    ],
)
@pytest.mark.parametrize("kind", ["Validating", "Mutating"])
async def test_denial_has_the_code_and_words_of_the_webhook(client, hooks, kind, status, expected):
    hooks.paths["/v"] = lambda review: respond(
        review, allowed=False, **({"status": status} if status else {})
    )
    await configure(client, kind, hook(hooks.client("/v"), failurePolicy="Ignore"))

    assert message(await client.request("POST", MAPS, config_map())) == expected
    assert (await client.request("GET", f"{MAPS}/a")).status == 404


async def test_causes_of_a_denial_reach_the_client(client, hooks):
    causes = [{"reason": "FieldValueInvalid", "field": "data.k", "message": "is odd"}]
    hooks.paths["/v"] = lambda review: respond(
        review,
        allowed=False,
        status={"code": 422, "reason": "Invalid", "message": "m", "details": {"causes": causes}},
    )
    await configure(client, "Validating", hook(hooks.client("/v")))

    answer = await client.request("POST", MAPS, config_map())

    assert answer.json()["details"]["causes"] == causes


async def test_warnings_reach_the_client_once_and_within_their_budget(client, hooks):
    long = ["x" * 300 + str(number) for number in range(20)]
    hooks.paths |= {
        "/a": lambda review: allowed(review, warnings=["old field", "old field"]),
        "/b": lambda review: allowed(review, warnings=["old field", "two"]),
        "/c": lambda review: allowed(review, warnings=long),
    }
    await configure(client, "Mutating", hook(hooks.client("/a")))
    await configure(client, "Validating", hook(hooks.client("/b")))

    created = await client.request("POST", MAPS, config_map())
    await configure(client, "Validating", hook(hooks.client("/c"), "c.example.com"), name="more")
    more = await client.request("POST", MAPS, config_map("b"))

    assert created.all("warning") == ['299 - "old field"', '299 - "two"']
    assert sum(map(len, more.all("warning"))) < 4096 + 20 * len('299 - ""')
    assert max(map(len, more.all("warning"))) == 256 + len('299 - ""')


async def test_first_denial_in_the_order_of_configurations_is_told(client, hooks):
    hooks.paths |= {
        "/a": lambda review: respond(review, allowed=False, status={"message": "first"}),
        "/b": lambda review: respond(review, allowed=False, status={"message": "second"}),
    }
    await configure(client, "Validating", hook(hooks.client("/b"), "b.example.com"), name="b")
    await configure(client, "Validating", hook(hooks.client("/a"), "a.example.com"), name="a")

    assert message(await client.request("POST", MAPS, config_map()))[2].endswith("denied the request: first")


# -- failures ----------------------------------------------------------------------------------------------


def v1beta1(review):
    return {"response": {"allowed": True}}


FAULTS = {
    "500": (lambda review: 500, "the server answered 500 (no)"),
    "not JSON": (lambda review: b"<html>", "the answer is not JSON"),
    "no object": (lambda review: b"[]", "expected a webhook response of kind AdmissionReview"),
    "no response": (
        lambda review: {"apiVersion": review["apiVersion"], "kind": "AdmissionReview"},
        "webhook response was absent",
    ),
    "other kind": (
        lambda review: {**allowed(review), "kind": "Review"},
        "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v1, "
        "Kind=Review",
    ),
    "wrong uid": (
        lambda review: respond(review, uid="x", allowed=True),
        'got "x"',
    ),
    "no decision": (lambda review: respond(review), "response.allowed is missing"),
    "patch without type": (
        lambda review: allowed(review, patch="W10="),
        "webhook returned response.patch but not response.patchType",
    ),
    "type without patch": (
        lambda review: allowed(review, patchType="JSONPatch"),
        "webhook returned response.patchType but not response.patch",
    ),
    "unknown patch type": (
        lambda review: allowed(review, patch="W10=", patchType="Merge"),
        'unexpected response.patchType "Merge"',
    ),
    "patch that is no base64": (
        lambda review: allowed(review, patch="%", patchType="JSONPatch"),
        "response.patch is no base64 of a JSON patch",
    ),
    "patch that is no list": (
        lambda review: allowed(review, patch="e30=", patchType="JSONPatch"),
        "response.patch is no list of JSON patch operations",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_failed_call_fails_the_write_or_is_ignored(client, hooks, fault):
    behaviour, reason = FAULTS[fault]
    hooks.paths["/m"] = behaviour
    await configure(client, "Mutating", hook(hooks.client("/m")))

    status, word, text = message(await client.request("POST", MAPS, config_map()))
    await client.request("DELETE", f"{HOOKS}/mutatingwebhookconfigurations/hooks")
    await configure(client, "Mutating", hook(hooks.client("/m"), failurePolicy="Ignore"))
    ignored = await client.request("POST", MAPS, config_map())

    assert (status, word) == (500, "InternalError")
    assert text.startswith('Internal error occurred: failed calling webhook "check.example.com": ')
    assert reason in text
    assert ignored.status == 201


async def test_validating_webhook_may_not_patch(client, hooks):
    hooks.paths["/v"] = put("k", "1")
    await configure(client, "Validating", hook(hooks.client("/v")))

    status, _, text = message(await client.request("POST", MAPS, config_map()))

    assert status == 500
    assert "validating webhook may not return response.patch" in text


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        ({"op": "remove", "path": "/nosuch"}, 'applying the patch of admission webhook "check.example.com"'),
        (
            {"op": "replace", "path": "/metadata/name", "value": "b"},
            "changed apiVersion, kind, name, namespace or uid",
        ),
        (
            {"op": "replace", "path": "/kind", "value": "Secret"},
            "changed apiVersion, kind, name, namespace or uid",
        ),
        ({"op": "replace", "path": "", "value": 1}, "changed apiVersion, kind, name, namespace or uid"),
    ],
)
async def test_patch_that_does_not_apply_fails_whatever_the_policy(client, hooks, operation, reason):
    hooks.paths["/m"] = lambda review: patching(review, operation)
    await configure(client, "Mutating", hook(hooks.client("/m"), failurePolicy="Ignore"))

    status, word, text = message(await client.request("POST", MAPS, config_map()))

    assert (status, word) == (500, "InternalError")
    assert reason in text


async def test_patch_of_a_deletion_is_an_error(client, hooks):
    hooks.paths["/m"] = lambda review: (
        allowed(review) if review["request"]["object"] else put("k", "1")(review)
    )
    await configure(client, "Mutating", hook(hooks.client("/m"), failurePolicy="Ignore"))
    await client.request("POST", MAPS, config_map())

    assert message(await client.request("DELETE", f"{MAPS}/a"))[0] == 500


async def test_slow_webhook_fails_at_its_deadline(client, hooks):
    hooks.paths["/v"] = lambda review: 30.0
    await configure(client, "Validating", hook(hooks.client("/v"), timeoutSeconds=1))

    status, _, text = message(await client.request("POST", MAPS, config_map()))

    assert status == 500
    assert text.endswith(f'Post "https://127.0.0.1:{hooks.port}/v?timeout=1s": context deadline exceeded')


async def test_webhook_that_is_down_is_told(client, hooks):
    gone = hooks.client("/v")
    hooks._server.close()
    await configure(client, "Validating", hook(gone))

    assert "connect: connection refused" in message(await client.request("POST", MAPS, config_map()))[2]


async def test_certificate_of_another_authority_is_refused(client, hooks, tmp_path):
    other = HookServer(tmp_path / "other").bundle
    await configure(client, "Validating", hook({**hooks.client("/v"), "caBundle": other}))

    assert (
        "tls: failed to verify certificate: x509: "
        in message(await client.request("POST", MAPS, config_map()))[2]
    )


async def test_certificate_for_another_name_is_refused(client, hooks):
    url = f"https://localhost:{hooks.port}/v"
    await configure(client, "Validating", hook({"url": url, "caBundle": hooks.bundle}))

    assert "Hostname mismatch" in message(await client.request("POST", MAPS, config_map()))[2]


async def test_webhook_that_closes_idle_connections_is_reached_again(client, hooks):
    hooks.paths["/v"] = allowed
    hooks.close_after_answer = True
    await configure(client, "Validating", hook(hooks.client("/v")))

    answers = [await client.request("POST", MAPS, config_map(f"m{number}")) for number in range(5)]

    assert [answer.status for answer in answers] == [201] * 5


async def test_first_of_two_fails_open_and_the_second_decides(client, hooks):
    hooks.paths |= {
        "/a": lambda review: 500,
        "/b": lambda review: respond(review, allowed=False, status={"message": "no"}),
    }
    await configure(
        client,
        "Validating",
        hook(hooks.client("/a"), "a.example.com", failurePolicy="Ignore"),
        hook(hooks.client("/b"), "b.example.com"),
    )

    assert message(await client.request("POST", MAPS, config_map()))[2].endswith("denied the request: no")


async def test_v1beta1_is_lenient(client, hooks):
    hooks.paths["/v"] = v1beta1
    await configure(client, "Validating", hook(hooks.client("/v"), admissionReviewVersions=["v9", "v1beta1"]))

    assert (await client.request("POST", MAPS, config_map())).status == 201
    assert hooks.seen[0][2]["apiVersion"] == "admission.k8s.io/v1beta1"


# -- matching ----------------------------------------------------------------------------------------------


async def test_selectors_and_conditions_skip_a_webhook(client, hooks, store):
    hooks.paths["/v"] = lambda review: respond(
        review, allowed=False, status={"message": review["request"]["name"]}
    )
    await namespaces.ensure(store, ["other"])
    await configure(
        client,
        "Validating",
        hook(
            hooks.client("/v"),
            namespaceSelector={
                "matchExpressions": [
                    {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["other"]}
                ]
            },
            objectSelector={"matchLabels": {"watched": "yes"}},
            matchConditions=[
                {"name": "not-x", "expression": "object.metadata.name != 'x'"},
                {
                    "name": "admin",
                    "expression": "authorizer.group('').resource('configmaps').check('delete').allowed()",
                },
                {"name": "creates", "expression": "request.operation == 'CREATE' && oldObject == null"},
            ],
        ),
    )

    def labelled(name):
        obj = config_map(name)
        obj["metadata"]["labels"] = {"watched": "yes"}
        return obj

    others = "/api/v1/namespaces/other/configmaps"
    assert (await client.request("POST", MAPS, config_map("plain"))).status == 201
    assert (await client.request("POST", others, labelled("elsewhere"))).status == 201
    assert (await client.request("POST", MAPS, labelled("x"))).status == 201
    assert (await client.request("POST", MAPS, labelled("y"))).status == 400


async def test_condition_without_a_value_is_a_failure_unless_another_is_false(client, hooks):
    hooks.paths["/v"] = allowed
    bad = {"name": "bad", "expression": "object.nosuch == 1"}
    await configure(client, "Validating", hook(hooks.client("/v"), matchConditions=[bad]))

    assert (
        "matchConditions: expression 'bad': no such key: nosuch"
        in message(await client.request("POST", MAPS, config_map()))[2]
    )

    await client.request("DELETE", f"{HOOKS}/validatingwebhookconfigurations/hooks")
    both = [bad, {"name": "never", "expression": "false"}]
    await configure(client, "Validating", hook(hooks.client("/v"), matchConditions=both))
    assert (await client.request("POST", MAPS, config_map())).status == 201
    assert hooks.seen == []


async def test_webhooks_are_never_asked_about_configurations(client, hooks):
    hooks.paths["/v"] = lambda review: respond(review, allowed=False)
    everything = {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}
    await configure(client, "Validating", hook(hooks.client("/v"), rules=[everything]))

    deleted = await client.request("DELETE", f"{HOOKS}/validatingwebhookconfigurations/hooks")

    assert deleted.status == 200
    assert hooks.seen == []


async def test_writes_that_meet_during_admission_are_computed_again(client, hooks):
    """A patch whose webhook waits sees the object as another write left it, not as it was before."""
    hooks.paths["/m"] = allowed
    await client.request("POST", MAPS, config_map(a="0"))
    await configure(client, "Mutating", hook(hooks.client("/m")))

    answers = await asyncio.gather(
        *(client.request("PATCH", f"{MAPS}/a", {"data": {f"k{n}": "1"}}, headers=MERGE) for n in range(4))
    )

    assert [answer.status for answer in answers] == [200] * 4
    final = (await client.request("GET", f"{MAPS}/a")).json()["data"]
    assert final == {"a": "0", "k0": "1", "k1": "1", "k2": "1", "k3": "1"}
