"""Exceptions of user code in a line and in full, whatever they do when they are looked at."""

import pytest

from pelton.sdk import tracebacks


class Silent(Exception):
    """Has no text."""

    def __str__(self):
        raise ValueError("no text")

    __repr__ = __str__


def test_reason_is_one_line_of_type_and_message():
    assert tracebacks.reason(ValueError("a\n  b")) == "ValueError: a b"


def test_reason_of_a_long_message_is_cut():
    assert len(tracebacks.reason(ValueError("x" * 10_000))) == 500


def test_reason_of_an_exception_without_text_names_its_type():
    assert tracebacks.reason(Silent()) == "Silent: <its text cannot be shown>"


def test_message_with_surrogates_can_be_encoded():
    assert tracebacks.message(ValueError("\ud800")).encode() == b"\\ud800"


def test_lines_of_an_exception_without_text_are_shown():
    with pytest.raises(Silent) as caught:
        raise Silent

    assert "Silent" in tracebacks.lines(caught.value)[-1]


def test_lines_of_a_chain_of_thousands_of_causes_do_not_raise():
    exc = ValueError("0")
    for number in range(5_000):
        following = ValueError(str(number))
        following.__context__ = exc
        exc = following

    assert "ValueError" in tracebacks.lines(exc)[-1]
