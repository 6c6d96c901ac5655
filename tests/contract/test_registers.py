from datetime import datetime

import pytest

from pelton.drivers.memory import MemoryBus
from pelton.errors import ComponentError
from pelton.ports import Message
from tests.contract.bus import take
from tests.contract.nats_server import NatsServer
from tests.contract.registers import RegistersContract


class TestMemoryRegisters(RegistersContract):
    @pytest.fixture
    async def registers(self):
        async with MemoryBus() as bus:
            yield bus


@pytest.fixture
async def nats(tmp_path):
    found = NatsServer(tmp_path)
    await found.start()
    yield found
    found.kill()


@pytest.mark.connected
class TestJetStreamRegisters(RegistersContract):
    @pytest.fixture
    async def registers(self, nats):
        async with nats.bus() as bus:
            yield bus

    async def test_value_survives_the_death_of_the_broker(self, nats, registers):
        revision = await registers.write_register("r", b"one", revision=0)
        nats.kill()
        await nats.start()

        assert await registers.read_register("r") == (b"one", revision)


@pytest.mark.connected
async def test_deliveries_tell_when_the_broker_stored_them(nats):
    async with nats.bus() as bus:
        await bus.publish(Message(topic="orders", data=b"x"))
        (delivery,) = await take(bus, "orders", 1)
        (stored,) = [one async for one in bus.stored("orders")]

    told = datetime.fromisoformat(f"{stored.time[:26].rstrip('Z')}+00:00").timestamp()
    assert delivery.message.at == pytest.approx(told, abs=1e-3)


@pytest.mark.connected
async def test_streams_of_an_external_server_are_made_only_when_asked_for(nats):
    async with nats.bus(embedded=False) as bus:
        with pytest.raises(ComponentError, match="no stream stores"):
            await bus.publish(Message(topic="orders", data=b"x"))
    async with nats.bus(embedded=False, settings={"createStreams": "true"}) as bus:
        await bus.publish(Message(topic="orders", data=b"x"))
        assert [one.message.data async for one in bus.stored("orders")] == [b"x"]
