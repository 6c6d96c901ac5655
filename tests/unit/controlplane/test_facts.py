import json

import pytest

from pelton.clock import SystemClock
from pelton.controlplane.facts import COMPONENTS, FactsReader
from pelton.drivers.secrets_local import FileSecrets
from pelton.errors import ComponentError
from pelton.manifest import openfunction_core
from pelton.plan.eventing import Facts, links
from pelton.testing.memory_store import MemoryStore

SECRET = "c0rrect-h0rse"


def component(name, kind, items, **beside):
    return {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"type": kind, "version": "v1", "metadata": items},
        **beside,
    }


def function():
    obj = {
        "apiVersion": "core.openfunction.io/v1beta2",
        "kind": "Function",
        "metadata": {"name": "f", "namespace": "shop"},
        "spec": {
            "image": "x",
            "serving": {"triggers": {"dapr": [{"name": "orders", "topic": "t"}]}},
        },
    }
    return openfunction_core.decode(openfunction_core.default(obj))[0]


@pytest.fixture
async def store(tmp_path):
    (tmp_path / "secrets.json").write_text(json.dumps({"redis": {"password": SECRET}}))
    store = MemoryStore()
    reference = {"name": "redisPassword", "secretKeyRef": {"name": "redis:password"}}
    items = [{"name": "redisHost", "value": "r:6379"}, reference]
    orders = component("orders", "pubsub.redis", items, auth={"secretStore": "vault"})
    await store.create(COMPONENTS, orders)
    path = [{"name": "secretsFile", "value": str(tmp_path / "secrets.json")}]
    await store.create(COMPONENTS, component("vault", "secretstores.local.file", path))
    return store


def file_secrets(found):
    return FileSecrets(found, clock=SystemClock())


async def test_secrets_of_a_component_come_from_the_store_that_it_names(store):
    reader = FactsReader(store, Facts(), secret_store=file_secrets)

    facts = await reader.read(function())

    (link,) = links(function(), facts)[0].values()
    assert link.component is not None
    assert link.component.metadata == {"redisHost": "r:6379", "redisPassword": SECRET}
    assert reader.users(COMPONENTS, "shop", "vault") == {"shop/f"}


async def test_store_that_cannot_be_read_leaves_the_component_without_its_secret(store, tmp_path, caplog):
    (tmp_path / "secrets.json").write_text(f'{{"redis": "{SECRET}')

    def refused(found):
        raise ComponentError(f"{found.type} is unknown")

    for driver in (file_secrets, refused, None):
        facts = await FactsReader(store, Facts(), secret_store=driver).read(function())

        (link,) = links(function(), facts)[0].values()
        assert link.component is None
        assert link.why is not None
        assert link.why[0] == "SecretNotFound"
        assert 'secret store "vault"' in link.why[1]
    assert "is no JSON" in caplog.text
    assert SECRET not in caplog.text
