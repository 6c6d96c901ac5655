"""Rules of Events."""

from __future__ import annotations

import pytest

from pelton.controlplane.events import EVENTS, Recorder
from pelton.errors import HomeError
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore

OBJECT = {
    "apiVersion": "core.openfunction.io/v1beta2",
    "kind": "Function",
    "metadata": {"namespace": "ns", "name": "f", "uid": "u", "resourceVersion": "7"},
}


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def store(clock):
    async with MemoryStore(clock=clock) as store:
        yield store


async def listed(store):
    return (await store.list(EVENTS))[0]


async def test_event_says_what_happened_to_whom(store, clock):
    await Recorder(store, clock).record(OBJECT, "BuildFailed", "no pip\nTraceback")
    (event,) = await listed(store)

    assert event["involvedObject"]["uid"] == "u"
    assert (event["type"], event["reason"], event["message"], event["count"]) == (
        "Warning",
        "BuildFailed",
        "no pip",
        1,
    )
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-01-02T03:04:05Z"
    assert event["metadata"]["namespace"] == "ns"


async def test_the_same_again_is_counted_and_something_else_is_not(store, clock):
    recorder = Recorder(store, clock)
    await recorder.record(OBJECT, "Running", "f-1 runs")
    await clock.advance(60)
    await recorder.record(OBJECT, "Running", "f-1 runs")
    await recorder.record(OBJECT, "Running", "f-2 runs")

    found = {event["message"]: (event["count"], event["lastTimestamp"]) for event in await listed(store)}
    assert found == {"f-1 runs": (2, "2026-01-02T03:05:05Z"), "f-2 runs": (1, "2026-01-02T03:05:05Z")}


async def test_an_event_that_was_removed_is_written_anew(store, clock):
    recorder = Recorder(store, clock)
    await recorder.record(OBJECT, "Running")
    (event,) = await listed(store)
    await store.delete(EVENTS, "ns", event["metadata"]["name"])
    await recorder.record(OBJECT, "Running")

    assert [event["count"] for event in await listed(store)] == [1]


async def test_a_store_that_refuses_is_counted_and_stops_nobody(clock):
    class Full:
        async def create(self, *_args, **_more):
            raise HomeError("disk full")

    recorder = Recorder(Full(), clock)  # type: ignore[arg-type]  # the one method that is used
    await recorder.record(OBJECT, "Running")

    assert recorder.dropped == 1
