"""Rules of the sliding averages."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.autoscale.window import SMALLEST, Buckets, Ring, Window, smoothing
from pelton.model.kpa_settings import panic_window_s


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


# --- buckets that add up, as upstream's


def test_samples_of_one_second_add_up_in_their_bucket():
    buckets = Buckets(60)
    for value in (3.0, 4.0):
        buckets.record(100, value)

    assert buckets.average(100) == 7.0


def test_seconds_without_a_sample_count_as_zero_between_others():
    buckets = Buckets(60)
    buckets.record(0, 6.0)
    buckets.record(2, 6.0)

    assert buckets.average(2) == 4.0
    assert buckets.average(40) == 4.0  # what comes after the newest does not count
    assert buckets.average(61) == 6.0  # only second 2 is still within the window, in one valid bucket
    assert buckets.average(62) == 0.0


def test_average_is_rounded_to_six_decimals():
    buckets = Buckets(3)
    for second, value in enumerate((1.0, 1.0, 0.0)):
        buckets.record(second, value)

    assert buckets.average(2) == 0.666667


def test_silent_ring_starts_anew_and_late_samples_count_where_they_belong():
    buckets = Buckets(4)
    buckets.record(0, 8.0)
    buckets.record(20, 3.0)
    assert buckets.average(20) == 3.0
    buckets.record(19, 5.0)
    buckets.record(2, 100.0)

    assert buckets.average(20) == 4.0
    assert not buckets.empty(24)
    assert buckets.empty(25)


def test_smoothing_covers_the_window_and_is_never_below_a_fifth():
    assert smoothing(60) == 0.2
    assert smoothing(6) == pytest.approx(0.784557, abs=1e-6)


def test_weighted_sum_halves_by_age_and_shifts_by_idle_seconds():
    buckets = Buckets(6)
    factor = smoothing(6)
    buckets.record(0, 10.0)
    buckets.record(1, 20.0)

    assert buckets.weighted(1) == pytest.approx(20 * factor + 10 * factor * (1 - factor))
    assert buckets.weighted(2) == pytest.approx((20 * factor + 10 * factor * (1 - factor)) * (1 - factor))
    assert buckets.weighted(8) == 0.0


@given(st.integers(1, 400), st.lists(st.tuples(st.integers(0, 30), st.floats(0, 1e6)), max_size=40))
def test_weighted_sum_is_exact_although_it_stops_early(size, steps):
    buckets, second = Buckets(size), 0
    kept: dict[int, float] = {}
    for gap, value in steps:
        second += gap
        if kept and gap > size:
            kept.clear()
        buckets.record(second, value)
        kept[second] = kept.get(second, 0.0) + value
    factor = smoothing(size)
    exact = sum(v * factor * (1 - factor) ** (second - at) for at, v in kept.items() if second - at < size)

    assert buckets.weighted(second) == pytest.approx(exact, rel=1e-9, abs=1e-300)


@given(
    st.integers(1, 20), st.lists(st.tuples(st.integers(0, 25), st.floats(0, 100)), min_size=1, max_size=40)
)
def test_restored_rings_go_on_the_same(size, steps):
    buckets, window, ring = Buckets(size), Window(size), Ring(size, 1.0)
    second = 0
    for gap, value in steps:
        second += gap
        buckets_copy = Buckets.from_dict(json.loads(json.dumps(buckets.to_dict())))
        window_copy = Window.from_dict(json.loads(json.dumps(window.to_dict())))
        ring_copy = Ring.from_dict(json.loads(json.dumps(ring.to_dict())))
        for one in (buckets, buckets_copy):
            one.record(second, value)
        for two in (window, window_copy):
            two.add(second, second + 0.5, value, active=value > 0)
        for three in (ring, ring_copy):
            three.record(second, value)

        assert buckets_copy.average(second) == buckets.average(second)
        assert window_copy.average(second) == window.average(second)
        assert ring_copy.average(second) == ring.average(second)


def test_ring_averages_requests_per_bucket_to_three_decimals():
    ring = Ring(10.0, 1.0)
    for second, count in enumerate((1, 1, 0)):
        ring.record(float(second), count)

    assert ring.average(2.0) == 0.667
    assert ring.average(5.5) == 0.333  # buckets since the first write count
    assert ring.average(12.0) == 0.0
    ring.record(30.0, 4)
    assert ring.average(30.0) == 4.0


def test_ring_forgets_expired_buckets_and_divides_by_its_size():
    ring = Ring(60.0, 20.0)
    for second in (0, 20, 40, 60):
        ring.record(float(second), 30)

    assert ring.average(60.0) == 30.0
    assert ring.average(80.0) == 20.0
