"""The API server for other people's tests: both ways of entering it, and what it hands out."""

import ssl
import stat

import httpx
import pytest
from ruamel.yaml import YAML

from pelton.testing.api_server import ApiServer


def get(api, path):
    context = ssl.create_default_context(cafile=str(api.ca))
    headers = {"authorization": f"Bearer {api.token}"}
    return httpx.get(api.url + path, headers=headers, verify=context, trust_env=False)


async def test_async_context_serves_until_it_is_left():
    async with ApiServer() as api:
        context = ssl.create_default_context(cafile=str(api.ca))
        headers = {"authorization": f"Bearer {api.token}"}
        async with httpx.AsyncClient(verify=context, headers=headers, trust_env=False) as client:
            found = await client.get(f"{api.url}/api/v1/namespaces/default")
        directory = api.kubeconfig.parent

    assert found.json()["metadata"]["name"] == "default"
    assert not directory.exists()


def test_sync_context_serves_from_a_thread():
    with ApiServer() as api:
        crds = get(api, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")

    assert crds.json()["items"] == []
    with pytest.raises(RuntimeError, match="not running"):
        _ = api.url


def test_kubeconfig_holds_everything_and_is_private():
    with ApiServer() as api:
        config = YAML(typ="safe", pure=True).load(api.kubeconfig.read_text())

        assert config["clusters"][0]["cluster"]["server"] == api.url
        assert config["clusters"][0]["cluster"]["certificate-authority-data"] == api.ca_bundle
        assert config["users"][0]["user"]["token"] == api.token
        assert stat.S_IMODE(api.kubeconfig.stat().st_mode) == 0o600


def test_two_servers_know_nothing_of_each_other():
    with ApiServer() as one, ApiServer() as two:
        body = {"metadata": {"name": "only-here"}}
        context = ssl.create_default_context(cafile=str(one.ca))
        headers = {"authorization": f"Bearer {one.token}"}
        made = httpx.post(
            f"{one.url}/api/v1/namespaces", json=body, headers=headers, verify=context, trust_env=False
        )

        assert made.status_code == 201
        assert get(two, "/api/v1/namespaces/only-here").status_code == 404


def test_certificate_serves_webhooks_on_this_machine():
    with ApiServer() as api:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

        context.load_cert_chain(api.cert, api.key)
