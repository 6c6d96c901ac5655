"""Rules of the formula language of scalingModifiers."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.autoscale.formula import MAX_LENGTH, Formula, FormulaError

VALUES = {"a": 6.0, "b": 4.0, "c": 0.0, "trig_one": 2.0, "gone": None}


def run(text: str, values=VALUES):
    return Formula(text, frozenset(values)).evaluate(values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b * 2", 14),
        ("(a + b) * 2", 20),
        ("a - b - 1", 1),
        ("a / b / 2", 0.75),
        ("-a + 10", 4),
        ("a % 4", 2),
        ("2 ** 3 ** 2", 512),
        ("2 ^ 3", 8),
        ("-2 ** 2", -4),
        (".5 + 1_000 + 1e1", 1010.5),
        ("a > b ? 1 : 2", 1),
        ("a > b && b > 100 ? 1 : 2", 2),
        ("a < b or not (b == 5) ? 1 : 2", 1),
        ("a > b ? c > 1 ? 1 : 2 : 3", 2),
        ("a in [4, 5, 6] ? 1 : 0", 1),
        ("a != 6 ? 1 : 0", 0),
        ("!(a >= 6) ? 1 : 0", 0),
        ("a <= 6 ? 1 : 0", 1),
        ("true ? 1 : 0", 1),
        ("gone ?? 7", 7),
        ("gone ?? gone ?? a", 6),
        ("(gone ?? a) + 1", 7),
        ("a + gone ?? 1", 7),
        ("a * gone ?? b ?? 1", 24),
        ("a > gone ?? 7 ? 1 : 2", 2),
        ("-gone ?? 7", -7),
        ("gone ?? -1", -1),
        ("a > b ? gone ?? 7 : 2", 7),
        ("min(a, b, [1, 9])", 1),
        ("max([a, b], 3)", 6),
        ("abs(b - a)", 2),
        ("ceil(a / b)", 2),
        ("floor(a / b)", 1),
        ("round(a / b)", 2),
        ("round(-2.5)", -3),
        ("int(2.9)", 2),
        ("float(3)", 3),
        ("mean([a, b])", 5),
        ("avg(a, b, 2)", 4),
        ("median([1, 9, 2])", 2),
        ("median([1, 2, 3, 4])", 2.5),
        ("sum([a, b, trig_one])", 12),
        ("sum([a, b], # * 2)", 20),
        ("len([a, b, ])", 2),
        ("count([a, b, c], {# > 1}) > 1 ? 5 : 0", 5),
        ("count([a, b, c], # > 5)", 1),
        ("count(filter([a, b, c], # > 1), # < 5)", 1),
        ("any([a, b], # > 5) ? 1 : 0", 1),
        ("all([a, b], # > 5) ? 1 : 0", 0),
        ("none([a, b], # > 9) ? 1 : 0", 1),
        ("one([a, b], # > 5) ? 1 : 0", 1),
        ("max(map([a, b], # ** 2))", 36),
        ("sum(map([1, 2], sum([a, b], # + 1)))", 24),
        ("a / c > 1000 ? 1 : 0", 1),
    ],
)
def test_value(text, expected):
    assert run(text) == expected


def test_nil_is_kept_only_where_the_formula_expects_it():
    assert run("gone ?? nil") is None
    with pytest.raises(FormulaError, match="a number is needed, not nil"):
        run("gone + 1")
    with pytest.raises(FormulaError, match="it yields nil"):
        run("gone")


def test_division_by_zero_is_infinite_as_in_the_original():
    assert run("a / c") == inf


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a value is expected, not the end"),
        ("a +", "a value is expected, not the end"),
        ("a b", '"b" at character 3 is not expected there'),
        ("(a", '"\\)" is expected, not the end'),
        ("x + 1", '"x" is not the name of a trigger; there are: a, b, c, gone, trig_one'),
        ("open(1)", '"open" is not a function'),
        ("a.b", "not expected there|not part of a formula"),
        ("a['b']", "not part of a formula"),
        ("'text'", "not part of a formula"),
        ("a; b", '";" at character 2 is not part of a formula'),
        ("a = 1", '"=" at character 3'),
        ("#", "only inside a predicate"),
        ("any([a])", "takes an array and a predicate"),
        ("gone ?? 1 + a", r'"\+" at character 11 follows \?\?: put the part'),
        ("gone ?? 1 || true", r'"\|\|" at character 11 follows \?\?'),
        ("a ? 1", '":" is expected'),
        ("__import__(1)", "is not a function"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text, message):
    with pytest.raises(FormulaError, match=message):
        Formula(text, frozenset(VALUES))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a > b", "it yields a truth value, not a number"),
        ("[a]", "it yields an array"),
        ("a && b", "a truth value is needed, not a number"),
        ("a ? 1 : 2", "a truth value is needed"),
        ("sum(a)", "an array is needed, not a number"),
        ("min([])", "min of nothing"),
        ("abs(1, 2)", "abs takes one value"),
        ("len(a)", "an array is needed"),
        ("1 % 0", "% by zero"),
        ("true + 1", "a number is needed, not a truth value"),
    ],
)
def test_wrong_types_are_told(text, message):
    with pytest.raises(FormulaError, match=message):
        run(text)


def test_length_depth_and_steps_are_bounded():
    with pytest.raises(FormulaError, match="longer than"):
        Formula("1" * (MAX_LENGTH + 1), frozenset())
    for nested in ("(" * 200 + "1" + ")" * 200, "-" * 200 + "1", "1 ? " * 200):
        with pytest.raises(FormulaError, match="nested more than"):
            Formula(nested, frozenset())
    many = "[" + ",".join("1" * 60) + "]"
    with pytest.raises(FormulaError, match="more than 100000 steps"):
        run(f"sum({many}, sum({many}, sum({many}, 1)))")


def test_overflow_is_infinite():
    assert run("10 ** 10 ** 10") == inf


@given(st.text(alphabet="ab01 +-*/%()[]{}#?:,<>=!&|.^", max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        Formula(text, frozenset({"a", "b"})).evaluate({"a": 1.0, "b": None})
    except FormulaError:
        pass


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0.1, 1e6))
def test_arithmetic_is_that_of_floating_point(a, b, c):
    assert run("(a + b) * a - b / c", {"a": a, "b": b, "c": c}) == (a + b) * a - b / c
