"""Rules of what is removed from a home."""

from __future__ import annotations

import os

import pytest

from pelton.builders.collect import BUNDLE_GRACE_S, ENVIRONMENT_GRACE_S, Collector
from pelton.testing.clock import FakeClock


@pytest.fixture
def home(tmp_path):
    for place in (
        "bundles/a",
        "bundles/b",
        "bundles/.new-1",
        "environments/x/lib/site-packages",
        "environments/y",
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "file").write_text("x")
    return tmp_path


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def collector(home, clock):
    for name in ("x", "y"):
        then = clock.now().timestamp()
        os.utime(home / "environments" / name, (then, then))
    return Collector(home / "bundles", home / "environments", clock)


def left(home, folder):
    return sorted(place.name for place in (home / folder).iterdir())


async def test_what_is_needed_stays_and_the_rest_goes_after_a_while(home, clock, collector):
    needed = {str(home / "bundles" / "a"), str(home / "environments" / "x" / "lib" / "site-packages")}

    assert await collector.sweep(needed) == []
    await clock.advance(BUNDLE_GRACE_S - 1)
    assert await collector.sweep(needed) == []
    assert collector.waiting_for_bundles
    await clock.advance(1)
    assert await collector.sweep(needed) == [home / "bundles" / "b"]
    assert not collector.waiting_for_bundles
    assert left(home, "bundles") == [".new-1", "a"]
    assert left(home, "environments") == ["x", "y"]
    await clock.advance(ENVIRONMENT_GRACE_S)
    assert await collector.sweep(needed) == [home / "environments" / "y"]
    assert left(home, "environments") == ["x"]


async def test_what_is_needed_again_waits_anew(home, clock, collector):
    await collector.sweep({str(home / "bundles" / "a")})
    await clock.advance(BUNDLE_GRACE_S)
    await collector.sweep({str(home / "bundles" / "a"), str(home / "bundles" / "b")})

    assert await collector.sweep({str(home / "bundles" / "a")}) == []
    assert left(home, "bundles") == [".new-1", "a", "b"]


async def test_environment_that_was_used_lately_stays(home, clock, collector):
    await collector.sweep({str(home / "bundles")})
    await clock.advance(ENVIRONMENT_GRACE_S)
    now = clock.now().timestamp()
    os.utime(home / "environments" / "y", (now, now))
    gone = await collector.sweep({str(home / "bundles" / "a"), str(home / "bundles" / "b")})

    assert gone == [home / "environments" / "x"]


async def test_what_a_restart_left_half_removed_goes(home, collector):
    (home / "bundles" / ".gone-1").mkdir()

    await collector.sweep({str(home / "bundles" / "a"), str(home / "bundles" / "b")})

    assert left(home, "bundles") == [".new-1", "a", "b"]


async def test_folders_that_do_not_exist_hold_nothing(tmp_path, clock):
    assert await Collector(tmp_path / "no", tmp_path / "none", clock).sweep(()) == []
