"""Every published form of the function context gives the same RuntimeContext."""

import os

import pytest

from pelton.sdk import context as module
from pelton.sdk.context import Component, DaprTrigger, HTTPTrigger, RuntimeContext, UserContext

TRACING = {
    "enabled": True,
    "provider": {"name": "skywalking", "oapServer": "oap:11800"},
    "tags": {"layer": "f"},
}
OUTPUT = {"componentName": "bus", "componentType": "pubsub.kafka", "operation": "", "metadata": {"a": "1"}}
STATES = {"db": {"componentName": "store", "componentType": "state.redis"}}
CRON = {"componentName": "tick", "componentType": "bindings.cron", "metadata": {"schedule": "@every 1s"}}
KAFKA = {"componentName": "orders", "componentType": "pubsub.kafka", "metadata": {}}

V1BETA1_ASYNC = {
    "name": "f",
    "version": "v1",
    "runtime": "Async",
    "port": "8080",
    "inputs": {"tick": CRON | {"uri": "tick"}, "in": KAFKA | {"uri": "new"}},
    "outputs": {"out": OUTPUT | {"uri": "done"}},
    "states": STATES,
    "prePlugins": ["a", "b", "skywalking"],
    "postPlugins": ["skywalking", "c"],
    "pluginsTracing": TRACING,
}
V1BETA2_ASYNC = {
    "name": "f",
    "version": "v1",
    "port": 8080,
    "triggers": {
        "dapr": [
            {"name": "tick", "type": "bindings.cron", "metadata": {"schedule": "@every 1s"}},
            {"name": "orders", "type": "pubsub.kafka", "topic": "new", "inputName": "in"},
        ]
    },
    "outputs": {"out": OUTPUT | {"topic": "done"}},
    "states": STATES,
    "preHooks": ["a", "b"],
    "postHooks": ["c"],
    "tracing": TRACING,
}
ASYNC = RuntimeContext(
    name="f",
    version="v1",
    port=8080,
    dapr_triggers=[
        DaprTrigger(
            name="tick",
            component_type="bindings.cron",
            input_name="tick",
            metadata={"schedule": "@every 1s"},
        ),
        DaprTrigger(name="orders", component_type="pubsub.kafka", topic="new", input_name="in"),
    ],
    inputs={
        "tick": Component(
            component_name="tick", component_type="bindings.cron", metadata={"schedule": "@every 1s"}
        ),
        "in": Component(component_name="orders", component_type="pubsub.kafka", topic="new"),
    },
    outputs={
        "out": Component(
            component_name="bus", component_type="pubsub.kafka", topic="done", metadata={"a": "1"}
        )
    },
    states={"db": Component(component_name="store", component_type="state.redis")},
    pre_hooks=["a", "b"],
    post_hooks=["c"],
    tracing=TRACING,
)
UNTYPED = [{"name": "tick"}, {"name": "orders", "inputName": "in"}]


@pytest.mark.parametrize(
    "given",
    [
        V1BETA1_ASYNC,
        V1BETA2_ASYNC,
        V1BETA1_ASYNC | V1BETA2_ASYNC,
        V1BETA2_ASYNC | V1BETA1_ASYNC,
        V1BETA1_ASYNC | {"triggers": {"dapr": UNTYPED}},
        {k: v for k, v in V1BETA2_ASYNC.items() if "Hooks" not in k}
        | {"pre_hooks": ["a", "b"], "post_hooks": ["c"]},
    ],
    ids=["v1beta1", "v1beta2", "merged", "merged, port as text", "types in inputs", "python's hook keys"],
)
def test_every_form_of_an_event_driven_function_is_the_same(given):
    assert RuntimeContext.of(given) == ASYNC


@pytest.mark.parametrize(
    "given",
    [
        {"name": "f", "version": "v1", "runtime": "Knative", "port": "9000"},
        {"name": "f", "version": "v1", "triggers": {"http": {"port": 9000, "engine": "knative"}}},
        {"name": "f", "version": "v1", "triggers": {"http": {"port": "9000"}}, "inputs": None},
        {"name": "f", "version": "v1", "port": 9000, "triggers": {"http": {}}, "outputs": {}},
        {
            "name": "f",
            "version": "v1",
            "runtime": "Knative",
            "port": "9000",
            "triggers": {"http": {"port": 9000}},
        },
    ],
    ids=["v1beta1", "v1beta2", "port as text", "port outside", "merged"],
)
def test_every_form_of_an_http_function_is_the_same(given):
    expected = RuntimeContext(name="f", version="v1", port=9000, http_trigger=HTTPTrigger(port=9000))

    assert RuntimeContext.of(given) == expected


def test_both_triggers_at_once_are_both_there():
    found = RuntimeContext.of(
        {
            "runtime": "Async",
            "triggers": {"http": {"port": 80}, "dapr": [{"name": "t", "type": "bindings.cron"}]},
        }
    )

    assert found.has_http_trigger()
    assert [trigger.name for trigger in found.get_dapr_triggers()] == ["t"]


def test_tracing_that_is_off_takes_no_name_from_the_hooks():
    found = RuntimeContext.of(
        {"prePlugins": ["skywalking"], "pluginsTracing": TRACING | {"enabled": False}, "tracing": None}
    )

    assert found.pre_hooks == ["skywalking"]


def test_no_context_is_an_empty_one():
    assert RuntimeContext.of({}) == RuntimeContext()


@pytest.mark.parametrize(
    "given",
    [
        {"triggers": {"dapr": "x", "http": 3}, "inputs": [1], "outputs": {"a": None}, "states": 1},
        {"preHooks": "lone", "tracing": [], "port": "x", "triggers": None},
    ],
)
def test_nonsense_is_read_as_nothing(given):
    found = RuntimeContext.of(given)

    assert (found.dapr_triggers, found.outputs, found.states, found.port) == ([], {}, {}, 0)


def test_dapr_client_without_sidecar_says_what_works_instead(monkeypatch):
    monkeypatch.delenv("DAPR_GRPC_PORT", raising=False)

    with pytest.raises(RuntimeError, match=r"DAPR_GRPC_PORT is not set.*context\.state work without"):
        _ = UserContext().dapr_client


def test_dapr_client_is_one_per_process(monkeypatch):
    monkeypatch.setitem(os.environ, "DAPR_GRPC_PORT", "50001")
    monkeypatch.setattr(module, "_clients", [])
    made = []

    class Clients:
        class DaprClient:
            def __init__(self):
                made.append(self)

    monkeypatch.setitem(__import__("sys").modules, "dapr", Clients)
    monkeypatch.setitem(__import__("sys").modules, "dapr.clients", Clients)

    assert UserContext().dapr_client is UserContext().dapr_client
    assert len(made) == 1
