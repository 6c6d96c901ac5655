"""What every `Lock` keeps to; subclasses bring the fixtures `lock` and `clock` (None: the server's own)."""

import asyncio

from pelton.ports import Unlocked


class LockContract:
    async def test_one_owner_has_it_until_it_is_given_back(self, lock):
        assert await lock.try_lock("lock||app||a", "one", 30)
        assert not await lock.try_lock("lock||app||a", "two", 30)

        assert await lock.unlock("lock||app||a", "one") == Unlocked.SUCCESS
        assert await lock.try_lock("lock||app||a", "two", 30)

    async def test_the_owner_itself_does_not_get_it_twice(self, lock):
        assert await lock.try_lock("a", "one", 30)
        assert not await lock.try_lock("a", "one", 30)

    async def test_others_cannot_give_it_back(self, lock):
        await lock.try_lock("a", "one", 30)

        assert await lock.unlock("a", "two") == Unlocked.OTHERS
        assert not await lock.try_lock("a", "three", 30)

    async def test_lock_that_nobody_has_does_not_exist(self, lock):
        assert await lock.unlock("a", "one") == Unlocked.ABSENT

    async def test_names_do_not_know_each_other(self, lock):
        assert await lock.try_lock("a", "one", 30)
        assert await lock.try_lock("b", "two", 30)

    async def test_expired_lock_can_be_taken_and_is_its_former_owners_no_more(self, lock, clock):
        assert await lock.try_lock("a", "one", 1)
        if clock is not None:
            await clock.advance(1.5)
        async with asyncio.timeout(30):
            while not await lock.try_lock("a", "two", 30):
                assert clock is None
                await asyncio.sleep(0.05)

        assert await lock.unlock("a", "one") == Unlocked.OTHERS

    async def test_of_many_at_once_one_gets_it(self, lock):
        got = await asyncio.gather(*(lock.try_lock("a", f"o{number}", 30) for number in range(20)))

        assert sorted(got) == [False] * 19 + [True]

    async def test_close_is_safe_twice_and_before_use(self, lock):
        await lock.close()
        await lock.close()
