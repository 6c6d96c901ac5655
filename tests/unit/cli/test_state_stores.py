"""State stores that functions and apps share."""

from pelton.cli.state_stores import StateStores
from pelton.model.desired import Component
from pelton.model.state import StateChange
from pelton.testing.clock import FakeClock


def component(**metadata):
    return Component(namespace="default", name="s", type="state.in-memory", metadata=metadata)


async def value(store, key):
    return (await store.get([key]))[0].data


async def test_equal_components_share_a_store_until_the_last_one_closes(tmp_path):
    stores = StateStores(FakeClock(), tmp_path)
    first, second, other = stores.open(component()), stores.open(component()), stores.open(component(x="1"))

    await first.write([StateChange(key="k", data=b"1")])
    await first.close()
    await first.close()
    kept = await value(second, "k")
    await second.close()
    fresh = stores.open(component())

    assert kept == b"1"
    assert await value(other, "k") is None
    assert await value(fresh, "k") is None
    assert [item.key for item in await other.scan("", limit=5)] == []
    await other.close()
    await fresh.close()
