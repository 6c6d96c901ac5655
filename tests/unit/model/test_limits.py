"""Limits: what is asked for wins, the machine's defaults fill the rest."""

from hypothesis import given
from hypothesis import strategies as st

from pelton.model.limits import Limits, defaults, resolve

GIB = 1024**3

asked = st.builds(
    Limits,
    memory_bytes=st.integers(0, 64 * GIB),
    cpu=st.floats(0, 64),
    cpu_request=st.floats(0, 64),
    pids=st.integers(0, 100_000),
    disk_bytes=st.integers(0, 64 * GIB),
)


def test_default_is_half_of_the_memory_and_no_limit_of_cpu():
    found = defaults(8 * GIB)

    assert found == Limits(memory_bytes=4 * GIB, cpu_request=0.1, pids=1024, disk_bytes=512 * 1024**2)


def test_default_disk_fits_into_the_memory_that_holds_it():
    found = defaults(256 * 1024**2)

    assert found.disk_bytes <= found.memory_bytes // 2


@given(asked, st.integers(1, 1024 * GIB))
def test_resolved_limits_are_what_was_asked_and_nothing_is_left_open(limits, machine):
    found = resolve(limits, defaults(machine))

    assert min(found.memory_bytes, found.pids, found.disk_bytes) > 0
    assert found.cpu_request > 0
    for name in ("memory_bytes", "cpu", "cpu_request", "pids", "disk_bytes"):
        wanted = getattr(limits, name)
        assert not wanted or getattr(found, name) == wanted


def test_share_is_no_more_than_a_limit_below_the_default_share():
    assert resolve(Limits(cpu=0.05), defaults(GIB)).cpu_request == 0.05
