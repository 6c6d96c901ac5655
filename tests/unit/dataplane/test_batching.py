from hypothesis import given
from hypothesis import strategies as st

from pelton.dataplane.batching import RunLength


def test_length_doubles_while_events_are_fast():
    length = RunLength(256)
    seen = []
    for _ in range(10):
        seen.append(length.events)
        length.took(length.events, 0.001)

    assert seen == [1, 2, 4, 8, 16, 32, 64, 128, 256, 256]


def test_length_falls_to_what_takes_50_ms():
    length = RunLength(256)
    for _ in range(8):
        length.took(length.events, 0.001)
    length.took(10, 0.1)  # 10 ms each

    assert length.events == 5


def test_slow_events_go_one_at_a_time():
    length = RunLength(256)
    length.took(1, 3.0)

    assert length.events == 1


@given(st.integers(1, 1000), st.lists(st.tuples(st.integers(1, 500), st.floats(0, 10)), max_size=30))
def test_length_stays_between_one_and_most(most, steps):
    length = RunLength(most)
    for events, seconds in steps:
        length.took(events, seconds)

        assert 1 <= length.events <= most
