import pytest

from pelton.clock import SystemClock
from pelton.drivers.memory import MemoryBroker, MemoryBus
from pelton.errors import DeliveryError
from pelton.model.desired import Component
from pelton.ports import Message
from tests.contract.bus import LedgerContract, fill, take, texts


class TestMemoryBus(LedgerContract):
    @pytest.fixture
    async def bus(self):
        async with MemoryBus() as bus:
            yield bus

    async def test_publish_is_refused_when_a_consumer_is_too_far_behind(self):
        async with MemoryBus(max_messages=3) as bus:
            await fill(bus, "orders", 1)
            await take(bus, "orders", 1)
            await fill(bus, "orders", 3)

            with pytest.raises(DeliveryError, match="3 messages behind"):
                await bus.publish(Message(topic="orders", data=b"x"))
            await bus.publish(Message(topic="elsewhere", data=b"x"))

    async def test_held_message_lapses_when_nobody_renews_it(self):
        async with MemoryBus(ack_wait_s=0.05) as bus:
            await fill(bus, "orders", 1)
            found: list[object] = []
            async for batch in bus.subscribe("orders", consumer="c", max_in_flight=10, options={}):
                found += batch
                if len(found) == 2:
                    break

        assert texts(found) == ["0", "0"]


class TestMemoryBroker(LedgerContract):
    @pytest.fixture
    async def bus(self):
        component = Component(namespace="shop", name="events", type="pubsub.in-memory")
        async with MemoryBroker(component, clock=SystemClock()) as bus:
            yield bus

    async def test_keys_of_another_broker_of_the_name_are_others(self):
        component = Component(namespace="shop", name="events", type="pubsub.in-memory")
        keys: set[str] = set()
        for _ in range(2):
            async with MemoryBroker(component, clock=SystemClock()) as bus:
                await fill(bus, "orders", 1)
                keys.update(delivery.key for delivery in await take(bus, "orders", 1))

        assert len(keys) == 2
