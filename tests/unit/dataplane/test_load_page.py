"""The load page's arithmetic, its readers, and its slots."""

from __future__ import annotations

import os
import tempfile

import pytest

from pelton.dataplane.load_page import LoadPage


@pytest.fixture
def page(tmp_path):
    page = LoadPage(str(tmp_path / "page"), create=True)
    yield page
    page.close()


def test_page_counts_what_runs_and_what_ran(page):
    first = page.begin(float("inf"))
    page.begin(float("inf"))
    page.end(first)

    reading = page.read()

    assert (reading.in_flight, reading.total) == (1, 2)


def test_page_integrates_busy_time_over_overlapping_invocations(page, monkeypatch):
    now = 10_000
    monkeypatch.setattr("pelton.dataplane.load_page._monotonic_ns", lambda: now)
    page.reset()
    first = page.begin(float("inf"))
    now += 100
    second = page.begin(float("inf"))
    now += 50
    page.end(first)
    now += 10

    assert page.read().busy_ns == 100 + 2 * 50 + 10

    page.end(second)
    now += 1000

    assert page.read().busy_ns == 210


@pytest.mark.parametrize("others", [0, 600])  # 600: no slot is left
def test_page_counts_invocations_that_follow_one_another_in_one_place(page, monkeypatch, others):
    now = 10_000
    monkeypatch.setattr("pelton.dataplane.load_page._monotonic_ns", lambda: now)
    page.reset()
    for _ in range(others):
        page.begin(float("inf"))
    token = page.begin(100.0)
    now += 100
    page.follow(token, 200.0)
    now += 50

    reading = page.read()
    assert (reading.in_flight, reading.total) == (others + 1, others + 2)
    assert reading.busy_ns == (others + 1) * 150
    assert reading.earliest_deadline == (float("inf") if others else 200.0)

    page.end(token)
    now += 1000
    assert page.read().in_flight == others


def test_page_is_read_by_another_process_view(tmp_path, page):
    page.begin(float("inf"))
    page.queued(7)
    page.mode("thread")
    page.pid = 4711
    reader = LoadPage(str(tmp_path / "page"))

    reading = reader.read()

    assert (reading.in_flight, reading.queued, reader.mode_name, reader.pid) == (1, 7, "thread", 4711)
    assert reader.in_flight == 1
    reader.close()


def test_page_shows_the_earliest_deadline_of_what_runs(page):
    page.begin(float("inf"))
    late = page.begin(200.0)
    early = page.begin(100.0)

    assert page.read().earliest_deadline == pytest.approx(100.0)

    page.exempt(early)
    assert page.read().earliest_deadline == pytest.approx(200.0)

    page.end(late)
    assert page.read().earliest_deadline == float("inf")


def test_page_counts_more_invocations_than_it_has_slots(page):
    tokens = [page.begin(1.0) for _ in range(600)]

    assert tokens[-1] == -1
    assert page.read().in_flight == 600

    for token in tokens:
        page.end(token)
    assert page.read().in_flight == 0
    assert page.begin(5.0) >= 0


def test_page_integrates_busy_time_of_what_found_no_slot(page, monkeypatch):
    now = 10_000
    monkeypatch.setattr("pelton.dataplane.load_page._monotonic_ns", lambda: now)
    page.reset()
    tokens = [page.begin(float("inf")) for _ in range(600)]
    now += 100
    assert page.read().busy_ns == 600 * 100

    for token in tokens:
        assert page.end(token) == now
    now += 1000
    page.end(page.begin(float("inf"), now - 7))

    reading = page.read()
    assert (reading.in_flight, reading.total, reading.busy_ns) == (0, 601, 600 * 100 + 7)


def test_page_forgets_the_deadline_of_what_ended_in_a_slot(page):
    page.end(page.begin(100.0))
    page.begin(200.0)

    assert page.read().earliest_deadline == pytest.approx(200.0)


def test_reader_never_sees_a_record_in_the_middle_of_a_change():
    """Busy time and total only grow, whatever the moment at which they are read."""
    with tempfile.TemporaryFile() as file:
        page = LoadPage(file.fileno(), create=True)
        child = os.fork()
        if not child:
            for _ in range(20_000):
                token = page.begin(float("inf"))
                page.end(token)
            os._exit(0)
        reader = LoadPage(file.fileno())
        last_total = last_busy = 0
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            reading = reader.read()
            assert reading.in_flight in (0, 1)
            assert reading.total >= last_total
            if not reading.in_flight:  # else it is extrapolated, and the call may just have ended
                assert reading.busy_ns >= last_busy
                last_busy = reading.busy_ns
            last_total = reading.total
        assert reader.read().total == 20_000
        reader.close()
        page.close()
