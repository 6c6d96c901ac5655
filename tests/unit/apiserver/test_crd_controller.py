"""Custom resources through the whole API: definitions come, change, and go; versions are converted."""

import asyncio
import copy
from typing import Any

import pytest

from pelton.apiserver import manifest_kinds
from pelton.manifest import kinds
from pelton.testing.asgi_client import AsgiClient
from pelton.testing.memory_store import MemoryStore
from tests.contract import api
from tests.hook_server import HookServer, allowed, patching

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
THINGS = "/apis/example.com/v1/namespaces/default/things"
MERGE = {"content-type": "application/merge-patch+json"}
APPLY = {"content-type": "application/apply-patch+yaml"}

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "x-kubernetes-validations": [
                {"rule": "self.size >= oldSelf.size", "message": "things only grow"}
            ],
            "properties": {
                "size": {"type": "integer", "minimum": 1},
                "colour": {"type": "string", "default": "red"},
                "replicas": {"type": "integer", "default": 1},
            },
        },
        "status": {
            "type": "object",
            "properties": {"ready": {"type": "boolean"}, "replicas": {"type": "integer"}},
        },
    },
}


def definition(**spec: Any) -> dict[str, Any]:
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": copy.deepcopy(SCHEMA)},
        "subresources": {
            "status": {},
            "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
        },
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
        "selectableFields": [{"jsonPath": ".spec.colour"}],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing", "shortNames": ["th"]},
            "versions": [version],
            **spec,
        },
    }


def thing(name="a", version="v1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"example.com/{version}",
        "kind": "Thing",
        "metadata": {"name": name},
        "spec": {"size": 1, **spec},
    }


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


@pytest.fixture
async def client(store):
    async with api.service(store, rows=manifest_kinds.rows(kinds.KINDS)) as service:
        yield AsgiClient(service.app, headers={"authorization": "Bearer t"})


async def until(look):
    """Return what `look` returns once it is true; the test's timeout is the deadline."""
    while not (found := await look()):
        await asyncio.sleep(0)
    return found


async def define(client, obj):
    answer = await client.request("POST", CRDS, obj)
    assert answer.status == 201, answer.json()
    name = obj["metadata"]["name"]

    async def established():
        found = (await client.request("GET", f"{CRDS}/{name}")).json()
        return found if conditions(found).get("Established") == "True" else None

    return await until(established)


def conditions(obj):
    return {each["type"]: each["status"] for each in obj.get("status", {}).get("conditions", ())}


async def status_of(client, path):
    return (await client.request("GET", path)).status


# -- the life of a definition ------------------------------------------------------------------------------


async def test_definition_makes_its_kind_served(client):
    assert await status_of(client, THINGS) == 404

    defined = await define(client, definition())

    assert conditions(defined) == {"NamesAccepted": "True", "Established": "True"}
    assert defined["status"]["storedVersions"] == ["v1"]
    assert defined["status"]["acceptedNames"]["singular"] == "thing"
    created = (await client.request("POST", THINGS, thing(junk=1))).json()
    assert created["spec"] == {"size": 1, "colour": "red", "replicas": 1}
    groups = (await client.request("GET", "/apis")).json()["groups"]
    assert "example.com" in [group["name"] for group in groups]
    (resource, *subresources) = (await client.request("GET", "/apis/example.com/v1")).json()["resources"]
    assert (resource["name"], resource["shortNames"]) == ("things", ["th"])
    assert [each["name"] for each in subresources] == ["things/status", "things/scale"]


async def test_object_that_breaks_its_schema_is_refused_with_causes(client):
    await define(client, definition())

    answer = await client.request("POST", THINGS, thing(size=0, colour=5))

    body = answer.json()
    assert (answer.status, body["reason"]) == (422, "Invalid")
    assert body["message"] == (
        'Thing.example.com "a" is invalid: ['
        "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1, "
        'spec.colour: Invalid value: "integer": spec.colour in body must be of type string: "integer", '
        "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; "
        "correct the existing errors to complete validation]"
    )
    assert body["details"]["causes"][0] == {
        "reason": "FieldValueInvalid",
        "message": "Invalid value: 0: spec.size in body should be greater than or equal to 1",
        "field": "spec.size",
    }


@pytest.mark.parametrize(
    ("mode", "status", "warned"), [("Strict", 400, 0), ("Warn", 201, 1), ("Ignore", 201, 0)]
)
async def test_unknown_field_is_treated_as_asked(client, mode, status, warned):
    await define(client, definition())

    answer = await client.request("POST", f"{THINGS}?fieldValidation={mode}", thing(junk=1))

    assert answer.status == status
    assert answer.all("warning") == ['299 - "unknown field \\"spec.junk\\""'] * warned


async def test_rule_compares_with_the_stored_object(client):
    await define(client, definition())
    await client.request("POST", THINGS, thing(size=3))

    smaller = await client.request("PATCH", f"{THINGS}/a", {"spec": {"size": 2}}, headers=MERGE)

    assert smaller.status == 422
    assert smaller.json()["message"].endswith('spec: Invalid value: "object": things only grow')


async def test_status_and_generation_follow_the_subresource(client):
    await define(client, definition())
    await client.request("POST", THINGS, {**thing(), "status": {"ready": True}})

    first = (await client.request("GET", f"{THINGS}/a")).json()
    await client.request("PATCH", f"{THINGS}/a/status", {"status": {"ready": True}}, headers=MERGE)
    second = (await client.request("GET", f"{THINGS}/a")).json()
    await client.request(
        "PATCH", f"{THINGS}/a", {"spec": {"size": 2}, "status": {"ready": False}}, headers=MERGE
    )
    third = (await client.request("GET", f"{THINGS}/a")).json()

    assert "status" not in first
    assert (second["status"], second["metadata"]["generation"]) == ({"ready": True}, 1)
    assert (third["status"], third["metadata"]["generation"]) == ({"ready": True}, 2)


async def test_scale_and_field_selectors_and_columns_come_from_the_definition(client):
    await define(client, definition())
    await client.request("POST", THINGS, thing("a"))
    await client.request("POST", THINGS, thing("b", colour="blue"))

    scaled = await client.request("PATCH", f"{THINGS}/a/scale", {"spec": {"replicas": 4}}, headers=MERGE)
    blue = await client.request("GET", f"{THINGS}?fieldSelector=spec.colour%3Dblue")
    table = await client.request(
        "GET", THINGS, headers={"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    )

    assert scaled.json()["spec"] == {"replicas": 4}
    assert (await client.request("GET", f"{THINGS}/a")).json()["spec"]["replicas"] == 4
    assert [item["metadata"]["name"] for item in blue.json()["items"]] == ["b"]
    assert [column["name"] for column in table.json()["columnDefinitions"]] == ["Name", "Size"]


async def test_definition_whose_schema_is_not_structural_is_refused(client):
    bad = definition()
    bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["x"] = {}

    answer = await client.request("POST", CRDS, bad)

    assert answer.status == 422
    assert answer.json()["details"]["causes"] == [
        {
            "reason": "FieldValueRequired",
            "message": "Required value: must not be empty for specified object fields",
            "field": "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[x].type",
        }
    ]


async def test_changed_schema_is_seen_by_what_was_stored_before(client):
    await define(client, definition())
    await client.request("POST", THINGS, thing(colour="blue"))
    changed = definition()
    fields = changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    del fields["colour"]
    fields["weight"] = {"type": "integer", "default": 7}
    changed["spec"]["versions"][0]["selectableFields"] = []

    await client.request("PATCH", f"{CRDS}/things.example.com", changed, headers=MERGE)

    async def seen():
        found = (await client.request("GET", f"{THINGS}/a")).json()
        return found if "weight" in found["spec"] else None

    found = await until(seen)
    assert found["spec"] == {"size": 1, "replicas": 1, "weight": 7}
    listed = (await client.request("GET", THINGS)).json()["items"]
    assert [item["spec"] for item in listed] == [found["spec"]]


async def test_names_that_are_taken_are_not_accepted(client):
    await define(client, definition())
    other = definition()
    other["metadata"]["name"] = "others.example.com"
    other["spec"]["names"] = {"plural": "others", "kind": "Other", "shortNames": ["th"]}
    await client.request("POST", CRDS, other)

    async def judged():
        found = (await client.request("GET", f"{CRDS}/others.example.com")).json()
        return found if conditions(found) else None

    found = await until(judged)
    accepted = found["status"]["conditions"][0]
    assert conditions(found) == {"NamesAccepted": "False", "Established": "False"}
    assert (accepted["reason"], accepted["message"]) == ("ShortNamesConflict", '"th" is already in use')
    assert await status_of(client, "/apis/example.com/v1/namespaces/default/others") == 404


async def test_deleted_definition_takes_its_objects_along(client):
    await define(client, definition())
    await client.request("POST", THINGS, thing("a"))
    held = thing("held")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    await client.request("POST", THINGS, held)

    deleted = (await client.request("DELETE", f"{CRDS}/things.example.com")).json()

    assert deleted["metadata"]["finalizers"] == ["customresourcecleanup.apiextensions.k8s.io"]

    async def only_held():
        items = (await client.request("GET", THINGS)).json()["items"]
        return [item["metadata"]["name"] for item in items] == ["held"]

    await until(only_held)
    found = (await client.request("GET", f"{CRDS}/things.example.com")).json()
    assert conditions(found)["Terminating"] == "True"
    assert (await client.request("POST", THINGS, thing("late"))).status == 405

    await client.request("PATCH", f"{THINGS}/held", {"metadata": {"finalizers": None}}, headers=MERGE)

    async def gone():
        return await status_of(client, f"{CRDS}/things.example.com") == 404

    await until(gone)
    await until(lambda: _is(client, THINGS, 404))


async def _is(client, path, status):
    return await status_of(client, path) == status


async def test_kinds_survive_a_restart(store):
    async with api.service(store, rows=[]) as service:
        first = AsgiClient(service.app, headers={"authorization": "Bearer t"})
        await define(first, definition())
        await first.request("POST", THINGS, thing())

    async with api.service(store, rows=[]) as service:
        second = AsgiClient(service.app, headers={"authorization": "Bearer t"})

        assert await status_of(second, f"{THINGS}/a") == 200


async def test_definition_of_a_kind_that_pelton_serves_changes_nothing(client):
    obj = definition(group="dapr.io", names={"plural": "components", "kind": "Component"})
    obj["metadata"]["name"] = "components.dapr.io"

    defined = await define(client, obj)

    told = next(each for each in defined["status"]["conditions"] if each["type"] == "Established")
    assert told["message"] == "Pelton serves this kind itself; the schema of this definition is not used"
    assert (await client.request("DELETE", f"{CRDS}/components.dapr.io")).status == 200

    async def gone():
        return await status_of(client, f"{CRDS}/components.dapr.io") == 404

    await until(gone)
    assert await status_of(client, "/apis/dapr.io/v1alpha1/components") == 200


# -- several versions --------------------------------------------------------------------------------------


def two_versions(conversion=None):
    obj = definition()
    (first,) = obj["spec"]["versions"]
    second = copy.deepcopy(first)
    second |= {"name": "v2", "storage": False, "deprecated": True, "deprecationWarning": "v2 is a mistake"}
    second["selectableFields"] = []
    fields = second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    fields["shade"] = fields.pop("colour")
    obj["spec"]["versions"].append(second)
    if conversion:
        obj["spec"]["conversion"] = conversion
    return obj


V2 = THINGS.replace("/v1/", "/v2/")


def webhook(hooks):
    return {
        "strategy": "Webhook",
        "webhook": {"clientConfig": hooks.client("/convert"), "conversionReviewVersions": ["v1"]},
    }


def converted(review, change=lambda objects: objects, **response):
    """Return the answer of a converter that renames colour and shade."""
    desired = review["request"]["desiredAPIVersion"]
    new, old = ("shade", "colour") if desired.endswith("v2") else ("colour", "shade")
    objects = copy.deepcopy(review["request"]["objects"])
    for obj in objects:
        obj["apiVersion"] = desired
        if old in obj.get("spec", {}):
            obj["spec"][new] = obj["spec"].pop(old)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "ConversionReview",
        "response": {
            "uid": review["request"]["uid"],
            "convertedObjects": change(objects),
            "result": {"status": "Success"},
            **response,
        },
    }


@pytest.fixture
async def hooks(tmp_path):
    async with HookServer(tmp_path / "pki") as server:
        yield server


async def test_without_a_webhook_only_the_version_changes(client):
    await define(client, two_versions())
    await client.request("POST", V2, thing(version="v2", shade="dark"))

    first = await client.request("GET", f"{THINGS}/a")
    second = await client.request("GET", f"{V2}/a")

    assert first.json()["apiVersion"] == "example.com/v1"
    assert second.json()["apiVersion"] == "example.com/v2"
    assert second.all("warning") == ['299 - "v2 is a mistake"']


async def test_webhook_converts_reads_lists_and_writes(client, hooks):
    hooks.paths["/convert"] = converted
    await define(client, two_versions(webhook(hooks)))

    created = await client.request("POST", V2, thing(version="v2", shade="dark"))
    stored = await client.request("GET", f"{THINGS}/a")
    await client.request("POST", THINGS, thing("b", colour="light"))
    listed = await client.request("GET", V2)
    patched = await client.request("PATCH", f"{V2}/b", {"spec": {"shade": "grey"}}, headers=MERGE)

    assert created.json()["spec"]["shade"] == "dark"
    assert stored.json()["spec"]["colour"] == "dark"
    assert [item["spec"]["shade"] for item in listed.json()["items"]] == ["dark", "light"]
    assert patched.json()["spec"]["shade"] == "grey"
    assert (await client.request("GET", f"{THINGS}/b")).json()["spec"]["colour"] == "grey"
    sizes = [len(review["request"]["objects"]) for _, _, review in hooks.seen]
    assert 2 in sizes  # the list was converted in one go


async def test_only_labels_and_annotations_of_the_metadata_may_change(client, hooks):
    def change(objects):
        for obj in objects:
            obj["metadata"] |= {"labels": {"by": "hook"}, "finalizers": ["example.com/x"], "generation": 9}
        return objects

    hooks.paths["/convert"] = lambda review: converted(review, change)
    await define(client, two_versions(webhook(hooks)))
    await client.request("POST", THINGS, thing())

    metadata = (await client.request("GET", f"{V2}/a")).json()["metadata"]

    assert metadata["labels"] == {"by": "hook"}
    assert "finalizers" not in metadata
    assert metadata["generation"] == 1


def renamed(objects):
    objects[0]["metadata"]["name"] = "other"
    return objects


def bare(objects):
    del objects[0]["metadata"]
    return objects


def other_version(objects):
    objects[0]["apiVersion"] = "example.com/v1"
    return objects


def other_kind(objects):
    objects[0]["kind"] = "Other"
    return objects


FAULTS = {
    "loses objects": (
        lambda review: converted(review, lambda objects: []),
        "expected 1 converted objects, got 0",
    ),
    "changes the name": (lambda review: converted(review, renamed), "metadata.name 'other' is not 'a'"),
    "drops the metadata": (lambda review: converted(review, bare), "metadata is missing or no object"),
    "other version": (lambda review: converted(review, other_version), "invalid apiVersion 'example.com/v1'"),
    "other kind": (lambda review: converted(review, other_kind), "invalid kind 'Other', expected 'Thing'"),
    "other uid": (lambda review: converted(review, uid="x"), 'got "x"'),
    "refuses": (
        lambda review: converted(review, result={"status": "Failure", "message": "cannot do that"}),
        "cannot do that",
    ),
    "no result": (lambda review: converted(review, result={}), "response.result.status was None"),
    "no review": (lambda review: {"kind": "ConversionReview"}, "not a ConversionReview"),
    "500": (lambda review: 500, "the server answered 500"),
    "not JSON": (lambda review: b"<", "the answer is not JSON"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_failed_conversion_fails_the_whole_request(client, hooks, fault):
    behaviour, reason = FAULTS[fault]
    hooks.paths["/convert"] = behaviour
    await define(client, two_versions(webhook(hooks)))
    await client.request("POST", THINGS, thing())

    answers = [await client.request("GET", path) for path in (f"{V2}/a", V2)]

    for answer in answers:
        assert answer.status == 500
        told = answer.json()["message"]
        assert told.startswith("conversion webhook for example.com/v2, Kind=Thing failed: ")
        assert reason in told
    assert await status_of(client, f"{THINGS}/a") == 200


async def test_equivalent_version_is_converted_for_admission_and_back(client, hooks):
    hooks.paths |= {
        "/convert": converted,
        "/v": allowed,
        "/m": lambda review: patching(review, {"op": "add", "path": "/spec/colour", "value": "mutated"}),
    }
    await define(client, two_versions(webhook(hooks)))
    rule = {
        "operations": ["CREATE"],
        "apiGroups": ["example.com"],
        "apiVersions": ["v1"],
        "resources": ["things"],
    }
    for kind, path in (("Mutating", "/m"), ("Validating", "/v")):
        entry = {
            "name": "a.example.com",
            "clientConfig": hooks.client(path),
            "rules": [rule],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        body = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": f"{kind}WebhookConfiguration",
            "metadata": {"name": "x"},
            "webhooks": [entry],
        }
        plural = f"{kind.lower()}webhookconfigurations"
        answer = await client.request("POST", f"/apis/admissionregistration.k8s.io/v1/{plural}", body)
        assert answer.status == 201, answer.json()

    created = await client.request("POST", V2, thing(version="v2", shade="dark"))

    assert created.json()["spec"]["shade"] == "mutated"
    reviews = [review["request"] for path, _, review in hooks.seen if path in ("/m", "/v")]
    assert [each["object"]["apiVersion"] for each in reviews] == ["example.com/v1"] * 2
    assert reviews[0]["resource"]["version"] == "v1"
    assert reviews[0]["requestResource"]["version"] == "v2"


async def hooked(client, hooks, path, rule):
    """Configure a mutating webhook."""
    entry = {
        "name": "a.example.com",
        "clientConfig": hooks.client(path),
        "rules": [rule],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    body = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "x"},
        "webhooks": [entry],
    }
    path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    answer = await client.request("POST", path, body)
    assert answer.status == 201, answer.json()


async def test_hooks_see_pruned_objects_and_what_they_add_is_pruned_silently(client, hooks):
    hooks.paths["/m"] = lambda review: patching(review, {"op": "add", "path": "/spec/added", "value": 1})
    await define(client, definition())
    rule = {"operations": ["*"], "apiGroups": ["example.com"], "apiVersions": ["*"], "resources": ["things"]}
    await hooked(client, hooks, "/m", rule)

    strict = await client.request("POST", f"{THINGS}?fieldValidation=Strict", thing("a"))
    warned = await client.request("POST", THINGS, thing("b", junk=1))

    assert strict.status == 201
    assert "added" not in strict.json()["spec"]
    assert warned.all("warning") == ['299 - "unknown field \\"spec.junk\\""']
    assert "junk" not in hooks.seen[1][2]["request"]["object"]["spec"]


async def test_hooks_have_a_say_in_kinds_of_pelton_before_its_own_rules(client, hooks):
    def change(review):
        spec = review["request"]["object"]["spec"]
        path = "type" if spec["type"] == "set by the hook" else "nosuch"
        return patching(review, {"op": "add", "path": f"/spec/{path}", "value": "pubsub.jetstream"})

    hooks.paths["/m"] = change
    rule = {
        "operations": ["CREATE"],
        "apiGroups": ["dapr.io"],
        "apiVersions": ["*"],
        "resources": ["components"],
    }
    await hooked(client, hooks, "/m", rule)
    path = "/apis/dapr.io/v1alpha1/namespaces/default/components"
    body = {"apiVersion": "dapr.io/v1alpha1", "kind": "Component", "metadata": {"name": "bus"}}

    set_by_hook = await client.request(
        "POST", path, {**body, "spec": {"type": "set by the hook", "version": "v1"}}
    )
    refused = await client.request("POST", path, {**body, "metadata": {"name": "b"}, "spec": {"type": "x"}})

    assert set_by_hook.json()["spec"]["type"] == "pubsub.jetstream"
    assert refused.status == 422


async def test_hooks_see_a_scale_as_a_scale(client, hooks):
    hooks.paths["/m"] = lambda review: patching(
        review, {"op": "replace", "path": "/spec/replicas", "value": 3}
    )
    await define(client, definition())
    await client.request("POST", THINGS, thing())
    rule = {
        "operations": ["*"],
        "apiGroups": ["example.com"],
        "apiVersions": ["*"],
        "resources": ["things/scale"],
    }
    await hooked(client, hooks, "/m", rule)

    scaled = await client.request("PATCH", f"{THINGS}/a/scale", {"spec": {"replicas": 9}}, headers=MERGE)

    (_, _, review) = hooks.seen[0]
    assert review["request"]["kind"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}
    assert review["request"]["resource"]["resource"] == "things"
    assert review["request"]["subResource"] == "scale"
    assert review["request"]["object"]["spec"] == {"replicas": 9}
    assert review["request"]["oldObject"]["spec"] == {"replicas": 1}
    assert scaled.json()["spec"] == {"replicas": 3}


async def test_definition_that_cannot_be_read_does_not_stop_the_others(store):
    bad = definition()
    bad["metadata"]["name"] = "bads.example.com"
    bad["spec"]["names"] = {"plural": "bads", "kind": "Bad"}
    del bad["spec"]["versions"][0]["schema"]
    await store.create("customresourcedefinitions.apiextensions.k8s.io", bad)

    async with api.service(store, rows=[]) as service:
        client = AsgiClient(service.app, headers={"authorization": "Bearer t"})

        await define(client, definition())
        assert await status_of(client, THINGS) == 200


async def test_apply_merges_by_the_schema_of_the_definition(client):
    await define(client, definition())

    first = await client.request("PATCH", f"{THINGS}/a?fieldManager=one", thing(size=2), headers=APPLY)
    other = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": {"size": 5}}
    conflict = await client.request("PATCH", f"{THINGS}/a?fieldManager=two", other, headers=APPLY)

    assert first.status == 201
    assert conflict.status == 409


# -- storage versions and watches
# ------------------------------------------------------------------------------


async def test_changed_storage_version_is_noted_and_the_old_one_has_to_stay(client):
    await define(client, two_versions())
    await client.request("POST", THINGS, thing())
    switched = two_versions()
    for version in switched["spec"]["versions"]:
        version["storage"] = version["name"] == "v2"
    only_second = copy.deepcopy(switched["spec"])
    del only_second["versions"][0]
    path = f"{CRDS}/things.example.com"

    await client.request("PATCH", path, {"spec": switched["spec"]}, headers=MERGE)

    async def noted():
        stored = (await client.request("GET", path)).json()["status"]["storedVersions"]
        return stored == ["v1", "v2"]

    await until(noted)
    refused = await client.request("PATCH", path, {"spec": only_second}, headers=MERGE)
    assert refused.status == 422
    assert "missing from spec.versions; v1 was previously a storage version" in refused.json()["message"]

    # The way that Kubernetes describes: write every object again, then say that none is left in the old
    # version.
    await client.request("PATCH", f"{V2}/a", {"metadata": {"labels": {"migrated": "yes"}}}, headers=MERGE)
    await client.request("PATCH", f"{path}/status", {"status": {"storedVersions": ["v2"]}}, headers=MERGE)
    assert (await client.request("PATCH", path, {"spec": only_second}, headers=MERGE)).status == 200
    await until(lambda: _is(client, THINGS, 404))
    assert await status_of(client, f"{V2}/a") == 200


async def test_watch_of_another_version_converts_each_event(client, hooks):
    hooks.paths["/convert"] = converted
    await define(client, two_versions(webhook(hooks)))
    await client.request("POST", THINGS, thing(colour="dark"))

    async with client.lines(f"{V2}?watch=true") as lines:
        first = await anext(lines)
        await client.request("PATCH", f"{THINGS}/a", {"spec": {"colour": "light"}}, headers=MERGE)
        second = await anext(lines)

    seen = [
        (event["type"], event["object"]["apiVersion"], event["object"]["spec"]["shade"])
        for event in (first, second)
    ]
    assert seen == [("ADDED", "example.com/v2", "dark"), ("MODIFIED", "example.com/v2", "light")]


async def test_watch_whose_conversion_fails_ends_with_an_error(client, hooks):
    hooks.paths["/convert"] = lambda review: 500
    await define(client, two_versions(webhook(hooks)))
    await client.request("POST", THINGS, thing())

    async with client.lines(f"{V2}?watch=true") as lines:
        event = await anext(lines)

    assert event["type"] == "ERROR"
    assert "the server answered 500" in event["object"]["message"]
