"""What an external scaler tells of activity while nobody asks is passed over but for the last."""

import asyncio

import pytest

from pelton.drivers.scalers.external import newest


class Stream:
    """A stream that says what a test puts into it; None ends it, an error breaks it."""

    def __init__(self):
        self.said: asyncio.Queue[object] = asyncio.Queue()

    async def read(self):
        while (one := await self.said.get()) is not None:
            if isinstance(one, Exception):
                raise one
            yield one

    def say(self, *values):
        for value in values:
            self.said.put_nowait(value)

    async def until_heard(self):
        while not self.said.empty():
            await asyncio.sleep(0)


async def test_what_came_meanwhile_is_passed_over_but_for_the_last():
    stream = Stream()
    told = newest(stream.read())
    stream.say(1)
    assert await anext(told) == 1

    stream.say(*range(2, 1000))
    await stream.until_heard()
    assert await anext(told) == 999
    stream.say(1000, None)
    await stream.until_heard()

    assert [one async for one in told] == [1000]


async def test_stream_that_breaks_is_told_after_what_it_said():
    stream = Stream()
    told = newest(stream.read())
    stream.say(1, ValueError("broken"))

    assert await anext(told) == 1
    with pytest.raises(ValueError, match="broken"):
        await anext(told)


async def test_nobody_listens_once_it_is_closed():
    stream = Stream()
    told = newest(stream.read())
    stream.say(1)
    assert await anext(told) == 1

    await told.aclose()

    assert len(asyncio.all_tasks()) == 1
