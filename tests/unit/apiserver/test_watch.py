import pytest

from pelton.apiserver.watch import Change, ChangeLog, GoneError


def log_of(count, size=100):
    log = ChangeLog("things", 0)
    for version in range(1, count + 1):
        log.append(Change("MODIFIED", version, "", f"n{version}", b"x" * size, {}, None))
    return log


def test_forget_drops_the_oldest_up_to_a_version_and_keeps_what_is_small_enough():
    log = log_of(10)

    log.forget(8, down_to_bytes=500)

    assert log.size_bytes == 500
    assert [one.version for one in log.after(5, current=10)] == [6, 7, 8, 9, 10]
    with pytest.raises(GoneError):
        log.after(4, current=10)


def test_forget_keeps_what_is_younger_than_the_version():
    log = log_of(10)

    log.forget(8, down_to_bytes=0)

    assert [one.version for one in log.after(8, current=10)] == [9, 10]


def test_forget_never_drops_the_newest_change():
    log = log_of(1)

    log.forget(1, down_to_bytes=0)

    assert [one.version for one in log.after(0, current=1)] == [1]
