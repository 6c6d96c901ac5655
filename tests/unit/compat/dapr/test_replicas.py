"""Instances of an app: turns, limits, and the start of one when there is none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pelton.compat.dapr.channel import UNREACHED, AppUnreachableError, TopicEvent
from pelton.compat.dapr.replicas import Replicas
from pelton.errors import WakeError
from tests.unit.compat.dapr.test_callbacks import ScriptedApp

EVENT = TopicEvent(pubsub="b", topic="t", path="/", envelope=b"{}", attributes={}, data=b"")


def instances(*apps: ScriptedApp) -> dict[str, Any]:
    return {str(number): app for number, app in enumerate(apps)}


async def test_deliver_goes_round_the_instances() -> None:
    one, two = ScriptedApp(), ScriptedApp()
    replicas = Replicas()
    replicas.sync(instances(one, two))

    for _ in range(4):
        await replicas.deliver(EVENT, timeout_s=1)

    assert (len(one.got), len(two.got)) == (2, 2)


async def test_deliver_without_an_instance_is_no_attempt() -> None:
    assert (await Replicas().deliver(EVENT, timeout_s=1)).status == UNREACHED


async def test_deliver_at_zero_starts_one_for_all_who_wait() -> None:
    app, woken = ScriptedApp(), []

    async def wake() -> None:
        woken.append(1)
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(replicas.sync, instances(app))

    replicas = Replicas(wake=wake)
    await asyncio.gather(*(replicas.deliver(EVENT, timeout_s=1) for _ in range(3)))

    assert (len(woken), len(app.got)) == (1, 3)


async def test_deliver_start_that_fails_is_no_attempt_and_is_tried_again() -> None:
    woken = []

    async def wake() -> None:
        woken.append(1)
        raise WakeError("no room")

    replicas = Replicas(wake=wake)
    answers = [await replicas.deliver(EVENT, timeout_s=1) for _ in range(2)]

    assert [answer.status for answer in answers] == [UNREACHED] * 2
    assert (len(woken), "no room" in answers[0].reason) == (2, True)
    with pytest.raises(AppUnreachableError) as caught:
        async with replicas.leased():
            pass
    assert caught.value.untouched


async def test_max_concurrency_is_that_of_each_instance() -> None:
    running, most, go_on = 0, 0, asyncio.Event()

    class Slow(ScriptedApp):
        async def deliver(self, event: TopicEvent, *, timeout_s: float) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await go_on.wait()
            running -= 1
            return await super().deliver(event, timeout_s=timeout_s)

    replicas = Replicas(max_concurrency=2)
    replicas.sync(instances(Slow(), Slow()))
    calls = [asyncio.create_task(replicas.deliver(EVENT, timeout_s=5)) for _ in range(9)]
    while running < 4:
        await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(*calls)

    assert most == 4


async def test_is_healthy_nothing_is_started_to_be_probed() -> None:
    async def wake() -> None:
        raise AssertionError

    assert await Replicas(wake=wake).is_healthy("/", timeout_s=1)
    assert not await Replicas().is_healthy("/", timeout_s=1)
