"""Changes of state: how long a value lives."""

import pytest

from pelton.errors import ComponentError
from pelton.model.state import StateChange


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0),
        ("0", 0),
        ("-1", 0),
        ("60", 60),
        ("3155760000", 3155760000),
        ("99999999999999", 0),
        ("9" * 400, 0),
    ],
)
def test_time_to_live_is_whole_seconds_and_a_century_is_for_ever(text, seconds):
    assert StateChange(key="k", metadata={"ttlInSeconds": text}).ttl_s() == seconds


@pytest.mark.parametrize("text", ["x", "-2", "1.5", "9" * 5000])
def test_time_to_live_that_is_none_is_refused(text):
    with pytest.raises(ComponentError, match="not a number of seconds"):
        StateChange(key="k", metadata={"TTLInSeconds": text}).ttl_s()
