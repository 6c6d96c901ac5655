"""What every `StateStore` keeps to, whatever is under it; subclasses bring fixtures `store` and `clock`."""

import uuid
from datetime import datetime, timedelta

import pytest

from pelton.errors import ComponentError, ConflictError
from pelton.model.state import StateChange


def save(key, data=b'{"a":1}', **more):
    return StateChange(key=key, data=data, **more)


async def value(store, key):
    return (await store.get([key]))[0].data


async def etag(store, key):
    return (await store.get([key]))[0].etag


class StateContract:
    malformed: type[ConflictError] = ConflictError
    """What an etag is that no value can have, as Dapr's store of that name says it."""

    @pytest.fixture
    def other_etag(self):
        """An etag as the store might have written it, of no value there is."""
        return str(uuid.uuid4())

    async def test_items_come_in_the_order_of_the_keys_and_missing_ones_have_no_data(self, store):
        await store.write([save("a", b"1"), save("b", b"2")])

        items = await store.get(["b", "none", "a"])

        assert [(item.key, item.data) for item in items] == [("b", b"2"), ("none", None), ("a", b"1")]
        assert items[1].etag == ""

    async def test_json_and_bytes_come_back_as_what_they_were(self, store):
        await store.write([save("json", '"ä"'.encode()), save("bytes", b"\x00\xff", json=False)])

        text, raw = await store.get(["json", "bytes"])

        assert (text.data, text.json) == ('"ä"'.encode(), True)
        assert (raw.data, raw.json) == (b"\x00\xff", False)

    async def test_every_write_changes_the_etag(self, store):
        await store.write([save("a")])
        first = await etag(store, "a")
        await store.write([save("a")])

        assert first
        assert await etag(store, "a") not in {"", first}

    async def test_matching_etag_lets_the_write_pass(self, store):
        await store.write([save("a", b"1")])
        await store.write([save("a", b"2", etag=await etag(store, "a"))])

        assert await value(store, "a") == b"2"

    @pytest.mark.parametrize("delete", [False, True], ids=["save", "delete"])
    @pytest.mark.parametrize("key", ["a", "none"], ids=["other", "absent"])
    async def test_wrong_etag_is_a_conflict_and_changes_nothing(self, store, other_etag, key, delete):
        await store.write([save("a", b"1")])

        with pytest.raises(ConflictError, match="etag"):
            await store.write([save(key, b"2", etag=other_etag, delete=delete)])

        assert await value(store, "a") == b"1"

    async def test_etag_that_no_value_can_have_changes_nothing(self, store):
        await store.write([save("a", b"1")])

        with pytest.raises(ConflictError) as caught:
            await store.write([save("a", b"2", etag="no etag")])

        assert type(caught.value) is self.malformed
        assert await value(store, "a") == b"1"

    async def test_first_write_without_etag_fails_on_an_existing_key_only(self, store):
        await store.write([save("a", b"1", concurrency="first-write")])

        with pytest.raises(ConflictError, match="exists already"):
            await store.write([save("a", b"2", concurrency="first-write")])

        assert await value(store, "a") == b"1"

    async def test_last_write_ignores_the_etag(self, store):
        await store.write([save("a", b"1")])
        await store.write([save("a", b"2", etag="other", concurrency="last-write")])

        assert await value(store, "a") == b"2"

    async def test_unknown_concurrency_mode_is_refused(self, store):
        with pytest.raises(ComponentError, match="middle-write"):
            await store.write([save("a", concurrency="middle-write")])

    async def test_delete_removes_and_does_not_mind_an_absent_key(self, store):
        await store.write([save("a")])
        await store.write([save("a", delete=True), save("none", delete=True)])

        assert await value(store, "a") is None

    async def test_end_of_a_value_is_told_with_it(self, store):
        await store.write([save("a", metadata={"ttlInSeconds": "600"}), save("b")])

        ending, lasting = await store.get(["a", "b"])

        assert lasting.expires == ""
        assert ending.expires.endswith("Z")
        left = datetime.fromisoformat(ending.expires) - self.now(store)
        assert timedelta(seconds=580) < left <= timedelta(seconds=601)

    @staticmethod
    def now(store):
        return store._clock.now()

    async def test_empty_and_large_values_and_any_key_come_back(self, store):
        large = b'"%s"' % (b"x" * 1_000_000)
        await store.write([save("app||ä/ 1", large), save("empty", b"", json=False)])

        one, two = await store.get(["app||ä/ 1", "empty"])
        assert (one.data, two.data) == (large, b"")

    async def test_all_changes_happen_or_none(self, store, other_etag):
        await store.write([save("a", b"1"), save("b", b"1")])

        with pytest.raises(ConflictError):
            await store.write(
                [
                    save("a", b"2"),
                    save("b", delete=True),
                    save("new"),
                    save("a", b"3", etag=other_etag),
                ]
            )

        assert [item.data for item in await store.get(["a", "b", "new"])] == [b"1", b"1", None]

    async def test_changes_of_one_write_see_each_other(self, store):
        await store.write([save("a", delete=True), save("a", b"2", concurrency="first-write")])

        assert await value(store, "a") == b"2"

    async def test_value_with_ttl_is_gone_afterwards_and_counts_as_absent(self, store, clock):
        await store.write([save("a", b"1", metadata={"ttlInSeconds": "10"}), save("b", b"1")])
        await clock.advance(9)
        assert await value(store, "a") == b"1"

        await clock.advance(2)

        assert [item.data for item in await store.get(["a", "b"])] == [None, b"1"]
        assert [item.key for item in await store.scan("", limit=10)] == ["b"]
        await store.write([save("a", b"2", concurrency="first-write")])
        assert await value(store, "a") == b"2"

    @pytest.mark.parametrize("ttl", ["0", "-1"])
    async def test_ttl_of_zero_or_minus_one_keeps_the_value(self, store, clock, ttl):
        await store.write([save("a", b"1", metadata={"ttlInSeconds": ttl})])
        await clock.advance(10**6)

        assert await value(store, "a") == b"1"

    async def test_later_write_without_ttl_takes_the_end_away(self, store, clock):
        await store.write([save("a", b"1", metadata={"TTLInSeconds": "10"})])
        await store.write([save("a", b"2")])
        await clock.advance(100)

        assert await value(store, "a") == b"2"

    async def test_scan_gives_keys_of_a_prefix_in_order_up_to_the_limit(self, store):
        await store.write(
            [save(key) for key in ("f||b", "f||a", "f||c", "f", "g||a", "F||x", "f_|y", "f||%")]
        )

        assert [i.key for i in await store.scan("f||", limit=10)] == ["f||%", "f||a", "f||b", "f||c"]
        assert [i.key for i in await store.scan("f||", limit=2)] == ["f||%", "f||a"]
        assert len(await store.scan("", limit=100)) == 8

    async def test_close_is_safe_twice_and_before_use(self, store):
        await store.close()
        await store.close()
