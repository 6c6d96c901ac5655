"""Paths of methods that apps call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.compat.dapr.paths import clean, encoded


@pytest.mark.parametrize(
    ("given_path", "expected"),
    [
        ("", "/"),
        ("m", "/m"),
        ("/a//b/", "/a/b/"),
        ("a/./b", "/a/b"),
        ("admin/../public/", "/public/"),
        ("admin%2F..%2fpublic", "/public"),
        ("..%2f..%2f%2e%2E", "/"),
        ("%252e%252e/x", "/%252e%252e/x"),
        ("a%20b", "/a%20b"),
    ],
)
def test_clean_path_has_no_segment_that_leads_up(given_path, expected):
    assert clean(given_path) == expected


@given(st.text(alphabet="ab./%2eEfF"))
def test_clean_stays_below_the_root_and_does_not_change_again(path):
    found = clean(path)

    assert found.startswith("/")
    assert ".." not in found.lower().replace("%2e", ".").split("/")
    assert clean(found) == found


@given(st.text(), st.text())
def test_encoded_is_one_word_of_a_request_line(path, query):
    target = encoded(
        "/" + path.encode("utf-8", "replace").decode(), query.encode("utf-8", "replace").decode()
    )

    assert target.isascii()
    assert not set(target) & set(b" \r\n\0#")
