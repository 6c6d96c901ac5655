"""The state of a Trigger is stored before anybody acts on it, and shared by replicas."""

import asyncio

import pytest

from pelton.dataplane.trigger_state import TriggerState
from pelton.drivers.memory import MemoryBus
from pelton.errors import ConflictError, DeliveryError
from pelton.model.event_framework import PlannedTrigger
from pelton.plan.trigger_window import Stretch

TRIGGER = PlannedTrigger(namespace="default", name="t", uid="u1", inputs=(), subscribers=())


class Slow(MemoryBus):
    """Counts writes, each of which takes a turn of the loop; fails while `down`."""

    def __init__(self):
        super().__init__()
        self.writes = 0
        self.down = False

    async def write_register(self, name, data, *, revision):
        self.writes += 1
        await asyncio.sleep(0)
        if self.down:
            raise DeliveryError("the bus is down")
        return await super().write_register(name, data, revision=revision)


@pytest.fixture
async def registers():
    async with Slow() as bus:
        yield bus


async def test_marks_are_stored_when_the_caller_gets_them(registers):
    marks = await TriggerState(TRIGGER, registers).mark(["a"], 5.0)

    assert marks == {"a": Stretch(5.0, 5.0)}
    assert await TriggerState(TRIGGER, registers).read() == marks


async def test_events_at_once_share_a_write(registers):
    state = TriggerState(TRIGGER, registers)

    results = await asyncio.gather(*(state.mark(["a"], float(at)) for at in range(100)))

    assert registers.writes < 5
    assert results[-1] == {"a": Stretch(0.0, 99.0)}


async def test_replicas_see_each_other(registers):
    """Whichever comes second sees both: no pair is missed between two replicas."""
    one, other = TriggerState(TRIGGER, registers), TriggerState(TRIGGER, registers)
    await asyncio.gather(one.mark(["a"], 1.0), other.mark(["c"], 1.0))

    results = await asyncio.gather(one.mark(["a"], 2.0), other.mark(["b"], 2.0))

    assert any({"a", "b"} <= result.keys() for result in results)
    assert (await one.read()).keys() == {"a", "b", "c"}


async def test_state_of_another_object_of_the_same_name_is_not_its_own(registers):
    await TriggerState(TRIGGER, registers).mark(["a"], 1.0)
    again = PlannedTrigger(namespace="default", name="t", uid="u2", inputs=(), subscribers=())

    assert await TriggerState(again, registers).mark(["b"], 2.0) == {"b": Stretch(2.0, 2.0)}


async def test_failed_write_is_told_to_all_that_share_it_and_the_next_one_works(registers):
    state = TriggerState(TRIGGER, registers)
    await state.mark(["a"], 1.0)
    registers.down = True
    results = await asyncio.gather(*(state.mark(["b"], 2.0) for _ in range(3)), return_exceptions=True)
    registers.down = False

    assert [type(result) for result in results] == [DeliveryError] * 3
    assert (await state.mark(["c"], 3.0)).keys() == {"a", "c"}


async def test_endless_conflict_is_given_up(registers):
    async def refuse(name, data, *, revision):
        raise ConflictError("changed")

    registers.write_register = refuse

    with pytest.raises(ConflictError):
        await TriggerState(TRIGGER, registers).mark(["a"], 1.0)
