"""Rules of the sliding average."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.autoscale.window import SMALLEST, Window, panic_window_s


def fill(window: Window, start: int, values: list[float]) -> None:
    """Write one average per second, each over a whole bucket."""
    for offset, value in enumerate(values):
        window.add(start + offset, start + offset + 1, value, active=value > 0)


@pytest.mark.parametrize(
    ("window_s", "percentage", "expected"),
    [(60, 10, 6), (6, 10, 1), (6, 1, 1), (25, 10, 3), (15, 10, 2), (3600, 100, 3600)],
)
def test_panic_window_is_whole_seconds_and_at_least_one(window_s, percentage, expected):
    assert panic_window_s(window_s, percentage) == expected


def test_average_of_nothing_is_zero():
    assert Window(6).average(5.0) == 0.0
    assert Window(6).silent(5.0)


def test_average_divides_by_seconds_since_the_first_write():
    window = Window(60)
    fill(window, 100, [10, 20, 30])

    assert window.average(102.5) == 20.0


def test_average_divides_by_the_whole_window_once_it_is_full():
    window = Window(4)
    fill(window, 0, [100, 1, 2, 3, 4])

    assert window.average(4.9) == 2.5


def test_gap_inside_the_window_counts_as_zero():
    window = Window(10)
    fill(window, 0, [6])
    fill(window, 2, [6])

    assert window.average(2.5) == 4.0


def test_seconds_after_the_newest_write_do_not_count():
    window = Window(4)
    fill(window, 0, [1, 2, 3, 4])

    assert window.average(5.5) == 3.5  # seconds 2 and 3 remain, divided by the 2 buckets still valid


def test_silent_window_yields_zero_and_then_restarts():
    window = Window(4)
    fill(window, 0, [8, 8])

    assert window.average(5.5) == 0.0
    fill(window, 20, [3])
    assert window.average(20.5) == 3.0


def test_sample_inside_a_bucket_is_averaged_by_time():
    window = Window(6)
    window.add(0.0, 0.1, 1.0, active=True)  # 10 concurrent for 100 ms
    window.add(0.1, 0.4, 0.0, active=False)

    assert window.average(0.4) == 2.5  # 1.0 over the 0.4 s that are known


def test_interval_over_several_buckets_is_spread_evenly():
    window = Window(6)
    window.add(0.5, 2.5, 4.0, active=True)

    assert window.average(2.5) == 2.0


def test_traffic_too_short_for_an_integral_never_yields_zero():
    window = Window(60)
    window.add(0.0, 0.1, 1e-9, active=True)
    fill(window, 1, [0.0] * 58)

    assert window.average(58.5) == SMALLEST
    assert not window.silent(58.5)
    fill(window, 59, [0.0] * 2)
    assert window.average(60.5) == 0.0
    assert window.silent(60.5)


def test_touched_window_is_not_silent_for_its_length():
    window = Window(6)
    window.touch(10.2)
    window.add(10.2, 10.3, 0.0, active=False)

    assert window.average(10.3) == SMALLEST
    assert window.silent(16.0)


def test_interval_longer_than_the_window_keeps_only_its_end():
    window = Window(6)
    window.add(0.0, 100_000.0, 200_000.0, active=True)

    assert window.average(100_000.0) == 2.0


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.floats(0.01, 7.0), st.floats(0.0, 500.0)), min_size=1, max_size=60),
)
def test_average_stays_between_zero_and_the_highest_rate(size, steps):
    window = Window(size)
    now = 0.0
    for seconds, rate in steps:
        window.add(now, now + seconds, rate * seconds, active=rate > 0)
        now += seconds

    assert 0.0 <= window.average(now) <= max(rate for _, rate in steps) + 2 * SMALLEST


@given(st.integers(1, 20), st.floats(0.1, 200.0), st.integers(1, 100))
def test_constant_load_is_reported_as_it_is(size, rate, steps):
    window = Window(size)
    for step in range(steps):
        window.add(step * 0.1, (step + 1) * 0.1, rate * 0.1, active=True)

    assert window.average(steps * 0.1 - 0.01) == pytest.approx(rate, abs=1e-5)


@given(st.integers(2, 30), st.floats(0, 50), st.floats(0.001, 3.0))
def test_silence_comes_exactly_one_window_after_the_last_second_with_traffic(size, start, length):
    window = Window(size)
    window.add(start, start + length, 1.0, active=True)

    assert not window.silent(start + length)
    assert window.silent(start + length + size + 1)
