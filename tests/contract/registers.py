"""Contract of `ports.Registers`: values that are replaced by comparing revisions."""

import asyncio

import pytest

from pelton.errors import ConflictError


class RegistersContract:
    async def test_register_that_was_never_written_is_empty(self, registers):
        assert await registers.read_register("r") == (b"", 0)

    async def test_what_was_written_is_read_with_its_revision(self, registers):
        first = await registers.write_register("r", b"one", revision=0)
        second = await registers.write_register("r", b"two", revision=first)

        assert second > first > 0
        assert await registers.read_register("r") == (b"two", second)

    async def test_other_revision_is_refused_and_changes_nothing(self, registers):
        first = await registers.write_register("r", b"one", revision=0)
        second = await registers.write_register("r", b"two", revision=first)

        for stale in (0, first, second + 1):
            with pytest.raises(ConflictError):
                await registers.write_register("r", b"three", revision=stale)
        assert await registers.read_register("r") == (b"two", second)

    async def test_names_are_independent_whatever_they_hold(self, registers):
        names = ["a", "a.b", "a/b", "a b", "*", ">", "ä"]

        for name in names:
            await registers.write_register(name, name.encode(), revision=0)
        assert [(await registers.read_register(name))[0].decode() for name in names] == names

    async def test_deleted_register_is_empty_again(self, registers):
        await registers.write_register("r", b"one", revision=0)
        await registers.delete_register("r")
        await registers.delete_register("r")

        assert await registers.read_register("r") == (b"", 0)
        assert await registers.write_register("r", b"two", revision=0) > 0

    async def test_one_of_several_writers_at_once_wins(self, registers):
        results = await asyncio.gather(
            *(registers.write_register("r", str(n).encode(), revision=0) for n in range(5)),
            return_exceptions=True,
        )

        assert sorted(type(result).__name__ for result in results) == ["ConflictError"] * 4 + ["int"]
