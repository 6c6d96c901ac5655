"""EventSources and Triggers are planned from what there is, pushed when something changed, and told about."""

import asyncio

import pytest

from pelton.controlplane.event_framework import (
    BUSES,
    FUNCTIONS,
    KNATIVE_SERVICES,
    SECRETS,
    SERVICES,
    SLICES,
    SOURCES,
    TRIGGERS,
    EventFrameworkController,
)
from pelton.errors import PeltonError
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore

FUNCTION_SINK = {"ref": {"apiVersion": "core.openfunction.io/v1beta1", "kind": "Function", "name": "f"}}


class Runtime:
    def __init__(self):
        self.plans = []
        self.seen = {}
        self.away = False

    async def push(self, plan):
        if self.away:
            raise PeltonError("the runtime is away")
        self.plans.append(plan)

    async def states(self):
        if self.away:
            raise PeltonError("the runtime is away")
        return self.seen

    def all_ready(self):
        plan = self.plans[-1]
        self.seen = {
            **{f"EventSource/{one.key}": {"ready": True, "trouble": ""} for one in plan.relays},
            **{f"Trigger/{one.key}": {"ready": True, "trouble": ""} for one in plan.triggers},
        }


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


@pytest.fixture
def runtime():
    return Runtime()


@pytest.fixture
async def controller(store, runtime):
    made = EventFrameworkController(store=store, push=runtime.push, states=runtime.states, clock=FakeClock())
    yield made


def obj(kind, name, spec, api_version="events.openfunction.io/v1alpha1", **metadata):
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "n", **metadata},
        "spec": spec,
    }


def source(name="src", **spec):
    return obj("EventSource", name, {"cron": {"tick": {"schedule": "@hourly"}}, **spec})


def trigger(name="t", **spec):
    return obj(
        "Trigger",
        name,
        {
            "eventBus": "default",
            "inputs": {"a": {"eventSource": "src", "event": "tick"}},
            "subscribers": [{"condition": "a", "topic": "out"}],
            **spec,
        },
    )


async def look(controller):
    """Make it look as after a change."""
    controller._changed.set()
    await controller.tick()


async def last(store, resource, name):
    stored = await store.get(resource, "n", name)
    condition = stored["status"]["conditions"][-1]
    return condition["type"], condition["reason"]


async def test_all_is_planned_pushed_and_told_about(store, runtime, controller):
    await store.create(SOURCES, source(eventBus="default"))
    await store.create(TRIGGERS, trigger())
    await look(controller)
    assert await last(store, SOURCES, "src") == ("Created", "EventSourceFunctionCreated")

    runtime.all_ready()
    await controller.tick()

    (plan,) = runtime.plans
    assert [relay.key for relay in plan.relays] == ["n/src"]
    assert [(one.key, bool(one.uid), one.since > 0) for one in plan.triggers] == [("n/t", True, True)]
    assert await last(store, SOURCES, "src") == ("Ready", "EventSourceIsReady")
    assert await last(store, TRIGGERS, "t") == ("Ready", "TriggerIsReady")


async def test_look_without_a_change_pushes_and_writes_nothing(store, runtime, controller):
    await store.create(SOURCES, source(eventBus="default"))
    await look(controller)
    runtime.all_ready()
    await controller.tick()
    before = await store.get(SOURCES, "n", "src")
    await look(controller)
    await controller.tick()

    assert len(runtime.plans) == 1
    assert await store.get(SOURCES, "n", "src") == before


async def test_trouble_of_a_broker_is_in_the_status(store, runtime, controller):
    await store.create(SOURCES, source(eventBus="default"))
    await look(controller)
    runtime.seen = {"EventSource/n/src": {"ready": False, "trouble": "no broker at k:9092"}}
    await controller.tick()

    stored = await store.get(SOURCES, "n", "src")
    assert stored["status"]["conditions"][-1]["message"] == "no broker at k:9092"
    assert await last(store, SOURCES, "src") == ("Error", "ErrorCreatingEventSource")


async def test_missing_bus_is_an_error_until_it_is_there(store, runtime, controller):
    await store.create(TRIGGERS, trigger(eventBus="mine"))
    await look(controller)
    assert await last(store, TRIGGERS, "t") == ("Error", "ErrorToFindExistEventBus")
    assert runtime.plans[-1].resting == ("Trigger/n/t",)

    await store.create(BUSES, obj("EventBus", "mine", {}))
    await look(controller)
    assert await last(store, TRIGGERS, "t") == ("Created", "TriggerFunctionCreated")
    assert (len(runtime.plans[-1].triggers), runtime.plans[-1].resting) == (1, ())


async def test_object_that_breaks_a_rule_keeps_nobody_else_from_work(store, runtime, controller):
    """Stored by an older version, or around admission."""
    await store.create(SOURCES, source(eventBus="default"))
    await store.create(TRIGGERS, trigger("wrong", subscribers=[{"condition": "a +", "topic": "out"}]))
    await store.create(TRIGGERS, trigger("untyped", inputs=7))
    await look(controller)

    assert await last(store, TRIGGERS, "wrong") == ("Error", "ErrorConfiguration")
    assert await last(store, TRIGGERS, "untyped") == ("Error", "ErrorConfiguration")
    assert [relay.key for relay in runtime.plans[-1].relays] == ["n/src"]


async def test_runtime_that_is_away_gets_the_plan_later(store, runtime, controller):
    await store.create(SOURCES, source(eventBus="default"))
    runtime.away = True
    with pytest.raises(PeltonError):
        await look(controller)
    runtime.away = False
    await look(controller)

    assert len(runtime.plans) == 1


async def function_with(store, *addresses):
    await store.create(FUNCTIONS, obj("Function", "f", {}, "core.openfunction.io/v1beta2"))
    stored = await store.get(FUNCTIONS, "n", "f")
    listed = [{"type": kind, "value": value} for kind, value in addresses]
    await store.update(FUNCTIONS, {**stored, "status": {"addresses": listed}}, subresource="status")


def sinks(runtime):
    return [one.component.metadata["url"] for relay in runtime.plans[-1].relays for one in relay.destinations]


async def test_function_is_reached_at_its_internal_address(store, runtime, controller):
    await store.create(SOURCES, source(sink=FUNCTION_SINK))
    await look(controller)
    assert await last(store, SOURCES, "src") == ("Error", "ErrorCreatingEventSource")

    await function_with(store, ("External", "http://f.n.test/"), ("Internal", "http://127.0.0.1:1/n/f/"))
    await look(controller)
    assert sinks(runtime) == ["http://127.0.0.1:1/n/f/"]


async def service(store, spec, **metadata):
    await store.create(SERVICES, obj("Service", "s", spec, "v1", **metadata))


async def endpoints(store, *addresses):
    await store.create(
        SLICES,
        {
            **obj("EndpointSlice", "s-1", {}, "discovery.k8s.io/v1"),
            "metadata": {
                "name": "s-1",
                "namespace": "n",
                "labels": {"kubernetes.io/service-name": "s"},
            },
            "ports": [{"name": "metrics", "port": 9}, {"name": "http", "port": 8000}],
            "endpoints": [
                {"addresses": [address], "conditions": {"ready": ready}} for address, ready in addresses
            ],
        },
    )


SERVICE_SINK = {"ref": {"apiVersion": "v1", "kind": "Service", "name": "s"}}


async def test_service_is_reached_at_a_ready_endpoint(store, runtime, controller):
    await store.create(SOURCES, source(sink=SERVICE_SINK))
    await service(store, {"ports": [{"name": "http", "port": 80}]})
    await endpoints(store, ("10.0.0.1", False), ("10.0.0.2", True))
    await look(controller)

    assert sinks(runtime) == ["http://10.0.0.2:8000"]
    assert runtime.plans[-1].relays[0].destinations[0].metadata == {"Host": "s.n.svc.cluster.local"}


async def test_service_of_a_function_is_the_function(store, runtime, controller):
    await store.create(SOURCES, source(sink=SERVICE_SINK))
    await function_with(store, ("Internal", "http://127.0.0.1:1/n/f/"))
    await service(store, {"ports": [{"port": 80}]}, labels={"openfunction.io/function": "f"})
    await look(controller)

    assert sinks(runtime) == ["http://127.0.0.1:1/n/f/"]


async def test_service_by_an_external_name_is_reached_there(store, runtime, controller):
    await store.create(SOURCES, source(sink=SERVICE_SINK))
    await service(store, {"type": "ExternalName", "externalName": "shop.test", "ports": [{"port": 8080}]})
    await look(controller)

    assert sinks(runtime) == ["http://shop.test:8080"]


async def test_knative_service_is_reached_at_the_url_of_its_status(store, runtime, controller):
    ref = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "k"}
    await store.create(SOURCES, source(sink={"ref": ref}))
    await look(controller)
    assert await last(store, SOURCES, "src") == ("Error", "ErrorCreatingEventSource")

    made = await store.create(KNATIVE_SERVICES, obj("Service", "k", {}, "serving.knative.dev/v1"))
    await store.update(KNATIVE_SERVICES, {**made, "status": {"url": "http://k.n.test"}}, subresource="status")
    await look(controller)
    assert sinks(runtime) == ["http://k.n.test"]


async def test_secret_that_changes_causes_a_look_and_others_do_not(store, runtime, controller):
    await store.create(
        SOURCES,
        obj(
            "EventSource",
            "src",
            {"eventBus": "default", "http": {"e": {"tokenSecret": {"name": "hook", "key": "token"}}}},
        ),
    )
    task = asyncio.create_task(controller.run())
    try:
        async with asyncio.timeout(30):
            while not await _errors(store):
                await asyncio.sleep(0.01)
            await store.create(SECRETS, _secret("other"))
            await store.create(SECRETS, _secret("hook"))
            while not (runtime.plans and runtime.plans[-1].relays):
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    webhook = runtime.plans[-1].relays[0].webhook
    assert webhook.token == "s3cret"


async def _errors(store):
    stored = await store.get(SOURCES, "n", "src")
    return "status" in stored and stored["status"]["conditions"][-1]["type"] == "Error"


def _secret(name):
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "n"},
        "data": {"token": "czNjcmV0"},
    }
