import sqlite3

import pytest

from pelton.drivers.state_sqlite import SqliteStates
from pelton.errors import ComponentError
from pelton.model.desired import Component
from pelton.testing.clock import FakeClock
from tests.contract.state import StateContract, save, value


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def open_store(tmp_path, clock):
    stores = []

    def make(**metadata):
        component = Component(
            namespace="shop",
            name="db",
            type="state.sqlite",
            metadata={"connectionString": "orders.db", **metadata},
        )
        stores.append(SqliteStates(component, clock=clock, folder=tmp_path / "state"))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


class TestSqliteStates(StateContract):
    @pytest.fixture
    def store(self, open_store):
        return open_store()


async def test_values_survive_the_store_and_serve_several_at_once(open_store):
    first, second = open_store(), open_store()
    await first.write([save("a", b"1")])

    assert await value(second, "a") == b"1"

    await first.close()
    await second.write([save("a", b"2")])
    assert await value(open_store(), "a") == b"2"


async def test_store_can_be_used_again_after_close(open_store):
    store = open_store()
    await store.write([save("a", b"1")])
    await store.close()

    assert await value(store, "a") == b"1"


async def test_tables_are_those_of_dapr(open_store, tmp_path):
    store = open_store(tableName="things", metadataTableName="notes")
    await store.write([save("a", b'"x"'), save("b", b"\xff", json=False)])
    await store.close()

    with sqlite3.connect(tmp_path / "state" / "orders.db") as database:
        rows = database.execute("SELECT key, value, is_binary FROM things ORDER BY key").fetchall()
        notes = database.execute("SELECT key, value FROM notes").fetchall()
    database.close()
    assert rows == [("a", '"x"', 0), ("b", "/w==", 1)]
    assert notes == [("migrations", "1")]


async def test_expired_rows_are_deleted_when_asked_for(open_store, clock, tmp_path):
    store = open_store(cleanupInterval="10s")
    await store.write([save("a", metadata={"ttlInSeconds": "1"})])
    await clock.advance(60)
    await store.write([save("b")])
    await store.close()

    with sqlite3.connect(tmp_path / "state" / "orders.db") as database:
        assert database.execute("SELECT key FROM state").fetchall() == [("b",)]
    database.close()


async def test_expired_rows_stay_where_cleanup_is_off(open_store, clock, tmp_path):
    store = open_store(cleanupInterval="-1")
    await store.write([save("a", metadata={"ttlInSeconds": "1"})])
    await clock.advance(60)
    await store.write([save("b")])
    await store.close()

    with sqlite3.connect(tmp_path / "state" / "orders.db") as database:
        assert database.execute("SELECT key FROM state ORDER BY key").fetchall() == [("a",), ("b",)]
    database.close()


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"connectionString": ""}, "connectionString"),
        ({"tableName": "a; DROP TABLE b"}, "table name"),
        ({"timeout": "soon"}, "timeout"),
    ],
    ids=["connection", "table", "timeout"],
)
async def test_bad_settings_are_refused_with_their_name(open_store, metadata, match):
    with pytest.raises(ComponentError, match=match):
        open_store(**metadata)


async def test_file_that_is_no_database_is_reported_with_its_path(open_store, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "orders.db").write_bytes(b"no database at all" * 100)

    with pytest.raises(ComponentError, match=r"orders\.db cannot be used"):
        await open_store().get(["a"])


async def test_memory_database_needs_no_folder(open_store, tmp_path):
    store = open_store(connectionString=":memory:")
    await store.write([save("a", b"1")])

    assert await value(store, "a") == b"1"
    assert not (tmp_path / "state").exists()
