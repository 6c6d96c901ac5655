import asyncio

import pytest

from pelton.cli.bus_table import GRACE_S, BusTable
from pelton.errors import ComponentError
from pelton.model.desired import Component
from pelton.testing.clock import FakeClock


class Opened:
    def __init__(self, component):
        self.component = component
        self.closed = False

    async def close(self):
        self.closed = True


def component(name="in", **metadata):
    return Component(namespace="default", name=name, type="pubsub.kafka", metadata=metadata)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def table(clock):
    async def opened(one):
        await asyncio.sleep(0)
        if one.metadata.get("brokers") == "bad":
            raise ComponentError("no")
        return Opened(one)

    table = BusTable(opened, clock)
    yield table
    await table.close()


async def test_same_content_is_one_bus_and_another_content_another(table):
    first, again, other = await asyncio.gather(
        table.get(component(brokers="a")),
        table.get(component(brokers="a")),
        table.get(component(brokers="b")),
    )

    assert first is again
    assert other is not first


async def test_bus_that_no_function_uses_any_more_is_closed_after_the_grace(table, clock):
    old, new = component(brokers="a"), component(brokers="b")
    table.keep([old])
    bus = await table.get(old)
    table.keep([new])
    await clock.advance(GRACE_S - 1)
    assert not bus.closed
    await clock.advance(2)

    assert bus.closed
    assert await table.get(old) is not bus


async def test_bus_that_is_used_again_in_time_stays(table, clock):
    table.keep([component()])
    bus = await table.get(component())
    table.keep([])
    table.keep([component()])
    await clock.advance(GRACE_S + 1)

    assert not bus.closed
    assert await table.get(component()) is bus


async def test_bus_of_somebody_else_than_functions_stays(table, clock):
    bus = await table.get(component())
    table.keep([])
    await clock.advance(GRACE_S + 1)

    assert not bus.closed


async def test_refused_component_can_be_asked_for_again(table):
    for _ in range(2):
        with pytest.raises(ComponentError):
            await table.get(component(brokers="bad"))


async def test_closing_the_table_closes_all(table):
    bus = await table.get(component())
    await table.close()

    assert bus.closed
