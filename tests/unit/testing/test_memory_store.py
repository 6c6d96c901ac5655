import pytest

from pelton.testing.memory_store import MemoryStore
from tests.contract.store import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def store(self):
        async with MemoryStore() as store:
            yield store

    @pytest.fixture
    async def short_store(self):
        async with MemoryStore(history=10) as store:
            yield store
