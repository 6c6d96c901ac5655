"""Workloads follow the requests that are intercepted for them."""

import pytest

from pelton.controlplane.http_scaling import (
    HTTP_SCALED_OBJECTS,
    INTERCEPTOR_ROUTES,
    SCALED_OBJECTS,
    HttpTargets,
)
from pelton.errors import PeltonError
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


async def test_platform_that_starts_again_goes_on_with_the_period(store, targets, counts, clock):
    await deployment(store)
    await store.create(HTTP_SCALED_OBJECTS, scaled())
    counts["n/web"] = {"Concurrency": 5, "RequestCount": 5}
    await targets.tick()
    counts["n/web"] = {"Concurrency": 0, "RequestCount": 5}

    async def ask():
        return counts

    seen = []
    for _ in range(4):
        await HttpTargets(store=store, counts=ask, clock=clock).tick()
        seen.append(await replicas(store))
        await clock.advance(25)

    assert seen == [1, 1, 1, 0]


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
    push = [{"type": "external-push", "metadata": {"interceptorRoute": "none"}}]
    other = {"scaleTargetRef": {"name": "shop", "kind": "Rollout", "apiVersion": "x/v1"}, "triggers": push}
    await store.create(SCALED_OBJECTS, obj("keda.sh/v1alpha1", "ScaledObject", "queue", other))
    await store.create(SCALED_OBJECTS, obj("keda.sh/v1alpha1", "ScaledObject", "second", other))
    kafka = {"scaleTargetRef": {"name": "other"}, "triggers": [{"type": "kafka", "metadata": {}}]}
    await store.create(SCALED_OBJECTS, obj("keda.sh/v1alpha1", "ScaledObject", "third", kafka))
    await store.create(HTTP_SCALED_OBJECTS, scaled(scaleTargetRef={"name": "b", "service": "b", "port": 80}))

    await targets.tick()
    await targets.tick()

    names = ("queue", "second", "web")
    first, second, web = [condition(await store.get(SCALED_OBJECTS, "n", name)) for name in names]
    assert (first["status"], first["reason"]) == ("False", "ScaledObjectCheckFailed")
    assert "there is no InterceptorRoute n/none" in first["message"]
    assert not (await store.get(SCALED_OBJECTS, "n", "third")).get("status")  # other triggers are not its own
    assert "is scaled by ScaledObject queue already" in second["message"]
    assert (web["status"], web["reason"]) == ("True", "ScaledObjectReady")
    version = (await store.get(SCALED_OBJECTS, "n", "web"))["metadata"]["resourceVersion"]
    await targets.tick()
    assert (await store.get(SCALED_OBJECTS, "n", "web"))["metadata"]["resourceVersion"] == version


ROUTE = {"target": {"service": "shop", "port": 80}, "scalingMetric": {"concurrency": {"targetValue": 5}}}


async def by_route(store, *, metric=None, annotations=None, trigger=None, **spec):
    """Store an InterceptorRoute `r` and a ScaledObject `s` that follows it."""
    route = {**ROUTE, "scalingMetric": metric or ROUTE["scalingMetric"]}
    await store.create(INTERCEPTOR_ROUTES, obj("http.keda.sh/v1beta1", "InterceptorRoute", "r", route))
    push = {"type": "external-push", "metadata": {"scalerAddress": "a", "interceptorRoute": "r"}}
    spec = {"scaleTargetRef": {"name": "shop"}, "triggers": [{**push, **(trigger or {})}], **spec}
    made = obj("keda.sh/v1alpha1", "ScaledObject", "s", spec, annotations=annotations or {})
    await store.create(SCALED_OBJECTS, made)


async def conditions(store, name="s"):
    """Return type -> (status, reason)."""
    listed = (await store.get(SCALED_OBJECTS, "n", name)).get("status", {}).get("conditions", ())
    return {one["type"]: (one["status"], one["reason"]) for one in listed}


async def test_formula_is_what_scales(store, targets, counts):
    await deployment(store, 1)
    modifiers = {"formula": "web * 2", "target": "4"}
    await by_route(store, trigger={"name": "web"}, advanced={"scalingModifiers": modifiers})
    counts["n/r"] = {"Concurrency": 6, "RequestCount": 6}

    await targets.tick()

    assert await replicas(store) == 3


async def test_rate_goes_by_the_name_of_its_trigger(store, targets, counts, clock):
    await deployment(store)
    modifiers = {"formula": "max([web, 0])", "target": "10"}
    metric = {"requestRate": {"targetValue": 100, "window": "1s", "granularity": "1s"}}
    await by_route(store, metric=metric, trigger={"name": "web"}, advanced={"scalingModifiers": modifiers})
    counts["n/r"] = {"Concurrency": 0, "RequestCount": 0}
    await targets.tick()
    counts["n/r"] = {"Concurrency": 0, "RequestCount": 20}

    await targets.tick()

    assert await replicas(store) == 2


async def test_formula_over_what_is_not_followed_is_refused(store, targets, counts):
    await deployment(store, 2)
    modifiers = {"formula": "web + queue", "target": "10"}
    await by_route(store, trigger={"name": "web"}, advanced={"scalingModifiers": modifiers})

    await targets.tick()

    assert condition(await store.get(SCALED_OBJECTS, "n", "s"))["status"] == "False"
    assert "queue" in condition(await store.get(SCALED_OBJECTS, "n", "s"))["message"]
    assert await replicas(store) == 2


async def test_behavior_limits_the_steps(store, targets, counts):
    await deployment(store, 1)
    up = {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}
    await by_route(store, advanced={"horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": up}}})
    counts["n/r"] = {"Concurrency": 40, "RequestCount": 40}

    await targets.tick()
    await targets.tick()

    assert await replicas(store) == 2


async def test_idle_replicas_stay_while_nothing_is_active(store, targets, counts, clock):
    await deployment(store, 3)
    await by_route(store, minReplicaCount=2, idleReplicaCount=1, cooldownPeriod=20, pollingInterval=5)
    counts["n/r"] = {"Concurrency": 1, "RequestCount": 1}
    await targets.tick()
    counts["n/r"] = {"Concurrency": 0, "RequestCount": 1}
    await clock.advance(21)

    await targets.tick()

    assert await replicas(store) == 1


async def test_conditions_follow_activity(store, targets, counts, clock):
    await deployment(store)
    await by_route(store, cooldownPeriod=60, pollingInterval=10)
    await targets.tick()
    assert await conditions(store) == {
        "Ready": ("True", "ScaledObjectReady"),
        "Active": ("False", "ScalerNotActive"),
        "Fallback": ("False", "NoFallbackFound"),
        "Paused": ("False", "ScaledObjectUnpaused"),
    }

    counts["n/r"] = {"Concurrency": 1, "RequestCount": 1}
    await targets.tick()
    assert (await conditions(store))["Active"] == ("True", "ScalerActive")

    counts["n/r"] = {"Concurrency": 0, "RequestCount": 1}
    await targets.tick()
    assert (await conditions(store))["Active"] == ("True", "ScalerActive")  # only a poll ends it
    await clock.advance(11)
    await targets.tick()
    assert (await conditions(store))["Active"] == ("False", "ScalerCooldown")
    await clock.advance(61)
    await targets.tick()
    assert (await conditions(store))["Active"] == ("False", "ScalerNotActive")


@pytest.mark.parametrize(
    ("behavior", "current", "wanted"),
    [("static", 6, 10), ("currentReplicas", 6, 6), ("currentReplicasIfHigher", 6, 10)],
)
async def test_fallback_answers_after_more_failed_polls_than_allowed(store, clock, behavior, current, wanted):
    async def ask():
        raise PeltonError("the node is away")

    targets = HttpTargets(store=store, counts=ask, clock=clock)
    await deployment(store, current)
    fallback = {"failureThreshold": 2, "replicas": 10, "behavior": behavior}
    metric = {"concurrency": {"targetValue": 10}}
    await by_route(store, metric=metric, fallback=fallback, pollingInterval=5)
    seen = []
    for _ in range(3):
        await targets.tick()
        await targets.tick()  # between two polls nothing is counted
        seen.append((await replicas(store), (await conditions(store))["Fallback"][1]))
        await clock.advance(5)

    assert seen[:2] == [(current, "NoFallbackFound")] * 2
    assert seen[2] == (wanted, "FallbackExists")


async def test_without_a_fallback_the_number_stays(store, clock):
    async def ask():
        raise PeltonError("the node is away")

    targets = HttpTargets(store=store, counts=ask, clock=clock)
    await deployment(store, 4)
    await by_route(store, pollingInterval=5)

    await targets.tick()

    assert await replicas(store) == 4
    assert (await conditions(store))["Ready"] == ("False", "TriggerError")


async def test_annotations_pause_and_force(store, targets, counts):
    await deployment(store)
    await by_route(store, annotations={"autoscaling.keda.sh/force-activation": "true"})
    await targets.tick()
    assert await replicas(store) == 1

    one = await store.get(SCALED_OBJECTS, "n", "s")
    one["metadata"]["annotations"] = {"autoscaling.keda.sh/paused": "true"}
    await store.update(SCALED_OBJECTS, one)
    counts["n/r"] = {"Concurrency": 90, "RequestCount": 90}
    await targets.tick()
    assert await replicas(store) == 1
    assert (await conditions(store))["Paused"] == ("True", "ScaledObjectPaused")


async def test_a_pause_does_not_make_the_last_activity_forgotten(store, targets, counts, clock):
    await deployment(store)
    await by_route(store, cooldownPeriod=60, pollingInterval=1)
    counts["n/r"] = {"Concurrency": 1, "RequestCount": 1}
    await targets.tick()
    counts["n/r"] = {"Concurrency": 0, "RequestCount": 1}
    one = await store.get(SCALED_OBJECTS, "n", "s")
    one["metadata"]["annotations"] = {"autoscaling.keda.sh/paused-scale-out": "true"}
    await store.update(SCALED_OBJECTS, one)
    await clock.advance(30)

    await targets.tick()

    assert await replicas(store) == 1


async def test_own_scaled_object_decides_where_none_is_to_be_made(store, targets, counts):
    await deployment(store)
    one = scaled()
    one["metadata"]["annotations"] = {"httpscaledobject.keda.sh/skip-scaledobject-creation": "true"}
    await store.create(HTTP_SCALED_OBJECTS, one)
    counts["n/web"] = {"Concurrency": 90, "RequestCount": 90}
    await targets.tick()
    assert await replicas(store) == 0

    push = {"type": "external-push", "metadata": {"scalerAddress": "a", "httpScaledObject": "web"}}
    spec = {"scaleTargetRef": {"name": "shop"}, "maxReplicaCount": 2, "triggers": [push]}
    await store.create(SCALED_OBJECTS, obj("keda.sh/v1alpha1", "ScaledObject", "mine", spec))
    await targets.tick()
    assert await replicas(store) == 2
    assert (await conditions(store, "mine"))["Ready"] == ("True", "ScaledObjectReady")


async def test_a_trigger_of_a_route_that_is_not_there_says_so(store, targets):
    push = {"type": "external-push", "metadata": {"scalerAddress": "a", "interceptorRoute": "gone"}}
    spec = {"scaleTargetRef": {"name": "shop"}, "triggers": [push]}
    await store.create(SCALED_OBJECTS, obj("keda.sh/v1alpha1", "ScaledObject", "s", spec))

    await targets.tick()

    said = condition(await store.get(SCALED_OBJECTS, "n", "s"))
    assert said["message"] == "spec.triggers[0].metadata: there is no InterceptorRoute n/gone"


FUNCTION = {"apiVersion": "core.openfunction.io/v1beta2", "kind": "Function"}


async def test_the_rules_for_a_function_are_handed_on_until_they_are_gone(store, counts, clock):
    async def ask():
        return counts

    changed = []
    targets = HttpTargets(
        store=store,
        counts=ask,
        clock=clock,
        changed=lambda namespace, name: changed.append((namespace, name)),
    )
    await by_route(store, scaleTargetRef={**FUNCTION, "name": "f"}, minReplicaCount=1, maxReplicaCount=4)
    counts["n/r"] = {"Concurrency": 3, "RequestCount": 3}
    await targets.tick()

    by = targets.of("n/f")
    assert by is not None
    assert by.policy is not None
    assert by.owner == "ScaledObject n/s"
    assert (by.policy.concurrency_target, by.policy.keda.min_replicas, by.policy.keda.max_replicas) == (
        5,
        1,
        4,
    )
    assert (await conditions(store))["Active"] == ("True", "ScalerActive")

    await targets.tick()
    assert changed == [("n", "f")]
    await store.delete(SCALED_OBJECTS, "n", "s")
    await targets.tick()
    assert targets.of("n/f") is None
    assert changed == [("n", "f")] * 2


@pytest.mark.parametrize("named", [{"kind": "Function", "name": "f"}, {"name": "f"}, {}])
async def test_a_function_is_named_by_itself_or_by_its_service(store, targets, named):
    await store.create("functions.core.openfunction.io", {**FUNCTION, **obj("", "", "f", {}), **FUNCTION})
    await store.create(HTTP_SCALED_OBJECTS, scaled(scaleTargetRef={**named, "service": "f", "port": 80}))

    await targets.tick()

    assert targets.of("n/f").owner == "HTTPScaledObject n/web"
    owned = await store.get(SCALED_OBJECTS, "n", "web")
    assert owned["spec"]["scaleTargetRef"]["kind"] == "Function"


async def test_beginning_knows_the_rules_and_survives_what_cannot_be_read(store, targets, caplog):
    await by_route(store, scaleTargetRef={**FUNCTION, "name": "f"})
    await targets.begin()
    assert targets.of("n/f") is not None

    route = obj("http.keda.sh/v1beta1", "InterceptorRoute", "r", {"target": 7})
    await store.update(
        INTERCEPTOR_ROUTES, {**await store.get(INTERCEPTOR_ROUTES, "n", "r"), **{"spec": route["spec"]}}
    )
    await targets.begin()

    assert targets.of("n/f") is not None  # as it was known last
    assert "looked at again" in caplog.text


async def test_other_triggers_beside_requests_count_when_they_want_more(store, counts, clock):
    others = [(3, True, "")]

    async def ask():
        return counts

    targets = HttpTargets(store=store, counts=ask, clock=clock, beside=lambda _key: others[0])
    await deployment(store)
    cron = {"type": "cron", "metadata": {}}
    push = {"type": "external-push", "metadata": {"interceptorRoute": "r"}}
    await by_route(store, triggers=[push, cron], cooldownPeriod=0)
    counts["n/r"] = {"Concurrency": 0, "RequestCount": 0}

    await targets.tick()
    assert await replicas(store) == 3
    counts["n/r"] = {"Concurrency": 25, "RequestCount": 25}
    await clock.advance(16)
    await targets.tick()
    assert await replicas(store) == 5
    counts["n/r"] = {"Concurrency": 0, "RequestCount": 25}
    for _ in range(40):
        await clock.advance(16)
        await targets.tick()

    assert await replicas(store) == 3
    active = (await store.get(SCALED_OBJECTS, "n", "s"))["status"]["conditions"][1]
    assert (active["type"], active["status"]) == ("Active", "True")
    others[0] = (0, False, "cron is wrong")
    await clock.advance(16)
    await targets.tick()
    assert await replicas(store) == 0
