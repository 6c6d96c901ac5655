"""Pelton's kinds on the API, their older versions included."""

import pytest

from pelton.apiserver import manifest_kinds
from pelton.manifest import kinds
from pelton.testing.asgi_client import AsgiClient
from pelton.testing.memory_store import MemoryStore
from tests.contract import api
from tests.contract.store import FUNCTIONS

NEW = "/apis/core.openfunction.io/v1beta2/namespaces/default/functions"
OLD = NEW.replace("v1beta2", "v1beta1")


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


@pytest.fixture
async def client(store):
    app = await api.application(store, rows=manifest_kinds.rows(kinds.KINDS))
    return AsgiClient(app, headers={"authorization": "Bearer t"})


def older(**serving):
    return {
        "apiVersion": "core.openfunction.io/v1beta1",
        "kind": "Function",
        "metadata": {"name": "f", "namespace": "default"},
        "spec": {"image": "x", "serving": {"runtime": "async", **serving}},
    }


async def test_object_of_an_older_version_is_stored_in_the_storage_version_with_its_defaults(client, store):
    inputs = [{"name": "i", "component": "bus", "topic": "t", "operation": "o"}]

    created = await client.request("POST", OLD, older(inputs=inputs))

    assert created.status == 201
    assert created.json()["spec"]["serving"] == {"runtime": "async", "inputs": inputs}
    ((stored, *_), _) = await store.list(FUNCTIONS)
    assert stored["apiVersion"] == "core.openfunction.io/v1beta2"
    assert stored["spec"]["version"] == "latest"
    dapr = {"name": "bus", "topic": "t", "inputName": "i"}
    assert stored["spec"]["serving"]["triggers"] == {"dapr": [dapr]}


async def test_object_is_read_and_changed_in_any_version(client):
    await client.request("POST", OLD, older(inputs=[{"name": "i", "component": "bus"}]))
    newer = (await client.request("GET", f"{NEW}/f")).json()
    newer["spec"]["serving"]["triggers"]["dapr"][0]["topic"] = "u"
    newer["spec"]["serving"]["hooks"] = {"pre": ["a"], "policy": "Append"}

    assert (await client.request("PUT", f"{NEW}/f", newer)).status == 200
    shown = (await client.request("GET", f"{OLD}/f")).json()
    assert shown["spec"]["serving"]["inputs"] == [{"name": "i", "component": "bus", "topic": "u"}]

    shown["spec"]["serving"]["inputs"][0]["topic"] = "v"
    assert (await client.request("PUT", f"{OLD}/f", shown)).status == 200
    newest = (await client.request("GET", f"{NEW}/f")).json()
    assert newest["spec"]["serving"]["triggers"]["dapr"][0]["topic"] == "v"
    assert newest["spec"]["serving"]["hooks"] == {"pre": ["a"], "policy": "Append"}


async def test_put_of_what_was_read_changes_nothing(client):
    await client.request("POST", OLD, older(triggers=[{"type": "cron", "metadata": {}, "targetKind": "job"}]))
    before = (await client.request("GET", f"{OLD}/f")).json()

    after = (await client.request("PUT", f"{OLD}/f", before)).json()

    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert after["metadata"]["generation"] == 1


async def test_invalid_object_of_an_older_version_names_its_own_fields(client):
    answer = await client.request("POST", OLD, older(inputs=[{"name": "i"}]))

    assert answer.status == 422
    causes = [cause["field"] for cause in answer.json()["details"]["causes"]]
    assert causes == ["spec.serving.inputs[0].component"]
