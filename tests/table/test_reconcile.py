"""The reconcile table: objects before and what the world answers -> actions and status after one pass.

Each row is one call of `Reconciler.reconcile`; nothing watches, so what is not in the row did not happen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from pelton.controlplane.facts import COMPONENTS
from pelton.controlplane.reconciler import FUNCTIONS, Reconciler
from pelton.errors import BuildError, GatewayError, NotFoundError, SourceError
from pelton.model.snapshot import CheckResult
from pelton.plan.names import FINALIZER
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore
from pelton.testing.platform import MemoryPlatform

KEY = "default/hello"
LOCAL = {"srcRepo": {"url": "file:///src/hello"}}
HTTP: dict[str, Any] = {"triggers": {"http": {}}}
TOPIC = {"triggers": {"dapr": [{"name": "bus", "topic": "t"}]}}
BUS = {"type": "pubsub.jetstream", "version": "v1", "metadata": []}


def manifest(*, annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "core.openfunction.io/v1beta2",
        "kind": "Function",
        "metadata": {"name": "hello", "namespace": "default", "annotations": annotations or {}},
        "spec": {"image": "local/hello", **spec},
    }


def component(**changes: Any) -> dict[str, Any]:
    return {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"name": "bus", "namespace": "default"},
        "spec": BUS,
        **changes,
    }


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row.

    Attributes:
        name: The rule.
        before: Function that was reconciled before this pass; None for a first pass.
        now: Function of this pass; None = deleted.
        components: Standalone Components.
        build, check, apply: What goes wrong in this pass.
        forgetful: Whether the target forgot what it runs.
        restarted: Whether another reconciler takes this pass.
        actions: Expected, in order.
        build_state, serving_state: (state, reason) expected.
        ready: Expected status of condition Ready.
        partial: Expected paths in condition LocalTarget.
        serves: Target (function name) that runs afterwards; "" for nothing.
        raises: Whether the queue has to try again.
    """

    name: str
    before: dict[str, Any] | None = None
    now: dict[str, Any] | None = field(default_factory=lambda: manifest(build=LOCAL, serving=HTTP))
    components: tuple[dict[str, Any], ...] = ()
    build: Exception | None = None
    check: CheckResult | None = None
    apply: Exception | None = None
    forgetful: bool = False
    restarted: bool = False
    actions: tuple[str, ...] = ()
    build_state: tuple[str, str] = ("Succeeded", "Succeeded")
    serving_state: tuple[str, str] = ("Running", "Running")
    ready: str = "True"
    partial: tuple[str, ...] = ()
    serves: str = "main"
    raises: bool = False


PLAIN = manifest(build=LOCAL, serving=HTTP)
RENAMED = manifest(build={**LOCAL, "env": {"FUNC_NAME": "other"}}, serving=HTTP)
FULL = ("build", "check", "apply")

ROWS = [
    Row(name="a new function goes all the way", actions=FULL),
    Row(name="the same again does nothing", before=PLAIN),
    Row(name="the same after a restart does nothing", before=PLAIN, restarted=True),
    Row(
        name="a target that forgot is told again, unbuilt and unchecked",
        before=PLAIN,
        restarted=True,
        forgetful=True,
        actions=("apply",),
    ),
    Row(name="new content goes all the way", before=PLAIN, now=RENAMED, actions=FULL, serves="other"),
    Row(
        name="params make a revision without a build",
        before=PLAIN,
        now=manifest(build=LOCAL, serving={**HTTP, "params": {"A": "1"}}),
        actions=("check", "apply"),
    ),
    Row(
        name="bounds are applied without a check",
        before=PLAIN,
        now=manifest(build=LOCAL, serving={**HTTP, "scaleOptions": {"maxReplicas": 3}}),
        actions=("apply",),
    ),
    Row(
        name="a changed source digest builds again",
        before=PLAIN,
        now=manifest(annotations={"pelton.dev/source-digest": "2"}, build=LOCAL, serving=HTTP),
        actions=("build",),
    ),
    Row(
        name="a failed first build serves nothing",
        build=BuildError("pip failed", log_tail=("no such package",)),
        actions=("build",),
        build_state=("Failed", "BuildFailed"),
        serving_state=("", ""),
        ready="False",
        serves="",
    ),
    Row(
        name="a failed build keeps the previous revision",
        before=PLAIN,
        now=RENAMED,
        build=SourceError("syntax error"),
        actions=("build",),
        build_state=("Failed", "SourceFailed"),
        ready="False",
    ),
    Row(
        name="a failed check keeps the previous revision",
        before=PLAIN,
        now=RENAMED,
        check=CheckResult(ok=False, reason="LoadFailed", message="raised", log_tail=("Traceback",)),
        actions=("build", "check"),
        serving_state=("Failed", "LoadFailed"),
        ready="False",
    ),
    Row(
        name="a failed check keeps the previous revision on a target that forgot it",
        before=PLAIN,
        now=RENAMED,
        restarted=True,
        forgetful=True,
        check=CheckResult(ok=False, reason="LoadFailed"),
        actions=("build", "check", "apply"),
        serving_state=("Failed", "LoadFailed"),
        ready="False",
    ),
    Row(
        name="a failed apply is shown and tried again",
        apply=GatewayError("envoy is down"),
        actions=FULL,
        serving_state=("Starting", "GatewayFailed"),
        ready="Unknown",
        serves="",
        raises=True,
    ),
    Row(
        name="source elsewhere is refused before anything is done",
        now=manifest(build={"srcRepo": {"url": "https://example.org/x.git"}}, serving=HTTP),
        build_state=("Failed", "SourceNotLocal"),
        serving_state=("", ""),
        ready="False",
        serves="",
    ),
    Row(
        name="an image alone cannot run",
        now=manifest(serving=HTTP),
        build_state=("Skipped", "Skipped"),
        serving_state=("Failed", "ImageNotRunnable"),
        ready="False",
        serves="",
    ),
    Row(
        name="a bad annotation is refused and the previous revision kept",
        before=PLAIN,
        now=manifest(build=LOCAL, serving={**HTTP, "annotations": {"autoscaling.knative.dev/window": "1s"}}),
        serving_state=("Failed", "InvalidAnnotation"),
        ready="False",
    ),
    Row(
        name="a build-only function is built and not served",
        now=manifest(build=LOCAL),
        actions=("build",),
        serving_state=("Skipped", "Skipped"),
        serves="",
    ),
    Row(
        name="serving taken away removes the workload",
        before=PLAIN,
        now=manifest(build=LOCAL),
        actions=("remove",),
        serving_state=("Skipped", "Skipped"),
        serves="",
    ),
    Row(
        name="a missing component is named",
        now=manifest(build=LOCAL, serving=TOPIC),
        actions=("build",),
        serving_state=("Failed", "ComponentNotFound"),
        ready="False",
        serves="",
    ),
    Row(
        name="a standalone component subscribes",
        now=manifest(build=LOCAL, serving=TOPIC),
        components=(component(),),
        actions=FULL,
    ),
    Row(
        name="an inline component subscribes",
        now=manifest(build=LOCAL, serving={**TOPIC, "pubsub": {"bus": BUS}}),
        actions=FULL,
    ),
    Row(
        name="a component out of scope is named",
        now=manifest(build=LOCAL, serving=TOPIC),
        components=(component(scopes=["other"]),),
        actions=("build",),
        serving_state=("Failed", "ComponentOutOfScope"),
        ready="False",
        serves="",
    ),
    Row(
        name="fields that are not honoured are listed and do not hinder",
        now=manifest(
            imageCredentials={"name": "push"},
            build={**LOCAL, "builder": "img"},
            serving={**HTTP, "template": {"volumes": []}, "outputs": [{"dapr": {"name": "gone"}}]},
        ),
        actions=FULL,
        partial=(
            "spec.imageCredentials",
            "spec.build.builder",
            "spec.serving.template.volumes",
            "spec.serving.outputs[0].dapr.name",
        ),
    ),
    Row(name="a deleted function is removed", before=PLAIN, now=None, actions=("remove",), serves=""),
]


def reconciler(store: MemoryStore, platform: MemoryPlatform) -> Reconciler:
    return Reconciler(
        store=store,
        build=platform.build,
        check=platform.check,
        target=platform,
        clock=FakeClock(),
        gateway=lambda: "http://127.0.0.1:8080",
    )


async def one_pass(subject: Reconciler, row: Row) -> None:
    if not row.raises:
        await subject.reconcile(KEY)
        return
    with pytest.raises(GatewayError):
        await subject.reconcile(KEY)


async def put(store: MemoryStore, obj: dict[str, Any]) -> None:
    try:
        stored = await store.get(FUNCTIONS, "default", "hello")
    except NotFoundError:
        await store.create(FUNCTIONS, obj)
        return
    metadata = {**stored["metadata"], "annotations": obj["metadata"]["annotations"]}
    await store.update(FUNCTIONS, {**obj, "metadata": metadata})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
async def test_reconcile(row):
    platform = MemoryPlatform()
    async with MemoryStore() as store:
        subject = reconciler(store, platform)
        for obj in row.components:
            await store.create(COMPONENTS, obj)
        if row.before is not None:
            await put(store, row.before)
            await subject.reconcile(KEY)
            platform.actions()
        if row.forgetful:
            platform.applied.clear()
        if row.restarted:
            subject = reconciler(store, platform)
        platform.build_error = lambda _function: row.build
        platform.apply_error = lambda _desired: row.apply
        if row.check is not None:
            platform.check_result = lambda _workload: row.check

        if row.now is None:
            await store.delete(FUNCTIONS, "default", "hello")
        else:
            await put(store, row.now)
        await one_pass(subject, row)

        assert platform.actions() == list(row.actions)
        running = platform.applied.get(KEY)
        assert (running.workload.target if running else "") == row.serves
        if row.now is None:
            with pytest.raises(NotFoundError):
                await store.get(FUNCTIONS, "default", "hello")
            return
        obj = await store.get(FUNCTIONS, "default", "hello")
        assert obj["metadata"]["finalizers"] == [FINALIZER]
        status = obj["status"]
        phases = [
            (status[name].get("state", ""), status[name].get("reason", "")) for name in ("build", "serving")
        ]
        assert phases == [row.build_state, row.serving_state]
        conditions = {each["type"]: each for each in status["conditions"]}
        assert conditions["Ready"]["status"] == row.ready
        listed = [line.partition(": ")[0] for line in conditions["LocalTarget"]["message"].splitlines()]
        assert listed == list(row.partial)

        version = obj["metadata"]["resourceVersion"]
        platform.apply_error = lambda _desired: None
        await subject.reconcile(KEY)
        if not row.raises:
            assert platform.actions() == []
            assert (await store.get(FUNCTIONS, "default", "hello"))["metadata"]["resourceVersion"] == version


def test_rows_have_names_of_their_own():
    assert len({row.name for row in ROWS}) == len(ROWS)
