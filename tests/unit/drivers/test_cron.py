import asyncio
from contextlib import aclosing
from datetime import UTC, datetime

import pytest

from pelton.drivers.cron import CronBus, next_time
from pelton.errors import ComponentError, DeliveryError
from pelton.ports import Delivery, Message
from pelton.testing.clock import FakeClock

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("@every 10s", "2026-01-02T03:04:15"),
        ("@every 1h30m", "2026-01-02T04:34:05"),
        ("@hourly", "2026-01-02T04:00:00"),
        ("@daily", "2026-01-03T00:00:00"),
        ("*/5 * * * *", "2026-01-02T03:05:00"),
        ("30 */5 * * * *", "2026-01-02T03:05:30"),
        ("0 0 6 * * ?", "2026-01-02T06:00:00"),
        ("0 30 3 * * MON-FRI", "2026-01-02T03:30:00"),
        ("TZ=Asia/Tokyo 0 13 * * *", "2026-01-02T04:00:00"),
        ("CRON_TZ=America/New_York 0 0 6 * * *", "2026-01-02T11:00:00"),
    ],
)
def test_next_time_follows_the_schedule(schedule, expected):
    assert next_time(schedule, START) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "schedule", ["often", "* * *", "61 * * * *", "@every soon", "@every 10ms", "TZ=Nowhere/Here * * * * *"]
)
def test_what_is_no_schedule_is_refused_with_examples(schedule):
    with pytest.raises(ComponentError, match="is not a schedule") as caught:
        next_time(schedule, START)
    assert "@every 10s" in caught.value.hint


def test_clock_changes_do_not_skip_or_repeat_a_day():
    """On 29 March 2026 clocks in Berlin go from 02:00 to 03:00."""
    first = next_time("TZ=Europe/Berlin 0 9 * * *", datetime(2026, 3, 28, 12, tzinfo=UTC))
    second = next_time("TZ=Europe/Berlin 0 9 * * *", first)

    assert [first, second] == [
        datetime(2026, 3, 29, 7, tzinfo=UTC),
        datetime(2026, 3, 30, 7, tzinfo=UTC),
    ]


async def ticks(bus, clock, count, *, finish=True):
    """Return that many due times, moving the clock on."""
    found: list[Delivery] = []
    async with aclosing(bus.subscribe("", consumer="c", max_in_flight=9, options={})) as iterator:
        while len(found) < count:
            following = asyncio.ensure_future(anext(iterator))
            for _ in range(100):
                if following.done():
                    break
                await clock.advance(1)
                await asyncio.sleep(0)
            for tick in await asyncio.wait_for(following, 30):
                found.append(tick)
                if finish:
                    await tick.ack()
    return found


async def test_each_due_time_is_one_event_that_says_its_time():
    clock = FakeClock(at=START)
    bus = CronBus({"Schedule": "*/1 * * * * *"}, clock=clock)

    found = await ticks(bus, clock, 3)

    assert all(tick.message.data == b"" for tick in found)
    assert [tick.message.headers["timeZone"] for tick in found] == ["UTC"] * 3
    assert len({tick.key for tick in found}) == 3
    assert await bus.pending("", consumer="c") == 0


async def test_nothing_can_be_published_and_a_schedule_is_required():
    with pytest.raises(ComponentError, match="schedule"):
        CronBus({}, clock=FakeClock())
    with pytest.raises(DeliveryError) as caught:
        await CronBus({"schedule": "@hourly"}, clock=FakeClock()).publish(Message(topic="", data=b""))
    assert not caught.value.retriable
