"""Jobs of Functions as objects that follow the node's list."""

import pytest

from pelton.cli.jobs import FUNCTION_LABEL, JobMirror
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        await store.create(
            "functions.core.openfunction.io",
            {
                "apiVersion": "core.openfunction.io/v1beta2",
                "kind": "Function",
                "metadata": {"name": "f", "namespace": "n"},
                "spec": {"image": "i"},
            },
        )
        yield store


def row(name, state, **more):
    ended = "2026-01-02T03:05:05Z" if state in ("succeeded", "failed") else ""
    return {
        "namespace": "n",
        "name": "f",
        "id": name,
        "state": state,
        "started": "2026-01-02T03:04:05Z",
        "ended": ended,
        "events": 3,
        "share": 10,
        **more,
    }


async def jobs(store):
    return {job["metadata"]["name"]: job for job in (await store.list("jobs.batch"))[0]}


async def test_objects_follow_the_list(store):
    rows = [row("a", "pending"), row("b", "running"), row("c", "succeeded"), row("d", "failed")]

    async def ask():
        return rows

    mirror = JobMirror(store, ask, FakeClock())
    await mirror.tick()
    await mirror.tick()

    found = await jobs(store)
    assert [found[name]["status"].get("active") for name in "abcd"] == [1, 1, None, None]
    assert found["c"]["status"]["succeeded"] == 1
    assert found["d"]["status"]["conditions"][0]["type"] == "Failed"
    assert found["a"]["metadata"]["labels"][FUNCTION_LABEL] == "f"
    assert found["a"]["metadata"]["ownerReferences"][0]["kind"] == "Function"
    rows[:] = [row("b", "succeeded")]
    await mirror.tick()
    found = await jobs(store)
    assert sorted(found) == ["b", "c", "d"]  # "a" is gone, "c" and "d" are history
    assert found["b"]["status"]["succeeded"] == 1


async def test_ended_jobs_outlive_the_node_up_to_the_limits(store):
    rows = [row("lost", "running"), row("a", "failed"), *(row(f"s{n}", "succeeded") for n in range(3))]
    for number, one in enumerate(rows[2:]):
        one["ended"] = f"2026-01-02T03:05:0{number}Z"
    limits = None

    async def ask():
        return rows

    mirror = JobMirror(store, ask, FakeClock(), lambda _key: limits)
    await mirror.tick()
    rows[:] = []
    await mirror.tick()
    assert sorted(await jobs(store)) == ["a", "s0", "s1", "s2"]

    limits = (2, 1)
    rows[:] = [row("s3", "succeeded")]
    await mirror.tick()
    await mirror.tick()

    assert sorted(await jobs(store)) == ["a", "s2", "s3"]


async def test_jobs_of_others_are_left_alone(store):
    other = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x", "namespace": "n"}, "spec": {}}
    await store.create("jobs.batch", other)

    async def ask():
        return []

    await JobMirror(store, ask, FakeClock()).tick()

    assert list(await jobs(store)) == ["x"]
