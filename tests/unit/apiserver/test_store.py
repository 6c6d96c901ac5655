import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap

import pytest

from pelton.apiserver.journal import SCHEMA
from pelton.apiserver.store import GoneError, SqliteStore
from pelton.clock import SystemClock
from pelton.errors import HomeError, HomeInUseError, InvalidError, StoreVersionError
from tests.contract.store import FUNCTIONS, OTHERS, StoreContract, function, seen, take


def opened(path, **options):
    return SqliteStore(path, clock=SystemClock(), **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.db"


class TestSqliteStore(StoreContract):
    @pytest.fixture(params=["process", "power"])
    async def store(self, path, request):
        async with opened(path, durability=request.param) as store:
            yield store

    @pytest.fixture
    async def short_store(self, path):
        async with opened(path, history=10) as store:
            yield store


async def test_store_reopened_has_everything_and_goes_on_counting(path):
    async with opened(path) as store:
        first = await store.create(FUNCTIONS, function("a", labels={"x": "y"}))
        await store.create(FUNCTIONS, function("b"))
        await store.create(OTHERS, function("c"))
        await store.delete(FUNCTIONS, "default", "b")

    async with opened(path) as store:
        assert await store.list(FUNCTIONS) == ([first], 4)
        assert store.entry(FUNCTIONS, "default", "a").labels == {"x": "y"}
        assert (await store.create(FUNCTIONS, function("b")))["metadata"]["resourceVersion"] == "5"


async def test_watch_resumes_over_a_restart_when_nothing_was_missed_and_is_gone_otherwise(path):
    async with opened(path) as store:
        await store.create(FUNCTIONS, function("a"))
        await store.create(FUNCTIONS, function("b"))

    async with opened(path) as store:
        await store.create(FUNCTIONS, function("c"))

        assert seen(await take(store.watch(FUNCTIONS, since=2), 1)) == [("ADDED", "c")]
        with pytest.raises(GoneError):
            await anext(store.watch(FUNCTIONS, since=1))


async def test_closing_the_store_ends_its_watches(path):
    async with opened(path) as store:
        watching = asyncio.create_task(collect(store.watch(FUNCTIONS)))
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        assert await watching == []


async def collect(iterator):
    return [event async for event in iterator]


async def test_store_files_are_private_whatever_the_umask(path):
    before = os.umask(0)
    try:
        async with opened(path) as store:
            await store.create(FUNCTIONS, function())
            modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    finally:
        os.umask(before)

    assert set(modes) >= {"store.db", "store.db-wal"}
    assert set(modes.values()) == {0o600}


async def test_newer_store_is_refused_and_left_as_it_was(path):
    async with opened(path) as store:
        await store.create(FUNCTIONS, function())
    with sqlite3.connect(path) as database:
        database.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (SCHEMA + 1,))
    database.close()
    before = path.read_bytes()

    with pytest.raises(StoreVersionError) as caught:
        async with opened(path):
            pass

    assert "newer Pelton" in caught.value.hint
    assert path.read_bytes() == before


async def test_second_opening_is_refused_while_the_first_lasts(path):
    async with opened(path):
        with pytest.raises(HomeInUseError, match="another process"):
            async with opened(path):
                pass


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
async def test_damaged_file_is_a_home_error(path, content):
    path.write_bytes(content)

    with pytest.raises(HomeError) as caught:
        async with opened(path):
            pass

    assert caught.value.where == str(path)


async def test_foreign_database_is_refused(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE meta (key, value)")
    database.close()

    with pytest.raises(HomeError, match="not a Pelton store"):
        async with opened(path):
            pass


async def test_missing_directory_is_a_home_error(tmp_path):
    with pytest.raises(HomeError):
        async with opened(tmp_path / "missing" / "store.db"):
            pass


async def test_failed_write_changes_nothing(path, monkeypatch):
    async with opened(path) as store:
        await store.create(FUNCTIONS, function("a"))
        store._journal._db.execute("PRAGMA query_only = ON")  # as a full disk or a read-only mount would

        with pytest.raises(HomeError, match="cannot be written"):
            await store.create(FUNCTIONS, function("b"))
        with pytest.raises(HomeError):
            await store.delete(FUNCTIONS, "default", "a")

        store._journal._db.execute("PRAGMA query_only = OFF")
        items, version = await store.list(FUNCTIONS)
        assert ([item["metadata"]["name"] for item in items], version) == (["a"], 1)
        assert (await store.create(FUNCTIONS, function("b")))["metadata"]["resourceVersion"] == "2"


async def test_object_that_is_no_json_is_invalid(path):
    async with opened(path) as store:
        with pytest.raises(InvalidError, match="JSON"):
            await store.create(FUNCTIONS, function(spec={"x": object()}))

        assert await store.list(FUNCTIONS) == ([], 0)


def test_unknown_durability_is_refused(path):
    with pytest.raises(ValueError, match="durability"):
        opened(path, durability="paper")


WRITER = """
    import asyncio, sys
    from pelton.apiserver.store import SqliteStore
    from pelton.clock import SystemClock

    async def main():
        async with SqliteStore(sys.argv[1], clock=SystemClock()) as store:
            number = 0
            while True:
                obj = {"metadata": {"name": f"f{number % 50}", "namespace": "n"}, "spec": {"n": number}}
                try:
                    old = store.entry("r", "n", f"f{number % 50}")
                except Exception:
                    done = await store.create("r", obj)
                else:
                    done = await store.update("r", obj)
                    if number % 7 == 0:
                        done = await store.delete("r", "n", f"f{number % 50}")
                        number = -number - 1
                # Told only after the store said so: what the test reads here must be there afterwards.
                metadata = done["metadata"]
                sys.stdout.write(f"{metadata['name']} {number} {metadata['resourceVersion']}\\n")
                sys.stdout.flush()
                number = abs(number) + 1

    asyncio.run(main())
"""


async def test_every_acknowledged_write_is_there_after_kill_9(path):
    for lines_before_kill in (1, 40, 333):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(lines_before_kill)]
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.read().splitlines(keepends=True)
        writer.wait()
        writer.stdout.close()

        last = {}
        version = 0
        for line in (line for line in told if line.endswith("\n")):
            name, number, text = line.split()
            last[name], version = int(number), int(text)
        async with opened(path) as store:
            items, listed = await store.list("r")
            found = {item["metadata"]["name"]: item["spec"]["n"] for item in items}
            # The one write that was under way when the process died may be there or not.
            assert version <= listed <= version + 2
            # A deletion was told as the complement of its number.
            expected = {name: number for name, number in last.items() if number >= 0}
            differing = {n for n in last if found.get(n) != expected.get(n)}
            assert len(differing) <= (1 if listed > version else 0)
