"""What every `ConfigurationStore` keeps to; subclasses bring `store` and `put(key, value, version)`."""

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import Any

from pelton.ports import ConfigurationItem


@asynccontextmanager
async def watched(store, keys, **more):
    """Yield a queue of changes, once the store listens: it is told of a key by which that is seen."""
    found: asyncio.Queue[tuple[str, ConfigurationItem]] = asyncio.Queue()

    async def read():
        async with aclosing(store.subscribe(keys, **more)) as changes:
            async for change in changes:
                for key, item in change.items():
                    found.put_nowait((key, item))

    task = asyncio.create_task(read())
    try:
        yield found
    finally:
        failed = task.done()
        task.cancel()
        result: Any = (await asyncio.gather(task, return_exceptions=True))[0]
        if failed:
            raise AssertionError("the subscription ended") from result


async def heard(found, put, key="a"):
    """Change a key until the subscription tells of it; whatever was told meanwhile is dropped."""
    number = 0
    async with asyncio.timeout(20):
        while found.empty():
            number += 1
            await put(key, f"probe-{number}", "0")
            try:
                async with asyncio.timeout(0.2):
                    await last(found, f"probe-{number}")
                    return
            except TimeoutError:
                pass
        await last(found, f"probe-{number}")


async def last(found, value):
    """Wait until a value is told of; return what was told."""
    told: list[tuple[str, ConfigurationItem]] = []
    while not told or told[-1][1].value != value:
        told.append(await found.get())
    return told


class ConfigurationContract:
    async def test_get_returns_values_and_versions_and_leaves_out_what_is_not_there(self, store, put):
        await put("a", "1", "v1")
        await put("b", "ä", "")

        found = await store.get(["a", "none", "b"])

        assert found["a"] == ConfigurationItem(value="1", version="v1")
        assert (found["b"].value, set(found)) == ("ä", {"a", "b"})

    async def test_get_without_keys_returns_all(self, store, put):
        for key in ("a", "b", "c"):
            await put(key, key, "1")

        assert {key: item.value for key, item in (await store.get([])).items()} == {
            "a": "a",
            "b": "b",
            "c": "c",
        }

    async def test_change_is_told_with_its_value_and_others_are_not(self, store, put):
        await put("a", "0", "0")
        async with watched(store, ["a"]) as found:
            await heard(found, put)
            await put("b", "other", "1")
            await put("a", "2", "v2")

            async with asyncio.timeout(30):
                told = await last(found, "2")

        assert {key for key, _ in told} == {"a"}
        assert told[-1][1].version == "v2"

    async def test_without_keys_every_key_is_told_of(self, store, put):
        async with watched(store, []) as found:
            await heard(found, put)
            await put("new", "9", "1")

            async with asyncio.timeout(30):
                assert (await last(found, "9"))[-1][0] == "new"

    async def test_deleted_key_is_told_of_as_empty(self, store, put):
        async with watched(store, ["a"]) as found:
            await heard(found, put)
            await put("a", None, None)

            async with asyncio.timeout(30):
                assert (await last(found, ""))[-1] == ("a", ConfigurationItem(value=""))

    async def test_close_is_safe_twice_and_before_use(self, store):
        await store.close()
        await store.close()
