"""Durations and quantities read and print as Go and Kubernetes do."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.quantity import format_duration, parse_bytes, parse_duration, parse_quantity, parse_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("5m0s", 300),
        ("1h", 3600),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        (".5m", 30),
        ("2.s", 2),
        ("300ms", 0.3),
        ("-1m30s", -90),
        ("+7s", 7),
        ("10us", 1e-5),
        ("10µs", 1e-5),
        ("3ns", 3e-9),
        ("1s1s", 2),
    ],
)
def test_parse_duration_go_text_gives_seconds(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds, abs=1e-12)


@pytest.mark.parametrize(
    "text", ["", "-", "5", "s", ".s", "5 m", "5 minutes", "1d", "1h-3m", "1e3s", "9999999h"]
)
def test_parse_duration_other_text_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="30s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (90, "1m30s"),
        (300, "5m0s"),
        (3600, "1h0m0s"),
        (86400, "24h0m0s"),
        (1.5, "1.5s"),
        (0.0015, "1.5ms"),
        (1e-6, "1µs"),
        (3e-9, "3ns"),
        (-2.25, "-2.25s"),
        (61.000000001, "1m1.000000001s"),
    ],
)
def test_format_duration_prints_as_go_does(seconds, text):
    assert format_duration(seconds) == text


@given(st.integers(min_value=-(10**15), max_value=10**15))
def test_duration_nanoseconds_survive_a_round_trip(nanoseconds):
    seconds = nanoseconds / 1e9

    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("512Mi", 512 * 2**20),
        ("1Gi", 2**30),
        ("250m", Decimal("0.25")),
        ("1.5", Decimal("1.5")),
        ("1e3", 1000),
        ("1E3", 1000),
        ("2E", 2 * 10**18),
        ("1Ei", 2**60),
        ("100k", 100_000),
        ("-3", -3),
        ("5n", Decimal("5e-9")),
    ],
)
def test_parse_quantity_is_exact(text, number):
    assert parse_quantity(text) == number


@pytest.mark.parametrize("text", ["", "Mi", "1 Gi", "1KB", "1K", "ten", "0x1", "1mi"])
def test_parse_quantity_other_text_is_refused(text):
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)


def test_parse_bytes_rounds_up():
    assert parse_bytes("1500m") == 2


@pytest.mark.parametrize(("text", "expected"), [("30", 30.0), ("1.5", 1.5), ("1m30s", 90.0), ("0", 0.0)])
def test_seconds_are_plain_or_a_duration(text, expected):
    assert parse_seconds(text) == expected


@pytest.mark.parametrize("text", ["-1s", "-1", "soon", "", "1.2.3", "٣"])
def test_seconds_that_are_neither_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_seconds(text)
