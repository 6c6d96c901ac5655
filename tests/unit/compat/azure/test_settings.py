import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.compat.azure.settings import (
    Host,
    host_settings,
    local_values,
    parse_keys,
    read_json,
    resolve,
    seconds_of,
)
from pelton.errors import FunctionLoadError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def test_host_says_prefix_timeout_retry_and_handler():
    host = host_settings(
        {
            "functionTimeout": "00:05:00",
            "extensions": {"http": {"routePrefix": "/v1/"}},
            "retry": {"maxRetryCount": 3},
            "httpWorker": {"description": {}},
        }
    )

    assert (host.prefix, host.timeout_s, host.retry) == ("v1", 300.0, {"maxRetryCount": 3})
    assert host.handler == {"description": {}}
    assert host_settings({}) == Host(prefix="api")


@given(
    st.dictionaries(st.sampled_from(["extensions", "functionTimeout", "retry", "customHandler"]), json_values)
)
def test_host_of_another_shape_counts_as_absent(document):
    assert host_settings(document).prefix == "api"


@pytest.mark.parametrize(
    ("span", "seconds"),
    [("00:05:00", 300), ("1.00:00:00", 86400), ("-1", 0), ("5", None), (5, None), ("00:00:01.5000000", 1)],
)
def test_time_span_in_seconds(span, seconds):
    assert seconds_of(span) == seconds


def test_settings_take_the_places_of_their_names():
    assert resolve("a-%NAME%-%OTHER%", {"NAME": "x"}) == "a-x-%OTHER%"
    assert local_values({"Values": {"A": 1, "B": True, "C": None}}) == {"A": "1", "B": "true"}
    assert local_values({"IsEncrypted": True, "Values": {"A": "1"}}) == {}


def test_keys_open_by_level():
    keys = parse_keys("master=m, host=h Hello=f,plain")

    assert keys.opening("hello", "anonymous") is None
    assert keys.opening("HELLO", "function") == (b"m", b"f", b"h", b"plain")
    assert keys.opening("other", "function") == (b"m", b"h", b"plain")
    assert keys.opening("hello", "admin") == (b"m",)
    assert not parse_keys("")


def test_json_file_that_is_missing_is_empty_and_a_broken_one_is_named(tmp_path):
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "host.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')

    assert read_json(str(tmp_path / "none.json")) == {}
    assert read_json(str(tmp_path / "host.json")) == {"a": 1}
    with pytest.raises(FunctionLoadError, match="not a JSON object"):
        read_json(str(tmp_path / "list.json"))
