"""Rules of the work queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from pelton.controlplane.queue import KeyQueue
from pelton.testing.clock import FakeClock


@asynccontextmanager
async def running(queue: KeyQueue):
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_added_key_is_handled_once_however_often_it_was_added():
    seen: list[str] = []

    async def handle(key: str) -> None:
        seen.append(key)

    queue = KeyQueue(handle, clock=FakeClock())
    for _ in range(5):
        queue.add("a")
    async with running(queue):
        await queue.idle()

    assert seen == ["a"]


async def test_key_added_while_it_runs_runs_once_more_and_never_beside_itself():
    gate, started = asyncio.Event(), asyncio.Event()
    inside: Counter[str] = Counter()
    most: Counter[str] = Counter()
    runs: Counter[str] = Counter()

    async def handle(key: str) -> None:
        inside[key] += 1
        most[key] = max(most[key], inside[key])
        runs[key] += 1
        started.set()
        await gate.wait()
        inside[key] -= 1

    queue = KeyQueue(handle, clock=FakeClock())
    async with running(queue):
        queue.add("a")
        await started.wait()
        queue.add("a")
        queue.add("a")
        gate.set()
        await queue.idle()

    assert runs["a"] == 2
    assert most["a"] == 1


async def test_keys_run_side_by_side_up_to_the_limit():
    gate = asyncio.Event()
    now, most = 0, 0
    full = asyncio.Event()

    async def handle(_key: str) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 3:
            full.set()
        await gate.wait()
        now -= 1

    queue = KeyQueue(handle, clock=FakeClock(), parallel=3)
    async with running(queue):
        for index in range(10):
            queue.add(str(index))
        await full.wait()
        gate.set()
        await queue.idle()

    assert most == 3


async def test_failing_key_comes_again_after_a_wait_that_doubles_up_to_the_cap():
    clock = FakeClock()
    times: list[float] = []

    async def handle(_key: str) -> None:
        times.append(clock.monotonic())
        raise RuntimeError("down")

    queue = KeyQueue(handle, clock=clock, backoff_s=1.0, max_backoff_s=5.0)
    async with running(queue):
        queue.add("a")
        await clock.advance(20.0)

    assert [later - earlier for earlier, later in pairwise(times)] == [1, 2, 4, 5, 5]


async def test_success_resets_the_wait():
    clock = FakeClock()
    outcomes = iter([True, True, False, True, True])
    times: list[float] = []

    async def handle(_key: str) -> None:
        times.append(clock.monotonic())
        if next(outcomes):
            raise RuntimeError("down")

    queue = KeyQueue(handle, clock=clock, backoff_s=1.0)
    async with running(queue):
        queue.add("a")
        await clock.advance(3.0)
        assert queue.failures("a") == 0
        queue.add("a")
        await clock.advance(1.0)

    assert [moment - times[0] for moment in times] == [0, 1, 3, 3, 4]


async def test_failing_key_does_not_hold_up_others():
    clock = FakeClock()
    seen: list[str] = []

    async def handle(key: str) -> None:
        seen.append(key)
        if key == "bad":
            raise RuntimeError("down")

    queue = KeyQueue(handle, clock=clock)
    async with running(queue):
        queue.add("bad")
        queue.add("good")
        await queue.idle()

    assert seen == ["bad", "good"]


async def test_added_key_does_not_wait_for_its_retry():
    clock = FakeClock()
    runs = 0

    async def handle(_key: str) -> float | None:
        nonlocal runs
        runs += 1
        return 100.0

    queue = KeyQueue(handle, clock=clock)
    async with running(queue):
        queue.add("a")
        await queue.idle()
        queue.add("a")
        await queue.idle()
        assert runs == 2
        await clock.advance(99.0)
        assert runs == 2
        await clock.advance(1.0)

    assert runs == 3


@pytest.mark.parametrize(("first", "second"), [(5.0, 1.0), (1.0, 5.0)])
async def test_earliest_of_two_waits_counts(first, second):
    clock = FakeClock()
    runs = 0

    async def handle(_key: str) -> None:
        nonlocal runs
        runs += 1

    queue = KeyQueue(handle, clock=clock)
    async with running(queue):
        queue.add_after("a", first)
        queue.add_after("a", second)
        await clock.advance(1.0)
        assert runs == 1
        await clock.advance(10.0)

    assert runs == 1


async def test_cancelling_ends_handlers_and_timers():
    clock = FakeClock()
    ended = asyncio.Event()
    started = asyncio.Event()

    async def handle(_key: str) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    queue = KeyQueue(handle, clock=clock)
    async with running(queue):
        queue.add("a")
        queue.add_after("b", 10.0)
        await started.wait()

    assert ended.is_set()
