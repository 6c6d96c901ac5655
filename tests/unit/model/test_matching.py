"""Alertmanager's matchers."""

import pytest

from pelton.errors import ProtocolError
from pelton.model.matching import Matcher, parse_matcher


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ('a="b"', {"a": "b"}, True),
        ("a=b", {"a": "b"}, True),
        ('a!="b"', {"a": "b"}, False),
        ('a!="b"', {}, True),
        ('a=""', {}, True),
        ('a=~"b.*"', {"a": "bc"}, True),
        ('a=~"b"', {"a": "bc"}, False),
        ('a!~"b"', {"a": "bc"}, True),
        (' a = "x y" ', {"a": "x y"}, True),
        (r'a="say \"hi\""', {"a": 'say "hi"'}, True),
        (r'a=~"b\d+"', {"a": "b12"}, True),
        (r"a=~b\d+", {"a": "b12"}, True),
        (r'a="b\nc"', {"a": "b\nc"}, True),
        (r'a="b\\"', {"a": "b\\"}, True),
        ("a=b=c", {"a": "b=c"}, True),
        ('{a="b"}', {"a": "b"}, True),
        ("app.kubernetes.io/name=web", {"app.kubernetes.io/name": "web"}, True),
        (r'"say \"hi\""="b"', {'say "hi"': "b"}, True),
        ("größe=1", {"größe": "1"}, True),
    ],
)
def test_matcher_in_text_form(text, labels, expected):
    assert parse_matcher(text).matches(labels) is expected


@pytest.mark.parametrize(
    "text", ["", "a", "=b", 'a=~"("', 'a="b', 'a=b"', 'a="b"c"', 'a="b",c="d"', '""=b', "a=~(?=b)"]
)
def test_what_is_no_matcher_is_refused(text):
    with pytest.raises(ProtocolError):
        parse_matcher(text)


def test_a_matcher_needs_a_name():
    with pytest.raises(ProtocolError):
        Matcher(name="", value="x")


def test_a_pattern_that_would_backtrack_for_years_is_asked_at_once():
    matcher = Matcher(name="a", value="(x+x+)+y", is_regex=True)

    assert not matcher.matches({"a": "x" * 10_000})
