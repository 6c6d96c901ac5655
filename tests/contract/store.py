"""What every `Store` keeps to, whatever is under it; subclasses bring the fixture `store`."""

import asyncio

import pytest

from pelton.apiserver.store import GoneError
from pelton.errors import AlreadyExistsError, ConflictError, InvalidError, NotFoundError

FUNCTIONS = "functions.core.openfunction.io"
OTHERS = "components.dapr.io"


def function(name="hello", namespace="default", *, spec=None, **metadata):
    return {
        "apiVersion": "core.openfunction.io/v1beta2",
        "kind": "Function",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {"image": "x"} if spec is None else spec,
    }


async def take(iterator, count):
    async with asyncio.timeout(30):
        return [await anext(iterator) for _ in range(count)]


def seen(events):
    return [(event.type, event.object["metadata"]["name"]) for event in events]


class StoreContract:
    async def test_create_fills_server_metadata(self, store):
        obj = await store.create(FUNCTIONS, function())

        metadata = obj["metadata"]
        assert metadata["generation"] == 1
        assert metadata["resourceVersion"] == "1"
        assert len(metadata["uid"]) == 36
        assert metadata["creationTimestamp"].endswith("Z")
        assert await store.get(FUNCTIONS, "default", "hello") == obj

    async def test_create_ignores_server_metadata_and_status_of_the_manifest(self, store):
        exported = {
            **function(
                uid="old", resourceVersion="77", generation=9, creationTimestamp="2020-01-01T00:00:00Z"
            ),
            "status": {"phase": "Old"},
        }

        obj = await store.create(FUNCTIONS, exported)

        assert obj["metadata"]["uid"] != "old"
        assert (obj["metadata"]["generation"], obj["metadata"]["resourceVersion"]) == (1, "1")
        assert "status" not in obj

    async def test_create_of_a_taken_name_is_refused(self, store):
        await store.create(FUNCTIONS, function())

        with pytest.raises(AlreadyExistsError, match="already exists"):
            await store.create(FUNCTIONS, function())

    async def test_create_generates_different_names(self, store):
        wanted = function()
        del wanted["metadata"]["name"]
        wanted["metadata"]["generateName"] = "job-"

        names = {(await store.create(FUNCTIONS, wanted))["metadata"]["name"] for _ in range(20)}

        assert len(names) == 20
        assert all(name.startswith("job-") and len(name) == 9 for name in names)

    @pytest.mark.parametrize(
        ("metadata", "field"),
        [
            ({"name": "Upper"}, "metadata.name"),
            ({"name": ""}, "metadata.name"),
            ({"name": "x" * 254}, "metadata.name"),
            ({"namespace": "a_b"}, "metadata.namespace"),
            ({"labels": {"a": 1}}, "metadata.labels.a"),
            ({"labels": {"a": "x" * 64}}, "metadata.labels.a"),
            ({"labels": ["a"]}, "metadata.labels"),
            ({"annotations": {"a": True}}, "metadata.annotations.a"),
            ({"annotations": {"a": "x" * 262_144}}, "metadata.annotations"),
            ({"finalizers": "x"}, "metadata.finalizers"),
            ({"ownerReferences": ["x"]}, "metadata.ownerReferences"),
        ],
    )
    async def test_create_with_bad_metadata_names_the_field(self, store, metadata, field):
        with pytest.raises(InvalidError) as caught:
            await store.create(FUNCTIONS, function(**metadata))

        assert [cause[0] for cause in caught.value.causes] == [field]
        assert await store.list(FUNCTIONS) == ([], 0)

    async def test_objects_are_copies_so_callers_cannot_change_the_store(self, store):
        mine = function(labels={"a": "b"})
        created = await store.create(FUNCTIONS, mine)

        mine["spec"]["image"] = created["spec"]["image"] = "changed"
        created["metadata"]["labels"]["a"] = "changed"
        (await store.get(FUNCTIONS, "default", "hello"))["spec"]["image"] = "changed"

        stored = await store.get(FUNCTIONS, "default", "hello")
        assert stored["spec"]["image"] == "x"
        assert stored["metadata"]["labels"] == {"a": "b"}

    async def test_list_is_sorted_and_keeps_namespaces_and_resources_apart(self, store):
        for namespace, name in (("b", "x"), ("a", "z"), ("a", "y"), ("ab", "q")):
            await store.create(FUNCTIONS, function(name, namespace))
        await store.create(OTHERS, function("other", "a"))

        items, version = await store.list(FUNCTIONS)
        of_a, _ = await store.list(FUNCTIONS, "a")

        names = [(item["metadata"]["namespace"], item["metadata"]["name"]) for item in items]
        assert names == [("a", "y"), ("a", "z"), ("ab", "q"), ("b", "x")]
        assert [item["metadata"]["name"] for item in of_a] == ["y", "z"]
        assert version == 5

    async def test_long_list_is_one_snapshot_although_the_loop_runs(self, store):
        for number in range(450):
            await store.create(FUNCTIONS, function(f"f{number:03}"))

        listing = asyncio.create_task(store.list(FUNCTIONS))
        await asyncio.sleep(0)
        await store.delete(FUNCTIONS, "default", "f449")
        items, version = await listing

        assert (len(items), version) == (450, 450)

    async def test_missing_object_is_not_found(self, store):
        with pytest.raises(NotFoundError):
            await store.get(FUNCTIONS, "default", "hello")
        with pytest.raises(NotFoundError):
            await store.update(FUNCTIONS, function())
        with pytest.raises(NotFoundError):
            await store.delete(FUNCTIONS, "default", "hello")

    async def test_update_with_stale_version_conflicts(self, store):
        first = await store.create(FUNCTIONS, function())
        await store.update(FUNCTIONS, {**first, "spec": {"image": "y"}})

        with pytest.raises(ConflictError):
            await store.update(FUNCTIONS, {**first, "spec": {"image": "z"}})
        with pytest.raises(ConflictError):
            await store.update(FUNCTIONS, {**first, "status": {}}, subresource="status")
        assert (await store.get(FUNCTIONS, "default", "hello"))["spec"] == {"image": "y"}

    async def test_update_of_another_incarnation_conflicts(self, store):
        await store.create(FUNCTIONS, function())

        with pytest.raises(ConflictError, match="uid"):
            await store.update(FUNCTIONS, function(uid="someone-else"))

    async def test_update_without_version_wins(self, store):
        await store.create(FUNCTIONS, function())

        updated = await store.update(FUNCTIONS, function(spec={"image": "y"}))

        assert updated["metadata"]["resourceVersion"] == "2"
        assert updated["metadata"]["uid"]

    async def test_generation_grows_only_when_content_changes(self, store):
        obj = await store.create(FUNCTIONS, function(spec={"n": 1}))
        labelled = await store.update(FUNCTIONS, function(spec={"n": 1}, labels={"a": "b"}))
        status = await store.update(FUNCTIONS, {**labelled, "status": {"a": 1}}, subresource="status")
        changed = await store.update(FUNCTIONS, function(spec={"n": True}))

        generations = [o["metadata"]["generation"] for o in (obj, labelled, status, changed)]
        assert generations == [1, 1, 1, 2]

    async def test_update_of_nothing_writes_nothing(self, store):
        obj = await store.create(FUNCTIONS, function())

        again = await store.update(FUNCTIONS, obj)

        assert again == obj
        assert (await store.list(FUNCTIONS))[1] == 1

    async def test_main_update_keeps_status_and_status_update_keeps_the_rest(self, store):
        obj = await store.create(FUNCTIONS, function())
        await store.update(FUNCTIONS, {**obj, "status": {"phase": "Running"}}, subresource="status")

        main = await store.update(FUNCTIONS, {**function(spec={"image": "y"}), "status": {"phase": "Fake"}})
        status = await store.update(
            FUNCTIONS,
            {**function(spec={"image": "no"}, labels={"no": "no"}), "status": {"phase": "Failed"}},
            subresource="status",
        )

        assert main["status"] == {"phase": "Running"}
        assert status["status"] == {"phase": "Failed"}
        assert (status["spec"], status["metadata"].get("labels")) == ({"image": "y"}, None)

    async def test_server_metadata_cannot_be_changed_by_an_update(self, store):
        obj = await store.create(FUNCTIONS, function())

        updated = await store.update(
            FUNCTIONS,
            function(generation=99, creationTimestamp="1999-01-01T00:00:00Z", deletionTimestamp="now", a="b"),
        )

        assert updated["metadata"]["generation"] == 1
        assert updated["metadata"]["creationTimestamp"] == obj["metadata"]["creationTimestamp"]
        assert "deletionTimestamp" not in updated["metadata"]

    async def test_unknown_subresource_is_not_found(self, store):
        obj = await store.create(FUNCTIONS, function())

        with pytest.raises(NotFoundError, match="scale"):
            await store.update(FUNCTIONS, obj, subresource="scale")

    async def test_delete_returns_the_last_state_and_takes_a_version(self, store):
        await store.create(FUNCTIONS, function())

        last = await store.delete(FUNCTIONS, "default", "hello")

        assert last["metadata"]["resourceVersion"] == "2"
        assert await store.list(FUNCTIONS) == ([], 2)

    async def test_recreated_object_has_another_uid(self, store):
        first = await store.create(FUNCTIONS, function())
        await store.delete(FUNCTIONS, "default", "hello")

        assert (await store.create(FUNCTIONS, function()))["metadata"]["uid"] != first["metadata"]["uid"]

    async def test_delete_with_finalizers_marks_and_the_last_removal_deletes(self, store):
        await store.create(FUNCTIONS, function(finalizers=["a.b/c", "a.b/d"]))
        marked = await store.delete(FUNCTIONS, "default", "hello")
        again = await store.delete(FUNCTIONS, "default", "hello")
        with pytest.raises(InvalidError, match="finalizers"):
            await store.update(FUNCTIONS, function(finalizers=["a.b/c", "a.b/d", "new/one"]))
        one_left = await store.update(FUNCTIONS, function(finalizers=["a.b/d"]))

        assert marked["metadata"]["deletionTimestamp"]
        assert again == marked
        assert one_left["metadata"]["deletionTimestamp"] == marked["metadata"]["deletionTimestamp"]
        assert (await store.list(FUNCTIONS))[0] == [one_left]
        await store.update(FUNCTIONS, function())
        assert (await store.list(FUNCTIONS))[0] == []

    async def test_status_can_still_be_written_while_being_deleted(self, store):
        obj = await store.create(FUNCTIONS, function(finalizers=["a.b/c"]))
        await store.delete(FUNCTIONS, "default", "hello")
        obj["metadata"].pop("resourceVersion")

        written = await store.update(FUNCTIONS, {**obj, "status": {"x": 1}}, subresource="status")

        assert written["status"] == {"x": 1}
        assert written["metadata"]["deletionTimestamp"]

    async def test_watch_without_version_begins_with_what_exists(self, store):
        await store.create(FUNCTIONS, function("a"))
        await store.create(FUNCTIONS, function("b"))
        watch = store.watch(FUNCTIONS)

        first = await take(watch, 2)
        await store.delete(FUNCTIONS, "default", "a")
        await store.create(FUNCTIONS, function("c"))
        then = await take(watch, 2)

        assert seen(first) == [("ADDED", "a"), ("ADDED", "b")]
        assert seen(then) == [("DELETED", "a"), ("ADDED", "c")]
        assert [event.resource_version for event in first + then] == [1, 2, 3, 4]

    async def test_watch_resumes_strictly_after_a_version(self, store):
        obj = await store.create(FUNCTIONS, function("a"))
        await store.update(FUNCTIONS, {**obj, "spec": {"image": "y"}})
        await store.create(OTHERS, function("other"))
        await store.create(FUNCTIONS, function("b", "elsewhere"))
        await store.create(FUNCTIONS, function("c"))

        everywhere = await take(store.watch(FUNCTIONS, since=1), 3)
        here = await take(store.watch(FUNCTIONS, "default", since=1), 2)

        assert seen(everywhere) == [("MODIFIED", "a"), ("ADDED", "b"), ("ADDED", "c")]
        assert seen(here) == [("MODIFIED", "a"), ("ADDED", "c")]

    async def test_deleted_event_has_the_last_state_and_a_fresh_version(self, store):
        await store.create(FUNCTIONS, function(labels={"a": "b"}))
        await store.delete(FUNCTIONS, "default", "hello")

        _, event = await take(store.watch(FUNCTIONS, since=0), 2)

        assert (event.type, event.resource_version) == ("DELETED", 2)
        assert event.object["metadata"]["resourceVersion"] == "2"
        assert event.object["metadata"]["labels"] == {"a": "b"}

    async def test_waiting_watch_is_woken(self, store):
        watch = store.watch(FUNCTIONS, since=0)
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)

        await store.create(FUNCTIONS, function())

        async with asyncio.timeout(30):
            assert (await waiting).type == "ADDED"

    async def test_cancelled_watch_leaves_the_others_running(self, store):
        cancelled = asyncio.ensure_future(anext(store.watch(FUNCTIONS, since=0)))
        other = asyncio.ensure_future(anext(store.watch(FUNCTIONS, since=0)))
        await asyncio.sleep(0)

        cancelled.cancel()
        await store.create(FUNCTIONS, function())

        async with asyncio.timeout(30):
            assert (await other).type == "ADDED"

    async def test_watch_from_before_the_history_is_gone(self, short_store):
        for number in range(30):
            await short_store.create(FUNCTIONS, function(f"f{number}"))

        with pytest.raises(GoneError) as caught:
            await anext(short_store.watch(FUNCTIONS, since=1))
        assert caught.value.where == FUNCTIONS
        assert seen(await take(short_store.watch(FUNCTIONS, since=28), 2)) == [
            ("ADDED", "f28"),
            ("ADDED", "f29"),
        ]

    async def test_watch_that_falls_behind_the_history_is_gone(self, short_store):
        watch = short_store.watch(FUNCTIONS, since=0)
        await short_store.create(FUNCTIONS, function("first"))
        await anext(watch)
        for number in range(30):
            await short_store.create(FUNCTIONS, function(f"f{number}"))

        with pytest.raises(GoneError):
            await anext(watch)

    async def test_watch_from_the_future_is_gone(self, store):
        with pytest.raises(GoneError, match="ahead"):
            await anext(store.watch(FUNCTIONS, since=10))

    async def test_dry_run_changes_nothing(self, store):
        kept = await store.create(FUNCTIONS, function("kept"))

        await store.create(FUNCTIONS, function("new"), dry_run=True)
        await store.update(FUNCTIONS, {**kept, "spec": {}}, dry_run=True)
        await store.delete(FUNCTIONS, "default", "kept", dry_run=True)

        assert await store.list(FUNCTIONS) == ([kept], 1)
