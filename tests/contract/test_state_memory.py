import pytest

from pelton.drivers.state_memory import MemoryStates
from pelton.model.desired import Component
from pelton.testing.clock import FakeClock
from tests.contract.state import StateContract, save


class TestMemoryStates(StateContract):
    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    async def store(self, clock):
        store = MemoryStates(Component(namespace="shop", name="db", type="state.in-memory"), clock=clock)
        yield store
        await store.close()

    async def test_expired_values_do_not_fill_memory(self, store, clock):
        await store.write([save(str(n), metadata={"ttlInSeconds": "1"}) for n in range(100)])
        await clock.advance(100)
        await store.write([save("other")])

        assert len(store._values) == 1
