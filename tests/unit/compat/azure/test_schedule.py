from datetime import UTC, datetime, timedelta

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.compat.azure.schedule import ScheduleError, parse

BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
START = datetime(2026, 1, 31, 23, 59, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "cron"),
    [
        ("0 */5 * * * *", "0 */5 * * * *"),
        ("*/5 * * * *", "0 */5 * * * *"),
        ("0 0 9-17 * * MON-FRI", "0 0 9-17 * * 1-5"),
        ("0 30 9 * Jan,Dec *", "0 30 9 * 1,12 *"),
        ("0 0 0 1 February *", "0 0 0 1 2 *"),
        ("5/15 0 0 * * *", "5,20,35,50 0 0 * * *"),
        ("0 0 17-9/4 * * 5-1", "0 0 9,13,17 * * 1-5"),
        ("00:05:00", "@every 300s"),
        ("1.00:00:00", "@every 86400s"),
    ],
)
def test_schedule_becomes_the_platforms_cron_form(written, cron):
    assert parse(written).cron() == cron


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("* * * *", "has 4 fields"),
        ("0 60 * * * *", "minute '60': expected 0 to 59"),
        ("0 0 0 * * 7", "weekday '7': expected 0 to 6"),
        ("0 0 0 * * x", "weekday 'x': expected 0 to 6 or a name"),
        ("0 0 0 ? * *", "day '?'"),
        ("0 */x * * * *", "the step is not a number"),
        ("0 0 0 * * ,", "weekday ''"),
        ("%SCHEDULE%", "has 1 fields"),
        ("00:00:00", "more than zero"),
        ("24:00:00", "is not an interval"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_field(written, why):
    with pytest.raises(ScheduleError, match=why.replace("?", r"\?")):
        parse(written)


def test_days_of_month_and_weekdays_hold_together():
    first_monday = parse("0 0 9 1-7 * MON")

    assert first_monday.both_days
    assert first_monday.next_after(START) == datetime(2026, 2, 2, 9, tzinfo=UTC)
    assert not first_monday.includes_day(datetime(2026, 2, 9, tzinfo=UTC))
    assert not first_monday.includes_day(datetime(2026, 2, 3, tzinfo=UTC))


def test_interval_is_due_after_its_seconds_and_30_february_never():
    assert parse("00:00:10").next_after(START) == START + timedelta(seconds=10)
    assert parse("0 0 0 30 2 *").next_after(START) is None


@st.composite
def fields(draw):
    parts = []
    for low, high in BOUNDS:
        number = st.integers(low, high)
        kind = draw(st.sampled_from(("*", "one", "range", "step", "list")))
        if kind == "*":
            parts.append("*")
        elif kind == "one":
            parts.append(str(draw(number)))
        elif kind == "range":
            parts.append("-".join(str(item) for item in sorted((draw(number), draw(number)))))
        elif kind == "step":
            parts.append(f"*/{draw(st.integers(1, high))}")
        else:
            parts.append(",".join(str(item) for item in draw(st.lists(number, min_size=1, max_size=4))))
    if draw(st.booleans()):  # cron joins the two by "or", NCRONTAB by "and": only one of them is comparable
        parts[3] = "*"
    else:
        parts[5] = "*"
    return " ".join(parts)


@given(fields(), st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)))
@settings(max_examples=150, deadline=None)
def test_next_due_time_is_the_one_that_the_clock_finds_for_the_cron_form(written, moment):
    schedule = parse(written)
    moment = moment.replace(tzinfo=UTC)
    found = schedule.next_after(moment)

    if found is None:
        assert schedule.fields[3][0] > 29
        return
    expected = croniter(schedule.cron(), moment, second_at_beginning=True, max_years_between_matches=50)
    assert found == expected.get_next(datetime)


@given(fields())
@settings(max_examples=100)
def test_cron_form_says_the_same_when_read_again(written):
    schedule = parse(written)

    assert parse(schedule.cron()) == schedule
