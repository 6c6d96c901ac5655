import pytest

from pelton.clock import SystemClock
from pelton.drivers.configuration_memory import MemoryConfiguration
from pelton.model.desired import Component
from pelton.ports import ConfigurationItem
from tests.contract.configuration import ConfigurationContract


def component(**metadata):
    return Component(namespace="a", name="b", type="configuration.in-memory", metadata=metadata)


class TestMemoryConfiguration(ConfigurationContract):
    @pytest.fixture
    def store(self):
        return MemoryConfiguration(component(), clock=SystemClock())

    @pytest.fixture
    def put(self, store):
        async def put(key, value, version):
            store.put(key, None if value is None else f"{value}||{version}")

        return put

    async def test_metadata_are_the_settings(self):
        store = MemoryConfiguration(component(color="red||3", size="9"), clock=SystemClock())

        assert await store.get([]) == {
            "color": ConfigurationItem(value="red", version="3"),
            "size": ConfigurationItem(value="9"),
        }
