import asyncio
import multiprocessing
import sqlite3
from contextlib import aclosing

import pytest

from pelton.clock import SystemClock
from pelton.dataplane import retry
from pelton.drivers.ledger import SqliteLedger
from pelton.errors import DeliveryError
from pelton.ports import Message
from pelton.testing.clock import FakeClock
from tests.contract.bus import LedgerContract, fill, settled, take, texts
from tests.contract.disk import full

RETRIES = "pelton.retry.orders"


@pytest.fixture
async def open_ledger(tmp_path):
    opened = []

    def make(clock=None, **settings):
        settings.setdefault("look_s", 0.02)
        opened.append(SqliteLedger(tmp_path / "shop" / "cart", clock=clock or SystemClock(), **settings))
        return opened[-1]

    yield make
    for ledger in opened:
        await ledger.close()


class TestSqliteLedger(LedgerContract):
    @pytest.fixture
    def bus(self, open_ledger):
        return open_ledger()


async def test_nothing_is_made_and_sqlite_stays_away_before_something_is_stored(open_ledger, tmp_path):
    ledger = open_ledger()
    batches = ledger.subscribe(RETRIES, consumer="c", max_in_flight=10, options={})
    async with aclosing(batches) as iterator:
        nothing = asyncio.ensure_future(anext(iterator))
        assert await ledger.load_attempts("a") == {}
        assert await ledger.pending(RETRIES, consumer="c") == 0
        assert [found async for found in ledger.stored(retry.DEAD_TOPICS)] == []
        assert await ledger.counts() == (0, 0)
        assert not (tmp_path / "shop").exists()

        await fill(ledger, RETRIES, 1)
        async with asyncio.timeout(30):
            assert texts(await nothing) == ["0"]
    assert (tmp_path / "shop" / "cart" / "ledger.db").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "shop" / "cart").stat().st_mode & 0o777 == 0o700


async def test_what_waits_survives_with_its_delay_and_its_attempts(open_ledger):
    clock = FakeClock()
    first = open_ledger(clock)
    await fill(first, RETRIES, 2)
    now, later = await take(first, RETRIES, 2, consumer="c", finish=False)
    await now.ack()
    await later.nak(60.0)
    await first.put_attempts("c", "stream:1", 3)
    await first.close()

    second = open_ledger(clock)
    assert await second.load_attempts("c") == {"stream:1": 3}
    assert await second.pending(RETRIES, consumer="c") == 1
    batches = second.subscribe(RETRIES, consumer="c", max_in_flight=10, options={})
    async with aclosing(batches) as iterator:
        waiting = asyncio.ensure_future(anext(iterator))
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done

        await clock.advance(60)
        async with asyncio.timeout(30):
            (found,) = await waiting
    assert texts([found]) == ["1"]
    assert found.key == later.key


async def test_two_processes_of_an_app_share_what_waits_and_get_nothing_twice(open_ledger):
    first, second = open_ledger(), open_ledger()
    await fill(first, RETRIES, 40)

    both = asyncio.Barrier(2)

    async def work(ledger, found):
        batches = ledger.subscribe(RETRIES, consumer="c", max_in_flight=3, options={})
        async with aclosing(batches) as iterator:
            async for batch in iterator:
                if not found:
                    await both.wait()
                found += texts(batch)
                await asyncio.gather(*(delivery.ack() for delivery in batch))

    founds: tuple[list[str], list[str]] = ([], [])
    tasks = [
        asyncio.create_task(work(ledger, found))
        for ledger, found in zip((first, second), founds, strict=True)
    ]
    async with asyncio.timeout(30):
        while len(founds[0]) + len(founds[1]) < 40:
            await asyncio.sleep(0.01)
    await settled(first, RETRIES, 0, consumer="c")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(founds[0] + founds[1], key=int) == [str(number) for number in range(40)]
    assert all(founds)


async def test_held_by_a_living_process_is_not_given_to_another_and_free_after_its_close(open_ledger):
    first, second = open_ledger(), open_ledger()
    await fill(first, RETRIES, 1)
    await take(first, RETRIES, 1, consumer="c", finish=False)
    batches = second.subscribe(RETRIES, consumer="c", max_in_flight=10, options={})
    async with aclosing(batches) as iterator:
        waiting = asyncio.ensure_future(anext(iterator))
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done

        await first.close()
        async with asyncio.timeout(30):
            assert texts(await waiting) == ["0"]


def _hold_one(folder, ready):
    async def hold():
        ledger = SqliteLedger(folder, clock=SystemClock())
        await fill(ledger, RETRIES, 1)
        await take(ledger, RETRIES, 1, consumer="c", finish=False)
        ready.set()
        await asyncio.sleep(60)

    asyncio.run(hold())


async def test_held_by_a_killed_process_is_free_at_once_for_who_comes_and_soon_for_who_is_there(
    open_ledger, tmp_path
):
    """Its lock is free; no time-out has to pass, and its file goes."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold_one, args=(tmp_path / "shop" / "cart", ready))
    process.start()
    assert await asyncio.to_thread(ready.wait, 20)
    there = open_ledger()
    batches = there.subscribe(RETRIES, consumer="c", max_in_flight=10, options={})
    async with aclosing(batches) as iterator:
        waiting = asyncio.ensure_future(anext(iterator))
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done

        process.kill()
        process.join()
        async with asyncio.timeout(30):
            assert texts(await waiting) == ["0"]
    assert len(list((tmp_path / "shop" / "cart").glob("holder-*"))) == 1


async def test_id_is_known_for_two_minutes_and_for_as_long_as_its_retry_waits(open_ledger):
    clock = FakeClock()
    ledger = open_ledger(clock)
    dead, waits = (Message(topic=f"pelton.{kind}.orders", data=b"x", id="one") for kind in ("dead", "retry"))
    for message in (dead, waits, dead, waits):
        await ledger.publish(message)
    await clock.advance(121)
    for message in (dead, waits):
        await ledger.publish(message)

    assert len([found async for found in ledger.stored("pelton.dead.>")]) == 2
    await take(ledger, RETRIES, 1, consumer="c")
    await ledger.publish(waits)
    await settled(ledger, RETRIES, 1, consumer="c")


async def test_acknowledged_retry_is_gone_and_dead_letter_stays_until_removed(open_ledger):
    ledger = open_ledger()
    await fill(ledger, RETRIES, 120)
    await fill(ledger, "pelton.dead.orders", 120)
    assert await ledger.counts() == (120, 120)
    await take(ledger, RETRIES, 120, consumer="c")

    found = [stored async for stored in ledger.stored("pelton.>")]
    assert [stored.message.data for stored in found] == [str(number).encode() for number in range(120)]
    assert {stored.message.topic for stored in found} == {"pelton.dead.orders"}
    for stored in found[1:]:
        for _ in range(2):
            await ledger.remove(stored)
    assert [stored async for stored in ledger.stored("pelton.>", first=found[0].sequence)] == found[:1]


async def test_attempts_of_long_ago_are_forgotten_and_a_smaller_number_changes_nothing(open_ledger):
    clock = FakeClock()
    ledger = open_ledger(clock)
    await ledger.put_attempts("c", "old", 1)
    await clock.advance(9 * 24 * 3600)
    await ledger.put_attempts("c", "new", 3)
    await ledger.put_attempts("c", "new", 1)
    await fill(ledger, RETRIES, 1)

    assert await ledger.load_attempts("c") == {"new": 3}


async def test_file_that_is_as_large_as_it_may_be_refuses_and_takes_again_after_letters_went(open_ledger):
    ledger = open_ledger(max_bytes=1 << 20)
    large = Message(topic="pelton.dead.orders", data=b"x" * 100_000)
    with pytest.raises(DeliveryError, match="exceeds 131072") as caught:
        await ledger.publish(Message(topic="pelton.dead.orders", data=b"x" * 200_000))
    assert not caught.value.retriable
    with pytest.raises(DeliveryError, match="full") as caught:
        for _ in range(20):
            await ledger.publish(large)
    assert caught.value.retriable
    assert "1 MiB" in caught.value.hint

    stored = [found async for found in ledger.stored("pelton.>")]
    for letter in stored[:2]:
        await ledger.remove(letter)
    await ledger.publish(large)
    assert len([found async for found in ledger.stored("pelton.>")]) == len(stored) - 1


async def test_disk_that_takes_nothing_is_an_error_and_what_was_stored_goes_on_later(open_ledger):
    ledger = open_ledger()
    await fill(ledger, RETRIES, 2)
    held, ended = await take(ledger, RETRIES, 2, consumer="c", finish=False)
    with full():
        with pytest.raises(DeliveryError, match="cannot be used"):
            await ledger.publish(Message(topic="pelton.dead.orders", data=b"x" * 2_000_000))
        with pytest.raises(DeliveryError, match="cannot be used"):
            for _ in range(1000):
                await ledger.put_attempts("c", "k" * 1000, 1)
        acking = asyncio.create_task(ended.ack())
        done, _ = await asyncio.wait({acking}, timeout=0.1)
        assert not done
    async with asyncio.timeout(30):
        await acking
    await held.nak(0.0)

    assert await ledger.pending(RETRIES, consumer="c") == 1
    assert texts(await take(ledger, RETRIES, 1, consumer="c")) == ["0"]


async def test_dead_letters_can_be_listed_while_the_disk_takes_nothing(open_ledger):
    """What would be tidied at the opening stays for later."""
    clock = FakeClock()
    writer, reader = open_ledger(clock), open_ledger(clock)
    await writer.publish(Message(topic="pelton.dead.orders", data=b"x", id="one"))
    await clock.advance(200)
    with full(0):
        assert len([found async for found in reader.stored(retry.DEAD_TOPICS)]) == 1


async def test_failing_iteration_does_not_give_again_what_is_still_worked_on(open_ledger):
    ledger = open_ledger()
    await fill(ledger, RETRIES, 1)
    batches = ledger.subscribe(RETRIES, consumer="c", max_in_flight=10, options={})
    (held,) = await anext(batches)
    await fill(ledger, RETRIES, 1)
    with full(0), pytest.raises(DeliveryError):
        await anext(batches)

    (other,) = await take(ledger, RETRIES, 1, consumer="c")
    assert other.key != held.key
    await held.ack()
    await settled(ledger, RETRIES, 0, consumer="c")


@pytest.mark.parametrize("damage", ["no database", "newer"])
async def test_file_that_cannot_be_read_says_what_to_do(open_ledger, tmp_path, damage):
    file = tmp_path / "shop" / "cart" / "ledger.db"
    file.parent.mkdir(parents=True)
    if damage == "newer":
        with sqlite3.connect(file) as connection:
            connection.execute("PRAGMA user_version = 2")
        connection.close()
    else:
        file.write_bytes(b"no database" * 1000)

    with pytest.raises(DeliveryError) as caught:
        await open_ledger().load_attempts("c")
    assert str(file) in caught.value.message
    assert "ove" in caught.value.hint
