"""Rules of revisions that follow each other: traffic, canary steps, rollback, and what is kept of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from pelton.controlplane.children import BUILDERS, SERVINGS
from pelton.controlplane.reconciler import FUNCTIONS
from pelton.controlplane.revisions import Revisions
from pelton.errors import BuildError
from pelton.model.snapshot import CheckResult, FunctionObserved, RevisionObserved
from pelton.plan.history import FUNCTION_SPEC, REVISION
from pelton.plan.rollout import ACTION, HISTORY_LIMIT, ROLLED_BACK_TO, ROLLOUT
from pelton.plan.traffic import TRAFFIC, shares

KEY = "default/hello"
REFS = ("resourceRef", "lastSuccessfulResourceRef")


def manifest(**annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": "core.openfunction.io/v1beta2",
        "kind": "Function",
        "metadata": {"name": "hello", "namespace": "default", "annotations": annotations},
        "spec": {
            "image": "local/hello",
            "build": {"builder": "b", "srcRepo": {"url": "file:///src/hello"}, "env": {"FUNC_NAME": "one"}},
            "serving": {"triggers": {"http": {}}},
        },
    }


class Story:
    """A Function whose revisions are told apart by the target they were built for."""

    def __init__(self, world):
        self.world = world

    async def begin(self, **annotations):
        await self.world.store.create(FUNCTIONS, manifest(**annotations))
        await self.pass_()

    async def annotate(self, **changes):
        obj = await self.world.get()
        notes = obj["metadata"].setdefault("annotations", {})
        for key, value in changes.items():
            notes.pop(key, None)
            if value is not None:
                notes[key] = value
        await self.world.store.update(FUNCTIONS, obj)
        await self.pass_()

    async def release(self, target, *, annotations=None):
        obj = await self.world.get()
        obj["spec"]["build"]["env"]["FUNC_NAME"] = target
        obj["metadata"]["annotations"] |= annotations or {}
        await self.world.store.update(FUNCTIONS, obj)
        await self.pass_()

    async def pass_(self):
        """One pass, as the queue would make it; returns the seconds until the next."""
        wait_s = 0.0
        while wait_s == 0.0:
            wait_s = await self.world.reconciler.reconcile(KEY)
        return wait_s

    async def later(self, seconds):
        await self.world.clock.advance(seconds)
        return await self.pass_()

    def split(self):
        """{target: share} of what was applied last."""
        live = self.world.platform.applied[KEY]
        names = {one.revision: one.workload.target for one in (live, *live.others)}
        return {names[revision]: weight for revision, weight in shares(live)}

    def primary(self):
        return self.world.platform.applied[KEY].workload.target

    async def children(self, resource):
        items, _ = await self.world.store.list(resource)
        return [(item["metadata"]["name"], (item.get("status") or {}).get("state")) for item in items]

    async def revisions(self):
        """Revisions that have a Serving."""
        items, _ = await self.world.store.list(SERVINGS)
        return {item["metadata"]["annotations"][REVISION] for item in items}

    async def rollout(self):
        return (await self.world.status()).get("rollout", {})

    async def condition(self, kind):
        found = [each for each in (await self.world.status())["conditions"] if each["type"] == kind]
        return (found[0]["status"], found[0]["reason"]) if found else None

    def revision(self, target):
        return next(
            one.desired.revision for one in self.record.revisions if one.desired.workload.target == target
        )

    @property
    def record(self):
        found = self.world.reconciler._revisions._known[("default", "hello")]
        return found

    async def events(self):
        items, _ = await self.world.store.list("events")
        return [(item["reason"], item["type"], item["count"]) for item in items]


@pytest.fixture
def story(world):
    return Story(world)


# -- objects ---------------------------------------------------------------------------------------------


async def test_function_gets_a_builder_and_a_serving(world, story):
    await story.begin()
    status = await world.status()
    ((builder, built),) = await story.children(BUILDERS)
    ((serving, served),) = await story.children(SERVINGS)

    assert (built, served) == ("Succeeded", "Running")
    assert (status["build"]["resourceRef"], status["build"]["lastSuccessfulResourceRef"]) == (
        builder,
        builder,
    )
    assert (status["serving"]["resourceRef"], status["serving"]["lastSuccessfulResourceRef"]) == (
        serving,
        serving,
    )
    assert status["serving"]["revision"] == world.platform.applied[KEY].revision
    assert builder.startswith("builder-")
    assert serving.startswith("serving-")


async def test_what_happened_is_told_as_events(story):
    await story.begin()

    assert sorted(await story.events()) == [
        ("BuildCompleted", "Normal", 1),
        ("BuildStarted", "Normal", 1),
        ("Running", "Normal", 1),
        ("Starting", "Normal", 1),
    ]


async def test_writes_of_a_new_function_stay_few(world, story):
    before = world.store.version
    await story.begin()

    # create, finalizer, Builder, Building, Event, Builder done, Event, Serving, Starting, Event, Serving
    # running, Event, Running, record
    assert world.store.version - before == 14


async def test_successful_builders_go_with_the_next_build_and_one_failed_stays(world, story):
    await story.begin()
    world.platform.build_error = lambda _function: BuildError("no")
    for target in ("two", "three"):
        await story.release(target)
    world.platform.build_error = lambda _function: None
    await story.release("four")

    assert [state for _, state in await story.children(BUILDERS)] in (
        ["Failed", "Succeeded"],
        ["Succeeded", "Failed"],
    )


async def test_history_limits_of_builders_count(world, story):
    await story.begin()
    for number in range(4):
        obj = await world.get()
        obj["spec"]["build"] |= {"successfulBuildsHistoryLimit": 2, "env": {"FUNC_NAME": f"f{number}"}}
        await world.store.update(FUNCTIONS, obj)
        await story.later(1)

    assert [state for _, state in await story.children(BUILDERS)] == ["Succeeded"] * 3  # two and the current


async def test_builders_older_than_they_may_be_are_deleted(world, story):
    obj = manifest()
    obj["spec"]["build"]["builderMaxAge"] = "2m"
    await world.store.create(FUNCTIONS, obj)
    async with world.running():
        await world.settle()
        assert len(await story.children(BUILDERS)) == 1
        await world.clock.advance(100)
        assert len(await story.children(BUILDERS)) == 1
        await world.clock.advance(100)
        await world.settle()

    assert await story.children(BUILDERS) == []
    assert (await world.status())["build"]["state"] == "Succeeded"
    assert world.platform.actions() == ["build", "check", "apply"]


async def test_changed_function_cancels_the_builder_at_work(world, story):
    world.platform.gate = asyncio.Event()
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await asyncio.wait_for(_until(lambda: world.platform.journal), 30)
        obj = await world.get()
        obj["spec"]["build"]["env"]["FUNC_NAME"] = "two"
        await world.store.update(FUNCTIONS, obj)
        await asyncio.wait_for(_until(lambda: len(world.platform.journal) == 2), 30)
        world.platform.gate.set()
        await world.settle()

    assert sorted(state for _, state in await story.children(BUILDERS)) == ["Canceled", "Succeeded"]
    assert world.platform.applied[KEY].workload.target == "two"


async def test_builder_that_is_told_to_end_ends_its_build_for_good(world, story):
    world.platform.gate = asyncio.Event()
    async with world.running() as reconciler:
        await world.store.create(FUNCTIONS, manifest())
        await asyncio.wait_for(_until(lambda: world.platform.journal), 30)
        ((name, _),) = await story.children(BUILDERS)
        builder = await world.store.get(BUILDERS, "default", name)
        builder["spec"]["state"] = "Cancelled"
        await world.store.update(BUILDERS, builder)
        await world.settle()
        reconciler.kick("default", "hello")
        await world.settle()

    assert await story.children(BUILDERS) == [(name, "Canceled")]
    assert (await world.status())["build"]["state"] == "Canceled"
    assert await story.condition("Ready") == ("False", "Canceled")
    assert world.platform.actions() == ["build"]


async def test_deleting_the_builder_at_work_begins_anew(world, story):
    world.platform.gate = asyncio.Event()
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await asyncio.wait_for(_until(lambda: world.platform.journal), 30)
        ((name, _),) = await story.children(BUILDERS)
        await world.store.delete(BUILDERS, "default", name)
        await asyncio.wait_for(_until(lambda: len(world.platform.journal) == 2), 30)
        assert await world.reconciler.paths() is None
        world.platform.gate.set()
        await world.settle()

    ((again, state),) = await story.children(BUILDERS)
    assert (again != name, state) == (True, "Succeeded")
    assert (await world.status())["build"]["resourceRef"] == again


async def test_aborted_rollout_without_the_record_of_the_old_revision_serves_the_new(world, story):
    await story.begin(**{ROLLOUT: "10% 5m"})
    await story.release("two")
    await story.annotate(**{ACTION: f"abort {story.revision('two')}"})
    await world.store.delete("revisions.pelton.dev", "default", "hello")
    world.platform.applied.clear()
    world.reconciler = world.new()
    await story.pass_()

    assert story.split() == {"two": 100}


async def test_deleting_a_cancelled_builder_builds_again(world, story):
    await test_builder_that_is_told_to_end_ends_its_build_for_good(world, story)
    world.platform.gate = None
    ((name, _),) = await story.children(BUILDERS)
    async with world.running():
        await world.settle()
        await world.store.delete(BUILDERS, "default", name)
        await world.settle()

    assert [state for _, state in await story.children(BUILDERS)] == ["Succeeded"]
    assert (await world.status())["serving"]["state"] == "Running"


async def test_builder_that_a_restart_interrupted_is_carried_on(world, story):
    world.platform.gate = asyncio.Event()
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await asyncio.wait_for(_until(lambda: world.platform.journal), 30)
    before = await story.children(BUILDERS)
    world.platform.gate = None
    async with world.running():
        await world.settle()

    assert [name for name, _ in before] == [name for name, _ in await story.children(BUILDERS)]
    assert (await world.status())["build"]["state"] == "Succeeded"


async def test_deleted_serving_of_what_runs_is_made_again(world, story):
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
        ((name, _),) = await story.children(SERVINGS)
        world.platform.actions()
        await world.store.delete(SERVINGS, "default", name)
        await world.settle()

    ((again, state),) = await story.children(SERVINGS)
    assert (again != name, state) == (True, "Running")
    assert (await world.status())["serving"]["resourceRef"] == again
    assert world.platform.actions() == []


async def test_failed_revision_has_a_failed_serving_until_the_next(world, story):
    await story.begin()
    world.platform.check_result = lambda _load: CheckResult(ok=False, reason="LoadFailed", message="no")
    for target in ("two", "three"):
        await story.release(target)

    assert sorted(state for _, state in await story.children(SERVINGS)) == ["Failed", "Running"]
    world.platform.check_result = lambda _load: CheckResult(ok=True)
    await story.release("four")
    assert [state for _, state in await story.children(SERVINGS)] == ["Running", "Running"]


async def test_removed_function_leaves_no_children(world, story):
    async with world.running():
        await world.store.create(FUNCTIONS, manifest())
        await world.settle()
        await world.store.delete(FUNCTIONS, "default", "hello")
        await world.settle()

    assert await story.children(BUILDERS) == await story.children(SERVINGS) == []
    assert await Revisions(world.store).all() == {}


# -- what is kept ----------------------------------------------------------------------------------------


async def test_old_revisions_are_kept_up_to_the_limit(world, story):
    await story.begin(**{HISTORY_LIMIT: "2"})
    for number in range(5):
        await story.release(f"f{number}")

    assert [one.desired.workload.target for one in story.record.revisions] == ["f2", "f3", "f4"]
    assert await story.revisions() == set(story.record.names())
    assert world.pruned == 3


async def test_deleting_the_serving_of_an_old_revision_drops_it(world, story):
    await story.begin()
    first = story.record.revisions[0]
    await story.release("two")
    await world.store.delete(SERVINGS, "default", first.serving)
    world.reconciler = world.new()
    await story.pass_()

    assert [one.desired.workload.target for one in story.record.revisions] == ["two"]


async def test_needed_directories_are_those_of_kept_revisions(world, story):
    await story.begin(**{HISTORY_LIMIT: "1"})
    first = story.record.revisions[0].desired.workload.bundle
    await story.release("two")
    assert first in (await world.reconciler.paths())
    await story.release("three")

    assert first not in (await world.reconciler.paths())
    assert world.platform.applied[KEY].workload.bundle in (await world.reconciler.paths())


async def test_a_record_that_cannot_be_read_frees_nothing(world, story):
    await story.begin()
    await world.store.create(
        "revisions.pelton.dev",
        {"metadata": {"namespace": "default", "name": "other"}, "spec": {"revisions": 3}},
    )

    assert await world.reconciler.paths() is None


# -- traffic ---------------------------------------------------------------------------------------------


async def test_traffic_is_split_between_revisions_and_events_follow_the_larger(world, story):
    await story.begin()
    old = story.revision("one")
    await story.annotate(**{TRAFFIC: json.dumps([{"revision": old, "percent": 100}])})
    world.platform.actions()
    await story.release("two")
    assert story.split() == {"one": 100}
    assert world.platform.actions() == ["build", "check"]
    await story.annotate(
        **{TRAFFIC: json.dumps([{"revision": old, "percent": 90}, {"percent": 10, "tag": "next"}])}
    )

    assert story.split() == {"one": 90, "two": 10}
    assert story.primary() == "one"
    assert world.platform.actions() == ["apply"]
    new = story.revision("two")
    assert (await world.status())["traffic"] == [
        {"revisionName": old, "percent": 90, "latestRevision": False},
        {"revisionName": new, "percent": 10, "latestRevision": True},
        {
            "revisionName": new,
            "percent": 0,
            "latestRevision": True,
            "tag": "next",
            "host": "next-hello.default.localhost",
        },
    ]
    await story.annotate(**{TRAFFIC: None})
    assert story.split() == {"two": 100}


async def test_split_is_the_same_after_a_restart(world, story):
    await story.begin()
    old = story.revision("one")
    await story.release("two")
    await story.annotate(**{TRAFFIC: json.dumps([{"revision": old, "percent": 40}, {"percent": 60}])})
    before = world.platform.applied.pop(KEY)
    world.platform.actions()
    world.reconciler = world.new()
    await story.pass_()

    assert world.platform.applied[KEY] == before
    assert world.platform.actions() == ["apply"]


async def test_unknown_revision_is_refused_and_nothing_changes(world, story):
    await story.begin()
    await story.annotate(**{TRAFFIC: '[{"revision": "hello-0000000000", "percent": 100}]'})
    status = await world.status()

    assert (status["serving"]["state"], status["serving"]["reason"]) == ("Failed", "RevisionMissing")
    assert story.split() == {"one": 100}
    assert status["traffic"][0]["latestRevision"]


async def test_revision_that_traffic_refers_to_is_kept_beyond_the_limit(world, story):
    await story.begin(**{HISTORY_LIMIT: "0"})
    old = story.revision("one")
    await story.annotate(**{TRAFFIC: json.dumps([{"percent": 100}, {"revision": old, "tag": "old"}])})
    for target in ("two", "three"):
        await story.release(target)

    assert set(story.record.names()) == {old, story.revision("three")}


async def test_function_without_http_ignores_shares_and_says_so(world, story):
    obj = manifest(**{ROLLOUT: "10% 5m"})
    obj["spec"]["serving"] = {
        "triggers": {"dapr": [{"name": "bus", "topic": "t"}]},
        "pubsub": {"bus": {"type": "pubsub.jetstream", "version": "v1", "metadata": []}},
    }
    await world.store.create(FUNCTIONS, obj)
    await story.pass_()
    await story.release("two")

    assert world.platform.applied[KEY].workload.target == "two"
    assert await story.condition("LocalTarget") == ("False", "Partial")


# -- rollouts --------------------------------------------------------------------------------------------


async def test_rollout_goes_through_its_steps(world, story):
    await story.begin(**{ROLLOUT: "10% 5m, 50% pause, 100%"})
    assert await story.rollout() == {}
    await story.release("two")
    assert (story.split(), story.primary()) == ({"one": 90, "two": 10}, "one")
    assert await story.condition("RolledOut") == ("Unknown", "Progressing")
    assert await story.condition("Ready") == ("True", "Running")
    wait_s = await story.later(299)
    assert story.split() == {"one": 90, "two": 10}
    assert wait_s == pytest.approx(1.0)
    await story.later(1)
    assert story.split() == {"one": 50, "two": 50}
    assert (await story.rollout())["state"] == "Paused"
    await story.later(36_000)
    assert story.split() == {"one": 50, "two": 50}
    await story.annotate(**{ACTION: f"resume {story.revision('two')} 1"})

    assert (story.split(), story.primary()) == ({"two": 100}, "two")
    assert world.platform.applied[KEY].others == ()
    assert await story.condition("RolledOut") == ("True", "Completed")
    status = await world.status()
    assert await world.revision_of(status["serving"]["lastSuccessfulResourceRef"]) == story.revision("two")


async def test_rollout_that_goes_on_writes_nothing_and_does_nothing(world, story):
    await story.begin(**{ROLLOUT: "10% 5m"})
    await story.release("two")
    world.platform.actions()
    version = world.store.version
    for _ in range(3):
        await story.later(5)

    assert world.store.version == version
    assert world.platform.actions() == []


async def test_last_successful_is_the_old_one_until_the_end(world, story):
    await story.begin(**{ROLLOUT: "10% 5m"})
    await story.release("two")
    serving = (await world.status())["serving"]

    assert await world.revision_of(serving["resourceRef"]) == story.revision("two")
    assert await world.revision_of(serving["lastSuccessfulResourceRef"]) == story.revision("one")


async def test_rollout_goes_on_after_a_restart(world, story):
    await story.begin(**{ROLLOUT: "10% 5m, 50% 5m"})
    await story.release("two")
    await story.later(200)
    world.platform.actions()
    world.reconciler = world.new()
    world.platform.applied.clear()
    await story.pass_()
    assert story.split() == {"one": 90, "two": 10}
    await story.later(100)

    assert story.split() == {"one": 50, "two": 50}
    assert world.platform.actions() == ["apply", "apply"]


async def test_abort_gives_the_traffic_back_and_says_so(world, story):
    await story.begin(**{ROLLOUT: "10% 5m"})
    await story.release("two")
    await story.annotate(**{ACTION: f"abort {story.revision('two')}"})
    assert story.split() == {"one": 100}
    assert await story.condition("Ready") == ("False", "RolloutAborted")
    assert await story.condition("RolledOut") == ("False", "Aborted")
    assert sorted(state for _, state in await story.children(SERVINGS)) == ["Canceled", "Running"]
    await story.later(10_000)
    assert story.split() == {"one": 100}
    since = (await story.rollout())["since"]
    await story.annotate(**{ACTION: f"restart {story.revision('two')} {since}"})

    assert story.split() == {"one": 90, "two": 10}


async def test_revision_that_does_not_load_never_gets_traffic(world, story):
    await story.begin(**{ROLLOUT: "10% 5m"})
    world.platform.check_result = lambda _load: CheckResult(ok=False, reason="LoadFailed", message="no")
    await story.release("two")
    await story.later(10_000)

    assert story.split() == {"one": 100}
    assert await story.rollout() == {}


async def test_revision_whose_instances_do_not_start_loses_its_traffic(world, story):
    await story.begin(**{ROLLOUT: "10% 5m"})
    await story.release("two")
    world.platform.seen = lambda desired: FunctionObserved(
        namespace="default",
        name="hello",
        revision=desired.revision,
        revisions=(
            RevisionObserved(revision=desired.revision, failures=9, failure="old ones may fail"),
            RevisionObserved(revision=story.revision("two"), failures=3, failure="exit code 3"),
        ),
    )
    await story.later(5)

    assert story.split() == {"one": 100}
    assert (await story.rollout())["message"] == "its instances do not start: exit code 3"
    assert ("RolloutAborted", "Warning", 1) in await story.events()


async def test_a_third_revision_takes_over_from_the_stable_one(world, story):
    await story.begin(**{ROLLOUT: "10% 5m, 50% 5m"})
    await story.release("two")
    await story.later(300)
    await story.release("three")

    assert story.split() == {"one": 90, "three": 10}


async def test_revisions_side_by_side_all_follow_a_changed_component(world, story):
    hook: dict[str, Any] = {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"name": "hook", "namespace": "default"},
        "spec": {
            "type": "bindings.http",
            "version": "v1",
            "metadata": [{"name": "url", "value": "http://a"}],
        },
    }
    await world.store.create("components.dapr.io", hook)
    obj = manifest(**{ROLLOUT: "10% 5m"})
    obj["spec"]["serving"]["outputs"] = [{"dapr": {"name": "hook", "operation": "post"}}]
    await world.store.create(FUNCTIONS, obj)
    await story.pass_()
    await story.release("two")
    hook["spec"]["metadata"][0]["value"] = "http://b"
    await world.store.update("components.dapr.io", hook)
    await story.pass_()
    live = world.platform.applied[KEY]

    assert [one.outputs[0].component.metadata["url"] for one in (live, *live.others)] == ["http://b"] * 2
    assert story.split() == {"one": 90, "two": 10}


async def test_rollout_and_tags_go_together(world, story):
    await story.begin(**{ROLLOUT: "10% 5m", TRAFFIC: '[{"percent": 100, "tag": "next"}]'})
    await story.release("two")
    route = world.platform.applied[KEY].route

    assert story.split() == {"one": 90, "two": 10}
    assert route.tags == (("next", f"{KEY}:{story.revision('two')}"),)


# -- rollback --------------------------------------------------------------------------------------------


async def test_rollback_takes_spec_and_build_of_the_revision_at_once(world, story):
    await story.begin(**{ROLLOUT: "10% 5m"})
    first = story.revision("one")
    await story.release("two")
    await story.later(300)
    assert story.split() == {"two": 100}
    world.platform.actions()
    serving = await world.store.get(SERVINGS, "default", story.record.find(first).serving)
    obj = await world.get()
    obj["spec"] = json.loads(serving["metadata"]["annotations"][FUNCTION_SPEC])
    obj["metadata"]["annotations"][ROLLED_BACK_TO] = first
    await world.store.update(FUNCTIONS, obj)
    await story.pass_()

    assert world.platform.actions() == ["check", "apply"]
    assert (story.split(), world.platform.applied[KEY].revision) == ({"one": 100}, first)
    assert story.record.names() == [story.revision("two"), first]
    status = await world.status()
    assert (status["build"]["state"], status["serving"]["state"]) == ("Succeeded", "Running")


async def test_going_back_without_saying_so_builds_again(world, story):
    await story.begin()
    await story.release("two")
    world.platform.actions()
    await story.release("one")

    assert world.platform.actions() == ["build", "check", "apply"]


async def test_going_back_to_a_known_source_digest_does_not_build(world, story):
    await story.begin(**{"pelton.dev/source-digest": "a"})
    await story.release("two", annotations={"pelton.dev/source-digest": "b"})
    world.platform.actions()
    await story.release("one", annotations={"pelton.dev/source-digest": "a"})

    assert world.platform.actions() == ["check", "apply"]


async def test_going_back_to_a_bundle_that_is_gone_builds_again(world, story):
    await story.begin()
    first = story.revision("one")
    await story.release("two")
    world.platform.actions()
    world.reconciler._building._built = lambda _result: False
    await story.annotate(**{ROLLED_BACK_TO: first})
    await story.release("one")

    assert "build" in world.platform.actions()


async def _until(condition):
    while not condition():
        await asyncio.sleep(0)
