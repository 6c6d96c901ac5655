"""When a Silence counts."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.model.notification_routing import Silence, scheduled_before


def at(hour, minute=0, second=0, day=2):
    return datetime(2026, 1, day, hour, minute, second, tzinfo=UTC)


@pytest.mark.parametrize(
    ("silence", "now", "active"),
    [
        (Silence(name="s"), at(0), True),
        (Silence(name="s", enabled=False), at(0), False),
        (Silence(name="s", starts_at=at(12)), at(11, 59, 59), False),
        (Silence(name="s", starts_at=at(12)), at(12), True),
        (Silence(name="s", starts_at=at(12)), at(12, day=30), True),
        (Silence(name="s", starts_at=at(12), duration_s=3600), at(12, 59, 59), True),
        (Silence(name="s", starts_at=at(12), duration_s=3600), at(13), False),
        (Silence(name="s", schedule="0 22 * * *"), at(3), True),
        (Silence(name="s", schedule="0 22 * * *", duration_s=28800), at(21, 59, 59), False),
        (Silence(name="s", schedule="0 22 * * *", duration_s=28800), at(22), True),
        (Silence(name="s", schedule="0 22 * * *", duration_s=28800), at(5, 59, 59), True),
        (Silence(name="s", schedule="0 22 * * *", duration_s=28800), at(6), False),
        (Silence(name="s", schedule="@daily", duration_s=60), at(0, 0, 59), True),
        (Silence(name="s", schedule="@daily", duration_s=60), at(0, 1), False),
        (Silence(name="s", schedule="TZ=Asia/Shanghai 0 22 * * *", duration_s=60), at(14), True),
        (Silence(name="s", schedule="CRON_TZ=Asia/Shanghai @daily", duration_s=60), at(16), True),
        (Silence(name="s", schedule="TZ=Asia/Shanghai 0 22 * * *", duration_s=60), at(22), False),
    ],
)
def test_active(silence, now, active):
    assert silence.active(now) is active


@given(st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)))
def test_scheduled_before_is_never_later_and_less_than_a_period_ago(moment):
    now = moment.replace(tzinfo=UTC)

    found = scheduled_before("*/10 * * * *", now)

    assert 0 <= (now - found).total_seconds() < 600
