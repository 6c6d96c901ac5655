"""Secrets read from Pelton's own API server, over HTTPS."""

import ssl

import httpx
import pytest

from pelton.clock import SystemClock
from pelton.drivers.secrets_kubernetes import KubernetesSecrets
from pelton.errors import ComponentError, NotFoundError
from pelton.model.desired import Component
from pelton.testing.api_server import ApiServer
from tests.contract.secrets import SecretContract
from tests.services.server import free_port


def component(namespace="default", **metadata):
    return Component(namespace=namespace, name="k", type="secretstores.kubernetes", metadata=metadata)


@pytest.fixture(scope="module")
def server():
    with ApiServer() as server:
        headers = {"Authorization": f"Bearer {server.token}"}
        with httpx.Client(
            base_url=server.url, verify=ssl.create_default_context(cafile=server.ca), headers=headers
        ) as client:
            client.post(
                "/api/v1/namespaces",
                json={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
            ).raise_for_status()
            for namespace, name, data in (
                ("default", "database", {"user": "shop", "password": "ä:1"}),
                ("default", "token", {"token": "t0k"}),
                ("shop", "token", {"token": "other"}),
            ):
                secret = {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": name},
                    "stringData": data,
                }
                path = f"/api/v1/namespaces/{namespace}/secrets"
                client.post(path, json=secret).raise_for_status()
        yield server


def store_of(server, namespace="default", variables=None, **metadata):
    return KubernetesSecrets(
        component(namespace, **metadata),
        clock=SystemClock(),
        kubeconfig=server.kubeconfig,
        variables=variables or {},
    )


class TestKubernetesSecrets(SecretContract):
    @pytest.fixture
    async def store(self, server):
        store = store_of(server)
        yield store
        await store.close()


async def test_namespace_comes_from_the_request_the_component_or_where_it_is(server):
    for store in (
        store_of(server, namespace="shop"),
        store_of(server, defaultNamespace="shop"),
        store_of(server, variables={"NAMESPACE": "shop"}),
    ):
        assert await store.get("token") == {"token": "other"}
        assert await store.get("token", metadata={"namespace": "default"}) == {"token": "t0k"}
        await store.close()


async def test_kubeconfig_is_the_components_or_that_of_the_environment(server):
    for metadata, variables in (
        ({"kubeconfigPath": str(server.kubeconfig)}, {}),
        ({}, {"KUBECONFIG": str(server.kubeconfig)}),
    ):
        store = KubernetesSecrets(component(**metadata), clock=SystemClock(), variables=variables)
        assert await store.get("token") == {"token": "t0k"}
        await store.close()


@pytest.mark.parametrize("name", ["../namespaces", "..", ""])
async def test_name_that_is_a_path_is_not_found(server, name):
    store = store_of(server)
    with pytest.raises(NotFoundError):
        await store.get(name)
    with pytest.raises(NotFoundError):
        await store.get("token", metadata={"namespace": "../x"})
    await store.close()


async def test_token_that_is_refused_is_named_and_never_shown(server, tmp_path):
    config = tmp_path / "kubeconfig"
    config.write_text(server.kubeconfig.read_text().replace(server.token, "wr0ng-token"))
    store = KubernetesSecrets(component(kubeconfigPath=str(config)), clock=SystemClock(), variables={})

    with pytest.raises(ComponentError, match="does not let us") as caught:
        await store.get("token")
    assert "wr0ng-token" not in str(caught.value)
    await store.close()


async def test_server_that_is_away_and_files_that_are_none_are_component_errors(server, tmp_path):
    config = tmp_path / "kubeconfig"
    address = server.url.removeprefix("https://")
    config.write_text(server.kubeconfig.read_text().replace(address, f"127.0.0.1:{free_port()}"))
    broken = tmp_path / "broken"
    broken.write_text("contexts: []\ncurrent-context: x\n")
    for path, reason in (
        (config, "was not reached"),
        (broken, "names no server"),
        (tmp_path / "none", "No such file"),
    ):
        store = KubernetesSecrets(component(kubeconfigPath=str(path)), clock=SystemClock(), variables={})
        with pytest.raises(ComponentError, match=reason):
            await store.get("token")
        await store.close()
    with pytest.raises(ComponentError, match="no API server"):
        await KubernetesSecrets(component(), clock=SystemClock(), variables={}).get("token")
