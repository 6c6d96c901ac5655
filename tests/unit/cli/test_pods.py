"""Instances as Pods: what the mirror shows, and that no version is handed out twice."""

import json

import pytest

from pelton.apiserver.builtin.pods import KEY, LogRequest
from pelton.apiserver.store import SqliteStore
from pelton.cli.pods import PodMirror, logs_of, replicas_of
from pelton.clock import SystemClock
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore


def instance(name="hello-1-aaaaa", state="ready"):
    return {
        "namespace": "default",
        "name": "hello",
        "id": name,
        "revision": "hello-1",
        "pid": 7,
        "state": state,
    }


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


def mirror(store, clock=None):
    return PodMirror(store, None, clock or FakeClock())  # type: ignore[arg-type] # nobody is asked here


async def test_pod_follows_its_instance_from_start_to_end(store):
    view, phases = mirror(store), []
    for state in ("starting", "ready", "ready", "draining"):
        await view.mirror([instance(state=state)])
        obj = await store.get(KEY, "default", "hello-1-aaaaa")
        phases.append((obj["status"]["phase"], "deletionTimestamp" in obj["metadata"]))
    version = store.version
    await view.mirror([instance(state="draining")])
    unchanged = store.version == version
    await view.mirror([])

    assert phases == [("Pending", False), ("Running", False), ("Running", False), ("Running", True)]
    assert unchanged
    assert store.entries(KEY) == []


async def test_replicas_are_the_pods_of_a_function(store):
    await mirror(store).mirror([instance(), instance("hello-1-bbbbb"), {**instance("x-1-c"), "name": "x"}])

    assert replicas_of(store)({"metadata": {"namespace": "default", "name": "hello"}}) == 2


async def test_pods_are_not_kept_and_their_versions_are_not_used_again(tmp_path):
    async with SqliteStore(tmp_path / "s", clock=SystemClock()) as store:
        await mirror(store).mirror([instance()])
        seen = store.version
    async with SqliteStore(tmp_path / "s", clock=SystemClock()) as store:
        assert store.entries(KEY) == []
        made = await store.create("r", {"metadata": {"name": "a"}})

    assert int(made["metadata"]["resourceVersion"]) > seen


def lines(tmp_path, *records):
    place = tmp_path / "default" / "hello"
    place.mkdir(parents=True)
    text = "".join(
        json.dumps(
            {
                "@timestamp": float(at),
                "time": f"T{at}",
                "log": f"{log}\n",
                "kubernetes": {"pod_name": pod},
            }
        )
        + "\n"
        for at, pod, log in records
    )
    (place / "current.jsonl").write_text(text)


def request(**more):
    asked = {
        "namespace": "default",
        "function": "hello",
        "instance": "one",
        "follow": False,
        "tail": None,
        "since_s": 0,
        "since_time": "",
        "timestamps": False,
        "limit_bytes": 0,
    }
    return LogRequest(**{**asked, **more})


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, b"a\nb\nc\n"),
        ({"tail": 1}, b"c\n"),
        ({"tail": 0}, b""),
        ({"timestamps": True, "tail": 1}, b"T4 c\n"),
        ({"limit_bytes": 3}, b"a\nb"),
        ({"since_time": "1970-01-01T00:00:03Z"}, b"b\nc\n"),
        ({"instance": "two"}, b"other\n"),
        ({"follow": True}, b"a\nb\nc\n"),  # ends, since there is no such instance any more
    ],
)
async def test_log_is_cut_as_asked(store, tmp_path, more, expected):
    lines(tmp_path, (1, "one", "a"), (2, "two", "other"), (3, "one", "b"), (4, "one", "c"))

    read = logs_of(store, tmp_path, SystemClock())

    assert b"".join([piece async for piece in read(request(**more))]) == expected
