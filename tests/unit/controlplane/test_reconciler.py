"""Rules of the reconciler, against a store and a platform in memory."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import pytest

from pelton.controlplane.reconciler import FUNCTIONS, Reconciler
from pelton.errors import BuildError, GatewayError, NotFoundError, SourceError
from pelton.model.snapshot import CheckResult
from pelton.plan.names import FINALIZER

COMPONENTS = "components.dapr.io"


def manifest(name: Any = "hello", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "core.openfunction.io/v1beta2",
        "kind": "Function",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "image": "local/hello",
            "build": {"builder": "b", "srcRepo": {"url": "file:///src/hello"}, "env": {"FUNC_NAME": "hello"}},
            "serving": {"triggers": {"http": {}}},
            **spec,
        },
    }


def ready(status: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in status["conditions"] if each["type"] == "Ready")


async def test_new_function_is_built_checked_applied_and_running(world):
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()

    assert world.platform.actions() == ["build", "check", "apply"]
    obj = await world.get()
    status = obj["status"]
    assert obj["metadata"]["finalizers"] == [FINALIZER]
    assert (status["build"]["state"], status["serving"]["state"]) == ("Succeeded", "Running")
    assert ready(status)["status"] == "True"
    assert status["addresses"] == [
        {"type": "External", "value": "http://hello.default.localhost:8080/"},
        {"type": "Internal", "value": "http://127.0.0.1:8080/default/hello/"},
    ]
    assert status["observedGeneration"] == 1


async def test_running_function_is_left_alone(world):
    async with world.running() as reconciler:
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
        world.platform.actions()
        before = await world.get()
        for _ in range(3):
            reconciler.kick("default", "hello")
            await world.settle()

    assert world.platform.actions() == []
    assert await world.get() == before


async def test_restart_neither_builds_nor_checks_the_same_content_again(world):
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
    world.platform.actions()
    world.platform.applied.clear()
    before = await world.status()

    async with world.running():
        await world.settle()

    assert world.platform.actions() == ["apply"]
    assert await world.status() == before


async def test_restart_builds_again_when_the_recorded_bundle_is_gone(world):
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
    world.platform.actions()
    world.new = lambda: Reconciler(  # this world lost its bundles
        store=world.store,
        build=world.platform.build,
        check=world.platform.check,
        target=world.platform,
        clock=world.clock,
        gateway=lambda: "",
        built=lambda _result: False,
    )
    async with world.running():
        await world.settle()

    assert world.platform.actions() == ["build"]


async def test_failed_build_keeps_the_previous_revision_and_shows_the_log_tail(world):
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
        first = world.platform.applied["default/hello"]
        world.platform.actions()
        tail = tuple(f"line {index}" for index in range(30))
        world.platform.build_error = lambda _function: BuildError("pip failed", log_tail=tail)
        await world.rebuild_with("other")
        await world.settle()

    status = await world.status()
    assert world.platform.actions() == ["build"]
    assert world.platform.applied["default/hello"] == first
    assert (status["build"]["state"], status["build"]["reason"]) == ("Failed", "BuildFailed")
    assert status["build"]["message"].splitlines() == ["pip failed", *tail[-20:]]
    assert status["serving"]["state"] == "Running"
    assert await world.revision_of(status["serving"]["lastSuccessfulResourceRef"]) == first.revision
    assert ready(status)["message"].endswith(f"(revision {first.workload.revision} keeps serving)")


async def test_failed_check_keeps_the_previous_revision_and_shows_the_traceback(world):
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
        first = world.platform.applied["default/hello"]
        world.platform.actions()
        world.platform.check_result = lambda _workload: CheckResult(
            ok=False, reason="LoadFailed", message="import raised", log_tail=("Traceback", "ValueError: no")
        )
        await world.rebuild_with("other")
        await world.settle()

    status = await world.status()
    assert world.platform.actions() == ["build", "check"]
    assert world.platform.applied["default/hello"] == first
    assert status["build"]["state"] == "Succeeded"
    assert (status["serving"]["state"], status["serving"]["reason"]) == ("Failed", "LoadFailed")
    assert status["serving"]["message"] == "import raised\nTraceback\nValueError: no"
    assert await world.revision_of(status["serving"]["lastSuccessfulResourceRef"]) == first.revision
    assert status["addresses"]


async def test_failed_check_and_a_restart_still_leave_the_previous_revision(world):
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
        first = world.platform.applied["default/hello"]
        world.platform.check_result = lambda _workload: CheckResult(ok=False, reason="LoadFailed")
        await world.rebuild_with("other")
        await world.settle()
    world.platform.applied.clear()
    world.platform.actions()
    before = await world.status()

    async with world.running():
        await world.settle()

    assert world.platform.actions() == ["apply"]
    assert world.platform.applied["default/hello"] == first
    assert await world.status() == before


async def test_failed_content_is_tried_again_after_a_while(world):
    world.platform.build_error = lambda _function: SourceError("no such directory")
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
        version = (await world.get())["metadata"]["resourceVersion"]
        await world.clock.advance(29.0)
        assert world.platform.actions() == ["build"]
        await world.clock.advance(2.0)
        await world.settle()
        assert world.platform.actions() == ["build"]
        assert (await world.get())["metadata"]["resourceVersion"] == version
        world.platform.build_error = lambda _function: None
        await world.clock.advance(61.0)
        await world.settle()

    assert world.platform.actions() == ["build", "check", "apply"]


async def test_fixed_content_is_built_at_once(world):
    world.platform.build_error = lambda _function: SourceError("no such directory")
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
        world.platform.build_error = lambda _function: None
        world.platform.actions()
        await world.rebuild_with("fixed")
        await world.settle()

    assert world.platform.actions() == ["build", "check", "apply"]
    assert (await world.status())["serving"]["state"] == "Running"


async def test_change_during_a_build_gives_the_build_up(world):
    world.platform.gate = asyncio.Event()
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        while not world.platform.journal:
            await asyncio.sleep(0)
        await world.rebuild_with("newer")
        while len(world.platform.journal) < 2:
            await asyncio.sleep(0)
        world.platform.gate.set()
        await world.settle()

    assert world.platform.actions() == ["build", "build", "check", "apply"]
    assert world.platform.applied["default/hello"].workload.target == "newer"


async def test_deletion_removes_the_workload_before_the_object(world):
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
        world.platform.actions()
        await world.store.delete(FUNCTIONS, "default", "hello")
        await world.settle()

    assert world.platform.actions() == ["remove"]
    with pytest.raises(NotFoundError):
        await world.get()


async def test_deletion_waits_for_a_target_that_fails(world):
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
        world.platform.remove_error = GatewayError("node is down")
        await world.store.delete(FUNCTIONS, "default", "hello")
        await world.settle()
        assert (await world.get())["metadata"]["deletionTimestamp"]
        world.platform.remove_error = None
        await world.clock.advance(1.0)
        await world.settle()

    assert not world.platform.applied


async def test_function_deleted_while_nobody_watched_is_cleaned_up_at_the_start(world):
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
    world.platform.actions()
    obj = await world.get()
    obj["metadata"]["finalizers"] = []
    await world.store.update(FUNCTIONS, obj)
    await world.store.delete(FUNCTIONS, "default", "hello")

    async with world.running():
        await world.settle()

    assert world.platform.actions() == ["remove"]


async def test_failed_apply_is_shown_and_repeated_even_if_the_target_claims_it(world):
    async with world.running():
        world.platform.apply_error = lambda desired: (
            world.platform.applied.update({desired.workload.key: desired}) or GatewayError("envoy is down")
        )
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
        status = await world.status()
        assert (status["serving"]["state"], status["serving"]["reason"]) == ("Starting", "GatewayFailed")
        world.platform.apply_error = lambda _desired: None
        world.platform.actions()
        await world.clock.advance(1.0)
        await world.settle()

    assert world.platform.actions()[-1] == "apply"
    assert (await world.status())["serving"]["state"] == "Running"


async def test_kick_all_applies_everything_again(world):
    async with world.running() as reconciler:
        for name in ("a", "b"):
            await world.store.create(FUNCTIONS, manifest(name))
        await world.settle()
        world.platform.actions()
        reconciler.kick_all()
        await world.settle()
        assert world.platform.actions() == ["apply", "apply"]
        reconciler.kick("default", "a")
        await world.settle()

    assert world.platform.actions() == []


async def test_missing_component_fails_and_its_arrival_starts_the_function(world):
    spec = {"serving": {"triggers": {"dapr": [{"name": "orders", "topic": "new"}]}}}
    async with world.running():
        await world.store.create(FUNCTIONS, manifest(**spec))
        await world.settle()
        status = await world.status()
        assert (status["serving"]["state"], status["serving"]["reason"]) == ("Failed", "ComponentNotFound")
        await world.store.create(
            COMPONENTS,
            {
                "apiVersion": "dapr.io/v1alpha1",
                "kind": "Component",
                "metadata": {"name": "orders", "namespace": "default"},
                "spec": {
                    "type": "pubsub.jetstream",
                    "version": "v1",
                    "metadata": [{"name": "token", "secretKeyRef": {"name": "bus", "key": "token"}}],
                },
            },
        )
        await world.settle()
        assert (await world.status())["serving"]["reason"] == "SecretNotFound"
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bus", "namespace": "default"}}
        await world.store.create(
            "secrets", {**secret, "data": {"token": base64.b64encode(b"s3cret").decode()}}
        )
        await world.settle()

    assert (await world.status())["serving"]["state"] == "Running"
    (subscription,) = world.platform.applied["default/hello"].subscriptions
    assert subscription.component.metadata == {"token": "s3cret"}


async def test_change_of_a_component_is_applied_without_a_new_check(world):
    spec = {"serving": {"triggers": {"dapr": [{"name": "orders", "topic": "new"}]}}}
    component = {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"name": "orders", "namespace": "default"},
        "spec": {"type": "pubsub.jetstream", "version": "v1", "metadata": []},
    }
    async with world.running():
        stored = await world.store.create(COMPONENTS, component)
        await world.store.create(FUNCTIONS, manifest(**spec))
        await world.settle()
        world.platform.actions()
        stored["spec"]["metadata"] = [{"name": "maxDeliver", "value": 3}]
        await world.store.update(COMPONENTS, stored)
        await world.settle()

    assert world.platform.actions() == ["apply"]


async def test_check_that_outlasts_the_serving_timeout_is_a_timeout(world):
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
        first = world.platform.applied["default/hello"]
        world.platform.gate = asyncio.Event()
        world.platform.gate.set()
        await world.rebuild_with("slow")
        world.platform.gate.clear()
        await world.change(serving={"triggers": {"http": {}}, "timeout": "10s"})
        for _ in range(200):
            await asyncio.sleep(0)
        world.platform.gate.set()  # the build ends ...
        await asyncio.sleep(0)
        world.platform.gate.clear()  # ... and the check hangs
        for _ in range(200):
            await asyncio.sleep(0)
        await world.clock.advance(11.0)
        await world.settle()

    status = await world.status()
    assert status["serving"]["state"] == "Timeout"
    assert world.platform.applied["default/hello"] == first


async def test_serving_taken_out_of_the_spec_removes_the_workload(world):
    async with world.running():
        obj = await world.store.create(FUNCTIONS, manifest())
        await world.settle()
        world.platform.actions()
        obj = await world.get()
        del obj["spec"]["serving"]
        await world.store.update(FUNCTIONS, obj)
        await world.settle()

    status = await world.status()
    assert world.platform.actions() == ["remove"]
    assert (status["build"]["state"], status["serving"]["state"]) == ("Succeeded", "Skipped")
    assert "addresses" not in status


async def test_object_that_cannot_be_decoded_is_refused_in_its_status(world):
    async with world.running():
        await world.store.create(FUNCTIONS, manifest(serving={"timeout": "soon"}))
        await world.settle()

    status = await world.status()
    assert (status["serving"]["state"], status["serving"]["reason"]) == ("Failed", "Invalid")


async def test_status_survives_a_writer_who_was_faster(world):
    world.platform.gate = asyncio.Event()
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        while not world.platform.journal:
            await asyncio.sleep(0)
        obj = await world.get()
        obj["metadata"]["labels"] = {"team": "a"}
        await world.store.update(FUNCTIONS, obj)
        world.platform.gate.set()
        await world.settle()

    obj = await world.get()
    assert obj["status"]["serving"]["state"] == "Running"
    assert obj["metadata"]["labels"] == {"team": "a"}


async def test_thousand_functions_reconcile_in_time(world):
    """The budget is 100 a second; the rate is printed, and only an order of magnitude is asserted."""
    for index in range(1000):
        await world.store.create(FUNCTIONS, manifest(f"f{index:04}"))
    began = time.monotonic()
    async with world.running():
        deadline = began + 50.0
        while len(world.platform.applied) < 1000 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await world.settle()
    took_s = time.monotonic() - began

    print(f"1000 Functions in {took_s:.2f} s: {1000 / took_s:.0f}/s")
    assert len(world.platform.applied) == 1000
    assert world.platform.actions().count("build") == 1000
