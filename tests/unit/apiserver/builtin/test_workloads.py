"""Deployments, StatefulSets and Jobs through the API: defaults, rules, scale, merging of containers."""

from typing import Any

import pytest

from pelton.testing.asgi_client import AsgiClient
from pelton.testing.memory_store import MemoryStore
from tests.contract import api

PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/default/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/default/statefulsets",
    "Job": "/apis/batch/v1/namespaces/default/jobs",
}
STRATEGIC = {"content-type": "application/strategic-merge-patch+json"}


@pytest.fixture
async def client():
    async with MemoryStore() as store:
        yield AsgiClient(await api.application(store), headers={"authorization": "Bearer t"})


def workload(kind, name="x", **spec):
    pod: dict[str, Any] = {"containers": [{"name": "a", "image": "demo/a:1"}]}
    if kind == "Job":
        pod["restartPolicy"] = "Never"
        wanted: dict[str, Any] = {"template": {"spec": pod}}
    else:
        labels = {"app": name}
        wanted = {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        }
    return {
        "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {**wanted, **spec},
    }


async def create(client, kind, name="x", **spec):
    return await client.request("POST", PATHS[kind], workload(kind, name, **spec))


def fields(answer):
    assert answer.status == 422, answer.body
    return {cause["field"] for cause in answer.json()["details"]["causes"]}


@pytest.mark.parametrize("kind", PATHS)
async def test_workload_is_kept_with_defaults_and_not_run(client, kind):
    created = (await create(client, kind)).json()

    pod = created["spec"]["template"]["spec"]
    assert pod["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert pod["dnsPolicy"] == "ClusterFirst"
    assert pod["restartPolicy"] == ("Never" if kind == "Job" else "Always")
    assert created["spec"]["backoffLimit" if kind == "Job" else "replicas"] == (6 if kind == "Job" else 1)
    assert "status" not in created


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("demo/a", "Always"),
        ("demo/a:latest", "Always"),
        ("host:5000/a", "Always"),
        ("demo/a:1", "IfNotPresent"),
        ("demo/a@sha256:0", "IfNotPresent"),
    ],
)
async def test_image_is_pulled_always_when_its_tag_moves(client, image, policy):
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "a", "image": image}]}}

    created = (await create(client, "Deployment", template=template)).json()

    assert created["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] == policy


async def test_deployment_is_scaled_by_its_subresource(client):
    await create(client, "Deployment")
    path = f"{PATHS['Deployment']}/x/scale"

    scale = (await client.request("GET", path)).json()
    scale["spec"]["replicas"] = 4
    await client.request("PUT", path, scale)
    found = (await client.request("GET", f"{PATHS['Deployment']}/x")).json()

    assert scale["kind"] == "Scale"
    assert found["spec"]["replicas"] == 4


async def test_containers_are_merged_by_name(client):
    await create(client, "Deployment")
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "demo/b:1"}]}}}}

    merged = await client.request("PATCH", f"{PATHS['Deployment']}/x", patch, headers=STRATEGIC)

    names = {each["name"] for each in merged.json()["spec"]["template"]["spec"]["containers"]}
    assert names == {"a", "b"}


@pytest.mark.parametrize(
    ("kind", "spec", "field"),
    [
        ("Deployment", {"selector": {"matchLabels": {"app": "y"}}}, "spec.template.metadata.labels"),
        ("Deployment", {"selector": {}}, "spec.selector"),
        ("Deployment", {"replicas": -1}, "spec.replicas"),
        (
            "StatefulSet",
            {"template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": []}}},
            "spec.template.spec.containers",
        ),
        (
            "Job",
            {"template": {"spec": {"containers": [{"name": "a", "image": "b"}]}}},
            "spec.template.spec.restartPolicy",
        ),
        (
            "Job",
            {"template": {"spec": {"restartPolicy": "Always", "containers": [{"name": "a", "image": "b"}]}}},
            "spec.template.spec.restartPolicy",
        ),
        (
            "Job",
            {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a"}]}}},
            "spec.template.spec.containers[0].image",
        ),
        (
            "Job",
            {
                "template": {
                    "spec": {
                        "restartPolicy": "Never",
                        "containers": [
                            {"name": "a", "image": "b", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}
                        ],
                    }
                }
            },
            "spec.template.spec.containers[0].volumeMounts[0].name",
        ),
        (
            "Job",
            {
                "template": {
                    "spec": {
                        "restartPolicy": "Never",
                        "containers": [{"name": "a", "image": "b"}, {"name": "a", "image": "b"}],
                    }
                }
            },
            "spec.template.spec.containers[1]",
        ),
    ],
)
async def test_workload_that_kubernetes_refuses_is_refused(client, kind, spec, field):
    assert field in fields(await create(client, kind, **spec))


async def test_stateful_set_with_a_long_name_is_refused(client):
    assert fields(await create(client, "StatefulSet", name="s" * 53)) == {"metadata.name"}


@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        ("Deployment", {"selector": {"matchLabels": {"app": "x", "more": "1"}}}, "spec.selector"),
        ("StatefulSet", {"serviceName": "other"}, "spec.serviceName"),
        (
            "Job",
            {
                "template": {
                    "spec": {"restartPolicy": "OnFailure", "containers": [{"name": "a", "image": "b"}]}
                }
            },
            "spec.template",
        ),
    ],
)
async def test_what_never_changes_is_not_changed(client, kind, change, field):
    created = (await create(client, kind)).json()

    answer = await client.request(
        "PUT", f"{PATHS[kind]}/x", {**created, "spec": {**created["spec"], **change}}
    )

    assert field in fields(answer)
