"""Workloads follow the requests that are intercepted for them."""

import pytest

from pelton.controlplane.http_scaling import (
    HTTP_SCALED_OBJECTS,
    INTERCEPTOR_ROUTES,
    SCALED_OBJECTS,
    HttpTargets,
)
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore

DEPLOYMENTS = "deployments.apps"


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def counts():
    return {}


@pytest.fixture
def targets(store, counts, clock):
    async def ask():
        return counts

    return HttpTargets(store=store, counts=ask, clock=clock)


def obj(api_version, kind, name, spec, **metadata):
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "n", **metadata},
        "spec": spec,
    }


async def deployment(store, replicas=0):
    await store.create(DEPLOYMENTS, obj("apps/v1", "Deployment", "shop", {"replicas": replicas}))


async def replicas(store):
    return (await store.get(DEPLOYMENTS, "n", "shop"))["spec"]["replicas"]


def scaled(**spec):
    spec = {
        "scaleTargetRef": {"name": "shop", "service": "shop", "port": 80},
        "scalingMetric": {"concurrency": {"targetValue": 10}},
        "scaledownPeriod": 60,
        **spec,
    }
    return obj("http.keda.sh/v1alpha1", "HTTPScaledObject", "web", spec)


async def test_scaled_object_follows_requests_up_at_once_and_down_after_its_period(
    store, targets, counts, clock
):
    await deployment(store)
    await store.create(HTTP_SCALED_OBJECTS, scaled(replicas={"max": 3}))
    counts["n/web"] = {"Concurrency": 25, "RequestCount": 25}

    assert await targets.tick()
    assert await replicas(store) == 3

    counts["n/web"] = {"Concurrency": 0, "RequestCount": 25}
    seen = []
    for _ in range(12):
        await clock.advance(30)
        await targets.tick()
        seen.append(await replicas(store))
    assert seen[0] == 3
    assert seen[-1] == 0
    assert sorted(seen, reverse=True) == seen


async def test_scaled_object_owns_the_scaled_object_that_it_stands_for(store, targets):
    await store.create(HTTP_SCALED_OBJECTS, scaled(replicas={"min": 1, "max": 3}))

    await targets.tick()

    made = await store.get(SCALED_OBJECTS, "n", "web")
    assert made["metadata"]["ownerReferences"][0]["kind"] == "HTTPScaledObject"
    assert (made["spec"]["minReplicaCount"], made["spec"]["cooldownPeriod"]) == (1, 60)
    assert made["spec"]["triggers"][0]["metadata"]["httpScaledObject"] == "web"


async def test_scaled_object_that_the_user_does_not_want_is_not_made(store, targets):
    one = scaled()
    one["metadata"]["annotations"] = {"httpscaledobject.keda.sh/skip-scaledobject-creation": "true"}
    await store.create(HTTP_SCALED_OBJECTS, one)

    await targets.tick()

    assert (await store.list(SCALED_OBJECTS))[0] == []


async def test_route_scales_by_the_users_own_scaled_object(store, targets, counts):
    await deployment(store)
    route = {
        "target": {"service": "shop", "port": 80},
        "scalingMetric": {"concurrency": {"targetValue": 5}},
    }
    await store.create(INTERCEPTOR_ROUTES, obj("http.keda.sh/v1beta1", "InterceptorRoute", "r", route))
    trigger = {"type": "external-push", "metadata": {"scalerAddress": "a", "interceptorRoute": "r"}}
    spec = {"scaleTargetRef": {"name": "shop"}, "maxReplicaCount": 4, "triggers": [trigger]}
    await store.create(SCALED_OBJECTS, obj("keda.sh/v1alpha1", "ScaledObject", "s", spec))
    counts["n/r"] = {"Concurrency": 12, "RequestCount": 12}

    await targets.tick()

    assert await replicas(store) == 3


async def test_paused_at_a_number_is_held_there(store, targets, counts):
    await deployment(store)
    one = scaled()
    one["metadata"]["annotations"] = {"autoscaling.keda.sh/paused-replicas": "2"}
    await store.create(HTTP_SCALED_OBJECTS, one)
    counts["n/web"] = {"Concurrency": 90, "RequestCount": 90}

    await targets.tick()

    assert await replicas(store) == 2


async def test_nothing_to_scale_asks_nobody(store, clock):
    async def ask():
        raise AssertionError("nobody is asked")

    assert not await HttpTargets(store=store, counts=ask, clock=clock).tick()


async def test_missing_target_and_foreign_kinds_are_left_alone(store, targets, counts):
    await store.create(HTTP_SCALED_OBJECTS, scaled())
    function = {
        "name": "f",
        "kind": "Function",
        "apiVersion": "core.openfunction.io/v1beta2",
        "service": "f",
        "port": 80,
    }
    other = scaled(scaleTargetRef=function)
    other["metadata"]["name"] = "fn"
    await store.create(HTTP_SCALED_OBJECTS, other)

    assert await targets.tick()


def condition(one):
    return next((each for each in one.get("status", {}).get("conditions", ()) if each["type"] == "Ready"), {})


async def test_scaled_objects_say_whether_they_are_followed(store, targets):
    kafka = {"scaleTargetRef": {"name": "shop"}, "triggers": [{"type": "kafka", "metadata": {}}]}
    await store.create(SCALED_OBJECTS, obj("keda.sh/v1alpha1", "ScaledObject", "queue", kafka))
    await store.create(SCALED_OBJECTS, obj("keda.sh/v1alpha1", "ScaledObject", "second", kafka))
    await store.create(HTTP_SCALED_OBJECTS, scaled(scaleTargetRef={"name": "b", "service": "b", "port": 80}))

    await targets.tick()
    await targets.tick()

    names = ("queue", "second", "web")
    first, second, web = [condition(await store.get(SCALED_OBJECTS, "n", name)) for name in names]
    assert (first["status"], first["reason"]) == ("False", "ScaledObjectCheckFailed")
    assert "not followed on this machine" in first["message"]
    assert "is scaled by ScaledObject queue already" in second["message"]
    assert (web["status"], web["reason"]) == ("True", "ScaledObjectReady")
    version = (await store.get(SCALED_OBJECTS, "n", "web"))["metadata"]["resourceVersion"]
    await targets.tick()
    assert (await store.get(SCALED_OBJECTS, "n", "web"))["metadata"]["resourceVersion"] == version
