"""Workloads follow the triggers that scalers read for them."""

import base64
from datetime import datetime, timedelta

import pytest

from pelton.clock import rfc3339
from pelton.controlplane.decisions import DecisionLog, read_changes
from pelton.controlplane.http_scaling import SCALED_OBJECTS
from pelton.controlplane.trigger_targets import FINALIZER, TriggerTargets
from pelton.errors import PeltonError
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore

DEPLOYMENTS = "deployments.apps"
REDIS = {"type": "redis", "metadata": {"address": "r:1", "listName": "jobs", "listLength": "10"}}


class Runtime:
    """Stands for the runtime: says what the test wants read, a round per change."""

    def __init__(self):
        self.owners = {}
        self.rounds = {}
        self.away = False

    async def __call__(self, kind, owners):
        assert kind == "ScaledObject"
        if self.away:
            raise PeltonError("the runtime is away")
        self.owners = {key: item or self.owners.get(key) for key, item in owners.items()}
        return {key: self.rounds.get(key) for key in owners}

    def read(self, *values, owner="ScaledObject n/work", error="", name="s0-redis", target=10.0):
        metrics = [{"metric": "jobs", "value": v, "target": target, "active": v > 0} for v in values]
        number = (self.rounds.get(owner) or {"number": 0})["number"] + 1
        self.rounds[owner] = {
            "number": number,
            "readings": {name: metrics or None},
            "errors": {name: error} if error else {},
        }


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def runtime():
    return Runtime()


@pytest.fixture
def changed():
    return []


@pytest.fixture
def targets(store, runtime, clock, changed, tmp_path):
    return TriggerTargets(
        store=store,
        rounds=runtime,
        clock=clock,
        decisions=DecisionLog(tmp_path, clock.now),
        changed=lambda namespace, name: changed.append(f"{namespace}/{name}"),
    )


async def create(store, **spec):
    annotations = spec.pop("annotations", {})
    await store.create(
        SCALED_OBJECTS,
        {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": "work", "namespace": "n", "annotations": annotations},
            "spec": {"scaleTargetRef": {"name": "shop"}, "triggers": [REDIS], **spec},
        },
    )


async def deployment(store, replicas=0, **spec):
    await store.create(
        DEPLOYMENTS,
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "shop", "namespace": "n"},
            "spec": {"replicas": replicas, **spec},
        },
    )


async def replicas(store):
    return (await store.get(DEPLOYMENTS, "n", "shop"))["spec"]["replicas"]


async def status(store):
    return (await store.get(SCALED_OBJECTS, "n", "work"))["status"]


async def condition(store, kind):
    return next(one for one in (await status(store))["conditions"] if one["type"] == kind)


async def test_deployment_goes_up_with_the_value_and_to_zero_after_the_cooldown(
    store, targets, runtime, clock, tmp_path
):
    await deployment(store)
    await create(store, cooldownPeriod=60, maxReplicaCount=3)
    await targets.tick()
    assert await replicas(store) == 0  # nothing has been read yet

    runtime.read(25.0)
    await targets.tick()
    assert await replicas(store) == 3
    runtime.read(0.0)
    seen = []
    for _ in range(30):
        await clock.advance(30)
        await targets.tick()
        seen.append(await replicas(store))

    assert sorted(seen, reverse=True) == seen
    assert (seen[0], seen[-1]) == (3, 0)
    changes = read_changes(tmp_path, "n/deployment.shop")
    assert (changes[0]["from"], changes[0]["to"], changes[-1]["to"]) == (0, 3, 0)
    assert "s0-redis is 25, which at 10 per replica asks for 3" in changes[0]["decision"]["reason"]


async def test_platform_that_starts_again_goes_on_with_the_cooldown(store, targets, runtime, clock):
    await deployment(store)
    await create(store, cooldownPeriod=60)
    runtime.read(25.0)
    await targets.tick()
    assert (await status(store))["lastActiveTime"] == rfc3339(clock.now())
    runtime.read(0.0)

    seen = []
    for _ in range(4):
        again = TriggerTargets(store=store, rounds=runtime, clock=clock)
        await again.tick()
        seen.append(await replicas(store) > 0)
        await clock.advance(25)

    assert seen == [True, True, True, False]


async def test_memory_that_nobody_measures_is_told_and_keeps_nothing(store, targets, runtime, clock):
    await deployment(store, 1)
    memory = {"type": "memory", "metricType": "AverageValue", "metadata": {"value": "1Gi"}}
    await create(store, triggers=[REDIS, memory])
    metric = {"metric": "jobs", "value": 0.0, "target": 10.0, "active": False}
    runtime.rounds["ScaledObject n/work"] = {
        "number": 1,
        "readings": {"s0-redis": [metric], "s1-memory": None},
        "errors": {"s1-memory": "nothing measures it"},
    }
    await targets.tick()
    await clock.advance(31)
    await targets.tick()

    assert await replicas(store) == 0
    ready = await condition(store, "Ready")
    assert (ready["status"], ready["message"]) == ("True", "nothing measures it")


async def test_initial_cooldown_counts_from_the_creation(store, runtime):
    await deployment(store, 1)
    await create(store, initialCooldownPeriod=60)
    created = datetime.fromisoformat(
        (await store.get(SCALED_OBJECTS, "n", "work"))["metadata"]["creationTimestamp"]
    )
    runtime.read(0.0)

    seen = []
    for age_s in (59, 61):
        clock = FakeClock(at=created + timedelta(seconds=age_s))
        await TriggerTargets(store=store, rounds=runtime, clock=clock).tick()
        seen.append(await replicas(store))

    assert seen == [1, 0]


async def test_last_active_time_is_the_formulas_not_the_triggers(store, targets, runtime):
    await deployment(store)
    modifiers = {"formula": "jobs - 100", "target": "10"}
    trigger = {**REDIS, "name": "jobs"}
    await create(store, triggers=[trigger], advanced={"scalingModifiers": modifiers})
    runtime.read(25.0, name="jobs")
    await targets.tick()

    assert "lastActiveTime" not in await status(store)


async def test_status_is_kedas(store, targets, runtime):
    await deployment(store, 2)
    await create(store)
    runtime.read(25.0)

    await targets.tick()
    await targets.tick()

    found = await status(store)
    assert found["scaleTargetKind"] == "apps/v1.Deployment"
    assert found["originalReplicaCount"] == 2
    assert found["externalMetricNames"] == ["s0-jobs"]
    assert found["triggersActivity"] == {"s0-jobs": {"isActive": True}}
    assert found["hpaName"] == "keda-hpa-work"
    assert found["health"] == {"s0-jobs": {"numberOfFailures": 0, "status": "Happy"}}
    assert (await condition(store, "Active"))["reason"] == "ScalerActive"
    version = (await store.get(SCALED_OBJECTS, "n", "work"))["metadata"]["resourceVersion"]
    await targets.tick()
    assert (await store.get(SCALED_OBJECTS, "n", "work"))["metadata"]["resourceVersion"] == version


async def test_failures_hold_then_the_fallback_answers_by_rounds_not_by_looks(store, targets, runtime):
    await deployment(store, 2)
    await create(store, fallback={"failureThreshold": 2, "replicas": 4})
    runtime.read(error="redis is away")
    for _ in range(10):  # many looks, one round
        await targets.tick()
    assert await replicas(store) == 2
    ready = await condition(store, "Ready")
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", "TriggerError", "redis is away")
    failing = {"numberOfFailures": 1, "status": "Failing"}
    assert (await status(store))["health"] == {"s0-redis-jobs": failing}  # named without having been read

    for _ in range(2):
        runtime.read(error="redis is away")
        await targets.tick()

    assert await replicas(store) == 4
    assert (await condition(store, "Fallback"))["reason"] == "FallbackExists"


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"autoscaling.keda.sh/paused": "true"}, 2),
        ({"autoscaling.keda.sh/paused-replicas": "4"}, 4),
        ({"autoscaling.keda.sh/paused-scale-out": "true"}, 2),
    ],
)
async def test_pauses(store, targets, runtime, annotations, expected):
    await deployment(store, 2)
    await create(store, annotations=annotations)
    runtime.read(250.0)

    await targets.tick()
    await targets.tick()

    assert await replicas(store) == expected
    assert (await condition(store, "Paused"))["status"] == "True"


async def test_secret_and_environment_reach_the_trigger(store, targets, runtime):
    container = {"name": "a", "env": [{"name": "WHERE", "value": "r:2"}]}
    await deployment(store, template={"spec": {"containers": [container]}})
    trigger = {
        "type": "redis",
        "metadata": {"addressFromEnv": "WHERE", "listName": "jobs"},
        "authenticationRef": {"name": "login"},
    }
    await create(store, triggers=[trigger])
    await targets.tick()
    assert "there is no TriggerAuthentication login" in (await condition(store, "Ready"))["message"]

    await store.create(
        "triggerauthentications.keda.sh",
        {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "TriggerAuthentication",
            "metadata": {"name": "login", "namespace": "n"},
            "spec": {"secretTargetRef": [{"parameter": "password", "name": "s", "key": "p"}]},
        },
    )
    await store.create(
        "secrets",
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s", "namespace": "n"},
            "data": {"p": base64.b64encode(b"hidden").decode()},
        },
    )
    await targets._clock.advance(11)
    await targets.tick()

    (told,) = runtime.owners["ScaledObject n/work"]["triggers"]
    assert told["params"] == {"password": "hidden"}
    assert told["environment"] == {"WHERE": "r:2"}


async def test_function_gets_rules_and_triggers_and_nothing_is_written(store, targets, runtime, changed):
    function = {"name": "f", "kind": "Function", "apiVersion": "core.openfunction.io/v1beta2"}
    trigger = {"type": "redis", "metadata": {"addressFromEnv": "WHERE", "listName": "jobs"}}
    await create(store, scaleTargetRef=function, triggers=[trigger], minReplicaCount=1, maxReplicaCount=4)
    await store.create(
        "functions.core.openfunction.io",
        {
            "apiVersion": "core.openfunction.io/v1beta2",
            "kind": "Function",
            "metadata": {"name": "f", "namespace": "n"},
            "spec": {
                "image": "i",
                "serving": {"params": {"WHERE": "r:1"}, "triggers": {"http": {"port": 80}}},
            },
        },
    )
    runtime.read(25.0, owner="Function n/f")

    await targets.tick()

    by = targets.of("n/f")
    assert by is not None
    assert by.triggered is not None
    assert (by.owner, by.triggered.min_replicas, by.triggered.max_replicas) == ("ScaledObject n/work", 1, 4)
    assert [trigger.environment for trigger in by.scalers] == [{"WHERE": "r:1"}]
    assert changed == ["n/f"]
    assert (await condition(store, "Active"))["status"] == "True"
    await store.delete(SCALED_OBJECTS, "n", "work")
    await targets.tick()
    assert targets.of("n/f") is None
    assert changed == ["n/f", "n/f"]


async def test_original_number_is_put_back_on_delete(store, targets, runtime):
    await deployment(store, 2)
    await create(store, advanced={"restoreToOriginalReplicaCount": True})
    runtime.read(55.0)
    for _ in range(3):
        await targets.tick()
    assert await replicas(store) != 2
    assert FINALIZER in (await store.get(SCALED_OBJECTS, "n", "work"))["metadata"]["finalizers"]

    await store.delete(SCALED_OBJECTS, "n", "work")
    await targets.tick()

    assert await replicas(store) == 2
    assert not (await store.list(SCALED_OBJECTS))[0]


async def test_runtime_that_is_away_or_new_is_told_again(store, targets, runtime):
    await deployment(store)
    await create(store)
    runtime.away = True
    assert await targets.tick()
    runtime.away = False
    runtime.read(15.0)
    await targets.tick()
    assert await replicas(store) == 2

    runtime.owners, runtime.rounds = {}, {}  # another process, which knows nothing
    await targets.tick()
    await targets.tick()

    assert runtime.owners["ScaledObject n/work"] is not None
    assert await replicas(store) == 2


async def test_formula_and_targets_of_several_metrics(store, targets, runtime):
    await deployment(store)
    await create(
        store,
        triggers=[{**REDIS, "name": "queue"}],
        advanced={"scalingModifiers": {"formula": "queue * 2", "target": "5", "activationTarget": "1"}},
    )
    runtime.read(10.0, name="queue")

    await targets.tick()

    assert await replicas(store) == 4
    assert (await status(store))["compositeScalerName"] == "composite-metric"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"scaleTargetRef": {"name": "x", "kind": "Rollout", "apiVersion": "a/v1"}}, "not followed"),
        ({"triggers": [REDIS]}, "there is no Deployment n/shop"),
    ],
)
async def test_what_is_not_followed_says_why(store, targets, spec, said):
    """A trigger's own problems are told by the tests of authentications above."""
    await create(store, **spec)

    await targets.tick()

    ready = await condition(store, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ScaledObjectCheckFailed")
    assert said in ready["message"]


async def test_function_whose_own_triggers_fail_is_told_once_per_reason(store, runtime, clock):
    targets = TriggerTargets(store=store, rounds=runtime, clock=clock, functions=lambda: ["n/f"])
    await store.create(
        "functions.core.openfunction.io",
        {
            "apiVersion": "core.openfunction.io/v1beta2",
            "kind": "Function",
            "metadata": {"name": "f", "namespace": "n"},
            "spec": {"image": "i"},
        },
    )
    runtime.read(error="redis is away", owner="Function n/f")
    for _ in range(3):
        await targets.tick()
    runtime.read(4.0, owner="Function n/f")
    await targets.tick()

    (event,) = (await store.list("events"))[0]
    assert (event["reason"], event["message"], event["type"]) == (
        "KEDAScalerFailed",
        "redis is away",
        "Warning",
    )


async def test_triggers_beside_one_by_requests_are_asked_for_and_nothing_is_written(store, targets, runtime):
    await deployment(store)
    push = {"type": "external-push", "metadata": {"interceptorRoute": "r"}}
    await create(store, triggers=[push, REDIS], maxReplicaCount=7)
    await targets.tick()
    assert targets.beside("n/work") == (0, False, "")

    runtime.read(35.0, name="s1-redis")
    await targets.tick()
    assert targets.beside("n/work") == (4, True, "")
    runtime.read(error="redis is away", name="s1-redis")
    await targets.tick()

    assert targets.beside("n/work") == (4, False, "redis is away")
    assert await replicas(store) == 0
    assert "status" not in await store.get(SCALED_OBJECTS, "n", "work")
    assert [trigger["name"] for trigger in runtime.owners["ScaledObject n/work"]["triggers"]] == ["s1-redis"]
