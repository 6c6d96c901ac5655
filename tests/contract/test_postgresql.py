"""The PostgreSQL drivers against a real server."""

import asyncio
import json

import asyncpg
import pytest

from pelton.clock import SystemClock
from pelton.drivers.postgresql import PostgreSqlBinding, PostgreSqlConfiguration, PostgreSqlStates
from pelton.errors import ComponentError, ConflictError, DeliveryError, MalformedEtagError
from pelton.model.desired import Component
from pelton.testing.clock import FakeClock
from tests.contract.authority import Authority
from tests.contract.binding import BindingContract
from tests.contract.configuration import ConfigurationContract, heard, last, watched
from tests.contract.state import StateContract, save, value
from tests.services.server import free_port

pytestmark = pytest.mark.connected

SECRET = "correct-horse"


def component(kind, url, version="v1", **metadata):
    settings = {"connectionString": url, **metadata}
    return Component(namespace="shop", name="db", type=kind, version=version, metadata=settings)


@pytest.fixture
async def plain(postgresql):
    """A connection to a server whose schema is empty at the start of the test."""
    connection = await asyncpg.connect(postgresql.url)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    yield connection
    await connection.close()


class ServerClock:
    """Passes time for the rows of a table by bringing their ends nearer."""

    def __init__(self, connection, column):
        self._connection, self._column = connection, column

    async def advance(self, seconds):
        await self._connection.execute(
            f"UPDATE state SET {self._column} = {self._column} - make_interval(secs => $1) "
            f"WHERE {self._column} IS NOT NULL",
            float(seconds),
        )


class Layout(StateContract):
    version, column = "v1", "expiredate"
    malformed = MalformedEtagError

    @pytest.fixture
    def clock(self, plain):
        return ServerClock(plain, self.column)

    @pytest.fixture
    async def store(self, postgresql, plain):
        settings = component("state.postgresql", postgresql.url, self.version)
        store = PostgreSqlStates(settings, clock=SystemClock())
        yield store
        await store.close()

    async def test_one_of_many_first_writes_wins(self, store):
        changes = [[save("a", str(n).encode(), concurrency="first-write")] for n in range(8)]
        results = await asyncio.gather(*map(store.write, changes), return_exceptions=True)

        assert [type(result) for result in results if result is not None] == [ConflictError] * 7

    async def test_opposite_orders_of_keys_do_not_block_each_other(self, store):
        await asyncio.gather(
            *(store.write([save(key) for key in keys]) for keys in [("a", "b", "c"), ("c", "b", "a")] * 5)
        )
        assert await value(store, "b") is not None


class TestFirstLayout(Layout):
    @pytest.fixture
    def other_etag(self):
        return "1"

    async def test_wrong_json_is_refused_with_the_servers_words(self, store):
        with pytest.raises(ComponentError, match="json"):
            await store.write([save("a", b"{broken")])

    async def test_rows_are_those_of_dapr(self, store, plain):
        await store.write([save("a", b'"x"'), save("b", b"\xff", json=False)])
        rows = await plain.fetch("SELECT key, value::text, isbinary FROM state ORDER BY key")
        assert [tuple(row) for row in rows] == [("a", '"x"', False), ("b", '"/w=="', True)]

    async def test_expired_rows_are_deleted_now_and_then(self, postgresql, plain):
        clock = FakeClock()
        settings = component("state.postgresql", postgresql.url, cleanupInterval="10s")
        store = PostgreSqlStates(settings, clock=clock)
        await store.write([save("a", metadata={"ttlInSeconds": "5"}), save("b")])
        await ServerClock(plain, "expiredate").advance(6)
        await clock.advance(11)
        await store.write([save("c")])
        await store.close()
        rows = await plain.fetch("SELECT key FROM state ORDER BY key")
        assert [row["key"] for row in rows] == ["b", "c"]


class TestSecondLayout(Layout):
    version, column = "v2", "expires_at"

    async def test_value_is_kept_byte_by_byte(self, store, plain):
        await store.write([save("a", b'{ "b":1 }')])
        assert await value(store, "a") == b'{ "b":1 }'
        assert await plain.fetchval("SELECT value FROM state") == b'{ "b":1 }'

    async def test_table_of_dapr_is_taken_over(self, postgresql, plain):
        await plain.execute(
            "CREATE TABLE p_state (key text PRIMARY KEY, value bytea NOT NULL, etag uuid NOT NULL, "
            "created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz, expires_at timestamptz); "
            "INSERT INTO p_state (key, value, etag) VALUES ('a', '1', gen_random_uuid())"
        )
        settings = component("state.postgresql", postgresql.url, tablePrefix="p_")
        store = PostgreSqlStates(settings, clock=SystemClock())
        assert await value(store, "a") == b"1"
        await store.close()


async def test_server_that_is_away_or_restarts_is_an_error_of_the_call(own_server):
    server = own_server("postgresql")
    store = PostgreSqlStates(component("state.postgresql", server.url), clock=SystemClock())
    await store.write([save("a", b"1")])
    server.kill()
    with pytest.raises(ComponentError, match=r"not reached|refused"):
        while True:  # the process behind a connection may outlive its server for a moment
            await store.get(["a"])
    await asyncio.to_thread(server.start)
    try:
        found = await value(store, "a")
    except ComponentError:  # a connection of before, which the pool has given up now
        found = await value(store, "a")
    assert found == b"1"
    await store.close()


async def test_rejected_credentials_are_named_and_never_shown(postgresql, plain, caplog):
    url = f"postgresql://nobody:{SECRET}@{postgresql.address}/postgres"
    store = PostgreSqlStates(component("state.postgresql", url), clock=SystemClock())
    with pytest.raises(ComponentError, match="rejected the credentials") as caught:
        await store.get(["a"])
    assert SECRET not in f"{caught.value} {caught.value.hint} {caplog.text}"
    await store.close()


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"connectionString": ""}, "connectionString"),
        ({"connectionString": f"mysql://a:{SECRET}@b"}, "postgresql://"),
        ({"connectionString": SECRET}, "key=value"),
        ({"tableName": "a; DROP TABLE b"}, "table name"),
        ({"timeout": "soon"}, "timeout"),
    ],
    ids=["none", "scheme", "words", "table", "timeout"],
)
def test_bad_settings_are_refused_with_their_name(metadata, match):
    with pytest.raises(ComponentError, match=match) as caught:
        PostgreSqlStates(component("state.postgresql", "postgresql://a", **metadata), clock=SystemClock())
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("form", ["words", "keys"])
async def test_address_may_come_in_words_or_keys(postgresql, plain, form):
    host, _, port = postgresql.address.partition(":")
    if form == "words":
        metadata = {
            "connectionString": f"host={host} port={port} user=postgres password='a b' dbname=postgres"
        }
    else:
        metadata = {"host": host, "port": port, "user": "postgres", "database": "postgres"}
    settings = Component(namespace="shop", name="db", type="state.postgresql", metadata=metadata)
    store = PostgreSqlStates(settings, clock=SystemClock())
    await store.write([save("a", b"1")])
    assert await value(store, "a") == b"1"
    await store.close()


class TestPostgreSqlBinding(BindingContract):
    operation = "exec"
    request = {"sql": "SELECT 1"}

    @pytest.fixture
    async def binding(self, postgresql, plain):
        binding = PostgreSqlBinding(component("bindings.postgresql", postgresql.url))
        yield binding
        await binding.close()

    @pytest.fixture
    async def unreachable(self):
        url = f"postgresql://a:b@127.0.0.1:{free_port()}/c"
        binding = PostgreSqlBinding(component("bindings.postgresql", url, timeout="2s"))
        yield binding
        await binding.close()

    async def test_statements_take_parameters_and_answer_with_rows(self, binding):
        create = "CREATE TABLE t (n int, name text, at timestamptz, price numeric, doc jsonb, raw bytea)"
        await binding.invoke("exec", b"", {"sql": create})
        row = [1, "ä", "2026-01-02T03:04:05+00:00", 1.5, {"a": [1]}, "x"]
        insert = {"sql": "INSERT INTO t VALUES ($1, $2, $3, $4, $5, $6)", "params": json.dumps(row)}
        answer = await binding.invoke("exec", b"", insert)
        assert answer.metadata["rows-affected"] == "1"
        assert answer.metadata["sql"] == insert["sql"]
        assert {"operation", "start-time", "end-time", "duration"} <= answer.metadata.keys()

        found = await binding.invoke(
            "query", b"", {"sql": "SELECT *, NULL FROM t WHERE n = $1", "params": "[1]"}
        )
        assert json.loads(found.data) == [
            [1, "ä", "2026-01-02T03:04:05+00:00", "1.5", {"a": [1]}, "eA==", None]
        ]
        assert "rows-affected" not in found.metadata

    async def test_closed_binding_opens_again(self, binding):
        await binding.invoke("close", b"", {})
        assert (await binding.invoke("query", b"", {"sql": "SELECT 1"})).data == b"[[1]]"

    @pytest.mark.parametrize(
        ("metadata", "match"),
        [
            ({}, "sql"),
            ({"sql": "SELECT $1::int", "params": "{}"}, "array"),
            ({"sql": "SELECT $1::int", "params": "[1"}, "no JSON"),
            ({"sql": "SELECT $1::int", "params": "[]"}, "takes 1"),
            ({"sql": "SELECT $1::int", "params": '["x"]'}, "int4"),
        ],
        ids=["none", "object", "broken", "missing", "type"],
    )
    async def test_request_that_cannot_be_carried_out_is_refused(self, binding, metadata, match):
        with pytest.raises(ComponentError, match=match):
            await binding.invoke("query", b"", metadata)

    async def test_statement_that_the_server_refuses_is_a_delivery_error(self, binding):
        with pytest.raises(DeliveryError, match="refused: relation"):
            await binding.invoke("query", b"", {"sql": "SELECT * FROM nothing"})


_TABLE = """
CREATE TABLE settings (key text PRIMARY KEY, value text, version text, metadata json);
CREATE FUNCTION tell() RETURNS trigger AS $$
BEGIN
  PERFORM pg_notify('settings', json_build_object('action', TG_OP)::text);
  RETURN NULL;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER told AFTER INSERT OR UPDATE OR DELETE ON settings FOR EACH ROW EXECUTE FUNCTION tell();
"""


class TestPostgreSqlConfiguration(ConfigurationContract):
    @pytest.fixture
    async def store(self, postgresql, plain):
        await plain.execute(_TABLE)
        settings = component(
            "configuration.postgresql", postgresql.url, table="settings", notifyChannel="settings"
        )
        store = PostgreSqlConfiguration(settings, clock=SystemClock())
        yield store
        await store.close()

    @pytest.fixture
    def put(self, plain):
        async def put(key, value, version):
            if value is None:
                await plain.execute("DELETE FROM settings WHERE key = $1", key)
                return
            await plain.execute(
                "INSERT INTO settings VALUES ($1, $2, $3, NULL) ON CONFLICT (key) "
                "DO UPDATE SET value = EXCLUDED.value, version = EXCLUDED.version",
                key,
                value,
                version,
            )

        return put

    async def test_metadata_of_a_row_are_those_of_the_item(self, store, plain):
        await plain.execute("""INSERT INTO settings VALUES ('a', '1', '2', '{"by": "me", "n": 3}')""")

        assert (await store.get(["a"]))["a"].metadata == {"by": "me", "n": "3"}

    async def test_connection_that_ends_is_made_again_and_changes_are_told(self, store, put, plain):
        async with watched(store, ["a"], metadata={"pgNotifyChannel": "settings"}) as found:
            await heard(found, put)
            await plain.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            )
            await put("a", "later", "9")
            async with asyncio.timeout(20):
                await last(found, "later")

    @pytest.mark.parametrize("channel", ["", "a; DROP TABLE settings"], ids=["none", "no-name"])
    async def test_channel_is_required_and_a_name(self, postgresql, channel):
        settings = component("configuration.postgresql", postgresql.url, table="settings")
        store = PostgreSqlConfiguration(settings, clock=SystemClock())
        with pytest.raises(ComponentError, match="pgNotifyChannel"):
            await anext(store.subscribe(["a"], metadata={"pgNotifyChannel": channel}))


@pytest.mark.parametrize("form", ["text", "file"])
async def test_the_server_must_show_a_certificate_of_the_named_authority(own_server, tmp_path, form):
    authority, stranger = Authority(), Authority()
    paths = []
    for name, text in zip(("cert", "key"), authority.issue("127.0.0.1"), strict=True):
        (tmp_path / name).write_text(text)
        paths.append(tmp_path / name)
    server = own_server("postgresql", certificates=tuple(paths))

    def binding(pem):
        if form == "file":
            (tmp_path / "ca").write_text(pem)
            pem = str(tmp_path / "ca")
        host, _, port = server.address.rpartition(":")
        where = {"host": host, "port": port, "user": "postgres", "database": "postgres"}
        return PostgreSqlBinding(component("bindings.postgresql", "", sslRootCert=pem, **where))

    sql = {"sql": "SELECT count(*) FROM pg_stat_ssl WHERE ssl AND pid = pg_backend_pid()"}
    trusting = binding(authority.pem)
    assert json.loads((await trusting.invoke("query", b"", sql)).data) == [[1]]
    await trusting.close()
    doubting = binding(stranger.pem)
    with pytest.raises(DeliveryError, match="was not reached"):
        await doubting.invoke("query", b"", sql)
    await doubting.close()
