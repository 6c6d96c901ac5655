import pytest

from pelton.drivers.lock_memory import MemoryLocks
from pelton.model.desired import Component
from pelton.testing.clock import FakeClock
from tests.contract.lock import LockContract


class TestMemoryLocks(LockContract):
    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def lock(self, clock):
        return MemoryLocks(Component(namespace="a", name="b", type="lock.in-memory"), clock=clock)
