"""Rounds of reading triggers: their pace, their failures, and triggers that tell by themselves."""

import asyncio

import pytest

from pelton.dataplane.scaler_pool import ScalerPool, plain
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading, ScalerTrigger
from pelton.testing.clock import FakeClock

JOBS = ScalerTrigger(name="jobs", type="redis")
MORE = ScalerTrigger(name="more", type="redis")


class Source:
    """What all scalers of a test read: `value`, or `error`; counts how often each thing is done."""

    def __init__(self, *, push=False):
        self.value, self.error, self.push = 0.0, "", push
        self.made = self.read = self.closed = 0
        self.telling: asyncio.Queue[bool | Exception | None] = asyncio.Queue()

    def make(self, _trigger, _clock):
        self.made += 1
        return Scaler(self)


class Scaler:
    def __init__(self, source):
        self._source = source
        self.activity = self._told if source.push else None

    async def read(self):
        self._source.read += 1
        if self._source.error:
            raise ScalerError(self._source.error, where="trigger jobs", hint="look")
        value = self._source.value
        return [ScalerReading(metric="m", value=value, target=10.0, active=value > 0)]

    async def close(self):
        self._source.closed += 1

    async def _told(self):
        while (said := await self._source.telling.get()) is not None:
            if isinstance(said, Exception):
                raise said
            yield said


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def pool_of(clock):
    pools = []

    def make(source, heard=None):
        pools.append(ScalerPool(make=source.make, clock=clock, heard=heard or (lambda _key, _round: None)))
        return pools[-1]

    yield make
    for pool in pools:
        await pool.close()


async def test_first_round_comes_at_once_and_the_next_after_the_interval(pool_of, clock):
    source, heard = Source(), []
    pool = pool_of(source, lambda key, found: heard.append((key, found.number)))
    pool.put("a", [JOBS, MORE], polling_s=30.0)

    await clock.advance(29)
    assert (source.read, heard) == (2, [("a", 1)])
    await clock.advance(2)

    assert (source.read, source.made, heard) == (4, 2, [("a", 1), ("a", 2)])


async def test_active_triggers_are_read_as_often_as_an_hpa_asks_unless_cached(pool_of, clock):
    source = Source()
    source.value = 5.0
    pool = pool_of(source)
    pool.put("a", [JOBS], polling_s=60.0)
    await clock.advance(61)
    assert source.read == 5

    pool.put("a", [JOBS], polling_s=60.0, cached=True)
    await clock.advance(0)
    before = source.read
    await clock.advance(61)
    assert source.read == before + 1


async def test_failed_trigger_is_asked_once_more_with_a_new_scaler_and_told(pool_of, clock):
    source = Source()
    source.error = "away"
    pool = pool_of(source)
    pool.put("a", [JOBS], polling_s=30.0)
    await clock.advance(1)

    found = pool.last("a")
    assert found is not None
    assert found.readings == {"jobs": None}
    assert found.errors == {"jobs": "trigger jobs: away; look"}
    assert (source.read, source.made, source.closed) == (2, 2, 2)
    (told,) = pool.stats()
    assert (told["owner"], told["trigger"], told["failures"], told["metrics"]) == ("a", "jobs", 1, [])
    assert told["error"] == "trigger jobs: away; look"
    source.error = ""
    await clock.advance(30)
    assert pool.stats()[0]["metrics"] == [{"metric": "m", "value": 0.0, "target": 10.0}]
    assert plain(pool.last("a"))["readings"] == {
        "jobs": [{"metric": "m", "value": 0.0, "target": 10.0, "active": False}]
    }


async def test_same_triggers_go_on_and_others_begin_anew(pool_of, clock):
    source = Source()
    pool = pool_of(source)
    pool.put("a", [JOBS], polling_s=30.0)
    await clock.advance(1)
    pool.put("a", [JOBS], polling_s=30.0)
    await clock.advance(1)
    assert source.read == 1

    pool.put("a", [MORE], polling_s=30.0)
    await clock.advance(1)
    assert source.read == 2
    found = pool.last("a")
    assert found is not None
    assert list(found.readings) == ["more"]
    pool.keep_only(set())
    await clock.advance(60)
    assert (source.read, pool.last("a")) == (2, None)


async def test_activity_starts_a_round_without_waiting_for_the_interval(pool_of, clock):
    source = Source(push=True)
    pool = pool_of(source)
    pool.put("a", [JOBS], polling_s=3600.0)
    await clock.advance(1)
    source.telling.put_nowait(False)
    await clock.advance(1)
    assert source.read == 1  # only polling takes replicas away

    source.value = 7.0
    source.telling.put_nowait(True)
    await clock.advance(1)

    assert source.read == 2
    found = pool.last("a")
    assert found is not None
    assert found.active


@pytest.mark.parametrize(("kind", "active"), [("external-push", True), ("kafka", False)])
async def test_word_of_an_external_scaler_is_enough_for_one_round(pool_of, clock, kind, active):
    source, heard = Source(push=True), []
    pool = pool_of(source, lambda _key, found: heard.append(found.active))
    pool.put("a", [ScalerTrigger(name="jobs", type=kind)], polling_s=30.0)
    await clock.advance(1)

    source.telling.put_nowait(True)
    await clock.advance(16)

    assert heard == ([False, True, False] if active else [False, False])


async def test_owner_that_goes_by_polls_alone_is_not_listened_for(pool_of, clock):
    source = Source(push=True)
    pool = pool_of(source)
    pool.put("a", [JOBS], polling_s=30.0, listen=False)
    source.telling.put_nowait(True)

    await clock.advance(29)

    assert (source.read, source.made) == (1, 1)


async def test_stream_that_breaks_is_opened_again_after_growing_pauses(pool_of, clock):
    source = Source(push=True)
    pool = pool_of(source)
    pool.put("a", [JOBS], polling_s=3600.0)
    await clock.advance(1)
    opened = source.made
    for pause_s in (2, 4, 8):
        source.telling.put_nowait(ScalerError("broken"))
        await clock.advance(pause_s - 0.5)
        assert source.made == opened
        await clock.advance(0.6)
        opened += 1
        assert source.made == opened

    source.telling.put_nowait(None)  # a clean end resets the pause
    await clock.advance(2.1)
    assert source.made == opened + 1


async def test_close_ends_everything(pool_of, clock):
    source = Source(push=True)
    pool = pool_of(source)
    pool.put("a", [JOBS], polling_s=30.0)
    await clock.advance(1)

    await pool.close()

    assert source.closed == source.made
