"""Rules of waiting for a place: in order, woken by hints, and never lost."""

from __future__ import annotations

import asyncio

import pytest

from pelton.dataplane.places import Places


class Room:
    """So many free places, and who took them in which order."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.places = Places()
        self.order: list[str] = []

    def find(self) -> str | None:
        if not self.free:
            return None
        self.free -= 1
        return "place"

    async def take(self, name: str) -> None:
        await self.places.take(self.find)
        self.order.append(name)

    def give(self) -> None:
        self.free += 1
        self.places.freed()


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_free_place_is_taken_at_once():
    room = Room(1)

    await room.take("a")
    assert len(room.places) == 0


async def test_places_go_in_the_order_of_waiting():
    room = Room(0)
    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(room.take(name))
            await turn()
        assert len(room.places) == 3
        for _ in range(3):
            room.give()
            await turn()

    assert room.order == ["a", "b", "c"]


async def test_several_places_at_once_wake_several():
    room = Room(0)
    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(room.take(name))
        await turn()
        room.free = 3
        room.places.freed()

    assert room.order == ["a", "b", "c"]


async def test_place_that_comes_free_unannounced_is_found():
    room = Room(0)
    async with asyncio.timeout(2), asyncio.TaskGroup() as group:
        group.create_task(room.take("a"))
        await turn()
        room.free = 1

    assert room.order == ["a"]


async def test_who_leaves_gives_its_turn_on():
    room = Room(0)
    first = asyncio.create_task(room.take("a"))
    second = asyncio.create_task(room.take("b"))
    await turn()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    room.give()
    await second

    assert room.order == ["b"]
    assert len(room.places) == 0


async def test_error_of_a_look_ends_the_wait_of_one_alone():
    places = Places()
    answers = iter([None, ValueError("no"), "place"])

    def find() -> str | None:
        answer = next(answers)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    first = asyncio.create_task(places.take(find))
    second = asyncio.create_task(places.take(find))
    await turn()
    places.freed()

    with pytest.raises(ValueError, match="no"):
        await first
    assert await second == "place"


async def test_newcomer_does_not_overtake():
    room = Room(0)
    first = asyncio.create_task(room.take("a"))
    await turn()
    room.free = 1
    second = asyncio.create_task(room.take("b"))
    await first
    room.give()
    await second

    assert room.order == ["a", "b"]
